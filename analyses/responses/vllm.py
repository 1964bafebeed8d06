"""Rows that are vLLM's ``RequestOutput`` written as JSON, its ``outputs`` with their token ids.

    json.dumps({"request_id": out.request_id, "prompt": out.prompt, "prompt_token_ids": out.prompt_token_ids,
                "outputs": [{"index": o.index, "text": o.text, "token_ids": list(o.token_ids),
                             "finish_reason": o.finish_reason, "stop_reason": o.stop_reason} for o in out.outputs]})

``request_id`` counts the requests of an engine and names no problem; which problem it was is told by the prompt, or by
an ``id`` that was put beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analyses.responses.stored import Stored, finish_of
from analyses.responses.values import as_id, as_ids, as_list, as_text, pick, refused

__all__ = ["NAME", "fits", "read"]

NAME = "vllm"

_OPERATION = "read responses"


def fits(row: Mapping[str, Any]) -> bool:
    """Whether a row is a `RequestOutput`.

    >>> fits({"request_id": "0", "prompt_token_ids": [5], "outputs": [{"index": 0, "token_ids": [7]}]})
    True
    """
    outputs = as_list(row.get("outputs"))
    named = "request_id" in row or "prompt_token_ids" in row
    return named and bool(outputs) and all(isinstance(output, Mapping) for output in outputs or ())


def read(row: Mapping[str, Any], where: str) -> list[Stored]:
    """A response for each of its outputs."""
    outputs: list[Mapping[str, Any]] = as_list(row["outputs"]) or []
    if row.get("finished") is False:
        raise refused(
            _OPERATION,
            expected="a finished request",
            received="finished: false",
            remedy="Dump the outputs that generate returns.",
        )
    found = []
    for number, output in enumerate(outputs):
        found.append(
            Stored(
                where=where if len(outputs) == 1 else f"{where}, output {number}",
                form=NAME,
                id=as_id(pick(row, "id", "problem_id", "custom_id")),
                question=as_text(pick(row, "question"), "question"),
                prompt=as_text(row.get("prompt"), "prompt"),
                prompt_ids=as_ids(row.get("prompt_token_ids"), "prompt's token ids"),
                text=as_text(output.get("text"), "text"),
                token_ids=as_ids(output.get("token_ids"), "response's token ids"),
                answer=as_text(pick(row, "answer"), "answer") or "",
                solution=as_text(pick(row, "solution"), "solution") or "",
                finish=finish_of(output.get("finish_reason"), output.get("stop_reason")),
            )
        )
    return found

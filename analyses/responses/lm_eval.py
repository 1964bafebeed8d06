"""Rows of the ``samples_*.jsonl`` that lm-evaluation-harness writes with ``--log_samples``.

The prompt is the text that the model was given (``arguments``), few-shot examples and chat template included; it is
read as it stands. A row is written for each filter of the task: one of them is read. ``until`` has cut the response
where it met it, and the log does not say why a response ended.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from analyses.responses.stored import Stored
from analyses.responses.values import as_id, as_list, as_messages, as_text, pick, refused

__all__ = ["NAME", "fits", "read"]

NAME = "lm-eval"

_OPERATION = "read responses"


def fits(row: Mapping[str, Any]) -> bool:
    """Whether a row is of such a log.

    >>> fits({"doc_id": 0, "doc": {}, "target": "4", "arguments": {}, "resps": [["4"]]})
    True
    """
    return isinstance(row.get("doc"), Mapping) and "resps" in row and "arguments" in row


def read(row: Mapping[str, Any], where: str) -> list[Stored]:
    """A response for each repeat."""
    prompt, kind = _prompt(row["arguments"])
    requests = as_list(row["resps"]) or []
    repeats = as_list(requests[0]) if len(requests) == 1 else None
    if repeats is None or not all(isinstance(text, str) for text in repeats):
        raise refused(
            _OPERATION,
            expected="responses that were generated (output_type: generate_until)",
            received=f"{len(requests)} requests for numbers",
            remedy="A task of log-likelihoods has no responses.",
        )
    doc = row["doc"]
    question = as_text(pick(doc, "question", "problem", "Problem", "query", "input"), "question")
    messages: tuple[Mapping[str, Any], ...] = ()
    if kind == "messages":
        messages, prompt = as_messages(json.loads(prompt)), ""
    twin = json.dumps([row.get("doc_id"), prompt, repeats]) if "filter" in row else None
    common: dict[str, Any] = {
        "form": NAME, "id": as_id(row.get("doc_id")), "question": question if question is not None else prompt,
        "messages": messages, "prompt": prompt or None, "answer": as_text(row.get("target"), "target") or "",
        "solution": as_text(pick(doc, "solution"), "solution") or "",
    }  # fmt: skip
    return [
        Stored(
            where=where if len(repeats) == 1 else f"{where}, repeat {number}",
            text=text,
            twin=None if twin is None else hashlib.sha256(f"{number}:{twin}".encode()).hexdigest(),
            **common,
        )
        for number, text in enumerate(repeats)
    ]


def _prompt(arguments: Any) -> tuple[str, str]:
    """The prompt, and whether it is a text or messages written as JSON."""
    first = arguments.get("gen_args_0") if isinstance(arguments, Mapping) else (as_list(arguments) or [None])[0]
    value = first.get("arg_0") if isinstance(first, Mapping) else (as_list(first) or [None])[0]
    if isinstance(value, str):
        if value.lstrip().startswith("[{"):  # chat endpoints are given messages
            try:
                as_messages(json.loads(value))
            except ValueError:
                return value, "text"
            return value, "messages"
        return value, "text"
    if as_list(value) is not None:  # messages as they are
        return json.dumps(as_list(value)), "messages"
    raise refused(
        _OPERATION,
        expected="the prompt in arguments",
        received=repr(arguments),
        remedy="Log with a version that writes gen_args_0.arg_0.",
    )

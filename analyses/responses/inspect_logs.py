"""Logs of Inspect (``inspect-ai``), ``.eval`` and ``.json``, through its own reader, which has to be installed.

A sample is one response: the last message of the assistant, to all messages before it, system prompts and few-shot
examples included. `input` is the question, `target` the gold answer, an epoch one of several responses. A sample that
ended in an error has no response. A reader is asked for one sample at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from analyses.responses.stored import Stored, finish_of
from analyses.responses.values import as_id, as_list, as_messages, as_sample, as_text, pick, refused, said_in
from interp.errors import InputError
from interp.foreign import foreign_errors

__all__ = ["NAME", "rows_of", "stored_of"]

NAME = "inspect"

_OPERATION = "read responses"


def rows_of(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The samples of a log, each with its place.

    Raises:
        InputError: inspect-ai is not installed, or cannot read the file.
    """
    try:
        from inspect_ai.log import read_eval_log_sample, read_eval_log_sample_summaries
    except ImportError as error:
        raise InputError(
            _OPERATION,
            expected="inspect-ai, whose own reader reads its logs",
            received=f"{file.name}, a log of Inspect, and {error}",
            remedy="Install it: pip install inspect-ai.",
        ) from error
    with foreign_errors(_OPERATION, expected=f"a log that Inspect reads: {file}", remedy="Check the file."):
        summaries = read_eval_log_sample_summaries(str(file))
    for summary in summaries:
        where = f"sample {summary.id!r}, epoch {summary.epoch}"
        with foreign_errors(_OPERATION, expected=f"a sample that Inspect reads: {where}", remedy="Check it."):
            sample = read_eval_log_sample(str(file), id=summary.id, epoch=summary.epoch)
            row = sample.model_dump(mode="json")
        yield where, row


def stored_of(row: Mapping[str, Any], where: str) -> list[Stored]:
    """The response of a sample, from the values that its log holds."""
    if row.get("error"):
        error = row["error"]
        message = error.get("message", "") if isinstance(error, Mapping) else error
        raise refused(
            _OPERATION,
            expected="a sample with a response",
            received=f"one that failed: {message}",
            remedy="Evaluate it again.",
        )
    messages = as_messages(row.get("messages") or ())
    last = next((n for n in range(len(messages) - 1, -1, -1) if messages[n]["role"] == "assistant"), None)
    if last is None:
        raise refused(
            _OPERATION,
            expected="a message of the assistant",
            received=f"{len(messages)} messages without one",
            remedy="Evaluate it again.",
        )
    content, reasoning = said_in(messages[last])
    output = row.get("output")
    choices = as_list(output.get("choices")) if isinstance(output, Mapping) else None
    reason = choices[0].get("stop_reason") if choices and isinstance(choices[0], Mapping) else None
    target = row.get("target")
    answers = as_list(target)
    given, metadata = row.get("input"), row.get("metadata")
    if isinstance(given, str):
        question: str | None = given
    else:
        question = Stored("", "", messages=as_messages(given or ())).asked
    epoch = as_sample(row.get("epoch"))
    solution = pick(metadata, "solution", "reasoning") if isinstance(metadata, Mapping) else None
    return [
        Stored(
            where=where,
            form=NAME,
            id=as_id(row.get("id")),
            sample=None if epoch is None else max(0, epoch - 1),
            question=question,
            messages=tuple({"role": m["role"], "content": _plain(m.get("content"))} for m in messages[:last]),
            text=content,
            reasoning=reasoning,
            answer=as_text(answers[0] if answers else target, "target") or "" if target else "",
            solution=solution if isinstance(solution, str) else "",
            finish=finish_of(reason),
        )
    ]


def _plain(content: Any) -> Any:
    """Content as templates take it: a text, or its parts of text."""
    parts = as_list(content)
    if parts is None:
        return content
    return [{"type": "text", "text": str(part.get("text", ""))} for part in parts if isinstance(part, Mapping)]

"""Rows of a question and its response, or its several responses: our own JSONL, and columns of published rollouts.

    {"id": "p1", "question": "2 + 2?", "answer": "4", "response": "It is 4."}
    {"id": "p1", "sample": 1, "question": "2 + 2?", "answer": "4", "token_ids": [6, 35, 8], "finish_reason": "eos"}
    {"problem": "2 + 2?", "answer": "4", "generations": ["It is 4.", "<think>2 and 2</think>4"]}
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}], "answer": "4"}

The names that a column may have are those of `_NAMES`, the first that is there; names of other columns are no matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.responses.stored import Stored, finish_of
from analyses.responses.values import as_id, as_ids, as_list, as_messages, as_sample, as_text, pick, refused, said_in

__all__ = ["NAME", "fits", "read"]

NAME = "rows"

_OPERATION = "read responses"

_NAMES: dict[str, tuple[str, ...]] = {
    "id": ("id", "problem_id", "unique_id", "uuid", "custom_id", "idx"),
    "sample": ("sample", "sample_id", "epoch"),
    "question": ("question", "problem"),
    "messages": ("messages", "conversation"),
    "prompt": ("prompt",),
    "prompt_ids": ("prompt_token_ids", "prompt_ids", "input_ids"),
    "one": ("response", "text", "completion", "generation", "output"),
    "many": ("responses", "generations", "completions", "outputs", "samples"),
    "token_ids": ("token_ids", "response_token_ids", "output_ids", "output_token_ids"),
    "reasoning": ("reasoning_content", "reasoning", "thinking"),
    "answer": ("answer", "gold", "target", "ground_truth", "gold_answer"),
    "solution": ("solution",),
    "finish": ("finish_reason", "stop_reason", "finish"),
    "finishes": ("finish_reasons",),
}


def fits(row: Mapping[str, Any]) -> bool:
    """Whether a row has a response: a text, token ids, several of them, or a chat that ends with the assistant's.

    >>> fits({"question": "2 + 2?", "response": "4"}), fits({"question": "2 + 2?", "answer": "4"})
    (True, False)
    """
    if any(row.get(name) is not None for kind in ("one", "many", "token_ids") for name in _NAMES[kind]):
        return True
    return _answered(row) is not None


def _answered(row: Mapping[str, Any]) -> list[Any] | None:
    chat = as_list(pick(row, *_NAMES["messages"]))
    last = chat[-1] if chat else None
    return chat if isinstance(last, Mapping) and last.get("role") == "assistant" else None


def read(row: Mapping[str, Any], where: str) -> list[Stored]:
    """The row's responses."""

    def column(kind: str) -> Any:
        return pick(row, *_NAMES[kind])

    question, identity = pick(row, "question"), as_id(column("id"))
    if question is None:
        question = column("question")
    elif identity is None:
        identity = as_id(pick(row, "problem"))  # the table responses.parquet has the problem's name there
    messages: tuple[Mapping[str, Any], ...] = ()
    prompt, chat = column("prompt"), _answered(row)
    texts = column("one") is not None or column("many") is not None or column("token_ids") is not None
    if as_list(prompt) is not None:
        prompt, messages = None, as_messages(prompt)
    elif (given := column("messages")) is not None:
        messages = as_messages(given)
        # Where the row has its response elsewhere, the chat may hold it once more
        messages = messages[:-1] if chat is not None else messages
    common: dict[str, Any] = {
        "form": NAME, "id": identity, "question": as_text(question, "question"), "messages": messages,
        "prompt": as_text(prompt, "prompt"), "prompt_ids": as_ids(column("prompt_ids"), "prompt's token ids"),
        "answer": as_text(column("answer"), "answer") or "", "solution": as_text(column("solution"), "solution") or "",
    }  # fmt: skip
    if chat is not None and not texts:
        content, reasoning = said_in(as_messages(chat)[-1])
        return [_one(where, common, content, reasoning, None, column("finish"), as_sample(column("sample")))]
    many = column("many") if column("one") is None and column("token_ids") is None else None
    if many is not None:
        return _several(where, common, many, column("finishes"))
    text = column("one")
    if isinstance(text, Mapping):
        return _several(where, common, [text], None)
    return [
        _one(where, common, text, column("reasoning"), column("token_ids"), column("finish"),
             as_sample(column("sample")), row.get("stop_reason") if "finish_reason" in row else None)
    ]  # fmt: skip


def _several(where: str, common: Mapping[str, Any], many: Any, finishes: Any) -> list[Stored]:
    listed = as_list(many)
    if listed is None:
        raise refused(
            _OPERATION,
            expected="a list of responses",
            received=f"{type(many).__name__} {many!r:.80}",
            remedy="Give one response as a text.",
        )
    ends: Sequence[Any] = as_list(finishes) or []
    found = []
    for number, value in enumerate(listed):
        if isinstance(value, Mapping):
            text, reasoning = pick(value, *_NAMES["one"], "content"), pick(value, *_NAMES["reasoning"])
            ids, end = pick(value, *_NAMES["token_ids"]), pick(value, *_NAMES["finish"])
        else:
            text, reasoning, ids, end = value, None, None, ends[number] if number < len(ends) else None
        place = where if len(listed) == 1 else f"{where}, response {number}"
        found.append(_one(place, common, text, reasoning, ids, end, None))
    return found


def _one(
    where: str, common: Mapping[str, Any], text: Any, reasoning: Any, ids: Any, end: Any, sample: int | None,
    stopped_at: Any = None,
) -> Stored:  # fmt: skip
    return Stored(
        where=where, sample=sample, text=as_text(text, "response"), reasoning=as_text(reasoning, "reasoning") or None,
        token_ids=as_ids(ids, "response's token ids"), finish=finish_of(end, stopped_at), **common,
    )  # fmt: skip

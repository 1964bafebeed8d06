"""Rows of OpenAI-style chat completions: a server's answer, alone, beside its request, or a line of a batch's file.

    {"id": "p1", "messages": [...], "answer": "4", "choices": [{"message": {"content": "4", "reasoning_content": ...}}]}
    {"id": "p1", "request": {"messages": [...]}, "response": {"choices": [...]}, "answer": "4"}
    {"custom_id": "p1", "response": {"status_code": 200, "body": {"choices": [...]}}}

The ``id`` of a completion ("chatcmpl-...") names the call and no problem. vLLM's and SGLang's servers can be asked for
token ids (``return_token_ids``), which are taken where they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analyses.responses.stored import Stored, finish_of
from analyses.responses.values import as_id, as_ids, as_list, as_messages, as_text, pick, refused, said_in

__all__ = ["NAME", "fits", "read"]

NAME = "chat completions"

_OPERATION = "read responses"


def fits(row: Mapping[str, Any]) -> bool:
    """Whether there is such an answer in the row.

    >>> fits({"object": "chat.completion", "choices": [{"message": {"role": "assistant", "content": "4"}}]})
    True
    """
    return _completion(row) is not None


def _completion(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The answer of the server."""
    response = row.get("response")
    inner = response.get("body") if isinstance(response, Mapping) and "body" in response else response
    for one in (row, inner, row.get("completion"), row.get("output")):
        if isinstance(one, Mapping) and as_list(one.get("choices")) is not None:
            return one
    if isinstance(response, Mapping) and "status_code" in response:  # a line of a batch that has failed
        return response
    return None


def read(row: Mapping[str, Any], where: str) -> list[Stored]:
    """A response for each choice."""
    completion = _completion(row)
    choices = None if completion is None else as_list(completion.get("choices"))
    if completion is None or not choices:
        received = row.get("error") or completion
        raise refused(
            _OPERATION,
            expected="choices in the answer of the server",
            received=repr(received),
            remedy="Send the request again.",
        )
    request = row.get("request") if isinstance(row.get("request"), Mapping) else {}
    request = request.get("body", request) if isinstance(request, Mapping) else {}
    messages = pick(row, "messages") or pick(request, "messages")
    called = completion is row and str(row.get("id", "")).startswith(("chatcmpl-", "cmpl-"))
    identity = as_id(pick(row, "custom_id", "problem_id", *([] if called else ["id"])))
    found = []
    for number, choice in enumerate(choices):
        if not isinstance(choice, Mapping):
            raise refused(
                _OPERATION,
                expected="choices that are objects",
                received=repr(choice),
                remedy="Give them as the server has sent them.",
            )
        message = choice.get("message")
        if isinstance(message, Mapping):
            text, reasoning = said_in(message)
        else:
            text, reasoning = as_text(choice.get("text"), "text"), None  # of the older completions
        prompt = pick(row, "prompt") or pick(request, "prompt")
        found.append(
            Stored(
                where=where if len(choices) == 1 else f"{where}, choice {number}",
                form=NAME,
                id=identity,
                question=as_text(pick(row, "question", "problem"), "question"),
                messages=() if messages is None else as_messages(messages),
                prompt=as_text(prompt, "prompt") if isinstance(prompt, str) else None,
                prompt_ids=as_ids(pick(completion, "prompt_token_ids") or choice.get("prompt_token_ids"), "prompt"),
                text=text,
                reasoning=reasoning,
                token_ids=as_ids(choice.get("token_ids"), "response's token ids"),
                answer=as_text(pick(row, "answer", "target", "gold"), "answer") or "",
                solution=as_text(pick(row, "solution"), "solution") or "",
                finish=finish_of(choice.get("finish_reason"), choice.get("stop_reason")),
            )
        )
    return found

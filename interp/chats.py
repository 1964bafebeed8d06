"""Chat messages as token ids, through the template that came with the model.

Templates are programs of many hands: some want each content as a string, some as a list of parts, some refuse roles or
strip what they are given. What is handed over here:

- roles and further fields (tool calls, names) as they are; the template decides, and what it says against them is
  repeated in one ``InputError``;
- content as a string or a list of text parts, in the form in which the template shows all of it;
- turns without content;
- a last turn of the assistant is the beginning of the response: it is continued, not closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from interp.errors import InputError
from interp.foreign import foreign_errors, said

__all__ = ["Message", "encode_chat"]

Message: TypeAlias = Mapping[str, Any]

_EXAMPLE = 'A chat message is {"role": "user", "content": "..."}.'


def encode_chat(tokenizer: Any, messages: Sequence[Message], operation: str) -> list[int]:
    """Token ids of a chat up to where the response begins, or goes on.

    >>> from interp import load_model
    >>> tokenizer = load_model("toy-reasoner").tokenizer
    >>> tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    >>> encode_chat(tokenizer, [{"role": "user", "content": [{"type": "text", "text": "2 gives 4"}]}], "decode")
    [6, 35, 8]

    Raises:
        InputError: no chat template, a message that is none, content other than text, a chat without any text, a
            template that fails, refuses the messages or does not show them.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise InputError(
            operation,
            expected="a model with a chat template",
            received="chat messages",
            remedy="Pass the question as a plain string (prompt raw).",
        )
    chat = [_checked(message, number, operation) for number, message in enumerate(messages)]
    if not any(_has_content(message) for message in chat):
        raise InputError(
            operation,
            expected="at least one prompt token",
            received="an empty prompt: a chat without content",
            remedy="Pass some text.",
        )
    prefilled = chat[-1]["role"] == "assistant" and not chat[-1].get("tool_calls")
    if prefilled and not _text(chat[-1]):
        # Nothing of the response is given: it begins as any does.
        chat, prefilled = chat[:-1], False
    text = _rendered(tokenizer, chat, prefilled, operation)
    with foreign_errors(operation, expected="text the tokenizer can encode", remedy="Check the tokenizer's files."):
        # The template has written the special tokens; the tokenizer adds none.
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _checked(message: Message, number: int, operation: str) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    wrong = None
    if not isinstance(role, str) or not role:
        wrong = f"message {number} with role {role!r}"
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
        for part in content:
            if not isinstance(part, str) and not (isinstance(part, Mapping) and isinstance(part.get("text"), str)):
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                wrong = f"a part of kind {kind!r} in message {number}"
    elif content is not None and not isinstance(content, str):
        wrong = f"content of type {type(content).__name__} in message {number}"
    if wrong is not None:
        raise InputError(
            operation,
            expected="chat messages with a role, and text (or a list of text parts) as content",
            received=said(wrong, 120),
            remedy=_EXAMPLE,
        )
    return {"role": role, **{key: value for key, value in message.items() if key != "role"}}


def _texts(message: Message) -> list[str]:
    content = message.get("content")
    if content is None:
        return []
    return [content] if isinstance(content, str) else [p if isinstance(p, str) else p["text"] for p in content]


def _text(message: Message) -> str:
    return "".join(_texts(message))


def _letters(text: str) -> str:
    """What is left of a text whose spaces and signs a template may set otherwise."""
    return "".join(c for c in text if c.isalnum())


def _has_content(message: Message) -> bool:
    return bool(_text(message).strip()) or any(
        value for key, value in message.items() if key not in ("role", "content", "name", "tool_call_id")
    )


def _rendered(tokenizer: Any, chat: list[dict[str, Any]], prefilled: bool, operation: str) -> str:
    """The chat as text, each content in the form, string or parts, in which the template shows what the user says."""
    as_strings = [{**m, "content": _text(m)} if m.get("content") is not None else m for m in chat]
    as_parts = [
        {**m, "content": [{"type": "text", "text": text} for text in _texts(m)]} if m.get("content") is not None else m
        for m in chat
    ]
    # Templates may cut an assistant's or a tool's turn (thoughts of earlier turns); they show all that a user says.
    asked = [_letters(_text(m)) for m in chat if m["role"] == "user"]
    failures: list[InputError] = []
    shown: list[str] = []
    for form in (as_strings, as_parts):
        try:
            text = _render(tokenizer, form, prefilled, operation)
        except InputError as error:
            failures.append(error)
            continue
        seen = _letters(text)
        # A template for strings prints parts as the list they are
        printed = form is as_parts and any(sign in text for sign in ("'type': 'text'", '"type": "text"'))
        if not printed and all(question in seen for question in asked):
            return text
        if not printed:
            shown.append(text)
    if not shown:
        raise failures[0]
    raise InputError(
        operation,
        expected="a chat template that shows what the user says",
        received=said(f"one that makes of it {shown[0]!r}"),
        remedy="Check the template; or pass the whole prompt as a plain string.",
    )


def _render(tokenizer: Any, chat: list[dict[str, Any]], prefilled: bool, operation: str) -> str:
    # A template is a program that came with the model: it can raise anything.
    with foreign_errors(
        operation,
        expected="messages that the model's chat template takes",
        remedy="Change the messages (roles, their order), mend the template, or pass the prompt as a plain string.",
    ):
        rendered = tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=not prefilled, continue_final_message=prefilled
        )
    return str(rendered)

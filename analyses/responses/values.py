"""Values of a row of JSON or of a table, as text, numbers, token ids and messages; anything else is refused by name."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from analyses.problem_files import Repeated
from interp.errors import InputError

__all__ = ["as_id", "as_ids", "as_list", "as_messages", "as_sample", "as_text", "pick", "refused", "said_in"]

_OPERATION = "read responses"


def refused(operation: str, *, expected: str, received: str, remedy: str) -> InputError:
    """What a reader of a format raises for a row, in bounded length; the row is told, and the others go on."""
    return InputError(operation, expected=expected, received=received[:200], remedy=remedy)


def pick(row: Mapping[str, Any], *names: str) -> Any:
    """The first of these columns that is there and not empty.

    >>> pick({"problem": None, "question": "2 + 2?"}, "problem", "question")
    '2 + 2?'
    """
    for name in names:
        value = row.get(name)
        if isinstance(value, Repeated):
            raise refused(
                _OPERATION,
                expected=f"one {name}",
                received=f"{len(value.values)} of that name",
                remedy="Rename or remove all but one.",
            )
        if value is not None and not (isinstance(value, float) and value != value):
            return value
    return None


def as_text(value: Any, what: str) -> str | None:
    """Text; numbers as their text, `None` for nothing."""
    if value is None or isinstance(value, str):
        if value is not None and not _is_writable(value):
            raise refused(
                _OPERATION,
                expected=f"text as the {what}",
                received="half of a surrogate pair",
                remedy="Mend the broken \\uXXXX escape.",
            )
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        return str(int(number)) if number == number and abs(number) < 1e15 and number == int(number) else str(value)
    raise refused(
        _OPERATION,
        expected=f"text as the {what}",
        received=f"{type(value).__name__} {value!r:.120}",
        remedy="See docs/RESPONSES.md.",
    )


def _is_writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_id(value: Any) -> str | None:
    """The name of a problem; `None` where it has none."""
    text = as_text(value, "id")
    return None if text is None or not text.strip() else text.strip()


def as_sample(value: Any) -> int | None:
    """Which of a problem's responses, counted from 0."""
    if value is None:
        return None
    if isinstance(value, Real) and not isinstance(value, bool) and float(value) >= 0 and float(value).is_integer():
        return int(float(value))
    raise refused(
        _OPERATION,
        expected="a whole number from 0 as the sample",
        received=repr(value),
        remedy="Number the samples, or leave it out.",
    )


def as_list(value: Any) -> list[Any] | None:
    """A list, from a list or an array; `None` for what is none."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else None


def as_ids(value: Any, what: str) -> Sequence[int] | None:
    """Token ids, four bytes each; whether a model has them is not known here."""
    if value is None:
        return None
    ids = as_list(value)
    if ids is None or not all(type(token) is int and 0 <= token < 2**31 for token in ids):
        raise refused(
            _OPERATION,
            expected=f"a list of token ids as the {what}",
            received=repr(value),
            remedy="Leave them out; text is enough.",
        )
    return array("i", ids)


def as_messages(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Chat messages."""
    found = as_list(value)
    if found is None or not all(isinstance(message, Mapping) and isinstance(message.get("role"), str)
                                for message in found):  # fmt: skip
        raise refused(
            _OPERATION,
            expected="a list of chat messages with a role",
            received=repr(value),
            remedy='One is {"role": ..., "content": ...}.',
        )
    return tuple(found)


def said_in(message: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """What an assistant's message says, and the thinking that a server has cut off from it.

    >>> said_in({"role": "assistant", "content": "4.", "reasoning_content": "2 and 2"})
    ('4.', '2 and 2')
    """
    content = message.get("content")
    reasoning = pick(message, "reasoning_content", "reasoning", "thinking")
    if isinstance(parts := as_list(content), list):
        thoughts = [part for part in parts if isinstance(part, Mapping) and part.get("type") in _THINKING]
        texts = [part for part in parts if part not in thoughts]
        if not all(isinstance(part, str) or (isinstance(part, Mapping) and isinstance(part.get("text"), str))
                   for part in texts):  # fmt: skip
            raise refused(
                _OPERATION,
                expected="text in the assistant's message",
                received=repr(content),
                remedy="Only text can be read.",
            )
        content = "".join(part if isinstance(part, str) else str(part["text"]) for part in texts)
        thought = "\n".join(str(pick(part, "reasoning", "thinking", "text") or "") for part in thoughts)
        reasoning = reasoning or thought or None
    return as_text(content, "content"), as_text(reasoning, "reasoning") or None


_THINKING = ("reasoning", "thinking")

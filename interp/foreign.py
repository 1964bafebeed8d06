"""What other libraries say when they fail, as one short line of an ``InputError``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from interp.errors import InputError

__all__ = ["decode_text", "foreign_errors", "said"]

_LONGEST = 400  # characters


def said(error: BaseException | str, longest: int = _LONGEST) -> str:
    """Kind and words of an error on one line, cut in the middle where they are long.

    >>> said(KeyError("rope_theta"))
    "KeyError: 'rope_theta'"
    >>> len(said(ValueError("no " * 1000)))
    400
    """
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    text = " ".join(text.split()).rstrip(": .")
    if len(text) <= longest:
        return text
    # The end often holds the reason, after a dump of what was given.
    tail = longest // 3
    return f"{text[: longest - tail - 5]} ... {text[len(text) - tail :]}"


@contextmanager
def foreign_errors(
    operation: str, *, expected: str, remedy: str, kinds: tuple[type[BaseException], ...] = (Exception,)
) -> Iterator[None]:
    """Inside, an error of these kinds becomes one ``InputError`` that repeats what was said.

    >>> with foreign_errors("count", expected="a number", remedy="Pass one.", kinds=(ValueError,)):
    ...     int("x")
    Traceback (most recent call last):
    ...
    peaklens.InputError: count: expected a number, received ValueError: invalid literal for int() with base 10: 'x'. \
Pass one.

    The default, every kind, is for libraries that raise bare ``Exception`` (tokenizers) or run what came with a model
    (chat templates): around that one call, nothing of our own inside.
    """
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        raise InputError(operation, expected=expected, received=said(error), remedy=remedy) from error


def decode_text(tokenizer: Any, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
    """The text of token ids, spaces as the tokenizer sets them; ids it has no token for are left out.

    A model may be wider than its tokenizer and emit such ids. Most tokenizers skip them, some fail over them.
    Raises `InputError` where it fails over ids that have text each: an empty text would be taken for the model's.

    >>> from interp import load_model
    >>> decode_text(load_model("toy-reasoner").tokenizer, [6, 35, 8, 4000])
    '2 gives 4'
    """
    options = {"skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": False}
    try:
        return str(tokenizer.decode(ids, **options))
    except Exception:  # tokenizers in Python fail with whatever their look-ups fail with
        known = [i for i in ids if _has_text(tokenizer, i)]
    with foreign_errors("decode text", expected="ids that the tokenizer turns into text", remedy="Check its files."):
        return str(tokenizer.decode(known, **options))


def _has_text(tokenizer: Any, token_id: int) -> bool:
    try:
        tokenizer.decode([token_id])
    except Exception:  # which is the answer: see decode_text
        return False
    return True

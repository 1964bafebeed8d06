"""Kinds of tokens: what an answer looks like at its end, and what a step has just read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from interp.token_text import token_texts

__all__ = ["token_kind", "token_kinds"]


def token_kind(text: str) -> str:
    r"""The kind of a token by its text: what an answer that ends on it looks like at its end.

    >>> [token_kind(text) for text in ("7", " 42", "½", "x", " eggs", ".", ")", "}$", "2x", "\n")]
    ['digit', 'number', 'number', 'letter', 'word', 'stop', 'punctuation', 'TeX', 'mixed', 'space']
    """
    text = text.strip().strip("\u2581\u0120")
    if not text:
        return "space"
    if re.fullmatch(r"\d", text):
        return "digit"
    if re.fullmatch(r"[\d.,]*\d[\d.,]*", text) or text.isnumeric():
        return "number"
    if re.search(r"[\\{}$^_]", text):
        return "TeX"
    if text.isalpha():
        return "letter" if len(text) == 1 else "word"
    if re.fullmatch(r"[.!?\u3002\uff01\uff1f]+", text):
        return "stop"
    return "mixed" if any(character.isalnum() for character in text) else "punctuation"


def token_kinds(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The kind of each token of a tokenizer; "special" for those that stand for no text.

    >>> from interp.loading.models import load_model
    >>> tokenizer = load_model("toy-reasoner").tokenizer
    >>> token_kinds(tokenizer, [tokenizer.convert_tokens_to_ids(word) for word in ("7", ".", "Wait")])
    ['digit', 'stop', 'word']
    """
    special = frozenset(getattr(tokenizer, "all_special_ids", None) or ())
    different = list(dict.fromkeys(ids))
    known = {
        token: "special" if token in special else token_kind(token_texts(tokenizer, [token])[0]) for token in different
    }
    return [known[token] for token in ids]

"""From what a user calls a prompt to token ids the model can take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from interp.chats import Message, encode_chat
from interp.engine import ModelFacts
from interp.errors import InputError
from interp.foreign import decode_text, foreign_errors

__all__ = ["Message", "Prompt", "check_ids", "decode_tokens", "encode_prompt", "encode_text", "vocabulary_of"]

# Messages or ids; encode_prompt tells which, and refuses the rest in words of its own.
Prompt: TypeAlias = str | Sequence[Any] | Tensor


def encode_text(tokenizer: Any, text: str, operation: str, special: bool = True) -> list[int]:
    """Token ids of a text, special tokens as the tokenizer adds them by default, or without any.

    Two of them are left out, since the text is to be continued and is read once: what a tokenizer appends at the end
    (end of sequence, ``[SEP]``), and a second beginning of sequence before a text that begins with one itself, as a
    chat rendered by hand does. Refuses words the vocabulary cannot represent: they would silently become the unknown
    token.
    """
    if tokenizer is None:
        raise InputError(
            operation,
            expected="a model with a tokenizer",
            received="text",
            remedy="Pass token ids, or load a tokenizer.",
        )
    with foreign_errors(
        operation, expected="text the tokenizer can encode", remedy="Check the text and the tokenizer's files."
    ):
        ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
        ids = _to_be_continued(tokenizer, text, ids) if special else ids
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids and str(tokenizer.unk_token) not in text:
        words = [w for w in text.split() if unknown in tokenizer(w, add_special_tokens=False)["input_ids"]]
        if words:
            raise InputError(
                operation,
                expected="text made of words the tokenizer has",
                received=f"{', '.join(repr(w) for w in dict.fromkeys(words[:8]))} in {text[:60]!r}",
                remedy="This tokenizer has a closed vocabulary; use a model trained on such text.",
            )
    return ids


def _to_be_continued(tokenizer: Any, text: str, ids: list[int]) -> list[int]:
    special = set(tokenizer.all_special_ids)
    if not ids or (ids[-1] not in special and ids[0] not in special):
        return ids
    plain = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    places = range(len(ids) - len(plain) + 1) if plain else ()
    begin = next((n for n in places if ids[n : n + len(plain)] == plain), None)
    if begin is None:
        return ids
    twice = begin > 0 and plain[0] == ids[begin - 1] == tokenizer.bos_token_id
    return ids[: begin - twice] + plain


def encode_prompt(tokenizer: Any, prompt: Prompt, facts: ModelFacts, operation: str = "decode") -> list[int]:
    """Token ids of one prompt: a string, chat messages, or ids; checked against the vocabulary."""
    if isinstance(prompt, str):
        ids = encode_text(tokenizer, prompt, operation) if prompt.strip() else []
    elif isinstance(prompt, Tensor):
        if prompt.ndim != 1 or prompt.is_floating_point() or prompt.is_complex():
            raise InputError(
                operation,
                expected="a 1-D integer tensor of token ids",
                received=f"{prompt.dtype} of shape {tuple(prompt.shape)}",
                remedy="Pass one prompt a tensor, without batch dimension.",
            )
        ids = prompt.tolist()
    elif prompt and all(isinstance(part, Mapping) for part in prompt):
        ids = encode_chat(tokenizer, [part for part in prompt if isinstance(part, Mapping)], operation)
    elif all(isinstance(part, int) and not isinstance(part, bool) for part in prompt):
        ids = [int(part) for part in prompt]
    else:
        raise InputError(
            operation,
            expected="a string, chat messages, or a list of token ids",
            received=f"a {type(prompt).__name__} of {type(prompt[0]).__name__}",
            remedy='A chat message is {"role": "user", "content": "..."}.',
        )
    return check_ids(ids, facts, operation)


def check_ids(ids: list[int], facts: ModelFacts, operation: str) -> list[int]:
    """Refuse an empty prompt and ids outside the vocabulary."""
    if not ids:
        raise InputError(
            operation, expected="at least one prompt token", received="an empty prompt", remedy="Pass some text."
        )
    facts.check_token_ids(ids, operation)
    return ids


def decode_tokens(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each id as text, by itself."""
    if tokenizer is None:
        return [str(i) for i in ids]
    return [decode_text(tokenizer, [i]) for i in ids]


def vocabulary_of(tokenizer: Any, d_vocab: int) -> list[str]:
    """Each token id as text; ids the model has but the tokenizer lacks (padding of the embedding) are empty."""
    if tokenizer is None:
        return [str(i) for i in range(d_vocab)]
    return [decode_text(tokenizer, [i]) for i in range(d_vocab)]

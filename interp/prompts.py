"""From what a user calls a prompt to token ids the model can take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from interp.arguments import Prompts, as_prompts
from interp.chats import Message, encode_chat
from interp.engines.base import ModelFacts
from interp.errors import InputError
from interp.foreign import foreign_errors
from interp.token_text import token_texts

__all__ = ["Message", "Prompt", "check_ids", "encode_prompt", "encode_prompts", "encode_text", "vocabulary_of"]

# Messages or ids; encode_prompt tells which, and refuses the rest in words of its own.
if TYPE_CHECKING:
    Prompt: TypeAlias = str | Sequence[Any] | Tensor
else:
    Prompt = Any


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


def encode_prompts(tokenizer: Any, prompts: Prompts, facts: ModelFacts, operation: str = "decode") -> list[list[int]]:
    """Token ids of each prompt, from any of the forms that :func:`interp.arguments.as_prompts` knows."""
    try:
        return [encode_prompt(tokenizer, prompt, facts, operation) for prompt in as_prompts(prompts, operation)]
    except InputError as error:
        if not isinstance(prompts, str):
            raise
        remedy = f"{error.remedy} (One string is one prompt; for several pass a list.)"
        raise InputError(operation, expected=error.expected, received=error.received, remedy=remedy) from error


def encode_prompt(tokenizer: Any, prompt: Prompt, facts: ModelFacts, operation: str = "decode") -> list[int]:
    """Token ids of one prompt: a string, chat messages, or ids; checked against the vocabulary."""
    if isinstance(prompt, str):
        ids = encode_text(tokenizer, prompt, operation) if prompt.strip() else []
    elif isinstance(prompt, Tensor):
        if prompt.ndim != 1 or prompt.is_floating_point() or prompt.is_complex() or prompt.dtype == torch.bool:
            raise InputError(
                operation,
                expected="a 1-D integer tensor of token ids",
                received=f"{prompt.dtype} of shape {tuple(prompt.shape)}",
                remedy="Pass one prompt a tensor, without batch dimension.",
            )
        ids = prompt.tolist()
    elif isinstance(prompt, bytes | bytearray | Mapping) or not isinstance(prompt, Sequence):
        raise _not_a_prompt(prompt, operation)
    elif prompt and all(isinstance(part, Mapping) for part in prompt):
        ids = encode_chat(tokenizer, [part for part in prompt if isinstance(part, Mapping)], operation)
    elif all(isinstance(part, int) and not isinstance(part, bool) for part in prompt):
        ids = [int(part) for part in prompt]
    else:
        raise _not_a_prompt(prompt, operation)
    return check_ids(ids, facts, operation)


def _not_a_prompt(prompt: Any, operation: str) -> InputError:
    holds = next((f" of {type(part).__name__}" for part in prompt), "") if isinstance(prompt, list | tuple) else ""
    return InputError(
        operation,
        expected="a string, chat messages, or a list of token ids",
        received=f"a {type(prompt).__name__}{holds}",
        remedy='A chat message is {"role": "user", "content": "..."}.',
    )


def check_ids(ids: list[int], facts: ModelFacts, operation: str) -> list[int]:
    """Refuse an empty prompt and ids outside the vocabulary."""
    if not ids:
        raise InputError(
            operation, expected="at least one prompt token", received="an empty prompt", remedy="Pass some text."
        )
    facts.check_token_ids(ids, operation)
    return ids


def vocabulary_of(tokenizer: Any, d_vocab: int) -> list[str]:
    """Each token id as text; ids the model has but the tokenizer lacks (padding of the embedding) are empty."""
    return token_texts(tokenizer, range(d_vocab))

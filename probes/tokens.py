"""The words generated at peak steps.

1. Decode each peak token, strip it, keep it when it is wholly ASCII letters; 2. count the words, case-sensitively;
3. map each word to every vocabulary id that decodes to it with or without one leading space.
Source: Qian et al. 2025, arXiv 2506.02867, section on thinking tokens, and the authors' scripts MI-Peaks.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from torch import Tensor

from probes.errors import InputError

__all__ = ["ThinkingToken", "thinking_tokens", "word_token_ids"]

_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class ThinkingToken:
    """A word seen at peaks: how often, its share of all peak tokens given, and the vocabulary ids that spell it."""

    word: str
    count: int
    share: float
    token_ids: tuple[int, ...]


def thinking_tokens(peak_token_ids: Sequence[SupportsIndex] | Tensor, vocabulary: Sequence[str]) -> list[ThinkingToken]:
    """Words at the peaks of many responses, most frequent first, then by word; `vocabulary[i]` is id i decoded.

    >>> vocabulary = ["Wait", " Wait", "7", " so"]
    >>> for token in thinking_tokens([1, 0, 1, 2, 3], vocabulary):
    ...     print(token.word, token.count, token.share, token.token_ids)
    Wait 3 0.6 (0, 1)
    so 1 0.2 (3,)

    Unit: `count` in tokens, `share` of all peak tokens given, words or not. The vocabulary must be decoded text
    (" Wait"), not raw pieces ("ĠWait"). Ids may be empty: a word seen only as "\\nWait" has none of the two spellings.
    Raises `InputError` for an id outside the vocabulary and for ids that are not one row of integers.
    Source: Qian et al. 2025, arXiv 2506.02867.
    """
    ids = _as_ids(peak_token_ids)
    by_id = Counter(ids)
    outside = sorted(i for i in by_id if not 0 <= i < len(vocabulary))
    if outside:
        raise InputError(
            "thinking_tokens",
            expected=f"token ids from 0 to {len(vocabulary) - 1}, the vocabulary's length less one",
            received=f"{sum(by_id[i] for i in outside)} outside, such as {outside[0]}",
            remedy="Use the vocabulary of the model that generated them, padding left out.",
        )
    counts: Counter[str] = Counter()
    for token_id, count in by_id.items():
        word = vocabulary[token_id].strip()
        if _WORD.fullmatch(word):
            counts[word] += count
    spelled = word_token_ids(counts, vocabulary)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [ThinkingToken(word, count, count / len(ids), spelled[word]) for word, count in ranked]


def word_token_ids(words: Iterable[str], vocabulary: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Every vocabulary id that decodes to each word with or without one leading space, ascending.

    >>> word_token_ids(["Wait", "hm"], ["Wait", " Wait", "wait", "  Wait"])
    {'Wait': (0, 1), 'hm': ()}

    A word that no single token spells gets an empty tuple. Raises `InputError` for an empty word or one with space
    around it.
    Source: Qian et al. 2025, arXiv 2506.02867.
    """
    found: dict[str, list[int]] = {word: [] for word in words}
    for word in found:
        if not word or word != word.strip():
            raise InputError(
                "word_token_ids",
                expected="words without space around them",
                received=repr(word),
                remedy="Strip them: the spelling with a leading space is found anyway.",
            )
    # One pass over the vocabulary, whatever the number of words.
    for token_id, text in enumerate(vocabulary):
        entry = found.get(text.removeprefix(" "))
        if entry is not None:
            entry.append(token_id)
    return {word: tuple(token_ids) for word, token_ids in found.items()}


def _as_ids(peak_token_ids: Sequence[SupportsIndex] | Tensor) -> list[int]:
    if isinstance(peak_token_ids, Tensor):
        integer = not (peak_token_ids.is_floating_point() or peak_token_ids.is_complex())
        if peak_token_ids.ndim != 1 or not integer or peak_token_ids.dtype == torch.bool:
            raise InputError(
                "thinking_tokens",
                expected="peak_token_ids as one row of integers",
                received=f"{peak_token_ids.dtype} of shape {tuple(peak_token_ids.shape)}",
                remedy="Give token_ids[peaks], flattened.",
            )
        return peak_token_ids.tolist()
    return [operator.index(token_id) for token_id in peak_token_ids]

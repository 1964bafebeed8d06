"""Contrast tokens for thinking words: other words that a model's responses use about as often.

The difference of a thinking word's logit to that of a word as frequent says what made it *this* word, where the
difference to the best other token may only say what made it a word at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from interp.arguments import Judged, Texts, Wholes, as_wholes
from interp.interventions import matched_random_tokens
from interp.rollout import Rollout

if TYPE_CHECKING:
    Rollouts: TypeAlias = Rollout | Iterable[Rollout]
    Groups: TypeAlias = Iterable[Collection[str]]
else:
    Rollouts = Groups = Any

__all__ = ["matched_contrasts"]


def matched_contrasts(
    rollouts: Rollouts, token_ids: Judged[Mapping[str, Wholes]], *, keep: Groups = (), exclude: Texts = ()
) -> dict[int, int]:
    """For each spelling of each thinking word the token of a word as frequent that is none, for `logit_attribution`.

    >>> import torch
    >>> words = ["Wait", "is", "makes", "then", "is", "then"]
    >>> ids = torch.tensor([1, 2, 3, 4, 2, 4])
    >>> rollout = Rollout(ids, ids, words, "", "eos", torch.zeros(6), torch.zeros(6))
    >>> matched_contrasts([rollout], {"Wait": (1, 5)})
    {1: 3, 5: 3}

    The word nearest in log frequency is taken (:func:`interp.interventions.matched_random_tokens`, of whose arguments
    these are), in the spelling that the responses use most; two thinking words may have the same.

    Raises:
        InputError: responses without other words, words without their ids.
    """
    listed = [rollouts] if isinstance(rollouts, Rollout) else list(rollouts)
    uses = Counter(token for rollout in listed for token in rollout.token_ids.tolist())
    others = [exclude] if isinstance(exclude, str) else list(exclude)
    found: dict[int, int] = {}
    for word, ids in dict(token_ids).items():
        rest = [*others, *(other for other in token_ids if other != word)]
        drawn = matched_random_tokens(listed, {word: ids}, draws=1, keep=keep, nearest=1, exclude=rest)[0]
        partner = max((token for some in drawn.values() for token in some), key=lambda token: (uses[token], -token))
        found |= dict.fromkeys(as_wholes(ids, "match contrasts", "token_ids"), partner)
    return found

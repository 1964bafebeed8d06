"""Controls for suppression: as many other words, about as frequent, and never all of a kind that the task needs.

Suppressing arbitrary tokens breaks any model (digits!), and suppressing rare ones does nothing; a control has to match.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any, TypeAlias

from interp.arguments import Judged, Texts, Whole, Wholes, as_list, as_whole
from interp.errors import InputError
from interp.interventions.suppress import flat_ids, spellings
from interp.rollout import Rollout
from interp.types import Bridge

__all__ = ["matched_random_tokens"]

_WORD = re.compile(r"[A-Za-z]+")


if TYPE_CHECKING:
    Rollouts: TypeAlias = Rollout | Iterable[Rollout]
    Groups: TypeAlias = Iterable[Collection[str]]
else:
    Rollouts = Groups = Any


def matched_random_tokens(
    rollouts: Rollouts,
    token_ids: Judged[Mapping[str, Wholes]],
    draws: Whole = 5,
    seed: Whole = 0,
    keep: Groups = (),
    nearest: Whole = 3,
    exclude: Texts = (),
    model: Bridge | None = None,
) -> list[dict[str, tuple[int, ...]]]:
    """Several draws of as many words as ``token_ids`` has, from the words these responses use.

    >>> import torch
    >>> words = ["Wait", "is", "makes", "then", "is", "then"]
    >>> ids = torch.tensor([1, 2, 3, 4, 2, 4])
    >>> rollout = Rollout(ids, ids, words, "", "eos", torch.zeros(6), torch.zeros(6))
    >>> matched_random_tokens([rollout], {"Wait": (1,)}, draws=2, nearest=1)  # one "Wait", one "makes"
    [{'makes': (3,)}, {'makes': (3,)}]

    Words are compared without case and surrounding space. Each thinking word, most frequent first, is given a partner
    drawn from the ``nearest`` words that are closest to it in log frequency and still free. Draws differ from one
    another only by chance; equal ones are possible where there are few words.

    Args:
        token_ids: word to ids, as :func:`thinking_token_ids` gives.
        keep: groups of words of which one at least must stay in each draw, e.g. the verbs of a task; the word of a
            group of one is never drawn.
        exclude: words never drawn, beside those of ``token_ids``: the rest of a list of which that is a part. With
            their ids, as :func:`thinking_token_ids` gives them, nothing spelled by one of these is drawn either.
        model: whose vocabulary spells the words. With it a control is banned as a thinking word is, in every spelling
            (in any case, with or without a leading space); without it only in those that the responses use.

    Raises:
        InputError: too few other words, draws or nearest < 1, words without their ids, groups that are no lists.
    """
    name = "draw matched tokens"
    draws, nearest = as_whole(draws, name, "draws"), as_whole(nearest, name, "nearest", 1)
    listed = _as_rollouts(rollouts, name)
    if not isinstance(token_ids, Mapping):
        raise InputError(
            name,
            expected="token_ids as words with their ids",
            received=repr(token_ids)[:80],
            remedy="thinking_token_ids(model, words) gives them.",
        )
    dice = random.Random(as_whole(seed, name, "seed"))
    kept = [] if isinstance(keep, str) else list(keep)
    if isinstance(keep, str) or any(isinstance(group, str) for group in kept):
        raise InputError(
            name,
            expected="keep as groups of words",
            received=repr(keep)[:80],
            remedy='One group of two words is keep=[["is", "makes"]].',
        )
    counts: Counter[str] = Counter()
    ids: dict[str, set[int]] = {}
    for rollout in listed:
        for token, token_id in zip(rollout.tokens, rollout.token_ids.tolist(), strict=True):
            word = token.strip()
            if _WORD.fullmatch(word):
                counts[word.casefold()] += 1
                ids.setdefault(word.casefold(), set()).add(token_id)
    thinking = sorted((word.casefold() for word in token_ids), key=lambda word: (-counts[word], word))
    banned = {i for some in (token_ids, exclude) if isinstance(some, Mapping) for i in flat_ids(some)}
    spelled_alike = {word for word, some in ids.items() if some & banned}
    others = sorted(set(counts) - set(thinking) - spelled_alike - {word.casefold() for word in _words(exclude, name)})
    groups = [{word.casefold() for word in group} for group in kept]
    spelled = {} if model is None else spellings(model)
    found = []
    for _ in range(draws):
        drawn: list[str] = []
        for word in thinking:
            free = [
                other
                for other in others
                if other not in drawn and not any(group <= {*drawn, other} for group in groups)
            ]
            if not free:
                break
            free.sort(key=lambda other: abs(math.log(counts[other]) - math.log(max(1, counts[word]))))
            drawn.append(dice.choice(free[:nearest]))
        if len(drawn) < len(thinking):
            raise InputError(
                "draw matched tokens",
                expected=f"at least {len(thinking)} other words to draw without emptying a group",
                received=f"{len(others)} words, {len(drawn)} of them free",
                remedy="Pass more responses, fewer thinking words or smaller groups to keep.",
            )
        found.append({word: tuple(sorted({*ids[word], *spelled.get(word, ())})) for word in drawn})
    if not found:
        raise InputError("draw matched tokens", expected="draws >= 1", received=str(draws), remedy="Change draws.")
    return found


def _as_rollouts(rollouts: Any, operation: str) -> list[Rollout]:
    listed = [rollouts] if isinstance(rollouts, Rollout) else as_list(rollouts, operation, "rollouts", "rollouts")
    for one in listed:
        if not isinstance(one, Rollout):
            raise InputError(
                operation, expected="rollouts", received=repr(one)[:80], remedy="Pass what decode returns."
            )
    return listed


def _words(words: Any, operation: str) -> list[str]:
    """Words from one or several; a set of them will do, since their order says nothing here."""
    return list(words) if isinstance(words, Set | Mapping) else as_list(words, operation, "exclude", "words")

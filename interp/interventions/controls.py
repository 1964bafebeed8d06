"""Controls for suppression: as many other words, about as frequent, and never all of a kind that the task needs.

Suppressing arbitrary tokens breaks any model (digits!), and suppressing rare ones does nothing; a control has to match.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from interp.errors import InputError
from interp.interventions.suppress import spellings
from interp.rollout import Rollout
from interp.types import Bridge

__all__ = ["matched_random_tokens"]

_WORD = re.compile(r"[A-Za-z]+")


def matched_random_tokens(
    rollouts: Sequence[Rollout],
    token_ids: Mapping[str, Sequence[int]],
    draws: int = 5,
    seed: int = 0,
    keep: Sequence[Collection[str]] = (),
    nearest: int = 3,
    exclude: Collection[str] = (),
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
        InputError: too few other words, or draws < 1.
    """
    counts: Counter[str] = Counter()
    ids: dict[str, set[int]] = {}
    for rollout in rollouts:
        for token, token_id in zip(rollout.tokens, rollout.token_ids.tolist(), strict=True):
            word = token.strip()
            if _WORD.fullmatch(word):
                counts[word.casefold()] += 1
                ids.setdefault(word.casefold(), set()).add(token_id)
    thinking = sorted((word.casefold() for word in token_ids), key=lambda word: (-counts[word], word))
    banned = {i for some in (token_ids, exclude) if isinstance(some, Mapping) for each in some.values() for i in each}
    spelled_alike = {word for word, some in ids.items() if some & banned}
    others = sorted(set(counts) - set(thinking) - spelled_alike - {word.casefold() for word in exclude})
    groups = [{word.casefold() for word in group} for group in keep]
    spelled = {} if model is None else spellings(model)
    dice = random.Random(seed)
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

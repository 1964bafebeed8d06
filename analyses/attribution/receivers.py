"""Receiver heads by tokens: heads that attend more to thinking tokens, or to peaks, than to tokens like them nearby.

1. A target is a token of a response: a thinking word, or what a peak stands on. The position that has *read* token j is
   what later positions attend to; a peak at step t is the position that has read token t - 1.
2. Each target is matched with tokens that are no targets: used about as often in all responses (within a factor
   ``band``), at most ``near`` tokens away, the nearest one before it and the nearest one after it.
3. Target and match are compared over the same rows: the positions at least ``gap`` after both. What is averaged is a
   row's weight made comparable with longer rows (:func:`probes.depth_controlled`), over response tokens alone: the
   prompt has the attention sinks.
4. A head's score in a response is the mean difference over its targets; in all, over responses.

All layers are read in one pass over a response, one layer's attention at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.attribution.receiver_result import ReceiverHeads, ranked
from analyses.thinking import thinking_words
from interp.arguments import Judged, Whole, Wholes, as_list, as_number, as_text, as_whole, as_wholes
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.interventions.suppress import flat_ids
from interp.rollout import Rollout
from interp.sampling import widened
from interp.sites import resolve_layers
from interp.types import Bridge
from interp.writes import read_patterns
from probes.receivers import CONTROLS, depth_controlled

__all__ = ["Matched", "as_responses", "matched_tokens", "of_each", "problems_of", "receiver_heads"]


@dataclass(frozen=True)
class Matched:
    """A target and a token like it, by their places in the response, and where the rows begin that both are seen in."""

    target: int
    match: int
    first_row: int


def receiver_heads(
    model: Bridge,
    rollouts: Any,
    words: Judged[Mapping[str, Wholes] | None] = None,
    *,
    steps: Any = None,
    problems: Any = None,
    layers: str | Wholes = "all",
    control: str = "rank",
    gap: Whole = 4,
    near: Whole = 32,
    band: float | int = 2.0,
    draws: Whole = 10_000,
    seed: Whole = 0,
) -> ReceiverHeads:
    """Rank heads by how much more they attend to thinking tokens, or to peaks, than to matched tokens.

    >>> from interp import decode, load_model
    >>> model = load_model("toy-reasoner")
    >>> rollouts = decode(model, ["6 A * 3 B - 8 ? ->", "4 A + 3 B - 2 ? ->"], max_new_tokens=60)
    >>> found = receiver_heads(model, rollouts, draws=200)
    >>> len(found.table), found.heads(2) == list(zip(found.table["layer"][:2], found.table["head"][:2]))
    (12, True)
    >>> peaks = receiver_heads(model, rollouts, steps=[[5, 9], [12]], draws=200)
    >>> peaks.settings["targets"]
    3

    Args:
        rollouts: one or several, as `decode` returns them; read once more, without interventions.
        words: token ids by word; the model's thinking words unless given.
        steps: instead of words, the steps of each rollout, such as its peaks: the tokens that their positions have
            read. Step 0 has read the prompt's last token and is left out.
        problems: the problem of each rollout; one for each different prompt unless given.
        control: "rank", "share" or "none", see :func:`probes.depth_controlled`.
        gap: rows nearer than this to a token are left out.
        near: how far away a match may be, in tokens.
        band: how many times as frequent, or as rare, a match may be.
        draws: of the bootstrap over problems; seed: of these.

    Returns:
        Heads with ``score`` (the difference), ``on_targets`` and ``on_matched``. ``settings`` has the number of
        targets, how many had no match or no rows (``left_out``), and how far after their matches they stand on average
        (``offset``): attention that fades with distance favours what stands later.

    Raises:
        InputError: words and steps at once, steps outside a response, no target that has a match, a model without
            attention patterns, a text longer than the context or more than the memory holds.
    """
    operation = "receiver_heads"
    listed = as_responses(rollouts, operation)
    labels = problems_of(listed, problems, operation)
    control, gap = as_text(control, operation, "control", CONTROLS), as_whole(gap, operation, "gap", 1)
    near, factor = as_whole(near, operation, "near", 1), as_number(band, operation, "band", 1.0)
    draws, seed = as_whole(draws, operation, "draws", 1), as_whole(seed, operation, "seed", 0)
    targets, barred = _targets(model, listed, words, steps, operation)
    counts = Counter(token for rollout in listed for token in rollout.token_ids.tolist())
    facts, wanted = model_facts(model), resolve_layers(layers, model.cfg.n_layers, operation)
    pairs = [
        matched_tokens(rollout.token_ids.tolist(), own, barred, counts, gap=gap, near=near, band=factor)
        for rollout, own in zip(listed, targets, strict=True)
    ]
    if not any(pairs):
        raise InputError(
            operation,
            expected=f"a target with a token nearby that is used as often, {gap} tokens before the end or earlier",
            received=f"{sum(map(len, targets))} targets in {len(listed)} responses, none of which has one",
            remedy="Give more or longer responses, other words, a larger band, or a larger near.",
        )
    rows = []
    for place, (rollout, found) in enumerate(zip(listed, pairs, strict=True)):
        if found:
            means = _compared(model, rollout, found, wanted, control, gap)
            rows += [
                {"response": place, "problem": labels[place], "layer": layer, "head": head, "score": float(a - b),
                 "on_targets": float(a), "on_matched": float(b)}
                for layer in wanted for head, (a, b) in enumerate(means[layer].tolist())
            ]  # fmt: skip
    responses = pandas.DataFrame(rows)
    every = [pair for found in pairs for pair in found]
    used = sum(len({pair.target for pair in found}) for found in pairs)
    settings = {
        "model": facts.name,
        "score": "attention to thinking tokens less matched tokens" if steps is None
        else "attention to the tokens of steps less matched tokens",
        "targets": used, "left_out": sum(map(len, targets)) - used,
        "offset": sum(pair.target - pair.match for pair in every) / len(every),
        "responses": sum(map(bool, pairs)), "without targets": len(listed) - sum(map(bool, pairs)),
        "words": ", ".join(dict(words if words is not None else thinking_words(model))) if steps is None else "",
        "control": control, "gap": gap, "near": near, "band": factor, "draws": draws, "seed": seed,
    }  # fmt: skip
    table = ranked(responses, ("on_targets", "on_matched"), draws, seed)
    return ReceiverHeads(table, responses, pandas.DataFrame(), settings)


def matched_tokens(
    ids: Sequence[int], targets: Collection[int], barred: Collection[int], counts: Mapping[int, int], *, gap: int,
    near: int, band: float,
) -> list[Matched]:  # fmt: skip
    """Each target with the nearest token before it and the nearest after it that are like it; none where there is none.

    >>> matched_tokens([7, 5, 8, 9, 8, 7, 7, 7], [2], [], {5: 1, 7: 4, 8: 2, 9: 3}, gap=2, near=3, band=2.0)
    [Matched(target=2, match=1, first_row=4), Matched(target=2, match=3, first_row=5)]

    Args:
        targets: places in the response.
        barred: ids that are no matches, whatever place they stand at.
        counts: how often each id is used.
    """
    places, found = set(targets), []
    for target in sorted(places):
        often = counts[ids[target]]
        for side in (-1, 1):
            for place in range(target + side, target + side * (near + 1), side):
                if not 0 <= place < len(ids) or max(place, target) + gap >= len(ids):
                    break
                fits = often / band <= counts[ids[place]] <= often * band
                if fits and place not in places and ids[place] not in barred:
                    found.append(Matched(target, place, max(place, target) + gap))
                    break
    return found


def _compared(
    model: Bridge, rollout: Rollout, pairs: Sequence[Matched], layers: Sequence[int], control: str, gap: int
) -> dict[int, Float[Tensor, "head two"]]:
    """For each layer what each head gives to targets and to their matches, each target with the same weight."""
    prompt, response = len(rollout.prompt_ids), rollout.token_ids.tolist()
    targets = Counter(pair.target for pair in pairs)
    weight = torch.tensor([1 / (targets[pair.target] * len(targets)) for pair in pairs], dtype=torch.float64)
    columns = torch.tensor([[pair.target for pair in pairs], [pair.match for pair in pairs]])
    first = torch.tensor([pair.first_row for pair in pairs])
    totals: dict[int, Tensor] = {}
    counted: dict[int, Tensor] = {}

    def take(layer: int, begin: int, pattern: Float[Tensor, "head row position"]) -> None:
        stop = begin + pattern.shape[1]
        if stop <= prompt:
            return
        at = torch.arange(max(begin, prompt), stop, device=pattern.device) - prompt  # places of these rows
        seen = at[:, None] - torch.arange(stop - prompt, device=pattern.device) >= gap
        where = at[:, None] >= first.to(pattern.device)
        chosen = columns.clamp(max=stop - prompt - 1).to(pattern.device)  # of later columns no row is counted
        for head, weights in enumerate(pattern[:, -len(at) :, prompt:]):
            rows = depth_controlled(widened(weights), seen, control)[:, chosen].double()  # [row, two, pair]
            # A row that gives the response nothing has no share.
            known = where[:, None] & ~rows.isnan()
            total = rows.masked_fill(~known, 0).sum(0)
            if layer not in totals:
                shape = (len(pattern), *total.shape)
                totals[layer], counted[layer] = total.new_zeros(shape), total.new_zeros(shape)
            totals[layer][head] += total
            counted[layer][head] += known.sum(0)

    read_patterns(model, rollout.prompt_ids.tolist(), response, take, list(layers))
    return {layer: ((totals[layer] / counted[layer]).cpu() * weight).sum(-1) for layer in layers}


def _targets(
    model: Bridge, rollouts: Sequence[Rollout], words: Any, steps: Any, operation: str
) -> tuple[list[list[int]], frozenset[int]]:
    """The places of each response that are targets, and the ids that cannot be matches."""
    if steps is None:
        ids = frozenset(flat_ids(thinking_words(model) if words is None else words))
        return [[place for place, i in enumerate(r.token_ids.tolist()) if i in ids] for r in rollouts], ids
    if words is not None:
        raise InputError(
            operation, expected="words or steps", received="both", remedy="Ask for the one, then for the other."
        )
    given = of_each(rollouts, steps, operation, "steps", "Give a list of steps for each, empty where it has none.")
    found = []
    for rollout, own in zip(rollouts, given, strict=True):
        wanted = as_wholes(own, operation, "steps")
        if outside := [step for step in wanted if not 0 <= step < len(rollout)]:
            raise InputError(
                operation, expected=f"steps from 0 to {len(rollout) - 1}", received=str(outside[0]),
                remedy="Give the steps in the order of the rollouts.",
            )  # fmt: skip
        found.append(sorted({step - 1 for step in wanted if step > 0}))
    return found, frozenset()


def as_responses(rollouts: Any, operation: str) -> list[Rollout]:
    """Rollouts from one or several, none of them empty."""
    listed = [rollouts] if isinstance(rollouts, Rollout) else as_list(rollouts, operation, "rollouts", "rollouts")
    wrong = [one for one in listed if not isinstance(one, Rollout) or not len(one)]
    if wrong or not listed:
        received = (
            "none" if not listed else "an empty response" if isinstance(wrong[0], Rollout) else repr(wrong[0])[:80]
        )
        raise InputError(
            operation, expected="rollouts with tokens", received=received, remedy="Pass what decode returns."
        )
    return listed


def problems_of(rollouts: Sequence[Rollout], problems: Any, operation: str) -> list[Any]:
    """The problem of each rollout; its prompt tells it unless given."""
    if problems is None:
        numbers: dict[tuple[int, ...], int] = {}
        return [numbers.setdefault(tuple(r.prompt_ids.tolist()), len(numbers)) for r in rollouts]
    labels = as_list(problems, operation, "problems", "a problem for each rollout")
    if len(labels) != len(rollouts):
        raise InputError(
            operation, expected=f"a problem for each of {len(rollouts)} rollouts", received=str(len(labels)),
            remedy="They belong together by their place.",
        )  # fmt: skip
    return labels


def of_each(rollouts: Sequence[Rollout], given: Any, operation: str, what: str, remedy: str) -> list[Any]:
    """What is given for each rollout, one for one."""
    listed = as_list(given, operation, what, f"{what} of each rollout")
    if len(listed) != len(rollouts):
        raise InputError(
            operation, expected=f"{what} of each of {len(rollouts)} rollouts", received=f"those of {len(listed)}",
            remedy=remedy,
        )  # fmt: skip
    return listed

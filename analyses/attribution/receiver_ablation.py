"""What a response's tokens lose without some heads, against as many other heads of the same layers.

Nothing is decoded: each response is read again with the heads' ``z`` replaced at all positions, by its mean or by zero,
and what its tokens' log-probabilities change by is averaged over its thinking tokens and over all others. Heads that
bring thinking about should cost the former, and random heads of their layers should not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.attribution.receiver_result import head_name, random_heads
from analyses.attribution.receivers import as_responses, problems_of
from analyses.stats import bootstrap_interval
from analyses.thinking import thinking_words
from interp.arguments import Judged, Texts, Whole, Wholes, as_list, as_text, as_whole
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.interventions import HeadAblate
from interp.interventions.heads import as_heads, heads_of
from interp.interventions.suppress import flat_ids
from interp.reading import read, score
from interp.record import ResidualSites
from interp.rollout import Rollout
from interp.types import Bridge

__all__ = ["ablate_receivers", "head_means"]

_HOW = ("mean", "zero")


def ablate_receivers(
    model: Bridge,
    heads: Any,
    rollouts: Any,
    words: Judged[Mapping[str, Wholes] | None] = None,
    *,
    how: Texts = _HOW,
    source: Any = None,
    problems: Any = None,
    controls: Whole = 3,
    draws: Whole = 10_000,
    seed: Whole = 0,
    batch_size: Whole | None = None,
) -> pandas.DataFrame:
    """Ablate heads, and as many others of the same layers, and tell what it costs the tokens of responses.

    >>> from analyses.attribution import receiver_heads
    >>> from interp import decode, load_model
    >>> model = load_model("toy-reasoner")
    >>> rollouts = decode(model, ["6 A * 3 B - 8 ? ->", "4 A + 3 B - 2 ? ->"], max_new_tokens=60)
    >>> heads = receiver_heads(model, rollouts, draws=200).heads(2, at_most=2)
    >>> found = ablate_receivers(model, heads, rollouts, how="mean", controls=2, draws=200)
    >>> found["arm"].tolist()[::2]
    ['receivers', 'control', 'control', 'receivers less control']

    Args:
        heads: (layer, head), one or several, such as `ReceiverHeads.heads(k, at_most=n_heads // 2)`; best found on
            other problems than those of ``rollouts``.
        rollouts: one or several, as `decode` returns them.
        words: token ids by word; the model's thinking words unless given.
        how: "mean", "zero", or both.
        source: rollouts whose mean z heads become, over all steps; ``rollouts`` unless given.
        problems: the problem of each rollout; one for each different prompt unless given.
        controls: draws of other heads.
        draws: of the bootstrap over problems; seed: of these and of the controls.

    Returns:
        A row an ablation and kind of ``tokens`` ("thinking", "other"): ``how``, ``arm``, ``draw``, ``heads``,
        ``change`` of log-probability (nats a token; a response's mean, then the mean over responses) with its interval
        over problems (``low``, ``high``), ``n`` responses that have such tokens, ``problems``. The arm "receivers less
        control" is the difference to the mean of the draws.

    Raises:
        InputError: heads that the model does not have, none, or more than half of a layer's.
    """
    operation = "ablate_receivers"
    listed = as_responses(rollouts, operation)
    labels, facts = problems_of(listed, problems, operation), model_facts(model)
    named = sorted(set(heads_of(as_heads(heads, operation), facts, operation)))
    ways = [as_text(one, operation, "how", _HOW) for one in as_list(how, operation, "how", "ways to ablate")]
    if not named or not ways:
        raise InputError(operation, expected="at least one head and one way", received="none", remedy="Name some.")
    draws = as_whole(draws, operation, "draws", 1)
    seed, times = as_whole(seed, operation, "seed", 0), as_whole(controls, operation, "controls", 1)
    drawn = random_heads(named, facts.n_heads or 0, times, seed)
    ids = flat_ids(thinking_words(model) if words is None else words)
    means = {}
    if "mean" in ways:
        layers = sorted({layer for layer, _ in named})
        means = head_means(model, listed if source is None else as_responses(source, operation), layers)
    texts = [rollout.prompt_ids.tolist() for rollout in listed], [rollout.token_ids.tolist() for rollout in listed]
    plain = [found.logprobs for found in score(model, *texts, batch_size=batch_size)]
    thinking = [torch.isin(rollout.token_ids, torch.tensor(ids, dtype=torch.long)) for rollout in listed]

    def changed(some: list[tuple[int, int]], way: str) -> Float[np.ndarray, "kind response"]:
        edit = HeadAblate(some, way, {head: means[head] for head in some} if way == "mean" else None)
        after = [found.logprobs for found in score(model, *texts, interventions=edit, batch_size=batch_size)]
        losses = [(now.double() - before.double()).cpu() for now, before in zip(after, plain, strict=True)]
        kinds = [[loss[is_one].mean() for loss, is_one in zip(losses, some_are, strict=True)]
                 for some_are in (thinking, [~one for one in thinking])]  # fmt: skip
        return np.array(kinds, dtype=float)

    rows = []
    for way in ways:
        mine = changed(named, way)
        others = [changed(some, way) for some in drawn]
        arms = [("receivers", 0, named, mine)]
        arms += [("control", n, some, other) for n, (some, other) in enumerate(zip(drawn, others, strict=True))]
        arms += [("receivers less control", 0, named, mine - np.mean(others, axis=0))]
        for arm, draw, some, values in arms:
            about = {"how": way, "arm": arm, "draw": draw, "heads": " ".join(head_name(*head) for head in some)}
            rows += [
                {**about, "tokens": kind, **_interval(values[n], labels, draws, seed)}
                for n, kind in enumerate(("thinking", "other"))
            ]
    return pandas.DataFrame(rows)


def _interval(values: Float[np.ndarray, " response"], labels: Sequence[Any], draws: int, seed: int) -> dict[str, Any]:
    known = ~np.isnan(values)
    clusters = np.array([str(label) for label in labels])[known]
    row: dict[str, Any] = {"change": math.nan, "low": math.nan, "high": math.nan}
    if known.any():
        found = bootstrap_interval(values[known], draws=draws, seed=seed, clusters=clusters)
        row = {"change": found.estimate, "low": found.low, "high": found.high}
    return {**row, "n": int(known.sum()), "problems": len(set(clusters.tolist()))}


def head_means(
    model: Bridge, rollouts: Sequence[Rollout], layers: Sequence[int]
) -> dict[tuple[int, int], Float[Tensor, " d_head"]]:
    """The mean of each head's ``z`` at these layers over all steps of responses, every step with the same weight.

    >>> from interp import decode, load_model
    >>> model = load_model("toy-reasoner")
    >>> means = head_means(model, decode(model, ["6 A * 3 ? ->"], max_new_tokens=20), [1])
    >>> list(means), means[1, 0].shape
    ([(1, 0), (1, 1), (1, 2), (1, 3)], torch.Size([32]))
    """
    total, steps = torch.zeros(0), 0
    for rollout in rollouts:  # one at a time: z of all of them at once may be large
        record = ResidualSites(layers=list(layers), sites=("z",))
        again = read(model, rollout.prompt_ids.tolist(), rollout.token_ids.tolist(), record=record)
        z = again.residuals["z"].cpu().double().sum(1)
        total, steps = (total + z if steps else z), steps + len(rollout)
    means = (total / max(steps, 1)).float()
    return {(layer, head): mean for layer, own in zip(layers, means, strict=True) for head, mean in enumerate(own)}

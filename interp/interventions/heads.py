"""Single heads at chosen steps: ablate them, or patch them with another response's.

Both write ``z``, what the output projection reads of a head, so that attention's output is the projection of what was
put there and its bias stays: ablating every head of a layer by zero leaves ``b_O``. (Slices of attention's *output* are
no heads: the projection mixes them all.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.arguments import Judged, as_list, as_rows, as_text, as_vector, as_whole, as_wholes, is_whole, refused
from interp.devices import Stored, on_device, sent
from interp.engines.base import ModelFacts
from interp.interventions.at_steps import (
    AtSteps,
    Exchange,
    FromSource,
    Rows,
    Steps,
    as_steps,
    check_finite,
    check_source,
    check_steps,
    chosen,
    exchanged,
    recorded_at,
    told_source,
)
from interp.protocol import Intervention
from interp.rollout import Rollout
from interp.rows import Positions, Row
from interp.sites import HEAD_SITES, Site

__all__ = ["HeadAblate", "PatchHead", "as_heads", "heads_of"]

Heads: TypeAlias = Any  # made a tuple of (layer, head) when an intervention is built
_CHUNK = 256  # draws of a row that are made at a time


def as_heads(heads: Any, name: str) -> tuple[tuple[int, int], ...]:
    """(layer, head) pairs from one or several.

    >>> as_heads((2, 1), "HeadAblate"), as_heads(torch.tensor([[0, 1], [2, 3]]), "HeadAblate")
    (((2, 1),), ((0, 1), (2, 3)))
    """
    if isinstance(heads, Tensor | np.ndarray):
        heads = heads.tolist()
    listed = as_list(heads, name, "heads", "(layer, head)")
    if len(listed) == 2 and all(map(is_whole, listed)):
        listed = [listed]
    pairs = []
    for pair in listed:
        numbers = None if isinstance(pair, str) or is_whole(pair) else as_wholes(pair, name, "a head")
        if numbers is None or len(numbers) != 2:
            raise refused(name, "heads as (layer, head), one or several", pair, "Write heads=[(5, 0), (7, 3)].")
        pairs.append((numbers[0], numbers[1]))
    return tuple(pairs)


def heads_of(
    pairs: tuple[tuple[int, int], ...], facts: ModelFacts, name: str, site: str = "z"
) -> tuple[tuple[int, int], ...]:
    """The pairs as counted from 0, all of them heads that the model has at this site."""
    found = []
    for layer, head in pairs:
        at = Site(site, layer + facts.n_layers if -facts.n_layers <= layer < 0 else layer)
        found.append((at.layer, facts.check_head(at, head, name)))
    return tuple(found)


@dataclass(eq=False)
class HeadAblate(AtSteps):
    """Without these heads: what each of them adds to the stream becomes nothing, a mean, or another response's.

    >>> from interp import ResidualSites, decode, load_model
    >>> model, questions = load_model("toy-reasoner"), ["6 A * 3 B - 8 ? ->", "4 A + 3 B - 2 ? ->"]
    >>> plain = decode(model, questions, max_new_tokens=40, record=ResidualSites(sites=("z",)))
    >>> head = (1, 2)
    >>> without = [HeadAblate(head), HeadAblate([(0, 0), head], "mean", plain), HeadAblate(head, "resample", plain)]
    >>> [decode(model, questions[0], max_new_tokens=9, interventions=one)[0].finish_reason for one in without]
    ['length', 'length', 'length']

    Args:
        heads: (layer, head), one or several, query heads counted from 0 (negative from the end). None change nothing.
        how: "zero"; "mean", of all that ``source`` holds; "resample", at each position what another step had.
        source: for "mean" one or several rollouts that recorded ``z`` (the mean over all their steps), or the means
            themselves: ``[head, d_head]`` in the order of ``heads``, or a mapping from (layer, head) to ``[d_head]``.
            For "resample" one or several rollouts: each position of each row is given a step of them, drawn evenly, the
            same for all heads; never of a rollout that has the row's own prompt, unless there is no other.
        positions: "all" (prompt and response), "response", or a step or several.
        rows: places in the list of prompts (negative from the end), one or several; all unless given.
        seed: of "resample". A draw depends on it, on the prompt and on the position in the text alone: a position that
            is run again and a response that is read again have the draws of the first time.

    An event marks a response that ends before a listed step.

    Raises:
        InputError: heads or layers that the model does not have, a source that lacks them, means of another shape or
            with NaN.
    """

    heads: Heads
    how: Judged[str] = "zero"
    source: Judged[Any] = field(default=None, repr=False)
    positions: Steps = "all"
    rows: Rows = None
    seed: Judged[int] = 0
    _ablated: dict[int, _Ablated] = field(default_factory=dict, init=False, repr=False)
    _pool: list[tuple[tuple[int, ...], int]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        name = type(self).__name__
        self.heads = as_heads(self.heads, name)
        self.how = as_text(self.how, name, "how", ("zero", "mean", "resample"))
        self.positions = as_steps(self.positions, name)
        self.rows = as_rows(self.rows, name)
        self.seed = as_whole(self.seed, name, "seed")
        if (self.source is None) != (self.how == "zero"):
            wanted = "no source" if self.how == "zero" else "a source"
            raise refused(
                name,
                f'{wanted} with how="{self.how}"',
                type(self.source).__name__ if self.how == "zero" else "none",
                'Pass rollouts that recorded z, decode(..., record=ResidualSites(sites=("z",))).',
            )
        if isinstance(self.source, Rollout):
            self.source = (self.source,)
        elif self.how == "resample" or _are_rollouts(self.source):
            self.source = tuple(as_list(self.source, name, "source", "rollouts"))
            if not self.source or not _are_rollouts(self.source):
                raise refused(name, "source as one Rollout or several", self.source, "Pass those that decode returns.")

    def prepare(self, facts: ModelFacts) -> Intervention:
        name, ready = type(self).__name__, copy(self)
        check_steps(name, self.positions)
        ready.heads = heads_of(self.heads, facts, name)
        layers = sorted({layer for layer, _ in ready.heads})
        ready.edits = tuple(Site("z", layer) for layer in layers)
        if _are_rollouts(self.source):
            for rollout in self.source:
                for site in ready.edits:
                    check_source(name, rollout, facts, site)
            ready._pool = [(tuple(rollout.prompt_ids.tolist()), len(rollout)) for rollout in self.source]
        ready._ablated = {layer: ready._at_layer(layer, facts, name) for layer in layers}
        return ready

    def _at_layer(self, layer: int, facts: ModelFacts, name: str) -> _Ablated:
        n_heads, d_head = facts.shape(Site("z", layer), name)
        mine = [head for of, head in self.heads if of == layer]
        which = torch.zeros(n_heads, dtype=torch.bool)
        which[mine] = True
        if self.how == "zero":
            return _Ablated(which, torch.zeros(()))
        if _are_rollouts(self.source):
            steps = torch.cat([recorded_at(rollout, Site("z", layer)).cpu() for rollout in self.source])
            check_finite(name, steps[:, mine], f"a source's z of layer {layer}")
            return _Ablated(which, steps if self.how == "resample" else steps.double().mean(0))
        means, given = torch.zeros(n_heads, d_head, dtype=torch.float64), _means(self.source, self.heads, name)
        for (of, head), mean in zip(self.heads, given, strict=True):
            if tuple(mean.shape) != (d_head,):
                raise refused(
                    name, f"means of {d_head} numbers (d_head of {facts.name})", f"shape {tuple(mean.shape)}",
                    "Take them from this model's z.",
                )  # fmt: skip
            check_finite(name, mean, "means")
            if of == layer:
                means[head] = mean.to(means)
        return _Ablated(which, means)

    def edit_residual(self, site: Site, residual: Float[Tensor, "row pos head d_head"], at: Positions) -> Tensor | None:
        ablated = self._ablated[site.layer] = self._ablated[site.layer].like(residual)
        where = chosen(at, self.positions, self.rows).to(residual.device)
        new = ablated.values
        if self.how == "resample":
            new = new[sent(self._draws(at), residual.device)]
        return torch.where((where[..., None] & ablated.which)[..., None], new, residual)

    def _draws(self, at: Positions) -> Int[Tensor, "row pos"]:
        """For each position a step of the pool; any on padding, where nothing is written."""
        count = at.pos.shape[1]
        begin = (at.pos[:, -1] - (count - 1)).tolist() if at.begin is None else list(at.begin)
        found = torch.zeros(len(at.rows), count, dtype=torch.long)
        for i, (row, first) in enumerate(zip(at.rows, begin, strict=True)):
            start = max(first, 0)
            found[i, start - first :] = self._drawn(row, first + count)[start:]
        return found

    def _drawn(self, row: Row, count: int) -> Int[Tensor, " pos"]:
        """The steps drawn for a row's first ``count`` positions."""
        notes = row.notes(self)
        drawn: Tensor = notes.get("drawn", torch.zeros(0, dtype=torch.long))
        if len(drawn) < count:
            allowed = notes.setdefault("allowed", self._allowed(tuple(row.prompt_ids)))
            while len(drawn) < count:
                told = f"{self.seed} {len(drawn)} {row.prompt_ids}".encode()
                seed = int.from_bytes(hashlib.blake2b(told, digest_size=7).digest(), "big")
                places = torch.randint(len(allowed), (_CHUNK,), generator=torch.Generator().manual_seed(seed))
                drawn = torch.cat([drawn, allowed[places]])
            notes["drawn"] = drawn
        return drawn[:count]

    def _allowed(self, prompt: tuple[int, ...]) -> Int[Tensor, " step"]:
        """The steps of the pool that are another response's than this prompt's."""
        mine = torch.cat([torch.full((steps,), of == prompt) for of, steps in self._pool])
        return (torch.ones_like(mine) if bool(mine.all()) else ~mine).nonzero()[:, 0]

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        if _are_rollouts(self.source):
            options["source"] = [told_source(rollout, _read_of(rollout, self.heads, "z")) for rollout in self.source]
        return options


def _read_of(source: Rollout, heads: tuple[tuple[int, int], ...], site: str) -> Tensor | None:
    """What is read of a source for these heads: the layers that are among theirs, those counted from the end too."""
    recorded, count = source.residuals.get(site), max(source.layers, default=0) + 1
    rows = [n for n, layer in enumerate(source.layers) if any(layer in (of, of + count) for of, _ in heads)]
    return None if recorded is None else recorded[rows]


@dataclass(frozen=True)
class _Ablated:
    """Which heads of a layer, and what they become: one value, one a head, or a pool of steps."""

    which: Bool[Tensor, " head"]
    values: Float[Tensor, "..."]

    def like(self, residual: Tensor) -> _Ablated:
        """On the device and in the precision of these values."""
        if self.values.device == residual.device and self.values.dtype == residual.dtype:
            return self
        return replace(self, which=self.which.to(residual.device), values=self.values.to(residual))


def _are_rollouts(source: Any) -> bool:
    return isinstance(source, list | tuple) and all(isinstance(one, Rollout) for one in source) and bool(source)


def _means(source: Any, heads: tuple[tuple[int, int], ...], name: str) -> list[Tensor]:
    """The mean of each head, in their order."""
    if isinstance(source, Mapping):
        missing = [head for head in heads if head not in source]
        if missing:
            raise refused(name, "a mean for each head", f"none for {missing[:5]}", "Write {(layer, head): mean}.")
        return [as_vector(source[head], name, "a mean") for head in heads]
    rows = source if isinstance(source, Tensor | np.ndarray | list | tuple) else None
    if rows is None or getattr(rows, "ndim", 2) != 2 or len(rows) != len(heads):
        raise refused(name, f"means of {len(heads)} heads, [head, d_head]", source, "Or pass rollouts that recorded z.")
    return [as_vector(row, name, "a mean") for row in rows]


@dataclass(eq=False)
class PatchHead(FromSource):
    """At given steps these heads become those of another response (activation patching by head).

    >>> from interp import ResidualSites, decode, load_model
    >>> model, question = load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->"
    >>> source = decode(model, question, max_new_tokens=30, record=ResidualSites(sites=("z",)))[0]
    >>> patch = PatchHead(source, [(1, 0), (2, 3)], [3, 4])
    >>> again = decode(model, question, max_new_tokens=30, interventions=patch)[0]
    >>> again.tokens == source.tokens  # its own heads change nothing
    True

    Args:
        source: a rollout that recorded ``site`` at the heads' layers.
        heads: (layer, head), one or several, counted from 0 (negative from the end); of k and v the key/value heads.
        positions: a step or several, or a mapping from the step written to the source's step read (negative from the
            source's end).
        site: z, or q, k or v (before norms and rotary embeddings, see :mod:`interp.sites`).
        rows: places in the list of prompts (negative from the end), one or several; all unless given.
        exchange: the new values from (those that are there, the source's), both ``[patch, d_head]``: a head's patched
            places of one response. The source's unless given.

    An event marks a response that ends before a listed step.

    Raises:
        InputError: the source is of another model or width, or lacks the site, layer or step; heads or layers that the
            model does not have.
    """

    source: Judged[Rollout] = field(repr=False)
    heads: Heads
    positions: Steps
    site: Judged[str] = "z"
    rows: Rows = None
    exchange: Judged[Exchange | None] = None
    _values: dict[int, tuple[list[int], Stored]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        name = type(self).__name__
        self._take(name)
        self.heads = as_heads(self.heads, name)
        self.site = as_text(self.site, name, "site", HEAD_SITES)

    def prepare(self, facts: ModelFacts) -> Intervention:
        name, ready = type(self).__name__, copy(self)
        ready.heads = heads_of(self.heads, facts, name, self.site)
        ready.edits = tuple(Site(self.site, layer) for layer in sorted({layer for layer, _ in ready.heads}))
        for site in ready.edits:
            check_source(name, self.source, facts, site)
        ready.positions, ready._values = self._checked_pairs(name), {}
        steps = list(ready.positions.values())
        for site in ready.edits:
            mine = sorted({head for layer, head in ready.heads if layer == site.layer})
            values = recorded_at(self.source, site)[steps][:, mine]
            check_finite(name, values, f"a source's {site.name} of layer {site.layer}")
            ready._values[site.layer] = mine, Stored(values)
        return ready

    def edit_residual(self, site: Site, residual: Float[Tensor, "row pos head d_head"], at: Positions) -> Tensor | None:
        out: Tensor | None = None
        held, values = self._values[site.layer]
        heads = on_device(held, residual.device)
        for i, which, places in self._places(at):
            columns = on_device(places, residual.device)
            new = values.like(residual)[on_device(which, residual.device)]
            here = residual[i, columns][:, heads]
            if self.exchange is not None:
                each = [exchanged(self.exchange, here[:, n], new[:, n]) for n in range(len(held))]
                new = torch.stack(each, 1)
            out = residual.clone() if out is None else out
            here = out[i, columns]
            here[:, heads] = new
            out[i, columns] = here
        return out

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "source": told_source(self.source, _read_of(self.source, self.heads, self.site))}

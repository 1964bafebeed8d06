"""Writing the residual stream at chosen steps: patch it with another response's, steer it, replace it by a mean.

What a block adds to the stream (attn_out, mlp_out) is written in the same way, and all heads of a layer at once are
patched so; single heads are for :mod:`interp.interventions.heads`. ``resid_mid`` is written where the block's halves
meet (see :mod:`interp.engines.bridge`), not only shown to the MLP.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from interp.arguments import Judged, as_number, as_rows, as_vector, as_whole
from interp.devices import Stored, on_device
from interp.engines.base import ModelFacts
from interp.errors import InputError
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
from interp.rows import Positions
from interp.sampling import widened
from interp.sites import RECORDED_SITES, SITE_NAMES, WRITE_SITES, Site

__all__ = ["Exchange", "MeanAblate", "PatchResidual", "SteerResidual", "check_source", "exchanged"]

Vector: TypeAlias = Any  # made a 1-D tensor when an intervention is built
_VECTOR_SITES = (*SITE_NAMES, *WRITE_SITES)


def _check_vector(name: str, vector: Tensor, facts: ModelFacts) -> None:
    if vector.shape != (facts.d_model,) or not vector.isfinite().all():
        raise InputError(
            name,
            expected=f"a finite vector of {facts.d_model} numbers (d_model of {facts.name})",
            received=f"shape {tuple(vector.shape)}{'' if vector.isfinite().all() else ' with NaN or inf'}",
            remedy="Take it from this model's residual stream.",
        )


def _plain_places(intervention: Any, name: str, sites: Sequence[str] = _VECTOR_SITES) -> None:
    """Layer, site and rows as built-in values."""
    intervention.layer = as_whole(intervention.layer, name, "layer")
    site = intervention.site
    if not isinstance(site, str) or (site in RECORDED_SITES and site not in sites):
        at = site if isinstance(site, Site) else Site("resid_post")
        named = f"Write layer={at.layer}, site={at.name!r}."
        raise InputError(
            name,
            expected=f"the name of a site, one of {', '.join(sites)}",
            received=repr(site),
            remedy="HeadAblate and PatchHead act on heads." if isinstance(site, str) else named,
        )
    intervention.rows = as_rows(intervention.rows, name)


def _at_layer(site: str, layer: int, facts: ModelFacts) -> Site:
    return Site(site) if site == "ln_final" else Site(site, layer + facts.n_layers if layer < 0 else layer)


@dataclass(eq=False)
class PatchResidual(FromSource):
    """At given steps the stream becomes that of another response (activation patching).

    >>> from interp import ResidualSites, decode, load_model
    >>> model, question = load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->"
    >>> source = decode(model, [question], max_new_tokens=30, record=ResidualSites())[0]
    >>> again = decode(model, [question], max_new_tokens=30, interventions=[PatchResidual(source, 1, [3, 4])])[0]
    >>> again.tokens == source.tokens  # its own residuals change nothing
    True

    Args:
        source: a rollout that recorded ``site`` at ``layer``.
        site: any that can be recorded; of q, k, v and z all heads of the layer.
        positions: a step or several, or a mapping from the step written to the source's step read (negative from the
            source's end).
        rows: places in the list of prompts (negative from the end), one or several; all unless given.
        exchange: the new stream from (the one that is there, the source's), both ``[patch, d_model]``: the patched
            places of one response, whatever batch it is in. The source's unless given. TransformerLens's
            ``SubspaceInterchange`` and ``NormMatchedPlacebo`` are such callables.

    An event marks a response that ends before a listed step.

    Raises:
        InputError: the source is of another model or width, or lacks the site, layer or step.
    """

    source: Judged[Rollout] = field(repr=False)
    layer: Judged[int]
    positions: Steps
    site: Judged[str] = "resid_post"
    rows: Rows = None
    exchange: Judged[Exchange | None] = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        self._take(name)
        _plain_places(self, name, RECORDED_SITES)

    def prepare(self, facts: ModelFacts) -> Intervention:
        return self.prepared(facts)

    def prepared(self, facts: ModelFacts) -> PatchResidual:
        """What :meth:`prepare` returns, with :attr:`values` to be read."""
        name = type(self).__name__
        site = _at_layer(self.site, self.layer, facts)
        site.check(facts.n_layers, name)
        check_source(name, self.source, facts, site)
        pairs = self._checked_pairs(name)
        ready = copy(self)
        ready.layer, ready.positions, ready.edits = site.layer, pairs, (site,)
        ready.values = recorded_at(self.source, site)[list(pairs.values())]
        check_finite(name, ready.values, f"a source's {site.name}")
        ready._stored = Stored(ready.values)
        return ready

    values: Float[Tensor, "patch ..."] = field(init=False, repr=False)
    _stored: Stored | None = field(default=None, init=False, repr=False)

    def edit_residual(self, site: Site, residual: Float[Tensor, "row pos ..."], at: Positions) -> Tensor | None:
        out: Tensor | None = None
        for i, which, places in self._places(at):
            new, columns = (
                (self._stored or Stored(self.values)).like(residual)[on_device(which, residual.device)],
                on_device(places, residual.device),
            )
            if self.exchange is not None:
                new = exchanged(self.exchange, residual[i, columns], new)
            out = residual.clone() if out is None else out
            out[i, columns] = new
        return out

    def _options(self) -> dict[str, Any]:
        options, source = super()._options(), self.source
        recorded = source.residuals.get(self.site)
        where = (
            [self.layer] if self.site == "ln_final" else [self.layer, self.layer + max(source.layers, default=0) + 1]
        )
        rows = [row for row, layer in enumerate(source.layers) if layer in where]
        read = None if recorded is None else recorded if self.site == "ln_final" else recorded[rows]
        return {**options, "source": told_source(source, read)}


@dataclass(eq=False)
class SteerResidual(AtSteps):
    """Add a direction to the stream, or take it out.

    Args:
        direction: ``[d_model]``; for "project_out" its length does not matter.
        positions: "all" (prompt and response), "response", or a step or several.
        mode: "add" (residual + scale * direction) or "project_out" (the component along it becomes 0).
        rows: places in the list of prompts (negative from the end), one or several; all unless given.

    Both are worked out in float32 at least and rounded once to the model's precision. An event marks a response that
    ends before a listed step.
    """

    direction: Vector = field(repr=False)
    layer: Judged[int]
    positions: Steps = "response"
    mode: Judged[str] = "add"
    site: Judged[str] = "resid_post"
    scale: Judged[float] = 1.0
    rows: Rows = None
    _stored: Stored | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        name = type(self).__name__
        self.direction = as_vector(self.direction, name, "direction")
        self.scale = as_number(self.scale, name, "scale")
        self.positions = as_steps(self.positions, name)
        _plain_places(self, name)

    def prepare(self, facts: ModelFacts) -> Intervention:
        name = type(self).__name__
        _check_vector(name, self.direction, facts)
        check_steps(name, self.positions)
        if self.mode not in ("add", "project_out"):
            raise InputError(name, expected="mode add or project_out", received=repr(self.mode), remedy="Choose one.")
        if self.mode == "project_out" and not self.direction.any():
            raise InputError(
                name, expected="a direction that is not zero", received="zeros", remedy="There is nothing to take out."
            )
        site = _at_layer(self.site, self.layer, facts)
        site.check(facts.n_layers, name)
        ready = copy(self)
        ready.layer, ready.edits, ready._stored = site.layer, (site,), Stored(self.direction)
        return ready

    def edit_residual(self, site: Site, residual: Float[Tensor, "row pos d_model"], at: Positions) -> Tensor | None:
        stream = widened(residual)
        direction = (self._stored or Stored(self.direction)).like(stream)
        if self.mode == "add":
            new = stream + self.scale * direction
        else:
            unit = direction / direction.norm()
            new = stream - (stream @ unit)[..., None] * unit
        where = chosen(at, self.positions, self.rows).to(residual.device)
        return torch.where(where[..., None], new.to(residual), residual)


@dataclass(eq=False)
class MeanAblate(AtSteps):
    """The stream becomes a mean, so that what this step in particular says is gone.

    Args:
        mean: ``[d_model]``, e.g. ``rollout.residuals["resid_post"][layer].mean(0)`` over many responses.
        positions: "all", "response", or a step or several.
        rows: places in the list of prompts (negative from the end), one or several; all unless given.

    An event marks a response that ends before a listed step.
    """

    mean: Vector = field(repr=False)
    layer: Judged[int]
    positions: Steps = "response"
    site: Judged[str] = "resid_post"
    rows: Rows = None
    _stored: Stored | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        name = type(self).__name__
        self.mean = as_vector(self.mean, name, "mean")
        self.positions = as_steps(self.positions, name)
        _plain_places(self, name)

    def prepare(self, facts: ModelFacts) -> Intervention:
        name = type(self).__name__
        _check_vector(name, self.mean, facts)
        check_steps(name, self.positions)
        site = _at_layer(self.site, self.layer, facts)
        site.check(facts.n_layers, name)
        ready = copy(self)
        ready.layer, ready.edits, ready._stored = site.layer, (site,), Stored(self.mean)
        return ready

    def edit_residual(self, site: Site, residual: Float[Tensor, "row pos d_model"], at: Positions) -> Tensor | None:
        where = chosen(at, self.positions, self.rows).to(residual.device)
        return torch.where(where[..., None], (self._stored or Stored(self.mean)).like(residual), residual)

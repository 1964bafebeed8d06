"""Writing the residual stream at chosen steps: patch it with another response's, steer it, replace it by a mean.

Positions are response steps: step t is the position that predicts response token t, so step 0 is the last prompt
token and the same step of two responses with different prompts means the same thing. All four sites can be written;
``resid_mid`` is written where the block's two halves meet (see :mod:`interp.engine`), not only shown to the MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engine import ModelFacts
from interp.errors import InputError
from interp.protocol import Intervention, Positions
from interp.rollout import Rollout
from interp.sites import Site

__all__ = ["Exchange", "MeanAblate", "PatchResidual", "SteerResidual", "check_source"]

Steps = str | Sequence[int]
Exchange = Callable[[Float[Tensor, "patch d_model"], Float[Tensor, "patch d_model"]], Float[Tensor, "patch d_model"]]
"""The stream to go on with, from the one that is there and the source's."""


def _chosen(at: Positions, steps: Steps, rows: Sequence[int] | None) -> Bool[Tensor, "row pos"]:
    """Where an edit applies: "all" positions, those of the "response", or listed steps; in the given prompts' rows."""
    if steps == "all":
        where = at.pos >= 0
    elif steps == "response":
        where = at.steps >= 0
    else:
        where = torch.isin(at.steps, torch.tensor(list(steps), device=at.pos.device))
    if rows is None:
        return where
    mine = torch.tensor([row.index in rows for row in at.rows], device=at.pos.device)
    return where & mine[:, None]


def _check_vector(name: str, vector: Tensor, facts: ModelFacts) -> None:
    if vector.shape != (facts.d_model,) or not vector.isfinite().all():
        raise InputError(
            name,
            expected=f"a finite vector of {facts.d_model} numbers (d_model of {facts.name})",
            received=f"shape {tuple(vector.shape)}{'' if vector.isfinite().all() else ' with NaN or inf'}",
            remedy="Take it from this model's residual stream.",
        )


def check_source(name: str, source: Rollout, facts: ModelFacts, site: Site | None = None) -> None:
    """Refuse a rollout of another model or width, or one that has not recorded ``site``."""
    model, recorded = source.settings.get("model"), None if site is None else source.residuals.get(site.name)
    width = source.settings.get("d_model") if recorded is None else recorded.shape[-1]
    if model != facts.name or width != facts.d_model:
        raise InputError(
            name,
            expected=f"a rollout of {facts.name} (d_model {facts.d_model})",
            received=f"one of {model} (d_model {width})",
            remedy="Residual streams of different models cannot be exchanged.",
        )
    if site is not None and (recorded is None or (site.name != "ln_final" and site.layer not in source.layers)):
        raise InputError(
            name,
            expected=f"a rollout that recorded {site.name} of layer {site.layer}",
            received=f"{', '.join(source.residuals) or 'none'} of layers {list(source.layers)}",
            remedy="Decode the source with record=ResidualSites(...).",
        )


def _check_steps(name: str, steps: Steps) -> None:
    wrong = steps not in ("all", "response") if isinstance(steps, str) else any(step < 0 for step in steps)
    if wrong:
        raise InputError(
            name,
            expected='"all", "response", or response steps from 0',
            received=repr(steps),
            remedy="Step 0 is the last prompt token, which predicts response token 0.",
        )


def _at_layer(site: str, layer: int, facts: ModelFacts) -> Site:
    return Site(site) if site == "ln_final" else Site(site, layer + facts.n_layers if layer < 0 else layer)


@dataclass(eq=False)
class PatchResidual(Intervention):
    """At given steps the stream becomes that of another response (activation patching).

    >>> from interp import ResidualSites, decode, load_model
    >>> model, question = load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->"
    >>> source = decode(model, [question], max_new_tokens=30, record=ResidualSites())[0]
    >>> again = decode(model, [question], max_new_tokens=30, interventions=[PatchResidual(source, 1, [3, 4])])[0]
    >>> again.tokens == source.tokens  # its own residuals change nothing
    True

    Args:
        source: a rollout that recorded ``site`` at ``layer``.
        positions: steps, or a mapping from the step written to the source's step read.
        rows: places in the list of prompts; all unless given.
        exchange: the new stream from (the one that is there, the source's), both ``[patch, d_model]``; the source's
            unless given. TransformerLens's ``SubspaceInterchange`` and ``NormMatchedPlacebo`` are such callables.

    Raises:
        InputError: the source is of another model or width, or lacks the site, layer or step.
    """

    source: Rollout = field(repr=False)
    layer: int
    positions: Sequence[int] | Mapping[int, int]
    site: str = "resid_post"
    rows: Sequence[int] | None = None
    exchange: Exchange | None = None

    def prepare(self, facts: ModelFacts) -> Intervention:
        return self.prepared(facts)

    def prepared(self, facts: ModelFacts) -> PatchResidual:
        """What :meth:`prepare` returns, with :attr:`values` to be read."""
        name = type(self).__name__
        site = _at_layer(self.site, self.layer, facts)
        site.check(facts.n_layers, name)
        check_source(name, self.source, facts, site)
        pairs = dict(self.positions) if isinstance(self.positions, Mapping) else {step: step for step in self.positions}
        _check_steps(name, list(pairs))
        if not all(0 <= step < len(self.source) for step in pairs.values()):
            raise InputError(
                name,
                expected=f"steps of the source, 0 to {len(self.source) - 1}",
                received=str(sorted(pairs.values())),
                remedy="Choose steps within the source's response.",
            )
        ready = copy(self)
        ready.layer, ready.positions, ready.edits = site.layer, pairs, (site,)
        place = 0 if self.site == "ln_final" else self.source.layers.index(site.layer)
        ready.values = self.source.residuals[self.site][place][list(pairs.values())]
        return ready

    values: Float[Tensor, "patch d_model"] = field(init=False, repr=False)

    def edit_residual(self, site: Site, residual: Float[Tensor, "row pos d_model"], at: Positions) -> Tensor | None:
        if not self.positions:
            return None
        where = _chosen(at, list(self.positions), self.rows).to(residual.device)
        targets = torch.tensor(list(self.positions), device=at.pos.device)
        which: Int[Tensor, "row pos"] = (at.steps[..., None] == targets).int().argmax(-1)
        new = self.values.to(residual)[which.to(residual.device)]
        if self.exchange is not None:
            new = self.exchange(residual.flatten(0, 1), new.flatten(0, 1)).view_as(residual)
        return torch.where(where[..., None], new, residual)


@dataclass(eq=False)
class SteerResidual(Intervention):
    """Add a direction to the stream, or take it out.

    Args:
        direction: ``[d_model]``; for "project_out" its length does not matter.
        positions: "all" (prompt and response), "response", or steps.
        mode: "add" (residual + scale * direction) or "project_out" (the component along it becomes 0).
    """

    direction: Float[Tensor, " d_model"] = field(repr=False)
    layer: int
    positions: Steps = "response"
    mode: str = "add"
    site: str = "resid_post"
    scale: float = 1.0
    rows: Sequence[int] | None = None

    def prepare(self, facts: ModelFacts) -> Intervention:
        name = type(self).__name__
        _check_vector(name, self.direction, facts)
        _check_steps(name, self.positions)
        if self.mode not in ("add", "project_out"):
            raise InputError(name, expected="mode add or project_out", received=repr(self.mode), remedy="Choose one.")
        if self.mode == "project_out" and not self.direction.any():
            raise InputError(
                name, expected="a direction that is not zero", received="zeros", remedy="There is nothing to take out."
            )
        site = _at_layer(self.site, self.layer, facts)
        site.check(facts.n_layers, name)
        ready = copy(self)
        ready.layer, ready.edits = site.layer, (site,)
        return ready

    def edit_residual(self, site: Site, residual: Float[Tensor, "row pos d_model"], at: Positions) -> Tensor | None:
        direction = self.direction.to(residual)
        if self.mode == "add":
            new = residual + self.scale * direction
        else:
            unit = direction / direction.norm()
            new = residual - (residual @ unit)[..., None] * unit
        return torch.where(_chosen(at, self.positions, self.rows).to(residual.device)[..., None], new, residual)


@dataclass(eq=False)
class MeanAblate(Intervention):
    """The stream becomes a mean, so that what this step in particular says is gone.

    Args:
        mean: ``[d_model]``, e.g. ``rollout.residuals["resid_post"][layer].mean(0)`` over many responses.
        positions: "all", "response", or steps.
    """

    mean: Float[Tensor, " d_model"] = field(repr=False)
    layer: int
    positions: Steps = "response"
    site: str = "resid_post"
    rows: Sequence[int] | None = None

    def prepare(self, facts: ModelFacts) -> Intervention:
        name = type(self).__name__
        _check_vector(name, self.mean, facts)
        _check_steps(name, self.positions)
        site = _at_layer(self.site, self.layer, facts)
        site.check(facts.n_layers, name)
        ready = copy(self)
        ready.layer, ready.edits = site.layer, (site,)
        return ready

    def edit_residual(self, site: Site, residual: Float[Tensor, "row pos d_model"], at: Positions) -> Tensor | None:
        where = _chosen(at, self.positions, self.rows).to(residual.device)
        return torch.where(where[..., None], self.mean.to(residual), residual)

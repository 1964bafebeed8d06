"""Writing the residual stream at chosen steps: patch it with another response's, steer it, replace it by a mean.

Positions are response steps: step t is the position that predicts response token t, so step 0 is the last prompt
token and the same step of two responses with different prompts means the same thing. All four sites can be written;
``resid_mid`` is written where the block's halves meet (see :mod:`interp.engines.bridge`), not only shown to the MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.arguments import Judged, as_number, as_rows, as_vector, as_whole, as_wholes
from interp.engines.base import ModelFacts
from interp.errors import InputError
from interp.protocol import Intervention, Request
from interp.rollout import Rollout
from interp.rows import NOT_REACHED, Positions, Row
from interp.sampling import widened
from interp.sites import SITE_NAMES, Site

__all__ = ["Exchange", "MeanAblate", "PatchResidual", "SteerResidual", "check_source", "exchanged"]

# Made plain when an intervention is built: "all", "response" or a list of steps; a tuple of rows or None; a 1-D tensor
Steps: TypeAlias = Any
Rows: TypeAlias = Any
Vector: TypeAlias = Any
Exchange = Callable[[Float[Tensor, "patch d_model"], Float[Tensor, "patch d_model"]], Float[Tensor, "patch d_model"]]
"""The stream to go on with, from the one that is there and the source's."""


def _chosen(at: Positions, steps: Any, rows: tuple[int, ...] | None) -> Bool[Tensor, "row pos"]:
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


def _as_steps(steps: Any, name: str) -> str | list[int]:
    """ "all", "response", or steps; what they mean is checked when the intervention meets a model."""
    return steps if isinstance(steps, str) else as_wholes(steps, name, "positions")


def _check_steps(name: str, steps: str | Iterable[int]) -> None:
    wrong = steps not in ("all", "response") if isinstance(steps, str) else any(step < 0 for step in steps)
    if wrong:
        raise InputError(
            name,
            expected='"all", "response", or response steps from 0',
            received=repr(steps),
            remedy="Step 0 is the last prompt token, which predicts response token 0.",
        )


class _AtSteps(Intervention):
    """What the interventions at chosen steps and rows have in common; ``positions`` and ``rows`` are theirs."""

    positions: Any
    rows: Any

    def fit(self, request: Request) -> Intervention:
        """Rows counted from the end resolved; rows and steps that are not there refused."""
        ready = copy(self)
        if self.rows is not None:
            ready.rows = _within(self.rows, request.prompts, type(self).__name__)
        steps = [] if isinstance(self.positions, str) else list(self.positions)
        late = [step for step in steps if step >= request.reach]
        if late and (len(late) == len(steps) or request.operation == "score"):
            raise InputError(
                type(self).__name__,
                expected=f"response steps below {request.reach}, the most tokens that a response can have here",
                received=f"steps {late[:5]}",
                remedy="Raise max_new_tokens, or choose earlier steps.",
            )
        return ready

    def finish(self, row: Row) -> None:
        """Say which steps this response was too short for."""
        if isinstance(self.positions, str) or (self.rows is not None and row.index not in self.rows):
            return
        missed = [step for step in self.positions if step >= len(row.token_ids)]
        if missed:
            row.mark(self, f"{NOT_REACHED}: step{'s' * (len(missed) > 1)} {', '.join(map(str, missed[:8]))}")


def _plain_places(intervention: Any, name: str) -> None:
    """Layer, site and rows as built-in values."""
    intervention.layer = as_whole(intervention.layer, name, "layer")
    if not isinstance(intervention.site, str):
        at = intervention.site if isinstance(intervention.site, Site) else Site("resid_post")
        raise InputError(
            name,
            expected=f"the name of a site, one of {', '.join(SITE_NAMES)}",
            received=repr(intervention.site),
            remedy=f"Write layer={at.layer}, site={at.name!r}.",
        )
    intervention.rows = as_rows(intervention.rows, name)


def exchanged(
    exchange: Exchange, here: Float[Tensor, "patch d_model"], source: Float[Tensor, "patch d_model"]
) -> Float[Tensor, "patch d_model"]:
    """What ``exchange`` makes of the two, checked: a stream of another shape would be spread over the places."""
    new = exchange(here, source)
    if not isinstance(new, Tensor) or new.shape != here.shape:
        raise InputError(
            "exchange",
            expected=f"a stream of shape {tuple(here.shape)}, [patch, d_model]",
            received=f"shape {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__,
            remedy="Return a stream for each patch.",
        )
    return new.to(here)


def _within(rows: Sequence[int], count: int, name: str) -> tuple[int, ...]:
    """Places in a list of ``count`` prompts, those counted from the end too."""
    found = tuple(row + count if row < 0 else row for row in rows)
    if not all(0 <= row < count for row in found):
        raise InputError(
            name,
            expected=f"rows from 0 to {count - 1} (or -{count} to -1), places in the list of prompts",
            received=str(list(rows)),
            remedy="Leave rows out to act on all.",
        )
    return found


def _at_layer(site: str, layer: int, facts: ModelFacts) -> Site:
    return Site(site) if site == "ln_final" else Site(site, layer + facts.n_layers if layer < 0 else layer)


@dataclass(eq=False)
class PatchResidual(_AtSteps):
    """At given steps the stream becomes that of another response (activation patching).

    >>> from interp import ResidualSites, decode, load_model
    >>> model, question = load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->"
    >>> source = decode(model, [question], max_new_tokens=30, record=ResidualSites())[0]
    >>> again = decode(model, [question], max_new_tokens=30, interventions=[PatchResidual(source, 1, [3, 4])])[0]
    >>> again.tokens == source.tokens  # its own residuals change nothing
    True

    Args:
        source: a rollout that recorded ``site`` at ``layer``.
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
        if not isinstance(self.source, Rollout):
            raise InputError(
                name,
                expected="source as a Rollout",
                received=repr(self.source)[:80],
                remedy="Pass one of those that decode returns.",
            )
        if self.exchange is not None and not callable(self.exchange):
            raise InputError(
                name, expected="exchange as a function", received=repr(self.exchange)[:80], remedy="Leave it out."
            )
        _plain_places(self, name)
        if isinstance(self.positions, Mapping):
            read, written = (as_wholes(side, name, "positions") for side in
                             (list(self.positions.values()), list(self.positions)))  # fmt: skip
            self.positions = dict(zip(written, read, strict=True))
        else:
            self.positions = as_wholes(self.positions, name, "positions")

    def prepare(self, facts: ModelFacts) -> Intervention:
        return self.prepared(facts)

    def prepared(self, facts: ModelFacts) -> PatchResidual:
        """What :meth:`prepare` returns, with :attr:`values` to be read."""
        name = type(self).__name__
        site = _at_layer(self.site, self.layer, facts)
        site.check(facts.n_layers, name)
        check_source(name, self.source, facts, site)
        pairs = self._pairs()
        _check_steps(name, list(pairs))
        count = len(self.source)
        pairs = {step: read + count if read < 0 else read for step, read in pairs.items()}
        if not all(0 <= read < count for read in pairs.values()):
            raise InputError(
                name,
                expected=f"steps of the source, 0 to {count - 1}",
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
        out: Tensor | None = None
        for i, places in enumerate(at.places(list(self._pairs()))):
            if not places or (self.rows is not None and at.rows[i].index not in self.rows):
                continue
            which, columns = zip(*places, strict=True)
            new = self.values[list(which)].to(residual)
            if self.exchange is not None:
                new = exchanged(self.exchange, residual[i, list(columns)], new)
            out = residual.clone() if out is None else out
            out[i, list(columns)] = new
        return out

    def _pairs(self) -> dict[int, int]:
        """The source's step by the step written."""
        return self.positions if isinstance(self.positions, dict) else {step: step for step in self.positions}

    def _options(self) -> dict[str, Any]:
        """The source by its text and by what is read of it: all that it recorded would take long to digest."""
        options, source = super()._options(), self.source
        recorded = source.residuals.get(self.site)
        where = (
            [self.layer] if self.site == "ln_final" else [self.layer, self.layer + max(source.layers, default=0) + 1]
        )
        rows = [row for row, layer in enumerate(source.layers) if layer in where]
        read = None if recorded is None else recorded if self.site == "ln_final" else recorded[rows]
        told = {"model": source.settings.get("model"), "prompt_ids": source.prompt_ids, "token_ids": source.token_ids}
        return {**options, "source": {**told, "residuals": read}}


@dataclass(eq=False)
class SteerResidual(_AtSteps):
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

    def __post_init__(self) -> None:
        name = type(self).__name__
        self.direction = as_vector(self.direction, name, "direction")
        self.scale = as_number(self.scale, name, "scale")
        self.positions = _as_steps(self.positions, name)
        _plain_places(self, name)

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
        stream = widened(residual)
        direction = self.direction.to(stream)
        if self.mode == "add":
            new = stream + self.scale * direction
        else:
            unit = direction / direction.norm()
            new = stream - (stream @ unit)[..., None] * unit
        where = _chosen(at, self.positions, self.rows).to(residual.device)
        return torch.where(where[..., None], new.to(residual), residual)


@dataclass(eq=False)
class MeanAblate(_AtSteps):
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

    def __post_init__(self) -> None:
        name = type(self).__name__
        self.mean = as_vector(self.mean, name, "mean")
        self.positions = _as_steps(self.positions, name)
        _plain_places(self, name)

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

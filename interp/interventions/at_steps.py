"""What interventions at chosen steps and rows have in common, and those that take their values from another response.

Positions are response steps: step t is the position that predicts response token t, so step 0 is the last prompt token
and the same step of two responses with different prompts means the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.arguments import as_rows, as_wholes
from interp.engines.base import ModelFacts
from interp.errors import InputError
from interp.protocol import Intervention, Request
from interp.rollout import Rollout
from interp.rows import NOT_REACHED, Positions, Row
from interp.sites import Site

__all__ = [
    "AtSteps", "Exchange", "FromSource", "Rows", "Steps", "as_steps", "check_finite", "check_source", "check_steps",
    "chosen", "exchanged", "recorded_at", "told_source",
]  # fmt: skip

# Made plain when an intervention is built: "all", "response" or a list of steps; a tuple of rows or None
Steps: TypeAlias = Any
Rows: TypeAlias = Any
Exchange = Callable[[Float[Tensor, "patch ..."], Float[Tensor, "patch ..."]], Float[Tensor, "patch ..."]]
"""What to go on with, from what is there and the source's."""


def chosen(at: Positions, steps: Any, rows: tuple[int, ...] | None) -> Bool[Tensor, "row pos"]:
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


def as_steps(steps: Any, name: str) -> str | list[int]:
    """ "all", "response", or steps; what they mean is checked when the intervention meets a model."""
    return steps if isinstance(steps, str) else as_wholes(steps, name, "positions")


def check_steps(name: str, steps: str | Iterable[int]) -> None:
    wrong = steps not in ("all", "response") if isinstance(steps, str) else any(step < 0 for step in steps)
    if wrong:
        raise InputError(
            name,
            expected='"all", "response", or response steps from 0',
            received=repr(steps),
            remedy="Step 0 is the last prompt token, which predicts response token 0.",
        )


def check_finite(name: str, values: Tensor, what: str) -> None:
    if not values.isfinite().all():
        raise InputError(
            name,
            expected=f"{what} without NaN and inf",
            received=f"{int((~values.isfinite()).sum())} of {values.numel()} numbers that are not finite",
            remedy="Check the model and the precision in which they were recorded.",
        )


def exchanged(
    exchange: Exchange, here: Float[Tensor, "patch ..."], source: Float[Tensor, "patch ..."]
) -> Float[Tensor, "patch ..."]:
    """What ``exchange`` makes of the two, checked: values of another shape would be spread over the places."""
    new = exchange(here, source)
    if not isinstance(new, Tensor) or new.shape != here.shape:
        raise InputError(
            "exchange",
            expected=f"a stream of shape {tuple(here.shape)}, [patch, d_model]",
            received=f"shape {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__,
            remedy="Return a stream for each patch.",
        )
    return new.to(here)


def check_source(name: str, source: Rollout, facts: ModelFacts, site: Site | None = None) -> None:
    """Refuse a rollout of another model or width, or one that has not recorded ``site``."""
    model, recorded = source.settings.get("model"), None if site is None else source.residuals.get(site.name)
    stream = (facts.d_model,)
    wanted = stream if site is None or recorded is None else facts.shape(site, name)
    found = (source.settings.get("d_model"),) if recorded is None else tuple(recorded.shape[2:])
    if model != facts.name or found != wanted:
        raise InputError(
            name,
            expected=f"a rollout of {facts.name} ({_width(wanted)})",
            received=f"one of {model} ({_width(found)})",
            remedy="Residual streams of different models cannot be exchanged.",
        )
    if site is not None and (recorded is None or (site.name != "ln_final" and site.layer not in source.layers)):
        raise InputError(
            name,
            expected=f"a rollout that recorded {site.name} of layer {site.layer}",
            received=f"{', '.join(source.residuals) or 'none'} of layers {list(source.layers)}",
            remedy=f'Decode the source with record=ResidualSites(sites=("{site.name}",)).',
        )


def _width(shape: tuple[Any, ...]) -> str:
    return f"d_model {shape[0]}" if len(shape) == 1 else f"{shape[0]} heads of {shape[1]}"


def recorded_at(source: Rollout, site: Site) -> Float[Tensor, "step ..."]:
    """What a rollout has recorded of a site; see :func:`check_source`."""
    return source.residuals[site.name][0 if site.name == "ln_final" else source.layers.index(site.layer)]


def told_source(source: Rollout, read: Any) -> dict[str, Any]:
    """A source by its text and by what is read of it: all that it recorded would take long to digest."""
    told = {"model": source.settings.get("model"), "prompt_ids": source.prompt_ids, "token_ids": source.token_ids}
    return {**told, "residuals": read}


class AtSteps(Intervention):
    """What the interventions at chosen steps and rows have in common; ``positions`` and ``rows`` are theirs."""

    staggered = True
    positions: Any
    rows: Any

    def fit(self, request: Request) -> Intervention:
        """Rows counted from the end resolved; rows and steps that are not there refused."""
        ready = copy(self)
        if self.rows is not None:
            ready.rows = _within(self.rows, request.prompts, type(self).__name__)
        steps = [] if isinstance(self.positions, str) else list(self.positions)
        late = [step for step in steps if step >= request.reach]
        if late and (len(late) == len(steps) or request.response_lengths is not None):
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


class FromSource(AtSteps):
    """Those that put a source's values at chosen steps; ``positions`` may map the step written to the step read."""

    source: Any
    exchange: Any

    def _take(self, name: str) -> None:
        """Source, exchange, positions and rows, checked and as built-in values."""
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
        self.rows = as_rows(self.rows, name)
        if isinstance(self.positions, Mapping):
            read, written = (as_wholes(side, name, "positions") for side in
                             (list(self.positions.values()), list(self.positions)))  # fmt: skip
            self.positions = dict(zip(written, read, strict=True))
        else:
            self.positions = as_wholes(self.positions, name, "positions")

    def _pairs(self) -> dict[int, int]:
        """The source's step by the step written."""
        return self.positions if isinstance(self.positions, dict) else {step: step for step in self.positions}

    def _checked_pairs(self, name: str) -> dict[int, int]:
        """The pairs, the source's steps counted from 0 and all of them there."""
        pairs, count = self._pairs(), len(self.source)
        check_steps(name, list(pairs))
        pairs = {step: read + count if read < 0 else read for step, read in pairs.items()}
        if not all(0 <= read < count for read in pairs.values()):
            raise InputError(
                name,
                expected=f"steps of the source, 0 to {count - 1}",
                received=str(sorted(pairs.values())),
                remedy="Choose steps within the source's response.",
            )
        return pairs

    def _places(self, at: Positions) -> list[tuple[int, list[int], list[int]]]:
        """Of each row that is written to: its number, which of the steps are here, and their columns."""
        found = []
        for i, places in enumerate(at.places(list(self._pairs()))):
            if places and (self.rows is None or at.rows[i].index in self.rows):
                which, columns = zip(*places, strict=True)
                found.append((i, list(which), list(columns)))
        return found


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

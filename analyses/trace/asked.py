"""One response of a finished run, and what is asked of it: what every attribution of a run starts from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from analyses.attribution.mi_reference import NON_PEAKS
from analyses.store.run import Run
from analyses.trace.given import DECODING, settings_without_decoding
from analyses.trace.inputs import traced_problems
from analyses.trace.others import pinned_others
from analyses.trace.settings import TraceSettings
from analyses.trace.tracer import Tracer
from analyses.trace.trajectory import Trajectory
from interp.errors import InputError
from interp.loading.models import BUNDLED
from interp.types import Bridge

__all__ = ["Asked", "settings_of"]


@dataclass(frozen=True, eq=False)
class Asked:
    """One response of a finished run, and what is asked of it.

    Attributes:
        trajectory: its scores and peaks.
        layer: whose scores the question is about.
        steps: asked for, ascending.
        contrast: as in :func:`analyses.attribution.logit_attribution`.
        problems: where the gold answers come from, if any file was named.
        measures, reference, total: as in :func:`analyses.attribution.mi_attribution`; no measures are the run's own
            score, without its answer's four largest coordinates, in excess over other answers, and r2.
        edges: whether to ask who writes to whom.
    """

    run: Run
    model: Bridge
    trajectory: Trajectory
    prompt_ids: Int[Tensor, " prompt"]
    token_ids: Int[Tensor, " step"]
    layer: int
    steps: tuple[int, ...]
    contrast: Any
    problems: Any
    measures: tuple[str, ...] | None = None
    reference: Any = NON_PEAKS
    total: str = "top"
    edges: bool = False

    @property
    def options(self) -> TraceSettings:
        """The settings of the run: of the score (sigma, eps, drop_top), the site, the rule of peaks, the reference."""
        return settings_of(self.run)

    @property
    def other_steps(self) -> tuple[int, ...]:
        """Scored steps that are no peaks of the layer: what a peak can be compared with."""
        row = self.trajectory.row(self.layer)
        plain = ~self.trajectory.is_peak[row] & self.trajectory.mi[row].isfinite()
        return tuple(plain.nonzero()[:, 0].tolist())

    @property
    def knows_answer(self) -> bool:
        """Whether the problem's reference can be read: from a file that was named, or because it is bundled."""
        return self.problems is not None or str(self.run.settings["model"]) in BUNDLED

    @cached_property
    def answer(self) -> Float[Tensor, " d_model"]:
        """``a[l]`` of the layer, from reading the problem's reference once more.

        Raises:
            InputError: no file with the problem where it is not bundled, or another problem under its id.
        """
        return self._tracer.answers(self.trajectory.problem, [self.layer])[0]

    @cached_property
    def others(self) -> Float[Tensor, "other d_model"] | None:
        """The same of the other answers that the run scored this response beside; ``None`` where it has none.

        Raises:
            InputError: as `answer`; the run's pool of other answers is gone.
        """
        pinned = self.run.settings.get("excess")
        if not pinned:
            return None
        name = self.trajectory.problem
        found = pinned_others(self._tracer, self.run.path, pinned)
        found.read([name], [self.layer])
        rows = [found.known[other] for other in found.drawn(name).problems]
        return found.vectors[found.positions[0], self.layer][rows] if rows else None

    @cached_property
    def _tracer(self) -> Tracer:
        """The run's own settings and this problem, with the model."""
        name = self.trajectory.problem
        listed = traced_problems(str(self.run.settings["model"]), self.problems, None)
        found = [problem for problem in listed if problem.id == name]
        if not found:
            raise InputError(
                "attribute a score",
                expected=f"a problem file with {name!r}, whose reference the score is against",
                received=f"{len(listed)} problems without it",
                remedy="Pass the file that the run was made from.",
            )
        if found[0].digest != self.run.settings["problems"].get(name):
            raise InputError(
                "attribute a score",
                expected=f"the problem {name!r} that the run was made with",
                received="another question, solution or answer under its id",
                remedy="Pass the file that the run was made from.",
            )
        return Tracer(self.model, found, self.options)


def settings_of(run: Run) -> TraceSettings:
    """The settings that a run was made with."""
    known = {item.name for item in fields(TraceSettings)} - {"samples"}
    # Given responses have no token limit; what is asked of them needs no room behind a prompt
    known -= set(DECODING) if "responses" in run.settings else set()
    options = TraceSettings(**{name: value for name, value in run.settings.items() if name in known})
    return settings_without_decoding(options) if "responses" in run.settings else options

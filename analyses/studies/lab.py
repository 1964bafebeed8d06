"""Where conditions are decoded: a setup with its baseline, in one process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float64
from torch import Tensor

from analyses.problems import Problem
from analyses.store.run import Cell, CellData
from analyses.studies.calibration import Calibration
from analyses.studies.setup import Setup
from analyses.toys.facts import ANSWER_MARKERS, FILLERS, LABELS, OPENERS, VERBS
from analyses.trace.run import TraceRun
from analyses.trace.settings import TraceSettings
from analyses.trace.tracer import row_seed
from analyses.work.batches import rows_of
from analyses.work.scheduler import Report
from interp.decoding import decode
from interp.errors import InputError
from interp.interventions import matched_random_tokens
from interp.protocol import Intervention
from interp.rollout import Rollout
from interp.token_text import last_piece
from interp.types import Bridge

__all__ = ["Calibrates", "Lab"]

KEPT_BYTES = 2**28
"""Tensors that a lab keeps from one batch to the next."""


@runtime_checkable
class Calibrates(Protocol):
    """What a lab asks of a study."""

    name: ClassVar[str]

    def calibrate(self, lab: Lab) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        """JSON values and tensors that hang on many responses."""


class Lab(Setup):
    """A setup with its baseline run, in one process.

    Attributes:
        baseline: the run of the unchanged model; it may hold more than this study is about.
        calibration: what was computed once from it, if the study needs that.
    """

    def __init__(
        self,
        model: Bridge,
        problems: Sequence[Problem],
        options: TraceSettings,
        baseline: TraceRun,
        words: str = "thinking",
        calibration: Calibration | None = None,
        calibrating: Sequence[str] = (),
    ) -> None:
        given = baseline.cells("baseline") if "responses" in baseline.settings else None
        super().__init__(model, problems, options, words, calibrating, given)
        self.baseline, self._calibration = baseline, calibration
        self.tracer.goes_on(baseline.path)  # what is compared with it runs as it did
        self._kept: OrderedDict[Any, Tensor] = OrderedDict()

    @property
    def calibration(self) -> Calibration:
        """What :meth:`Study.calibrate` returned when the run began."""
        if self._calibration is None:
            raise InputError(
                "read calibration",
                expected="a study with a calibrate() method",
                received="one without",
                remedy="Return there what hangs on the run as a whole.",
            )
        return self._calibration

    def calibrate(self, study: Calibrates, asked: int) -> None:
        """Compute what the study takes from the run as a whole, unless its folder had it.

        Raises:
            InputError: no response to compute it from, or the stored one was of another number of problems.
        """
        stored = self._calibration
        if stored is not None and stored.tensors is not None:
            return
        now, had = self.calibrating, len(self.calibrating) if stored is None else stored.had
        done = now if stored is None else stored.problems
        done = tuple(problem for problem in done if self.baseline.has(Cell(problem)))
        if not done:
            raise InputError(
                f"study {study.name}",
                expected="at least one finished response to calibrate from",
                received=f"none of {had} problems",
                remedy="See failures.json of the baseline; --retry-failed tries them again.",
            )
        self.calibrating = done
        with self.tracer.running():
            values = study.calibrate(self)
        found = Calibration(asked if stored is None else stored.asked, had, done, *values).settled()
        self.calibrating = now
        if stored is not None and found.pins() != stored.pins():
            raise InputError(
                "read calibration",
                expected="the tensors that run.json speaks of, whose file is gone",
                received="others, computed anew from the baseline",
                remedy="Restore calibration.safetensors from a copy, or choose another folder.",
            )
        self._calibration = found

    def read(self, cell: Cell) -> CellData:
        """The baseline's cell of the cell's problem and sample."""
        return self.baseline.read(Cell(cell.problem, cell.sample))

    def scores(self, cell: Cell) -> Float64[Tensor, "layer step"]:
        """The baseline's nHSIC of the cell's response, at this study's layers, by the run's own measure."""
        data = self.read(cell)
        have = data.payload["layers"]
        return data.tensors["mi"][[have.index(layer) for layer in self.layers]]

    def keep(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` gives, made once; the oldest are let go above :data:`KEPT_BYTES`, all of them with the lab."""
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._kept[key] = make()
            while len(self._kept) > 1 and sum(t.nbytes for t in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return self._kept[key]

    def rollout(self, cell: Cell) -> Rollout:
        """The baseline's response to the cell's problem (without residuals)."""
        data = self.read(cell)
        tensors, payload = data.tensors, data.payload
        return Rollout(
            tensors["prompt_ids"], tensors["token_ids"], payload["tokens"], payload["text"], payload["finish_reason"],
            tensors["logprobs"], tensors["entropy"], settings={"model": self.facts.name, "d_model": self.facts.d_model},
            prompt_token=last_piece(self.model.tokenizer, tensors["prompt_ids"].tolist()),
        )  # fmt: skip

    def rollouts(self) -> list[Rollout]:
        """All of the baseline's responses to these problems that were finished."""
        return [self.rollout(cell) for cell in self.cells() if self.baseline.has(cell)]

    def calibration_rollouts(self) -> list[Rollout]:
        """The baseline's first responses to the problems that calibrate the study, those that were finished."""
        return [self.rollout(cell) for problem in self.calibrating if self.baseline.has(cell := Cell(problem))]

    def controls(self, words: Mapping[str, Sequence[int]], draws: int, seed: int) -> list[dict[str, tuple[int, ...]]]:
        """Draws of as many other words, in every spelling, a synonym of each kind left on the toys.

        They are about as frequent in the responses that calibrate the study: call it from :meth:`Study.calibrate`.
        """
        keep = [VERBS, FILLERS, OPENERS, ANSWER_MARKERS, *((label,) for label in LABELS)] if self.is_toy else []
        return matched_random_tokens(
            self.calibration_rollouts(), words, draws=draws, seed=seed, keep=keep, exclude=self.words, model=self.model
        )

    def decode(
        self,
        cells: Sequence[Cell],
        interventions: Sequence[Intervention],
        max_new_tokens: int | None = None,
        report: Report = lambda tokens: None,
    ) -> list[Rollout]:
        """Responses to the cells' problems with the baseline's sampling; the same draws in every condition."""
        options = self.options
        with self.tracer.running():
            return decode(
                self.model,
                [self.tracer.prompts[cell.problem] for cell in cells],
                max_new_tokens=max_new_tokens or options.max_new_tokens,
                interventions=interventions,
                temperature=options.temperature,
                top_p=options.top_p,
                seed=[row_seed(options.seed, Cell(cell.problem, cell.sample)) for cell in cells],
                batch_size=rows_of(cells),
                progress=SimpleNamespace(update=report),
            )

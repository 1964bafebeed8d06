"""The work of a study: its run folder, new or gone on with, and who does its batches, here or in another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from analyses.problems import Problem
from analyses.store.run import Run
from analyses.studies.base import Condition, Study
from analyses.studies.calibration import Calibration
from analyses.studies.lab import Lab
from analyses.trace.run import TraceRun
from analyses.trace.settings import TraceSettings
from analyses.work.batches import Batch, guarded, told
from analyses.work.model_ref import ModelRef, share_threads
from analyses.work.scheduler import Report, Work
from interp.errors import InputError
from interp.types import Bridge

__all__ = ["Spec", "StartWorker"]

GROWING = ("problems", "samples", "layers", "probes", "null", "excess", "responses", "responses_from")
"""Settings of a baseline that may grow while studies share it."""


@dataclass(frozen=True)
class Spec:
    """All a process needs to work on a study; it pickles."""

    study: Study
    problems: tuple[Problem, ...]
    options: TraceSettings
    words: str
    baseline: Path
    out: Path
    calibrating: tuple[str, ...] = ()

    def lab(self, model: Bridge, calibration: Calibration | None) -> Lab:
        baseline = TraceRun.open(self.baseline)
        return Lab(model, self.problems, self.options, baseline, self.words, calibration, self.calibrating)

    def start(self, lab: Lab) -> tuple[Run, dict[str, Condition]]:
        """The study's run, new or gone on with, and its conditions."""
        named = list(self.study.conditions(lab))
        conditions = {condition.name: condition for condition in named}
        if len(conditions) < len(named) or not all(conditions) or "baseline" in conditions:
            raise InputError(
                f"study {self.study.name}",
                expected='conditions of different names, none of them empty or "baseline"',
                received=", ".join(repr(condition.name) for condition in named)[:200],
                remedy="Name each condition after what it changes.",
            )
        pins = lab.baseline.settings
        calibrated = self.study.calibrates(lab)
        run = Run.start(
            self.out,
            kind="study",
            settings={
                "study": self.study.name,
                "options": asdict(self.study),
                "words": {word: list(ids) for word, ids in lab.words.items()},
                "baseline": {k: v for k, v in pins.items() if k not in GROWING},
                "conditions": {name: dict(condition.columns) for name, condition in conditions.items()},
                "problems": {problem.id: problem.digest for problem in self.problems},
                "model": pins["model"],
                "layers": list(lab.layers),
                **({"calibration": lab.calibration.pins()} if calibrated else {}),
            },
            provenance=lab.tracer.provenance,
            may_grow=("problems",),
            noted=("model", "baseline.model", "baseline.thinking_markers", "baseline.final_prompts"),
            judge=lab.tracer.judge,
            correctable=True,
            need_bytes=64 * len(conditions) * len(lab.cells()) * self.options.max_new_tokens,
        )
        if calibrated:
            lab.calibration.store(run.path)
        return run, conditions

    def work(self, lab: Lab, run: Run, conditions: Mapping[str, Condition]) -> Work:
        """Does one batch."""

        def do(cells: Batch, report: Report) -> None:
            with lab.tracer.running():
                found = self.study.do(lab, conditions[cells[0].condition], cells, report)
            for cell, (tensors, payload) in zip(cells, found, strict=True):
                if not run.has(cell):
                    run.write(cell, tensors, {**payload, **told(cells)})

        return lambda batch, report: guarded(lambda cells: do(cells, report), batch)


@dataclass(frozen=True)
class StartWorker:
    """Makes a worker in another process: the same model, and the run's pins compare the rest."""

    spec: Spec
    ref: ModelRef
    workers: int

    def __call__(self) -> Work:
        model = self.ref.load()
        share_threads(model, self.workers)
        lab = self.spec.lab(model, Calibration.read(self.spec.out))
        return self.spec.work(lab, *self.spec.start(lab))

"""What a study would take, from a few problems decoded as a warm-up."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analyses.problems import Problem
from analyses.studies.base import Study
from analyses.studies.lab import Lab
from analyses.studies.plan import plan_study
from analyses.trace.settings import Whole, check_work
from analyses.trace.tracing import trace
from interp.types import Bridge

__all__ = ["Estimate", "estimate_study"]

WARM_UP = 4  # problems decoded to estimate time


@dataclass(frozen=True)
class Estimate:
    """What a study would take: an upper bound of its tokens and a guess of its time, from a measured warm-up."""

    conditions: int
    cells: int
    tokens_at_most: int
    tokens_expected: int
    tokens_per_second: float
    seconds: float


def estimate_study(
    study: Study,
    model: str | Path | Bridge = "toy-reasoner",
    problems: str | Path | Sequence[Problem] | None = None,
    *,
    n: Whole | None = None,
    words: str = "thinking",
    batch_size: Whole = 16,
    workers: Whole = 1,
    calibrate: Whole | None = None,
    clock: Callable[[], float] = time.perf_counter,
    **settings: Any,
) -> Estimate:
    """Decode a few problems in a temporary folder and say what the whole would take; nothing else is run.

    Time assumes that every condition's responses are as long as the baseline's, and that workers do not slow each
    other down.
    """
    n, batch_size, workers = check_work("study", n, batch_size, workers)
    plan = plan_study(study, model, problems, n, words, calibrate, settings)
    study, bridge, options, chosen = plan.study, plan.setup.model, plan.setup.options, plan.chosen
    with tempfile.TemporaryDirectory(prefix="peaklens-") as folder:
        begun = clock()
        few = chosen[: min(WARM_UP, batch_size)]
        baseline = trace(
            bridge,
            few,
            Path(folder) / "warm-up",
            batch_size=batch_size,
            report=False,
            **asdict(options),
            **{"excess": 0, **study.probing()},
        )
        seconds = clock() - begun
        lengths = baseline.responses["n_steps"]
        lab = Lab(bridge, few, options, baseline, words, calibrating=[problem.id for problem in few])
        if study.calibrates(lab):
            lab.calibrate(study, len(few))
        conditions = study.conditions(lab)
    per_condition = len(chosen) * options.samples
    mine = {problem.id for problem in chosen}
    beside = [p for p in plan.setup.calibrating if p not in mine] if study.calibrates(plan.setup) else []
    limits = [condition.max_new_tokens or options.max_new_tokens for condition in conditions]
    models = 1 + len(study.other_models())
    cells = per_condition * (len(conditions) + models) + len(beside)
    # A batch takes as long as its longest row; a full one decodes as many more tokens in that time.
    speed = float(lengths.sum()) / seconds * min(batch_size, per_condition) / len(few)
    expected = int(lengths.mean() * cells)
    return Estimate(
        len(conditions) + models,
        cells,
        per_condition * (sum(limits) + models * options.max_new_tokens) + len(beside) * options.max_new_tokens,
        expected,
        speed * workers,
        expected / (speed * workers),
    )

"""What a study would take, from a few problems decoded as a warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analyses.problems import Problem
from analyses.studies.base import Study
from analyses.studies.lab import Lab
from analyses.studies.plan import plan_study
from analyses.trace.estimate import Estimate, at_once, held_bytes, warmed_up
from analyses.trace.settings import Number, TraceSettings, Whole, check_work
from analyses.work.spread import On
from interp.types import Bridge

__all__ = ["Estimate", "estimate_study"]


def estimate_study(
    study: Study,
    model: str | Path | Bridge = "toy-reasoner",
    problems: str | Path | Sequence[Problem] | None = None,
    *,
    n: Whole | None = None,
    words: str = "thinking",
    batch_size: Whole = 16,
    workers: Whole | None = None,
    on: On = None,
    shape: tuple[int, int] | None = None,
    calibrate: Whole | None = None,
    max_new_tokens: Whole = 256,
    prompt: str = "auto",
    reference: str = "solution",
    reference_position: str = "last",
    layers: str | Whole | Sequence[Whole] = "all",
    site: str = "resid_post",
    temperature: Number = 0.0,
    top_p: Number = 1.0,
    seed: Whole = 0,
    samples: Whole = 1,
    sigma: Number | str = 50.0,
    eps: Number = 1e-5,
    drop_top: Whole = 0,
    tau: Number = 1.5,
    thinking_markers: Sequence[Any] = (),
    final_prompts: Sequence[Any] = (),
) -> Estimate:
    """Decode a few problems in a temporary folder and say what the whole would take; nothing else is run.

    Time assumes that every condition's responses are as long as the baseline's, and that workers do not slow each
    other down (:mod:`analyses.trace.estimate`).
    """
    n, batch_size, spread = check_work("study", n, batch_size, workers, on)
    options = TraceSettings(
        max_new_tokens=max_new_tokens, prompt=prompt, reference=reference, reference_position=reference_position,
        layers=layers, site=site, temperature=temperature, top_p=top_p, seed=seed, samples=samples, sigma=sigma,
        eps=eps, drop_top=drop_top, tau=tau, thinking_markers=thinking_markers, final_prompts=final_prompts,
    )  # fmt: skip
    plan = plan_study(study, model, problems, n, words, calibrate, options)
    study, bridge, options, chosen = plan.study, plan.setup.model, plan.setup.options, plan.chosen
    probing = dict(study.probing())
    excess = probing.pop("excess", 0)  # in the same pass as decoding
    with warmed_up(bridge, chosen, options, batch_size, probing, excess=excess) as warm:
        few = warm.problems
        lab = Lab(bridge, few, options, warm.run, words, calibrating=[problem.id for problem in few])
        if study.calibrates(lab):
            lab.calibrate(study, len(few))
        conditions = study.conditions(lab)
        length = warm.mean_length
        per_condition = len(chosen) * options.samples
        one = warm.speed(batch_size, per_condition)
    mine = {problem.id for problem in chosen}
    beside = [p for p in plan.setup.calibrating if p not in mine] if study.calibrates(plan.setup) else []
    limits = [condition.max_new_tokens or options.max_new_tokens for condition in conditions]
    models = 1 + len(study.other_models())
    workers, batches = spread.count(shape), -(-per_condition // batch_size)
    rounds = models * -(-batches // workers) + -(-batches * len(conditions) // workers)
    speed = one * batches * (models + len(conditions)) / rounds
    cells = per_condition * (len(conditions) + models) + len(beside)
    expected = int(length * cells)
    asked = warm.asking * (per_condition * models + len(beside)) / at_once(per_condition, workers)
    return Estimate(
        len(conditions) + models,
        cells,
        per_condition * (sum(limits) + models * options.max_new_tokens) + len(beside) * options.max_new_tokens,
        expected,
        speed,
        expected / speed + asked,
        0,
        workers,
        *held_bytes(lab.tracer, batch_size),
    )

"""A study that fits its model and problems: whatever is wrong is said before anything is decoded."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analyses.problems import Problem, bundled_problems, load_problems
from analyses.responses import Paired
from analyses.studies.base import Study
from analyses.studies.calibration import CALIBRATE
from analyses.studies.options import settle_options
from analyses.studies.setup import Setup
from analyses.trace.given import GivenFrom, paired_responses, settings_without_decoding
from analyses.trace.inputs import name_or_model, traced_problems
from analyses.trace.probing import Probing
from analyses.trace.prompting import goes_on_with, prompt_for
from analyses.trace.provenance import RunWarning
from analyses.trace.settings import TraceSettings
from analyses.trace.tracer import Tracer
from analyses.work.spread import HERE, Spread
from interp.arguments import as_whole
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.loading.layers import check_layers
from interp.loading.models import load_model, model_source
from interp.types import Bridge

__all__ = ["Plan", "check_study_layers", "plan_study"]


@dataclass(frozen=True)
class Plan:
    """A study that fits its model and problems: nothing is decoded before there is one.

    Attributes:
        chosen: its problems; source: those that may calibrate it; asked: so many of them.
        others: models whose baselines it needs beside.
        responses: given ones that are the baseline, where they were given.
    """

    study: Study
    setup: Setup
    chosen: list[Problem]
    source: list[Problem]
    asked: int
    others: dict[str, Bridge]
    responses: Paired | None = None


def plan_study(
    study: Study,
    model: str | Path | Bridge,
    problems: str | Path | Sequence[Problem] | None,
    n: int | None,
    words: str,
    calibrate: int | None,
    options: TraceSettings,
    folder: Path | None = None,
    responses: GivenFrom | None = None,
    spread: Spread = HERE,
) -> Plan:
    """Look at everything that is asked for, and load the models.

    Args:
        folder: of the study, which may have been begun.
        responses: given ones, as for :func:`analyses.trace.tracing.trace`.
        spread: who does the work, which decides where this process has the model.

    Warns:
        RunWarning: prompt "auto" is not what the model alone would make of it.
    """
    if not isinstance(study, Study):
        raise InputError(
            "study", expected="a study, e.g. make_study('suppress', {})", received=repr(study)[:80], remedy="Make one."
        )
    settle_options(study)
    model = name_or_model(model)
    operation = f"study {study.name}"
    Probing(**study.probing())
    if responses is None:
        chosen = traced_problems(model, problems, n)
    else:
        options = _without_decoding(study, options)
    calibrate = CALIBRATE if calibrate is None else as_whole(calibrate, operation, "calibrate", 1)
    if isinstance(model, str):
        check_study_layers(study, model, options.layers)
    bridge = load_model(model, **spread.loading(model)) if isinstance(model, str) else model
    if folder is not None:
        options = goes_on_with(options, bridge, folder, "baseline")
    paired = None
    if responses is None:
        source = _source(problems, max(n or 0, calibrate))
    else:
        whole = paired_responses(responses, problems, bridge, options)
        paired, source = whole.first(n), list(whole.problems)
        chosen = list(paired.problems)
    first = [problem.id for problem in source[:calibrate]]
    cells = None if paired is None else list(paired.stored)
    setup = Setup(bridge, chosen, options, words, first, cells)
    study = study.settled(setup)
    study.check(setup)
    others = {name: _load_beside(bridge, name, operation) for name in study.other_models()}
    bare = [name for name, other in others.items() if prompt_for(other.tokenizer) == "raw"]
    if options.prompt == "auto" and setup.options.prompt == "chat" and bare:
        told = f"prompt raw for all models: they are compared on the same prompts, and {bare[0]} has no chat template"
        warnings.warn(told, RunWarning, stacklevel=2)
        options = replace(options, prompt="raw")
        setup = Setup(bridge, chosen, options, words, first, cells)
    for other in others.values():
        Tracer(other, chosen, setup.options)
    return Plan(study, setup, chosen, source, calibrate, others, paired)


def _without_decoding(study: Study, options: TraceSettings) -> TraceSettings:
    """The settings of a study of given responses.

    Raises:
        InputError: a study that decodes, or settings of decoding.
    """
    if study.decodes:
        raise InputError(
            f"study {study.name}",
            expected="a study that decodes nothing, for responses that are there already",
            received=f"{study.name}, which decodes beside them, by settings that nobody knows of them",
            remedy="Let the model respond here (leave --responses out), or choose another study.",
        )
    return settings_without_decoding(options)


def check_study_layers(study: Study, model: str, layers: Any = "all") -> None:
    """Refuse, before a model is loaded, layers that it does not have: of the baseline, and of the study's options."""
    check_layers(model, layers, f"study {study.name}")
    for name, numbers in study.layer_options().items():
        check_layers(model, numbers, f"study {study.name}, {name}")


def _source(problems: str | Path | Sequence[Problem] | None, least: int) -> list[Problem]:
    """The problems there are, in their order, of which the first calibrate: the same whatever n is."""
    if problems is None:
        return bundled_problems(least)
    if isinstance(problems, str | Path):
        return load_problems(problems)
    return [problems] if isinstance(problems, Problem) else list(problems)


def _load_beside(model: Bridge, name: str, operation: str) -> Bridge:
    """Another model on the device and in the precision of the model: numbers of two precisions do not compare.

    Raises:
        InputError: it is the same model, or of another number of layers.
    """
    parameter = next(model.original_model.parameters())
    spread = getattr(model.original_model, "hf_device_map", None) is not None  # over several devices, by accelerate
    place: dict[str, Any] = {"device_map": "auto"} if spread else {"device": str(parameter.device)}
    other = load_model(name, dtype=parameter.dtype, **place)
    mine, its = model_facts(model), model_facts(other)
    if model_source(model).weight_hash == model_source(other).weight_hash:
        raise InputError(
            operation,
            expected=f"another model than {mine.name}",
            received=f"{name}, which has the same weights",
            remedy="Name the model that it was made from.",
        )
    if mine.n_layers != its.n_layers:
        raise InputError(
            operation,
            expected=f"a model of {mine.n_layers} layers, as {mine.name}: layers are compared one by one",
            received=f"{name}, which has {its.n_layers}",
            remedy="Name the model that it was made from.",
        )
    return other

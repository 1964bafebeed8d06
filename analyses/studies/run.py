"""Runs a study: baseline, cells, tables, report; the same call goes on where it was stopped."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from analyses.problems import Problem, bundled_problems, load_problems
from analyses.store.run import Cell, Run
from analyses.studies.base import Lab, Setup, Spec, StartWorker, Study, StudyData
from analyses.studies.calibration import CALIBRATE, Calibration
from analyses.studies.kept import keep, kept, sources
from analyses.studies.options import settle_options
from analyses.trace.inputs import name_or_model, traced_problems
from analyses.trace.probing import Probing
from analyses.trace.settings import TABLE_SETTINGS, TraceSettings, Whole, check_work, settings_of
from analyses.trace.tracer import Tracer
from analyses.trace.tracing import trace
from analyses.work.batches import do_batches, plan_batches
from analyses.work.model_ref import ModelRef
from interp.arguments import as_whole
from interp.decoding import ProgressBar
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.loading.models import load_model, model_source
from interp.types import Bridge

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Estimate", "StudyResult", "Watch", "estimate_study", "run_study"]

WARM_UP = 4  # problems decoded to estimate time


class Watch:
    """What a run tells of its progress; this one says nothing."""

    def stage(self, what: str, cells: int, done: int, tokens: int) -> AbstractContextManager[Any]:
        """``cells`` of which ``done`` are finished, and at most ``tokens`` to decode; until the end of the block."""
        return nullcontext()

    def tokens(self, count: int) -> None:
        """So many more tokens were decoded."""

    def cells(self, run: Run, cells: Sequence[Cell]) -> None:
        """These cells were done."""


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
        tables: tidy DataFrames; ``table`` is the main one.
        readings: what the numbers say, a sentence each.
        figures: views, the paper's figure first.
        failures: cells that could not be done, with reasons.
    """

    study: Study
    run: Run
    tables: dict[str, pandas.DataFrame]
    figures: list[View]
    readings: list[str]
    failures: dict[Cell, str]

    @property
    def table(self) -> pandas.DataFrame:
        return next(iter(self.tables.values()))

    def to_frame(self) -> pandas.DataFrame:
        """The main table."""
        return self.table

    def _repr_html_(self) -> str:
        import html

        said = "".join(f"<li>{html.escape(reading)}</li>" for reading in self.readings)
        return f"<div><b>{html.escape(self.study.title)}</b><ul>{said}</ul>{self.table.head(30).to_html()}</div>"


def run_study(
    study: Study,
    model: str | Path | Bridge = "toy-reasoner",
    problems: str | Path | Sequence[Problem] | None = None,
    out: str | Path = "runs/study",
    *,
    n: Whole | None = None,
    words: str = "thinking",
    batch_size: Whole = 16,
    workers: Whole = 1,
    retry_failed: bool = False,
    baselines: str | Path | None = None,
    calibrate: Whole | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> StudyResult:
    """Run a study into a folder, or go on with it.

    >>> from analyses.studies import make_study
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     study = make_study("suppress", {"counts": "2", "draws": "1"})
    ...     result = run_study(study, n=4, out=f"{folder}/suppress", max_new_tokens=40)
    ...     sorted(result.tables)
    ['suppress', 'suppress_draws']

    Args:
        model, problems, n: as for :func:`analyses.trace.tracing.trace`.
        words: "thinking", or words separated by commas.
        workers: processes, each with a model of its own.
        retry_failed: try cells again that failed before.
        baselines: folder of the traces that studies share; ``baselines`` beside ``out`` unless given.
        calibrate: problems whose responses give what hangs on the run as a whole (means, rates, orders of words): the
            first of the problem source, whatever ``n`` is (:mod:`analyses.studies.calibration`). 32 unless given, or
            those that the folder was begun with.
        settings: fields of :class:`analyses.trace.tracing.TraceSettings`.

    Raises:
        InputError: whatever is wrong with the study's options, model, problems, settings or disk, before anything is
            decoded.
    """
    out, watch = Path(out), watch or Watch()
    n, batch_size, workers = check_work("study", n, batch_size, workers)
    plan = _plan(study, model, problems, n, words, calibrate, settings)
    study, bridge, options, chosen = plan.study, plan.setup.model, plan.setup.options, plan.chosen
    shared = Path(baselines) if baselines is not None else out.parent / "baselines"
    calibrates = study.calibrates(plan.setup)
    begun = calibrates and (out / "run.json").is_file() and bool(Run.open(out).cells())
    stored = Calibration.read(out) if begun else None  # a folder without cells takes other settings
    if stored is not None and calibrate not in (None, stored.asked):
        raise InputError(
            f"study {study.name}",
            expected=f"calibrate={stored.asked}, which {out} was begun with",
            received=f"calibrate={calibrate}",
            remedy="Leave it out, or choose another folder.",
        )

    def base_of(of: Bridge, chosen: Sequence[Problem], options: TraceSettings) -> Run:
        path = _baseline_folder(shared, of, chosen, options)
        while True:
            try:
                return traced(of, path, chosen, options)
            except InputError:
                # Another process may just have begun the folder with problems of its own
                found = _baseline_folder(shared, of, chosen, options)
                if found == path:
                    raise
                path = found

    def traced(of: Bridge, path: Path, chosen: Sequence[Problem], options: TraceSettings) -> Run:
        total = len(chosen) * options.samples
        with ExitStack() as stack:

            def begin(left: int, tokens: int) -> ProgressBar:
                stack.enter_context(watch.stage(f"baseline, {model_facts(of).name}", total, total - left, tokens))
                return SimpleNamespace(update=watch.tokens)

            return trace(
                of, chosen, path, batch_size=batch_size, workers=workers, retry_failed=retry_failed,
                report=False, progress=begin, on_done=watch.cells, **asdict(options), **study.probing(),
            )  # fmt: skip

    if calibrates:
        # First, and alone, so that they are decoded in the same batches whatever the study's problems are.
        wanted = None if stored is None else stored.problems
        theirs = [p for p in plan.source if p.id in (plan.setup.calibrating if wanted is None else wanted)]
        first = replace(options, samples=1)
        path = _baseline_folder(shared, bridge, theirs, first) if theirs else None
        if path is not None and not _all_tried(path, theirs, retry_failed):
            base_of(bridge, theirs, first)
    baseline = base_of(bridge, chosen, options)
    others = {name: base_of(other, chosen, options) for name, other in plan.others.items()}
    spec = Spec(study, tuple(chosen), options, words, baseline.path, out, plan.setup.calibrating)
    lab = spec.lab(bridge, stored)
    if calibrates:
        lab.calibrate(study, plan.asked)
    run, conditions = spec.start(lab)
    cells = [cell for name in conditions for cell in lab.cells(name)]
    batches = plan_batches(run, cells, batch_size, [] if retry_failed else list(run.failures()))
    left = sum(map(len, batches))
    limits = {name: condition.max_new_tokens or options.max_new_tokens for name, condition in conditions.items()}
    tokens = sum(limits[cell.condition] for batch in batches for cell in batch)
    make = (
        StartWorker(spec, ModelRef.of(bridge, lab.tracer.provenance["model"]), workers)
        if workers > 1
        else lambda: spec.work(lab, run, conditions)
    )
    with watch.stage(study.name, len(cells), len(cells) - left, tokens):
        do_batches(run, batches, make, watch.tokens, workers, lambda batch: watch.cells(run, batch))
    return finish(study, StudyData(run, lab, conditions, others))


def finish(study: Study, data: StudyData) -> StudyResult:
    """Tables, figures, reading and report of the finished cells; those of the last time where nothing is newer."""
    from analyses.store.atomic import replacing
    from analyses.studies.report import study_report

    digest = sources(study, data)
    if (found := kept(data.run, digest)) is not None:
        return StudyResult(study, data.run, found[0], study.figures(data, found[0]), *found[1:])
    tables = study.tables(data)
    for name, frame in tables.items():
        data.run.write_table(f"{name}.csv", frame)
    readings = study.reading(tables)
    if study.calibrates(data.lab):
        readings = [*readings, data.lab.calibration.told(data.lab.calibrating)]
    result = StudyResult(
        study, data.run, tables, study.figures(data, tables), readings, data.run.failures() | data.baseline_failures()
    )  # fmt: skip
    with replacing(data.run.path / "report.html") as temporary:
        temporary.write_text(study_report(result, data), encoding="utf-8")
    keep(data.run, digest, tables, result.readings, result.failures)
    return result


def _baseline_folder(shared: Path, model: Bridge, problems: Sequence[Problem], options: TraceSettings) -> Path:
    """The folder of the baseline: the first, of those that could be it, which is new or fits.

    Its name is made of weights and settings, so that it is the same however the model's folder is written. What may
    grow in a trace is left out. A baseline with other problems under the same ids (another file whose rows are
    numbered) or of a model that differs elsewhere is another one, beside the first.
    """
    tracer = Tracer(model, list(problems), options)
    earlier = shared / _earlier_name(tracer)
    if (earlier / "run.json").is_file() and tracer.fits(earlier):
        return earlier
    name = _baseline_name(tracer)
    for number in itertools.count(1):
        path = shared / (name if number == 1 else f"{name}-{number}")
        if not (path / "run.json").is_file() or tracer.fits(path):
            return path
    raise AssertionError("unreachable")


def _baseline_name(tracer: Tracer) -> str:
    model = tracer.provenance["model"]
    pinned = _named(tracer) | {"weights": model["weight_hash"], "hooks": model["hooks"]}
    return f"{model['config'].get('model_type', 'model')}-{_short_digest(pinned)}"


def _earlier_name(tracer: Tracer) -> str:
    """As earlier versions named it, by the name of the model."""
    return f"{tracer.facts.name.replace('/', '--')}-{_short_digest(_named(tracer))}"


def _named(tracer: Tracer) -> dict[str, Any]:
    options = {k: v for k, v in asdict(tracer.options).items() if k not in ("layers", "samples")}
    # Those of the tables count where they are given, so that folders from before they were there keep their names
    pinned = {k: v for k, v in options.items() if v or k == "tau" or k not in TABLE_SETTINGS}
    return pinned | {"dtype": f"torch.{tracer.settings['dtype']}"}


def _short_digest(pinned: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class _Plan:
    """A study that fits its model and problems: nothing is decoded before there is one.

    Attributes:
        chosen: its problems; source: those that may calibrate it; asked: so many of them.
        others: models whose baselines it needs beside.
    """

    study: Study
    setup: Setup
    chosen: list[Problem]
    source: list[Problem]
    asked: int
    others: dict[str, Bridge]


def _plan(
    study: Study,
    model: str | Path | Bridge,
    problems: str | Path | Sequence[Problem] | None,
    n: int | None,
    words: str,
    calibrate: int | None,
    settings: dict[str, Any],
) -> _Plan:
    """Look at everything that is asked for, and load the models."""
    if not isinstance(study, Study):
        raise InputError(
            "study", expected="a study, e.g. make_study('suppress', {})", received=repr(study)[:80], remedy="Make one."
        )
    settle_options(study)
    model = name_or_model(model)
    operation = f"study {study.name}"
    options = settings_of(settings)
    Probing(**study.probing())
    chosen = traced_problems(model, problems, n)
    calibrate = CALIBRATE if calibrate is None else as_whole(calibrate, operation, "calibrate", 1)
    source = _source(problems, max(n or 0, calibrate))
    bridge = load_model(model) if isinstance(model, str) else model
    first = [problem.id for problem in source[:calibrate]]
    setup = Setup(bridge, chosen, options, words, first)
    study = study.settled(setup)
    study.check(setup)
    others = {name: _load_beside(bridge, name, operation) for name in study.other_models()}
    for other in others.values():
        Tracer(other, chosen, options)
    return _Plan(study, setup, chosen, source, calibrate, others)


def _source(problems: str | Path | Sequence[Problem] | None, least: int) -> list[Problem]:
    """The problems there are, in their order, of which the first calibrate: the same whatever n is."""
    if problems is None:
        return bundled_problems(least)
    if isinstance(problems, str | Path):
        return load_problems(problems)
    return [problems] if isinstance(problems, Problem) else list(problems)


def _all_tried(baseline: Path, problems: Sequence[Problem], retry_failed: bool) -> bool:
    """Whether a baseline has a first response to each problem, or its failure."""
    if not (baseline / "run.json").is_file():
        return False
    run = Run.open(baseline)
    failed = {} if retry_failed else run.failures()
    return all(run.has(cell) or cell in failed for cell in (Cell(problem.id) for problem in problems))


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
    plan = _plan(study, model, problems, n, words, calibrate, settings)
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
            **study.probing(),
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

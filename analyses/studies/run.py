"""Runs a study: baseline, cells, tables, report; the same call goes on where it was stopped."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from analyses.batches import do_batches, plan_batches
from analyses.model_ref import ModelRef
from analyses.problems import Problem
from analyses.settings import Whole, check_work
from analyses.store import Cell, Run
from analyses.studies.base import Lab, Spec, StartWorker, Study, StudyData
from analyses.studies.kept import keep, kept, sources
from analyses.trace import Tracer, TraceSettings, settings_of, trace, traced_problems
from interp.decoding import ProgressBar
from interp.engine import model_facts
from interp.errors import InputError
from interp.models import load_model
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
    model: str | Bridge = "toy-reasoner",
    problems: str | Path | Sequence[Problem] | None = None,
    out: str | Path = "runs/study",
    *,
    n: Whole | None = None,
    words: str = "thinking",
    batch_size: Whole = 16,
    workers: Whole = 1,
    retry_failed: bool = False,
    baselines: str | Path | None = None,
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
        model, problems, n: as for :func:`analyses.trace.trace`.
        words: "thinking", or words separated by commas.
        workers: processes, each with a model of its own.
        retry_failed: try cells again that failed before.
        baselines: folder of the traces that studies share; ``baselines`` beside ``out`` unless given.
        settings: fields of :class:`analyses.trace.TraceSettings`.

    Raises:
        InputError: whatever is wrong with model, problems, settings or disk, before anything is decoded.
    """
    out, watch = Path(out), watch or Watch()
    n, batch_size, workers = check_work("study", n, batch_size, workers)
    options = settings_of(settings)
    chosen = traced_problems(model, problems, n)
    bridge = load_model(model) if isinstance(model, str) else model
    shared = Path(baselines) if baselines is not None else out.parent / "baselines"

    def base_of(of: Bridge) -> Run:
        path = _baseline_folder(shared, of, chosen, options)
        while True:
            try:
                return traced(of, path)
            except InputError:
                # Another process may just have begun the folder with problems of its own
                found = _baseline_folder(shared, of, chosen, options)
                if found == path:
                    raise
                path = found

    def traced(of: Bridge, path: Path) -> Run:
        total = len(chosen) * options.samples
        with ExitStack() as stack:

            def begin(left: int, tokens: int) -> ProgressBar:
                stack.enter_context(watch.stage(f"baseline, {model_facts(of).name}", total, total - left, tokens))
                return SimpleNamespace(update=watch.tokens)

            return trace(
                of, chosen, path, batch_size=batch_size, workers=workers, retry_failed=retry_failed,
                report=False, progress=begin, on_done=watch.cells, **asdict(options), **study.probing(),
            )  # fmt: skip

    baseline = base_of(bridge)
    others = {name: base_of(load_model(name)) for name in study.other_models()}
    spec = Spec(study, tuple(chosen), options, words, baseline.path, out)
    lab = spec.lab(bridge)
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
    from analyses.atomic import replacing
    from analyses.studies.report import study_report

    digest = sources(study, data)
    if (found := kept(data.run, digest)) is not None:
        return StudyResult(study, data.run, found[0], study.figures(data, found[0]), *found[1:])
    tables = study.tables(data)
    for name, frame in tables.items():
        data.run.write_table(f"{name}.csv", frame)
    result = StudyResult(
        study, data.run, tables, study.figures(data, tables), study.reading(tables),
        data.run.failures() | data.baseline_failures(),
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
    pinned = {k: v for k, v in asdict(tracer.options).items() if k not in ("layers", "samples")}
    return pinned | {"dtype": f"torch.{tracer.settings['dtype']}"}


def _short_digest(pinned: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()[:8]


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
    model: str | Bridge = "toy-reasoner",
    problems: str | Path | Sequence[Problem] | None = None,
    *,
    n: Whole | None = None,
    words: str = "thinking",
    batch_size: Whole = 16,
    workers: Whole = 1,
    clock: Callable[[], float] = time.perf_counter,
    **settings: Any,
) -> Estimate:
    """Decode a few problems in a temporary folder and say what the whole would take; nothing else is run.

    Time assumes that every condition's responses are as long as the baseline's, and that workers do not slow each
    other down.
    """
    n, batch_size, workers = check_work("study", n, batch_size, workers)
    options = settings_of(settings)
    chosen = traced_problems(model, problems, n)
    bridge = load_model(model) if isinstance(model, str) else model
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
        lab = Lab(bridge, few, options, baseline, words)
        conditions = study.conditions(lab)
    per_condition = len(chosen) * options.samples
    limits = [condition.max_new_tokens or options.max_new_tokens for condition in conditions]
    models = 1 + len(study.other_models())
    cells = per_condition * (len(conditions) + models)
    # A batch takes as long as its longest row; a full one decodes as many more tokens in that time.
    speed = float(lengths.sum()) / seconds * min(batch_size, per_condition) / len(few)
    expected = int(lengths.mean() * cells)
    return Estimate(
        len(conditions) + models,
        cells,
        per_condition * (sum(limits) + models * options.max_new_tokens),
        expected,
        speed * workers,
        expected / (speed * workers),
    )

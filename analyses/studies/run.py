"""Runs a study: baseline, cells, tables, report; the same call goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analyses.problems import Problem
from analyses.store.atomic import replacing
from analyses.store.run import Run
from analyses.studies.base import Study, StudyData, StudyResult
from analyses.studies.baselines import Baselines
from analyses.studies.calibration import Calibration
from analyses.studies.kept import keep, kept, sources
from analyses.studies.plan import plan_study
from analyses.studies.progress import Watch
from analyses.studies.report import study_report
from analyses.studies.spec import Spec, StartWorker
from analyses.thinking import WordUse, word_uses
from analyses.trace.given import GivenFrom
from analyses.trace.graders import graded_by
from analyses.trace.inputs import are_bundled, data_of, pool_of
from analyses.trace.others import most_of_pool
from analyses.trace.settings import Number, TraceSettings, Whole, check_work
from analyses.work.batches import GROUPED, do_batches, plan_batches
from analyses.work.spread import On
from interp.errors import InputError
from interp.rows import NEVER, Event
from interp.types import Bridge

__all__ = ["run_study"]


def run_study(
    study: Study,
    model: str | Path | Bridge = "toy-reasoner",
    problems: str | Path | Sequence[Problem] | None = None,
    out: str | Path = "runs/study",
    *,
    n: Whole | None = None,
    words: str = "thinking",
    batch_size: Whole = 16,
    workers: Whole | None = None,
    on: On = None,
    retry_failed: bool = False,
    baselines: str | Path | None = None,
    calibrate: Whole | None = None,
    watch: Watch | None = None,
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
    responses: GivenFrom | None = None,
) -> StudyResult:
    """Run a study into a folder, or go on with it.

    >>> from analyses.studies import make_study
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     study = make_study("suppress", {"counts": "2", "draws": "1"})
    ...     result = run_study(study, n=4, out=f"{folder}/suppress", max_new_tokens=40, calibrate=4)
    ...     sorted(result.tables)
    ['suppress', 'suppress_draws']

    Args:
        model, problems, n: as for :func:`analyses.trace.tracing.trace`.
        words: "thinking", or words separated by commas.
        workers, on: as for :func:`analyses.trace.tracing.trace`.
        retry_failed: try cells again that failed before.
        baselines: folder of the traces that studies share; ``baselines`` beside ``out`` unless given.
        calibrate: problems whose responses give what hangs on the run as a whole (means, rates, orders of words): the
            first of the problem source, whatever ``n`` is (:mod:`analyses.studies.calibration`). 32 unless given, or
            those that the folder was begun with.
        max_new_tokens, prompt, reference, reference_position, layers, site, temperature, top_p, seed, samples, sigma,
            eps, drop_top, tau, thinking_markers, final_prompts: of the traces it stands on, see
            :class:`analyses.trace.settings.TraceSettings`.
        responses: responses that are there already, as for :func:`analyses.trace.tracing.trace`: they are the baseline
            of a study that decodes nothing itself, and other models read them too.

    Raises:
        InputError: whatever is wrong with the study's options, model, problems, settings or disk, before anything is
            decoded.
    """
    out, watch = Path(out), watch or Watch()
    n, batch_size, spread = check_work("study", n, batch_size, workers, on)
    options = TraceSettings(
        max_new_tokens=max_new_tokens, prompt=prompt, reference=reference, reference_position=reference_position,
        layers=layers, site=site, temperature=temperature, top_p=top_p, seed=seed, samples=samples, sigma=sigma,
        eps=eps, drop_top=drop_top, tau=tau, thinking_markers=thinking_markers, final_prompts=final_prompts,
    )  # fmt: skip
    plan = plan_study(study, model, problems, n, words, calibrate, options, out, responses, spread)
    study, bridge, options, chosen = plan.study, plan.setup.model, plan.setup.options, plan.chosen
    shared = Path(baselines) if baselines is not None else out.parent / "baselines"
    if spread.ray is not None:  # workers elsewhere start from another folder
        out, shared = out.absolute(), shared.absolute()
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

    asked = study.probing()
    own = plan.responses is not None and problems is None and not are_bundled(plan.source)
    known = plan.source if own else problems  # given responses that say their problems themselves are all there is
    pool = pool_of(known, None, chosen, most_of_pool(asked["excess"])) if asked.get("excess") else ()
    noted = next(iter(data_of(problems, chosen).get("data", ())), None)
    traces = Baselines(shared, asked, batch_size, spread, retry_failed, watch, pool, plan.responses, noted)
    if calibrates and plan.responses is None:
        # First, and alone, so that they are decoded in the same batches whatever the study's problems are.
        wanted = None if stored is None else stored.problems
        theirs = [p for p in plan.source if p.id in (plan.setup.calibrating if wanted is None else wanted)]
        first = replace(options, samples=1)
        if theirs and not traces.tried(bridge, theirs, first):
            traces.trace(bridge, theirs, first)
    baseline = traces.trace(bridge, chosen, options)
    others = {name: traces.trace(other, chosen, options) for name, other in plan.others.items()}
    spec = Spec(study, tuple(chosen), options, words, baseline.path, out, plan.setup.calibrating)
    lab = spec.lab(bridge, stored)
    if calibrates:
        lab.calibrate(study, plan.asked)
    run, conditions = spec.start(lab)
    cells = [cell for name in conditions for cell in lab.cells(name)]
    # A study that does more than decode holds what it makes of a batch
    grouped = GROUPED if type(study).do is Study.do else 1
    batches = plan_batches(run, cells, batch_size, [] if retry_failed else list(run.failures()), grouped)
    left = sum(map(len, batches))
    limits = {name: condition.max_new_tokens or options.max_new_tokens for name, condition in conditions.items()}
    tokens = sum(limits[cell.condition] for batch in batches for cell in batch)
    ref = spread.reference(bridge, lab.tracer.provenance["model"])
    make = (lambda: spec.work(lab, run, conditions)) if ref is None else StartWorker(spec, ref, spread.sharing)
    crew = spread.scheduler(run.path, ref)
    with watch.stage(study.name, len(cells), len(cells) - left, tokens):
        do_batches(run, batches, make, watch.tokens, crew, lambda batch: watch.cells(run, batch))
    with graded_by(spread):
        return finish(study, StudyData(run, lab, conditions, others))


def finish(study: Study, data: StudyData) -> StudyResult:
    """Tables, figures, reading and report of the finished cells; those of the last time where nothing is newer."""
    digest, words = sources(study, data), _words(data)
    if (found := kept(data.run, digest)) is not None:
        return StudyResult(study, data.run, found[0], study.figures(data, found[0]), *found[1:], words)
    tables = study.tables(data)
    for name, frame in tables.items():
        data.run.write_table(f"{name}.csv", frame)
    readings = [*study.reading(tables), *_idle(data)]
    if study.calibrates(data.lab):
        readings = [*readings, data.lab.calibration.told(data.lab.calibrating)]
    result = StudyResult(
        study, data.run, tables, study.figures(data, tables), readings, data.run.failures() | data.baseline_failures(),
        words,
    )  # fmt: skip
    with replacing(data.run.path / "report.html") as temporary:
        temporary.write_text(study_report(result, data), encoding="utf-8")
    keep(data.run, digest, tables, result.readings, result.failures)
    return result


def _words(data: StudyData) -> tuple[WordUse, ...]:
    """The thinking words, and how often the baseline's responses to these problems say them."""
    said = data.of_these(data.lab.baseline.table("steps.parquet", ["problem", "sample", "token_id"]))
    return tuple(word_uses(data.lab.words, said["token_id"].tolist()))


def _idle(data: StudyData) -> list[str]:
    """A sentence for each condition in none of whose responses an intervention acted: it is the baseline once more."""
    notes: dict[str, list[dict[str, str]]] = {}
    for cell in data.cells():
        events = [Event(**event) for event in data.run.payload(cell).get("events", ())]
        idle = {event.intervention: event.note for event in events if event.note.startswith(NEVER)}
        notes.setdefault(cell.condition, []).append(idle)
    found = []
    for condition, responses in notes.items():
        for name in set(responses[0]).intersection(*responses[1:]):
            found.append(f"{condition}: {name} {responses[0][name]}, in any of its {len(responses)} responses.")
    return found

"""Trace: let a model think about problems and score every (layer, step) against the gold answer.

1. The reference text of each problem (its gold solution, or its answer) goes through the model on its own; the residual
   stream at its last token, or where it predicts its answer (:mod:`analyses.trace.references`), is ``a[l]``.
2. The model responds in batches, or reads responses that are there already (:mod:`analyses.trace.given`); a streaming
   recorder hands each step's residual streams to nHSIC, some steps at a time, so that no residual is kept.
3. So do references of other answers (:mod:`analyses.trace.others`), unless turned off: the excess over them, with
   references read at both positions.
4. Each response with its scores becomes one cell of the run folder. The same command goes on where it stopped; more
   problems, samples or layers extend the run (missing layers are scored by reading the stored response once more).
5. Where other measures, nulls or depths are asked for, each response is read once more (:mod:`analyses.trace.reread`).
6. Tables are derived from the cells: mi.parquet, peaks.parquet, steps.parquet, responses.parquet, tokens.csv (see
   :mod:`analyses.trace.tables`); the words of the logit lens of some responses (:mod:`analyses.trace.lens_words`); and
   a page to look at, report.html.

Source: Qian et al. 2025, arXiv 2506.02867. nHSIC is a dependence score of coordinates, not bits of information.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from analyses.problems import Problem
from analyses.responses import Paired, Responses, load_responses
from analyses.store.run import Cell, Run
from analyses.trace.given import GivenFrom, Givens, given_responses, paired_responses, settings_without_decoding
from analyses.trace.graders import graded_by
from analyses.trace.inputs import are_bundled, data_of, name_or_model, pool_of, traced_problems
from analyses.trace.lens_words import keep_lens
from analyses.trace.others import other_references, pinned_others
from analyses.trace.probing import check_measures, probing_of
from analyses.trace.prompting import goes_on_with
from analyses.trace.provenance import RunWarning
from analyses.trace.reread import Rereader
from analyses.trace.run import TraceRun
from analyses.trace.settings import Number, TraceSettings, Whole, check_work
from analyses.trace.tables import derive_tables
from analyses.trace.tracer import Tracer
from analyses.trace.wrong_answers import wrong_answers
from analyses.work.batches import GROUPED, Batch, do_batches, plan_batches
from analyses.work.model_ref import ModelRef, share_threads
from analyses.work.scheduler import Work
from analyses.work.spread import On
from interp.arguments import Texts, as_whole
from interp.decoding import ProgressBar
from interp.errors import InputError
from interp.loading.layers import check_layers
from interp.loading.models import load_model
from interp.types import Bridge

__all__ = ["trace"]


def trace(
    model: str | Path | Bridge,
    problems: str | Path | Sequence[Problem] | None = None,
    out: str | Path = "runs/trace",
    *,
    n: Whole | None = None,
    batch_size: Whole = 8,
    workers: Whole | None = None,
    on: On = None,
    retry_failed: bool = False,
    report: bool = True,
    progress: Callable[[int, int], ProgressBar] | None = None,
    on_done: Callable[[Run, Batch], None] = lambda run, batch: None,
    pool: str | Path | Sequence[Problem] | None = None,
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
    probes: Texts = ("nhsic",),
    null: Whole = 0,
    null_match: str = "kind",
    null_statistic: str = "score",
    null_seed: Whole = 0,
    excess: Whole | None = None,
    lens: Whole | None = None,
    responses: GivenFrom | None = None,
) -> TraceRun:
    """Trace a model on problems into a run folder; see the module for what happens.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = trace("toy-reasoner", n=2, out=folder, max_new_tokens=20)
    ...     " ".join(run.mi.columns[5:15])
    'input_token_id input_token token_id token nhsic mi is_peak excess excess_standardised is_excess_peak'

    Args:
        model: a loaded model or a name for :func:`interp.load_model`.
        problems: a file, problems, or ``None`` for those bundled with the toy models.
        out: the run folder, new or of the same settings.
        n: the first n problems.
        workers: processes, each with a model of its own and, where there are several, a GPU of its own; the run is the
            same. One unless given; with ``on``, as many as the cluster has room for.
        on: "ray", or a :class:`analyses.work.on_ray.Ray`, for workers on the Ray cluster that ``RAY_ADDRESS`` names, or
            on one that is started here; ``out`` must lie where all its nodes see it (docs/CLUSTER.md). A model given by
            name is then loaded into this process's memory, in the precision that the workers have it in.
        retry_failed: try problems again that failed before (``run.failures()``).
        report: write report.html too.
        progress: called with (responses to do, tokens at most); what it returns is told of every decoded token.
        on_done: called with the run and each batch of cells as it ends.
        pool: where other answers are taken from, for the excess and for a null: a file or problems; unless given, all
            problems of the file that ``problems`` names, or of the toys. The run keeps it: a run that grows, asked for
            the null again or not, draws from the pool it began with.
        max_new_tokens, prompt, reference, reference_position, layers, site, temperature, top_p, seed, samples, sigma,
            eps, drop_top, tau, thinking_markers, final_prompts: what the run is pinned to, see
            :class:`analyses.trace.settings.TraceSettings`.
        probes, null, null_match, null_statistic, null_seed, excess: what is asked beside nHSIC, see
            :class:`analyses.trace.probing.Probing`.
        lens: responses of which the words of the logit lens are kept at every (layer, step), in lens.parquet and in the
            report, the one that it opens on first; 0 for none, None for what the run was asked before, or as many as
            cost little where there is a report (at least one).
        responses: responses that are there already, read instead of decoding: a file or a folder, several, or what
            :func:`analyses.responses.load_responses` gave, see there for the formats. ``problems`` is then where their
            questions and gold answers are looked up, or ``None`` where the responses say them; ``n`` the first of those
            that have one. One that cannot be read is told in ``run.failures()``. Settings of decoding are refused.

    Raises:
        InputError: whatever is wrong with model, problems, settings or disk, before anything is decoded; at the end,
            with all tables written, responses that could not be asked for other measures.

    Warns:
        RunWarning: responses that are empty, cut at the token limit, or all alike (:mod:`analyses.report.warned`).
    """
    from analyses.report import refresh_report
    from analyses.report.warned import AT_ONCE, OF_RESPONSES, Counted, response_warnings

    model = name_or_model(model)
    n, batch_size, spread = check_work("trace", n, batch_size, workers, on)
    lens = None if lens is None else as_whole(lens, "trace", "lens", 0)
    probing = probing_of(probes, null, null_match, null_statistic, null_seed, excess)
    options = TraceSettings(
        max_new_tokens=max_new_tokens, prompt=prompt, reference=reference, reference_position=reference_position,
        layers=layers, site=site, temperature=temperature, top_p=top_p, seed=seed, samples=samples, sigma=sigma,
        eps=eps, drop_top=drop_top, tau=tau, thinking_markers=thinking_markers, final_prompts=final_prompts,
    )  # fmt: skip
    if responses is None:
        chosen = traced_problems(model, problems, n)
    else:
        options = settings_without_decoding(options)
        if not isinstance(responses, Paired):
            responses = load_responses(responses) if not isinstance(responses, Responses) else responses
    if isinstance(model, str):
        check_layers(model, options.layers, "trace")
    bridge = load_model(model, **spread.loading(model)) if isinstance(model, str) else model
    options = goes_on_with(options, bridge, Path(out))
    givens: Givens | None = None
    if responses is not None:
        paired = paired_responses(responses, problems, bridge, options).first(n)
        chosen, givens = list(paired.problems), given_responses(paired, bridge, options)
        if problems is None and pool is None and not are_bundled(chosen):
            pool = chosen  # the responses' own problems: no file says more
    tracer = Tracer(bridge, chosen, options, givens)
    options = tracer.options
    check_measures(probing, options, tracer.facts.d_model)
    make_pool = partial(pool_of, problems, pool, chosen)
    wrong = wrong_answers(tracer, Path(out), probing, make_pool)
    others = tracer.others = other_references(tracer, Path(out), probing.excess, make_pool)
    pins = probing.pins(wrong.pins if wrong is not None else None)
    run = tracer.start(
        Path(out), pins | ({} if others is None else {"excess": others.pins}) | data_of(problems, chosen)
    )
    if others is not None:
        others.keep(run.path)
    if wrong is not None:
        wrong.keep(run.path)
    rereader = Rereader(tracer, run, wrong)
    rereader.check()
    if tracer.refused:
        run.record_failures(tracer.refused)
    skip = [] if retry_failed else list(run.failures())
    batches = plan_batches(run, tracer.cells, batch_size, skip, GROUPED if givens is None else 1)
    total = sum(map(len, batches))
    bar = (progress or _silent)(total, tracer.tokens(cell for batch in batches for cell in batch))
    ref = spread.reference(bridge, tracer.provenance["model"])
    crew = spread.scheduler(run.path, ref)
    common = (chosen, options, Path(out).absolute(), spread.sharing, givens)
    make: Callable[[], Work]
    make = (lambda: partial(tracer.do, run)) if ref is None else partial(_start_worker, ref, *common)
    do_batches(run, batches, make, bar.update, crew, partial(on_done, run))
    failed: dict[Cell, str] = {}
    if rest := tracer.lacking_layers(run):
        bar = (progress or _silent)(len(rest), sum(len(run.payload(cell)["tokens"]) for cell in rest))
        make = (lambda: partial(tracer.add_layers, run)) if ref is None else partial(_start_adding, ref, *common)
        failed |= do_batches(run, [[cell] for cell in rest], make, bar.update, crew)
    if rest := rereader.todo():
        lengths = [len(run.payload(cell)["tokens"]) for cell in rest]
        bar = (progress or _silent)(len(rest), sum(lengths))
        again = [rest[begin : begin + batch_size] for begin in range(0, len(rest), batch_size)]
        make = (lambda: rereader.do) if ref is None else partial(_start_rereader, ref, *common)
        failed |= do_batches(run, again, make, bar.update, crew)
    with graded_by(spread):
        derive_tables(run, bridge.tokenizer, tracer.facts.d_vocab)
    if report or lens is not None:
        keep_lens(tracer, run, lens)
    limit = options.max_new_tokens if givens is None else None
    counted = Counted.of(run.parts("responses.parquet", OF_RESPONSES, rows=AT_ONCE))
    for sentence in response_warnings(counted, limit, givens is not None):
        warnings.warn(sentence, RunWarning, stacklevel=2)
    if report:
        refresh_report(run)
    if failed:
        cell, reason = next(iter(failed.items()))
        raise InputError(
            "trace",
            expected="responses that can be read once more for other layers and measures",
            received=f"{len(failed)} of {len(run.cells())} that failed, the first (problem {cell.problem!r}): {reason}",
            remedy="The tables are written, with these undefined; the same command tries them again.",
        )
    return run


def _tracer(
    ref: ModelRef, problems: list[Problem], options: TraceSettings, out: Path, sharing: int, givens: Givens | None
) -> tuple[Tracer, TraceRun]:
    """In another process: the same model, the same settings; the run's pins compare both."""
    model = ref.load()
    share_threads(model, sharing)
    tracer = Tracer(model, problems, options, givens)
    return tracer, tracer.start(out)


def _start_worker(ref: ModelRef, *common: Any) -> Work:
    """What decodes, or reads given responses."""
    tracer, run = _tracer(ref, *common)
    if pinned := run.settings.get("excess"):
        tracer.others = pinned_others(tracer, run.path, pinned)
    return partial(tracer.do, run)


def _start_adding(ref: ModelRef, *common: Any) -> Work:
    """What scores other layers of finished responses."""
    tracer, run = _tracer(ref, *common)
    return partial(tracer.add_layers, run)


def _start_rereader(ref: ModelRef, *common: Any) -> Work:
    """What asks finished responses more."""
    return Rereader(*_tracer(ref, *common)).do


class _Silence:
    def update(self, n: int) -> None:
        pass


def _silent(responses: int, tokens: int) -> ProgressBar:
    return _Silence()

"""Trace: let a model think about problems and score every (layer, step) against the gold answer.

1. The reference text of each problem (its gold solution, or its answer) goes through the model on its own; the residual
   stream at its last token is ``a[l]``.
2. The model responds in batches; a streaming recorder hands each step's residual streams to nHSIC, some steps at a
   time, so that no residual is kept.
3. Each response with its scores becomes one cell of the run folder. The same command goes on where it stopped; more
   problems, samples or layers extend the run (missing layers are scored by reading the stored response once more).
4. Where other measures, nulls or depths are asked for, each response is read once more (:mod:`analyses.trace.reread`).
5. Tables are derived from the cells: mi.parquet, peaks.parquet, steps.parquet, responses.parquet, tokens.csv (see
   :mod:`analyses.trace.tables`), and a page to look at, report.html.

Source: Qian et al. 2025, arXiv 2506.02867. nHSIC is a dependence score of coordinates, not bits of information.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from analyses.grading import Reading, prompt_end
from analyses.problems import Problem, bundled_problems, load_problems
from analyses.store.pinned import json_values, merge_pinned, read_pinned
from analyses.store.run import Cell, CellData, Run
from analyses.trace.provenance import RunWarning, compare_provenance, provenance_of
from analyses.trace.reread import Probing, Rereader, check_measures
from analyses.trace.settings import (
    Number,
    Whole,
    check_measure,
    check_sampling,
    check_site,
    check_work,
    one_of,
    whole_layers,
)
from analyses.trace.tables import derive_tables
from analyses.trace.wrong_answers import wrong_answers
from analyses.work.batches import Batch, do_batches, guarded, plan_batches
from analyses.work.model_ref import ModelRef, share_threads
from analyses.work.scheduler import Report, Work
from interp.arguments import as_whole
from interp.decoding import ProgressBar, decode
from interp.engines.base import ModelFacts
from interp.engines.registry import check_model, model_facts
from interp.errors import InputError
from interp.generation_config import generation_rules
from interp.loading.models import BUNDLED, load_model, model_source
from interp.passes import check_context
from interp.prompts import Prompt, encode_prompt
from interp.reading import encode
from interp.record import ResidualSites, ResidualStream, StepResiduals
from interp.rollout import Rollout
from interp.sites import resolve_layers
from interp.types import Bridge
from probes import nhsic

__all__ = [
    "GROWING",
    "TABLE_SETTINGS",
    "TraceSettings",
    "Tracer",
    "row_seed",
    "settings_of",
    "trace",
    "traced_problems",
]

TOY_POOL = 2000  # what wrong answers are drawn from where no file is given
TABLE_SETTINGS = ("tau", "thinking_markers", "final_prompts")
"""Settings that no cell depends on: a finished run takes another value, and its tables are derived with it."""

GROWING = ("layers", "samples", "problems", "probes", "null")
"""Settings that a run may be given more of later."""

NOTED = ("model", *TABLE_SETTINGS)
CHUNK_STEPS = 32  # steps scored at once: enough to keep nHSIC busy, few enough to stay small


@dataclass(frozen=True)
class TraceSettings:
    """What a trace is pinned to: it must stay the same when a run is resumed.

    ``layers`` and ``samples`` may grow; :data:`TABLE_SETTINGS`, on which no cell depends, may change.

    >>> TraceSettings(max_new_tokens=64).prompt
    'raw'

    Attributes:
        prompt: "raw" (the question as it is, like the paper's scripts) or "chat" (the model's chat template).
        reference: the text whose last token is the answer's representation: "solution" or "answer".
        site: resid_post, resid_pre, resid_mid or ln_final.
        sigma, eps, drop_top: of :func:`probes.nhsic` (sigma a number, or "median"); tau: of :func:`probes.tukey_peaks`.
        samples: responses a problem; more than one needs a temperature.
        thinking_markers, final_prompts: how responses are read for grading, beside what is known: pairs of what opens
            and closes thinking, and texts after which an answer was forced (:class:`analyses.grading.Reading`).
    """

    max_new_tokens: Whole = 256
    prompt: str = "raw"
    reference: str = "solution"
    layers: str | Whole | Sequence[Whole] = "all"
    site: str = "resid_post"
    temperature: Number = 0.0
    top_p: Number = 1.0
    seed: Whole = 0
    samples: Whole = 1
    sigma: Number | str = 50.0
    eps: Number = 1e-5
    drop_top: Whole = 0
    tau: Number = 1.5
    thinking_markers: Sequence[Any] = ()
    final_prompts: Sequence[Any] = ()

    def __post_init__(self) -> None:
        operation = "trace"
        one_of(operation, "prompt", self.prompt, ("raw", "chat"))
        one_of(operation, "reference", self.reference, ("solution", "answer"))
        tokens, heat, top_p, seed = check_sampling(
            operation, self.max_new_tokens, self.temperature, self.top_p, self.seed
        )
        sigma, eps, drop_top, tau = check_measure(operation, self.sigma, self.eps, self.drop_top, self.tau)
        markers, final_prompts = Reading.of(self.thinking_markers, self.final_prompts).own()
        plain = {
            "thinking_markers": markers, "final_prompts": final_prompts,
            "max_new_tokens": tokens, "temperature": heat, "top_p": top_p, "seed": seed, "sigma": sigma, "eps": eps,
            "drop_top": drop_top, "tau": tau, "samples": as_whole(self.samples, operation, "samples", 1),
            "layers": whole_layers(operation, self.layers), "site": check_site(operation, self.site),
        }  # fmt: skip
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        if self.samples > 1 and self.temperature == 0:
            raise InputError(
                operation,
                expected="one greedy response a problem, or several with a temperature above 0",
                received=f"samples={self.samples} at temperature {self.temperature}",
                remedy="Set a temperature, e.g. 0.6.",
            )

    def prompt_of(self, problem: Problem) -> Prompt:
        return problem.question if self.prompt == "raw" else [{"role": "user", "content": problem.question}]

    def reference_of(self, problem: Problem) -> str:
        return problem.solution if self.reference == "solution" else problem.answer


def trace(
    model: str | Path | Bridge,
    problems: str | Path | Sequence[Problem] | None = None,
    out: str | Path = "runs/trace",
    *,
    n: Whole | None = None,
    batch_size: Whole = 8,
    workers: Whole = 1,
    retry_failed: bool = False,
    report: bool = True,
    progress: Callable[[int, int], ProgressBar] | None = None,
    on_done: Callable[[Run, Batch], None] = lambda run, batch: None,
    pool: str | Path | Sequence[Problem] | None = None,
    **settings: Any,
) -> Run:
    """Trace a model on problems into a run folder; see the module for what happens.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = trace("toy-reasoner", n=2, out=folder, max_new_tokens=20)
    ...     list(run.mi.columns)
    ['problem', 'sample', 'layer', 'site', 'step', 'token_id', 'token', 'mi', 'is_peak']

    Args:
        model: a loaded model or a name for :func:`interp.load_model`.
        problems: a file, problems, or ``None`` for those bundled with the toy models.
        out: the run folder, new or of the same settings.
        n: the first n problems.
        workers: processes, each with a model of its own; the run is the same.
        retry_failed: try problems again that failed before (``run.failures()``).
        report: write report.html too.
        progress: called with (responses to do, tokens at most); what it returns is told of every decoded token.
        on_done: called with the run and each batch of cells as it ends.
        pool: where wrong answers are taken from if a null is asked for: a file or problems; unless given, all problems
            of the file that ``problems`` names, or of the toys. The run keeps it: a run that grows, asked for the null
            again or not, draws from the pool it began with.
        settings: fields of :class:`TraceSettings` and of :class:`analyses.trace.reread.Probing`.

    Raises:
        InputError: whatever is wrong with model, problems, settings or disk, before anything is decoded; at the end,
            with all tables written, responses that could not be asked for other measures.
    """
    from analyses.report import refresh_report

    model = name_or_model(model)
    n, batch_size, workers = check_work("trace", n, batch_size, workers)
    probing = _probing_of(settings)
    options = settings_of({name: value for name, value in settings.items() if name not in _ASKED})
    chosen = traced_problems(model, problems, n)
    bridge = load_model(model) if isinstance(model, str) else model
    tracer = Tracer(bridge, chosen, options)
    check_measures(probing, options, tracer.facts.d_model)
    wrong = wrong_answers(tracer, Path(out), probing, partial(_pool, problems, pool, chosen))
    run = tracer.start(Path(out), probing.pins(wrong.pins if wrong is not None else None))
    if wrong is not None:
        wrong.keep(run.path)
    rereader = Rereader(tracer, run, wrong)
    rereader.check()
    if tracer.refused:
        run.record_failures(tracer.refused)
    skip = [] if retry_failed else list(run.failures())
    batches = plan_batches(run, tracer.cells, batch_size, skip)
    total = sum(map(len, batches))
    bar = (progress or _silent)(total, total * options.max_new_tokens)
    make = (
        partial(_start_worker, ModelRef.of(bridge, tracer.provenance["model"]), chosen, options, Path(out), workers)
        if workers > 1
        else None
    )
    do_batches(run, batches, make or (lambda: partial(tracer.do, run)), bar.update, workers, partial(on_done, run))
    failed = tracer.add_layers(run)
    if rest := rereader.todo():
        lengths = [len(run.payload(cell)["tokens"]) for cell in rest]
        bar = (progress or _silent)(len(rest), sum(lengths))
        again = [rest[begin : begin + batch_size] for begin in range(0, len(rest), batch_size)]
        start = partial(
            _start_rereader, ModelRef.of(bridge, tracer.provenance["model"]), chosen, options, Path(out), workers
        )
        failed |= do_batches(run, again, start if workers > 1 else lambda: rereader.do, bar.update, workers)
    derive_tables(run, bridge.tokenizer, tracer.facts.d_vocab)
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


def settings_of(given: Mapping[str, Any]) -> TraceSettings:
    """The settings of a trace by name.

    Raises:
        InputError: one that there is not, or a value that it does not take.
    """
    known = [field.name for field in fields(TraceSettings)]
    if unknown := [name for name in given if name not in known]:
        raise InputError(
            "trace",
            expected=f"settings among {', '.join(known)}",
            received=unknown[0],
            remedy="Check the spelling.",
        )
    return TraceSettings(**given)


_ASKED = tuple(field.name for field in fields(Probing))


def _probing_of(given: Mapping[str, Any]) -> Probing:
    """What is asked beside nHSIC, of settings by name; one probe alone is as good as a list of one."""
    asked = {name: given[name] for name in _ASKED if name in given}
    if "probes" in asked:
        probes = asked["probes"]
        asked["probes"] = tuple(map(str, [probes] if isinstance(probes, str) else probes))
    for name in ("null", "null_seed"):
        if name in asked:
            asked[name] = as_whole(asked[name], "trace", name)
    return Probing(**asked)


def _start_worker(ref: ModelRef, problems: list[Problem], options: TraceSettings, out: Path, workers: int) -> Work:
    """In another process: the same model, the same settings; the run's pins compare both."""
    model = ref.load()
    share_threads(model, workers)
    tracer = Tracer(model, problems, options)
    return partial(tracer.do, tracer.start(out))


def _start_rereader(
    ref: ModelRef,
    problems: list[Problem],
    options: TraceSettings,
    out: Path,
    workers: int,
) -> Work:
    """In another process: the same model, and what the run was asked."""
    model = ref.load()
    share_threads(model, workers)
    tracer = Tracer(model, problems, options)
    return Rereader(tracer, tracer.start(out)).do


def name_or_model(model: str | Path | Bridge) -> str | Bridge:
    """A model's name, a path as one, or a loaded model; anything else is refused."""
    if isinstance(model, str | Path):
        return str(model)
    check_model(model)
    return model


def traced_problems(
    model: str | Bridge, problems: str | Path | Sequence[Problem] | None, n: int | None
) -> list[Problem]:
    """The problems of a run: given, read from a file, or those that come with a bundled toy."""
    if problems is None:
        name = model if isinstance(model, str) else model_source(model).name
        if name not in BUNDLED:
            raise InputError(
                "trace",
                expected="a problem file for a model that is not a bundled toy",
                received="none",
                remedy="Pass --problems FILE (JSONL, CSV or Parquet with question, solution and answer).",
            )
        return bundled_problems(n)
    if isinstance(problems, str | Path):
        return load_problems(problems, n=n)
    given: list[Problem] = [problems] if isinstance(problems, Problem) else list(problems)
    if strange := [one for one in given if not isinstance(one, Problem)]:
        raise InputError(
            "trace",
            expected="a problem file, or a list of Problem",
            received=f"a list with {type(strange[0]).__name__}",
            remedy="Write analyses.problems.Problem(id=..., question=..., solution=..., answer=...) for each.",
        )
    if not given:
        raise InputError("trace", expected="at least one problem", received="none", remedy="Pass some.")
    return given[:n]


def check_ids_differ(problems: Sequence[Problem]) -> None:
    """Refuse two problems of one id, which a run could not tell apart."""
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise InputError(
                "trace",
                expected="problems with ids of their own",
                received=f"two with the id {problem.id!r}",
                remedy="Number them anew, or leave one out.",
            )
        seen.add(problem.id)


def _pool(
    problems: str | Path | Sequence[Problem] | None,
    pool: str | Path | Sequence[Problem] | None,
    chosen: list[Problem],
) -> list[Problem]:
    """The problems whose answers may serve as wrong ones."""
    if pool is None and problems is None:
        return bundled_problems(TOY_POOL)
    source = problems if pool is None else pool
    if isinstance(source, str | Path):
        return load_problems(source)
    return chosen if source is None else list(source)


class Tracer:
    """A model, problems and settings, all found to fit each other."""

    def __init__(self, model: Bridge, problems: list[Problem], options: TraceSettings) -> None:
        self.model, self.options = model, options
        self.facts: ModelFacts = model_facts(model)
        layers = resolve_layers(options.layers, self.facts.n_layers, "trace")
        self.layers = (0,) if options.site == "ln_final" else layers
        self.site = ResidualSites(layers=self.layers, sites=(options.site,))
        generation_rules(self.facts, operation="trace")  # refuses what decode would refuse, before any work
        # Fails here, not after the first batch, if options and width do not go together.
        probe = torch.linspace(-1, 1, self.facts.d_model)[None]
        nhsic(probe, probe[0], sigma=options.sigma, eps=options.eps, drop_top=options.drop_top)
        check_ids_differ(problems)
        self.asked = {problem.id: problem.digest for problem in problems}
        self.problems: dict[str, Problem] = {}
        self.prompts: dict[str, list[int]] = {}
        self.references: dict[str, list[int]] = {}
        self.refused: dict[Cell, str] = {}
        errors: list[Exception] = []
        for problem in problems:
            try:
                self._take(problem)
            except Exception as error:  # this problem's fault: it is recorded as failed, and the others go on
                errors.append(error)
                self.refused |= dict.fromkeys(self._cells(problem), f"{type(error).__name__}: {str(error)[:400]}")
        if not self.problems and errors:
            raise _unreadable(errors[0])
        self.cells = [cell for problem in self.problems.values() for cell in self._cells(problem)]

    def _take(self, problem: Problem) -> None:
        """Encode a problem's texts, which may be too long for the model or nothing it can read."""
        encode_one = partial(encode_prompt, self.model.tokenizer, facts=self.facts, operation="trace")
        prompt = encode_one(self.options.prompt_of(problem))
        reference = encode_one(self.options.reference_of(problem))
        check_context([prompt], self.options.max_new_tokens, self.facts, "trace")
        check_context([reference], 0, self.facts, "trace")
        self.problems[problem.id] = problem
        self.prompts[problem.id], self.references[problem.id] = prompt, reference

    def _cells(self, problem: Problem) -> list[Cell]:
        return [Cell(problem.id, sample) for sample in range(self.options.samples)]

    def start(self, out: Path, grown: Mapping[str, Any] | None = None) -> Run:
        """The run, new or gone on with; ``grown`` are settings that a run may be given later."""
        values = len(self.cells) * self.options.max_new_tokens * (len(self.layers) + 4)
        return Run.start(
            out,
            kind="trace",
            settings=self.settings | dict(grown or {}),
            provenance=self.provenance,
            may_grow=GROWING,
            noted=NOTED,
            judge=self.judge,
            correctable=True,
            need_bytes=16 * values,  # a double in a cell, at most as much again in the tables
        )

    def fits(self, folder: Path) -> bool:
        """Whether a run folder is of this model and these settings, and holds no other problems under the same ids."""
        now = {"kind": "trace", "settings": json_values(self.settings, "settings"), "provenance": self.provenance}
        try:
            with warnings.catch_warnings(action="ignore", category=RunWarning):  # said when the run is gone on with
                merge_pinned(folder, read_pinned(folder), now, GROWING, NOTED, self.judge)
        except InputError:
            return False
        return True

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What ``run.json`` pins beside the provenance."""
        options = asdict(self.options)
        return {
            **{k: v for k, v in options.items() if k not in ("layers", "samples")},
            "model": self.facts.name,
            "dtype": str(next(self.model.original_model.parameters()).dtype).removeprefix("torch."),
            "layers": list(self.layers),
            "samples": list(range(self.options.samples)),
            "problems": self.asked,
        }

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """What the run records of the model and the libraries; all weights are read for it, once."""
        return provenance_of(self.model)

    def judge(self, old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Whether another run's provenance is that of this model."""
        return compare_provenance(old, new, chat=self.options.prompt == "chat")

    def answers(self, problem: str, layers: Sequence[int]) -> Float[Tensor, "layer d_model"]:
        """``a[l]``; each reference is read alone, so that it does not depend on its batch."""
        record = ResidualSites(layers=layers, sites=(self.options.site,))
        encoding = encode(self.model, [self.references[problem]], record=record, last_only=True)[0]
        return encoding.residuals[self.options.site][:, 0]

    def score(
        self, steps: Float[Tensor, "*lead step d_model"], answers: Float[Tensor, "*lead d_model"]
    ) -> Float64[Tensor, "*lead step"]:
        if steps.device.type == "mps":  # which has no float64
            steps, answers = steps.cpu(), answers.cpu()
        return nhsic(steps, answers, sigma=self.options.sigma, eps=self.options.eps, drop_top=self.options.drop_top)

    def do(self, run: Run, batch: Batch, report: Report) -> dict[Cell, str]:
        """Decode and write a batch; reasons of what failed."""
        return guarded(lambda cells: self.decode_batch(run, cells, report), batch)

    def decode_batch(self, run: Run, batch: Batch, report: Report) -> None:
        options = self.options
        answers = torch.stack([self.answers(cell.problem, self.layers) for cell in batch])
        scorer = _Scorer(self, answers)
        rollouts = decode(
            self.model,
            [self.prompts[cell.problem] for cell in batch],
            max_new_tokens=options.max_new_tokens,
            record=ResidualStream(layers=self.layers, sites=(options.site,), on_step=scorer.add),
            temperature=options.temperature,
            top_p=options.top_p,
            seed=[row_seed(options.seed, cell) for cell in batch],
            batch_size=len(batch),
            progress=SimpleNamespace(update=report),
        )
        scores = scorer.finish()
        mates = [[mate.problem, mate.sample] for mate in batch]
        for i, (cell, rollout) in enumerate(zip(batch, rollouts, strict=True)):
            if not run.has(cell):
                self._write(run, cell, rollout, scores[i], mates)

    def _write(
        self, run: Run, cell: Cell, rollout: Rollout, mi: Float64[Tensor, "layer step"], mates: list[list[Any]]
    ) -> None:
        tensors = {
            "mi": mi,
            "prompt_ids": rollout.prompt_ids,
            "token_ids": rollout.token_ids,
            "logprobs": rollout.logprobs,
            "entropy": rollout.entropy,
        }
        payload = {
            "layers": list(self.layers),
            "question": self.problems[cell.problem].question,
            "answer": self.problems[cell.problem].answer,
            "text": rollout.text,
            "tokens": rollout.tokens,
            "prompt_end": prompt_end(self.model.tokenizer, rollout.prompt_ids.tolist()),
            "finish_reason": rollout.finish_reason,
            "seed": rollout.settings["seed"],
            "batch": mates,
        }
        run.write(cell, tensors, payload)

    def read_steps(
        self, data: CellData, layers: Sequence[int], site: str | None = None
    ) -> Float[Tensor, "layer step d_model"]:
        """Residual streams at a finished response's steps, from reading prompt and response once more."""
        site = site or self.options.site
        prompt, response = data.tensors["prompt_ids"], data.tensors["token_ids"]
        record = ResidualSites(layers=tuple(layers), sites=(site,))
        encoding = encode(self.model, [torch.cat([prompt, response])[:-1]], record=record)[0]
        return encoding.residuals[site][:, len(prompt) - 1 :]

    def add_layers(self, run: Run) -> dict[Cell, str]:
        """Score layers that finished cells lack, by reading prompt and response once more; reasons of what failed."""
        failed: dict[Cell, str] = {}
        for cell in run.cells():
            if cell.problem in self.problems:
                failed |= guarded(lambda cells: self._add_layers(run, cells), [cell])
        return failed

    def _add_layers(self, run: Run, cells: Batch) -> None:
        wanted = run.settings["layers"]
        for cell in cells:
            have = run.payload(cell)["layers"]
            missing = [layer for layer in wanted if layer not in have]
            if not missing:
                continue
            data = run.read(cell)
            residuals = self.read_steps(data, missing)
            mi = torch.cat([data.tensors["mi"], self.score(residuals, self.answers(cell.problem, missing)).cpu()])
            layers = have + missing
            order = sorted(range(len(layers)), key=layers.__getitem__)
            payload = {**data.payload, "layers": [layers[i] for i in order]}
            run.write(cell, {**data.tensors, "mi": mi[order]}, payload)


def _unreadable(error: Exception) -> InputError:
    """Why no problem can be read: what a tokenizer or a chat template raised is not for the user as it is."""
    if isinstance(error, InputError):
        return error
    return InputError(
        "trace",
        expected="problems that the model's tokenizer and chat template take",
        received=f"{type(error).__name__}: {str(error)[:400]}",
        remedy="Check the problems, or give the raw question (prompt raw).",
    )


class _Scorer:
    """Takes streamed residuals and scores them ``CHUNK_STEPS`` at a time."""

    def __init__(self, tracer: Tracer, answers: Float[Tensor, "row layer d_model"]) -> None:
        self.tracer, self.answers = tracer, answers
        self.rows: list[int] = []
        self.held: list[Float[Tensor, "layer row d_model"]] = []
        self.done: list[list[Float64[Tensor, "layer chunk"]]] = [[] for _ in answers]

    def add(self, step: StepResiduals) -> None:
        if step.rows != self.rows or len(self.held) == CHUNK_STEPS:
            self.flush()
            self.rows = step.rows
        self.held.append(step.residuals[self.tracer.options.site].clone())

    def flush(self) -> None:
        if self.held:
            steps = torch.stack(self.held, dim=2).transpose(0, 1)  # [row, layer, step, d_model]
            for row, mi in zip(self.rows, self.tracer.score(steps, self.answers[self.rows]).cpu(), strict=True):
                self.done[row].append(mi)
            self.held = []

    def finish(self) -> list[Float64[Tensor, "layer step"]]:
        self.flush()
        return [torch.cat(parts, dim=1) for parts in self.done]


def row_seed(seed: int, cell: Cell) -> int:
    """The same draws for a (problem, sample) whatever else is in the run."""
    digest = hashlib.blake2b(f"{seed}:{cell.problem}:{cell.sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class _Silence:
    def update(self, n: int) -> None:
        pass


def _silent(responses: int, tokens: int) -> ProgressBar:
    return _Silence()

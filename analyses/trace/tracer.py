"""Decode problems, or read given responses, and score every (layer, step) meanwhile: a trace's worker, batch by batch.

1. `Tracer` finds out that model, problems and settings fit each other, before any work.
2. References give ``a[l]``; a streaming recorder hands each step's residual streams to nHSIC, some steps at a time, so
   that no residual is kept.
3. A response with its scores becomes one cell; layers asked for later are scored by reading it once more.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from analyses.grading import prompt_end
from analyses.problems import Problem
from analyses.store.pinned import json_values, merge_pinned, read_pinned
from analyses.store.run import Cell, CellData, Run
from analyses.trace.given import DECODING, Givens
from analyses.trace.inputs import check_ids_differ
from analyses.trace.prompting import prompt_for
from analyses.trace.provenance import RunWarning, compare_provenance, engine_begun_with, provenance_of
from analyses.trace.references import Reference, read_references, reference_from
from analyses.trace.run import TraceRun
from analyses.trace.scoring_place import scoring_device
from analyses.trace.settings import GROWING, NOTED, TraceSettings, check_width
from analyses.trace.step_scores import Beside, StepScores
from analyses.work.batches import Batch, guarded, rows_of, told
from analyses.work.scheduler import Report
from interp.decoding import decode
from interp.encoding import encode
from interp.engines.base import ModelFacts
from interp.engines.registry import engine_for, model_facts, only_engine
from interp.errors import InputError
from interp.generation_config import generation_rules
from interp.passes import asked_sites, check_context
from interp.prompts import encode_prompt
from interp.reading import read
from interp.record import PieceResiduals, ResidualPieces, ResidualSites, ResidualStream
from interp.rollout import Rollout
from interp.sites import resolve_layers
from interp.types import Bridge
from probes import nhsic
from probes.answers import factor_answers

__all__ = ["Tracer", "row_seed"]


class Tracer:
    """A model, problems and settings, all found to fit each other; ``options`` say what prompt ``auto`` came to.

    With ``given`` responses nothing is decoded: they are read in the place of decoding, and all else is the same.
    """

    def __init__(
        self, model: Bridge, problems: list[Problem], options: TraceSettings, given: Givens | None = None
    ) -> None:
        self.model, self.given = model, given
        self.facts: ModelFacts = model_facts(model)
        if options.prompt == "auto":
            options = replace(options, prompt=prompt_for(model.tokenizer))
        self.options = options
        layers = resolve_layers(options.layers, self.facts.n_layers, "trace")
        self.layers = (0,) if options.site == "ln_final" else layers
        self.site = ResidualSites(layers=self.layers, sites=(options.site,))
        generation_rules(self.facts, operation="trace")  # refuses what decode would refuse, before any work
        # Fails here, not after the first batch, if options and width do not go together.
        check_width(options.sigma, options.eps, options.drop_top, self.facts.d_model)
        check_ids_differ(problems)
        self.asked = {problem.id: problem.digest for problem in problems}
        self.problems: dict[str, Problem] = {}
        self.prompts: dict[str, list[int]] = {}
        self.references: dict[str, Reference] = {}
        self.refused: dict[Cell, str] = {}
        self.on_bridge = False
        self.others: Beside | None = None  # beside which responses are scored while they are decoded
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
        if given is not None:
            self.refused |= given.refused
            # Those of like length are read together, and the longest first: what is too large shows at once
            self.cells.sort(key=lambda cell: -len(given.by_cell[cell]))

    def _take(self, problem: Problem) -> None:
        """Encode a problem's texts, which may be too long for the model or nothing it can read."""
        if self.given is not None and (cells := self.given.cells(problem.id)):
            prompt = self.given.by_cell[cells[0]].prompt_ids.tolist()
        else:
            prompt = encode_prompt(self.model.tokenizer, self.options.prompt_of(problem), self.facts, "trace")
        text, position = self.options.reference_of(problem), self.options.reference_position
        reference = reference_from(self.model.tokenizer, text, problem.answer, self.facts, "trace")
        check_context([prompt], self.options.max_new_tokens, self.facts, "trace")
        check_context([reference.ids], 0, self.facts, "trace")
        reference.read(position)  # refuses one that has no such position
        self.problems[problem.id] = problem
        self.prompts[problem.id], self.references[problem.id] = prompt, reference

    def _cells(self, problem: Problem) -> list[Cell]:
        if self.given is not None:
            return self.given.cells(problem.id)
        return [Cell(problem.id, sample) for sample in range(self.options.samples)]

    def start(self, out: Path, grown: Mapping[str, Any] | None = None) -> TraceRun:
        """The run, new or gone on with; ``grown`` are settings that a run may be given later."""
        self.goes_on(out)
        values = self.tokens(self.cells) * (len(self.layers) + 4)
        return TraceRun.start(
            out,
            kind="trace",
            settings=self.settings | dict(grown or {}),
            provenance=self.provenance,
            may_grow=GROWING,
            noted=NOTED,
            judge=self.judge,
            correctable=True,
            # A double in a cell, at most as much again in the tables; two and a half more with the excess, and two more
            # with that at the other position
            need_bytes=(16 if self.others is None else 24 + 32 * len(self.others.positions)) * values,
        )

    def tokens(self, cells: Iterable[Cell]) -> int:
        """How many tokens these responses have, at most."""
        if self.given is None:
            return self.options.max_new_tokens * sum(1 for _ in cells)
        return sum(len(self.given.by_cell[cell].token_ids) for cell in cells)

    def goes_on(self, folder: Path) -> None:
        """Run the model on the bridge where a folder was begun on it, were it the other engine's turn now.

        The other way round there is nothing to choose: what the twin cannot run, whoever goes on is told of it.
        """
        self.on_bridge = engine_begun_with(folder) == "bridge"

    def running(self) -> AbstractContextManager[None]:
        """Context in which the model runs on the engine of the run."""
        return only_engine("bridge" if self.on_bridge else None)

    def check_fits(self, folder: Path, same_engine: bool = False) -> None:
        """Refuse a run folder of another model or other settings, or with other problems under the same ids.

        Whoever only reads it may do so on any engine.
        """
        provenance = self.provenance
        if not same_engine:
            provenance = provenance | {"model": {k: v for k, v in provenance["model"].items() if k != "engine"}}
        now = {"kind": "trace", "settings": json_values(self.settings, "settings"), "provenance": provenance}
        with warnings.catch_warnings(action="ignore", category=RunWarning):  # said when the run is gone on with
            merge_pinned(folder, read_pinned(folder), now, GROWING, NOTED, self.judge)

    def fits(self, folder: Path) -> bool:
        """Whether a run could go on in this folder (:meth:`check_fits`)."""
        before = self.on_bridge
        try:
            self.goes_on(folder)
            self.check_fits(folder, same_engine=True)
        except InputError:
            return False
        finally:
            self.on_bridge = before
        return True

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What ``run.json`` pins beside the provenance."""
        options, given = asdict(self.options), self.given
        samples = self.options.samples if given is None else 1 + max((cell.sample for cell in given.by_cell), default=0)
        decoding = () if given is None else DECODING
        return {
            **{k: v for k, v in options.items() if k not in ("layers", "samples", *decoding)},
            **({} if given is None else given.pins),
            "model": self.facts.name,
            "dtype": str(next(self.model.original_model.parameters()).dtype).removeprefix("torch."),
            "layers": list(self.layers),
            "samples": list(range(samples)),
            "problems": self.asked,
        }

    @property
    def provenance(self) -> dict[str, Any]:
        """What the run records of the model, the libraries and the engine; all weights are read for it, once."""
        with self.running():
            engine = engine_for(self.model, asked_sites(self.site, (), self.facts)).told
        return self._provenance | {"model": {**self._provenance["model"], "engine": engine}}

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        return provenance_of(self.model)

    def judge(self, old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Whether another run's provenance is that of this model."""
        return compare_provenance(old, new, chat=self.options.prompt == "chat")

    def answers(self, problem: str, layers: Sequence[int]) -> Float[Tensor, "layer d_model"]:
        """``a[l]``; each reference is read alone, so that it does not depend on its batch."""
        return self.answers_at(problem, layers, (self.options.reference_position,))[0]

    def answers_at(
        self, problem: str, layers: Sequence[int], positions: Sequence[str]
    ) -> Float[Tensor, "position layer d_model"]:
        """``a[l]`` at several positions of the reference, from one pass; NaN at one that it has not."""
        return self.answers_of([problem], layers, positions)[problem]

    def answers_of(
        self, problems: Iterable[str], layers: Sequence[int], positions: Sequence[str]
    ) -> dict[str, Float[Tensor, "position layer d_model"]]:
        """Those of several problems, by their names; each reference is read alone."""
        references = {problem: self.references[problem] for problem in problems}
        with self.running():
            return read_references(self.model, references, layers, self.options.site, positions)

    @property
    def positions(self) -> tuple[str, ...]:
        """Where references are read: the run's own position, and the one beside it where that is asked."""
        return (self.options.reference_position,) if self.others is None else self.others.positions

    @cached_property
    def scoring_device(self) -> torch.device:
        """Where streams are scored; see :mod:`analyses.trace.scoring_place`."""
        parameter = next(self.model.original_model.parameters())
        return scoring_device(parameter.device, self.score, self.facts.d_model, parameter.dtype)

    def score(
        self, steps: Float[Tensor, "*lead step d_model"], answers: Float[Tensor, "*lead d_model"]
    ) -> Float64[Tensor, "*lead step"]:
        if steps.device.type == "mps":  # which has no float64
            steps, answers = steps.cpu(), answers.cpu()
        return nhsic(steps, answers, **self.kernel)

    @property
    def kernel(self) -> dict[str, Any]:
        """nHSIC's options."""
        return {"sigma": self.options.sigma, "eps": self.options.eps, "drop_top": self.options.drop_top}

    def _scored(
        self, answers: Float[Tensor, "layer d_model"], steps: Float[Tensor, "layer step d_model"]
    ) -> dict[str, Float64[Tensor, "layer step"]]:
        return {"mi": self.score(steps, answers)}

    def do(self, run: Run, batch: Batch, report: Report) -> dict[Cell, str]:
        """Decode and write a batch; reasons of what failed."""
        with self.running():
            return guarded(lambda cells: self.decode_batch(run, cells, report), batch)

    def decode_batch(self, run: Run, batch: Batch, report: Report) -> None:
        options = self.options
        known = self.answers_of([cell.problem for cell in batch], self.layers, self.positions)
        answers = torch.stack([known[cell.problem] for cell in batch])
        if self.others is not None:
            self.others.read([cell.problem for cell in batch], self.layers)
        place = self.scoring_device
        is_beside = place != answers.device
        scores = StepScores(
            self.score, self.others, self.layers, options.site, [cell.problem for cell in batch], answers.to(place),
            is_beside, partial(factor_answers, **self.kernel),
        )  # fmt: skip
        record = ResidualStream(
            layers=self.layers, sites=(options.site,), device=place if is_beside else None, on_step=scores.add
        )
        make = self._decoded if self.given is None else self._read
        rollouts = make(batch, record, report)
        found = scores.finish()
        for i, (cell, rollout) in enumerate(zip(batch, rollouts, strict=True)):
            if not run.has(cell):
                self._write(run, cell, rollout, found[i], told(batch))

    def _decoded(self, batch: Batch, record: ResidualStream, report: Report) -> list[Rollout]:
        options = self.options
        return decode(
            self.model,
            [self.prompts[cell.problem] for cell in batch],
            max_new_tokens=options.max_new_tokens,
            record=record,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=[row_seed(options.seed, cell) for cell in batch],
            batch_size=rows_of(batch),
            progress=SimpleNamespace(update=report),
        )

    def _read(self, batch: Batch, record: ResidualStream, report: Report) -> list[Rollout]:
        """The given responses, each read once, as if they had just been made."""
        assert self.given is not None
        given = [self.given.by_cell[cell] for cell in batch]
        prompts, responses = [one.prompt_ids.tolist() for one in given], [one.token_ids.tolist() for one in given]
        rollouts = read(self.model, prompts, responses, record=record, batch_size=rows_of(batch))
        report(sum(map(len, responses)))
        return [replace(rollout, finish_reason=one.finish) for rollout, one in zip(rollouts, given, strict=True)]

    def _write(
        self, run: Run, cell: Cell, rollout: Rollout, scores: Mapping[str, Tensor], batch: Mapping[str, Any]
    ) -> None:
        tensors = {
            **scores,
            "prompt_ids": rollout.prompt_ids,
            "token_ids": rollout.token_ids,
            "logprobs": rollout.logprobs,
            "entropy": rollout.entropy,
        }
        payload = {
            "layers": list(self.layers),
            "question": self.problems[cell.problem].question,
            "answer": self.problems[cell.problem].answer,
            "solution": self.problems[cell.problem].solution,
            "text": rollout.text,
            "tokens": rollout.tokens,
            "prompt_end": prompt_end(self.model.tokenizer, rollout.prompt_ids.tolist()),
            "finish_reason": rollout.finish_reason,
            "seed": rollout.settings.get("seed"),
            **batch,
            "reference_end": self.references[cell.problem].read(self.options.reference_position)[-1],
        }
        if self.given is not None:
            one = self.given.by_cell[cell]
            payload["given"] = {"where": one.where, "prompt": one.prompted, "notes": list(one.notes)}
        if self.others is not None:
            payload |= self.others.told(cell.problem, self.layers)
        run.write(cell, tensors, payload)

    def read_steps(
        self, data: CellData, layers: Sequence[int], site: str | None = None
    ) -> Float[Tensor, "layer step d_model"]:
        """Residual streams at a finished response's steps, from reading prompt and response once more."""
        site = site or self.options.site
        prompt, response = data.tensors["prompt_ids"], data.tensors["token_ids"]
        record = ResidualSites(layers=tuple(layers), sites=(site,))
        with self.running():
            encoding = encode(self.model, [torch.cat([prompt, response])[:-1]], record=record)[0]
        return encoding.residuals[site][:, len(prompt) - 1 :]

    def over_steps(
        self,
        data: CellData,
        layers: Sequence[int],
        measure: Callable[[Float[Tensor, "layer step d_model"]], Mapping[str, Tensor]],
        site: str | None = None,
    ) -> dict[str, Tensor]:
        """What is measured of each step of a finished response alone, ``[layer, step, ...]``, on the CPU.

        The response is read once more, in pieces if it is long, and ``measure`` is given all layers of some steps at a
        time: the streams of all steps are never held.
        """
        site = site or self.options.site
        prompt, response = data.tensors["prompt_ids"], data.tensors["token_ids"]
        found: dict[str, list[Tensor]] = {}

        def take(piece: PieceResiduals) -> None:
            steps = piece.residuals[site][:, max(0, len(prompt) - 1 - piece.begin) :]
            if steps.shape[1]:
                for name, values in measure(steps).items():
                    found.setdefault(name, []).append(values.cpu())

        record = ResidualPieces(layers=tuple(layers), sites=(site,), on_piece=take)
        with self.running():
            encode(self.model, [torch.cat([prompt, response])[:-1]], record=record)
        return {name: torch.cat(values, dim=1) for name, values in found.items()}

    def lacking_layers(self, run: Run) -> list[Cell]:
        """Finished cells that some of the run's layers are missing from."""
        mine = [cell for cell in run.cells() if cell.problem in self.problems]
        return [cell for cell in mine if set(run.settings["layers"]) - set(run.payload(cell)["layers"])]

    def add_layers(self, run: Run, batch: Batch, report: Report) -> dict[Cell, str]:
        """Score layers that finished cells lack, by reading prompt and response once more; reasons of what failed."""
        reasons = guarded(lambda cells: self._add_layers(run, cells), batch)
        report(sum(len(run.payload(cell)["tokens"]) for cell in batch if cell not in reasons))
        return reasons

    def _add_layers(self, run: Run, cells: Batch) -> None:
        wanted = run.settings["layers"]
        for cell in cells:
            have = run.payload(cell)["layers"]
            missing = [layer for layer in wanted if layer not in have]
            if not missing:
                continue
            data = run.read(cell)
            # What was asked beside nHSIC is asked anew, at all layers
            kept = {name: value for name, value in data.tensors.items() if ":" not in name}
            added = self.over_steps(data, missing, partial(self._scored, self.answers(cell.problem, missing)))
            mi = torch.cat([data.tensors["mi"], added["mi"]])
            layers = have + missing
            order = sorted(range(len(layers)), key=layers.__getitem__)
            payload = {**data.payload, "layers": [layers[i] for i in order]}
            run.write(cell, {**kept, "mi": mi[order]}, payload)


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


def row_seed(seed: int, cell: Cell) -> int:
    """The same draws for a (problem, sample) whatever else is in the run."""
    digest = hashlib.blake2b(f"{seed}:{cell.problem}:{cell.sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1

"""What finished responses hold beyond nHSIC, from reading each of them once more: measures, nulls, depth.

1. Prompt and response go through the model once more, in pieces if they are long; the residual streams at the steps are
   those of decoding (to the rounding of another order of sums). What is asked of each step alone is worked out piece by
   piece, so that no layer's stream is held; the null takes all steps of a layer together, some layers at a time.
2. Other measures on the same footing (:mod:`probes.similarity`) score every (layer, step) against the same answer.
3. The null asks whether the scores would be as high against a wrong answer: the same statistic against K other answers
   of other problems (:mod:`analyses.trace.wrong_answers`), and against K random vectors of the answer's norm
   (:mod:`probes.nulls`).
4. The deep-thinking ratio asks in which block the prediction of each step settles (:mod:`probes.depth`).
5. The excess over other answers' references (:mod:`analyses.trace.others`) where decoding did not give it: in a run
   that is asked later, or for more layers.
6. All of it goes into the response's cell; tables are derived from there. Nothing is decoded again, so a finished run
   can be asked more at any time.

Source: Qian et al. 2025 (arXiv 2506.02867) for the score; permutation over answers and the maximum over steps after
Westfall & Young 1993; deep-thinking ratio: arXiv 2602.13517.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from analyses.store.run import Cell, CellData, Run
from analyses.trace.others import pinned_others
from analyses.trace.probing import Probing, check_measures, measured
from analyses.trace.wrong_answers import WrongAnswers, pinned_wrong_answers
from analyses.work.batches import Batch, guarded
from analyses.work.scheduler import Report
from interp.encoding import encode
from interp.record import ResidualSites
from probes.chunks import parts
from probes.depth import settling_depth
from probes.nulls import null_scores, null_test, random_answers

if TYPE_CHECKING:
    from analyses.trace.step_scores import Beside
    from analyses.trace.tracer import Tracer

__all__ = [
    "Rereader",
]

MAX_BYTES = 2**29  # residual streams held at a time


class Rereader:
    """Reads finished responses of a run again and writes what was asked into their cells."""

    def __init__(self, tracer: Tracer, run: Run, wrong: WrongAnswers | None = None) -> None:
        self.tracer, self.run = tracer, run
        self.probing = Probing.pinned(run.settings)
        if wrong is None and self.probing.null:
            wrong = pinned_wrong_answers(tracer, run.path, run.settings["null"])
        self.wrong = wrong if self.probing.null else None
        if tracer.others is None and (pinned := run.settings.get("excess")):
            tracer.others = pinned_others(tracer, run.path, pinned)
        self.others = tracer.others
        self.layers: list[int] = sorted(run.settings["layers"])
        self.known: dict[str, Float[Tensor, "layer d_model"]] = {}

    def check(self) -> None:
        """Find out before anything is decoded whether the measures fit the model."""
        check_measures(self.probing, self.tracer.options, self.tracer.facts.d_model)

    def todo(self) -> list[Cell]:
        """Cells that lack some of what the run is to hold."""
        if self._wanted() is None and self.others is None:
            return []
        return [
            cell
            for cell in self.run.cells()
            if cell.problem in self.tracer.problems and any(self._lacks(self.run.payload(cell)))
        ]

    def _lacks(self, payload: Mapping[str, Any]) -> tuple[bool, bool]:
        """Whether a cell lacks measures, null or depth, and whether it lacks the excess."""
        wanted = self._wanted()
        return (
            wanted is not None and payload.get("probing") != wanted,
            self.others is not None and payload.get("excess") != self.others.wanted(self.layers),
        )

    def do(self, batch: Batch, report: Report) -> dict[Cell, str]:
        """Read them and write what was found; reasons of what failed."""
        with self.tracer.running():
            return guarded(lambda cells: self._do(cells, report), batch)

    def _do(self, cells: Batch, report: Report) -> None:
        for cell in cells:
            data = self.run.read(cell)
            lacks, lacks_excess = self._lacks(data.payload)
            found: dict[str, Tensor] = {}
            payload = dict(data.payload)
            kept = {
                name: value
                for name, value in data.tensors.items()
                if ":" not in name or not (lacks_excess if name.startswith("excess:") else lacks)
            }
            if lacks:
                found |= self._found(cell, data)
                payload["probing"] = self._wanted()
            if self.others is not None and lacks_excess:
                found |= self._excess(cell, data, self.others)
                payload |= self.others.told(cell.problem, self.layers)
                position = self.tracer.options.reference_position
                payload["reference_end"] = self.tracer.references[cell.problem].read(position)[-1]
            if lacks and self.wrong is not None:
                drawn = self.wrong.drawn(cell.problem)
                payload |= {
                    "null_problems": list(drawn.problems), "null_matched": drawn.matched, "null_answers": drawn.answers,
                }  # fmt: skip
            self.run.write(cell, {**kept, **found}, payload)
            report(len(data.tensors["token_ids"]))

    def _wanted(self) -> dict[str, Any] | None:
        pins = self.probing.pins()
        if not pins["probes"] and not pins["null"]:
            return None
        null = self.run.settings["null"] if pins["null"] else {}
        return {**pins, "null": null, "layers": self.layers}

    def _found(self, cell: Cell, data: CellData) -> dict[str, Tensor]:
        layers = data.payload["layers"]
        answers = self.tracer.answers(cell.problem, layers)
        if self.wrong is None:
            measured = (
                self.tracer.over_steps(data, layers, partial(self._measures, answers)) if self.probing.measures else {}
            )
            return measured | (self._depth(data) if self.probing.depth else {})
        nulls = self._null_answers(cell.problem, self.wrong)
        places = [self.layers.index(layer) for layer in layers]
        found: dict[str, list[Tensor]] = {}
        for some in self._slices(data, len(layers)):
            steps = self.tracer.read_steps(data, layers[some])
            for name, values in self._measures(answers[some], steps).items():
                found.setdefault(name, []).extend(values.cpu())
            # One layer at a time: K scores a step of all layers at once would be the largest tensor by far.
            for place, (residuals, answer) in enumerate(zip(steps, answers[some], strict=True), some.start):
                others = nulls[:, places[place]].to(residuals.device)
                for key, value in self._tested(cell, layers[place], residuals, answer, others).items():
                    found.setdefault(f"null:{key}", []).append(value.cpu())
        tensors = {name: torch.stack(values) for name, values in found.items()}
        return tensors | (self._depth(data) if self.probing.depth else {})

    def _measures(
        self, answers: Float[Tensor, "layer d_model"], steps: Float[Tensor, "layer step d_model"]
    ) -> dict[str, Float64[Tensor, "layer step"]]:
        return {f"probe:{name}": self._score(name, steps, answers) for name in self.probing.measures}

    def _excess(self, cell: Cell, data: CellData, others: Beside) -> dict[str, Tensor]:
        """The own reference beside those of other answers."""
        layers = data.payload["layers"]
        own = others.own(self.tracer.answers_at(cell.problem, layers, others.positions)[None])

        def scored(steps: Float[Tensor, "layer step d_model"]) -> dict[str, Float64[Tensor, "layer step"]]:
            found = others.scored([cell.problem], layers, steps[None], own, [0])[0]
            return {name: values for name, values in found.items() if name != "mi"}  # that of decoding stays

        return self.tracer.over_steps(data, layers, scored)

    def _slices(self, data: CellData, layers: int) -> Iterator[slice]:
        """Layers as many at a time as may be held."""
        text = len(data.tensors["prompt_ids"]) + len(data.tensors["token_ids"])
        return parts(layers, 4 * text * self.tracer.facts.d_model, MAX_BYTES)

    def _score(
        self, name: str, steps: Float[Tensor, "*layer step d_model"], answer: Float[Tensor, "*layer d_model"]
    ) -> Float64[Tensor, "*layer step"]:
        return measured(name, self.tracer.options, steps, answer)

    def _tested(
        self,
        cell: Cell,
        layer: int,
        steps: Float[Tensor, "step d_model"],
        answer: Float[Tensor, " d_model"],
        others: Float[Tensor, "null d_model"],
    ) -> dict[str, Tensor]:
        """One layer against wrong answers and against random vectors."""
        options = self.tracer.options
        kernel: dict[str, Any] = {"sigma": options.sigma, "eps": options.eps, "drop_top": options.drop_top}
        dice = torch.Generator().manual_seed(_seed(self.probing.null_seed, f"{cell.problem}:{cell.sample}:{layer}"))
        floor = random_answers(answer, self.probing.null, dice)
        # The true answer goes through the same call as the wrong ones, so that not even rounding tells it apart.
        scores = null_scores(steps, torch.cat([answer[None], others]), **kernel)
        test = null_test(scores[0], scores[1:], statistic=self.probing.null_statistic)
        random_scores = null_scores(steps, floor, **kernel)
        random_test = null_test(scores[0], random_scores, statistic=self.probing.null_statistic)
        return {
            "p_step": test.p_step, "p_family": test.p_family, "mean": test.null_mean, "sd": test.null_sd,
            "p_random": random_test.p_family, "floor": random_scores.amax(dim=-1).quantile(0.95)[None],
        }  # fmt: skip

    def _null_answers(self, problem: str, wrong: WrongAnswers) -> Float[Tensor, "null layer d_model"]:
        """Wrong answers' representations at all layers of the run; each reference is read once in a run."""
        wanted = wrong.drawn(problem).problems
        new = [name for name in wanted if name not in self.known]
        site = self.tracer.options.site
        record = ResidualSites(layers=tuple(self.layers), sites=(site,))
        size = 4 * len(self.layers) * self.tracer.facts.d_model
        while self.known and size * (len(self.known) + len(new)) > MAX_BYTES:
            gone = next(iter(self.known))  # the one read first; it is read again if it is drawn again
            new += [gone] if gone in wanted else []
            del self.known[gone]
        if new:
            texts = [wrong.reference(name) for name in new]
            for name, encoding in zip(
                new, encode(self.tracer.model, texts, record=record, last_only=True), strict=True
            ):
                self.known[name] = encoding.residuals[site][:, 0].cpu()
        return torch.stack([self.known[name] for name in wanted])

    def _depth(self, data: CellData) -> dict[str, Tensor]:
        """In which block each step's prediction settles; always of all blocks' resid_post."""
        from transformer_lens.tools.analysis import logit_readout

        model, facts = self.tracer.model, self.tracer.facts

        def unembed(residuals: Tensor, ids: slice) -> Tensor:
            return logit_readout(model, residuals, chunk_size=1024).values[..., ids]

        def settled(steps: Float[Tensor, "layer step d_model"]) -> dict[str, Tensor]:
            found = [
                settling_depth(some, unembed, facts.d_vocab, chunk=facts.d_vocab) for some in steps.split(16, dim=1)
            ]
            # A step has one depth, whatever the number of layers.
            return {
                "depth:settled": torch.cat([part.depth for part in found])[None],
                "depth:is_deep": torch.cat([part.is_deep for part in found])[None],
            }

        of_steps = self.tracer.over_steps(data, range(facts.n_layers), settled, "resid_post")
        return {name: values[0] for name, values in of_steps.items()}


def _seed(seed: int, what: str) -> int:
    """The same draw for the same thing, whatever else is in the run."""
    return random.Random(f"{seed}:{what}").getrandbits(63)

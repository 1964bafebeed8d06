"""What residual streams at peaks do: replace them, and see how likely the gold answer still is.

The response is cut where it states its answer, the gold answer is put there, and its log-probability is read with the
stream at some earlier steps replaced: at peaks, at as many steps that are no peaks and lie near them, or at thinking
tokens. Replaced by a mean stream (mean-ablation) or by another problem's at the same place (resampling); both at the
site and layer whose nHSIC the peaks are of. Steps count as in decoding: step t predicts token t.

The mean is over all steps of the responses that calibrate the study, with the same weight a step; a problem among them
has its own steps in it too. The partner of a problem is one of the problems that calibrate the study, never itself,
chosen by lot from the two ids alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.grading import extract_answer, full_text
from analyses.stats import accuracy_difference, holm, paired_bootstrap, paired_test
from analyses.store.run import Cell
from analyses.studies.base import CellContent, Condition, Study, StudyData, counted, span, stable_order
from analyses.studies.lab import Lab
from analyses.studies.options import option, seed_option
from analyses.studies.setup import Setup, layers_of, scored_layers
from analyses.work.scheduler import Report
from interp.errors import InputError
from interp.interventions import MeanAblate, PatchResidual
from interp.interventions.suppress import flat_ids
from interp.prompts import encode_text
from interp.protocol import Intervention
from interp.reading import score
from interp.rollout import Rollout
from probes import tukey_peaks

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Ablate"]

_PLACES, _METHODS = ("peaks", "others", "thinking"), ("mean", "resample")


@dataclass(frozen=True)
class Ablate(Study):
    """Answer log-probability (nats) and whether greedy decoding would state the gold answer, with steps replaced.

    Intervals are bootstraps over problems, p is the sign-flip test over problems of the log-probability's change, and
    p_holm is corrected for all rows of the table.

    Options:
        layers: "all" (those whose nHSIC the run has), or numbers separated by commas.
        places: peaks, others (as many steps near them that are no peaks), thinking.
        methods: mean, resample.
        seed: of the choice of other steps and of partners.
    """

    name: ClassVar[str] = "ablate"
    title: ClassVar[str] = "What happens without the residual streams at peaks"
    source: ClassVar[str] = "goes beyond the paper: a causal test of its peaks"

    layers: str = option("all", layers=True)
    places: tuple[str, ...] = option(_PLACES, among=_PLACES)
    methods: tuple[str, ...] = option(_METHODS, among=_METHODS)
    seed: int = seed_option()

    def check(self, setup: Setup) -> None:
        self._layers(setup)
        if "resample" in self.methods and len(setup.calibrating) < 2:
            raise InputError(
                "study ablate",
                expected="at least two problems to calibrate from: a response is replaced by another problem's",
                received=str(len(setup.calibrating)),
                remedy="Give more problems or a larger --calibrate, or leave resample out.",
            )

    def _layers(self, setup: Setup) -> tuple[int, ...]:
        needs_scores = self.layers == "all" or setup.site == "ln_final" or set(self.places) != {"thinking"}
        return (scored_layers if needs_scores else layers_of)(self.layers, setup, "study ablate")

    def calibrate(self, lab: Lab) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        values = {"partners": list(lab.calibrating)} if "resample" in self.methods else {}
        return values, _means(lab, self._layers(lab)) if "mean" in self.methods else {}

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        layers = self._layers(lab)
        plans = [{"method": m, "place": p, "layer": n} for m in self.methods for p in self.places for n in layers]
        none = [Condition("untouched", {"method": "none", "place": "none", "layer": -1})]
        return none + [Condition(f"{p['method']}-{p['place']}-{p['layer']}", p) for p in plans]

    def do(self, lab: Lab, condition: Condition, cells: Sequence[Cell], report: Report) -> list[CellContent]:
        plan = condition.columns
        found: list[CellContent] = []
        for cell in cells:
            rollout = lab.rollout(Cell(cell.problem, cell.sample))
            cut, gold = _gold_at_answer(lab, rollout, lab.problems[cell.problem].answer)
            steps: list[int] = []
            edits: list[Intervention] = []
            if cut is not None and plan["method"] != "none":
                steps = [step for step in self._steps(lab, cell, rollout, plan) if step < cut]
            if steps and plan["method"] == "mean":
                mean = lab.calibration.tensor(f"mean.{plan['layer']}")
                edits = [MeanAblate(mean, plan["layer"], steps, site=lab.site)]
            elif steps:
                source = _another(lab, cell, plan["layer"], self.seed)
                moved = {step: step % len(source) for step in steps}
                edits = [PatchResidual(source, plan["layer"], moved, site=lab.site)]
            if cut is None:
                found.append(({}, {"status": "no answer stated", "steps": 0}))
                continue
            response = [*rollout.token_ids[:cut].tolist(), *gold]
            logprobs, is_greedy = score(
                lab.model, [rollout.prompt_ids], [response], interventions=edits, last=len(gold)
            )[0]
            report(len(response))
            payload = {"status": "scored", "steps": len(steps), "logprob": float(logprobs.sum()),
                       "says_gold": bool(is_greedy.all())}  # fmt: skip
            found.append(({}, payload))
        return found

    def _steps(self, lab: Lab, cell: Cell, rollout: Rollout, plan: Mapping[str, Any]) -> Iterable[int]:
        if plan["place"] == "thinking":
            return torch.isin(rollout.token_ids, torch.tensor(flat_ids(lab.words))).nonzero()[:, 0].tolist()
        mi = lab.scores(cell)[lab.layers.index(plan["layer"])]
        peaks = tukey_peaks(mi, lab.options.tau).nonzero()[:, 0].tolist()
        if plan["place"] == "peaks":
            return peaks
        return _near(peaks, set(range(len(rollout))) - set(peaks), f"{self.seed}:{cell.problem}:{plan['layer']}")

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd

        rows = []
        for cell in data.cells():
            payload = data.run.read(cell).payload
            if payload["status"] == "scored":
                plan = data.conditions[cell.condition].columns
                rows.append(
                    {"condition": cell.condition, **plan, "problem": cell.problem, "sample": cell.sample, **payload}
                )
        names = [
            "condition",
            "method",
            "place",
            "layer",
            "problem",
            "sample",
            "status",
            "steps",
            "logprob",
            "says_gold",
        ]
        cells = pd.DataFrame(rows, columns=names).drop(columns="status")
        keys = ["problem", "sample"]
        untouched = cells[cells["method"] == "none"].set_index(keys)
        found = []
        for condition, part in cells[cells["method"] != "none"].groupby("condition", sort=False):
            acted = part[part["steps"] > 0].set_index(keys)
            acted = acted[acted.index.isin(untouched.index)]  # a failed cell has nothing to compare with
            base = untouched.loc[acted.index]
            problem = acted.index.get_level_values("problem").astype(str).to_numpy()
            row = {**data.conditions[str(condition)].columns, "n": len(acted), "problems": len(set(problem)),
                   "left_out": len(part) - len(acted), "p": float("nan")}  # fmt: skip
            if len(acted):
                row["steps"] = acted["steps"].mean()
                for value, difference in (("logprob", paired_bootstrap), ("says_gold", accuracy_difference)):
                    after, before = (t[value].to_numpy(dtype=float) for t in (acted, base))
                    gap = difference(after, before, seed=self.seed, clusters=problem)
                    row |= {value: after.mean(), f"{value}_untouched": before.mean(), f"{value}_change": gap.estimate,
                            f"{value}_low": gap.low, f"{value}_high": gap.high}  # fmt: skip
                    if value == "logprob":
                        row["p"] = paired_test(after, before, clusters=problem, seed=self.seed)
            found.append(row)
        table = pd.DataFrame(found)
        if len(table):
            table["p_holm"] = holm(table["p"])
        return {"ablate": table, "ablate_cells": cells}

    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        from analyses.views.curves import lines

        table = tables["ablate"]
        if table.empty or not table["n"].any():
            return []
        return [
            lines(table, x="layer", y="logprob_change", low="logprob_low", high="logprob_high", by=["method", "place"],
                  reference=0.0, title="Change of the gold answer's log-probability (nats)")
        ]  # fmt: skip

    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        table = tables["ablate"]
        if table.empty:
            return ["No response states an answer: there is nothing whose likelihood could change."]
        return [
            f"{row['method']} at {row['place']}, layer {row['layer']}: log-probability of the gold answer "
            f"{row['logprob_change']:+.2f} nats {span(row['logprob_low'], row['logprob_high'], '+.2f')}, "
            f"{row['steps']:.1f} steps replaced on average, {counted(row['n'], row['problems'])} "
            f"({row['left_out']} responses without such steps), p = {row['p_holm']:.2g} after Holm over "
            f"{int(table['p'].notna().sum())} comparisons."
            for row in table.to_dict("records")
            if row["n"]
        ] + ["Nothing reads the last block's output at earlier positions: there every change is 0 by construction."]


def _gold_at_answer(lab: Lab, rollout: Rollout, gold: str) -> tuple[int | None, list[int]]:
    """The step that begins the stated answer, and the gold answer's tokens as they would stand there."""
    stated = extract_answer(full_text(rollout.text, rollout.tokens)).text
    tokens = rollout.tokens
    gap = "" if any(" " in token for token in tokens) else " "
    starts = [0]
    for token in tokens:
        starts.append(starts[-1] + len(token) + len(gap))
    place = gap.join(tokens).rfind(stated) if stated else -1
    if place < 0:
        return None, []
    cut = max(step for step in range(len(tokens)) if starts[step] <= place)
    before = tokens[cut][: place - starts[cut]]
    return cut, encode_text(lab.model.tokenizer, before + gold, "ablate", special=False)


def _near(peaks: Sequence[int], free: set[int], seed: str) -> list[int]:
    """For each peak the nearest step that is free, ties by lot."""
    dice, chosen = random.Random(seed), []
    for peak in peaks:
        if free:
            nearest = min(free, key=lambda step: (abs(step - peak), dice.random()))
            free.discard(nearest)
            chosen.append(nearest)
    return sorted(chosen)


def _means(lab: Lab, layers: Sequence[int]) -> dict[str, Float[Tensor, " d_model"]]:
    """Mean residual stream of each layer over all steps of the responses that calibrate the study."""
    totals, count = torch.zeros(len(layers), lab.facts.d_model, dtype=torch.float64), 0
    for cell in (Cell(problem) for problem in lab.calibrating):
        if lab.baseline.has(cell):
            streams = lab.tracer.read_steps(lab.read(cell), layers)
            totals, count = totals + streams.cpu().double().sum(1), count + streams.shape[1]
    return {f"mean.{layer}": (total / count).float() for layer, total in zip(layers, totals, strict=True)}


def _another(lab: Lab, cell: Cell, layer: int, seed: int) -> Rollout:
    """The baseline's response to the problem's partner, with its stream at one layer."""
    others = [problem for problem in lab.calibration.of("partners") if problem != cell.problem]
    if not others:
        raise InputError(
            "ablate by resampling",
            expected="a finished response to another problem among those that calibrate the study",
            received="none",
            remedy="See failures.json of the baseline.",
        )
    # By lot for each pair of ids, so that other problems do not change whose partner is whose.
    partner = Cell(stable_order(others, f"{seed}:{cell.problem}")[0])
    source = lab.rollout(partner)
    stream = lab.keep(
        ("stream", partner.problem, layer), lambda: lab.tracer.read_steps(lab.read(partner), [layer]).cpu()
    )
    source.residuals, source.layers = {lab.site: stream}, (layer,)
    return source

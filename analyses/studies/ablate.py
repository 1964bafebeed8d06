"""What residual streams at peaks do: replace them, and see how likely the gold answer still is.

The response is cut where it states its answer, the gold answer is put there, and its log-probability is read with the
stream at some earlier steps replaced: at peaks, at as many steps that are no peaks and lie near them, or at thinking
tokens. Replaced by the mean stream of all responses (mean-ablation) or by another problem's at the same place
(resampling). Steps count as in decoding: step t predicts token t.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.grading import extract_answer, full_text
from analyses.scheduler import Report
from analyses.stats import accuracy_difference, holm, paired_bootstrap, paired_test
from analyses.store import Cell
from analyses.studies.base import CellContent, Condition, Lab, Study, StudyData, counted, layers_of, span
from interp.encoding import encode
from interp.errors import InputError
from interp.interventions import MeanAblate, PatchResidual
from interp.interventions.suppress import flat_ids
from interp.prompts import encode_text
from interp.protocol import Intervention
from interp.record import ResidualSites
from interp.rollout import Rollout
from interp.scoring import score
from probes import tukey_peaks

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Ablate"]


@dataclass(frozen=True)
class Ablate(Study):
    """Answer log-probability (nats) and whether greedy decoding would state the gold answer, with steps replaced.

    Intervals are bootstraps over problems, p is the sign-flip test over problems of the log-probability's change, and
    p_holm is corrected for all rows of the table.

    Options:
        layers: "all", or numbers separated by commas.
        places: peaks, others (as many steps near them that are no peaks), thinking.
        methods: mean, resample.
        seed: of the choice of other steps.
    """

    name: ClassVar[str] = "ablate"
    title: ClassVar[str] = "What happens without the residual streams at peaks"
    source: ClassVar[str] = "goes beyond the paper: a causal test of its peaks"

    layers: str = "all"
    places: tuple[str, ...] = ("peaks", "others", "thinking")
    methods: tuple[str, ...] = ("mean", "resample")
    seed: int = 0

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        have = set(lab.baseline.settings["layers"])
        layers = [layer for layer in layers_of(self.layers, lab, "ablate") if layer in have]
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
                edits = [MeanAblate(_mean(lab, plan["layer"]), plan["layer"], steps)]
            elif steps:
                source = _another(lab, cell, plan["layer"])
                edits = [PatchResidual(source, plan["layer"], {step: step % len(source) for step in steps})]
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

    def _steps(self, lab: Lab, cell: Cell, rollout: Rollout, plan: Mapping[str, object]) -> Iterable[int]:
        data = lab.baseline.read(Cell(cell.problem, cell.sample))
        mi = data.tensors["mi"][data.payload["layers"].index(plan["layer"])]
        peaks = tukey_peaks(mi, lab.options.tau).nonzero()[:, 0].tolist()
        thinking = torch.isin(rollout.token_ids, torch.tensor(flat_ids(lab.words))).nonzero()[:, 0].tolist()
        if plan["place"] == "peaks":
            return peaks
        if plan["place"] == "thinking":
            return thinking
        if plan["place"] == "others":
            return _near(peaks, set(range(len(rollout))) - set(peaks), f"{self.seed}:{cell.problem}:{plan['layer']}")
        raise InputError(
            "ablate", expected="places peaks, others or thinking", received=str(plan["place"]), remedy="Choose some."
        )

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
        ] + ["Nothing reads the last block's stream at earlier positions: there every change is 0 by construction."]


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


@cache
def _mean(lab: Lab, layer: int) -> Float[Tensor, " d_model"]:
    """Mean residual stream over all steps of all the baseline's responses."""
    total, count = torch.zeros(lab.facts.d_model, dtype=torch.float64), 0
    for rollout in lab.rollouts():
        stream = _stream(lab, rollout, layer)
        total, count = total + stream.double().sum(0).cpu(), count + len(stream)
    return (total / count).float()


def _stream(lab: Lab, rollout: Rollout, layer: int) -> Float[Tensor, "step d_model"]:
    text = torch.cat([rollout.prompt_ids, rollout.token_ids])[:-1]
    residuals = encode(lab.model, [text], record=ResidualSites(layers=layer))[0].residuals["resid_post"][0]
    return residuals[len(rollout.prompt_ids) - 1 :]


def _another(lab: Lab, cell: Cell, layer: int) -> Rollout:
    """The baseline's response to the next problem, with its stream at one layer."""
    cells = [Cell(c.problem, c.sample) for c in lab.cells() if lab.baseline.has(c) and c.sample == cell.sample]
    if len(cells) < 2:
        raise InputError(
            "ablate by resampling", expected="at least two problems", received=str(len(cells)), remedy="Add problems."
        )
    place = cells.index(Cell(cell.problem, cell.sample))
    source = lab.rollout(cells[(place + 1) % len(cells)])
    source.residuals = {"resid_post": _stream(lab, source, layer)[None]}
    source.layers = (layer,)
    return source

"""Representation recycling (Fig. 6 of arXiv 2506.02867): accuracy over layers, probabilities, repeats and gates.

Gates at one layer: a thinking token comes next, the step is an MI peak, the next token is uncertain, and random
positions. Uncertainty and chance open as often as thinking tokens come in the baseline, so that the number of recycled
positions is alike and only their place differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from analyses.gates import mi_above
from analyses.stats import accuracy_table
from analyses.store import Cell
from analyses.studies.base import Condition, Lab, Study, StudyData, accuracy_reading, layers_of
from interp.errors import InputError
from interp.interventions import Recompute, RecycleRepresentation, at_random, uncertain
from interp.interventions.suppress import flat_ids
from interp.protocol import Intervention
from interp.sites import resolve_layers

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Recycle"]


@dataclass(frozen=True)
class Recycle(Study):
    """RR at each layer, then variants at one layer.

    Options:
        layers: "all", or numbers separated by commas, negative from the end.
        variants_at: the layer of the variants (the paper's is 23 of 32: about three quarters up unless given).
        probabilities, repeats, triggers, gates: tried one at a time at that layer.
    """

    name: ClassVar[str] = "recycle"
    title: ClassVar[str] = "Accuracy with recycled representations"
    source: ClassVar[str] = "Fig. 6"

    layers: str = "all"
    variants_at: int = -1000
    probabilities: tuple[float, ...] = (0.5,)
    repeats: tuple[int, ...] = (2, 3)
    triggers: tuple[str, ...] = ("input",)
    gates: tuple[str, ...] = ("mi", "entropy", "random")

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        count = lab.facts.n_layers
        at = resolve_layers([round(0.72 * count) if self.variants_at == -1000 else self.variants_at], count)[0]
        plans = [_plan(layer) for layer in layers_of(self.layers, lab, "recycle")]
        plans += [_plan(at, probability=p) for p in self.probabilities]
        plans += [_plan(at, repeats=r) for r in self.repeats]
        plans += [_plan(at, trigger=t) for t in self.triggers]
        plans += [_plan(at, gate=g) for g in self.gates]
        named = {"-".join(f"{k}={v}" for k, v in plan.items()): plan for plan in plans}
        return [Condition(name, plan, partial(_recycle, plan)) for name, plan in named.items()]

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd

        table = accuracy_table(data.responses(), by="condition", baseline="baseline")
        acted = [
            {"condition": cell.condition, "recycled": len({event["step"] for event in payload["events"]}),
             "steps": len(payload["tokens"])}
            for cell in data.cells()
            for payload in [data.run.read(cell).payload]
        ]  # fmt: skip
        columns = pd.DataFrame([{"condition": c.name, **c.columns} for c in data.conditions.values()])
        totals = pd.DataFrame(acted).groupby("condition", as_index=False).sum()
        totals["recycled_share"] = totals["recycled"] / totals["steps"]
        found = table.merge(columns, on="condition", how="left")
        return {"recycle": found.merge(totals[["condition", "recycled_share"]], on="condition", how="left")}

    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        from analyses.views.curves import lines

        frame = tables["recycle"]
        usual = (frame["gate"] == "thinking") & (frame["trigger"] == "predicted") & (frame["repeats"] == 1)
        over_layers = frame[usual & (frame["probability"] == 1)]
        base = float(frame.loc[frame["condition"] == "baseline", "accuracy"].iloc[0])
        return [lines(over_layers, x="layer", y="accuracy", low="low", high="high", reference=base, title=self.title)]

    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        return accuracy_reading(tables["recycle"])


def _plan(
    layer: int, gate: str = "thinking", trigger: str = "predicted", probability: float = 1.0, repeats: int = 1
) -> dict[str, Any]:
    return {"layer": layer, "gate": gate, "trigger": trigger, "probability": probability, "repeats": repeats}


def _recycle(plan: Mapping[str, Any], lab: Lab, cells: Sequence[Cell]) -> list[Intervention]:
    layer, gate, repeats = plan["layer"], plan["gate"], plan["repeats"]
    if gate == "thinking":
        return [RecycleRepresentation(layer, lab.words, plan["probability"], repeats, plan["trigger"])]
    if gate == "mi":
        if lab.options.site != "resid_post":
            raise InputError(
                "recycle at MI peaks",
                expected="a baseline scored at resid_post",
                received=lab.options.site,
                remedy="Leave --site out, or drop the gate mi.",
            )
        opens = mi_above(*_tukey(lab, cells, layer), layer, lab.options.sigma, lab.options.eps)
    elif gate == "random":
        opens = at_random(_thinking_rate(lab))
    elif gate == "entropy":
        entropies = torch.cat([rollout.entropy for rollout in lab.rollouts()])
        opens = uncertain(float(entropies.quantile(1 - _thinking_rate(lab))))
    else:
        raise InputError("recycle", expected="gates mi, entropy or random", received=gate, remedy="Choose some.")
    return [Recompute(layer, layer, opens, repeats, label=f"Recycle at {gate}")]


def _thinking_rate(lab: Lab) -> float:
    """Share of the baseline's steps that emit a thinking token."""
    ids = torch.cat([rollout.token_ids for rollout in lab.rollouts()])
    return float(torch.isin(ids, torch.tensor(flat_ids(lab.words))).double().mean())


def _tukey(lab: Lab, cells: Sequence[Cell], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each problem's answer and its baseline's peak threshold, Q3 + tau IQR."""
    thresholds = []
    for cell in cells:
        data = lab.baseline.read(Cell(cell.problem, cell.sample))
        mi = data.tensors["mi"][data.payload["layers"].index(layer)]
        quartiles = mi.quantile(torch.tensor([0.25, 0.75], dtype=mi.dtype))
        thresholds.append(quartiles[1] + lab.options.tau * (quartiles[1] - quartiles[0]))
    answers = torch.cat([lab.tracer.answers(cell.problem, [layer]) for cell in cells])
    return answers, torch.stack(thresholds)

"""Representation recycling (Fig. 6 of arXiv 2506.02867): accuracy over layers, probabilities, repeats and gates.

Gates at one layer: a thinking token comes next, the step is an MI peak (by the run's own measure, above the threshold
of the problem's own baseline response), the next token is uncertain, and random positions. Uncertainty and chance open
as often as thinking tokens come in the baseline, so that the number of recycled positions is alike and only their place
differs: the rate, and the entropy exceeded that often, are of the problems that calibrate the study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from analyses.stats import accuracy_table
from analyses.store.run import Cell
from analyses.studies.base import Condition, Study, StudyData, accuracy_reading
from analyses.studies.gates import mi_above
from analyses.studies.lab import Lab
from analyses.studies.options import option
from analyses.studies.setup import Setup, layers_of, scored_layers
from interp.interventions import Recompute, RecycleRepresentation, at_random, uncertain
from interp.interventions.suppress import flat_ids
from interp.protocol import Intervention
from interp.rows import Event
from interp.sites import Site, resolve_layers

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

    layers: str = option("all", layers=True)
    variants_at: int = option(-1000, unset=True)
    probabilities: tuple[float, ...] = option((0.5,), above=0, most=1, empty=True)
    repeats: tuple[int, ...] = option((2, 3), least=1, empty=True)
    triggers: tuple[str, ...] = option(("input",), among=("predicted", "input"), empty=True)
    gates: tuple[str, ...] = option(("mi", "entropy", "random"), among=("mi", "entropy", "random"), empty=True)

    def check(self, setup: Setup) -> None:
        layers_of(self.layers, setup, "study recycle")
        at = self._variants_at(setup)
        if "mi" in self.gates and setup.site != "ln_final":
            scored_layers(str(at), setup, "study recycle, gate mi at variants_at")

    def layer_options(self) -> dict[str, list[int]]:
        at = {} if self.variants_at == -1000 else {"variants_at": [self.variants_at]}
        return {**super().layer_options(), **at}

    def calibrates(self, setup: Setup) -> bool:
        return bool({"random", "entropy"} & set(self.gates))

    def calibrate(self, lab: Lab) -> tuple[Mapping[str, Any], Mapping[str, torch.Tensor]]:
        rollouts = lab.calibration_rollouts()
        ids = torch.cat([rollout.token_ids for rollout in rollouts])
        rate = float(torch.isin(ids, torch.tensor(flat_ids(lab.words))).double().mean())
        entropies = torch.cat([rollout.entropy for rollout in rollouts]).double()
        # numpy: torch refuses quantiles of more than 16 million values
        return {"thinking_rate": rate, "entropy_threshold": float(np.quantile(entropies.numpy(), 1 - rate))}, {}

    def _variants_at(self, setup: Setup) -> int:
        count = setup.facts.n_layers
        at = min(count - 1, round(0.72 * count)) if self.variants_at == -1000 else self.variants_at
        return resolve_layers([at], count, "study recycle, variants_at")[0]

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        at = self._variants_at(lab)
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
            {"condition": cell.condition, "recycled": len({e["step"] for e in payload["events"] if Event(**e).is_act}),
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
    watched: tuple[Site, ...] = ()
    if gate == "mi":
        scored = 0 if lab.site == "ln_final" else layer  # of ln_final there is one for all layers
        watched = (Site(lab.site, scored),)
        opens = mi_above(*_tukey(lab, cells, scored), watched[0], lab.tracer.score)
    elif gate == "random":
        opens = at_random(lab.calibration.of("thinking_rate"))
    else:
        opens = uncertain(lab.calibration.of("entropy_threshold"))
    return [Recompute(layer, layer, opens, repeats, label=f"Recycle at {gate}", also_reads=watched)]


def _tukey(lab: Lab, cells: Sequence[Cell], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each problem's answer and its baseline's peak threshold, Q3 + tau IQR (NaN without scores: never exceeded)."""
    row = lab.layers.index(layer)
    thresholds = []
    for cell in cells:
        mi = lab.scores(cell)[row]
        mi = mi[mi.isfinite()]
        if not len(mi):
            thresholds.append(torch.tensor(torch.nan, dtype=torch.float64))
            continue
        quartiles = torch.from_numpy(np.quantile(mi.numpy(), (0.25, 0.75)))
        thresholds.append(quartiles[1] + lab.options.tau * (quartiles[1] - quartiles[0]))
    answers = torch.cat([lab.tracer.answers(cell.problem, [layer]) for cell in cells])
    return answers, torch.stack(thresholds)

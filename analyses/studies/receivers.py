"""Receiver heads (arXiv 2506.19143): accuracy and repairs without the heads whose attention narrows on thinking.

The heads are found on every second of the problems that calibrate the study, and judged on all others alone. They are
ablated on ``z``, so that what a head writes becomes nothing, or its mean over the responses that it was found on. The
control ablates as many other heads of the same layers. Tables compare the two problem by problem.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from analyses.attribution import ReceiverHeads, random_heads, receiver_heads, sentence_receivers
from analyses.attribution.receiver_ablation import head_means
from analyses.attribution.receiver_result import head_name
from analyses.stats import accuracy_difference, accuracy_table, holm, paired_bootstrap, paired_test
from analyses.store.run import Cell
from analyses.studies.base import Condition, Study, StudyData, counted, span
from analyses.studies.lab import Lab
from analyses.studies.options import option, seed_option
from analyses.studies.setup import Setup, layers_of
from analyses.toys.written import written_operations
from interp.errors import InputError
from interp.interventions import HeadAblate
from interp.interventions.suppress import flat_ids
from interp.rollout import Rollout
from probes import tukey_peaks

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Receivers"]

_BY, _HOW = ("words", "peaks", "sentences"), ("mean", "zero")
_MEASURES = {"accuracy": 100, "repair rate": 100, "ordinary steps": 100, "thinking words": 1}
"""What is compared, and by what it is multiplied where it is told in points or a hundred tokens."""

Heads = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Receivers(Study):
    """Ablate the first heads by how far their attention narrows; ablate as many others of their layers, several times.

    Measures: ``accuracy``; ``thinking words``, in 100 tokens; on the toys, where slips are known, ``repair rate``, the
    share of slips that are repaired among those at facts which the planted mechanism repairs, and ``ordinary steps``,
    the share of operations that are right among those at facts where it never slips. Intervals are bootstraps over
    problems, p is the sign-flip test over problems, p_holm is corrected for all rows of the table.

    Options:
        by: words (thinking words against matched tokens), peaks (of the last layer scored, likewise), sentences
            (kurtosis of what sentences receive).
        counts: numbers of heads; at most half of a layer's are taken, so that as many are left for the control.
        how: mean, zero.
        layers: "all" (whose heads are ranked), or numbers separated by commas.
        draws: of control heads, for each count.
        gap: attention to what is nearer than this is left out, in tokens or sentences.
        seed: of the draws.
    """

    name: ClassVar[str] = "receivers"
    title: ClassVar[str] = "What responses lose without receiver heads"
    source: ClassVar[str] = "goes beyond the paper: receiver heads of arXiv 2506.19143, ablated"

    by: str = option("words", among=_BY)
    counts: tuple[int, ...] = option((1, 3, 20), least=1)
    how: tuple[str, ...] = option(_HOW, among=_HOW)
    layers: str = option("all", layers=True)
    draws: int = option(3, least=1)
    gap: int = option(4, least=1)
    seed: int = seed_option()

    def check(self, setup: Setup) -> None:
        layers_of(self.layers, setup, "study receivers")
        heads = setup.facts.n_heads or 0
        if heads < 2:
            raise InputError(
                "study receivers",
                expected="a model with at least two heads in a layer, so that one is left for the control",
                received=f"{setup.facts.name} with {heads or 'none'}",
                remedy="Choose another model.",
            )
        finding = setup.calibrating[::2]
        if set(setup.problems) <= set(finding):
            raise InputError(
                "study receivers",
                expected="problems beyond those that heads are found on, every second of those that calibrate",
                received=f"{len(setup.problems)} of {', '.join(finding[:3])}{', ...' if len(finding) > 3 else ''}",
                remedy="Give more problems.",
            )

    def calibrate(self, lab: Lab) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        cells, half = [Cell(problem) for problem in lab.calibrating[::2]], (lab.facts.n_heads or 0) // 2
        rollouts = [lab.rollout(cell) for cell in cells]
        found = self._found(lab, cells, rollouts)
        heads = found.heads(max(self.counts), at_most=half)
        counts = sorted({min(count, len(heads)) for count in self.counts})
        controls = {
            str(count): random_heads(heads[:count], lab.facts.n_heads or 0, self.draws, self.seed + count)
            for count in counts
        }
        values = {
            "heads": heads,
            "controls": controls,
            "found_on": [cell.problem for cell in cells],
            "score": found.settings["score"],
            "reliability": _plain(found.reliability),
            "ranking": [{str(name): _plain(row[name]) for name in row} for row in found.table.to_dict("records")],
        }
        if "mean" not in self.how:
            return values, {}
        layers = sorted({layer for layer, _ in heads})
        means = head_means(lab.model, rollouts, layers)
        return values, {f"mean.{layer}.{head}": mean for (layer, head), mean in means.items()}

    def _found(self, lab: Lab, cells: Sequence[Cell], rollouts: Sequence[Rollout]) -> ReceiverHeads:
        common: dict[str, Any] = {
            "layers": list(layers_of(self.layers, lab, "study receivers")),
            "problems": [cell.problem for cell in cells],
            "gap": self.gap,
            "seed": self.seed,
        }
        if self.by == "sentences":
            return sentence_receivers(lab.model, rollouts, **common)
        if self.by == "words":
            return receiver_heads(lab.model, rollouts, lab.words, **common)
        steps = [tukey_peaks(lab.scores(cell)[-1], lab.options.tau).nonzero()[:, 0].tolist() for cell in cells]
        return receiver_heads(lab.model, rollouts, steps=steps, **common)

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        heads, controls = lab.calibration.of("heads"), lab.calibration.of("controls")
        found = []
        for how in self.how:
            for count, drawn in controls.items():
                arms = [("receivers", 0, heads[: int(count)]), *(("control", n, some) for n, some in enumerate(drawn))]
                for kind, draw, some in arms:
                    listed = " ".join(head_name(*head) for head in some)
                    columns = {"how": how, "kind": kind, "heads": int(count), "draw": draw, "list": listed}
                    found.append(Condition(f"{how}-{kind}-{count}-{draw}", columns, partial(_without, some, how)))
        return found

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd

        calibration, graded = data.lab.calibration, data.responses()
        graded = graded[~graded["problem"].isin(calibration.of("found_on"))]
        responses = graded[["condition", "problem", "sample", "correct"]].merge(
            pd.DataFrame(self._said(data), columns=["condition", "problem", "sample", *_SAID]),
            on=["condition", "problem", "sample"], how="left",
        )  # fmt: skip
        columns = pd.DataFrame([{"condition": c.name, **c.columns} for c in data.conditions.values()])
        responses = responses.merge(columns, on="condition", how="left")
        draws = accuracy_table(graded, by="condition", baseline="baseline").merge(columns, on="condition", how="left")
        ranking = pd.DataFrame(calibration.of("ranking"))
        ranking = ranking.assign(reliability=calibration.of("reliability"), by=calibration.of("score"))
        rows = [
            self._compared(responses, how, count, measure)
            for how in self.how
            for count in sorted(map(int, calibration.of("controls")))
            for measure in _MEASURES
        ]
        table = pd.DataFrame([row for row in rows if row["n"] or row["measure"] == "accuracy"])
        table.insert(list(table.columns).index("list"), "p_holm", holm(table["p"]))
        return {
            "receivers": table,
            "receivers_heads": ranking,
            "receivers_draws": draws,
            "receivers_responses": responses,
        }

    def _said(self, data: StudyData) -> list[dict[str, Any]]:
        """What each response says: words, and on the toys operations."""
        ids, found = set(flat_ids(data.lab.words)), []
        baseline = [(cell, data.lab.baseline) for cell in data.lab.cells() if data.lab.baseline.has(cell)]
        for cell, run in [*baseline, *((cell, data.run) for cell in data.cells())]:
            held = run.read(cell)
            tokens = held.tensors["token_ids"].tolist()
            about = {"condition": cell.condition, "problem": cell.problem, "sample": cell.sample, "tokens": len(tokens)}
            row = {**about, "words": sum(token in ids for token in tokens)}
            if data.lab.is_toy:
                written = written_operations(held.payload["tokens"])
                slips, ordinary = ([one for one in written if one.is_slip], [one for one in written if one.is_ordinary])
                row |= {"slips": len(slips), "repaired": sum(one.is_repaired for one in slips),
                        "ordinary": len(ordinary), "ordinary_right": sum(one.is_right for one in ordinary)}  # fmt: skip
            found.append(row)
        return found

    def _compared(self, responses: pandas.DataFrame, how: str, count: int, measure: str) -> dict[str, Any]:
        part = responses[(responses["how"] == how) & (responses["heads"] == count)]
        arms = {"receivers": part[part["kind"] == "receivers"], "control": part[part["kind"] == "control"],
                "baseline": responses[responses["condition"] == "baseline"]}  # fmt: skip
        row: dict[str, Any] = {"how": how, "heads": count, "measure": measure}
        means = {name: _by_problem(rows, measure) for name, rows in arms.items()}
        shared = means["receivers"].index.intersection(means["control"].index)
        mine, other = (means[name].reindex(shared).to_numpy(dtype=float) for name in ("receivers", "control"))
        row |= {"n": len(shared), "problems": len(shared)}
        names = ("baseline", "receivers", "control", "difference", "low", "high", "p")
        row |= dict.fromkeys(names, math.nan)
        if len(shared):
            difference = paired_bootstrap if measure == "thinking words" else accuracy_difference
            gap = difference(mine, other, seed=self.seed)
            plain, p = means["baseline"].reindex(shared).mean(), paired_test(mine, other, seed=self.seed)
            values = (plain, mine.mean(), other.mean(), gap.estimate, gap.low, gap.high, p)
            row |= {name: float(value) for name, value in zip(names, values, strict=True)}
        listed = arms["receivers"]["list"].dropna()
        return {**row, "list": listed.iloc[0] if len(listed) else ""}

    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        from analyses.views.curves import lines
        from analyses.views.grids import sweep

        table, ranking = tables["receivers"], tables["receivers_heads"]
        views = []
        if table["n"].any():
            shown = table[table["n"] > 0].assign(scale=lambda t: t["measure"].map(_MEASURES))
            shown = shown.assign(**{name: shown[name] * shown["scale"] for name in ("difference", "low", "high")})
            views.append(
                lines(shown, x="heads", y="difference", low="low", high="high", by=["measure", "how"], reference=0.0,
                      title="Receiver heads less other heads of their layers (points; words in 100 tokens)")
            )  # fmt: skip
        score = ranking.rename(columns={"score": "effect"}).astype({"effect": float})
        views.append(
            sweep(score[["layer", "head", "effect"]], title="Receiver heads", label=str(ranking["by"].iloc[0]))
        )
        return views

    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        table, ranking = tables["receivers"], tables["receivers_heads"]
        reliability = ranking["reliability"].iloc[0]
        told = "undefined" if reliability is None or math.isnan(reliability) else f"{reliability:.2f}"
        said = [
            f"Heads are ranked by {ranking['by'].iloc[0]}, reliability (even against odd problems) r = {told}, on "
            "every second of the problems that calibrate the study; the numbers are of all others alone."
        ]
        tests = int(table["p"].notna().sum())
        for row in table.to_dict("records"):
            what = f"{row['measure']}, {row['how']}, {row['heads']} head{'s' * (row['heads'] != 1)} ({row['list']})"
            if not row["n"]:
                said.append(f"{what}: no problem has graded responses of both kinds.")
                continue
            scale, unit = _MEASURES[row["measure"]], "points" if _MEASURES[row["measure"]] == 100 else "in 100 tokens"
            form = "{:.1%}" if scale == 100 else "{:.2f}"
            mine, other, plain = (form.format(row[name]) for name in ("receivers", "control", "baseline"))
            said.append(
                f"{what}: {mine} without them, {other} without as many others of their layers ({plain} untouched); "
                f"difference {scale * row['difference']:+.1f} {unit} {span(row['low'], row['high'], '+.1f', scale)}, "
                f"{counted(row['n'], row['problems'])}, p = {row['p_holm']:.2g} after Holm over {tests} comparisons."
            )
        return said


_SAID = ("tokens", "words", "slips", "repaired", "ordinary", "ordinary_right")


def _by_problem(responses: pandas.DataFrame, measure: str) -> pandas.Series[float]:
    """The measure by problem: the mean over responses that have one, draws and samples alike."""
    frame = responses.assign(correct=responses["correct"].astype("Float64").astype(float))
    made: dict[str, Any] = {
        "accuracy": lambda t: t["correct"],
        "repair rate": lambda t: t["repaired"].astype(float) / t["slips"].where(t["slips"] > 0).astype(float),
        "ordinary steps": lambda t: (
            t["ordinary_right"].astype(float) / t["ordinary"].where(t["ordinary"] > 0).astype(float)
        ),
        "thinking words": lambda t: 100 * t["words"].astype(float) / t["tokens"].astype(float),
    }
    return frame.assign(value=made[measure]).groupby("problem")["value"].mean().dropna()


def _without(heads: Heads, how: str, lab: Lab, cells: Sequence[Cell]) -> list[HeadAblate]:
    pairs = [(int(layer), int(head)) for layer, head in heads]
    if how == "zero":
        return [HeadAblate(pairs)]
    return [HeadAblate(pairs, "mean", {(n, head): lab.calibration.tensor(f"mean.{n}.{head}") for n, head in pairs})]


def _plain(value: Any) -> Any:
    """As JSON has it: no NaN, no numbers of NumPy."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return value.item() if hasattr(value, "item") else value

"""Do peaks go with being right? Peak count, cumulative and maximal nHSIC of right and wrong responses (as data)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from analyses.stats import length_matched_auc
from analyses.store.columns import SCORE
from analyses.studies.base import Study, StudyData, by_number, counted, span

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Correctness"]

_COLUMNS = [
    "layer", "measure", "right", "wrong", "problems", "auc", "low", "high",
    "matched_auc", "matched_low", "matched_high",
]  # fmt: skip
MEASURES = ("n_peaks", "cumulative_mi", "max_mi", "mean_mi", "n_steps")


@dataclass(frozen=True)
class Correctness(Study):
    """AUC of each measure for telling right responses from wrong ones, by layer; plain and matched on length.

    Wrong responses are often longer, and whatever grows with length then tells them apart: ``n_steps`` is listed as a
    measure of its own, and the matched AUC compares responses of like length only. Intervals have problems as clusters
    (Obuchowski's variance, DeLong's where each problem has one response); none is corrected for their number.
    """

    name: ClassVar[str] = "correctness"
    title: ClassVar[str] = "Peaks and nHSIC of right and wrong responses"
    source: ClassVar[str] = "the claim that peaks go with correct answers"

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd

        keys = ["problem", "sample"]
        mi = data.of_these(data.lab.baseline.table("mi.parquet", [*keys, "layer", SCORE]))
        sums = mi.groupby([*keys, "layer"], as_index=False, observed=True)[SCORE].agg(cumulative_mi="sum", max_mi="max")
        peaks = data.of_these(data.lab.baseline.peaks)[[*keys, "layer", "n_steps", "n_peaks", "mean_mi"]]
        graded = data.baseline_responses()[[*keys, "correct"]].dropna()
        scores = peaks.merge(sums, on=[*keys, "layer"]).merge(graded, on=keys)
        rows = []
        for layer, part in by_number(scores, "layer"):
            right = part["correct"].astype(bool).to_numpy()
            for measure in MEASURES:
                values = part[measure].astype(float).to_numpy()
                lengths, problem = part["n_steps"].astype(float).to_numpy(), part["problem"].astype(str).to_numpy()
                found = length_matched_auc(values, right, lengths, clusters=problem)
                plain, matched = found.unmatched, found.matched
                rows.append(
                    {"layer": layer, "measure": measure, "right": int(right.sum()), "wrong": int((~right).sum()),
                     "problems": len(set(problem)), "auc": plain.estimate, "low": plain.low, "high": plain.high,
                     "matched_auc": matched.estimate, "matched_low": matched.low, "matched_high": matched.high}
                )  # fmt: skip
        return {"correctness": pd.DataFrame(rows, columns=_COLUMNS), "correctness_responses": scores}

    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        from analyses.views.curves import lines

        if tables["correctness"]["auc"].isna().all():
            return []
        return [
            lines(tables["correctness"], x="layer", y="matched_auc", low="matched_low", high="matched_high",
                  by=["measure"], reference=0.5, title="AUC among responses of like length")
        ]  # fmt: skip

    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        table = tables["correctness"]
        last = table[table["layer"] == table["layer"].max()]
        if last["auc"].isna().all():
            if last.empty:
                return ["No response was graded: nothing to tell apart."]
            row = last.iloc[0]
            what = f"{'right' if row['right'] else 'wrong'} ({counted(row['right'] + row['wrong'], row['problems'])})"
            return [f"All responses are {what}: nothing to tell apart."]
        return [
            f"Last layer, {row['measure']}: AUC {row['auc']:.2f} {span(row['low'], row['high'])}, among responses of "
            + (
                f"like length {row['matched_auc']:.2f} {span(row['matched_low'], row['matched_high'])}"
                if row["matched_auc"] == row["matched_auc"]
                else "like length there are not both"
            )
            + f" ({row['right']} right, {row['wrong']} wrong, {counted(row['right'] + row['wrong'], row['problems'])}; "
            "0.5 tells nothing)."
            for row in last.to_dict("records")
        ] + [
            f"Intervals of {len(table)} measures and layers, each at 95 %, not corrected for their number.",
            "Where a reference ends on its answer, a step that has just read that answer resembles it: the largest "
            "nHSIC then tells right responses by the token they state, with nothing about how they came to it.",
        ]

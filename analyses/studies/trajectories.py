"""Trajectories of MI along responses and the peaks on them (Fig. 2 and Table 1 of arXiv 2506.02867)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from analyses.stats import bootstrap_interval
from analyses.studies.base import Study, StudyData, by_number, counted, span
from analyses.studies.options import option, seed_option

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Trajectories"]

STATISTICS = (
    "n_steps", "n_peaks", "ratio", "interval_max", "interval_min", "interval_mean", "mean_mi", "aom",
)  # fmt: skip


@dataclass(frozen=True)
class Trajectories(Study):
    """Peaks a response, how far apart they are and how far they stand out, by layer.

    Means are over responses, their intervals bootstraps over problems; a statistic counts where it is defined.

    Options:
        examples: responses drawn in full.
        seed: of the bootstrap.
    """

    name: ClassVar[str] = "trajectories"
    title: ClassVar[str] = "How nHSIC with the answer moves along a response"
    source: ClassVar[str] = "Fig. 2, Table 1"

    examples: int = option(3, least=1)
    seed: int = seed_option()

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd

        peaks = data.of_these(data.lab.baseline.peaks)
        rows = []
        for layer, part in by_number(peaks, "layer"):
            for statistic in STATISTICS:
                known = part.assign(value=part[statistic].astype(float)).dropna(subset=["value"])
                mean = low = high = float("nan")
                if len(known):  # no response of this layer may have two peaks, say
                    problem = known["problem"].astype(str).to_numpy()
                    found = bootstrap_interval(known["value"].to_numpy(), seed=self.seed, clusters=problem)
                    mean, low, high = found.estimate, found.low, found.high
                rows.append(
                    {"layer": layer, "statistic": statistic, "mean": mean, "low": low, "high": high,
                     "n": len(known), "problems": known["problem"].nunique()}
                )  # fmt: skip
        return {"trajectories": pd.DataFrame(rows)}

    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        from analyses.trace.trajectory import Trajectory
        from analyses.views.figures import trajectories

        cells = [cell for cell in data.lab.cells() if data.lab.baseline.has(cell)][: self.examples]
        drawn = [Trajectory.from_run(data.lab.baseline, cell.problem, cell.sample) for cell in cells]
        return [trajectories(drawn, layers=data.lab.layers[-1:], title=f"{self.title} (last layer)")]

    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        table = tables["trajectories"]
        last = table[table["layer"] == table["layer"].max()].set_index("statistic")
        ratio, count, gap = last.loc["ratio"], last.loc["n_peaks"], last.loc["interval_mean"]
        return [
            f"Last layer: {ratio['mean']:.1%} of a response's steps are peaks "
            f"{span(ratio['low'], ratio['high'], '.1%')}, "
            f"{count['mean']:.1f} a response, {counted(ratio['n'], ratio['problems'])}; "
            + (
                f"mean interval {gap['mean']:.1f} steps where there are two peaks "
                f"({counted(gap['n'], gap['problems'])})."
                if gap["n"]
                else "no response has two peaks."
            ),
            "nHSIC is a similarity of coordinates, not bits: a peak says that this vector resembles the answer's "
            "vector more than those of other steps do.",
        ]

"""A reasoning model against the model it came from, on the same problems (Fig. 3 and Table 2 of arXiv 2506.02867)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from analyses.stats import accuracy_table, holm, paired_bootstrap, paired_test
from analyses.studies.base import Study, StudyData, accuracy_reading, by_number, counted, span
from analyses.studies.options import option, seed_option
from analyses.studies.setup import Setup
from interp.errors import InputError

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Compare"]

KNOWN_ORIGINS = {"toy-reasoner": "toy-base"}
STATISTICS = ("n_steps", "ratio", "mean_mi", "median_mi", "aom")
_COLUMNS = ["layer", "statistic", "model", "origin", "difference", "low", "high", "n", "problems", "p"]


@dataclass(frozen=True)
class Compare(Study):
    """Mean nHSIC, AOM, peak ratio and accuracy of two models, paired by problem.

    Of responses that were given, both models read the same ones: their lengths and accuracies are not compared.

    Intervals are bootstraps over problems, p is the sign-flip test over problems, and p_holm is corrected for all
    statistics at all layers of the table.

    nHSIC values of two models are on one scale only as far as their activations are: kernel width is fixed, norms are
    not. What can be compared safely is the shape (AOM, ratio).

    Options:
        origin: the other model, read on the same device and in the same precision; that of toy-reasoner is known, any
            other has to be named.
        seed: of the bootstrap.
    """

    name: ClassVar[str] = "compare"
    title: ClassVar[str] = "A reasoning model against its origin"
    source: ClassVar[str] = "Fig. 3, Table 2"

    origin: str = option("", empty=True)
    seed: int = seed_option()

    def settled(self, setup: Setup) -> Compare:
        return self if self.origin else replace(self, origin=KNOWN_ORIGINS.get(setup.facts.name, ""))

    def check(self, setup: Setup) -> None:
        if self.origin in ("", setup.facts.name):
            raise InputError(
                "study compare",
                expected=f"an origin: the model that {setup.facts.name} was made from",
                received="the model itself" if self.origin else "none",
                remedy="Name it: --set origin=NAME.",
            )

    def other_models(self) -> tuple[str, ...]:
        return (self.origin,)

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd

        runs = {data.lab.facts.name: data.lab.baseline, self.origin: data.others[self.origin]}
        peaks = pd.concat([data.of_these(run.table("peaks.parquet")).assign(model=name) for name, run in runs.items()])
        rows = []
        ours, theirs = runs
        given = data.lab.given is not None
        for layer, part in by_number(peaks, "layer"):
            for statistic in STATISTICS[1:] if given else STATISTICS:
                values = part.pivot_table(index=["problem", "sample"], columns="model", values=statistic)
                both = values.reindex(columns=[ours, theirs]).astype(float).dropna()
                if both.empty:
                    continue
                problem = both.index.get_level_values("problem").astype(str).to_numpy()
                pair = both[ours].to_numpy(), both[theirs].to_numpy()
                gap = paired_bootstrap(*pair, seed=self.seed, clusters=problem)
                rows.append(
                    {"layer": layer, "statistic": statistic, "model": both[ours].mean(),
                     "origin": both[theirs].mean(), "difference": gap.estimate, "low": gap.low, "high": gap.high,
                     "n": len(both), "problems": gap.n, "p": paired_test(*pair, clusters=problem, seed=self.seed)}
                )  # fmt: skip
        table = pd.DataFrame(rows, columns=_COLUMNS)
        table = table.assign(p_holm=holm(table["p"]))
        if given:
            return {"compare": table}
        responses = pd.concat(
            [data.of_these(run.table("responses.parquet")).assign(condition=name) for name, run in runs.items()]
        )
        accuracy = accuracy_table(responses.reset_index(drop=True), by="condition", baseline=self.origin)
        return {"compare": table, "compare_accuracy": accuracy}

    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        import pandas as pd

        from analyses.views.curves import lines

        table = tables["compare"]
        mean = table[table["statistic"] == "mean_mi"]
        if mean.empty:
            return []
        long = pd.concat([mean.assign(who=who, value=mean[who]) for who in ("model", "origin")])
        return [lines(long, x="layer", y="value", by=["who"], title="Mean nHSIC by layer")]

    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        table = tables["compare"]
        last = table[table["layer"] == table["layer"].max()]
        said = [
            f"Last layer, {row['statistic']}: {row['model']:.3g} against {row['origin']:.3g}, difference "
            f"{row['difference']:+.3g} {span(row['low'], row['high'], '+.3g')}, "
            f"{counted(row['n'], row['problems'])}, p = {row['p_holm']:.2g} after Holm over {len(table)} comparisons "
            "(statistics x layers)."
            for row in last.to_dict("records")
        ] or ["No response of the two models is to the same problem and sample: nothing to compare."]
        if "compare_accuracy" not in tables:
            return [
                *said,
                f"Both models have read the same given responses, so that {self.origin} has no accuracy here.",
            ]
        return said + accuracy_reading(tables["compare_accuracy"], baseline=f"the origin, {self.origin}")

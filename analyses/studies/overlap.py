"""Do the signs agree: MI peaks, deep tokens, high entropy, thinking tokens, and peaks of other measures.

1. Each is a set of steps. How often two go together is told by Jaccard, lift and odds ratio, with a bootstrap over
   problems, since the steps of one response are not independent.
2. Measures on the same footing as nHSIC (Pearson r^2, another bandwidth, without the largest coordinates) are compared
   with it over the steps of each response: rank correlation, and Jaccard of the peaks.
3. With several samples a problem: how like the peak tokens of two responses to one problem are, against those of
   responses to different problems (stability, as in IAR).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from analyses.stats import associations, bootstrap_interval, jaccard
from analyses.store.columns import SCORE
from analyses.studies.base import Study, StudyData, by_number, counted, span
from analyses.studies.options import option, seed_option
from analyses.toys.running import repairs
from analyses.trace.probing import Probing
from interp.errors import InputError
from interp.interventions.suppress import flat_ids
from probes import tukey_peaks

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Overlap"]

PEAKS, DEEP, ENTROPY, THINKING, REPAIRS = "MI peaks", "deep", "high entropy", "thinking tokens", "planted repairs"
_KEYS = ["problem", "sample"]


@dataclass(frozen=True)
class Overlap(Study):
    """Overlap of MI peaks with other sets of steps, by layer.

    Options:
        measures: compared with nHSIC, as for ``peaklens trace --probes``.
        depth: whether to find the block where each prediction settles (reads the unembedding at every layer: slow with
            a large vocabulary).
        entropy: share of a response's steps that count as high entropy.
        draws, seed: of the bootstrap over problems.
    """

    name: ClassVar[str] = "overlap"
    title: ClassVar[str] = "What peaks of nHSIC go together with"
    source: ClassVar[str] = "goes beyond the paper: deep-thinking ratio (arXiv 2602.13517), IAR (arXiv 2605.28006)"

    measures: tuple[str, ...] = option((
        "r2", "cosine", "nhsic@median", "nhsic@100", "nhsic@200", "nhsic@400", "nhsic/drop1", "nhsic/drop4",
    ))  # fmt: skip
    depth: bool = True
    entropy: float = option(0.2, above=0, below=1)
    draws: int = option(2000, least=1)
    seed: int = seed_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        Probing(**self.probing())
        if {"nhsic", "dtr"} & set(self.measures):
            raise InputError(
                "study overlap",
                expected="measures to compare with the run's nHSIC, which is there in any case",
                received=f"measures={','.join(self.measures)}",
                remedy="Leave nhsic out; depth=true asks for dtr.",
            )

    def probing(self) -> dict[str, Any]:
        return {"probes": ("nhsic", *self.measures, *(["dtr"] if self.depth else []))}

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd

        steps = self._step_sets(data)
        mi = data.of_these(data.lab.baseline.mi).astype({"problem": str})
        rows: list[dict[str, Any]] = []
        agreement: list[dict[str, Any]] = []
        kept: list[pandas.DataFrame] = []
        names = [name for name in (DEEP, ENTROPY, THINKING, REPAIRS) if name in steps.columns]
        for layer, part in by_number(mi, "layer"):
            both = part.merge(steps, on=[*_KEYS, "step"])
            for name in names:
                rows.append({"layer": layer, "first": PEAKS, "second": name, **self._pair(both, "is_peak", name)})
            agreement += self._measures(layer, part, data.lab.options.tau)
            kept.append(both[[*_KEYS, "layer", "token_id", "is_peak"]])
        first = mi["layer"] == mi["layer"].min()
        alone = mi[first].merge(steps, on=[*_KEYS, "step"])
        for one, other in combinations(names, 2):
            rows.append({"layer": -1, "first": one, "second": other, **self._pair(alone, one, other)})
        tables = {"overlap": pd.DataFrame(rows), "overlap_measures": pd.DataFrame(agreement)}
        stability = pd.DataFrame(self._stability(pd.concat(kept), alone, names))
        return tables | ({"overlap_stability": stability} if len(stability) else {})

    def _step_sets(self, data: StudyData) -> pandas.DataFrame:
        """For each step the sets it is in, one column a set."""
        steps = data.of_these(data.lab.baseline.steps).astype({"problem": str})
        if steps.empty:
            raise InputError("study overlap", expected="responses", received="none", remedy="Choose more problems.")
        limit = steps.groupby(_KEYS)["entropy"].transform(lambda values: values.quantile(1 - self.entropy))
        found = steps[[*_KEYS, "step"]].copy()
        if self.depth:
            found[DEEP] = steps["is_deep"].astype("boolean").fillna(False).astype(bool)
        found[ENTROPY] = steps["entropy"] > limit
        found[THINKING] = steps["token_id"].isin(flat_ids(data.lab.words))
        if data.lab.is_toy:
            found[REPAIRS] = False
            for _, tokens in steps.sort_values("step").groupby(_KEYS, sort=False)["token"]:
                found.loc[tokens.index, REPAIRS] = repairs(tokens.astype(str).tolist())
        return found

    def _pair(self, frame: pandas.DataFrame, one: str, other: str) -> dict[str, Any]:
        """Jaccard, lift and odds ratio of two sets of steps, from the counts of each problem."""
        flags = frame[["problem"]].assign(
            both=frame[one] & frame[other], first=frame[one], second=frame[other], all=True
        )
        counts = flags.groupby("problem", sort=False)[["both", "first", "second", "all"]].sum().to_numpy(dtype=float)
        told = associations(*counts.T, draws=self.draws, seed=self.seed)
        row: dict[str, Any] = dict(
            zip(("both", "n_first", "n_second", "n_steps"), counts.sum(axis=0).astype(int), strict=True)
        )
        row["problems"] = len(counts)
        for name, of in (("jaccard", told.jaccard), ("lift", told.lift), ("odds_ratio", told.odds_ratio)):
            found = of.one()
            row |= {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
        return row

    def _measures(self, layer: int, part: pandas.DataFrame, tau: float) -> Iterator[dict[str, Any]]:
        """Each other measure against nHSIC within responses, its peaks by the same rule.

        A rank correlation needs a few steps that differ, a Jaccard at least one peak: each says over how many responses
        to how many problems it is.
        """
        for measure in self.measures:
            ranks, shared, problems = [], [], []
            for key, response in part.groupby(_KEYS, sort=False):
                usable = response.dropna(subset=[measure])
                if len(usable) < 4 or usable[measure].nunique() < 2 or usable[SCORE].nunique() < 2:
                    continue
                ranks.append(float(usable[SCORE].corr(usable[measure], method="spearman")))
                stands_out = tukey_peaks(torch.tensor(usable[measure].to_numpy()), tau).numpy()
                peaks = set(usable.loc[stands_out, "step"])
                shared.append(jaccard(set(usable.loc[usable["is_peak"], "step"]), peaks))
                problems.append(key[0])
            row: dict[str, Any] = {"layer": layer, "measure": measure, "responses": len(ranks)}
            for name, values in (("spearman", ranks), ("jaccard", shared)):
                defined = [(value, problem) for value, problem in zip(values, problems, strict=True) if value == value]
                mean = low = high = float("nan")
                if defined:
                    kept, clusters = zip(*defined, strict=True)
                    found = bootstrap_interval(list(kept), draws=self.draws, seed=self.seed, clusters=list(clusters))
                    mean, low, high = found.estimate, found.low, found.high
                row |= {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_n": len(defined),
                        f"{name}_problems": len({problem for _, problem in defined})}  # fmt: skip
            yield row

    def _stability(
        self, peaks: pandas.DataFrame, alone: pandas.DataFrame, names: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        """Jaccard of the tokens in a set, between samples of one problem and between problems."""
        if alone["sample"].nunique() < 2:
            return
        sets = {(PEAKS, layer): part[part["is_peak"]] for layer, part in by_number(peaks, "layer")}
        sets |= {(name, -1): alone[alone[name]] for name in names}
        for (name, layer), frame in sets.items():
            tokens = {key: set(part["token_id"]) for key, part in frame.groupby(_KEYS)}
            by_problem: dict[str, list[set[int]]] = {}
            for key, found in tokens.items():
                by_problem.setdefault(str(key[0]), []).append(found)
            within = {
                p: [jaccard(a, b) for a, b in combinations(some, 2)] for p, some in by_problem.items() if len(some) > 1
            }
            problems = sorted(by_problem)
            # No problem is in two pairs: pairs that share one are not independent.
            across = [
                jaccard(by_problem[a][0], by_problem[b][0]) for a, b in zip(problems[::2], problems[1::2], strict=False)
            ]
            row: dict[str, Any] = {"layer": layer, "set": name, "problems": len(within), "other_pairs": len(across)}
            for kind, values in (
                ("same_problem", [float(np.mean(some)) for some in within.values()]),
                ("other_problem", across),
            ):
                mean = low = high = float("nan")
                if values:
                    estimate = bootstrap_interval(values, draws=self.draws, seed=self.seed)
                    mean, low, high = estimate.estimate, estimate.low, estimate.high
                row |= {kind: mean, f"{kind}_low": low, f"{kind}_high": high}
            yield row

    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        from analyses.views.curves import lines

        table, measures = tables["overlap"], tables["overlap_measures"]
        peaks = table[(table["first"] == PEAKS) & table["lift"].notna()]
        found = []
        if len(peaks):
            found.append(
                lines(peaks, x="layer", y="lift", low="lift_low", high="lift_high", by=["second"], reference=1.0,
                      title="How much more often a step of this kind is a peak")
            )  # fmt: skip
        if measures["jaccard"].notna().any():
            found.append(
                lines(measures, x="layer", y="jaccard", low="jaccard_low", high="jaccard_high", by=["measure"],
                      reference=1.0, title="Peaks of other measures that are peaks of nHSIC too (Jaccard)")
            )  # fmt: skip
        return found

    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        table, measures = tables["overlap"], tables["overlap_measures"]
        said = []
        for row in table[(table["layer"] == table["layer"].max())].to_dict("records"):
            said.append(
                f"Last layer, {row['first']} and {row['second']}: {row['both']} steps in common of {row['n_first']} "
                f"and {row['n_second']}, lift {row['lift']:.2f} {span(row['lift_low'], row['lift_high'])}, "
                f"Jaccard {row['jaccard']:.2f} {span(row['jaccard_low'], row['jaccard_high'])} "
                f"({row['problems']} problems)."
                if row["n_first"] and row["n_second"]
                else f"Last layer, {row['first']} and {row['second']}: {row['n_first']} and {row['n_second']} steps, "
                "nothing to compare."
            )
        for row in measures[measures["layer"] == measures["layer"].max()].to_dict("records"):
            parts = [
                f"{what} {row[name]:.2f} {span(row[f'{name}_low'], row[f'{name}_high'])} "
                f"({counted(row[f'{name}_n'], row[f'{name}_problems'])})"
                for name, what in (("spearman", "rank correlation"), ("jaccard", "Jaccard of the peaks"))
                if row[f"{name}_n"]
            ] or ["no response where they can be compared"]
            said.append(f"Last layer, {row['measure']} against nHSIC over a response's steps: {', '.join(parts)}.")
        if "overlap_stability" in tables:
            stable = tables["overlap_stability"]
            for row in stable[stable["layer"].isin([-1, stable["layer"].max()])].to_dict("records"):
                said.append(
                    f"Stability of tokens, {row['set']}: Jaccard {row['same_problem']:.2f} "
                    f"{span(row['same_problem_low'], row['same_problem_high'])} between samples of a problem "
                    f"({row['problems']} problems), {row['other_problem']:.2f} "
                    f"{span(row['other_problem_low'], row['other_problem_high'])} between problems "
                    f"({row['other_pairs']} pairs of problems)."
                )
        return said

"""Is it information? Bits about the answer by layer and place, beside nHSIC at the very same steps.

1. V-information: how much better a probe, trained on other problems, tells a label from the residual stream than from
   nothing; in bits, with a bootstrap interval over problems and a control task of shuffled labels.
2. Labels: the gold answer, the answer the response states, and on the toys the value being computed at that place.
3. Whether there is any dependence at all: HSIC with problems as samples and a permutation test, at the same places and
   labels (:mod:`probes.samplewise`).
4. Beside it, across problems and after a stated reduction, the information between the stream and the answer's own
   representation (Gaussian and nearest-neighbour, each with a control of shuffled problems); and at these steps mean
   nHSIC, the share of peaks, and the standardised excess over other answers with the reference read at its last token
   and where it predicts its answer.
5. Which of these goes with bits: rank correlations over places and over problems, with intervals
   (:mod:`analyses.studies.beside_bits`).

Since the prompt determines the answer, Shannon information about it is there from the start: what grows along a
response is *usable* information (Xu et al. 2020), that a probe of the family can read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from analyses.stats import holm
from analyses.store.columns import SCORE
from analyses.studies.aligned import AlignedStudy, Gathered, Target, check_answers, present, usable_bits
from analyses.studies.base import StudyData
from analyses.studies.beside_bits import (
    MEASURES,
    PlaceValues,
    over_places,
    over_problems,
    place_values,
    said_of_places,
    said_over_problems,
)  # fmt: skip
from analyses.studies.options import option, seed_option
from analyses.studies.setup import Setup
from analyses.trace.others import DEFAULT_OTHERS
from probes.information import gaussian_mi, ksg_mi, reduce_dimensions
from probes.samplewise import sample_hsic
from probes.vinformation import MIN_PROBLEMS_PER_FOLD

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Information"]


@dataclass(frozen=True)
class Information(AlignedStudy):
    """V-information of labels in residual streams, by layer and place.

    Options, beside those of :class:`analyses.studies.aligned.AlignedStudy`:
        probes: linear, mlp.
        folds: of the cross-fitting; seed: of folds, bootstrap and shuffled labels.
        reduce: principal components kept of stream and answer for the estimators of continuous information.
        permutations: of the test of HSIC across problems; its smallest p is 1 / (permutations + 1), times the places of
            a layer after Holm.
    """

    name: ClassVar[str] = "information"
    title: ClassVar[str] = "Bits about the answer, by layer and place"
    source: ClassVar[str] = "goes beyond the paper: whether peaks carry information; V-information after Xu et al. 2020"

    probes: tuple[str, ...] = option(("linear",), among=("linear", "mlp"))
    folds: int = option(5, least=2)
    reduce: int = option(2, least=1)
    seed: int = seed_option()
    permutations: int = option(999, least=19)

    def check(self, setup: Setup) -> None:
        super().check(setup)
        answers = [problem.answer for problem in setup.problems.values()]
        check_answers(f"study {self.name}", answers, self.max_answers, self.folds)

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd

        steps = self.steps(data)
        targets = self.targets(data, steps)
        values = place_values(data, self.responses_here(data), steps)
        scores = _scores(self, values)
        rows: list[dict[str, Any]] = []
        each: dict[_Key, _Each] = {}
        continuous: list[dict[str, Any]] = []
        for gathered in self.layers(data):
            for target in targets:
                rows += self._bits(gathered, target, steps, each)
            continuous += self._continuous(gathered, steps)
        keys = ["layer", "alignment", "event", "at"]
        table = pd.DataFrame(rows).merge(scores, on=keys, how="left")
        # Last layer first, and what is told soonest: a page shows the first rows.
        ranked = {"alignment": (*_ALIGNMENTS, "all"), "target": tuple(_LABELS)}
        table = table.sort_values(
            ["layer", "alignment", "event", "target", "probe", "at"],
            ascending=[False, True, True, True, True, True],
            key=lambda column: column.map(ranked[column.name].index) if column.name in ranked else column,
            ignore_index=True,
        )
        beside = pd.DataFrame(continuous).merge(scores, on=keys, how="left")
        return {
            "information": table,
            "information_continuous": beside,
            "information_onsets": _onsets(table),
            "information_and_nhsic": _over_places(self, each, values).sort_values(
                ["layer", "alignment", "target"], ascending=[False, True, True], kind="stable", ignore_index=True,
                key=lambda column: column.map(ranked[column.name].index) if column.name in ranked else column,
            ),
            "information_over_problems": _over_problems(self, each, values),
        }  # fmt: skip

    def probing(self) -> dict[str, Any]:
        return {"excess": DEFAULT_OTHERS}

    def _bits(
        self, gathered: Gathered, target: Target, steps: torch.Tensor, each: dict[_Key, _Each]
    ) -> Iterator[dict[str, Any]]:
        """The rows of a layer and label; ``each`` is given the bits of each problem."""
        here = present(target, steps)
        labels = target.labels.expand_as(here).clamp(min=0)
        tested = self._dependence(gathered, labels, here)
        for probe in self.probes:
            found = usable_bits(
                gathered.residuals, labels, here, probe=probe, folds=self.folds, seed=self.seed,
                n_classes=max(2, len(target.names)),
            )  # fmt: skip
            assert found.each is not None
            each[gathered.layer, target.name, probe] = found.each.cpu().numpy()
            columns = found.to_dict()
            for k, place in enumerate(self.places):
                yield {
                    "layer": gathered.layer, "alignment": place.alignment, "event": place.event, "at": place.at,
                    "target": target.name, "last_digit": target.grouped, "probe": probe,
                    **{name: values[k] for name, values in columns.items()},
                    **{name: values[k] for name, values in tested.items()},
                }  # fmt: skip

    def _dependence(
        self, gathered: Gathered, labels: Int64[Tensor, "place problem"], here: Bool[Tensor, "place problem"]
    ) -> dict[str, list[float]]:
        """HSIC across problems at each place; its p also by Holm over the places of the layer."""
        if here.shape[1] < 4:
            return {name: [math.nan] * len(here) for name in ("hsic", "hsic_normalised", "hsic_p", "hsic_p_holm")}
        found = sample_hsic(
            gathered.residuals, labels, valid=here, permutations=self.permutations, seed=self.seed
        )  # fmt: skip
        return {
            "hsic": found.hsic.tolist(),
            "hsic_normalised": found.normalised.tolist(),
            "hsic_p": found.p.tolist(),
            "hsic_p_holm": holm(found.p.cpu().numpy()).tolist(),
        }

    def _continuous(self, gathered: Gathered, steps: torch.Tensor) -> Iterator[dict[str, Any]]:
        dice = torch.Generator().manual_seed(self.seed)
        for k, place in enumerate(self.places):
            here = steps[k] >= 0
            row: dict[str, Any] = {
                "layer": gathered.layer, "alignment": place.alignment, "event": place.event, "at": place.at,
                "components": self.reduce, "n": int(here.sum()),
            }  # fmt: skip
            x, y = (_reduced(some[here], self.reduce) for some in (gathered.residuals[k], gathered.answers))
            shuffled = None if y is None else y[torch.randperm(len(y), generator=dice)]
            for name, estimate in (("gaussian", partial(gaussian_mi, corrected=True)), ("ksg", ksg_mi)):
                for column, other in ((f"{name}_bits", y), (f"{name}_control", shuffled)):
                    row[column] = float("nan") if x is None or other is None else float(estimate(x, other))
            yield row

    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        from analyses.views.curves import lines

        table = tables["information"]
        layers = _few(sorted(table["layer"].unique()))
        found: list[tuple[int, int, int, View]] = []
        for key, part in table.groupby(["alignment", "event", "target"], sort=False):
            alignment, event, target = str(key[0]), int(str(key[1])), str(key[2])
            shown = part[part["layer"].isin(layers) & (part["probe"] == self.probes[0]) & part["bits"].notna()]
            if shown.empty:
                continue
            axis = {"relative": "share of the response", "end": "steps from the last", "event": "steps from the token"}
            shown = shown.rename(columns={"at": axis[alignment]})
            view = lines(
                shown.assign(layer=[f"layer {layer}" for layer in shown["layer"]]), x=axis[alignment], y="bits",
                low="low", high="high", by=["layer"], reference=0.0,
                title=f"Usable bits about {_LABELS[target]}, {_where(alignment, event, self.event_words)}",
            )  # fmt: skip
            # The places around an event first: there a jump would be seen.
            place = (("event", "end", "relative").index(alignment), ("running", "stated", "answer").index(target))
            found.append((*place, event, view))
        return [view for *_, view in sorted(found, key=lambda entry: entry[:3])]

    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        table, said = tables["information"], []
        for row in tables["information_onsets"].to_dict("records"):
            if row["layer"] != table["layer"].max() or row["jump_at"] != row["jump_at"]:
                continue
            where = _where(row["alignment"], row["event"], self.event_words)
            said.append(
                f"{_LABELS[row['target']]}, {where}, last layer: the largest rise is to {row['jump_at']:g}, from "
                f"{row['before']:.2f} [{row['before_low']:.2f}, {row['before_high']:.2f}] to {row['after']:.2f} "
                f"[{row['after_low']:.2f}, {row['after_high']:.2f}] bits of {row['entropy']:.2f}, n = {row['n']:.0f}."
            )
        compared = tables["information_and_nhsic"]
        here = compared[(compared["layer"] == table["layer"].max()) & (compared["alignment"] == "all")]
        said += [said_of_places(_LABELS[row["target"]], row) for row in here.to_dict("records")]
        said += said_over_problems(tables["information_over_problems"], _LABELS)
        said += _depends(table, self.permutations)
        silent = [_LABELS[str(name)] for name, part in table.groupby("target", sort=False) if not part["n"].any()]
        if silent:
            said.append(f"No response has a label of {' or of '.join(silent)}, or there are too many different ones.")
        control = table["control_bits"].dropna()
        if control.empty:
            needed = MIN_PROBLEMS_PER_FOLD * self.folds
            said.append(f"No place is in the {needed} responses with a label that {self.folds} folds need: no bits.")
            return said
        said.append(
            f"Shuffled labels give {control.mean():+.3f} bits on average, at most {control.max():.3f} "
            f"({len(control)} probes). Bits are a lower bound on Shannon information; what grows along a response is "
            "information that a probe can use, since the prompt determines the answer."
        )
        return said


_Key: TypeAlias = tuple[int, str, str]  # layer, label, probe
_Each: TypeAlias = Float64[np.ndarray, "place problem"]
_ENDS = ("", "_low", "_high", "_p")
_ALIGNMENTS = ("end", "event", "relative")
_LABELS = {"running": "the value being computed", "stated": "the stated answer", "answer": "the gold answer"}


def _depends(table: pandas.DataFrame, permutations: int) -> list[str]:
    """Of each label, at how many places of the last layer the streams of all problems depend on it."""
    said = []
    last = table[(table["layer"] == table["layer"].max()) & (table["probe"] == table["probe"].iloc[0])]
    for target, part in last.dropna(subset=["hsic_p"]).groupby("target", sort=False):
        top, found = part.loc[part["hsic_normalised"].idxmax()], int((part["hsic_p_holm"] <= 0.05).sum())
        text = (
            f"Last layer, HSIC with problems as samples: the stream depends on {_LABELS[str(target)]} at {found} of "
            f"{len(part)} places (permutation test, {permutations} permutations, Holm over these places, p <= 0.05); "
            f"most at {top['at']:g} ({top['alignment']}): normalised {top['hsic_normalised']:.2f}, p = "
            f"{top['hsic_p_holm']:.2g}, n = {top['n']:.0f} problems."
        )
        known = part.dropna(subset=["bits", "nhsic"])
        if len(known) >= 4 and all(known[name].nunique() > 1 for name in ("bits", "nhsic", "hsic_normalised")):
            bits, nhsic = (known["hsic_normalised"].corr(known[name], method="spearman") for name in ("bits", "nhsic"))
            text += f" Rank correlation of it over places with bits {bits:+.2f}, with nHSIC {nhsic:+.2f}."
        said.append(text)
    return said


def _where(alignment: str, event: int, words: tuple[str, ...]) -> str:
    return {
        "relative": "by share of the response",
        "end": "by steps from its last",
        "event": f"by steps from {' or '.join(words) or 'a thinking word'}, number {event}",
    }[alignment]


def _reduced(x: Float[Tensor, "problem d_model"], keep: int) -> Float64[Tensor, "problem kept"] | None:
    """The first principal components; None where problems are too few or too alike for continuous estimators."""
    if len(x) < 10 * keep + 10 or len(torch.unique(x, dim=0)) < len(x):
        return None
    reduced = reduce_dimensions(x.double(), keep)
    spread = reduced.std(dim=0)
    return reduced if bool((spread > 1e-6 * spread.max()).all()) else None


def _few(layers: list[Any], most: int = 5) -> list[Any]:
    if len(layers) <= most:
        return layers
    return [layers[round(k * (len(layers) - 1) / (most - 1))] for k in range(most)]


def _scores(study: AlignedStudy, values: Mapping[int, PlaceValues]) -> pandas.DataFrame:
    """Mean nHSIC, share of peaks and mean excess at each place and layer, over the responses that have the place."""
    import pandas as pd

    rows = [
        {
            "layer": layer, "alignment": place.alignment, "event": place.event, "at": place.at,
            **{name: _mean(some[k]) for name, some in here.items()},
        }
        for layer, here in sorted(values.items())
        for k, place in enumerate(study.places)
        if np.isfinite(here[SCORE][k]).any()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _mean(values: Float64[np.ndarray, " problem"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _onsets(table: pandas.DataFrame) -> pandas.DataFrame:
    """The largest rise between neighbouring places, for each layer, alignment, label and probe."""
    import pandas as pd

    rows = []
    keys = ["layer", "alignment", "event", "target", "probe"]
    for key, part in table.groupby(keys, sort=False):
        part = part.sort_values("at").reset_index(drop=True)
        rise = part["bits"].diff()
        row: dict[str, Any] = dict(zip(keys, key, strict=True))
        known = part[part["low"] > 0]
        row["first_above_0"] = float(known["at"].iloc[0]) if len(known) else float("nan")
        if rise.notna().any() and float(rise.max()) > 0:
            at = int(np.nanargmax(rise.to_numpy(dtype=float)))
            row["jump_at"] = float(part["at"][at])
            for name, k in (("before", at - 1), ("after", at)):
                row |= {name: part["bits"][k], f"{name}_low": part["low"][k], f"{name}_high": part["high"][k]}
            row |= {"entropy": part["entropy"][at], "n": part["n"][at]}
        else:
            row["jump_at"] = float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def _over_places(study: Information, bits: Mapping[_Key, _Each], values: Mapping[int, PlaceValues]) -> pandas.DataFrame:
    """Whether places with more bits have more of a measure: rank correlations over places, by layer.

    The alignment "all" are all of its places.
    """
    import pandas as pd

    rows = []
    for (layer, target, probe), each in bits.items():
        alignments = dict.fromkeys(place.alignment for place in study.places)
        different = _different(values[layer][SCORE])
        for alignment in (*alignments, "all"):
            chosen = [k for k, place in enumerate(study.places) if place.alignment == alignment]
            chosen = different if alignment == "all" else chosen
            gained = each[chosen]
            row: dict[str, Any] = {"layer": layer, "alignment": alignment, "target": target, "probe": probe}
            row["places"] = int((np.isfinite(gained) & np.isfinite(values[layer][SCORE][chosen])).any(axis=1).sum())
            for name in (*MEASURES, "peak_share"):
                found = over_places(gained, values[layer][name][chosen], study.seed)
                row |= {f"spearman_{name}{end}": value for end, value in zip(_ENDS, found, strict=True)}
            # By their older names too
            row |= {"spearman": row[f"spearman_{SCORE}"], "spearman_peaks": row["spearman_peak_share"]}
            rows.append(row)
    return pd.DataFrame(rows)


def _over_problems(
    study: AlignedStudy, bits: Mapping[_Key, _Each], values: Mapping[int, PlaceValues]
) -> pandas.DataFrame:
    """At each place, whether problems with more bits have more of a measure: rank correlations over problems."""
    import pandas as pd

    rows = []
    for (layer, target, probe), each in bits.items():
        for k, place in enumerate(study.places):
            row: dict[str, Any] = {
                "layer": layer, "alignment": place.alignment, "event": place.event, "at": place.at, "target": target,
                "probe": probe, "bits": _mean(each[k]),
            }  # fmt: skip
            for name in MEASURES:
                *found, row["n"] = over_problems(each[k], values[layer][name][k])
                row |= {f"spearman_{name}{end}": value for end, value in zip(_ENDS[:3], found, strict=True)}
            rows.append(row)
    return pd.DataFrame(rows)


def _different(values: Float64[np.ndarray, "place problem"]) -> list[int]:
    """Places that are not the same step in every response: the end of a response has several names."""
    return sorted(np.unique(values, axis=0, return_index=True, equal_nan=True)[1].tolist())

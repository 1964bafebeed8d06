"""What information allows: Theorems 1 and 2 of the paper on discrete answers, beside the errors that are seen.

1. V-information of the gold answer at each place, alone and cumulatively, in bits, by probes trained on other problems.
   What is known from the places so far is at least what any of them tells alone, and what a probe of all of them
   together tells (each reduced to some principal components): the largest of these bounds counts.
2. Bounds on the error of the best decoder of the representation: Theorem 2's upper bound stays valid when information
   is bounded from below, Theorem 1's lower bound becomes a plug-in estimate.
3. Beside them the probe's own held-out error, and the error of the answers the model states. The bounds speak of the
   first kind of error, not of the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from analyses.places import Place
from analyses.stats import wilson
from analyses.studies.aligned import AlignedStudy, present
from analyses.studies.base import StudyData
from interp.errors import InputError
from probes.bounds import error_bounds
from probes.information import reduce_dimensions
from probes.vinformation import VInformation, v_information

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Bounds"]

_KINDS = ("one place", "places so far")


@dataclass(frozen=True)
class Bounds(AlignedStudy):
    """Bounds on the error of the best decoder, by layer and place.

    Options, beside those of :class:`analyses.studies.aligned.AlignedStudy`:
        probe: linear or mlp.
        folds, seed: of the cross-fitting.
        reduce: principal components of each place in the cumulative probes.
    """

    name: ClassVar[str] = "bounds"
    title: ClassVar[str] = "Errors that the information allows"
    source: ClassVar[str] = "Theorems 1 and 2"

    align: tuple[str, ...] = ("relative", "end")
    probe: str = "linear"
    folds: int = 5
    reduce: int = 32
    seed: int = 0

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd

        steps = self.steps(data)
        target = self.targets(data, steps)[0]
        if len(target.names) < 2:
            raise InputError(
                "study bounds",
                expected="problems of at least two different answers",
                received=f"{len(target.names)}",
                remedy="Choose more problems.",
            )
        graded = data.baseline_responses()
        verdicts = graded.loc[graded["sample"] == 0, "correct"].dropna().astype(bool)
        emitted = wilson(int((~verdicts).sum()), len(verdicts))
        here = present(target, steps)
        rows: list[dict[str, Any]] = []
        for gathered in self.layers(data):
            cumulative, both = _so_far(gathered.residuals, here, self.places, self.reduce)
            alone, together = (
                v_information(
                    x, target.labels.clamp(min=0).expand_as(valid), valid=valid, probe=self.probe, folds=self.folds,
                    seed=self.seed, n_classes=len(target.names), control=False,
                )
                for x, valid in ((gathered.residuals, here), (cumulative, both))
            )  # fmt: skip
            for k, place in enumerate(self.places):
                columns = {
                    "layer": gathered.layer, "alignment": place.alignment, "event": place.event, "at": place.at,
                    "answers": len(target.names), "probe": self.probe,
                }  # fmt: skip
                so_far = [(found, j) for found in (alone, together) for j in _before(self.places, k)]
                for kind, choice in zip(_KINDS, ([(alone, k)], so_far), strict=True):
                    rows.append({**columns, "kind": kind, **_bounded(choice, len(target.names))})
        table = pd.DataFrame(rows)
        table["stated_error"], table["stated_low"], table["stated_high"] = emitted.estimate, emitted.low, emitted.high
        table["stated_n"], table["last_digit"] = emitted.n, target.grouped
        return {"bounds": table}

    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        import pandas as pd

        from analyses.views.curves import lines

        table = tables["bounds"]
        found = []
        last = table[(table["layer"] == table["layer"].max()) & table["bits"].notna()]
        for (kind, alignment, event), part in last.groupby(["kind", "alignment", "event"], sort=False):
            curves = [
                part.assign(curve=name, error=part[column], low=part[low], high=part[high])
                for name, column, low, high in (
                    ("upper bound (Theorem 2)", "upper", "upper_low", "upper_high"),
                    ("lower bound, plug-in (Theorem 1)", "lower", "lower_low", "lower_high"),
                    ("error of the probe", "probe_error", "probe_error_low", "probe_error_high"),
                )
            ]
            named = f"{alignment} {event}" if event else alignment
            found.append(
                lines(pd.concat(curves).rename(columns={"at": "place"}), x="place", y="error", low="low", high="high",
                      by=["curve"], reference=float(part["stated_error"].iloc[0]),
                      title=f"Error of the best decoder, last layer, {kind} ({named}); dashed: stated answers")
            )  # fmt: skip
        return found

    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        table = tables["bounds"]
        last = table[(table["layer"] == table["layer"].max()) & table["bits"].notna()]
        said = []
        for (kind, alignment, _), part in last.groupby(["kind", "alignment", "event"], sort=False):
            row = part.loc[part["bits"].idxmax()]
            guess = 1 - 1 / row["answers"]
            vacuous = ", no less than by guessing" if row["upper"] >= guess else ""
            said.append(
                f"Last layer, {kind} ({alignment}), most at {row['at']:g}: {row['bits']:.2f} of {row['entropy']:.2f} "
                f"bits, so the best decoder errs at most {row['upper']:.1%} [{row['upper_low']:.1%}, "
                f"{row['upper_high']:.1%}] (bound{vacuous}) and at least {row['lower']:.1%} [{row['lower_low']:.1%}, "
                f"{row['lower_high']:.1%}] (plug-in); the probe errs in {row['probe_error']:.1%} "
                f"[{row['probe_error_low']:.1%}, {row['probe_error_high']:.1%}], n = {row['n']:.0f}."
            )
        row = table.iloc[0]
        said.append(
            f"The answers the model states are wrong in {row['stated_error']:.1%} [{row['stated_low']:.1%}, "
            f"{row['stated_high']:.1%}], n = {row['stated_n']:.0f}: another error than that of a decoder of the gold "
            "answer, which the theorems do not bound."
        )
        return said


def _bounded(choice: Sequence[tuple[VInformation, int]], answers: int) -> dict[str, Any]:
    """Bounds from the best of some estimates, each a lower bound; the best of many is a little too high."""
    known = [(found, k) for found, k in choice if not bool(found.bits[k].isnan())]
    if not known:
        return {"n": 0}
    found, k = max(known, key=lambda entry: float(entry[0].bits[entry[1]]))
    information, entropy = found.at(k), float(found.entropy[k])
    error = wilson(information.n - round(float(found.accuracy[k]) * information.n), information.n)
    limits = asdict(error_bounds(information, entropy, answers))
    limits.pop("n_answers")
    return {
        "n": information.n, "bits": information.bits, "bits_low": information.low, "bits_high": information.high,
        "entropy": entropy, **limits, "probe_error": error.estimate, "probe_error_low": error.low,
        "probe_error_high": error.high,
    }  # fmt: skip


def _before(places: Sequence[Place], k: int) -> list[int]:
    """The places of k's alignment up to it."""
    mine = (places[k].alignment, places[k].event)
    return [j for j in range(k + 1) if (places[j].alignment, places[j].event) == mine]


def _so_far(
    residuals: Float[Tensor, "place problem d_model"],
    here: Bool[Tensor, "place problem"],
    places: Sequence[Place],
    keep: int,
) -> tuple[Float[Tensor, "place problem all"], Bool[Tensor, "place problem"]]:
    """For each place, the reduced streams of it and of all places before it in its alignment; later ones are 0."""
    keep = min(keep, residuals.shape[-1])
    reduced = torch.zeros(len(places), residuals.shape[1], keep)
    for k, valid in enumerate(here):
        if int(valid.sum()) > keep + 1:
            reduced[k, valid] = reduce_dimensions(residuals[k, valid].double(), keep).float()
    whole = torch.zeros(len(places), residuals.shape[1], len(places), keep)
    both: Int64[Tensor, "place problem"] = torch.zeros_like(here, dtype=torch.long)
    for k in range(len(places)):
        before = _before(places, k)
        whole[k, :, before] = reduced[before].transpose(0, 1)
        both[k] = here[before].all(dim=0)
    return whole.flatten(2), both.bool()

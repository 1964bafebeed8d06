"""What information allows: Theorems 1 and 2 of the paper on discrete answers, beside the errors that are seen.

1. V-information of the gold answer at each place, alone and cumulatively (the places so far together, each reduced to
   some principal components): in bits, by probes trained on other problems.
2. Bounds on the error of the best decoder of the representation: Theorem 2's upper bound stays valid when information
   is bounded from below, Theorem 1's lower bound becomes a plug-in estimate.
3. Beside them the probe's own held-out error, and the error of the answers the model states. The bounds speak of the
   first kind of error, not of the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from analyses.stats import wilson
from analyses.studies.aligned import AlignedStudy, Gathered, present
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

    align: tuple[str, ...] = ("relative",)
    probe: str = "linear"
    folds: int = 5
    reduce: int = 8
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
            for kind, x, valid in zip(_KINDS, (gathered.residuals, cumulative), (here, both), strict=True):
                found = v_information(
                    x, target.labels.clamp(min=0).expand_as(valid), valid=valid, probe=self.probe, folds=self.folds,
                    seed=self.seed, n_classes=len(target.names), control=False,
                )  # fmt: skip
                rows += self._rows(gathered, kind, found, len(target.names))
        table = pd.DataFrame(rows)
        table["stated_error"], table["stated_low"], table["stated_high"] = emitted.estimate, emitted.low, emitted.high
        table["stated_n"], table["last_digit"] = emitted.n, target.grouped
        return {"bounds": table}

    def _rows(self, gathered: Gathered, kind: str, found: VInformation, answers: int) -> Iterator[dict[str, Any]]:
        for k, place in enumerate(self.places):
            row: dict[str, Any] = {
                "layer": gathered.layer, "alignment": place.alignment, "event": place.event, "at": place.at,
                "kind": kind, "n": int(found.n[k]), "answers": answers, "probe": self.probe,
            }  # fmt: skip
            if bool(found.bits[k].isnan()):
                yield row
                continue
            information, entropy = found.at(k), float(found.entropy[k])
            right = round(float(found.accuracy[k]) * int(found.n[k]))
            error = wilson(int(found.n[k]) - right, int(found.n[k]))
            limits = asdict(error_bounds(information, entropy, answers))
            limits.pop("n_answers")
            yield {
                **row, "bits": information.bits, "bits_low": information.low, "bits_high": information.high,
                "entropy": entropy, **limits, "probe_error": error.estimate, "probe_error_low": error.low,
                "probe_error_high": error.high,
            }  # fmt: skip

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
            row = part.sort_values("at").iloc[-1]
            said.append(
                f"Last layer, {kind}, last place ({alignment}): {row['bits']:.2f} of {row['entropy']:.2f} bits, so "
                f"the best decoder errs at most {row['upper']:.1%} [{row['upper_low']:.1%}, {row['upper_high']:.1%}] "
                f"(bound) and at least {row['lower']:.1%} [{row['lower_low']:.1%}, {row['lower_high']:.1%}] (plug-in); "
                f"the probe errs in {row['probe_error']:.1%} [{row['probe_error_low']:.1%}, "
                f"{row['probe_error_high']:.1%}], n = {row['n']:.0f}."
            )
        row = table.iloc[0]
        said.append(
            f"The answers the model states are wrong in {row['stated_error']:.1%} [{row['stated_low']:.1%}, "
            f"{row['stated_high']:.1%}], n = {row['stated_n']:.0f}: another error than that of a decoder of the gold "
            "answer, which the theorems do not bound."
        )
        return said


def _so_far(
    residuals: Float[Tensor, "place problem d_model"],
    here: Bool[Tensor, "place problem"],
    places: list[Any],
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
    for k, place in enumerate(places):
        before = [j for j in range(k + 1) if (places[j].alignment, places[j].event) == (place.alignment, place.event)]
        whole[k, :, before] = reduced[before].transpose(0, 1)
        both[k] = here[before].all(dim=0)
    return whole.flatten(2), both.bool()

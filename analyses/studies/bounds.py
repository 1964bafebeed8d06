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

from analyses.stats import wilson
from analyses.studies.aligned import AlignedStudy, check_answers, present, usable_bits
from analyses.studies.base import StudyData, span
from analyses.studies.options import option, seed_option
from analyses.studies.places import ALIGNMENTS, Place
from analyses.studies.setup import Setup
from probes.bounds import error_bounds
from probes.information import reduce_dimensions
from probes.vinformation import VInformation

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

    align: tuple[str, ...] = option(("relative", "end"), among=ALIGNMENTS)
    probe: str = option("linear", among=("linear", "mlp"))
    folds: int = option(5, least=2)
    reduce: int = option(32, least=1)
    seed: int = seed_option()

    def check(self, setup: Setup) -> None:
        super().check(setup)
        answers = [problem.answer for problem in setup.problems.values()]
        check_answers(f"study {self.name}", answers, self.max_answers, self.folds)

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd

        steps = self.steps(data)
        target = self.targets(data, steps)[0]
        graded = data.baseline_responses()
        verdicts = graded.loc[graded["sample"] == 0, "correct"].dropna().astype(bool)
        wrong = int((~verdicts).sum())
        stated = asdict(wilson(wrong, len(verdicts))) if len(verdicts) else {"n": 0}
        here = present(target, steps)
        rows: list[dict[str, Any]] = []
        for gathered in self.layers(data):
            cumulative, both = _so_far(gathered.residuals, here, self.places, self.reduce)
            guesses = [[_guess(target.labels, valid) for valid in seen] for seen in (here, both)]
            alone, together = (
                usable_bits(
                    x, target.labels.clamp(min=0).expand_as(valid), valid, probe=self.probe, folds=self.folds,
                    seed=self.seed, n_classes=max(2, len(target.names)), control=False,
                )
                for x, valid in ((gathered.residuals, here), (cumulative, both))
            )  # fmt: skip
            for k, place in enumerate(self.places):
                columns = {
                    "layer": gathered.layer, "alignment": place.alignment, "event": place.event, "at": place.at,
                    "answers": len(target.names), "probe": self.probe,
                }  # fmt: skip
                single, joint = (
                    [(found, j, guess[j]) for j in _before(self.places, k)]
                    for found, guess in zip((alone, together), guesses, strict=True)
                )
                for kind, choice in zip(_KINDS, (single[-1:], single + joint), strict=True):
                    rows.append({**columns, "kind": kind, **_bounded(choice, max(2, len(target.names)))})
        table = pd.DataFrame(rows)
        for column, part in (("error", "estimate"), ("low", "low"), ("high", "high"), ("n", "n")):
            table[f"stated_{column}"] = stated.get(part, float("nan"))
        table["last_digit"] = target.grouped
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
            ends = span(row["upper_low"], row["upper_high"], ".1%")
            at_most = (
                f"Theorem 2 gives no bound below the {row['guess_error']:.1%} of a guess"
                if row["vacuous"]
                else f"the best decoder errs at most {row['upper']:.1%} {ends} (Theorem 2, {row['upper_is']}; a guess "
                f"errs {row['guess_error']:.1%})"
            )
            said.append(
                f"Last layer, {kind} ({alignment}), most at {row['at']:g}: {row['bits']:.2f} "
                f"{span(row['bits_low'], row['bits_high'])} of {row['entropy']:.2f} bits, so {at_most}; Theorem 1 puts "
                f"it at {row['lower']:.1%} or more {span(row['lower_low'], row['lower_high'], '.1%')} "
                f"({'a bound' if row['lower_is'] == 'bound' else 'a plug-in estimate, no bound'}); the probe errs in "
                f"{row['probe_error']:.1%} {span(row['probe_error_low'], row['probe_error_high'], '.1%')}, "
                f"n = {row['n']:.0f} problems. The place is the best of {len(part)}, which makes its bits a little too "
                "many."
            )
        if not said:
            said.append("At no place are there enough problems to estimate bits: nothing bounds the error.")
        row = table.iloc[0]
        said.append(
            f"The answers the model states are wrong in {row['stated_error']:.1%} "
            f"{span(row['stated_low'], row['stated_high'], '.1%')}, n = {row['stated_n']:.0f} problems: another error "
            "than that of a decoder of the gold answer, which the theorems do not bound."
            if row["stated_n"]
            else "None of the answers the model states was graded."
        )
        return said


def _guess(labels: Int64[Tensor, " problem"], valid: Bool[Tensor, " problem"]) -> float:
    """The error of guessing the most frequent answer, among the problems that are there."""
    some = labels[valid]
    return float("nan") if not len(some) else 1 - float(some.bincount().max()) / len(some)


_COLUMNS = (
    "bits", "bits_low", "bits_high", "entropy", "lower", "lower_low", "lower_high", "upper", "upper_low", "upper_high",
    "probe_error", "probe_error_low", "probe_error_high",
)  # fmt: skip


def _bounded(choice: Sequence[tuple[VInformation, int, float]], answers: int) -> dict[str, Any]:
    """Bounds from the best of some estimates, each a lower bound; the best of many is a little too high.

    The upper bound is (H - I) / 2 cut to 1, since an error is a probability; ``vacuous`` where a guess errs no more.
    """
    known = [(found, k, guess) for found, k, guess in choice if not bool(found.bits[k].isnan())]
    if not known:
        return dict.fromkeys(_COLUMNS, float("nan")) | {"n": 0, "vacuous": True}
    found, k, guess = max(known, key=lambda entry: float(entry[0].bits[entry[1]]))
    information, entropy = found.at(k), float(found.entropy[k])
    error = wilson(information.n - round(float(found.accuracy[k]) * information.n), information.n)
    limits = asdict(error_bounds(information, entropy, answers))
    limits.pop("n_answers")
    limits |= {name: min(1.0, limits[name]) for name in ("upper", "upper_low", "upper_high")}
    return {
        "n": information.n, "bits": information.bits, "bits_low": information.low, "bits_high": information.high,
        "entropy": entropy, **limits, "guess_error": guess, "vacuous": limits["upper"] >= guess,
        "best_of": len(known), "probe_error": error.estimate, "probe_error_low": error.low,
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

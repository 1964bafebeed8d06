"""What goes with bits: nHSIC and the excess at the places of a study, and their rank correlations with V-information.

1. `place_values` takes from the baseline's mi.parquet what stands at each place of each response: the score, whether it
   is a peak, and the standardised excess with the reference read at its last token and where it predicts its answer
   (:mod:`analyses.trace.references`).
2. `over_places`: do places with more bits have more of it? Spearman's rank correlation of the means over problems. Two
   things may be chance: the problems, for which there is a bootstrap that draws bits and measure together (percentiles,
   95 %), and which of so few places are high, for which places are permuted.
3. `over_problems`: at one place, do problems whose answer the probe tells better have more of it? Spearman's rank
   correlation over problems, with the interval of Bonett and Wright 2000 (Psychometrika 65:23).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from analyses.store.columns import POSITIONS, SCORE, excess_positions
from analyses.studies.base import StudyData
from analyses.trace.answer_steps import excess_columns

if TYPE_CHECKING:
    import pandas

    from analyses.store.run import Cell

__all__ = [
    "EXCESS", "MEASURES", "PlaceValues", "over_places", "over_problems", "place_values", "said_of_places",
    "said_over_problems",
]  # fmt: skip

EXCESS = {position: f"excess_{position}" for position in POSITIONS}
"""By position, the column with the mean standardised excess."""

MEASURES = {
    SCORE: "nHSIC",
    EXCESS["last"]: "the excess read at the last token",
    EXCESS["predicts"]: "the excess read where the reference predicts its answer",
}
"""What is compared with bits, in words."""

DRAWS, CHANCE = 1000, 0.05
_FEWEST_PLACES, _FEWEST_PROBLEMS = 4, 10
_Z = 1.959963984540054  # of 95 %

PlaceValues = Mapping[str, Float64[np.ndarray, "place problem"]]


def place_values(
    data: StudyData, cells: Sequence[Cell], steps: Int64[Tensor, "place problem"]
) -> dict[int, dict[str, Float64[np.ndarray, "place problem"]]]:
    """By layer, what stands at each place of each response: ``nhsic``, ``peak_share`` (0 or 1) and `EXCESS`.

    NaN where a response lacks the place, and where the baseline has no such excess.
    """
    import pandas as pd

    baseline, keys = data.lab.baseline, ["problem", "sample", "step"]
    where = pd.DataFrame(
        [
            {"problem": cell.problem, "sample": cell.sample, "step": step, "place": k, "response": n}
            for n, cell in enumerate(cells)
            for k, step in enumerate(steps[:, n].tolist())
            if step >= 0
        ]
    )
    positions = excess_positions(baseline.settings)
    columns = {SCORE: SCORE, "is_peak": "peak_share"}
    columns |= {excess_columns(position, positions)[1]: EXCESS[position] for position in positions}
    names = [SCORE, "peak_share", *EXCESS.values()]
    found: dict[int, dict[str, Float64[np.ndarray, "place problem"]]] = {}
    for part in baseline.parts("mi.parquet", [*keys, "layer", *columns]):
        rows = where.merge(data.of_these(part).astype({"problem": str}), on=keys)
        for layer, here in rows.groupby("layer"):
            kept = found.setdefault(int(str(layer)), {name: np.full(tuple(steps.shape), math.nan) for name in names})
            for column, name in columns.items():
                kept[name][here["place"], here["response"]] = here[column].to_numpy(dtype=float)
    return found


def over_places(
    bits: Float64[np.ndarray, "place problem"], measure: Float64[np.ndarray, "place problem"], seed: int
) -> tuple[float, float, float, float]:
    """Rank correlation over places of mean bits with the mean of a measure, its interval over problems, and its p.

    >>> bits = np.arange(9.0)[:, None] + np.zeros((9, 20))
    >>> found = over_places(bits, -bits, seed=0)
    >>> found[:3], found[3] < 0.01
    ((-1.0, -1.0, -1.0), True)

    The p (two-sided, at least 1 / 1001) is of permuted places, as if these were independent: neighbours are not, so it
    is rather too small.

    NaN with fewer than 4 places that have both, and where either is the same at all of them.
    """
    known = np.isfinite(bits).any(axis=1) & np.isfinite(measure).any(axis=1)
    bits, measure = bits[known], measure[known]
    if len(bits) < _FEWEST_PLACES:
        return math.nan, math.nan, math.nan, math.nan
    count, dice = bits.shape[1], np.random.default_rng(seed)
    times = dice.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(float)
    drawn = _spearman(_means(bits, times), _means(measure, times))
    drawn = drawn[np.isfinite(drawn)]
    x, y = (_means(values, np.ones((1, count))) for values in (bits, measure))
    found = float(_spearman(x, y)[0])
    if not len(drawn) or math.isnan(found):
        return found, math.nan, math.nan, math.nan
    low, high = map(float, np.quantile(drawn, [0.025, 0.975]))
    permuted = np.abs(_spearman(np.repeat(x, DRAWS, axis=0), dice.permuted(np.repeat(y, DRAWS, axis=0), axis=1)))
    p = (1 + int((permuted >= abs(found) - 1e-12).sum())) / (1 + DRAWS)
    return found, min(low, found), max(high, found), p


def over_problems(
    bits: Float64[np.ndarray, " problem"], measure: Float64[np.ndarray, " problem"]
) -> tuple[float, float, float, int]:
    """Rank correlation over problems of their bits with a measure at one place, its interval, and how many they are.

    >>> found = over_problems(np.arange(103.0), np.arange(103.0) // 52)
    >>> [round(value, 2) for value in found]
    [0.87, 0.8, 0.91, 103]

    NaN with fewer than 10 problems that have both, and where either is the same in all of them.
    """
    known = np.isfinite(bits) & np.isfinite(measure)
    count = int(known.sum())
    if count < _FEWEST_PROBLEMS:
        return math.nan, math.nan, math.nan, count
    found = float(_spearman(bits[None, known], measure[None, known])[0])
    if math.isnan(found) or abs(found) >= 1:
        return found, found, found, count
    half = _Z * math.sqrt((1 + found**2 / 2) / (count - 3))
    return found, math.tanh(math.atanh(found) - half), math.tanh(math.atanh(found) + half), count


def said_of_places(label: str, row: Mapping[str, Any]) -> str:
    """Which of the measures goes with bits over all places of a layer: a sentence from a row of the table."""
    told, goes = [], []
    for name, words in MEASURES.items():
        value, low, high, p = (row[f"spearman_{name}{end}"] for end in ("", "_low", "_high", "_p"))
        if value == value:
            told.append(f"{words} {value:+.2f} [{low:+.2f}, {high:+.2f}] (p = {p:.2g})")
            goes += [words] if low > 0 and p <= CHANCE else []
    if not told:
        return ""
    verdict = f"What goes with them is {_listed(goes)}" if goes else "None of these clearly goes with them"
    return (
        f"Bits about {label} over the {row['places']} different places of the last layer, rank correlations with means "
        f"over problems: {'; '.join(told)}. {verdict} (in brackets 95 %, bootstrap over problems; p by permuting "
        "places as if each stood for itself, which neighbours do not)."
    )


def said_over_problems(table: pandas.DataFrame, labels: Mapping[str, str]) -> list[str]:
    """For each label, the rank correlations over problems at the place of the last layer that has most bits."""
    said = []
    last = table[(table["layer"] == table["layer"].max()) & table["bits"].notna()]
    for target, part in last.groupby("target", sort=False):
        row = part.loc[part["bits"].idxmax()]
        told, goes = [], []
        for name, words in MEASURES.items():
            value, low, high = (row[f"spearman_{name}{end}"] for end in ("", "_low", "_high"))
            if value == value:
                told.append(f"{words} {value:+.2f} [{low:+.2f}, {high:+.2f}]")
                goes += [words] if low > 0 else []
        if told:
            verdict = f"What goes with them is {_listed(goes)}" if goes else "None of these clearly goes with them"
            said.append(
                f"Bits about {labels[str(target)]} of each of {row['n']} problems, where the last layer has most of "
                f"them ({row['alignment']}, {row['at']:g}: {row['bits']:.2f} on average), rank correlations over "
                f"problems: {'; '.join(told)}. {verdict}."
            )
    return said


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _means(values: Float64[np.ndarray, "place problem"], times: Float64[np.ndarray, "draw problem"]) -> Any:
    """Means over problems, each counted so many times: ``[draw, place]``; NaN where none is drawn that has it."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (times @ np.where(known, values, 0.0).T) / (times @ known.T.astype(float))


def _spearman(a: Float64[np.ndarray, "draw n"], b: Float64[np.ndarray, "draw n"]) -> Float64[np.ndarray, " draw"]:
    """Row by row; NaN where a row has NaN or is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=1) for values in (a, b)]
    x, y = (some - some.mean(axis=1, keepdims=True) for some in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    undefined = ~(np.isfinite(a) & np.isfinite(b)).all(axis=1)
    return np.where(undefined, math.nan, found)

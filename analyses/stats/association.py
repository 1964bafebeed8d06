"""Do two things occur together: lift, odds ratio and Jaccard of counts, and what two collections have in common.

Cases of one problem are not independent (the steps of a response, the responses to a problem): counts are given by
problem, and intervals are bootstraps over problems (Efron 1979, Ann. Stat. 7:1).

1. The estimate is that of the sums, as it is: 0 where the two never meet, infinite where they are never apart.
2. Where there are fewer than `FEWEST_PROBLEMS` problems, or a resample often leaves nothing to divide by, or all
   resamples say the same, there is no interval: its ends are NaN.
3. A bootstrap cannot see what no problem shows. Where no case is both, or all of the one are the other, the end that
   the bootstrap leaves out is the exact one of a share that is seen in each of the problems there are (`surely`), as
   though each problem with such cases said no more than one case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64
from numpy.typing import ArrayLike

from analyses.stats.conditions import sign_flips
from analyses.stats.estimate import Estimate, floats, normal_quantile, surely
from interp.errors import InputError

__all__ = ["DRAWS", "FEWEST_PROBLEMS", "Association", "Associations", "associations", "jaccard", "odds_ratio"]

DRAWS, FEWEST_PROBLEMS = 2000, 5  # of the bootstrap
Counts = ArrayLike | float | int
_CHUNK = 1 << 21  # weights of problems drawn at a time


@dataclass(frozen=True, eq=False)
class Association:
    """One measure of how often things occur together: estimates and the ends of their intervals, an entry each."""

    estimate: Float64[np.ndarray, " thing"]
    low: Float64[np.ndarray, " thing"]
    high: Float64[np.ndarray, " thing"]
    level: float
    problems: int

    def one(self, thing: int = 0) -> Estimate:
        """That of one of them."""
        ends = float(self.low[thing]), float(self.high[thing])
        how = "no interval" if math.isnan(ends[0]) else "percentile bootstrap over problems"
        return Estimate(float(self.estimate[thing]), *ends, self.level, self.problems, how)


@dataclass(frozen=True, eq=False)
class Associations:
    """Lift, odds ratio and Jaccard of the same counts, and the test of whether they occur together by chance.

    `p` is the sign-flip test over problems (as `paired_test`) of how many cases are both beyond what is expected of
    each problem's own counts.
    """

    lift: Association
    odds_ratio: Association
    jaccard: Association
    p: Float64[np.ndarray, " thing"]


def associations(
    both: Counts,
    first: Counts,
    second: Counts,
    n: Counts,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Associations:
    """How often `first` and `second` go together, from the counts of each problem; of many things at a time.

    >>> both, peaks = [[3, 0], [2, 0], [4, 0], [3, 0], [3, 0]], [5, 4, 6, 5, 5]  # two words; peaks of five problems
    >>> words, steps = [[6, 2], [5, 3], [6, 1], [4, 2], [4, 2]], [60, 50, 60, 40, 50]
    >>> found = associations(both, peaks, words, steps).lift
    >>> found.estimate.round(1).tolist(), found.low.round(1).tolist(), found.high.round(1).tolist()
    ([6.2, 0.0], [5.7, 0.0], [6.9, 5.4])

    Args:
        both: cases that are first and second, ``[problem, thing]``, or ``[problem]`` of one thing.
        first, second: cases that are the one and the other, likewise.
        n: cases, ``[problem]``.

    Units: lift is P(second | first) / P(second), 1 where they have nothing to do with each other; the odds ratio is
    that of second at first and elsewhere; Jaccard is both / either.

    Cases that are independent may each be given as a problem. Totals alone say nothing of how problems vary: from
    numbers the intervals are NaN.

    Raises `InputError` for counts that are none, do not fit each other, and no case.
    """
    operation = "associations"
    counts = _counts(operation, both, first, second, n)
    sums = counts.sum(axis=1)
    problems = counts.shape[1]
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in _MEASURES}
    for weights in _resamples(problems, draws, seed, operation):
        totals = np.stack([weights @ part for part in counts])
        for name, measure in _MEASURES.items():
            drawn[name].append(measure(*totals))
    found = {}
    for name, measure in _MEASURES.items():
        estimate = measure(*sums)
        low, high = _ends(np.concatenate(drawn[name]), level, problems)
        low, high = _unseen(name, estimate, low, high, counts, level)
        found[name] = Association(estimate, low, high, level, problems)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = counts[0] - np.nan_to_num(counts[1] * counts[2] / counts[3])
    return Associations(found["lift"], found["odds_ratio"], found["jaccard"], sign_flips(excess, seed=seed))


def odds_ratio(table: ArrayLike, level: float = 0.95) -> Estimate:
    """The odds ratio ad / bc of the counts [[a, b], [c, d]] of independent cases, with Woolf's interval (log scale).

    >>> found = odds_ratio([[10, 5], [3, 12]])
    >>> round(found.estimate, 2), round(found.low, 2), round(found.high, 2), found.method
    (8.0, 1.52, 42.04, 'Woolf')
    >>> odds_ratio([[0, 5], [3, 12]]).estimate
    0.0

    Where a count is 0 the odds ratio is 0, or infinite, and the interval reaches to there; its other end is Woolf's
    with 0.5 added to all four counts (Haldane 1956, Anscombe 1956), and `method` says so. NaN where a row or a column
    is empty: there is no second group to compare. Of several cases a problem: `associations`.
    """
    cells = floats(table, "odds_ratio", shape=(2, 2))
    if np.isnan(cells).any() or (cells < 0).any() or cells.sum() == 0:
        raise InputError(
            "odds_ratio", expected="counts of at least one case", received=str(cells.tolist()), remedy="Count again."
        )
    n = int(cells.sum())
    if not cells.sum(axis=0).all() or not cells.sum(axis=1).all():
        return Estimate(math.nan, math.nan, math.nan, level, n, "an empty row or column")
    corrected = bool((cells == 0).any())
    used = cells + 0.5 if corrected else cells
    centre = math.log(used[0, 0] * used[1, 1] / (used[0, 1] * used[1, 0]))
    half = normal_quantile(level) * math.sqrt((1 / used).sum())
    low, high = math.exp(centre - half), math.exp(centre + half)
    if not corrected:
        return Estimate(math.exp(centre), low, high, level, n, "Woolf")
    method = "Woolf, 0.5 added for the interval's other end"
    if cells[0, 0] * cells[1, 1] == 0:
        return Estimate(0.0, 0.0, high, level, n, method)
    return Estimate(math.inf, low, math.inf, level, n, method)


def jaccard(a: Collection[Hashable], b: Collection[Hashable]) -> float:
    """Members in common / members in all (Jaccard 1901); NaN for two empty collections.

    >>> jaccard({"Wait", "Hmm", "So"}, {"Wait", "So", "But"})
    0.5
    """
    first, second = set(a), set(b)
    return len(first & second) / len(first | second) if first or second else math.nan


def _lift(both: Any, first: Any, second: Any, n: Any) -> Any:
    return both * n / (first * second)


def _odds_ratio(both: Any, first: Any, second: Any, n: Any) -> Any:
    inside, outside = both / (first - both), (second - both) / (n - first - second + both)
    defined = (first > 0) & (second > 0) & (first < n) & (second < n)
    return np.where(defined, inside / outside, np.nan)


def _jaccard(both: Any, first: Any, second: Any, n: Any) -> Any:
    return both / (first + second - both)


def _undisturbed(measure: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """What cannot be divided is NaN, or infinite, without a warning."""

    def of(*counts: Any) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(measure(*counts), dtype=float)

    return of


_MEASURES = {name: _undisturbed(of) for name, of in
             {"lift": _lift, "odds_ratio": _odds_ratio, "jaccard": _jaccard}.items()}  # fmt: skip


def _counts(operation: str, *given: Counts) -> Float[np.ndarray, "four problem thing"]:
    """Counts of both, first, second and all, of one shape; refused where they cannot be counts."""
    try:
        arrays = [np.atleast_1d(np.asarray(values, dtype=float)) for values in given]
        columns = [values[:, None] if values.ndim == 1 else values for values in arrays]
        counts = np.stack(np.broadcast_arrays(*columns))
    except (TypeError, ValueError):
        counts = np.full((4, 0, 0), np.nan)
    both, first, second, n = counts
    fit = counts.ndim == 3 and both.size and bool((both >= 0).all() and (both <= np.minimum(first, second)).all())
    if not fit or not (first + second - both <= n).all() or (n.sum(axis=0) < 1).any():
        shapes = ", ".join(str(np.shape(values)) for values in given)
        raise InputError(
            operation,
            expected="counts by problem, with both <= first, second <= n, and first + second - both <= n",
            received=f"both, first, second and n of shapes {shapes}"
            + (f", in all {_told(counts)}" if both.size else ""),
            remedy="Count again.",
        )
    return counts


def _told(counts: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in counts[:, :, 0].sum(axis=1))


def _resamples(problems: int, draws: int, seed: int, operation: str) -> Iterator[Float64[np.ndarray, "draw problem"]]:
    """How often each problem is in each resample, some resamples at a time."""
    if draws < 1:
        raise InputError(
            operation, expected="at least one draw", received=str(draws), remedy=f"The default is {DRAWS}."
        )
    generator = np.random.default_rng(seed)
    at_once = max(1, min(draws, _CHUNK // problems))
    for begun in range(0, draws, at_once):
        size = min(at_once, draws - begun)
        chosen = generator.integers(0, problems, size=(size, problems)) + problems * np.arange(size)[:, None]
        yield np.bincount(chosen.ravel(), minlength=size * problems).reshape(size, problems).astype(np.float64)


def _ends(drawn: Float64[np.ndarray, "draw thing"], level: float, problems: int) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles of the draws; NaN where too few of them are defined, or none differs."""
    normal_quantile(level)  # refuses a level out of range
    # A share of the draws that is undefined would make the interval of the others too narrow.
    usable = (np.isfinite(drawn).mean(axis=0) >= 0.95) & (problems >= FEWEST_PROBLEMS)
    ends = np.full((2, drawn.shape[1]), np.nan)
    if usable.any():
        kept = np.where(np.isfinite(drawn[:, usable]), drawn[:, usable], np.nan)
        ends[:, usable] = np.nanquantile(kept, [(1 - level) / 2, (1 + level) / 2], axis=0)
    ends[:, ends[1] - ends[0] <= 1e-12 * np.abs(ends[1])] = np.nan
    return ends[0], ends[1]


def _unseen(
    name: str, estimate: np.ndarray, low: np.ndarray, high: np.ndarray, counts: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """The ends where no case is both, or all of the first are second, or all of the second first."""
    low, high = low.copy(), high.copy()
    if counts.shape[1] < FEWEST_PROBLEMS:
        return low, high
    measure, sums = _MEASURES[name], counts.sum(axis=1)
    for k, (both, first, second, n) in enumerate(sums.T):
        if not first or not second or (name == "odds_ratio" and math.isnan(estimate[k])):
            continue
        # A share of 0, or of 1, of `of` cases: as extreme as it may be, were each problem with such cases one case
        views = [(of, 1 - surely(int((part > 0).sum()), level)) for of, part in ((first, counts[1, :, k]),
                                                                                (second, counts[2, :, k]))]  # fmt: skip
        if both == 0:
            most = min(share * of for of, share in views)
            low[k], high[k] = 0.0, float(measure(most, first, second, n))
        elif both in (first, second):
            least = min((1 - share) * of for of, share in views if of == both)
            end = float(measure(least, first, second, n))
            low[k] = end if math.isnan(low[k]) else min(low[k], end)
            if math.isinf(estimate[k]):
                high[k] = math.inf
            elif math.isnan(high[k]):
                high[k] = float(estimate[k])
    return low, high

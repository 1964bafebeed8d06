"""Do two things occur together: ratios of counts, and what two collections have in common."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable

import numpy as np
from numpy.typing import ArrayLike

from interp.errors import InputError

from .estimate import Estimate, floats, normal_quantile

__all__ = ["jaccard", "lift", "odds_ratio"]


def odds_ratio(table: ArrayLike, level: float = 0.95) -> Estimate:
    """The odds ratio ad / bc of the counts [[a, b], [c, d]], with Woolf's interval on the log scale.

    >>> found = odds_ratio([[10, 5], [3, 12]])
    >>> round(found.estimate, 2), round(found.low, 2), round(found.high, 2), found.method
    (8.0, 1.52, 42.04, 'Woolf')

    Where a count is 0, 0.5 is added to all four (Haldane 1956, Anscombe 1956), and `method` says so. NaN where a row or
    a column is empty: there is no second group to compare.
    """
    cells = floats(table, "odds_ratio", shape=(2, 2))
    if np.isnan(cells).any() or (cells < 0).any() or cells.sum() == 0:
        raise InputError(
            "odds_ratio", expected="counts of at least one case", received=str(cells.tolist()), remedy="Count again."
        )
    n = int(cells.sum())
    if not cells.sum(axis=0).all() or not cells.sum(axis=1).all():
        return Estimate(math.nan, math.nan, math.nan, level, n, "an empty row or column")
    corrected = (cells == 0).any()
    used = cells + 0.5 if corrected else cells
    centre = math.log(used[0, 0] * used[1, 1] / (used[0, 1] * used[1, 0]))
    half = normal_quantile(level) * math.sqrt((1 / used).sum())
    method = "Woolf, Haldane-Anscombe correction" if corrected else "Woolf"
    return Estimate(math.exp(centre), math.exp(centre - half), math.exp(centre + half), level, n, method)


def lift(both: int, first: int, second: int, n: int, level: float = 0.95) -> Estimate:
    """P(second | first) / P(second) from counts: `both` of `n` cases are first and second.

    >>> found = lift(both=30, first=100, second=50, n=1000)  # 30 of 100 peaks, 50 of all 1000 steps are "Wait"
    >>> round(found.estimate, 2), round(found.low, 2), round(found.high, 2)
    (6.0, 4.75, 7.59)

    1 means that the two have nothing to do with each other. The interval is the delta method's for the logarithm under
    multinomial sampling of the cases; where one kind of case does not occur, with 0.5 added to each (the estimate is
    not changed). NaN where `first` or `second` never occurs.
    """
    counts = np.array([both, first - both, second - both, n - first - second + both], dtype=float)
    if n < 1 or (counts < 0).any():
        raise InputError(
            "lift",
            expected="both <= first, second <= n, and first + second - both <= n",
            received=f"both={both}, first={first}, second={second}, n={n}",
            remedy="Count again.",
        )
    if first == 0 or second == 0:
        return Estimate(math.nan, math.nan, math.nan, level, n, "one of the two never occurs")
    corrected = (counts[:3] == 0).any()
    a, b, c, d = counts + 0.5 if corrected else counts
    total, rows, columns = a + b + c + d, a + b, a + c
    variance = a * (1 / a - 1 / rows - 1 / columns) ** 2 + b / rows**2 + c / columns**2 - 1 / total
    centre, half = math.log(a * total / (rows * columns)), normal_quantile(level) * math.sqrt(max(0.0, variance))
    low = 0.0 if both == 0 else math.exp(centre - half)
    method = "delta method, 0.5 added" if corrected else "delta method"
    return Estimate(both * n / (first * second), low, math.exp(centre + half), level, n, method)


def jaccard(a: Collection[Hashable], b: Collection[Hashable]) -> float:
    """Members in common / members in all (Jaccard 1901); NaN for two empty collections.

    >>> jaccard({"Wait", "Hmm", "So"}, {"Wait", "So", "But"})
    0.5
    """
    first, second = set(a), set(b)
    return len(first & second) / len(first | second) if first or second else math.nan

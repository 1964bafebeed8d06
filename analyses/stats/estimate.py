"""A number with its interval, Wilson's interval of a share, also of clustered cases, and how arguments are read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from interp.errors import InputError

__all__ = ["Estimate", "floats", "normal_quantile", "paired", "proportion", "scored", "surely", "wilson"]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. `n` is what it was estimated from: cases, pairs or clusters."""

    estimate: float
    low: float
    high: float
    level: float
    n: int
    method: str

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as plain data."""
        return asdict(self)


def wilson(right: float | int, n: float | int, level: float = 0.95) -> Estimate:
    """Wilson's score interval of a proportion: `right` of `n` (Wilson 1927, JASA 22:209).

    >>> found = wilson(230, 320)
    >>> round(found.estimate, 3), round(found.low, 3), round(found.high, 3)
    (0.719, 0.667, 0.765)
    """
    if not 0 <= right <= n or not 0 < n < math.inf:
        raise InputError("wilson", expected="0 <= right <= n, n > 0", received=f"{right} of {n}", remedy="Count again.")
    z = normal_quantile(level)
    share, spread = right / n, z * z / n
    centre, half = share + spread / 2, z * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # At the ends the bound is the end itself; rounding must not put it beyond
    low = 0.0 if right == 0 else (centre - half) / (1 + spread)
    high = 1.0 if right == n else (centre + half) / (1 + spread)
    return Estimate(share, low, high, level, int(n), "Wilson")


def proportion(values: Any, clusters: Any = None, level: float = 0.95) -> Estimate:
    """The share of ones among zeros and ones, with Wilson's interval; cases may come in clusters (one label a case).

    >>> right, problem = [1, 1, 1, 0, 1, 1, 0, 0, 0], list("aaabbbccc")  # three samples of three problems
    >>> found = proportion(right, problem)
    >>> round(found.low, 2), round(found.high, 2), found.n
    (0.15, 0.9, 3)

    With several cases in a cluster the interval is for the effective number of cases, n / design effect (Kish 1965,
    Survey Sampling), which is never more than n; where all cases are alike it is the number of clusters. NaN among
    `values` is left out. Raises `InputError` for other values, unequal lengths and no case.
    """
    known, _, groups, _ = paired("proportion", values, values, clusters)
    if not np.isin(known, (0.0, 1.0)).all():
        raise InputError("proportion", expected="0, 1 or NaN", received="other values", remedy="Give yes and no.")
    sums, sizes = np.bincount(groups, weights=known), np.bincount(groups)
    count, n, share = len(sizes), len(known), float(known.mean())
    if count == n:
        return wilson(int(sums.sum()), n, level)
    effective = float(count)
    if count > 1 and 0 < share < 1:
        spread = float(((sums - share * sizes) ** 2).sum()) * count / (count - 1)
        effective = n / max(1.0, spread / (n * share * (1 - share)))
    found = wilson(share * effective, effective, level)
    method = f"Wilson for the effective number of cases, {effective:.1f}"
    return Estimate(found.estimate, found.low, found.high, level, count, method)


def surely(n: int, level: float = 0.95) -> float:
    """How probable a thing is at least that was seen n times out of n: the lower end of Clopper and Pearson's interval.

    >>> round(surely(30), 3)
    0.884

    What an interval can say where a sample shows no variation at all (1 - this is the "rule of three").
    """
    normal_quantile(level)  # refuses a level out of range
    return ((1 - level) / 2) ** (1 / n)


def normal_quantile(level: float) -> float:
    """How many standard deviations to both sides hold `level` of a normal distribution."""
    if not 0 < level < 1:
        raise InputError("interval", expected="a level between 0 and 1", received=str(level), remedy="Usual: 0.95.")
    return NormalDist().inv_cdf((1 + level) / 2)


def floats(values: Any, operation: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Numbers as an array, of one dimension or of `shape`; what is missing in a column of pandas is NaN."""
    try:
        if hasattr(values, "to_numpy"):  # pandas: its own missing value is no NaN yet
            found = values.to_numpy(dtype=float, na_value=np.nan)
        else:
            found = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise InputError(operation, expected="numbers", received=repr(values)[:80], remedy="Give numbers.") from None
    if found.ndim != 1 if shape is None else found.shape != shape:
        wanted = "one dimension" if shape is None else f"shape {shape}"
        raise InputError(operation, expected=wanted, received=f"shape {found.shape}", remedy="Check the array.")
    return found


def paired(operation: str, a: Any, b: Any, clusters: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Both without the pairs that have a NaN, the number of each pair's cluster, and how many pairs were left out."""
    first, second = floats(a, operation), floats(b, operation)
    labels = np.arange(len(first)) if clusters is None else np.asarray(clusters)
    if not len(first) == len(second) == len(labels):
        raise InputError(
            operation,
            expected="as many values on both sides, and clusters",
            received=f"{len(first)}, {len(second)} and {len(labels)}",
            remedy="Pair them by problem and sample.",
        )
    known = ~np.isnan(first) & ~np.isnan(second)
    if not known.any():
        raise InputError(
            operation,
            expected="at least one value that is not NaN",
            received=f"{len(first)}, all NaN" if len(first) else "none",
            remedy="Check the grades.",
        )
    numbers = np.unique(labels[known], return_inverse=True)[1]
    return first[known], second[known], numbers, int((~known).sum())


def scored(operation: str, scores: Any, labels: Any, clusters: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores without NaN, whether each has the label 1, and the number of its cluster."""
    values, truth, groups, _ = paired(operation, scores, labels, clusters)
    if not np.isin(truth, (0.0, 1.0)).all():
        raise InputError(operation, expected="labels 0 and 1", received="other labels", remedy="Pass right and wrong.")
    return values, truth == 1, groups

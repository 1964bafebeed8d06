"""Percentile bootstraps over cases, pairs, or whole clusters of them (Efron 1979, Ann. Stat. 7:1).

One case, or cases that are all alike, say nothing of how much others vary: their interval is NaN, not one of no width.
Accuracies are the exception: they lie between 0 and 1, so that even then something holds (`accuracy_difference`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from analyses.stats.estimate import Estimate, normal_quantile, paired, surely
from interp.errors import InputError

__all__ = ["accuracy_difference", "bootstrap_interval", "mean_intervals", "paired_bootstrap"]

_FEW = 100
_CHUNK = 1 << 21  # numbers drawn at a time: memory does not grow with the number of draws


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    statistic: str = "mean difference",
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    clusters: ArrayLike | None = None,
) -> Estimate:
    """Percentile bootstrap of the "mean difference" a - b, or of the "ratio of means" a / b, over pairs.

    >>> found = paired_bootstrap([1, 1, 0, 1, 1, 0, 1, 1], [0, 1, 0, 0, 1, 0, 0, 1])
    >>> found.estimate, found.low, found.high
    (0.375, 0.125, 0.75)

    With `clusters` (one label a pair: the problem), whole clusters are drawn, with all their pairs. The interval is
    NaN for one pair or cluster, where all differ alike, and where some draw has no ratio; of accuracies use
    `accuracy_difference`. The method is Efron's (1979, Ann. Stat. 7:1).

    Raises `InputError` for unequal lengths, no pair, and settings out of range.
    """
    if statistic not in ("mean difference", "ratio of means"):
        raise InputError(
            "paired_bootstrap", expected="'mean difference' or 'ratio of means'", received=repr(statistic),
            remedy="Use bootstrap_interval for other statistics.",
        )  # fmt: skip
    first, second, groups, _ = paired("paired_bootstrap", a, b, clusters)
    sums = np.stack([np.bincount(groups, weights=values) for values in (first, second, np.ones_like(first))], axis=1)

    def of_sums(totals: Float64[np.ndarray, "draw three"]) -> Float64[np.ndarray, " draw"]:
        if statistic == "mean difference":
            return (totals[:, 0] - totals[:, 1]) / totals[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(totals[:, 1] == 0, np.nan, totals[:, 0] / totals[:, 1])

    kinds, counts = np.unique(sums, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    few = len(kinds) <= _FEW  # of 0 and 1 there are few kinds: it is enough to draw how often each of them comes
    drawn = []
    for size in _sizes(draws, 3 * len(sums), "paired_bootstrap"):
        if few:
            totals = generator.multinomial(len(sums), counts / len(sums), size=size) @ kinds
        else:
            totals = sums[generator.integers(0, len(sums), size=(size, len(sums)))].sum(axis=1)
        drawn.append(of_sums(totals))
    value = float(of_sums(sums.sum(axis=0, keepdims=True))[0])
    scale = abs(value) if statistic == "ratio of means" else max(float(np.abs(x).max()) for x in (first, second))
    unit = "pairs" if len(sums) == len(first) else "clusters"
    return _estimate(value, np.concatenate(drawn), level, scale, len(sums), unit)


def accuracy_difference(
    a: ArrayLike,
    b: ArrayLike,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    clusters: ArrayLike | None = None,
) -> Estimate:
    """The mean difference a - b of grades or shares, all from 0 to 1: `paired_bootstrap`, wherever that can tell.

    >>> found = accuracy_difference([1, 1, 1, 1], [1, 1, 1, 1])  # four pairs alike do not mean that nothing differs
    >>> found.estimate, round(found.low, 2), round(found.high, 2)
    (0.0, -0.6, 0.6)

    Where all clusters (pairs, without clusters) differ by the same d, a bootstrap has nothing to draw from. But a kind
    of cluster seen n times out of n has at least the probability q = ((1 - level) / 2)^(1 / n) (Clopper and Pearson
    1934), and the others differ by -1 to 1: hence the interval [q d - (1 - q), q d + (1 - q)], cut to [-1, 1]. It holds
    0 wherever the exact test of `mcnemar` has p > 1 - level.

    Raises `InputError` as `paired_bootstrap`, and for values outside 0 to 1.
    """
    operation = "accuracy_difference"
    first, second, groups, _ = paired(operation, a, b, clusters)
    for values in (first, second):
        if values.min() < 0 or values.max() > 1:
            raise InputError(
                operation, expected="grades or shares from 0 to 1", received=f"{values.min():g} to {values.max():g}",
                remedy="Use paired_bootstrap for scores.",
            )  # fmt: skip
    found = paired_bootstrap(first, second, draws=draws, seed=seed, level=level, clusters=groups)
    if not math.isnan(found.low):
        return found
    least = surely(found.n, level)
    low, high = (least * found.estimate + side * (1 - least) for side in (-1, 1))
    method = f"exact bound of what was seen {found.n} times out of {found.n}"
    return Estimate(found.estimate, max(-1.0, low), min(1.0, high), level, found.n, method)


def bootstrap_interval(
    values: ArrayLike,
    statistic: str | Callable[[Float64[np.ndarray, "draw n"]], ArrayLike] = "mean",
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    clusters: ArrayLike | None = None,
) -> Estimate:
    """Percentile bootstrap of the "mean", the "median" or another statistic, over cases or whole clusters of them.

    >>> found = bootstrap_interval([3, 1, 4, 1, 5, 9, 2, 6], lambda x: x.max(axis=1) - x.min(axis=1))
    >>> found.estimate, found.high
    (8.0, 8.0)

    A callable gets one resample a row and returns a number for each. With clusters of unequal size only the mean and
    the median are defined. NaN among `values` is left out. The interval is NaN for one case or cluster, and where the
    statistic is the same in all draws.

    Raises `InputError` for no value, and settings out of range.
    """
    operation = "bootstrap_interval"
    data, _, groups, _ = paired(operation, values, values, clusters)
    sizes = np.bincount(groups)
    if callable(statistic) and len(set(sizes.tolist())) > 1:
        raise InputError(
            operation,
            expected="clusters of one size",
            received=f"sizes {sizes.min()} to {sizes.max()}",
            remedy="Use the mean or the median, or average the clusters first.",
        )
    table = np.full((len(sizes), int(sizes.max())), np.nan)  # one cluster a row, filled up with NaN
    order = np.argsort(groups, kind="stable")
    places = np.arange(len(data)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    table[groups[order], places] = data[order]
    named = {"mean": lambda rows: np.nanmean(rows, axis=1), "median": lambda rows: np.nanmedian(rows, axis=1)}
    if not callable(statistic) and statistic not in named:
        raise InputError(
            operation, expected="'mean', 'median' or a callable", received=repr(statistic), remedy="Pass one."
        )
    of_rows = statistic if callable(statistic) else named[statistic]
    generator = np.random.default_rng(seed)
    drawn = []
    for size in _sizes(draws, table.size, operation):
        chosen = generator.integers(0, len(table), size=(size, len(table)))
        drawn.append(np.asarray(of_rows(table[chosen].reshape(size, -1)), dtype=float))
    value = float(np.asarray(of_rows(table.reshape(1, -1)), dtype=float)[0])
    unit = "cases" if len(table) == len(data) else "clusters"
    return _estimate(value, np.concatenate(drawn), level, float(np.abs(data).max()), len(table), unit)


def mean_intervals(
    values: Float64[np.ndarray, "cluster thing"], draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> Float64[np.ndarray, "three thing"]:
    """The mean of each column, and the ends of its percentile bootstrap over rows: all columns with the same draws.

    >>> found = mean_intervals(np.array([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0], [4.0, 5.0]]))
    >>> found[0].tolist(), found[1:, 0].round(1).tolist(), bool(np.isnan(found[1:, 1]).all())
    ([2.5, 5.0], [1.5, 3.5], True)

    An interval is NaN for one row, and where the draws do not vary. Without rows all is NaN.

    Raises `InputError` for settings out of range.
    """
    normal_quantile(level)  # refuses a level out of range
    count, width = values.shape
    found = np.full((3, width), np.nan)
    if not count:
        return found
    found[0] = values.mean(axis=0)
    generator, drawn = np.random.default_rng(seed), []
    for size in _sizes(draws, max(1, count), "mean_intervals"):
        times = generator.multinomial(count, np.full(count, 1 / count), size=size)
        drawn.append(times @ values / count)
    ends = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2], axis=0)
    known = (ends[1] - ends[0] > 1e-12 * np.abs(values).max(axis=0)) & (count > 1)
    found[1:, known] = ends[:, known]
    return found


def _sizes(draws: int, width: int, operation: str) -> Iterator[int]:
    """How many draws of `width` numbers to make at a time."""
    if draws < 1:
        raise InputError(operation, expected="at least one draw", received=str(draws), remedy="The default is 10000.")
    at_once = max(1, _CHUNK // width)
    for begun in range(0, draws, at_once):
        yield min(at_once, draws - begun)


def _estimate(
    value: float, drawn: Float64[np.ndarray, " draw"], level: float, scale: float, count: int, unit: str
) -> Estimate:
    """The percentiles of the draws; NaN where they do not vary beyond the rounding of numbers of this scale."""
    normal_quantile(level)  # refuses a level out of range
    low, high = map(float, np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
    if count < 2 or high - low <= 1e-12 * scale:
        why = f"no interval: one of the {unit}" if count < 2 else f"no interval: {count} {unit} all alike"
        return Estimate(value, math.nan, math.nan, level, count, why)
    return Estimate(value, low, high, level, count, f"percentile bootstrap over {unit}, {len(drawn)} draws")

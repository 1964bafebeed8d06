"""Percentile bootstraps over cases, pairs, or whole clusters of them (Efron 1979, Ann. Stat. 7:1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from interp.errors import InputError

from .estimate import Estimate, normal_quantile, paired

__all__ = ["bootstrap_interval", "paired_bootstrap"]

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

    With `clusters` (one label a pair: the problem), whole clusters are drawn, with all their pairs. Where all pairs
    differ alike, the interval has no width and says nothing: see `power_note`. Where some draw has no ratio, the
    interval is NaN. The method is Efron's (1979, Ann. Stat. 7:1).

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
    low, high = _percentiles(np.concatenate(drawn), level)
    unit = "pairs" if len(sums) == len(first) else "clusters"
    value = float(of_sums(sums.sum(axis=0, keepdims=True))[0])
    return Estimate(value, low, high, level, len(sums), f"percentile bootstrap over {unit}, {draws} draws")


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
    the median are defined. NaN among `values` is left out.

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
    low, high = _percentiles(np.concatenate(drawn), level)
    value = float(np.asarray(of_rows(table.reshape(1, -1)), dtype=float)[0])
    unit = "cases" if len(table) == len(data) else "clusters"
    return Estimate(value, low, high, level, len(table), f"percentile bootstrap over {unit}, {draws} draws")


def _sizes(draws: int, width: int, operation: str) -> Iterator[int]:
    """How many draws of `width` numbers to make at a time."""
    if draws < 1:
        raise InputError(operation, expected="at least one draw", received=str(draws), remedy="The default is 10000.")
    at_once = max(1, _CHUNK // width)
    for begun in range(0, draws, at_once):
        yield min(at_once, draws - begun)


def _percentiles(drawn: Float64[np.ndarray, " draw"], level: float) -> tuple[float, float]:
    normal_quantile(level)  # refuses a level out of range
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

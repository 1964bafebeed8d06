"""Statistics for comparing accuracies, scores and counts; every interval says how it was made.

1. One accuracy: `wilson`. Several samples of a problem are not independent; `accuracy_table` allows for that.
2. Two conditions on the same problems: `mcnemar` (exact), `paired_bootstrap`, `detectable_difference`, `power_note`.
3. Many conditions: `holm`; `accuracy_table` puts 1 to 3 together.
4. A score against right and wrong: `auc_with_interval`, `length_matched_auc`.
5. Counts: `odds_ratio`, `lift`, `jaccard`. Anything else: `bootstrap_interval`.

Pairs with a NaN (a grade that was not found out) are left out. What is undefined is NaN; no data is an `InputError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from interp.errors import InputError

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Estimate",
    "MatchedAuc",
    "McNemar",
    "accuracy_table",
    "auc_with_interval",
    "bootstrap_interval",
    "detectable_difference",
    "holm",
    "jaccard",
    "length_matched_auc",
    "lift",
    "mcnemar",
    "odds_ratio",
    "paired_bootstrap",
    "power_note",
    "wilson",
]

_FEW = 100
_CHUNK = 1 << 21  # numbers drawn at a time: memory does not grow with the number of draws


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


@dataclass(frozen=True)
class McNemar:
    """How often two conditions are right on the same cases, and the p-value of no difference."""

    both: int
    only_a: int
    only_b: int
    neither: int
    excluded: int
    """Pairs left out because one of the two was NaN."""
    p: float
    method: str

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as plain data."""
        return asdict(self)


# --- one accuracy, two conditions -------------------------------------------------------------------------------------


def wilson(right: float | int, n: float | int, level: float = 0.95) -> Estimate:
    """Wilson's score interval of a proportion: `right` of `n` (Wilson 1927, JASA 22:209).

    >>> found = wilson(230, 320)
    >>> round(found.estimate, 3), round(found.low, 3), round(found.high, 3)
    (0.719, 0.667, 0.765)
    """
    if not 0 <= right <= n or not 0 < n < math.inf:
        raise InputError("wilson", expected="0 <= right <= n, n > 0", received=f"{right} of {n}", remedy="Count again.")
    z = _z(level)
    share, spread = right / n, z * z / n
    centre, half = share + spread / 2, z * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # At the ends the bound is the end itself; rounding must not put it beyond
    low = 0.0 if right == 0 else (centre - half) / (1 + spread)
    high = 1.0 if right == n else (centre + half) / (1 + spread)
    return Estimate(share, low, high, level, int(n), "Wilson")


def mcnemar(a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None = None) -> McNemar:
    """The exact test of whether `a` and `b` (1 right, 0 wrong, the same cases) are right equally often.

    >>> mcnemar([1, 1, 1, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1]).p
    0.03125

    Discordant pairs are binomial with probability 1/2 if nothing differs (McNemar 1947, Psychometrika 12:153). Where
    cases come in clusters (samples of one problem), the labels of a whole cluster are exchanged at a time: the exact
    sign-flip test of the clusters' differences, which is McNemar's where each cluster is one pair.

    Raises `InputError` for unequal lengths, values other than 0, 1 and NaN, and no pair.
    """
    first, second, groups, excluded = _paired("mcnemar", a, b, clusters)
    for values in (first, second):
        if not np.isin(values, (0.0, 1.0)).all():
            wrong = values[~np.isin(values, (0.0, 1.0))][0]
            raise InputError("mcnemar", expected="0, 1 or NaN", received=f"{wrong}", remedy="Give grades, not scores.")
    differences = np.bincount(groups, weights=first - second)
    alone = len(differences) == len(first)
    return McNemar(
        both=int((first * second).sum()),
        only_a=int((first > second).sum()),
        only_b=int((first < second).sum()),
        neither=int(((first + second) == 0).sum()),
        excluded=excluded,
        p=_sign_flip(np.rint(differences).astype(np.int64)),
        method="exact McNemar" if alone else "exact sign-flip by cluster",
    )


def _sign_flip(differences: Int64[np.ndarray, " cluster"]) -> float:
    """P(|sum of +-d| >= |sum of d|), every sign equally likely: the distribution of the sum is built up exactly."""
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    positive = np.ones(1)  # probability of the sum of those with a plus, from 0 on
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        chosen = np.zeros(size * count + 1)
        ways = 1  # of giving k of them a plus; whole numbers, so that nothing is rounded before the end
        for k in range(count + 1):
            chosen[k * size] = ways / 2**count
            ways = ways * (count - k) // (k + 1)
        positive = np.convolve(positive, chosen)
    total = len(positive) - 1
    extreme = np.abs(2 * np.arange(total + 1) - total) >= abs(int(differences.sum()))
    return min(1.0, float(positive[extreme].sum()))


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
    first, second, groups, _ = _paired("paired_bootstrap", a, b, clusters)
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
    data, _, groups, _ = _paired(operation, values, values, clusters)
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
    _z(level)  # refuses a level out of range
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def detectable_difference(n: float | int, discordant: float | int, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest difference of accuracies that McNemar's test finds with this power when so many of `n` pairs differ.

    >>> round(detectable_difference(200, 40), 3)
    0.088

    NaN when even the largest possible one is not found: all of the discordant pairs to one side. Solved for the
    difference from Miettinen's sample size (1968, Biometrics 24:339; Connor 1987, Biometrics 43:207).
    """
    if not 0 <= discordant <= n or not 0 < n < math.inf or not 0 < power < 1:
        raise InputError(
            "detectable_difference",
            expected="0 <= discordant <= n, n > 0, and a power between 0 and 1",
            received=f"{discordant} of {n}, power={power}",
            remedy="Count again.",
        )
    share, alpha, beta = discordant / n, _z(level), NormalDist().inv_cdf(power)
    # delta sqrt(n) = alpha sqrt(share) + beta sqrt(share - delta^2), squared and solved
    root = alpha**2 * n * share - (n + beta**2) * share * (alpha**2 - beta**2)
    delta = (alpha * math.sqrt(n * share) + math.sqrt(max(0.0, root))) / (n + beta**2)
    return delta if 0 < delta <= share else math.nan


def power_note(n: int, discordant: float | int, level: float = 0.95, power: float = 0.8, unit: str = "pairs") -> str:
    """One sentence on what `n` pairs of which `discordant` differ cannot tell.

    >>> print(power_note(200, 40))
    With 200 pairs, 40 of them discordant, only differences of 8.8 points or more are found with 80% power.
    >>> print(power_note(20, 0))
    With 20 pairs and none discordant nothing can be told; up to 13.9% of pairs may well be discordant (95% bound).
    """
    least = detectable_difference(n, discordant, level, power)
    if discordant == 0:
        most = 1 - (1 - level) ** (1 / n)  # the exact upper bound when none was seen
        return (
            f"With {n} {unit} and none discordant nothing can be told; up to {most:.1%} of {unit} may well be "
            f"discordant ({level:.0%} bound)."
        )
    count = f"{discordant:g}" if float(discordant).is_integer() else f"the equivalent of {discordant:.1f}"
    begin = f"With {n} {unit}, {count} of them discordant,"
    if math.isnan(least):
        return f"{begin} no difference is found with {power:.0%} power, not even all of them to one side."
    return f"{begin} only differences of {100 * least:.1f} points or more are found with {power:.0%} power."


def holm(p: ArrayLike) -> Float64[np.ndarray, " test"]:
    """p-values adjusted for their number by Holm's step-down method (Holm 1979, Scand. J. Stat. 6:65).

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]

    NaN stays NaN and does not count as a test.
    """
    values = _floats(p, "holm")
    if ((values < 0) | (values > 1)).any():
        raise InputError("holm", expected="p-values, 0 to 1, or NaN", received=str(p), remedy="Check the test.")
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    adjusted = np.full(len(values), np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return adjusted


# --- scores -----------------------------------------------------------------------------------------------------------


def auc_with_interval(scores: ArrayLike, labels: ArrayLike, level: float = 0.95) -> Estimate:
    """P(score of a positive > score of a negative), ties as a half, with DeLong's interval on the logit scale.

    >>> found = auc_with_interval([0.1, 0.4, 0.35, 0.8, 0.7], [0, 0, 1, 1, 1])
    >>> round(found.estimate, 3), found.n
    (0.833, 5)

    The area under the ROC curve (Mann and Whitney 1947); variance by DeLong et al. (1988, Biometrics 44:837). Where all
    pairs are ordered the same way there is no variance: the bound is then Wilson's for as many cases as the smaller
    class has. NaN where one class is missing; no interval for a class of one case.

    Raises `InputError` for unequal lengths, labels other than 0 and 1, and no case.
    """
    values, positive = _scored("auc_with_interval", scores, labels)
    high, low = values[positive], values[~positive]
    if not len(high) or not len(low):
        return Estimate(math.nan, math.nan, math.nan, level, len(values), "one class only")
    above, below = _placements(high, low), 1 - _placements(low, high)
    auc = float(above.mean())
    if min(len(high), len(low)) == 1:
        return Estimate(auc, math.nan, math.nan, level, len(values), "a class of one case has no variance")
    variance = float(above.var(ddof=1) / len(high) + below.var(ddof=1) / len(low))
    bounds, method = _logit_interval(auc, variance, min(len(high), len(low)), level)
    return Estimate(auc, *bounds, level, len(values), method)


def _placements(of: Float64[np.ndarray, " n"], among: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " n"]:
    """The share of `among` that each of `of` exceeds, ties as a half."""
    among = np.sort(among)
    return (np.searchsorted(among, of, "left") + np.searchsorted(among, of, "right")) / (2 * len(among))


def _logit_interval(auc: float, variance: float, fewest: int, level: float) -> tuple[tuple[float, float], str]:
    if auc in (0.0, 1.0):
        bound = wilson(round(auc * fewest), fewest, level)
        return (bound.low, bound.high), "Wilson for the smaller class: all pairs are ordered alike"
    half = _z(level) * math.sqrt(variance) / (auc * (1 - auc))
    centre = math.log(auc / (1 - auc))
    return (_expit(centre - half), _expit(centre + half)), "DeLong on the logit scale"


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


@dataclass(frozen=True)
class MatchedAuc:
    """An AUC among responses of like length, and what the lengths alone would give."""

    matched: Estimate
    unmatched: Estimate
    length: Estimate
    """AUC of the length itself over all pairs: how much of `unmatched` length could explain."""
    length_matched: Estimate
    """The same within the strata: near 0.5 when the matching is fine enough."""
    pairs: int
    strata: int
    """Strata in which both classes occur."""

    def to_dict(self) -> dict[str, Any]:
        """Its fields, as plain data."""
        return asdict(self)


def length_matched_auc(
    scores: ArrayLike, labels: ArrayLike, lengths: ArrayLike, bins: int = 5, level: float = 0.95
) -> MatchedAuc:
    """The AUC over pairs whose lengths fall into the same of `bins` quantile bins.

    >>> length, label = [10, 11, 12, 20, 21, 22], [1, 0, 1, 0, 1, 0]
    >>> found = length_matched_auc([x + 5 * y for x, y in zip(length, label)], label, length, bins=2)
    >>> found.matched.estimate, found.pairs, found.strata
    (1.0, 4, 2)

    A score that only says how long a response is has a matched AUC near `length_matched`, not near `unmatched`. Equal
    lengths are never in different bins. The interval is that of the ratio of U-statistics (sum over strata of ordered
    pairs / pairs), by its linear part; n counts the responses in the strata used.
    """
    values, positive = _scored("length_matched_auc", scores, labels)
    size = _floats(lengths, "length_matched_auc")
    if size.shape != values.shape or np.isnan(size).any() or bins < 1:
        raise InputError(
            "length_matched_auc",
            expected=f"{len(values)} lengths and at least one bin",
            received=f"{len(size)} lengths, {int(np.isnan(size).sum())} of them NaN, bins={bins}",
            remedy="Give each response its number of tokens.",
        )
    edges = np.quantile(size, np.arange(1, bins) / bins)
    stratum = np.searchsorted(edges, size, side="left")
    matched, pairs, strata = _stratified(values, positive, stratum, level)
    return MatchedAuc(
        matched=matched,
        unmatched=auc_with_interval(values, positive, level),
        length=auc_with_interval(size, positive, level),
        length_matched=_stratified(size, positive, stratum, level)[0],
        pairs=pairs,
        strata=strata,
    )


def _stratified(
    values: Float64[np.ndarray, " n"], positive: np.ndarray, stratum: Int64[np.ndarray, " n"], level: float
) -> tuple[Estimate, int, int]:
    parts = []
    for number in np.unique(stratum).tolist():
        inside = stratum == number
        high, low = values[inside & positive], values[inside & ~positive]
        if len(high) and len(low):
            parts.append((high, low))
    pairs = sum(len(high) * len(low) for high, low in parts)
    n = sum(len(high) + len(low) for high, low in parts)
    if not pairs:
        return Estimate(math.nan, math.nan, math.nan, level, 0, "no stratum has both classes"), 0, 0
    ordered = [(_placements(high, low) * len(low), (1 - _placements(low, high)) * len(high)) for high, low in parts]
    auc = sum(float(above.sum()) for above, _ in ordered) / pairs
    spread = 0.0
    for (above, below), (high, low) in zip(ordered, parts, strict=True):
        spread += float(((above - auc * len(low)) ** 2).sum() + ((below - auc * len(high)) ** 2).sum())
    fewest = min(sum(len(high) for high, _ in parts), sum(len(low) for _, low in parts))
    bounds, method = _logit_interval(auc, spread / pairs**2, fewest, level)
    return Estimate(auc, *bounds, level, n, method.replace("DeLong", "stratified U-statistic")), pairs, len(parts)


# --- counts -----------------------------------------------------------------------------------------------------------


def odds_ratio(table: ArrayLike, level: float = 0.95) -> Estimate:
    """The odds ratio ad / bc of the counts [[a, b], [c, d]], with Woolf's interval on the log scale.

    >>> found = odds_ratio([[10, 5], [3, 12]])
    >>> round(found.estimate, 2), round(found.low, 2), round(found.high, 2), found.method
    (8.0, 1.52, 42.04, 'Woolf')

    Where a count is 0, 0.5 is added to all four (Haldane 1956, Anscombe 1956), and `method` says so. NaN where a row or
    a column is empty: there is no second group to compare.
    """
    cells = _floats(table, "odds_ratio", shape=(2, 2))
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
    half = _z(level) * math.sqrt((1 / used).sum())
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
    centre, half = math.log(a * total / (rows * columns)), _z(level) * math.sqrt(max(0.0, variance))
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


# --- a table of conditions --------------------------------------------------------------------------------------------


def accuracy_table(
    frame: pandas.DataFrame,
    by: str = "condition",
    baseline: Any = "baseline",
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> pandas.DataFrame:
    """Accuracy of each condition and its difference to the baseline, one row a condition.

    >>> import pandas as pd
    >>> right = {"baseline": [1, 1, 1, 1, 1, 1, 0, 1], "no Wait": [0, 0, 0, 0, 0, 0, 0, 1]}
    >>> rows = [(name, p, 0, x) for name, xs in right.items() for p, x in enumerate(xs)]
    >>> table = accuracy_table(pd.DataFrame(rows, columns=["condition", "problem", "sample", "correct"]))
    >>> table[["condition", "n", "accuracy", "difference", "p"]].values.tolist()
    [['baseline', 8, 0.875, nan, nan], ['no Wait', 8, 0.125, -0.75, 0.03125]]

    `frame` has the columns `by`, problem, sample and correct (true, false, or missing where the grading found nothing
    out), one row each; others are ignored. The columns of the result:

    - `n` graded responses of `problems` problems; `excluded` responses without a grade
    - `accuracy`, and `low`, `high`: Wilson's interval; with several samples a problem, for the effective number of
      responses, n / design effect of clusters (Kish 1965), which is never more than n
    - `pairs` (problem, sample) graded in both; `difference`, `difference_low`, `difference_high` over these, by the
      bootstrap of whole problems
    - `only_here`, `only_baseline`: discordant pairs; `p` of `mcnemar`, with problems as clusters; `p_holm` of all
      conditions together
    - `note`: of those not told apart (p_holm >= 1 - level), what this n cannot tell

    Raises `InputError` for missing columns, a baseline that is not there, and a response given twice.
    """
    import pandas as pd

    grades = _graded(frame, by, baseline)
    case = grades.groupby(["problem", "sample"], sort=False).ngroup().to_numpy()
    problem = np.zeros(case.max() + 1, dtype=np.int64)  # of each case
    problem[case] = pd.factorize(grades["problem"])[0]
    condition, names = pd.factorize(grades[by])
    correct = grades["correct"].to_numpy()
    values = np.full((len(names), len(problem)), np.nan)
    values[condition, case] = correct
    asked = np.bincount(condition, minlength=len(names))
    base = int(np.flatnonzero(names == baseline)[0])
    rows = [
        {
            by: name,
            **_accuracy(values[i], problem, int(asked[i]), level),
            **_against(values[i], None if i == base else values[base], problem, level, draws, seed),
        }
        for i, name in enumerate(names)
    ]
    table = pd.DataFrame(rows)
    adjusted = holm(table["p"].to_numpy(dtype=float))
    note = table.pop("note").where(~(adjusted < 1 - level), "")
    return table.assign(p_holm=adjusted, note=note)


def _graded(frame: pandas.DataFrame, by: str, baseline: Any) -> pandas.DataFrame:
    operation, wanted = "accuracy_table", [by, "problem", "sample", "correct"]
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise InputError(
            operation,
            expected=f"the columns {', '.join(wanted)}",
            received=f"none called {', '.join(missing)}",
            remedy="Name the conditions' column with by=.",
        )
    grades = frame[wanted].assign(correct=_floats(frame["correct"], operation))
    if not grades["correct"].dropna().isin((0.0, 1.0)).all():
        raise InputError(
            operation, expected="true, false or missing as correct", received="other values", remedy="Give grades."
        )
    unnamed = grades[grades[wanted[:3]].isna().any(axis=1)]
    twice = grades[grades.duplicated(wanted[:3])]
    for found, received in ((unnamed, "without one of them"), (twice, "given twice")):
        if len(found):
            row = ", ".join(f"{name} {found.iloc[0][name]}" for name in wanted[:3])
            raise InputError(
                operation,
                expected=f"one row each {by}, problem and sample",
                received=f"a row {received}: {row}",
                remedy="Number the samples from 0.",
            )
    if not (grades[by] == baseline).any():
        raise InputError(
            operation,
            expected=f"rows of the baseline {baseline!r}",
            received=f"the conditions {', '.join(map(str, grades[by].unique()))}" if len(grades) else "no rows",
            remedy="Name one of them with baseline=.",
        )
    return grades


def _accuracy(values: np.ndarray, problem: np.ndarray, asked: int, level: float) -> dict[str, Any]:
    known = ~np.isnan(values)
    n, right = int(known.sum()), float(values[known].sum())
    clusters = np.unique(problem[known], return_inverse=True)[1]
    problems = int(clusters.max()) + 1 if n else 0
    counts = {"n": n, "problems": problems, "excluded": asked - n}
    if not n:
        return {**counts, "accuracy": math.nan, "low": math.nan, "high": math.nan}
    effective = float(n) if problems == n else _effective(values[known], clusters, right / n)
    found = wilson(right / n * effective, effective, level)
    return {**counts, "accuracy": found.estimate, "low": found.low, "high": found.high}


def _effective(values: np.ndarray, clusters: np.ndarray, share: float) -> float:
    """How many independent responses would say as much as these, which come several a problem."""
    sums, sizes = np.bincount(clusters, weights=values), np.bincount(clusters)
    count, n = len(sizes), len(values)
    if count == 1 or share in (0.0, 1.0):
        return float(count)
    spread = float(((sums - share * sizes) ** 2).sum()) * count / (count - 1)
    return n / max(1.0, spread / (n * share * (1 - share)))


def _against(
    here: np.ndarray, base: np.ndarray | None, problem: np.ndarray, level: float, draws: int, seed: int
) -> dict[str, Any]:
    known = np.zeros(len(here), dtype=bool) if base is None else ~np.isnan(here) & ~np.isnan(base)
    if base is None or not known.any():
        return {
            "pairs": 0, "difference": math.nan, "difference_low": math.nan, "difference_high": math.nan,
            "only_here": 0, "only_baseline": 0, "p": math.nan,
            "note": "" if base is None else "No response to compare with the baseline.",
        }  # fmt: skip
    here, base, problem = here[known], base[known], np.unique(problem[known], return_inverse=True)[1]
    test = mcnemar(here, base, problem)
    gap = paired_bootstrap(here, base, draws=draws, seed=seed, level=level, clusters=problem)
    means = np.bincount(problem, weights=here - base) / np.bincount(problem)
    unit = "pairs" if len(means) == len(here) else "problems"
    return {
        "pairs": len(here), "difference": gap.estimate, "difference_low": gap.low, "difference_high": gap.high,
        "only_here": test.only_a, "only_baseline": test.only_b, "p": test.p,
        "note": power_note(len(means), round(float((means**2).sum()), 6), level, unit=unit),
    }  # fmt: skip


# --- reading arguments ------------------------------------------------------------------------------------------------


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise InputError("interval", expected="a level between 0 and 1", received=str(level), remedy="Usual: 0.95.")
    return NormalDist().inv_cdf((1 + level) / 2)


def _floats(values: Any, operation: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
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


def _paired(operation: str, a: Any, b: Any, clusters: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Both without the pairs that have a NaN, the number of each pair's cluster, and how many pairs were left out."""
    first, second = _floats(a, operation), _floats(b, operation)
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


def _scored(operation: str, scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    values, truth, _, _ = _paired(operation, scores, labels, None)
    if not np.isin(truth, (0.0, 1.0)).all():
        raise InputError(operation, expected="labels 0 and 1", received="other labels", remedy="Pass right and wrong.")
    return values, truth == 1

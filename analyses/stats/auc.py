"""A score against right and wrong: the area under the ROC curve, also among responses of like length."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from analyses.stats.estimate import Estimate, floats, normal_quantile, scored, wilson
from interp.errors import InputError

__all__ = ["MatchedAuc", "auc_with_interval", "length_matched_auc"]


def auc_with_interval(
    scores: ArrayLike, labels: ArrayLike, level: float = 0.95, clusters: ArrayLike | None = None
) -> Estimate:
    """P(score of a positive > score of a negative), ties as a half, with DeLong's interval on the logit scale.

    >>> found = auc_with_interval([0.1, 0.4, 0.35, 0.8, 0.7], [0, 0, 1, 1, 1])
    >>> round(found.estimate, 3), found.n
    (0.833, 5)

    The area under the ROC curve (Mann and Whitney 1947); variance by DeLong et al. (1988, Biometrics 44:837). With
    `clusters` (one label a case: the problem of each response) it is Obuchowski's (1997, Biometrics 53:567), which is
    DeLong's where each case is a cluster. Where all pairs are ordered the same way there is no variance: the bound is
    then Wilson's for as many cases (clusters) as the class in fewer of them has. NaN where one class is missing; no
    interval for a class of one case or cluster, and where all placements are alike (all scores tied, say).

    Raises `InputError` for unequal lengths, labels other than 0 and 1, and no case.
    """
    values, positive, groups = scored("auc_with_interval", scores, labels, clusters)
    found, _, strata = _stratified(values, positive, groups, np.zeros(len(values), dtype=np.int64), level, exact=True)
    if not strata:
        return Estimate(math.nan, math.nan, math.nan, level, len(values), "one class only")
    return found


def _placements(of: Float64[np.ndarray, " n"], among: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " n"]:
    """The share of `among` that each of `of` exceeds, ties as a half."""
    among = np.sort(among)
    return (np.searchsorted(among, of, "left") + np.searchsorted(among, of, "right")) / (2 * len(among))


def _logit_interval(auc: float, variance: float, fewest: int, level: float) -> tuple[tuple[float, float], str]:
    if auc in (0.0, 1.0):
        bound = wilson(round(auc * fewest), fewest, level)
        return (bound.low, bound.high), "Wilson for the smaller class: all pairs are ordered alike"
    if variance <= 1e-24:
        return (math.nan, math.nan), "no interval: all placements are alike"
    half = normal_quantile(level) * math.sqrt(variance) / (auc * (1 - auc))
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
    scores: ArrayLike,
    labels: ArrayLike,
    lengths: ArrayLike,
    bins: int = 5,
    level: float = 0.95,
    clusters: ArrayLike | None = None,
) -> MatchedAuc:
    """The AUC over pairs whose lengths fall into the same of `bins` quantile bins.

    >>> length, label = [10, 11, 12, 20, 21, 22], [1, 0, 1, 0, 1, 0]
    >>> found = length_matched_auc([x + 5 * y for x, y in zip(length, label)], label, length, bins=2)
    >>> found.matched.estimate, found.pairs, found.strata
    (1.0, 4, 2)

    A score that only says how long a response is has a matched AUC near `length_matched`, not near `unmatched`. Equal
    lengths are never in different bins. The interval is that of the ratio of U-statistics (sum over strata of ordered
    pairs / pairs), by its linear part, summed over the cases of a cluster where there are `clusters` (one label a
    case); n counts the responses in the strata used. Without variance it is as for `auc_with_interval`.
    """
    operation = "length_matched_auc"
    values, positive, groups = scored(operation, scores, labels, clusters)
    size = floats(lengths, operation)
    if size.shape != values.shape or np.isnan(size).any() or bins < 1:
        raise InputError(
            operation,
            expected=f"{len(values)} lengths and at least one bin",
            received=f"{len(size)} lengths, {int(np.isnan(size).sum())} of them NaN, bins={bins}",
            remedy="Give each response its number of tokens.",
        )
    edges = np.quantile(size, np.arange(1, bins) / bins)
    stratum = np.searchsorted(edges, size, side="left")
    matched, pairs, strata = _stratified(values, positive, groups, stratum, level)
    return MatchedAuc(
        matched=matched,
        unmatched=auc_with_interval(values, positive, level, groups),
        length=auc_with_interval(size, positive, level, groups),
        length_matched=_stratified(size, positive, groups, stratum, level)[0],
        pairs=pairs,
        strata=strata,
    )


def _stratified(
    values: Float64[np.ndarray, " n"],
    positive: np.ndarray,
    groups: Int64[np.ndarray, " n"],
    stratum: Int64[np.ndarray, " n"],
    level: float,
    exact: bool = False,
) -> tuple[Estimate, int, int]:
    """The AUC within strata, the pairs and the strata used.

    The variance is that of the sum over cases of how far each lifts the AUC (its placements less what the AUC makes
    one expect), summed by cluster; `exact` corrects each class for its number of clusters, as DeLong and Obuchowski do.
    """
    ordered, weight = np.zeros(len(values)), np.zeros(len(values))  # of each case: pairs in order, and pairs
    strata = 0
    for number in np.unique(stratum).tolist():
        high, low = (np.flatnonzero((stratum == number) & (positive == label)) for label in (True, False))
        if len(high) and len(low):
            strata += 1
            ordered[high] = _placements(values[high], values[low]) * len(low)
            ordered[low] = (1 - _placements(values[low], values[high])) * len(high)
            weight[high], weight[low] = len(low), len(high)
    pairs, used = int(weight[positive].sum()), weight > 0
    if not pairs:
        return Estimate(math.nan, math.nan, math.nan, level, 0, "no stratum has both classes"), 0, 0
    auc = float(ordered[positive].sum()) / pairs
    auc = float(round(auc)) if min(auc, 1 - auc) < 1e-12 else auc
    residual = ordered - auc * weight
    sums = [
        np.bincount(groups[of], weights=residual[of], minlength=groups.max() + 1)
        for of in (used & positive, used & ~positive)
    ]
    counts = [len(np.unique(groups[of])) for of in (used & positive, used & ~positive, used)]
    n = int(used.sum())
    if min(counts[:2]) == 1:
        unit = "case" if counts[2] == n else "cluster"
        return Estimate(auc, math.nan, math.nan, level, n, f"a class of one {unit} has no variance"), pairs, strata
    share = [count / (count - 1) if exact else 1.0 for count in counts]
    spread = sum(f * float((part**2).sum()) for f, part in zip(share, sums, strict=False))
    spread += 2 * share[2] * float((sums[0] * sums[1]).sum())
    bounds, method = _logit_interval(auc, max(0.0, spread) / pairs**2, min(counts[:2]), level)
    if counts[2] < n:
        method = f"{method}, by cluster"
    method = method if exact else method.replace("DeLong", "stratified U-statistic")
    return Estimate(auc, *bounds, level, n, method), pairs, strata

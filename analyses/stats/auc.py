"""A score against right and wrong: the area under the ROC curve, also among responses of like length."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from interp.errors import InputError

from .estimate import Estimate, floats, normal_quantile, scored, wilson

__all__ = ["MatchedAuc", "auc_with_interval", "length_matched_auc"]


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
    values, positive = scored("auc_with_interval", scores, labels)
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
    values, positive = scored("length_matched_auc", scores, labels)
    size = floats(lengths, "length_matched_auc")
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

"""Are two conditions right equally often on the same cases: McNemar's test, what it can find, Holm's adjustment."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from interp.errors import InputError

from .estimate import floats, normal_quantile, paired

__all__ = ["McNemar", "detectable_difference", "holm", "mcnemar", "power_note"]


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


def mcnemar(a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None = None) -> McNemar:
    """The exact test of whether `a` and `b` (1 right, 0 wrong, the same cases) are right equally often.

    >>> mcnemar([1, 1, 1, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1]).p
    0.03125

    Discordant pairs are binomial with probability 1/2 if nothing differs (McNemar 1947, Psychometrika 12:153). Where
    cases come in clusters (samples of one problem), the labels of a whole cluster are exchanged at a time: the exact
    sign-flip test of the clusters' differences, which is McNemar's where each cluster is one pair.

    Raises `InputError` for unequal lengths, values other than 0, 1 and NaN, and no pair.
    """
    first, second, groups, excluded = paired("mcnemar", a, b, clusters)
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
    share, alpha, beta = discordant / n, normal_quantile(level), NormalDist().inv_cdf(power)
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
    values = floats(p, "holm")
    if ((values < 0) | (values > 1)).any():
        raise InputError("holm", expected="p-values, 0 to 1, or NaN", received=str(p), remedy="Check the test.")
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    adjusted = np.full(len(values), np.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return adjusted

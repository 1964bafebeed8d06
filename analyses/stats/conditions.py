"""Are two conditions right equally often on the same cases: McNemar's test, what it can find, Holm's adjustment."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from analyses.stats.estimate import floats, normal_quantile, paired
from interp.errors import InputError
from probes.many_tests import holm as of_tensors

__all__ = ["McNemar", "detectable_difference", "holm", "mcnemar", "paired_test", "power_note", "sign_flips"]

_CHUNK = 1 << 21  # signs drawn at a time
_COUNTS = 40  # numbers of discordant pairs that a power is averaged over


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


def paired_test(
    a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None = None, draws: int = 20_000, seed: int = 0
) -> float:
    """The p-value of no difference between two scores of the same cases: `mcnemar` for numbers of any kind.

    >>> paired_test([0.9, 0.8, 0.7, 0.9, 0.6, 0.8], [0.1, 0.3, 0.2, 0.5, 0.4, 0.1])
    0.03125

    The sign-flip test of the pairs' differences, or of whole clusters' (the samples of a problem): exact where there
    are at most `draws` ways to choose the signs, else by as many drawn ones (Phipson and Smyth 2010). Pairs with a NaN
    are left out. It speaks of the mean where there are many clusters, of a symmetric distribution where there are few
    (Fisher 1935; Janssen 1997, Stat. Probab. Lett. 36:9).
    """
    first, second, groups, _ = paired("paired_test", a, b, clusters)
    return float(sign_flips(np.bincount(groups, weights=first - second)[:, None], draws, seed)[0])


def sign_flips(
    differences: Float64[np.ndarray, "cluster test"], draws: int = 20_000, seed: int = 0
) -> Float64[np.ndarray, " test"]:
    """P(|sum of +-d| >= |sum of d|) for each column, all with the same signs.

    Drawn signs are each cluster's, whichever others have no difference: so a difference that is 0 on one machine and
    rounding on another leaves p as it is.
    """
    moved = differences[(differences != 0).any(axis=1)]
    total, spread = np.abs(moved.sum(axis=0)), np.abs(moved).sum(axis=0)
    reached = total - 1e-9 * spread  # what is equal but for rounding counts as reached
    ways = 2 ** len(moved) if len(moved) < 63 else math.inf
    extreme, exact = np.zeros(moved.shape[1]), ways <= draws
    moved = moved if exact else differences
    generator = np.random.default_rng(seed)
    count = int(ways) if exact else draws
    for begin in range(0, count, at_once := max(1, _CHUNK // max(1, *moved.shape))):
        size = min(at_once, count - begin)
        if exact:
            signs = (np.arange(begin, begin + size)[:, None] >> np.arange(len(moved))) & 1
        else:
            signs = generator.integers(0, 2, size=(size, len(moved)), dtype=np.int8)
        extreme += (np.abs((2.0 * signs - 1) @ moved) >= reached).sum(axis=0)
    return extreme / count if exact else (extreme + 1) / (count + 1)


@lru_cache(maxsize=4096)
def detectable_difference(
    n: float | int, discordant: float | int, level: float = 0.95, power: float = 0.8, tests: int = 1
) -> float:
    """The smallest difference of accuracies that McNemar's exact test finds with this power, if so many of `n` differ.

    >>> round(detectable_difference(200, 40), 3), round(detectable_difference(200, 40, tests=10), 3)
    (0.091, 0.116)

    With `tests` it has to be found beside so many others, none of which finds anything: p <= (1 - level) / tests, as
    Holm's method asks of the smallest. NaN when even the largest possible difference is not found: all of the
    discordant pairs to one side. The power is that of the binomial test itself, over the numbers of discordant pairs
    that come up (Connor 1987, Biometrics 43:207, without his normal approximation).
    """
    if not 0 <= discordant <= n or not 0 < n < math.inf or not 0 < power < 1 or tests < 1:
        raise InputError(
            "detectable_difference",
            expected="0 <= discordant <= n, n > 0, and a power between 0 and 1",
            received=f"{discordant} of {n}, power={power}, tests={tests}",
            remedy="Count again.",
        )
    normal_quantile(level)  # refuses a level out of range
    share, whole = discordant / n, max(1, round(n))
    spread = math.sqrt(whole * share * (1 - share))
    counts = np.arange(max(0, int(whole * share - 6 * spread)), min(whole, math.ceil(whole * share + 6 * spread)) + 1)
    counts = counts[:: max(1, len(counts) // _COUNTS)]
    weights = np.exp([_log_binomial(np.array([k]), whole, share)[0] for k in counts])
    weights /= weights.sum()
    # The log probabilities of 0 to D of D by a fair coin, and from how many on the test finds a difference
    needed = []
    for count in counts.tolist():
        tail = np.exp(_log_binomial(np.arange(count, -1, -1), count, 0.5)).cumsum()  # P(>= count), P(>= count - 1), ..
        needed.append(count + 1 - int((2 * tail[: (count + 1) // 2] <= (1 - level) / tests).sum()))

    def found(difference: float) -> float:
        toward = (1 + difference / share) / 2
        chance = 0.0
        for weight, count, least in zip(weights.tolist(), counts.tolist(), needed, strict=True):
            ways = np.r_[np.arange(least, count + 1), np.arange(count - least + 1)]
            chance += weight * float(np.exp(_log_binomial(ways, count, toward)).sum())
        return chance

    if share == 0 or found(share) < power:
        return math.nan
    low, high = 0.0, share
    while high - low > 1e-4 * share:
        middle = (low + high) / 2
        low, high = (low, middle) if found(middle) >= power else (middle, high)
    return high


def _log_binomial(k: np.ndarray, n: int, p: float) -> np.ndarray:
    """log P(k of n), each with probability p."""
    logs = _log_factorials(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        yes, no = (np.where(times == 0, 0.0, times * np.log(q)) for times, q in ((k, p), (n - k, 1 - p)))
    return np.asarray(logs[n] - logs[k] - logs[n - k] + yes + no)


@lru_cache(maxsize=64)
def _log_factorials(n: int) -> np.ndarray:
    return np.r_[0.0, np.log(np.arange(1, n + 1)).cumsum()]


def power_note(
    n: int, discordant: float | int, level: float = 0.95, power: float = 0.8, unit: str = "pairs", tests: int = 1
) -> str:
    """One sentence on what `n` pairs of which `discordant` differ cannot tell, in a family of so many `tests`.

    >>> print(power_note(200, 40))
    With 200 pairs, 40 of them discordant, only differences of 9.2 points or more are found with 80% power.
    >>> print(power_note(200, 40, tests=10).split(", ", 2)[2])
    only differences of 11.6 points or more are found with 80% power after Holm's correction over 10 tests.
    >>> print(power_note(20, 0))
    With 20 pairs and none discordant nothing can be told; up to 13.9% of pairs may well be discordant (95% bound).
    """
    least = detectable_difference(n, discordant, level, power, tests)
    if discordant == 0:
        most = 1 - (1 - level) ** (1 / n)  # the exact upper bound when none was seen
        return (
            f"With {n} {unit} and none discordant nothing can be told; up to {most:.1%} of {unit} may well be "
            f"discordant ({level:.0%} bound)."
        )
    count = f"{discordant:g}" if float(discordant).is_integer() else f"the equivalent of {discordant:.1f}"
    begin = f"With {n} {unit}, {count} of them discordant,"
    after = f" after Holm's correction over {tests} tests" if tests > 1 else ""
    if math.isnan(least):
        return f"{begin} no difference is found with {power:.0%} power{after}, not even all of them to one side."
    # Rounded up: of the number that is said, the claim has to hold
    points = math.ceil(1000 * least) / 10
    return f"{begin} only differences of {points:.1f} points or more are found with {power:.0%} power{after}."


def holm(p: ArrayLike) -> Float64[np.ndarray, " test"]:
    """p-values adjusted for their number by Holm's step-down method (Holm 1979, Scand. J. Stat. 6:65).

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]

    NaN stays NaN and does not count as a test. Of tensors, and of many families at a time: `probes.many_tests.holm`.
    """
    values = floats(p, "holm")
    if ((values < 0) | (values > 1)).any():
        raise InputError("holm", expected="p-values, 0 to 1, or NaN", received=str(p), remedy="Check the test.")
    known = ~np.isnan(values)
    adjusted = np.full(len(values), np.nan)
    if known.any():
        adjusted[known] = of_tensors(torch.from_numpy(values[known])).numpy()
    return adjusted

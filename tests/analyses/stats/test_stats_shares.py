"""One share: Wilson's interval against statsmodels and its definition, and shares of clustered cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from stats_shared import SEEDS, covers
from statsmodels.stats.proportion import proportion_confint

from analyses.stats import (
    Estimate,
    accuracy_difference,
    auc_with_interval,
    bootstrap_interval,
    length_matched_auc,
    paired_bootstrap,
    paired_test,
    proportion,
    wilson,
)
from interp.errors import InputError


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 30), (30, 30), (7, 30), (1000, 1319), (1, 10_000)])
def test_wilson_is_statsmodels_wilson(right: int, n: int, level: float) -> None:
    low, high = proportion_confint(right, n, alpha=1 - level, method="wilson")
    found = wilson(right, n, level)
    assert (found.estimate, found.low, found.high) == pytest.approx((right / n, low, high), abs=1e-12)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (3, 7), (64, 64), (230, 320)])
def test_wilson_is_the_solution_of_its_definition(right: int, n: int) -> None:
    """Its ends are the p at which the observed share lies z standard errors of p away."""
    found = wilson(right, n, level=math.erf(math.sqrt(2)))  # z = 2
    for edge in {found.low, found.high} - {0.0, 1.0}:
        assert (right / n - edge) ** 2 == pytest.approx(4 * edge * (1 - edge) / n, abs=1e-9)


def test_wilson_reaches_the_ends_exactly() -> None:
    assert (wilson(0, 7).low, wilson(7, 7).high) == (0.0, 1.0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_wilson_covers_the_true_share(share: float, seed: int) -> None:
    counts = np.random.default_rng(seed).binomial(40, share, size=2000)
    covered = np.mean([covers(wilson(int(right), 40), share) for right in counts])
    assert 0.92 < covered < 0.985


@pytest.mark.parametrize(("right", "n"), [(0, 0), (3, 2), (-1, 5), (1.0, float("nan"))])
def test_wilson_refuses_what_is_no_proportion(right: float, n: float) -> None:
    with pytest.raises(InputError, match="0 <= right <= n, n > 0"):
        wilson(right, n)


@pytest.mark.parametrize("copies", [2, 3, 7])
def test_copies_of_a_case_narrow_no_interval(copies: int) -> None:
    """Every statistic that takes clusters: the same responses again, as more samples of their problems, say nothing."""
    generator = np.random.default_rng(copies)
    n = 24
    score, other = generator.normal(size=n), generator.normal(0.3, 1, size=n)
    right, lengths = (generator.random(n) < 0.6).astype(float), generator.integers(10, 40, size=n)
    problem = np.arange(n)

    def again(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, copies)

    def estimates(how: Any) -> list[Estimate]:
        x, y, r, k, clusters = (how(values) for values in (score, other, right, lengths, problem))
        matched = length_matched_auc(x, r, k, bins=2, clusters=clusters)
        return [
            bootstrap_interval(x, clusters=clusters),
            bootstrap_interval(x, "median", clusters=clusters),
            paired_bootstrap(x, y, clusters=clusters),
            paired_bootstrap(np.exp(x), np.exp(y), "ratio of means", clusters=clusters),
            accuracy_difference(r, 1.0 * (y > 0), clusters=clusters),
            auc_with_interval(x, r, clusters=clusters),
            matched.matched,
            matched.length,
            matched.length_matched,
        ]

    for once, more in zip(estimates(lambda values: values), estimates(again), strict=True):
        assert (more.estimate, more.low, more.high) == pytest.approx((once.estimate, once.low, once.high), abs=1e-9)
        assert more.low < more.high
    share = proportion(again(right), again(problem))
    assert (share.low, share.high) == pytest.approx(
        (lambda w: (w.low, w.high))(wilson(right.sum() * (n - 1) / n, n - 1)), abs=1e-9
    )
    assert paired_test(again(score), again(other), again(problem)) == pytest.approx(
        paired_test(score, other, problem), abs=1e-12
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_a_share_of_clustered_cases_covers_the_truth(seed: int) -> None:
    generator, clusters = np.random.default_rng(seed), np.repeat(np.arange(40), 5)
    covered = 0
    for _ in range(300):
        ability = generator.beta(0.5, 1.5, size=40)  # 0.25 on average
        right = generator.random((40, 5)) < ability[:, None]
        covered += covers(proportion(right.ravel().astype(float), clusters), 0.25)
    assert 0.91 < covered / 300 < 0.99


def test_a_share_of_cases_that_are_alike_is_that_of_the_problems() -> None:
    assert proportion([1, 1, 1, 1, 1, 1], list("aabbcc")).low == wilson(3, 3).low
    one = proportion([1, 0, 1], list("aaa"))  # one problem is one response, however often it is sampled
    assert (one.low, one.high, one.n) == (*(lambda w: (w.low, w.high))(wilson(2 / 3, 1)), 1)
    known = proportion(pd.array([True, None, False], dtype="boolean"), list("abc"))
    assert (known.n, known.estimate) == (2, 0.5)
    with pytest.raises(InputError, match="0, 1 or NaN"):
        proportion([0.5], ["a"])
    with pytest.raises(InputError, match="received none"):
        proportion([])

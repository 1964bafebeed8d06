"""Bootstraps against their definition, scipy and known parameters; and intervals of no width, of whatever kind."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
from stats_shared import SEEDS, covers

from analyses.stats import (
    Estimate,
    accuracy_difference,
    associations,
    auc_with_interval,
    bootstrap,
    bootstrap_interval,
    length_matched_auc,
    mcnemar,
    paired_bootstrap,
    paired_test,
    sign_flips,
)
from analyses.stats.estimate import surely
from interp.errors import InputError


def test_paired_bootstrap_is_its_literal_definition() -> None:
    generator = np.random.default_rng(5)
    a, b = (generator.random(50) < 0.7).astype(float), (generator.random(50) < 0.5).astype(float)
    differences = []
    for _ in range(4000):
        chosen = [generator.integers(50) for _ in range(50)]
        differences.append(np.mean([a[i] for i in chosen]) - np.mean([b[i] for i in chosen]))
    found = paired_bootstrap(a, b)
    assert found.estimate == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=0.021)


@pytest.mark.parametrize("values", ["0 and 1", "continuous"])
def test_paired_bootstrap_is_scipys(values: str) -> None:
    generator = np.random.default_rng(6)
    a, b = generator.normal(1, 1, 150), generator.normal(0.8, 2, 150)
    if values == "0 and 1":
        a, b = (a > 0.8).astype(float), (b > 0.8).astype(float)
    expected = scipy.stats.bootstrap(
        (a, b), lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis), paired=True, method="percentile",
        n_resamples=10_000, rng=generator,
    ).confidence_interval  # fmt: skip
    found = paired_bootstrap(a, b)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.025)


def test_clusters_are_drawn_whole() -> None:
    # Two problems whose samples all agree: a resample has both, or one of them twice
    found = paired_bootstrap([1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0], clusters=list("aaabbb"), level=0.9)
    assert (found.estimate, found.low, found.high, found.n) == (0.5, 0.0, 1.0, 2)
    unequal = paired_bootstrap([1, 1, 1, 0], [0, 0, 0, 0], clusters=list("aaab"), level=0.9)
    assert (unequal.estimate, unequal.low, unequal.high) == (0.75, 0.0, 1.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_paired_bootstrap_covers_the_true_difference_of_clustered_samples(seed: int) -> None:
    generator = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(60), 4)
    covered = naive = 0
    for trial in range(100):
        ability = generator.beta(1, 1, size=60)
        effect = generator.choice([-0.3, 0.5], size=60)  # of a problem; 0.1 on average before it is clipped
        a = (generator.random((60, 4)) < np.clip(ability + effect, 0, 1)[:, None]).astype(float).ravel()
        b = (generator.random((60, 4)) < ability[:, None]).astype(float).ravel()
        # E[clip(U + e, 0, 1)] for uniform U: 1/2 + e - e^2/2 for e > 0, (1 - |e|)^2 / 2 for e < 0
        truth = 0.5 * (0.5 + 0.5 - 0.125) + 0.5 * 0.7**2 / 2 - 0.5
        covered += covers(paired_bootstrap(a, b, draws=400, seed=trial, clusters=clusters), truth)
        naive += covers(paired_bootstrap(a, b, draws=400, seed=trial), truth)
    assert 0.88 <= covered / 100 <= 0.99
    assert naive < covered


def test_results_depend_on_the_seed_and_not_on_how_many_draws_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(8)
    a, b = generator.normal(size=(2, 200))
    whole, other = paired_bootstrap(a, b, draws=500), paired_bootstrap(a, b, draws=500, seed=1)
    mean = bootstrap_interval(a, draws=500)
    monkeypatch.setattr(bootstrap, "_CHUNK", 1)
    assert paired_bootstrap(a, b, draws=500) == whole != other
    assert bootstrap_interval(a, draws=500) == mean


def test_memory_does_not_grow_with_the_draws() -> None:
    import tracemalloc

    a, b = np.random.default_rng(9).normal(size=(2, 2000))
    tracemalloc.start()
    paired_bootstrap(a, b, draws=4000)  # 4000 x 2000 x 3 numbers would be 192 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_ratio_of_means() -> None:
    a, b = np.array([2.0, 4, 6, 9]), np.array([1.0, 2, 3, 4])
    found = paired_bootstrap(a, b, "ratio of means")
    drawn = [a[list(i)].sum() / b[list(i)].sum() for i in itertools.product(range(4), repeat=4)]
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (2.1, *np.quantile(drawn, [0.025, 0.975])), abs=0.02
    )
    undefined = paired_bootstrap([1.0, 1.0], [0.0, 1.0], "ratio of means")
    assert undefined.estimate == 2
    assert math.isnan(undefined.low)
    assert math.isnan(undefined.high)


NO_WIDTH = [
    paired_bootstrap([1.0], [0.0]),
    paired_bootstrap([0.3, 0.3, 0.3], [0.1, 0.1, 0.1]),
    paired_bootstrap([5.0, 6.0, 7.0], [4.0, 5.0, 6.0]),
    paired_bootstrap([2.0, 4, 6, 8] * 10, [1.0, 2, 3, 4] * 10, "ratio of means"),
    paired_bootstrap([1, 1, 0], [0, 0, 0], clusters=list("aaa")),
    paired_bootstrap([1, 0, 1, 0], [0, 0, 0, 0], clusters=list("aabb")),
    paired_bootstrap([1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0], clusters=list("aabbbb")),
    bootstrap_interval([7]),
    bootstrap_interval([0.1] * 7),
    bootstrap_interval([3.0] * 5, "median"),
    bootstrap_interval([1.0, 2.0, 3.0], clusters=list("aaa")),
    bootstrap_interval([1.0, 3.0, 3.0, 1.0], clusters=list("aabb")),
    auc_with_interval([1, 1, 1, 1, 1], [0, 1, 0, 1, 1]),
    auc_with_interval([1, 2, 3, 4], [0, 0, 1, 1], clusters=list("abcc")),
    length_matched_auc([1, 1, 1, 1], [0, 1, 0, 1], [5, 5, 9, 9], bins=2).matched,
    associations(3, 5, 6, 20).lift.one(),
    associations([1] * 4, [2] * 4, [3] * 4, [9] * 4).lift.one(),
    associations([1] * 9, [2] * 9, [3] * 9, [9] * 9).lift.one(),
]


@pytest.mark.parametrize("found", NO_WIDTH, ids=range(len(NO_WIDTH)))
def test_an_interval_of_no_width_is_none(found: Estimate) -> None:
    assert math.isfinite(found.estimate)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert "no" in found.method


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 30, 200])
def test_problems_that_are_all_alike_bound_the_difference_as_far_as_they_can(n: int) -> None:
    least = scipy.stats.binomtest(n, n).proportion_ci(method="exact").low
    assert surely(n) == pytest.approx(least)
    ones, zeros = np.ones(n), np.zeros(n)
    same, better, worse = (accuracy_difference(*pair) for pair in ((ones, ones), (ones, zeros), (zeros, ones)))
    assert (same.estimate, same.low, same.high) == pytest.approx((0, least - 1, 1 - least))
    assert (better.low, better.high) == pytest.approx((2 * least - 1, 1))
    assert (worse.low, worse.high) == pytest.approx((-1, 1 - 2 * least))
    assert (better.low > 0) == (mcnemar(ones, zeros).p < 0.05), "the interval says what the exact test says"
    half = accuracy_difference(np.tile([1.0, 0.0], n), np.zeros(2 * n), clusters=np.repeat(np.arange(n), 2))
    assert (half.low, half.high, half.n) == pytest.approx((max(-1, least / 2 - 1 + least), 1 - least / 2, n))


@pytest.mark.parametrize("change", [0.01, 0.1, 0.5])
def test_differences_of_accuracies_cover_the_truth_where_few_problems_change(change: float) -> None:
    """Where a bootstrap alone has no width in most samples, and would not cover."""
    generator, truth, covered = np.random.default_rng(3), 0.6 * change, 0
    for trial in range(200):
        changed = generator.random(25) < change
        a = np.where(changed, generator.random(25) < 0.8, 1.0)
        covered += covers(accuracy_difference(a, np.where(changed, 1 - a, 1.0), draws=400, seed=trial), truth)
    assert covered / 200 > 0.88
    with pytest.raises(InputError, match="grades or shares from 0 to 1, received 0 to 2"):
        accuracy_difference([0, 2], [0, 1])


def test_what_is_zero_but_for_rounding_draws_the_signs_of_the_others_alike() -> None:
    dice = np.random.default_rng(4)
    differences = dice.normal(0.2, 1, size=(60, 3))
    differences[::3] = 0
    rounded = differences + np.where(differences == 0, dice.normal(0, 1e-14, size=differences.shape), 0)
    assert sign_flips(rounded).tolist() == sign_flips(differences).tolist()


def test_the_paired_test_is_mcnemars_for_grades_and_scipys_for_scores() -> None:
    generator = np.random.default_rng(12)
    for n in (3, 9, 14):
        a, b = (generator.random((2, n)) < [[0.8], [0.4]]).astype(float)
        assert paired_test(a, b) == pytest.approx(mcnemar(a, b).p, abs=1e-12)
        x, y = generator.normal(0.5, 1, size=(2, n))
        expected = scipy.stats.permutation_test(
            (x - y,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
        ) if n < 10 else None  # fmt: skip
        every = [abs(np.dot(signs, x - y)) for signs in itertools.product((1, -1), repeat=n)]
        by_hand = np.mean(np.array(every) >= abs((x - y).sum()) - 1e-12)
        assert paired_test(x, y) == pytest.approx(by_hand)
        assert expected is None or paired_test(x, y) == pytest.approx(expected.pvalue, abs=1e-9)
    clusters = np.repeat(np.arange(5), 3)
    a, b = (generator.random((2, 15)) < 0.5).astype(float)
    assert paired_test(a, b, clusters) == pytest.approx(mcnemar(a, b, clusters).p)
    many_a, many_b = (generator.random((2, 200)) < [[0.7], [0.55]]).astype(float)
    assert paired_test(many_a, many_b) == pytest.approx(mcnemar(many_a, many_b).p, abs=0.006)
    assert paired_test([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert paired_test([1.0], [0.0]) == 1.0
    assert paired_test([1.0, float("nan")], [0.0, 1.0]) == 1.0


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_bootstrap_interval_is_scipys(statistic: Any) -> None:
    values = np.random.default_rng(10).exponential(size=120)
    function = {"mean": np.mean, "median": np.median}[statistic]
    expected = scipy.stats.bootstrap(
        (values,), function, method="percentile", n_resamples=10_000, rng=np.random.default_rng(0)
    ).confidence_interval
    found = bootstrap_interval(values, statistic)
    assert found.estimate == pytest.approx(function(values))
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.02)


def test_bootstrap_interval_of_clusters() -> None:
    values, clusters = [1.0, 1, 1, 5, 5, 5], list("aaabbb")
    assert bootstrap_interval(values, clusters=clusters, level=0.9).low == 1
    shuffled = bootstrap_interval([1.0, 5, 1, 5, 1, 5], clusters=list("abbaab"), level=0.9)
    assert (shuffled.low, shuffled.high) == pytest.approx((7 / 3, 11 / 3))  # a holds 1, 5, 1 and b holds 1, 5, 5
    same = bootstrap_interval(values, lambda rows: rows.mean(axis=1), clusters=clusters)
    assert (same.estimate, same.low, same.high) == (3, 1, 5)
    unequal = bootstrap_interval([1.0, 1, 1, 5], clusters=list("aaab"), level=0.9)
    assert (unequal.estimate, unequal.low, unequal.high, unequal.n) == (2, 1, 5, 2)
    with pytest.raises(InputError, match="expected clusters of one size, received sizes 1 to 3"):
        bootstrap_interval([1.0, 1, 1, 5], lambda rows: rows.mean(axis=1), clusters=list("aaab"))


def test_bootstraps_refuse() -> None:
    with pytest.raises(InputError, match="at least one draw"):
        paired_bootstrap([1], [1], draws=0)
    with pytest.raises(InputError, match="'mean difference' or 'ratio of means'"):
        paired_bootstrap([1], [1], "median")
    with pytest.raises(InputError, match="'mean', 'median' or a callable"):
        bootstrap_interval([1], "mode")
    with pytest.raises(InputError, match="received none"):
        bootstrap_interval([])
    with pytest.raises(InputError, match="a level between 0 and 1"):
        bootstrap_interval([1], level=95.0)

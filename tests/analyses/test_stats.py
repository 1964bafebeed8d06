"""Statistics against literal definitions, closed forms, scipy and statsmodels, and known parameters."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.stats.contingency_tables as contingency
import torch
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from analyses.stats import (
    Estimate,
    accuracy_difference,
    accuracy_table,
    association,
    associations,
    auc_with_interval,
    bootstrap,
    bootstrap_interval,
    detectable_difference,
    holm,
    jaccard,
    length_matched_auc,
    mcnemar,
    odds_ratio,
    paired_bootstrap,
    paired_test,
    power_note,
    proportion,
    wilson,
)
from analyses.stats.association import FEWEST_PROBLEMS
from analyses.stats.estimate import surely
from interp.errors import InputError
from probes import nulls

SEEDS = (1, 2, 3)


def _covers(found: Estimate, truth: float) -> bool:
    return found.low <= truth <= found.high


# --- wilson -----------------------------------------------------------------------------------------------------------


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
    covered = np.mean([_covers(wilson(int(right), 40), share) for right in counts])
    assert 0.92 < covered < 0.985


@pytest.mark.parametrize(("right", "n"), [(0, 0), (3, 2), (-1, 5), (1.0, float("nan"))])
def test_wilson_refuses_what_is_no_proportion(right: float, n: float) -> None:
    with pytest.raises(InputError, match="0 <= right <= n, n > 0"):
        wilson(right, n)


# --- shares of clustered cases ----------------------------------------------------------------------------------------


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
        covered += _covers(proportion(right.ravel().astype(float), clusters), 0.25)
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


# --- mcnemar ----------------------------------------------------------------------------------------------------------


def test_mcnemar_is_statsmodels_exact_test() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        n = int(generator.integers(1, 200))
        a, b = generator.random(n) < 0.7, generator.random(n) < generator.random()
        found = mcnemar(a, b)
        table = [[found.both, found.only_a], [found.only_b, found.neither]]
        assert np.array_equal(table, pd.crosstab(~a, ~b).reindex(index=[False, True], columns=[False, True]).fillna(0))
        assert found.p == pytest.approx(contingency.mcnemar(table, exact=True).pvalue, abs=1e-12)
        assert found.method == "exact McNemar"


def test_mcnemar_without_discordant_pairs_has_p_one() -> None:
    for values in ([1, 1, 1], [0, 0], [1, 0, 1]):
        assert mcnemar(values, values).p == 1.0
    assert mcnemar([1, 0], [0, 1]).p == 1.0


def test_mcnemar_of_many_pairs_does_not_lose_the_tail() -> None:
    a = np.r_[np.ones(900), np.zeros(600)]
    expected = scipy.stats.binomtest(900, 1500, 0.5).pvalue
    assert mcnemar(a, 1 - a).p == pytest.approx(expected, rel=1e-9)


def test_pairs_with_nan_are_left_out() -> None:
    nan = float("nan")
    found = mcnemar([1, nan, 0, 1, nan], [0, 1, nan, 1, nan])
    assert (found.only_a, found.both, found.only_b, found.neither, found.excluded) == (1, 1, 0, 0, 3)
    with_none = mcnemar(pd.Series([True, None, False, True], dtype="boolean"), [0, 1, 0, 1])
    assert (with_none.only_a, with_none.excluded) == (1, 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_clusters_flip_together(seed: int) -> None:
    generator = np.random.default_rng(seed)
    clusters = generator.integers(0, 9, size=30)
    a, b = generator.random(30) < 0.6, generator.random(30) < 0.4
    sums = [int((a[clusters == c].astype(int) - b[clusters == c]).sum()) for c in np.unique(clusters)]
    every = [
        abs(sum(s * d for s, d in zip(signs, sums, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(sums))
    ]
    expected = np.mean(np.array(every) >= abs(sum(sums)))
    found = mcnemar(a, b, [f"problem {c}" for c in clusters])
    assert found.p == pytest.approx(expected, abs=1e-12)
    assert found.method == "exact sign-flip by cluster"


@pytest.mark.parametrize("seed", SEEDS)
def test_only_the_clustered_test_keeps_its_level_with_samples_of_one_problem(seed: int) -> None:
    generator = np.random.default_rng(seed)
    problems, clusters = 40, np.repeat(np.arange(40), 8)
    by_cluster = by_pair = 0
    for _ in range(300):
        # Each problem is easier in one condition or the other, at random: no difference on average
        easy, hard = generator.random(problems) < 0.5, 0.8
        a = generator.random((problems, 8)) < np.where(easy, hard, 1 - hard)[:, None]
        b = generator.random((problems, 8)) < np.where(easy, 1 - hard, hard)[:, None]
        by_cluster += mcnemar(a.ravel(), b.ravel(), clusters).p < 0.05
        by_pair += mcnemar(a.ravel(), b.ravel()).p < 0.05
    assert by_cluster < 0.09 * 300
    assert by_pair > 0.2 * 300


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ([1, 0], [1], "received 2, 1 and 2"),
        ([], [], "received none"),
        ([float("nan")], [1], "received 1, all NaN"),
        ([0.5], [1], "expected 0, 1 or NaN, received 0.5"),
        (["x"], [1], "expected numbers"),
        ([[1]], [[1]], "expected one dimension"),
    ],
)
def test_mcnemar_refuses(a: Any, b: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        mcnemar(a, b)


# --- bootstraps -------------------------------------------------------------------------------------------------------


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
        covered += _covers(paired_bootstrap(a, b, draws=400, seed=trial, clusters=clusters), truth)
        naive += _covers(paired_bootstrap(a, b, draws=400, seed=trial), truth)
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
        covered += _covers(accuracy_difference(a, np.where(changed, 1 - a, 1.0), draws=400, seed=trial), truth)
    assert covered / 200 > 0.88
    with pytest.raises(InputError, match="grades or shares from 0 to 1, received 0 to 2"):
        accuracy_difference([0, 2], [0, 1])


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


# --- power and many tests ---------------------------------------------------------------------------------------------


def _power(n: int, share: float, difference: float, level: float) -> float:
    """How often the exact test has p <= level, over all tables of n pairs."""
    chance = 0.0
    for up in range(n + 1):
        for down in range(n + 1 - up):
            if up + down and scipy.stats.binomtest(up, up + down).pvalue <= level * (1 + 1e-9):
                cells = [(share + difference) / 2, (share - difference) / 2, 1 - share]
                chance += scipy.stats.multinomial.pmf([up, down, n - up - down], n, cells)
    return chance


@pytest.mark.parametrize(("n", "discordant", "tests"), [(24, 12, 1), (30, 15, 3)])
def test_the_detectable_difference_has_the_power_of_the_exact_test(n: int, discordant: int, tests: int) -> None:
    found = detectable_difference(n, discordant, tests=tests)
    assert _power(n, discordant / n, found, 0.05 / tests) == pytest.approx(0.8, abs=0.005)
    assert _power(n, discordant / n, found - 0.02, 0.05 / tests) < 0.79


@pytest.mark.parametrize(("n", "discordant", "tests"), [(300, 60, 1), (300, 60, 12), (64, 20, 4), (2000, 90, 30)])
def test_what_a_power_note_says_is_found_is_found_after_holm(n: int, discordant: int, tests: int) -> None:
    """The difference that the sentence names, among so many conditions of which the others do not differ."""
    said = power_note(n, discordant, tests=tests)
    told, share = float(said.split("differences of ")[1].split(" points")[0]) / 100, discordant / n
    generator = np.random.default_rng(tests)
    up = generator.multinomial(n, [(share + told) / 2, (share - told) / 2, 1 - share], size=600)
    found = 0
    for a, b, _ in up.tolist():
        found += a + b > 0 and scipy.stats.binomtest(a, a + b).pvalue * tests < 0.05  # the smallest of Holm's
    assert 0.75 < found / 600 < 0.86
    assert ("Holm's correction over" in said) == (tests > 1)


def test_power_of_clustered_responses_is_that_of_problems() -> None:
    """The note of samples of a problem, of a table in which nothing is found: what it says is found, by simulation."""
    generator, problems, samples = np.random.default_rng(0), 150, 4
    base = np.repeat(np.arange(samples) < 2, problems).reshape(samples, problems).T.astype(float)
    other = base.copy()
    other[:24], other[24:48], other[48:56, 0], other[56:64, 3] = 1, 0, 0, 1
    note = accuracy_table(_frame({"baseline": base, "other": other}), draws=100)["note"][1]
    assert "With 150 problems, 13 of them discordant" in note  # 48 of 1/4 and 16 of 1/16
    told = float(note.split("differences of ")[1].split(" points")[0]) / 100
    sizes, found = np.abs((other - base).mean(axis=1)), 0
    for _ in range(300):
        tilt = told * problems / sizes.sum()  # signs drawn so that the difference is `told` on average
        drawn = generator.choice(sizes, problems) * np.where(generator.random(problems) < (1 + tilt) / 2, 1, -1)
        found += paired_test(drawn, 0 * drawn, draws=400) < 0.05
    assert 0.7 < found / 300 < 0.97


def test_power_notes_say_what_cannot_be_told() -> None:
    assert "only differences of 9.2 points or more are found with 80% power." in power_note(200, 40)
    assert power_note(30, 2).startswith("With 30 pairs, 2 of them discordant, no difference is found with 80% power")
    assert "80% power after Holm's correction over 9 tests, not even all" in power_note(30, 9, tests=9)
    assert "the equivalent of 3.5 of them" in power_note(30, 3.5, unit="problems")
    assert "up to 13.9% of pairs" in power_note(20, 0)  # 1 - 0.05 ** (1 / 20)
    assert math.isnan(detectable_difference(30, 2))
    for n, discordant, power in ((0, 0, 0.8), (5, 6, 0.8), (5, -1, 0.8), (5, 2, 80.0)):
        with pytest.raises(InputError, match="0 <= discordant <= n, n > 0, and a power between 0 and 1"):
            power_note(n, discordant, power=power)


@pytest.mark.parametrize("seed", SEEDS)
def test_holm_is_statsmodels_holm(seed: int) -> None:
    p = np.random.default_rng(seed).random(20) ** 3
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    with_nan = np.insert(p, [3, 9], np.nan)
    assert np.isnan(holm(with_nan)).sum() == 2
    assert holm(with_nan)[~np.isnan(with_nan)] == pytest.approx(holm(p))


def test_there_is_one_holm() -> None:
    p = np.random.default_rng(4).random((6, 9)) ** 2
    assert nulls.holm(torch.from_numpy(p)).numpy() == pytest.approx(np.stack([holm(row) for row in p]))


def test_holm_edges() -> None:
    assert holm([]).tolist() == []
    assert np.isnan(holm([float("nan")])).all()
    assert holm([0.5, 0.5, 1.0]).tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="p-values"):
        holm([1.5])


# --- auc --------------------------------------------------------------------------------------------------------------


def _auc_by_pairs(scores: np.ndarray, labels: np.ndarray) -> float:
    pairs = [(x > y) + 0.5 * (x == y) for x in scores[labels == 1] for y in scores[labels == 0]]
    return float(np.mean(pairs))


@pytest.mark.parametrize("seed", SEEDS)
def test_auc_counts_pairs_with_ties_as_a_half(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores, labels = generator.integers(0, 6, size=80).astype(float), generator.integers(0, 2, size=80)
    found = auc_with_interval(scores, labels)
    assert found.estimate == pytest.approx(_auc_by_pairs(scores, labels))
    u = scipy.stats.mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    assert found.estimate == pytest.approx(u / (labels.sum() * (1 - labels).sum()))


def test_auc_variance_is_delongs() -> None:
    generator = np.random.default_rng(4)
    scores, labels = generator.normal(size=60), generator.integers(0, 2, size=60)
    above, below = scores[labels == 1], scores[labels == 0]
    kernel = (above[:, None] > below[None, :]).astype(float)
    variance = kernel.mean(axis=1).var(ddof=1) / len(above) + kernel.mean(axis=0).var(ddof=1) / len(below)
    found = auc_with_interval(scores, labels)
    logit = [math.log(x / (1 - x)) for x in (found.low, found.estimate, found.high)]
    half = 1.959964 * math.sqrt(variance) / (found.estimate * (1 - found.estimate))
    assert (logit[1] - logit[0], logit[2] - logit[1]) == pytest.approx((half, half), rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_auc_covers_the_true_area(shift: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth = scipy.stats.norm.cdf(shift / math.sqrt(2))
    labels = np.r_[np.ones(30), np.zeros(50)]
    covered = np.mean(
        [_covers(auc_with_interval(generator.normal(size=80) + shift * labels, labels), truth) for _ in range(400)]
    )
    assert 0.91 < covered < 0.985


def test_auc_edges() -> None:
    perfect = auc_with_interval([1, 2, 3, 4, 5], [0, 0, 1, 1, 1])
    assert (perfect.estimate, perfect.low, perfect.high) == (1.0, wilson(2, 2).low, 1.0)
    worst = auc_with_interval([3, 2, 1, 0], [0, 0, 1, 1])
    assert (worst.estimate, worst.low, worst.high) == (0.0, 0.0, wilson(0, 2).high)
    assert auc_with_interval([1, 1, 1], [0, 1, 1]).estimate == 0.5
    one_class = auc_with_interval([1, 2], [1, 1])
    assert math.isnan(one_class.estimate)
    assert one_class.method == "one class only"
    single = auc_with_interval([1, 2, 3], [0, 1, 0])
    assert single.estimate == 0.5
    assert math.isnan(single.low)
    assert auc_with_interval([1, 2, float("nan")], [0, 1, 1]).n == 2
    with pytest.raises(InputError, match="labels 0 and 1"):
        auc_with_interval([1, 2], [1, 2])
    with pytest.raises(InputError, match="received none"):
        auc_with_interval([], [])


def test_auc_of_clusters_has_obuchowskis_variance() -> None:
    generator = np.random.default_rng(7)
    clusters = generator.integers(0, 18, size=70)
    scores, labels = generator.normal(size=18)[clusters] + generator.normal(size=70), generator.integers(0, 2, size=70)
    m, n, names = labels.sum(), (1 - labels).sum(), np.unique(clusters)
    found = auc_with_interval(scores, labels, clusters=clusters)
    kernel = {
        i: [
            (scores[i] > scores[j]) if labels[i] else (scores[j] > scores[i])
            for j in np.flatnonzero(labels != labels[i])
        ]
        for i in range(70)
    }
    auc = np.mean([np.mean(kernel[i]) for i in range(70) if labels[i]])
    v = np.array([np.mean(kernel[i]) - auc for i in range(70)])
    x, y = (np.array([v[(clusters == c) & (labels == k)].sum() for c in names]) for k in (1, 0))
    i10, i01 = (len(set(clusters[labels == k])) for k in (1, 0))
    s10, s01 = i10 / ((i10 - 1) * m) * (x**2).sum(), i01 / ((i01 - 1) * n) * (y**2).sum()
    s11 = len(names) / (len(names) - 1) * (x * y).sum()
    variance = s10 / m + s01 / n + 2 * s11 / (m * n)
    half = 1.959964 * math.sqrt(variance) / (auc * (1 - auc))
    centre = math.log(auc / (1 - auc))
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (auc, 1 / (1 + math.exp(half - centre)), 1 / (1 + math.exp(-half - centre))), rel=1e-5
    )
    assert found.method == "DeLong on the logit scale, by cluster"


@pytest.mark.parametrize("bins", [1, 3])
def test_only_the_clustered_auc_covers_with_several_samples(bins: int) -> None:
    """Score and verdict both hang on the problem: samples of it are alike."""
    generator, clusters = np.random.default_rng(bins), np.repeat(np.arange(40), 4)
    truth, covered, naive = scipy.stats.norm.cdf(1 / math.sqrt(2 * 1.25)), 0, 0
    for _ in range(200):
        right = np.repeat(generator.random(40) < 0.5, 4)
        scores = np.repeat(generator.normal(size=40), 4) + 0.5 * generator.normal(size=160) + right
        lengths = generator.integers(0, 3, size=160)
        by_problem, by_case = (
            length_matched_auc(scores, right, lengths, bins, clusters=of).matched for of in (clusters, None)
        )
        covered, naive = covered + _covers(by_problem, truth), naive + _covers(by_case, truth)
    assert 0.88 < covered / 200 < 0.99
    assert naive < 0.8 * covered


@pytest.mark.parametrize("seed", SEEDS)
def test_matched_auc_counts_the_pairs_of_a_stratum(seed: int) -> None:
    generator = np.random.default_rng(seed)
    length, labels = generator.integers(10, 60, size=90), generator.integers(0, 2, size=90)
    scores = generator.integers(0, 5, size=90).astype(float)
    found = length_matched_auc(scores, labels, length, bins=4)
    cuts = np.quantile(length, [0.25, 0.5, 0.75])
    bins = [sum(size > cut for cut in cuts) for size in length]
    pairs = [
        (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i, j in itertools.product(range(90), repeat=2)
        if labels[i] == 1 and labels[j] == 0 and bins[i] == bins[j]
    ]
    assert found.pairs == len(pairs)
    assert found.strata == 4
    assert found.matched.estimate == pytest.approx(np.mean(pairs))
    alone = length_matched_auc(scores, labels, length, bins=1)
    assert alone.matched.estimate == pytest.approx(alone.unmatched.estimate)
    assert (alone.matched.low, alone.matched.high) == pytest.approx(
        (alone.unmatched.low, alone.unmatched.high), abs=0.01
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_matching_removes_what_length_explains_and_keeps_the_rest(seed: int) -> None:
    generator = np.random.default_rng(seed)
    length = generator.integers(20, 200, size=1500)
    labels = (generator.random(1500) < 1 / (1 + np.exp((length - 110) / 30))).astype(int)  # long responses are wrong
    only_length = length_matched_auc(-length + generator.normal(0, 5, 1500), labels, length, bins=30)
    assert only_length.unmatched.estimate > 0.8
    assert only_length.matched.estimate == pytest.approx(0.5, abs=0.08)
    assert 1 - only_length.length_matched.estimate == pytest.approx(only_length.matched.estimate, abs=0.06)
    real = generator.normal(size=1500) + labels
    found = length_matched_auc(real, labels, length, bins=30)
    assert _covers(found.matched, scipy.stats.norm.cdf(1 / math.sqrt(2)))


@pytest.mark.parametrize("seed", SEEDS)
def test_matched_auc_covers_the_true_area(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth, covered = scipy.stats.norm.cdf(0.8 / math.sqrt(2)), 0
    for _ in range(200):
        length = generator.integers(0, 5, size=120)
        labels = (generator.random(120) < 0.3 + 0.1 * length).astype(int)
        found = length_matched_auc(generator.normal(size=120) + 0.8 * labels + 3 * length, labels, length)
        covered += _covers(found.matched, truth)
    assert 0.9 < covered / 200 < 0.99


def test_matched_auc_edges() -> None:
    apart = length_matched_auc([1, 2, 3, 4], [0, 0, 1, 1], [10, 10, 90, 90], bins=2)
    assert (apart.pairs, apart.strata) == (0, 0)
    assert math.isnan(apart.matched.estimate)
    assert apart.unmatched.estimate == 1
    with pytest.raises(InputError, match="expected 2 lengths and at least one bin, received 1 lengths"):
        length_matched_auc([1, 2], [0, 1], [1])
    with pytest.raises(InputError, match="bins=0"):
        length_matched_auc([1, 2], [0, 1], [1, 2], bins=0)


# --- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [[[10, 5], [3, 12]], [[200, 1], [7, 90]], [[1, 1], [1, 1]]])
def test_odds_ratio_is_statsmodels(table: list[list[int]]) -> None:
    expected = contingency.Table2x2(np.array(table))
    found = odds_ratio(table)
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (expected.oddsratio, *expected.oddsratio_confint(0.05)), rel=1e-6
    )
    assert found.method == "Woolf"


def test_odds_ratio_edges() -> None:
    shifted = contingency.Table2x2(np.array([[10.5, 0.5], [3.5, 12.5]]))
    never, always = odds_ratio([[0, 10], [12, 3]]), odds_ratio([[10, 0], [3, 12]])
    assert (always.estimate, always.low, always.high) == pytest.approx(
        (math.inf, shifted.oddsratio_confint(0.05)[0], math.inf), rel=1e-6
    )
    assert (never.estimate, never.low, never.high) == pytest.approx((0, 0, 1 / always.low), rel=1e-6)
    assert (odds_ratio([[5, 3], [4, 0]]).estimate, odds_ratio([[0, 3], [4, 0]]).estimate) == (0, 0)
    assert never.method == "Woolf, 0.5 added for the interval's other end"
    assert math.isnan(odds_ratio([[0, 0], [3, 12]]).estimate)
    assert math.isnan(odds_ratio([[0, 4], [0, 12]]).low)
    for table in ([[0, 0], [0, 0]], [[-1, 2], [3, 4]], [[float("nan"), 2], [3, 4]]):
        with pytest.raises(InputError, match="counts of at least one case"):
            odds_ratio(table)
    with pytest.raises(InputError, match=r"shape \(2, 2\)"):
        odds_ratio([1, 2, 3, 4])


@pytest.mark.parametrize("seed", SEEDS)
def test_odds_ratio_covers_the_true_value(seed: int) -> None:
    generator = np.random.default_rng(seed)
    cells = np.array([0.06, 0.09, 0.10, 0.75])
    ratio = cells[0] * cells[3] / (cells[1] * cells[2])
    counts = generator.multinomial(300, cells, size=800).tolist()
    assert 0.92 < np.mean([_covers(odds_ratio([[a, b], [c, d]]), ratio) for a, b, c, d in counts]) < 0.985


def test_associations_are_their_definitions_over_all_resamples() -> None:
    """Five problems can be drawn in 5^5 ways: estimates and the ends over all of them."""
    both, first = np.array([3.0, 1, 4, 2, 2]), np.array([6.0, 5, 7, 4, 6])
    second, n = np.array([5.0, 4, 6, 3, 9]), np.array([60.0, 50, 80, 40, 70])

    def by_hand(rows: list[int]) -> tuple[float, float, float]:
        a, f, s, t = (part[rows].sum() for part in (both, first, second, n))
        return (a / f) / (s / t), a * (t - f - s + a) / ((f - a) * (s - a)), a / (f + s - a)

    every = np.array([by_hand(list(rows)) for rows in itertools.product(range(5), repeat=5)])
    found = associations(both, first, second, n)
    for k, measure in enumerate((found.lift, found.odds_ratio, found.jaccard)):
        told = measure.one()
        assert told.estimate == pytest.approx(by_hand([0, 1, 2, 3, 4])[k])
        assert (told.low, told.high) == pytest.approx(tuple(np.quantile(every[:, k], [0.025, 0.975])), rel=0.06)
        assert told.n == 5
    excess = both - first * second / n
    signs = np.array(list(itertools.product((1, -1), repeat=5)))
    assert found.p[0] == pytest.approx(np.mean(np.abs(signs @ excess) >= abs(excess.sum()) - 1e-12))


@pytest.mark.parametrize("seed", SEEDS)
def test_associations_cover_the_truth_where_words_come_in_bursts(seed: int) -> None:
    """Each problem has its own rate of peaks, words and both; the counts of its steps are not independent."""
    generator = np.random.default_rng(seed)
    problems, steps = 60, 40
    counts = []
    for _ in range(150):
        rate = generator.gamma(4, 0.25, size=(problems, 1))  # 1 on average
        counts.append(generator.poisson(rate * [[1.2, 1.8, 2.0]]))
    a, b, c = np.stack(counts, axis=-1).transpose(1, 0, 2)  # [problem, world]: both, only first, only second
    found = associations(a, a + b, a + c, np.full(problems, steps))
    truths = (1.2 * steps / (3.0 * 3.2), 1.2 * (steps - 5.0) / (1.8 * 2.0), 1.2 / 5.0)
    for measure, truth in zip((found.lift, found.odds_ratio, found.jaccard), truths, strict=True):
        assert 0.86 < np.mean((measure.low <= truth) & (truth <= measure.high)) < 0.99


def test_counts_of_nothing_are_shown_as_they_are() -> None:
    """No case that is both: estimates 0, and an end that ten problems without one leave possible."""
    problems, first, second, n = 10, 4, 6, 50
    none = associations([0] * problems, [first] * problems, [second] * problems, [n] * problems)
    share = scipy.stats.binomtest(0, problems).proportion_ci(method="exact").high
    assert [m.one().estimate for m in (none.lift, none.odds_ratio, none.jaccard)] == [0, 0, 0]
    assert [m.one().low for m in (none.lift, none.odds_ratio, none.jaccard)] == [0, 0, 0]
    assert none.lift.one().high == pytest.approx(share * n / second), (
        "the least of both views, as many problems in each"
    )
    most = share * first
    assert none.odds_ratio.one().high == pytest.approx(
        most * (n - first - second + most) / ((first - most) * (second - most))
    )
    assert none.jaccard.one().high == pytest.approx(most / (first + second - most))
    # Of what only two problems have, little is known
    rare = associations([0] * 10, [4] * 10, [3, 3] + [0] * 8, [50] * 10).lift.one()
    assert rare.high == pytest.approx(min(share * 50 * 10 / 6, (1 - 0.025**0.5) * 50 * 10 / 40))
    only = associations([4] * problems, [first] * problems, [second] * problems, [n] * problems)
    assert (only.lift.one().estimate, only.lift.one().high) == (pytest.approx(50 / 6), pytest.approx(50 / 6))
    assert only.lift.one().low == pytest.approx((1 - share) * 50 / 6)
    assert only.odds_ratio.one().estimate == only.odds_ratio.one().high == math.inf
    assert 1 < only.odds_ratio.one().low < 1e3
    never = associations([[0, 0]] * 9, [3] * 9, [[0, 2]] * 9, [20] * 9)
    assert np.isnan(never.lift.estimate[0])
    assert np.isnan([*never.lift.low[:1], *never.odds_ratio.high[:1]]).all()
    assert never.lift.estimate[1] == 0
    few = associations([0] * (FEWEST_PROBLEMS - 1), [3] * 4, [2] * 4, [20] * 4)
    assert (few.lift.one().estimate, math.isnan(few.lift.one().high)) == (0, True)


def test_lift_edges() -> None:
    assert associations(10, 10, 10, 100).lift.one().estimate == 10
    assert associations([3, 2], [5, 4], [6, 3], [20, 20]).lift.one().estimate == pytest.approx((5 / 9) / (9 / 40))
    for counts in ((5, 3, 9, 20), (1, 12, 12, 20), (0, 0, 0, 0), (-1, 2, 3, 4), (float("nan"), 2, 3, 4)):
        with pytest.raises(InputError, match="both <= first, second <= n"):
            associations(*counts)
    with pytest.raises(InputError, match=r"shapes \(3,\), \(2,\), \(3,\) and \(3,\)|shapes"):
        associations([1, 1, 1], [2, 2], [3, 3, 3], [9, 9, 9])
    with pytest.raises(InputError, match="at least one draw"):
        associations([1], [2], [3], [9], draws=0)


def test_intervals_do_not_hang_on_how_many_resamples_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    counts = generator.integers(1, 4, size=(3, 30))
    data = (counts[0], counts[0] + counts[1], counts[0] + counts[2], np.full(30, 40))
    whole = associations(*data, draws=300)
    monkeypatch.setattr(association, "_CHUNK", 1)
    assert associations(*data, draws=300).lift.one() == whole.lift.one()


def test_jaccard() -> None:
    assert jaccard(["a", "b", "b"], ("b", "c")) == 1 / 3
    assert jaccard({1}, set()) == 0
    assert math.isnan(jaccard([], []))


# --- the table --------------------------------------------------------------------------------------------------------


def _frame(right: dict[str, np.ndarray], dtype: str = "boolean") -> pd.DataFrame:
    """Conditions, each an array [problem, sample] of 1, 0 and NaN."""
    parts = []
    for name, values in right.items():
        problem, sample = np.indices(values.shape)
        names = np.char.add("p", problem.ravel().astype(str))
        parts.append(
            pd.DataFrame({"condition": name, "problem": names, "sample": sample.ravel(), "correct": values.ravel()})
        )
    return pd.concat(parts, ignore_index=True).astype({"correct": dtype}).assign(text="ignored")


def test_the_table_holds_what_the_functions_say() -> None:
    generator = np.random.default_rng(0)
    base = (generator.random((60, 1)) < 0.7).astype(float)
    worse = base * (generator.random((60, 1)) < 0.5)
    same = base.copy()
    same[0], worse[1] = 1 - same[0], np.nan
    table = accuracy_table(_frame({"baseline": base, "worse": worse, "same": same})).set_index("condition")
    assert list(table.index) == ["baseline", "worse", "same"]
    row = table.loc["worse"]
    assert (row["n"], row["problems"], row["excluded"], row["pairs"]) == (59, 59, 1, 59)
    expected = wilson(int(np.nansum(worse)), 59)
    assert (row["accuracy"], row["low"], row["high"]) == (expected.estimate, expected.low, expected.high)
    test, gap = mcnemar(worse[:, 0], base[:, 0]), paired_bootstrap(worse[:, 0], base[:, 0])
    assert (row["only_here"], row["only_baseline"], row["p"]) == (test.only_a, test.only_b, test.p)
    assert (row["difference"], row["difference_low"], row["difference_high"]) == (gap.estimate, gap.low, gap.high)
    assert list(table["p_holm"][1:]) == holm(table["p"][1:]).tolist()
    assert row["note"] == ""
    assert table.loc["same", "note"] == power_note(60, 1, tests=2)
    assert (table["tests"] == 2).all()
    first = table.loc["baseline"]
    assert first[["difference", "difference_low", "difference_high", "p", "p_holm"]].isna().all()
    assert (first["pairs"], first["note"]) == (0, "")


@pytest.mark.parametrize("dtype", ["float", "boolean", "Float64", "object"])
def test_missing_grades_are_missing_in_any_column_type(dtype: str) -> None:
    values = np.array([[1.0], [0.0], [np.nan]])
    frame = _frame({"baseline": values, "other": values}, "float")
    column: Any = frame["correct"].astype(dtype) if dtype != "object" else [True, False, None] * 2
    table = accuracy_table(frame.assign(correct=column))
    assert table[["n", "excluded", "accuracy"]].to_numpy().tolist() == [[2, 1, 0.5]] * 2
    assert table["pairs"].tolist() == [0, 2]
    assert table["p"].tolist()[1] == 1.0


def test_all_right_all_wrong_nothing_graded_and_nothing_in_common() -> None:
    ones, nans = np.ones((5, 1)), np.full((5, 1), np.nan)
    frame = _frame({"baseline": ones, "wrong": 0 * ones, "ungraded": nans})
    elsewhere = _frame({"elsewhere": ones}).assign(problem=[f"q{i}" for i in range(5)])
    table = accuracy_table(pd.concat([frame, elsewhere])).set_index("condition")
    assert (table.loc["baseline", "high"], table.loc["wrong", "low"]) == (1.0, 0.0)
    assert table.loc["wrong", "difference"] == -1
    assert table.loc["ungraded", ["n", "excluded"]].tolist() == [0, 5]
    for name in ("ungraded", "elsewhere"):
        assert math.isnan(table.loc[name, "p"])
        assert table.loc[name, "note"] == "No response to compare with the baseline."
    assert math.isnan(table.loc["ungraded", "accuracy"])
    assert table.loc["elsewhere", "accuracy"] == 1


def test_samples_of_a_problem_are_one_cluster() -> None:
    generator = np.random.default_rng(2)
    ability = generator.random(40)
    base, other = (
        (generator.random((40, 8)) < np.clip(ability + extra, 0, 1)[:, None]).astype(float) for extra in (0, 0.1)
    )
    table = accuracy_table(_frame({"baseline": base, "other": other})).set_index("condition")
    row, clusters = table.loc["other"], np.repeat(np.arange(40), 8)
    assert row["p"] == pytest.approx(mcnemar(other.ravel(), base.ravel(), clusters).p)
    gap = paired_bootstrap(other.ravel(), base.ravel(), clusters=clusters)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((gap.low, gap.high))
    naive = wilson(int(other.sum()), 320)
    assert row["low"] < naive.low < naive.high < row["high"]
    # Samples that always agree say no more than one
    agreeing = accuracy_table(_frame({"baseline": np.repeat(base[:, :1], 8, axis=1)})).iloc[0]
    single = wilson(float(base[:, 0].sum()) * 39 / 40, 39)
    assert (agreeing["low"], agreeing["high"]) == pytest.approx((single.low, single.high))


@pytest.mark.parametrize("n", [1, 3, 40])
def test_a_table_of_pairs_that_are_alike_has_intervals_with_a_width(n: int) -> None:
    ones = np.ones((n, 2))
    conditions = {"baseline": ones, "same": ones, "all wrong": 0 * ones, "half": ones * [1.0, 0.0]}
    for row in accuracy_table(_frame(conditions)).iloc[1:].to_dict("records"):
        assert row["difference_low"] < row["difference"] <= row["difference_high"] or row["difference"] == -1
        assert row["difference_high"] - row["difference_low"] > 0.05
        assert (row["difference_low"] <= 0 <= row["difference_high"]) or row["p"] < 0.05


def test_each_condition_may_have_a_baseline_of_its_own() -> None:
    generator = np.random.default_rng(9)
    names = ("plain 8", "Wait 8", "plain 16", "Wait 16", "s1 16")
    frame = _frame({name: (generator.random((30, 2)) < 0.3 + 0.1 * k).astype(float) for k, name in enumerate(names)})
    pairs = {"Wait 8": "plain 8", "Wait 16": "plain 16", "s1 16": "plain 16", "never asked": "plain 8"}
    table = accuracy_table(frame, baseline=pairs, draws=500).set_index("condition")
    for name, base in list(pairs.items())[:3]:
        alone = accuracy_table(frame[frame["condition"].isin([name, base])], baseline=base, draws=500)
        alone = alone.set_index("condition").loc[name]
        for column in ("difference", "difference_low", "difference_high", "p", "n", "problems"):
            assert table.loc[name, column] == alone[column]
    assert table.loc[["plain 8", "plain 16"], "p"].isna().all()
    told = table["p"].notna()
    assert table.loc[told, "p_holm"].tolist() == pytest.approx(multipletests(table.loc[told, "p"], method="holm")[1])
    assert set(table["tests"]) == {3}
    with pytest.raises(InputError, match="rows of the baseline 'plain 32'"):
        accuracy_table(frame, baseline={"Wait 8": "plain 32"})


@pytest.mark.parametrize("seed", SEEDS)
def test_intervals_of_the_table_cover_the_truth_with_several_samples(seed: int) -> None:
    generator = np.random.default_rng(seed)
    worlds = {}
    for number in range(150):
        ability = generator.beta(0.7, 0.7, size=50)
        worlds[f"world {number}"] = (generator.random((50, 6)) < ability[:, None]).astype(float)
    table = accuracy_table(_frame(worlds, "float"), baseline="world 0", draws=1)
    covered = ((table["low"] <= 0.5) & (table["high"] >= 0.5)).mean()
    naive = np.mean([_covers(wilson(int(right.sum()), 300), 0.5) for right in worlds.values()])
    assert 0.89 < covered < 0.99
    assert naive < 0.85


def test_the_table_is_found_by_other_names_and_written_as_json() -> None:
    frame = _frame({"plain 64": np.ones((3, 1)), "Wait": np.zeros((3, 1))}).rename(columns={"condition": "arm"})
    table = accuracy_table(frame, by="arm", baseline="plain 64")
    assert table["arm"].tolist() == ["plain 64", "Wait"]
    assert json.loads(table.to_json(orient="records"))[1]["difference"] == -1
    assert json.loads(json.dumps(wilson(1, 2).to_dict()))["method"] == "Wilson"
    assert mcnemar([1], [0]).to_dict()["only_a"] == 1
    assert length_matched_auc([1, 2], [0, 1], [1, 1]).to_dict()["matched"]["estimate"] == 1


def test_the_table_refuses() -> None:
    frame = _frame({"baseline": np.ones((3, 1))})
    with pytest.raises(InputError, match="received none called condition"):
        accuracy_table(frame.drop(columns="condition"))
    with pytest.raises(InputError, match="rows of the baseline 'plain', received the conditions baseline"):
        accuracy_table(frame, baseline="plain")
    with pytest.raises(InputError, match="received no rows"):
        accuracy_table(frame.iloc[:0])
    with pytest.raises(InputError, match="a row given twice: condition baseline, problem p0, sample 0"):
        accuracy_table(pd.concat([frame, frame]))
    with pytest.raises(InputError, match="a row without one of them: condition nan, problem p1, sample 1"):
        accuracy_table(pd.concat([frame, pd.DataFrame([{"problem": "p1", "sample": 1, "correct": True}])]))
    with pytest.raises(InputError, match="true, false or missing"):
        accuracy_table(frame.assign(correct=0.5))

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
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from analyses.stats import (
    Estimate,
    accuracy_table,
    auc_with_interval,
    bootstrap,
    bootstrap_interval,
    detectable_difference,
    holm,
    jaccard,
    length_matched_auc,
    lift,
    mcnemar,
    odds_ratio,
    paired_bootstrap,
    power_note,
    wilson,
)
from interp.errors import InputError

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
    found = paired_bootstrap([2.0, 4, 6, 8] * 10, [1.0, 2, 3, 4] * 10, "ratio of means")
    assert (found.estimate, found.low, found.high) == pytest.approx((2, 2, 2))
    undefined = paired_bootstrap([1.0, 1.0], [0.0, 1.0], "ratio of means")
    assert undefined.estimate == 2
    assert math.isnan(undefined.low)
    assert math.isnan(undefined.high)


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


@pytest.mark.parametrize(("n", "discordant"), [(60, 20), (200, 40), (1319, 200)])
@pytest.mark.parametrize("power", [0.8, 0.9])
def test_the_detectable_difference_solves_the_sample_size(n: int, discordant: int, power: float) -> None:
    delta, share = detectable_difference(n, discordant, power=power), discordant / n
    alpha, beta = scipy.stats.norm.ppf([0.975, power])
    needed = (alpha * math.sqrt(share) + beta * math.sqrt(share - delta**2)) ** 2 / delta**2
    assert needed == pytest.approx(n)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_exact_test_has_about_that_power(seed: int) -> None:
    n, share = 300, 0.2
    delta = detectable_difference(n, n * share)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(n, [(share + delta) / 2, (share - delta) / 2, 1 - share], size=1000)
    found = np.mean([scipy.stats.binomtest(int(a), int(a + b)).pvalue < 0.05 for a, b, _ in draws])
    assert 0.72 < found < 0.84  # a little under 0.8: the exact test is conservative


def test_power_notes_say_what_cannot_be_told() -> None:
    assert "only differences of 8.8 points or more are found with 80% power" in power_note(200, 40)
    assert power_note(30, 2).startswith("With 30 pairs, 2 of them discordant, no difference is found with 80% power")
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


def test_holm_edges() -> None:
    assert holm([]).tolist() == []
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
    found, shifted = odds_ratio([[10, 0], [3, 12]]), contingency.Table2x2(np.array([[10.5, 0.5], [3.5, 12.5]]))
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (shifted.oddsratio, *shifted.oddsratio_confint(0.05)), rel=1e-6
    )
    assert found.method == "Woolf, Haldane-Anscombe correction"
    assert math.isnan(odds_ratio([[0, 0], [3, 12]]).estimate)
    assert math.isnan(odds_ratio([[0, 4], [0, 12]]).low)
    for table in ([[0, 0], [0, 0]], [[-1, 2], [3, 4]], [[float("nan"), 2], [3, 4]]):
        with pytest.raises(InputError, match="counts of at least one case"):
            odds_ratio(table)
    with pytest.raises(InputError, match=r"shape \(2, 2\)"):
        odds_ratio([1, 2, 3, 4])


@pytest.mark.parametrize("seed", SEEDS)
def test_odds_ratio_and_lift_cover_the_true_values(seed: int) -> None:
    generator = np.random.default_rng(seed)
    cells = np.array([0.06, 0.09, 0.10, 0.75])
    ratio, times = (
        cells[0] * cells[3] / (cells[1] * cells[2]),
        cells[0] / ((cells[0] + cells[1]) * (cells[0] + cells[2])),
    )
    found = []
    for a, b, c, d in generator.multinomial(300, cells, size=800).tolist():
        found.append((_covers(odds_ratio([[a, b], [c, d]]), ratio), _covers(lift(a, a + b, a + c, 300), times)))
    covered = np.mean(found, axis=0)
    assert (covered > 0.92).all()
    assert (covered < 0.985).all()


@pytest.mark.parametrize("counts", [(30, 70, 20, 880), (200, 100, 100, 100)])
def test_lift_is_its_definition_and_its_variance_that_of_the_multinomial(counts: tuple[int, ...]) -> None:
    both, one, other, _ = counts
    n = sum(counts)
    found = lift(both, both + one, both + other, n)
    assert found.estimate == pytest.approx((both / (both + one)) / ((both + other) / n))
    a, b, c, _ = np.random.default_rng(0).multinomial(n, np.array(counts) / n, size=40_000).T.astype(float)
    spread = np.log(a * n / ((a + b) * (a + c))).std()
    assert math.log(found.high / found.estimate) / 1.959964 == pytest.approx(spread, rel=0.03)


def test_lift_edges() -> None:
    never = lift(0, 10, 20, 100)
    assert (never.estimate, never.low) == (0.0, 0.0)
    assert 0 < never.high < 10
    assert never.method == "delta method, 0.5 added"
    assert math.isnan(lift(0, 0, 20, 100).estimate)
    assert lift(10, 10, 10, 100).estimate == 10
    for counts in ((5, 3, 9, 20), (1, 12, 12, 20), (0, 0, 0, 0)):
        with pytest.raises(InputError, match="both <= first, second <= n"):
            lift(*counts)


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
    assert table.loc["same", "note"] == power_note(60, 1)
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

"""Areas under the curve against pairs, DeLong, Obuchowski and known areas; matched by length."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from stats_shared import SEEDS, covers

from analyses.stats import (
    auc_with_interval,
    length_matched_auc,
    wilson,
)
from interp.errors import InputError


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
        [covers(auc_with_interval(generator.normal(size=80) + shift * labels, labels), truth) for _ in range(400)]
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
        covered, naive = covered + covers(by_problem, truth), naive + covers(by_case, truth)
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
    assert covers(found.matched, scipy.stats.norm.cdf(1 / math.sqrt(2)))


@pytest.mark.parametrize("seed", SEEDS)
def test_matched_auc_covers_the_true_area(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth, covered = scipy.stats.norm.cdf(0.8 / math.sqrt(2)), 0
    for _ in range(200):
        length = generator.integers(0, 5, size=120)
        labels = (generator.random(120) < 0.3 + 0.1 * length).astype(int)
        found = length_matched_auc(generator.normal(size=120) + 0.8 * labels + 3 * length, labels, length)
        covered += covers(found.matched, truth)
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

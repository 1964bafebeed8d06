"""Two conditions on the same problems: McNemar, sign flips, power, and many tests at a time."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.stats.contingency_tables as contingency
import torch
from stats_shared import SEEDS, frame_of
from statsmodels.stats.multitest import multipletests

from analyses.stats import (
    accuracy_table,
    detectable_difference,
    holm,
    mcnemar,
    paired_test,
    power_note,
)
from interp.errors import InputError
from probes import many_tests


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
    note = accuracy_table(frame_of({"baseline": base, "other": other}), draws=100)["note"][1]
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
    assert many_tests.holm(torch.from_numpy(p)).numpy() == pytest.approx(np.stack([holm(row) for row in p]))


def test_holm_edges() -> None:
    assert holm([]).tolist() == []
    assert np.isnan(holm([float("nan")])).all()
    assert holm([0.5, 0.5, 1.0]).tolist() == [1, 1, 1]
    with pytest.raises(InputError, match="p-values"):
        holm([1.5])

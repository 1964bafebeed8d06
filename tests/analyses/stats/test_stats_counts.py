"""Counts: odds ratios, associations by problem, Jaccard."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import statsmodels.stats.contingency_tables as contingency
from stats_shared import SEEDS, covers

from analyses.stats import (
    association,
    associations,
    jaccard,
    odds_ratio,
)
from analyses.stats.association import FEWEST_PROBLEMS
from interp.errors import InputError


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
    assert 0.92 < np.mean([covers(odds_ratio([[a, b], [c, d]]), ratio) for a, b, c, d in counts]) < 0.985


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

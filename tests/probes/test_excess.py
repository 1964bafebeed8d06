"""The excess of the own answer against closed forms and literal loops, from references factorised once for all."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from vectors import vectors

from probes import excess, nhsic, nhsic_dense, null_scores
from probes.answers import factor_answers
from probes.errors import InputError
from probes.scoring import nhsic_with


def test_a_known_excess_comes_out() -> None:
    """Others 0, 2, 4 have the mean 2 and the sd 2: a score of 7 is 5 above, 2.5 of their standard deviations."""
    own = torch.tensor([7.0, 4.0, -1.0], dtype=torch.float64)
    others = torch.tensor([0.0, 2.0, 4.0], dtype=torch.float64)[:, None].expand(3, 3)
    found = excess(own, others)
    assert found.difference.tolist() == [5.0, 2.0, -3.0]
    assert found.standardised.tolist() == [2.5, 1.0, -1.5]
    assert found.as_high.tolist() == pytest.approx([0.0, 1 / 3, 1.0])
    assert (found.mean.tolist(), found.sd.tolist()) == ([2.0] * 3, [2.0] * 3)


def test_it_is_the_literal_loop_over_layers_and_steps() -> None:
    dice = torch.Generator().manual_seed(0)
    own, others = torch.rand(2, 3, 5, generator=dice), torch.rand(2, 3, 7, 5, generator=dice)
    found = excess(own, others)
    for place in [(i, j, t) for i in range(2) for j in range(3) for t in range(5)]:
        mine, theirs = float(own[place]), others[place[0], place[1], :, place[2]].double().tolist()
        assert float(found.difference[place]) == pytest.approx(mine - statistics.mean(theirs))
        wanted = (mine - statistics.mean(theirs)) / statistics.stdev(theirs)
        assert float(found.standardised[place]) == pytest.approx(wanted)
        assert float(found.as_high[place]) == pytest.approx(sum(other >= mine for other in theirs) / 7)


def test_it_knows_neither_the_unit_nor_the_level_of_the_scores() -> None:
    dice = torch.Generator().manual_seed(1)
    own, others = torch.rand(6, generator=dice).double(), torch.rand(9, 6, generator=dice).double()
    one, other = excess(own, others), excess(3 * own + 5, 3 * others + 5)
    torch.testing.assert_close(other.standardised, one.standardised)
    torch.testing.assert_close(other.difference, 3 * one.difference)
    assert other.as_high.equal(one.as_high)


def test_one_like_the_others_has_mean_zero_and_rank_one_half() -> None:
    """Exchangeable scores: over many steps the difference averages 0, the others are as high half of the time."""
    scores = torch.randn(31, 20_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = excess(scores[0], scores[1:])
    # The variance of own - mean is 1 + 1/30; the share that is as high is uniform on 0, 1/30 ... 1
    assert abs(float(found.difference.mean())) < 4 * math.sqrt(1 + 1 / 30) / math.sqrt(20_000)
    assert abs(float(found.as_high.mean()) - 0.5) < 4 * 0.3 / math.sqrt(20_000)


def test_what_is_undefined_is_nan() -> None:
    own = torch.tensor([0.5, 0.5], dtype=torch.float64)
    agree = torch.tensor([[0.5, 0.1], [0.5 + 1e-16, 0.2], [0.5, 0.3]], dtype=torch.float64)
    found = excess(own, agree)
    assert found.standardised.isnan().tolist() == [True, False], "equal but for rounding is equal"
    assert found.sd[0] == 0
    alone = excess(own, agree[:1])
    assert alone.standardised.isnan().all()
    assert alone.sd.isnan().all()
    assert alone.difference.tolist() == pytest.approx([0.0, 0.4])
    none = excess(own, agree[:0])
    assert all(bool(getattr(none, name).isnan().all()) for name in ("difference", "standardised", "as_high", "mean"))


@pytest.mark.parametrize(
    ("own", "others", "message"),
    [
        (torch.ones(4), torch.ones(3, 5), r"scores_others of shape \[k, 4\], received shape \(3, 5\)"),
        (torch.ones(2, 4), torch.ones(3, 4), r"scores_others of shape \[2, k, 4\]"),
        (torch.ones(4), torch.ones(4), r"scores_others as a floating tensor \[\*lead, k, step\]"),
        (torch.ones(4, dtype=torch.long), torch.ones(3, 4), "scores_own as a floating tensor"),
        (torch.tensor([1.0, math.nan]), torch.ones(3, 2), r"finite scores_own, received 1 NaN and 0 inf, first at \[1"),
        (torch.ones(2), torch.tensor([[1.0, math.inf]]), "finite scores_others"),
    ],
)
def test_what_does_not_fit_is_refused(own: torch.Tensor, others: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        excess(own, others)


@pytest.mark.parametrize(
    ("options", "max_bytes"),
    [({}, 2**28), ({"sigma": "median"}, 2**28), ({"sigma": "median"}, 30_000), ({"drop_top": 3, "sigma": 8.0}, 30_000)],
)
def test_references_factorised_once_score_as_one_at_a_time(options: dict[str, object], max_bytes: int) -> None:
    """Two layers; every trajectory meets some of eleven references, in an order of its own, and some twice."""
    answers, steps = vectors(22, 24, seed=1).reshape(2, 11, 24), vectors(18, 24, seed=2).reshape(2, 9, 24)
    every = factor_answers(answers, **options, max_bytes=max_bytes)
    for drawn in ([3, 0, 10, 3], [7], [5, 6, 7, 8, 9, 1, 2]):
        rows = torch.arange(2)[:, None] * 11 + torch.tensor(drawn)
        scores = nhsic_with(steps[:, None], every.chosen(rows), max_bytes=max_bytes)
        for k, which in enumerate(drawn):
            alone = nhsic(steps, answers[:, which], **options)
            torch.testing.assert_close(scores[:, k], alone, rtol=1e-10, atol=1e-11)
            torch.testing.assert_close(
                scores[:, k], nhsic_dense(steps, answers[:, which], **options), rtol=1e-7, atol=1e-8
            )
        torch.testing.assert_close(scores, null_scores(steps, answers[:, drawn], **options), rtol=1e-10, atol=1e-11)


def test_a_reference_that_is_not_there_is_refused() -> None:
    factor = factor_answers(vectors(3, 8, seed=1))
    with pytest.raises(InputError, match=r"places from 0 to 2, received -1 to 1"):
        factor.chosen(torch.tensor([1, -1]))

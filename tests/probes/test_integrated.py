"""Shares of a difference: they sum to it, and go to what was planted; the scores they are of, and the probe's bits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from vectors import correlated, vectors

from probes import InputError, answer_probe, excess, integrated_gradient, nhsic, score_function, v_information
from probes.integrated import Differentiable
from probes.score_functions import KINDS
from probes.similarity import SCORES


def numeric(score: Differentiable, x: torch.Tensor, step: float) -> torch.Tensor:
    """By each coordinate, from both sides."""
    moves = step * torch.eye(x.shape[-1], dtype=torch.float64)
    rows = [(score.value(row + moves) - score.value(row - moves)) / (2 * step) for row in x.double()]
    return torch.stack(rows)


@pytest.fixture(scope="module")
def streams() -> torch.Tensor:
    return correlated(11, 32, seed=1, massive=2)


@pytest.mark.parametrize("name", list(SCORES))
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_score_function_is_the_score_and_its_gradient(name, kind, streams):
    own, others, x = streams[0], streams[1:6], streams[6:8]
    for drop_top in (0, 2):
        score = score_function(name, own, others=others, kind=kind, drop_top=drop_top)
        expected = SCORES[name](x, own, drop_top=drop_top)
        found = excess(expected, SCORES[name](x, others, drop_top=drop_top))
        if kind != "score":
            expected = found.difference if kind == "excess" else found.standardised
        torch.testing.assert_close(score.value(x), expected, rtol=1e-9, atol=1e-12)
        by_hand = numeric(score, x, 1e-4)
        assert float((score.gradient(x) - by_hand).norm() / by_hand.norm()) < 1e-6
        assert score.name == name + (f"/drop{drop_top}" if drop_top else "") + (f" {kind}" if kind != "score" else "")


def test_where_the_others_agree_nothing_is_standardised(streams):
    score = score_function("r2", streams[0], others=streams[1].expand(3, -1), kind="standardised")
    assert bool(score.value(streams[5:7]).isnan().all())
    assert bool(score.gradient(streams[5:7]).isnan().all())
    found = integrated_gradient(score, streams[5], streams[6])
    assert math.isnan(float(found.missing))
    assert math.isnan(float(found.relative))


@pytest.mark.parametrize("sigma", [50.0, "median"])
def test_shares_sum_to_the_difference(streams, sigma):
    score = score_function("nhsic", streams[0], sigma=sigma)
    start, ends = streams[1], streams[2:5]
    found = integrated_gradient(score, start, ends)
    assert found.gradient.shape == (3, 32)
    plain = nhsic(torch.cat([start[None], ends]), streams[0], sigma=sigma)
    torch.testing.assert_close(found.difference, plain[1:] - plain[0])
    # writes that make the way from start to end, one of them constant over the coordinates
    weights = torch.rand(4, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    writes = (ends - start)[:, None] * (weights / weights.sum(dim=0)) + torch.tensor([5.0, -5.0, 0.0, 0.0])[:, None]
    shares = (writes * found.gradient[:, None]).sum(dim=-1)
    assert bool((found.relative <= 1e-3).all())
    torch.testing.assert_close(shares.sum(dim=1) + found.missing, found.difference, rtol=1e-9, atol=1e-12)
    constant = found.gradient @ torch.ones(32, dtype=torch.float64)
    assert float(constant.abs().max()) < 1e-12


def test_points_are_added_until_it_is_so_and_no_further(streams):
    score = score_function("nhsic", streams[0])
    zero = torch.zeros(32, dtype=torch.float64)
    few = integrated_gradient(score, zero, streams[2], max_points=8)
    assert int(few.points) == 8
    assert float(few.relative) > 1e-3  # from zero it converges badly; it is told
    many = integrated_gradient(score, zero, streams[2], max_points=6000)
    assert int(many.points) > 8
    assert float(many.relative) <= 1e-3
    assert int(integrated_gradient(score, streams[1], streams[2], tolerance=1e-6).points) > 8


def test_a_way_with_kinks_is_followed_until_the_shares_sum():
    """The pair of coordinates that makes the median changes along it; a thousand points are too few for this one."""
    x = correlated(11, 32, seed=3, massive=2)
    score = score_function("nhsic", x[0], sigma="median")
    few = integrated_gradient(score, x[1], x[3], max_points=1024)
    assert score.is_rough
    assert int(few.points) == 1024
    assert float(few.relative) > 1e-3
    whole = integrated_gradient(score, x[1], x[3])
    assert int(whole.points) > 1024
    assert float(whole.relative) <= 1e-3
    assert float(whole.missing) == pytest.approx(float(whole.difference - (x[3] - x[1]).double() @ whole.gradient))
    assert not score_function("nhsic", x[0]).is_rough


def test_it_is_the_mean_of_gradients_along_the_line(streams):
    score = score_function("cka", streams[0])
    found = integrated_gradient(score, streams[1], streams[2], tolerance=1e-4, max_bytes=1)
    assert int(found.points) > 8
    shares = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    line = streams[1] + shares[:, None] * (streams[2] - streams[1])
    torch.testing.assert_close(found.gradient, score.gradient(line).mean(dim=0), rtol=1e-3, atol=1e-6)
    few = integrated_gradient(score, streams[1], streams[2], max_points=8)
    eight = score.gradient(line[125::250] - (line[1] - line[0]) / 2)
    torch.testing.assert_close(few.gradient, eight.mean(dim=0), rtol=1e-9, atol=1e-14)


def test_the_write_that_carries_the_answers_pattern_has_the_share():
    generator = torch.Generator().manual_seed(3)
    answer = torch.randn(96, generator=generator, dtype=torch.float64) * 30
    start = torch.randn(96, generator=generator, dtype=torch.float64) * 30
    noise = torch.randn(6, 96, generator=generator, dtype=torch.float64) * 6
    writes = torch.cat([noise, 0.8 * answer[None], torch.full((1, 96), 40.0, dtype=torch.float64)])
    score = score_function("nhsic", answer)
    found = integrated_gradient(score, start, start + writes.sum(dim=0))
    shares = writes @ found.gradient
    assert int(shares.abs().argmax()) == 6
    assert float(shares[6]) > 0.5 * float(found.difference) > 0.1
    assert abs(float(shares[7])) < 1e-12


def test_from_a_zero_difference_there_is_no_share(streams):
    found = integrated_gradient(score_function("nhsic", streams[0]), streams[1], streams[1])
    assert int(found.points) == 8
    assert float(found.missing) == 0
    assert math.isnan(float(found.relative))


@pytest.mark.parametrize(
    ("start", "end", "options", "expected"),
    [
        (vectors(5, seed=0), vectors(6, seed=0), {}, "one d_model"),
        (vectors(3, 5, seed=0), vectors(2, 5, seed=0), {}, "broadcast"),
        (vectors(5, seed=0), torch.full((5,), math.nan), {}, "finite end"),
        (vectors(5, seed=0), vectors(5, seed=1), {"tolerance": 0.0}, "tolerance > 0"),
        (vectors(5, seed=0), vectors(5, seed=1), {"max_points": 3}, "max_points >= 8"),
    ],
)
def test_what_has_no_line_is_refused(start, end, options, expected):
    with pytest.raises(InputError, match=expected):
        integrated_gradient(score_function("r2", vectors(5, seed=3)), start, end, **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"score": "mi"}, "score as one of nhsic"),
        ({"kind": "more"}, "kind as one of score"),
        ({"kind": "excess"}, "others .* for the kind excess"),
        ({"kind": "standardised", "others": vectors(1, 8, seed=1)}, "k >= 2"),
        ({"kind": "excess", "others": vectors(3, 7, seed=1)}, r"others \[k, 8\]"),
        ({"answer": vectors(2, 8, seed=1)}, "one answer"),
    ],
)
def test_scores_that_there_are_not(options, expected):
    given = {"score": "nhsic", "answer": vectors(8, seed=0)} | options
    with pytest.raises(InputError, match=expected):
        score_function(given.pop("score"), given.pop("answer"), **given)


@pytest.fixture(scope="module")
def labelled() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(160, 12, generator=generator)
    labels = (x @ torch.randn(12, 3, generator=generator) + torch.randn(160, 3, generator=generator)).argmax(dim=1)
    return x, labels


@pytest.mark.parametrize("family", ["linear", "mlp"])
def test_the_probe_is_the_one_that_was_trained(labelled, family):
    x, y = labelled
    found = answer_probe(x, y, probe=family)
    assert found.probe is not None
    valid = torch.ones(1, len(x), dtype=torch.bool)
    plain = found.probe.log_probabilities(x[None], valid)[0, 0].T.double().exp()
    mixed = (1 - found.share) * plain + found.share * found.frequencies.exp()
    torch.testing.assert_close(found.log_probabilities(x), mixed.log(), rtol=1e-4, atol=1e-4)
    for kind in ("bits", "logit"):
        score = found.score(1, kind=kind)
        far = x[:4] * 5  # beyond some coordinates' usual ranges
        by_hand = numeric(score, far, 1e-6)
        assert float((score.gradient(far) - by_hand).abs().max()) < 1e-6 * float(by_hand.abs().max()) + 1e-7
        path = integrated_gradient(score, far[0], far[1:])
        assert bool((path.relative <= 1e-3).all())
    bits = found.score(1).value(x)
    torch.testing.assert_close(bits, (found.log_probabilities(x)[:, 1] - found.frequencies[1]) / math.log(2))


def test_the_bits_of_held_out_problems_are_the_v_information(labelled):
    x, y = labelled
    trained = answer_probe(x[:120], y[:120])
    held = zip(x[120:], y[120:], strict=True)
    bits = torch.stack([trained.score(int(label)).value(row[None])[0] for row, label in held])
    estimate = v_information(x, y, control=False, draws=100)
    assert float(estimate.low) - 0.2 < float(bits.mean()) < float(estimate.high) + 0.2


def test_before_the_softmax_eight_points_are_exact(labelled):
    x, y = labelled
    score = answer_probe(x, y).score(2, kind="logit")
    found = integrated_gradient(score, x[0], x[1:5], tolerance=1e-12)
    assert found.points.tolist() == [8] * 4


def test_a_vector_better_ignored_says_nothing():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 5, generator=generator)
    found = answer_probe(x, torch.randint(0, 2, (60,), generator=generator))
    found = replace(found, probe=None)
    for kind in ("bits", "logit"):
        score = found.score(1, kind=kind)
        assert bool((score.value(x) == 0).all())
        assert bool((score.gradient(x) == 0).all())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"y": torch.zeros(160)}, "whole numbers"),
        ({"probe": "deep"}, "probe as one of linear"),
        ({"n_classes": 2}, "labels from 0 to 1"),
        ({"groups": torch.zeros(160, dtype=torch.long)}, "at least 8 groups"),
        ({"x": torch.full((160, 12), math.nan)}, "finite x"),
    ],
)
def test_problems_that_train_no_probe(labelled, change, expected):
    x, y = labelled
    given = {"x": x, "y": y} | change
    with pytest.raises(InputError, match=expected):
        answer_probe(given.pop("x"), given.pop("y"), **given)
    with pytest.raises(InputError, match="a label from 0 to 2"):
        answer_probe(x, y).score(3)

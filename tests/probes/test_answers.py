"""Answers factorised once: scored against, as many at a time as a memory holds, they give the dense formula."""

import numpy as np
import pytest
import torch
from vectors import literal, vectors

from probes import nhsic_dense
from probes.answers import centred_answers, factor_answers, factored_answers
from probes.kernel import Kernel
from probes.scoring import nhsic_with


def test_an_answer_factor_carries_its_bandwidth():
    answers, steps = vectors(4, 19, seed=1), vectors(3, 19, seed=2)
    factor = factor_answers(answers, sigma="0.5*median")
    assert factor.kernel.sigma == "0.5*median"
    assert factor.bandwidth.tolist() == pytest.approx([literal(a) / 2 for a in answers], rel=1e-14)
    expected = nhsic_dense(steps, answers, sigma="0.5*median")
    torch.testing.assert_close(nhsic_with(steps, factor), expected, rtol=1e-7, atol=1e-8)
    assert factor_answers(answers, sigma=80).bandwidth.tolist() == [80.0] * 4


def test_one_trajectory_against_many_answers():
    steps, answers = vectors(6, 30, seed=1), vectors(9, 30, seed=2).reshape(3, 3, 30)
    score = nhsic_with(steps, factor_answers(answers, sigma=80.0))
    torch.testing.assert_close(score, nhsic_dense(steps, answers, sigma=80.0), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("drop_top", [0, 3])
def test_a_whitened_factor_is_half_of_the_operator(drop_top):
    """W^T W = R_y, the operator of the formula, from explicit kernels and inverses."""
    answers = vectors(5, 17, seed=3)
    factor = factor_answers(answers, sigma=4.0, eps=1e-3, drop_top=drop_top)
    for i, answer in enumerate(answers.numpy()):
        kept = np.sort(np.argsort(-np.abs(answer))[drop_top:])
        v, d = answer[kept], len(kept)
        centring = np.eye(d) - 1 / d
        centred = centring @ np.exp(-np.square(v[:, None] - v) / (2 * 4.0**2)) @ centring
        operator = centred @ np.linalg.inv(centred + 1e-3 * d * np.eye(d))
        whitened = factor.whitened[i].numpy()
        np.testing.assert_allclose(whitened.T @ whitened, operator, rtol=0, atol=1e-9)
        assert factor.keep is None if drop_top == 0 else factor.keep[i].tolist() == kept.tolist()


@pytest.mark.parametrize("room", [1, 40_000, 300_000, 10**9])
def test_every_answer_comes_once_whatever_the_room(room):
    answers = vectors(23, 40, seed=4, scale=60.0)
    whole = factor_answers(answers, sigma=20.0).whitened
    seen = []
    for rows, factor in factored_answers(answers, Kernel(20.0), max_bytes=room, room=float(room)):
        seen.extend(rows.tolist())
        rank = factor.whitened.shape[1]
        torch.testing.assert_close(factor.whitened, whole[rows, :rank], rtol=0, atol=1e-12)
        assert not whole[rows, rank:].any(), "what is beyond the rank is padding"
        assert len(rows) == 1 or 3 * factor.whitened.nbytes <= room
    assert sorted(seen) == list(range(23))
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("options", [{}, {"sigma": "median"}, {"drop_top": 16, "eps": 1e-3}, {"drop_top": 3}])
def test_answers_centred_once_are_those_of_any_of_them_to_the_last_bit(options):
    """Of ranks that differ, so that what rows are filled up to hangs on who is there; wide and odd widths apart."""
    dice = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 300.0, 20.0, 60.0, 3.0])[:, None]
    for d_model in (48, 208, 1600):
        answers = torch.randn(5, d_model, generator=dice) * scale
        centred = centred_answers(answers, **options)
        for rows in ([0], [3, 1], [4, 0, 2], [0, 1, 2, 3, 4]):
            ours, alone = centred.whitened(rows), factor_answers(answers[rows], **options)
            assert torch.equal(ours.whitened, alone.whitened)
            assert torch.equal(ours.bandwidth, alone.bandwidth)
            assert ours.lead == alone.lead
            assert ours.keep is alone.keep is None or torch.equal(ours.keep, alone.keep)
        assert len({len(centred.whitened([row]).whitened[0]) for row in range(5)}) > 1, "ranks differ"

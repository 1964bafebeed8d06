"""What is chosen on other problems: frequencies and mixtures by numpy, ridge strength by trying all."""

import math

import numpy as np
import pytest
import torch

from probes.folds import Folds, Split
from probes.probe import FAMILIES, Family, fit_probe
from probes.selection import MIXED, Task, log_frequencies, mixture


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frequencies_are_counts_of_valid_problems():
    labels, valid = torch.tensor([[[0, 2, 2, 1, 0], [1, 1, 1, 1, 3]]]), torch.tensor([[True, True, True, False, True]])
    found = log_frequencies(labels, valid, 4, torch.tensor([[0.5, 0.25]])).exp()
    expected = [np.array([2.5, 0.5, 2.5, 0.5]) / 6, np.array([0.25, 3.25, 0.25, 1.25]) / 5]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


@pytest.mark.parametrize("share", MIXED)
def test_a_mixture_is_the_sum_of_shares(share):
    q, base = (draw(4, 3, seed=k).softmax(dim=-1) for k in (0, 1))
    expected = (1 - share) * q.numpy() + share * base.numpy()
    np.testing.assert_allclose(mixture(q.log(), base.log(), share).exp(), expected, rtol=1e-12)


def test_the_smallest_share_bounds_the_cost_of_a_confident_mistake():
    quiet = torch.zeros(1, 2, 3) + torch.tensor([0.0, -1e4, -1e4])[None, None]
    base = torch.full((1, 2, 3), 1 / 3).log()
    assert float((base - mixture(quiet, base, MIXED[0])).max()) / math.log(2) == pytest.approx(9, abs=1e-5)


def task(x: torch.Tensor, y: torch.Tensor, ridges: tuple[float, ...] = (1.0, 0.1, 0.01)) -> Task:
    valid = torch.ones(x.shape[:2], dtype=torch.bool)
    return Task(x, y.expand(len(x), 1, -1), valid, int(y.max()) + 1, Family(0, ridges), 0)


def test_vectors_that_say_nothing_are_ignored():
    y = torch.arange(90) % 3 % 2
    (split, *_) = Folds.draw(90, 3, generator=torch.Generator().manual_seed(0))
    log_q, log_base = task(torch.ones(1, 90, 4), y).held_out(split)
    assert torch.equal(log_q, log_base[..., None].expand(-1, -1, -1, len(split.test)))


@pytest.mark.parametrize(
    ("ridges", "signal", "chosen"),
    [((3.0, 0.3, 0.003), 1.5, (0.3, MIXED[0])), ((0.003, 0.001), 1.0, (0.003, MIXED[2]))],
)
def test_the_choice_is_the_best_of_all_that_there_are(ridges, signal, chosen):
    """Every ridge strength, share and smoothing tried one at a time on the problems that choose."""
    n, y = 120, torch.arange(120) % 3
    x = draw(1, n, 6, seed=2).float()
    x[0, :, :3] += signal * torch.nn.functional.one_hot(y, 3)
    split = Split(*torch.randperm(n, generator=torch.Generator().manual_seed(1)).split([60, 30, 30]))
    valid, truth = torch.ones(1, n, dtype=torch.bool), y[None, None]

    def base_of(rows: torch.Tensor, added: float) -> torch.Tensor:
        return log_frequencies(truth[..., rows], valid[:, rows], 3, torch.full((1, 1), added))

    def loss(log_p: torch.Tensor) -> float:
        return -float(log_p[y[split.choose], range(30)].mean())

    def fitted(base: torch.Tensor, ridge: float, train: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        here = (x[:, train], truth[..., train], valid[:, train], base, torch.tensor([[ridge]]))
        return fit_probe(*here, family=FAMILIES["linear"]).log_probabilities(x[:, rows], valid[:, rows])[0, 0]

    added = min((0.1 / 3, 1 / 3, 0.5, 5.0), key=lambda c: loss(base_of(split.train, c)[0, 0, :, None].expand(-1, 30)))
    base = base_of(split.train, added)
    tried = {
        (ridge, share): loss(mixture(fitted(base, ridge, split.train, split.choose), base[0, 0, :, None], share))
        for ridge in ridges
        for share in MIXED
    }
    ridge, share = min(tried, key=lambda pair: tried[pair])
    assert (ridge, share) == chosen, "the cases differ in what is best"
    assert tried[ridge, share] < loss(base[0, 0, :, None].expand(-1, 30)), "the vectors tell something"
    whole = torch.cat([split.train, split.choose])
    again = base_of(whole, added)
    expected = mixture(fitted(again, ridge, whole, split.test).double(), again[0, 0, :, None].double(), share)
    log_q, log_base = task(x, y, ridges).held_out(split)
    torch.testing.assert_close(log_base[0, 0], again[0, 0].double())
    torch.testing.assert_close(log_q[0, 0], expected, rtol=0, atol=1e-3)

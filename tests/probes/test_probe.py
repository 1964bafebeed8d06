"""The probe alone: ridge logistic regression of scipy's optimiser, gradients by autograd, features by numpy."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from probes.features import Axes, usual_range
from probes.lbfgs import minimise
from probes.probe import FAMILIES, Net, fit_probe
from probes.selection import log_frequencies


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("d", [5, 150])
@pytest.mark.parametrize("ridge", [0.6, 0.005])
def test_the_linear_probe_is_ridge_logistic_regression(d, ridge):
    y = torch.arange(160) % 3
    x = draw(1, 160, max(d, 4), seed=4).float()
    x[..., :3] += torch.nn.functional.one_hot(torch.where(draw(160, seed=5) > 0.8, (y + 1) % 3, y), 3)
    x = x[..., :d]
    train, rows = torch.arange(120), torch.arange(120, 160)
    valid = torch.ones(1, 160, dtype=torch.bool)
    valid[0, :120:7] = False
    labels = y[None, None]
    here = (x[:, train], labels[:, :, train], valid[:, train])
    base = log_frequencies(here[1], here[2], 3, torch.tensor([[0.5]]))

    def probabilities(**options):
        probe = fit_probe(*here, base, torch.tensor([[ridge]]), family=FAMILIES["linear"], **options)
        return probe.log_probabilities(x[:, rows], valid[:, rows])[0, 0].double().exp().numpy().T

    as_used, converged = probabilities(), probabilities(iterations=300, tolerance=1e-9)

    kept = train[valid[0, train]]
    inside, outside = (x[0, r].double().numpy() for r in (kept, rows))
    mean, spread = inside.mean(axis=0), inside.std(axis=0)
    inside, outside = (np.pad((v - mean) / spread, ((0, 0), (0, 1)), constant_values=1.0) for v in (inside, outside))
    counts = np.bincount(y[kept].numpy(), minlength=3) + 0.5
    offset = np.log(counts / counts.sum())
    assert np.allclose(base[0, 0], offset, atol=1e-6)

    def log_probabilities(w, z):
        logits = z @ w.reshape(3, -1).T + offset
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)

    def objective(w):
        log_p = log_probabilities(w, inside)
        error = np.exp(log_p)
        error[range(len(kept)), y[kept]] -= 1
        loss = -log_p[range(len(kept)), y[kept]].mean() + ridge / 2 * (w**2).sum()
        return loss, (error.T @ inside / len(kept)).ravel() + ridge * w

    best = scipy.optimize.minimize(objective, np.zeros(3 * (d + 1)), jac=True, method="L-BFGS-B", tol=1e-12)
    expected = log_probabilities(best.x, outside)
    assert np.abs(converged - np.exp(expected)).max() < 1e-3
    # It stops where what is left to gain is far below the sampling noise.
    assert np.abs(as_used - np.exp(expected)).mean() < 0.01


def test_fits_of_a_batch_do_not_see_each_other():
    """Two places, two ridge strengths and two label sets at once, or one by one."""
    x, valid = draw(2, 60, 4, seed=0).float(), draw(2, 60, seed=1) > -1
    labels = torch.stack([torch.arange(60) % 3, (x[0, :, 0] > 0).long()]).repeat(2, 2, 1)
    ridge = torch.tensor([[0.3, 0.3, 0.01, 0.01]]).expand(2, -1)
    base = log_frequencies(labels, valid, 3, torch.ones(2, 4))
    options = {"family": FAMILIES["linear"], "iterations": 300, "tolerance": 1e-9}
    whole = fit_probe(x, labels, valid, base, ridge, **options).log_probabilities(x, valid)
    for place in range(2):
        for fit in range(4):
            at, one = slice(place, place + 1), slice(fit, fit + 1)
            alone = fit_probe(x[at], labels[at, one], valid[at], base[at, one], ridge[at, one], **options)
            found = alone.log_probabilities(x[at], valid[at])[0, 0]
            torch.testing.assert_close(found, whole[place, fit], rtol=0, atol=2e-3)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_under_a_strong_ridge_the_frequencies_are_all_that_is_left(family):
    x, y = draw(1, 50, 3, seed=2).float(), torch.arange(50) % 5 % 3
    valid = torch.ones(1, 50, dtype=torch.bool)
    base = log_frequencies(y[None, None], valid, 3, torch.zeros(1, 1))
    probe = fit_probe(x, y[None, None], valid, base, torch.tensor([[1e6]]), family=FAMILIES[family])
    expected = torch.bincount(y).double() / 50
    found = probe.log_probabilities(x, valid)[0, 0].exp().double()
    assert float((found - expected[:, None]).abs().max()) < 1e-4


@pytest.mark.parametrize("hidden", [0, 5])
def test_gradients_are_those_of_autograd(hidden):
    z, offset = draw(2, 11, 4, seed=3), draw(2, 3, 6, seed=4).log_softmax(dim=-1)
    net = Net(hidden, 4, 6, offset)
    size = net.start(2, 3, torch.ones(2, 4), 0).shape[-1]
    w = draw(2, 3, size, seed=5)
    w.requires_grad_(True)
    truth = torch.arange(11).remainder(6).expand(2, 3, 1, 11)
    with torch.no_grad():
        logits, units = net.logits(w, z)
        error = logits.softmax(dim=2).scatter_add(2, truth, -torch.ones(2, 3, 1, 11, dtype=torch.float64))
        found = net.gradient(w, z, units, error)
    first = w[..., : (hidden + 6) * 4].reshape(2, 3, hidden + 6, 4)
    logits = offset[..., None] + first[:, :, hidden:] @ z.mT[:, None]
    if hidden:
        second = w[..., (hidden + 6) * 4 :].reshape(2, 3, 6, hidden + 1)
        logits = logits + second[..., :-1] @ (first[:, :, :hidden] @ z.mT[:, None]).tanh() + second[..., -1:]
    (-logits.log_softmax(dim=2).gather(2, truth).sum()).backward()
    torch.testing.assert_close(found, w.grad, rtol=1e-9, atol=1e-11)


def test_many_quadratics_at_once_reach_their_closed_form():
    """Curvatures from 1 to 1000: without the memory of steps, or with a wrong one, forty iterations do not suffice."""
    turn = torch.linalg.qr(draw(3, 4, 6, 6, seed=6))[0]
    a = turn @ torch.logspace(0, 3, 6, dtype=torch.float64).diag() @ turn.mT
    b = draw(3, 4, 6, seed=7)

    def objective_of(fits):
        def objective(w):
            product = (a[:, fits] @ w[..., None])[..., 0]
            return (0.5 * w * product - b[:, fits] * w).sum(dim=-1), product - b[:, fits]

        return objective

    inverse = 1 / a.diagonal(dim1=-2, dim2=-1)
    found = minimise(objective_of, torch.zeros_like(b), inverse, iterations=40, tolerance=1e-14)
    expected = torch.from_numpy(np.linalg.solve(a.numpy(), b.numpy()[..., None])[..., 0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("d", [3, 50])
def test_axes_keep_the_products_of_standardised_vectors(d):
    """Rotations keep every product of two problems; those beyond the range of training stand at its end."""
    x = draw(1, 40, d, seed=8) * 10 + 100
    valid = torch.ones(1, 40, dtype=torch.bool)
    valid[0, ::6] = False
    axes, z = Axes.learn(x.masked_fill(~valid[..., None], torch.nan), valid)
    seen, other = x[0][valid[0]].numpy(), draw(1, 7, d, seed=9) * 10 + 100
    other[0, 2] += 1e6
    low, high = (end[0].numpy() for end in usual_range(x, valid))
    standard = (seen - seen.mean(axis=0)) / seen.std(axis=0)
    outside = (np.clip(other[0].numpy(), low, high) - seen.mean(axis=0)) / seen.std(axis=0)
    np.testing.assert_allclose(z[0][valid[0]] @ z[0][valid[0]].T, standard @ standard.T + 1, atol=1e-3)
    assert not z[0][~valid[0]].any()
    found = axes.of(other, torch.ones(1, 7, dtype=torch.bool))[0]
    np.testing.assert_allclose(found @ z[0][valid[0]].T, outside @ standard.T + 1, atol=2e-2 if d > 40 else 1e-3)


def test_the_usual_range_of_rare_coordinates_holds_them():
    one_hot = torch.nn.functional.one_hot(torch.arange(200) % 10, 10).float()
    low, high = usual_range(one_hot[None], torch.ones(1, 200, dtype=torch.bool))
    assert (low <= 0).all()
    assert (high >= 1).all()


def test_the_usual_range_is_six_standard_deviations_of_a_normal_coordinate():
    x = torch.from_numpy(scipy.stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000) * 3 + 7)[None, :, None]
    low, high = usual_range(x, torch.ones(1, 100_000, dtype=torch.bool))
    assert (float(low), float(high)) == (pytest.approx(7 - 18, abs=1e-2), pytest.approx(7 + 18, abs=1e-2))

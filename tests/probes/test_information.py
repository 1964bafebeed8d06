"""Estimators of information against closed forms, their biases over seeds, and what must not change them."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.errors import InputError
from probes.information import Information, discrete_mi, entropy_bits, gaussian_mi, ksg_mi, reduce_dimensions


def gaussians(n, d, rho, *, seed, lead=()):
    """x and y of d coordinates, each pair correlated by rho: -d/2 log2(1 - rho^2) bits."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(n, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(*lead, n, d, generator=generator, dtype=torch.float64)
    return rho * y + math.sqrt(1 - rho**2) * noise, y


def channel(n, q, error, *, seed):
    """Uniform labels and what a symmetric channel makes of them."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(q, (n,), generator=generator)
    flip = torch.rand(n, generator=generator) < error
    return torch.where(flip, (y + torch.randint(1, q, (n,), generator=generator)) % q, y), y


def channel_bits(q, error):
    noise = 0.0 if error == 0 else -error * math.log2(error) - (1 - error) * math.log2(1 - error)
    return math.log2(q) - noise - error * math.log2(q - 1)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("d", [1, 3, 8])
def test_gaussian_mi_is_the_closed_form(rho, d):
    truth = -d / 2 * math.log2(1 - rho**2)
    bits = gaussian_mi(*gaussians(2000, d, rho, seed=d, lead=(20,)), corrected=True)
    assert float(bits.mean()) == pytest.approx(truth, abs=0.05 + 0.01 * d)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_gaussian_correction_takes_out_the_bias_and_the_bias_is_upward(rho):
    n, d = 25, 4
    pairs = [gaussians(n, d, rho, seed=seed) for seed in range(600)]
    plain = torch.stack([gaussian_mi(x, y) for x, y in pairs])
    corrected = torch.stack([gaussian_mi(x, y, corrected=True) for x, y in pairs])
    truth, error = -d / 2 * math.log2(1 - rho**2), float(plain.std()) / math.sqrt(600)
    assert float(plain.mean()) > truth + 10 * error
    assert abs(float(corrected.mean()) - truth) < 3.5 * error


def test_gaussian_mi_is_half_the_log_determinants_and_batches():
    x, y = gaussians(50, 3, 0.5, seed=0, lead=(2, 4))
    bits = gaussian_mi(x, y[:, :2])
    assert bits.shape == (2, 4)
    for i in range(2):
        for j in range(4):
            joint = np.corrcoef(torch.cat([x[i, j], y[:, :2]], dim=1).numpy().T)
            parts = [np.linalg.slogdet(m)[1] for m in (joint[:3, :3], joint[3:, 3:], joint)]
            expected = (parts[0] + parts[1] - parts[2]) / 2 / math.log(2)
            assert float(bits[i, j]) == pytest.approx(expected, rel=1e-9)
            # One place is another product to a BLAS than some are: Intel's adds it in another order.
            assert float(bits[i, j]) == pytest.approx(float(gaussian_mi(x[i, j], y[:, :2])), rel=1e-14)


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-100, 100))
@settings(max_examples=25, deadline=None)
def test_gaussian_mi_does_not_see_invertible_linear_maps(seed, scale, shift):
    x, y = gaussians(40, 3, 0.6, seed=seed)
    mix = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 3 * torch.eye(3)
    expected = float(gaussian_mi(x, y))
    assert float(gaussian_mi(scale * x @ mix + shift, y)) == pytest.approx(expected, rel=1e-6)
    assert float(gaussian_mi(x, shift - scale * y)) == pytest.approx(expected, rel=1e-6)
    assert float(gaussian_mi(y, x)) == pytest.approx(expected, rel=1e-9)


def test_gaussian_mi_of_a_linear_function_is_infinite():
    x, _ = gaussians(40, 3, 0.6, seed=0)
    assert gaussian_mi(x, x[:, :1] - 2 * x[:, 1:2]).item() == math.inf


def test_gaussian_mi_refuses_too_few_samples_and_columns_without_their_own_variation():
    x, y = gaussians(7, 3, 0.5, seed=0)
    with pytest.raises(InputError, match=r"more than p \+ q \+ 1 = 7 samples, received n = 7 with p = 3 and q = 3"):
        gaussian_mi(x, y)
    x, y = gaussians(30, 3, 0.5, seed=0)
    with pytest.raises(InputError, match="columns of x that are not linear functions of each other"):
        gaussian_mi(torch.cat([x, x[:, :1] + x[:, 1:2]], dim=1), y)
    with pytest.raises(InputError, match="every column of y to vary, received 1 constant, first at column 3"):
        gaussian_mi(x, torch.cat([y, torch.full((30, 1), 5.0)], dim=1))
    with pytest.raises(InputError, match=r"finite x, received 1 NaN and 0 inf, first at \[4, 2\]"):
        gaussian_mi(x.clone().index_put_((torch.tensor(4), torch.tensor(2)), torch.tensor(math.nan).double()), y)
    with pytest.raises(InputError, match="y with the 30 problems of x, received 29"):
        gaussian_mi(x, y[1:])
    with pytest.raises(InputError, match=r"x of shape \[\*lead, n, d\]"):
        gaussian_mi(x[:, 0], y)
    with pytest.raises(InputError, match="y as a floating tensor"):
        gaussian_mi(x, y.long())


@pytest.mark.parametrize("error", [0.0, 0.1, 0.5, 0.9])
def test_discrete_mi_of_a_ten_ary_symmetric_channel(error):
    x, y = channel(5000, 10, error, seed=1)
    found = discrete_mi(x, y, miller_madow=True, draws=200)
    assert found.bits == pytest.approx(channel_bits(10, error), abs=0.06)
    assert found.low <= channel_bits(10, error) + 0.002
    assert found.high >= channel_bits(10, error) - 0.002
    assert (found.bound, found.n) == ("estimate", 5000)


def test_discrete_mi_is_biased_upward_entropy_downward_and_miller_madow_helps():
    q, n, seeds = 4, 80, range(200)
    plain, corrected, entropy, entropy_mm = [], [], [], []
    for seed in seeds:
        x, _ = channel(n, q, 0.3, seed=seed)
        _, y = channel(n, q, 0.3, seed=10_000 + seed)
        plain.append(discrete_mi(x, y, draws=100).bits)
        corrected.append(discrete_mi(x, y, miller_madow=True, draws=100).bits)
        entropy.append(entropy_bits(y))
        entropy_mm.append(entropy_bits(y, miller_madow=True))
    assert np.mean(plain) == pytest.approx((q - 1) ** 2 / (2 * n * math.log(2)), rel=0.15)
    assert abs(np.mean(corrected)) < np.mean(plain) / 5
    assert np.mean(entropy) == pytest.approx(2 - (q - 1) / (2 * n * math.log(2)), abs=0.006)
    assert abs(np.mean(entropy_mm) - 2) < (2 - np.mean(entropy)) / 3


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_of_independent_labels_covers_zero(seed):
    x, _ = channel(400, 10, 0.3, seed=seed)
    _, y = channel(400, 10, 0.3, seed=100 + seed)
    found = discrete_mi(x, y, seed=seed)
    assert found.low <= 0 < found.bits <= found.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth, covered = channel_bits(4, 0.2), 0
    for seed in range(100):
        found = discrete_mi(*channel(300, 4, 0.2, seed=seed), draws=200, seed=seed)
        covered += found.low <= truth <= found.high
    assert 88 <= covered <= 100


def test_discrete_mi_is_deterministic_by_seed():
    x, y = channel(200, 4, 0.3, seed=0)
    state = torch.random.get_rng_state()
    assert discrete_mi(x, y, seed=3) == discrete_mi(x, y, seed=3)
    assert discrete_mi(x, y, seed=3).low != discrete_mi(x, y, seed=4).low
    assert torch.equal(state, torch.random.get_rng_state())


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_entropy_counts_labels_and_ignores_their_names_and_order(labels, random):
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    expected = float(-(shares * np.log2(shares)).sum())
    names = random.sample(range(-50, 50), 7)
    renamed = [names[label] for label in labels]
    random.shuffle(renamed)
    assert entropy_bits(torch.tensor(labels)) == pytest.approx(expected, abs=1e-12)
    assert entropy_bits(torch.tensor(renamed)) == pytest.approx(expected, abs=1e-12)


def test_labels_that_are_not_labels_are_refused():
    with pytest.raises(InputError, match="labels as a non-empty integer vector"):
        entropy_bits(torch.rand(5))
    with pytest.raises(InputError, match=r"received torch.int64 of shape \(0,\)"):
        entropy_bits(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(InputError, match="y of the length of x, 5, received length 4"):
        discrete_mi(torch.arange(5), torch.arange(4))
    with pytest.raises(InputError, match="at least 100 draws"):
        discrete_mi(torch.arange(5), torch.arange(5), draws=10)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("d", [1, 2])
def test_ksg_is_near_the_closed_form_in_few_dimensions(rho, d):
    found = ksg_mi(*gaussians(1000, d, rho, seed=7))
    assert found == pytest.approx(-d / 2 * math.log2(1 - rho**2), abs=0.1 + 0.1 * (d - 1))


def test_ksg_is_deterministic_sees_what_correlation_does_not_and_leaves_numpys_generator_alone():
    x, y = gaussians(500, 1, 0.0, seed=0)
    y = x.abs() + 0.1 * y
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the library's generator must not be touched
    assert ksg_mi(x, y) == ksg_mi(x, y) > 0.8
    assert (state == np.random.get_state()[1]).all()  # noqa: NPY002
    assert float(gaussian_mi(x, y)) < 0.1


def test_ksg_refuses_many_dimensions_ties_and_a_missing_library(monkeypatch):
    x, y = gaussians(100, 6, 0.5, seed=0)
    with pytest.raises(InputError, match=r"at most 5 dimensions, received x with 6.*reduce_dimensions first"):
        ksg_mi(x, y)
    with pytest.raises(InputError, match="y with 6"):
        ksg_mi(x[:, :5], y)
    with pytest.raises(InputError, match="y without ties, received 98 repeated values"):
        ksg_mi(x[:, :2], (y[:, :1] > 0).double())
    with pytest.raises(InputError, match="k from 1 to n - 1 = 99, received 100"):
        ksg_mi(x[:, :2], y[:, :2], k=100)
    monkeypatch.setitem(sys.modules, "infomeasure", None)
    with pytest.raises(InputError, match=r'pip install "peaklens\[information\]"'):
        ksg_mi(x[:, :2], y[:, :2])


def test_reduction_keeps_the_directions_of_largest_variance_with_a_fixed_sign():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 60, 7, generator=generator, dtype=torch.float64) * torch.arange(7, 0, -1)
    scores = reduce_dimensions(x, 3)
    for place in range(2):
        values, vectors = np.linalg.eigh(np.cov(x[place].numpy().T))
        top = vectors[:, ::-1][:, :3]
        top = top * np.sign(top[np.abs(top).argmax(axis=0), range(3)])
        centred = x[place].numpy() - x[place].numpy().mean(axis=0)
        assert np.allclose(scores[place], centred @ top, atol=1e-9)
        assert np.allclose(scores[place].var(dim=0), values[::-1][:3])
    assert torch.equal(scores, reduce_dimensions(x.clone(), 3))
    # After a reduction that keeps everything the Gaussian information is what it was.
    y = x[0, :, :1] + torch.randn(60, 1, generator=generator, dtype=torch.float64)
    assert torch.allclose(gaussian_mi(reduce_dimensions(x, 7), y), gaussian_mi(x, y))
    with pytest.raises(InputError, match="k from 1 to 7 for n = 60 and d = 7, received 8"):
        reduce_dimensions(x, 8)


def test_information_refuses_numbers_that_do_not_fit_together():
    for bits, low, high in [(1.0, 1.1, 1.2), (1.0, 0.5, 0.9), (math.nan, 0.0, 1.0), (1.0, 0.0, math.inf)]:
        with pytest.raises(InputError, match="finite low <= bits <= high"):
            Information(bits, low, high, 0.95, 10, "lower", "probe")
    with pytest.raises(InputError, match="0 < level < 1"):
        Information(1.0, 1.0, 1.0, 95.0, 10, "lower", "probe")
    assert "a lower bound on Shannon information" in str(Information(1.0, 0.5, 2.0, 0.9, 10, "lower", "probe"))

"""Similarity scores against numpy, scipy and their literal definitions, and what each is blind to."""

import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes import InputError, nhsic
from probes.similarity import SCORE_UNITS, SCORES, cka, cosine, kernel_cka, linear_cka, pearson_r2


def draw(*shape: int, seed: int, scale: float = 20.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def centring(n: int) -> np.ndarray:
    return np.eye(n) - 1 / n


def literal_cka(k: np.ndarray, l_: np.ndarray) -> float:
    h = centring(len(k))
    k, l_ = h @ k @ h, h @ l_ @ h
    return float(np.trace(k @ l_) / math.sqrt(np.trace(k @ k) * np.trace(l_ @ l_)))


def gaussian(v: np.ndarray, sigma: float) -> np.ndarray:
    # The kernel minus 1, which centring takes out: small scales keep their digits.
    return np.expm1(-(np.subtract.outer(v, v) ** 2) / (2 * sigma**2))


def median_of(v: np.ndarray) -> float:
    return float(np.median(scipy.spatial.distance.pdist(v.reshape(len(v), -1))))


def test_cosine_and_r2_are_scipys():
    steps, answer = draw(5, 31, seed=1), draw(31, seed=2)
    expected = [1 - scipy.spatial.distance.cosine(x, answer) for x in steps.numpy()]
    np.testing.assert_allclose(cosine(steps, answer).numpy(), expected, rtol=1e-12)
    expected = [scipy.stats.pearsonr(x, answer)[0] ** 2 for x in steps.numpy()]
    np.testing.assert_allclose(pearson_r2(steps, answer).numpy(), expected, rtol=1e-11)
    assert float(cosine(-steps, answer)[0]) == -float(cosine(steps, answer)[0])


def test_linear_cka_of_one_vector_each_is_r2():
    steps, answer = draw(5, 31, seed=3) + 100, draw(31, seed=4)
    expected = [literal_cka(np.outer(x, x), np.outer(answer, answer)) for x in steps.numpy()]
    np.testing.assert_allclose(linear_cka(steps, answer).numpy(), expected, rtol=1e-9)
    assert torch.equal(linear_cka(steps, answer), pearson_r2(steps, answer))
    # The same in the terms of `cka`: coordinates as examples of one feature.
    assert float(cka(steps[0][:, None], answer[:, None])) == pytest.approx(expected[0], rel=1e-9)


@pytest.mark.parametrize("sigma", [5.0, 50, "median", "2*median"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
def test_kernel_cka_is_its_definition(sigma, scale):
    steps, answer = draw(4, 23, seed=5, scale=scale), draw(23, seed=6, scale=scale)

    def kernel(v):
        width = median_of(v) * (2 if sigma == "2*median" else 1) if isinstance(sigma, str) else sigma
        return gaussian(v, width)

    expected = [literal_cka(kernel(x), kernel(answer.numpy())) for x in steps.numpy()]
    np.testing.assert_allclose(kernel_cka(steps, answer, sigma=sigma).numpy(), expected, rtol=1e-6)
    torch.testing.assert_close(
        kernel_cka(steps, answer, sigma=sigma, max_bytes=1), kernel_cka(steps, answer, sigma=sigma)
    )
    assert float(kernel_cka(answer[None], answer, sigma=sigma)) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("name", list(SCORES))
@pytest.mark.parametrize("drop_top", [0, 2])
def test_every_score_broadcasts_and_drops_the_answers_largest(name, drop_top):
    score = SCORES[name]
    steps, answers = draw(3, 1, 4, 17, seed=7), draw(2, 17, seed=8)
    answers[0, 3], answers[1, 9] = 900.0, -900.0
    found = score(steps, answers, drop_top=drop_top)
    assert found.shape == (3, 2, 4)
    assert found.dtype == torch.float64
    for i in range(3):
        for j in range(2):
            keep = sorted(answers[j].abs().argsort()[: 17 - drop_top].tolist())
            torch.testing.assert_close(found[i, j], score(steps[i, 0][:, keep], answers[j, keep]), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(
        score(steps.float(), answers.float()), score(steps.float().double(), answers.float().double())
    )


def test_registry():
    assert set(SCORES) == set(SCORE_UNITS) == {"nhsic", "r2", "cosine", "cka"}
    assert SCORES["nhsic"] is nhsic
    assert SCORES["r2"] is pearson_r2


def test_undefined_is_nan():
    steps = draw(3, 9, seed=1)
    steps[0], steps[1] = 0.0, 0.1
    answer = draw(9, seed=2)
    assert cosine(steps, answer).isnan().tolist() == [True, False, False]
    for score in (pearson_r2, linear_cka, kernel_cka):
        assert score(steps, answer).isnan().tolist() == [True, True, False]
        assert score(steps, torch.full((9,), 0.1)).isnan().all()
    assert kernel_cka(steps, answer, sigma="median").isnan().tolist() == [True, True, False]
    assert cka(torch.full((6, 2), 0.1), draw(6, 3, seed=0)).isnan()
    assert cka(draw(6, 3, seed=0), torch.full((6, 2), 0.1), kernel="gaussian").isnan()


factor = st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.integers(3, 40), st.integers(0, 99), factor, factor)
def test_cosine_is_blind_to_scale(d, seed, a, b):
    x, y = draw(2, d, seed=seed)
    expected = cosine(x[None], y) * math.copysign(1, a) * math.copysign(1, b)
    torch.testing.assert_close(cosine(a * x[None], b * y), expected, rtol=1e-9, atol=1e-12)
    assert float(cosine(1e-200 * x[None], y)) == pytest.approx(float(cosine(x[None], y)), rel=1e-9)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.integers(3, 40), st.integers(0, 99), factor, factor, st.floats(-10, 10), st.floats(-10, 10))
def test_r2_is_blind_to_affine_maps(d, seed, a, b, shift, other):
    x, y = draw(2, d, seed=seed)
    score = pearson_r2(x[None], y)
    moved = pearson_r2(a * x[None] + a * shift, b * y + b * other)
    torch.testing.assert_close(moved, score, rtol=1e-8, atol=1e-10)
    assert float(cosine(x[None] + 1000, y + 1000)) > 0.9  # cosine is not


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.integers(4, 20), st.integers(1, 9), st.integers(0, 99), factor, st.sampled_from(["linear", "gaussian"]))
def test_cka_is_blind_to_rotation_offset_and_scale(n, p, seed, a, kernel):
    x, y = draw(n, p, seed=seed), draw(n, 5, seed=seed + 1000)
    rotation = torch.linalg.qr(draw(p, p, seed=seed + 2000)).Q
    for debiased in (False, True):
        score = cka(x, y, kernel=kernel, debiased=debiased)
        moved = cka(a * (x @ rotation) + 3 * a, y, kernel=kernel, debiased=debiased)
        torch.testing.assert_close(moved, score, rtol=1e-6, atol=1e-8, equal_nan=True)


@settings(derandomize=True, max_examples=20, deadline=None)
@given(st.integers(3, 40), st.integers(0, 99), st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_kernel_cka_with_the_median_is_blind_to_scale_and_offset(d, seed, a, shift):
    x, y = draw(2, d, seed=seed)
    score = kernel_cka(x[None], y, sigma="median")
    torch.testing.assert_close(kernel_cka(a * (x[None] + shift), y, sigma="median"), score, rtol=1e-7, atol=1e-7)
    order = torch.randperm(d, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(kernel_cka(x[None, order], y[order], sigma="median"), score, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kernel", ["linear", "gaussian"])
def test_cka_is_its_definition(kernel):
    x, y = draw(2, 14, 3, seed=1), draw(14, 40, seed=2)

    def gram(z):
        squared = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(z)) ** 2
        return z @ z.T if kernel == "linear" else np.exp(-squared / (2 * median_of(z) ** 2))

    expected = [literal_cka(gram(one.numpy()), gram(y.numpy())) for one in x]
    np.testing.assert_allclose(cka(x, y, kernel=kernel).numpy(), expected, rtol=1e-9)


def unbiased_by_tuples(k: np.ndarray, l_: np.ndarray) -> float:
    """The U-statistic itself: every ordered choice of four different examples."""
    n, total, number = len(k), 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (l_[i, j] + l_[q, r] - 2 * l_[i, q])
                        number += 1
    return total / number


def test_debiased_cka_is_the_u_statistic():
    x, y = draw(7, 3, seed=3, scale=1.0), draw(7, 2, seed=4, scale=1.0)
    k, l_ = ((z @ z.T).numpy() for z in (x, y))
    expected = unbiased_by_tuples(k, l_) / math.sqrt(unbiased_by_tuples(k, k) * unbiased_by_tuples(l_, l_))
    assert float(cka(x, y, debiased=True)) == pytest.approx(expected, rel=1e-9)


def test_bias_of_cka_is_upwards_and_taken_out():
    x, y = draw(400, 20, 60, seed=5), draw(400, 20, 60, seed=6)  # unrelated, more features than examples
    assert float(cka(x, y).mean()) > 0.5
    debiased = cka(x, y, debiased=True)
    assert abs(float(debiased.mean())) < 4 * float(debiased.std()) / 20
    assert (debiased < 0).any()
    torch.testing.assert_close(cka(x[:3], x[:3], debiased=True), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("x", "y", "options", "text"),
    [
        (torch.ones(5, 2), torch.ones(6, 2), {}, r"same n >= 2 examples.* received \(5, 2\) and \(6, 2\)"),
        (torch.ones(3, 2), torch.ones(3, 2), {"debiased": True}, "same n >= 4 examples"),
        (torch.ones(2, 5, 2), torch.ones(3, 5, 2), {}, r"leading axes that broadcast, received \(2,\) and \(3,\)"),
        (torch.full((4, 2), math.nan), torch.ones(4, 2), {}, "finite x, received 8 NaN"),
    ],
)
def test_cka_refuses(x, y, options, text):
    with pytest.raises(InputError, match=text):
        cka(x, y, **options)


@pytest.mark.parametrize("score", [cosine, pearson_r2, linear_cka, kernel_cka])
def test_scores_refuse(score):
    with pytest.raises(InputError, match="finite steps, received 4 NaN"):
        score(torch.full((1, 4), math.nan), torch.ones(4))
    with pytest.raises(InputError, match="answer has 5"):
        score(torch.ones(1, 4), torch.ones(5))
    with pytest.raises(InputError, match="drop_top from 0 to 2"):
        score(torch.ones(1, 4), torch.ones(4), drop_top=3)
    with pytest.raises(InputError, match='"median", or a positive multiple'):
        kernel_cka(torch.ones(1, 4), torch.ones(4), sigma="mode")

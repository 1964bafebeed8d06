"""Gradients of the scores against automatic differentiation of the dense formula, 60 digits, and their symmetries."""

from __future__ import annotations

import itertools
from typing import Any

import mpmath
import pytest
import torch
from test_cost import Meter
from vectors import correlated, vectors

from probes import InputError, cosine_gradient, kernel_cka_gradient, nhsic_dense, nhsic_gradient, pearson_r2_gradient
from probes.answers import factor_answers
from probes.gradients import GRADIENTS, gradient_with
from probes.scale import median_distance, median_gradient
from probes.similarity import SCORES


def automatic(score: Any, x: torch.Tensor, y: torch.Tensor, **options: Any) -> torch.Tensor:
    x = x.double().clone().requires_grad_(True)
    return torch.autograd.grad(score(x, y, **options).sum(), x)[0]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest of all rows, as a share of the expected gradient's length."""
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def dense_cka(x: torch.Tensor, y: torch.Tensor, sigma: float) -> torch.Tensor:
    def centred(v: torch.Tensor) -> torch.Tensor:
        k = torch.expm1(-(v[:, None] - v[None]).square() / (2 * sigma**2))
        k = k - k.mean(dim=0)
        return k - k.mean(dim=1, keepdim=True)

    b = centred(y)
    return torch.stack([(a * b).sum() / a.norm() / b.norm() for a in map(centred, x)])


@pytest.mark.parametrize("d", [5, 24, 90])
@pytest.mark.parametrize("sigma", [50.0, "median", "0.5*median"])
def test_nhsic_gradient_is_automatic_differentiation_of_the_dense_formula(d, sigma):
    for scale, massive, drop_top in itertools.product([1e-2, 1.0, 10.0, 100.0], [0, 2], [0, 2]):
        x = correlated(2, d, seed=0, scale=scale, massive=massive)
        y = correlated(1, d, seed=5, scale=10.0, massive=massive)[0]
        expected = automatic(nhsic_dense, x, y, sigma=sigma, drop_top=drop_top)
        found = nhsic_gradient(x, y, sigma=sigma, drop_top=drop_top)
        # Five coordinates far apart: the score is at its bound, and automatic differentiation of it mere rounding. How
        # exact the closed form is there, 60 digits say below.
        width = 50.0 if sigma == 50.0 else median_distance(x)[:, None] / 2
        allowed = 1e-8 * expected.norm(dim=-1, keepdim=True) + (3e-9 / width if d == 5 else 0.0)
        assert bool(((found - expected).norm(dim=-1, keepdim=True) <= allowed).all()), (scale, massive, drop_top)
        assert float(found.abs().max()) > 0


@pytest.mark.parametrize("scale", [0.3, 30.0])
def test_nhsic_gradient_at_a_models_width(scale):
    x, y = correlated(2, 576, seed=0, scale=scale, massive=3)
    expected = automatic(nhsic_dense, x[None], y)
    assert error(nhsic_gradient(x[None], y), expected) <= 1e-8


def precise(x: list[Any], y: list[Any], sigma: float | str) -> Any:
    """nHSIC in 60 digits."""
    d, operators = len(x), []
    for v in (x, y):
        width = mpmath.mpf(sigma) if sigma != "median" else None
        if width is None:
            distances = sorted(abs(v[i] - v[j]) for i in range(d) for j in range(i))
            width = (distances[(len(distances) - 1) // 2] + distances[len(distances) // 2]) / 2
        kernel = mpmath.matrix(d, d)
        for i in range(d):
            for j in range(d):
                kernel[i, j] = mpmath.exp(-((v[i] - v[j]) ** 2) / (2 * width**2))
        centred = kernel * (mpmath.eye(d) - mpmath.ones(d) / d)
        operators.append(centred * (centred + mpmath.mpf(1e-5) * d * mpmath.eye(d)) ** -1)
    product = operators[0] * operators[1]
    return sum(product[i, i] for i in range(d))


@pytest.mark.parametrize(
    ("scale", "massive", "sigma"),
    [(1e-2, 2, "median"), (100.0, 0, 50.0), (10.0, 0, 3.0), (1e-3, 0, 50.0), (1e-2, 2, 50.0)],
)
def test_nhsic_gradient_against_sixty_digits(scale, massive, sigma):
    # automatic differentiation of the dense formula is off by up to 1.5e-8 here
    d = 4
    x, y = (correlated(1, d, seed=seed, scale=s, massive=massive)[0] for seed, s in ((0, scale), (5, 10.0)))
    with mpmath.workdps(60):
        exact, step = [], mpmath.mpf(10) ** -20
        near = [mpmath.mpf(v) for v in y.tolist()]
        for i in range(d):
            up, down = ([mpmath.mpf(v) for v in x.tolist()] for _ in range(2))
            up[i], down[i] = up[i] + step, down[i] - step
            exact.append(float((precise(up, near, sigma) - precise(down, near, sigma)) / (2 * step)))
    expected = torch.tensor(exact, dtype=torch.float64)
    assert error(nhsic_gradient(x[None], y, sigma=sigma), expected[None]) <= 1e-10


@pytest.mark.parametrize("drop_top", [0, 3])
def test_other_gradients_are_automatic_differentiation(drop_top):
    x, y = correlated(3, 40, seed=1, massive=1), correlated(1, 40, seed=2, massive=1)[0]
    keep = y.abs().argsort(descending=True)[drop_top:].sort().values

    def r2(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, y = x[:, keep] - x[:, keep].mean(dim=1, keepdim=True), y[keep] - y[keep].mean()
        return (x @ y).square() / x.square().sum(dim=1) / y.square().sum()

    def cosine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cosine_similarity(x[:, keep], y[keep], dim=1)

    def cka(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return dense_cka(x[:, keep], y[keep], 20.0)

    options = {"drop_top": drop_top}
    assert error(pearson_r2_gradient(x, y, **options), automatic(r2, x, y)) < 1e-10
    assert error(cosine_gradient(x, y, **options), automatic(cosine, x, y)) < 1e-10
    assert error(kernel_cka_gradient(x, y, sigma=20.0, **options), automatic(cka, x, y)) < 1e-8


def test_every_score_has_its_gradient():
    assert set(GRADIENTS) == set(SCORES)


@pytest.mark.parametrize("name", list(GRADIENTS))
def test_leading_axes_broadcast_and_parts_do_not_matter(name):
    steps, answer = vectors(2, 1, 3, 12, seed=1), vectors(4, 12, seed=2)
    for drop_top in (0, 2):
        whole = GRADIENTS[name](steps, answer, drop_top=drop_top)
        assert whole.shape == (2, 4, 3, 12)
        one = GRADIENTS[name](steps[1, 0], answer[2], drop_top=drop_top)
        torch.testing.assert_close(whole[1, 2], one, rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(GRADIENTS[name](steps, answer, drop_top=drop_top, max_bytes=1), whole)
        dropped = answer[2].abs().argsort(descending=True)[:drop_top]
        assert bool((one[:, dropped] == 0).all())


@pytest.mark.parametrize("sigma", [50.0, "median"])
def test_answers_factorised_once_give_the_same(sigma):
    steps, answers = correlated(3, 30, seed=1), correlated(5, 30, seed=2)
    for drop_top in (0, 2):
        factor = factor_answers(answers, sigma=sigma, drop_top=drop_top)
        expected = nhsic_gradient(steps, answers, sigma=sigma, drop_top=drop_top)
        torch.testing.assert_close(gradient_with(steps, factor), expected, rtol=1e-10, atol=1e-13)


def test_what_a_score_is_blind_to_has_no_gradient():
    x, y = correlated(2, 50, seed=3, massive=2), correlated(1, 50, seed=4)[0]
    ones = torch.ones(50, dtype=torch.float64)
    for name in ("nhsic", "r2", "cka"):
        gradient = GRADIENTS[name](x, y)
        assert float((gradient @ ones).abs().max()) < 1e-12 * float(gradient.abs().max()), name
    # in units of its own width nHSIC is blind to scale too; with one width for all it is not
    along = {sigma: (nhsic_gradient(x, y, sigma=sigma) * x).sum(dim=-1).abs().max() for sigma in ("median", 50.0)}
    assert float(along["median"]) < 1e-9
    assert float(along[50.0]) > 1e-3


def test_a_constant_step():
    x = torch.full((1, 6), 3.25, dtype=torch.float64)
    y = vectors(6, seed=0)
    assert bool((nhsic_gradient(x, y) == 0).all())
    assert bool(nhsic_gradient(x, y, sigma="median").isnan().all())
    assert bool(kernel_cka_gradient(x, y).isnan().all())
    assert bool(pearson_r2_gradient(x, y).isnan().all())
    assert bool((nhsic_gradient(y[None], x[0]) == 0).all())


@pytest.mark.parametrize("d", [2, 3, 6, 17, 40])
def test_median_gradient_is_that_of_the_definition(d):
    def literal(x: torch.Tensor) -> torch.Tensor:
        first, second = torch.triu_indices(d, d, 1)
        distance = (x[:, first] - x[:, second]).abs().sort(dim=1).values
        return (distance[:, (distance.shape[1] - 1) // 2] + distance[:, distance.shape[1] // 2]) / 2

    x = vectors(20, d, seed=d).requires_grad_(True)
    expected = torch.autograd.grad(literal(x).sum(), x)[0]
    torch.testing.assert_close(median_gradient(x), expected, rtol=0, atol=0)


def test_median_gradient_where_distances_tie():
    # 1 1 1 2 2 3: of the pairs at 1 and of those at 2 one each, so that Euler's rule holds all the same
    x = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    gradient = median_gradient(x)
    assert float(gradient @ x) == 1.5
    assert float(gradient.sum()) == 0


def test_no_matrix_of_all_pairs_of_coordinates():
    d = 1200
    steps, answer = correlated(1, d, seed=1, massive=2), correlated(1, d, seed=2, massive=2)[0]
    with Meter(steps, answer) as meter:
        nhsic_gradient(steps, answer)
    assert meter.peak < 8 * d * 800  # 1,200 would be a matrix of d x d


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"sigma": 0.0}, "sigma > 0"), ({"drop_top": 11}, "drop_top from 0"), ({"eps": 1e-13}, "eps >= 1e-12")],
)
def test_bad_options_are_refused(options, expected):
    steps = vectors(3, 12, seed=0)
    with pytest.raises(InputError, match=expected):
        nhsic_gradient(steps, steps[0], **options)


def test_bad_steps_are_refused():
    steps = vectors(3, 12, seed=0)
    with pytest.raises(InputError, match=r"nhsic_gradient: expected steps and answer of one d_model"):
        nhsic_gradient(steps, steps[0, :-1])
    steps[1, 3] = torch.nan
    with pytest.raises(InputError, match="finite steps"):
        nhsic_gradient(steps, steps[0])
    tied = torch.zeros(1, 12)
    tied[0, 0] = 1.0
    with pytest.raises(InputError, match="positive median distance"):
        nhsic_gradient(tied, vectors(12, seed=1), sigma="median")

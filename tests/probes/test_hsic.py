"""nHSIC against its literal definition, closed forms, high precision, recorded activations and its own symmetries."""

import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from vectors import correlated as vectors

from probes import InputError, nhsic, nhsic_dense

GOLDEN = load_file(Path(__file__).parent / "data" / "nhsic_smollm2.safetensors")
SCALES = [1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3]


def assert_accurate(score: torch.Tensor, exact: torch.Tensor) -> None:
    """Absolute 1e-6, and relative 1e-5 wherever the score is not minute."""
    assert torch.isfinite(score).all()
    assert float((score - exact).abs().max()) <= 1e-6
    counts = exact > 1e-10
    assert float(((score - exact).abs() / exact)[counts].max() if counts.any() else 0.0) <= 1e-5


def naive(x: np.ndarray, y: np.ndarray, sigma: float, eps: float) -> float:
    """Section by section from the formula, entry by entry, with an explicit inverse."""
    d = len(x)
    operators = []
    for v in (x, y):
        kernel, centring = np.zeros((d, d)), np.zeros((d, d))
        for i in range(d):
            for j in range(d):
                kernel[i, j] = math.exp(-((v[i] - v[j]) ** 2) / (2 * sigma**2))
                centring[i, j] = (1.0 if i == j else 0.0) - 1.0 / d
        centred = kernel @ centring
        operators.append(centred @ np.linalg.inv(centred + eps * d * np.eye(d)))
    return sum(operators[0][i, j] * operators[1][j, i] for i in range(d) for j in range(d))


def precise(x: list[float], y: list[float], sigma: float = 50.0, eps: float = 1e-5) -> float:
    """The formula in 60 digits."""
    with mpmath.workdps(60):
        d = len(x)
        operators = []
        for v in (x, y):
            kernel = mpmath.matrix(d, d)
            for i in range(d):
                for j in range(d):
                    kernel[i, j] = mpmath.exp(-((mpmath.mpf(v[i]) - v[j]) ** 2) / (2 * mpmath.mpf(sigma) ** 2))
            centred = kernel * (mpmath.eye(d) - mpmath.ones(d) / d)
            operators.append(centred * (centred + mpmath.mpf(eps) * d * mpmath.eye(d)) ** -1)
        product = operators[0] * operators[1]
        return float(sum(product[i, i] for i in range(d)))


@pytest.mark.parametrize(("d", "sigma", "eps"), [(2, 50.0, 1e-5), (5, 1.0, 1e-2), (7, 20.0, 1e-3)])
def test_dense_is_the_formula_entry_by_entry(d, sigma, eps):
    x, y = vectors(2, d, seed=d)
    expected = naive(x.numpy(), y.numpy(), sigma, eps)
    assert float(nhsic_dense(x[None], y, sigma=sigma, eps=eps)[0]) == pytest.approx(expected, rel=1e-9)
    assert float(nhsic(x[None], y, sigma=sigma, eps=eps)[0]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("estimate", [nhsic, nhsic_dense])
def test_two_coordinates_by_hand(estimate):
    # H K H has one eigenvalue, 1 - k(x_1, x_2); so each R has one, l / (l + 2 eps), for the same vector.
    x, y, sigma, eps = (3.0, 40.0), (-5.0, 2.0), 50.0, 1e-5

    def eigenvalue(pair):
        return -math.expm1(-((pair[0] - pair[1]) ** 2) / (2 * sigma**2))

    expected = math.prod(eigenvalue(v) / (eigenvalue(v) + 2 * eps) for v in (x, y))
    assert float(estimate(torch.tensor([x]), torch.tensor(y))[0]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("estimate", [nhsic, nhsic_dense])
def test_score_with_itself_is_the_sum_of_squared_shrunk_eigenvalues(estimate):
    x = vectors(1, 11, seed=3)[0]
    kernel = np.exp(-(np.subtract.outer(x.numpy(), x.numpy()) ** 2) / (2 * 50.0**2))
    centring = np.eye(11) - 1 / 11
    eigenvalues = np.linalg.eigvalsh(centring @ kernel @ centring)
    expected = float(((eigenvalues / (eigenvalues + 11 * 1e-5)) ** 2).sum())
    assert float(estimate(x[None], x)[0]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("estimate", [nhsic, nhsic_dense])
@pytest.mark.parametrize(("scale_x", "scale_y"), [(1e-3, 1e-3), (1e-3, 30.0), (0.1, 1e3), (10.0, 10.0)])
def test_small_scales_against_sixty_digits(estimate, scale_x, scale_y):
    x, y = vectors(2, 5, seed=1) / 10
    x, y = x * scale_x, y * scale_y
    expected = precise(x.tolist(), y.tolist())
    assert float(estimate(x[None], y)[0]) == pytest.approx(expected, rel=1e-8, abs=0)


@pytest.mark.parametrize(
    ("d", "dtype", "massive"),  # both with and without massive coordinates at each width and in each dtype
    [
        (d, dtype, 2 * ((i + j) % 2))
        for i, d in enumerate([2, 3, 17, 120])
        for j, dtype in enumerate([torch.float64, torch.float32, torch.bfloat16, torch.float16])
    ],
)
def test_equals_dense_over_scales(d, massive, dtype):
    # float16 ends at 65504, so nothing here is out of its range
    for i, scale in enumerate(SCALES):
        steps = vectors(2, d, seed=i, scale=scale, massive=massive).to(dtype)
        answer = vectors(2, d, seed=i, scale=SCALES[-1 - i], massive=massive)[1].to(dtype)
        for pair in ((steps, answer), (steps, steps[0])):
            assert_accurate(nhsic(*pair), nhsic_dense(*pair))


coordinate = st.one_of(
    st.floats(-1.0, 1.0),
    st.floats(-1e3, 1e3),
    st.sampled_from([0.0, 1e-3, 5e-4, -0.5, 0.5, 10.0, 600.0, 601.0, 3000.0]),
)


@settings(derandomize=True, max_examples=120, deadline=None)
@given(st.lists(st.tuples(coordinate, coordinate), min_size=2, max_size=12), st.sampled_from([1e-3, 1.0, 30.0]))
def test_equals_dense_for_any_coordinates(pairs, scale):
    x, y = torch.tensor(pairs, dtype=torch.float64).T
    steps = torch.stack([x, x * scale])
    assert_accurate(nhsic(steps, y), nhsic_dense(steps, y))


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    d=st.integers(2, 150),
    scales=st.tuples(st.sampled_from(SCALES), st.sampled_from(SCALES)),
    massive=st.integers(0, 4),
    sigma=st.sampled_from([1.0, 50.0, 400.0]),
    eps=st.sampled_from([1e-5, 1e-2]),
    seed=st.integers(0, 9),
)
def test_equals_dense_for_any_setting(d, scales, massive, sigma, eps, seed):
    x = vectors(3, d, seed=seed, scale=scales[0], massive=min(massive, d))
    answer = vectors(1, d, seed=seed, scale=scales[1], massive=min(massive, d))[0]
    options = {"sigma": sigma, "eps": eps}
    assert_accurate(nhsic(x, answer, **options), nhsic_dense(x, answer, **options))


@pytest.mark.parametrize(("d", "scale"), [(576, 1e3), (1024, 12.0), (1536, 12.0)])
def test_equals_dense_at_model_widths(d, scale):
    x = vectors(2, d, seed=0, scale=scale, massive=3).float()
    assert_accurate(nhsic(x[:1], x[1]), nhsic_dense(x[:1], x[1]))


@pytest.mark.parametrize("layer", ["layer5", "layer25", "layer30"])
def test_recorded_activations(layer):
    score = nhsic(GOLDEN[f"{layer}.steps"], GOLDEN[f"{layer}.answer"])
    torch.testing.assert_close(score, GOLDEN[f"{layer}.nhsic"], atol=1e-6, rtol=1e-6)


def test_authors_offset_and_scale_are_not_normalised_away():
    # The kernel is blind to an offset and, sigma being fixed, not to scale.
    x = vectors(2, 40, seed=5)
    torch.testing.assert_close(nhsic(x + 1000, x[0] - 7), nhsic(x, x[0]), rtol=1e-9, atol=0)
    assert float((nhsic(x / 10, x[0]) - nhsic(x, x[0])).abs().min()) > 1e-3


@pytest.mark.parametrize("estimate", [nhsic, nhsic_dense])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_constant_vector_scores_exactly_zero(estimate, dtype):
    x = vectors(3, 6, seed=0).to(dtype)
    x[1] = 123.25
    score = estimate(x, x[0])
    assert score[1] == 0
    assert (score[[0, 2]] > 0).all()
    assert (estimate(x, torch.full((6,), -3.0)) == 0).all()
    assert (estimate(x[1:2], x[1]) == 0).all()


@pytest.mark.parametrize("d", [2, 13, 200])
def test_symmetric_and_blind_to_the_order_of_coordinates(d):
    x, y = vectors(2, d, seed=8, massive=1)
    order = torch.randperm(d, generator=torch.Generator().manual_seed(0))
    score = nhsic(x[None], y)
    torch.testing.assert_close(nhsic(y[None], x), score, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(nhsic(x[None, order], y[order]), score, rtol=1e-9, atol=1e-9)
    # Permuting one side alone is another matter, or this test could not fail.
    if d > 2:
        assert abs(float(nhsic(x[None, order], y) - score)) > 1e-3


@pytest.mark.parametrize(
    ("steps_lead", "answer_lead", "lead"),
    [
        ((), (), ()),
        ((3,), (3,), (3,)),
        ((2, 3), (3,), (2, 3)),
        ((), (4,), (4,)),
        ((2, 1), (3,), (2, 3)),
        ((3,), (), (3,)),
    ],
)
@pytest.mark.parametrize("drop_top", [0, 2])
def test_leading_axes_broadcast(steps_lead, answer_lead, lead, drop_top):
    steps = vectors(math.prod(steps_lead) * 5, 19, seed=1).reshape(*steps_lead, 5, 19)
    answer = vectors(math.prod(answer_lead), 19, seed=2).reshape(*answer_lead, 19)
    score = nhsic(steps, answer, drop_top=drop_top)
    assert score.shape == (*lead, 5)
    assert score.dtype == torch.float64
    torch.testing.assert_close(score, nhsic_dense(steps, answer, drop_top=drop_top), rtol=1e-8, atol=1e-9)
    wide_steps, wide_answer = steps.expand(*lead, 5, 19), answer.expand(*lead, 19)
    for cell in np.ndindex(*lead):
        one = nhsic(wide_steps[cell], wide_answer[cell], drop_top=drop_top)
        torch.testing.assert_close(score[cell], one, rtol=1e-9, atol=1e-9)


def test_memory_budget_changes_nothing_but_the_chunks():
    # Ranks from 0 to nearly 100, so that rows leave early and others start again with more room.
    scales = torch.tensor([0.0, 1e-3, 1.0, 20.0, 300.0, 3000.0] * 2, dtype=torch.float64)
    steps = vectors(12, 100, seed=4, scale=1.0) * scales[:, None]
    answers = vectors(4, 100, seed=4)
    expected = nhsic(steps, answers)
    assert expected.shape == (4, 12)
    for max_bytes in (1, 200_000, 2_000_000):
        torch.testing.assert_close(nhsic(steps, answers, max_bytes=max_bytes), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(expected[2], nhsic_dense(steps, answers[2]), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("estimate", [nhsic, nhsic_dense])
def test_drop_top_leaves_out_the_answers_largest_coordinates(estimate):
    steps, answer = vectors(4, 12, seed=9), vectors(1, 12, seed=10)[0]
    answer[3], answer[7] = -700.0, 600.0
    keep = [i for i in range(12) if i not in (3, 7)]
    torch.testing.assert_close(estimate(steps, answer, drop_top=2), estimate(steps[:, keep], answer[keep]))
    assert float((estimate(steps, answer) - estimate(steps, answer, drop_top=2)).abs().max()) > 1e-3
    # Ties: the earlier coordinate goes.
    tied = torch.tensor([1.0, -5.0, 5.0, 2.0])
    torch.testing.assert_close(estimate(steps[:, :4], tied, drop_top=1), estimate(steps[:, [0, 2, 3]], tied[[0, 2, 3]]))


def test_gradients_are_not_tracked():
    x = vectors(3, 8, seed=0).requires_grad_()
    assert not nhsic(x, x[0]).requires_grad
    assert nhsic_dense(x, x[0]).requires_grad  # the formula itself can be differentiated


@pytest.mark.parametrize("estimate", [nhsic, nhsic_dense])
def test_not_finite_is_refused_with_its_place(estimate):
    steps, answer = vectors(10, 6, seed=0).reshape(2, 5, 6), vectors(1, 6, seed=1)[0]
    steps[1, 3, 2] = steps[1, 4, 0] = math.nan
    steps[1, 4, 5] = -math.inf
    with pytest.raises(InputError) as error:
        estimate(steps, answer)
    text = str(error.value)
    assert "expected finite steps, received 2 NaN and 1 inf in 2 of 10 vectors" in text
    assert "first at axis 0 1, step 3, d_model 2" in text
    answer[4] = math.inf
    with pytest.raises(
        InputError, match=r"finite answer, received 0 NaN and 1 inf in 1 of 1 vectors, first at d_model 4"
    ):
        estimate(steps[0], answer)


@pytest.mark.parametrize("estimate", [nhsic, nhsic_dense])
@pytest.mark.parametrize(
    ("steps", "answer", "options", "text"),
    [
        (torch.ones(3, 4), torch.ones(5), {}, r"answer has 5, received steps of shape \(3, 4\)"),
        (
            torch.ones(2, 3, 4),
            torch.ones(3, 4),
            {},
            r"broadcast with the answer's \(3,\), received steps with leading axes \(2,\)",
        ),
        (torch.ones(0, 4), torch.ones(4), {}, r"not empty, with d_model >= 2, received shape \(0, 4\)"),
        (torch.ones(3, 1), torch.ones(1), {}, r"d_model >= 2, received shape \(1,\)"),
        (torch.ones(4), torch.ones(4), {}, r"\[\*lead, step, d_model\].*received shape \(4,\)"),
        (torch.ones(3, 4).long(), torch.ones(4), {}, r"float64 tensor, received torch.int64"),
        (torch.ones(3, 4), torch.ones(4), {"sigma": 0.0}, r"sigma > 0 and finite, received 0.0"),
        (torch.ones(3, 4), torch.ones(4), {"sigma": math.nan}, r"sigma > 0 and finite, received nan"),
        (torch.ones(3, 4), torch.ones(4), {"eps": -1e-5}, r"eps > 0 and finite, received -1e-05"),
        (torch.ones(3, 4), torch.ones(4), {"drop_top": 3}, r"drop_top from 0 to 2, leaving at least 2 of 4"),
        (torch.ones(3, 4), torch.ones(4), {"drop_top": -1}, r"drop_top from 0 to 2"),
        (
            torch.tensor([[1e200, 0.0]], dtype=torch.float64),
            torch.ones(2),
            {},
            r"steps below 1e150 \* sigma, received 1e\+200",
        ),
    ],
)
def test_bad_input_is_refused(estimate, steps, answer, options, text):
    with pytest.raises(InputError, match=text):
        estimate(steps, answer, **options)


@pytest.mark.parametrize("option", ["tol", "max_bytes"])
def test_options_of_the_fast_route(option):
    with pytest.raises(InputError, match=f"{option} > 0 and finite, received 0"):
        nhsic(torch.ones(3, 4), torch.ones(4), **{option: 0})

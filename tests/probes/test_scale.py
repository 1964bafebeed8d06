"""Median distances against all pairs written out; "median" against the dense formula and its invariances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import literal, vectors

from probes import InputError, nhsic, nhsic_dense
from probes.pair_medians import _by_brackets, _by_window, pair_medians
from probes.scale import median_distance, median_multiple, sigma_of

coordinate = st.one_of(
    st.floats(-1e6, 1e6), st.integers(-3, 3).map(float), st.sampled_from([0.0, 1e-300, 1e-9, 1e9, 1.0, 1.0 + 2**-52])
)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(coordinate, min_size=2, max_size=40))
def test_median_distance_is_the_median_over_all_pairs(values):
    x = torch.tensor(values, dtype=torch.float64)
    for found in (median_distance(x), _by_brackets(x[None].sort(dim=-1).values)):
        assert float(found) == pytest.approx(literal(x), rel=1e-14, abs=0)


@pytest.mark.parametrize("d", [2, 3, 4, 5, 47, 48, 49, 97, 300, 1031])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_median_distance_at_widths_and_with_ties(road, d, dtype):
    x = torch.stack([vectors(d, seed=d), vectors(d, seed=1, scale=1e-3), vectors(d, seed=2).round()]).to(dtype)
    assert median_distance(x).tolist() == pytest.approx([literal(v) for v in x], rel=1e-14, abs=0)


def test_median_distance_of_an_even_number_of_pairs_is_the_mean_of_the_middle_two(road):
    # Of 0, 1, 3, 7: distances 1, 2, 3, 4, 6, 7. Of 0, 1, 3: distances 1, 2, 3.
    assert float(median_distance(torch.tensor([7.0, 0.0, 3.0, 1.0]))) == 3.5
    assert float(median_distance(torch.tensor([3.0, 0.0, 1.0]))) == 2.0
    assert float(median_distance(torch.tensor([-2.0, 5.0]))) == 7.0


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e8])
def test_median_distance_keeps_its_digits_beside_offsets_and_huge_coordinates(road, offset):
    fine = torch.arange(20, dtype=torch.float64) * 2.0**-20 + offset
    x = torch.cat([fine, torch.tensor([1e15, -3e15], dtype=torch.float64)])
    assert float(median_distance(fine)) == literal(fine)
    assert float(median_distance(x)) == literal(x)


def test_median_distance_counts_exactly_where_sums_round(road):
    # Beside 1e15 coordinates lie on a grid of 1/8, to which sums are rounded up or down past a neighbour's distance.
    for seed in range(40):
        fine = torch.rand(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        x = torch.cat([fine, 1e15 + fine])
        for part in (x, x[3:], x[:14]):
            near = torch.cat([part, 1e15 + fine[:5] / 2])
            for v in (part, near):
                assert float(median_distance(v)) == pytest.approx(literal(v), rel=3e-16, abs=0)


def test_median_distance_shapes_memory_and_range(road):
    x = vectors(3, 4, 50, seed=0)
    whole = median_distance(x)
    assert whole.shape == (3, 4)
    assert whole.dtype == torch.float64
    assert torch.equal(whole, median_distance(x, max_bytes=1))
    assert float(median_distance(torch.full((9,), 3.25))) == 0.0
    assert float(median_distance(torch.tensor([0.0, 5e-324, 1e149], dtype=torch.float64))) == 1e149


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.ones(3, 1), r"not empty, with d_model >= 2, received shape \(3, 1\)"),
        (torch.tensor([[0.0, 1.0], [math.nan, 1.0]]), "finite x, received 1 NaN and 0 inf in 1 of 2 vectors"),
    ],
)
def test_median_distance_refuses(x, text):
    with pytest.raises(InputError, match=text):
        median_distance(x)


def test_median_bandwidth_takes_the_offset_out_before_it_divides():
    x, y = torch.randint(-99, 99, (2, 30), generator=torch.Generator().manual_seed(0)).double()
    score = nhsic(x[None], y, sigma="median")
    fine = nhsic(x[None] * 2.0**-40 + 1000.0, y, sigma="median")  # exact in float64
    torch.testing.assert_close(fine, score, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("sigma", "drop_top", "scale"),  # each with each of the others once
    [
        ("median", 0, 1e-3), ("median", 3, 1.0), ("median", 0, 300.0),
        ("0.5*median", 3, 1e-3), ("0.5*median", 0, 1.0), ("0.5*median", 3, 300.0),
        ("2*median", 0, 1e-3), ("2*median", 3, 1.0), ("2*median", 0, 300.0), (" 1.5 * median ", 3, 300.0),
    ],
)  # fmt: skip
def test_median_bandwidth_equals_the_dense_formula(sigma, drop_top, scale):
    steps, answers = vectors(2, 5, 37, seed=1, scale=scale), vectors(3, 1, 37, seed=2, scale=scale)
    options = {"sigma": sigma, "drop_top": drop_top}
    expected = nhsic_dense(steps, answers, **options)
    assert expected.shape == (3, 2, 5)
    torch.testing.assert_close(nhsic(steps, answers, **options), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(nhsic(steps, answers, max_bytes=1, **options), expected, rtol=1e-6, atol=1e-7)


def test_median_bandwidth_is_each_vectors_own():
    x, y = vectors(2, 41, seed=3)
    own = nhsic((x / literal(x))[None], y / literal(y), sigma=1.0)
    torch.testing.assert_close(nhsic(x[None], y, sigma="median"), own, rtol=1e-9, atol=1e-12)
    double = nhsic((x / literal(x))[None], y / literal(y), sigma=2.0)
    torch.testing.assert_close(nhsic(x[None], y, sigma="2*median"), double, rtol=1e-9, atol=1e-12)
    assert abs(float(own - double)) > 1e-3  # or the multiple would go unnoticed
    # The mean of two answers' scores would not do: bandwidths are not shared within a batch.
    both = nhsic(torch.stack([x, 7 * y]), y, sigma="median")
    torch.testing.assert_close(both[:1], own, rtol=1e-12, atol=0)


def test_median_bandwidth_is_of_the_coordinates_kept():
    steps, answer = vectors(4, 12, seed=9), vectors(12, seed=10)
    answer[3], answer[7] = -7e4, 6e4
    keep = [i for i in range(12) if i not in (3, 7)]
    kept = nhsic(steps[:, keep], answer[keep], sigma="median")
    torch.testing.assert_close(nhsic(steps, answer, sigma="median", drop_top=2), kept, rtol=1e-12, atol=0)


@settings(derandomize=True, max_examples=20, deadline=None)
@given(
    d=st.integers(3, 60),
    seed=st.integers(0, 99),
    scales=st.tuples(*[st.floats(1e-4, 1e4) for _ in range(2)]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0]) for _ in range(2)]),
    shifts=st.tuples(*[st.floats(-1e3, 1e3) for _ in range(2)]),
)
def test_median_bandwidth_is_blind_to_scale_offset_and_joint_order(d, seed, scales, signs, shifts):
    x, y = vectors(2, d, seed=seed)
    order = torch.randperm(d, generator=torch.Generator().manual_seed(seed))
    score = nhsic(x[None], y, sigma="median")
    # An offset beside a small scale leaves fewer digits to the differences.
    tolerance = 1e-6
    moved = [s * sign * v + shift for v, s, sign, shift in zip((x, y), scales, signs, shifts, strict=True)]
    torch.testing.assert_close(nhsic(moved[0][None], moved[1], sigma="median"), score, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(nhsic(x[None, order], y[order], sigma="median"), score, rtol=1e-7, atol=1e-7)


def test_a_fixed_bandwidth_is_not_blind_to_scale():
    x, y = vectors(2, 40, seed=0)
    assert abs(float(nhsic(x[None] / 10, y) - nhsic(x[None], y))) > 1e-3


@pytest.mark.parametrize("estimate", [nhsic, nhsic_dense])
def test_constant_vectors_score_zero_under_the_median(estimate):
    x = vectors(3, 6, seed=0)
    x[1] = 123.25
    score = estimate(x, x[0], sigma="median")
    assert score[1] == 0
    assert (score[[0, 2]] > 0).all()
    assert (estimate(x, torch.full((6,), -3.0), sigma="median") == 0).all()


def test_vectors_without_a_median_distance_are_refused_with_their_place():
    steps = vectors(2, 3, 8, seed=0)
    steps[1, 2] = torch.tensor([0.0] * 7 + [5.0])
    with pytest.raises(InputError, match=r"steps with a positive median .* a vector \(index \[1, 2\]\) at least half"):
        nhsic(steps, steps[0, 0], sigma="median")
    with pytest.raises(InputError, match=r"answer with a positive median .* \(the only vector\)"):
        nhsic(steps[0], steps[1, 2], sigma="median")
    with pytest.raises(InputError, match="steps with a positive median"):
        nhsic_dense(steps, steps[0, 0], sigma="median")
    assert float(nhsic(steps, steps[0, 0])[1, 2]) > 0  # a number is the remedy it names


@pytest.mark.parametrize("sigma", ["mean", "0*median", "-1*median", "nan*median", "median*2", "", "1e999*median"])
@pytest.mark.parametrize("estimate", [nhsic, nhsic_dense])
def test_bad_bandwidths_are_refused_with_what_is_allowed(estimate, sigma):
    with pytest.raises(InputError) as error:
        estimate(torch.ones(3, 4), torch.ones(4), sigma=sigma)
    assert 'sigma > 0 and finite, or "median", or a positive multiple of it such as "0.5*median"' in str(error.value)
    assert f"received {sigma!r}" in str(error.value)


@pytest.mark.parametrize(("text", "sigma"), [("100", 100.0), (" 1e2 ", 100.0), ("median", "median")])
def test_a_bandwidth_as_text(text, sigma):
    assert sigma_of("trace", text) == sigma
    assert type(sigma_of("trace", text)) is type(sigma)


@pytest.mark.parametrize(("text", "multiple"), [("median", 1.0), (".5*median", 0.5), ("2. * median", 2.0)])
def test_multiples_of_the_median(text, multiple):
    assert median_multiple("trace", sigma_of("trace", f" {text} ")) == multiple


@pytest.mark.parametrize("text", ["mean", "-1", "0", "nan", "inf", "0*median", ""])
def test_text_that_is_no_bandwidth_is_refused(text):
    with pytest.raises(InputError, match="trace: expected sigma > 0 and finite"):
        sigma_of("trace", text)


@pytest.mark.parametrize("d", [64, 65, 130, 301])
def test_the_middle_pairs_are_found_among_a_few(road, d):
    """Bit for bit the median over all pairs, whether the window has it or the bracket must be shrunk."""
    generator = torch.Generator().manual_seed(d)
    plain = torch.randn(4, d, generator=generator).double()
    heavy = plain * torch.randn(4, d, generator=generator).exp()
    apart = plain + 50.0 * (torch.rand(4, d, generator=generator) > 0.5)
    ties = torch.randint(0, 9, (4, d), generator=generator).double()
    kinds = [plain, heavy, heavy.bfloat16().double(), heavy + 1e6, heavy * 1e-9, apart, ties, torch.ones(1, d).double()]
    for x in kinds:
        found = pair_medians(x)
        assert found.tolist() == pytest.approx([literal(row) for row in x], rel=1e-15, abs=0)
        ordered = x.sort(dim=-1).values
        by_window, by_brackets = _by_window(ordered), _by_brackets(ordered)
        here = by_window.isfinite()
        assert torch.equal(by_window[here], by_brackets[here])
    assert bool(_by_window(plain.sort(dim=-1).values).isfinite().all()), "most vectors need no bracket"

"""Fixed features stand for the kernel within their bound; vectors they do not suit go by pivots."""

from __future__ import annotations

import dataclasses
import itertools

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import correlated

from probes import compiled_steps, kernel_cka, nhsic, nhsic_dense, null_scores
from probes import expansion as expansion_module
from probes.expansion import FEATURES, Expansion, Room, expand, needed, table_of
from probes.feature_basis import COUNTS, Basis, basis, remainders
from probes.kernel import Kernel
from probes.leading_axes import leading_axes
from probes.lowrank import blocks

CPU = torch.device("cpu")


def expanded(x: torch.Tensor, sigma: float = 50.0) -> Expansion:
    found, fits = expand(x.double(), Kernel(sigma), FEATURES[-1], Room())
    assert found is not None
    assert fits is None
    return found


def centred_kernels(x: torch.Tensor, sigma: float = 50.0) -> torch.Tensor:
    x = x.double()
    kernel = torch.expm1(-(x[:, :, None] - x[:, None]).square() / (2 * sigma**2))
    kernel = kernel - kernel.mean(dim=1, keepdim=True)
    return kernel - kernel.mean(dim=2, keepdim=True)


@settings(derandomize=True, max_examples=25, deadline=None)
@given(
    d=st.sampled_from([16, 17, 40, 130, 300]),
    scale=st.sampled_from([1e-6, 1e-2, 0.3, 3.0, 12.0, 40.0]),
    massive=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_expansions_rebuild_the_centred_kernel(d, scale, massive, seed):
    x = correlated(3, d, seed=seed, scale=scale, massive=massive if d >= 32 else 0)
    exact = centred_kernels(x)
    p = expanded(x).factor()
    trace = exact.diagonal(dim1=1, dim2=2).sum(dim=-1)
    # What may be left out, and rounding; relative to the trace, so that minute kernels count too.
    allowed = 1e-10 * torch.minimum(trace, torch.full_like(trace, 1e-5 * d)) + 1e-13 * trace
    assert bool(((p.mT @ p - exact).abs().amax(dim=(1, 2)) <= allowed).all())
    # The Gram matrix of power sums is that of the factor, whichever rows it has: their traces are alike.
    traces = expanded(x).measured(mixed=True).gram.diagonal(dim1=1, dim2=2).sum(dim=-1)
    torch.testing.assert_close(traces, trace, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("sigma", [50.0, "median", 8.0])
def test_scores_are_those_of_the_dense_formula(road, dtype, scale, sigma):
    steps = correlated(3, 200, seed=3, scale=scale, massive=3).to(dtype)
    answer = correlated(1, 200, seed=4, scale=10.0, massive=3)[0].to(dtype)
    exact = nhsic_dense(steps, answer, sigma=sigma)
    torch.testing.assert_close(nhsic(steps, answer, sigma=sigma), exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("count", [5, 16, 24, 40])
def test_the_basis_is_a_part_of_the_kernels_space(count):
    """K' in 110 digits, from inner products of the functions themselves: below K by no more than the table says."""
    found, left = basis(count, CPU), remainders()
    row, points = COUNTS.index(count), [0.2, 0.9, 1.7, 2.6]
    with mpmath.workdps(110):
        a = mpmath.mpf(found.weight)
        # <f, g> of f = exp(-a u^2 / 2) u^m and g, in coordinates phi_k of the kernel's space.
        terms = 140 if found.weight < 1 else count

        def coordinate(m: int, k: int) -> mpmath.mpf:
            if k < m or (k - m) % 2:
                return mpmath.mpf(0)
            half = (k - m) // 2
            return ((1 - a) / 2) ** half / mpmath.factorial(half) * mpmath.sqrt(mpmath.factorial(k))

        own = mpmath.matrix([[coordinate(m, k) for k in range(terms)] for m in range(count)])
        inverse = (own * own.T) ** -1
        for u in map(mpmath.mpf, points):
            values = mpmath.matrix([mpmath.exp(-a * u**2 / 2) * u**m for m in range(count)])
            rest = float(1 - (values.T * inverse * values)[0])
            place = int((left.reach >= float(u)).nonzero()[0])
            assert -1e-40 < rest <= float(left.within[row, place]) * 1.01 + 1e-30
            features = torch.tensor([float(values[int(m)]) for m in found.power], dtype=torch.float64)
            own = found.mix[:, :-1] @ features
            assert float(own @ own) == pytest.approx(1 - rest, abs=1e-14)


@pytest.mark.parametrize("d", [64, 4096])
@pytest.mark.parametrize("place", [3, 9, 15])
def test_no_more_than_the_budget_is_left_out(d, place):
    """Against the remainders themselves: coordinates at the edge of the table, the farthest apart anywhere beyond."""
    table = table_of(d, 1e-10, 1e-5, FEATURES[-1])
    worst = {0: 0.0, 3: 0.0}
    for fewer, (choice, apart) in itertools.product(worst, enumerate(table.apart)):
        found = basis(table.counts[place] - fewer, CPU)
        few, rest = table.reach[0, choice, :, place].tolist()
        some = max(table.apart[-1] - apart, 1)
        u = torch.cat([torch.linspace(-few, few, some), torch.linspace(-rest, rest, d - some)]).double()
        u = u.clamp(-few, few)
        inside = mixed(found, u)
        left = (1 - inside.square().sum(dim=0)).clamp(min=0).sum() - 1e-15 * d
        worst[fewer] = max(worst[fewer], float(left) / (3 / 8 * table.largest))
        for far in (few * 1.01, few + 1, 3.0, 4.5, 6.0, 9.0) if apart else ():
            v = torch.tensor([max(far, few)], dtype=torch.float64)
            across = torch.exp(-(u - v[:, None]).square() / 2) - mixed(found, v).T @ inside
            norm = 2 * apart * across.norm() - 2e-15 * apart * d**0.5
            worst[fewer] = max(worst[fewer], float(norm) / (3 / 8 * table.largest))
    assert worst[0] <= 1, "within the budget"
    assert worst[3] > 1, "with three features fewer it is not"


def mixed(found: Basis, u: torch.Tensor) -> torch.Tensor:
    return found.mix[:, :-1] @ (torch.exp(-found.weight / 2 * u.square()) * u ** found.power[:, None])


def test_too_few_features_are_seen(road, monkeypatch):
    """The bound is close: with half the features scores are off by more than it promises."""
    steps, answer = correlated(4, 300, seed=5, scale=15.0, massive=2), correlated(1, 300, seed=6, scale=15.0)[0]
    exact = nhsic_dense(steps, answer)
    assert float((nhsic(steps, answer) - exact).abs().max()) < 2e-10

    def half_of_table(*args):
        found = table_of(*args)
        fewer = tuple(max(3, count // 4 * 2) for count in found.counts)
        return dataclasses.replace(found, counts=fewer)

    def half_of_needed(*args):
        place, budget = needed(*args)
        halves = [sum(count <= COUNTS[n] // 2 for count in COUNTS[1:]) for n in range(len(COUNTS))]
        return np.array(halves)[place], budget

    if road == "torch":
        monkeypatch.setattr(expansion_module, "table_of", half_of_table)
    else:
        monkeypatch.setattr(compiled_steps, "needed", half_of_needed)
    assert float((nhsic(steps, answer) - exact).abs().max()) > 2e-10


def test_vectors_with_a_wide_bulk_go_by_pivots_and_each_comes_once(road):
    x = correlated(6, 120, seed=1, scale=1.0) * torch.tensor([1.0, 3000.0, 0.0, 10.0, 100.0, 500.0])[:, None]
    by_features, by_pivots = [], []
    for rows, found in blocks(x.__getitem__, x, Kernel(), torch.arange(6), max_bytes=2**28):
        (by_pivots if isinstance(found, torch.Tensor) else by_features).extend(rows.tolist())
    assert 1 in by_pivots
    assert {0, 2, 3} <= set(by_features)
    assert sorted(by_features + by_pivots) == list(range(6))
    torch.testing.assert_close(nhsic(x, x[3]), nhsic_dense(x, x[3]), rtol=0, atol=1e-9)
    for row in range(6):
        torch.testing.assert_close(nhsic(x[row : row + 1], x[3])[0], nhsic(x, x[3])[row], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sigma", [50.0, 8.0])
def test_massive_coordinates_that_coincide(road, sigma):
    x = correlated(4, 150, seed=2, scale=2.0)
    x[:, :9] = torch.tensor([700.0, 700.0, 700.0, 700.0 + 1e-9, -300.0, -300.0, 250.0, 250.0, 160.0])
    x[2, :9] = 300.0
    assert int(expanded(x, sigma).apart.shape[1]) > 0
    for score in (nhsic, lambda *a, **o: nhsic(a[0], a[1][None].expand(6, -1), **o)[3]):
        torch.testing.assert_close(score(x, x[1], sigma=sigma), nhsic_dense(x, x[1], sigma=sigma), rtol=0, atol=1e-9)


def test_a_wide_row_beside_a_minute_one(road):
    """The widest of a block may not be the one with the smallest budget: both get what they need."""
    x = torch.cat([correlated(2, 128, seed=7, scale=60.0), correlated(2, 128, seed=8, scale=1e-5)])
    torch.testing.assert_close(nhsic(x, x[0]), nhsic_dense(x, x[0]), rtol=0, atol=1e-10)
    alone = torch.cat([nhsic(row[None], x[2]) for row in x])
    torch.testing.assert_close(nhsic(x, x[2]), alone, rtol=1e-6, atol=1e-18)


def test_several_trajectories_each_with_its_own_answer_and_kernel_cka(road):
    steps, answers = correlated(15, 80, seed=3).reshape(3, 5, 80), correlated(3, 80, seed=4)
    torch.testing.assert_close(nhsic(steps, answers), nhsic_dense(steps, answers), rtol=0, atol=1e-10)
    kernel, other = centred_kernels(steps.reshape(15, 80)).reshape(3, 5, 80, 80), centred_kernels(answers)
    expected = (kernel * other[:, None]).sum(dim=(2, 3))
    expected /= kernel.square().sum(dim=(2, 3)).sqrt() * other.square().sum(dim=(1, 2)).sqrt()[:, None]
    torch.testing.assert_close(kernel_cka(steps, answers), expected, rtol=1e-9, atol=1e-10)


def test_a_constant_vector_has_no_factor():
    x = torch.full((2, 40), 3.25)
    assert not expanded(x).measured().gram.any()
    assert not expanded(x).factor().any()


@pytest.mark.parametrize("sigma", [50.0, "median"])
def test_steps_with_many_answers_are_scored_by_features_too(road, sigma):
    """Steps of unlike ranks, each with answers of unlike ranks: those that fill up change nothing."""
    scale = torch.tensor([1.0, 30.0, 1e-3, 12.0, 0.0, 400.0])[:, None]
    steps, answers = correlated(6, 260, seed=9, massive=3) * scale / 10, correlated(5, 260, seed=10, massive=2)
    answers = answers * torch.tensor([1e-2, 1.0, 3.0, 0.1, 2.0])[:, None]
    with_all = null_scores(steps[None], answers[None], sigma=sigma)[0]
    exact = torch.stack([nhsic_dense(steps, answer, sigma=sigma) for answer in answers])
    torch.testing.assert_close(with_all, exact, rtol=0, atol=4e-10)


def test_leading_axes_leave_out_what_they_may_and_are_as_few_as_eigenvectors():
    x = torch.cat([correlated(3, 400, seed=11, scale=15.0, massive=3), correlated(3, 400, seed=12, scale=1.0)])
    found = expanded(x).measured(mixed=True)
    values = torch.linalg.eigvalsh(found.gram)
    spare = 1e-12 * values.sum(dim=-1)
    axes, small, ranks = leading_axes(found.gram, spare)
    fewest = (values.cumsum(dim=-1) > spare[:, None]).sum(dim=-1)
    assert bool((ranks >= fewest).all() & (ranks <= fewest + 1).all())
    assert int(ranks.max()) == axes.shape[2]
    assert len(set(ranks.tolist())) > 1
    eye = torch.eye(axes.shape[2], dtype=torch.float64).expand_as(small)
    torch.testing.assert_close(axes.mT @ axes, eye, rtol=0, atol=1e-13)
    for gram, own, rank, may in zip(found.gram, axes, ranks.tolist(), spare, strict=True):
        own = own[:, :rank]
        assert float(gram.trace() - (own.T @ gram @ own).trace()) <= float(may) * 1.01
    # Eigenvalues that do not fall need all axes.
    assert leading_axes(torch.eye(9, dtype=torch.float64)[None], torch.tensor([1e-9]).double())[2].tolist() == [9]

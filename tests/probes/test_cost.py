"""What the scores hold in memory and how much they compute, operation by operation; and what must not matter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import mpmath
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from probes import (
    InputError,
    bandwidth_sweep,
    cka,
    cosine,
    kernel_cka,
    linear_cka,
    median_distance,
    nhsic,
    nhsic_dense,
    null_scores,
    null_test,
    peak_statistics,
    pearson_r2,
    random_answers,
    sample_hsic,
    settling_depth,
    tukey_peaks,
    v_information,
)
from probes.answers import factor_answers


class Meter(TorchDispatchMode):
    """The most bytes that tensors made under it held at once, and how many elements and operations there were."""

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.held = self.peak = self.elements = self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        for tensor in (out,) if isinstance(out, torch.Tensor) else tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.elements += tensor.numel()
                if storage._cdata not in self.known:
                    _, before = self.live.get(storage._cdata, (None, 0))
                    self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                    self.held += storage.nbytes() - before
        if self.held > self.peak:  # those that are gone are left out only where they could matter: that is what is slow
            self.live = {key: entry for key, entry in self.live.items() if not entry[0].expired()}
            self.held = sum(size for _, size in self.live.values())
            self.peak = max(self.peak, self.held)
        return out


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) * 20).to(dtype)


WIDE = draw(4, 600, 64, dtype=torch.float16)
STEPS, ANSWER = draw(4, 20, 64, dtype=torch.float16), draw(4, 64, seed=1, dtype=torch.float16)
MANY, FEW = draw(300, 32, seed=2), draw(3, 32, seed=3)
LABELS = torch.arange(60) % 3
WEIGHT = draw(32, 900, seed=4).double() / 100

Scored = Callable[..., Any]
SCORED: dict[str, tuple[Scored, tuple[torch.Tensor, ...]]] = {
    "nhsic": (nhsic, (STEPS, ANSWER)),
    "nhsic with the median": (lambda *a, **o: nhsic(*a, sigma="median", **o), (STEPS, ANSWER)),
    "nhsic without massive coordinates": (lambda *a, **o: nhsic(*a, drop_top=2, **o), (STEPS, ANSWER)),
    "nhsic of many answers": (nhsic, (FEW, MANY)),
    "nhsic of a narrow kernel": (lambda *a, **o: nhsic(*a, sigma=0.5, **o), (FEW, MANY[:40])),
    "nhsic of one-step trajectories": (nhsic, (MANY[:60, None], MANY[:60])),
    "null_scores": (null_scores, (draw(2, 5, 32, seed=5), draw(2, 120, 32, seed=6))),
    "bandwidth_sweep": (lambda *a, **o: bandwidth_sweep(*a, sigmas=(50, "median"), **o).mi, (STEPS[:2], ANSWER[:2])),
    "median_distance": (median_distance, (WIDE[:, :100],)),
    "pearson_r2": (pearson_r2, (WIDE, ANSWER)),
    "cosine": (cosine, (WIDE, ANSWER)),
    "cosine without massive coordinates": (lambda *a, **o: cosine(*a, drop_top=2, **o), (WIDE, ANSWER)),
    "linear_cka, strided": (linear_cka, (WIDE.transpose(0, 1).contiguous().transpose(0, 1), ANSWER)),
    "kernel_cka": (kernel_cka, (STEPS, ANSWER)),
    "cka of every pair": (cka, (draw(12, 1, 14, 16, seed=7), draw(12, 14, 16, seed=8))),
    "gaussian cka": (lambda *a, **o: cka(*a, kernel="gaussian", **o), (draw(40, 14, 16), draw(14, 16, seed=8))),
    "v_information": (
        lambda x, **o: v_information(x, LABELS, draws=100, control=False, **o).bits,
        (draw(5, 60, 16, seed=9),),
    ),
    "sample_hsic": (lambda x, **o: sample_hsic(x, LABELS, permutations=99, **o).p, (draw(12, 60, 16, seed=9),)),
    "settling_depth": (
        lambda h, **o: settling_depth(h, lambda v, ids: v.double() @ WEIGHT[:, ids], 900, **o).divergence,
        (draw(6, 30, 32, seed=10) / 20,),
    ),
}
LIMIT = 2**19


@pytest.mark.parametrize("name", list(SCORED))
def test_memory_stays_within_max_bytes_and_results_the_same(name):
    score, inputs = SCORED[name]
    whole = score(*inputs)
    with Meter(*inputs, LABELS) as meter:
        part = score(*inputs, max_bytes=LIMIT)
    held = meter.peak - 2 * part.nbytes
    assert held < 1.5 * LIMIT, f"{held / LIMIT:.2f} of what was allowed"
    rough = name == "v_information"  # float32 inside, in products of another width
    torch.testing.assert_close(part, whole, rtol=0 if rough else 1e-9, atol=2e-3 if rough else 1e-11, equal_nan=True)


def test_the_meter_sees_a_copy():
    with Meter(STEPS) as meter:
        (STEPS.double() - 1).square_()
    assert meter.peak == 2 * 8 * STEPS.numel(), "the copy and the difference"
    with Meter(STEPS) as meter:
        for row in STEPS:
            row.double()
    assert meter.peak == 8 * STEPS[0].numel()


@pytest.mark.parametrize(
    "score",
    [nhsic, kernel_cka, cosine, pearson_r2, lambda *a: nhsic(*a, drop_top=1), lambda *a: nhsic(*a, sigma="median")],
)
def test_one_step_trajectories_cost_linear_time_with_a_small_constant(score):
    """n trajectories of one step with n answers: as many operations an answer whatever n, and elements alike."""
    cost = []
    for n in (75, 150, 300):
        with Meter() as meter:
            score(MANY[:n, None], MANY[:n])
        cost.append((meter.elements, meter.operations))
    for (elements, operations), (more_elements, more_operations) in pairwise(cost):
        assert more_elements < 2.3 * elements
        assert more_operations < 2.3 * operations
    assert cost[-1][1] < 40 * 300, "not some dozens of operations a trajectory"


def test_one_step_trajectories_equal_one_call_each():
    steps, answers = MANY[:40].reshape(5, 8, 1, 32), MANY[40:80].reshape(5, 8, 32)
    for options in ({}, {"drop_top": 2}, {"sigma": "median"}, {"sigma": "median", "drop_top": 1}):
        found = nhsic(steps, answers, **options)
        for i, j in ((0, 0), (2, 5), (4, 7)):
            torch.testing.assert_close(
                found[i, j], nhsic(steps[i, j], answers[i, j], **options), rtol=1e-10, atol=1e-12
            )
    torch.testing.assert_close(nhsic(steps[:, :1], answers)[3, 4], nhsic(steps[3, 0], answers[3, 4]))
    torch.testing.assert_close(nhsic(steps[0], answers[:, :1])[3, 4], nhsic(steps[0, 4], answers[3, 0]))


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SMALL, ONE = draw(2, 12, 16, dtype=torch.float16), draw(2, 16, seed=1, dtype=torch.float16)
EXAMPLES, TOLD = draw(2, 80, 6, dtype=torch.float16) / 20 + (torch.arange(80) % 2)[:, None], torch.arange(80) % 2
UNEMBED = draw(16, 50, seed=2)


def everything() -> dict[str, torch.Tensor]:
    """One number or more of every probe."""
    scores = nhsic(SMALL, ONE)
    test = null_test(scores, null_scores(SMALL, draw(2, 19, 16, seed=3, dtype=torch.float16)), "standardised")
    depth = settling_depth(SMALL, lambda h, ids: h.float() @ UNEMBED[:, ids] / 100, 50)
    told, mlp = (v_information(EXAMPLES, TOLD, draws=100, probe=probe) for probe in ("linear", "mlp"))
    statistics = peak_statistics(scores, tukey_peaks(scores, 0.1))
    return {
        "nhsic": scores,
        "median": nhsic(SMALL, ONE, sigma="median"),
        "dense": nhsic_dense(SMALL, ONE),
        "sweep": bandwidth_sweep(SMALL, ONE).jaccard,
        "r2": pearson_r2(SMALL, ONE),
        "cosine": cosine(SMALL, ONE),
        "kernel_cka": kernel_cka(SMALL, ONE),
        "cka": cka(SMALL, SMALL.flip(-1), kernel="gaussian", debiased=True),
        "p": torch.stack([test.p_step, test.p_family, test.z]),
        "random": random_answers(ONE, 3, torch.Generator().manual_seed(0)),
        "depth": torch.stack([depth.divergence, depth.entropy]),
        "bits": torch.stack([told.bits, told.low, told.high, told.entropy, told.control_bits, told.accuracy]),
        "mlp": mlp.bits,
        "statistics": torch.stack([statistics.aom, statistics.mean_mi, statistics.interval_mean]),
        "hsic": sample_hsic(EXAMPLES, TOLD, permutations=99).p,
    }


def test_the_default_dtype_does_not_matter():
    expected = everything()
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        with default_dtype(dtype):
            found = everything()
        for name, value in expected.items():
            assert found[name].dtype == torch.float64, name
            torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True, msg=f"{name} under {dtype}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_input_is_only_rounded_itself(dtype):
    steps, answer = draw(12, 64).to(dtype), draw(64, seed=1).to(dtype)
    for score in (nhsic, nhsic_dense, cosine, pearson_r2, kernel_cka):
        torch.testing.assert_close(score(steps, answer), score(steps.double(), answer.double()), rtol=1e-12, atol=1e-14)
    unembed = draw(64, 300, seed=2, dtype=torch.float64) / 1000
    depths = [
        settling_depth(h[None], lambda v, ids: v.double() @ unembed[:, ids], 300) for h in (steps, steps.double())
    ]
    torch.testing.assert_close(depths[0].entropy, depths[1].entropy, rtol=1e-14, atol=0)


def exact_nhsic(x: torch.Tensor, y: torch.Tensor, eps: float) -> float:
    """The defining formula in 60 digits."""
    d = len(x)

    def operator(v: list[float]) -> Any:
        kernel = mpmath.matrix(d, d)
        for i in range(d):
            for j in range(d):
                kernel[i, j] = mpmath.exp(-((mpmath.mpf(v[i]) - mpmath.mpf(v[j])) ** 2) / 5000)
        centred = kernel * (mpmath.eye(d) - mpmath.ones(d) / d)
        return centred * mpmath.inverse(centred + mpmath.mpf(eps) * d * mpmath.eye(d))

    with mpmath.workdps(60):
        first, second = operator(x.tolist()), operator(y.tolist())
        return float(sum(first[i, j] * second[j, i] for i in range(d) for j in range(d)))


@pytest.mark.parametrize("scale", [1.0, 20.0, 300.0])
def test_the_smallest_eps_still_gives_the_score(scale):
    x, y = draw(2, 9).double() / 20 * scale
    for eps, error, score in ((1e-9, 1e-6, nhsic), (1e-12, 1e-3, nhsic), (1e-10, 1e-2, nhsic_dense)):
        assert float(score(x[None], y, eps=eps)) == pytest.approx(exact_nhsic(x, y, eps), abs=error), eps
    # What would come below: the dense formula is off by a whole direction, and nothing would say so.
    with pytest.raises(InputError, match=r"nhsic: expected eps >= 1e-12, received 1e-13\. Below it the ridge"):
        nhsic(x[None], y, eps=1e-13)


@pytest.mark.parametrize("eps", [1e-13, 1e-16, 5e-324])
def test_an_eps_of_rounding_is_refused_everywhere(eps):
    for score in (nhsic, nhsic_dense, bandwidth_sweep, lambda *a, **o: factor_answers(a[1], **o), null_scores):
        answer = ONE[:, None] if score is null_scores else ONE
        with pytest.raises(InputError, match=r"expected eps >= 1e-1.*the authors' scripts have 1e-5"):
            score(SMALL, answer, eps=eps)


def test_options_of_another_kind_are_refused():
    with pytest.raises(InputError, match="eps > 0 and finite, received nan"):
        nhsic(SMALL, ONE, eps=math.nan)
    for drop_top in (-1, 15):
        with pytest.raises(InputError, match="drop_top from 0 to 14"):
            cosine(SMALL, ONE, drop_top=drop_top)
    for score in (cosine, pearson_r2, nhsic, kernel_cka, cka):
        with pytest.raises(InputError, match="max_bytes > 0 and finite, received 0"):
            score(SMALL, SMALL if score is cka else ONE, max_bytes=0)

"""Where the time of an nHSIC goes: its kernels by kind, beside what its products alone would take at their best.

1. The steps of :func:`analyses.bench.nhsic.synthetic_activations` are scored on one thread, their answer ready;
2. once more under torch's profiler, which says what each kernel took itself; what is left is Python between them. Of
   compiled code (:mod:`probes.compiled`) each call is a kernel: the one of products makes the features too;
3. the multiply-adds of all products are counted, and over the rate of one large float64 product of this machine they
   give the least that the formula could take here if everything else were free.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analyses.bench.nhsic import synthetic_activations, threads, timed
from probes.answers import factor_answers
from probes.compiling import kernels
from probes.scoring import nhsic_with

__all__ = ["COMPILED", "KINDS", "bench_profile"]

KINDS: dict[str, tuple[str, ...]] = {
    "products": ("mm", "bmm", "addmm", "baddbmm_", "dot"),
    "by element": (
        "mul", "mul_", "add", "add_", "sub", "sub_", "div", "div_", "exp", "exp_", "expm1", "expm1_", "square",
        "pow", "pow_", "clamp", "abs", "sum", "mean", "linalg_vector_norm", "neg", "where", "fill_", "zero_",
    ),
    "largest": ("topk", "median", "sort", "argsort", "max", "min"),
    "factorised": ("linalg_cholesky_ex", "tril", "linalg_solve_triangular", "_linalg_eigh", "linalg_qr"),
}  # fmt: skip
"""Kernels by what they do; others move things about."""

COMPILED = {"grams": "products", "take_apart": "by element", "in_units": "largest", "scores": "factorised"}
"""The like of compiled code."""

_LARGE = 1024  # rows of the product that has the rate


def bench_profile(dims: Sequence[int], *, n_steps: int, repeats: int, seed: int = 0) -> list[dict[str, int | float]]:
    """One row per width: CPU microseconds a step; shares of the profiled time, by kind; the floor of the products.

    ``bench_profile((576, 4096), n_steps=256, repeats=3)`` takes some seconds.
    """
    rows = []
    with threads(1):
        rate = _rate(repeats)
        for d_model in dims:
            *steps, answer = synthetic_activations(n_steps + 1, d_model, seed=seed)
            call = partial(nhsic_with, torch.stack(steps), factor_answers(answer))
            call()
            shares, multiplied = _profiled(call)
            rows.append(
                {
                    "d_model": d_model,
                    "steps": n_steps,
                    "us_per_step": 1e6 * timed(call, repeats)[1] / n_steps,
                    **shares,
                    "products_at_best_us": 1e6 * multiplied / rate / n_steps,
                    "gflops": rate / 1e9,
                }
            )
    return rows


def _profiled(call: Callable[[], Tensor]) -> tuple[dict[str, float], float]:
    """Shares of what a call took, and floating-point operations of its matrix products."""
    from torch.profiler import ProfilerActivity, profile

    counted: list[float] = []
    with _watched(counted), profile(activities=[ProfilerActivity.CPU], with_flops=True, acc_events=True) as found:
        begun = time.perf_counter()
        call()
        seconds = time.perf_counter() - begun
    kind_of = {f"aten::{name}": kind for kind, names in KINDS.items() for name in names}
    kind_of |= {f"compiled::{name}": kind for name, kind in COMPILED.items()}
    taken = dict.fromkeys((*KINDS, "moved"), 0.0)
    multiplied = sum(counted)
    for event in found.key_averages():
        kind = kind_of.get(event.key, "moved")
        taken[kind] += event.self_cpu_time_total / 1e6
        multiplied += event.flops if kind == "products" else 0
    whole = max(seconds, sum(taken.values()))
    shares = {kind: value / whole for kind, value in taken.items()}
    return {**shares, "between": 1 - sum(shares.values())}, multiplied


@contextmanager
def _watched(counted: list[float]) -> Iterator[None]:
    """Let torch's profiler see calls of compiled code, and count the operations of their products."""
    from torch.profiler import record_function

    compiled = kernels()
    if compiled is None:
        yield
        return
    usual = {name: getattr(compiled, name) for name in COMPILED}

    def seen(name: str, *args: object) -> None:
        with record_function(f"compiled::{name}"):
            usual[name](*args)
        if name == "grams":
            counted.append(_operations(*args))

    try:
        for name in usual:
            setattr(compiled, name, partial(seen, name))
        yield
    finally:
        for name, function in usual.items():
            setattr(compiled, name, function)


def _operations(steps: Any, bases: Any, _groups: Any, _ridge: Any, whitened: Any, ends: Any, *_: Any) -> float:
    """Of the products of each step's features: with four of their own, and with its answers' rows."""
    features = bases[0][steps[2]]
    return float((2 * features * steps[0].shape[1] * (4 + np.diff(ends) * whitened.shape[1])).sum())


def _rate(repeats: int) -> float:
    """Floating-point operations a second of one large product."""
    x = torch.randn(_LARGE, _LARGE, dtype=torch.float64)
    return 2 * _LARGE**3 / timed(lambda: x @ x, repeats)[1]

"""How much faster the low-rank nHSIC is than the authors' dense float32 route, and how far each is from float64.

1. Draw activations shaped like a residual stream: heavy-tailed, scale 5 to 30, a few massive coordinates shared by all
   steps; 2. time both routes on one thread; 3. compare both with `nhsic_dense`, the float64 formula, on a few steps;
4. time the same steps against 99 wrong answers, in passes against one; with the median as bandwidth, in passes of a
number; one step with an answer made ready, in those of a step among many; 5. let two threads do it, by the wall clock.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from probes import nhsic, nhsic_dense
from probes.answers import factor_answers
from probes.lowrank import factorise
from probes.nulls import null_scores
from probes.scale import median_distance
from probes.scoring import nhsic_with

__all__ = ["bench_nhsic", "synthetic_activations", "threads", "timed"]

_SIGMA, _EPS = 50.0, 1e-5
NULLS = 99  # wrong answers of a null
_FEW = 24


def bench_nhsic(
    dims: Sequence[int] = (576, 2048, 4096), *, n_steps: int = 64, repeats: int = 5, seed: int = 0
) -> list[dict[str, int | float]]:
    """One row per width: medians in CPU milliseconds a step, their ratio, and the errors of both routes.

    >>> row = bench_nhsic(dims=(32,), n_steps=4, repeats=1)[0]
    >>> row["d_model"], row["steps"], row["ratio"] == row["dense_ms_per_step"] / row["nhsic_ms_per_step"]
    (32, 4, True)

    `rank` is the largest of the batch, `null_passes` what 99 wrong answers cost in units of one, `median_passes` what
    sigma="median" costs in units of sigma = 50, and `median_passes_same_width` in units of a number, the median of the
    steps' own (a narrower kernel needs more features); all with their answers to be factorised. `one_step` and
    `few_steps` are CPU milliseconds a step of calls with 1 and 24 steps, the answer factorised before; `two_threads`
    how much faster two threads are by the wall clock, NaN where there is one core. Errors are absolute, in units of the
    score, on the one to four steps that the dense routes are run on. One thread but there, and the caller's setting is
    restored.
    About a minute by default.
    """
    rows: list[dict[str, int | float]] = []
    with threads(1):
        for d_model in dims:
            *steps, answer = synthetic_activations(n_steps + 1, d_model, seed=seed)
            batch = torch.stack(steps)
            # Dense steps cost d^3: as many as fit the time, at least one.
            few = batch[: max(1, min(4, n_steps, (4096 // d_model) ** 2))]
            dense, dense_seconds = timed(partial(_dense_float32, few, answer), 1)
            fast, fast_seconds = timed(partial(nhsic, batch, answer), repeats)
            exact = nhsic_dense(few, answer)
            wrong = synthetic_activations(NULLS, d_model, seed=seed + 1)
            _, null_seconds = timed(partial(null_scores, batch, wrong), repeats)
            _, median_seconds = timed(partial(nhsic, batch, answer, sigma="median"), repeats)
            # A kernel as wide, but of one width for all: what is left is what finding the medians costs.
            width = float(median_distance(batch).median())
            _, alike_seconds = timed(partial(nhsic, batch, answer, sigma=width), repeats)
            ready, some = factor_answers(answer), batch[:_FEW]
            _, one_seconds = timed(partial(nhsic_with, batch[:1], ready), 8 * repeats)
            _, few_seconds = timed(partial(nhsic_with, some, ready), repeats)
            rank = int((factorise(batch) != 0).any(dim=-1).sum(dim=-1).max())
            dense_ms, fast_ms = 1e3 * dense_seconds / len(few), 1e3 * fast_seconds / n_steps
            rows.append(
                {
                    "d_model": d_model,
                    "steps": n_steps,
                    "rank": rank,
                    "dense_ms_per_step": dense_ms,
                    "nhsic_ms_per_step": fast_ms,
                    "ratio": dense_ms / fast_ms,
                    "null_passes": null_seconds / fast_seconds,
                    "median_passes": median_seconds / fast_seconds,
                    "median_passes_same_width": median_seconds / alike_seconds,
                    "one_step": 1e3 * one_seconds,
                    "few_steps": 1e3 * few_seconds / len(some),
                    "two_threads": _two_threads(partial(nhsic, batch, answer), repeats),
                    "max_abs_error_dense32": float((dense - exact).abs().max()),
                    "max_abs_error_nhsic": float((fast[: len(few)] - exact).abs().max()),
                }
            )
    return rows


def synthetic_activations(n_vectors: int, d_model: int, *, seed: int = 0) -> Float32[Tensor, "vector d_model"]:
    """Vectors with the shape of a residual stream: coordinates of unequal scale, correlated, a few of them massive.

    >>> synthetic_activations(3, 64).shape
    torch.Size([3, 64])
    """
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(d_model, generator=generator)
    own = torch.randn(n_vectors, d_model, generator=generator)
    tails = torch.exp(0.5 * torch.randn(d_model, generator=generator))
    x = 10.0 * tails * (0.5 * shared + own)
    massive = torch.tensor([700.0, -400.0, 250.0])
    x[:, torch.randperm(d_model, generator=generator)[:3]] = massive * (1 + 0.05 * own[:, :3])
    return x


def _dense_float32(steps: Float[Tensor, "step d_model"], answer: Float[Tensor, " d_model"]) -> Float[Tensor, " step"]:
    """The formula as the authors' scripts compute it: float32, both sides inverted anew at every step.

    Centring subtracts row means, which is cheaper than a product with H: the ratio is understated if anything.
    """
    scores = []
    for step in steps:
        operators = []
        for x in (step.float(), answer.float()):
            kernel = torch.exp((x[:, None] - x[None, :]).square_().div_(-2 * _SIGMA**2))
            centred = kernel - kernel.mean(dim=1, keepdim=True)
            ridge = centred + _EPS * len(x) * torch.eye(len(x))
            operators.append(centred @ torch.linalg.inv(ridge))
        scores.append((operators[0] * operators[1].T).sum())
    return torch.stack(scores).double()


def _two_threads(call: Callable[[], Tensor], repeats: int) -> float:
    if (os.cpu_count() or 1) < 2:
        return math.nan
    seconds = []
    for count in (1, 2):
        with threads(count):
            seconds.append(timed(call, max(2, repeats), time.perf_counter)[1])
    return seconds[0] / seconds[1]


def timed(
    call: Callable[[], Tensor], repeats: int, clock: Callable[[], float] = time.process_time
) -> tuple[Tensor, float]:
    """What a call gives, and the median of the seconds it takes."""
    seconds = []
    if repeats > 1:
        call()  # the first one also pays for memory and libraries
    for _ in range(repeats):
        # CPU time: on one thread it equals the wall clock of an idle machine, and other programs do not count
        start = clock()
        result = call()
        seconds.append(clock() - start)
    return result, statistics.median(seconds)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

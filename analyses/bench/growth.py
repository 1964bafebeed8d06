"""How MI attribution and patching grow: seconds against how many steps, nodes or targets of edges are asked about.

1. A response, and a corrupted one of its length, are windows on a text, so that nothing is decoded.
2. Each of `GROWING` is timed at growing counts, which take turns.
3. Of each job a power law is fitted to its medians: seconds ~ count ** exponent. 1 is linear; near 0 is what does not
   hang on the count, as passes that serve all nodes at once.

Wall-clock time, with the threads torch is set to use.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from analyses.attribution import mi_attribution, patch_edges, patch_nodes
from analyses.bench.timing import bench_prompts, check_counts, spread
from interp.engines.registry import engine_for
from interp.metrics import log_probability
from interp.types import Bridge

__all__ = ["GROWING", "bench_growth", "exponent"]

PROMPT = 8  # tokens before the response


def _shares(model: Bridge, clean: list[int], corrupt: list[int], places: list[int], answer: Tensor) -> int:
    prompt, said = clean[:PROMPT], clean[PROMPT:]
    steps = [place - PROMPT + 1 for place in places]
    found = mi_attribution(
        model, prompt, said, steps, layer=-1, answer=answer, measures="nhsic", total="none", sources=0, reference=[0]
    )
    return len(found.shares)


def _totals(model: Bridge, clean: list[int], corrupt: list[int], places: list[int], answer: Tensor) -> int:
    found = mi_attribution(
        model, clean[:PROMPT], clean[PROMPT:], [places[-1] - PROMPT + 1], layer=-1, answer=answer, measures="nhsic",
        top=len(places), sources=0, reference=[0],
    )  # fmt: skip
    return int(found.shares["total"].notna().sum())


def _estimates(model: Bridge, clean: list[int], corrupt: list[int], places: list[int], answer: Tensor) -> int:
    found = patch_nodes(
        model, clean, corrupt, log_probability(clean[0]), kinds=("head", "mlp"), positions=places, verify=0, sample=0
    )
    return len(found.table)


def _exact(model: Bridge, clean: list[int], corrupt: list[int], places: list[int], answer: Tensor) -> int:
    found = patch_nodes(
        model, clean, corrupt, log_probability(clean[0]), kinds="mlp", layers=[0], positions=places, estimate=False,
        verify="all", sample=0,
    )  # fmt: skip
    return len(found.table)


def _edges(model: Bridge, clean: list[int], corrupt: list[int], places: list[int], answer: Tensor) -> int:
    found = patch_edges(
        model, clean, corrupt, log_probability(clean[0]), positions=places, sources=places, verify=0, sample=0, points=0
    )
    return int(found.settings["scored"])


GROWING: dict[str, tuple[str, str, Callable[[Bridge, list[int], list[int], list[int], Tensor], int]]] = {
    "MI shares": ("steps", "shares", _shares),
    "total effects of one step": ("components", "totals", _totals),
    "attribution patching": ("positions", "nodes", _estimates),
    "exact patching": ("positions", "nodes", _exact),
    "edge attribution patching": ("targets", "edges", _edges),
}
"""What is timed: what grows, what comes of it, and the job, which gives how many of these came."""


def bench_growth(
    model: Bridge,
    *,
    length: int = 128,
    counts: Sequence[int] = (1, 4, 16),
    repeats: int = 3,
    on_run: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[dict[str, Any]]:
    """One row per job and count.

    >>> from interp import load_model
    >>> rows = bench_growth(load_model("toy-reasoner"), length=12, counts=(1, 2), repeats=1)
    >>> [(row["job"], row["count"], row["found"]) for row in rows][:2]
    [('MI shares', 1, 16), ('MI shares', 2, 32)]

    Args:
        length: response tokens.
        counts: of what grows, ascending; below the length.
        repeats: timings of each.
        on_run: told before each timing how many are done, of how many, and what comes next.

    Returns:
        Rows with ``grows`` (what the count is of), ``found`` of ``what``, ``seconds`` (a spread) and the job's
        ``exponent``, NaN of a single count.

    Raises:
        InputError: numbers out of range, a model whose writes do not add up.
    """
    check_counts(model, length=(length, max(counts, default=0) + 2), counts=(min(counts, default=0), 1),
                 repeats=(repeats, 1))  # fmt: skip
    engine = engine_for(model)
    clean, corrupt = (ids.tolist() for ids in bench_prompts(model, 2, PROMPT + length))
    answer = torch.randn(engine.facts.d_model, generator=torch.Generator().manual_seed(0))
    taken: dict[tuple[str, int], list[float]] = {(job, count): [] for job in GROWING for count in counts}
    found: dict[tuple[str, int], int] = {}
    for job, (_, _, work) in GROWING.items():  # the first call also pays for memory and libraries
        places = _last(length, min(counts))
        found[job, min(counts)] = work(model, clean, corrupt, places, answer)
    done = 0
    for _ in range(repeats):
        for job, count in taken:
            on_run(done, len(taken) * repeats, f"{job}, {count} {GROWING[job][0]}")
            begin = time.perf_counter()
            found[job, count] = GROWING[job][2](model, clean, corrupt, _last(length, count), answer)
            if engine.device.type == "cuda":
                torch.cuda.synchronize(engine.device)
            taken[job, count].append(time.perf_counter() - begin)
            done += 1
    on_run(done, done, "done")
    spreads = {case: spread(times) for case, times in taken.items()}
    powers = {job: exponent(counts, [spreads[job, count].median for count in counts]) for job in GROWING}
    return [
        {
            "job": job, "tokens": length, "grows": GROWING[job][0], "count": count, "what": GROWING[job][1],
            "found": found[job, count], "seconds": spreads[job, count], "exponent": powers[job],
        }
        for job, count in taken
    ]  # fmt: skip


def exponent(counts: Sequence[int], seconds: Sequence[float]) -> float:
    """Of the power law through counts and seconds, by least squares of their logarithms; NaN of fewer than two counts.

    >>> round(exponent([1, 2, 4], [3.0, 12.0, 48.0]), 9)
    2.0
    """
    x, y = [math.log(count) for count in counts], [math.log(taken) for taken in seconds]
    middle = sum(x) / len(x)
    size = sum((one - middle) ** 2 for one in x)
    return sum((one - middle) * other for one, other in zip(x, y, strict=True)) / size if size else math.nan


def _last(length: int, count: int) -> list[int]:
    """The last positions of the text that predict a token of the response."""
    end = PROMPT + length - 1
    return list(range(end - count, end))

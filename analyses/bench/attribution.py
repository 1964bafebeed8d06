"""What attribution costs beside one plain pass over the same text: against its length, and the steps asked about.

1. A response of each length follows the same short prompt; its tokens are those of a text, so that nothing is decoded.
2. Each of `JOBS` is timed at one step, at some and at all of them, and one pass of the model alone, logits of the last
   position, beside it. They take turns; ratios are taken within a turn, then their median.

Wall-clock time, with the threads torch is set to use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from analyses.attribution import logit_attribution
from analyses.bench.timing import bench_prompts, check_counts, ratios, spread
from interp.engines.base import Engine
from interp.engines.registry import engine_for
from interp.types import Bridge
from interp.writes import read_writes
from interp.writes.reading import components_of

__all__ = ["JOBS", "bench_attribution"]

PROMPT = 8  # tokens before the response

JOBS: dict[str, Callable[[Bridge, list[int], list[int], list[int]], object]] = {
    "writes": lambda model, prompt, response, steps: read_writes(model, prompt, response, steps),
    "logit shares": lambda model, prompt, response, steps: logit_attribution(
        model, prompt, response, steps, contrast="best other"
    ),
    "logit shares, all layers' lenses": lambda model, prompt, response, steps: logit_attribution(
        model, prompt, response, steps, contrast="best other", read_at="all"
    ),
}
"""What is timed, given a model, a prompt, a response and the steps asked about."""


@torch.no_grad()
def bench_attribution(
    model: Bridge,
    *,
    lengths: Sequence[int] = (128, 512),
    some: int = 16,
    repeats: int = 3,
    on_run: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[dict[str, Any]]:
    """One row per job, response length and number of steps.

    >>> from interp import load_model
    >>> rows = bench_attribution(load_model("toy-reasoner"), lengths=(12,), some=3, repeats=1)
    >>> [(row["job"], row["steps"], row["components"]) for row in rows][:3]
    [('writes', 1, 16), ('writes', 3, 16), ('writes', 12, 16)]

    Args:
        lengths: response tokens.
        some: steps asked about beside one and all of them.
        repeats: timings of each.
        on_run: told before each timing how many are done, of how many, and what comes next.

    Returns:
        Rows with ``seconds`` and ``passes``, the same over the seconds of one plain pass (``pass_seconds``), each a
        :class:`analyses.bench.timing.Spread`.

    Raises:
        InputError: numbers out of range, a model whose writes do not add up.
    """
    check_counts(model, lengths=(min(lengths, default=0), 1), some=(some, 1), repeats=(repeats, 1))
    engine = engine_for(model, modules=True)
    components = len(components_of(engine.anatomy(), engine.facts.n_layers))
    cases = [
        (job, length, count) for length in lengths for job in JOBS for count in sorted({1, min(some, length), length})
    ]
    texts = {length: bench_prompts(model, 1, PROMPT + length)[0].tolist() for length in lengths}
    for length in lengths:  # the first call also pays for memory and libraries
        _seconds(engine, texts[length], lambda: None)
        next(iter(JOBS.values()))(model, texts[length][:PROMPT], texts[length][PROMPT:], [0])
    taken: dict[tuple[str, int, int], list[tuple[float, float]]] = {case: [] for case in cases}
    done = 0
    for _ in range(repeats):
        for job, length, count in cases:
            on_run(done, len(cases) * repeats, f"{job}, {count} of {length} steps")
            text = texts[length]
            steps = list(range(length - count, length))
            taken[job, length, count].append(
                _seconds(engine, text, lambda: JOBS[job](model, text[:PROMPT], text[PROMPT:], steps))  # noqa: B023
            )
            done += 1
    on_run(done, done, "done")
    return [
        {
            "job": job, "tokens": length, "steps": count, "components": components,
            "seconds": spread([own for own, _ in times]),
            "pass_seconds": spread([plain for _, plain in times]),
            "passes": spread(ratios([own for own, _ in times], [plain for _, plain in times])),
        }
        for (job, length, count), times in taken.items()
    ]  # fmt: skip


def _seconds(engine: Engine, text: list[int], job: Callable[[], object]) -> tuple[float, float]:
    """How long a job takes, and a plain pass over the text right after it."""
    _wait(engine)
    start = time.perf_counter()
    job()
    _wait(engine)
    between = time.perf_counter()
    with engine.evaluating():
        ids = torch.tensor([text[:-1]], device=engine.device)
        engine.forward(ids, engine.new_cache([0], len(text) - 1))
    _wait(engine)
    return between - start, time.perf_counter() - between


def _wait(engine: Engine) -> None:
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)

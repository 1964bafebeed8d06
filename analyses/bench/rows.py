"""What it brings that a finished row's place is taken by the next prompt, beside batches that run until all has ended.

Responses are ended at lengths of which the longest is four times the shortest, in an order that has nothing to do with
their prompts. Batches that shrink save what a row costs, and pay for a pass as long as one row is left; places that are
taken again save passes. So the gain hangs on what a pass costs beside what a row costs, and on how lengths are spread:

- ``evenly``: as many responses of one, two, three and four times the shortest length;
- ``few long``: one in eight is four times as long as the others.

Both ways decode the same prompts to the same tokens, and take turns. Seconds are of one thread's processor time (of the
clock where the model is on another device), reading the prompts included.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from analyses.bench.timing import bench_prompts, check_counts, endless, ratios, spread
from interp.protocol import Intervention
from interp.rows import Row
from interp.types import Bridge

__all__ = ["SPREADS", "bench_rows", "lengths_of"]

SPREADS: dict[str, tuple[int, ...]] = {"evenly": (1, 2, 3, 4), "few long": (4, 1, 1, 1, 1, 1, 1, 1)}
"""Lengths of responses, in units of the shortest, over and over."""
SHORTEST, LONGEST = 20, 60  # tokens of a prompt


def lengths_of(spread: str, problems: int, unit: int) -> list[int]:
    """Response tokens of each problem.

    >>> sorted(lengths_of("evenly", 8, 10)), sorted(lengths_of("few long", 8, 10))
    ([10, 10, 20, 20, 30, 30, 40, 40], [10, 10, 10, 10, 10, 10, 10, 40])
    """
    units = SPREADS[spread]
    found = [unit * units[problem % len(units)] for problem in range(problems)]
    random.Random(0).shuffle(found)
    return found


def bench_rows(
    model: Bridge,
    problems: int = 64,
    unit: int = 40,
    batches: Sequence[int] = (8, 16),
    repeats: int = 3,
    on_run: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[dict[str, Any]]:
    """Time both ways, for each batch size and spread of lengths.

    >>> from interp import load_model
    >>> rows = bench_rows(load_model("toy-reasoner"), problems=8, unit=2, batches=(2,), repeats=1)
    >>> [(row["spread"], row["batch"], row["tokens"], row["static_steps"], row["steps"]) for row in rows]
    [('evenly', 2, 40, 26, 22), ('few long', 2, 22, 14, 12)]

    Returns:
        One row each: ``tokens`` in all; ``static_seconds`` and ``seconds``, ``static_steps`` and ``steps`` (passes in
        which a token is decoded) and ``reads`` (of prompts) of batches and of places that are taken again; ``ratio``,
        how much faster the latter is, turn by turn; ``least_steps``, of places that are never empty; and how many of
        the responses are ``same`` both ways (in float32 a near-tie may fall otherwise).

    Raises:
        InputError: numbers out of range.
    """
    check_counts(
        model, batches=(min(batches, default=0), 1), new_tokens=(4 * unit, 4), prompt_tokens=(LONGEST, 1),
        repeats=(repeats, 1),
    )  # fmt: skip
    # Of many lengths, in no order
    prompts = [
        prompt[: SHORTEST + 13 * n % (LONGEST - SHORTEST + 1)]
        for n, prompt in enumerate(bench_prompts(model, problems, LONGEST))
    ]
    rows: list[dict[str, Any]] = []
    done, total = 0, len(batches) * len(SPREADS) * repeats
    with endless(model), _one_thread():
        for batch in batches:
            for name in SPREADS:
                lengths = lengths_of(name, problems, unit)
                static, refilled = (_Way(model, prompts, lengths, batch, some) for some in (batch, problems))
                static.warm()
                for _ in range(repeats):
                    on_run(done, total, f"rows {name}, batch {batch}")
                    static.take()
                    refilled.take()
                    done += 1
                same = sum(a == b for a, b in zip(static.tokens, refilled.tokens, strict=True))
                rows.append(
                    {
                        "spread": name, "batch": batch, "problems": problems, "tokens": sum(lengths),
                        "static_seconds": spread(static.seconds), "seconds": spread(refilled.seconds),
                        "ratio": spread(ratios(static.seconds, refilled.seconds)),
                        "static_steps": static.steps, "steps": refilled.steps, "least_steps": -(-sum(lengths) // batch),
                        "static_reads": static.reads, "reads": refilled.reads, "same": same,
                    }
                )  # fmt: skip
    on_run(done, total, "done")
    return rows


class _Lengths(Intervention):
    """Ends each response at its length, and counts how often prompts are read."""

    staggered = True

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths, self.begun = lengths, False

    def begin(self, row: Row) -> None:
        row.limit, self.begun = self._lengths[row.index], True


@dataclass
class _Way:
    """Problems decoded ``at_once`` in a call, in batches of ``batch``."""

    model: Bridge
    prompts: list[Tensor]
    lengths: list[int]
    batch: int
    at_once: int
    seconds: list[float] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    steps: int = 0
    reads: int = 0

    def warm(self) -> None:
        """The first call also pays for memory and libraries."""
        from interp.decoding import decode

        decode(self.model, self.prompts[: self.batch], max_new_tokens=2)

    def take(self) -> None:
        from interp.decoding import decode

        on_cpu = next(self.model.original_model.parameters()).device.type == "cpu"
        clock = time.process_time if on_cpu else time.perf_counter
        self.steps, self.reads, self.tokens = 0, 0, []
        start = clock()
        for begin in range(0, len(self.prompts), self.at_once):
            some = slice(begin, begin + self.at_once)
            self._ends = _Lengths(self.lengths[some])
            rollouts = decode(
                self.model, self.prompts[some], max_new_tokens=max(self.lengths), interventions=self._ends,
                batch_size=self.batch, progress=self,
            )  # fmt: skip
            self.tokens += [rollout.token_ids.tolist() for rollout in rollouts]
        self.seconds.append(clock() - start)

    def update(self, n: int) -> None:
        """As the progress bar of ``decode``: a step is done."""
        self.steps += 1
        self.reads += self._ends.begun
        self._ends.begun = False


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

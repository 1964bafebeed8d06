"""What a position that is run again costs, beside the target.

Steps take turns within one decode, and the clock is read at the end of each and around the blocks and the unembedding
of each pass: 1 and 2 of :mod:`analyses.bench.interventions`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from analyses.bench.timing import spread
from interp.protocol import Step
from interp.types import Bridge

__all__ = [
    "MANY",
    "ONE",
    "SIXTEEN",
    "SOME",
    "Circle",
    "circle",
    "rerun_layers",
    "rerun_rows",
    "reruns_of",
    "target_share",
]

ALLOWANCE = 0.15
ONE, SOME, MANY, SIXTEEN = 1, 2, 8, 16  # rows


def target_share(inject: int, n_layers: int, *, blocks: float, unembedding: float, plain: float) -> float:
    """What running a position again from block ``inject`` may cost, as a share of a plain step; times in one unit.

    >>> target_share(20, 30, blocks=60.0, unembedding=15.0, plain=100.0)
    0.5
    """
    return ((n_layers - inject) / n_layers * blocks + unembedding) / plain + ALLOWANCE


def rerun_layers(n_layers: int) -> list[int]:
    """The first block, the middle one, one three quarters up, the last.

    >>> rerun_layers(30), rerun_layers(3)
    ([0, 15, 23, 29], [0, 1, 2])
    """
    return sorted({0, n_layers // 2, min(-(-3 * n_layers // 4), n_layers - 1), n_layers - 1})


def reruns_of(n_layers: int) -> dict[int, list[tuple[int, int]]]:
    """For each batch what takes turns with a plain step: (block, how many of its rows run again from there)."""
    layers = rerun_layers(n_layers)
    middle = n_layers // 2
    return {
        ONE: [(layer, ONE) for layer in layers],
        MANY: [*((layer, MANY) for layer in layers), (middle, SOME)],
        SOME: [(middle, SOME)],  # what the line above is compared with
    }


@dataclass(frozen=True)
class Circle:
    """Medians over the circles of one decode, in seconds; place 0 is the plain step, the others are in their order.

    ``extra``: over the plain step of the same circle. ``blocks`` and ``unembedding``: of the step's last pass.
    """

    step: list[float]
    extra: list[float]
    blocks: list[float]
    unembedding: list[float]


def circle(model: Bridge, prompts: Int[Tensor, "batch pos"], which: Sequence[tuple[int, int]], circles: int) -> Circle:
    from interp.decoding import decode
    from interp.interventions import Recompute

    n = 1 + len(which)

    def its_turn(place: int, rows: int, step: Step) -> list[bool]:
        return [step.t % n == place and i < rows for i in range(len(step.rows))]

    reruns = [Recompute(layer, layer, partial(its_turn, 1 + k, rows)) for k, (layer, rows) in enumerate(which)]
    watch = _Watch(model)
    with watch.on():
        # Step 0 reads the prompt and is left out.
        decode(
            model,
            list(prompts),
            max_new_tokens=1 + n * circles,
            batch_size=len(prompts),
            interventions=reruns,
            progress=watch,
        )
    return _medians(watch.ends, watch.marks, n)


class _Watch:
    """Reads the clock at the end of each step, and around the blocks and the unembedding of each pass."""

    def __init__(self, model: Bridge) -> None:
        self.model = model
        self.ends: list[float] = []
        self.marks: list[list[float]] = [[]]

    def update(self, n: int) -> None:
        """As the progress bar of ``decode``."""
        self.ends.append(time.perf_counter())
        self.marks.append([])

    @contextmanager
    def on(self) -> Iterator[None]:
        model = self.model
        on_cpu = next(model.original_model.parameters()).device.type == "cpu"

        def note(*_: Any) -> None:
            if not on_cpu:
                torch.accelerator.synchronize()  # what was asked for before is done
            self.marks[-1].append(time.perf_counter())

        handles = [
            model.blocks[0].register_forward_pre_hook(note),
            model.blocks[-1].register_forward_hook(note),
            model.ln_final.register_forward_pre_hook(note),
            model.unembed.register_forward_hook(note),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _medians(ends: Sequence[float], marks: Sequence[Sequence[float]], n: int) -> Circle:
    """From clock readings: ``ends[t]`` of step ``t``, ``marks[t]`` four a pass; the step at place ``t % n``."""

    def by_place(values: Tensor) -> Tensor:
        """From one value a step after step 0, whose place is 1."""
        return values.reshape(-1, n).roll(1, dims=1)

    # A pass is [blocks begin, blocks end, final norm begins, unembedding ends].
    passes = torch.tensor([marks[t][-4:] for t in range(1, len(ends))], dtype=torch.float64)
    step = by_place(torch.tensor(ends, dtype=torch.float64).diff())
    return Circle(
        *(
            values.quantile(0.5, dim=0).tolist()
            for values in (
                step,
                step - step[:, :1],
                by_place(passes[:, 1] - passes[:, 0]),
                by_place(passes[:, 3] - passes[:, 2]),
            )
        )
    )


def rerun_rows(
    reruns: Mapping[int, Sequence[tuple[int, int]]], circled: Mapping[int, Sequence[Circle]], n_layers: int
) -> list[dict[str, Any]]:
    rows = []
    for batch, which in reruns.items():
        for place, (inject, n_rows) in enumerate(which, 1):
            own, same = circled[batch], circled[n_rows]  # a turn's decode of this batch; of as many rows as run again
            rows.append(
                {
                    "batch": batch,
                    "rows": n_rows,
                    "inject": inject,
                    "n_layers": n_layers,
                    "plain_ms": spread([1e3 * c.step[0] for c in own]),
                    "step_ms": spread([1e3 * c.step[place] for c in own]),
                    "extra_ms": spread([1e3 * c.extra[place] for c in own]),
                    "same_rows_ms": spread([1e3 * s.step[0] for s in same]),
                    "extra_share": spread([c.extra[place] / s.step[0] for c, s in zip(own, same, strict=True)]),
                    "target_share": spread(
                        [
                            target_share(
                                inject, n_layers, blocks=s.blocks[0], unembedding=s.unembedding[0], plain=s.step[0]
                            )
                            for s in same
                        ]
                    ),
                    "blocks_ms": spread([1e3 * s.blocks[0] for s in same]),
                    "unembedding_ms": spread([1e3 * s.unembedding[0] for s in same]),
                    "rerun_blocks_ms": spread([1e3 * c.blocks[place] for c in own]),
                    "rerun_unembedding_ms": spread([1e3 * c.unembedding[place] for c in own]),
                }
            )
    return rows

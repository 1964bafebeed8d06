"""Where the residual streams of a batch that is being decoded go, step by step.

For :class:`interp.ResidualSites` into preallocated buffers, a block a shape for each response; for
:class:`interp.ResidualStream` to a callback, storing nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.engines.base import Engine
from interp.record import Blocks, RecordPlan, ResidualSites, ResidualStream, StepResiduals, buffer, kept_on

__all__ = ["Sink", "sink_for"]


class Sink:
    """Where the residuals of a batch go: it is given a step at a time and asked for a row at a time.

    This one lets them go. Rows are told by their places in the list of prompts.
    """

    def add(self, rows: list[int], t: int, values: Blocks) -> None:
        """Take step ``t`` of these rows, ``[place, row, *shape]`` of each shape; valid until this returns."""

    def take(self, row: int, steps: int) -> dict[str, Float[Tensor, "_ step ..."]]:
        """What has been kept of a row that leaves after ``steps`` steps."""
        return {}


class _Keeping(Sink):
    """Into preallocated buffers, one a row."""

    def __init__(
        self, record: ResidualSites, plan: RecordPlan, rows: Sequence[int], steps: int, engine: Engine
    ) -> None:
        self.plan = plan
        # Copies from a GPU to pinned memory need no waiting.
        pinned = kept_on(record, engine).type == "cpu" and engine.device.type == "cuda"
        self.buffers = {row: buffer(record, plan, steps, engine, pinned) for row in rows}
        self._wait: Callable[[], None] = torch.cuda.synchronize if pinned else lambda: None

    def add(self, rows: list[int], t: int, values: Blocks) -> None:
        for i, row in enumerate(rows):
            for shape, held in self.buffers[row].items():
                held[:, t].copy_(values[shape][:, i], non_blocking=True)

    def take(self, row: int, steps: int) -> dict[str, Float[Tensor, "_ step ..."]]:
        self._wait()
        whole = self.buffers.pop(row)
        return self.plan.by_site(
            {shape: held if steps == held.shape[1] else held[:, :steps].clone() for shape, held in whole.items()}
        )


class _Streaming(Sink):
    """To whoever asked, nothing kept."""

    def __init__(self, record: ResidualStream, plan: RecordPlan) -> None:
        self.record, self.plan = record, plan

    def add(self, rows: list[int], t: int, values: Blocks) -> None:
        device, dtype = self.record.device, self.record.dtype
        views = {site: view.to(device=device, dtype=dtype) for site, view in self.plan.by_site(values).items()}
        self.record.on_step(StepResiduals(t, rows, views))


def sink_for(record: ResidualSites | None, plan: RecordPlan, rows: Sequence[int], steps: int, engine: Engine) -> Sink:
    """The sink that these rows, of at most ``steps`` steps each, need for what was asked for."""
    if isinstance(record, ResidualStream):
        return _Streaming(record, plan)
    return Sink() if record is None else _Keeping(record, plan, rows, steps, engine)

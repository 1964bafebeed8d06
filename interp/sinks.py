"""Where the residual streams of rows that are being decoded go, step by step.

For :class:`interp.ResidualSites` into preallocated buffers, a block a shape for each response, or into files, some
steps at a time; for :class:`interp.ResidualStream` to a callback, storing nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from interp.engines.base import Engine
from interp.on_disk import Files
from interp.record import Blocks, RecordPlan, ResidualSites, ResidualStream, Shape, StepResiduals, buffer, kept_on

__all__ = ["Sink", "sink_for"]

FILED = 32  # steps of a row that are written at once


class Sink:
    """Where residuals go: it is given a step of the rows that are going at a time, and asked for a row at a time.

    This one lets them go. Rows are told by their places in the list of prompts; they may come at any time.
    """

    def add(self, rows: list[int], steps: list[int], values: Blocks) -> None:
        """Take step ``steps[i]`` of each row, ``[place, row, *shape]`` of each shape; valid until this returns."""

    def take(self, row: int, steps: int) -> dict[str, Float[Tensor, "_ step ..."]]:
        """What has been kept of a row that leaves after ``steps`` steps."""
        return {}

    def close(self) -> None:
        """Nothing more comes; rows that have not been taken are given up."""


class _Keeping(Sink):
    """Into preallocated buffers, one a row."""

    def __init__(self, record: ResidualSites, plan: RecordPlan, steps: int, engine: Engine) -> None:
        self.plan = plan
        # Copies from a GPU to pinned memory need no waiting.
        pinned = kept_on(record, engine).type == "cpu" and engine.device.type == "cuda"
        self._new = partial(buffer, record, plan, steps, engine, pinned)
        self.buffers: dict[int, dict[Shape, Float[Tensor, "place step ..."]]] = {}
        self._wait: Callable[[], None] = torch.cuda.synchronize if pinned else lambda: None

    def add(self, rows: list[int], steps: list[int], values: Blocks) -> None:
        for i, (row, step) in enumerate(zip(rows, steps, strict=True)):
            if row not in self.buffers:
                self.buffers[row] = self._new()
            for shape, held in self.buffers[row].items():
                held[:, step].copy_(values[shape][:, i], non_blocking=True)

    def take(self, row: int, steps: int) -> dict[str, Float[Tensor, "_ step ..."]]:
        self._wait()
        whole = self.buffers.pop(row)
        return self.plan.by_site(
            {shape: held if steps == held.shape[1] else held[:, :steps].clone() for shape, held in whole.items()}
        )


class _Filing(_Keeping):
    """Into files, one a row: buffers of some steps, written when they are full."""

    def __init__(self, record: ResidualSites, plan: RecordPlan, engine: Engine) -> None:
        super().__init__(record, plan, FILED, engine)
        self.folder, self.dtype = Path(record.folder or ""), record.dtype or engine.dtype
        self.files: dict[int, Files] = {}

    def add(self, rows: list[int], steps: list[int], values: Blocks) -> None:
        for row in rows:
            if row not in self.files:
                self.files[row] = Files(self.folder, row, self.plan.groups, self.dtype)
        super().add(rows, [step % FILED for step in steps], values)
        full = [(row, step) for row, step in zip(rows, steps, strict=True) if step % FILED == FILED - 1]
        if full:
            self._wait()
        for row, step in full:
            self.files[row].write(step + 1 - FILED, self.buffers[row])

    def take(self, row: int, steps: int) -> dict[str, Float[Tensor, "_ step ..."]]:
        self._wait()
        held, left = self.buffers.pop(row), steps % FILED
        if left:
            self.files[row].write(steps - left, {shape: block[:, :left] for shape, block in held.items()})
        return self.plan.by_site(self.files.pop(row).done(steps))

    def close(self) -> None:
        for files in self.files.values():
            files.drop()


class _Streaming(Sink):
    """To whoever asked, nothing kept."""

    def __init__(self, record: ResidualStream, plan: RecordPlan) -> None:
        self.record, self.plan = record, plan

    def add(self, rows: list[int], steps: list[int], values: Blocks) -> None:
        device, dtype = self.record.device, self.record.dtype
        for step in sorted(set(steps)):
            here = [i for i, at in enumerate(steps) if at == step]
            some = values if len(here) == len(rows) else {shape: held[:, here] for shape, held in values.items()}
            views = {site: view.to(device=device, dtype=dtype) for site, view in self.plan.by_site(some).items()}
            self.record.on_step(StepResiduals(step, [rows[i] for i in here], views))


def sink_for(record: ResidualSites | None, plan: RecordPlan, steps: int, engine: Engine) -> Sink:
    """The sink that rows of at most ``steps`` steps each need for what was asked for."""
    if isinstance(record, ResidualStream):
        return _Streaming(record, plan)
    if record is None:
        return Sink()
    return _Keeping(record, plan, steps, engine) if record.folder is None else _Filing(record, plan, engine)

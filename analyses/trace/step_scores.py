"""Scores of the steps of a batch while it is decoded or read, so that no residual stream is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from interp.record import StepResiduals

__all__ = ["Beside", "StepScores"]

CHUNK_STEPS = 32  # scored at once: an nHSIC of 30 layers takes a quarter of the time it takes one step at a time
CHUNK_BYTES = 1 << 28  # of streams that are held for it, whatever the model


@runtime_checkable
class Beside(Protocol):
    """Other answers' references that responses are scored beside (:class:`analyses.trace.others.OtherReferences`)."""

    @property
    def positions(self) -> tuple[str, ...]: ...

    def read(self, problems: Sequence[str], layers: Sequence[int]) -> None: ...

    def scored(
        self,
        problems: Sequence[str],
        layers: Sequence[int],
        steps: Float[Tensor, "row layer step d_model"],
        own: Float[Tensor, "row position layer d_model"],
    ) -> list[dict[str, Float64[Tensor, "layer step"]]]: ...

    def told(self, problem: str, layers: Sequence[int]) -> dict[str, Any]: ...

    def wanted(self, layers: Sequence[int]) -> dict[str, Any]: ...


class StepScores:
    """Takes streamed residuals and scores them ``CHUNK_STEPS`` at a time, with the other references where asked.

    A step may have other rows than the one before it: rows that leave, or join, are scored with those beside them.

    Args:
        score: of steps ``[row, layer, step, d_model]`` with an answer a row and layer.
        answers: the own reference's, of each row, at each position it is read.
    """

    def __init__(
        self,
        score: Callable[..., Float64[Tensor, "row layer step"]],
        others: Beside | None,
        layers: Sequence[int],
        site: str,
        problems: Sequence[str],
        answers: Float[Tensor, "row position layer d_model"],
    ) -> None:
        self.score, self.others, self.layers, self.site = score, others, layers, site
        self.problems, self.answers = problems, answers
        self.held: list[tuple[list[int], Float[Tensor, "layer row d_model"]]] = []
        self.bytes = 0
        self.done: list[list[dict[str, Tensor]]] = [[] for _ in answers]

    def add(self, step: StepResiduals) -> None:
        streams = step.residuals[self.site].clone()
        self.held.append((list(step.rows), streams))
        self.bytes += streams.nbytes
        # Before the next step, which is likely to be as large, would exceed the bounds
        if len(self.held) == CHUNK_STEPS or self.bytes + streams.nbytes > CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        here: dict[int, list[int]] = {}
        for number, (rows, _) in enumerate(self.held):
            for row in rows:
                here.setdefault(row, []).append(number)
        alike: dict[tuple[int, ...], list[int]] = {}
        for row, numbers in here.items():
            alike.setdefault(tuple(numbers), []).append(row)
        for together, members in alike.items():
            # Of the same steps; [row, layer, step, d_model]
            steps = torch.stack([_of(*self.held[number], members) for number in together], dim=2).transpose(0, 1)
            for row, found in zip(members, self._scores(members, steps), strict=True):
                self.done[row].append(found)
        self.held, self.bytes = [], 0

    def _scores(self, rows: list[int], steps: Float[Tensor, "row layer step d_model"]) -> list[dict[str, Tensor]]:
        answers = self.answers[rows]
        if self.others is None:
            return [{"mi": mi} for mi in self.score(steps, answers[:, 0]).cpu()]
        return self.others.scored([self.problems[row] for row in rows], self.layers, steps, answers)

    def finish(self) -> list[dict[str, Tensor]]:
        """Each row's tensors ``[layer, step]``, by name."""
        self.flush()
        return [{name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]} for parts in self.done]


def _of(
    rows: list[int], streams: Float[Tensor, "layer row d_model"], wanted: list[int]
) -> Float[Tensor, "layer wanted d_model"]:
    """The streams of some of the rows; without a copy where they are all, in their order."""
    return streams if rows == wanted else streams[:, [rows.index(row) for row in wanted]]

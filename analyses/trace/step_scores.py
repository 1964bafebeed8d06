"""Scores of the steps of a batch while it is decoded or read, so that no residual stream is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from interp.record import StepResiduals

__all__ = ["Beside", "StepScores"]

CHUNK_STEPS = 32  # steps scored at once: enough to keep nHSIC busy, few enough to stay small


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
        # Rows that are at one step come together, until one of them leaves; others come by themselves
        self.held: dict[tuple[int, ...], list[Float[Tensor, "layer row d_model"]]] = {}
        self.held_with: dict[int, tuple[int, ...]] = {}
        self.done: list[list[dict[str, Tensor]]] = [[] for _ in answers]

    def add(self, step: StepResiduals) -> None:
        rows = tuple(step.rows)
        for held in {self.held_with[row] for row in rows if row in self.held_with}:
            if held != rows or len(self.held[held]) == CHUNK_STEPS:
                self._flush(held)
        self.held.setdefault(rows, []).append(step.residuals[self.site].clone())
        self.held_with |= dict.fromkeys(rows, rows)

    def _flush(self, rows: tuple[int, ...]) -> None:
        steps = torch.stack(self.held.pop(rows), dim=2).transpose(0, 1)  # [row, layer, step, d_model]
        for row, found in zip(rows, self._scores(rows, steps), strict=True):
            self.done[row].append(found)
            del self.held_with[row]

    def _scores(self, rows: Sequence[int], steps: Float[Tensor, "row layer step d_model"]) -> list[dict[str, Tensor]]:
        answers = self.answers[list(rows)]
        if self.others is None:
            return [{"mi": mi} for mi in self.score(steps, answers[:, 0]).cpu()]
        return self.others.scored([self.problems[row] for row in rows], self.layers, steps, answers)

    def finish(self) -> list[dict[str, Tensor]]:
        """Each row's tensors ``[layer, step]``, by name."""
        for rows in list(self.held):
            self._flush(rows)
        return [{name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]} for parts in self.done]

"""Scores of the steps of a batch while it is decoded or read, so that no residual stream is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from analyses.trace.scoring_place import Aside
from interp.devices import on_device
from interp.record import StepResiduals
from probes.answers import AnswerFactor
from probes.scoring import nhsic_with

__all__ = ["Beside", "StepScores"]

CHUNK_STEPS = 32  # scored at once: an nHSIC of 30 layers takes a quarter of the time it takes one step at a time
_RANK = 32  # that an answer's kernel seldom exceeds
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
        own: Any,
        rows: Sequence[int],
    ) -> list[dict[str, Float64[Tensor, "layer step"]]]: ...

    def own(self, answers: Float[Tensor, "row position layer d_model"]) -> Any: ...

    def told(self, problem: str, layers: Sequence[int]) -> dict[str, Any]: ...

    def wanted(self, layers: Sequence[int]) -> dict[str, Any]: ...


class StepScores:
    """Takes streamed residuals and scores them ``CHUNK_STEPS`` at a time, with the other references where asked.

    A step may have other rows than the one before it: rows that leave, or join, are scored with those beside them.

    Args:
        score: of steps ``[row, layer, step, d_model]`` with an answer a row and layer.
        factor: of answers ``[row, layer, d_model]``, what makes nHSIC's answers ready: rows that are scored together
            time and again then have theirs made so once, where they are not too large to be held.
        answers: the own reference's, of each row, at each position it is read; where the streams will be.
        is_beside: whether another thread scores, while this one goes on.
    """

    def __init__(
        self,
        score: Callable[..., Float64[Tensor, "row layer step"]],
        others: Beside | None,
        layers: Sequence[int],
        site: str,
        problems: Sequence[str],
        answers: Float[Tensor, "row position layer d_model"],
        is_beside: bool = False,
        factor: Callable[[Float[Tensor, "row layer d_model"]], AnswerFactor] | None = None,
    ) -> None:
        self.aside = Aside(is_beside)
        self.factor = factor
        self.ready: dict[tuple[int, ...], AnswerFactor] = {}  # by the rows that were scored together
        self.score, self.others, self.layers, self.site = score, others, layers, site
        self.problems, self.answers = problems, answers
        self.own = None if others is None else others.own(answers)
        self.held: list[tuple[list[int], Float[Tensor, "layer row d_model"]]] = []
        self.count: Counter[int] = Counter()  # steps that are held, by row
        self.bytes = 0
        self.done: list[list[dict[str, Tensor]]] = [[] for _ in answers]

    def add(self, step: StepResiduals) -> None:
        streams = step.residuals[self.site].clone()
        self.held.append((list(step.rows), streams))
        self.count.update(step.rows)
        self.bytes += streams.nbytes
        # Before the next step, which is likely to be as large, would exceed the bounds
        if max(self.count.values()) == CHUNK_STEPS or self.bytes + streams.nbytes > CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        here: dict[int, list[int]] = {}
        for number, (rows, _) in enumerate(self.held):
            for row in rows:
                here.setdefault(row, []).append(number)
        alike: dict[tuple[int, ...], list[int]] = {}
        for row, numbers in here.items():
            alike.setdefault(tuple(numbers), []).append(row)
        for same, members in alike.items():
            # Of the same steps; [row, layer, step, d_model]
            steps = torch.stack([_of(*self.held[number], members) for number in same], dim=2).transpose(0, 1)
            self.aside.call(self._score, members, steps)
        self.held, self.bytes = [], 0
        self.count.clear()

    def _score(self, rows: Sequence[int], steps: Float[Tensor, "row layer step d_model"]) -> None:
        for row, found in zip(rows, self._scores(rows, steps), strict=True):
            self.done[row].append(found)

    def _scores(self, rows: Sequence[int], steps: Float[Tensor, "row layer step d_model"]) -> list[dict[str, Tensor]]:
        if self.others is None:
            return [{"mi": mi} for mi in self._own(tuple(rows), steps).cpu()]
        return self.others.scored([self.problems[row] for row in rows], self.layers, steps, self.own, rows)

    def _own(
        self, rows: tuple[int, ...], steps: Float[Tensor, "row layer step d_model"]
    ) -> Float64[Tensor, "row layer step"]:
        if (ready := self.ready.get(rows)) is not None:
            return nhsic_with(steps, ready)
        answers = torch.stack([self.answers[row, 0] for row in rows])
        if self.factor is None or _RANK * 8 * answers.numel() > CHUNK_BYTES:
            return self.score(steps, answers)
        if sum(one.whitened.nbytes for one in self.ready.values()) > CHUNK_BYTES:
            self.ready.clear()
        ready = self.ready[rows] = self.factor(answers)
        return nhsic_with(steps, ready)

    def finish(self) -> list[dict[str, Tensor]]:
        """Each row's tensors ``[layer, step]``, by name."""
        self.flush()
        self.aside.settle()
        return [{name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]} for parts in self.done]


def _of(
    rows: list[int], streams: Float[Tensor, "layer row d_model"], wanted: list[int]
) -> Float[Tensor, "layer wanted d_model"]:
    """The streams of some of the rows; without a copy where they are all, in their order."""
    if rows == wanted:
        return streams
    return streams.index_select(1, on_device([rows.index(row) for row in wanted], streams.device, torch.long))

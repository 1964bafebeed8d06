"""Steps scored against factorised answers: every trajectory with every answer it meets, within a memory.

A step is factorised once, whatever it meets; few meetings of many trajectories go through one product, many answers of
one trajectory through another.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float64
from torch import Tensor

from probes.answers import AnswerFactor, factored_answers
from probes.checks import check_device, check_max_bytes
from probes.chunks import DEFAULT_MAX_BYTES, Meetings, Take, vectors_of
from probes.compiled_steps import CompiledSteps
from probes.expansion import Expansion
from probes.kernel import Kernel
from probes.lowrank import blocks, fewest
from probes.scale import rescaled
from probes.shared import shared
from probes.step_blocks import MANY, Expanded, Factored, Met, block_of

__all__ = ["nhsic_with", "paired_scores"]

_SHORT = 8  # steps and answers of a trajectory below which all trajectories of a block go through one product


def nhsic_with(
    steps: Tensor, factor: AnswerFactor, *, max_bytes: int = DEFAULT_MAX_BYTES
) -> Float64[Tensor, "*lead step"]:
    """nHSIC of steps `[*lead, step, d_model]` with factorised answers; each step is factorised once for all of them.

    >>> steps = torch.arange(12.0).sin().reshape(3, 4) * 30
    >>> from probes.answers import factor_answers
    >>> nhsic_with(steps, factor_answers(steps[-1])).shape
    torch.Size([3])

    Unit, errors and source as for `nhsic`. With `drop_top` the kept coordinates depend on the answer, so steps are then
    factorised once for each answer.
    """
    check_max_bytes("nhsic", max_bytes)
    kernel = replace(factor.kernel, operation="nhsic")
    kernel.check_steps(steps, factor.lead, factor.d_model)
    check_device("nhsic", steps, factor.whitened)
    meet = Meetings.of(tuple(steps.shape[:-2]), factor.lead)
    out = torch.zeros(len(meet.answer), steps.shape[-2], dtype=torch.float64, device=steps.device)
    scorer = _Scorer(steps, kernel, meet.lead, max_bytes)
    scorer.fill(out, factor, torch.arange(len(meet.answer)), meet.trajectory, meet.answer)
    return out.reshape(*meet.lead, steps.shape[-2])


def paired_scores(
    steps: Tensor, answer: Tensor, kernel: Kernel, *, max_bytes: int
) -> tuple[Float64[Tensor, "*lead step"], Float64[Tensor, "*lead"]]:
    """nHSIC, or kernel CKA without `kernel.eps`, of checked steps and answers, and the answers' bandwidths.

    Answers are factorised in parts that fit, and the steps that meet them once for each part.
    """
    check_device(kernel.operation, steps, answer)
    meet = Meetings.of(tuple(steps.shape[:-2]), tuple(answer.shape[:-1]))
    n_answers = math.prod(answer.shape[:-1])
    out = torch.zeros(len(meet.answer), steps.shape[-2], dtype=torch.float64, device=steps.device)
    bandwidth = torch.zeros(n_answers, dtype=torch.float64, device=steps.device)
    scorer = _Scorer(steps, kernel, meet.lead, max_bytes // 2)
    for rows, factor in factored_answers(answer, kernel, max_bytes=max_bytes // 2, room=max_bytes / 2):
        bandwidth[rows] = factor.bandwidth
        local = torch.full((n_answers,), -1)
        local[rows.cpu()] = torch.arange(len(rows))
        cells = torch.arange(len(meet.answer)) if len(rows) == n_answers else (local[meet.answer] >= 0).nonzero()[:, 0]
        scorer.fill(out, factor, cells, meet.trajectory[cells], local[meet.answer[cells]])
    return out.reshape(*meet.lead, steps.shape[-2]), bandwidth.reshape(answer.shape[:-1]).expand(meet.lead)


class _Scorer:
    """Scores of the steps of some trajectories, in parts that fit a memory."""

    def __init__(self, steps: Tensor, kernel: Kernel, lead: tuple[int, ...], max_bytes: int) -> None:
        self.kernel, self.lead, self.max_bytes = kernel, lead, max_bytes
        self.n_steps, self.steps = steps.shape[-2], vectors_of(steps)
        if isinstance(kernel.sigma, str) and not kernel.drop_top:
            # All bandwidths at once: a step without one is refused before any work, and none is looked for twice.
            like, shape = steps.new_empty(0, steps.shape[-1]), tuple(steps.shape[:-1])
            self.steps, _ = rescaled(
                kernel.operation, "steps", self.steps, like, sigma=kernel.sigma, shape=shape, max_bytes=max_bytes
            )

    def fill(self, out: Tensor, factor: AnswerFactor, cells: Tensor, trajectory: Tensor, answer: Tensor) -> None:
        """Rows `cells` of `out [cell, step]`, in each of which a trajectory meets an answer of `factor`."""
        n_steps, device = self.n_steps, out.device
        if len(cells) == 1:
            self._fill_one(out, factor, cells, trajectory, answer)
            return
        # A source is factorised once, whatever it meets: a trajectory, or with coordinates left out a cell of its own.
        if factor.keep is None:
            sources, source_of = trajectory.unique(return_inverse=True)
        else:
            sources, source_of = trajectory, torch.arange(len(cells))
        order, counts = source_of.argsort(stable=True), source_of.bincount()
        begins = counts.cumsum(0) - counts
        take = self._take(factor, sources.to(device), answer.to(device), cells)
        n_rows, max_bytes = len(sources) * n_steps, self.max_bytes // 2
        few = len(cells) * n_steps <= _SHORT * len(sources)
        least = fewest(not few and int(counts.max()) > MANY, device)

        def fill(todo: Tensor, max_bytes: int) -> None:
            for rows, found in blocks(take, factor.whitened, self.kernel, todo, max_bytes=max_bytes, least=least):
                block = _block_of(found, self.kernel)
                at, step = rows // n_steps, (rows % n_steps).to(device)
                if few:
                    count = counts[at]
                    local = torch.arange(len(at)).repeat_interleave(count)
                    # The how-manieth meeting of its source each is.
                    nth = torch.arange(len(local)) - (count.cumsum(0) - count).repeat_interleave(count)
                    met = order[begins[at[local]] + nth]
                    own = Met(factor.whitened, answer[met])
                    scores = block.each(local, own, max_bytes=max_bytes)
                    out[cells[met].to(device), step[local]] = scores
                    continue
                met_by, lengths = torch.unique_consecutive(at, return_counts=True)
                ends = lengths.cumsum(0).tolist()
                mine = [order[begins[source] : begins[source] + counts[source]] for source in met_by.tolist()]
                spans = [slice(end - length, end) for end, length in zip(ends, lengths.tolist(), strict=True)]
                meetings = [(span, Met(factor.whitened, answer[some])) for span, some in zip(spans, mine, strict=True)]
                for number, some, scores in block.with_all(meetings, max_bytes=max_bytes):
                    cell = cells[mine[number][some]].to(device)
                    out[cell[:, None], step[spans[number]]] = scores.T

        shared(fill, n_rows, factor.whitened.shape[-1], max_bytes, device)

    def _fill_one(self, out: Tensor, factor: AnswerFactor, cells: Tensor, trajectory: Tensor, answer: Tensor) -> None:
        """One trajectory with one answer: no need to find out which meets which."""
        take = self._take(factor, trajectory.to(out.device), answer.to(out.device), cells)
        own, row = Met(factor.whitened, answer), out[int(cells)]

        def fill(todo: Tensor, max_bytes: int) -> None:
            for rows, found in blocks(take, factor.whitened, self.kernel, todo, max_bytes=max_bytes):
                block = _block_of(found, self.kernel)
                for _, _, scores in block.with_all([(slice(0, len(rows)), own)], max_bytes=max_bytes):
                    row[rows.to(out.device)] = scores[:, 0]

        shared(fill, self.n_steps, factor.whitened.shape[-1], self.max_bytes // 2, out.device)

    def _take(self, factor: AnswerFactor, sources: Tensor, answer: Tensor, cells: Tensor) -> Take:
        """Steps by number: step t of source s is s * n_steps + t."""
        n_steps = self.n_steps

        def whole(rows: Tensor) -> Tensor:
            return self.steps(sources[rows // n_steps] * n_steps + rows % n_steps)

        if factor.keep is None:
            return whole
        keep = factor.keep

        def kept(rows: Tensor) -> Tensor:
            return whole(rows).gather(1, keep[answer[rows // n_steps]])

        if not isinstance(self.kernel.sigma, str):
            return kept

        def place(row: int) -> int:
            return int(cells[row // n_steps]) * n_steps + row % n_steps

        take, _ = rescaled(
            self.kernel.operation, "steps", kept, factor.whitened, sigma=self.kernel.sigma, shape=(*self.lead, n_steps),
            max_bytes=self.max_bytes, n_rows=len(cells) * n_steps, place=place,
        )  # fmt: skip
        return take


def _block_of(found: CompiledSteps | Expansion | Tensor, kernel: Kernel) -> CompiledSteps | Expanded | Factored:
    return found if isinstance(found, CompiledSteps) else block_of(found, kernel)

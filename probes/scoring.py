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

from probes.answers import AnswerFactor, factored_answers, gram_norm, ridge_cholesky
from probes.checks import check_device, check_max_bytes
from probes.chunks import DEFAULT_MAX_BYTES, Meetings, Take, parts, vectors_of
from probes.kernel import Kernel
from probes.lowrank import factor_blocks
from probes.scale import rescaled

__all__ = ["nhsic_with", "paired_scores"]

_MANY = 4  # answers from which on the other order of products is faster
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
        with torch.no_grad():
            for rows, p in factor_blocks(take, factor.whitened, self.kernel, n_rows=n_rows, max_bytes=max_bytes):
                block = _Block(p, self.kernel.eps)
                at, step = (rows // n_steps).cpu(), rows % n_steps
                bytes_each = 8 * p.shape[1] * (3 * factor.whitened.shape[1] + factor.whitened.shape[2])
                if few:
                    count = counts[at]
                    local = torch.arange(len(at)).repeat_interleave(count)
                    # The how-manieth meeting of its source each is.
                    nth = torch.arange(len(local)) - (count.cumsum(0) - count).repeat_interleave(count)
                    met = order[begins[at[local]] + nth]
                    bytes_each += 8 * factor.whitened[0].numel()
                    for part in parts(len(local), bytes_each, max_bytes):
                        some, here = met[part].to(device), local[part].to(device)
                        scores = block.each_with_its_own(here, factor.whitened[answer[met[part]].to(device)])
                        out[cells[met[part]].to(device), step[here]] = scores
                    continue
                found, lengths = torch.unique_consecutive(at, return_counts=True)
                begin = 0
                for source, length in zip(found.tolist(), lengths.tolist(), strict=True):
                    part = slice(begin, begin := begin + length)
                    mine = order[begins[source] : begins[source] + counts[source]]
                    # The product with many answers at once is what grows.
                    for some in parts(len(mine), length * bytes_each, max_bytes):
                        scores = block.with_all(part, _taken(factor.whitened, answer[mine[some]]))
                        out[cells[mine[some]].to(device)[:, None], step[part]] = scores.T

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


class _Block:
    """Some steps' factors P `[row, rank, d]`, with what brings a product P_x Y^T to a score."""

    def __init__(self, p: Tensor, eps: float | int | None) -> None:
        self.p = p
        self.cholesky = None if eps is None else ridge_cholesky(p, eps)
        self.norm = gram_norm(p) if eps is None else None

    def each_with_its_own(self, rows: Tensor, whitened: Tensor) -> Tensor:
        """[row] scores of the rows, each with the answer beside it."""
        cross = self.p[rows] @ whitened.mT
        if self.cholesky is not None:
            cross = torch.linalg.solve_triangular(self.cholesky[rows], cross, upper=False)
        return self._scaled(cross.square_().sum(dim=(1, 2)), rows)

    def with_all(self, part: slice, whitened: Tensor) -> Tensor:
        """[row, answer] scores of the rows of the part with all of the answers."""
        cholesky = None if self.cholesky is None else self.cholesky[part]
        return self._scaled(_contract(self.p[part], cholesky, whitened), part)

    def _scaled(self, scores: Tensor, rows: Tensor | slice) -> Tensor:
        if self.norm is None:
            return scores
        return scores / self.norm[rows].reshape(-1, *[1] * (scores.ndim - 1))  # a constant vector: 0 / 0


def _contract(p: Tensor, cholesky: Tensor | None, whitened: Tensor) -> Tensor:
    """[row, answer] squared Frobenius norms of A_x^-1 P_x (A_y^-1 P_y)^T: never negative, whatever the rounding."""
    n, rank, d = p.shape
    if len(whitened) > _MANY:
        # Whitening the step before the product spares one triangular solve an answer, and a copy of the product.
        step = p if cholesky is None else torch.linalg.solve_triangular(cholesky, p, upper=False)
        cross = step.reshape(n * rank, d) @ whitened.reshape(-1, d).T
        return cross.square_().reshape(n, rank, *whitened.shape[:2]).sum(dim=(1, 3))
    # The wide factor on the right: up to twice as fast as the other way round on CPU.
    cross = (
        (whitened.reshape(-1, d) @ p.reshape(n * rank, d).T)
        .reshape(len(whitened) * whitened.shape[1], n, rank)
        .permute(1, 2, 0)
    )
    if cholesky is not None:
        cross = torch.linalg.solve_triangular(cholesky, cross, upper=False)
    return cross.square_().sum(dim=1).reshape(n, *whitened.shape[:2]).sum(dim=-1)


def _taken(whitened: Tensor, answers: Tensor) -> Tensor:
    """Some answers' factors; without a copy where they follow one another, as all of them do for a null."""
    first, count = int(answers[0]), len(answers)
    if bool((answers == torch.arange(first, first + count)).all()):
        return whitened[first : first + count]
    return whitened[answers.to(whitened.device)]

"""Normalised HSIC between the residual of each step and that of the answer.

With x a step's vector and y the answer's, both read as `d` paired scalar samples, K and L their Gaussian kernels,
H = I - 11^T/d and R_x = K H (K H + eps d I)^-1:

    nHSIC = tr(R_x R_y) = || A_x^-1 P_x P_y^T A_y^-T ||_F^2,   P^T P = H K H,   A A^T = P P^T + eps d I

`nhsic_dense` is the left-hand side, O(d^3) a step; `nhsic` is the right-hand side (push-through identity), O(d r^2)
with r the numerical rank of the kernel, the answer factorised once. `factor_answers` and `nhsic_with` are its two
halves, for callers who score one trajectory against many answers.

The result is a dimensionless dependence score, not bits or nats, bounded by the kernel's effective rank.
Source: Qian et al. 2025 (arXiv 2506.02867) and the authors' scripts MI-Peaks; normalised cross-covariance after
Fukumizu et al. 2007. The paper says HSIC; the authors' scripts compute the normalised form above.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from probes.bandwidth import no_bandwidth, rescaled
from probes.checks import (
    SMALLEST_EPS,
    SMALLEST_EPS_DENSE,
    check_device,
    check_drop_top,
    check_fit,
    check_options,
    check_pair,
    check_tensor,
    median_multiple,
)
from probes.chunks import Meetings, Take, parts, vectors_of
from probes.lowrank import DEFAULT_EPS, DEFAULT_MAX_BYTES, factor_blocks

__all__ = ["AnswerFactor", "factor_answers", "nhsic", "nhsic_dense", "nhsic_with"]


def nhsic(
    steps: Tensor,
    answer: Tensor,
    *,
    sigma: float | int | str = 50.0,
    eps: float | int = 1e-5,
    tol: float | int = 1e-10,
    drop_top: int = 0,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Float64[Tensor, "*lead step"]:
    """nHSIC of every step `[*lead, step, d_model]` with the answer `[*lead, d_model]`; leading axes broadcast.

    >>> steps = torch.arange(24.0).sin().reshape(2, 3, 4) * 30  # two layers, three steps, d_model = 4
    >>> nhsic(steps, steps[:, -1]).shape
    torch.Size([2, 3])

    Unit: a dimensionless dependence score, not bits or nats, bounded by the kernel's effective rank (at most
    `d_model - 1`); a constant vector scores exactly 0. Any floating dtype and device; float64 inside and out.
    Truncating the kernel changes the score by at most `2 * tol` (or rounding), so it agrees with `nhsic_dense`.

    `sigma` is a number in activation units, or "median": then each vector, step or answer, has its own, the median
    distance between its coordinates (`median_distance`), and the score depends on the scale of neither. Multiples are
    written "0.5*median". A vector that is not constant but has a median distance of 0 is refused.

    `drop_top=k` leaves the k largest-magnitude coordinates of the answer out of both vectors (massive activations;
    earlier coordinates first where magnitudes tie), and `d` becomes `d - k` in the formula; a median distance is that
    of the coordinates left. `max_bytes` bounds the
    working memory, down to one step at a time.

    Raises `InputError` for NaN or inf, for shapes that do not fit and for options out of range.

    Source: Qian et al. 2025, arXiv 2506.02867, and MI-Peaks (sigma = 50, eps = 1e-5); Fukumizu et al. 2007; Fine &
    Scheinberg 2001 for the incomplete Cholesky factorisation; Gretton et al. 2012 for the median heuristic.
    """
    check_pair("nhsic", steps, answer, sigma, drop_top)
    check_options("nhsic", sigma, eps, tol=tol, max_bytes=max_bytes, smallest_eps=SMALLEST_EPS)
    return paired_scores("nhsic", steps, answer, sigma=sigma, eps=eps, tol=tol, drop_top=drop_top, max_bytes=max_bytes)[
        0
    ]


def nhsic_dense(
    steps: Tensor,
    answer: Tensor,
    *,
    sigma: float | int | str = 50.0,
    eps: float | int = 1e-5,
    drop_top: int = 0,
) -> Float64[Tensor, "*lead step"]:
    """The defining formula of `nhsic`, written out in float64: O(d_model^3) a step, for tests and small cases.

    >>> steps = torch.arange(24.0).sin().reshape(2, 3, 4) * 30
    >>> nhsic_dense(steps, steps[0, 0]).shape
    torch.Size([2, 3])

    Unit, errors and source as for `nhsic`.
    """
    check_pair("nhsic_dense", steps, answer, sigma, drop_top)
    check_options("nhsic_dense", sigma, eps, smallest_eps=SMALLEST_EPS_DENSE)
    d_model = answer.shape[-1]
    lead = torch.broadcast_shapes(steps.shape[:-2], answer.shape[:-1])
    all_steps = steps.detach().expand(*lead, *steps.shape[-2:]).reshape(-1, *steps.shape[-2:])
    answers = answer.detach().expand(*lead, d_model).reshape(-1, d_model)
    scores: list[Tensor] = []
    for trajectory, y in zip(all_steps, answers, strict=True):
        keep = kept_coordinates(y[None], drop_top)[0] if drop_top else slice(None)
        r_y = _dense_operator(y[keep], "answer", sigma, eps)
        scores.extend((_dense_operator(x[keep], "steps", sigma, eps) * r_y.T).sum() for x in trajectory)
    return torch.stack(scores).reshape(*lead, steps.shape[-2])


def _dense_operator(x: Tensor, name: str, sigma: float | int | str, eps: float | int) -> Tensor:
    x = x.to(torch.float64)
    if isinstance(sigma, str):
        sigma = _dense_bandwidth(x, name, sigma)
    # K - 1 in place of K: 11^T H = 0, so K H is the same, and where coordinates are much closer than sigma its digits
    # survive (with exp the score of vectors of scale 1e-3 keeps an error of 3e-12, whatever its size).
    kernel = torch.expm1(-(x[:, None] - x[None, :]).square() / (2 * sigma**2))
    centred = kernel - kernel.mean(dim=1, keepdim=True)  # K H
    ridge = centred + eps * len(x) * torch.eye(len(x), dtype=x.dtype, device=x.device)
    return torch.linalg.solve(ridge, centred, left=False)


def _dense_bandwidth(x: Tensor, name: str, sigma: str) -> float:
    """The literal definition of "median", over all pairs; 1 for a constant vector, whose kernel has no scale."""
    first, second = torch.triu_indices(len(x), len(x), 1, device=x.device)
    distance = (x[first] - x[second]).abs().sort().values
    bandwidth = float((distance[(len(distance) - 1) // 2] + distance[len(distance) // 2]) / 2)
    if bandwidth == 0 and distance[-1] > 0:
        raise no_bandwidth("nhsic_dense", name, "one of them")
    return median_multiple("nhsic_dense", sigma) * bandwidth or 1.0


_MANY = 4  # answers from which on the other order of products is faster
_SHORT = 8  # steps and answers of a trajectory below which all trajectories of a block go through one product


@dataclass(frozen=True)
class AnswerFactor:
    """Answers ready to be scored against: A_y^-1 P_y per answer, zero-padded to one rank. Made by `factor_answers`.

    `sigma` as it was given: steps are treated likewise. `bandwidth` is each answer's own, in activation units. Without
    `eps` (kernel CKA) `whitened` is P_y over the square root of the norm of P_y^T P_y.
    """

    whitened: Float64[Tensor, "answer rank kept"]
    keep: Int64[Tensor, "answer kept"] | None
    lead: tuple[int, ...]
    d_model: int
    sigma: float | str
    eps: float | None
    tol: float
    bandwidth: Float64[Tensor, " answer"]


def factor_answers(
    answer: Tensor,
    *,
    sigma: float | int | str = 50.0,
    eps: float | int = 1e-5,
    tol: float | int = 1e-10,
    drop_top: int = 0,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> AnswerFactor:
    """Factorise answers `[*lead, d_model]` once, for any number of trajectories.

    >>> answers = torch.arange(400.0).cos().reshape(100, 4) * 30
    >>> steps = torch.arange(12.0).sin().reshape(3, 4) * 30
    >>> nhsic_with(steps, factor_answers(answers)).shape
    torch.Size([100, 3])

    The factors of all answers are held, whatever `max_bytes`, which bounds the work. Options, errors and source as for
    `nhsic`.
    """
    check_options("factor_answers", sigma, eps, tol=tol, max_bytes=max_bytes, smallest_eps=SMALLEST_EPS)
    check_tensor("factor_answers", "answer", answer, axes=("d_model",), sigma=sigma)
    check_drop_top("factor_answers", drop_top, answer.shape[-1])
    made = _factored_answers("factor_answers", answer, sigma, eps, tol, drop_top, max_bytes, room=math.inf)
    return next(made)[1]


def _factored_answers(
    operation: str,
    answer: Tensor,
    sigma: float | int | str,
    eps: float | int | None,
    tol: float | int,
    drop_top: int,
    max_bytes: int,
    room: float,
) -> Iterator[tuple[Int64[Tensor, " answer"], AnswerFactor]]:
    """Answers by number with their factors, as many at a time as fit `room` bytes, one at the least."""
    d_model, lead, like = answer.shape[-1], tuple(answer.shape[:-1]), answer.new_empty(0, answer.shape[-1] - drop_top)
    whole, count = vectors_of(answer), math.prod(answer.shape[:-1])

    def kept(rows: Tensor) -> Tensor:
        x = whole(rows)
        return x.gather(1, kept_coordinates(x, drop_top)) if drop_top else x

    take: Take = kept
    if isinstance(sigma, str):
        width = 1.0
        take, bandwidth = rescaled(operation, "answer", kept, like, sigma=sigma, shape=lead, max_bytes=max_bytes)
    else:
        sigma = width = float(sigma)
        bandwidth = torch.full((count,), sigma, dtype=torch.float64, device=answer.device)
    todo = torch.arange(count, device=answer.device)
    while len(todo):
        rows, factor = _as_many_as_fit(take, like, todo, width, eps, tol, max_bytes, room)
        if eps is None:
            factor = factor / gram_norm(factor).sqrt()[:, None, None]  # a constant answer: 0 / 0
        else:
            factor = torch.linalg.solve_triangular(_ridge_cholesky(factor, eps), factor, upper=False)
        keep = kept_coordinates(whole(rows), drop_top) if drop_top else None
        ridge = None if eps is None else float(eps)
        yield rows, AnswerFactor(factor, keep, lead, d_model, sigma, ridge, float(tol), bandwidth[rows])
        left = torch.ones(count, dtype=torch.bool, device=answer.device)
        left[rows] = False
        todo = todo[left[todo]]


def _as_many_as_fit(
    take: Take,
    like: Tensor,
    todo: Tensor,
    sigma: float,
    eps: float | int | None,
    tol: float | int,
    max_bytes: int,
    room: float,
) -> tuple[Tensor, Tensor]:
    """Some of the rows `todo`, ascending, with their factors `[row, rank, d]`."""
    kept: list[tuple[Tensor, Tensor]] = []
    count, rank = 0, 1  # one row at least, so that what is undefined shows in the score
    kernel = {"sigma": sigma, "eps": DEFAULT_EPS if eps is None else eps, "tol": tol}
    with torch.no_grad():
        blocks = factor_blocks(lambda rows: take(todo[rows]), like, n_rows=len(todo), max_bytes=max_bytes, **kernel)
        for rows, factor in blocks:
            for part in parts(len(rows), 1, len(rows) if math.isinf(room) else max(1, len(rows) // 4)):
                here = len(rows[part])
                # Thrice: as found, padded to one rank, and whitened.
                bytes_then = 3 * 8 * (count + here) * max(rank, factor.shape[1]) * like.shape[-1]
                if kept and bytes_then > room:
                    break
                kept.append((todo[rows[part]], factor[part].clone()))
                count, rank = count + here, max(rank, factor.shape[1])
            else:
                continue
            break
    rows = torch.cat([rows for rows, _ in kept]).sort().values
    place = torch.zeros(int(rows[-1]) + 1, dtype=torch.long, device=rows.device)
    place[rows] = torch.arange(len(rows), device=rows.device)
    out = torch.zeros(count, rank, like.shape[-1], dtype=torch.float64, device=like.device)
    while kept:
        some, factor = kept.pop()
        out[place[some], : factor.shape[1]] = factor
    return rows, out


def nhsic_with(
    steps: Tensor, factor: AnswerFactor, *, max_bytes: int = DEFAULT_MAX_BYTES
) -> Float64[Tensor, "*lead step"]:
    """nHSIC of steps `[*lead, step, d_model]` with factorised answers; each step is factorised once for all of them.

    >>> steps = torch.arange(12.0).sin().reshape(3, 4) * 30
    >>> nhsic_with(steps, factor_answers(steps[-1])).shape
    torch.Size([3])

    Unit, errors and source as for `nhsic`. With `drop_top` the kept coordinates depend on the answer, so steps are then
    factorised once for each answer.
    """
    check_options("nhsic", factor.sigma, factor.eps or DEFAULT_EPS, tol=factor.tol, max_bytes=max_bytes)
    check_tensor("nhsic", "steps", steps, axes=("step", "d_model"), sigma=factor.sigma)
    check_fit("nhsic", steps, factor.lead, factor.d_model)
    check_device("nhsic", steps, factor.whitened)
    meet = Meetings.of(tuple(steps.shape[:-2]), factor.lead)
    out = torch.zeros(len(meet.answer), steps.shape[-2], dtype=torch.float64, device=steps.device)
    scorer = _Scorer("nhsic", steps, factor.sigma, factor.keep is not None, meet.lead, max_bytes)
    scorer.fill(out, factor, torch.arange(len(meet.answer)), meet.trajectory, meet.answer)
    return out.reshape(*meet.lead, steps.shape[-2])


def paired_scores(
    operation: str,
    steps: Tensor,
    answer: Tensor,
    *,
    sigma: float | int | str,
    eps: float | int | None,
    tol: float | int = 1e-10,
    drop_top: int,
    max_bytes: int,
) -> tuple[Float64[Tensor, "*lead step"], Float64[Tensor, "*lead"]]:
    """nHSIC, or kernel CKA without `eps`, of checked steps and answers, and the answers' bandwidths.

    Answers are factorised in parts that fit, and the steps that meet them once for each part.
    """
    check_device(operation, steps, answer)
    meet = Meetings.of(tuple(steps.shape[:-2]), tuple(answer.shape[:-1]))
    n_answers = math.prod(answer.shape[:-1])
    out = torch.zeros(len(meet.answer), steps.shape[-2], dtype=torch.float64, device=steps.device)
    bandwidth = torch.zeros(n_answers, dtype=torch.float64, device=steps.device)
    scorer = _Scorer(operation, steps, sigma, drop_top > 0, meet.lead, max_bytes // 2)
    for rows, factor in _factored_answers(
        operation, answer, sigma, eps, tol, drop_top, max_bytes // 2, room=max_bytes / 2
    ):
        bandwidth[rows] = factor.bandwidth
        local = torch.full((n_answers,), -1)
        local[rows.cpu()] = torch.arange(len(rows))
        cells = torch.arange(len(meet.answer)) if len(rows) == n_answers else (local[meet.answer] >= 0).nonzero()[:, 0]
        scorer.fill(out, factor, cells, meet.trajectory[cells], local[meet.answer[cells]])
    return out.reshape(*meet.lead, steps.shape[-2]), bandwidth.reshape(answer.shape[:-1]).expand(meet.lead)


class _Scorer:
    """Scores of the steps of some trajectories, in parts that fit a memory."""

    def __init__(
        self,
        operation: str,
        steps: Tensor,
        sigma: float | int | str,
        keeps: bool,
        lead: tuple[int, ...],
        max_bytes: int,
    ) -> None:
        self.operation, self.sigma, self.lead, self.max_bytes = operation, sigma, lead, max_bytes
        self.n_steps, self.steps = steps.shape[-2], vectors_of(steps)
        if isinstance(sigma, str) and not keeps:
            # All bandwidths at once: a step without one is refused before any work, and none is looked for twice.
            like, shape = steps.new_empty(0, steps.shape[-1]), tuple(steps.shape[:-1])
            self.steps, _ = rescaled(
                operation, "steps", self.steps, like, sigma=sigma, shape=shape, max_bytes=max_bytes
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
        width = 1.0 if isinstance(factor.sigma, str) else factor.sigma
        kernel = {"sigma": width, "eps": DEFAULT_EPS if factor.eps is None else factor.eps, "tol": factor.tol}
        few = len(cells) * n_steps <= _SHORT * len(sources)
        with torch.no_grad():
            for rows, p in factor_blocks(
                take, factor.whitened, n_rows=len(sources) * n_steps, max_bytes=self.max_bytes // 2, **kernel
            ):
                block = _Block(p, factor.eps)
                at, step = (rows // n_steps).cpu(), rows % n_steps
                bytes_each = 8 * p.shape[1] * (3 * factor.whitened.shape[1] + factor.whitened.shape[2])
                if few:
                    count = counts[at]
                    local = torch.arange(len(at)).repeat_interleave(count)
                    # The how-manieth meeting of its source each is.
                    nth = torch.arange(len(local)) - (count.cumsum(0) - count).repeat_interleave(count)
                    met = order[begins[at[local]] + nth]
                    bytes_each += 8 * factor.whitened[0].numel()
                    for part in parts(len(local), bytes_each, self.max_bytes // 2):
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
                    for some in parts(len(mine), length * bytes_each, self.max_bytes // 2):
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

        if not isinstance(self.sigma, str):
            return kept

        def place(row: int) -> int:
            return int(cells[row // n_steps]) * n_steps + row % n_steps

        take, _ = rescaled(
            self.operation, "steps", kept, factor.whitened, sigma=self.sigma, shape=(*self.lead, n_steps),
            max_bytes=self.max_bytes, n_rows=len(cells) * n_steps, place=place,
        )  # fmt: skip
        return take


class _Block:
    """Some steps' factors P `[row, rank, d]`, with what brings a product P_x Y^T to a score."""

    def __init__(self, p: Tensor, eps: float | None) -> None:
        self.p = p
        self.cholesky = None if eps is None else _ridge_cholesky(p, eps)
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


def gram_norm(p: Tensor) -> Float64[Tensor, " row"]:
    """The Frobenius norm of P^T P."""
    return (p @ p.mT).square_().sum(dim=(-2, -1)).sqrt_()


def _ridge_cholesky(p: Tensor, eps: float | int) -> Tensor:
    gram = p @ p.transpose(-1, -2)
    gram.diagonal(dim1=-2, dim2=-1).add_(eps * p.shape[-1])
    return torch.linalg.cholesky(gram)


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


def kept_coordinates(answers: Tensor, drop_top: int) -> Tensor:
    """[answer, kept] coordinates of each of `answers [answer, d_model]` but the `drop_top` largest, in order."""
    order = answers.abs().sort(dim=-1, descending=True, stable=True).indices
    return order[:, drop_top:].sort(dim=-1).values

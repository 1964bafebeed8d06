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
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from probes.bandwidth import no_bandwidth, rescaled
from probes.checks import check_drop_top, check_fit, check_options, check_pair, check_tensor, median_multiple
from probes.errors import InputError
from probes.lowrank import DEFAULT_MAX_BYTES, factor_blocks, factorise

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
    factor = factor_answers(answer, sigma=sigma, eps=eps, tol=tol, drop_top=drop_top, max_bytes=max_bytes)
    return nhsic_with(steps, factor, max_bytes=max_bytes)


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
    check_options("nhsic_dense", sigma, eps)
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


@dataclass(frozen=True)
class AnswerFactor:
    """Answers ready to be scored against: A_y^-1 P_y per answer, zero-padded to one rank. Made by `factor_answers`.

    `sigma` as it was given: steps are treated likewise. `bandwidth` is each answer's own, in activation units.
    """

    whitened: Float64[Tensor, "answer rank kept"]
    keep: Int64[Tensor, "answer kept"] | None
    lead: tuple[int, ...]
    d_model: int
    sigma: float | str
    eps: float
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

    Options, errors and source as for `nhsic`.
    """
    check_options("factor_answers", sigma, eps, tol=tol, max_bytes=max_bytes)
    check_tensor("factor_answers", "answer", answer, axes=("d_model",), sigma=sigma)
    check_drop_top("factor_answers", drop_top, answer.shape[-1])
    flat = answer.detach().reshape(-1, answer.shape[-1])
    keep = kept_coordinates(flat, drop_top) if drop_top else None
    kept = flat if keep is None else flat.gather(1, keep)
    lead = tuple(answer.shape[:-1])
    if isinstance(sigma, str):
        fetch, bandwidth = rescaled(
            "factor_answers", "answer", kept.__getitem__, kept, sigma=sigma, shape=lead, max_bytes=max_bytes
        )
        kept, width = fetch(torch.arange(len(kept), device=kept.device)), 1.0
    else:
        sigma = width = float(sigma)
        bandwidth = torch.full((len(kept),), sigma, dtype=torch.float64, device=kept.device)
    factor = factorise(kept, sigma=width, eps=eps, tol=tol, max_bytes=max_bytes)
    whitened = torch.linalg.solve_triangular(_ridge_cholesky(factor, eps), factor, upper=False)
    return AnswerFactor(whitened, keep, lead, answer.shape[-1], sigma, float(eps), float(tol), bandwidth)


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
    check_options("nhsic", factor.sigma, factor.eps, tol=factor.tol, max_bytes=max_bytes)
    check_tensor("nhsic", "steps", steps, axes=("step", "d_model"), sigma=factor.sigma)
    check_fit("nhsic", steps, factor.lead, factor.d_model)
    n_steps, device = steps.shape[-2], steps.device
    if device != factor.whitened.device:
        raise InputError(
            "nhsic", expected=f"steps on {factor.whitened.device}", received=str(device), remedy="Move one of them."
        )
    lead = torch.broadcast_shapes(steps.shape[:-2], factor.lead)
    flat = steps.detach().reshape(-1, factor.d_model)
    # For each output cell (leading axes flattened) the trajectory and the answer that meet in it.
    trajectory_of = torch.arange(math.prod(steps.shape[:-2])).reshape(steps.shape[:-2]).expand(lead).reshape(-1)
    answer_of = torch.arange(math.prod(factor.lead)).reshape(factor.lead).expand(lead).reshape(-1)
    take: Callable[[Tensor], Tensor]
    if factor.keep is None:
        # A source is a trajectory: factorised once, whatever the number of answers it meets.
        cells_of = [torch.nonzero(trajectory_of == source)[:, 0] for source in range(len(flat) // n_steps)]
        take = flat.__getitem__
    else:
        cells_of = [torch.tensor([cell]) for cell in range(len(trajectory_of))]
        keep, first = factor.keep[answer_of.to(device)], trajectory_of.to(device) * n_steps

        def take(rows: Tensor) -> Tensor:
            source = rows // n_steps
            return flat[first[source] + rows % n_steps].gather(1, keep[source])

    out = torch.zeros(len(answer_of), n_steps, dtype=torch.float64, device=device)
    if isinstance(factor.sigma, str):
        shape = (*(steps.shape[:-2] if factor.keep is None else lead), n_steps)
        take, _ = rescaled(
            "nhsic", "steps", take, factor.whitened, sigma=factor.sigma, shape=shape, max_bytes=max_bytes
        )
    width = 1.0 if isinstance(factor.sigma, str) else factor.sigma
    kernel = {"sigma": width, "eps": factor.eps, "tol": factor.tol}
    with torch.no_grad():
        for rows, p in factor_blocks(
            take, factor.whitened, n_rows=len(cells_of) * n_steps, max_bytes=max_bytes, **kernel
        ):
            cholesky = _ridge_cholesky(p, factor.eps)
            sources, counts = torch.unique_consecutive(rows // n_steps, return_counts=True)
            begin = 0
            for source, count in zip(sources.tolist(), counts.tolist(), strict=True):
                part = slice(begin, begin := begin + count)
                # The product with many answers at once is what grows: keep it within the budget too.
                group = max(1, max_bytes // (16 * count * max(1, p.shape[1] * factor.whitened.shape[1])))
                for cells in cells_of[source].split(group):
                    scores = _contract(p[part], cholesky[part], _taken(factor.whitened, answer_of[cells]))
                    out[cells.to(device)[:, None], rows[part] % n_steps] = scores.T
    return out.reshape(*lead, n_steps)


def _ridge_cholesky(p: Tensor, eps: float | int) -> Tensor:
    gram = p @ p.transpose(-1, -2)
    gram.diagonal(dim1=-2, dim2=-1).add_(eps * p.shape[-1])
    return torch.linalg.cholesky(gram)


def _contract(p: Tensor, cholesky: Tensor, whitened: Tensor) -> Tensor:
    """[row, answer] squared Frobenius norms of A_x^-1 P_x (A_y^-1 P_y)^T: never negative, whatever the rounding."""
    n, rank, d = p.shape
    if len(whitened) > _MANY:
        # Whitening the step before the product spares one triangular solve an answer, and a copy of the product.
        step = torch.linalg.solve_triangular(cholesky, p, upper=False)
        cross = step.reshape(n * rank, d) @ whitened.reshape(-1, d).T
        return cross.square_().reshape(n, rank, *whitened.shape[:2]).sum(dim=(1, 3))
    # The wide factor on the right: up to twice as fast as the other way round on CPU.
    cross = (
        (whitened.reshape(-1, d) @ p.reshape(n * rank, d).T)
        .reshape(len(whitened) * whitened.shape[1], n, rank)
        .permute(1, 2, 0)
    )
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

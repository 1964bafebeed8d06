"""How the scores of a step change with its vector: gradients in closed form, without a d x d matrix.

With A = H K H of the step, B of the answer, lam = eps d and M = (A + lam I)^-1, nHSIC is tr(A M B (B + lam I)^-1), so

    d nHSIC = tr(G dK),   G = lam H M B (B + lam I)^-1 M H
    d nHSIC / d x_i = (2 / sigma^2) sum_j G_ij K_ij (x_j - x_i)

1. The factors at hand give G: B (B + lam I)^-1 = W^T W with W the answer's whitened factor, M by the push-through
   identity from the step's factor P (A = P^T P), so G = U^T U with U = sqrt(lam) W M of the answer's rank r_y.
2. K is 1 on its diagonal, so P alone gives it: K_ij = P_i . P_j + 1 - q_i - q_j, q_i = |P_i|^2 / 2.
3. (G o K) x is then a matter of row-wise Khatri-Rao products of U with P: O(d r_x r_y) a step.
4. With sigma = "median" the width depends on the vector. The gradient is that of the whole: it goes through the median
   distance, which almost everywhere is the distance of one pair of coordinates, or the mean of two.

`kernel_cka` has the same form with another G; `pearson_r2` and `cosine` are elementary. Layout: `[row, rank, d]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from jaxtyping import Float64
from torch import Tensor

from probes.answers import AnswerFactor, factored_answers
from probes.checks import check_device, check_max_bytes
from probes.chunks import DEFAULT_MAX_BYTES, Meetings, Take, parts, vectors_of
from probes.gram import gram_norm, ridge_cholesky
from probes.kernel import Kernel
from probes.lowrank import factor_blocks
from probes.scale import median_gradient, median_gradient_over, median_multiple, rescaled
from probes.similarity import angle_cosine, centred_vector, row_pairs

# Coordinates this many widths from the middle, massive activations, are met one by one, the farthest of them: rounding
# of the factor, 2e-16, times a distance below it is nothing.
_FAR, _MOST_FAR = 30.0, 32

__all__ = [
    "GRADIENTS",
    "cosine_gradient",
    "gradient_with",
    "kernel_cka_gradient",
    "nhsic_gradient",
    "pearson_r2_gradient",
]


def nhsic_gradient(
    steps: Tensor,
    answer: Tensor,
    *,
    sigma: float | int | str = 50.0,
    eps: float | int = 1e-5,
    tol: float | int = 1e-10,
    drop_top: int = 0,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Float64[Tensor, "*lead step d_model"]:
    """The derivative of `nhsic` by every coordinate of every step, each with its answer; leading axes broadcast.

    >>> steps = torch.arange(24.0).sin().reshape(2, 3, 4) * 30  # two layers, three steps, d_model = 4
    >>> gradient = nhsic_gradient(steps, steps[:, -1])
    >>> gradient.shape, bool(gradient.sum(dim=-1).abs().max() < 1e-12)  # nHSIC is blind to an offset
    (torch.Size([2, 3, 4]), True)

    Unit: nHSIC per activation unit. Equal to automatic differentiation of `nhsic_dense` (relative 1e-8 of the longest
    gradient with the default `eps` and `tol`), at O(d r_x r_y) a step once both are factorised.

    With `sigma="median"` the width is the step's own and moves with it: what is given is the derivative of the whole,
    width included (`scale.median_gradient`), as automatic differentiation of `nhsic_dense(sigma="median")` gives it.
    So it is orthogonal to the step less any offset: the score is then blind to scale. It is NaN for a constant step,
    where that score jumps; with sigma a number it is 0 there. Coordinates that `drop_top` leaves out have derivative 0.

    Options, errors and source as for `nhsic`.
    """
    kernel = Kernel(sigma, eps, tol, drop_top, operation="nhsic_gradient")
    return _paired(steps, answer, kernel, max_bytes)


def kernel_cka_gradient(
    steps: Tensor,
    answer: Tensor,
    *,
    sigma: float | int | str = 50.0,
    drop_top: int = 0,
    tol: float | int = 1e-10,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Float64[Tensor, "*lead step d_model"]:
    """The derivative of `kernel_cka`, as `nhsic_gradient` is that of `nhsic`; NaN for a constant vector.

    >>> steps = torch.arange(24.0).sin().reshape(6, 4) * 30
    >>> bool(kernel_cka_gradient(steps, steps[2])[2].abs().max() < 1e-9)  # 1 is the most there is
    True

    With N = |A| |B| (Frobenius): G = H (B / N - cka A / |A|^2) H.
    """
    kernel = Kernel(sigma, None, tol, drop_top, operation="kernel_cka_gradient")
    return _paired(steps, answer, kernel, max_bytes)


def pearson_r2_gradient(
    steps: Tensor, answer: Tensor, *, drop_top: int = 0, max_bytes: int = DEFAULT_MAX_BYTES
) -> Float64[Tensor, "*lead step d_model"]:
    """The derivative of `pearson_r2` by every coordinate of every step; NaN for a constant vector.

    >>> gradient = pearson_r2_gradient(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([5.0, 3.0, 1.0]))
    >>> bool((gradient * torch.tensor([1.0, 2.0, 4.0])).sum().abs() < 1e-12)  # blind to scale
    True

    Options and errors as for `pearson_r2`.
    """

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        x, y = centred_vector(x), centred_vector(y)
        return 2 * angle_cosine(x, y)[:, None] * _of_cosine(x, y)

    return _by_rows("pearson_r2_gradient", steps, answer, drop_top, max_bytes, gradient)


def cosine_gradient(
    steps: Tensor, answer: Tensor, *, drop_top: int = 0, max_bytes: int = DEFAULT_MAX_BYTES
) -> Float64[Tensor, "*lead step d_model"]:
    """The derivative of `cosine` by every coordinate of every step; NaN for a zero vector.

    >>> cosine_gradient(torch.tensor([[2.0, 0.0]]), torch.tensor([3.0, 3.0])).round(decimals=3).tolist()
    [[0.0, 0.354]]

    Options and errors as for `cosine`.
    """
    return _by_rows("cosine_gradient", steps, answer, drop_top, max_bytes, _of_cosine)


def gradient_with(
    steps: Tensor, factor: AnswerFactor, *, step: Tensor | None = None, max_bytes: int = DEFAULT_MAX_BYTES
) -> Float64[Tensor, "*lead step d_model"]:
    """`nhsic_gradient` with answers factorised once (`answers.factor_answers`), for many steps and many answers.

    >>> from probes.answers import factor_answers
    >>> steps = torch.arange(12.0).sin().reshape(3, 4) * 30
    >>> gradient_with(steps, factor_answers(steps)).shape  # every step with each of three answers
    torch.Size([3, 3, 4])

    Of factors without `eps` it is `kernel_cka_gradient`. With `step [step, d_model]` the steps are midpoints of lines
    so long, and with `sigma="median"` the width then changes as it does on the whole of them
    (`scale.median_gradient_over`): for integrals, which the pair of coordinates that makes a median at one point says
    little about.
    """
    kernel = replace(factor.kernel, operation="nhsic_gradient")
    check_max_bytes(kernel.operation, max_bytes)
    kernel.check_steps(steps, factor.lead, factor.d_model)
    check_device(kernel.operation, steps, factor.whitened)
    meet = Meetings.of(tuple(steps.shape[:-2]), factor.lead)
    out = _fresh(steps, meet)
    _fill(out, steps, factor, kernel, torch.arange(len(meet.answer)), meet, meet.answer, max_bytes, step)
    return out.reshape(*meet.lead, *steps.shape[-2:])


#: The gradients of `SCORES`, by the same names.
GRADIENTS: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "nhsic": nhsic_gradient,
        "r2": pearson_r2_gradient,
        "cosine": cosine_gradient,
        "cka": kernel_cka_gradient,
    }
)


def _paired(steps: Tensor, answer: Tensor, kernel: Kernel, max_bytes: int) -> Tensor:
    check_max_bytes(kernel.operation, max_bytes)
    kernel.check_pair(steps, answer)
    check_device(kernel.operation, steps, answer)
    meet = Meetings.of(tuple(steps.shape[:-2]), tuple(answer.shape[:-1]))
    n_answers = math.prod(answer.shape[:-1])
    out = _fresh(steps, meet)
    for rows, factor in factored_answers(answer, kernel, max_bytes=max_bytes // 2, room=max_bytes / 2):
        local = torch.full((n_answers,), -1)
        local[rows.cpu()] = torch.arange(len(rows))
        cells = (local[meet.answer] >= 0).nonzero()[:, 0]
        _fill(out, steps, factor, kernel, cells, meet, local[meet.answer[cells]], max_bytes // 2)
    return out.reshape(*meet.lead, *steps.shape[-2:])


def _fresh(steps: Tensor, meet: Meetings) -> Tensor:
    return torch.zeros(len(meet.answer), *steps.shape[-2:], dtype=torch.float64, device=steps.device)


def _fill(
    out: Tensor,
    steps: Tensor,
    factor: AnswerFactor,
    kernel: Kernel,
    cells: Tensor,
    meet: Meetings,
    answer: Tensor,
    max_bytes: int,
    line: Tensor | None = None,
) -> None:
    """Rows `cells` of `out [cell, step, d_model]`, in each of which a trajectory meets an answer of `factor`."""
    n_steps, device = steps.shape[-2], steps.device
    # A source is factorised once, whatever it meets: a trajectory, or with coordinates left out a cell of its own.
    if factor.keep is None:
        sources, source_of = meet.trajectory[cells].unique(return_inverse=True)
    else:
        sources, source_of = meet.trajectory[cells], torch.arange(len(cells))
    order, counts = source_of.argsort(stable=True), source_of.bincount(minlength=len(sources))
    begins = counts.cumsum(0) - counts
    fetch, first, own = vectors_of(steps), sources.to(device), answer.to(device)

    def kept(x: Tensor, rows: Tensor) -> Tensor:
        return x if factor.keep is None else x.gather(1, factor.keep[own[rows // n_steps]])

    def take(rows: Tensor) -> Tensor:
        return kept(fetch(first[rows // n_steps] * n_steps + rows % n_steps), rows)

    n_rows, bandwidth = len(sources) * n_steps, None
    scaled: Take = take
    if isinstance(kernel.sigma, str):

        def place(row: int) -> int:
            cell = int(cells[order[begins[row // n_steps]]])
            return cell * n_steps + row % n_steps

        scaled, bandwidth = rescaled(
            kernel.operation, "steps", take, factor.whitened, sigma=kernel.sigma, shape=(*meet.lead, n_steps),
            max_bytes=max_bytes // 2, n_rows=n_rows, place=place,
        )  # fmt: skip
    with torch.no_grad():
        for rows, p in factor_blocks(scaled, factor.whitened, kernel, n_rows=n_rows, max_bytes=max_bytes // 2):
            at, rows = rows // n_steps, rows.to(device)
            block = _Block(p, scaled(rows), kernel)
            width = None
            if bandwidth is not None:
                lines = None if line is None else kept(line[rows % n_steps], rows)
                width = _Width.of(take(rows), bandwidth[rows], kernel, lines)
            step = rows % n_steps
            local = torch.arange(len(at)).repeat_interleave(counts[at])
            # The how-manieth meeting of its source each is.
            nth = torch.arange(len(local)) - (counts[at].cumsum(0) - counts[at]).repeat_interleave(counts[at])
            met = order[begins[at[local]] + nth]
            for part in parts(len(local), block.bytes_each(factor.whitened.shape[1]), max_bytes // 2):
                here, cell = local[part].to(device), met[part].to(device)
                found = block.gradient(here, factor.whitened[own[cell]])
                if width is not None:
                    found = width.through(found, block.x[here], here)
                if factor.keep is not None:
                    whole = found.new_zeros(len(found), steps.shape[-1])
                    found = whole.scatter_(1, factor.keep[own[cell]], found)
                out[cells[met[part]].to(device), step[here]] = found


class _Block:
    """Some steps' factors P `[row, rank, d]` and vectors `[row, d]`, of which gradients with answers are taken."""

    def __init__(self, p: Tensor, x: Tensor, kernel: Kernel) -> None:
        self.p, self.eps, self.width = p, kernel.eps, kernel.width
        # The kernel is blind to an offset: without it the differences keep their digits.
        x = x.to(torch.float64)
        self.x = (x - x.median(dim=-1, keepdim=True).values) / kernel.width
        self.half = p.square().sum(dim=1) / 2
        # K_ij of far apart i and j is 0, of the factor it is rounding: next to the distance that would count.
        self.is_far = self.x.abs() > _FAR
        count = min(int(self.is_far.sum(dim=-1).max()), _MOST_FAR, x.shape[-1])
        self.far = self.x.abs().topk(count, dim=-1).indices if count else None
        if self.far is not None:
            self.is_far = torch.zeros_like(self.is_far).scatter_(1, self.far, self.is_far.gather(1, self.far))
        gram = p @ p.mT
        self.cholesky = None if kernel.eps is None else ridge_cholesky(gram, kernel.eps * p.shape[-1])
        self.norm = gram_norm(gram) if kernel.eps is None else None

    def bytes_each(self, answer_rank: int) -> int:
        """About what the gradient with one answer takes."""
        rank, d = self.p.shape[1:]
        far = 0 if self.far is None else self.far.shape[1]
        return 8 * d * (3 * rank + 8 * max(answer_rank, rank if self.norm is not None else 0) + 4 * far + 6)

    def gradient(self, rows: Tensor, whitened: Tensor) -> Float64[Tensor, "pair d"]:
        """Of the rows, each with the answer beside it, by the vectors that were factorised."""
        p = self.p[rows]
        cross = whitened @ p.mT  # [pair, answer rank, rank]
        if self.cholesky is not None:
            assert self.eps is not None
            lam = self.eps * p.shape[-1]
            solved = torch.cholesky_solve(cross.mT, self.cholesky[rows]).mT
            found = self._pulled(rows, p, (whitened - solved @ p) / math.sqrt(lam))
        else:
            assert self.norm is not None
            norm = self.norm[rows][:, None]
            score = cross.square().sum(dim=(1, 2))[:, None] / norm  # 0 / 0 for a constant vector
            found = (self._pulled(rows, p, whitened) - score / norm * self._pulled(rows, p, p)) / norm
        return found * (2 / self.width)

    def _pulled(self, rows: Tensor, p: Tensor, u: Tensor) -> Tensor:
        """sum_j (U^T U)_ij K_ij (x_j - x_i) of each row, for centred U `[pair, m, d]`."""
        half, x, m = self.half[rows][:, None], self.x[rows], u.shape[1]
        near = u if self.far is None else u.masked_fill(self.is_far[rows][:, None], 0.0)
        ux = near * x[:, None]
        both = (torch.cat([ux, near], dim=1) @ p.mT) @ p
        towards = both[:, :m].sub_((ux * half).sum(dim=-1, keepdim=True))
        towards.addcmul_(1 - half, ux.sum(dim=-1, keepdim=True))
        away = both[:, m:].sub_((near * half).sum(dim=-1, keepdim=True))  # the sum over all j of U is 0
        if self.far is None:
            return (u * towards.addcmul_(x[:, None], away, value=-1)).sum(dim=1)
        away.addcmul_(1 - half, near.sum(dim=-1, keepdim=True))
        out = (near * towards.addcmul_(x[:, None], away, value=-1)).sum(dim=1)
        # Pairs with a far coordinate, [pair, far, d], kernel and all.
        far, is_far = self.far[rows], self.is_far[rows]
        distance = x.gather(1, far)[:, :, None] - x[:, None]
        g = u.gather(2, far[:, None].expand(-1, m, -1)).mT @ u
        pull = g.mul_(distance).mul_(distance.square().div_(-2).exp_()) * is_far.gather(1, far)[:, :, None]
        out += pull.sum(dim=1).masked_fill(is_far, 0.0)
        return out.scatter_add_(1, far, -pull.sum(dim=-1))


class _Width:
    """How the width of each of some steps moves with it."""

    def __init__(self, bandwidth: Tensor, slope: Tensor) -> None:
        self.bandwidth, self.slope = bandwidth, slope

    @classmethod
    def of(cls, x: Tensor, bandwidth: Tensor, kernel: Kernel, line: Tensor | None) -> _Width:
        assert isinstance(kernel.sigma, str)
        slope = median_gradient(x) if line is None else median_gradient_over(x, line)
        slope = slope * median_multiple(kernel.operation, kernel.sigma)
        return cls(torch.where(bandwidth > 0, bandwidth, math.nan)[:, None], slope)

    def through(self, gradient: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        """By the vectors themselves, from the gradient by x, those in units of their width."""
        # d(x / b) = dx / b - x db / b; an offset of x does not matter, since the gradient sums to 0.
        along = (gradient * x).sum(dim=-1, keepdim=True)
        return (gradient - along * self.slope[rows]) / self.bandwidth[rows]


def _of_cosine(x: Tensor, y: Tensor) -> Tensor:
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    x, y = x / size, y / torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    return (y - (x * y).sum(dim=-1, keepdim=True) * x) / size


def _by_rows(
    operation: str,
    steps: Tensor,
    answer: Tensor,
    drop_top: int,
    max_bytes: int,
    gradient: Callable[[Tensor, Tensor], Tensor],
) -> Float64[Tensor, "*lead step d_model"]:
    """`gradient(x, y)` of every step with its answer, `[row, kept]` each in float64, some rows at a time."""
    lead, pairs = row_pairs(operation, steps, answer, drop_top, max_bytes)
    n_steps, d_model = steps.shape[-2:]
    out = torch.zeros(math.prod(lead) * n_steps, d_model, dtype=torch.float64, device=steps.device)
    for part, x, y, keep in pairs:
        found = gradient(x, y)
        out[part] = found if keep is None else torch.zeros_like(out[part]).scatter_(1, keep, found)
    return out.reshape(*lead, n_steps, d_model)

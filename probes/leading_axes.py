"""The few axes that hold all of a Gram matrix but a share, many matrices at once, without their eigenvectors.

Orthogonal (QR) iteration, two turns of it: the eigenvalues of smooth kernels fall so fast that the axes are then in
order, and as many of them do as of eigenvectors. What they leave out is not estimated but known: with orthonormal Q the
trace of G less that of Q^T G Q. Eigenvectors of a matrix of 36 rows take ten times as long.

Source: Golub & Van Loan, Matrix Computations, section 7.3 (orthogonal iteration).
"""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

__all__ = ["leading_axes"]

_MORE = 2  # axes looked at, beyond half as many as there are rows: kernels of residual streams need less than half


def leading_axes(
    gram: Float64[Tensor, "matrix m m"], spare: Float64[Tensor, " matrix"]
) -> tuple[Float64[Tensor, "matrix m rank"], Float64[Tensor, "matrix rank rank"], Int64[Tensor, " matrix"]]:
    """Orthonormal Q with tr G - tr(Q^T G Q) at most `spare`, as few as do for all; Q^T G Q; and how few do for each.

    >>> gram = torch.diag(torch.tensor([1e-20, 4.0, 1.0, 1e-18], dtype=torch.float64))[None]
    >>> axes, small, ranks = leading_axes(gram, torch.tensor([1e-16], dtype=torch.float64))
    >>> axes.shape, small[0].diagonal().round(decimals=9).tolist(), ranks.tolist()
    (torch.Size([1, 4, 2]), [4.0, 1.0], [2])

    Positive semidefinite up to rounding, and `spare` no less than rounding, m machine epsilons of the trace.
    """
    m = gram.shape[1]
    trace = gram.diagonal(dim1=1, dim2=2).sum(dim=-1)
    if gram.device.type != "cpu":  # where eigenvectors come in one launch
        axes = torch.linalg.eigh(gram)[1].flip(-1)
        return _shortest(gram, axes, trace, spare)[:3]
    # Columns of the matrix are its product with as many unit vectors: the first turn is nearly for nothing.
    order = gram.diagonal(dim1=1, dim2=2).mean(dim=0).argsort(descending=True)
    for count in (min(m, m // 2 + _MORE), m):
        axes = torch.linalg.qr(gram[:, :, order[:count]]).Q
        axes = torch.linalg.qr(gram @ axes).Q
        axes, small, ranks, enough = _shortest(gram, axes, trace, spare)
        if enough:
            break
    return axes, small, ranks


def _shortest(gram: Tensor, axes: Tensor, trace: Tensor, spare: Tensor) -> tuple[Tensor, Tensor, Tensor, bool]:
    """As `leading_axes`, of the first of these axes, and whether they are enough."""
    small = axes.mT @ (gram @ axes)
    left = trace[:, None] - small.diagonal(dim1=1, dim2=2).cumsum(dim=-1)
    needed = (left > spare[:, None]).sum(dim=-1) + 1
    most = int(needed.amax())
    rank = min(most, axes.shape[2])
    return axes[:, :, :rank], small[:, :rank, :rank], needed.clamp(max=rank), most <= axes.shape[2]

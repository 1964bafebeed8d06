"""Gram matrices: kernels between examples, centred, the unbiased HSIC of two of them; norms and ridges of factors'."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

__all__ = ["centred", "gram_norm", "ridge_cholesky", "unbiased_hsic"]


def centred(k: Float[Tensor, "*lead n n"]) -> Float[Tensor, "*lead n n"]:
    """H K H, H = I - 11^T/n: rows and columns have mean 0.

    >>> centred(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).tolist()
    [[0.5, -0.5], [-0.5, 0.5]]
    """
    k = k - k.mean(dim=-1, keepdim=True)
    return k - k.mean(dim=-2, keepdim=True)


def unbiased_hsic(k: Float[Tensor, "*lead_k n n"], l_: Float[Tensor, "*lead_l n n"]) -> Float[Tensor, "*lead"]:
    """HSIC of two kernels, for n >= 4: the diagonals, where an example meets itself, are left out.

    >>> pairs = torch.tensor([0, 0, 1, 1])
    >>> k = (pairs[:, None] == pairs).float()
    >>> round(unbiased_hsic(k, k).item(), 4)
    0.6667

    Leading axes broadcast. Source: Song et al. 2012, equation 5.
    """
    n = k.shape[-1]
    off = 1 - torch.eye(n, dtype=k.dtype, device=k.device)
    k, l_ = k * off, l_ * off
    rows_k, rows_l = k.sum(dim=-1), l_.sum(dim=-1)
    sums = rows_k.sum(dim=-1) * rows_l.sum(dim=-1) / ((n - 1) * (n - 2))
    return ((k * l_).sum(dim=(-2, -1)) + sums - 2 / (n - 2) * (rows_k * rows_l).sum(dim=-1)) / (n * (n - 3))


def gram_norm(gram: Float64[Tensor, "row rank rank"]) -> Float64[Tensor, " row"]:
    """The Frobenius norm of P^T P, which is that of P P^T."""
    return gram.square().sum(dim=(-2, -1)).sqrt_()


def ridge_cholesky(gram: Float64[Tensor, "row rank rank"], ridge: float) -> Tensor:
    """The lower factor A of A A^T = P P^T + ridge I."""
    gram = gram.clone()
    gram.diagonal(dim1=-2, dim2=-1).add_(ridge)
    return torch.linalg.cholesky(gram)

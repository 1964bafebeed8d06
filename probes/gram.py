"""Gram matrices: kernels between examples, centred, and the unbiased HSIC of two of them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["centred", "unbiased_hsic"]


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

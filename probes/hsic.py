"""Normalised HSIC between the residual of each step and that of the answer.

With x a step's vector and y the answer's, both read as `d` paired scalar samples, K and L their Gaussian kernels,
H = I - 11^T/d and R_x = K H (K H + eps d I)^-1:

    nHSIC = tr(R_x R_y) = || A_x^-1 P_x P_y^T A_y^-T ||_F^2,   P^T P = H K H,   A A^T = P P^T + eps d I

`nhsic_dense` is the left-hand side, O(d^3) a step; `nhsic` is the right-hand side (push-through identity), O(d r^2)
with r the numerical rank of the kernel, the answer factorised once. `answers.factor_answers` and `scoring.nhsic_with`
are its two halves, for callers who score one trajectory against many answers.

The result is a dimensionless dependence score, not bits or nats, bounded by the kernel's effective rank.
Source: Qian et al. 2025 (arXiv 2506.02867) and the authors' scripts MI-Peaks; normalised cross-covariance after
Fukumizu et al. 2007. The paper says HSIC; the authors' scripts compute the normalised form above.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from probes.checks import check_max_bytes
from probes.chunks import DEFAULT_MAX_BYTES
from probes.kernel import SMALLEST_EPS_DENSE, Kernel, check_eps, kept_coordinates
from probes.scale import median_multiple, no_bandwidth
from probes.scoring import paired_scores

__all__ = ["nhsic", "nhsic_dense"]


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
    check_max_bytes("nhsic", max_bytes)
    kernel = Kernel(sigma, eps, tol, drop_top, operation="nhsic")
    kernel.check_pair(steps, answer)
    return paired_scores(steps, answer, kernel, max_bytes=max_bytes)[0]


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

    Unit, errors and source as for `nhsic`. It can be differentiated by `steps` and by `answer` (autograd); `nhsic` has
    its gradient in closed form, `gradients.nhsic_gradient`.
    """
    check_eps("nhsic_dense", eps, SMALLEST_EPS_DENSE)
    kernel = Kernel(sigma, eps, drop_top=drop_top, operation="nhsic_dense")
    kernel.check_pair(steps, answer)
    d_model = answer.shape[-1]
    lead = np.broadcast_shapes(steps.shape[:-2], answer.shape[:-1])
    all_steps = steps.expand(*lead, *steps.shape[-2:]).reshape(-1, *steps.shape[-2:])
    answers = answer.expand(*lead, d_model).reshape(-1, d_model)
    scores: list[Tensor] = []
    for trajectory, y in zip(all_steps, answers, strict=True):
        keep = kept_coordinates(y[None], drop_top)[0] if drop_top else slice(None)
        r_y = _dense_operator(y[keep], "answer", kernel)
        scores.extend((_dense_operator(x[keep], "steps", kernel) * r_y.T).sum() for x in trajectory)
    return torch.stack(scores).reshape(*lead, steps.shape[-2])


def _dense_operator(x: Tensor, name: str, kernel: Kernel) -> Tensor:
    x = x.to(torch.float64)
    sigma = _dense_bandwidth(x, name, kernel.sigma) if isinstance(kernel.sigma, str) else kernel.sigma
    # K - 1 in place of K: 11^T H = 0, so K H is the same, and where coordinates are much closer than sigma its digits
    # survive (with exp the score of vectors of scale 1e-3 keeps an error of 3e-12, whatever its size).
    gram = torch.expm1(-(x[:, None] - x[None, :]).square() / (2 * sigma**2))
    centred = gram - gram.mean(dim=1, keepdim=True)  # K H
    ridge = centred + kernel.ridge * len(x) * torch.eye(len(x), dtype=x.dtype, device=x.device)
    return torch.linalg.solve(ridge, centred, left=False)


def _dense_bandwidth(x: Tensor, name: str, sigma: str) -> Tensor:
    """The literal definition of "median", over all pairs; 1 for a constant vector, whose kernel has no scale."""
    first, second = torch.triu_indices(len(x), len(x), 1, device=x.device)
    distance = (x[first] - x[second]).abs().sort().values
    bandwidth = (distance[(len(distance) - 1) // 2] + distance[len(distance) // 2]) / 2
    if bandwidth == 0 and distance[-1] > 0:
        raise no_bandwidth("nhsic_dense", name, "one of them")
    return median_multiple("nhsic_dense", sigma) * bandwidth if bandwidth > 0 else torch.ones_like(bandwidth)

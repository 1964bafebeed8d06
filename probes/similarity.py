"""Other scores of a step with the answer, on the footing of nHSIC: the d coordinates are d paired scalar samples.

`cosine`, `pearson_r2` (which for one vector each is linear CKA) and `kernel_cka` take what `nhsic` takes, so callers
choose by name from `SCORES`. `cka` is the usual one instead: examples are the samples, across problems.

An undefined score (a zero vector, a constant one) is NaN; `nhsic` alone says 0 there, as its formula does.
Source: Kornblith et al. 2019 (CKA); Song et al. 2012 (unbiased HSIC); Cortes et al. 2012 (kernel alignment).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from probes.bandwidth import rescaled
from probes.checks import check_options, check_pair, check_tensor
from probes.errors import InputError
from probes.hsic import kept_coordinates, nhsic
from probes.lowrank import DEFAULT_MAX_BYTES, factorise

__all__ = ["SCORES", "SCORE_UNITS", "cka", "cosine", "kernel_cka", "linear_cka", "pearson_r2"]


def cosine(steps: Tensor, answer: Tensor, *, drop_top: int = 0) -> Float64[Tensor, "*lead step"]:
    """Cosine of the angle between each step `[*lead, step, d_model]` and the answer `[*lead, d_model]`.

    >>> cosine(torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 0.0]]), torch.tensor([3.0, 0.0])).tolist()
    [1.0, -1.0, nan]

    Unit: dimensionless, from -1 to 1; NaN for a zero vector. Not centred: a direction all vectors share counts.
    `drop_top`, leading axes and errors as for `nhsic`.
    """
    x, y = _paired("cosine", steps, answer, drop_top)
    return _cosine(x, y)


def pearson_r2(steps: Tensor, answer: Tensor, *, drop_top: int = 0) -> Float64[Tensor, "*lead step"]:
    """Squared Pearson correlation between the coordinates of each step and those of the answer.

    >>> r2 = pearson_r2(torch.tensor([[1.0, 2.0, 3.0], [7.0, 7.0, 7.0]]), torch.tensor([5.0, 3.0, 1.0]))
    >>> [round(value, 12) for value in r2.tolist()]
    [1.0, nan]

    Unit: dimensionless, from 0 to 1, the share of variance a line explains; NaN for a constant vector. With independent
    coordinates its mean is 1 / (d_model - 1). This is linear CKA of one vector each (`linear_cka`). `drop_top`,
    leading axes and errors as for `nhsic`.
    """
    x, y = _paired("pearson_r2", steps, answer, drop_top)
    return _cosine(_centred(x), _centred(y)).square()


def linear_cka(steps: Tensor, answer: Tensor, *, drop_top: int = 0) -> Float64[Tensor, "*lead step"]:
    """Linear CKA with coordinates as samples: `pearson_r2`, since both Gram matrices have rank one.

    >>> round(linear_cka(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([2.0, 4.0, 8.0])).item(), 12)
    1.0

    With K = x x^T and L = y y^T, <HKH, HLH> / (|HKH| |HLH|) = (x^T H y)^2 / (x^T H x y^T H y) = r^2. Source:
    Kornblith et al. 2019, arXiv 1905.00414.
    """
    return pearson_r2(steps, answer, drop_top=drop_top)


def kernel_cka(
    steps: Tensor,
    answer: Tensor,
    *,
    sigma: float | int | str = 50.0,
    drop_top: int = 0,
    tol: float | int = 1e-10,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Float64[Tensor, "*lead step"]:
    """Gaussian-kernel CKA of each step with the answer, coordinates as samples: HSIC over its largest value.

    >>> steps = torch.arange(24.0).sin().reshape(6, 4) * 30
    >>> round(float(kernel_cka(steps, steps[2])[2]), 9)
    1.0

    Unit: dimensionless, from 0 to 1; NaN for a constant vector. With K and L as for `nhsic`:
    <HKH, HLH> / (|HKH| |HLH|), Frobenius, without the ridge and the inverse of nHSIC, so the kernel's large
    eigenvalues dominate. O(d r^2) a step, by the same factors; relative error about `tol`. It is biased upwards:
    unrelated vectors score above 0. `sigma`, `drop_top`, leading axes and errors as for `nhsic`.
    Source: Kornblith et al. 2019, arXiv 1905.00414; Cortes et al. 2012.
    """
    check_options("kernel_cka", sigma, tol=tol, max_bytes=max_bytes)
    check_pair("kernel_cka", steps, answer, sigma, drop_top)
    lead, n_steps, d_model = torch.broadcast_shapes(steps.shape[:-2], answer.shape[:-1]), *steps.shape[-2:]
    trajectories = steps.detach().expand(*lead, n_steps, d_model)
    answers = answer.detach().expand(*lead, d_model)
    size = max(1, max_bytes // (8 * 64 * d_model))
    scores = []
    with torch.no_grad():
        for cell in torch.cartesian_prod(*[torch.arange(n) for n in (*lead, 1, 1)]).tolist():
            index = tuple(cell[:-2])
            x, y = trajectories[index], answers[index]
            if drop_top:
                keep = kept_coordinates(y[None], drop_top)[0]
                x, y = x[:, keep], y[keep]
            p_y = _factors("answer", y[None], sigma, tol, max_bytes)[0]
            norm_y = _gram_norm(p_y)
            for part in x.split(size):
                p = _factors("steps", part, sigma, tol, max_bytes)
                cross = (p @ p_y.T).square().sum(dim=(-2, -1))
                scores.append(cross / (_gram_norm(p) * norm_y))  # a constant vector: 0 / 0
    return torch.cat(scores).reshape(*lead, n_steps)


def _factors(name: str, x: Tensor, sigma: float | int | str, tol: float | int, max_bytes: int) -> Tensor:
    if isinstance(sigma, str):
        take, _ = rescaled("kernel_cka", name, x.__getitem__, x, sigma=sigma, shape=(len(x),), max_bytes=max_bytes)
        x, sigma = take(torch.arange(len(x), device=x.device)), 1.0
    return factorise(x, sigma=sigma, tol=tol, max_bytes=max_bytes)


def _gram_norm(p: Tensor) -> Tensor:
    return (p @ p.mT).square().sum(dim=(-2, -1)).sqrt()


def cka(
    x: Tensor, y: Tensor, *, kernel: Literal["linear", "gaussian"] = "linear", debiased: bool = False
) -> Float64[Tensor, "*lead"]:
    """CKA of representations `x [*lead, n, p]` and `y [*lead, n, q]` of the same n examples; leading axes broadcast.

    >>> x = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))
    >>> [round(value, 12) for value in cka(x, 5 * x.flip(-1) + 1).tolist()]  # blind to offset, scale and rotation
    [1.0, 1.0]

    Unit: dimensionless. "linear" compares x x^T with y y^T, "gaussian" kernels of sigma = the median distance between
    two examples, in each representation by itself. NaN where an HSIC of a representation with itself is not positive
    (all examples alike, for instance).

    The plain estimate, from 0 to 1, is biased upwards: unrelated representations score above 0, and towards 1 as p and
    q exceed n. `debiased=True` replaces each HSIC by its unbiased estimate (n >= 4); the ratio is then near 0 for
    unrelated ones, may be negative, and keeps a bias of order 1/n of its own.

    Raises `InputError` for NaN or inf, for shapes that do not fit and too few examples.
    Source: Kornblith et al. 2019, arXiv 1905.00414; Song et al. 2012, JMLR 13 (unbiased HSIC).
    """
    if kernel not in ("linear", "gaussian"):
        raise InputError("cka", expected='kernel "linear" or "gaussian"', received=repr(kernel), remedy="Choose one.")
    needed = 4 if debiased else 2
    for name, z in {"x": x, "y": y}.items():
        # One feature is enough here, two coordinates elsewhere: examples are what is compared.
        check_tensor("cka", name, z.mT if isinstance(z, Tensor) and z.ndim > 1 else z, axes=("d", "n"), sigma=1.0)
        if z.shape[-2] != x.shape[-2] or z.shape[-2] < needed:
            raise InputError(
                "cka",
                expected=f"x and y of the same n >= {needed} examples, shapes [*lead, n, p] and [*lead, n, q]",
                received=f"{tuple(x.shape)} and {tuple(y.shape)}",
                remedy="Rows are examples, in the same order in both.",
            )
    try:
        torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except RuntimeError:
        raise InputError(
            "cka",
            expected="leading axes that broadcast",
            received=f"{tuple(x.shape[:-2])} and {tuple(y.shape[:-2])}",
            remedy="Insert axes of length 1.",
        ) from None
    hsic = _unbiased_hsic if debiased else _biased_hsic
    k, l_ = _example_kernel(x, kernel), _example_kernel(y, kernel)
    scale = hsic(k, k), hsic(l_, l_)
    defined = (scale[0] > 0) & (scale[1] > 0)
    return torch.where(defined, hsic(k, l_) / scale[0].sqrt() / scale[1].sqrt(), math.nan)


def _example_kernel(x: Tensor, kernel: str) -> Tensor:
    """[*lead, n, n]. CKA is blind to offset and scale; both are taken out for the digits' sake."""
    z = _centred(x.detach().double().mT).mT
    size = z.abs().amax(dim=(-2, -1), keepdim=True)
    z = z / torch.where(size > 0, size, 1.0)
    if kernel == "linear":
        return z @ z.mT
    n = z.shape[-2]
    first, second = torch.triu_indices(n, n, 1, device=z.device)
    squared = torch.stack([(row[..., None, :] - z).square().sum(dim=-1) for row in z.unbind(dim=-2)], dim=-2)
    distance = squared[..., first, second].sqrt().sort(dim=-1).values
    sigma = (distance[..., (distance.shape[-1] - 1) // 2] + distance[..., distance.shape[-1] // 2]) / 2
    # Where most examples coincide there is no median distance; NaN makes the score undefined, as it is.
    sigma = torch.where(sigma > 0, sigma, math.nan)[..., None, None]
    return torch.exp(-squared / (2 * sigma.square()))


def _biased_hsic(k: Tensor, l_: Tensor) -> Tensor:
    def centre(m: Tensor) -> Tensor:
        m = m - m.mean(dim=-1, keepdim=True)
        return m - m.mean(dim=-2, keepdim=True)

    return (centre(k) * centre(l_)).sum(dim=(-2, -1))


def _unbiased_hsic(k: Tensor, l_: Tensor) -> Tensor:
    """Song et al. 2012, equation 5: the diagonals, where an example meets itself, are left out."""
    n = k.shape[-1]
    off = 1 - torch.eye(n, dtype=k.dtype, device=k.device)
    k, l_ = k * off, l_ * off
    rows_k, rows_l = k.sum(dim=-1), l_.sum(dim=-1)
    trace = (k * l_).sum(dim=(-2, -1))
    sums = rows_k.sum(dim=-1) * rows_l.sum(dim=-1) / ((n - 1) * (n - 2))
    return (trace + sums - 2 / (n - 2) * (rows_k * rows_l).sum(dim=-1)) / (n * (n - 3))


def _paired(operation: str, steps: Tensor, answer: Tensor, drop_top: int) -> tuple[Tensor, Tensor]:
    """Steps `[*lead, step, kept]` and answers `[*lead, 1, kept]` in float64."""
    check_pair(operation, steps, answer, 1.0, drop_top)
    lead = torch.broadcast_shapes(steps.shape[:-2], answer.shape[:-1])
    x = steps.detach().expand(*lead, *steps.shape[-2:])
    y = answer.detach().expand(*lead, answer.shape[-1])
    if drop_top:
        keep = kept_coordinates(y.reshape(-1, y.shape[-1]), drop_top).reshape(*lead, -1)
        y = y.gather(-1, keep)
        x = x.gather(-1, keep[..., None, :].expand(*x.shape[:-1], -1))
    return x.double(), y.double()[..., None, :]


def _centred(x: Tensor) -> Tensor:
    """Minus the mean; a constant vector becomes exactly 0, which rounding of its mean might not give."""
    constant = x.amax(dim=-1, keepdim=True) == x.amin(dim=-1, keepdim=True)
    return (x - x.mean(dim=-1, keepdim=True)).masked_fill(constant, 0.0)


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    def unit(v: Tensor) -> Tensor:
        # By the largest coordinate first, so that squares of tiny vectors do not vanish; a zero vector is 0 / 0.
        v = v / v.abs().amax(dim=-1, keepdim=True)
        return v / torch.linalg.vector_norm(v, dim=-1, keepdim=True)

    return (unit(x) * unit(y)).sum(dim=-1).clamp(-1.0, 1.0)


#: Scores of steps `[*lead, step, d_model]` with an answer `[*lead, d_model]`, by name; all take `drop_top`.
SCORES: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {"nhsic": nhsic, "r2": pearson_r2, "cosine": cosine, "cka": kernel_cka}
)

#: What each of `SCORES` is measured in.
SCORE_UNITS: Mapping[str, str] = MappingProxyType(
    {
        "nhsic": "nHSIC, dimensionless dependence score from 0 up to the kernel's effective rank, not bits",
        "r2": "squared Pearson correlation, from 0 to 1",
        "cosine": "cosine of the angle, from -1 to 1",
        "cka": "Gaussian-kernel CKA over coordinates, from 0 to 1",
    }
)

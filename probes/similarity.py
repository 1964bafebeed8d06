"""Other scores of a step with the answer, on the footing of nHSIC: the d coordinates are d paired scalar samples.

`cosine`, `pearson_r2` (which for one vector each is linear CKA) and `kernel_cka` take what `nhsic` takes, so callers
choose by name from `SCORES`. `cka` is the usual one instead: examples are the samples, across problems.

An undefined score (a zero vector, a constant one) is NaN; `nhsic` alone says 0 there, as its formula does.
Source: Kornblith et al. 2019 (CKA); Song et al. 2012 (unbiased HSIC); Cortes et al. 2012 (kernel alignment).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from probes.checks import check_device, check_max_bytes, check_pair, check_tensor
from probes.chunks import DEFAULT_MAX_BYTES, Meetings, matrices_of, parts, vectors_of
from probes.errors import InputError
from probes.gram import centred, unbiased_hsic
from probes.hsic import nhsic
from probes.kernel import Kernel, kept_coordinates
from probes.scoring import paired_scores

# Float64 vectors of length d alive for each row, and a size of all of them that stays in a core's cache.
_COPIES, _CACHE_BYTES = 9, 2**24

__all__ = [
    "SCORES",
    "SCORE_UNITS",
    "angle_cosine",
    "centred_vector",
    "cka",
    "cosine",
    "kernel_cka",
    "linear_cka",
    "pearson_r2",
    "row_pairs",
]


def cosine(
    steps: Tensor, answer: Tensor, *, drop_top: int = 0, max_bytes: int = DEFAULT_MAX_BYTES
) -> Float64[Tensor, "*lead step"]:
    """Cosine of the angle between each step `[*lead, step, d_model]` and the answer `[*lead, d_model]`.

    >>> cosine(torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 0.0]]), torch.tensor([3.0, 0.0])).tolist()
    [1.0, -1.0, nan]

    Unit: dimensionless, from -1 to 1; NaN for a zero vector. Not centred: a direction all vectors share counts.
    `drop_top`, `max_bytes`, leading axes and errors as for `nhsic`.
    """
    return _by_rows("cosine", steps, answer, drop_top, max_bytes, angle_cosine)


def pearson_r2(
    steps: Tensor, answer: Tensor, *, drop_top: int = 0, max_bytes: int = DEFAULT_MAX_BYTES
) -> Float64[Tensor, "*lead step"]:
    """Squared Pearson correlation between the coordinates of each step and those of the answer.

    >>> r2 = pearson_r2(torch.tensor([[1.0, 2.0, 3.0], [7.0, 7.0, 7.0]]), torch.tensor([5.0, 3.0, 1.0]))
    >>> [round(value, 12) for value in r2.tolist()]
    [1.0, nan]

    Unit: dimensionless, from 0 to 1, the share of variance a line explains; NaN for a constant vector. With independent
    coordinates its mean is 1 / (d_model - 1). This is linear CKA of one vector each (`linear_cka`). `drop_top`,
    `max_bytes`, leading axes and errors as for `nhsic`.
    """

    def squared(x: Tensor, y: Tensor) -> Tensor:
        return angle_cosine(centred_vector(x), centred_vector(y)).square_()

    return _by_rows("pearson_r2", steps, answer, drop_top, max_bytes, squared)


def linear_cka(
    steps: Tensor, answer: Tensor, *, drop_top: int = 0, max_bytes: int = DEFAULT_MAX_BYTES
) -> Float64[Tensor, "*lead step"]:
    """Linear CKA with coordinates as samples: `pearson_r2`, since both Gram matrices have rank one.

    >>> round(linear_cka(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([2.0, 4.0, 8.0])).item(), 12)
    1.0

    With K = x x^T and L = y y^T, <HKH, HLH> / (|HKH| |HLH|) = (x^T H y)^2 / (x^T H x y^T H y) = r^2. Source:
    Kornblith et al. 2019, arXiv 1905.00414.
    """
    return pearson_r2(steps, answer, drop_top=drop_top, max_bytes=max_bytes)


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
    check_max_bytes("kernel_cka", max_bytes)
    kernel = Kernel(sigma, None, tol, drop_top, operation="kernel_cka")
    kernel.check_pair(steps, answer)
    return paired_scores(steps, answer, kernel, max_bytes=max_bytes)[0]


def cka(
    x: Tensor,
    y: Tensor,
    *,
    kernel: Literal["linear", "gaussian"] = "linear",
    debiased: bool = False,
    max_bytes: int = DEFAULT_MAX_BYTES,
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

    `max_bytes` bounds the working memory, down to one pair of representations at a time.

    Raises `InputError` for NaN or inf, for shapes that do not fit and too few examples.
    Source: Kornblith et al. 2019, arXiv 1905.00414; Song et al. 2012, JMLR 13 (unbiased HSIC).
    """
    check_max_bytes("cka", max_bytes)
    if kernel not in ("linear", "gaussian"):
        raise InputError("cka", expected='kernel "linear" or "gaussian"', received=repr(kernel), remedy="Choose one.")
    needed = 4 if debiased else 2
    for name, z in {"x": x, "y": y}.items():
        # One feature is enough here, two coordinates elsewhere: examples are what is compared.
        check_tensor("cka", name, z.mT if isinstance(z, Tensor) and z.ndim > 1 else z, axes=("d", "n"))
        if z.shape[-2] != x.shape[-2] or z.shape[-2] < needed:
            raise InputError(
                "cka",
                expected=f"x and y of the same n >= {needed} examples, shapes [*lead, n, p] and [*lead, n, q]",
                received=f"{tuple(x.shape)} and {tuple(y.shape)}",
                remedy="Rows are examples, in the same order in both.",
            )
    try:
        np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except ValueError:
        raise InputError(
            "cka",
            expected="leading axes that broadcast",
            received=f"{tuple(x.shape[:-2])} and {tuple(y.shape[:-2])}",
            remedy="Insert axes of length 1.",
        ) from None
    check_device("cka", x, y)
    meet = Meetings.of(tuple(x.shape[:-2]), tuple(y.shape[:-2]))
    n, hsic = x.shape[-2], unbiased_hsic if debiased else _biased_hsic
    xs, ys = matrices_of(x), matrices_of(y)
    out = torch.empty(len(meet.answer), dtype=torch.float64, device=x.device)
    # Kernels of some x at a time, and beside them those of some of the y they meet.
    for some_x in parts(math.prod(x.shape[:-2]), _kernel_bytes(n, x.shape[-1]), max_bytes // 2):
        k = _example_kernel(xs(torch.arange(some_x.start, some_x.stop)), kernel)
        own_k = hsic(k, k)
        cells = ((meet.trajectory >= some_x.start) & (meet.trajectory < some_x.stop)).nonzero()[:, 0]
        cells = cells[meet.answer[cells].argsort(stable=True)]
        for part in parts(len(cells), _kernel_bytes(n, y.shape[-1]) + 8 * 8 * n * n, max_bytes // 2):
            some_y, at_y = meet.answer[cells[part]].unique(return_inverse=True)
            l_ = _example_kernel(ys(some_y), kernel)
            own_l, at_x = hsic(l_, l_)[at_y], meet.trajectory[cells[part]] - some_x.start
            both = hsic(k[at_x], l_[at_y])
            defined = (own_k[at_x] > 0) & (own_l > 0)
            out[cells[part]] = torch.where(defined, both / own_k[at_x].sqrt() / own_l.sqrt(), math.nan)
    return out.reshape(meet.lead)


def _kernel_bytes(n: int, p: int) -> int:
    """About what a representation's kernel takes to make."""
    return 8 * (4 * n * p + 8 * n * n)


def _example_kernel(x: Tensor, kernel: str) -> Tensor:
    """[*lead, n, n]. CKA is blind to offset and scale; both are taken out for the digits' sake."""
    z = centred_vector(x.detach().double().mT).mT
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
    return (centred(k) * centred(l_)).sum(dim=(-2, -1))


def _by_rows(
    operation: str,
    steps: Tensor,
    answer: Tensor,
    drop_top: int,
    max_bytes: int,
    score: Callable[[Tensor, Tensor], Tensor],
) -> Float64[Tensor, "*lead step"]:
    """`score(x, y)` of every step with its answer, `[row, kept]` each in float64, some rows at a time."""
    lead, pairs = row_pairs(operation, steps, answer, drop_top, max_bytes)
    out = torch.empty(math.prod(lead) * steps.shape[-2], dtype=torch.float64, device=steps.device)
    for part, x, y, _ in pairs:
        out[part] = score(x, y)
    return out.reshape(*lead, steps.shape[-2])


def row_pairs(
    operation: str, steps: Tensor, answer: Tensor, drop_top: int, max_bytes: int
) -> tuple[tuple[int, ...], Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]]:
    """The leading axes of the scores, and the rows of `[*lead, step]`, some at a time, all checked before the first.

    Each with its step and its answer `[row, kept]` in float64, and the coordinates kept if some are left out.
    """
    check_max_bytes(operation, max_bytes)
    check_pair(operation, steps, answer, drop_top)
    check_device(operation, steps, answer)
    meet = Meetings.of(tuple(steps.shape[:-2]), tuple(answer.shape[:-1]))
    (n_steps, d_model), device = steps.shape[-2:], steps.device
    take, answers = vectors_of(steps), vectors_of(answer)
    if device.type == "cpu":
        max_bytes = min(max_bytes, _CACHE_BYTES)

    def pairs() -> Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]:
        for part in parts(len(meet.answer) * n_steps, 8 * _COPIES * d_model, max_bytes):
            rows = torch.arange(part.start, part.stop)
            cell, step = rows // n_steps, rows % n_steps
            own, answer_of = meet.answer[cell].unique(return_inverse=True)
            x, y = take((meet.trajectory[cell] * n_steps + step).to(device)), answers(own.to(device))
            answer_of = answer_of.to(device)
            keep = None
            if drop_top:
                own_keep = kept_coordinates(y, drop_top)
                keep = own_keep[answer_of]
                x, y = x.gather(1, keep), y.gather(1, own_keep)
            yield part, x.double(), y.double()[answer_of], keep

    return meet.lead, pairs()


def centred_vector(x: Tensor) -> Tensor:
    """Minus the mean; a constant vector becomes exactly 0, which rounding of its mean might not give."""
    constant = x.amax(dim=-1, keepdim=True) == x.amin(dim=-1, keepdim=True)
    return (x - x.mean(dim=-1, keepdim=True)).masked_fill(constant, 0.0)


def angle_cosine(x: Tensor, y: Tensor) -> Tensor:
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

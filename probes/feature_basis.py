"""Which functions stand for a one-dimensional Gaussian kernel, how they are mixed, and what they leave out.

With u = (x - b) / sigma the kernel exp(-(u - v)^2 / 2) is a sum over n of phi_n(u) phi_n(v), with

    phi_n(u) = exp(-u^2 / 2) u^n / sqrt(n!)

an orthonormal basis of the kernel's Hilbert space. N `features`, the functions exp(-a u^2 / 2) u^n, span a part of it;
the kernel of that part, K', is what they are mixed for (`Basis.mix`): K' = (mix F)^T mix F is never above K. With a = 1
the part is that of phi_0 to phi_(N-1); a somewhat smaller a turns it towards the functions that matter on an interval,
where as much is left out with a quarter to a third fewer of them.

What is left out, E = K - K', is known exactly: by its diagonal, and between a coordinate within an interval and one
beyond it (`remainders`), from which `expansion` chooses N for every block of vectors.

Source: Cotter, Keshet & Srebro 2011, Explicit approximations of the Gaussian kernel (arXiv 1109.4603), for a = 1;
Steinwart, Hush & Scovel 2006, An explicit description of the reproducing kernel Hilbert spaces of Gaussian RBF kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

__all__ = ["COUNTS", "Basis", "Remainders", "basis", "remainders"]

#: How many features there may be. Beyond the last one, rounding of the mixture would count.
COUNTS = (3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 36, 40, 44, 48, 52, 56, 60, 64)

_PLAIN = 32  # features, up to which their products are inverted with a loss of less than two digits
_TERMS = 380  # of the expansion: all that count up to `_FARTHEST`, beyond which features are nothing
_NARROW, _WIDEST, _FARTHEST = 0.1, 8.0, 14.0  # of |u|: where bounds are tabled closely, to where, and to where for v
_CLOSELY, _COARSELY = 1.03, 1.25  # ratios of neighbours in the tables


@dataclass(frozen=True)
class Basis:
    """Some features and how they are mixed. Made by `basis`.

    `weight` is a. Rows of features stand in the order of `power`: n = 0, 2, 3, ..., N - 1, 1, and after them a row of
    ones that `mix [N, N + 1]` ignores. `inner` are the inner products of features as functions, (mix^T mix)^-1: few are
    so near to orthogonal that they need not be mixed (`plain`), where `inner` takes the place of 1. `sums` says where
    the Gram matrix of the features stands in `[<F_(N-1), F>, <F_1, F>, <1, F>, <F_0, F_0>]`, flattened; that of n = 0
    and m > 1 less <1, F_m>.
    """

    weight: float
    mix: Float64[Tensor, "N N_and_ones"]
    inner: Float64[Tensor, "N N"]
    plain: bool
    power: Int64[Tensor, " N"]
    sums: Int64[Tensor, "N N"]


@cache
def basis(count: int, device: torch.device) -> Basis:
    """The basis of `count` features, on a device.

    >>> basis(3, torch.device("cpu")).mix  # 1 / sqrt(n!), n = 0, 2, 1 by column
    tensor([[1.0000, 0.0000, 0.0000, 0.0000],
            [0.0000, 0.0000, 1.0000, 0.0000],
            [0.0000, 0.7071, 0.0000, 0.0000]], dtype=torch.float64)
    """
    _, mix, inner = _axes(count)
    power = torch.tensor([0, *range(2, count), 1])
    place = power.argsort()
    m, n = power[:, None], power
    total = m + n
    # u^(m + n) is that of feature 1 with feature m + n - 1 or, beyond, of the last one with another.
    near, far = place[(total - 1).clamp(0, count - 1)], place[(total - count + 1).clamp(0, count - 1)]
    sums = torch.where(total <= count, count + near, far)
    sums = torch.where((m == 0) & (n == 1) | (m == 1) & (n == 0), count, sums)  # <F_1, F_0> itself
    sums[0, 0] = 3 * count
    return Basis(
        _weight(count),
        torch.nn.functional.pad(mix[:, power], (0, 1)).to(device),
        inner[power][:, power].to(device),
        count <= _PLAIN,
        power.to(device),
        sums.to(device),
    )


@dataclass(frozen=True)
class Remainders:
    """What is left out of the kernel, by the number of features and the interval |u| <= `reach`. Made by `remainders`.

    `within` is the largest E(u, u), `across` the largest |E(u, v)| with v beyond the interval, on either side; neither
    falls as the interval grows.
    """

    reach: Float64[Tensor, " reach"]
    within: Float64[Tensor, "count reach"]
    across: Float64[Tensor, "count reach"]


@cache
def remainders() -> Remainders:
    """Those of all `COUNTS`, ascending in the interval; at each the value is that of the next wider one.

    >>> left = remainders()
    >>> near_one = int((left.reach - 1).abs().argmin())
    >>> bool((left.within[-1, near_one] < 1e-30) & (left.within[0, near_one] > 0.01))
    True
    """
    reach = _geometric(1e-6, _NARROW, _COARSELY) + _geometric(_NARROW, _WIDEST, _CLOSELY)
    u = torch.tensor(reach, dtype=torch.float64)
    # Every second one will do for v, from the one before u on.
    v = torch.cat([u[::2], torch.linspace(_WIDEST, _FARTHEST, 41, dtype=torch.float64)])
    near, far = _terms(u), _terms(v)
    first = torch.arange(len(u)) // 2
    within, across = [], []
    for count in COUNTS:
        axes = _axes(count)[0]
        # With a = 1 what is left out is the rest of the terms, to all digits.
        rest, beyond = (
            terms[:, count:] if _weight(count) == 1 else terms - (terms @ axes.T) @ axes for terms in (near, far)
        )
        within.append(rest.square().sum(dim=-1).cummax(dim=0).values)
        # With v on the other side terms of one parity change sign.
        even, odd = ((rest[:, parity::2] @ beyond[:, parity::2].T).abs_() for parity in (0, 1))
        between = (even + odd).cummax(dim=0).values.flip(1).cummax(dim=1).values.flip(1)
        across.append(between.gather(1, first[:, None])[:, 0].cummax(dim=0).values)
    # Between two entries of the table E is no larger than about the next one has it.
    return Remainders(u[:-1], torch.stack(within)[:, 1:].contiguous(), torch.stack(across)[:, 1:].contiguous())


def _weight(count: int) -> float:
    """The a of exp(-a u^2 / 2): found by search for the fewest features at the default `eps` and `tol`."""
    return 1.0 - max(0, count - 16) / 240


def _axes(count: int) -> tuple[Float64[Tensor, "N term"], Float64[Tensor, "N N"], Float64[Tensor, "N N"]]:
    """Orthonormal axes of the part in the coordinates phi_n, how they are mixed of its functions, and their products.

    exp(-a u^2 / 2) u^n = sum_m ((1 - a) / 2)^m / m! sqrt((n + 2m)!) phi_(n + 2m).
    """
    n = torch.arange(count, dtype=torch.float64)
    of_n = torch.lgamma(n + 1) / 2
    rest = (1 - _weight(count)) / 2
    if not rest:
        return torch.eye(count, _TERMS, dtype=torch.float64), torch.diag((-of_n).exp()), torch.diag((2 * of_n).exp())
    term = torch.arange(_TERMS, dtype=torch.float64)
    m = (term - n[:, None]) / 2
    there = (m >= 0) & (m == m.round())
    log = m.clamp(min=0) * torch.tensor(rest, dtype=torch.float64).log() - torch.lgamma(m.clamp(min=0) + 1)
    own = torch.where(there, (log + torch.lgamma(term + 1) / 2 - of_n[:, None]).exp(), 0.0)  # of functions / sqrt(n!)
    axes, upper = torch.linalg.qr(own.T)
    mix = torch.linalg.solve_triangular(upper.T, torch.diag((-of_n).exp()), upper=False)
    return axes.T.contiguous(), mix, (own @ own.T) * (of_n[:, None] + of_n).exp()


def _terms(u: Float64[Tensor, " u"]) -> Float64[Tensor, "u term"]:
    n = torch.arange(_TERMS, dtype=torch.float64)
    return (n * u[:, None].log() - u[:, None].square() / 2 - torch.lgamma(n + 1) / 2).exp()


def _geometric(first: float, end: float, ratio: float) -> list[float]:
    out = [first]
    while out[-1] * ratio < end:
        out.append(out[-1] * ratio)
    return out

"""Information in bits between variables seen on many problems, and the one type the error bounds accept.

1. `Information` is a number of bits with its interval, and says what kind of number it is.
2. Discrete labels: `entropy_bits` and `discrete_mi`, plug-in values from counts.
3. Continuous vectors: `gaussian_mi` from canonical correlations, `ksg_mi` from nearest neighbours.
4. `reduce_dimensions` by principal components, for estimators that need few dimensions. Say so beside the number:
   information after a reduction is that of the reduced vector, at most that of the whole one.

A sample here is a problem (`n` of them), unlike in `hsic`, where the samples are the coordinates of one vector. For
discrete answers and vectors of many dimensions use `vinformation`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from probes.checks import check_finite, check_interval
from probes.chunks import DEFAULT_MAX_BYTES, matrices_of, parts
from probes.errors import InputError

__all__ = ["Information", "discrete_mi", "entropy_bits", "gaussian_mi", "ksg_mi", "reduce_dimensions"]

Bound = Literal["lower", "estimate", "exact"]

_MOST_DIMENSIONS = 5  # beyond this the nearest-neighbour estimate falls far short of the truth
_DRAWN_BYTES = 2**25  # of labels drawn at a time: memory does not grow with the number of draws


@dataclass(frozen=True)
class Information:
    """Information in bits with an interval, of one place: what `error_bounds` takes.

    >>> print(Information(1.25, 1.1, 1.4, level=0.95, n=500, bound="lower", method="linear probe"))
    1.250 bits [1.100, 1.400] at 95 %, n = 500 (linear probe; a lower bound on Shannon information)

    `bound` is "lower" for a lower bound on Shannon information (V-information), "exact" where the joint distribution
    is known, "estimate" otherwise. An estimate may be negative. `entropy` is that of the label in bits, where the
    estimate is a difference from it: what `error_bounds` then wants beside it. Raises `InputError` unless low <= bits
    <= high, all finite, 0 < level < 1 and n >= 1.
    """

    bits: float
    low: float
    high: float
    level: float
    n: int
    bound: Bound
    method: str
    entropy: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        numbers = (self.low, self.bits, self.high)
        if not (all(map(math.isfinite, numbers)) and self.low <= self.bits <= self.high):
            raise InputError(
                "Information",
                expected="finite low <= bits <= high",
                received=f"low {self.low!r}, bits {self.bits!r}, high {self.high!r}",
                remedy="An undefined value has no Information; leave it out.",
            )
        if not (0 < self.level < 1 and self.n >= 1):
            raise InputError(
                "Information",
                expected="0 < level < 1 and n >= 1",
                received=f"level {self.level!r}, n {self.n!r}",
                remedy="The level is a share, such as 0.95; n counts problems.",
            )
        if self.bound not in get_args(Bound):
            raise InputError(
                "Information",
                expected=f"bound as one of {', '.join(get_args(Bound))}",
                received=repr(self.bound),
                remedy='Use "estimate" unless the method proves more.',
            )

    def __str__(self) -> str:
        kind = {"lower": "a lower bound on Shannon information", "estimate": "an estimate", "exact": "exact"}
        return (
            f"{self.bits:.3f} bits [{self.low:.3f}, {self.high:.3f}] at {100 * self.level:g} %, n = {self.n} "
            f"({self.method}; {kind[self.bound]})"
        )


def entropy_bits(labels: Tensor, *, miller_madow: bool = False) -> float:
    """Plug-in entropy of labels `[n]`, in bits.

    >>> entropy_bits(torch.tensor([0, 1, 2, 3, 3, 2, 1, 0]))
    2.0

    Biased downward, by about (K - 1) / (2 n ln 2) bits for K labels; `miller_madow` adds that back, with the number of
    labels seen as K. Raises `InputError` for anything but a non-empty integer vector.
    Source: Miller 1955, Note on the bias of information estimates.
    """
    counts = _codes("entropy_bits", "labels", labels).bincount()[None]
    return float(_entropy(counts, miller_madow))


def discrete_mi(
    x: Tensor,
    y: Tensor,
    *,
    miller_madow: bool = False,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Information:
    """Plug-in mutual information of two label vectors `[n]`, in bits, with a bootstrap interval over problems.

    >>> x = torch.tensor([0, 1] * 50)
    >>> discrete_mi(x, 1 - x, draws=100).bits
    1.0

    Biased upward, by about (K_x - 1)(K_y - 1) / (2 n ln 2) bits for independent labels; `miller_madow` corrects each
    of the three entropies by the labels (and pairs) seen. The interval is the basic bootstrap (2 estimate - quantile),
    which takes out the bias that resampling adds, widened where needed to hold the estimate; it may go below 0.
    Raises `InputError` for anything but two integer vectors of one length.
    Source: Miller 1955; Davison & Hinkley 1997 for the interval.
    """
    code_x, code_y = _codes("discrete_mi", "x", x), _codes("discrete_mi", "y", y)
    if len(code_x) != len(code_y):
        raise InputError(
            "discrete_mi",
            expected=f"y of the length of x, {len(code_x)}",
            received=f"length {len(code_y)}",
            remedy="Both are indexed by problem.",
        )
    check_interval("discrete_mi", level, draws)
    n, width_y = len(code_x), int(code_y.max()) + 1
    # Only pairs that occur get a cell, so many labels cost no more than the problems there are.
    pairs, cell = torch.unique(code_x * width_y + code_y, return_inverse=True)
    row, column = pairs // width_y, pairs % width_y

    def information(counts: Tensor) -> Tensor:
        def marginal(of: Tensor) -> Tensor:
            summed = torch.zeros(len(counts), int(of.max()) + 1, dtype=counts.dtype, device=counts.device)
            return _entropy(summed.index_add(1, of, counts), miller_madow)

        return marginal(row) + marginal(column) - _entropy(counts, miller_madow)

    bits = float(information(cell.bincount(minlength=len(pairs))[None]))
    generator = torch.Generator().manual_seed(seed)
    resampled: list[Tensor] = []
    for part in parts(draws, 8 * n, _DRAWN_BYTES):
        drawn = cell.cpu()[torch.randint(n, (part.stop - part.start, n), generator=generator)]
        counts = torch.zeros(len(drawn), len(pairs), dtype=torch.int64)
        resampled.append(information(counts.scatter_add_(1, drawn, torch.ones_like(drawn)).to(cell.device)))
    tail = torch.tensor([(1 + level) / 2, (1 - level) / 2], dtype=torch.float64)
    low, high = (2 * bits - torch.quantile(torch.cat(resampled).cpu(), tail)).tolist()
    method = "plug-in, Miller-Madow" if miller_madow else "plug-in"
    return Information(bits, min(low, bits), max(high, bits), level, n, "estimate", method)


def gaussian_mi(x: Tensor, y: Tensor, *, corrected: bool = False) -> Float64[Tensor, "*lead"]:
    """Mutual information of jointly Gaussian x `[*lead, n, p]` and y `[n, q]`, in bits.

    >>> angle = torch.arange(400.0)
    >>> x = torch.stack([(angle * 0.7).sin(), (angle * 1.1).sin()]).unsqueeze(-1)  # two places, p = 1
    >>> (gaussian_mi(x, x[0] + 0.5 * x[1]) > 0.1).tolist()
    [True, True]

    -1/2 sum_i log2(1 - rho_i^2) over the canonical correlations rho_i; inf where y is a linear function of x. It sees
    linear dependence only: for variables that are not Gaussian it is no bound in either direction.

    Biased upward. `corrected` subtracts the bias, which for Gaussian data is the same whatever the dependence: with
    nu = n - 1 degrees of freedom the log determinant of a d-dimensional Wishart matrix has mean log det + d log 2 +
    sum_{i=1..d} psi((nu - i + 1) / 2), and the information is half of one such term for x and one for y less one for
    the pair. A corrected value may be negative.

    Raises `InputError` for n <= p + q + 1, for columns that are constant or linear functions of the others, and for
    values that are not finite.
    Source: Kullback 1959 for the formula; Goodman 1963 for the log determinant.
    """
    check_vectors("gaussian_mi", "x", x, lead=True)
    check_vectors("gaussian_mi", "y", y, lead=False)
    (n, p), q = x.shape[-2:], y.shape[-1]
    _check_paired("gaussian_mi", x, y)
    if n <= p + q + 1:
        raise InputError(
            "gaussian_mi",
            expected=f"more than p + q + 1 = {p + q + 1} samples",
            received=f"n = {n} with p = {p} and q = {q}",
            remedy="Use more problems, or reduce_dimensions first and say so.",
        )
    basis_y, xs = _basis("gaussian_mi", "y", y), matrices_of(x)
    rho = torch.cat(
        [
            torch.linalg.svdvals(_basis("gaussian_mi", "x", xs(which)).mT @ basis_y)
            for which in _places(x, 8 * 6 * n * (p + q))
        ]
    ).reshape(*x.shape[:-2], -1)
    rest = 1 - rho.square()
    # Rounding alone leaves about 1e-15 of an exact linear relation.
    rest = torch.where(rest < 1e-13 * n, 0.0, rest)
    bits = -0.5 * torch.log2(rest).sum(dim=-1)
    return bits - _gaussian_bias(n, p, q) if corrected else bits


def ksg_mi(x: Tensor, y: Tensor, *, k: int = 4) -> float:
    """Mutual information of continuous x `[n, p]` and y `[n, q]` by k nearest neighbours, in bits.

    >>> x = torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
    >>> ksg_mi(x, x.sign() * x + 0.1 * x.roll(1, 0)) > 1  # a dependence no correlation shows
    True

    No interval: problems drawn twice are neighbours at distance 0, so a bootstrap of this estimator is wrong. Columns
    are divided by their standard deviation first. Its expected value is close to 0 for independent variables; it falls
    short of a strong dependence, and far short in many dimensions (1.8 nats for a true 5.1 with p = q = 10 at
    n = 1000), so p or q above 5 is refused.

    Needs the extra `peaklens[information]`. Raises `InputError` without it, for p or q above 5, for n <= k, for ties
    (labels are not continuous) and for values that are not finite.
    Source: Kraskov, Stögbauer & Grassberger 2004, first algorithm, as implemented by infomeasure.
    """
    check_vectors("ksg_mi", "x", x, lead=False)
    check_vectors("ksg_mi", "y", y, lead=False)
    _check_paired("ksg_mi", x, y)
    n = len(x)
    for name, width in (("x", x.shape[-1]), ("y", y.shape[-1])):
        if width > _MOST_DIMENSIONS:
            raise InputError(
                "ksg_mi",
                expected=f"at most {_MOST_DIMENSIONS} dimensions",
                received=f"{name} with {width}",
                remedy="Nearest neighbours fall far short there: reduce_dimensions first and say so.",
            )
    if not 1 <= k < n:
        raise InputError(
            "ksg_mi", expected=f"k from 1 to n - 1 = {n - 1}", received=repr(k), remedy="The usual choice is 4."
        )
    scaled = [_standardised("ksg_mi", name, v).cpu().numpy() for name, v in (("x", x), ("y", y))]
    for name, v in (("x", x), ("y", y)):
        if len(v.unique(dim=0)) < n:
            raise InputError(
                "ksg_mi",
                expected=f"{name} without ties",
                received=f"{n - len(v.unique(dim=0))} repeated values",
                remedy="For discrete labels use discrete_mi or v_information.",
            )
    try:
        import infomeasure
    except ImportError:
        raise InputError(
            "ksg_mi",
            expected="the package infomeasure",
            received="none installed",
            remedy='Install the extra: pip install "peaklens[information]".',
        ) from None
    # noise_level=0: without ties the library's jitter is not needed, and its generator is not ours to seed.
    nats = infomeasure.mutual_information(*scaled, approach="metric", k=k, noise_level=0, base="e")
    return float(nats) / math.log(2)


def reduce_dimensions(x: Tensor, k: int) -> Float64[Tensor, "*lead n {k}"]:
    """The first k principal components of x `[*lead, n, d]`, for each place on its own.

    >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    >>> reduce_dimensions(x, 1).round().tolist()
    [[-5.0], [0.0], [5.0]]

    Centred, not scaled: the unit stays that of `x`. The largest loading of each component is positive, so the same
    input gives the same output. Looks at no labels. Raises `InputError` for k outside 1 to min(n - 1, d) and for values
    that are not finite.
    """
    check_vectors("reduce_dimensions", "x", x, lead=True)
    n, d = x.shape[-2:]
    if not 1 <= k <= min(n - 1, d):
        raise InputError(
            "reduce_dimensions",
            expected=f"k from 1 to {min(n - 1, d)} for n = {n} and d = {d}",
            received=repr(k),
            remedy="Components beyond that hold nothing.",
        )
    xs, out = matrices_of(x), torch.empty(math.prod(x.shape[:-2]), n, k, dtype=torch.float64, device=x.device)
    for which in _places(x, 8 * (3 * n * d + min(n, d) * (n + d))):
        values = xs(which).double()
        values = values - values.mean(dim=-2, keepdim=True)
        u, s, vh = torch.linalg.svd(values, full_matrices=False)
        loadings = vh[..., :k, :]
        largest = loadings.gather(-1, loadings.abs().argmax(dim=-1, keepdim=True)).transpose(-1, -2)
        signs = torch.ones_like(largest).masked_fill_(largest < 0, -1)
        out[which] = u[..., :k] * s[..., None, :k] * signs
    return out.reshape(*x.shape[:-2], n, k)


def _places(x: Tensor, bytes_each: int) -> Iterator[Tensor]:
    """Numbers of the places of `x [*lead, n, d]`, as many at a time as fit the usual memory."""
    for part in parts(math.prod(x.shape[:-2]), bytes_each, DEFAULT_MAX_BYTES):
        yield torch.arange(part.start, part.stop, device=x.device)


def check_vectors(operation: str, name: str, x: Tensor, *, lead: bool) -> None:
    """Refuse what is not a finite floating tensor of samples."""
    layout = "[*lead, n, d]" if lead else "[n, d]"
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise InputError(
            operation,
            expected=f"{name} as a floating tensor {layout}",
            received=str(x.dtype) if isinstance(x, Tensor) else type(x).__name__,
            remedy="Convert it with .float().",
        )
    if (x.ndim < 2 if lead else x.ndim != 2) or x.numel() == 0:
        raise InputError(
            operation,
            expected=f"{name} of shape {layout}, not empty",
            received=f"shape {tuple(x.shape)}",
            remedy="Problems are the last axis but one; a single coordinate is an axis of length 1.",
        )
    check_finite(operation, name, x, "Leave those problems out.")


def _check_paired(operation: str, x: Tensor, y: Tensor) -> None:
    if x.shape[-2] != y.shape[-2]:
        raise InputError(
            operation,
            expected=f"y with the {x.shape[-2]} problems of x",
            received=f"{y.shape[-2]}",
            remedy="Problems are the last axis but one.",
        )


def _codes(operation: str, name: str, labels: Tensor) -> Tensor:
    """Labels as 0, 1, ... in order of their value."""
    kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        received = str(kind)
    elif labels.ndim != 1 or len(labels) == 0:
        received = f"{kind} of shape {tuple(labels.shape)}"
    else:
        return labels.detach().unique(return_inverse=True)[1]
    raise InputError(
        operation,
        expected=f"{name} as a non-empty integer vector [n]",
        received=received,
        remedy="Number the answers first; one label a problem.",
    )


def _entropy(counts: Tensor, miller_madow: bool) -> Tensor:
    """Bits per row of counts."""
    share = counts.double() / counts.sum(dim=-1, keepdim=True)
    bits = -torch.xlogy(share, share).sum(dim=-1) / math.log(2)
    if miller_madow:
        bits = bits + ((counts > 0).sum(dim=-1) - 1) / (2 * counts.sum(dim=-1) * math.log(2))
    return bits


def _standardised(operation: str, name: str, x: Tensor) -> Tensor:
    values = x.detach().double()
    mean = values.mean(dim=-2, keepdim=True)
    values = values - mean
    spread = values.std(dim=-2, keepdim=True)
    flat = spread <= 1e-12 * mean.abs()
    if bool(flat.any()):
        raise InputError(
            operation,
            expected=f"every column of {name} to vary",
            received=f"{int(flat.sum())} constant, first at column {int(flat.nonzero()[0][-1])}",
            remedy="Leave constant columns out.",
        )
    return values / spread


def _basis(operation: str, name: str, x: Tensor) -> Tensor:
    """An orthonormal basis of the centred columns."""
    u, s, _ = torch.linalg.svd(_standardised(operation, name, x), full_matrices=False)
    if bool((s[..., -1] < 1e-9 * s[..., 0]).any()):
        raise InputError(
            operation,
            expected=f"columns of {name} that are not linear functions of each other",
            received=f"a smallest singular value below 1e-9 of the largest, for {x.shape[-1]} columns",
            remedy="Use reduce_dimensions first and say so.",
        )
    return u


def _gaussian_bias(n: int, p: int, q: int) -> float:
    """What the plug-in value is too high by, in bits, for Gaussian data of any dependence."""

    def digammas(d: int) -> Tensor:
        return torch.digamma((n - 1 - torch.arange(d, dtype=torch.float64)) / 2).sum()

    return float(digammas(p) + digammas(q) - digammas(p + q)) / (2 * math.log(2))

"""The scale of a vector: the median distance between its coordinates, and vectors in units of it.

The scale of activations differs between layers, steps and models. The median heuristic gives each vector its own
bandwidth, the median distance between its coordinates, so that a score no longer depends on the scale of any vector.

1. `median_multiple`, `sigma_of`: how a bandwidth is written; 2. `median_distance`: exact, without the d^2 distances,
and `median_gradient`, which pair of coordinates it is; 3. `rescaled`: what `sigma="median"` means to the estimators.

Source: Gretton et al. 2012, A kernel two-sample test (median heuristic).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from probes.checks import check_max_bytes, check_positive, check_tensor
from probes.chunks import DEFAULT_MAX_BYTES, Take, in_cache, parts, vectors_of
from probes.errors import InputError
from probes.pair_medians import ends, pair_medians, reach

__all__ = [
    "check_sigma",
    "median_distance",
    "median_gradient",
    "median_gradient_over",
    "median_multiple",
    "no_bandwidth",
    "rescaled",
    "sigma_of",
]

_MEDIAN = re.compile(r"(?:([0-9]+\.?[0-9]*|\.[0-9]+)\s*\*\s*)?median")
_TEMPORARIES, _SAMPLED = 48, 2**13  # float64 alive for each sorted vector: vectors of its length, and beside them
_NEAR = 0.05  # of the median: distances that are about it


def sigma_of(operation: str, text: str) -> float | str:
    """A bandwidth as text has it: a number in activation units, or "median" or a multiple of it, which stays text.

    >>> sigma_of("trace", "100"), sigma_of("trace", " 2*median")
    (100.0, '2*median')

    Raises `InputError` for other text, and for what is not positive and finite.
    """
    try:
        sigma: float | str = float(text)
    except ValueError:
        sigma = text.strip()
    check_sigma(operation, sigma)
    return sigma


def check_sigma(operation: str, sigma: float | int | str) -> None:
    """Refuse a bandwidth that is neither positive and finite nor "median" or a multiple of it."""
    check_positive(operation, "sigma", median_multiple(operation, sigma) if isinstance(sigma, str) else sigma)


def median_multiple(operation: str, sigma: str) -> float:
    """The m of "m*median" ("median" alone is 1), or an `InputError` that says what is allowed."""
    match = _MEDIAN.fullmatch(sigma.strip())
    multiple = float(match[1] or 1) if match else math.nan
    if not (math.isfinite(multiple) and multiple > 0):
        raise InputError(
            operation,
            expected='sigma > 0 and finite, or "median", or a positive multiple of it such as "0.5*median"',
            received=repr(sigma),
            remedy="A number is in activation units; the median is each vector's own.",
        )
    return multiple


def median_distance(x: Tensor, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Float64[Tensor, "*lead"]:
    """Median over pairs i < j of |x_i - x_j| between the coordinates of each vector of `x [*lead, d_model]`.

    >>> median_distance(torch.tensor([[0.0, 1.0, 3.0], [5.0, 5.0, 5.0]])).tolist()  # distances 1, 2, 3; 0, 0, 0
    [2.0, 0.0]

    Unit: that of `x`. Of an even number of pairs, the mean of the two middle distances, as numpy's median. Exact to the
    last bit or so: no sampling, no histogram. Memory is O(d_model) a vector, within `max_bytes`; time is a sort and
    three counts of pairs, O(d_model log d_model) each, or some 15 where many are alike. Float64 inside and out.

    Raises `InputError` for NaN or inf and for vectors of fewer than two coordinates.
    Source: Gretton et al. 2012, A kernel two-sample test, JMLR 13.
    """
    check_max_bytes("median_distance", max_bytes)
    check_tensor("median_distance", "x", x, axes=("d_model",))
    lead = x.shape[:-1]
    return _rowpair_medians(vectors_of(x), x, n_rows=math.prod(lead), max_bytes=max_bytes).reshape(lead)


def _rowpair_medians(take: Take, like: Tensor, *, n_rows: int, max_bytes: int) -> Tensor:
    d, device = like.shape[-1], like.device
    rows = torch.arange(n_rows, device=device)
    some = parts(n_rows, 8 * (d * _TEMPORARIES + _SAMPLED), max_bytes, most=in_cache(d, device))
    return torch.cat([pair_medians(take(rows[part]).to(torch.float64)) for part in some])


def median_gradient(x: Tensor, *, near: float = 0.0) -> Float64[Tensor, "*lead d_model"]:
    """By each coordinate of `x [*lead, d_model]`, the derivative of its median distance.

    >>> median_gradient(torch.tensor([0.0, 1.0, 3.0])).tolist()  # the middle distance is that of 1 and 3
    [0.0, -1.0, 1.0]

    One pair of coordinates makes the middle distance, of an even number of pairs two; so the derivative is 1, 0 or -1
    (or halves). Where distances are tied at the middle there is none; then that of one of the tied pairs is given.

    `x` is taken as it is: finite values are the caller's duty.
    """
    rows = x.detach().to(torch.float64).reshape(-1, x.shape[-1])
    ordered, order = rows.sort(dim=-1)
    slope = _slope(ordered, pair_medians(rows))
    return torch.zeros_like(slope).scatter_(1, order, slope).reshape(x.shape)


def median_gradient_over(x: Tensor, step: Tensor) -> Float64[Tensor, "row d_model"]:
    """About the mean of `median_gradient` over each line from `x - step / 2` to `x + step / 2`, both `[row, d_model]`.

    >>> x, step = torch.arange(40.0).sin()[None], torch.arange(40.0).cos()[None] / 10
    >>> moved = median_distance(x + step / 2) - median_distance(x - step / 2)
    >>> torch.allclose((median_gradient_over(x, step) * step).sum(dim=-1), moved)
    True

    Along a line the pair that makes the middle distance changes from point to point, so that its derivative at one
    point knows nothing of the others. Instead the mean is taken over all pairs whose distance is within 5 % of the
    median; of all vectors that move the median by just what it moves on the line, the one nearest to that is given.
    """
    rows, step = x.detach().to(torch.float64), step.detach().to(torch.float64)
    ordered, order = rows.sort(dim=-1)
    middle = pair_medians(rows)
    slope = _slope(ordered, middle)
    around = _slope_around(ordered, middle)
    slope = torch.where(around.isfinite().all(dim=-1, keepdim=True), around, slope)
    slope = torch.zeros_like(slope).scatter_(1, order, slope)
    moved = pair_medians(rows + step / 2) - pair_medians(rows - step / 2)
    along = step - step.mean(dim=-1, keepdim=True)  # an offset moves no distance
    size = along.square().sum(dim=-1)
    missing = torch.where(size > 0, (moved - (slope * step).sum(dim=-1)) / torch.where(size > 0, size, 1.0), 0.0)
    return slope.addcmul_(along, missing[:, None])


def _slope(x: Tensor, middle: Tensor) -> Tensor:
    """The derivative of the median distances `middle` of sorted rows."""
    n, d = x.shape
    pairs = d * (d - 1) // 2
    # One bit up: a distance that was rounded down to the middle one lies beyond it.
    middle = torch.nextafter(middle, x.new_tensor(math.inf))
    within, up_to, beyond = reach(x, middle)
    end, out = ends(x, middle), torch.zeros_like(x)
    lower = up_to.argmax(dim=-1, keepdim=True)
    # Between the two middle distances there is none: just half of all are up to their mean, unless they are tied.
    two = (within == pairs // 2)[:, None] if pairs % 2 == 0 else torch.zeros(n, 1, dtype=torch.bool, device=x.device)
    share = torch.where(two, 0.5, 1.0).double()
    out.scatter_add_(1, end.gather(1, lower) - 1, share).scatter_add_(1, lower, -share)
    upper, rest = beyond.argmin(dim=-1, keepdim=True), torch.where(two, 0.5, 0.0).double()
    return out.scatter_add_(1, end.gather(1, upper).clamp(max=d - 1), rest).scatter_add_(1, upper, -rest)


def _slope_around(x: Tensor, middle: Tensor) -> Tensor:
    """The mean derivative of distances near the middle one, of sorted rows; not finite where there are none."""
    low, high = ends(x, middle * (1 - _NEAR)), ends(x, middle * (1 + _NEAR))
    below = (high - low).double()  # pairs in which a coordinate is the lower one
    marks = torch.zeros(len(x), x.shape[1] + 1, dtype=torch.float64, device=x.device)
    marks.scatter_add_(1, low, torch.ones_like(x)).scatter_add_(1, high, -torch.ones_like(x))
    slope = marks.cumsum(dim=1)[:, :-1] - below
    return slope * (middle / (slope * x).sum(dim=-1))[:, None]


def rescaled(
    operation: str,
    name: str,
    take: Take,
    like: Tensor,
    *,
    sigma: str,
    shape: tuple[int, ...],
    max_bytes: int = DEFAULT_MAX_BYTES,
    n_rows: int | None = None,
    place: Callable[[int], int] = int,
) -> tuple[Take, Float64[Tensor, " row"]]:
    """`take`, giving vectors in units of their own bandwidth, and the bandwidths, for `sigma` like "0.5*median".

    >>> x = torch.tensor([[0.0, 1.0, 3.0], [0.0, 10.0, 30.0]])
    >>> take, bandwidth = rescaled("nhsic", "steps", x.__getitem__, x, sigma="median", shape=(2,))
    >>> bandwidth.tolist(), take(torch.tensor([0, 1])).tolist()
    ([2.0, 20.0], [[-0.5, 0.0, 1.0], [-0.5, 0.0, 1.0]])

    With sigma = 1, `take` gives the kernel that `sigma` asks for. A constant vector has bandwidth 0 and comes as
    zeros. `take(rows)` fetches the vectors of the given rows of `shape`; all their bandwidths are found at once, so
    that a vector without one is refused (`InputError`) before any work. Where `take` has `n_rows` of the vectors alone,
    `place` gives the place of each in `shape`.
    """
    multiple = median_multiple(operation, sigma)
    count = math.prod(shape) if n_rows is None else n_rows
    bandwidth = multiple * _rowpair_medians(take, like, n_rows=count, max_bytes=max_bytes)
    zero = torch.nonzero(bandwidth == 0)[:, 0]
    for part in parts(len(zero), 16 * like.shape[-1], max_bytes):
        x = take(zero[part])
        bad = zero[part][x.amax(dim=-1) > x.amin(dim=-1)]
        if len(bad):
            raise no_bandwidth(operation, name, _place(place(int(bad[0])), shape))
    divisor = torch.where(bandwidth > 0, bandwidth, 1.0)[:, None]

    def fetch(rows: Tensor) -> Tensor:
        x = take(rows).to(torch.float64)
        # The offset first: the kernel is blind to it, and dividing a large one would round the differences away.
        return (x - x.median(dim=-1, keepdim=True).values) / divisor[rows]

    return fetch, bandwidth


def no_bandwidth(operation: str, name: str, place: str) -> InputError:
    """The refusal of a vector that varies but whose median distance is 0: it has no bandwidth."""
    return InputError(
        operation,
        expected=f"{name} with a positive median distance between coordinates, or constant ones",
        received=f"a vector ({place}) at least half of whose pairs of coordinates coincide",
        remedy='Give sigma as a number, or leave that vector out; "median" needs coordinates that differ.',
    )


def _place(row: int, shape: tuple[int, ...]) -> str:
    if not shape:
        return "the only vector"
    index: list[int] = []
    for length in reversed(shape):
        row, inner = divmod(row, length)
        index.insert(0, inner)
    return f"index {index}"

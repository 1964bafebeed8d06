"""The scale of a vector: the median distance between its coordinates, and vectors in units of it.

The scale of activations differs between layers, steps and models. The median heuristic gives each vector its own
bandwidth, the median distance between its coordinates, so that a score no longer depends on the scale of any vector.

1. `median_multiple`, `sigma_of`: how a bandwidth is written; 2. `median_distance`: exact, without the d^2 distances;
3. `rescaled`: what `sigma="median"` means to the estimators.

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

__all__ = ["check_sigma", "median_distance", "median_multiple", "no_bandwidth", "rescaled", "sigma_of"]

_MEDIAN = re.compile(r"(?:([0-9]+\.?[0-9]*|\.[0-9]+)\s*\*\s*)?median")
_MOST_TURNS = 10_000  # halving every fifth time closes any bracket of float64 sooner
_TEMPORARIES = 32  # float64 vectors alive for each sorted one


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
    last bit or so: no sampling, no histogram. Memory is O(d_model) a vector, within `max_bytes`; time is some 8 to 15
    counts of pairs, O(d_model log d_model) each. Float64 inside and out.

    Raises `InputError` for NaN or inf and for vectors of fewer than two coordinates.
    Source: Gretton et al. 2012, A kernel two-sample test, JMLR 13.
    """
    check_max_bytes("median_distance", max_bytes)
    check_tensor("median_distance", "x", x, axes=("d_model",))
    lead = x.shape[:-1]
    return _row_medians(vectors_of(x), x, n_rows=math.prod(lead), max_bytes=max_bytes).reshape(lead)


def _row_medians(take: Take, like: Tensor, *, n_rows: int, max_bytes: int) -> Tensor:
    d, device = like.shape[-1], like.device
    rows = torch.arange(n_rows, device=device)
    some = parts(n_rows, 8 * d * _TEMPORARIES, max_bytes, most=in_cache(d, device))
    return torch.cat([_medians(take(rows[part]).to(torch.float64)) for part in some])


def _medians(x: Tensor) -> Tensor:
    """Medians of the pairwise distances of each row, by shrinking a bracket around the middle distance.

    With s_1 <= ... <= s_N the distances of a row and c = #{s <= t}, c >= k says that the wanted s_k is at most the
    largest distance up to t, c < k that it is at least the smallest beyond t. Either end is a distance itself, so a
    bracket closes after finitely many counts, also where distances are tied.
    """
    x = x.sort(dim=-1).values
    n, d = x.shape
    pairs = d * (d - 1) // 2
    k = (pairs + 1) // 2
    out = torch.empty(n, dtype=torch.float64, device=x.device)
    rows = torch.arange(n, device=x.device)
    low, high = torch.zeros_like(out), x[:, -1] - x[:, 0]
    below, up_to = torch.zeros_like(out), torch.full_like(out, pairs)  # counts strictly below low, and up to high
    t = _first_guess(x)
    for turn in range(_MOST_TURNS):  # some 10 to 15 turns; the halvings alone would close any bracket
        t = torch.minimum(torch.maximum(t, low), high)
        reached, largest, smallest = _count(x, t)
        enough = reached >= k
        low, below = torch.where(enough, low, smallest), torch.where(enough, below, reached)
        high, up_to = torch.where(enough, largest, high), torch.where(enough, reached, up_to)
        # At the high end the count is done: a bracket that cannot shrink is one distance, or two that round alike.
        done = (low >= high) | (~enough & (t >= low) & (torch.nextafter(low, high) >= high))
        if bool(done.any()):
            found, at = high[done], x[done]
            if pairs % 2 == 0:
                # One bit up: a distance that was rounded down to `found` lies beyond it.
                within, _, following = _count(at, torch.nextafter(found, found.new_tensor(math.inf)))
                found = torch.where(within > k, found, found + (following - found) / 2)
            out[rows[done]] = found
            going = ~done
            if not bool(going.any()):
                return out
            rows, x, low, high, t = rows[going], x[going], low[going], high[going], t[going]
            below, up_to = below[going], up_to[going]
        if turn % 5 == 4:
            t = low + (high - low) / 2
        else:
            # Where the middle lies if distances were spread evenly in the bracket; a little to either side in turn, so
            # that both ends move.
            inside = up_to - below
            aim = k - below + inside.sqrt() * (0.5 if turn % 2 else -0.5)
            t = low + (high - low) * (aim / inside).clamp(0.0, 1.0)
        t = torch.where(t >= high, low, t)  # a count at the high end would tell nothing
    raise RuntimeError(f"median_distance: a bracket did not close in {_MOST_TURNS} turns")


def _first_guess(x: Tensor) -> Tensor:
    """The median distance between some 48 coordinates, evenly spread over the sorted ones."""
    some = x[:, :: math.ceil(x.shape[1] / 48)]
    if some.shape[1] < 2:
        some = x
    first, second = torch.triu_indices(some.shape[1], some.shape[1], 1, device=x.device)
    return (some[:, second] - some[:, first]).median(dim=-1).values


def _count(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For sorted rows: #{i < j: x_j - x_i <= t}, the largest such distance, and the smallest beyond t."""
    bound, d = x + t[:, None], x.shape[-1]
    # Knuth's two-sum: what the addition lost. A sum rounded up must not admit the coordinate it was rounded to.
    part = bound - x
    lost = (x - (bound - part)) + (t[:, None] - part)
    bound = torch.where(lost < 0, torch.nextafter(bound, bound.new_tensor(-math.inf)), bound)
    end = torch.searchsorted(x, bound, right=True)
    own = torch.arange(1, d + 1, device=x.device)
    end = torch.maximum(end, own)
    last = x.gather(1, end - 1) - x
    following = (x.gather(1, end.clamp(max=d - 1)) - x).masked_fill_(end == d, math.inf)
    return (end - own).sum(dim=-1).double(), last.amax(dim=-1), following.amin(dim=-1)


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
    bandwidth = multiple * _row_medians(take, like, n_rows=count, max_bytes=max_bytes)
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

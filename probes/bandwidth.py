"""The bandwidth of a step's kernel: the median heuristic, and how far peaks depend on the choice.

The paper searches sigma in [50, 400], in activation units; the scale of activations differs between layers, steps and
models. The median heuristic gives each vector its own sigma, the median distance between its coordinates, so that the
score no longer depends on the scale of either vector.

1. `median_distance`: exact, without the d^2 distances; 2. `rescaled`: what `sigma="median"` means to the estimators;
3. `bandwidth_sweep`: the scores and peaks of one trajectory under several bandwidths, and how far the peaks agree.

Source: Gretton et al. 2012, A kernel two-sample test (median heuristic); Qian et al. 2025, arXiv 2506.02867 (sigma).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from probes.checks import SMALLEST_EPS, check_options, check_pair, check_tensor, median_multiple
from probes.chunks import vectors_of
from probes.errors import InputError
from probes.lowrank import DEFAULT_MAX_BYTES
from probes.peaks import tukey_peaks

__all__ = ["BandwidthSweep", "bandwidth_sweep", "median_distance", "no_bandwidth", "rescaled"]

_MOST_TURNS = 10_000  # halving every fifth time closes any bracket of float64 sooner

# A chunk of sorted vectors and its temporaries stay in a core's cache up to about this many float64.
_CACHE_ELEMENTS = 2**15
_TEMPORARIES = 12


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
    check_options("median_distance", 1.0, max_bytes=max_bytes)
    check_tensor("median_distance", "x", x, axes=("d_model",), sigma=1.0)
    lead = x.shape[:-1]
    return _row_medians(vectors_of(x), x, n_rows=math.prod(lead), max_bytes=max_bytes).reshape(lead)


def _row_medians(take: Callable[[Tensor], Tensor], like: Tensor, *, n_rows: int, max_bytes: int) -> Tensor:
    d = like.shape[-1]
    size = max(1, max_bytes // (8 * d * _TEMPORARIES))
    if like.device.type == "cpu":
        size = min(size, max(1, _CACHE_ELEMENTS * torch.get_num_threads() // d))
    rows = torch.arange(n_rows, device=like.device)
    return torch.cat([_medians(take(part).to(torch.float64)) for part in rows.split(size)])


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
    take: Callable[[Tensor], Tensor],
    like: Tensor,
    *,
    sigma: str,
    shape: tuple[int, ...],
    max_bytes: int = DEFAULT_MAX_BYTES,
    n_rows: int | None = None,
    place: Callable[[int], int] = int,
) -> tuple[Callable[[Tensor], Tensor], Float64[Tensor, " row"]]:
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
    for part in zero.split(max(1, max_bytes // (16 * like.shape[-1]))):
        x = take(part)
        bad = part[x.amax(dim=-1) > x.amin(dim=-1)]
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


@dataclass(frozen=True)
class BandwidthSweep:
    """Scores and peaks of the same steps under several bandwidths. Made by `bandwidth_sweep`.

    `mi` is nHSIC (dimensionless, not bits); `bandwidth` the answer's, in activation units (0 where a constant answer
    has no median distance); `jaccard` |A and B| / |A or B| of two bandwidths' peaks, NaN where neither has any.
    """

    sigmas: tuple[float | int | str, ...]
    mi: Float64[Tensor, "sigma *lead step"]
    is_peak: Bool[Tensor, "sigma *lead step"]
    jaccard: Float64[Tensor, "*lead sigma sigma"]
    bandwidth: Float64[Tensor, "sigma *lead"]

    def to_dict(self) -> dict[str, list[str] | list[int] | list[float] | list[bool]]:
        """Columns of a tidy table: a row per bandwidth, trajectory (leading axes flattened, last fastest) and step.

        >>> steps = torch.arange(24.0).sin().reshape(6, 4) * 30
        >>> list(bandwidth_sweep(steps, steps[0], sigmas=(50, "median")).to_dict())
        ['sigma', 'trajectory', 'step', 'bandwidth', 'mi', 'is_peak']
        """
        n_sigmas, n_steps = self.mi.shape[0], self.mi.shape[-1]
        n_trajectories = self.bandwidth[0].numel()
        return {
            "sigma": [str(sigma) for sigma in self.sigmas for _ in range(n_trajectories * n_steps)],
            "trajectory": [t for _ in range(n_sigmas) for t in range(n_trajectories) for _ in range(n_steps)],
            "step": list(range(n_steps)) * (n_sigmas * n_trajectories),
            "bandwidth": self.bandwidth[..., None].expand(self.mi.shape).reshape(-1).tolist(),
            "mi": self.mi.reshape(-1).tolist(),
            "is_peak": self.is_peak.reshape(-1).tolist(),
        }

    def jaccard_to_dict(self) -> dict[str, list[str] | list[int] | list[float]]:
        """Columns of a tidy table: a row per trajectory and pair of bandwidths, the first one earlier in `sigmas`.

        >>> steps = torch.arange(24.0).sin().reshape(6, 4) * 30
        >>> bandwidth_sweep(steps, steps[0], sigmas=(50, "median")).jaccard_to_dict()["sigma_b"]
        ['median']
        """
        flat = self.jaccard.reshape(-1, len(self.sigmas), len(self.sigmas))
        first, second = torch.triu_indices(len(self.sigmas), len(self.sigmas), 1)
        return {
            "trajectory": [t for t in range(len(flat)) for _ in range(len(first))],
            "sigma_a": [str(self.sigmas[i]) for i in first.tolist()] * len(flat),
            "sigma_b": [str(self.sigmas[i]) for i in second.tolist()] * len(flat),
            "jaccard": flat[:, first, second].reshape(-1).tolist(),
        }


def bandwidth_sweep(
    steps: Tensor,
    answer: Tensor,
    *,
    sigmas: Sequence[float | int | str] = (50, 100, 200, 400, "0.5*median", "median", "2*median"),
    tau: float | int = 1.5,
    eps: float | int = 1e-5,
    drop_top: int = 0,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> BandwidthSweep:
    """nHSIC of `steps [*lead, step, d_model]` with `answer [*lead, d_model]` and its peaks, for several bandwidths.

    >>> steps = torch.arange(24.0).sin().reshape(6, 4) * 30
    >>> sweep = bandwidth_sweep(steps, steps[0])
    >>> sweep.mi.shape, sweep.jaccard.shape
    (torch.Size([7, 6]), torch.Size([7, 7]))

    A number is one sigma for all vectors, in activation units; "median" gives each vector its own (see `nhsic`).
    Peaks are Tukey's with `tau`. Each answer is factorised once a bandwidth. Leading axes broadcast; other options,
    unit and errors as for `nhsic` and `tukey_peaks`.
    Source: Qian et al. 2025, arXiv 2506.02867, which searches sigma from 50 to 400; Gretton et al. 2012 for "median".
    """
    # Late, because the estimators take their bandwidth from this module.
    from probes.hsic import paired_scores

    if isinstance(sigmas, str) or not len(sigmas) or len({str(s) for s in sigmas}) < len(sigmas):
        raise InputError(
            "bandwidth_sweep",
            expected="sigmas as a sequence of different bandwidths, at least one",
            received=repr(sigmas),
            remedy='For example (50, 400, "median").',
        )
    for sigma in sigmas:
        check_options("bandwidth_sweep", sigma, eps, max_bytes=max_bytes, smallest_eps=SMALLEST_EPS)
        check_pair("bandwidth_sweep", steps, answer, sigma, drop_top)
    found = [
        paired_scores("bandwidth_sweep", steps, answer, sigma=s, eps=eps, drop_top=drop_top, max_bytes=max_bytes)
        for s in sigmas
    ]
    mi = torch.stack([scores for scores, _ in found])
    is_peak = tukey_peaks(mi, tau)
    sets = is_peak.movedim(0, -2).double()  # [*lead, sigma, step]
    both, each = sets @ sets.mT, sets.sum(dim=-1)
    return BandwidthSweep(
        sigmas=tuple(sigmas),
        mi=mi,
        is_peak=is_peak,
        jaccard=both / (each[..., :, None] + each[..., None, :] - both),  # 0 / 0 is NaN: neither has a peak
        bandwidth=torch.stack([widths for _, widths in found]),
    )

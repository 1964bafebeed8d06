"""The median of the distances between all pairs of coordinates, exact, without the pairs.

1. `pair_medians`: sort; guess; count the pairs up to two distances that should enclose the middle one closely; look at
the few pairs between the two. 2. Where they enclose nothing, or too much, a bracket is shrunk until it closes.

Rows are vectors, of float64; all is O(d log d) a row. On a CPU with numba `compiled_medians` does the same.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from probes.compiling import kernels

__all__ = ["ends", "pair_medians", "reach"]

_MOST_TURNS = 10_000  # halving every fifth time closes any bracket of float64 sooner
_SAMPLE = 64  # coordinates whose distances give the first guess
_SURE = 64  # coordinates, below which a guess is as dear as the answer
_MOST_INSIDE = 4  # pairs looked at, for each coordinate: where coordinates are rounded, many distances are alike


def pair_medians(x: Float64[Tensor, "row d"]) -> Float64[Tensor, " row"]:
    """Medians of the pairwise distances of each row; of an even number of pairs the mean of the two middle ones.

    >>> pair_medians(torch.tensor([[3.0, 0.0, 1.0], [5.0, 5.0, 5.0]]).double()).tolist()
    [2.0, 0.0]
    """
    code = kernels("compiled_medians") if x.device.type == "cpu" else None
    if code is not None:
        out = x.new_empty(len(x))
        code.middle_distances(np.sort(x.detach().numpy()), out.numpy())
        return out
    x = x.sort(dim=-1).values
    if x.shape[1] < _SURE:
        return _by_brackets(x)
    found = _by_window(x)
    left = ~found.isfinite()
    if bool(left.any()):
        found[left] = _by_brackets(x[left])
    return found


def _by_window(x: Tensor) -> Tensor:
    """Of sorted rows; NaN where the middle pairs are not among the few looked at."""
    n, d = x.shape
    pairs = d * (d - 1) // 2
    k = (pairs + 1) // 2
    guess, density = _guess(x)
    off = k - _within(x, guess)
    # Where the middle lies if pairs are as dense there as in the sample, and how far that may be wrong, in pairs.
    middle = guess + off / density
    width = (off.abs() / 6 + 3 * off.abs().sqrt() + d / 16 + 8) / density
    low, high = (middle - width).clamp(min=0), middle + width
    order = torch.arange(1, d + 1, device=x.device)
    begin = torch.maximum(torch.searchsorted(x, x + low[:, None], right=True), order)
    end = torch.maximum(torch.searchsorted(x, x + high[:, None], right=True), order)
    counts = end - begin
    below, inside = (begin - order).sum(dim=-1), counts.sum(dim=-1)
    fits = (below < k - 1) & (below + inside > k + 1) & (inside <= _MOST_INSIDE * d) & density.isfinite()
    counts = counts * fits[:, None]
    # The pairs of all rows one after the other, and then beside each other: at least two in each that fits.
    total = counts.flatten().cumsum(dim=0)
    inside = inside * fits
    first = torch.arange(n * d, device=x.device).repeat_interleave(counts.flatten())
    nth = torch.arange(len(first), device=x.device)
    second = begin.flatten()[first] + nth - (total - counts.flatten())[first]
    row = first // d
    distance = x.flatten()[row * d + second] - x.flatten()[first]
    place = nth - (inside.cumsum(dim=0) - inside)[row]
    most = int(inside.max())
    if most == 0:
        return torch.full_like(guess, math.nan)
    beside = x.new_full((n, most), math.inf)
    beside[row, place] = distance
    ordered = beside.sort(dim=-1).values
    at = (k - 1 - below).clamp(0, most - 1)[:, None]
    found = ordered.gather(1, at)[:, 0]
    following = ordered.gather(1, (at + 1).clamp(max=most - 1))[:, 0]
    # Rounding may put a pair on the wrong side of either end: none of those is near the middle.
    slack = 4 * torch.finfo(x.dtype).eps * x.abs().amax(dim=-1)
    sure = fits & (found > low + slack) & (following < high - slack)
    if pairs % 2 == 0:
        found = found + (following - found) / 2
    return torch.where(sure, found, math.nan)


def _guess(x: Tensor) -> tuple[Tensor, Tensor]:
    """About the middle distance, and how many pairs there are about it by unit of distance, from a sample."""
    d = x.shape[1]
    block = d / _SAMPLE
    at = ((torch.arange(_SAMPLE, dtype=torch.float64) + 0.5) * block).long().to(x.device)
    some = x[:, at]
    first, second = torch.triu_indices(_SAMPLE, _SAMPLE, 1, device=x.device)
    distance = (some[:, second] - some[:, first]).sort(dim=-1).values
    # Pairs within a block are all near, and none of the sample.
    middle = round((d * d / 4 - d * block / 2) / block**2)
    spread = _SAMPLE
    ahead, behind = distance[:, middle + spread], distance[:, middle - spread]
    return distance[:, middle], 2 * spread * block**2 / (ahead - behind)


def _within(x: Tensor, t: Tensor) -> Tensor:
    """About how many pairs of sorted rows are within t."""
    order = torch.arange(1, x.shape[1] + 1, device=x.device)
    return (torch.searchsorted(x, x + t[:, None], right=True) - order).sum(dim=-1)


def _by_brackets(x: Tensor) -> Tensor:
    """Of sorted rows, by shrinking a bracket around the middle distance.

    With s_1 <= ... <= s_N the distances of a row and c = #{s <= t}, c >= k says that the wanted s_k is at most the
    largest distance up to t, c < k that it is at least the smallest beyond t. Either end is a distance itself, so a
    bracket closes after finitely many counts, also where distances are tied.
    """
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
    within, up_to, beyond = reach(x, t)
    return within, up_to.amax(dim=-1), beyond.amin(dim=-1)


def reach(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For sorted rows: #{i < j: x_j - x_i <= t}, and from each coordinate the largest such distance and the next."""
    end, d = ends(x, t), x.shape[-1]
    up_to = x.gather(1, end - 1) - x
    beyond = (x.gather(1, end.clamp(max=d - 1)) - x).masked_fill_(end == d, math.inf)
    return (end - torch.arange(1, d + 1, device=x.device)).sum(dim=-1).double(), up_to, beyond


def ends(x: Tensor, t: Tensor) -> Tensor:
    """For sorted rows and each coordinate i: the first j > i with x_j - x_i > t."""
    bound, d = x + t[:, None], x.shape[-1]
    # Knuth's two-sum: what the addition lost. A sum rounded up must not admit the coordinate it was rounded to.
    part = bound - x
    lost = (x - (bound - part)) + (t[:, None] - part)
    bound = torch.where(lost < 0, torch.nextafter(bound, bound.new_tensor(-math.inf)), bound)
    return torch.maximum(torch.searchsorted(x, bound, right=True), torch.arange(1, d + 1, device=x.device))

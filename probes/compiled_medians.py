"""Middle distances as compiled code: what `pair_medians` says, of rounded distances, by counts that walk along a row.

This module needs numba (the extra `fast`); who has a use for it asks `compiling.kernels`.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from jaxtyping import Float64

from probes.compiling import compiled_exactly

__all__ = ["middle_distances"]

_MOST_INSIDE = 2  # pairs looked at, for each coordinate
_QUARTILES = 0.7  # about what the middle distance of a bell curve is of the distance between its quartiles


@partial(compiled_exactly, within=True)
def _count(s: Float64[np.ndarray, " d"], t: float) -> tuple[int, float, float]:
    """#{i < j: s_j - s_i <= t} of a sorted row, the largest such distance, and the smallest beyond t."""
    count, end, largest, beyond = 0, 1, -1.0, math.inf
    for i in range(len(s)):
        end = max(end, i + 1)
        while end < len(s) and s[end] - s[i] <= t:
            end += 1
        count += end - i - 1
        if end > i + 1:
            largest = max(largest, s[end - 1] - s[i])
        if end < len(s):
            beyond = min(beyond, s[end] - s[i])
    return count, largest, beyond


@compiled_exactly
def middle_distances(x: Float64[np.ndarray, "row d"], out: Float64[np.ndarray, " row"]) -> None:
    """Medians of the distances between the coordinates of sorted rows; of an even number the mean of the middle two.

    >>> out = np.empty(2)
    >>> middle_distances(np.array([[0.0, 1.0, 3.0], [5.0, 5.0, 5.0]]), out)
    >>> out.tolist()
    [2.0, 0.0]

    A bracket around the middle is shrunk until the distances within it are few, which are then looked at, or alike.
    Every count either raises the least distance within or lowers the largest, so that it closes also where many tie.
    """
    d = x.shape[1]
    pairs = d * (d - 1) // 2
    k = (pairs + 1) // 2  # the middle one, in ascending order from 1, or the lower of two
    upper = k + 1 - pairs % 2
    few = np.empty(_MOST_INSIDE * d)
    for row in range(len(x)):
        s = x[row]
        # `below` distances are at most `low`, `up_to` at most `high`; `least` is the smallest beyond `low`.
        low, below, high, up_to = -1.0, 0, s[d - 1] - s[0], pairs
        least = high
        for i in range(1, d):
            least = min(least, s[i] - s[i - 1])
        found = following = high
        t = _QUARTILES * (s[3 * d // 4] - s[d // 4])
        t_before, count_before, turn = 0.0, 0, 0
        while up_to - below > len(few) and least < high:
            if turn % 4 == 3 or not t < high:
                t = least + (high - least) / 2
            if not least <= t < high:
                t = least
            count, largest, beyond = _count(s, t)
            if count < k:
                low, below, least = t, count, beyond
            elif count >= upper:
                high, up_to = largest, count
            else:
                found, following, up_to = largest, beyond, below
                break
            # Where it lies if distances are as dense there as between the last two counts; some to either side of the
            # middle, so that both ends close in.
            aim = k - d // 4 if k - below > up_to - k else k + d // 4
            density = (count - count_before) / (t - t_before)
            t_before, count_before, t = t, count, t + (aim - count) / density
            turn += 1
        if up_to > below and least < high:
            size = begin = end = 0
            for i in range(d):
                begin, end = max(begin, i + 1), max(end, i + 1)
                while begin < d and s[begin] - s[i] <= low:
                    begin += 1
                while end < d and s[end] - s[i] <= high:
                    end += 1
                for j in range(begin, end):
                    few[size] = s[j] - s[i]
                    size += 1
            at = k - below - 1
            ordered = np.partition(few[:size], at)
            found = following = ordered[at]
            if upper > k:
                following = ordered[at + 1 :].min()
        elif up_to > below:
            found = following = high
        out[row] = found + (following - found) / 2 if upper > k else found

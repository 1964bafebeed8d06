"""The chain of an nHSIC as compiled code: a step goes through all of it while its features are in the first cache.

What torch does with a block of steps is a chain of kernels, each of which writes down what the next one reads, with
the interpreter between them: for steps of some hundred coordinates that costs more than all products of matrices do.
Here numba compiles the chain as one loop over steps, which holds no lock of the interpreter: threads that share the
rows (`shared`) do not wait for one another. What is computed is what `expansion` and `step_blocks` say, in another
order: scores are the same to rounding.

This module alone needs numba (the extra `fast`); who has a use for it asks `step_blocks.kernels`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from jaxtyping import Float64, Int64

__all__ = ["ALLOWED", "farthest", "scores"]

#: Whether numba may compile: ``NUMBA_DISABLE_JIT=1`` forbids it.
ALLOWED = not numba.config.DISABLE_JIT

# Coordinates worked on at once: features of so many, and answers' factors at them, stay in the first cache.
_BLOCK = 256
_GUESSES = 12
# Rows whose small matrices are worked on beside one another: a vector of the processor has some of each.
_LANES = 32
# What features are multiplied by beside answers: 1, F_0, F_1 and the last feature.
_OWN = 4
_FARTHEST = 30.0  # as in `expansion`
_ROUNDED = float(np.finfo(np.float64).eps)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Sums in any order, and a product with the sum after it as one: but NaN and inf are what they are."""
    options = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}
    function = inspect.unwrap(function)  # what checks types while tests run cannot be compiled
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside this file nor at home a folder to keep it in
        return numba.njit(**options)(function)


@_compiled
def farthest(
    u: Float64[np.ndarray, "row d"], sizes: Float64[np.ndarray, "row most"], places: Int64[np.ndarray, "row most"]
) -> None:
    """The largest |u| of each row, in descending order, and where they are.

    >>> sizes, places = np.empty((1, 2)), np.empty((1, 2), np.int64)
    >>> farthest(np.array([[1.0, -3.0, 0.5, 2.0]]), sizes, places)
    >>> sizes.tolist(), places.tolist()
    ([[3.0, 2.0]], [[1, 3]])
    """
    d, most = u.shape[1], sizes.shape[1]
    for row in range(len(u)):
        # What at least as many reach: guessed from the mean, for most coordinates are then soon dismissed.
        guess, low, high = 0.0, 0.0, 0.0
        for i in range(d):
            guess += abs(u[row, i]) * (2 / d)
        for _ in range(_GUESSES):
            count = 0
            for i in range(d):
                count += 1 if abs(u[row, i]) >= guess else 0
            if count >= most:
                low = guess
                if count <= most + most // 4:
                    break
            else:
                high = guess
            guess = (low + high) / 2 if high > 0.0 else 2 * guess
        size, place = sizes[row], places[row]
        found, least = 0, low
        for i in range(d):
            here = abs(u[row, i])
            if here < least or (found == most and here == least):
                continue
            at = found if found < most else most - 1
            found = min(found + 1, most)
            while at > 0 and size[at - 1] < here:
                size[at] = size[at - 1]
                place[at] = place[at - 1]
                at -= 1
            size[at] = here
            place[at] = i
            if found == most:
                least = size[most - 1]


@_compiled
def _multiply(
    x: Float64[np.ndarray, "n d"],
    begin: int,
    features: Float64[np.ndarray, "N block"],
    size: int,
    first: int,
    out: Float64[np.ndarray, "m N"],
) -> None:
    """Add to `out`, from row `first` on, the products of x with the features over `size` coordinates from `begin` on.

    Three features at a time, and four rows of x: their twelve sums stay in registers.
    """
    n, last = len(x), len(x) - 1
    for j in range(0, len(features), 3):
        f0, f1, f2 = features[j], features[j + 1], features[j + 2]
        i = 0
        while i + 2 < n:
            x0, x1 = x[i][begin : begin + size], x[i + 1][begin : begin + size]
            x2, x3 = x[i + 2][begin : begin + size], x[min(i + 3, last)][begin : begin + size]
            a0 = a1 = a2 = b0 = b1 = b2 = c0 = c1 = c2 = d0 = d1 = d2 = 0.0
            for k in range(size):
                a0 += x0[k] * f0[k]
                a1 += x0[k] * f1[k]
                a2 += x0[k] * f2[k]
                b0 += x1[k] * f0[k]
                b1 += x1[k] * f1[k]
                b2 += x1[k] * f2[k]
                c0 += x2[k] * f0[k]
                c1 += x2[k] * f1[k]
                c2 += x2[k] * f2[k]
                d0 += x3[k] * f0[k]
                d1 += x3[k] * f1[k]
                d2 += x3[k] * f2[k]
            o = out[first + i]
            o[j], o[j + 1], o[j + 2] = o[j] + a0, o[j + 1] + a1, o[j + 2] + a2
            o = out[first + i + 1]
            o[j], o[j + 1], o[j + 2] = o[j] + b0, o[j + 1] + b1, o[j + 2] + b2
            o = out[first + i + 2]
            o[j], o[j + 1], o[j + 2] = o[j] + c0, o[j + 1] + c1, o[j + 2] + c2
            if i + 3 < n:
                o = out[first + i + 3]
                o[j], o[j + 1], o[j + 2] = o[j] + d0, o[j + 1] + d1, o[j + 2] + d2
            i += 4
        if i < n:  # one or two are left
            x0, x1 = x[i][begin : begin + size], x[min(i + 1, last)][begin : begin + size]
            a0 = a1 = a2 = b0 = b1 = b2 = 0.0
            for k in range(size):
                a0 += x0[k] * f0[k]
                a1 += x0[k] * f1[k]
                a2 += x0[k] * f2[k]
                b0 += x1[k] * f0[k]
                b1 += x1[k] * f1[k]
                b2 += x1[k] * f2[k]
            o = out[first + i]
            o[j], o[j + 1], o[j + 2] = o[j] + a0, o[j + 1] + a1, o[j + 2] + a2
            if i + 1 < n:
                o = out[first + i + 1]
                o[j], o[j + 1], o[j + 2] = o[j] + b0, o[j + 1] + b1, o[j + 2] + b2


@_compiled
def _columns(
    far: Float64[np.ndarray, " apart"],
    mix: Float64[np.ndarray, "N N"],
    weight: float,
    phi: Float64[np.ndarray, "m apart"],
    axes: Float64[np.ndarray, "N apart"],
) -> None:
    """The factor's columns of the coordinates apart, `phi`: their features, and a root of what these leave.

    `axes` is room.
    """
    apart, count = len(far), len(mix)
    for j in range(apart):
        u = min(max(far[j], -_FARTHEST), _FARTHEST)
        power = np.exp(u * u * (-weight / 2)) * u
        phi[0, j] = np.expm1(u * u * (-weight / 2))
        for n in range(1, count):
            phi[n, j] = power
            power *= u
    shifted = weight == 1.0  # the kernel shifted to the base point, for its digits; what is left is the same
    axes[:] = 0.0
    for i in range(count):
        for n in range(i + 1):
            if mix[i, n] != 0.0:
                for j in range(apart):
                    axes[i, j] += mix[i, n] * (phi[n, j] + (0.0 if shifted or n else 1.0))
    root = phi[count:]
    largest = 0.0
    for i in range(apart):
        for j in range(i + 1):
            left = np.expm1((far[i] - far[j]) ** 2 / -2)
            if shifted:
                left -= np.expm1(far[i] ** 2 / -2) + np.expm1(far[j] ** 2 / -2)
            else:
                left += 1.0
            for n in range(count):
                left -= axes[n, i] * axes[n, j]
            root[j, i] = left
            root[i, j] = 0.0 if i != j else left
        largest = max(largest, root[i, i])
    # Coordinates are in descending order, and so is what is left at them: once that is rounding, so is all after it.
    for k in range(apart):
        if root[k, k] <= _ROUNDED * apart * largest:
            root[k, k:] = 0.0
            continue
        scale = 1 / np.sqrt(root[k, k])
        for j in range(k, apart):
            root[k, j] *= scale
        for i in range(k + 1, apart):
            for j in range(i, apart):
                root[i, j] -= root[k, i] * root[k, j]


@_compiled
def scores(
    u: Float64[np.ndarray, "row d"],
    bell: Float64[np.ndarray, "row d"],
    shifted: Float64[np.ndarray, "row d"],
    at: Int64[np.ndarray, "row apart"],
    far: Float64[np.ndarray, "row apart"],
    mix: Float64[np.ndarray, "N N"],
    inner: Float64[np.ndarray, "N N"],
    weight: float,
    ridge: float,
    whitened: Float64[np.ndarray, "answer q d"],
    ends: Int64[np.ndarray, " row_and_one"],
    answers: Int64[np.ndarray, " pair"],
    out: Float64[np.ndarray, " pair"],
) -> None:
    """nHSIC of rows whose features are `shifted`, `bell` u, `bell` u^2, ..., pair by pair.

    Row r meets the answers of the pairs `ends[r]` to `ends[r + 1]`; `far` are the coordinates `at`, which are 0 in `u`.
    `mix` and `inner`, the products of features as functions, have n = 0, 1, 2, ... in order. NaN where not even the
    ridge makes a Gram matrix positive.
    """
    d, count, apart, q = u.shape[1], len(mix), at.shape[1], whitened.shape[1]
    m, padded = count + apart, (count + 2) // 3 * 3
    most = 0
    for row in range(len(u)):
        most = max(most, ends[row + 1] - ends[row])
    width, lanes = m + most * q, min(_LANES, len(u))
    features, own = np.zeros((padded, _BLOCK)), np.ones((_OWN, _BLOCK))
    sums, cross = np.empty((_OWN, padded)), np.empty((most * q, padded))
    phi, axes = np.empty((m, apart)), np.empty((count, apart))
    # Of some rows beside one another: the Gram matrix, its upper half, with the products on its right.
    work, columns = np.zeros((m, width, lanes)), np.zeros((apart, width, lanes))
    mean, share = np.zeros((m, lanes)), np.empty(lanes)
    total, least = np.empty((most, lanes)), np.empty(lanes)
    for begin_row in range(0, len(u), lanes):
        group = min(lanes, len(u) - begin_row)
        for lane in range(group):
            row = begin_row + lane
            first, met = ends[row], ends[row + 1] - ends[row]
            # 1. Features, some coordinates at a time, and their products.
            sums[:] = 0.0
            cross[:] = 0.0
            for begin in range(0, d, _BLOCK):
                size = min(_BLOCK, d - begin)
                here = u[row][begin : begin + size]
                e, s = bell[row][begin : begin + size], shifted[row][begin : begin + size]
                for k in range(size):
                    features[0, k] = s[k]
                    features[1, k] = e[k] * here[k]
                for n in range(2, count):
                    before, power = features[n - 1], features[n]
                    for k in range(size):
                        power[k] = before[k] * here[k]
                for k in range(size):
                    own[1, k], own[2, k], own[3, k] = features[0, k], features[1, k], features[count - 1, k]
                _multiply(own, 0, features, size, 0, sums)
                for k in range(met):
                    _multiply(whitened[answers[first + k]], begin, features, size, k * q, cross)
            # 2. The Gram matrix of the features is one of power sums.
            for i in range(count):
                for j in range(i, count):
                    if i == 0:
                        work[i, j, lane] = sums[1, j]
                    elif i + j <= count:
                        work[i, j, lane] = sums[2, i + j - 1]
                    else:
                        work[i, j, lane] = sums[3, i + j - count + 1]
                for j in range(most * q):
                    work[i, m + j, lane] = cross[j, i]
                mean[i, lane] = sums[0, i]
            if apart:
                _columns(far[row], mix, weight, phi, axes)
            for k in range(apart):
                for i in range(m):
                    columns[k, i, lane] = phi[i, k]
                for j in range(met):
                    for n in range(q):
                        columns[k, m + j * q + n, lane] = whitened[answers[first + j], n, at[row, k]]
        # 3. What the coordinates apart add.
        for i in range(m):
            for j in range(max(i, count), width if i >= count else m):
                for k in range(lanes):
                    work[i, j, k] = 0.0
            if i >= count:
                for k in range(lanes):
                    mean[i, k] = 0.0
        for column in range(apart):
            for i in range(count + column + 1):  # below it the root is 0
                for k in range(lanes):
                    mean[i, k] += columns[column, i, k]
                for j in range(i, width):
                    for k in range(lanes):
                        work[i, j, k] += columns[column, i, k] * columns[column, j, k]
        # 4. Centred, and with the ridge.
        for i in range(m):
            for j in range(i, m):
                for k in range(lanes):
                    work[i, j, k] -= mean[i, k] / d * mean[j, k]
        for i in range(count):
            for j in range(i, count):
                for k in range(lanes):
                    work[i, j, k] += ridge * inner[i, j]
        for i in range(count, m):
            for k in range(lanes):
                work[i, i, k] += ridge
        # 5. Elimination: of each pivot the squares of what is right of it, over it, are its part of the scores.
        least[:] = 1.0
        total[:] = 0.0
        for pivot in range(m):
            for k in range(lanes):
                least[k] = min(least[k], work[pivot, pivot, k])
            for i in range(pivot + 1, m):
                for k in range(lanes):
                    share[k] = work[pivot, i, k] / work[pivot, pivot, k]
                for j in range(i, width):
                    for k in range(lanes):
                        work[i, j, k] -= share[k] * work[pivot, j, k]
            for j in range(most):
                for n in range(m + j * q, m + j * q + q):
                    for k in range(lanes):
                        total[j, k] += work[pivot, n, k] * work[pivot, n, k] / work[pivot, pivot, k]
        for lane in range(group):
            first = ends[begin_row + lane]
            for j in range(ends[begin_row + lane + 1] - first):
                out[first + j] = total[j, lane] if least[lane] > 0.0 else np.nan

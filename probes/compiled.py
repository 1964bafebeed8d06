"""The chain of an nHSIC as compiled code: a step goes through all of it while its features are in a near cache.

What torch does with a block of steps is a chain of kernels, each of which writes down what the next one reads, with
the interpreter between them: for steps of some hundred coordinates that costs more than all products of matrices do.
Here numba compiles the chain as one loop over steps, which holds no lock of the interpreter: threads that share the
rows (`shared`) do not wait for one another. What is computed is what `expansion` and `step_blocks` say, in another
order: scores are the same to rounding.

This module needs numba (the extra `fast`); who has a use for it asks `compiling.kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from probes.compiling import compiled, compiled_within

__all__ = ["LANES", "axes", "factors", "grams", "in_units", "scores", "take_apart"]

# Coordinates worked on at once: features of so many, and answers' factors at them, stay in a near cache.
_BLOCK = 256
_GUESSES = 12
# Below it exp(x) has digits that expm1(x) + 1 has lost.
_FADED = -0.75
# What features are multiplied by beside answers: 1, F_0, F_1 and the last feature.
_OWN = 4
#: Rows whose small matrices are worked on beside one another: a number of each.
LANES = 8
# Numbers in a register, and in a line of the cache.
_WIDE = 8 if "+avx512f" in get_host_cpu_features().split(",") else 4
_LINE = 8
# As in `expansion`, not from there: what is kept on the disk would outlive a change of another file.
_FARTHEST = 30.0
_ROUNDED = float(np.finfo(np.float64).eps)


@compiled
def in_units(
    x: Float64[np.ndarray, "row d"],
    width: float,
    u: Float64[np.ndarray, "row d"],
    sizes: Float64[np.ndarray, "row most"],
    places: Int64[np.ndarray, "row most"],
) -> None:
    """u = (x - b) / width, b the base point (`expansion.base_point`); the farthest of each row in order, and where.

    >>> u, sizes, places = np.empty((1, 5)), np.empty((1, 2)), np.empty((1, 2), np.int64)
    >>> in_units(np.array([[3.0, -5.0, 2.0, 5.0, 1.0]]), 2.0, u, sizes, places)
    >>> u.tolist(), sizes.tolist(), places.tolist()
    ([[0.5, -3.5, 0.0, 1.5, -0.5]], [[3.5, 1.5]], [[1, 3]])
    """
    d, most = u.shape[1], sizes.shape[1]
    stride = max(1, d // 64)
    few = np.empty((d + stride - 1) // stride)
    for row in range(len(u)):
        for i in range(len(few)):
            at, value = i, x[row, i * stride]
            while at > 0 and few[at - 1] > value:
                few[at] = few[at - 1]
                at -= 1
            few[at] = value
        base = few[(len(few) - 1) // 2]
        # What at least as many reach: guessed from the mean, for most coordinates are then soon dismissed.
        guess, low, high = 0.0, 0.0, 0.0
        for i in range(d):
            u[row, i] = (x[row, i] - base) * (1 / width)
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


@compiled
def take_apart(
    u: Float64[np.ndarray, "row d"],
    places: Int64[np.ndarray, "row most"],
    aparts: Int64[np.ndarray, " row"],
    weights: Float64[np.ndarray, " row"],
    far: Float64[np.ndarray, "row most"],
    exponent: Float64[np.ndarray, "row d"],
) -> None:
    """Move the first `aparts` of the coordinates `places` to `far`, 0 in their place; exponents -a u^2 / 2 of the rest.

    >>> u, far, exponent = np.array([[1.0, -3.0]]), np.empty((1, 1)), np.empty((1, 2))
    >>> take_apart(u, np.array([[1]]), np.array([1]), np.array([0.5]), far, exponent)
    >>> u.tolist(), far.tolist(), exponent.tolist()
    ([[1.0, 0.0]], [[-3.0]], [[-0.25, -0.0]])
    """
    for row in range(len(u)):
        for j in range(aparts[row]):
            far[row, j] = u[row, places[row, j]]
            u[row, places[row, j]] = 0.0
        for i in range(u.shape[1]):
            exponent[row, i] = u[row, i] * u[row, i] * (weights[row] / -2)


@intrinsic
def _products(typing: Any, rows: Any, features: Any, size: Any) -> tuple[Any, Callable[..., Any]]:
    """Products of some rows with some features, row by row, over their first `size` coordinates: tuples of arrays.

    All sums stay in registers, each as `_WIDE` numbers. LLVM by itself takes half of what a register of AVX-512 holds.
    """

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def added(kind: Any, begin: Any, end: Any, step: Any, before: list[Any]) -> list[Any]:
            sums = [cgutils.alloca_once_value(builder, value) for value in before]
            with cgutils.for_range_slice(builder, begin, end, step, intp=end.type) as (at, _):
                x, f = ([_load(builder, kind, one, at) for one in of] for of in (x_begins, f_begins))
                for total, (one, other) in zip(sums, product(x, f), strict=True):
                    builder.store(builder.fadd(builder.load(total), builder.fmul(one, other)), total)
            return [builder.load(total) for total in sums]

        x_begins, f_begins = (_begins(context, builder, signature.args[i], arguments[i]) for i in range(2))
        end = arguments[2]
        none, one, step = (ir.Constant(end.type, number) for number in (0, 1, _WIDE))
        double, wide = ir.DoubleType(), ir.VectorType(ir.DoubleType(), _WIDE)
        whole = builder.sub(end, builder.srem(end, step))
        sums = added(wide, none, whole, step, [ir.Constant(wide, None)] * (len(x_begins) * len(f_begins)))
        across = ir.FunctionType(double, [double, wide])
        across = cgutils.get_or_insert_function(builder.module, across, f"llvm.vector.reduce.fadd.v{_WIDE}f64")
        sums = [builder.call(across, [ir.Constant(double, 0.0), total], fastmath=("reassoc",)) for total in sums]
        return context.make_tuple(builder, signature.return_type, added(double, whole, end, one, sums))

    return types.UniTuple(types.float64, rows.count * features.count)(rows, features, size), codegen


def _begins(context: Any, builder: Any, kind: Any, arrays: Any) -> list[Any]:
    """Where the numbers of each array of a tuple lie."""
    arrays = cgutils.unpack_tuple(builder, arrays)
    return [context.make_array(kind.dtype)(context, builder, array).data for array in arrays]


def _load(builder: Any, kind: Any, begin: Any, at: Any) -> Any:
    place = builder.bitcast(builder.gep(begin, [at]), kind.as_pointer())
    return builder.load(place, align=8)


@intrinsic
def _add_products(typing: Any, to: Any, shares: Any, of: Any, size: Any) -> tuple[Any, Callable[..., Any]]:
    """Add to the first numbers of `to [size, LANES]` those of some others, by so large a share: `[LANES]` of each."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        end, wide = arguments[3], ir.VectorType(ir.DoubleType(), LANES)
        none, step = ir.Constant(end.type, 0), ir.Constant(end.type, LANES)
        shared, others = (_begins(context, builder, signature.args[i], arguments[i]) for i in (1, 2))
        factors = [_load(builder, wide, one, none) for one in shared]
        place = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        with cgutils.for_range_slice(builder, none, builder.mul(end, step), step, intp=end.type) as (at, _):
            total = _load(builder, wide, place, at)
            for factor, other in zip(factors, others, strict=True):
                total = builder.fadd(total, builder.fmul(factor, _load(builder, wide, other, at)))
            builder.store(total, builder.bitcast(builder.gep(place, [at]), wide.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(to, shares, of, size), codegen


@compiled_within
def _multiply(
    x: Float64[np.ndarray, "n d"],
    begin: int,
    features: Float64[np.ndarray, "N block"],
    size: int,
    first: int,
    out: Float64[np.ndarray, "m N"],
) -> None:
    """Add to `out`, from row `first` on, the products of x with the features over `size` coordinates from `begin` on.

    Four rows of x, or the last two, and three features at a time.
    """
    n, last = len(x), len(x) - 1
    for i in range(0, n, 4):
        x0, x1 = x[i][begin : begin + size], x[min(i + 1, last)][begin : begin + size]
        x2, x3 = x[min(i + 2, last)][begin : begin + size], x[min(i + 3, last)][begin : begin + size]
        for j in range(0, len(features), 3):
            f = features[j], features[j + 1], features[j + 2]
            if i + 2 < n:
                four = _products((x0, x1, x2, x3), f, size)
                for k in range(min(4, n - i)):
                    for of in range(3):
                        out[first + i + k, j + of] += four[3 * k + of]
            else:
                two = _products((x0, x1), f, size)
                for k in range(n - i):
                    for of in range(3):
                        out[first + i + k, j + of] += two[3 * k + of]


@compiled_within
def _aligned(rows: int) -> Float64[np.ndarray, "rows block"]:
    """Zeros of `_BLOCK` columns that begin where a line of the cache does: what is loaded then never crosses one."""
    room = np.zeros(rows * _BLOCK + _LINE)
    skipped = (_LINE - room.ctypes.data // 8 % _LINE) % _LINE
    return room[skipped : skipped + rows * _BLOCK].reshape((rows, _BLOCK))


@compiled_within
def _make_features(
    u: Float64[np.ndarray, " d"],
    shifted: Float64[np.ndarray, " d"],
    weight: float,
    begin: int,
    size: int,
    count: int,
    out: Float64[np.ndarray, "N block"],
) -> None:
    """Features of `size` coordinates from `begin` on: `shifted`, exp(-a u^2 / 2) - 1, then exp(-a u^2 / 2) u, ..."""
    here, s = u[begin : begin + size], shifted[begin : begin + size]
    least = 0.0
    for k in range(size):
        out[0, k] = s[k]
        out[1, k] = (s[k] + 1) * here[k]
        least = min(least, s[k])
    if least < _FADED:
        for k in range(size):
            if s[k] < _FADED:
                out[1, k] = np.exp(here[k] * here[k] * (weight / -2)) * here[k]
    for n in range(2, count):
        before, power = out[n - 1], out[n]
        for k in range(size):
            power[k] = before[k] * here[k]


@compiled_within
def _columns(
    far: Float64[np.ndarray, " apart"],
    apart: int,
    mix: Float64[np.ndarray, "N N"],
    count: int,
    weight: float,
    phi: Float64[np.ndarray, "N most_apart"],
    root: Float64[np.ndarray, "most_apart most_apart"],
    room: Float64[np.ndarray, "N most_apart"],
) -> None:
    """Features `phi` of the coordinates apart, and a root of what these leave: `root[k, j]` at coordinate j, k <= j."""
    for j in range(apart):
        u = min(max(far[j], -_FARTHEST), _FARTHEST)
        power = np.exp(u * u * (-weight / 2)) * u
        phi[0, j] = np.expm1(u * u * (-weight / 2))
        for n in range(1, count):
            phi[n, j] = power
            power *= u
    shifted = weight == 1.0  # the kernel shifted to the base point, for its digits; what is left is the same
    for i in range(count):
        room[i] = 0.0
        for n in range(i + 1):
            if mix[i, n] != 0.0:
                for j in range(apart):
                    room[i, j] += mix[i, n] * (phi[n, j] + (0.0 if shifted or n else 1.0))
    largest = 0.0
    for i in range(apart):
        for j in range(i + 1):
            left = np.expm1((far[i] - far[j]) ** 2 / -2)
            if shifted:
                left -= phi[0, i] + phi[0, j]
            else:
                left += 1.0
            for n in range(count):
                left -= room[n, i] * room[n, j]
            root[i, j] = 0.0
            root[j, i] = left
        largest = max(largest, root[i, i])
    # Coordinates are in descending order, and so is what is left at them: once that is rounding, so is all after it.
    for k in range(apart):
        if root[k, k] <= _ROUNDED * apart * largest:
            root[k, k:apart] = 0.0
            continue
        scale = 1 / np.sqrt(root[k, k])
        for j in range(k, apart):
            root[k, j] *= scale
        for i in range(k + 1, apart):
            for j in range(i, apart):
                root[i, j] -= root[k, i] * root[k, j]


@compiled
def grams(
    steps: tuple[Any, ...],
    bases: tuple[Any, ...],
    groups: Int64[np.ndarray, "group 6"],
    ridge: float,
    whitened: Float64[np.ndarray, "answer q d"],
    ends: Int64[np.ndarray, " row_and_one"],
    answers: Int64[np.ndarray, " pair"],
    room: Float64[np.ndarray, " room"],
) -> None:
    """Centred Gram matrices of the factors of all rows, upper half, with a ridge; products with answers right of it.

    In `room` are, group by group, `[m, width + 1, LANES]`, sums over coordinates last: see `compiled_steps`, which has
    `steps`, `bases` and `groups` too. A factor has as many rows of features as any of its group, and then one for each
    coordinate apart; where a step has fewer, 1 stands on the diagonal and else 0. Row r meets the answers of the pairs
    `ends[r]` to `ends[r + 1]`.
    """
    u, shifted, which, aparts, at, far = steps
    counts, weights, mixes, inners = bases
    d, q = u.shape[1], whitened.shape[1]
    largest, farthest, widest = groups[:, 2].max(), groups[:, 3].max(), groups[:, 4].max()
    padded = (largest + 2) // 3 * 3
    features, own = _aligned(padded), _aligned(_OWN)
    own[0] = 1.0
    sums, cross = np.empty((_OWN, padded)), np.empty((LANES, max(1, widest), padded))
    phi, axes, root = np.zeros((largest, farthest)), np.zeros((largest, farthest)), np.zeros((farthest, farthest))
    first_products, powers = np.zeros((largest, LANES)), np.zeros((2 * largest, LANES))
    columns, means = np.empty((farthest + 3, widest, LANES)), np.empty((largest + farthest, LANES))
    shares = np.empty((4, LANES))
    for group in range(len(groups)):
        begin_row, end_row, most, most_apart, width, start = groups[group]
        m, lanes = most + most_apart, end_row - begin_row
        work = room[start : start + m * (width + 1) * LANES].reshape((m, width + 1, LANES))
        work[:] = 0.0
        columns[:] = 0.0
        cross[:, : width - m] = 0.0
        for row in range(begin_row, end_row):
            lane, count, apart = row - begin_row, counts[which[row]], aparts[row]
            first, met = ends[row], ends[row + 1] - ends[row]
            mix = mixes[which[row]]
            here = (count + 2) // 3 * 3
            # 1. Features, some coordinates at a time, and their products.
            sums[:] = 0.0
            features[count:here] = 0.0
            for begin in range(0, d, _BLOCK):
                size = min(_BLOCK, d - begin)
                _make_features(u[row], shifted[row], weights[which[row]], begin, size, count, features)
                for k in range(size):
                    own[1, k], own[2, k], own[3, k] = features[0, k], features[1, k], features[count - 1, k]
                _multiply(own, size - size, features[:here], size, size - size, sums)
                for k in range(met):
                    _multiply(whitened[answers[first + k]], begin, features[:here], size, k * q, cross[lane])
            for i in range(count):
                work[i, width, lane] = sums[0, i]
                first_products[i, lane] = sums[1, i]
            for n in range(2, 2 * count - 1):
                powers[n, lane] = sums[2, n - 1] if n <= count else sums[3, n - count + 1]
            # 2. Columns of the coordinates apart.
            _columns(far[row], apart, mix, count, weights[which[row]], phi, root, axes)
            for k in range(apart):
                for i in range(count):
                    columns[k, i, lane] = phi[i, k]
                for i in range(k + 1):
                    columns[k, most + i, lane] = root[i, k]
                for j in range(met):
                    for n in range(q):
                        columns[k, m + j * q + n, lane] = whitened[answers[first + j], n, at[row, k]]
        # 3. Of all rows beside one another: the Gram matrix of the features, which is one of power sums, and products
        # with answers; what the columns add to them, and what centring takes.
        for i in range(most):
            for k in range(lanes):
                of = which[begin_row + k]
                for j in range(i, counts[of]):
                    total = first_products[j, k] if i == 0 else powers[i + j, k]
                    work[i, j, k] = total + ridge * inners[of, i, j]
                if i >= counts[of]:
                    work[i, i, k] = 1.0
            for j in range(width - m):
                for k in range(lanes):
                    work[i, m + j, k] = cross[k, j, i]
        for i in range(most_apart):
            for k in range(lanes):
                work[most + i, most + i, k] = ridge if i < aparts[begin_row + k] else 1.0
        for i in range(m):
            for k in range(lanes, LANES):
                work[i, i, k] = 1.0
        for column in range(0, most_apart, 4):  # four at a time: `work` is read and written once for them
            c0, c1, c2, c3 = columns[column], columns[column + 1], columns[column + 2], columns[column + 3]
            end = most + min(column + 4, most_apart)  # below it the root is 0
            for i in range(end):
                by = c0[i], c1[i], c2[i], c3[i]
                _add_products(work[i, i:end], by, (c0[i:end], c1[i:end], c2[i:end], c3[i:end]), end - i)
                _add_products(work[i, m:width], by, (c0[m:], c1[m:], c2[m:], c3[m:]), width - m)
                for k in range(LANES):
                    work[i, width, k] += c0[i, k] + c1[i, k] + c2[i, k] + c3[i, k]
        for i in range(m):
            means[i] = work[i, width]
        for i in range(m):
            for k in range(LANES):
                shares[0, k] = means[i, k] / -d
            _add_products(work[i, i:m], (shares[0],), (means[i:m],), m - i)


@compiled
def scores(
    groups: Int64[np.ndarray, "group 6"],
    q: int,
    ends: Int64[np.ndarray, " row_and_one"],
    room: Float64[np.ndarray, " room"],
    out: Float64[np.ndarray, " pair"],
) -> None:
    """nHSIC pair by pair, from what `grams` has found with answers of `q` rows, which is used up.

    Elimination: of each pivot the squares of what is right of it, over it, are its part of the scores. NaN where not
    even the ridge makes a Gram matrix positive.
    """
    shares, over = np.empty((4, LANES)), np.empty((4, LANES))
    for group in range(len(groups)):
        begin_row, end_row, count, apart, width, start = groups[group]
        m = count + apart
        work = room[start : start + m * (width + 1) * LANES].reshape((m, width + 1, LANES))
        most = (width - m) // q
        least, total = np.full(LANES, 1.0), np.zeros((most, LANES))
        for begin in range(0, m, 4):  # four pivots at a time: what is right of and below them is read once for all
            end = min(begin + 4, m)
            for pivot in range(begin, end):
                line = work[pivot]
                for k in range(LANES):
                    least[k] = min(least[k], line[pivot, k])
                    over[pivot - begin, k] = 1 / line[pivot, k]
                for i in range(pivot + 1, end):
                    for k in range(LANES):
                        shares[0, k] = -line[i, k] * over[pivot - begin, k]
                    _add_products(work[i, i:width], (shares[0],), (line[i:width],), width - i)
                for j in range(most):
                    for n in range(m + j * q, m + j * q + q):
                        for k in range(LANES):
                            total[j, k] += line[n, k] * line[n, k] * over[pivot - begin, k]
            for i in range(end, m):
                for one in range(4):
                    for k in range(LANES):
                        shares[one, k] = -work[begin + one, i, k] * over[one, k]
                w0, w1, w2, w3 = work[begin], work[begin + 1], work[begin + 2], work[begin + 3]
                of = w0[i:width], w1[i:width], w2[i:width], w3[i:width]
                _add_products(work[i, i:width], (shares[0], shares[1], shares[2], shares[3]), of, width - i)
        for row in range(begin_row, end_row):
            for j in range(ends[row + 1] - ends[row]):
                out[ends[row] + j] = total[j, row - begin_row] if least[row - begin_row] > 0.0 else np.nan


@compiled
def axes(
    steps: tuple[Any, ...],
    bases: tuple[Any, ...],
    groups: Int64[np.ndarray, "group 6"],
    ridge: float,
    spare: Float64[np.ndarray, " row"],
    found: Float64[np.ndarray, " room"],
    ranks: Int64[np.ndarray, " row"],
    of_features: Float64[np.ndarray, "row most_rank N_and_one"],
    of_apart: Float64[np.ndarray, "row most_rank most_apart"],
) -> None:
    """The few rows that each centred factor is brought down to, from the Gram matrices that `grams` has `found`.

    Orthonormal axes T of the Gram matrix G, of orthonormal functions, with tr G - tr(T G T^T) at most `spare`; then
    A^-1 T with A A^T = T G T^T + ridge, or T without a ridge. In `of_features` the weight of 1 stands last: it takes
    the mean out. `of_apart` is what rows have at the coordinates apart beside it.

    A Cholesky factorisation with pivots, G = L L^T + E, goes on until tr E <= spare, and T spans the columns of L. What
    projecting on it leaves out of G is no more than E: (1 - T^T T) L is 0.
    """
    u, which, aparts, far = steps[0], steps[2], steps[3], steps[5]
    counts, weights, mixes, _ = bases
    d, widest = u.shape[1], len(mixes[0])
    most_apart = of_apart.shape[2]
    largest = widest + most_apart
    gram, half = np.empty((largest, largest)), np.empty((largest, largest))
    lower, turned = np.empty((largest, largest)), np.empty((largest, largest))
    small, left, sums = np.empty((largest, largest)), np.empty(largest), np.empty(largest)
    phi, room, root = np.zeros((widest, most_apart)), np.zeros((widest, most_apart)), np.zeros((most_apart, most_apart))
    for group in range(len(groups)):
        begin, end, most, farther, width, start = groups[group]
        m = most + farther
        work = found[start : start + m * (width + 1) * LANES].reshape((m, width + 1, LANES))
        for row in range(begin, end):
            lane, count, apart, mix = row - begin, counts[which[row]], aparts[row], mixes[which[row]]
            size = count + apart
            # 1. The Gram matrix of orthonormal functions, and their sums.
            for i in range(size):
                from_i = i if i < count else most + i - count
                for j in range(i, size):
                    half[i, j] = work[from_i, j if j < count else most + j - count, lane]
                    half[j, i] = half[i, j]
            for i in range(size):
                sums[i] = 0.0 if i < count else work[most + i - count, width, lane]
                for j in range(size):
                    gram[i, j] = 0.0 if i < count else half[i, j]
            for i in range(count):
                for n in range(i + 1):
                    if mix[i, n] != 0.0:
                        sums[i] += mix[i, n] * work[n, width, lane]
                        for j in range(size):
                            gram[i, j] += mix[i, n] * half[n, j]
            for i in range(size):
                for j in range(count):
                    total = 0.0
                    for n in range(j + 1):
                        total += gram[i, n] * mix[j, n]
                    left[j] = total
                for j in range(count):
                    gram[i, j] = left[j]
            # 2. Its axes.
            trace = 0.0
            for i in range(size):
                left[i] = gram[i, i]
                trace += left[i]
            enough = max(spare[row], size * _ROUNDED * trace)
            rank = 0
            while rank < size:
                over, pivot = 0.0, 0
                for i in range(size):
                    over += left[i]
                    pivot = i if left[i] > left[pivot] else pivot
                if over <= enough or not left[pivot] > 0.0:
                    break
                for i in range(size):
                    lower[rank, i] = gram[pivot, i]
                for k in range(rank):
                    factor = lower[k, pivot]
                    for i in range(size):
                        lower[rank, i] -= factor * lower[k, i]
                scale = 1 / np.sqrt(left[pivot])
                for i in range(size):
                    lower[rank, i] *= scale
                    left[i] = max(0.0, left[i] - lower[rank, i] ** 2)
                left[pivot] = 0.0
                rank += 1
            for k in range(rank):
                for _ in range(2):  # once is not enough where a column is nearly within the others
                    for before in range(k):
                        total = 0.0
                        for i in range(size):
                            total += lower[before, i] * lower[k, i]
                        for i in range(size):
                            lower[k, i] -= total * lower[before, i]
                total = 0.0
                for i in range(size):
                    total += lower[k, i] ** 2
                for i in range(size):
                    lower[k, i] /= np.sqrt(total)
            # 3. Whitened.
            if ridge > 0.0:
                for k in range(rank):
                    for i in range(size):
                        total = 0.0
                        for j in range(size):
                            total += gram[i, j] * lower[k, j]
                        turned[k, i] = total
                for k in range(rank):
                    for j in range(k + 1):
                        total = ridge if j == k else 0.0
                        for i in range(size):
                            total += turned[k, i] * lower[j, i]
                        small[k, j] = total
                for k in range(rank):
                    for j in range(k + 1):
                        total = small[k, j]
                        for n in range(j):
                            total -= small[k, n] * small[j, n]
                        small[k, j] = total / small[j, j] if j < k else np.sqrt(total)
                    for j in range(k):
                        for i in range(size):
                            lower[k, i] -= small[k, j] * lower[j, i]
                    for i in range(size):
                        lower[k, i] /= small[k, k]
            # 4. Of the features themselves.
            _columns(far[row], apart, mix, count, weights[which[row]], phi, root, room)
            ranks[row] = rank
            for k in range(rank):
                constant = 0.0
                for i in range(size):
                    constant -= lower[k, i] * sums[i] / d
                for n in range(widest):
                    of_features[row, k, n] = 0.0
                of_features[row, k, widest] = constant
                for i in range(count):
                    for n in range(i + 1):
                        of_features[row, k, n] += lower[k, i] * mix[i, n]
                for j in range(apart):
                    total = 0.0
                    for n in range(count):
                        total += of_features[row, k, n] * phi[n, j]
                    for i in range(j + 1):
                        total += lower[k, count + i] * root[i, j]
                    of_apart[row, k, j] = total


@compiled
def factors(
    steps: tuple[Any, ...],
    bases: tuple[Any, ...],
    ranks: Int64[np.ndarray, " row"],
    of_features: Float64[np.ndarray, "row most_rank N_and_one"],
    of_apart: Float64[np.ndarray, "row most_rank most_apart"],
    out: Float64[np.ndarray, "row rank d"],
) -> None:
    """Rows of the factors from what `axes` says of them; 0 beyond the rank of each."""
    u, shifted, which, aparts, at, _ = steps
    weights = bases[1]
    d, widest = u.shape[1], of_features.shape[2] - 1
    features = _aligned(widest + 3)
    for row in range(len(u)):
        count, rank = bases[0][which[row]], ranks[row]
        features[count : count + 3] = 0.0
        out[row, rank:] = 0.0
        for begin in range(0, d, _BLOCK):
            size = min(_BLOCK, d - begin)
            _make_features(u[row], shifted[row], weights[which[row]], begin, size, count, features)
            for k in range(rank):
                line, of = out[row, k][begin : begin + size], of_features[row, k]
                for i in range(size):
                    line[i] = of[widest]
                for n in range(0, count, 4):
                    f0, f1, f2, f3 = features[n], features[n + 1], features[n + 2], features[n + 3]
                    c0, c1, c2, c3 = of[n], of[n + 1], of[n + 2], of[n + 3]
                    for i in range(size):
                        line[i] += c0 * f0[i] + c1 * f1[i] + c2 * f2[i] + c3 * f3[i]
        for k in range(rank):
            for j in range(aparts[row]):
                out[row, k, at[row, j]] += of_apart[row, k, j]

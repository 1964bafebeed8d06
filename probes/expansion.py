"""Fixed features of a one-dimensional Gaussian kernel: the same few functions for every vector, with a bound.

With u = (x - b) / sigma for any base point b, `feature_basis` has functions F_n(u) = exp(-a u^2 / 2) u^n whose mixtures
stand for the kernel between coordinates, without any pivot looked for. How they are used:

1. Centring is blind to a constant, so F_0 is taken as expm1(-a u^2 / 2): where coordinates are much closer than sigma,
   its digits survive (the kernel is then shifted to the base point, as in `lowrank`).
2. The coordinates farthest from the base point, the massive activations, need not be expanded: what the features leave
   of the kernel among them, a matrix of their number, has a root, which makes a row of the factor for each.
3. How many are taken out and how many features the others need follows from a bound of what is left out (`_Plan`).
   Vectors with a wide bulk need more features than are worth it: they go by pivots.
4. The Gram matrix of the features is one of power sums, <F_m, F_n> = sum_i exp(-a u_i^2) u_i^(m + n): two rows of it
   give all. A product with the factor of an answer is one matrix product for all vectors of a block.

Layout: `[vector, feature, d]`, coordinates last, as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from probes.chunks import in_cache, parts
from probes.feature_basis import COUNTS, Basis, basis, remainders
from probes.gram import ridge_cholesky
from probes.kernel import Kernel
from probes.leading_axes import leading_axes

__all__ = [
    "FEATURES",
    "FEWEST",
    "ROUNDING",
    "Expansion",
    "Measured",
    "Room",
    "Table",
    "Visit",
    "base_point",
    "expand",
    "needed",
    "table_of",
]

#: How many features a pass has room for, one pass after the other: most vectors never pay for the few wide ones.
FEATURES = (32, COUNTS[-1])
#: Coordinates, below which pivots are as fast.
FEWEST = 16
#: Mean residual, as a share of the mean diagonal, below which float64 holds only rounding.
ROUNDING = 4 * torch.finfo(torch.float64).eps

#: Called with some rows and their features.
Visit: TypeAlias = Callable[[slice, Tensor], None]

_APART = (0, 4, 8, 12, 20, 32, 48, 64)  # how many coordinates may be taken out of the expansion
# One coordinate more apart costs about as much as this many features of one coordinate each: measured.
_APART_COST = 400.0
# Rows a power of two apart would share the same few places of a cache.
_LINE = 8
_MANY = 1e6  # more than any vector costs
_LEVELS = 40  # of budgets, ten times smaller one after the other
_ROUNDED = torch.finfo(torch.float64).eps
# Beyond it exp(-u^2 / 2) is 0 to rounding whatever it is multiplied by, and a power of u could be inf.
FARTHEST = 30.0


def base_point(x: Float64[Tensor, "row d"]) -> Float64[Tensor, "row 1"]:
    """A point in the bulk of each vector, whatever the massive activations do: the median of a few coordinates.

    Any base point is exact; the kernel shifted to this one is as small as the bulk's own variation.
    """
    return x[:, :: max(1, x.shape[1] // 64)].median(dim=-1, keepdim=True).values


def expand(
    x: Float64[Tensor, "row d"], kernel: Kernel, most: int, room: Room
) -> tuple[Expansion | None, Bool[Tensor, " row"] | None]:
    """The expansions of those vectors that need no more than `most` features, and which of the rows: None is all.

    Which, is said on the CPU. `room` is where the features are made.

    >>> x = torch.arange(64.0).sin()[None].double() * torch.tensor([[3.0], [1000.0]])
    >>> expansion, fits = expand(x, Kernel(), 32, Room())
    >>> fits.tolist(), expansion.measured().gram.shape
    ([True, False], torch.Size([1, 7, 7]))
    """
    u = (x - base_point(x)).mul_(1 / kernel.width)
    table = table_of(u.shape[1], float(kernel.tol), kernel.ridge, most)
    top = u.abs().topk(table.apart[-1] + 1, dim=-1)
    # The one look at the device. What follows from it are small matters, for which a kernel each would cost more.
    plan = _Plan.of(top.values.cpu().numpy(), kernel, table)
    fits, at = torch.from_numpy(plan.fits), top.indices[:, : plan.apart]
    if not plan.fits.any():
        return None, fits
    budget = torch.from_numpy(plan.budget).to(u.device, non_blocking=True)
    if plan.fits.all():
        return Expansion.of(u, plan.count, at, budget, room), None
    which = fits.to(u.device)
    return Expansion.of(u[which], plan.count, at[which], budget[which], room), fits


class Room:
    """Memory for one block after the other: fresh pages would cost as much as the features do.

    `beside` is that of factors, which are made of features.
    """

    def __init__(self, has_beside: bool = True) -> None:
        self._memory: Tensor | None = None
        self.beside = Room(False) if has_beside else self

    @staticmethod
    def rows(features: int, d: int, device: torch.device) -> int | None:
        """How many vectors' features are made at a time: those that stay in a cache; on a GPU all."""
        return in_cache(2 * d, device)

    def of(self, rows: int, features: int, like: Tensor) -> Float64[Tensor, "row feature d"]:
        """Room for some features of vectors `like [row, d]`."""
        d = like.shape[1]
        stride = d + (_LINE if d % 256 == 0 else 0)
        size = rows * features * stride
        if self._memory is None or self._memory.numel() < size:
            self._memory = None  # before the next is taken
            self._memory = torch.empty(size, dtype=torch.float64, device=like.device)
        return self._memory[:size].view(rows, features, stride)[:, :, :d]


@dataclass(frozen=True)
class _Plan:
    """How many features the vectors of a block need, and how many of their coordinates, the farthest, go apart.

    E, what N features leave of the kernel, is left out among the coordinates expanded, and between these and those
    apart. The operator of a kernel off by D moves by lam M' D M with M = (H K H + lam)^-1 <= 1 / lam, lam = eps d, so
    the score moves by at most |D| / lam, |D| the sum of the singular values: the trace of E among the expanded, and
    2 sqrt(apart) times the Frobenius norm between the two. Of the trace that may go (`budget`) each has 3/8, the rest
    is for `Expansion.factor`. Beyond the coordinates that could be taken apart the interval is narrower: the largest
    E counts for those few alone. All vectors that fit have as many features, and as many coordinates apart.
    """

    count: int
    apart: int
    fits: Bool[np.ndarray, " row"]
    budget: Float64[np.ndarray, " row"]

    @classmethod
    def of(cls, top: Float64[np.ndarray, "row most_apart_and_one"], kernel: Kernel, table: Table) -> _Plan:
        """From the farthest coordinates of each vector, in descending order of |u|."""
        place, budget = needed(top, kernel, table)
        fits = place < len(table.counts)
        cost = table.cost[(place * fits).max(axis=0)] + table.extra - fits.sum(axis=0) * _MANY  # as many as fit first
        best = int(cost.argmin())
        count = table.counts[int((place[:, best] * fits[:, best]).max())]
        return cls(count, table.apart[best], fits[:, best], budget)


def needed(
    top: Float64[np.ndarray, "row most_apart_and_one"], kernel: Kernel, table: Table
) -> tuple[Int64[np.ndarray, "row choice"], Float64[np.ndarray, " row"]]:
    """How many features each vector needs by choice of how many coordinates go apart, and what may be left out of it.

    The former by place among the table's counts; one beyond the last where none is enough. See `_Plan`.
    """
    # Of the kernel's trace no more may be left out than the score, or rounding, can bear (see `lowrank.factorise`);
    # that of the farthest coordinates alone is less than all of it.
    trace = -2 * np.expm1(np.square(top) / -2).sum(axis=1)
    budget = np.maximum(kernel.tol * np.minimum(trace, kernel.ridge * table.d), ROUNDING * trace)
    # Of a constant vector nothing may be left out: the last level.
    level = np.ceil(np.log10(table.largest / np.maximum(budget, table.largest * 10.0**-_LEVELS)))
    level = np.maximum(level, 0).astype(np.int64)
    # How many counts of features are too few: for the farthest of all, and of the rest.
    return (table.reach[level] < top[:, table.asked, None]).sum(axis=-1).max(axis=-1), budget


@dataclass(frozen=True)
class Expansion:
    """Factors of the kernels of some vectors: features, and a row more for each coordinate apart. Made by `expand`.

    The factor of a vector is [mix features; root^T at the coordinates `apart`, 0 elsewhere], to be centred. `u` are the
    coordinates in units of the bandwidth, from the base point, with 0 for those apart, which are `far`. Features
    are not held: `measured` makes those of some vectors at a time, that stay in a cache.
    """

    u: Float64[Tensor, "row d"]
    basis: Basis
    apart: Int64[Tensor, "row apart"]
    far: Float64[Tensor, "row apart"]
    budget: Float64[Tensor, " row"]
    room: Room

    @classmethod
    def of(cls, u: Float64[Tensor, "row d"], count: int, at: Tensor, budget: Tensor, room: Room) -> Expansion:
        """Those of vectors in units of the bandwidth, which are changed: the coordinates `at [row, apart]` go apart."""
        far = u.gather(1, at)
        # Where features are 0. Beyond the interval their mixture is a small difference of large numbers, which sums of
        # powers would not survive: what the coordinates apart have of them is added later.
        u.scatter_(1, at, 0.0)
        return cls(u, basis(count, u.device), at, far, budget, room)

    def measured(
        self, visit: Visit | None = None, parts_of: Sequence[slice] = (slice(None),), *, mixed: bool | None = None
    ) -> Measured:
        """What the features of all vectors come to, `visit`ed on the way, some vectors at a time.

        `visit(part, features)` gets features `[row, N + 1, d]`, ones last, of consecutive rows of one of `parts_of`,
        which are all rows in order. Features are `mixed` where they must be, if nothing else is said.
        """
        rows, d = self.u.shape
        count, apart = len(self.basis.power), self.apart.shape[1]
        mixed = not self.basis.plain if mixed is None else mixed
        sums = self.u.new_empty(rows, 3 * count + 1)
        for part, features in self._features(parts_of):
            # Products with the last feature, with that of u, and with ones.
            torch.bmm(features[:, count - 2 :], features[:, :count].mT, out=sums[part, :-1].view(-1, 3, count))
            torch.linalg.vector_norm(features[:, 0], dim=-1, out=sums[part, -1])
            if visit is not None:
                visit(part, features)
        sums[:, -1].square_()
        gram = sums.gather(1, self.basis.sums.view(1, -1).expand(rows, -1)).view(rows, count, count)
        less = sums[:, 2 * count + 1 : -2]
        gram[:, 0, 1:-1] -= less
        gram[:, 1:-1, 0] -= less
        mean, mix = sums[:, 2 * count : -1] / d, self.basis.mix[:, :-1]
        if mixed:
            gram, mean = mix @ gram @ mix.T, mean @ mix.T
        columns = self.u.new_zeros(rows, count, 0)
        if apart:
            features = _powers_of_few(self.far, self.basis.weight, count)
            axes = self.basis.mix @ features
            root = _root(self.far, axes, self.basis)
            columns = torch.cat([axes if mixed else features[:, :-1], root.mT], dim=1)
            whole = torch.bmm(columns, columns.mT)
            whole[:, :count, :count] += gram
            gram = whole
            added = columns.sum(dim=2) / d
            added[:, :count] += mean
            mean = added
        gram.baddbmm_(mean[:, :, None], mean[:, None], alpha=-d)
        return Measured(gram, self.basis.inner, columns, mean, mixed)

    def _features(self, parts_of: Sequence[slice]) -> Iterator[tuple[slice, Float64[Tensor, "row feature_and_ones d"]]]:
        rows, d = self.u.shape
        count = len(self.basis.power) + 1
        most = self.room.rows(count, d, self.u.device)
        for whole in parts_of:
            begin, end, _ = whole.indices(rows)
            for some in parts(end - begin, 1, end - begin, most=most, even=True):
                part = slice(begin + some.start, begin + some.stop)
                u = self.u[part]
                yield part, _powers(u, self.basis.weight, self.room.of(len(u), count, u))

    def factor(self, share: float = 1 / 64) -> Float64[Tensor, "row rank d"]:
        """The centred factors, of as many rows as their rank: `share` of the budget is left out."""
        return self.whitened(None, share)[0]

    def whitened(
        self, ridge: float | None, share: float = 1 / 4
    ) -> tuple[Float64[Tensor, "row rank d"], Float64[Tensor, "row rank rank"], Int64[Tensor, " row"]]:
        """The centred factors P brought down to their rank: A^-1 P with A A^T = P P^T + ridge; P P^T; the rank of each.

        Without a ridge P itself. The first so many rows of each do. The next call overwrites what this one gives.
        """
        held: list[Tensor] = []

        def hold(part: slice, features: Tensor) -> None:
            if len(features) == len(self.u):
                held.append(features)

        found = self.measured(hold, mixed=True)
        # Of the trace that share may go, or what rounding has put there.
        rounding = found.gram.shape[1] * _ROUNDED * found.gram.diagonal(dim1=1, dim2=2).sum(dim=-1)
        axes, gram, ranks = leading_axes(found.gram, torch.maximum(self.budget * share, rounding))
        rows = axes.mT
        if ridge is not None:
            rows = torch.linalg.solve_triangular(ridge_cholesky(gram, ridge), rows, upper=False)
        mixed = rows[:, :, : len(self.basis.power)] @ self.basis.mix
        # Ones stand last: they take the mean out.
        mixed[:, :, -1:] = -(rows @ found.mean[:, :, None])
        out = self.room.beside.of(len(self.u), rows.shape[1], self.u)
        for part, features in [(slice(None), held[0])] if held else self._features((slice(None),)):
            torch.bmm(mixed[part], features, out=out[part])
        if self.apart.shape[1]:
            out.scatter_add_(2, self.apart[:, None].expand(-1, rows.shape[1], -1), rows @ found.columns)
        return out, gram, ranks


@dataclass(frozen=True)
class Measured:
    """The Gram matrices of the centred factors' rows; the columns of the coordinates apart, not centred; rows' means.

    Unless features are `mixed` in the rows, the first of these are no orthonormal functions: their inner products,
    `inner`, are then what a ridge is multiplied by.
    """

    gram: Float64[Tensor, "row m m"]
    inner: Float64[Tensor, "N N"]
    columns: Float64[Tensor, "row m apart"]
    mean: Float64[Tensor, "row m"]
    mixed: bool

    def ridged(self, ridge: float) -> Float64[Tensor, "row m m"]:
        """The Gram matrices with a ridge, whose Cholesky factors whiten products of the rows."""
        if self.mixed:
            out = self.gram.clone()
            out.diagonal(dim1=1, dim2=2).add_(ridge)
            return out
        count, m = len(self.inner), self.gram.shape[1]
        added = self.gram.new_zeros(m, m)
        torch.mul(self.inner, ridge, out=added[:count, :count])
        added.diagonal()[count:] = ridge
        return self.gram + added


@dataclass(frozen=True)
class Table:
    """Up to which |u| so many features do. Made by `table_of`.

    By level, a budget of `largest` over 10^level (of the last one nothing may be left out, and it is 0), and by choice
    of how many are `apart`: for the farthest coordinate expanded, and for the farthest but those that could be apart,
    which stand at `asked` of the coordinates in descending order. `cost` is that of features, `extra` of those apart.
    """

    d: int
    counts: tuple[int, ...]
    apart: tuple[int, ...]
    asked: Int64[np.ndarray, "choice 2"]
    cost: Float64[np.ndarray, " count"]
    extra: Float64[np.ndarray, " choice"]
    reach: Float64[np.ndarray, "level choice 2 count"]
    largest: float


@cache
def table_of(d: int, tol: float, ridge: float, most: int) -> Table:
    counts = tuple(count for count in COUNTS if count <= most)
    apart = tuple(count for count in _APART if count <= d // 10)
    largest = max(tol * ridge * d, ROUNDING * 2 * d)
    left = remainders()
    share = 3 / 8 * largest * 10.0 ** -torch.arange(_LEVELS, dtype=torch.float64)[:, None]
    many = torch.tensor(apart, dtype=torch.float64)
    # The few coordinates that could be apart and are not have half of each share, all others the other half.
    some, others = (apart[-1] - many).clamp(min=1), torch.full_like(many, d)
    reach = []
    for number in (some, others):
        within = (share / (2 * number)).contiguous()
        across = share / (2 * many.clamp(min=1) * (2 * number).sqrt())
        # Nothing can be told apart below the rounding of the kernel itself.
        across = torch.where(many > 0, across.clamp(min=_ROUNDED), math.inf)
        far = [
            torch.searchsorted(values[: len(counts)], budgets.repeat(len(counts), 1), right=True)
            for values, budgets in ((left.within, within.flatten()), (left.across, across.flatten()))
        ]  # how many entries of the table do, [count, level and choice]
        entries = torch.minimum(*far).T.reshape(_LEVELS, len(apart), len(counts))
        reach.append(torch.cat([torch.zeros(1, dtype=torch.float64), left.reach])[entries])
    both = torch.stack(reach, dim=2).flip(-1).cummin(dim=-1).values.flip(-1)  # more features never do worse
    both = torch.cat([both, torch.zeros_like(both[:1])])
    choices = np.array(apart)
    asked = np.stack([choices, np.full_like(choices, apart[-1])], axis=1)
    return Table(d, counts, apart, asked, np.array(counts, float), choices * (_APART_COST / d), both.numpy(), largest)


def _powers(u: Tensor, weight: float, out: Tensor) -> Float64[Tensor, "row feature_and_ones d"]:
    """exp(-a u^2 / 2) u^n of every coordinate, n = 0 (as expm1), 2, 3, ..., 1, and ones."""
    count = out.shape[1] - 1
    u = u.clamp(-FARTHEST, FARTHEST)
    power = u.square()
    bell = torch.exp(power * (-weight / 2), out=out[:, count - 1])
    if weight == 1:
        torch.expm1(power * -0.5, out=out[:, 0])
    else:  # so many features that no coordinates are all much closer than the bandwidth
        torch.sub(bell, 1, out=out[:, 0])
    bell.mul_(u)
    out[:, count] = 1
    torch.mul(out[:, count - 1], u, out=out[:, 1])
    if count > 3:
        torch.mul(out[:, 1], u, out=out[:, 2])
    done = 3
    while done < count - 1:  # as many again at a time
        more = min(done - 1, count - 1 - done)
        torch.mul(out[:, 1 : 1 + more], power[:, None], out=out[:, done : done + more])
        done += more
        power = power.square_()
    return out


def _powers_of_few(u: Tensor, weight: float, count: int) -> Float64[Tensor, "row feature_and_ones d"]:
    """As `_powers`, in fewer steps."""
    u = u.clamp(-FARTHEST, FARTHEST)[:, None]
    exponent = u.square() * (-weight / 2)
    power = u.expand(-1, count - 1, -1).cumprod(dim=1).mul_(exponent.exp())
    return torch.cat([exponent.expm1(), power[:, 1:], power[:, :1], torch.ones_like(u)], dim=1)


def _root(u: Tensor, phi: Tensor, mixed: Basis) -> Float64[Tensor, "row apart apart"]:
    """S, S S^T what the mixed features `phi` leave of the kernel between coordinates `u`."""
    left = (u[:, :, None] - u[:, None]).square_().div_(-2).expm1_()
    if mixed.weight == 1:  # the shifted kernel, for its digits; what is left is the same
        first = u.square().div_(-2).expm1_()
        left -= first[:, :, None]
        left -= first[:, None]
    else:
        left += 1
        phi = phi + mixed.mix[:, :1]
    left.baddbmm_(phi.mT, phi, alpha=-1)
    if left.device.type == "cpu":
        # What rounding takes from a pivot where coordinates coincide.
        least = _ROUNDED * u.shape[1] * left.diagonal(dim1=1, dim2=2).amax(dim=1)
        left.diagonal(dim1=1, dim2=2).add_(least[:, None])
        root, failed = torch.linalg.cholesky_ex(left)
        if bool(failed.any()):
            values, axes = torch.linalg.eigh(left[failed > 0])
            root[failed > 0] = axes * values.clamp_(min=0).sqrt_()[:, None]
        return root
    values, axes = torch.linalg.eigh(left)  # to ask a GPU whether all is well would stall it
    return axes * values.clamp_(min=0).sqrt_()[:, None]

"""Steps whose nHSIC is compiled code's: as `expansion` has it, but of each step as many features as that one needs.

What becomes of a step then does not hang on the steps beside it, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from probes.expansion import FEATURES, needed, table_of
from probes.feature_basis import COUNTS, basis
from probes.kernel import Kernel
from probes.step_blocks import MANY, Factored, Meetings, Met, Whitener

__all__ = ["CompiledSteps"]

# One coordinate more apart costs about as much as this many features: measured.
_APART_COST = 0.5


@cache
def _bases() -> tuple[np.ndarray, ...]:
    """Of each count of features: it, the weight, `mix` and `inner`, with n = 0, 1, 2, ... in order."""
    counts = [count for count in COUNTS if count <= FEATURES[0]]
    mixes, inners = np.zeros((2, len(counts), FEATURES[0], FEATURES[0]))
    weights = np.empty(len(counts))
    for number, count in enumerate(counts):
        found = basis(count, torch.device("cpu"))
        order = found.power.argsort()
        mixes[number, :count, :count] = found.mix[:, order]
        inners[number, :count, :count] = found.inner[order][:, order]
        weights[number] = found.weight
    return np.array(counts), weights, mixes, inners


def _empty(*shape: int, dtype: torch.dtype = torch.float64) -> np.ndarray:
    """Torch's memory: its allocator keeps what large blocks leave, and what counts memory counts it."""
    return torch.empty(shape, dtype=dtype).numpy()


@dataclass(frozen=True)
class CompiledSteps:
    """Some vectors on a CPU, ready for compiled code.

    `steps` are, as arrays: the coordinates u in units of the bandwidth from the base point, 0 where they go apart, and
    exp(-a u^2 / 2) - 1 of each; by row the number of its basis and how many go apart; the farthest
    coordinates `[row, most]`, of which the first go apart, and these themselves. `budget` is what may be left out of a
    kernel's trace.
    """

    steps: tuple[np.ndarray, ...]
    budget: Float64[np.ndarray, " row"]
    kernel: Kernel
    compiled: ModuleType

    @classmethod
    def of(
        cls, x: Float64[Tensor, "row d"], kernel: Kernel, compiled: ModuleType
    ) -> tuple[CompiledSteps | None, Bool[Tensor, " row"] | None]:
        """Those of vectors that need no more than `FEATURES[0]` features, and which of the rows: None is all."""
        table = table_of(x.shape[1], float(kernel.tol), kernel.ridge, FEATURES[0])
        farthest = len(x), table.apart[-1] + 1
        u, sizes, places = _empty(*x.shape), _empty(*farthest), _empty(*farthest, dtype=torch.long)
        compiled.in_units(x.contiguous().numpy(), kernel.width, u, sizes, places)
        place, budget = needed(sizes, kernel, table)
        cost = np.append(table.cost, np.inf)[place] + np.array(table.apart) * _APART_COST
        best, each = cost.argmin(axis=1), np.arange(len(u))
        which, fits, aparts = place[each, best], np.isfinite(cost[each, best]), np.array(table.apart)[best]
        if not fits.any():
            return None, torch.from_numpy(fits)
        if not fits.all():
            u, which, aparts, places, budget = u[fits], which[fits], aparts[fits], places[fits], budget[fits]
        far, exponent = _empty(len(u), int(aparts.max())), torch.empty(u.shape, dtype=torch.float64)
        compiled.take_apart(u, places, aparts, _bases()[1][which], far, exponent.numpy())
        steps = u, exponent.expm1_().numpy(), which, aparts, places, far
        return cls(steps, budget, kernel, compiled), None if fits.all() else torch.from_numpy(fits)

    @property
    def d(self) -> int:
        """Coordinates."""
        return int(self.steps[0].shape[1])

    @property
    def _ridge(self) -> float:
        return 0.0 if self.kernel.eps is None else float(self.kernel.eps) * self.d

    def each(self, local: Int64[Tensor, " pair"], met: Met, *, max_bytes: int) -> Float64[Tensor, " pair"]:
        """As `step_blocks.Factored.each`."""
        if self.kernel.eps is None:
            return Factored.of(self.factor(), self.kernel).each(local, met, max_bytes=max_bytes)
        return self._scored(torch.searchsorted(local, torch.arange(len(self.budget) + 1)), met)

    def with_all(self, meetings: Meetings, *, max_bytes: int) -> Iterator[tuple[int, slice, Tensor]]:
        """As `step_blocks.Factored.with_all`."""
        if self.kernel.eps is None or any(len(met) > MANY for _, met in meetings):
            yield from self._factored().with_all(meetings, max_bytes=max_bytes)
            return
        rows = [part.stop - part.start for part, _ in meetings]
        places = torch.cat([met.places.repeat(count) for count, (_, met) in zip(rows, meetings, strict=True)])
        counts = torch.tensor([len(met) for _, met in meetings]).repeat_interleave(torch.tensor(rows))
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        scores = self._scored(ends, Met(meetings[0][1].whitened, places))
        for number, (part, met) in enumerate(meetings):
            own = scores[int(ends[part.start]) : int(ends[part.stop])]
            yield number, slice(0, len(met)), own.view(-1, len(met))

    def _scored(self, ends: Int64[Tensor, " row_and_one"], met: Met) -> Float64[Tensor, " pair"]:
        out = torch.empty(len(met), dtype=torch.float64)
        whitened, places = met.whitened.contiguous().numpy(), met.places.contiguous().numpy()
        q = whitened.shape[1]
        groups, room = self._groups(ends.diff().numpy() * q)
        of_all = _bases(), groups, self._ridge, whitened, ends.numpy(), places, room
        self.compiled.grams(self.steps, *of_all)
        self.compiled.scores(groups, q, ends.numpy(), room, out.numpy())
        return out

    def factor(self, share: float = 1 / 64) -> Float64[Tensor, "row rank d"]:
        """The centred factors, of as many rows as their rank: `share` of the budget is left out."""
        return self._reduced(0.0, share)[0]

    def _factored(self) -> Factored:
        """Brought down to their rank, which is what products with many answers cost, and whitened."""
        if self.kernel.eps is None:
            return Factored.of(self.factor(1 / 4), self.kernel)
        p, ranks = self._reduced(self._ridge, 1 / 4)
        return Factored(p, Whitener(None, None), ranks)

    def _reduced(self, ridge: float, share: float) -> tuple[Float64[Tensor, "row rank d"], Int64[Tensor, " row"]]:
        rows, most_apart = self.steps[5].shape
        groups, room = self._groups(np.zeros(rows, np.int64))
        nobody = np.empty((1, 1, self.d)), np.zeros(rows + 1, np.int64), np.empty(0, np.int64)
        self.compiled.grams(self.steps, _bases(), groups, 0.0, *nobody, room)
        most = int((_bases()[0][self.steps[2]] + self.steps[3]).max())
        ranks = _empty(rows, dtype=torch.long)
        of_features, of_apart = _empty(rows, most, FEATURES[0] + 1), _empty(rows, most, most_apart)
        spare = self.budget * share
        self.compiled.axes(self.steps, _bases(), groups, ridge, spare, room, ranks, of_features, of_apart)
        out = torch.empty(rows, int(ranks.max()), self.d, dtype=torch.float64)
        self.compiled.factors(self.steps, _bases(), ranks, of_features, of_apart, out.numpy())
        return out, torch.from_numpy(ranks)

    def _groups(
        self, right: Int64[np.ndarray, " row"]
    ) -> tuple[Int64[np.ndarray, "group 6"], Float64[np.ndarray, " _"]]:
        """Rows whose matrices are worked on beside one another, and room for them, with `right` columns more.

        Of each group the first row and the one after the last; the most features, and coordinates apart; columns of a
        matrix; where it begins in the room.
        """
        lanes = self.compiled.LANES
        begins = np.arange(0, len(right), lanes)
        ends = np.minimum(begins + lanes, len(right))
        count, apart, more = (
            np.maximum.reduceat(of_row, begins) for of_row in (_bases()[0][self.steps[2]], self.steps[3], right)
        )
        m = count + apart
        sizes = m * (m + more + 1) * lanes
        groups = np.stack([begins, ends, count, apart, m + more, sizes.cumsum() - sizes], axis=1)
        return groups, _empty(int(sizes.sum()))

"""Vectors as a ridge probe is given them: within their usual range, standardised, on their principal axes.

All of it is learnt from training problems alone and then applied to others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

__all__ = ["Axes", "usual_range"]

# Robust standard deviations from the median at which a coordinate's usual range ends. What is spread evenly, normally
# or over some clusters stays as it is.
_USUAL = 6.0
# Where to look for a robust standard deviation: quantiles, and what they are of a normal one. Wider ones count where
# more problems coincide, as in a coordinate that is 0 for most of them.
_SPREADS = ((0.15865525, 1.0), (0.05, 1.6448536), (0.01, 2.3263479))


def usual_range(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Ends [place, 1, feature] of the usual range of each coordinate of x [place, problem, feature], in float64.

    Some robust standard deviations to either side of the median: a problem beyond, massive activation or not, is taken
    to stand at the end. By order statistics, so that one problem, or one in ten, moves the ends little; with plain
    standard deviations it would flatten everybody else, and held out it would be scored at thousands of them.
    """
    last = (valid.sum(dim=1) - 1)[:, None, None]
    x = x if x.dtype == torch.float64 else x.float()
    ordered = x.masked_fill(~valid[..., None], math.inf).sort(dim=1).values

    def at(share: float) -> Tensor:
        place = share * last.double()
        below = place.floor()
        low, high = (
            ordered.gather(1, v.long().expand(-1, 1, x.shape[-1])).double()
            for v in (below, torch.minimum(below + 1, last))
        )
        return low + (place - below) * (high - low)

    middle = at(0.5)
    spread = torch.zeros_like(middle)
    for share, deviations in _SPREADS:
        wider = (at(1 - share) - at(share)) / (2 * deviations)
        spread = torch.where(spread > 1e-9 * middle.abs(), spread, wider)
    return middle - _USUAL * spread, middle + _USUAL * spread


@dataclass(frozen=True)
class Axes:
    """Range, standardisation and principal axes of the problems that they were learnt from. Made by `Axes.learn`.

    A ridge probe does not see the rotation; L-BFGS does, since each coordinate gets its own step. With fewer problems
    than features only the axes that the problems span are kept: beyond them a ridge probe has no weights.
    """

    low: Float64[Tensor, "place 1 feature"]
    high: Float64[Tensor, "place 1 feature"]
    mean: Float64[Tensor, "place 1 feature"]
    scale: Float64[Tensor, "place 1 feature"]
    directions: Float32[Tensor, "place feature axis"]

    @classmethod
    def learn(cls, x: Tensor, valid: Tensor) -> tuple[Axes, Float32[Tensor, "place n axis_and_1"]]:
        """The axes of x `[place, n, feature]` at its `valid [place, n]` problems, and x on them.

        >>> x = torch.tensor([[[0.0, 5.0], [2.0, 5.0], [4.0, 5.0], [0.0, 9.0]]])
        >>> axes, z = Axes.learn(x, torch.tensor([[True, True, True, False]]))
        >>> z.square().mean(dim=1).round(decimals=3).tolist()  # a constant feature says nothing
        [[0.0, 0.75, 0.75]]

        A 1 follows the features; where a problem is not valid all are 0.
        """
        weight = valid[..., None].double()
        # Where a problem is not valid anything may stand, NaN too.
        low, high = usual_range(x, valid)
        seen = x.double().clamp(low, high).masked_fill(~valid[..., None], 0.0)
        total = weight.sum(dim=1, keepdim=True)
        mean = seen.sum(dim=1, keepdim=True) / total
        seen = (seen - mean) * weight
        spread = (seen.square().sum(dim=1, keepdim=True) / total).sqrt()
        scale = torch.where(spread > 1e-9 * mean.abs(), 1 / spread, 0.0)  # a constant feature says nothing
        z = (seen * scale).float()
        n, d = z.shape[1:]
        if d <= n:
            directions = torch.linalg.eigh(z.mT @ z)[1]
        else:
            values, vectors = torch.linalg.eigh(z @ z.mT)
            keep = values > 1e-5 * values[:, -1:]
            directions = z.mT @ (vectors * torch.where(keep, values, 1.0).rsqrt()[:, None] * keep[:, None])
        return cls(low, high, mean, scale, directions), _with_one(z @ directions) * weight.float()

    def of(self, x: Tensor, valid: Tensor) -> Float32[Tensor, "place n axis_and_1"]:
        """Other problems on these axes, then a 1; what is not valid stands anywhere, but is finite."""
        seen = x.double().clamp(self.low, self.high).masked_fill(~valid[..., None], 0.0)
        return _with_one(((seen - self.mean) * self.scale).float() @ self.directions)


def _with_one(z: Tensor) -> Tensor:
    return torch.nn.functional.pad(z, (0, 1), value=1.0)

"""Integrated gradients: a difference of scores, shared out over what was added up to make it.

For f of a vector and the line from `start` to `end`, with g the mean of grad f along it,

    f(end) - f(start) = (end - start) . g          and so, where end - start = sum_c w_c,   share_c = w_c . g

1. The line is cut into 8 pieces, the gradient taken at the middle of each. What a piece adds to both sides is known, so
   those where they differ by too much are halved, and again: points are where the score is steep.
2. What the two sides still differ by is told, not hidden in the shares.

From a zero vector scores like nHSIC are too steep for it, and gradient times write is no decomposition of them at all:
they are nearly blind to scale, so by Euler's rule these products sum to about 0. Start from another step's vector.

Source: Sundararajan et al. 2017, Axiomatic attribution for deep networks, arXiv 1703.01365.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from probes.checks import check_finite, check_max_bytes, check_positive, check_tensor, check_whole
from probes.chunks import DEFAULT_MAX_BYTES, parts
from probes.errors import InputError

__all__ = ["Differentiable", "IntegratedGradient", "integrated_gradient"]

_FIRST = 8
_MOST, _MOST_ROUGH = 1024, 16384
# How much larger than what is allowed of the whole the mistakes of its pieces may be, signs aside.
_CANCEL = 10
# Of the larger end: a difference below it is rounding, and so is whether the shares sum to it.
_ROUNDING = 1e-9


@runtime_checkable
class Differentiable(Protocol):
    """A number of a vector, whose gradient is known. `score_function` and `AnswerProbe.score` make such."""

    @property
    def name(self) -> str:
        """What it is called where it is shown."""
        ...

    @property
    def unit(self) -> str:
        """What it is measured in."""
        ...

    def bytes_each(self, d_model: int) -> int:
        """About what one vector's gradient takes meanwhile."""
        ...

    def value(self, x: Tensor) -> Float64[Tensor, " row"]:
        """Of vectors `[row, d_model]`."""
        ...

    def gradient(self, x: Tensor) -> Float64[Tensor, "row d_model"]:
        """By each coordinate of vectors `[row, d_model]`."""
        ...

    def line_gradient(self, x: Tensor, step: Tensor) -> Float64[Tensor, "row d_model"]:
        """About its mean over short lines, from `x - step / 2` to `x + step / 2`."""
        ...


@dataclass(frozen=True)
class IntegratedGradient:
    """The mean gradient along lines, and how far it explains their ends. Made by `integrated_gradient`.

    Attributes:
        gradient: what a vector that was added on the way is multiplied with.
        start, end: the scores at both ends.
        points: how many gradients were taken of each line.
        missing: the score's difference less the sum of all shares, in the unit of the score.
    """

    gradient: Float64[Tensor, "*lead d_model"]
    start: Float64[Tensor, "*lead"]
    end: Float64[Tensor, "*lead"]
    points: Int64[Tensor, "*lead"]
    missing: Float64[Tensor, "*lead"]

    @property
    def difference(self) -> Float64[Tensor, "*lead"]:
        """The score at the end less that at the start."""
        return self.end - self.start

    @property
    def is_flat(self) -> Bool[Tensor, "*lead"]:
        """Whether both ends score alike to rounding, so that there is nothing to share out."""
        return self.difference.abs() <= _ROUNDING * torch.maximum(self.start.abs(), self.end.abs())

    @property
    def relative(self) -> Float64[Tensor, "*lead"]:
        """What is missing, as a share of the difference; NaN where there is none beyond rounding."""
        none = self.is_flat
        return torch.where(none, torch.nan, self.missing.abs() / torch.where(none, 1.0, self.difference.abs()))


def integrated_gradient(
    score: Differentiable,
    start: Tensor,
    end: Tensor,
    *,
    tolerance: float | int = 1e-3,
    max_points: int | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> IntegratedGradient:
    """The mean of the gradient of `score` along the line from `start` to `end`, both `[*lead, d_model]`.

    >>> from probes import score_function
    >>> x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) * 20
    >>> found = integrated_gradient(score_function("nhsic", x[0] + x[2]), x[1], x[2])
    >>> shares = (x[2] - x[1]).double() * found.gradient  # each coordinate's
    >>> bool((shares.sum() - found.difference).abs() < 1e-3 * found.difference)
    True

    The line is cut into 8 pieces, and of these again those halved that the shares explain worst, until the shares sum
    to the difference of the scores within `tolerance` of it (or to rounding, where both ends score alike). At most
    `max_points` gradients are taken, 1,024 unless given: what is then still missing is told in the result.

    With `sigma="median"` the way has kinks: the pair of coordinates that makes the width changes all the time, and with
    it the slope of the score. Between kinks the mistake of a piece falls with its length squared, across them with its
    length alone, so that it takes tens of times the points: up to 16,384 of such scores (`is_rough`) unless given.

    `start` and `end` broadcast; float64 inside and out. NaN where the score is undefined at an end or on the way.
    `max_bytes` bounds the working memory, down to one point at a time.

    Raises `InputError` for NaN or inf, for ends that do not fit and for options out of range.
    """
    check_positive("integrated_gradient", "tolerance", tolerance)
    most = (_MOST_ROUGH if getattr(score, "is_rough", False) else _MOST) if max_points is None else max_points
    check_whole("integrated_gradient", "max_points", most, _FIRST, f"Give {_FIRST} or more.")
    check_max_bytes("integrated_gradient", max_bytes)
    first, last = _ends(start, end)
    lead, d = np.broadcast_shapes(first.shape, last.shape)[:-1], first.shape[-1]
    first, last = (x.expand(*lead, d).reshape(-1, d) for x in (first, last))
    lines = [_Line(score, *ends, tolerance, most, max_bytes) for ends in zip(first, last, strict=True)]
    device = first.device

    def whole(name: str) -> Tensor:
        return torch.tensor([float(getattr(line, name)) for line in lines], dtype=torch.float64, device=device)

    f0, f1, missing = (whole(name).reshape(lead) for name in ("f0", "f1", "missing"))
    gradient = torch.stack([line.gradient for line in lines]).reshape(*lead, d)
    return IntegratedGradient(gradient, f0, f1, whole("points").long().reshape(lead), missing)


class _Line:
    """The pieces of one line: where each begins and how long it is, as shares of it, and what the score gains there."""

    def __init__(
        self, score: Differentiable, start: Tensor, end: Tensor, tolerance: float | int, most: int, max_bytes: int
    ) -> None:
        self.score, self.start, self.way, self.max_bytes = score, start, end - start, max_bytes
        length = torch.full((_FIRST,), 1 / _FIRST, dtype=torch.float64, device=start.device)
        at = torch.cat([length.new_zeros(1), length.cumsum(0)])
        known = torch.cat([score.value(start[None]), score.value(self._at(at[1:-1])), score.value(end[None])]).double()
        self.f0, self.f1, self.points = float(known[0]), float(known[-1]), 0
        self.begin, self.length, self.before, self.gain = at[:-1], length, known[:-1], known.diff()
        self.slope = self._slopes(self.begin, self.length)
        wanted = max(tolerance * abs(self.f1 - self.f0), _ROUNDING * max(abs(self.f0), abs(self.f1)))
        while not self._explained(wanted) and self.points + 2 <= most:
            self._halve((most - self.points) // 2)
        self.gradient = (self.slope * self.length[:, None]).sum(dim=0)
        self.missing = self.f1 - self.f0 - float(self.way @ self.gradient)

    def _at(self, shares: Tensor) -> Tensor:
        return self.start + shares[:, None] * self.way

    def _slopes(self, begin: Tensor, length: Tensor) -> Tensor:
        """The gradient at the middle of each piece."""
        self.points += len(begin)
        x, step = self._at(begin + length / 2), length[:, None] * self.way
        some = parts(len(x), self.score.bytes_each(x.shape[-1]), self.max_bytes)
        return torch.cat([self.score.line_gradient(x[part], step[part]).double() for part in some])

    def _off(self) -> Tensor:
        return self.gain - self.length * (self.slope @ self.way)

    def _explained(self, wanted: float) -> bool:
        """Whether the whole is, not because large mistakes cancel; what is NaN is not better for more points."""
        off = self._off()
        return not (float(off.sum().abs()) > wanted or float(off.abs().sum()) > _CANCEL * wanted)

    def _halve(self, most: int) -> None:
        """The pieces that are off by more than the others."""
        off = self._off().abs()
        order = off.argsort(descending=True)[: min(most, max(1, int((off >= off.mean()).sum())))]
        keep = torch.ones(len(off), dtype=torch.bool, device=off.device)
        keep[order] = False
        half = self.length[order] / 2
        begin, before, gain = self.begin[order], self.before[order], self.gain[order]
        middle = self.score.value(self._at(begin + half)).double()
        begins, lengths = torch.cat([begin, begin + half]), torch.cat([half, half])
        self.slope = torch.cat([self.slope[keep], self._slopes(begins, lengths)])
        self.begin, self.length = torch.cat([self.begin[keep], begins]), torch.cat([self.length[keep], lengths])
        self.before = torch.cat([self.before[keep], before, middle])
        self.gain = torch.cat([self.gain[keep], middle - before, before + gain - middle])


def _ends(start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    for name, x in (("start", start), ("end", end)):
        check_tensor("integrated_gradient", name, x, axes=("d_model",))
        check_finite("integrated_gradient", name, x, "Leave undefined steps out.")
    fits = start.shape[-1] == end.shape[-1] and start.device == end.device
    try:
        np.broadcast_shapes(start.shape, end.shape)
    except ValueError:
        fits = False
    if not fits:
        raise InputError(
            "integrated_gradient",
            expected="start and end of one d_model on one device, whose leading axes broadcast",
            received=f"{tuple(start.shape)} on {start.device} and {tuple(end.shape)} on {end.device}",
            remedy="Take both from the same layer of the same model.",
        )
    return start.detach().to(torch.float64), end.detach().to(torch.float64)

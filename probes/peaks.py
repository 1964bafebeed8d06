"""Which steps of a trajectory stand out, and how far.

Two rules, both over the last axis: Tukey's upper fence (the paper's text) and the k largest steps (its scripts).
`peak_statistics` gives the columns of the paper's Table 1 and the AOM of its Table 2. Computed in float64; what is
undefined is NaN. Source: Qian et al. 2025, arXiv 2506.02867, and the authors' scripts MI-Peaks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from probes.checks import check_finite, check_whole, is_number
from probes.errors import InputError

__all__ = ["PeakStatistics", "peak_statistics", "top_k_peaks", "tukey_peaks"]


def tukey_peaks(mi: Tensor, tau: float | int = 1.5) -> Bool[Tensor, "*lead step"]:
    """Steps with m_t > Q3 + tau * IQR over the last axis, quartiles by linear interpolation.

    >>> tukey_peaks(torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0])).tolist()
    [False, False, False, False, True]

    Unit: booleans of the shape of `mi`; the rule does not depend on the unit of `mi`. The comparison is strict, so a
    constant trajectory has no peaks. Raises `InputError` for NaN or inf, an empty trajectory, or tau < 0.
    Source: Qian et al. 2025, arXiv 2506.02867.
    """
    values = _checked("tukey_peaks", mi)
    if not (is_number(tau) and math.isfinite(tau) and tau >= 0):
        raise InputError("tukey_peaks", expected="tau >= 0 and finite", received=repr(tau), remedy="The paper has 1.5.")
    low, _, high = _quartiles(values)
    return values > (high + tau * (high - low))[..., None]


def top_k_peaks(mi: Tensor, k: int = 20) -> Bool[Tensor, "*lead step"]:
    """The k largest steps of each trajectory, exactly min(k, steps) of them; the earliest wins a tie.

    >>> top_k_peaks(torch.tensor([3.0, 5.0, 5.0, 1.0, 5.0]), k=2).tolist()
    [False, True, True, False, False]

    Unit: booleans of the shape of `mi`. Raises `InputError` for NaN or inf, an empty trajectory, or k < 1.
    Source: the scripts of Qian et al. 2025, MI-Peaks.
    """
    values = _checked("top_k_peaks", mi)
    check_whole("top_k_peaks", "k", k, 1, "The authors' scripts have 20.")
    best = values.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return torch.zeros_like(values, dtype=torch.bool).scatter(-1, best, True)


@dataclass(frozen=True)
class PeakStatistics:
    """One number per trajectory in each field; intervals in steps, `mean_mi` and `median_mi` in the unit of `mi`.

    Intervals are NaN with fewer than two peaks, `aom` is NaN without peaks or where the IQR is 0.
    """

    n_steps: Int64[Tensor, "*lead"]
    n_peaks: Int64[Tensor, "*lead"]
    ratio: Float64[Tensor, "*lead"]
    interval_max: Float64[Tensor, "*lead"]
    interval_min: Float64[Tensor, "*lead"]
    interval_mean: Float64[Tensor, "*lead"]
    mean_mi: Float64[Tensor, "*lead"]
    median_mi: Float64[Tensor, "*lead"]
    aom: Float64[Tensor, "*lead"]

    def to_dict(self) -> dict[str, list[int] | list[float]]:
        """Columns for a table: one entry per trajectory, leading axes flattened (last fastest).

        >>> mi = torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0])
        >>> peak_statistics(mi, tukey_peaks(mi)).to_dict()["aom"]
        [48.5]
        """
        return {field.name: getattr(self, field.name).reshape(-1).tolist() for field in fields(self)}


def peak_statistics(mi: Tensor, peaks: Tensor) -> PeakStatistics:
    """How many peaks, how far apart (Table 1 of the paper) and how far out (AOM, its Table 2), per trajectory.

    >>> mi = torch.tensor([[9.0, 1.0, 2.0, 9.0, 1.0, 9.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    >>> stats = peak_statistics(mi, top_k_peaks(mi, k=3))
    >>> stats.interval_max.tolist(), stats.n_peaks.tolist(), stats.aom.shape
    ([3.0, 1.0], [3, 3], torch.Size([2]))

    AOM is the mean over peaks of |m_t - median| / IQR, in interquartile ranges; intervals between neighbouring peaks
    are in steps. See `PeakStatistics` for what is NaN. Raises `InputError` for NaN or inf in `mi` and when `peaks` is
    not a boolean tensor of its shape.
    Source: Qian et al. 2025, arXiv 2506.02867.
    """
    values = _checked("peak_statistics", mi)
    if peaks.dtype != torch.bool or peaks.shape != mi.shape:
        raise InputError(
            "peak_statistics",
            expected=f"boolean peaks of shape {tuple(mi.shape)}",
            received=f"{peaks.dtype} of shape {tuple(peaks.shape)}",
            remedy="Use tukey_peaks or top_k_peaks on the same mi.",
        )
    n_steps, nan = values.shape[-1], math.nan
    n_peaks = peaks.sum(dim=-1)
    low, median, high = _quartiles(values)
    distance = torch.where(peaks, (values - median[..., None]).abs(), 0.0).sum(dim=-1)
    spread = high - low
    # The previous peak of each step, -1 where there is none.
    position = torch.arange(n_steps, device=mi.device)
    seen = torch.where(peaks, position, -1).cummax(dim=-1).values
    previous = torch.cat([torch.full_like(seen[..., :1], -1), seen[..., :-1]], dim=-1)
    is_gap = peaks & (previous >= 0)
    gap = (position - previous).double()
    several = n_peaks >= 2
    return PeakStatistics(
        n_steps=torch.full_like(n_peaks, n_steps),
        n_peaks=n_peaks,
        ratio=n_peaks.double() / n_steps,
        interval_max=torch.where(several, gap.masked_fill(~is_gap, -math.inf).amax(dim=-1), nan),
        interval_min=torch.where(several, gap.masked_fill(~is_gap, math.inf).amin(dim=-1), nan),
        interval_mean=torch.where(several, gap.masked_fill(~is_gap, 0.0).sum(dim=-1) / (n_peaks - 1), nan),
        mean_mi=values.mean(dim=-1),
        median_mi=median,
        aom=torch.where((n_peaks > 0) & (spread > 0), distance / n_peaks / spread, nan),
    )


def _quartiles(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Q1, median and Q3 by linear interpolation; by sorting, since torch.quantile refuses large inputs."""
    ordered = values.sort(dim=-1).values

    def quantile(share: float) -> Tensor:
        below, fraction = divmod(share * (values.shape[-1] - 1), 1.0)
        low, high = ordered[..., int(below)], ordered[..., math.ceil(below + fraction)]
        return low + fraction * (high - low)

    return quantile(0.25), quantile(0.5), quantile(0.75)


def _checked(operation: str, mi: Tensor) -> Tensor:
    if not isinstance(mi, Tensor) or not mi.is_floating_point() or mi.ndim < 1 or mi.numel() == 0:
        received = f"{mi.dtype} of shape {tuple(mi.shape)}" if isinstance(mi, Tensor) else type(mi).__name__
        raise InputError(
            operation,
            expected="mi as a floating tensor [*lead, step] with at least one step",
            received=received,
            remedy="Give the scores of nhsic.",
        )
    values = mi.detach().double()
    check_finite(operation, "mi", values, "Leave undefined steps out before looking for peaks.")
    return values

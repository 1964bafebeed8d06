"""How far the scores and peaks of one trajectory depend on the bandwidth of the kernel.

The paper searches sigma in [50, 400], in activation units; "median" takes the scale from each vector itself (`scale`).

Source: Qian et al. 2025, arXiv 2506.02867 (sigma); Gretton et al. 2012, A kernel two-sample test (median heuristic).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from probes.checks import check_max_bytes
from probes.chunks import DEFAULT_MAX_BYTES
from probes.errors import InputError
from probes.kernel import Kernel
from probes.peaks import tukey_peaks
from probes.scoring import paired_scores

__all__ = ["BandwidthSweep", "bandwidth_sweep"]


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
    if isinstance(sigmas, str) or not len(sigmas) or len({str(s) for s in sigmas}) < len(sigmas):
        raise InputError(
            "bandwidth_sweep",
            expected="sigmas as a sequence of different bandwidths, at least one",
            received=repr(sigmas),
            remedy='For example (50, 400, "median").',
        )
    check_max_bytes("bandwidth_sweep", max_bytes)
    kernels = [Kernel(sigma, eps, drop_top=drop_top, operation="bandwidth_sweep") for sigma in sigmas]
    for kernel in kernels:
        kernel.check_pair(steps, answer)
    found = [paired_scores(steps, answer, kernel, max_bytes=max_bytes) for kernel in kernels]
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

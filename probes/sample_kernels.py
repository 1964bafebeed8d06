"""Kernels between problems, or between groups of samples, of vectors at a place and of answers.

1. `gaussian` on vectors, its width the median distance between problems where it is asked for.
2. `Answers`: of labels the kernel is 1 where two are equal, of vectors Gaussian; shared by all places or each's own.
3. `GroupMeans`: between groups the mean over pairs of their samples, the kernel of the mean embeddings.

Source: Gretton et al. 2012, A kernel two-sample test (median heuristic, mean embeddings).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.chunks import matrices_of, vectors_of
from probes.samples import check_seen
from probes.scale import median_multiple

__all__ = ["AnswerKernel", "Answers", "GroupMeans", "gaussian", "places_alike"]


class GroupMeans:
    """Means over the samples of each unit."""

    def __init__(self, group_of: Tensor, sizes: Tensor) -> None:
        self.unit_of = group_of.unique(return_inverse=True)[1]
        self.sizes = sizes
        weight = torch.zeros(len(sizes), len(group_of), dtype=torch.float64, device=group_of.device)
        samples = torch.arange(len(group_of), device=group_of.device)
        weight[self.unit_of, samples] = 1 / sizes.double()[self.unit_of]
        self.weight = weight

    def of(self, kernel: Tensor) -> Tensor:
        """The kernel between units: that of their mean embeddings."""
        return self.weight @ kernel @ self.weight.mT

    def constant(self, values: Tensor) -> Tensor | None:
        """The value of each unit, if all of its samples have the same."""
        first = torch.zeros(len(self.sizes), dtype=torch.long, device=values.device)
        first[self.unit_of] = torch.arange(len(values), device=values.device)
        return values[first] if bool((values[first][self.unit_of] == values).all()) else None


@dataclass(frozen=True)
class AnswerKernel:
    """The kernel on answers between units; `labels` where it is 1 for equal ones; `strata` of exchangeable units."""

    kernel: Tensor
    labels: Tensor | None
    strata: Tensor | None


class Answers:
    """Labels or vectors, shared by all places or each place's own."""

    def __init__(self, y: Tensor, lead: tuple[int, ...], n: int, sigma: float | int | str) -> None:
        self.sigma, self.discrete = sigma, not y.is_floating_point()
        axes = 1 if self.discrete else 2
        self.own = y.ndim > axes and lead != ()
        y = y.detach()
        if self.discrete:
            y = y.long()[..., None]
        self.vectors, self.take, self.width = vectors_of(y), matrices_of(y), y.shape[-1]

    def check(self, here: Tensor, max_bytes: int) -> None:
        """Refuse vectors that are not finite at problems that are here, `[place, n]`."""
        if not self.discrete:
            seen = here if self.own else here.any(dim=0)
            check_seen("sample_hsic", "y", self.vectors, seen.reshape(-1, here.shape[-1]), self.width, max_bytes)

    def of(self, place: Tensor | int) -> Tensor:
        """`[n, q]` at a place."""
        which = torch.as_tensor(place).reshape(1) if self.own else torch.zeros(1, dtype=torch.long)
        return self.take(which)[0]

    def kernel(self, place: Tensor, rows: Tensor, mean: GroupMeans | None) -> AnswerKernel | None:
        """Between the units of these rows; None where there is but one answer."""
        values = self.of(place)[rows]
        if self.discrete:
            labels = values[:, 0].unique(return_inverse=True)[1]
            if not bool((labels != labels[0]).any()):
                return None
            of_units = labels if mean is None else mean.constant(labels)
            if of_units is not None:
                return AnswerKernel((of_units[:, None] == of_units).double(), of_units, None)
            kernel = (labels[:, None] == labels).double()
        else:
            kernel = gaussian(values[None], self.sigma)[0][0]
            if bool(kernel.isnan().any()):
                return None
        if mean is None:
            return AnswerKernel(kernel, None, None)
        same = all(mean.constant(column) is not None for column in values.T)
        return AnswerKernel(mean.of(kernel), None, None if same else mean.sizes)


def places_alike(here: Tensor, answers: Answers, n_places: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Places that the same problems have, with the same labels, and those problems: they share every permutation."""
    key = here
    if answers.own:
        if answers.discrete:
            labels = torch.stack([answers.of(place)[:, 0] for place in range(n_places)]).to(here.device)
            key = torch.cat([here.long(), labels.masked_fill(~here, 0)], dim=1)
        else:
            key = torch.arange(n_places, device=here.device)[:, None]
    kind = key.unique(dim=0, return_inverse=True)[1]
    for number in range(int(kind.max()) + 1):
        places = (kind == number).nonzero()[:, 0]
        yield places, here[places[0]].nonzero()[:, 0]


def gaussian(x: Tensor, sigma: float | int | str) -> tuple[Tensor, Tensor]:
    """Gaussian kernel `[place, n, n]` of x `[place, n, d]` and its bandwidths; NaN where all vectors coincide."""
    x = x.double()
    x = x - x.mean(dim=1, keepdim=True)
    size = x.abs().amax(dim=(1, 2), keepdim=True)
    x = x / torch.where(size > 0, size, 1.0)
    norm = x.square().sum(dim=-1)
    norms = norm[:, :, None] + norm[:, None, :]
    squared = norms - 2 * (x @ x.mT)
    # The subtraction leaves some rounding of the norms between vectors that coincide.
    squared = torch.where(squared > 1e-13 * norms, squared, 0.0)
    size = size[:, 0, 0]
    if isinstance(sigma, str):
        n = x.shape[1]
        first, second = torch.triu_indices(n, n, 1, device=x.device)
        ordered = squared[:, first, second].sort(dim=-1).values
        differing = (ordered > 0).sum(dim=-1)
        # Of the pairs that differ: where most coincide the middle one of all would be 0.
        middle = (ordered.shape[-1] - differing).double() + (differing.double() - 1) / 2
        low, high = (
            ordered.gather(1, v.long().clamp(0, ordered.shape[-1] - 1)[:, None])[:, 0].sqrt()
            for v in (middle.floor(), middle.ceil())
        )
        width = median_multiple("sample_hsic", sigma) * torch.where(differing > 0, (low + high) / 2, math.nan)
    else:
        width = torch.where(size > 0, sigma / size, math.nan)
    return (-squared / (2 * width.square()[:, None, None])).exp_(), width * size

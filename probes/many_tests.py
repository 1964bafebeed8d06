"""Many tests at once: Holm's correction, over tests and over the layers of a trajectory, and how many nulls it needs.

Source: Holm 1979; Marcus, Peritz & Gabriel 1976 (closed testing).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from probes.errors import InputError

__all__ = ["holm", "holm_over_layers", "nulls_needed", "smallest_p"]


def holm(p: Tensor) -> Float64[Tensor, "*lead test"]:
    """Holm's adjusted p-values over the last axis: reject those <= level, whatever their dependence.

    >>> holm(torch.tensor([0.01, 0.04, 0.03], dtype=torch.float64)).tolist()
    [0.03, 0.06, 0.06]

    For `p_trajectory` of several layers: which layers say anything about the answer, at whatever step.
    Raises `InputError` for values outside [0, 1]. Source: Holm 1979.
    """
    _check_p("holm", p, min_axes=1)
    ordered, order = p.detach().double().sort(dim=-1, stable=True)
    left = torch.arange(p.shape[-1], 0, -1, device=p.device)
    adjusted = (ordered * left).cummax(dim=-1).values.clamp(max=1.0)
    return torch.empty_like(adjusted).scatter_(-1, order, adjusted)


def holm_over_layers(p_family: Tensor) -> Float64[Tensor, "layer step"]:
    """Adjusted `p_family [layer, step]`: the steps with a value <= level are named with familywise error <= level.

    >>> p = torch.tensor([[0.01, 0.9], [0.02, 0.02]], dtype=torch.float64)
    >>> holm_over_layers(p).tolist()
    [[0.02, 0.9], [0.04, 0.04]]

    The error is over all layers and steps: the chance of naming any step of any layer whose null hypothesis is true,
    whatever holds elsewhere. For the weaker question which layers have anything to say, `holm(p_trajectory)`.

    Raises `InputError` for values outside [0, 1]. Source: closed testing (Marcus, Peritz & Gabriel 1976), Holm 1979.
    """
    _check_p("holm_over_layers", p_family, min_axes=2, max_axes=2)
    # Why a layer's multiplier does not fall as soon as a layer before it has a peak. Holm may stop counting a
    # hypothesis once it is rejected. A layer is many hypotheses, its steps: one of them rejected leaves the others true
    # and free to be named by mistake. (Two layers, each with one real peak among many idle steps: multipliers 2 and 1
    # name an idle step with probability level / 2 in the one and level in the other, 1.5 times the level.)
    # The closed test instead: a set S of (layer, step) pairs is rejected when n(S) * min over S of p_family <= level,
    # n(S) the number of layers it touches. That is valid: within a layer the maximum over all steps bounds the maximum
    # over the true ones, and over layers it is Bonferroni. A pair is named when every S that holds it is rejected. The
    # hardest S adds, from each of some other layers, the step with the largest p, w; so the adjusted value of p is its
    # Holm value among p and the w of the other layers. A layer stops counting only once all of its steps are named.
    p = p_family.detach().double()
    n_layers = len(p)
    weakest = p.amax(dim=-1)
    rows = []
    for layer in range(n_layers):
        others = torch.cat([weakest[:layer], weakest[layer + 1 :]]).sort(descending=True).values
        # With the a largest w beside p: (a + 1) * min(p, the smallest of them).
        times = torch.arange(2, n_layers + 1, device=p.device)
        adjusted = torch.cat([p[layer, :, None], times * torch.minimum(p[layer, :, None], others)], dim=1)
        rows.append(adjusted.amax(dim=1).clamp(max=1.0))
    return torch.stack(rows)


def nulls_needed(n_layers: int, level: float = 0.05) -> int:
    """The fewest nulls with which anything can be found at `level` over `n_layers` layers.

    >>> nulls_needed(1), nulls_needed(30)
    (19, 599)

    With K nulls the smallest p is 1 / (K + 1), and the first layer's is multiplied by the number of layers: so
    K >= n_layers / level - 1. Raises `InputError` for n_layers < 1 or a level outside (0, 1).
    """
    if n_layers < 1 or not 0 < level < 1:
        raise InputError(
            "nulls_needed",
            expected="n_layers >= 1 and a level between 0 and 1",
            received=f"{n_layers!r} and {level!r}",
            remedy="For example nulls_needed(30, 0.05).",
        )
    return max(1, math.ceil(n_layers / level * (1 - 1e-12)) - 1)  # 3 / 0.05 must not count as a bit more than 60


def smallest_p(n_null: int, n_layers: int = 1) -> float:
    """The smallest adjusted p that `n_null` nulls can give over `n_layers` layers: n_layers / (n_null + 1), at most 1.

    >>> smallest_p(99), smallest_p(99, n_layers=30)
    (0.01, 0.3)
    """
    if n_null < 1 or n_layers < 1:
        raise InputError(
            "smallest_p",
            expected="n_null >= 1 and n_layers >= 1",
            received=f"{n_null!r} and {n_layers!r}",
            remedy="Count the nulls and the layers.",
        )
    return min(1.0, n_layers / (n_null + 1))


def _check_p(operation: str, p: Tensor, *, min_axes: int, max_axes: int | None = None) -> None:
    if (
        not isinstance(p, Tensor)
        or not p.is_floating_point()
        or p.ndim < min_axes
        or p.ndim > (max_axes or p.ndim)
        or not p.numel()
    ):
        received = f"{p.dtype} of shape {tuple(p.shape)}" if isinstance(p, Tensor) else type(p).__name__
        axes = "[layer, step]" if max_axes else "[*lead, test]"
        raise InputError(
            operation,
            expected=f"p-values as a floating tensor {axes}, not empty",
            received=received,
            remedy="Give the p-values of null_test.",
        )
    bad = ~((p >= 0) & (p <= 1))
    if bool(bad.any()):
        raise InputError(
            operation,
            expected="p-values from 0 to 1",
            received=f"{float(p[bad][0])} at {bad.nonzero()[0].tolist()}",
            remedy="Give the p-values of null_test; leave undefined ones out.",
        )

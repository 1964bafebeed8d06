"""Vectors of many problems at many places: which problems have a place, and which samples are of one problem.

Where a sample is a problem (`samplewise`, `vinformation`), x is `[*lead, n, d]`: at each place of the leading axes a
vector of each of n problems. `valid [*lead, n]` says which problems have that place, `groups [n]` which samples are of
one problem. What stands at a place that a problem lacks is never read.
"""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from probes.chunks import Take, parts
from probes.errors import InputError

__all__ = ["check_groups", "check_places", "check_samples", "check_seen", "described", "is_whole", "units_of"]


def units_of(n: int, groups: Tensor | None) -> Int64[Tensor, " n"]:
    """The number of each sample's unit, from 0: samples are units of their own, or those of one group are one.

    >>> units_of(3, None).tolist(), units_of(3, torch.tensor([7, -1, 7])).tolist()
    ([0, 1, 2], [1, 0, 1])

    On the CPU, where all that is random is drawn.
    """
    return torch.arange(n) if groups is None else groups.detach().cpu().unique(return_inverse=True)[1]


def is_whole(x: object) -> bool:
    """Whether it is a tensor of integers or booleans: labels, or groups."""
    return isinstance(x, Tensor) and not x.is_floating_point() and not x.is_complex()


def described(x: object) -> str:
    """What came, for a refusal."""
    return f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def check_samples(operation: str, x: Tensor) -> None:
    """Refuse what holds no vectors of problems."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or x.numel() == 0:
        raise InputError(
            operation,
            expected="x as a floating tensor [*lead, n, d], not empty",
            received=described(x),
            remedy="Problems are the last axis but one.",
        )


def check_places(operation: str, x: Tensor, y: Tensor, valid: Tensor | None, groups: Tensor | None) -> None:
    """Refuse `valid` and `groups` that do not fit x, and labels or marks on another device."""
    n = x.shape[-2]
    fits = valid is None or (isinstance(valid, Tensor) and valid.dtype == torch.bool and valid.shape == x.shape[:-1])
    if not fits:
        raise InputError(
            operation,
            expected=f"valid as a boolean tensor of shape {tuple(x.shape[:-1])}",
            received=described(valid),
            remedy="One for every vector of x.",
        )
    check_groups(operation, n, groups)
    for name, other in (("y", y), ("valid", valid)):
        if other is not None and other.device != x.device:
            raise InputError(
                operation, expected=f"{name} on {x.device}", received=str(other.device), remedy="Move one of them."
            )


def check_groups(operation: str, n: int, groups: Tensor | None) -> None:
    """Refuse groups that are not one whole number a sample."""
    if groups is not None and not (is_whole(groups) and tuple(groups.shape) == (n,)):
        raise InputError(
            operation,
            expected=f"groups as an integer tensor of shape {(n,)}",
            received=described(groups),
            remedy="The same number for samples of one problem.",
        )


def check_seen(operation: str, name: str, vectors: Take, seen: Tensor, width: int, max_bytes: int) -> None:
    """Refuse NaN and inf among the vectors, numbered as in `seen [place, n]`, that are seen."""
    bad = seen.reshape(-1).clone()
    for part in parts(len(bad), 16 * width, max_bytes):
        rows = torch.arange(part.start, part.stop, device=seen.device)
        bad[part] &= ~vectors(rows).isfinite().all(dim=-1)
    bad = bad.reshape(seen.shape)
    if bool(bad.any()):
        place, problem = bad.nonzero()[0].tolist()
        raise InputError(
            operation,
            expected=f"finite {name} at valid problems",
            received=f"NaN or inf in {int(bad.sum())} vectors, first at place {place} (leading axes flattened), "
            f"problem {problem}",
            remedy="Mark steps that a response lacks in valid.",
        )

"""Working through large tensors in parts that fit a stated memory.

1. `vectors_of`, `matrices_of`: those of a tensor by number, so that only the part at work is copied or converted; 2.
`parts`: which of them at a time; 3. `Meetings`: which trajectory meets which answer where leading axes broadcast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

__all__ = ["Meetings", "Take", "matrices_of", "parts", "vectors_of"]

#: Vectors `[row, d]`, or matrices, of the given numbers.
Take = Callable[[Tensor], Tensor]


def vectors_of(x: Tensor) -> Take:
    """The vectors of `x [*lead, d]` by number, leading axes flattened; a strided or expanded `x` is not copied.

    >>> x = torch.arange(12.0).reshape(2, 3, 2).transpose(0, 1)
    >>> vectors_of(x)(torch.tensor([1, 4])).tolist() == x.reshape(6, 2)[[1, 4]].tolist()
    True
    """
    x = x.detach() if x.ndim > 1 else x.detach()[None]
    if x.is_contiguous():
        return x.view(-1, x.shape[-1]).__getitem__
    lead = x.shape[:-1]
    return lambda rows: x[torch.unravel_index(rows, lead)]


def matrices_of(x: Tensor) -> Take:
    """The matrices `[n, d]` of `x [*lead, n, d]` by number, leading axes flattened; a strided `x` is not copied.

    >>> matrices_of(torch.zeros(2, 3, 5, 7))(torch.tensor([0, 5])).shape
    torch.Size([2, 5, 7])
    """
    x = x.detach() if x.ndim > 2 else x.detach()[None]
    lead = x.shape[:-2]
    return lambda which: x[torch.unravel_index(which, lead)]


def parts(total: int, bytes_each: int, max_bytes: int) -> Iterator[slice]:
    """Slices of 0 .. total - 1, as large as fit, of one at the least.

    >>> list(parts(5, 100, 250))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = max(1, max_bytes // max(1, bytes_each))
    return (slice(begin, min(begin + size, total)) for begin in range(0, total, size))


@dataclass(frozen=True)
class Meetings:
    """The output cells `lead`, flattened: in each a trajectory meets an answer.

    >>> Meetings.of((3, 1), (2,)).trajectory.tolist()
    [0, 0, 1, 1, 2, 2]
    """

    lead: tuple[int, ...]
    trajectory: Int64[Tensor, " cell"]
    answer: Int64[Tensor, " cell"]

    @classmethod
    def of(cls, trajectories: tuple[int, ...], answers: tuple[int, ...]) -> Meetings:
        lead = tuple(torch.broadcast_shapes(trajectories, answers))

        def numbered(shape: tuple[int, ...]) -> Tensor:
            return torch.arange(math.prod(shape)).reshape(shape).expand(lead).reshape(-1)

        return cls(lead, numbered(trajectories), numbered(answers))

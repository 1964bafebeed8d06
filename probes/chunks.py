"""Working through large tensors in parts that fit a stated memory.

1. `vectors_of`, `matrices_of`: those of a tensor by number, so that only the part at work is copied or converted;
2. `parts`: which of them at a time, the one way in which every probe keeps within `max_bytes`; `in_cache` beside it;
3. `Meetings`: which trajectory meets which answer where leading axes broadcast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

__all__ = ["DEFAULT_MAX_BYTES", "Meetings", "Take", "in_cache", "matrices_of", "parts", "vectors_of"]

DEFAULT_MAX_BYTES = 2**28

# Vectors worked on at once stay in a core's cache up to about this many float64; measured at d = 576 and 4096.
_CACHE_ELEMENTS = 2**15

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


def parts(
    total: int, bytes_each: int, max_bytes: int, *, most: int | None = None, even: bool = False
) -> Iterator[slice]:
    """Slices of 0 .. total - 1, as large as fit and no larger than `most`, of one at the least.

    >>> list(parts(5, 100, 250))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    >>> [part.stop - part.start for part in parts(9, 1, 100, most=6, even=True)]
    [5, 4]

    With `even` as many slices, but of about one size.
    """
    size = max(1, max_bytes // max(1, bytes_each))
    if most is not None:
        size = min(size, max(1, most))
    if even and total:
        size = math.ceil(total / math.ceil(total / size))
    return (slice(begin, min(begin + size, total)) for begin in range(0, total, size))


def in_cache(d: int, device: torch.device) -> int | None:
    """How many vectors of `d` float64 a pass should take at once to stay in the cores' caches; no limit on a GPU."""
    return max(1, _CACHE_ELEMENTS * torch.get_num_threads() // d) if device.type == "cpu" else None


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
        lead = tuple(np.broadcast_shapes(trajectories, answers))  # torch's own imports all of sympy first

        def numbered(shape: tuple[int, ...]) -> Tensor:
            return torch.arange(math.prod(shape)).reshape(shape).expand(lead).reshape(-1)

        return cls(lead, numbered(trajectories), numbered(answers))

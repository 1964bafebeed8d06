"""CUDA graphs without CUDA: operations as they were, on the memory they had, once more.

What a graph is: the operations of one run, every size, address and number that Python knew baked in. Here they are
torch's own operations (below everything that Python adds), noted while they run; replaying calls them again with the
very same arguments and writes what comes out into the very same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Graph", "Stream", "recorded"]


class Stream:
    """A stream among which there is nothing to wait for."""

    def __init__(self, *_: Any) -> None: ...

    def wait_stream(self, other: Stream) -> None: ...


class _Noting(TorchDispatchMode):
    def __init__(self, calls: list[tuple[Any, Any, Any, Any]]) -> None:
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


class Graph:
    """
    >>> x, graph = torch.ones(2), Graph()
    >>> with graph.recording():
    ...     y = x * len(x) + 1
    >>> _ = x.fill_(5)
    >>> graph.replay()
    >>> y
    tensor([11., 11.])
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        with _Noting(self.calls):
            yield

    def replay(self) -> None:
        with torch._C.DisableTorchFunction():  # nobody looks in
            for func, args, kwargs, before in self.calls:
                for old, new in zip(tree_leaves(before), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, Tensor) and old is not new and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def recorded(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """In the place of :func:`interp.engines.static.captured`, on every device."""
    graph = Graph()
    with graph.recording():
        step()
    return graph.replay

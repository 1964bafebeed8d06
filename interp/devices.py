"""Numbers on their way between the host and a device, with the host not waiting for what the device has yet to do.

A copy waits for all of that unless it is asked not to *and* the host's end of it is pinned. On the CPU there is nothing
to wait for, and everything here is a plain copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Ferry", "Stored", "on_device", "sent"]


def on_device(values: Sequence[Any], device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
    """What ``torch.tensor(values, device=device)`` gives, without its wait.

    >>> on_device([3, 5], "cpu")
    tensor([3, 5])
    """
    device = torch.device(device)
    # The allocator of pinned memory knows of the copy: the host's end is not given to anybody else before it is done.
    return torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """What ``values.to(device)`` gives, without a wait where they come from the host.

    >>> sent(torch.tensor([3, 5]), "cpu")
    tensor([3, 5])
    """
    device = torch.device(device)
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=values.device != device and device.type == "cuda")


@dataclass(eq=False)
class Stored:
    """A tensor that is asked for at every step, wherever the step is: copied once for each device and precision.

    >>> vector = Stored(torch.ones(2))
    >>> vector.like(torch.zeros(5, dtype=torch.float64))
    tensor([1., 1.], dtype=torch.float64)
    """

    values: Tensor
    _made: dict[tuple[torch.device, torch.dtype], Tensor] = field(default_factory=dict, repr=False)

    def like(self, other: Tensor) -> Tensor:
        """On the device and in the precision of ``other``."""
        wanted = other.device, other.dtype
        if wanted not in self._made:
            self._made[wanted] = sent(self.values, other.device).to(other.dtype)
        return self._made[wanted]


class Ferry:
    """Brings tensors from a device to the host, in their order and some calls later, when the copies are long done.

    >>> seen = []
    >>> ferry = Ferry("cpu", lambda note, values: seen.append((note, values["x"].tolist())))
    >>> ferry.send("first", {"x": torch.ones(2)})
    >>> seen  # what is on the host has no way to go
    [('first', [1.0, 1.0])]

    Args:
        device: from which they come.
        land: told the note and the tensors, on the host and valid until it returns.
        dtype: of the tensors on the host; their own unless given. It is the device that converts them.

    ``PLACES`` of pinned memory are filled by turns: what is sent lands when its place is needed again, so that one is
    emptied while the other is filled. Whoever needs all that was sent calls ``settle``, which waits.
    """

    PLACES = 2

    def __init__(
        self,
        device: torch.device | str,
        land: Callable[[Any, dict[Any, Tensor]], None],
        dtype: torch.dtype | None = None,
    ) -> None:
        self.device, self.land, self.dtype = torch.device(device), land, dtype
        self._under_way: deque[tuple[Any, dict[Any, Tensor], Any]] = deque()
        self._places: deque[dict[Hashable, Tensor]] = deque({} for _ in range(self.PLACES))

    def send(self, note: Any, values: Mapping[Any, Tensor]) -> None:
        """Take tensors that may change as soon as this returns."""
        kept = {key: value if self.dtype is None else value.to(self.dtype) for key, value in values.items()}
        if self.device.type != "cuda":
            self.land(note, kept)
            return
        if len(self._under_way) == self.PLACES:
            self._land()
        place = self._places[0]
        self._places.rotate(-1)
        for key, value in kept.items():
            held = place.get(key)
            if held is None or held.numel() < value.numel() or held.dtype != value.dtype:
                place[key] = held = torch.empty(value.numel(), dtype=value.dtype, pin_memory=True)
            # In one piece on both sides, or torch copies by way of memory that is not pinned.
            kept[key] = held[: value.numel()].view(value.shape)
            kept[key].copy_(value.contiguous(), non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(self.device))
        self._under_way.append((note, kept, done))

    def settle(self) -> None:
        """All that was sent lands now."""
        while self._under_way:
            self._land()

    def _land(self) -> None:
        note, values, done = self._under_way.popleft()
        done.synchronize()
        self.land(note, values)

"""Numbers on their way between the host and a device, with the host not waiting for what the device has yet to do.

A copy waits for all of that unless it is asked not to *and* the host's end of it is pinned. On the CPU there is nothing
to wait for, and everything here is a plain copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Stored", "on_device", "sent"]


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

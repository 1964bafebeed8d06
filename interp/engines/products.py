"""Products with large weights on AMD's processors: oneDNN's kernel in the place of the BLAS's, slow for a few rows.

A decode step multiplies the vectors of a handful of rows with every weight of the model. The general product that
``torch.nn.functional.linear`` takes for float32 on a CPU is MKL's, which is at its best on the processors of its maker.
On AMD's oneDNN, which reads a plain weight as it lies, is the quicker one for weights that come from memory, as a
model's do. Small weights are not worth its preparations. The numbers are the same to the order of their sums.

Found on an EPYC and on a Xeon, each weight from memory: on the latter MKL is ahead, most of all for one row.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["LARGE", "Product", "take_over"]

LARGE = 1 << 18
"""Numbers of a weight from which on oneDNN is faster for any number of rows, measured up to 1,024 of them on one thread
and on two, each weight from memory."""


class Product(torch.nn.Linear):
    """A linear layer as Hugging Face made it, with oneDNN's product where it is there.

    >>> layer = torch.nn.Linear(64, 1 << 16)
    >>> x = torch.randn(3, 1, 64)
    >>> with torch.no_grad():
    ...     before = layer(x)
    ...     layer.__class__ = Product
    ...     torch.allclose(layer(x), before, atol=1e-4)
    True
    """

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        if (
            input.dtype is torch.float32
            and weight.dtype is torch.float32
            and weight.numel() >= LARGE
            and weight.is_contiguous()
            and input.device.type == weight.device.type == "cpu"
            and input.numel() > 0
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and (product := _product()) is not None
        ):
            rows = input.reshape(-1, input.shape[-1])
            out: Tensor = product(rows, weight, self.bias, "none", [], "")
            return out.view(*input.shape[:-1], out.shape[-1])
        return super().forward(input)


def take_over(model: torch.nn.Module) -> None:
    """Let the linear layers of a model, those that are nothing more, be :class:`Product`, where that is quicker.

    The maker of the processor says so, no clock: on one machine the numbers have to be the same every time.
    """
    if "AuthenticAMD" not in _processor():
        return
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = Product


@cache
def _processor() -> str:
    """What the system says of the processor, its maker among it."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return platform.processor()


@cache
def _product() -> Callable[..., Tensor] | None:
    """oneDNN's product with a plain weight, where this build of torch has it and it gives what it should."""
    if not torch.backends.mkldnn.is_available():
        return None
    found: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if found is None:
        return None
    x, weight, bias = torch.arange(6.0).reshape(2, 3), torch.arange(12.0).reshape(4, 3), torch.arange(4.0)
    try:
        got = [found(x, weight, added, "none", [], "") for added in (bias, None)]
    except (RuntimeError, TypeError):  # another build's, which takes other things
        return None
    wanted = [torch.nn.functional.linear(x, weight, added) for added in (bias, None)]
    return found if all(map(torch.equal, got, wanted)) else None

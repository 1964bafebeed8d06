"""Products with large weights on a CPU: oneDNN's kernel in the place of the BLAS's, which is slow for a few rows.

A decode step multiplies the vectors of a handful of rows with every weight of the model. The general product that
``torch.nn.functional.linear`` takes for float32 on a CPU (MKL's) is made for many rows, and for weights that lie in a
cache. Of weights that come from memory, as a model's do, oneDNN, which reads a plain weight as it lies, makes the
products of SmolLM2's blocks in 28 ms where MKL takes 39 (1 row; 4 rows 33 and 52, 16 rows 47 and 65), and those of its
unembedding in 5 to 10 ms where MKL takes 10 to 23 (two threads of a Zen 4). Small weights are not worth its
preparations. The numbers are the same to the order of their sums.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["LARGE", "Product", "take_over"]

LARGE = 1 << 18
"""Numbers of a weight from which on oneDNN is faster for any number of rows, measured up to 1,024 of them on one thread
and on two, each weight from memory."""


class Product(torch.nn.Linear):
    """A linear layer as Hugging Face made it, with the quicker product where there is one.

    >>> layer = torch.nn.Linear(64, 1 << 16)
    >>> x = torch.randn(3, 1, 64)
    >>> with torch.no_grad():
    ...     before = layer(x)
    ...     take_over(layer)
    ...     torch.allclose(layer(x), before, atol=1e-4), type(layer).__name__
    (True, 'Product')
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
    """Let the linear layers of a model, those that are nothing more, be :class:`Product`."""
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = Product


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

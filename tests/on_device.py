"""The contract suite on another device: our models are there, their results come back, what is compared stays here.

``PEAKLENS_TEST_DEVICE`` names it: "cuda", "cuda:1", or "pretended" for the one of :mod:`pretended`. Hugging Face's
models stay on the CPU, and so do the tensors of the tests.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from pretended import Pretended, moved
from torch import Tensor

__all__ = ["DEVICE", "brought", "install", "there"]

DEVICE = os.environ.get("PEAKLENS_TEST_DEVICE", "cpu")
_moved: list[Any] = []  # kept: what is moved goes back when its context is let go of
_GIVE = ("decode", "read", "encode", "score")


def there(model: Any) -> Any:
    """A bridge, from now on on the device."""
    if DEVICE == "pretended":
        _moved.append(moved(model))
        _moved[-1].__enter__()
    elif DEVICE != "cpu":
        model.to(DEVICE)
    return model


def brought(value: Any) -> Any:
    """The same on the CPU: tensors, and what results hold of them."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, list):
        return [brought(one) for one in value]
    if isinstance(value, dict):
        return {key: brought(one) for key, one in value.items()}
    if type(value).__module__.startswith("interp.") and hasattr(value, "__dict__"):
        found = copy.copy(value)
        for name, held in vars(value).items():
            if isinstance(held, Tensor | dict):
                object.__setattr__(found, name, brought(held))
        return found
    return value


def install() -> None:
    """Before test files are imported: what gives results gives them here."""
    if DEVICE == "cpu":
        return
    import interp

    if DEVICE == "pretended":
        Pretended().__enter__()  # until the session ends
    else:
        # As exact as the CPU: not float32 products of ten bits.
        torch.backends.cuda.matmul.allow_tf32 = False
    for name in _GIVE:
        setattr(interp, name, _bringing(getattr(interp, name)))


def _bringing(act: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(act)
    def call(*args: Any, **options: Any) -> Any:
        return brought(act(*args, **options))

    return call

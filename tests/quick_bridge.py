"""TransformerLens's bridge without what it does anew at every call to no effect: the same numbers, a tenth sooner.

A bridge asks Accelerate at each call of each part whether weights lie on another device, which is so only where
Accelerate put its hook on; and each block looks its function's signature up each time. Tests decode some ten thousand
steps. A new one looks for hook points among all attributes of all its parts, methods too, twice; tests load some
hundreds. Real commands (`test_wheel`), worker processes (`test_workers`) and forked ones run without this.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import types
from typing import Any

import torch

__all__ = ["install"]

_PARTS = "transformer_lens.model_bridge.generalized_components"
_nothing = contextlib.nullcontext()


def install() -> None:
    """Once the bridge is imported; of no effect before, and after the first time."""
    base, block = (sys.modules.get(f"{_PARTS}.{name}") for name in ("base", "block"))
    if base is None or block is None or isinstance(block.inspect, _Inspect):
        return
    base.align_module_device = aligned(base.align_module_device)  # type: ignore[attr-defined]
    block.inspect = _Inspect("inspect")  # type: ignore[attr-defined]
    sys.modules["transformer_lens.model_bridge.transformer_bridge"].dir = names  # type: ignore[attr-defined]


def aligned(align: Any) -> Any:
    """Accelerate's context where it has a hook, else nothing, as it would do itself."""

    def quick(module: Any, *options: Any, **named: Any) -> Any:
        return align(module, *options, **named) if options or named or hasattr(module, "_hf_hook") else _nothing

    return quick


def names(module: Any) -> list[str]:
    """As `dir`, without what is private, or a method of the class: where the bridge looks there is no hook point."""
    kind = type(module)
    if kind.__dir__ is not torch.nn.Module.__dir__:
        return dir(module)
    if kind not in _fields:
        methods = types.FunctionType, classmethod, staticmethod
        public = (name for name in dir(kind) if name[0] != "_")
        _fields[kind] = [name for name in public if not isinstance(inspect.getattr_static(kind, name), methods)]
    own = (name for held in (module.__dict__, module._parameters, module._modules, module._buffers) for name in held)
    return sorted({*_fields[kind], *(name for name in own if name[0] != "_" and not name[0].isdigit())})


_fields: dict[type, list[str]] = {}


class _Inspect(types.ModuleType):
    """Python's module, which remembers signatures of methods by their functions."""

    def __getattr__(self, name: str) -> Any:
        return getattr(inspect, name)

    def signature(self, call: Any) -> inspect.Signature:
        function = getattr(call, "__func__", None)
        return inspect.signature(call) if function is None else _signature(function, call)


_kept: dict[int, tuple[Any, inspect.Signature]] = {}


def _signature(function: Any, call: Any) -> inspect.Signature:
    if id(function) not in _kept:
        _kept[id(function)] = function, inspect.signature(call)  # the function is kept, and so its number
    return _kept[id(function)][1]

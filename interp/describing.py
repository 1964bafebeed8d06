"""Any object as plain data that tells it from others, for the settings stored with a response.

Two things that can act differently are described differently, and the same thing is described the same in another
process: tensors by a digest of their content, functions by their name and a digest of what they do and hold (code,
defaults, closures, the globals they use), objects by their class and their state. No addresses.

How much is looked at is bounded: a model, and what libraries hold, is told by its class alone, and after `_LOOKED_AT`
values the rest is too. A gate that keeps a method of something large must not have all of that digested at each call.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import random
import re
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["class_digest", "described"]

_SHOWN = 100  # items of a list that are written out; a longer one is its length and a digest
_LOOKED_AT = 5_000
_FOREIGN = {"accelerate", "tokenizers", "torch", "transformer_lens", "transformers"}


def described(value: Any) -> Any:
    """JSON-able data.

    >>> described({"at": (0, 1), "token": np.int64(5)})
    {'at': [0, 1], 'token': 5}
    >>> described(lambda step: 1) == described(lambda step: 2)
    False
    """
    return _Describer().plain(value)


class _Describer:
    """One description: what it is inside of, and the functions it has told already."""

    def __init__(self) -> None:
        self.above: list[int] = []
        self.told: set[int] = set()
        self.left = _LOOKED_AT

    def plain(self, value: Any) -> Any:
        if value is None or (isinstance(value, str | bool | int | float) and not isinstance(value, Enum)):
            return _built_in(value)
        if id(value) in self.above:  # it holds itself
            return {"above": len(self.above) - self.above.index(id(value))}
        self.left -= 1
        if self.left < 0:
            return {"unseen": _name(type(value))}
        self.above.append(id(value))
        try:
            return self._compound(value)
        finally:
            self.above.pop()

    def held(self, parts: Any) -> str:
        return _hash(json.dumps(self.plain(parts), sort_keys=True).encode())

    def _compound(self, value: Any) -> Any:
        if isinstance(value, Tensor | np.ndarray | np.generic):
            return self._array(value)
        if isinstance(value, Mapping):
            return self._mapping(value)
        if isinstance(value, list | tuple):
            return self._sequence(value)
        if isinstance(value, set | frozenset):
            return sorted((self.plain(item) for item in value), key=_sorting)
        if isinstance(value, torch.dtype | torch.device | range | slice | complex | bytes | PurePath | Enum):
            return repr(value)
        if isinstance(value, type):
            return {"class": _name(value)}
        return self._function(value) if _is_function(value) else self._object(value)

    def _array(self, value: Tensor | np.ndarray | np.generic) -> Any:
        if isinstance(value, np.generic):
            item = value.item()
            return repr(value) if isinstance(item, np.generic) else self.plain(item)
        if isinstance(value, np.ndarray):
            if value.dtype == object:
                return {"array": list(value.shape), "digest": self.held(value.tolist())}
            content = np.ascontiguousarray(value).tobytes()
            return {"array": list(value.shape), "dtype": str(value.dtype), "digest": _hash(content)}
        dense = value.detach() if value.layout is torch.strided else value.detach().to_dense()
        flat = dense.cpu().contiguous().reshape(-1)
        content = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        kind = str(value.dtype).removeprefix("torch.")
        return {"tensor": list(value.shape), "dtype": kind, "digest": _hash(content)}

    def _mapping(self, value: Mapping[Any, Any]) -> Any:
        if all(isinstance(key, str) or _is_int(key) for key in value) and len({type(key) for key in value}) <= 1:
            return {str(key): self.plain(item) for key, item in value.items()}
        return [[self.plain(key), self.plain(item)] for key, item in value.items()]

    def _sequence(self, value: list[Any] | tuple[Any, ...]) -> Any:
        items = [self.plain(item) for item in value]
        if len(items) <= _SHOWN or all(isinstance(item, int) for item in items):
            return items
        return {"items": len(items), "digest": _hash(json.dumps(items, sort_keys=True).encode())}

    def _function(self, value: Any) -> Any:
        if isinstance(value, functools.partial):
            held = [value.func, list(value.args), dict(value.keywords)]
            return {"partial": _name(value.func), "digest": self.held(held)}
        if isinstance(value, types.MethodType):
            return {"method": _name(value), "digest": self.held([value.__func__, value.__self__])}
        if not isinstance(value, types.FunctionType) or id(value) in self.told:
            return {"function": _name(value)}
        self.told.add(id(value))
        return {"function": _name(value), "digest": self.held(_parts(value))}

    def _object(self, value: Any) -> Any:
        """An object by its class and its state, or by what it says of itself."""
        if (dice := _dice(value)) is not None:
            return {"object": _name(type(value)), "digest": self.held(dice)}
        if isinstance(value, torch.nn.Module) or _from(type(value)) in _FOREIGN:
            return {"object": _name(type(value))}
        state = {name: getattr(value, name) for name in _slots(type(value)) if hasattr(value, name)}
        state |= getattr(value, "__dict__", {})
        call = next((vars(c)["__call__"] for c in type(value).__mro__ if "__call__" in vars(c)), None)
        if not state and call is None and type(value).__repr__ is not object.__repr__:
            return re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value))
        kind = {"object": _name(type(value))}
        if isinstance(call, types.FunctionType) and not isinstance(value, torch.nn.Module | type):
            state = {**state, "": self.class_body(type(value), object)}
        return {**kind, "digest": self.held(state)} if state else kind

    def class_body(self, kind: type, base: type) -> Any:
        if id(kind) in self.told:
            return _name(kind)
        self.told.add(id(kind))
        own = [c for c in kind.__mro__ if c is not object and c not in base.__mro__]
        bodies = [{name: _bare(value) for name, value in vars(c).items() if name not in _NO_CONTENT} for c in own]
        return [[_name(c) for c in own], bodies]


def _dice(value: Any) -> Any:
    """The state of a generator of random numbers, which shows in no attribute; None for anything else."""
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, torch.Generator):
        return value.get_state()
    return value.getstate() if isinstance(value, random.Random) else None


def _from(kind: type) -> str:
    """The package that a class is of."""
    return str(kind.__module__).partition(".")[0]


def _is_int(value: object) -> bool:
    """An ``int`` that is no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def _built_in(value: Any) -> Any:
    # Subclasses (np.float64, np.str_) as what they are in JSON
    kind = next((kind for kind in (bool, int, float, str) if isinstance(value, kind)), None)
    plain = value if kind is None else kind(value)
    # JSON has no NaN and no infinity
    return repr(plain) if isinstance(plain, float) and plain - plain != 0 else plain


def _sorting(item: Any) -> tuple[bool, Any]:
    return (False, item) if isinstance(item, int | float) else (True, json.dumps(item, sort_keys=True))


def _slots(kind: type) -> list[str]:
    found = [getattr(c, "__slots__", ()) for c in kind.__mro__]
    return [name for slots in found for name in ((slots,) if isinstance(slots, str) else slots) if name[:2] != "__"]


def _is_function(value: Any) -> bool:
    return isinstance(value, functools.partial) or inspect.isroutine(value)


def _parts(function: types.FunctionType) -> list[Any]:
    """What a function does and holds."""
    cells = [cell.cell_contents if _is_filled(cell) else None for cell in function.__closure__ or ()]
    used = sorted(_names(function.__code__) & set(function.__globals__))
    outside = {name: _outside(function.__globals__[name], function.__module__) for name in used}
    return [_code(function.__code__), function.__defaults__, function.__kwdefaults__, cells, outside]


def _outside(value: Any, module: str | None) -> Any:
    """A global that a function uses: data and neighbours by content, what is imported by name."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, type) or (_is_function(value) and getattr(value, "__module__", None) != module):
        return _name(value)
    return value


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:  # a name not bound yet
        return False
    return True


def _code(code: types.CodeType) -> list[Any]:
    """Instructions, constants and names; not the file or the line, which say nothing about what is done."""
    constants = [_code(value) if isinstance(value, types.CodeType) else repr(value) for value in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names), list(code.co_varnames), list(code.co_freevars)]


def _names(code: types.CodeType) -> set[str]:
    inner = (value for value in code.co_consts if isinstance(value, types.CodeType))
    return set(code.co_names).union(*(_names(value) for value in inner))


def class_digest(kind: type, base: type) -> str:
    """A digest of what a class says beyond ``base``: methods and values of its own and of the classes between."""
    describer = _Describer()
    return describer.held(describer.class_body(kind, base))


# What a class holds that is made from the rest of it, or says where it stands
_NO_CONTENT = {
    "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__firstlineno__", "__static_attributes__",
    "__dataclass_fields__", "__dataclass_params__", "__match_args__", "__abstractmethods__", "_abc_impl", "__slots__",
}  # fmt: skip


def _bare(value: Any) -> Any:
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    return [value.fget, value.fset] if isinstance(value, property) else value


def _name(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", type(value).__qualname__)
    return f"{getattr(value, '__module__', None) or 'builtins'}.{name}"


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()

"""A device that is only pretended: tensors of the CPU that say they are on ``cuda:0``, and what the host waits for.

Inside :class:`Pretended` whatever is made on, or moved to, a CUDA device is a tensor with real numbers that tells that
device; results stay where their arguments were, two devices in one operation are refused as PyTorch refuses them, and
every call that on a GPU would keep the host waiting is noted in ``waits`` by its name:

- reading numbers (``item``, ``tolist``, ``bool``, ``cpu``), sizes that hang on numbers (``nonzero``, boolean masks),
- copies between the host and a device, unless they are asked not to wait *and* the host's end is pinned,
- lists and CPU tensors as indices, ``torch.tensor(list, device=...)``: hidden copies that wait,
- in torch's sync debug mode "error" such a call raises, as it does there; graphs are :mod:`replaying`'s,
- events: ``event`` is a wait too, told apart, for what it waits for may have been long ago.

What it does not know: which kernels there are, how fast they are, and waits within an operation that are not listed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import replaying
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["On", "Pretended", "moved", "placed"]

CPU = torch.device("cpu")
_READ = {"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__",
         "__array__", "__repr__", "__format__", "equal", "allclose", "is_nonzero"}  # fmt: skip
_SIZED = {"nonzero", "argwhere", "unique", "unique_consecutive", "masked_select", "bincount", "histc"}
# Where there are more to look for, `isin` sorts, and `unique` within it waits.
_MANY = 8
# Of these torch itself brings together what is on several devices.
_MOVING = {"to", "copy_", "__getitem__", "__setitem__", "index_put_", "type"}
# What tells of a tensor and computes nothing.
_ABOUT = {"__get__", "size", "dim", "numel", "stride", "is_contiguous", "storage_offset", "data_ptr",
          "untyped_storage", "__hash__", "__len__", "is_floating_point", "is_complex", "element_size"}  # fmt: skip


class On(Tensor):
    """A tensor that says where it is."""

    place: torch.device
    pinned: bool

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return self.place.type == "cuda"

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return self.place.type == "cpu"

    def is_pinned(self, device: Any = None) -> bool:
        return self.pinned

    def as_subclass(self, cls: Any) -> Any:
        return self if cls is Tensor else placed(super().as_subclass(cls), self.place, self.pinned)


def placed(value: Tensor, where: torch.device | str, pinned: bool = False) -> Tensor:
    """The same numbers, said to be there."""
    found: Any = value.as_subclass(On) if type(value) in (Tensor, torch.nn.Parameter) else value
    found.place, found.pinned = torch.device(where), pinned
    return found


def _device_of(value: Any) -> torch.device:
    return getattr(value, "place", CPU)


def _is_pinned(value: Any) -> bool:
    return getattr(value, "pinned", False)


def _each(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _each(one)
    elif isinstance(value, Mapping):
        yield from _each(list(value.values()))


def _mapped(value: Any, act: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return act(value)
    if type(value) in (list, tuple):
        return type(value)(_mapped(one, act) for one in value)
    if type(value).__module__ == "torch.return_types":
        return type(value)([_mapped(one, act) for one in value])
    return value


def _named(value: Any) -> torch.device | None:
    """The device that an argument names."""
    if isinstance(value, torch.device):
        return value
    return torch.device(value) if isinstance(value, str) and value.split(":")[0] in ("cuda", "cpu") else None


class Pretended(TorchFunctionMode):
    """Context in which CUDA devices are pretended; ``waits`` are those noted so far.

    >>> with Pretended() as device:
    ...     there = torch.ones(3, device="cuda:0")
    ...     total = float((there * 2).sum())
    >>> there.device, total, device.waits
    (device(type='cuda', index=0), 6.0, ['__float__'])
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        waits = self.waits
        self.raises = "default"  # torch's sync debug mode

        class Event:
            def __init__(self, *_: Any, **__: Any) -> None: ...

            def record(self, stream: Any = None) -> None: ...

            def synchronize(self) -> None:
                waits.append("event")

        self._patches = [
            patch.object(torch.cuda, "Event", Event),
            patch.object(torch.cuda, "synchronize", lambda *_: waits.append("synchronize")),
            patch.object(torch.cuda, "Stream", replaying.Stream),
            patch.object(torch.cuda, "current_stream", lambda *_: replaying.Stream()),
            patch.object(torch.cuda, "stream", lambda _: contextlib.nullcontext()),
            patch.object(torch.cuda, "device", lambda _: contextlib.nullcontext()),
            patch.object(torch.cuda, "CUDAGraph", replaying.Graph),
            patch.object(torch.cuda, "graph", lambda graph: graph.recording()),
            patch.object(torch.cuda, "get_sync_debug_mode", lambda: self.raises),
            patch.object(torch.cuda, "set_sync_debug_mode", lambda mode: setattr(self, "raises", mode)),
            patch.object(torch.cuda, "is_available", lambda: True),
            patch.object(torch.cuda, "mem_get_info", lambda *_: (1 << 40, 1 << 40)),
        ]

    def __enter__(self) -> Pretended:
        for one in self._patches:
            one.start()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for one in self._patches:
            one.stop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if func is torch.device:
            return func(*args, **kwargs)
        given = list(_each((args, kwargs)))
        if torch._C._is_torch_function_enabled():
            for value in given:
                own = type(value).__torch_function__
                if type(value) not in (Tensor, On, torch.nn.Parameter) and not isinstance(
                    own, type(On.__torch_function__)
                ):
                    # A class with a say of its own, which calls torch again.
                    with _Again(self):
                        return own(func, types, args, kwargs)
        there = [value for value in given if _device_of(value) != CPU]
        asked = None
        if name not in _ABOUT:
            asked = next((d for d in map(_named, (kwargs.get("device"), *args)) if d is not None), None)
            if name == "to" and isinstance(args[1] if len(args) > 1 else None, Tensor):
                asked = _device_of(args[1])
        pinned = bool(kwargs.pop("pin_memory", False))
        if name == "pin_memory":
            return placed(func.__objclass__.clone(args[0]), CPU, pinned=True)
        if name == "cpu":
            func, name, asked, args = Tensor.to, "to", CPU, (args[0], CPU)
        if not there and (asked is None or asked == CPU) and not pinned:
            # A part of what is pinned is pinned.
            kept = name in ("__getitem__", "__get__", "narrow", "view", "transpose", "select") and _is_pinned(args[0])
            return self._called(func, args, kwargs, CPU, kept)
        if name in _ABOUT:
            return self._called(func, args, kwargs, _device_of(args[0]), _is_pinned(args[0]))
        if asked is not None and asked.type == "cuda" and asked.index is None:
            asked = torch.device("cuda:0")
        where = self._place(name, args, kwargs, asked)
        before = len(self.waits)
        self._note(name, args, kwargs, where)
        if len(self.waits) > before and self.raises == "error":
            raise RuntimeError(f"called a synchronizing CUDA operation: {name}")
        if asked is not None:
            args = tuple(CPU if _named(one) is not None else one for one in args)
            kwargs = {key: CPU if key == "device" else value for key, value in kwargs.items()}
        if name == "to" and where != _device_of(args[0]):
            kwargs["copy"] = True
            pinned = where == CPU and bool(kwargs.get("non_blocking"))  # as torch does of itself
        return self._called(func, args, kwargs, where, pinned)

    def _called(self, func: Any, args: Any, kwargs: Any, where: torch.device, pinned: bool) -> Any:
        """What is computed, said to be ``where``; what was given and comes back stays what it is."""
        if getattr(func, "__module__", "") == "torch.functional":  # made of other calls, on the device of what they get
            args = _mapped(args, lambda value: Tensor.as_subclass(value, Tensor))
        given = {id(value) for value in _each((args, kwargs))}

        def wrap(value: Tensor) -> Tensor:
            return value if id(value) in given or (where == CPU and not pinned) else placed(value, where, pinned)

        return _mapped(func(*args, **kwargs), wrap)

    def _place(self, name: str, args: Any, kwargs: Any, asked: torch.device | None) -> torch.device:
        if asked is not None:
            return asked
        if name in _MOVING:
            return _device_of(args[0])
        devices = {_device_of(value) for value in _each((args, kwargs)) if value.dim() or _device_of(value) != CPU}
        if len(devices) > 1:
            found = ", ".join(sorted(map(str, devices)))
            raise RuntimeError(f"Expected all tensors to be on the same device, but {name} was given {found}")
        return devices.pop() if devices else CPU

    def _note(self, name: str, args: Sequence[Any], kwargs: Any, where: torch.device) -> None:
        """Note a call that keeps the host waiting."""
        first = args[0] if args else None
        if name in _READ or name in _SIZED:
            self.waits.append(name)
        elif name == "where" and len(args) == 1:
            self.waits.append("nonzero")
        elif name == "repeat_interleave" and any(isinstance(one, Tensor) for one in args[1:]):
            self.waits.append(name)
        elif name == "isin" and isinstance(args[1], Tensor) and args[1].numel() > _MANY:
            self.waits.append("isin")
        elif name in ("tensor", "as_tensor") and where != CPU:
            self.waits.append(f"{name}(list)")
        elif name in ("to", "copy_"):
            source, target = (first, where) if name == "to" else (args[1], _device_of(first))
            if CPU in (_device_of(source), target) and _device_of(source) != target:
                # `to` itself pins what it makes on the host.
                # `to` itself pins what it makes on the host; into what is not of one piece torch copies by way of other
                # memory, which is not pinned.
                is_pinned = target == CPU if name == "to" else _is_pinned(first) and first.is_contiguous()
                is_pinned |= _is_pinned(source) and source.is_contiguous()
                if not (kwargs.get("non_blocking") and is_pinned):
                    self.waits.append(name)
        elif name in ("__getitem__", "__setitem__", "index_put_"):
            for one in args[1] if isinstance(args[1], tuple) else (args[1],):
                if isinstance(one, list):
                    self.waits.append("index(list)")
                elif isinstance(one, Tensor) and one.dim() and _device_of(one) != _device_of(first):
                    self.waits.append("index(cpu)")
                elif isinstance(one, Tensor) and one.dtype == torch.bool:
                    self.waits.append("index(mask)")
            value = args[2] if name == "__setitem__" else None
            if isinstance(value, Tensor) and value.dim() and _device_of(value) != _device_of(first):
                self.waits.append("setitem(cpu)")


class _Again:
    """Within it a mode that is already handling a call handles calls again."""

    def __init__(self, mode: Pretended) -> None:
        self.mode = mode

    def __enter__(self) -> None:
        TorchFunctionMode.__enter__(self.mode)

    def __exit__(self, *error: Any) -> None:
        TorchFunctionMode.__exit__(self.mode, *error)


@contextmanager
def moved(model: Any, where: Callable[[str], str] = lambda name: "cuda:0") -> Iterator[None]:
    """Meanwhile a bridge's weights are on pretended devices, each module's on the one ``where`` says of its name."""
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []
    made: dict[int, Any] = {}
    modules = {id(module): (name, module) for root in (model, model.original_model) for name, module in
               root.named_modules()}  # fmt: skip
    for name, module in modules.values():
        for held in (module._parameters, module._buffers):
            kept.append((held, dict(held)))
            for key, value in held.items():
                if value is not None:
                    if id(value) not in made:
                        made[id(value)] = placed(value.detach(), where(name))
                        # What torch knows a parameter of another class by
                        made[id(value)]._is_param = held is module._parameters
                    held[key] = made[id(value)]
    try:
        yield
    finally:
        for held, before in kept:
            held.clear()
            held.update(before)

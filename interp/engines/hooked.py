"""The hooks on a model's modules: which there are, and whose they are.

Two things are asked. What a user put there that acts on a forward pass is part of what a run is (`user_hooks`). And
whether anything acts there but what libraries put everywhere only to look on: then a copy of the model that lacks it
would compute something else, or leave somebody's hook uncalled (`acts_alone`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch.nn.modules import module as torch_module

__all__ = ["Hook", "acts_alone", "hooks_everywhere", "hooks_on", "modules_of", "user_hooks"]

_LIBRARIES = ("torch", "transformers", "transformer_lens", "accelerate")
# Whoever hooks a model by code of these modules only looks on: TransformerLens wires its own hook points, and
# transformers collects what it was asked to return.
_LOOKING_ON = ("transformer_lens.model_bridge.", "transformers.utils.output_capturing")
_KINDS = ("forward_pre", "forward", "backward_pre", "backward")
_held = itemgetter(*(f"_{kind}_hooks" for kind in _KINDS))
_REPLACED = ("forward", "_call_impl")


class Hook(NamedTuple):
    """A function that is called when a module is run.

    Attributes:
        kind: of torch's hooks, "forward" or the like; "replaced" for a forward in the place of the module's own.
        at_point: whether it was put there by way of TransformerLens's hook points.
    """

    function: Callable[..., Any]
    kind: str
    at_point: bool = False

    @property
    def is_users(self) -> bool:
        """Not one that a library put there for its own work."""
        return self.at_point or _module_of(self.function).split(".")[0] not in _LIBRARIES

    @property
    def looks_on(self) -> bool:
        """Whether a library put it there that changes nothing."""
        return self.kind != "replaced" and str(getattr(self.function, "__module__", "")).startswith(_LOOKING_ON)


def modules_of(*roots: torch.nn.Module) -> list[torch.nn.Module]:
    """Each module of these once, in the order of ``torch.nn.Module.modules``.

    That walks by a generator within a generator for each level and writes every name: a bridge has some hundred modules
    a layer, which are looked at with each text that is decoded.

    >>> [type(module).__name__ for module in modules_of(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Tanh()))]
    ['Sequential', 'ReLU', 'Tanh']
    """
    found: dict[int, torch.nn.Module] = {}
    waiting = [*reversed(roots)]
    while waiting:
        module = waiting.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = module
            waiting.extend(reversed(module._modules.values()))  # type: ignore[arg-type]  # None: a part left out
    return list(found.values())


def hooks_on(module: torch.nn.Module) -> Iterator[Hook]:
    """All hooks on one module, in the order in which they stand.

    >>> layer = torch.nn.Linear(2, 2)
    >>> handle = layer.register_forward_hook(lambda module, args, output: None)
    >>> [(hook.kind, hook.is_users) for hook in hooks_on(layer)]
    [('forward', True)]
    """
    own = vars(module)
    if any(_held(own)):
        # At a hook point torch holds a wrapper of TransformerLens's, whoever's hook is within.
        inner = {handle.hook.id: handle.user_hook for handle in (*own.get("fwd_hooks", ()), *own.get("bwd_hooks", ()))}
        for kind in _KINDS:
            for key, function in own[f"_{kind}_hooks"].items():
                yield Hook(inner.get(key, function), kind, key in inner)
    for name in _REPLACED:
        if name in own:
            yield Hook(own[name], "replaced")


def _is_bare(module: torch.nn.Module) -> bool:
    """Whether there is no hook at all, as on nearly all modules: found without going through them."""
    own = vars(module)
    return not any(_held(own)) and own.keys().isdisjoint(_REPLACED)


def acts_alone(module: torch.nn.Module) -> bool:
    """Whether nothing acts on a module, forwards or backwards, but libraries that look on."""
    return _is_bare(module) or all(hook.looks_on for hook in hooks_on(module))


def hooks_everywhere() -> Iterator[Hook]:
    """The hooks that torch calls on every module."""
    for kind in _KINDS:
        for function in getattr(torch_module, f"_global_{kind}_hooks").values():
            yield Hook(function, kind)


def user_hooks(model: torch.nn.Module) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Where each hook of a user's is that acts on a forward pass, and the function; in the order in which they stand.

    >>> from interp.loading.models import load_model
    >>> model = load_model("toy-reasoner")
    >>> model.add_hook("blocks.1.hook_resid_post", lambda value, hook: value * 2)
    >>> [place for place, function in user_hooks(model)]
    ['blocks.1.hook_out']
    """
    for hook in hooks_everywhere():
        if hook.is_users and hook.kind.startswith("forward"):
            yield "every module", hook.function
    original = getattr(model, "original_model", None)
    places: dict[int, str] = {}
    for module in modules_of(model, *([] if original is None else [original])):
        for hook in () if _is_bare(module) else hooks_on(module):
            if hook.is_users and not hook.kind.startswith("backward"):
                places = places or {**_places(original, "original_model."), **_places(model, "")}
                place = places[id(module)]
                yield f"{place}.forward" if hook.kind == "replaced" else place, hook.function


def _places(root: torch.nn.Module | None, prefix: str) -> dict[int, str]:
    """Where each module is, by its ``id``: the first of its names."""
    named = () if root is None else root.named_modules()
    return {
        id(module): f"{prefix}{name}".rstrip(".").replace("_original_component.", "") or "model"
        for name, module in named
    }


def _module_of(function: Callable[..., Any]) -> str:
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__module__", ""))

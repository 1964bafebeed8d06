"""The hooks that a user put on a model, told from those that libraries put there for their own work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

__all__ = ["user_hooks"]

_LIBRARIES = ("torch", "transformers", "transformer_lens", "accelerate")


def user_hooks(model: torch.nn.Module) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Where each of them is, and the function; in the order in which they stand.

    >>> from interp.loading.models import load_model
    >>> model = load_model("toy-reasoner")
    >>> model.add_hook("blocks.1.hook_resid_post", lambda value, hook: value * 2)
    >>> [place for place, function in user_hooks(model)]
    ['blocks.1.hook_out']
    """
    for name in ("_global_forward_pre_hooks", "_global_forward_hooks"):
        for function in getattr(torch.nn.modules.module, name).values():
            if _is_users(function):
                yield "every module", function
    seen: set[int] = set()
    for prefix, root in (("", model), ("original_model.", getattr(model, "original_model", None))):
        for name, module in () if root is None else root.named_modules():
            if id(module) in seen:
                continue
            seen.add(id(module))
            place = f"{prefix}{name}".rstrip(".").replace("_original_component.", "") or "model"
            for handle in getattr(module, "fwd_hooks", ()):  # a hook point; what torch holds there only calls it
                yield place, handle.user_hook
            for function in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
                if _is_users(function):
                    yield place, function
            replaced = vars(module).get("forward")
            if replaced is not None and _is_users(replaced):
                yield f"{place}.forward", replaced


def _is_users(function: Callable[..., Any]) -> bool:
    """Not one that a library put there for its own work."""
    while isinstance(function, partial):
        function = function.func
    return str(getattr(function, "__module__", "")).split(".")[0] not in _LIBRARIES

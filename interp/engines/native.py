"""The native twin of a bridge: the Hugging Face model as it was before TransformerLens took it over, on its weights.

TransformerLens replaces a model's modules by its own, which hook everything and compute attention eagerly. A copy that
is made before shares every parameter and buffer (so it costs no memory) and keeps Hugging Face's own forward. It may
stand in for the bridge only while both are the same model: whatever was hooked, replaced, processed or set since
(:meth:`Native.doubt`) is acted on by the bridge alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interp.engines.hooked import acts_alone, hooks_everywhere, modules_of
from interp.engines.products import take_over
from interp.engines.within import is_compressed
from interp.errors import InputError
from interp.foreign import said
from interp.sites import HEAD_SITES, RECORDED_SITES, Site
from interp.types import Bridge

__all__ = ["ATTENTION", "Native", "check_attention", "keep_native", "native_copy", "native_of"]

ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3")
"""Hugging Face's attention implementations whose masks are known here."""

_PLAIN = (int, float, str, bool, type(None))


def check_attention(model: torch.nn.Module, operation: str) -> None:
    """Refuse a Hugging Face model whose attention is of a kind that nothing here knows how to mask.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> tiny = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    >>> check_attention(LlamaForCausalLM(LlamaConfig(**tiny)), "load tiny")
    """
    found = attention_of(model)
    if found not in (None, *ATTENTION):
        raise InputError(
            operation,
            expected=f"attention by one of {', '.join(ATTENTION)}",
            received=f"attn_implementation={found!r}",
            remedy='Load it with attn_implementation="sdpa".',
        )


def attention_of(model: Any) -> str | None:
    """How a Hugging Face model computes its attention."""
    found = getattr(model.config.get_text_config(), "_attn_implementation", None)
    return None if found is None else str(found)


@dataclass(eq=False)
class Native:
    """A native twin, and how the bridge was when they parted.

    Attributes:
        model: the Hugging Face model, which nobody else holds.
        pairs: each module of the original, which the bridge goes on with, and its likeness in ``model``.
        blocks: of ``model``, in the order of the layers.
        places: where a site is in ``model``, by its hook point's name: a module, and whether what goes in or comes out.
        known: all modules of the bridge as it was made.
        inner: the modules that each of these held.
        options: the plain attributes of each of the original's modules and configurations.
        refused: why it may not be used at all, if so.
    """

    model: torch.nn.Module
    pairs: list[tuple[torch.nn.Module, torch.nn.Module]]
    blocks: list[torch.nn.Module] = field(default_factory=list)
    places: dict[str, tuple[torch.nn.Module, bool]] = field(default_factory=dict)
    known: list[torch.nn.Module] = field(default_factory=list)
    inner: list[list[torch.nn.Module | None]] = field(default_factory=list)
    options: list[dict[str, Any]] = field(default_factory=list)
    refused: str | None = None

    @property
    def original(self) -> torch.nn.Module:
        return self.pairs[0][0]

    @property
    def attention(self) -> str:
        return attention_of(self.model) or "eager"

    def place(self, site: Site) -> tuple[torch.nn.Module, bool]:
        return self.places[site.hook_name]

    def meet(self, bridge: Bridge) -> None:
        """Note how the bridge over the original is made."""
        likeness = {id(original): twin for original, twin in self.pairs}

        def of(component: Any) -> torch.nn.Module | None:
            return likeness.get(id(getattr(component, "original_component", None)))

        blocks = [of(block) for block in bridge.blocks]
        self.blocks = [block for block in blocks if block is not None]
        if len(self.blocks) != len(blocks):
            self.refused = "TransformerLens has blocks of its own for this family"
            return
        points = bridge.hook_dict
        for site in (Site(name, layer) for name in RECORDED_SITES for layer in range(len(blocks))
                     if name != "ln_final" or layer == 0):  # fmt: skip
            name = getattr(points.get(site.hook_name), "name", None)
            path, _, end = str(name).rpartition(".")
            if end not in ("hook_in", "hook_out"):
                continue
            if site.name in HEAD_SITES and is_compressed(bridge.blocks[site.layer].attn):
                continue
            module = of(bridge.get_submodule(path))
            if module is not None:
                self.places[site.hook_name] = module, end == "hook_in"
        self.share()
        own = {id(tensor) for original, _ in self.pairs for tensor in _tensors(original)}
        for module in (bridge, bridge.original_model):
            copies = [name for name, tensor in module.named_parameters() if id(tensor) not in own]
            if copies:
                self.refused = f"TransformerLens computes with copies of its weights ({copies[0]})"
                return
        self.known, self.options = _modules(bridge), copy.deepcopy(_options(bridge, self.pairs))
        self.inner = _inner(self.known)

    def share(self) -> None:
        """Give the twin whatever tensors the original's modules hold now: they may have been moved or set anew."""
        for original, twin in self.pairs:
            added = original._buffers.get("bias")
            if added is not None and twin._parameters.get("bias", twin) is None and not added.any():
                # TransformerLens gives an unembedding a bias of zeros; adding them would cost a pass over the logits.
                twin._parameters["weight"] = original._parameters["weight"]
                continue
            held: list[tuple[dict[str, Any], dict[str, Any]]]
            held = [(twin._parameters, original._parameters), (twin._buffers, original._buffers)]
            for mine, its in held:
                if mine.keys() != its.keys() or any(mine[key] is not its[key] for key in its):
                    mine.clear()
                    mine.update(its)

    def doubt(self, bridge: Bridge) -> str | None:
        """Why the bridge may compute something else than the twin, as it is now; ``None``: they are the same model."""
        if self.refused is not None:
            return self.refused
        if bridge.compatibility_mode:
            return "TransformerLens's compatibility mode is on"
        if bridge._weights_processed:
            return "its weights have been processed"
        # Where each holds what it held, the walk through all of them ends where it did
        is_as_made = bridge.original_model is self.original and _inner(self.known) == self.inner
        if not is_as_made and _modules(bridge) != self.known:
            return "modules of it have been replaced or added"
        if _options(bridge, self.pairs) != self.options:
            return "settings of it have been changed"
        if (hooked := next((module for module in self.known if not acts_alone(module)), None)) is not None:
            return f"it has a hook of yours on {_named(bridge, hooked)}"
        if next(hooks_everywhere(), None) is not None:
            return "there are hooks of yours on all modules"
        return None


def _named(bridge: Bridge, wanted: torch.nn.Module) -> str:
    """The shortest of a module's names; the bridge has most of them in several places."""
    roots = (bridge, bridge.original_model)
    found = (root.named_modules(remove_duplicate=False) for root in roots)
    names = [name for some in found for name, module in some if module is wanted]
    return min(names, key=len).replace("_original_component", "original_component") or "the model"


def _modules(bridge: Bridge) -> list[torch.nn.Module]:
    # The original has modules that the bridge does not count as its own, GPT-2's dropout of embeddings say.
    return modules_of(bridge, bridge.original_model)


def _inner(modules: Iterable[torch.nn.Module]) -> list[list[torch.nn.Module | None]]:
    return [list(module._modules.values()) for module in modules]


def _options(bridge: Bridge, pairs: Iterable[tuple[torch.nn.Module, torch.nn.Module]]) -> list[dict[str, Any]]:
    config = bridge.original_model.config
    held = [vars(original) for original, _ in pairs]
    found = [{key: value for key, value in some.items() if type(value) in _PLAIN and key != "training"}
             for some in held]  # fmt: skip
    for some in (config, config.get_text_config()):
        found.append({key: value for key, value in vars(some).items() if type(value) in (*_PLAIN, dict, list, tuple)})
    return found


def _tensors(module: torch.nn.Module) -> Iterator[Tensor]:
    """All tensors that a module itself holds, those that it does not count as its own among them."""
    for some in (module._parameters, module._buffers, vars(module)):
        yield from (value for value in some.values() if isinstance(value, Tensor))


def native_copy(model: torch.nn.Module) -> Native | str:
    """The twin of a Hugging Face model that no bridge has taken over yet, or why there is none.

    >>> twin = native_copy(torch.nn.Sequential(torch.nn.Linear(2, 3)))
    >>> [[a.weight is b.weight for a, b in twin.pairs[1:]], twin.pairs[1][0] is twin.pairs[1][1]]
    [[True], False]
    """
    modules = list(model.modules())
    if any("_hf_hook" in vars(module) for module in modules):
        return "its weights are placed by accelerate"
    if any("forward" in vars(module) for module in modules):
        return "a forward of it was replaced before it was loaded"
    if getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False):
        return "it is quantised"
    if any(tensor.is_meta for module in modules for tensor in _tensors(module)):
        return "its weights are offloaded"
    if kind := _rope_that_changes(getattr(model, "config", None)):
        return f"its rotary embedding ({kind}) changes with the length of a text"
    shared = {id(tensor): tensor for module in modules for tensor in _tensors(module)}
    try:
        twin = copy.deepcopy(model, memo=dict(shared))
    except Exception as error:  # any of the many things that foreign objects say when they are copied
        return f"it cannot be copied: {said(error, 120)}"
    twins = list(twin.modules())
    for module in twins:
        # Hooks that were on the model before are the bridge's to call.
        for name, value in vars(module).items():
            if name.endswith("_hooks") and isinstance(value, dict):
                value.clear()
    take_over(twin)
    return Native(twin.eval(), list(zip(modules, twins, strict=True)))


def _rope_that_changes(config: Any) -> str | None:
    text = None if config is None else config.get_text_config()
    told = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    each = [told, *(value for value in told.values() if isinstance(value, dict))]
    kinds = {str(some.get("rope_type", some.get("type"))) for some in each}
    return next(iter(sorted(kinds & {"dynamic", "longrope"})), None)


def keep_native(bridge: Bridge, made: Native | str) -> None:
    """Keep a bridge's twin with it, or why it has none; as an attribute, so that a copied bridge has its own."""
    if isinstance(made, Native):
        made.meet(bridge)
    # Past the module's own bookkeeping, which would take the twin for a part of the bridge.
    vars(bridge)["_peaklens_native"] = made


def native_of(bridge: Bridge) -> Native | str:
    """The twin of a bridge, or why it has none."""
    found: Native | str = vars(bridge).get("_peaklens_native", "it was not loaded by load_model")
    return found

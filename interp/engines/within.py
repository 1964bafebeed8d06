"""Sites within a block of a TransformerLens bridge: where each is read and edited, and what is refused.

An edit is a hook at TransformerLens's own hook point, after those that a user has put there. A value is read where
nothing can act on it any more: as the last thing before the module it goes into, or after the module it comes out of,
so that plain PyTorch hooks count too; where one of TransformerLens's switches leaves that module out, and where a hook
point stands alone, at the hook point. A site that does not fire in the first pass is refused: an edit there would do
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp.engines.base import Edit, ModelFacts, Read
from interp.errors import InputError
from interp.sites import HEAD_SITES, Site
from interp.types import Bridge

__all__ = ["Within", "is_compressed", "plain", "shaped"]


class Within:
    """The sites within blocks that are tapped for a while, and those of them that have not been seen yet."""

    def __init__(self, model: Bridge, facts: ModelFacts, hook_points: dict[str, Any]) -> None:
        self.model, self.facts, self.hook_points = model, facts, hook_points
        self.awaited: set[Site] = set()

    def check(self, site: Site) -> None:
        """Refuse a place that this model does not have, or at which an edit would come too late."""
        if site.hook_name not in self.hook_points:
            raise self._refused(site, f"block {site.layer} of {self.facts.name}, which has no {site.hook_name}")
        if site.name in HEAD_SITES:
            self.facts.shape(site, f"attach to {site.name}")
            if is_compressed(self.model.blocks[site.layer].attn):
                raise self._refused(site, f"{self.facts.name}, whose heads share compressed keys and values")
        if site.name == "attn_scores" and _is_native(self.model.blocks[site.layer].attn):
            raise self._refused(site, f"{self.facts.name}, whose attention is computed by Hugging Face's own code")

    def edit(self, site: Site, edit: Edit) -> tuple[str, Callable[..., Tensor | None]]:
        """The hook that edits a site."""

        def hook(value: Tensor, hook: Any) -> Tensor | None:
            new = edit(self._seen(site, value))
            return None if new is None else new.reshape(value.shape)

        return self.hook_points[site.hook_name].name, hook

    def read(self, site: Site, read: Read) -> tuple[str, Callable[..., None]] | torch.utils.hooks.RemovableHandle:
        """The hook that reads a site, or the handle of one that is in place already."""
        name: str = self.hook_points[site.hook_name].name
        path, _, end = name.rpartition(".")

        def show(value: Any) -> None:
            read(plain(self._seen(site, value[0] if isinstance(value, tuple) else value)))

        if end not in ("hook_in", "hook_out") or self._is_left_out(site):
            return name, lambda value, hook: show(value)
        owner = self.model.get_submodule(path)
        if end == "hook_in":
            return owner.original_component.register_forward_pre_hook(lambda _module, args: show(args))
        return owner.register_forward_hook(lambda _module, _args, output: show(output))

    def _is_left_out(self, site: Site) -> bool:
        """Whether a switch lets TransformerLens compute with a projection's weights instead of calling it."""
        config = self.model.cfg
        if site.name == "z":
            return bool(getattr(config, "use_attn_result", False))
        forked = getattr(config, "use_split_qkv_input", False) or getattr(config, "use_attn_in", False)
        return site.name in HEAD_SITES and bool(forked)

    def _seen(self, site: Site, value: Tensor) -> Tensor:
        self.awaited.discard(site)
        return shaped(site, value, self.facts)

    def check_all_seen(self) -> None:
        """After a pass: refuse what has not fired."""
        for site in sorted(self.awaited):
            raise self._refused(site, f"{self.facts.name}, in which {site.hook_name} does not fire")

    def _refused(self, site: Site, received: str) -> InputError:
        return InputError(
            f"attach to {site.name}",
            expected="a model whose blocks compute it where TransformerLens's hooks are",
            received=received,
            remedy="Use another site; resid_pre and resid_post are there in all models.",
        )


def shaped(site: Site, value: Tensor, facts: ModelFacts) -> Tensor:
    """The value in the shape that the site has, told apart by heads; refused where it is of another."""
    if site.name == "attn_scores":
        wanted = facts.shape(Site("z"))[:1]
        fits = value.ndim == 4 and value.shape[1:2] == wanted
    else:
        wanted = facts.shape(site)
        fits = value.ndim == 2 + len(wanted) and value.shape[2:] == wanted
        if not fits and value.ndim == 3 and len(wanted) == 2 and value.shape[2] == wanted[0] * wanted[1]:
            return value.reshape(*value.shape[:2], *wanted)
    if not fits:
        received = f"{list(value.shape)} in block {site.layer} of {facts.name}"
        raise InputError(
            f"attach to {site.name}",
            expected=f"[row, head, query, key] of {wanted[0]} heads" if site.name == "attn_scores"
            else f"[row, pos, {', '.join(map(str, wanted))}]",
            received=received,
            remedy="What this family has there, or in this layer, is of another shape: use another site.",
        )  # fmt: skip
    return value


def _is_native(attention: torch.nn.Module) -> bool:
    """Whether attention is Hugging Face's own forward, which has used its scores before any hook shows them."""
    from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

    return type(attention).forward is AttentionBridge.forward


def is_compressed(attention: torch.nn.Module) -> bool:
    """Whether this is multi-head latent attention, whose projections are not each head's own."""
    from transformer_lens.model_bridge.generalized_components.mla_attention import MLAAttentionBridge

    return isinstance(attention, MLAAttentionBridge)


def plain(value: Tensor) -> Tensor:
    """Without a subclass's ways, which a tensor on its way to a sum may have."""
    if type(value) is Tensor:
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(Tensor)

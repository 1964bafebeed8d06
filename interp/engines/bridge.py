"""The engine that runs a TransformerLens bridge: every hook point of TransformerLens, and every hook a user has put on
the bridge, fires.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engines.again import Blocks
from interp.engines.anatomy import Anatomy
from interp.engines.base import Edit, ModelFacts, Read, evaluating
from interp.engines.cache import RowCache
from interp.engines.facts import attention_windows, bridge_facts
from interp.engines.middle import Meeting, Summand, held, stream_in
from interp.engines.within import Within
from interp.errors import InputError
from interp.sites import SITE_NAMES, Site
from interp.types import Bridge

__all__ = ["BridgeEngine"]


class BridgeEngine:
    """An :class:`Engine` over a ``TransformerBridge``."""

    name: ClassVar[str] = "bridge"

    @classmethod
    def serves(cls, model: Any) -> bool:
        return isinstance(model, Bridge)  # type: ignore[misc]  # TransformerLens is Any to the checker; see interp.types

    @classmethod
    def facts_of(cls, model: Bridge) -> ModelFacts:
        return bridge_facts(model)

    @classmethod
    def doubt(cls, model: Bridge, sites: Iterable[Site], modules: bool) -> str | None:
        return None

    @property
    def told(self) -> str:
        return self.name

    @property
    def holds_scores(self) -> bool:
        return True

    def __init__(self, model: Bridge) -> None:
        self.model = model
        self._hf = model.original_model
        self._config = self._hf.config.get_text_config()
        self._windows = attention_windows(self._hf.config, str(model.cfg.model_name))
        self.facts = self.facts_of(model)
        parameter = next(self._hf.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self._blocks = Blocks(list(model.blocks))
        # The bridge builds this dictionary anew at every access.
        self._hook_points = model.hook_dict
        self._within = Within(model, self.facts, self._hook_points)

    def evaluating(self) -> AbstractContextManager[None]:
        # The original model has modules that the bridge does not count as its own, GPT-2's dropout of embeddings say.
        return evaluating(self.model, self._hf)

    def new_cache(self, pad: Sequence[int], capacity: int) -> RowCache:
        return RowCache(self.facts.n_layers, pad, self.device, capacity)

    def cache_bytes(self, rows: int, columns: int) -> int:
        return 2 * self.facts.n_layers * rows * columns * math.prod(self.facts.shape(Site("k"))) * self.dtype.itemsize

    def forward(self, ids: Int[Tensor, "row pos"], cache: RowCache, keep: int = 1) -> Float[Tensor, "row keep d_vocab"]:
        with self._blocks.seen():
            logits = self._run(ids, cache, keep)
        if self._within.awaited:
            self._within.check_all_seen()
        cache.advance(ids.shape[1])
        return logits

    def recompute(
        self,
        rows: Int[Tensor, " rerun"],
        ids: Int[Tensor, "rerun 1"],
        inject: int,
        residual: Float[Tensor, "rerun d_model"],
        cache: RowCache,
    ) -> Float[Tensor, "rerun d_vocab"]:
        with cache.rewriting(rows), self._blocks.from_block(inject, residual[:, None, :]):
            return self._run(ids, cache, 1)[:, -1]

    def _run(self, ids: Int[Tensor, "row pos"], cache: RowCache, keep: int) -> Float[Tensor, "row keep d_vocab"]:
        count = ids.shape[1]
        masks = {kind: cache.mask(count, window, self.dtype) for kind, window in self._windows.items()}
        logits = self.model.forward(
            ids,
            return_type="logits",
            attention_mask=next(iter(masks.values())) if len(masks) == 1 else masks,
            position_ids=cache.positions(count),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        # A family that ignores logits_to_keep returns them all; of several devices the last layer may be on another.
        return logits[:, -keep:].to(self.device)

    @contextmanager
    def tapped(self, reads: Mapping[Site, Read], edits: Mapping[Site, Edit]) -> Iterator[None]:
        for site in (*edits, *reads):
            self._check_site(site)
        fwd_hooks: list[tuple[str, Callable[..., Tensor | None]]] = []
        self._within.awaited = {site for site in (*edits, *reads) if site.name not in SITE_NAMES}
        with ExitStack() as stack:
            stack.callback(self._within.awaited.clear)
            # resid_mid last: it is written by marking what attention adds, which an edit of attn_out replaces.
            for site, edit in sorted(edits.items(), key=lambda item: item[0].name == "resid_mid"):
                if site.name == "resid_mid":
                    fwd_hooks.append(self._write_mid(site.layer, edit, stack))
                else:
                    plain = site.name in SITE_NAMES
                    fwd_hooks.append((site.hook_name, _hook(edit)) if plain else self._within.edit(site, edit))
            for site, read in reads.items():
                if site.name == "resid_mid":
                    fwd_hooks.append((site.hook_name, _hook(read)))
                    continue
                found = self._read_outside(site, read) if site.name in SITE_NAMES else self._within.read(site, read)
                if isinstance(found, tuple):
                    fwd_hooks.append(found)
                else:
                    stack.callback(found.remove)
            if fwd_hooks:
                stack.enter_context(self.model.hooks(fwd_hooks=fwd_hooks))
            yield

    def _read_outside(self, site: Site, read: Read) -> torch.utils.hooks.RemovableHandle:
        """Show what a block really gets or gives, after every hook that anybody has put on it.

        Plain PyTorch hooks may act inside of TransformerLens's hook points (on the original block) or outside (on the
        bridge's). Read last thing before the original block, and last thing after the bridge's, the stream has been
        through all of them.
        """
        if site.name == "resid_pre":
            return self.model.blocks[site.layer].original_component.register_forward_pre_hook(
                lambda _module, args, kwargs: read(stream_in(args, kwargs)), with_kwargs=True
            )
        module = self.model.ln_final if site.name == "ln_final" else self.model.blocks[site.layer]
        return module.register_forward_hook(
            lambda _module, _args, output: read(output[0] if isinstance(output, tuple) else output)
        )

    def _write_mid(self, layer: int, edit: Edit, stack: ExitStack) -> tuple[str, Callable[..., Tensor]]:
        meeting, told = Meeting(edit), f"block {layer} of {self.facts.name}"
        for handle in held(self.model.blocks[layer].original_component, meeting, told):
            stack.callback(handle.remove)
        return f"blocks.{layer}.hook_attn_out", lambda attn_out, hook: Summand.of(attn_out, meeting)

    def _check_site(self, site: Site) -> None:
        site.check(self.facts.n_layers, f"attach to {site.name}")
        if site.name not in SITE_NAMES:
            self._within.check(site)
        if site.name == "resid_mid" and "blocks.0.hook_resid_mid" not in self._hook_points:
            raise InputError(
                "attach to resid_mid",
                expected="a model whose blocks have a residual stream between attention and MLP",
                received=f"{self.facts.name}, whose attention and MLP read the same input",
                remedy="Use resid_pre and resid_post.",
            )

    def anatomy(self) -> Anatomy:
        return Anatomy(self.model, self.facts.name)

    def shared_boundary(self, layer: int) -> bool:
        # The output below is read after all that is hooked to its block, so what is hooked to this one's input counts.
        block = self.model.blocks[layer]
        hooked = any(module._forward_pre_hooks for module in (block, block.hook_in, block.original_component))
        everywhere = torch.nn.modules.module._global_forward_pre_hooks or torch.nn.modules.module._global_forward_hooks
        return not (hooked or block.hook_in._forward_hooks or everywhere or "forward" in vars(block))


def _hook(handler: Edit | Read) -> Callable[..., Tensor | None]:
    """The handler in the form TransformerLens calls."""
    return partial(_call, handler)


def _call(handler: Edit | Read, residual: Tensor, hook: Any) -> Tensor | None:
    return handler(residual)

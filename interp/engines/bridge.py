"""The engine that runs a TransformerLens bridge: every hook point of TransformerLens, and every hook a user has put on
the bridge, fires.

A position is run again (``recompute``) by letting Hugging Face's own forward run with the blocks below ``inject``
stepped over and ``inject``'s input replaced. So masks, rotary embeddings, soft-capping and whatever else a family
does around its blocks are its own code, at the cost of one embedding look-up beside the recomputed blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engines.anatomy import Anatomy
from interp.engines.base import Edit, ModelFacts, Read, end_ids, evaluating
from interp.engines.cache import RowCache
from interp.engines.within import Within
from interp.errors import InputError
from interp.sites import SITE_NAMES, Site
from interp.types import Bridge

__all__ = ["BridgeEngine"]


class BridgeEngine:
    """An :class:`Engine` over a ``TransformerBridge``."""

    @classmethod
    def serves(cls, model: Any) -> bool:
        return isinstance(model, Bridge)  # type: ignore[misc]  # TransformerLens is Any to the checker; see interp.types

    @classmethod
    def facts_of(cls, model: Bridge) -> ModelFacts:
        hf = model.original_model
        config = hf.config.get_text_config()
        own = getattr(hf, "generation_config", None) if hasattr(hf, "generate") else None
        heads = getattr(config, "num_attention_heads", None)
        return ModelFacts(
            str(model.cfg.model_name),
            n_layers=model.cfg.n_layers,
            d_model=model.cfg.d_model,
            d_vocab=int(config.vocab_size),
            # as load_model was told, or as the model was made
            n_ctx=vars(model).get("_peaklens_n_ctx") or getattr(config, "max_position_embeddings", None),
            eos=end_ids(getattr(config, "eos_token_id", None) if own is None else own.eos_token_id),
            caps_logits=bool(getattr(config, "final_logit_softcapping", None)),
            libraries=("torch", "transformers", "transformer-lens"),
            n_heads=heads,
            n_key_value_heads=getattr(config, "num_key_value_heads", None)
            or getattr(model.cfg, "n_key_value_heads", None)
            or heads,
            d_head=getattr(config, "head_dim", None) or (model.cfg.d_model // heads if heads else None),
            tokenizer=model.tokenizer,
            generator=None if own is None else hf,
        )

    def __init__(self, model: Bridge) -> None:
        self.model = model
        self._hf = model.original_model
        self._config = self._hf.config.get_text_config()
        self._windows = _attention_windows(self._hf.config, str(model.cfg.model_name))
        self.facts = self.facts_of(model)
        parameter = next(self._hf.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self._tuple_blocks: bool | None = None
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
        if self._tuple_blocks is None:
            with self._watch_block_output():
                logits = self._run(ids, cache, keep)
        else:
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
        with cache.rewriting(rows), self._starting_at(inject, residual[:, None, :]):
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
        # A family that ignores logits_to_keep returns them all.
        return logits[:, -keep:]

    @contextmanager
    def _watch_block_output(self) -> Iterator[None]:
        """Learn whether this family's blocks return a tensor or a tuple, which a stepped-over block must imitate."""

        def watch(_module: torch.nn.Module, _args: Any, output: Any) -> None:
            self._tuple_blocks = isinstance(output, tuple)

        handle = self.model.blocks[0].register_forward_hook(watch)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _starting_at(self, inject: int, residual: Float[Tensor, "rerun 1 d_model"]) -> Iterator[None]:
        def step_over(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            return (hidden_states,) if self._tuple_blocks else hidden_states

        def replace_input(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args and isinstance(args[0], Tensor):
                return (residual.to(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": residual.to(kwargs["hidden_states"])}

        below = [self.model.blocks[layer] for layer in range(inject)]
        # First of all: a user's own hook acts on the new input as it does on any other.
        handle = self.model.blocks[inject].register_forward_pre_hook(replace_input, prepend=True, with_kwargs=True)
        try:
            for block in below:
                # What a module's call comes to: the block does not run, so that nobody's hooks on it fire either.
                block.__dict__["_call_impl"] = step_over
            yield
        finally:
            for block in below:
                block.__dict__.pop("_call_impl", None)
            handle.remove()

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
                lambda _module, args, kwargs: read(_stream_in(args, kwargs)), with_kwargs=True
            )
        module = self.model.ln_final if site.name == "ln_final" else self.model.blocks[site.layer]
        return module.register_forward_hook(
            lambda _module, _args, output: read(output[0] if isinstance(output, tuple) else output)
        )

    def _write_mid(self, layer: int, edit: Edit, stack: ExitStack) -> tuple[str, Callable[..., Tensor]]:
        """resid_mid is the sum of two tensors and no module's output: write it where the block adds them.

        ``hook_resid_mid`` itself feeds the MLP branch alone, so editing there would leave the stream as it was; and
        shifting what attention adds would round twice, which beside massive coordinates leaves nothing.
        """
        block, meeting = self.model.blocks[layer].original_component, _Meeting(edit)

        def hold(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            meeting.stream, meeting.met = _stream_in(args, kwargs), False

        def check(_module: torch.nn.Module, _args: Any, _output: Any) -> None:
            if not meeting.met:
                raise InputError(
                    "write resid_mid",
                    expected="a block that adds what attention gives to the stream",
                    received=f"block {layer} of {self.facts.name}, which does not, or a hook that replaces it",
                    remedy="Use resid_pre and resid_post.",
                )

        stack.callback(block.register_forward_pre_hook(hold, with_kwargs=True).remove)
        stack.callback(block.register_forward_hook(check).remove)
        return f"blocks.{layer}.hook_attn_out", lambda attn_out, hook: _Summand.of(attn_out, meeting)

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


def _stream_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The residual stream among a block's arguments."""
    stream = args[0] if args and isinstance(args[0], Tensor) else kwargs["hidden_states"]
    assert isinstance(stream, Tensor)
    return stream


@dataclass(eq=False)
class _Meeting:
    """Where a block adds what attention gives to the stream it was given."""

    edit: Edit
    stream: Tensor | None = None
    met: bool = False


class _Summand(Tensor):
    """What attention gives, on its way to the sum with the stream; the sum is then what the edit makes of it.

    A tensor like any other in all that a family does to it before (norms, scales, moves between devices).
    """

    meeting: _Meeting

    @classmethod
    def of(cls, values: Tensor, meeting: _Meeting) -> _Summand:
        marked = values.as_subclass(cls)
        marked.meeting = meeting
        return marked

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        marked = next((value for value in args if isinstance(value, _Summand)), None)
        if marked is None or not isinstance(result, Tensor):
            return result
        meeting = marked.meeting
        adds = getattr(func, "__name__", "").strip("_") in ("add", "radd", "iadd")
        if adds and any(value is meeting.stream for value in args):
            meeting.met = True
            result = result.as_subclass(Tensor)
            new = meeting.edit(result)
            return result if new is None else new
        return cls.of(result, meeting) if result.shape == marked.shape else result


def _hook(handler: Edit | Read) -> Callable[..., Tensor | None]:
    """The handler in the form TransformerLens calls."""
    return partial(_call, handler)


def _call(handler: Edit | Read, residual: Tensor, hook: Any) -> Tensor | None:
    return handler(residual)


def _attention_windows(config: Any, name: str) -> dict[str, int | None]:
    """Each kind of attention layer the model has, with its sliding window (``None``: sees everything before it)."""
    from transformers import DynamicCache

    text = config.get_text_config()
    layers = DynamicCache(config=config).layers
    plain = {"DynamicLayer", "DynamicSlidingWindowLayer"}
    kinds = getattr(text, "layer_types", None) or ["attention"] * len(layers)
    if not layers or {type(layer).__name__ for layer in layers} - plain or "chunked_attention" in kinds:
        raise InputError(
            "decode",
            expected="a decoder whose layers are full or sliding-window attention",
            received=f"{name} ({type(config).__name__}: {', '.join(sorted(set(kinds)))})",
            remedy="Recurrent, chunked and compressed attention keep other state than keys and values.",
        )
    return {kind: getattr(layer, "sliding_window", None) for kind, layer in zip(kinds, layers, strict=True)}

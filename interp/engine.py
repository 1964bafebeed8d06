"""The one seam between decoding and a model: run some columns, run a position again, read and edit residuals meanwhile.

Everything above (the loop, interventions, recording) speaks to an :class:`Engine`; :class:`BridgeEngine` is the one
that runs a TransformerLens bridge, so every hook point of TransformerLens, and every hook a user has put on the
bridge, fires. A faster engine has to offer the same members and nothing else changes.

A position is run again (``recompute``) by letting Hugging Face's own forward run with the blocks below ``inject``
stepped over and ``inject``'s input replaced. So masks, rotary embeddings, soft-capping and whatever else a family
does around its blocks are its own code, at the cost of one embedding look-up beside the recomputed blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.cache import RowCache
from interp.errors import InputError
from interp.sites import Site
from interp.types import Bridge

__all__ = ["BridgeEngine", "Edit", "Engine", "ModelFacts", "Read", "model_facts"]

Read = Callable[[Tensor], None]
Edit = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class ModelFacts:
    """What an intervention may be checked against before the first token.

    >>> ModelFacts("tiny", n_layers=2, d_model=8, d_vocab=10, n_ctx=64).check_token_ids([3], "force tokens")
    """

    name: str
    n_layers: int
    d_model: int
    d_vocab: int
    n_ctx: int | None
    tokenizer: Any = field(default=None, repr=False, compare=False)

    def check_token_ids(self, ids: Sequence[int], operation: str) -> None:
        """Refuse ids the embedding has no row for."""
        outside = [i for i in ids if not 0 <= i < self.d_vocab]
        if outside:
            raise InputError(
                operation,
                expected=f"token ids from 0 to {self.d_vocab - 1} (the vocabulary of {self.name})",
                received=f"{outside[:5]}{' and more' if len(outside) > 5 else ''}",
                remedy="Encode the text with this model's own tokenizer.",
            )


@runtime_checkable
class Engine(Protocol):
    """Runs columns of left-padded rows through a model."""

    facts: ModelFacts
    device: torch.device
    dtype: torch.dtype

    def new_cache(self, pad: Sequence[int], capacity: int) -> RowCache:
        """An empty cache for ``len(pad)`` rows."""
        ...

    def cache_bytes(self, rows: int, columns: int) -> int:
        """Bytes of keys and values."""
        ...

    def forward(self, ids: Int[Tensor, "row pos"], cache: RowCache, keep: int = 1) -> Float[Tensor, "row keep d_vocab"]:
        """Add columns to the cache; the logits of the last ``keep`` of them."""
        ...

    def recompute(
        self,
        rows: Int[Tensor, " rerun"],
        ids: Int[Tensor, "rerun 1"],
        inject: int,
        residual: Float[Tensor, "rerun d_model"],
        cache: RowCache,
    ) -> Float[Tensor, "rerun d_vocab"]:
        """Run the last column of ``rows`` again from block ``inject``, whose input is ``residual``."""
        ...

    def tapped(self, reads: Mapping[Site, Read], edits: Mapping[Site, Edit]) -> Any:
        """Context in which every pass shows its residuals ``[row, pos, d_model]``: edits first, then reads."""
        ...

    def shared_boundary(self, layer: int) -> bool:
        """Whether nothing a user attached can come between block ``layer - 1``'s output and block ``layer``'s input."""
        ...


class BridgeEngine:
    """An :class:`Engine` over a ``TransformerBridge``."""

    def __init__(self, model: Bridge) -> None:
        self.model = model
        self._hf = model.original_model
        self._config = self._hf.config.get_text_config()
        self._windows = _attention_windows(self._hf.config, str(model.cfg.model_name))
        self.facts = model_facts(model)
        parameter = next(self._hf.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self._tuple_blocks: bool | None = None
        # The bridge builds this dictionary anew at every access.
        self._hook_points = model.hook_dict

    def new_cache(self, pad: Sequence[int], capacity: int) -> RowCache:
        return RowCache(self.facts.n_layers, pad, self.device, capacity)

    def cache_bytes(self, rows: int, columns: int) -> int:
        heads = getattr(self._config, "num_key_value_heads", None) or self._config.num_attention_heads
        d_head = getattr(self._config, "head_dim", None) or self.facts.d_model // self._config.num_attention_heads
        return 2 * self.facts.n_layers * rows * heads * columns * d_head * self.dtype.itemsize

    def forward(self, ids: Int[Tensor, "row pos"], cache: RowCache, keep: int = 1) -> Float[Tensor, "row keep d_vocab"]:
        if self._tuple_blocks is None:
            with self._watch_block_output():
                logits = self._run(ids, cache, keep)
        else:
            logits = self._run(ids, cache, keep)
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
        handle = self.model.blocks[inject].register_forward_pre_hook(replace_input, with_kwargs=True)
        try:
            for block in below:
                # An instance attribute hides the class's forward without touching the module's registered state.
                block.__dict__["forward"] = step_over
            yield
        finally:
            for block in below:
                block.__dict__.pop("forward", None)
            handle.remove()

    @contextmanager
    def tapped(self, reads: Mapping[Site, Read], edits: Mapping[Site, Edit]) -> Iterator[None]:
        fwd_hooks: list[tuple[str, Callable[..., Tensor | None]]] = []
        for site, edit in edits.items():
            self._check_site(site)
            fwd_hooks += (
                self._mid_edit_hooks(site, edit) if site.name == "resid_mid" else [(site.hook_name, _hook(edit))]
            )
        for site, read in reads.items():
            self._check_site(site)
            fwd_hooks.append((site.hook_name, _hook(read)))
        with ExitStack() as stack:
            if fwd_hooks:
                stack.enter_context(self.model.hooks(fwd_hooks=fwd_hooks))
            yield

    def _mid_edit_hooks(self, site: Site, edit: Edit) -> list[tuple[str, Callable[..., Tensor | None]]]:
        """resid_mid is the sum of two tensors and no module's output: write it through the one attention adds.

        ``hook_resid_mid`` itself feeds the MLP branch alone, so editing there would leave the stream as it was.
        """
        held: list[Tensor] = []

        def hold(resid_pre: Tensor, hook: Any) -> None:
            held[:] = [resid_pre]

        def write(attn_out: Tensor, hook: Any) -> Tensor | None:
            resid_pre = held.pop().to(attn_out.device)
            new = edit(resid_pre + attn_out)
            return None if new is None else new - resid_pre

        return [(f"blocks.{site.layer}.hook_in", hold), (f"blocks.{site.layer}.hook_attn_out", write)]

    def _check_site(self, site: Site) -> None:
        site.check(self.facts.n_layers, f"attach to {site.name}")
        if site.name == "resid_mid" and "blocks.0.hook_resid_mid" not in self._hook_points:
            raise InputError(
                "attach to resid_mid",
                expected="a model whose blocks have a residual stream between attention and MLP",
                received=f"{self.facts.name}, whose attention and MLP read the same input",
                remedy="Use resid_pre and resid_post.",
            )

    def shared_boundary(self, layer: int) -> bool:
        points = [f"blocks.{layer}.hook_in"] if layer < self.facts.n_layers else []
        if layer > 0:
            points.append(f"blocks.{layer - 1}.hook_out")
        return not any(self._hook_points[name].has_hooks(dir="fwd") for name in points)


def model_facts(model: Bridge) -> ModelFacts:
    """Name and dimensions of a loaded model.

    >>> from interp import load_model
    >>> model_facts(load_model("toy-reasoner")).d_vocab
    47
    """
    config = model.original_model.config.get_text_config()
    return ModelFacts(
        str(model.cfg.model_name),
        n_layers=model.cfg.n_layers,
        d_model=model.cfg.d_model,
        d_vocab=int(config.vocab_size),
        # as load_model was told, or as the model was made
        n_ctx=vars(model).get("_peaklens_n_ctx") or getattr(config, "max_position_embeddings", None),
        tokenizer=model.tokenizer,
    )


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

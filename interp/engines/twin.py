"""The engine that runs a bridge's native twin: Hugging Face's own forward on the bridge's weights, hooked only where
something is asked for.

Names, edits, reruns and recordings are the bridge's. Whatever the twin cannot answer for (see
:meth:`interp.engines.native.Native.doubt`) is the bridge's to run, a hook that a user puts on it in the middle of a
decode included.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from interp.engines.again import Blocks
from interp.engines.anatomy import Anatomy
from interp.engines.base import Edit, ModelFacts, Read, evaluating
from interp.engines.bridge import BridgeEngine
from interp.engines.cache import RowCache
from interp.engines.facts import attention_windows, bridge_facts
from interp.engines.middle import Meeting, Summand, held, stream_in
from interp.engines.native import Native, native_of
from interp.engines.parted import parted
from interp.engines.static import StaticSteps
from interp.engines.within import plain, shaped
from interp.errors import InputError
from interp.sites import SITE_NAMES, Site
from interp.types import Bridge

__all__ = ["TwinEngine"]


class TwinEngine:
    """An :class:`Engine` over the native twin of a ``TransformerBridge``."""

    name: ClassVar[str] = "twin"

    @classmethod
    def serves(cls, model: Any) -> bool:
        return isinstance(model, Bridge)  # type: ignore[misc]  # TransformerLens is Any to the checker; see interp.types

    @classmethod
    def facts_of(cls, model: Bridge) -> ModelFacts:
        return bridge_facts(model)

    @classmethod
    def doubt(cls, model: Bridge, sites: Iterable[Site], modules: bool) -> str | None:
        if modules:
            return "TransformerLens's own modules are asked for"
        native = native_of(model)
        if isinstance(native, str):
            return native
        lacking = next((site for site in sites if site.hook_name not in native.places), None)
        if native.refused is None and lacking is not None:
            return f"Hugging Face's forward does not show {lacking.name}"
        return native.doubt(model)

    def __init__(self, model: Bridge) -> None:
        native = native_of(model)
        assert isinstance(native, Native)  # or there would have been a doubt
        native.share()
        self.bridge, self.native = model, native
        self.facts = self.facts_of(model)
        parameter = next(native.model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        config = native.model.config
        self._windows = attention_windows(config, self.facts.name)
        self._attention = native.attention
        takes = inspect.signature(type(native.model).forward).parameters
        self._keeps = "logits_to_keep" in takes
        self._blocks = Blocks(native.blocks)
        self._awaited: set[Site] = set()
        # torch numbers its hooks: as long as none was made, nobody has put one on the bridge.
        self._handles = RemovableHandle.next_id
        self._instead: BridgeEngine | None = None
        self._taps: list[_Tap] = []
        self._steps = StaticSteps(self._run, self._logits, self._windows, self._attention, self.dtype, self.device)

    @property
    def told(self) -> str:
        told = f"twin ({self._attention}{', captured steps' if self._steps.captured else ''})"
        return told if self._instead is None else f"{told}, then bridge"

    @property
    def holds_scores(self) -> bool:
        # Torch's kernel for CPUs holds none; which one a GPU takes under a mask hangs on more than can be told here.
        holds_none = self._attention.startswith("flash") or (self._attention == "sdpa" and self.device.type == "cpu")
        return not holds_none or self._instead is not None

    def evaluating(self) -> AbstractContextManager[None]:
        # The twin is always as for use; the bridge may come to run in its place.
        return evaluating(self.bridge, self.bridge.original_model)

    def new_cache(self, pad: Sequence[int], capacity: int) -> RowCache:
        return self._steps.meet(RowCache(self.facts.n_layers, pad, self.device, capacity))

    def cache_bytes(self, rows: int, columns: int) -> int:
        return BridgeEngine.cache_bytes(self, rows, columns)  # type: ignore[arg-type]

    def forward(self, ids: Int[Tensor, "row pos"], cache: RowCache, keep: int = 1) -> Float[Tensor, "row keep d_vocab"]:
        if (instead := self._hooked_since()) is not None:
            return instead.forward(ids, cache, keep)
        with self._blocks.seen():
            self._handles = RemovableHandle.next_id
            logits = self._steps.run(ids, cache, keep, self._taps)
        for site in sorted(self._awaited):
            raise InputError(
                f"attach to {site.name}",
                expected="a model whose blocks compute it in a module of its own",
                received=f"{self.facts.name}, in which {site.hook_name} does not fire",
                remedy="Use another site; resid_pre and resid_post are there in all models.",
            )
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
        if (instead := self._hooked_since()) is not None:
            return instead.recompute(rows, ids, inject, residual, cache)
        with cache.rewriting(rows), self._blocks.from_block(inject, residual[:, None, :]):
            self._handles = RemovableHandle.next_id
            return self._run(ids, cache, 1)[:, -1]

    def _run(self, ids: Int[Tensor, "row pos"], cache: RowCache, keep: int) -> Float[Tensor, "row keep d_vocab"]:
        count = ids.shape[1]
        mask, seen = self._mask(cache, count), []
        if self._attention == "sdpa":
            masks = mask if isinstance(mask, dict) else dict.fromkeys(self._windows, mask)
            seen = [
                own for kind, own in masks.items() if own is not None and cache.sees_all(count, self._windows[kind])
            ]
        with parted(seen):
            return self._logits(
                keep,
                input_ids=ids,
                attention_mask=mask,
                position_ids=cache.positions(count),
                past_key_values=cache,
            )

    def _logits(self, keep: int = 1, **inputs: Any) -> Float[Tensor, "row keep d_vocab"]:
        """What the model makes of its inputs, of the last ``keep`` columns."""
        kept = {"logits_to_keep": keep} if self._keeps else {}
        # A family that ignores logits_to_keep returns them all.
        logits: Tensor = self.native.model(**inputs, use_cache=True, **kept).logits[:, -keep:]
        return logits

    def _mask(self, cache: RowCache, count: int) -> Any:
        """What Hugging Face's forward takes for the next ``count`` columns: of each kind of attention, or one."""
        if self._attention.startswith("flash"):
            # Flash attention is given which columns hold tokens, and is causal and windowed of itself.
            return cache.tokens(count) if cache.is_padded else None
        masks: dict[str, Tensor | None] = {}
        for kind, window in self._windows.items():
            if self._attention == "eager":
                masks[kind] = cache.mask(count, window, self.dtype)
            else:
                masks[kind] = None if cache.is_plain(count, window) else cache.visible(count, window)
        return next(iter(masks.values())) if len(masks) == 1 else masks

    @contextmanager
    def tapped(self, reads: Mapping[Site, Read], edits: Mapping[Site, Edit]) -> Iterator[None]:
        for site in (*edits, *reads):
            site.check(self.facts.n_layers, f"attach to {site.name}")
        instead, tap = self._hooked_since(), _Tap(reads, edits, ExitStack())
        self._taps.append(tap)
        try:
            with tap.stack:
                tap.stack.enter_context(self._hooks(tap) if instead is None else instead.tapped(reads, edits))
                self._handles = RemovableHandle.next_id
                yield
        finally:
            self._taps.remove(tap)
            self._steps.forget()

    @contextmanager
    def _hooks(self, tap: _Tap) -> Iterator[None]:
        reads, edits = tap.reads, tap.edits
        self._awaited = {site for site in (*edits, *reads) if site.name not in SITE_NAMES}
        with ExitStack() as stack:
            stack.callback(self._awaited.clear)
            # resid_mid last: it is written by marking what attention adds, which an edit of attn_out replaces.
            for site, edit in sorted(edits.items(), key=lambda item: item[0].name == "resid_mid"):
                mid = site.name == "resid_mid"
                for handle in (
                    self._written_mid(site.layer, edit) if mid else [self._at(site, self._editing(site, edit))]
                ):
                    stack.callback(handle.remove)
            for site, read in reads.items():
                stack.callback(self._at(site, self._reading(site, read)).remove)
            yield

    def _editing(self, site: Site, edit: Edit) -> Callable[[Tensor], Tensor | None]:
        def act(value: Tensor) -> Tensor | None:
            new = edit(self._seen(site, value))
            return None if new is None else new.reshape(value.shape)

        return act

    def _reading(self, site: Site, read: Read) -> Callable[[Tensor], None]:
        return lambda value: read(plain(self._seen(site, value)))

    def _seen(self, site: Site, value: Tensor) -> Tensor:
        if site.name in SITE_NAMES:
            return value
        self._awaited.discard(site)
        return shaped(site, value, self.facts)

    def _at(self, site: Site, act: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """A hook where a site is, which goes on with what ``act`` gives, if anything."""
        module, goes_in = self.native.place(site)
        if goes_in:
            return module.register_forward_pre_hook(lambda _module, args, kwargs: _given(act, args, kwargs),
                                                    with_kwargs=True)  # fmt: skip
        return module.register_forward_hook(lambda _module, _args, output: _gives(act, output))

    def _written_mid(self, layer: int, edit: Edit) -> list[RemovableHandle]:
        meeting, told = Meeting(edit), f"block {layer} of {self.facts.name}"
        adds = self._at(Site("attn_out", layer), lambda value: Summand.of(value, meeting))
        return [adds, *held(self.native.blocks[layer], meeting, told)]

    def _hooked_since(self) -> BridgeEngine | None:
        """The bridge's engine, once somebody has hooked the bridge in the middle of what this one does."""
        if self._instead is None and RemovableHandle.next_id != self._handles:
            self._handles = RemovableHandle.next_id
            if self.native.doubt(self.bridge) is not None:
                self._instead = BridgeEngine(self.bridge)
                for tap in self._taps:
                    tap.stack.close()
                    tap.stack.enter_context(self._instead.tapped(tap.reads, tap.edits))
        return self._instead

    def anatomy(self) -> Anatomy:
        raise InputError(
            "show the parts of a model",
            expected="an engine that runs TransformerLens's modules",
            received="the native twin",
            remedy="Ask engine_for(model, modules=True).",
        )

    def shared_boundary(self, layer: int) -> bool:
        return True  # with a user's hook anywhere, the bridge would run


@dataclass(eq=False)
class _Tap:
    """What is asked for at sites, and the hooks that see to it."""

    reads: Mapping[Site, Read]
    edits: Mapping[Site, Edit]
    stack: ExitStack


def _given(act: Callable[[Tensor], Tensor | None], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    new = act(stream_in(args, kwargs))
    if new is None:
        return None
    if args and isinstance(args[0], Tensor):
        return (new, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": new}


def _gives(act: Callable[[Tensor], Tensor | None], output: Any) -> Any:
    new = act(output[0] if isinstance(output, tuple) else output)
    if new is None:
        return None
    return (new, *output[1:]) if isinstance(output, tuple) else new

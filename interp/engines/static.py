"""A decode step that is the same operations on the same memory every time, so that a CUDA graph can run it again.

On a GPU a step of a small model is mostly Python on its way from one kernel to the next. A captured step has none:

1. It attends to all columns that the cache's buffers have. Which column is written, which tokens come, how much padding
   a row has are numbers on the device; masks and positions follow from them (:class:`StaticStep`).
2. It runs over all rows that the buffers have memory for. Rows that have left compute on, and nobody looks.
3. What only copies into memory that stays (:class:`Replayed`) is part of it: so residual streams are recorded.
4. Once it has come several times the same it is captured; where there are no graphs it is called instead, for tests.

Whatever needs Python between the blocks (an edit, another kind of look-in), several columns at once, a position that is
run again and scratch tokens go the plain way, on the same memory. A cache that has grown or lost half of its rows has
other memory, for which the step is captured anew. The first two steps of a captured one are checked against plain ones.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from interp.engines.base import Read
from interp.engines.cache import RowCache
from interp.errors import InputError

__all__ = ["SWITCH", "Replayed", "StaticStep", "StaticSteps"]

SWITCH = "PEAKLENS_STATIC_STEPS"
"""Of the environment: 0 never, 1 on every device, else where there are CUDA graphs."""
AFTER = 3  # plain steps before one is captured: responses of a few tokens are done sooner without
WARM = 3  # turns before a capture, on a stream of their own, as torch prescribes
CHECKED = 2
# Share of the logits' norm by which a captured step may differ from a plain one, whose attention adds in another order
_ALIKE = {torch.float64: 1e-6, torch.float32: 1e-2}
_COARSE = 0.1

Forward = Callable[..., Float[Tensor, "row 1 d_vocab"]]
"""The model: ``input_ids``, ``attention_mask``, ``position_ids`` and ``past_key_values``, by name, to logits."""


@dataclass(frozen=True, eq=False)
class Replayed:
    """A read that only copies on the device, from what it is given into memory that stays.

    >>> held = torch.zeros(2)
    >>> Replayed(held.copy_)(torch.ones(2))
    >>> held
    tensor([1., 1.])
    """

    act: Read

    def __call__(self, value: Tensor) -> None:
        self.act(value)


class StaticStep(Cache):
    """One step over the memory of a :class:`RowCache`, and the cache that Hugging Face's forward is given in it.

    Args:
        forward: runs the model.
        windows: the sliding window of each kind of attention.
        dtype: of masks that are added to scores; None for masks of truth values.
    """

    def __init__(
        self, forward: Forward, cache: RowCache, windows: Mapping[str, int | None], dtype: torch.dtype | None
    ) -> None:
        super().__init__(layers=[])
        self.forward, self.windows, self.dtype = forward, windows, dtype
        self._buffers = [list(cache._keys), list(cache._values)]
        self._seen, self._offset = [*cache._keys, *cache._values], 0
        first = next(held for held in cache._keys if held is not None)
        self.rows, self.columns = first.shape[0], first.shape[2]
        for held in self._seen:
            if held is not None:
                # Masked columns count nothing, but what was never written may be NaN, which times nothing is NaN.
                held[:, :, cache.length :] = 0
                held[cache.n_rows :] = 0
        device = cache.device
        self.ids = torch.zeros(self.rows, 1, dtype=torch.long, device=device)
        self.pad = torch.zeros(self.rows, dtype=torch.long, device=device)
        self.column = torch.zeros(1, dtype=torch.long, device=device)
        self._every = torch.arange(self.columns, device=device)
        self._pad: Tensor | None = None
        # A graph does not see lengths grow: whoever asks is told one that stays.
        self._told = cache.length
        self.logits: Tensor | None = None

    # What Hugging Face calls

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the column of one layer and return all columns that there is memory for."""
        keys, values = (buffers[layer_idx] for buffers in self._buffers)
        assert keys is not None
        assert values is not None
        keys.index_copy_(2, self.column, key_states)
        values.index_copy_(2, self.column, value_states)
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._told

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.columns, 0

    def __len__(self) -> int:
        return len(self._buffers[0])

    # A step

    def take(self, ids: Int[Tensor, "row 1"], cache: RowCache) -> bool:
        """Set the step's inputs; False if it is not for the memory that ``cache`` has now, or that is full."""
        held = [*cache._keys, *cache._values]
        if any(mine is not its for mine, its in zip(self._seen, held, strict=True)):
            offset = self._dropped(held)
            if offset is None:
                return False
            self._seen, self._offset, self._pad = held, offset, None
        column = self._offset + cache.length
        if column >= self.columns:
            return False
        self.ids[: len(ids)].copy_(ids)
        if self._pad is not cache.pad:
            self.pad[: cache.n_rows].copy_(cache.pad + self._offset)
            self._pad = cache.pad
        self.column.fill_(column)
        return True

    def _dropped(self, held: Sequence[Tensor | None]) -> int | None:
        """How many columns at the left the cache has let go of; None if it is other memory."""
        found: set[int] = set()
        for mine, its in zip([*self._buffers[0], *self._buffers[1]], held, strict=True):
            if mine is None and its is None:
                continue
            if mine is None or its is None or its.shape[0] != self.rows or its.stride() != mine.stride():
                return None
            if its.untyped_storage().data_ptr() != mine.untyped_storage().data_ptr():
                return None
            found.add((its.storage_offset() - mine.storage_offset()) // mine.stride(2))
        return found.pop() if len(found) == 1 else None

    def run(self) -> None:
        """The step itself: nothing in it hangs on a number that Python knows and that will be another next time."""
        columns, pad = self._every, self.pad[:, None]
        seen, here = (columns >= pad) & (columns <= self.column), columns == self.column
        masks: dict[str, Tensor] = {}
        for kind, window in self.windows.items():
            # A row that has left sees itself, so that no softmax is over nothing.
            visible = ((seen if window is None else seen & (columns > self.column - window)) | here)[:, None, None]
            if self.dtype is None:
                masks[kind] = visible
            else:
                lowest = torch.finfo(torch.float32 if self.dtype == torch.float64 else self.dtype).min
                masks[kind] = torch.zeros_like(visible, dtype=self.dtype).masked_fill_(~visible, lowest)
        self.logits = self.forward(
            input_ids=self.ids,
            attention_mask=next(iter(masks.values())) if len(masks) == 1 else masks,
            position_ids=(self.column - pad).clamp_min(0),
            past_key_values=self,
        )


class StaticSteps:
    """The captured step of an engine, and the plain way to all that cannot be captured.

    Args:
        plain: a pass that the engine makes, of ids, a cache, and how many columns of logits to keep.
        forward: see :class:`StaticStep`.
        attention: the model's, by Hugging Face's name.

    ``why`` says why steps are not captured, if so; ``captured`` how many times one was.
    """

    def __init__(
        self,
        plain: Callable[[Tensor, RowCache, int], Tensor],
        forward: Forward,
        windows: Mapping[str, int | None],
        attention: str,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.plain, self.forward, self.windows, self.device = plain, forward, windows, device
        self.dtype = dtype if attention == "eager" else None
        self.alike = _ALIKE.get(dtype, _COARSE)
        self.why = _off(device)
        if self.why is None and attention not in ("eager", "sdpa"):
            self.why = f"{attention} takes no mask that is made on the device"
        self.captured = 0
        self._open: weakref.WeakSet[RowCache] = weakref.WeakSet()
        self._latest: weakref.ref[RowCache] | None = None
        self._taps: list[Any] = []
        self._alike = self._checked = 0
        self._step: StaticStep | None = None
        self._replay: Callable[[], None] | None = None

    def meet(self, cache: RowCache) -> RowCache:
        """A cache whose steps may be captured; those of its forks are not."""
        if self.why is None:
            self._open.add(cache)
        return cache

    def forget(self) -> None:
        """Let go of the memory of caches and graphs."""
        self._latest = self._step = self._replay = None
        self._taps = []

    def run(
        self, ids: Int[Tensor, "row pos"], cache: RowCache, keep: int, taps: Sequence[Any]
    ) -> Float[Tensor, "row keep d_vocab"]:
        """A pass over these columns. ``taps`` (with their ``reads`` and ``edits``) are what looks in meanwhile."""
        if self.why is not None or ids.shape[1] != 1 or cache not in self._open or not _only_copies(taps):
            return self.plain(ids, cache, keep)
        if self._latest is None or self._latest() is not cache or not _same(taps, self._taps):
            self._latest, self._taps, self._alike = weakref.ref(cache), list(taps), 0
            self._step = self._replay = None
        self._alike += 1
        if self._step is not None and not self._step.take(ids, cache):
            self._step = self._replay = None  # first, so that its memory is free for the next
        room = cache._keys[0] is not None and cache.length < cache._keys[0].shape[2]
        if self._alike <= AFTER or not room:
            return self.plain(ids, cache, keep)
        if self._step is None and not self._capture(ids, cache):
            return self.plain(ids, cache, keep)
        return self._replayed(ids, cache)

    def _capture(self, ids: Tensor, cache: RowCache) -> bool:
        if any(held is not None and held.device != self.device for held in (*cache._keys, *cache._values)):
            self.why = "its layers are on several devices"
            return False
        step = StaticStep(self.forward, cache, self.windows, self.dtype)
        step.take(ids, cache)
        try:
            self._replay = captured(step.run, self.device)
        except RuntimeError as error:  # an operation that waits, or one that cannot be captured
            self.why = f"a step of it cannot be captured ({str(error).splitlines()[0][:120]})"
            return False
        self._step, self._checked = step, 0
        self.captured += 1
        return True

    def _replayed(self, ids: Tensor, cache: RowCache) -> Tensor:
        assert self._step is not None
        assert self._replay is not None
        self._replay()
        assert self._step.logits is not None
        # The next step writes where this one's logits are.
        logits = self._step.logits[: len(ids)].clone()
        if self._checked < CHECKED:
            self._checked += 1
            plain = self.plain(ids, cache, 1)
            off = (logits - plain).norm(dim=-1) / plain.norm(dim=-1)
            if not bool((off <= self.alike).all()):
                self.why = "a captured step of it gives other logits than a plain one"
                warnings.warn(f"steps are not captured any more: {self.why}", stacklevel=2)
                self._step = self._replay = None
            return plain
        return logits


def _only_copies(taps: Sequence[Any]) -> bool:
    return all(not tap.edits and all(isinstance(read, Replayed) for read in tap.reads.values()) for tap in taps)


def _same(taps: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(taps) == len(others) and all(one is other for one, other in zip(taps, others, strict=True))


def _off(device: torch.device) -> str | None:
    """Why steps are not captured on a device, by what the environment says."""
    said = os.environ.get(SWITCH, "")
    if said not in ("", "0", "1"):
        raise InputError(
            "choose whether steps are captured",
            expected=f"{SWITCH}=0 or {SWITCH}=1",
            received=repr(said)[:80],
            remedy="Leave it out: steps are captured on CUDA devices.",
        )
    if said == "0":
        return f"{SWITCH} is 0"
    return None if said == "1" or device.type == "cuda" else "there are graphs on CUDA devices only"


def captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What runs the step again: a CUDA graph, or the step itself.

    Raises:
        RuntimeError: something in it waits for the device, or cannot be captured.
    """
    if device.type != "cuda":
        return step
    with torch.cuda.device(device):
        side, before = torch.cuda.Stream(device), torch.cuda.get_sync_debug_mode()
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            step()  # what libraries set up once may wait
            try:
                torch.cuda.set_sync_debug_mode("error")
                for _ in range(WARM - 1):
                    step()
            finally:
                torch.cuda.set_sync_debug_mode(before)
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    return graph.replay

"""Keys and values of the rows being decoded, owned by us so that a row can leave, fork or have a position rewritten.

Layout: per layer one key and one value buffer ``[row, head, column, d_head]``. Rows are left-padded, so all rows
write the same *column* at a time and ``pad[row]`` columns at the left of a row hold nothing; a token's position in
its own text is ``column - pad[row]``. Every layer keeps every column: sliding windows are made by the mask, which
leaves any position free to be run again. Four things a Hugging Face cache cannot do are one line here:

- ``select`` keeps some rows (finished rows leave),
- ``admit`` takes in rows that were read into a cache of their own (new prompts come in the places of finished rows),
- ``fork`` copies some rows (scratch tokens are decoded on a copy, rolling back is dropping it),
- ``rewriting`` makes the next forward pass overwrite the last column instead of adding one (a position run again).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from interp.devices import on_device

__all__ = ["RowCache"]


class RowCache(Cache):
    """A left-padded key/value cache for ``len(pad)`` rows.

    >>> cache = RowCache(n_layers=1, pad=[0, 2], device="cpu")
    >>> k = torch.zeros(2, 1, 3, 4)
    >>> cache.update(k, k, 0)[0].shape
    torch.Size([2, 1, 3, 4])
    >>> cache.advance(3)
    >>> cache.positions(1).tolist()  # of the next token of each row
    [[3], [1]]
    """

    def __init__(self, n_layers: int, pad: Sequence[int], device: torch.device | str, capacity: int = 0) -> None:
        super().__init__(layers=[])
        self.n_layers, self.capacity, self.length = n_layers, capacity, 0
        self.device = torch.device(device)
        self._set_pad(list(pad))
        self._keys: list[Tensor | None] = [None] * n_layers
        self._values: list[Tensor | None] = [None] * n_layers
        self._room = len(pad)  # rows that the buffers have memory for
        self._rows: Tensor | None = None  # while rewriting: the rows being run again

    def _set_pad(self, pad: list[int]) -> None:
        self.pad_columns = pad
        self.pad = on_device(pad, self.device, torch.long)
        self._tokens: Tensor | None = None

    @property
    def n_rows(self) -> int:
        return len(self.pad_columns)

    # What Hugging Face calls

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the new columns of one layer and return all columns up to them."""
        start, count = self._start(), key_states.shape[-2]
        end = start + count
        keys = self._store(self._keys, layer_idx, key_states, start, end)
        values = self._store(self._values, layer_idx, value_states, start, end)
        if self._rows is not None:
            rows = self._rows.to(keys.device)
            return keys[:, :, :end].index_select(0, rows), values[:, :, :end].index_select(0, rows)
        return keys[: self.n_rows, :, :end], values[: self.n_rows, :, :end]

    def _store(self, buffers: list[Tensor | None], layer: int, new: Tensor, start: int, end: int) -> Tensor:
        buffer = buffers[layer]
        if buffer is None or end > buffer.shape[2]:
            # Growing by half keeps the copies to a constant factor while memory stays near what is used.
            capacity = max(end, self.capacity, 0 if buffer is None else int(1.5 * buffer.shape[2]))
            grown = new.new_empty(self._room, new.shape[1], capacity, new.shape[3])
            if buffer is not None:
                grown[: self.n_rows, :, :start] = buffer[: self.n_rows, :, :start]
            buffers[layer] = buffer = grown
        if self._rows is not None:
            buffer[self._rows.to(buffer.device), :, start:end] = new
        else:
            buffer[: self.n_rows, :, start:end] = new
        return buffer

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._start()

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self._start() + query_length, 0

    def __len__(self) -> int:
        return self.n_layers

    # What the engine and the loop call

    def _start(self) -> int:
        return self.length if self._rows is None else self.length - 1

    def advance(self, count: int) -> None:
        """Count ``count`` more columns as stored, after every layer has stored them."""
        self.length += count

    @contextmanager
    def rewriting(self, rows: Int[Tensor, " rerun"]) -> Iterator[None]:
        """Until the end of the block a pass over ``rows`` overwrites their last column."""
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None

    def positions(self, count: int) -> Int[Tensor, "row count"]:
        """Position, in its own text, of each of the next ``count`` columns; 0 on padding."""
        columns = torch.arange(self._start(), self._start() + count, device=self.device)
        pad = self.pad if self._rows is None else self.pad[self._rows]
        return (columns[None, :] - pad[:, None]).clamp_min(0)

    @property
    def is_padded(self) -> bool:
        """Whether any row has columns that hold nothing."""
        return any(self.pad_columns)

    def is_plain(self, count: int, window: int | None) -> bool:
        """Whether the next ``count`` columns look at all before them and no others, so that attention needs no mask."""
        # Several columns after others are causal, but not from the first column on.
        return (count == 1 or self._start() == 0) and self.sees_all(count, window)

    def sees_all(self, count: int, window: int | None) -> bool:
        """Whether each of the next ``count`` columns looks at all before it."""
        return not self.is_padded and (window is None or self._start() + count <= window)

    def tokens(self, count: int) -> Bool[Tensor, "row column"]:
        """Which columns up to the next ``count`` hold a token, not padding."""
        held = self._held(self._start() + count)
        return held if self._rows is None else held.index_select(0, self._rows)

    def visible(self, count: int, window: int | None) -> Bool[Tensor, "row 1 count column"]:
        """Which columns the next ``count`` columns may look at.

        A padding column sees itself, so that no softmax is over nothing (Hugging Face's masks give NaN there in
        float64); no real token ever sees padding.
        """
        start, seen = self._start(), self.tokens(count)[:, None, None]
        end = start + count
        if count == 1 and (window is None or end <= window):
            return seen  # the last column is never padding
        columns = self._columns(end)
        queries = columns[start:, None]
        causal = columns <= queries
        if window is not None:
            causal = causal & (columns > queries - window)
        return (seen & causal) | (columns == queries)

    def _columns(self, end: int) -> Int[Tensor, " column"]:
        return torch.arange(end, device=self.device)

    def _held(self, end: int) -> Bool[Tensor, "row column"]:
        """Which of the first ``end`` columns hold a token; grown ahead, for it is asked for at every step."""
        if self._tokens is None or self._tokens.shape[1] < end:
            self._tokens = self._columns(max(self.capacity, int(1.5 * end))) >= self.pad[:, None]
        return self._tokens[:, :end]

    def real(self, count: int) -> Bool[Tensor, "row count"]:
        """Which of the next ``count`` columns hold a token, not padding."""
        columns = torch.arange(self._start(), self._start() + count, device=self.device)
        pad = self.pad if self._rows is None else self.pad[self._rows]
        return columns[None, :] >= pad[:, None]

    def mask(self, count: int, window: int | None, dtype: torch.dtype) -> Float[Tensor, "row 1 count column"]:
        """``visible`` as the additive mask that attention adds to its scores; finite, see :meth:`visible`."""
        # A float64 minimum would overflow to -inf in attention's float32 softmax.
        lowest = torch.finfo(torch.float32 if dtype == torch.float64 else dtype).min
        visible = self.visible(count, window)
        return torch.zeros(visible.shape, dtype=dtype, device=self.device).masked_fill_(~visible, lowest)

    def select(self, keep: Sequence[int]) -> None:
        """Keep these rows, in this order, and drop columns that are padding for all of them.

        Rows that keep their places are not touched; nothing is copied anew before half of the rows have left.
        """
        pad = [self.pad_columns[row] for row in keep]
        dropped = min(pad, default=0)
        moved = [(place, row) for place, row in enumerate(keep) if place != row]
        # A row that is written to must not be read from afterwards.
        in_place = len(set(keep)) == len(keep) and not {place for place, _ in moved} & {row for _, row in moved}
        if in_place and 2 * len(keep) > self._room:
            self._leave(moved, dropped)
        else:
            self._move(on_device(list(keep), self.device, torch.long), dropped, extra=0)
            self._room = len(keep)
        self.length -= dropped
        self._set_pad([p - dropped for p in pad])

    def admit(self, other: RowCache) -> None:
        """Take in the rows of another cache, behind those that are here, all last columns side by side.

        >>> here, new = RowCache(1, pad=[0], device="cpu"), RowCache(1, pad=[1, 0], device="cpu")
        >>> for cache, rows, columns in ((here, 1, 5), (new, 2, 3)):
        ...     k = torch.ones(rows, 1, columns, 4)
        ...     _ = cache.update(k, k, 0)
        ...     cache.advance(columns)
        >>> here.admit(new)
        >>> here.pad_columns, here.positions(1).tolist()
        ([0, 3, 2], [[5], [2], [3]])

        None of them may have more columns than there are here. Where rows have left there is memory for as many.
        """
        before, rows, first = self.n_rows, self.n_rows + other.n_rows, self.length - other.length
        assert first >= 0, "a row that is longer than all that are here"
        for buffers, news in ((self._keys, other._keys), (self._values, other._values)):
            for layer, (buffer, new) in enumerate(zip(buffers, news, strict=True)):
                if buffer is None or new is None:  # a layer that looks at another's keys and values has none
                    continue
                if rows > self._room:
                    grown = buffer.new_empty(rows, *buffer.shape[1:])
                    grown[:before, :, : self.length] = buffer[:before, :, : self.length]
                    buffers[layer] = buffer = grown
                # What stands in memory that was never written may be NaN, which no mask takes away.
                buffer[before:rows, :, :first] = 0
                buffer[before:rows, :, first : self.length] = new[: other.n_rows, :, : other.length]
        self._room = max(self._room, rows)
        self._set_pad([*self.pad_columns, *(first + pad for pad in other.pad_columns)])

    def _leave(self, moved: Sequence[tuple[int, int]], dropped: int) -> None:
        """Copy rows to places whose rows have left; the memory of those behind stays, for others to come."""
        places, sources = on_device(moved, self.device, torch.long).reshape(-1, 2).unbind(1)
        for buffers in (self._keys, self._values):
            for layer, buffer in enumerate(buffers):
                if buffer is not None:
                    if moved:
                        used = buffer[:, :, : self.length]
                        used[places.to(buffer.device)] = used[sources.to(buffer.device)]
                    buffers[layer] = buffer[:, :, dropped:]

    def fork(self, rows: Sequence[int], extra: int) -> RowCache:
        """A copy of these rows with room for ``extra`` more columns; what is decoded on it leaves no trace here."""
        copy = RowCache(self.n_layers, self.pad_columns, self.device)
        copy.length, copy._keys, copy._values = self.length, list(self._keys), list(self._values)
        copy._move(on_device(list(rows), self.device, torch.long), 0, extra=extra)
        copy._set_pad([self.pad_columns[row] for row in rows])
        copy._room = len(rows)
        return copy

    def _move(self, rows: Int[Tensor, " keep"], dropped: int, extra: int) -> None:
        """Replace each buffer by one that holds ``rows`` only, without the first ``dropped`` columns."""
        for buffers in (self._keys, self._values):
            for layer, buffer in enumerate(buffers):
                if buffer is not None:
                    _, n_heads, capacity, d_head = buffer.shape
                    capacity = self.length + extra if extra else capacity - dropped
                    moved = buffer.new_empty(len(rows), n_heads, capacity, d_head)
                    used = buffer[:, :, dropped : self.length].index_select(0, rows.to(buffer.device))
                    moved[:, :, : self.length - dropped] = used
                    buffers[layer] = moved

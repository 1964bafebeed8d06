"""The cache of keys and values against a list of rows, while rows leave, come back to life on a fork and run again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interp.engines.cache import RowCache


class Rows:
    """What a cache must hold: of each row its columns, padding left out."""

    def __init__(self, cache: RowCache, texts: list[list[Tensor]]) -> None:
        self.cache, self.texts = cache, texts

    def add(self, generator: torch.Generator) -> None:
        new = torch.randn(len(self.texts), 2, 1, 3, generator=generator)
        keys, values = self.cache.update(new, -new, 0)
        self.cache.advance(1)
        self.texts = [[*text, row[:, 0]] for text, row in zip(self.texts, new, strict=True)]
        self.check(keys, values)

    def keep(self, rows: list[int]) -> None:
        self.cache.select(rows)
        self.texts = [self.texts[row] for row in rows]

    def admit(self, generator: torch.Generator, pad: list[int], columns: int) -> None:
        """New rows, read into a cache of their own; all memory that holds nothing holds NaN."""
        for buffers in (self.cache._keys, self.cache._values):
            buffers[0][len(self.texts) :] = torch.nan
            buffers[0][:, :, self.cache.length :] = torch.nan
        new = RowCache(1, pad, "cpu")
        prompt = torch.randn(len(pad), 2, columns, 3, generator=generator)
        new.update(prompt, -prompt, 0)
        new.advance(columns)
        self.cache.admit(new)
        self.texts += [list(row[:, p:].unbind(1)) for row, p in zip(prompt, pad, strict=True)]

    def check(self, keys: Tensor, values: Tensor) -> None:
        assert torch.equal(values, -keys)  # NaN equals nothing
        assert self.cache.pad_columns == [keys.shape[2] - len(text) for text in self.texts]
        for row, text in enumerate(self.texts):
            assert torch.equal(keys[row, :, self.cache.pad_columns[row] :], torch.stack(text, 1))
        seen = self.cache.tokens(0)
        assert seen.sum(-1).tolist() == [len(text) for text in self.texts]


@pytest.mark.parametrize("capacity", [0, 30])
@pytest.mark.parametrize("seed", range(6))
def test_rows_leave_and_nobody_else_is_disturbed(seed: int, capacity: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pad = [0, 3, 1, 5, 2, 0, 4]
    cache = RowCache(1, pad, "cpu", capacity)
    prompt = torch.randn(len(pad), 2, 6, 3, generator=generator)
    cache.update(prompt, -prompt, 0)
    cache.advance(6)
    rows = Rows(cache, [list(row[:, p:].unbind(1)) for row, p in zip(prompt, pad, strict=True)])
    for step in range(12):
        rows.add(generator)
        if step % 2 and len(rows.texts) > 1:
            order = torch.randperm(len(rows.texts), generator=generator).tolist()
            rows.keep(order[1:] if seed % 2 else sorted(order[1:]))
        if step == 5:
            fork = Rows(cache.fork([0, 0], extra=2), [rows.texts[0], rows.texts[0]])
            fork.add(generator)
            fork.keep([1])
            fork.add(generator)


@pytest.mark.parametrize("seed", range(4))
def test_rows_come_in_the_places_of_others(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pad = [0, 3, 1, 5]
    cache = RowCache(1, pad, "cpu", 10 * (seed % 2))
    prompt = torch.randn(4, 2, 7, 3, generator=generator)
    cache.update(prompt, -prompt, 0)
    cache.advance(7)
    rows = Rows(cache, [list(row[:, p:].unbind(1)) for row, p in zip(prompt, pad, strict=True)])
    memory = 0
    for step in range(40):
        rows.add(generator)
        if step % 3 == 1:  # the longest leaves and, now and then, all but one
            order = sorted(range(len(rows.texts)), key=lambda row: len(rows.texts[row]))
            rows.keep(order[:1] if step % 7 == 0 else order[: max(1, len(order) - 1)])
        if step % 6 == 4:
            room = 4 - len(rows.texts)
            columns = min(3 + seed, cache.length)
            rows.admit(generator, [0, *[columns - 1] * (room - 1)], columns)
            assert cache.length == max(map(len, rows.texts))
        memory = max(memory, cache._keys[0].untyped_storage().nbytes())
    assert memory <= 4 * 4 * 2 * 3 * 1.5 * 40


def test_few_are_copied_when_one_leaves() -> None:
    cache = RowCache(1, [0] * 8, "cpu", 16)
    cache.update(torch.zeros(8, 1, 4, 2), torch.zeros(8, 1, 4, 2), 0)
    cache.advance(4)
    memory = cache._keys[0].data_ptr()
    cache.select([0, 1, 7, 3, 4, 5, 6])
    cache.select([0, 1, 2, 3, 4])
    assert cache._keys[0].data_ptr() == memory
    cache.select([0, 1, 2, 3])  # half have left: their memory is given back
    assert cache._keys[0].data_ptr() != memory


@pytest.mark.parametrize("window", [None, 3])
def test_masks_say_who_sees_whom(window: int | None) -> None:
    pad = [0, 2]
    cache = RowCache(1, pad, "cpu")
    for count in (5, 1, 1, 3):
        start = cache.length
        seen = cache.visible(count, window).expand(-1, -1, count, -1)
        for row, p in enumerate(pad):
            for query in range(count):
                for key in range(start + count):
                    at = start + query
                    reached = p <= key <= at and (window is None or key > at - window)
                    assert bool(seen[row, 0, query, key]) == (reached or key == at)
        assert not cache.is_plain(count, window)
        cache.advance(count)
    cache.select([0])
    assert cache.is_plain(1, None)
    assert not cache.is_plain(2, None)
    assert not cache.is_plain(1, window or 3)
    assert RowCache(1, [0, 0], "cpu").is_plain(3, 3)

"""Texts side by side, read through the key/value cache some columns at a time: how many, and what becomes of them.

1. A piece is ``columns`` of a batch's texts, all of which see the columns before it in the cache: the result is that of
   one pass (to the rounding of another order of sums), while attention scores, masks and logits are as large as a piece
   allows. So memory grows with a text by its keys and values alone.
2. How many columns hangs on the model, its attention, the texts and what is asked of them, not on free memory: the same
   texts are cut in the same way on every day and machine (GPUs are given larger pieces). Short texts are one piece.
3. A user's hook may ask for all of a text (its pattern of attention, its third position). Where there is one, texts are
   read whole, unless the user says how large a piece may be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.arguments import Whole, as_whole
from interp.engines.base import Edit, Engine, Read
from interp.engines.cache import RowCache
from interp.engines.hooked import user_hooks
from interp.on_disk import Files
from interp.record import Blocks, PieceResiduals, RecordPlan, ResidualPieces, ResidualSites, buffer
from interp.sites import Site
from interp.types import Bridge

__all__ = ["Collecting", "Columns", "Cut", "Kept", "in_pieces"]

CPU_BYTES, GPU_BYTES = 1 << 27, 1 << 30
"""Of a piece's attention scores (in one layer) and logits; twice that where no scores are held, for all else."""
BLOCK, MASK = 16, 5
"""Of a column where no scores are held: what a block makes of it, in streams; bytes of its mask for each other one."""
LEAST = 64  # columns: rather fewer texts at a time than smaller pieces
WHOLE_BYTES = 1 << 29  # of the logits of texts that may not be cut, before fewer are read at a time

Columns = range | list[int]
"""Which columns of a padded text are kept, in which order."""


class Cut:
    """How large pieces are: as memory goes, or as the user says.

    >>> from interp import load_model
    >>> from interp.engines.registry import engine_for
    >>> model = load_model("toy-reasoner")
    >>> engine = engine_for(model)
    >>> Cut(engine, model).of([100, 120], keep=60), Cut(engine, model, piece=50).of([100, 120], keep=60)
    ((2, 120), (2, 50))

    Args:
        model: whose hooks forbid to cut where ``piece`` is None; None: nothing is cut.
        piece: columns at most; None for as many as go with memory.
        held: bytes of a column of one text that are held besides, until it is handed on.
    """

    def __init__(
        self,
        engine: Engine,
        model: Bridge | None,
        piece: Whole | None = None,
        operation: str = "read",
        held: int = 0,
    ) -> None:
        self.engine, self.model, self.held = engine, model, held
        self.piece = None if piece is None else as_whole(piece, operation, "piece", 1)

    def of(self, lengths: Sequence[int], keep: int) -> tuple[int, int]:
        """Of texts of these lengths how many to read at a time, and how many columns.

        ``keep`` is of how many positions, at most, logits are asked. Pieces are of about one size unless that is given.
        """
        width, logits = max(lengths), self.engine.facts.d_vocab * self._itemsize
        least = min(width, LEAST if self.piece is None else self.piece)
        rows = max(1, min(len(lengths), self._budget // (self._each(width, least, keep) * least)))
        if rows < len(lengths) and self.piece is None and self.is_whole:
            rows = max(1, min(len(lengths), WHOLE_BYTES // (keep * logits)))
        return rows, self.columns(rows, width, keep)

    def columns(self, rows: int, width: int, keep: int = 1) -> int:
        """How many columns of so many texts, that are read at a time whatever comes."""
        least = min(width, LEAST if self.piece is None else self.piece)
        most = max(least, self._budget // ((self._each(width, least, keep) + self.held) * rows))
        if self.piece is not None:
            return least
        return width if most >= width or self.is_whole else math.ceil(width / math.ceil(width / most))

    def _each(self, width: int, least: int, keep: int) -> int:
        """Bytes of a column's attention scores, or what there is in their place, and logits."""
        return self._beside(width) + self.engine.facts.d_vocab * min(keep, least) // least * self._itemsize

    def _beside(self, width: int) -> int:
        facts = self.engine.facts
        if self.engine.holds_scores:
            return (facts.n_heads or 1) * width * self._itemsize
        return MASK * width + BLOCK * facts.d_model * self._itemsize

    @property
    def _itemsize(self) -> int:
        return max(4, self.engine.dtype.itemsize)  # of half precision a softmax is made in float32

    @property
    def _budget(self) -> int:
        budget = CPU_BYTES if self.engine.device.type == "cpu" else GPU_BYTES
        return budget if self.engine.holds_scores else 2 * budget

    @cached_property
    def is_whole(self) -> bool:
        """Whether texts may not be cut; looked up before the first pass, since what is read is seen by hooks too."""
        return self.model is None or next(user_hooks(self.model), None) is not None

    def needs(self, lengths: Sequence[int], size: int, keep: int = 1) -> tuple[int, int]:
        """The largest batch, of ``size`` texts at most: how many texts, and the bytes of what a pass makes of them."""
        if not lengths:
            return 0, 0
        longest = sorted(lengths)[-size:]
        rows, columns = self.of(longest, keep)
        return rows, self.pass_bytes(rows, columns, longest[-1])

    def pass_bytes(self, rows: int, columns: int, width: int) -> int:
        """What a pass makes of so many columns of texts of this width, and what is held of them.

        Three times the attention scores of a layer: they, their softmax, and its copy in the model's dtype; what there
        is in their place once.
        """
        each = self._beside(width)
        if self.engine.holds_scores:
            each = 3 * width * (self.engine.facts.n_heads or 1) * self.engine.dtype.itemsize
        return rows * columns * (each + self.held)


def in_pieces(
    engine: Engine,
    ids: Int[Tensor, "row pos"],
    cache: RowCache,
    columns: int,
    collected: Collecting,
    keep: int = 1,
    edits: Mapping[Site, Edit] | None = None,
) -> Iterator[tuple[int, int, Float[Tensor, "row asked d_vocab"]]]:
    """Read padded texts into a cache, ``columns`` at a time.

    After each piece: its first column and the one after its last, and the logits of those of the texts' last ``keep``
    columns that are in it. Who is told of a piece may run the model meanwhile: nothing is tapped then.
    """
    width, reads = ids.shape[1], collected.reads(cache)
    for begin in range(0, width, columns):
        end = min(begin + columns, width)
        asked = max(0, end - max(begin, width - keep))
        with engine.tapped(reads, edits or {}):
            logits = engine.forward(ids[:, begin:end], cache, max(1, asked))
        collected.take(begin, end)
        yield begin, end, logits[:, logits.shape[1] - asked :]


class Collecting:
    """What becomes of a batch that is read in pieces: who is shown what. This one keeps nothing."""

    def __init__(self, reads: Mapping[Site, Read] | None = None) -> None:
        self._reads = dict(reads or {})

    def reads(self, cache: RowCache) -> dict[Site, Read]:
        """What the engine calls with each place's values; ``cache`` is the one that is read into."""
        return self._reads

    def take(self, begin: int, end: int) -> None:
        """A piece, these columns, has been read."""


class _Keeping(Collecting):
    """Into tensors that are there, as soon as a place is seen."""

    def __init__(self, plan: RecordPlan, columns: Sequence[Columns], stored: Sequence[Blocks]) -> None:
        super().__init__()
        self.plan, self.columns, self.stored = plan, columns, stored

    def reads(self, cache: RowCache) -> dict[Site, Read]:
        targets = self.plan.targets(self.stored)
        return {place: partial(self._write, cache, rows) for place, rows in targets.items()}

    def _write(
        self, cache: RowCache, targets: Sequence[Float[Tensor, "_ ..."]], values: Float[Tensor, "row pos ..."]
    ) -> None:
        begin, end = cache.length, cache.length + values.shape[1]
        for columns, target, row in zip(self.columns, targets, values, strict=True):
            if isinstance(columns, range):
                first, last = max(columns.start, begin), min(columns.stop, end)
                if first < last:
                    target[first - columns.start : last - columns.start].copy_(row[first - begin : last - begin])
            elif here := [(place, column - begin) for place, column in enumerate(columns) if begin <= column < end]:
                places, found = zip(*here, strict=True)
                target[list(places)] = row[list(found)].to(target)


class _Handing(Collecting):
    """To whoever asked, with the text's number and the first of its steps that are here.

    A piece is held until all its places have been seen, in one buffer for all pieces.
    """

    def __init__(
        self,
        hand: Callable[[int, int, Blocks], None],
        plan: RecordPlan,
        rows: Sequence[int],
        columns: Sequence[Columns],
        engine: Engine,
    ) -> None:
        super().__init__()
        self.hand, self.plan, self.rows, self.columns, self.engine = hand, plan, rows, columns, engine
        self.held: dict[tuple[int, ...], Tensor] = {}

    def reads(self, cache: RowCache) -> dict[Site, Read]:
        return {
            place: partial(self._hold, shape, number)
            for shape, group in self.plan.groups.items()
            for number, place in enumerate(group)
        }

    def _hold(self, shape: tuple[int, ...], number: int, values: Float[Tensor, "row pos ..."]) -> None:
        held = self.held.get(shape)
        if held is None:  # the first piece is the largest
            engine, places = self.engine, len(self.plan.groups[shape])
            held = self.held[shape] = torch.empty(places, *values.shape, dtype=engine.dtype, device=engine.device)
        held[number, :, : values.shape[1]] = values

    def take(self, begin: int, end: int) -> None:
        for i, (row, columns) in enumerate(zip(self.rows, self.columns, strict=True)):
            assert isinstance(columns, range)
            first, last = max(columns.start, begin), min(columns.stop, end)
            if first < last:
                here = {shape: held[:, i, first - begin : last - begin] for shape, held in self.held.items()}
                self.hand(row, first - columns.start, here)


class Kept:
    """What is recorded of texts that are read: where it goes, and what there is of it when a text has been read.

    Args:
        counts: how many positions of each text are kept.
    """

    def __init__(self, record: ResidualSites | None, plan: RecordPlan, counts: Sequence[int], engine: Engine) -> None:
        self.record, self.plan, self.counts, self.engine = record, plan, counts, engine
        self.is_kept = record is not None and not isinstance(record, ResidualPieces)
        self.blocks: list[Blocks] = []
        self.files: dict[int, Files] = {}
        if record is not None and self.is_kept and record.folder is None:
            self.blocks = [buffer(record, plan, count, engine) for count in counts]

    @property
    def layers(self) -> tuple[int, ...]:
        return self.plan.layers if self.is_kept else ()

    def collect(self, rows: Sequence[int], columns: Sequence[Columns]) -> Collecting:
        """What a batch of these texts needs, of each of which some columns are kept."""
        record, plan, engine = self.record, self.plan, self.engine
        if record is None:
            return Collecting()
        if self.blocks:
            return _Keeping(plan, columns, [self.blocks[row] for row in rows])
        if record.folder is not None:
            folder, dtype = Path(record.folder), record.dtype or engine.dtype
            self.files |= {row: Files(folder, row, plan.groups, dtype) for row in rows}
            return _Handing(
                lambda row, begin, blocks: self.files[row].write(begin, blocks), plan, rows, columns, engine
            )
        return _Handing(self._hand, plan, rows, columns, engine)

    def _hand(self, row: int, begin: int, blocks: Blocks) -> None:
        assert isinstance(self.record, ResidualPieces)
        views = {
            site: values.to(device=self.record.device, dtype=self.record.dtype)
            for site, values in self.plan.by_site(blocks).items()
        }
        self.record.on_piece(PieceResiduals(row, begin, views))

    def take(self, row: int) -> dict[str, Float[Tensor, "_ step ..."]]:
        """What there is of a text that has been read; once."""
        if not self.is_kept:
            return {}
        return self.plan.by_site(self.blocks[row] if self.blocks else self.files.pop(row).done(self.counts[row]))

    def close(self) -> None:
        """Give up what has not been taken."""
        for files in self.files.values():
            files.drop()

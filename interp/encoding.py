"""Given text on its own, read once through the model: its residual streams, as references and probes need them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.arguments import Judged, Prompts, Whole
from interp.engines.registry import engine_for, model_facts
from interp.errors import InputError
from interp.given import by_length, checked_positions
from interp.passes import as_batch_size, asked_sites, check_context, padded
from interp.pieces import Columns, Cut, Kept, in_pieces
from interp.prompts import encode_prompts
from interp.record import ResidualPieces, ResidualSites, as_record, check_memory, held_bytes, plan_record
from interp.token_text import text_pieces
from interp.types import Bridge

__all__ = ["Encoding", "encode"]


@dataclass
class Encoding:
    """A text run through a model on its own.

    ``residuals[site]`` is ``[layer, pos, d_model]`` (``ln_final`` ``[1, pos, d_model]``, sites of heads
    ``[layer, pos, head, d_head]``); with ``last_only`` pos has length 1, with ``positions`` as many as were named.
    """

    token_ids: Int[Tensor, " pos"]
    tokens: list[str]
    residuals: dict[str, Float[Tensor, "_ kept ..."]]
    layers: tuple[int, ...]


@torch.no_grad()
def encode(
    model: Bridge,
    texts: Prompts,
    *,
    record: Judged[ResidualSites | None] = None,
    last_only: bool = False,
    positions: Sequence[Sequence[int]] | None = None,
    batch_size: Whole | None = None,
    piece: Whole | None = None,
) -> list[Encoding]:
    """Residuals of given texts (strings, chat messages or token ids), special tokens as the tokenizer adds them.

    >>> from interp import encode, load_model
    >>> encoding = encode(load_model("toy-reasoner"), ["Therefore 4"])[0]
    >>> encoding.tokens, encoding.residuals["resid_post"].shape
    (['<bos>', 'Therefore', '4'], torch.Size([3, 3, 128]))

    Args:
        texts: as the prompts of :func:`interp.decode`; one alone is one, none are no encodings.
        record: which layers and sites; all layers' resid_post unless given.
        last_only: keep the last position alone, as the reference ``a[l]`` of a gold solution needs.
        positions: keep these positions of each text alone, in this order, one list a text.
        batch_size: texts at a time, at most; 16 unless given, fewer where texts are long.
        piece: as in :func:`interp.read`.

    Raises:
        InputError: empty text, ids outside the vocabulary, layer, site or position out of range, larger than the
            context or memory.
    """
    record = as_record(record, "encode") or ResidualSites()
    is_streamed = isinstance(record, ResidualPieces) or record.folder is not None
    if is_streamed and (last_only or positions is not None):
        raise InputError(
            "encode",
            expected="ResidualPieces, or a folder, of all positions",
            received="last_only" if last_only else "positions",
            remedy="What is kept of few positions is small: use ResidualSites without a folder.",
        )
    facts = model_facts(model)
    engine = engine_for(model, asked_sites(record, (), facts))
    plan = plan_record(record, engine)
    ids = encode_prompts(engine.facts.tokenizer, texts, engine.facts, "encode")
    check_context(ids, 0, engine.facts, "encode")
    size = as_batch_size(batch_size, "encode")
    cut = Cut(engine, model, piece, "encode", held_bytes(record, plan, engine))
    kept = None if positions is None else checked_positions(positions, ids, last_only)
    counts = [1 if last_only else len(text) for text in ids] if kept is None else list(map(len, kept))
    remedy = "Record fewer layers, or pass last_only=True or fewer texts."
    lengths = list(map(len, ids))
    rows, besides = cut.needs(lengths, size)
    check_memory("encode", engine, rows, max(lengths, default=0), remedy, record, plan, sum(counts), besides)

    order, found = by_length(ids), dict[int, Encoding]()
    with closing(Kept(record, plan, counts, engine)) as stored, engine.evaluating():
        while order:
            rows, columns = cut.of([len(ids[n]) for n in order[:size]], 1)
            batch, order = order[:rows], order[rows:]
            pad, fed = padded([ids[n] for n in batch], engine.device)
            width = fed.shape[1]
            wanted: list[Columns] = [
                range(width - counts[n], width) if kept is None else [width + place for place in kept[n]] for n in batch
            ]
            for _ in in_pieces(engine, fed, engine.new_cache(pad, width), columns, stored.collect(batch, wanted)):
                pass
            for n in batch:
                pieces = text_pieces(engine.facts.tokenizer, ids[n])
                found[n] = Encoding(torch.tensor(ids[n]), pieces, stored.take(n), stored.layers)
    return [found[n] for n in range(len(ids))]

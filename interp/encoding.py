"""Residual streams of text that is given, not generated: one forward pass, nothing sampled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.arguments import Judged, Prompts, Whole
from interp.decoding import as_batch_size, check_context, evaluating
from interp.engines.base import BridgeEngine
from interp.errors import InputError
from interp.prompts import encode_prompts
from interp.record import ResidualSites, ResidualStream, as_record, check_memory, plan_record
from interp.token_text import text_pieces
from interp.types import Bridge

__all__ = ["Encoding", "encode"]


@dataclass
class Encoding:
    """A text run through a model on its own.

    ``residuals[site]`` is ``[layer, pos, d_model]`` (``ln_final`` ``[1, pos, d_model]``); with ``last_only`` pos has
    length 1.
    """

    token_ids: Int[Tensor, " pos"]
    tokens: list[str]
    residuals: dict[str, Float[Tensor, "_ kept d_model"]]
    layers: tuple[int, ...]


@torch.no_grad()
def encode(
    model: Bridge,
    texts: Prompts,
    *,
    record: Judged[ResidualSites | None] = None,
    last_only: bool = False,
    batch_size: Whole | None = None,
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
        batch_size: texts at a time, at most; 16 unless given.

    Raises:
        InputError: empty text, ids outside the vocabulary, layer or site out of range, larger than the context or
            memory.
    """
    record = as_record(record, "encode") or ResidualSites()
    if isinstance(record, ResidualStream):
        raise InputError(
            "encode",
            expected="ResidualSites",
            received="ResidualStream",
            remedy="encode has no steps; it returns residuals.",
        )
    engine = BridgeEngine(model)
    plan = plan_record(record, engine)
    ids = encode_prompts(model.tokenizer, texts, engine.facts, "encode")
    longest = max((len(text) for text in ids), default=0)
    check_context(ids, 0, engine.facts, "encode")
    device = torch.device(record.device or engine.device)
    dtype = record.dtype or engine.dtype
    size = as_batch_size(batch_size, "encode")
    kept = len(ids) if last_only else sum(len(text) for text in ids)
    needs = {engine.device: engine.cache_bytes(min(size, len(ids)), longest)}
    kept_bytes = kept * len(plan.places) * engine.facts.d_model * dtype.itemsize
    needs[device] = needs.get(device, 0) + kept_bytes
    check_memory("encode", needs, "Record fewer layers, or pass last_only=True or fewer texts.")

    stored = [
        torch.empty(len(plan.places), 1 if last_only else len(text), engine.facts.d_model, dtype=dtype, device=device)
        for text in ids
    ]
    order = sorted(range(len(ids)), key=lambda n: len(ids[n]))
    with evaluating(model):
        for begin in range(0, len(order), size):
            batch = order[begin : begin + size]
            width = len(ids[batch[-1]])
            pad = [width - len(ids[n]) for n in batch]
            reads = {
                place: partial(_write, [stored[n][number] for n in batch]) for number, place in enumerate(plan.places)
            }
            with engine.tapped(reads, {}):
                rows = [[0] * p + ids[n] for p, n in zip(pad, batch, strict=True)]
                engine.forward(torch.tensor(rows, device=engine.device), engine.new_cache(pad, width))
    return [
        Encoding(
            torch.tensor(text),
            text_pieces(model.tokenizer, text),
            {site: plan.view(values, site) for site in plan.views},
            plan.layers,
        )
        for text, values in zip(ids, stored, strict=True)
    ]


def _write(targets: list[Float[Tensor, "_ d_model"]], residual: Float[Tensor, "row pos d_model"]) -> None:
    for target, row in zip(targets, residual, strict=True):
        target.copy_(row[-target.shape[0] :])

"""Streams with one write replaced: what a component's write at a step does to the stream above it, all paths together.

The text before the step is read once, its keys and values kept; the step's position is then run again for every
component, as rows of a batch, each with its own write replaced. Nothing else of the text has to be run: a write at a
position changes that position's stream and later ones, and it is that position's stream that is asked for.

A write is replaced by adding its difference to what attention, or the MLP, gives: a head's write is a summand of what
the output projection gives, so this is the same as replacing its ``z``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.arguments import Prompts, Whole
from interp.engines.base import Engine
from interp.engines.cache import RowCache
from interp.engines.registry import engine_for
from interp.errors import InputError
from interp.given import paired
from interp.passes import as_batch_size, check_context
from interp.prompts import encode_prompts
from interp.record import check_memory
from interp.sites import Site, resolve_layers
from interp.types import Bridge
from interp.writes.components import Component

__all__ = [
    "COLUMNS", "attention_bytes", "block_output", "extended", "one_text", "replaced_bytes", "replaced_streams",
    "stream_bytes",
]  # fmt: skip

#: Columns read at a time where many precede a step: eager attention makes a pattern of all of them.
COLUMNS = 512
_BATCH_BYTES = 1 << 29  # of copied keys and values


@torch.no_grad()
def replaced_streams(
    model: Bridge,
    prompt: Prompts,
    response: Prompts,
    layer: Whole,
    components: Sequence[Component],
    changes: Mapping[int, Float[Tensor, "component d_model"]],
    *,
    batch_size: Whole | None = None,
) -> dict[int, Float[Tensor, "component_and_1 d_model"]]:
    """The output of block ``layer`` at some steps, as it is and with each component's write changed at that step.

    >>> from interp import load_model, read_writes
    >>> model, prompt, response = load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->", "Okay 6 * 3"
    >>> writes = read_writes(model, prompt, response, [[3], [0, 1, 2]])
    >>> changes = writes.values[:, 1] - writes.values[:, 0]
    >>> found = replaced_streams(model, prompt, response, 2, writes.components, {3: changes})
    >>> found[3].shape, torch.allclose(found[3][0], writes.stream[2, 0], atol=1e-3)
    (torch.Size([17, 128]), True)

    Args:
        components: of at most ``layer``, as `read_writes` numbers them.
        changes: by step, what is added to each component's write.
        batch_size: components at a time; as many as some 500 MB of keys and values allow unless given.

    Returns:
        By step, first the stream as it is, then one row a component; in the dtype of the model's stream. What writes
        later, at this position, has then read the change; what was written at earlier positions is as it was.

    Raises:
        InputError: a step outside the response, a component above the layer, a change of another shape; more than the
            context or memory holds.
    """
    operation = "replace writes"
    engine, ids, answer = one_text(model, prompt, response, operation)
    text = [*ids, *answer[:-1]]
    (layer,) = resolve_layers(layer, engine.facts.n_layers, operation)
    last, shape = len(answer) - 1, (len(components), engine.facts.d_model)
    wrong = [step for step, change in changes.items() if not 0 <= step <= last or tuple(change.shape) != shape]
    above = [component for component in components if component.layer > layer]
    if wrong or above:
        raise InputError(
            operation,
            expected=f"components up to layer {layer}, and changes {shape} at steps from 0 to {last}",
            received=f"step {wrong[0]}, {tuple(changes[wrong[0]].shape)}" if wrong else str(above[0]),
            remedy="Take the components of writes.upto(layer).",
        )
    columns = len(ids) + max(changes, default=0)
    size = max(1, _BATCH_BYTES // max(1, engine.cache_bytes(1, columns)))
    size = min(size, len(components) + 1) if batch_size is None else as_batch_size(batch_size, operation)
    check_memory(operation, engine, size + 1, columns, "Pass a smaller batch_size.")
    found: dict[int, Tensor] = {}
    base = engine.new_cache([0], capacity=columns)
    tokens = torch.tensor([text], device=engine.device)
    with engine.evaluating():
        for step in sorted(changes):
            place = len(ids) - 1 + step
            extended(engine, base, tokens[:, :place])
            rows, change = [None, *components], changes[step].to(engine.device)
            change = torch.cat([torch.zeros_like(change[:1]), change])
            streams = []
            for begin in range(0, len(rows), size):
                some = _Rows(rows[begin : begin + size], change[begin : begin + size])
                fork = base.fork([0] * len(some.writers), extra=1)
                reads, edits = {Site("resid_post", layer): some.see}, {Site("resid_pre", 0): some.embedded}
                with engine.anatomy().adding(some.more), engine.tapped(reads, edits):
                    engine.forward(tokens[:, place : place + 1].expand(len(some.writers), -1), fork)
                del fork  # the next copies would stand beside these
                streams.append(some.seen)
            found[step] = torch.cat(streams)
    return found


def one_text(model: Bridge, prompt: Prompts, response: Prompts, operation: str) -> tuple[Engine, list[int], list[int]]:
    """The engine, and the ids of one prompt and its response, which fit the context."""
    engine = engine_for(model, modules=True)
    prompts = encode_prompts(engine.facts.tokenizer, prompt, engine.facts, operation)
    answers = paired(response, prompts, engine.facts, operation)
    if len(prompts) != 1:
        raise InputError(
            operation, expected="one prompt and its response", received=f"{len(prompts)}", remedy="Give one at a time."
        )
    check_context([prompts[0] + answers[0]], 0, engine.facts, operation)
    return engine, prompts[0], answers[0]


@torch.no_grad()
def block_output(engine: Engine, ids: Sequence[int], layer: int, operation: str) -> Float[Tensor, "pos d_model"]:
    """The output of a block for one text, read some columns at a time.

    Raises:
        InputError: more than the memory holds.
    """
    needed = stream_bytes(engine, len(ids), engine.anatomy().n_heads(layer)) - engine.cache_bytes(1, len(ids))
    check_memory(operation, engine, 1, len(ids), "Give a shorter text.", besides=needed)
    seen: list[Tensor] = []
    cache = engine.new_cache([0], capacity=len(ids))
    reads = {Site("resid_post", layer): lambda residual: seen.append(residual[0].clone())}
    with engine.evaluating(), engine.tapped(reads, {}):
        extended(engine, cache, torch.tensor([list(ids)], device=engine.device))
    return torch.cat(seen)


def attention_bytes(engine: Engine, heads: int, rows: int, columns: int) -> int:
    """Of one layer's attention while it is made: scores and their softmax, which is in float32 or the model's dtype."""
    width = engine.dtype.itemsize
    return heads * rows * columns * max(3 * width, width + 8)


def stream_bytes(engine: Engine, columns: int, heads: int) -> int:
    """What reading a text some columns at a time takes: keys and values, and the attention of one layer's rows."""
    return engine.cache_bytes(1, columns) + attention_bytes(engine, heads, min(COLUMNS, columns), columns)


def replaced_bytes(engine: Engine, columns: int, components: int) -> int:
    """What :func:`replaced_streams` takes for a step after so many columns: the text's keys and values, and copies."""
    each = engine.cache_bytes(1, columns)
    copies = min(components + 1, max(1, _BATCH_BYTES // max(1, each)))
    # A layer's keys and values are joined with the new column, and repeated for the heads that share them.
    return each * (1 + copies) + 4 * copies * each // max(1, engine.facts.n_layers)


def extended(engine: Engine, cache: RowCache, ids: Int[Tensor, "1 pos"]) -> None:
    """Read what of a text a cache has not, some columns at a time."""
    while cache.length < ids.shape[1]:
        engine.forward(ids[:, cache.length : cache.length + COLUMNS], cache)


class _Rows:
    """Rows of a batch, each with the write of one component changed; of none, where there is none."""

    def __init__(self, writers: Sequence[Component | None], changes: Float[Tensor, "row d_model"]) -> None:
        self.writers, self.changes, self.seen = writers, changes, changes

    def more(self, kind: str, layer: int) -> Tensor | None:
        """What attention, or the MLP, of a layer writes beside."""
        kinds = ("head", "attn_bias") if kind == "attn" else ("mlp",)
        return self._of([c is not None and c.layer == layer and c.kind in kinds for c in self.writers])

    def embedded(self, residual: Float[Tensor, "row pos d_model"]) -> Tensor | None:
        more = self._of([c is not None and c.layer < 0 for c in self.writers])
        return None if more is None else residual + more[:, None].to(residual)

    def see(self, residual: Float[Tensor, "row pos d_model"]) -> None:
        self.seen = residual[:, -1].clone()

    def _of(self, mine: list[bool]) -> Tensor | None:
        if not any(mine):
            return None
        return self.changes * torch.tensor(mine, device=self.changes.device)[:, None]

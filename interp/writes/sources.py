"""Which earlier positions a head reads its write from.

    w_h[t] = sum over positions s <= t of A_h[t, s] v_h[s] W_O,h          A: the attention pattern, v: the value

so what a head writes at a step splits over positions, and so does its product with any direction. Read from one pass
in parts, the patterns at the places asked for alone; held against the head's ``z``, so that a family whose heads write
something else (attention sinks that take a share of the softmax) is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.arguments import Prompts
from interp.engines.base import Engine
from interp.errors import InputError
from interp.record import check_memory
from interp.types import Bridge
from interp.writes.components import Component
from interp.writes.reading import as_places
from interp.writes.replacing import COLUMNS, one_text

__all__ = ["Sources", "read_sources"]


@dataclass(frozen=True, eq=False)
class Sources:
    """Attention patterns of some heads at some places, and the values they weigh.

    Attributes:
        heads: whose they are.
        places: the steps of each place; a pattern of several steps is their mean.
        token_ids: of the text, prompt and response, up to the last position read.
        prompt_length: step t is position ``prompt_length - 1 + t``.
        patterns: weights, 0 at positions that a step cannot see.
        values: of each head at each position.
        output: ``W_O`` of each head.
        error: how far weighed values are from ``z`` at most, relative to its norm.
    """

    heads: tuple[Component, ...]
    places: tuple[tuple[int, ...], ...]
    token_ids: Int[Tensor, " position"]
    prompt_length: int
    patterns: Float[Tensor, "head place position"]
    values: Float[Tensor, "head position d_head"]
    output: Float[Tensor, "head d_head d_model"]
    error: float

    def split(self, directions: Float[Tensor, "head d_model"]) -> Float[Tensor, "head place position"]:
        """The product of each head's write with a direction, by the position that it was read from.

        Over positions it sums to the product with the write itself.
        """
        weights = torch.einsum("him,hm->hi", self.output.to(directions), directions)
        read = torch.einsum("hsi,hi->hs", self.values.to(directions), weights)
        return self.patterns.to(directions) * read[:, None]


@torch.no_grad()
def read_sources(model: Bridge, prompt: Prompts, response: Prompts, places: Any, heads: Sequence[Component]) -> Sources:
    """The patterns and values of some heads at places of a response.

    >>> from interp import load_model, read_writes
    >>> model, prompt, response = load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->", "Okay 6 * 3"
    >>> heads = [Component("head", 0, 1), Component("head", 2, 3)]
    >>> sources = read_sources(model, prompt, response, [[3], [1, 2]], heads)
    >>> sources.patterns.shape, sources.patterns.sum(-1).round(decimals=3).unique().tolist()
    (torch.Size([2, 2, 13]), [1.0])
    >>> writes = read_writes(model, prompt, response, [[3], [1, 2]])
    >>> direction = torch.ones(2, 128)
    >>> found = sources.split(direction).sum(-1)
    >>> torch.allclose(found, torch.stack([writes[head] @ direction[0] for head in heads]), atol=1e-4)
    True

    Args:
        places: groups of steps, as in `read_writes`.
        heads: components of kind "head"; of a few layers, since each layer's patterns are made.

    Raises:
        InputError: what is no head of the model, a step outside the response, more than the memory holds; and a family
            whose heads write something else than their patterns say.
    """
    operation = "read sources"
    engine, ids, answer = one_text(model, prompt, response, operation)
    text = [*ids, *answer[:-1]]
    anatomy = engine.anatomy()
    for head in heads:
        known = head.kind == "head" and head.layer < engine.facts.n_layers
        if not known or not 0 <= (head.head or 0) < anatomy.n_heads(head.layer):
            raise InputError(
                operation,
                expected=f"heads of {engine.facts.name}",
                received=str(head),
                remedy='Write Component("head", 3, 2), of layer 3 its head 2.',
            )
    (groups,) = as_places(places, [len(answer)], True)
    tape = _Patterns(engine, heads, groups, len(ids), len(text))
    kept = tape.patterns.nbytes + tape.values.nbytes
    most = max((anatomy.n_heads(head.layer) for head in heads), default=1)
    check_memory(
        operation, engine, 1, len(text), "Ask for fewer heads or places.",
        besides=kept + 3 * most * min(COLUMNS, len(text)) * len(text) * engine.dtype.itemsize,
    )  # fmt: skip
    tokens, cache = torch.tensor([text], device=engine.device), engine.new_cache([0], capacity=len(text))
    with engine.evaluating(), tape.running(model):
        while cache.length < len(text):
            tape.begin = cache.length
            engine.forward(tokens[:, cache.length : cache.length + COLUMNS], cache)
    return Sources(
        tuple(heads), groups, torch.tensor(text), len(ids), tape.patterns, tape.values, tape.output, tape.checked()
    )


class _Patterns:
    """Reads passes over a text's columns, part after part."""

    def __init__(
        self, engine: Engine, heads: Sequence[Component], places: Sequence[Sequence[int]], prompt: int, total: int
    ) -> None:
        self.engine, self.heads, self.anatomy, self.begin = engine, heads, engine.anatomy(), 0
        self.dtype = torch.float64 if engine.dtype == torch.float64 else torch.float32
        weights = {layer: self.anatomy.output_weights(layer).weight for layer in {head.layer for head in heads}}
        d_head = int(next(iter(weights.values())).shape[1]) if weights else 1
        width, self.count = engine.facts.d_model, len(heads)
        self.output = torch.stack([weights[h.layer][h.head] for h in heads]) if heads else torch.zeros(0, 1, width)
        self.output = self.output.to(self.dtype)
        zeros = partial(torch.zeros, dtype=self.dtype, device=engine.device)
        self.patterns = zeros(self.count, len(places), total)
        self.values = zeros(self.count, total, d_head)
        self.z = zeros(self.count, len(places), d_head)
        # How much each position counts in each place.
        self.weight = zeros(len(places), total)
        for place, steps in enumerate(places):
            columns = torch.tensor(steps, device=engine.device) + prompt - 1
            self.weight[place].index_add_(0, columns, torch.full_like(columns, 1 / len(steps), dtype=self.dtype))

    def running(self, model: Bridge) -> ExitStack:
        """Context in which passes are read."""
        stack = ExitStack()
        hooks = []
        for layer in sorted({head.layer for head in self.heads}):
            mine = [n for n, head in enumerate(self.heads) if head.layer == layer]
            attention = f"blocks.{layer}.attn"
            hooks.append((f"{attention}.hook_pattern", partial(self._pattern, mine)))
            hooks.append((f"{attention}.v.hook_out", partial(self._value, mine, layer)))
        known = model.hook_dict
        missing = [name for name, _ in hooks if name not in known]
        if missing:
            raise self.anatomy.refusal(f"which has no {missing[0]}", "Use another model.", operation="read sources")
        stack.enter_context(model.hooks(fwd_hooks=hooks))
        stack.enter_context(self.anatomy.showing(self._heads, lambda layer, out: None, lambda added: None))
        return stack

    def _pattern(self, mine: list[int], pattern: Float[Tensor, "1 head pos column"], hook: Any) -> None:
        count, columns = pattern.shape[-2:]
        weight = self.weight[:, self.begin : self.begin + count]
        for n in mine:
            found = pattern[0, self.heads[n].head].to(self.dtype)
            self.patterns[n, :, :columns] += weight @ found

    def _value(self, mine: list[int], layer: int, value: Tensor, hook: Any) -> None:
        heads = self.anatomy.n_heads(layer)
        shaped = value[0].reshape(value.shape[1], -1, self.values.shape[-1])  # [pos, key-value head, d_head]
        for n in mine:
            group = heads // shaped.shape[1]
            own = shaped[:, (self.heads[n].head or 0) // group]
            self.values[n, self.begin : self.begin + len(own)] = own.to(self.dtype)

    def _heads(self, layer: int, z: Float[Tensor, "1 pos inner"]) -> None:
        count = z.shape[1]
        weight = self.weight[:, self.begin : self.begin + count]
        split = z[0].unflatten(-1, (self.anatomy.n_heads(layer), -1)).to(self.dtype)
        for n, head in enumerate(self.heads):
            if head.layer == layer:
                self.z[n] += weight @ split[:, head.head]

    def checked(self) -> float:
        """How far weighed values are from what the heads gave; refused where they are something else."""
        if not self.count:
            return 0.0
        weighed = self.patterns @ self.values
        off = (weighed - self.z).norm(dim=-1) / self.z.norm(dim=-1)
        error = float(off.nan_to_num(0.0, posinf=torch.inf).max())
        low = self.engine.dtype in (torch.float32, torch.float64)
        if not error <= (1e-4 if low else 5e-2):
            raise self.anatomy.refusal(
                f"whose heads give what differs by {error:.2g} of its norm from their values weighed by their patterns",
                "Attention sinks do that, and hooks on z; the heads' shares themselves stand.",
                operation="read sources",
            )
        return error

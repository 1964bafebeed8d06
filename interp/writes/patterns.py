"""Attention patterns of a response, read as they are made: one layer's, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from interp.arguments import Prompts, Wholes
from interp.errors import InputError
from interp.record import check_memory
from interp.sites import resolve_layers
from interp.types import Bridge
from interp.writes.replacing import COLUMNS, one_text

__all__ = ["TakePattern", "read_patterns"]

TakePattern: TypeAlias = Callable[[int, int, Float[Tensor, "head row position"]], None]
"""Is given a layer, the position of the first row, and the weights of some rows on the positions up to the last one."""


@torch.no_grad()
def read_patterns(
    model: Bridge,
    prompt: Prompts,
    response: Prompts,
    take: TakePattern,
    layers: str | Wholes = "all",
    *,
    besides: int = 0,
) -> None:
    """Read prompt and response once, and hand on each layer's attention: what each position gives to those before it.

    >>> from interp import load_model
    >>> found = {}
    >>> def take(layer, begin, pattern):
    ...     found[layer, begin] = tuple(pattern.shape)
    >>> read_patterns(load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->", "Okay So A 6", take, layers=[0, -1])
    >>> found
    {(0, 0): (4, 14, 14), (2, 0): (4, 14, 14)}

    What is handed on is not kept, so that memory holds one layer's rows (of 512 positions) at a time. The whole
    response is read, its last token too. Keys on the left of a sliding window have the weight 0.

    Args:
        take: called with what it may not change.
        besides: bytes that the caller will keep on the model's device.

    Raises:
        InputError: a layer that is not there, a text longer than the context, more than the memory holds; a model whose
            attention patterns have no hook point, or do not come by it.
    """
    operation = "read attention"
    engine, ids, answer = one_text(model, prompt, response, operation)
    text, anatomy, known = [*ids, *answer], engine.anatomy(), model.hook_dict
    wanted = resolve_layers(layers, engine.facts.n_layers, operation)
    names = {layer: f"blocks.{layer}.attn.hook_pattern" for layer in wanted}
    for name in names.values():
        if name not in known:
            raise anatomy.refusal(f"which has no {name}", "Use another layer, or another model.", operation=operation)
    most = max(anatomy.n_heads(layer) for layer in wanted)
    check_memory(
        operation, engine, 1, len(text), "Give a shorter response.",
        besides=besides + 4 * most * min(COLUMNS, len(text)) * len(text) * engine.dtype.itemsize,
    )  # fmt: skip
    tokens, cache = torch.tensor([text], device=engine.device), engine.new_cache([0], capacity=len(text))
    missing = set(wanted)

    def show(layer: int, pattern: Tensor, hook: Any) -> None:
        missing.discard(layer)
        if not bool(pattern.isfinite().all()):
            raise InputError(
                operation,
                expected="attention patterns that are finite",
                received=f"NaN or inf in layer {layer}",
                remedy="NaN activations: check the weights, dtype and hooks.",
            )
        take(layer, begin, pattern[0])

    hooks = [(name, partial(show, layer)) for layer, name in names.items()]
    with engine.evaluating(), model.hooks(fwd_hooks=hooks):
        while cache.length < len(text):
            begin = cache.length
            engine.forward(tokens[:, begin : begin + COLUMNS], cache)
            if missing:
                raise anatomy.refusal(
                    f"in which {names[min(missing)]} does not fire", "Use another layer, or another model.",
                    operation=operation,
                )  # fmt: skip

"""Plain Hugging Face runs with parts of them replaced, by hooks on its own modules: what patching is held against.

A node is (kind, layer, head): "head" is a slice of what the attention's output projection reads, "mlp" what the MLP
adds to the stream, "resid_pre" a block's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from references import modules
from torch import Tensor

Node = tuple[str, int, int | None]


def output_projection(block: Any) -> Any:
    return block.attn.c_proj if hasattr(block, "attn") else block.self_attn.o_proj


def mlp_end(block: Any) -> Any:
    """Whose output is added to the stream."""
    return block.post_feedforward_layernorm if hasattr(block, "post_feedforward_layernorm") else block.mlp


def heads(hf: Any) -> int:
    return int(hf.config.num_attention_heads)


@contextmanager
def changing(hf: Any, kind: str, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Until the end of the block, ``change`` makes another value of a node's ``[1, pos, ...]``."""
    block = modules(hf)[0][layer]

    def first(_m: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    if kind == "head":
        split = (heads(hf), -1)
        handle = output_projection(block).register_forward_pre_hook(
            lambda _m, args: (change(args[0].unflatten(-1, split)).flatten(-2),)
        )
    elif kind == "mlp":
        handle = mlp_end(block).register_forward_hook(lambda _m, _a, out: change(out))
    else:
        handle = block.register_forward_pre_hook(first, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def values(hf: Any, ids: list[int]) -> tuple[Tensor, dict[tuple[str, int], Tensor]]:
    """Logits ``[pos, d_vocab]`` and every node's values ``[1, pos, ...]``, which autograd can go back to."""
    found: dict[tuple[str, int], Tensor] = {}
    with contextstack() as enter:
        for layer in range(len(modules(hf)[0])):
            for kind in ("resid_pre", "head", "mlp"):

                def keep(value: Tensor, at: tuple[str, int] = (kind, layer)) -> Tensor:
                    found[at] = value.clone()  # a tensor of its own, which what comes after reads
                    return found[at]

                enter(changing(hf, kind, layer, keep))
        logits = hf(torch.tensor([ids])).logits[0]
    return logits, found


@contextmanager
def contextstack() -> Iterator[Callable[[Any], Any]]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield stack.enter_context


@torch.no_grad()
def with_node(hf: Any, ids: list[int], node: Node, position: int, value: Tensor) -> Tensor:
    """Logits ``[pos, d_vocab]`` of the run in which a node has another value at a position."""
    kind, layer, head = node

    def put(now: Tensor) -> Tensor:
        now = now.clone()
        if head is None:
            now[0, position] = value
        else:
            now[0, position, head] = value
        return now

    with changing(hf, kind, layer, put):
        return hf(torch.tensor([ids])).logits[0]


def stream_with(hf: Any, ids: list[int], node: Node, position: int, value: Tensor) -> dict[int, Tensor]:
    """Each block's input ``[pos, d_model]`` in the run in which a node has another value at a position."""
    found: dict[int, Tensor] = {}
    with contextstack() as enter:
        for layer in range(len(modules(hf)[0])):

            def keep(stream: Tensor, layer: int = layer) -> Tensor:
                found[layer] = stream[0].detach()
                return stream

            enter(changing(hf, "resid_pre", layer, keep))
        with_node(hf, ids, node, position, value)
    return found

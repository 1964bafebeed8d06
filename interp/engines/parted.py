"""Attention of a piece of a text on a CPU: to what came before it and to itself apart, then brought together.

Columns after others look at all before them and causally at one another. Torch's attention is causal from the first
column on or not at all, so Hugging Face gives it a mask: a fifth more time than a causal text of that length takes,
where the mask is applied to every score and half of a piece's own are thrown away. Here both parts go without: what
came before is seen whole, the piece itself is causal from its first column on, and their logarithms of summed weights
say what each counts. The numbers are the same to the order of their sums.

Hugging Face's forward stays what it is: for as long as such a piece is read, its table of attention functions answers
to "sdpa" with one that knows this piece's mask when it sees it, and hands everything else on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["parted"]


@contextmanager
def parted(masks: list[Tensor]) -> Iterator[None]:
    """Until the end of the block attention under one of these very masks, of pieces that see all before, goes apart."""
    if not masks or _kernel() is None:
        yield
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as functions

    if "sdpa" in functions._local_mapping:  # somebody's own stays
        yield
        return
    usual = functions["sdpa"]

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *args: Any, **more: Any
    ) -> tuple[Tensor, Tensor | None]:
        known = any(attention_mask is mask for mask in masks)
        if not known or args or not _plain(query, key, value, more):
            return usual(module, query, key, value, attention_mask, *args, **more)
        return _attend(query, key, value, more.get("scaling")).transpose(1, 2).contiguous(), None

    functions["sdpa"] = attend
    try:
        yield
    finally:
        del functions["sdpa"]


def _plain(query: Tensor, key: Tensor, value: Tensor, more: dict[str, Any]) -> bool:
    """Whether nothing is asked for but attention, of numbers that lose nothing by coming in two parts."""
    odd = ("position_bias", "softcap", "s_aux", "cache", "output_attentions")
    return (
        query.device.type == "cpu"
        and query.dtype in (torch.float32, torch.float64)
        and key.shape == value.shape
        and query.shape[-1] == key.shape[-1]
        and query.shape[1] % key.shape[1] == 0
        and not more.get("dropout")
        and not any(more.get(name) is not None and more.get(name) is not False for name in odd)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def _attend(
    query: Float[Tensor, "row head count d_head"],
    key: Float[Tensor, "row kv column d_head"],
    value: Float[Tensor, "row kv column d_head"],
    scale: float | None,
) -> Float[Tensor, "row head count d_head"]:
    kernel, past = _kernel(), key.shape[2] - query.shape[2]
    assert kernel is not None
    # Heads that share their keys follow one another: what came before is looked at by all of their queries as by those
    # of one head, and only a piece's own keys are copied for each.
    shared, each = query.shape, query.shape[1] // key.shape[1]
    folded = query.reshape(shared[0], key.shape[1], each * shared[2], shared[3])
    before, weight = kernel(folded, key[:, :, :past], value[:, :, :past], is_causal=False, scale=scale)
    key, value = (x[:, :, None, past:].expand(-1, -1, each, -1, -1).reshape(shared).contiguous() for x in (key, value))
    own, own_weight = kernel(query, key, value, is_causal=True, scale=scale)
    share = torch.sigmoid(weight.reshape(shared[:3]) - own_weight)
    return torch.lerp(own, before.reshape(shared), share[..., None])


@cache
def _kernel() -> Callable[..., tuple[Tensor, Tensor]] | None:
    """Torch's own flash attention for CPUs, which gives the logarithms too; None where it does not do as it should."""
    kernel: Callable[..., tuple[Tensor, Tensor]] | None
    kernel = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if kernel is None:
        return None
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, n, 8, generator=generator) for n in (3, 5, 5))
    try:
        with torch.no_grad():
            found, weight = kernel(query, key, value, is_causal=False, scale=0.5)
            scores = query @ key.mT * 0.5
            right = torch.allclose(found, scores.softmax(dim=-1) @ value, atol=1e-5)
            right = right and torch.allclose(weight, scores.logsumexp(dim=-1), atol=1e-5)
    except (RuntimeError, TypeError):  # no such arguments, or not built for this processor
        return None
    return kernel if right else None

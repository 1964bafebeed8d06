"""Choosing the next token of each row: the argmax, or a draw whose randomness belongs to the row.

A row's uniform numbers come from a generator seeded with the row's own seed, one number a step, and a token is drawn by
inverting the cumulative distribution. So what a row draws depends on its logits and its seed, never on its batch, on
when others finish, or on the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from interp.arguments import Wholes, as_wholes, is_whole
from interp.errors import InputError

_LIKELY = 64  # tokens that are taken for the nucleus at first
_SUMMED = 1e-9  # what the order in which probabilities are added may make of their sum

_BLOCK = 512  # logits of which the greatest is looked for at once

__all__ = [
    "choose", "entropy", "log_probabilities", "outcome", "row_seeds", "row_uniforms", "widened", "widest_float"
]  # fmt: skip


def row_seeds(seed: Wholes, count: int) -> list[int]:
    """The seed of each row: given one by one, or derived from one number and the row's place.

    >>> row_seeds([7, 8], 2)
    [7, 8]
    >>> row_seeds(0, 3)[:2] == row_seeds(0, 2)
    True
    """
    if not is_whole(seed) or (isinstance(seed, Tensor | np.ndarray) and seed.ndim):
        # What torch's generators take
        seeds = as_wholes(seed, "seed the rows", "a prompt's own seed", -(2**63), 2**64 - 1)
        if len(seeds) != count:
            raise InputError(
                "seed the rows",
                expected=f"{count} seeds, one a prompt",
                received=f"{len(seeds)}",
                remedy="Or pass one number.",
            )
        return seeds
    number = as_wholes(seed, "seed the rows", "seed")[0]
    digests = (hashlib.blake2b(f"{number}:{row}".encode(), digest_size=8).digest() for row in range(count))
    # torch takes seeds below 2**63
    return [int.from_bytes(digest, "big") >> 1 for digest in digests]


def row_uniforms(seeds: Sequence[int], steps: int) -> Float64[Tensor, "row step"]:
    """``steps`` numbers in [0, 1) for each seed; the first ones do not depend on ``steps``.

    >>> bool((row_uniforms([5], 3) == row_uniforms([4, 5], 9)[1:, :3]).all())
    True
    """
    draws = [torch.rand(steps, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
    return torch.stack(draws) if draws else torch.empty(0, steps, dtype=torch.float64)


def widened(values: Tensor) -> Tensor:
    """At least float32: half precision is for storing numbers, not for adding them up."""
    return values.float() if values.dtype.itemsize < 4 else values


def log_probabilities(logits: Float[Tensor, "*some d_vocab"]) -> Float[Tensor, "*some d_vocab"]:
    """Log-probabilities in nats, worked out in float32 (float64 for float64 logits), whatever precision came.

    >>> log_probabilities(torch.zeros(1, 4, dtype=torch.bfloat16)).exp()
    tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return widened(logits).log_softmax(-1)


def entropy(log_probs: Float[Tensor, "row d_vocab"]) -> Float[Tensor, " row"]:
    """Entropy of each row, in nats.

    >>> entropy(torch.tensor([[0.5, 0.5, 0.0]]).log()).exp().round().tolist()
    [2.0]
    """
    log_probs = widened(log_probs)
    # A suppressed token has log-probability -inf and adds 0: any finite stand-in does.
    return -torch.linalg.vecdot(log_probs.exp(), log_probs.clamp_min(-1e30))


def outcome(
    logits: Float[Tensor, "row d_vocab"], tokens: Int[Tensor, " row"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """Log-probability of a token of each row, and the row's entropy, in nats.

    >>> logits = torch.tensor([[0.5, 0.5, 0.0]]).log()
    >>> [values.exp().round(decimals=4).tolist() for values in outcome(logits, torch.tensor([1]))]
    [[0.5], [2.0]]

    As `log_probabilities` and `entropy`, from one softmax: with p the probabilities and d = logits - max(logits),

        log p(token) = d(token) + log max(p),    entropy = -log max(p) - sum p d
    """
    logits = widened(logits)
    probabilities = logits.softmax(-1)
    below = logits - logits.amax(-1, keepdim=True)
    first = probabilities.amax(-1).log()
    chosen = below.gather(-1, tokens[:, None])[:, 0] + first
    # A suppressed token is at -inf and adds 0: any finite stand-in does.
    return chosen, -first - torch.linalg.vecdot(probabilities, below.clamp_(min=-1e30))


def widest_float(device: torch.device) -> torch.dtype:
    """float64, which keeps the tail of a sum over 150,000 tokens, except on Apple's devices, which lack it."""
    return torch.float32 if device.type == "mps" else torch.float64


def choose(
    logits: Float[Tensor, "row d_vocab"], temperature: float, top_p: float, uniforms: Float[Tensor, " row"] | None
) -> Int[Tensor, " row"]:
    """The next token of each row: greedy at temperature 0, else a draw from the ``top_p`` nucleus.

    >>> choose(torch.tensor([[0.0, 2.0, 1.0]]), 0.0, 1.0, None).tolist()
    [1]
    """
    if temperature == 0 or uniforms is None:
        return _likeliest(logits)
    logits = logits.to(widest_float(logits.device))
    wide = logits.dtype
    # The likeliest first becomes 0: no temperature, however small, makes the division overflow.
    probabilities = torch.softmax((logits - logits.amax(-1, keepdim=True)) / temperature, -1)
    order = None
    if top_p < 1:
        probabilities, order = _likeliest_first(probabilities, top_p)
        # A token stays while the mass before it is below top_p, so the most likely one always stays.
        probabilities = probabilities * (probabilities.cumsum(-1) - probabilities < top_p)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    points = uniforms.to(logits.device, wide)[:, None] * total
    # Rounding up to the total itself would point past the last token that has any probability.
    points = torch.minimum(points, torch.nextafter(total, torch.zeros_like(total)))
    drawn = torch.searchsorted(cumulative, points, right=True)
    return (drawn if order is None else order.gather(-1, drawn)).squeeze(-1)


def _likeliest(logits: Float[Tensor, "row d_vocab"]) -> Int[Tensor, " row"]:
    """The first of each row's greatest, as argmax tells, which on a CPU looks at one number after the other."""
    d_vocab = logits.shape[-1]
    whole = d_vocab - d_vocab % _BLOCK
    if logits.device.type != "cpu" or whole < 8 * _BLOCK:
        return logits.argmax(-1)
    greatest = [logits[:, :whole].unflatten(-1, (-1, _BLOCK)).amax(-1)]
    if whole < d_vocab:
        greatest.append(logits[:, whole:].amax(-1, keepdim=True))
    begin = torch.cat(greatest, -1).argmax(-1, keepdim=True) * _BLOCK
    # Behind the end the last one stands again: never the first of the greatest.
    ids = (begin + torch.arange(_BLOCK)).clamp_(max=d_vocab - 1)
    return (begin + logits.gather(-1, ids).argmax(-1, keepdim=True))[:, 0]


def _likeliest_first(
    probabilities: Float[Tensor, "row d_vocab"], top_p: float
) -> tuple[Float[Tensor, "row likely"], Int[Tensor, "row likely"]]:
    """Probabilities in falling order, equal ones by their ids, and those ids; as many as ``top_p`` can ask for.

    The nucleus is a few of many tokens nearly always: then sorting the others would be for nothing. Whether it is has
    to be looked at, which on a device would be a wait: there all are sorted.
    """
    count = _LIKELY
    while probabilities.device.type == "cpu" and count < probabilities.shape[-1]:
        values, ids = probabilities.topk(count, dim=-1, sorted=False)
        # The least of them may have equals that were left out, and counts for nothing.
        sure = values * (values > values.amin(-1, keepdim=True))
        if bool((sure.sum(-1) > top_p + _SUMMED).all()):
            ids = ids.sort(-1).values
            values, places = probabilities.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
            return values, ids.gather(-1, places)
        count *= 16
    return probabilities.sort(dim=-1, descending=True, stable=True)

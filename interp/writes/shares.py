"""What each write adds to the logit of a token, read off the stream of one layer.

    logit_v = cap( sum_c w_c . u_v / s  +  bias_v  +  b_U[v] )

``s``, the final norm's scale at the place, is taken as it is. The biases are components of their own, and so is what
capping takes away, ``cap(x) - x``: the shares of a place sum to the logit. With a second token they are of the
difference of both logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.writes.components import Component, Writes
from interp.writes.readout import Readout

__all__ = ["LogitShares", "logit_shares"]


@dataclass(frozen=True, eq=False)
class LogitShares:
    """Shares ``[component, place]`` in logits; ``total`` is read off the stream itself and not summed from them."""

    components: tuple[Component, ...]
    shares: Float[Tensor, "component place"]
    total: Float[Tensor, " place"]


def logit_shares(
    writes: Writes,
    readout: Readout,
    token_ids: Int[Tensor, " place"],
    contrast_ids: Int[Tensor, " place"] | None = None,
) -> LogitShares:
    """Shares in the logit of one token at each place, or in its difference to another's.

    >>> from interp import load_model, read_writes
    >>> from interp.writes import readout_of
    >>> model = load_model("toy-reasoner")
    >>> writes = read_writes(model, "6 A * 3 B - 8 ? ->", "Okay 6 * 3", [[1], [3]])
    >>> found = logit_shares(writes, readout_of(model), writes.token_ids[[1, 3]])
    >>> found.shares.shape, torch.allclose(found.shares.sum(0), found.total, atol=1e-4)
    (torch.Size([16, 2]), True)

    Of ``writes.upto(layer)`` they are those of what the logit lens reads at that layer.
    """
    found = _of_token(writes, readout, token_ids)
    if contrast_ids is None:
        return found
    other = _of_token(writes, readout, contrast_ids)
    return LogitShares(found.components, found.shares - other.shares, found.total - other.total)


def _of_token(writes: Writes, readout: Readout, ids: Int[Tensor, " place"]) -> LogitShares:
    stream = writes.stream[-1] if len(writes.stream) else writes.embedded
    directions = readout.directions(ids).to(writes.values)
    parts = [torch.einsum("cpd,pd->cp", writes.values, directions) / writes.norm.scale(stream)]
    components = list(writes.components)
    if readout.norm.bias is not None:
        parts.append(readout.norm_bias(ids).to(stream)[None])
        components.append(Component("norm_bias"))
    if readout.anatomy.has_unembed_bias:
        parts.append(readout.unembed_bias(ids).to(stream)[None])
        components.append(Component("unembed_bias"))
    weight, bias = readout.anatomy.unembedding(ids)
    logits = (readout.normed(stream) * weight.to(stream)).sum(-1) + bias.to(stream)
    if readout.cap is not None:
        parts.append((readout.capped(logits) - logits)[None])
        components.append(Component("logit_cap"))
    return LogitShares(tuple(components), torch.cat(parts), readout.capped(logits))

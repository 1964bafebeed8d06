"""Deep-thinking ratio: how many blocks a token's prediction needs before it looks like the model's last word.

For step t and block l (1 .. n_layers), p_l = softmax of the residual after block l through the final norm and the
unembedding, D_l = JSD(p_last, p_l) in bits, c_t = the first l with min over j <= l of D_j <= g. A step is deep when
c_t >= ceil(rho * n_layers); the deep-thinking ratio is the share of deep steps.

The vocabulary is never held whole: one pass over chunks of it for the normaliser of each p_l, a second one for the
divergence. What unembeds is a callable, so this module knows no model.

Source: deep-thinking tokens and their ratio, arXiv 2602.13517 (g = 0.5, rho = 0.85); the logit lens of nostalgebraist
2020. The base of the logarithm is this module's choice: bits, so that JSD runs from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from probes.checks import check_max_bytes, check_tensor
from probes.chunks import DEFAULT_MAX_BYTES, parts
from probes.errors import InputError

__all__ = ["Depth", "settling_depth"]

# Float64 arrays [layer, step, chunk] alive at once in the second pass, and the logits themselves.
_TEMPORARIES = 8


@dataclass(frozen=True)
class Depth:
    """Where each step settles. Made by `settling_depth`.

    `divergence` JSD(p_last, p_l) and `entropy` of p_l in bits; `depth` the number of blocks, from 1 to n_layers, after
    which the step has settled; `ratio` the share of steps that are deep, from 0 to 1.
    """

    divergence: Float64[Tensor, "layer step"]
    entropy: Float64[Tensor, "layer step"]
    depth: Int64[Tensor, " step"]
    is_deep: Bool[Tensor, " step"]
    ratio: float


def settling_depth(
    residuals: Tensor,
    unembed: Callable[[Tensor, slice], Tensor],
    d_vocab: int,
    *,
    g: float = 0.5,
    rho: float = 0.85,
    chunk: int = 8192,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Depth:
    """Depth of every step of `residuals [layer, step, d_model]`, the residual streams after blocks 1 .. n_layers.

    >>> residuals = torch.tensor([[[5.0, 0.0], [0.0, 5.0]], [[6.0, 0.0], [5.0, 0.0]], [[7.0, 0.0], [5.0, 1.0]]])
    >>> found = settling_depth(residuals, lambda h, ids: h @ torch.eye(2)[:, ids], d_vocab=2)
    >>> found.depth.tolist(), found.is_deep.tolist(), found.ratio
    ([1, 2], [False, False], 0.0)

    `unembed(h [..., d_model], ids)` gives the logits `[..., len(ids)]` of the vocabulary ids in the slice `ids`, final
    norm included; it is called twice for each chunk of `chunk` ids. `g` is in bits. Depths count blocks from 1: 1 says
    that the first block's output already predicts what the last one does. Logits of -inf are probabilities of 0.
    Accumulated in float64; working memory beside the logits stays within `max_bytes`, down to one step and one id.

    Raises `InputError` for NaN or inf in `residuals`, logits of another width or that are NaN or +inf, and options out
    of range. Source: arXiv 2602.13517.
    """
    _check(residuals, d_vocab, g, rho, chunk, max_bytes)
    n_layers, n_steps = residuals.shape[:2]
    bytes_each = 8 * n_layers * _TEMPORARIES  # of one step and one id
    chunks = list(parts(d_vocab, bytes_each, max_bytes, most=chunk))
    divergence, entropy = [], []
    with torch.no_grad():
        for part in parts(n_steps, bytes_each * chunks[0].stop, max_bytes):
            jsd, bits = _divergence(residuals.detach()[:, part], unembed, chunks)
            divergence.append(jsd)
            entropy.append(bits)
    all_divergence = torch.cat(divergence, dim=1)
    # The minimum up to l is at most g from the first D_l that is; the last D is 0, so there always is one.
    depth = (all_divergence <= g).int().argmax(dim=0) + 1
    # Rounded, because 0.28 * 25 is a little more than 7 and must not become 8.
    is_deep = depth >= math.ceil(round(rho * n_layers, 9))
    return Depth(all_divergence, torch.cat(entropy, dim=1), depth, is_deep, int(is_deep.sum()) / n_steps)


def _divergence(
    h: Tensor, unembed: Callable[[Tensor, slice], Tensor], chunks: Sequence[slice]
) -> tuple[Tensor, Tensor]:
    log_z = torch.full(h.shape[:2], -math.inf, dtype=torch.float64, device=h.device)
    # A vocabulary that fits one chunk is read once; larger ones twice, or all logits would have to be held.
    whole = list(_logits(h, unembed, chunks)) if len(chunks) == 1 else None
    for logits in whole or _logits(h, unembed, chunks):
        log_z = torch.logaddexp(log_z, logits.logsumexp(dim=-1))
    if not bool(log_z.isfinite().all()):
        raise InputError(
            "settling_depth",
            expected="logits that are finite or -inf, some of them finite at every layer and step",
            received=f"a log normaliser of {float(log_z[~log_z.isfinite()][0])}",
            remedy="Run the unembedding in float32 or bfloat16 and check the final norm.",
        )
    jsd, nats = torch.zeros_like(log_z), torch.zeros_like(log_z)
    for logits in whole or _logits(h, unembed, chunks):
        log_p = logits.sub_(log_z[..., None])
        p = log_p.exp()
        nats -= torch.where(p > 0, p * log_p, 0.0).sum(dim=-1)
        log_last, last = log_p[-1:], p[-1:]
        ratio = log_last - log_p  # log(p_last / p_l); NaN where both are 0
        jsd += torch.where(p > 0, p * _log_half_sum(ratio), 0.0).sum(dim=-1)
        jsd += torch.where(last > 0, last * _log_half_sum(-ratio), 0.0).sum(dim=-1)
    # Outside [0, 1] only by rounding.
    return (-jsd / (2 * math.log(2))).clamp(0.0, 1.0), (nats / math.log(2)).clamp_min(0.0)


def _log_half_sum(ratio: Tensor) -> Tensor:
    """log((1 + exp(ratio)) / 2): log(m / p) for the mixture m; exactly 0 at 0, without overflow anywhere."""
    return ratio.clamp_min(0.0) + torch.log1p(torch.expm1(-ratio.abs()) / 2)


def _logits(h: Tensor, unembed: Callable[[Tensor, slice], Tensor], chunks: Sequence[slice]) -> Iterator[Tensor]:
    for ids in chunks:
        logits = unembed(h, ids)
        if logits.shape != (*h.shape[:2], ids.stop - ids.start):
            raise InputError(
                "settling_depth",
                expected=f"logits of shape {(*h.shape[:2], ids.stop - ids.start)} "
                f"for the ids {ids.start} to {ids.stop - 1}",
                received=f"shape {tuple(logits.shape)}",
                remedy="unembed(h, ids) returns the logits of the ids in the slice alone; check d_vocab.",
            )
        # A copy even of float64 logits: what follows works in place.
        yield logits.detach().to(torch.float64, copy=True)


def _check(residuals: Tensor, d_vocab: int, g: float, rho: float, chunk: int, max_bytes: int) -> None:
    check_max_bytes("settling_depth", max_bytes)
    check_tensor("settling_depth", "residuals", residuals, axes=("layer", "step", "d_model"))
    if residuals.ndim != 3:
        raise InputError(
            "settling_depth",
            expected="residuals of shape [layer, step, d_model]",
            received=f"shape {tuple(residuals.shape)}",
            remedy="Give one response at a time.",
        )
    options = (
        ("d_vocab >= 2", d_vocab >= 2, d_vocab),
        ("chunk >= 1", chunk >= 1, chunk),
        ("g from 0 up to, not including, 1 bit", 0 <= g < 1, g),
        ("rho above 0, at most 1", 0 < rho <= 1, rho),
    )
    for expected, holds, value in options:
        if not holds:
            raise InputError(
                "settling_depth", expected=expected, received=repr(value), remedy="The paper has g = 0.5, rho = 0.85."
            )

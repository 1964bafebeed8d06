"""Whose attention narrows: how much each place of a text receives from those after it, and how uneven that is.

``attention[i, j]`` is what place i (a row) gives to place j (a column): tokens, or sentences (means over their tokens).
The nearest ``gap`` places are dropped, since attention is high there whatever they say. Then

    received[j] = mean over i >= j + gap of attention[i, j]        kurtosis = excess kurtosis of received over j

and a head with a high kurtosis is one whose attention narrows on few places (receiver heads, Bogdan et al. 2025, arXiv
2506.19143). Early columns receive more, since the rows that see only them are shorter: ``control`` makes rows of any
length comparable. Kurtosis grows with the number of places: :func:`shuffled_kurtosis` says how much of it there is
where no column is preferred.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.errors import InputError

__all__ = ["CONTROLS", "depth_controlled", "excess_kurtosis", "received_attention", "shuffled_kurtosis"]

CONTROLS = ("rank", "share", "none")
"""How a row's weights are made comparable with those of a longer row."""


def depth_controlled(
    attention: Float[Tensor, "*head row column"], seen: Bool[Tensor, "row column"], control: str = "rank"
) -> Float[Tensor, "*head row column"]:
    """Weights that can be compared over rows of any length, NaN where a row does not see a column.

    >>> rows = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.2, 0.6]])
    >>> seen = torch.tensor([[True, True, False], [True, True, True]])
    >>> depth_controlled(rows, seen)[1].tolist(), depth_controlled(rows, seen, "share")[0].tolist()
    ([0.5, 0.5, 1.0], [1.7999999523162842, 0.20000000298023224, nan])

    Args:
        seen: the columns that count, of each row.
        control: "rank", the rank within the row (the largest has the highest, equal ones their mean rank) over the
            number of columns it sees; "share", the weight over the mean of those it sees, so that 1 is even attention
            (NaN where it gives them none); "none", the weight.

    Raises:
        InputError: another control.
    """
    if control not in CONTROLS:
        raise InputError(
            "control for depth",
            expected=f"control as one of {', '.join(CONTROLS)}",
            received=repr(control),
            remedy="Choose one.",
        )
    hidden, count = ~seen, seen.sum(-1, keepdim=True)
    if control == "rank":
        # Hidden columns rank last, and so change no rank of those seen.
        ordered = attention.masked_fill(hidden, torch.inf).sort(-1).values
        weights = attention.contiguous()
        below = torch.searchsorted(ordered, weights, side="left")
        upto = torch.searchsorted(ordered, weights, side="right")
        ranks = (below + upto + 1).to(attention.dtype) / 2
        return (ranks / count).masked_fill(hidden, torch.nan)
    if control == "share":
        mean = attention.masked_fill(hidden, 0).sum(-1, keepdim=True) / count
        return (attention / mean).masked_fill(hidden | (mean == 0), torch.nan)
    return attention.masked_fill(hidden, torch.nan)


def received_attention(
    attention: Float[Tensor, "*head row place"], gap: int = 4, control: str = "rank"
) -> Float[Tensor, "*head place"]:
    """What each place receives from those at least ``gap`` after it; NaN for the last ones, which have none.

    >>> even = torch.tril(torch.ones(6, 6)) / torch.arange(1, 7)[:, None]
    >>> received_attention(even, gap=4, control="share").tolist()
    [1.0, 1.0, nan, nan, nan, nan]

    Raises:
        InputError: a gap below 0, another control, an attention that is not square.
    """
    count = attention.shape[-1]
    if gap < 0 or attention.shape[-2] != count:
        raise InputError(
            "receive attention",
            expected="a gap of at least 0, and as many rows as columns",
            received=f"gap {gap}, {tuple(attention.shape)}",
            remedy="Pass the attention of a text's places on one another.",
        )
    place = torch.arange(count, device=attention.device)
    seen = place[:, None] - place >= gap
    return depth_controlled(attention, seen, control).nanmean(-2)


def excess_kurtosis(values: Float[Tensor, "*head place"]) -> Float[Tensor, "*head"]:
    """Fisher's excess kurtosis over the last axis, biased: m4 / m2^2 - 3, of the values that are not NaN.

    >>> round(float(excess_kurtosis(torch.tensor([0.0, 0.0, 0.0, 1.0, torch.nan]))), 4)
    -0.6667

    NaN where they do not vary beyond rounding, or are none.
    """
    centre = values.nanmean(-1, keepdim=True)
    known = ~values.isnan()
    count = known.sum(-1)
    left = (values - centre).masked_fill(~known, 0)
    second, fourth = left.pow(2).sum(-1) / count, left.pow(4).sum(-1) / count
    scale = values.masked_fill(~known, 0).abs().amax(-1) if values.shape[-1] else torch.zeros_like(second)
    flat = second.sqrt() <= 8 * torch.finfo(values.dtype).eps * scale
    return (fourth / second.pow(2) - 3).masked_fill(flat | (count == 0), torch.nan)


def shuffled_kurtosis(
    attention: Float[Tensor, "*head place place"],
    gap: int = 4,
    control: str = "rank",
    *,
    draws: int = 20,
    generator: torch.Generator,
) -> Float[Tensor, "*head"]:
    """The kurtosis of what is received when each row's weights are shuffled over the columns it sees: mean of draws.

    No column is then preferred by several rows; how long rows are and how uneven each of them is stays as it is.

    >>> sink = torch.tril(torch.full((40, 40), 0.01))
    >>> sink[7:, 7] = 0.5
    >>> found = excess_kurtosis(received_attention(sink, control="share"))
    >>> bool(found > 10 + shuffled_kurtosis(sink, control="share", generator=torch.Generator().manual_seed(0)))
    True

    Args:
        generator: on the CPU; the draws do not depend on the device.
    """
    count = attention.shape[-1]
    place = torch.arange(count, device=attention.device)
    seen = place[:, None] - place >= gap
    controlled = depth_controlled(attention, seen, control)
    total = torch.zeros(attention.shape[:-2], dtype=attention.dtype, device=attention.device)
    for _ in range(draws):
        # Seen columns are the first of a row: keys above them leave them where they are, among themselves in disorder.
        keys = torch.rand(attention.shape, generator=generator).to(attention.device).masked_fill(~seen, 2.0)
        total += excess_kurtosis(controlled.gather(-1, keys.argsort(-1)).nanmean(-2))
    return total / draws if draws else total + torch.nan

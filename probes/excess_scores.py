"""How much higher a step scores with its own answer than with others: what of a score is about *this* answer.

1. The steps of a response are scored with the references of K other answers, factorised once for all responses
   (`answers.factor_answers`, `AnswerFactor.chosen`, `scoring.nhsic_with`).
2. `excess` takes their mean from the score with the own reference, and counts the difference in their spread.

It is descriptive: which differences chance alone would bring is for `nulls.null_test` to say. The references should end
on the same kind of token as the own one, or the excess tells those kinds apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from probes.checks import check_finite
from probes.errors import InputError

__all__ = ["Excess", "excess"]

_ROUNDING = 1e-12  # of the largest score: scores that differ by less are the same


@dataclass(frozen=True)
class Excess:
    """One number per step in each field. Made by `excess`, which says what is NaN.

    Attributes:
        difference: own score less the mean of the others, in the unit of the scores.
        standardised: the difference in standard deviations of the others.
        as_high: share of the others that score at least as high as the own one, ties included (to the same rounding);
            one half on average where the own answer is one like the others.
        mean, sd: of the others (sd with K - 1).
    """

    difference: Float64[Tensor, "*lead step"]
    standardised: Float64[Tensor, "*lead step"]
    as_high: Float64[Tensor, "*lead step"]
    mean: Float64[Tensor, "*lead step"]
    sd: Float64[Tensor, "*lead step"]


def excess(scores_own: Tensor, scores_others: Tensor) -> Excess:
    """What the own answer adds to the scores `[*lead, step]`, against K other answers `[*lead, k, step]`.

    >>> own, others = torch.tensor([4.0, 2.0]), torch.tensor([[1.0, 2.0], [2.0, 2.0], [3.0, 2.0]])
    >>> found = excess(own, others)
    >>> found.difference.tolist(), found.standardised.tolist(), found.as_high.tolist()
    ([2.0, 0.0], [2.0, nan], [0.0, 1.0])

    `standardised` is NaN with fewer than two others and where all others agree (to 1e-12 of the largest score, which is
    rounding); everything is NaN without any. Computed in float64; the other answers' scores may be of any number K.

    Raises `InputError` for NaN or inf and for shapes that do not fit.
    """
    own, others = _checked("scores_own", scores_own, 1), _checked("scores_others", scores_others, 2)
    if (*others.shape[:-2], others.shape[-1]) != tuple(own.shape):
        layout = ", ".join([*map(str, own.shape[:-1]), "k", str(own.shape[-1])])
        raise InputError(
            "excess",
            expected=f"scores_others of shape [{layout}]",
            received=f"shape {tuple(others.shape)}",
            remedy="Score the same steps with each of the other answers.",
        )
    count = others.shape[-2]
    if count == 0:
        undefined = torch.full_like(own, math.nan)
        return Excess(undefined, undefined, undefined, undefined, undefined)
    mean = others.mean(dim=-2)
    difference = own - mean
    tie = _ROUNDING * torch.maximum(own.abs(), others.abs().amax(dim=-2))
    as_high = (others >= (own - tie)[..., None, :]).double().mean(dim=-2)
    if count == 1:
        undefined = torch.full_like(own, math.nan)
        return Excess(difference, undefined, as_high, mean, undefined)
    sd = ((others - mean[..., None, :]).square().sum(dim=-2) / (count - 1)).sqrt()
    agree = others.amax(dim=-2) - others.amin(dim=-2) <= _ROUNDING * others.abs().amax(dim=-2)
    standardised = torch.where(agree, math.nan, difference / torch.where(agree, 1.0, sd))
    return Excess(difference, standardised, as_high, mean, torch.where(agree, 0.0, sd))


def _checked(name: str, scores: Tensor, min_axes: int) -> Float64[Tensor, "..."]:
    if not isinstance(scores, Tensor) or not scores.is_floating_point() or scores.ndim < min_axes:
        received = f"{scores.dtype} of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores)
        raise InputError(
            "excess",
            expected=f"{name} as a floating tensor [*lead, {'k, ' * (min_axes - 1)}step]",
            received=str(received),
            remedy="Give the scores of nhsic, and of nhsic_with or null_scores.",
        )
    values = scores.detach().double()
    if values.numel():
        check_finite("excess", name, values, "Leave undefined steps out.")
    return values

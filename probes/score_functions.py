"""Scores with the answer as functions of a step's vector, with their gradients: what attribution differentiates.

Each is one of `SCORES` as it is, or what the own answer adds to it over K others (`excess`): the difference from their
mean, or that in standard deviations of the others. With s the own score, s_k the others', m and sd their mean and
standard deviation, the gradients of all answers are weighed:

    excess        e = s - m           d e = d s - sum_k d s_k / K
    standardised  z = (s - m) / sd    d z = d e / sd - z sum_k (s_k - m) d s_k / ((K - 1) sd^2)

Answers are factorised once for all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float64
from torch import Tensor

from probes.answers import factored_answers
from probes.checks import check_drop_top, check_finite, check_tensor
from probes.chunks import DEFAULT_MAX_BYTES, parts
from probes.errors import InputError
from probes.excess_scores import excess
from probes.gradients import GRADIENTS, gradient_with
from probes.kernel import Kernel
from probes.scoring import nhsic_with
from probes.similarity import SCORE_UNITS, SCORES

__all__ = ["KINDS", "ScoreFunction", "score_function"]

#: What there is of a score, with what it is measured in; `{}` stands for the unit of the score.
KINDS: dict[str, str] = {
    "score": "{}",
    "excess": "above the mean of other answers, in the unit of the score: {}",
    "standardised": "standard deviations of other answers above their mean",
}


@dataclass(frozen=True)
class ScoreFunction:
    """A score of vectors `[row, d_model]` with an answer, and its gradient. Made by `score_function`.

    `others` is K, how many other answers it is compared with. `scores` and `gradients` are those of all answers, the
    own first; `line_gradients` those over short lines, where they are not about the same.
    """

    name: str
    unit: str
    kind: str
    others: int
    scores: Callable[[Tensor], Tensor]
    gradients: Callable[[Tensor], Tensor]
    line_gradients: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def is_rough(self) -> bool:
        """Whether it has kinks everywhere, as where each vector has a width of its own: integrals take more points."""
        return self.line_gradients is not None

    def bytes_each(self, d_model: int) -> int:
        """About what one vector's gradient takes: those with all answers, and what they are made of."""
        return 8 * d_model * (2 * (1 + self.others) + 128)

    def value(self, x: Tensor) -> Float64[Tensor, " row"]:
        """Of vectors `[row, d_model]`."""
        return self._of(self.scores(x))

    def gradient(self, x: Tensor) -> Float64[Tensor, "row d_model"]:
        """By each coordinate of vectors `[row, d_model]`."""
        return self._weighed(x, None)

    def line_gradient(self, x: Tensor, step: Tensor) -> Float64[Tensor, "row d_model"]:
        """About its mean over lines from `x - step / 2` to `x + step / 2`."""
        return self._weighed(x, step)

    def _weighed(self, x: Tensor, step: Tensor | None) -> Tensor:
        out = torch.empty(x.shape, dtype=torch.float64, device=x.device)
        for part in parts(len(x), self.bytes_each(x.shape[-1]), DEFAULT_MAX_BYTES):
            if step is None or self.line_gradients is None:
                found = self.gradients(x[part])  # [answer, row, d_model]
            else:
                found = self.line_gradients(x[part], step[part])
            out[part] = found[0] if self.kind == "score" else self._mixed(x[part], found)
        return out

    def _of(self, scores: Tensor) -> Tensor:
        if self.kind == "score":
            return scores[0]
        if not bool(scores.isfinite().all()):
            defined = scores.isfinite().all(dim=0)
            out = torch.full_like(scores[0], math.nan)
            out[defined] = self._of(scores[:, defined])
            return out
        found = excess(scores[0], scores[1:])
        return found.difference if self.kind == "excess" else found.standardised

    def _mixed(self, x: Tensor, gradients: Tensor) -> Tensor:
        count = self.others
        if self.kind == "excess":
            return gradients[0] - gradients[1:].mean(dim=0)
        scores = self.scores(x)
        others = scores[1:]
        away = others - others.mean(dim=0)
        spread = (away.square().sum(dim=0) / (count - 1)).sqrt()
        z = self._of(scores)
        spread = torch.where(z.isnan(), math.nan, spread)  # where the others agree
        weight = -1 / (count * spread) - z * away / ((count - 1) * spread.square())
        return gradients[0] / spread[:, None] + torch.einsum("kr,krd->rd", weight, gradients[1:])


def score_function(
    score: str,
    answer: Tensor,
    *,
    others: Tensor | None = None,
    kind: str = "score",
    sigma: float | int | str = 50.0,
    eps: float | int = 1e-5,
    tol: float | int = 1e-10,
    drop_top: int = 0,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> ScoreFunction:
    """One of `SCORES` with `answer [d_model]`, or its excess over the answers `others [k, d_model]`.

    >>> x = torch.arange(40.0).sin().reshape(5, 8) * 30
    >>> f = score_function("nhsic", x[0], others=x[1:4], kind="standardised", sigma="median")
    >>> f.name, f.value(x).shape, f.gradient(x).shape
    ('nhsic standardised', torch.Size([5]), torch.Size([5, 8]))

    `kind` is "score", "excess" (above the mean of the others) or "standardised" (in their standard deviations, of which
    there must be two or more; NaN where all of them score alike). `sigma`, `eps` and `tol` are those of nHSIC (`sigma`
    and `tol` of "cka" too); other scores have none. With `drop_top` each answer leaves its own coordinates out.

    Raises `InputError` for an unknown score or kind, for answers that do not fit, and for options out of range.
    """
    if score not in SCORES:
        _refuse(f"score as one of {', '.join(SCORES)}", repr(score), "Choose one.")
    if kind not in KINDS:
        _refuse(f"kind as one of {', '.join(KINDS)}", repr(kind), "Choose one.")
    check_tensor("score_function", "answer", answer, axes=("d_model",))
    if answer.ndim != 1:
        _refuse("one answer [d_model]", f"shape {tuple(answer.shape)}", "Other answers are given as others.")
    answers, count = answer.detach()[None], 0
    if kind != "score":
        needed = 2 if kind == "standardised" else 1
        if others is None:
            _refuse(f"others [k, d_model] for the kind {kind}", "none", "Give the references of other problems.")
        assert others is not None
        check_tensor("score_function", "others", others, axes=("k", "d_model"))
        if others.ndim != 2 or others.shape[-1] != answer.shape[-1] or len(others) < needed:
            wanted = f"others [k, {answer.shape[-1]}] with k >= {needed}"
            _refuse(wanted, f"shape {tuple(others.shape)}", "Give the references of other problems, one a row.")
        check_finite("score_function", "others", others, "Leave undefined references out.")
        answers, count = torch.cat([answers, others.detach().to(answer)]), len(others)
    name, unit = f"{score}/drop{drop_top}" if drop_top else score, KINDS[kind].format(SCORE_UNITS[score])
    line_gradients = None
    if score in ("nhsic", "cka"):
        kernel = Kernel(sigma, eps if score == "nhsic" else None, tol, drop_top, operation="score_function")
        kernel.check_answer(answers)
        _, factor = next(factored_answers(answers, kernel, max_bytes=max_bytes, room=math.inf))
        scores = partial(nhsic_with, factor=factor, max_bytes=max_bytes)
        gradients = partial(gradient_with, factor=factor, max_bytes=max_bytes)
        if isinstance(sigma, str):

            def line_gradients(x: Tensor, step: Tensor) -> Tensor:
                return gradient_with(x, factor, step=step, max_bytes=max_bytes)

    else:
        check_drop_top("score_function", drop_top, answer.shape[-1])
        scores = partial(SCORES[score], answer=answers, drop_top=drop_top, max_bytes=max_bytes)
        gradients = partial(GRADIENTS[score], answer=answers, drop_top=drop_top, max_bytes=max_bytes)
    return ScoreFunction(
        name if kind == "score" else f"{name} {kind}", unit, kind, count, scores, gradients, line_gradients
    )


def _refuse(expected: str, received: str, remedy: str) -> None:
    raise InputError("score_function", expected=expected, received=received, remedy=remedy)

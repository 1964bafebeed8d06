"""What is measured of a run: the logits at a step, a whole answer, or a score of an inner residual stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from interp.arguments import Judged, Whole, as_text, as_whole
from interp.engines.base import ModelFacts
from interp.errors import InputError
from interp.metrics import AnswerMetric, Metric, prepared_metric
from interp.sampling import widened
from interp.sites import SITE_NAMES, Site

__all__ = ["Asked", "PatchMetric", "ResidualMetric", "asked_of", "residual_metric"]

Scores: TypeAlias = Callable[[Float[Tensor, "row d_model"]], Float[Tensor, " row"]]
Slopes: TypeAlias = Callable[[Float[Tensor, "row d_model"]], Float[Tensor, "row d_model"]]


@dataclass(frozen=True)
class ResidualMetric:
    """A number of the residual stream at a step and site; :func:`residual_metric` makes it."""

    score: Scores
    site: Site
    gradient: Slopes | None
    name: str


PatchMetric: TypeAlias = Metric | AnswerMetric | ResidualMetric


def residual_metric(
    score: Judged[Scores],
    layer: Whole = 0,
    *,
    site: Judged[str] = "resid_post",
    gradient: Judged[Slopes | None] = None,
    name: Judged[str] = "",
) -> ResidualMetric:
    """A metric for patching that is a number of the residual stream: how like an answer, what a probe reads there.

    >>> length = residual_metric(lambda stream: stream.norm(dim=-1), layer=2, name="length")
    >>> length.site, length.name
    (Site(name='resid_post', layer=2), 'length')

    Args:
        score: gives one number a row for streams ``[row, d_model]``; it is differentiated by autograd unless
            ``gradient`` is there.
        layer: of the site, from 0; ``ln_final`` has none.
        site: resid_pre, resid_mid, resid_post or ln_final.
        gradient: the derivative of ``score`` by each coordinate, ``[row, d_model]``, where autograd cannot go.
        name: how tables call it.

    Raises:
        InputError: no function, an unknown site.
    """
    for what, function in (("score", score), ("gradient", gradient)):
        if not (callable(function) or (what == "gradient" and function is None)):
            raise InputError(
                "residual_metric",
                expected=f"{what} as a function of residual streams [row, d_model]",
                received=repr(function)[:80],
                remedy="Pass a function.",
            )
    place = Site(as_text(site, "residual_metric", "site", SITE_NAMES), as_whole(layer, "residual_metric", "layer", 0))
    called = as_text(name, "residual_metric", "name") or str(getattr(score, "__name__", type(score).__name__))
    return ResidualMetric(score, place, gradient, called)


@dataclass(frozen=True)
class Asked:
    """A metric made ready for a model.

    Attributes:
        following: tokens to read after the step.
        keep: of how many positions at the end it wants the logits.
        site: where it reads the residual stream, if it does.
        name: how tables call it.
    """

    following: tuple[int, ...]
    keep: int
    site: Site | None
    name: str
    _of_logits: Callable[[Tensor], Tensor] | None
    _of_stream: ResidualMetric | None

    def measure(
        self, logits: Float[Tensor, "row kept d_vocab"], stream: Float[Tensor, "row d_model"] | None
    ) -> Float[Tensor, " row"]:
        """One number a row, of the logits at the end or of the stream at the step."""
        if self._of_stream is None:
            assert self._of_logits is not None
            return self._of_logits(logits[:, -self.keep :])
        assert stream is not None
        return _scored(self._of_stream, widened(stream))


def asked_of(metric: Any, facts: ModelFacts, operation: str) -> Asked:
    """What to read and measure for a metric.

    Raises:
        InputError: no metric, an answer that the model cannot say, a layer that it does not have.
    """
    if isinstance(metric, ResidualMetric):
        metric.site.check(facts.n_layers, operation)
        return Asked((), 1, metric.site, metric.name, None, metric)
    ready = prepared_metric(metric, facts, operation)
    if isinstance(metric, AnswerMetric):
        name = f"log-probability of {metric.answer!r}"
    else:
        name = str(getattr(metric, "__qualname__", type(metric).__name__)).split(".<locals>")[0]
    return Asked(ready.following, ready.keep, None, name, ready.measure, None)


def _scored(metric: ResidualMetric, stream: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
    if metric.gradient is not None and stream.requires_grad:
        values = _WithGradient.apply(stream, metric.score, metric.gradient)
    else:
        values = metric.score(stream)
    if not isinstance(values, Tensor) or values.shape != stream.shape[:1]:
        raise InputError(
            "residual_metric",
            expected=f"a score that gives one number a row, shape ({len(stream)},)",
            received=f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__,
            remedy="It is given streams [row, d_model].",
        )
    if stream.requires_grad and not values.requires_grad:
        raise InputError(
            "residual_metric",
            expected="a score that autograd can differentiate, or its gradient",
            received=f"{metric.name}, which is detached from the stream",
            remedy="Pass gradient=..., the derivative by each coordinate.",
        )
    return values


class _WithGradient(torch.autograd.Function):
    """A score whose derivative is a function of its own."""

    @staticmethod
    def forward(ctx: Any, stream: Tensor, score: Scores, gradient: Slopes) -> Tensor:
        ctx.save_for_backward(stream)
        ctx.gradient = gradient
        return score(stream.detach())

    @staticmethod
    def backward(ctx: Any, *of: Tensor) -> tuple[Tensor, None, None]:
        (stream,) = ctx.saved_tensors
        slope = ctx.gradient(stream.detach())
        if slope.shape != stream.shape:
            raise InputError(
                "residual_metric",
                expected=f"a gradient of the streams' shape {tuple(stream.shape)}",
                received=str(tuple(slope.shape)),
                remedy="It is given streams [row, d_model].",
            )
        return (slope * of[0][:, None].to(slope)).to(stream), None, None

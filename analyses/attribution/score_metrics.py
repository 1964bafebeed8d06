"""Metrics for patching that are scores of a residual stream with an answer: how a peak is made, by intervention."""

from __future__ import annotations

from torch import Tensor

from interp.arguments import Judged, Whole
from interp.errors import InputError
from interp.patching.asked import ResidualMetric, residual_metric
from probes.integrated import Differentiable
from probes.score_functions import score_function

__all__ = ["nhsic_metric", "score_metric"]


def score_metric(score: Judged[Differentiable], layer: Whole, *, site: str = "resid_post") -> ResidualMetric:
    """A score of the residual stream at the measured step, as a metric of `patch_nodes` and `patch_edges`.

    >>> import torch
    >>> from probes import score_function
    >>> answers = torch.randn(4, 128)
    >>> score_metric(score_function("nhsic", answers[0], others=answers[1:], kind="excess"), layer=2).name
    'nhsic excess'

    Args:
        score: what :func:`probes.score_function` makes (nHSIC and the other measures, and what the own answer adds to
            each over wrong ones), or ``answer_probe(...).score(label)``: V-information's bits about one answer.
        layer, site: where the stream is read.

    Raises:
        InputError: something without ``value`` and ``gradient``; an unknown site.
    """
    if not (callable(getattr(score, "value", None)) and callable(getattr(score, "gradient", None))):
        raise InputError(
            "score_metric",
            expected="a score that knows its gradient",
            received=repr(score)[:80],
            remedy='Pass score_function("nhsic", answer), or residual_metric(function, layer) for one of your own.',
        )
    return residual_metric(score.value, layer, site=site, gradient=score.gradient, name=score.name)


def nhsic_metric(
    answer: Tensor,
    layer: Whole,
    *,
    site: str = "resid_post",
    sigma: float | int | str = 50.0,
    eps: float | int = 1e-5,
    drop_top: int = 0,
) -> ResidualMetric:
    """nHSIC of the residual stream at the measured step with an answer's vector ``[d_model]``, as a metric.

    >>> from analyses.attribution import patch_nodes
    >>> from interp import encode, load_model
    >>> model = load_model("toy-reasoner")
    >>> answer = encode(model, "Therefore 4", last_only=True)[0].residuals["resid_post"][1, 0]
    >>> metric = nhsic_metric(answer, layer=1)
    >>> patch_nodes(model, "6 A * 3 B - 8 ? ->", "6 A * 4 B - 8 ? ->", metric, kinds="mlp", verify=2).settings["metric"]
    'nhsic'

    Options are those of :func:`probes.nhsic`. Take the answer's vector of the same layer.
    """
    score = score_function("nhsic", answer, sigma=sigma, eps=eps, drop_top=drop_top)
    return score_metric(score, layer, site=site)

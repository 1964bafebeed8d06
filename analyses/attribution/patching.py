"""Attribution by intervention, as tables that show themselves."""

from __future__ import annotations

from collections.abc import Mapping

from analyses.views.frames import SweepTable
from interp.arguments import Judged, Whole, Wholes
from interp.interventions import patch_sweep as sweep
from interp.interventions.at_steps import Exchange
from interp.metrics import AnswerMetric, Metric
from interp.rollout import Rollout
from interp.types import Bridge

__all__ = ["patch_sweep"]


def patch_sweep(
    model: Bridge,
    target: Judged[Rollout],
    source: Judged[Rollout],
    metric: Judged[Metric | AnswerMetric],
    *,
    at: Whole = -1,
    layers: str | Wholes = "all",
    steps: Wholes | Mapping[int, int] | None = None,
    site: Judged[str] = "resid_post",
    heads: Wholes | None = None,
    together: bool = False,
    exchange: Judged[Exchange | None] = None,
    batch_size: Whole = 32,
) -> SweepTable:
    """:func:`interp.interventions.patch_sweep`, with the same options, as a table with ``.show()``.

    >>> from interp import ResidualSites, decode, load_model, log_probability
    >>> model, prompts = load_model("toy-reasoner"), ["6 A * 3 B - 8 ? ->", "6 A * 4 B - 8 ? ->"]
    >>> target, source = decode(model, prompts, max_new_tokens=8, record=ResidualSites())
    >>> patch_sweep(model, target, source, log_probability(5), steps=[3, 7]).show().title
    'Effect of patching resid_post'
    >>> target, source = decode(model, prompts, max_new_tokens=8, record=ResidualSites(sites=("z",)))
    >>> patch_sweep(model, target, source, log_probability(5), site="z", together=True).show().alt[:44]
    'effect over 3 layers (0, 1, 2) and 4 heads, '
    """
    return SweepTable(
        sweep(
            model, target, source, metric, at=at, layers=layers, steps=steps, site=site, heads=heads,
            together=together, exchange=exchange, batch_size=batch_size,
        )
    )  # fmt: skip

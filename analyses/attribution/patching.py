"""Attribution by intervention, as tables that show themselves."""

from __future__ import annotations

from typing import Any

from analyses.views.frames import SweepTable
from interp.interventions import Metric
from interp.interventions import patch_sweep as sweep
from interp.rollout import Rollout
from interp.types import Bridge

__all__ = ["patch_sweep"]


def patch_sweep(model: Bridge, target: Rollout, source: Rollout, metric: Metric, **options: Any) -> SweepTable:
    """:func:`interp.interventions.patch_sweep`, with the same options, as a table with ``.show()``.

    >>> from interp import ResidualSites, decode, load_model
    >>> from interp.interventions import log_probability
    >>> model, prompts = load_model("toy-reasoner"), ["6 A * 3 B - 8 ? ->", "6 A * 4 B - 8 ? ->"]
    >>> target, source = decode(model, prompts, max_new_tokens=8, record=ResidualSites())
    >>> patch_sweep(model, target, source, log_probability(5), steps=[3, 7]).show().title
    'Effect of patching resid_post'
    """
    return SweepTable(sweep(model, target, source, metric, **options))

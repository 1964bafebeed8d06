"""Things to look at: texts, heatmaps, lines, attention, logit lens, comparisons; each offline, and never blank.

A view takes numbers, tokens, a rollout or anything that is `Scored`; it knows no run folder and no study.
Importing this package imports nothing heavy; each name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyses.views.alignment import compare
    from analyses.views.curves import lines
    from analyses.views.figures import bars, trajectories
    from analyses.views.grids import heatmap, sweep
    from analyses.views.heads import attention
    from analyses.views.lens import logit_lens
    from analyses.views.tokens import text
    from analyses.views.view import View, load

__all__ = [
    "View",
    "attention",
    "bars",
    "compare",
    "heatmap",
    "lines",
    "load",
    "logit_lens",
    "sweep",
    "text",
    "trajectories",
]

# No module is named like what it holds: importing it would put the module in the function's place.
_HOMES = {
    "View": "view",
    "attention": "heads",
    "bars": "figures",
    "compare": "alignment",
    "heatmap": "grids",
    "lines": "curves",
    "load": "view",
    "logit_lens": "lens",
    "sweep": "grids",
    "text": "tokens",
    "trajectories": "figures",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'analyses.views' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"analyses.views.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

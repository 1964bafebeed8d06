"""Things to look at: texts, heatmaps, lines, attention, logit lens, circuits, comparisons; offline, and never blank.

A view takes numbers, tokens, a rollout or anything that is `Scored`; it knows no run folder and no study.
Importing this package imports nothing heavy; each name below is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses.lazy import lazily

if TYPE_CHECKING:
    from analyses.views.alignment import compare
    from analyses.views.circuits import circuit
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
    "circuit",
    "compare",
    "heatmap",
    "lines",
    "load",
    "logit_lens",
    "sweep",
    "text",
    "trajectories",
]

_HOMES = {
    "View": "view",
    "attention": "heads",
    "bars": "figures",
    "circuit": "circuits",
    "compare": "alignment",
    "heatmap": "grids",
    "lines": "curves",
    "load": "view",
    "logit_lens": "lens",
    "sweep": "grids",
    "text": "tokens",
    "trajectories": "figures",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)

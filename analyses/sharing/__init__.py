"""What others get of runs: one of several, a site of many, and what a tracker of experiments is told.

1. `merge` joins runs of equal settings into one (:mod:`analyses.sharing.merging`).
2. `bundle` makes a folder of pages and tables that opens from disk (:mod:`analyses.sharing.bundling`).
3. `log_to` tells MLflow or Weights & Biases of a result (:mod:`analyses.sharing.tracking`).

Nothing here runs a model.
"""

from typing import TYPE_CHECKING

from analyses.lazy import lazily

if TYPE_CHECKING:
    from analyses.sharing.bundling import bundle
    from analyses.sharing.merging import merge
    from analyses.sharing.tracking import log_to

__all__ = ["bundle", "log_to", "merge"]

_HOMES = {"bundle": "bundling", "log_to": "tracking", "merge": "merging"}

__getattr__, __dir__ = lazily(__name__, _HOMES)

"""What others get of runs: one of several, and a site of many.

1. `merge` joins runs of equal settings into one (:mod:`analyses.sharing.merging`).
2. `bundle` makes a folder of pages and tables that opens from disk (:mod:`analyses.sharing.bundling`).

Nothing here runs a model.
"""

from typing import TYPE_CHECKING

from analyses.lazy import lazily

if TYPE_CHECKING:
    from analyses.sharing.bundling import bundle
    from analyses.sharing.merging import merge

__all__ = ["bundle", "merge"]

_HOMES = {"bundle": "bundling", "merge": "merging"}

__getattr__, __dir__ = lazily(__name__, _HOMES)

"""One run: decode, score while decoding, ask more of what is finished, derive the tables.

What compares many conditions is in :mod:`analyses.studies`, what is shown in :mod:`analyses.report`. Importing this
package imports nothing heavy; each name below is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses.lazy import lazily

if TYPE_CHECKING:
    from analyses.trace.attributing import attribute_run
    from analyses.trace.run import TraceRun
    from analyses.trace.tracing import trace
    from analyses.trace.trajectory import Trajectory

__all__ = ["TraceRun", "Trajectory", "attribute_run", "trace"]

_HOMES = {"TraceRun": "run", "Trajectory": "trajectory", "attribute_run": "attributing", "trace": "tracing"}

__getattr__, __dir__ = lazily(__name__, _HOMES)

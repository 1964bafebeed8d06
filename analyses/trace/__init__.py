"""One run: decode, score while decoding, ask more of what is finished, derive the tables.

What compares many conditions is in :mod:`analyses.studies`, what is shown in :mod:`analyses.report`. Importing this
package imports nothing heavy; each name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analyses.trace.run import TraceRun
    from analyses.trace.tracing import trace
    from analyses.trace.trajectory import Trajectory

__all__ = ["TraceRun", "Trajectory", "trace"]

# No module is named like what it holds: importing it would put the module in the function's place.
_HOMES = {"TraceRun": "run", "Trajectory": "trajectory", "trace": "tracing"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'analyses.trace' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"analyses.trace.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""What patching scored, as what a circuit is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import pandas

from interp.arguments import Judged, refused

__all__ = ["Effects", "told_by_effects"]


@runtime_checkable
class Effects(Protocol):
    """What patching found: a table of nodes or edges with ``score`` and ``exact``, and how it was made."""

    @property
    def table(self) -> pandas.DataFrame: ...
    @property
    def settings(self) -> Mapping[str, Any]: ...


def told_by_effects(edges: Judged[Effects | None], nodes: Judged[Effects | None]) -> dict[str, Any]:
    """Tables, metric, target, model and settings of effects; residual streams, sums of nodes, are left out of these.

    Raises:
        InputError: neither, different metrics, several targets.
    """
    operation = "Circuit.from_effects"
    given = {name: one for name, one in (("edges", edges), ("nodes", nodes)) if one is not None}
    if not given or not all(isinstance(one, Effects) for one in given.values()):
        raise refused(operation, "effects of edges or nodes", [*given.values()], "Patch them first.")
    metrics = dict.fromkeys(str(one.settings.get("metric", "score")) for one in given.values())
    ends = {} if edges is None else dict.fromkeys(edges.table.loc[edges.table["port"] == "out", "target"])
    if len(metrics) > 1 or len(ends) > 1:
        several = ", ".join(map(str, metrics if len(metrics) > 1 else ends))
        raise refused(operation, "one metric, read from one place", several, "Patch for one.")
    name = next(iter(given.values())).settings.get("model")
    return {
        "nodes": None if nodes is None else nodes.table[~nodes.table["node"].str.contains(" resid_", regex=False)],
        "edges": None if edges is None else edges.table,
        "metric": next(iter(metrics)),
        "target": next(iter(ends), "logits"),
        "model": {} if name is None else {"name": name},
        "settings": {name: {key: _finite(value) for key, value in one.settings.items()} for name, one in given.items()},
    }


def _finite(value: Any) -> Any:
    """A setting as JSON can have it: a number that is none as text."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value

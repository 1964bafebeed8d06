"""What circuits are measured with: a callable that runs the model with only some of it, and the two ends of its scale.

m(all) is the metric with every candidate as it is in the clean run, m(nothing) with every one corrupted, and
``recovered = (m(kept) - m(nothing)) / (m(all) - m(nothing))``, never clipped: what hinders has negative shares, and a
part can do more than the whole. Where m(all) and m(nothing) are the same up to rounding, it is NaN and that is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pandas

from analyses.attribution.circuit import Circuit
from interp.arguments import Judged, as_text, refused
from interp.display import number, table

__all__ = ["Gauge", "Measure", "Measured"]

FLAT = 1e-5
"""m(all) - m(nothing) no larger than this part of either is rounding: float32 metrics carry about 1e-6."""


@runtime_checkable
class Measure(Protocol):
    """Runs the model with only what is kept, the rest corrupted, and says the metric.

    It is called with a frozenset of keys, :class:`Edge` or :class:`Node` as the circuit is made of edges or nodes:

    - nodes: each candidate *not* kept writes what it writes in the corrupted run (or its mean); kept ones write what
      comes of what they read. The target is none of the candidates.
    - edges: each port of each node reads the clean stream less the writes of sources whose edge is not kept, whose
      corrupted writes stand in their place.

    `measure(frozenset(circuit.candidates(of)))` has to be the clean run, `measure(frozenset())` the corrupted one.
    A metric over several problems is their mean. What is NaN for one set is NaN in the tables.
    """

    def __call__(self, kept: frozenset[Any], /) -> float: ...


class Gauge:
    """A measure of a circuit: each set is run once, shares of the gap are made from its two ends.

    >>> circuit = Circuit(pandas.DataFrame({"node": ["L0H0", "L0H1"], "score": [3.0, 1.0]}))
    >>> weights = {"L0H0": 3.0, "L0H1": 1.0}
    >>> gauge = Gauge(circuit, lambda kept: 2.0 + sum(weights[key.node] for key in kept))
    >>> gauge.full, gauge.empty, gauge.share(gauge.value(circuit.candidates("nodes")[:1]))
    (6.0, 2.0, 0.75)
    """

    def __init__(self, circuit: Circuit, measure: Judged[Measure], of: str | None = None) -> None:
        if not callable(measure):
            raise refused("measure a circuit", "measure as a callable", measure, "It takes a frozenset of keys.")
        self.circuit, self.of = circuit, as_text(of or circuit.unit, "measure a circuit", "of", ("nodes", "edges"))
        self.every = circuit.candidates(self.of)
        if not self.every:
            raise refused("measure a circuit", f"at least one of its {self.of}", "none", "There is nothing to keep.")
        self._measure = measure
        self._known: dict[frozenset[Any], float] = {}
        self.all, self.members = frozenset(self.every), circuit.kept(self.of)
        self.full, self.empty = self.value(self.all), self.value(())
        self.gap = self.full - self.empty
        size = max(abs(self.full), abs(self.empty))
        self.note = ""
        if not math.isfinite(self.gap):
            self.note = (
                f"recovered shares are undefined: m(all) = {number(self.full)}, m(nothing) = {number(self.empty)}"
            )
        elif abs(self.gap) <= FLAT * size:
            self.note = (
                f"recovered shares are undefined: m(all) = {number(self.full)} and m(nothing) = {number(self.empty)} "
                "are the same up to rounding, so that there is nothing to recover"
            )

    @property
    def runs(self) -> int:
        """How many sets have been run."""
        return len(self._known)

    def value(self, kept: Iterable[Any]) -> float:
        """The metric with only these."""
        keys = frozenset(kept)
        if keys not in self._known:
            found = self._measure(keys)
            try:
                self._known[keys] = float(found)
            except (TypeError, ValueError) as error:
                raise refused("measure a circuit", "a number", found, "measure returns the metric.") from error
        return self._known[keys]

    def share(self, value: float) -> float:
        """Where a value lies between m(nothing), 0, and m(all), 1; NaN where these are the same."""
        return math.nan if self.note else (value - self.empty) / self.gap

    def change(self, difference: float) -> float:
        """A difference of values in units of the gap."""
        return math.nan if self.note else difference / self.gap


@dataclass(frozen=True, eq=False, repr=False)
class Measured:
    """What came of measuring: a table, the two ends of the scale, and a note where shares are undefined.

    Attributes:
        name: what was asked.
        frame: the numbers; see the function that made it.
        full, empty: m(all) and m(nothing), in the unit of the metric.
        of: "nodes" or "edges".
        note: why `recovered` and other shares of the gap are NaN; empty where they are defined.
    """

    name: str
    frame: pandas.DataFrame
    full: float
    empty: float
    of: str
    note: str = ""

    def to_frame(self) -> pandas.DataFrame:
        """A copy of the table."""
        return self.frame.copy()

    def summary(self) -> str:
        """What there is to say in a line."""
        return f"{len(self.frame)} rows"

    def __repr__(self) -> str:
        ends = f"m(all) = {number(self.full)}, m(nothing) = {number(self.empty)}, of {self.of}"
        return "\n".join([f"{self.name}: {self.summary()}", f"  {ends}", *([f"  {self.note}"] if self.note else [])])

    def _repr_html_(self) -> str:
        rows = self.frame.itertuples(index=False)
        return table(list(map(str, self.frame.columns)), rows, caption=repr(self).replace("\n", ";"), limit=60)

"""Is the circuit right: what it does alone, what is left without it, whether it is all of it and no more than it.

    recovered  f(C) = (m(only C) - m(nothing)) / (m(all) - m(nothing))
    CPR        area under f(k), CMD area under |1 - f(k)|, over k = 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100 % of the
               edges, trapezoid, linear axis (MIB, Mueller et al. 2025, arXiv:2504.13151)
    completeness, minimality    Wang et al. 2022, arXiv:2211.00593, sections 4.1 and 4.2

Nothing here knows a model: a :class:`Measure` runs it. Nothing is clipped; where m(all) = m(nothing) shares are NaN and
the note says so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pandas

from analyses.attribution.circuit import Circuit
from analyses.attribution.circuit_measure import Gauge, Measure, Measured
from analyses.attribution.circuit_parts import Edge, Node, key_at, node_parts
from interp.arguments import Judged, Whole, as_number, as_text, as_whole, refused
from interp.display import number

__all__ = [
    "FRACTIONS", "RandomCircuits", "RecoveryCurve", "completeness", "minimality", "random_circuits", "recovered",
    "recovery_curve", "removal_curve",
]  # fmt: skip

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The shares of all edges at which MIB looks."""


@dataclass(frozen=True, eq=False, repr=False)
class RecoveryCurve(Measured):
    """The metric with growing parts of the ranking; `frame` has fraction, asked, kept, value, recovered."""

    @property
    def cpr(self) -> float:
        """The area under the recovered share: what helps; 0.999 where the first edges have all of it."""
        return self._area(self.frame["recovered"].to_numpy())

    @property
    def cmd(self) -> float:
        """The area between the recovered share and 1: what matters at all; 0 is best."""
        return self._area(np.abs(1 - self.frame["recovered"].to_numpy()))

    def _area(self, heights: np.ndarray) -> float:
        return float(np.trapezoid(heights, self.frame["fraction"].to_numpy()))

    def summary(self) -> str:
        return f"CPR {number(self.cpr)}, CMD {number(self.cmd)}"


@dataclass(frozen=True, eq=False, repr=False)
class RandomCircuits(Measured):
    """The circuit beside random ones of its size; `frame` has draw, kept, value, recovered."""

    own_value: float = math.nan
    own_recovered: float = math.nan

    @property
    def p_value(self) -> float:
        """(1 + random ones that recover as much or more) / (1 + all of them); NaN where shares are."""
        shares = self.frame["recovered"].to_numpy()
        if np.isnan(shares).any() or math.isnan(self.own_recovered):
            return math.nan
        return (1 + int((shares >= self.own_recovered).sum())) / (1 + len(shares))

    def summary(self) -> str:
        shares = self.frame["recovered"]
        return (
            f"the circuit recovers {number(self.own_recovered)}, {len(shares)} random ones {number(shares.mean())} on "
            f"average ({number(shares.min())} to {number(shares.max())}), p {number(self.p_value)}"
        )


def recovered(circuit: Circuit, measure: Judged[Measure], *, of: str | None = None) -> Measured:
    """What the circuit does alone, and what is left without it.

    >>> circuit = Circuit(pandas.DataFrame({"node": ["L0H0", "L0H1"], "score": [3.0, 1.0]})).top(1)
    >>> weights = {"L0H0": 3.0, "L0H1": 1.0}
    >>> recovered(circuit, lambda kept: sum(weights[key.node] for key in kept)).frame.values.tolist()
    [['only the circuit', 1, 3.0, 0.75], ['without the circuit', 1, 1.0, 0.25]]

    The table has what, kept, value and recovered. `measure` is described by :class:`Measure`.
    """
    gauge = Gauge(circuit, measure, of)
    rows = []
    for what, keys in (("only the circuit", gauge.members), ("without the circuit", gauge.all - gauge.members)):
        value = gauge.value(keys)
        rows.append((what, len(keys), value, gauge.share(value)))
    frame = pandas.DataFrame(rows, columns=["what", "kept", "value", "recovered"])
    said = f"only the circuit {number(rows[0][3])}, without it {number(rows[1][3])}"
    return Measured(f"Recovered ({said})", frame, gauge.full, gauge.empty, gauge.of, gauge.note)


def recovery_curve(
    circuit: Circuit, measure: Judged[Measure], *, of: str | None = None, fractions: Sequence[float | int] = FRACTIONS,
    how: str = "top", by: str = "score", absolute: bool = True, connected: str = "target",
) -> RecoveryCurve:  # fmt: skip
    """How much growing parts of the ranking recover alone: its `cpr` and `cmd` are MIB's.

    >>> circuit = Circuit(pandas.DataFrame({"node": ["L0H0", "L0H1"], "score": [3.0, 1.0]}))
    >>> weights = {"L0H0": 3.0, "L0H1": 1.0}
    >>> curve = recovery_curve(circuit, lambda kept: sum(weights[key.node] for key in kept), fractions=[0, 0.5, 1])
    >>> curve.frame["recovered"].tolist(), curve.cpr, curve.cmd
    ([0.0, 0.75, 1.0], 0.625, 0.375)

    At fraction k the floor(k n) first of n candidates are kept, less what is not connected; at 1 all of them are, as in
    the clean run, whatever is unscored. `asked` counts before, `kept` after.

    Args:
        how: "top", or "greedy" from the target.
        by: the column that ranks, the norm of weights say, as a baseline.
        absolute, connected: as in :meth:`Circuit.by_threshold`; MIB's own code has connected="both".
    """
    return _curve("Recovery", circuit, measure, of, fractions, how, by, absolute, connected, without=False)


def removal_curve(
    circuit: Circuit, measure: Judged[Measure], *, of: str | None = None, fractions: Sequence[float | int] = FRACTIONS,
    how: str = "top", by: str = "score", absolute: bool = True, connected: str = "target",
) -> RecoveryCurve:  # fmt: skip
    """How much is left without growing parts of the ranking; options as in `recovery_curve`.

    `kept` counts what stays; `recovered` falls from 1 as what matters goes.
    """
    return _curve("Removal", circuit, measure, of, fractions, how, by, absolute, connected, without=True)


def _curve(
    name: str, circuit: Circuit, measure: Judged[Measure], of: str | None, fractions: Sequence[float | int], how: str,
    by: str, absolute: bool, connected: str, without: bool,
) -> RecoveryCurve:  # fmt: skip
    operation = f"{name.lower()} curve"
    as_text(how, operation, "how", ("top", "greedy"))
    shares = [as_number(fraction, operation, "fractions", 0, 1) for fraction in fractions]
    if sorted(set(shares)) != shares or len(shares) < 2:
        raise refused(operation, "at least two fractions, growing", shares, "FRACTIONS are MIB's.")
    gauge = Gauge(circuit, measure, of)
    rows = []
    for share in shares:
        # Exactly: 0.001 * 3000 is less than 3 in floats of some fractions.
        asked = math.floor(Fraction(repr(share)) * len(gauge.every))
        if asked == len(gauge.every):
            kept = gauge.all
        else:
            kept = circuit.strongest(asked, of=gauge.of, how=how, by=by, absolute=absolute, connected=connected)
        stays = gauge.all - kept if without else kept
        value = gauge.value(stays)
        rows.append((share, asked, len(stays), value, gauge.share(value)))
    frame = pandas.DataFrame(rows, columns=["fraction", "asked", "kept", "value", "recovered"])
    return RecoveryCurve(name, frame, gauge.full, gauge.empty, gauge.of, gauge.note)


def completeness(
    circuit: Circuit, measure: Judged[Measure], *, of: str | None = None,
    sets: Mapping[str, Iterable[Any]] | None = None, n: Whole = 10, greedy: Whole = 0, seed: Whole = 0,
) -> Measured:  # fmt: skip
    """Whether the circuit does what the model does whatever is removed from both: |m(C without K) - m(all without K)|.

    >>> circuit = Circuit(pandas.DataFrame({"node": ["L0H0", "L0H1"], "score": [3.0, 1.0]})).top(1)
    >>> weights = {"L0H0": 3.0, "L0H1": 1.0}
    >>> found = completeness(circuit, lambda kept: sum(weights[key.node] for key in kept), n=0)
    >>> found.frame[["removed", "circuit", "model", "incompleteness"]].values.tolist()
    [['nothing', 3.0, 4.0, 0.25]]

    Removed are nothing, the `sets` of keys as named, `n` random halves of the circuit (each member with probability
    1/2), and, with `greedy` = r, r sets that grow by the member that makes the difference largest, as in the source.
    The table has removed, size, circuit, model, and incompleteness in units of m(all) - m(nothing).
    """
    count, rounds = as_whole(n, "completeness", "n", 0), as_whole(greedy, "completeness", "greedy", 0)
    gauge = Gauge(circuit, measure, of)
    members = [key for key in gauge.every if key in gauge.members]
    draws = np.random.default_rng(as_whole(seed, "completeness", "seed", 0))
    removed: list[tuple[str, frozenset[Any]]] = [("nothing", frozenset())]
    for name, keys in (sets or {}).items():
        removed.append((name, _within(keys, gauge, "completeness")))
    for draw in range(count):
        halves = draws.random(len(members)) < 0.5
        removed.append(
            (f"random half {draw}", frozenset(key for key, is_out in zip(members, halves, strict=True) if is_out))
        )

    def apart(keys: frozenset[Any]) -> float:
        return abs(gauge.value(gauge.members - keys) - gauge.value(gauge.all - keys))

    grown: frozenset[Any] = frozenset()
    for _ in range(min(rounds, len(members))):
        others = [grown | {key} for key in members if key not in grown]
        sizes = [-math.inf if math.isnan(size) else size for size in map(apart, others)]
        grown = others[int(np.argmax(sizes))]
        removed.append((f"greedy {len(grown)}", grown))
    rows = []
    for name, keys in removed:
        alone, whole = gauge.value(gauge.members - keys), gauge.value(gauge.all - keys)
        rows.append((name, len(keys), alone, whole, abs(gauge.change(alone - whole))))
    frame = pandas.DataFrame(rows, columns=["removed", "size", "circuit", "model", "incompleteness"])
    worst = number(frame["incompleteness"].max())
    return Measured(f"Completeness (largest difference {worst})", frame, gauge.full, gauge.empty, gauge.of, gauge.note)


def minimality(
    circuit: Circuit, measure: Judged[Measure], *, of: str | None = None,
    groups: Mapping[str, Iterable[Any]] | None = None, n: Whole = 4, seed: Whole = 0,
) -> Measured:  # fmt: skip
    """Whether each member is needed: the largest change that removing it makes after removing some others.

    >>> circuit = Circuit(pandas.DataFrame({"node": ["L0H0", "L0H1"], "score": [3.0, 1.0]}))
    >>> weights = {"L0H0": 3.0, "L0H1": 1.0}
    >>> found = minimality(circuit, lambda kept: sum(weights[key.node] for key in kept), n=0)
    >>> found.frame[["member", "after_removing", "change", "share"]].values.tolist()
    [['L0H0', 'nothing', -3.0, 0.75], ['L0H1', 'nothing', -1.0, 0.25]]

    Removed before it are nothing, the others of its group (backup heads say: `groups` of keys as named), and `n` random
    halves of the other members. The table has member, its key's parts, after_removing, with_member, without_member,
    change, and share, its size in units of m(all) - m(nothing). A member without change is one too many.
    """
    count = as_whole(n, "minimality", "n", 0)
    gauge = Gauge(circuit, measure, of)
    members = [key for key in gauge.every if key in gauge.members]
    draws = np.random.default_rng(as_whole(seed, "minimality", "seed", 0))
    named = {name: _within(keys, gauge, "minimality") for name, keys in (groups or {}).items()}
    rows = []
    for member in members:
        before: list[tuple[str, frozenset[Any]]] = [("nothing", frozenset())]
        before += [(name, keys - {member}) for name, keys in named.items() if member in keys]
        for draw in range(count):
            halves = draws.random(len(members)) < 0.5
            out = frozenset(key for key, is_out in zip(members, halves, strict=True) if is_out) - {member}
            before.append((f"random half {draw}", out))
        found = []
        for name, keys in before:
            kept = gauge.members - keys
            found.append((name, gauge.value(kept), gauge.value(kept - {member})))
        sizes = [-math.inf if math.isnan(b - a) else abs(b - a) for _, a, b in found]
        name, with_it, without = found[int(np.argmax(sizes))]
        change = without - with_it
        rows.append((said(member), *member, name, with_it, without, change, abs(gauge.change(change))))
    parts = list(Edge._fields if gauge.of == "edges" else Node._fields)
    columns = ["member", *parts, "after_removing", "with_member", "without_member", "change", "share"]
    frame = pandas.DataFrame(rows, columns=columns)
    for name in ("source_position", "position"):
        if name in frame:
            frame[name] = pandas.array(frame[name].tolist(), dtype="Int64")
    least = number(frame["share"].min()) if len(frame) else "NaN"
    return Measured(f"Minimality (smallest share {least})", frame, gauge.full, gauge.empty, gauge.of, gauge.note)


def random_circuits(
    circuit: Circuit,
    measure: Judged[Measure],
    *,
    of: str | None = None,
    n: Whole = 20,
    like: str = "any",
    seed: Whole = 0,
) -> RandomCircuits:
    """What random sets of as many candidates recover, beside the circuit.

    >>> circuit = Circuit(pandas.DataFrame({"node": ["L0H0", "L0H1", "L0H2"], "score": [3.0, 1.0, 0.0]})).top(1)
    >>> weights = {"L0H0": 3.0, "L0H1": 1.0, "L0H2": 0.0}
    >>> found = random_circuits(circuit, lambda kept: sum(weights[key.node] for key in kept), n=50)
    >>> found.own_recovered, sorted(found.frame["recovered"].unique().tolist())
    (0.75, [0.0, 0.25, 0.75])

    Args:
        like: "any" draws among all candidates; "layers" as many of each kind in each layer as the circuit has (of an
            edge: the target's kind, layer and port).
    """
    count = as_whole(n, "random_circuits", "n", 1)
    as_text(like, "random_circuits", "like", ("any", "layers"))
    gauge = Gauge(circuit, measure, of)
    strata: dict[Any, list[Any]] = defaultdict(list)
    for key in gauge.every:
        strata[_stratum(key) if like == "layers" else None].append(key)
    draws = np.random.default_rng(as_whole(seed, "random_circuits", "seed", 0))
    rows = []
    for draw in range(count):
        kept: set[Any] = set()
        for keys in strata.values():
            size = sum(key in gauge.members for key in keys)
            kept.update(keys[place] for place in draws.choice(len(keys), size=size, replace=False).tolist())
        value = gauge.value(kept)
        rows.append((draw, len(kept), value, gauge.share(value)))
    frame = pandas.DataFrame(rows, columns=["draw", "kept", "value", "recovered"])
    own = gauge.value(gauge.members)
    return RandomCircuits(
        "Random circuits", frame, gauge.full, gauge.empty, gauge.of, gauge.note, own_value=own,
        own_recovered=gauge.share(own),
    )  # fmt: skip


def said(key: Node | Edge) -> str:
    """A node or an edge in a table.

    >>> said(Node("L3 MLP", 4)), said(Edge("embed", "L3H2", "k", 4, 9))
    ('L3 MLP@4', 'embed@4 → L3H2@9 k')
    """
    if isinstance(key, Node):
        return f"{key.node}{key_at(key.position)}"
    return f"{key.source}{key_at(key.source_position)} → {key.target}{key_at(key.position)} {key.port}"


def _stratum(key: Node | Edge) -> tuple[Any, ...]:
    parts = node_parts(key.target if isinstance(key, Edge) else key.node)
    return (parts.kind, parts.layer, key.port if isinstance(key, Edge) else "")


def _within(keys: Iterable[Any], gauge: Gauge, operation: str) -> frozenset[Any]:
    found = frozenset(keys)
    strange = [key for key in found if key not in gauge.all]
    if strange:
        raise refused(operation, f"sets of keys of its {gauge.of}", strange[0], "Circuit.candidates lists them.")
    return found & gauge.members

"""A circuit: the nodes and edges that are said to make a metric what it is, among all that were scored.

`Circuit` holds every candidate with its score, and which of them are in the circuit, so that it can be chosen anew,
compared with random ones and measured (:mod:`analyses.attribution.faithfulness`). Scores are predictions, in the unit
of the metric: a positive one raises it. `exact` is the effect that was measured by the intervention, where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from jaxtyping import Bool, Float64

from analyses.attribution import circuit_export as export
from analyses.attribution.circuit_choice import (
    chosen,
    connected_edges,
    connected_nodes,
    greedy_edges,
    greedy_nodes,
)
from analyses.attribution.circuit_effects import Effects, told_by_effects
from analyses.attribution.circuit_file import checked_json, read_circuit, write_circuit
from analyses.attribution.circuit_parts import (
    Edge,
    Node,
    edge_keys,
    edges_of,
    node_keys,
    node_parts,
    nodes_of,
    positions_of,
)
from interp.arguments import Judged, Number, Whole, as_number, as_text, as_whole, refused
from interp.display import visible

if TYPE_CHECKING:
    import networkx

    from analyses.views.view import View

__all__ = ["Circuit"]

_TABLES = ("nodes", "edges", "positions")


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """Scored nodes and edges, those of them that are the circuit, the metric and the runs it all came from.

    >>> edges = pandas.DataFrame({
    ...     "source": ["embed", "L0H1", "embed"], "target": ["L0H1", "logits", "logits"], "port": ["v", "out", "out"],
    ...     "source_position": [4, 6, 6], "position": [6, 6, 6], "score": [0.5, 2.0, -0.1]})
    >>> scored = Circuit(None, edges, metric="logit difference")
    >>> scored.greedy(2)
    Circuit of logit difference: 3 of 4 nodes, 2 of 3 edges into logits
      found     greedy, 2 edges by score
    >>> scored.greedy(2).members()[1][["source", "target", "score"]].values.tolist()
    [['embed', 'L0H1', 0.5], ['L0H1', 'logits', 2.0]]

    Attributes:
        nodes: one row a node and position: ``node, kind, layer, head, position, token, score, exact, in_circuit``, and
            further columns as given. `token` is what its position has read; `kind`, `layer` and `head` are those of
            the name. Ends of edges that are not there are added, unscored.
        edges: ``source, target, port, source_position, position, score, exact, in_circuit``; port is q, k, v, mlp or
            out. A missing position is all positions together.
        metric: what was measured, in words, with its unit.
        target: the node that the metric is read from: "logits", or "L3 resid_post" (pre, mid) for a score of it.
        positions: ``position, step, input_token, token``: what each position has read and what it predicts; made of
            what the other tables tell unless given.
        runs: what it came from, one mapping a response: model, problem, sample, seed...
        model: name, weight_hash, n_layers, n_heads, d_model...
        settings: how scores were made, and in "found" how the circuit was.

    Raises:
        InputError: columns that are missing or of another kind, names that are none, edges that go backward or across
            positions where none can, anything twice.
    """

    nodes: Judged[pandas.DataFrame]
    edges: Judged[pandas.DataFrame] = field(default_factory=pandas.DataFrame)
    metric: str = "score"
    target: str = "logits"
    positions: Judged[pandas.DataFrame] = field(default_factory=pandas.DataFrame)
    runs: tuple[Mapping[str, Any], ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("nodes", "edges", "positions"):
            if not isinstance(getattr(self, name), pandas.DataFrame | type(None)):
                raise refused("Circuit", f"{name} as a DataFrame", getattr(self, name), "Pass a table.")
        as_text(self.metric, "Circuit", "metric")
        if node_parts(self.target).kind not in ("logits", "residual"):
            raise refused("Circuit", 'a target "logits" or "L3 resid_post"', self.target, "Name what is measured.")
        edges = edges_of(self.edges)
        places = positions_of(self.positions, self.nodes, edges)
        nodes = nodes_of(self.nodes, edges, places)
        ends = {end for key in _kept(edge_keys(edges), edges) for end in (key.begins, key.ends)}
        # An edge brings its ends.
        nodes["in_circuit"] = nodes["in_circuit"].to_numpy() | np.array([key in ends for key in node_keys(nodes)], bool)
        if isinstance(self.runs, Mapping | str) or not isinstance(self.runs, Iterable):
            raise refused("Circuit", "runs as a list of mappings", self.runs, "Put it into a list.")
        made = {
            "nodes": nodes, "edges": edges, "positions": places,
            "runs": tuple(checked_json(dict(run), "runs") for run in self.runs),
            "model": checked_json(dict(self.model), "model"),
            "settings": checked_json(dict(self.settings), "settings"),
        }  # fmt: skip
        for name, value in made.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_effects(
        cls, edges: Judged[Effects | None] = None, nodes: Judged[Effects | None] = None, *,
        model: Mapping[str, Any] | None = None, runs: Iterable[Mapping[str, Any]] = (),
        positions: Judged[pandas.DataFrame | None] = None,
    ) -> Circuit:  # fmt: skip
        """All that patching has scored, of edges, nodes or both, with its metric, target and settings.

        >>> from types import SimpleNamespace as Found
        >>> table = pandas.DataFrame({
        ...     "source": ["L0H1"], "target": ["L2 resid_post"], "port": ["out"], "source_position": [6],
        ...     "position": [6], "source_token": ["is"], "token": ["is"], "score": [2.0], "exact": [1.5]})
        >>> Circuit.from_effects(Found(table=table, settings={"metric": "nHSIC", "model": "toy-reasoner"}))
        Circuit of nHSIC: 2 of 2 nodes, 1 of 1 edges into L2 resid_post

        Residual streams among the nodes are left out: they are sums of nodes. Shares of all edges, as in CPR and CMD,
        are those of the table: it has to have been told to keep all that were scored.

        Args:
            edges, nodes: what has ``table`` and ``settings``, as results of patching have.
            model: name, n_layers, n_heads, d_model...; the name of the settings unless given.

        Raises:
            InputError: neither, different metrics, several targets.
        """
        every = {**told_by_effects(edges, nodes), "runs": tuple(runs), "positions": positions}
        return cls(**every if model is None else {**every, "model": dict(model)})

    # What there is

    def candidates(self, of: str) -> list[Node] | list[Edge]:
        """Keys of all that may be chosen, "nodes" (without the target) or "edges", in the order of the table.

        >>> Circuit(pandas.DataFrame({"node": ["L0H1", "logits"], "score": [2.0, float("nan")]})).candidates("nodes")
        [Node(node='L0H1', position=None)]
        """
        if self._of(of) == "edges":
            return list(self._edge_keys)
        return [key for key in self._node_keys if key.node != self.target]

    def kept(self, of: str) -> frozenset[Any]:
        """The keys of the nodes (without the target) or of the edges that are in the circuit."""
        if self._of(of) == "edges":
            return frozenset(_kept(self._edge_keys, self.edges))
        return frozenset(key for key in _kept(self._node_keys, self.nodes) if key.node != self.target)

    def members(self) -> tuple[pandas.DataFrame, pandas.DataFrame]:
        """The nodes and the edges that are in the circuit, as tables of their own."""
        return tuple(  # type: ignore[return-value]
            frame[frame["in_circuit"]].reset_index(drop=True) for frame in (self.nodes, self.edges)
        )

    def to_frame(self, of: str = "nodes") -> pandas.DataFrame:
        """A copy of the table of "nodes", "edges" or "positions"."""
        return getattr(self, as_text(of, "Circuit.to_frame", "of", _TABLES)).copy()

    @property
    def unit(self) -> str:
        """What the circuit is made of: "edges" where there are any, otherwise "nodes"."""
        return "edges" if len(self.edges) else "nodes"

    # Choosing

    def by_threshold(
        self, threshold: Number, *, of: str | None = None, by: str = "score", absolute: bool = True,
        connected: str = "target",
    ) -> Circuit:  # fmt: skip
        """The circuit of those whose score is at least `threshold` in size, and lead to the target.

        Args:
            of: choose "edges" (where there are any, unless told) or "nodes".
            by: the column with the scores.
            absolute: False compares the score itself, so that only what raises the metric is taken.
            connected: "target" leaves out what no path of chosen edges joins to the target, "both" also what none joins
                to a source, "no" nothing.
        """
        level = as_number(threshold, "Circuit.by_threshold", "threshold")
        said = {"how": "threshold", "of": self._of(of), "threshold": level, "by": by}
        return self._with({**said, "absolute": absolute, "connected": connected})

    def top(
        self, n: Whole, *, of: str | None = None, by: str = "score", absolute: bool = True, connected: str = "target"
    ) -> Circuit:
        """The circuit of the n strongest, less those that do not lead to the target; options as in `by_threshold`."""
        said = {"how": "top", "of": self._of(of), "n": as_whole(n, "Circuit.top", "n", 0), "by": by}
        return self._with({**said, "absolute": absolute, "connected": connected})

    def greedy(self, n: Whole, *, of: str | None = None, by: str = "score", absolute: bool = True) -> Circuit:
        """The circuit that grows from the target: n times, the strongest that leads to what is there already.

        All of it is connected to the target; there are fewer than n where no more lead to it.
        """
        said = {"how": "greedy", "of": self._of(of), "n": as_whole(n, "Circuit.greedy", "n", 0), "by": by}
        return self._with({**said, "absolute": absolute, "connected": "target"})

    def strongest(
        self, n: Whole, *, of: str | None = None, how: str = "top", by: str = "score", absolute: bool = True,
        connected: str = "target",
    ) -> frozenset[Any]:  # fmt: skip
        """The keys that `top` or `greedy` would keep, without a circuit made of them.

        >>> scored = Circuit(pandas.DataFrame({"node": ["L0H0", "L0H1"], "score": [3.0, -4.0]}))
        >>> scored.strongest(1)
        frozenset({Node(node='L0H1', position=None)})
        """
        as_text(how, "Circuit.strongest", "how", ("top", "greedy"))
        said = {"how": how, "of": self._of(of), "n": as_whole(n, "Circuit.strongest", "n", 0), "by": by}
        taken = self._taken({**said, "absolute": absolute, "connected": connected})
        keys = self._edge_keys if said["of"] == "edges" else self._node_keys
        return frozenset(keys[place] for place in np.flatnonzero(taken).tolist())

    def with_kept(self, kept: Iterable[Any]) -> Circuit:
        """The circuit of exactly these `Node` or `Edge` keys; edges bring their ends, nodes the edges between them.

        Raises:
            InputError: a key that is not among the candidates.
        """
        keys = list(kept)
        unit = self.unit if not keys else "edges" if isinstance(keys[0], Edge) else "nodes"
        strange = sorted(set(keys) - set(self.candidates(unit)), key=keys.index)
        if strange:
            raise refused("Circuit.with_kept", f"keys of its {unit}", f"{strange[0]}", "Circuit.candidates lists them.")
        wanted = set(keys)
        taken = np.array([key in wanted for key in (self._edge_keys if unit == "edges" else self._node_keys)], bool)
        return self._with({"how": "given", "of": unit, "n": len(wanted)}, taken)

    def _taken(self, said: dict[str, Any]) -> Bool[np.ndarray, " n"]:
        """Which edges or nodes are chosen so."""
        unit, scores, absolute, goal = said["of"], self._scores(said["of"], said["by"]), said["absolute"], self._targets
        if (
            said["connected"] != "no"
            and self._edge_keys
            and not any(end.target == self.target for end in self._edge_keys)
        ):
            raise refused("choose a circuit", f"an edge into {self.target}", "none", "Set Circuit.target.")
        if said["how"] == "greedy" and unit == "edges":
            return greedy_edges(self._edge_keys, scores, goal, said["n"], absolute)
        if said["how"] == "greedy" and self._edge_keys:
            return greedy_nodes(self._node_keys, scores, self._edge_keys, goal, said["n"], absolute)
        taken = chosen(scores, absolute, said.get("threshold"), said.get("n"))
        if unit == "edges":
            return connected_edges(self._edge_keys, taken, goal, said["connected"])
        return connected_nodes(self._node_keys, taken, self._edge_keys, goal, said["connected"])

    def _with(self, said: dict[str, Any], given: Bool[np.ndarray, " n"] | None = None) -> Circuit:
        nodes, edges = self.nodes.copy(), self.edges.copy()
        taken = self._taken(said) if given is None else given
        places, held = np.flatnonzero(taken).tolist(), set(self._targets)
        if said["of"] == "edges":
            held |= {end for place in places for end in (self._edge_keys[place].begins, self._edge_keys[place].ends)}
            edges["in_circuit"] = taken
        else:
            held |= {self._node_keys[place] for place in places}
            edges["in_circuit"] = np.array([e.begins in held and e.ends in held for e in self._edge_keys], dtype=bool)
        nodes["in_circuit"] = np.array([key in held for key in self._node_keys], dtype=bool)
        return replace(self, nodes=nodes, edges=edges, settings={**self.settings, "found": said})

    def _scores(self, unit: str, by: str) -> Float64[np.ndarray, " n"]:
        frame = self.edges if unit == "edges" else self.nodes
        if by not in frame.columns or not pandas.api.types.is_numeric_dtype(frame[by].dtype):
            raise refused("choose a circuit", f"by as a column of numbers of the {unit}", by, "Name one.")
        scores = frame[by].to_numpy(dtype=np.float64, na_value=np.nan).copy()
        if unit == "nodes":
            scores[(frame["node"] == self.target).to_numpy(dtype=bool)] = np.nan  # it is what is measured
        return scores

    def _of(self, of: str | None) -> str:
        return as_text(of or self.unit, "Circuit", "of", ("nodes", "edges"))

    @cached_property
    def _node_keys(self) -> list[Node]:
        return node_keys(self.nodes)

    @cached_property
    def _edge_keys(self) -> list[Edge]:
        return edge_keys(self.edges)

    @property
    def _targets(self) -> list[Node]:
        return [key for key in self._node_keys if key.node == self.target]

    # Keeping and handing on

    def same_as(self, other: Circuit) -> bool:
        """Whether every field is the same, types and undefined values included."""
        mine, its = ([getattr(one, f.name) for f in fields(self)] for one in (self, other))
        return all(
            a.dtypes.equals(b.dtypes) and a.equals(b) if isinstance(a, pandas.DataFrame) else a == b
            for a, b in zip(mine, its, strict=True)
        )

    def save(self, path: str | Path) -> Path:
        """Write one file of JSON, whole or not at all, with every field exactly.

        >>> import tempfile
        >>> circuit = Circuit(pandas.DataFrame({"node": ["L0H1"], "score": [0.1]}))
        >>> Circuit.load(circuit.save(tempfile.mkdtemp() + "/circuit.json")).same_as(circuit)
        True
        """
        tables = {name: getattr(self, name) for name in _TABLES}
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _TABLES}
        return write_circuit(Path(path), tables, rest)

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read what :meth:`save` wrote; anything else, pickles too, is an `InputError`."""
        tables, rest = read_circuit(Path(path))
        strange = set(rest) ^ {f.name for f in fields(cls) if f.name not in _TABLES}
        if strange:
            raise refused("load a circuit", "the fields of a circuit", ", ".join(sorted(strange)), "Save it again.")
        every: dict[str, Any] = {**tables, **rest, "runs": tuple(rest["runs"])}
        return cls(**every)

    def to_networkx(self, *, members: bool = True) -> networkx.MultiDiGraph:
        """As a graph of networkx: nodes are ``(name, position)``, edges have their port as key; rows are attributes.

        Args:
            members: False takes all candidates.

        Raises:
            InputError: networkx is not installed (``pip install networkx``).
        """
        return export.to_networkx(self, members)

    def to_circuit_tracer(
        self, folder: str | Path, slug: str, *, probability: Number | None = None, prompt: str | None = None
    ) -> Path:
        """Write ``slug.json`` and ``graph-metadata.json`` as circuit-tracer's page reads them (schema 1).

        Heads and MLPs stand as its features, with their name as label; a pair of nodes has one link, the sum over q, k
        and v. Only what is in the circuit and scored is written.

        Args:
            slug: the name of the file: letters, digits, ``.``, ``_``, ``-``.
            probability: of the predicted token, where it is known.
            prompt: the text; the tokens that were read unless given.
        """
        return export.to_circuit_tracer(self, Path(folder), slug, probability, prompt)

    def to_eap_ig(self, path: str | Path) -> Path:
        """Write the JSON of EAP-IG and the MIB benchmark: ``cfg``, ``nodes``, ``edges``.

        Positions are added up, as there are none there; biases of attention are left out, as they belong to no node of
        it. `model` must have n_layers, n_heads and d_model.
        """
        return export.to_eap_ig(self, Path(path))

    def show(
        self, *, words: Judged[pandas.DataFrame | None] = None, attention: Judged[pandas.DataFrame | None] = None,
        members: bool = True, most: Whole = 2000, threshold: Judged[Number | None] = None, title: str = "",
    ) -> View:  # fmt: skip
        """The picture of it: :func:`analyses.views.circuit`, with its options."""
        from analyses.views.circuits import circuit

        return circuit(
            self, words=words, attention=attention, members=members, most=most, threshold=threshold, title=title
        )

    def _repr_html_(self) -> str:
        return self.show()._repr_html_()

    def __repr__(self) -> str:
        nodes, edges = self.nodes, self.edges
        parts = [
            f"{int(frame['in_circuit'].sum())} of {len(frame)} {name}"
            for name, frame in (("nodes", nodes), ("edges", edges))
            if len(frame) or name == "nodes"
        ]
        found = self.settings.get("found", {})
        lines = [f"Circuit of {visible(self.metric)}: {', '.join(parts)} into {self.target}"]
        if found:
            size = f"{found['n']} {found['of']}" if "n" in found else f"{found['of']} from {found['threshold']:g}"
            lines.append(f"  found     {found['how']}, {size}{' by ' + found['by'] if 'by' in found else ''}")
        unscored = int(np.isnan(self._scores(self.unit, "score")).sum())
        unscored -= len(self._targets) if self.unit == "nodes" else 0
        if unscored:
            lines.append(f"  unscored  {unscored} {self.unit}, which are never chosen")
        if self.runs:
            lines.append(f"  from      {len(self.runs)} run{'s' * (len(self.runs) != 1)}")
        return "\n".join(lines)


def _kept(keys: list[Any], frame: pandas.DataFrame) -> list[Any]:
    return [key for key, is_in in zip(keys, frame["in_circuit"], strict=True) if is_in]

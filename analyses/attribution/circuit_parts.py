"""What circuits are made of: names of nodes, keys of nodes and edges, and their tables, checked.

A node is what writes into the residual stream: "embed", a head "L3H2", an attention bias "L3 b_O", an MLP "L3 MLP"; and
what the metric is read from: "logits", or "L3 resid_post" (pre, mid) where it is a score of a residual stream. An edge
goes from a node to a port of a later one: a head's q, k or v, an MLP's mlp, out of logits or of a residual stream.

An edge crosses positions through k and v only. A missing position means: all positions together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas

from interp.errors import InputError

__all__ = [
    "EDGE_COLUMNS", "NODE_COLUMNS", "PORTS", "Edge", "Graph", "Node", "NodeParts", "edge_keys", "edges_of", "key_at",
    "node_keys", "node_name", "node_parts", "nodes_of", "positions_of",
]  # fmt: skip

NODE_COLUMNS = ("node", "kind", "layer", "head", "position", "token", "score", "exact", "in_circuit")
EDGE_COLUMNS = ("source", "target", "port", "source_position", "position", "score", "exact", "in_circuit")
PORTS = ("q", "k", "v", "mlp", "out")

_NAMES = {
    "embed": r"embed",
    "head": r"L(\d+)H(\d+)",
    "bias": r"L(\d+) b_O",
    "mlp": r"L(\d+) MLP",
    "residual": r"L(\d+) resid_(?:pre|mid|post)",
    "logits": r"logits",
}
_INTO = {"head": ("q", "k", "v"), "mlp": ("mlp",), "residual": ("out",), "logits": ("out",), "embed": (), "bias": ()}
_LATER = 1 << 40
# The order within a block.
_WITHIN = {"embed": 0, "pre": 0, "head": 1, "bias": 1, "mid": 2, "mlp": 3, "post": 4, "logits": 0}


class Node(NamedTuple):
    """A node at a position; None is all positions together."""

    node: str
    position: int | None = None


class Edge(NamedTuple):
    """From a node at a position to a port of a node at a position."""

    source: str
    target: str
    port: str
    source_position: int | None = None
    position: int | None = None

    @property
    def begins(self) -> Node:
        return Node(self.source, self.source_position)

    @property
    def ends(self) -> Node:
        return Node(self.target, self.position)


class NodeParts(NamedTuple):
    """What a node's name says: kind ("embed", "head", "bias", "mlp", "residual", "logits"), layer, head, and depth.

    An edge goes from a lower depth, (layer, place in the block), to a higher one.
    """

    kind: str
    layer: int | None
    head: int | None
    depth: tuple[int, int]


@runtime_checkable
class Graph(Protocol):
    """What is written out of a circuit: its tables, and what they are of."""

    @property
    def nodes(self) -> pandas.DataFrame: ...
    @property
    def edges(self) -> pandas.DataFrame: ...
    @property
    def positions(self) -> pandas.DataFrame: ...
    @property
    def metric(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def model(self) -> Mapping[str, Any]: ...


def node_name(kind: str, layer: int | None = None, head: int | None = None) -> str:
    """The name of a node.

    >>> node_name("head", 3, 2), node_name("bias", 3), node_name("mlp", 3), node_name("embed")
    ('L3H2', 'L3 b_O', 'L3 MLP', 'embed')
    """
    names = {
        "embed": "embed", "logits": "logits", "head": f"L{layer}H{head}", "bias": f"L{layer} b_O",
        "mlp": f"L{layer} MLP", "residual": f"L{layer} resid_post",
    }  # fmt: skip
    if kind not in names:
        raise InputError("node_name", expected=", ".join(names), received=repr(kind), remedy="Name a kind of node.")
    node_parts(names[kind])  # refuses what lacks a layer or a head
    return names[kind]


def node_parts(name: Any) -> NodeParts:
    """What a node's name says of it.

    >>> node_parts("L3H2"), node_parts("L3 MLP").layer
    (NodeParts(kind='head', layer=3, head=2, depth=(3, 1)), 3)

    Raises:
        InputError: a name that is none.
    """
    for kind, form in _NAMES.items():
        found = re.fullmatch(form, name) if isinstance(name, str) else None
        if found:
            numbers = [int(number) for number in found.groups()]
            layer = numbers[0] if numbers else None
            within = _WITHIN[name.rpartition("_")[2] if kind == "residual" else kind]
            depth = (-1 if kind == "embed" else _LATER if layer is None else layer, within)
            return NodeParts(kind, layer, numbers[1] if len(numbers) > 1 else None, depth)
    raise InputError(
        "name of a node",
        expected='"embed", "L3H2", "L3 b_O", "L3 MLP", "L3 resid_post" or "logits"',
        received=repr(name)[:80],
        remedy="analyses.attribution.node_name makes them.",
    )


def nodes_of(given: pandas.DataFrame | None, edges: pandas.DataFrame, positions: pandas.DataFrame) -> pandas.DataFrame:
    """The table of nodes with all its columns, kinds and layers from the names; ends of edges are added, unscored."""
    frame = _or_none(given, ["node"])
    if "node" not in frame.columns:
        raise _refused("nodes with a column node", f"columns {', '.join(map(str, frame.columns))}")
    found = _columns(frame, NODE_COLUMNS, "nodes")
    known = set(node_keys(found))
    ends = dict.fromkeys(end for edge in edge_keys(edges) for end in (edge.begins, edge.ends))
    new = [end for end in ends if end not in known]
    if new:
        added = pandas.DataFrame(new, columns=["node", "position"])
        found = _columns(_beneath(found, added), NODE_COLUMNS, "nodes")
    parts = {name: node_parts(name) for name in found["node"].unique()}
    of = [parts[name] for name in found["node"]]
    found["kind"] = pandas.Series([part.kind for part in of], dtype=object)
    for name in ("layer", "head"):
        found[name] = pandas.array([getattr(part, name) for part in of], dtype="Int64")
    said = dict(zip(_plain(positions["position"]), positions["input_token"], strict=True))
    tokens = zip(found["token"], _plain(found["position"]), strict=True)
    found["token"] = pandas.Series([said.get(at, "") if token == "" else token for token, at in tokens], dtype=object)
    keys = node_keys(found)
    if len(set(keys)) < len(keys):
        raise _refused("each node once at a position", f"{_twice(keys)} more than once")
    return found


def edges_of(given: pandas.DataFrame | None) -> pandas.DataFrame:
    """The table of edges with all its columns; each goes forward, into a port that its target has."""
    frame = _or_none(given, ["source", "target", "port"])
    missing = [name for name in ("source", "target", "port") if name not in frame.columns]
    if missing:
        raise _refused("edges with columns source, target and port", f"no {', '.join(missing)}")
    found = _columns(frame, EDGE_COLUMNS, "edges")
    parts = {name: node_parts(name) for side in ("source", "target") for name in found[side].unique()}
    keys = edge_keys(found)
    for edge in keys:
        source, target = parts[edge.source], parts[edge.target]
        if edge.port not in _INTO[target.kind]:
            takes = " or ".join(_INTO[target.kind]) or "no edge"
            raise _refused(f"an edge into {edge.target} by {takes}", f"{edge.source} by {edge.port!r}")
        if not source.depth < target.depth:
            raise _refused("edges from earlier to later in the forward pass", f"{edge.source} to {edge.target}")
        begins, ends = edge.source_position, edge.position
        across = edge.port in ("k", "v") and begins is not None and ends is not None and begins <= ends
        if begins != ends and not across:
            raise _refused(
                "edges within a position, or through k and v to a later one",
                f"{edge.source} at {begins} to {edge.target} at {ends} by {edge.port}",
            )
    if len(set(keys)) < len(keys):
        raise _refused("each edge once", f"{_twice(keys)} more than once")
    return found


def positions_of(
    given: pandas.DataFrame | None, nodes: pandas.DataFrame | None, edges: pandas.DataFrame
) -> pandas.DataFrame:
    """The table of positions: where, which step, what it has read and what it predicts.

    Without one, what the other tables say: the tokens that positions have read, and so what those before them predict.
    """
    frame = _or_none(given, ["position"])
    if not len(frame):
        frame = _told(_or_none(nodes, ["node"]), edges)
    if "position" not in frame.columns:
        raise _refused("positions with a column position", f"columns {', '.join(map(str, frame.columns))}")
    found = _columns(frame, ("position", "step", "input_token", "token"), "positions")
    if found["position"].isna().any() or found["position"].duplicated().any():
        raise _refused("each position once", "one missing or more than once")
    return found


def node_keys(frame: pandas.DataFrame) -> list[Node]:
    """The key of each row of a table of nodes."""
    return list(map(Node, frame["node"], _plain(frame["position"])))


def edge_keys(frame: pandas.DataFrame) -> list[Edge]:
    """The key of each row of a table of edges."""
    columns = [frame["source"], frame["target"], frame["port"]]
    return list(map(Edge, *columns, _plain(frame["source_position"]), _plain(frame["position"])))


def key_at(position: int | None) -> str:
    """How a position is said behind a node's name.

    >>> f"L3H2{key_at(17)}", f"L3H2{key_at(None)}"
    ('L3H2@17', 'L3H2')
    """
    return "" if position is None else f"@{position}"


def _told(nodes: pandas.DataFrame, edges: pandas.DataFrame) -> pandas.DataFrame:
    """Positions by what tables of nodes and edges tell of them."""
    read: dict[int, str] = {}
    steps: dict[int, Any] = {}
    columns = [(nodes, "position", "token"), (edges, "position", "token"), (edges, "source_position", "source_token")]
    for frame, where, what in columns:
        if {where, what} <= set(frame.columns):
            found = zip(_plain(frame[where]), frame[what], strict=True)
            read.update({at: token for at, token in found if at is not None and isinstance(token, str)})
    if {"position", "step"} <= set(nodes.columns):
        found = zip(_plain(nodes["position"]), nodes["step"], strict=True)
        steps.update({at: step for at, step in found if at is not None})
    order = sorted(read)
    made = {"position": order, "step": [steps.get(at) for at in order]}
    tokens = {"input_token": [read[at] for at in order], "token": [read.get(at + 1, "") for at in order]}
    return pandas.DataFrame({**made, **{name: pandas.Series(texts, dtype=object) for name, texts in tokens.items()}})


def _or_none(given: pandas.DataFrame | None, columns: list[str]) -> pandas.DataFrame:
    """The table, or one without rows where there is none."""
    return pandas.DataFrame(columns=columns) if given is None or not len(given.columns) else given


def _plain(column: pandas.Series[Any]) -> list[int | None]:
    return [None if missing else int(value) for value, missing in zip(column, column.isna(), strict=True)]


def _columns(frame: pandas.DataFrame, wanted: Sequence[str], what: str) -> pandas.DataFrame:
    """A copy whose columns have one type each, the wanted ones first, further ones behind."""
    made: dict[str, Any] = {}
    for name in [*wanted, *(str(name) for name in frame.columns if name not in wanted)]:
        column = frame[name] if name in frame.columns else None
        try:
            made[name] = _typed(name, column, len(frame))
        except (TypeError, ValueError) as error:
            raise _refused(
                f"{what} whose column {name!r} is numbers, texts or truth values", str(error)[:80]
            ) from error
    return pandas.DataFrame(made)


_WHOLE = ("layer", "head", "position", "source_position", "step")
_TEXTS = ("node", "kind", "token", "input_token", "source", "target", "port")


def _typed(name: str, column: pandas.Series[Any] | None, count: int) -> Any:
    if name in _WHOLE:
        values = [None] * count if column is None else column.tolist()
        plain = [None if pandas.isna(value) else value for value in values]
        if any(value is not None and (value != int(value) or value < 0 or isinstance(value, bool)) for value in plain):
            raise ValueError("a number that is no place, or below 0")
        return pandas.array([None if value is None else int(value) for value in plain], dtype="Int64")
    if name in _TEXTS:
        # Of objects: pandas' own texts hold no half of a surrogate pair.
        return pandas.Series([""] * count if column is None else _texts(column), dtype=object)
    if name == "in_circuit":
        return np.ones(count, dtype=bool) if column is None else _truths(column)
    if column is None:
        return np.full(count, np.nan)
    if pandas.api.types.is_bool_dtype(column.dtype):
        return _truths(column)
    if pandas.api.types.is_extension_array_dtype(column.dtype) and pandas.api.types.is_integer_dtype(column.dtype):
        return column.astype("Int64").array
    if pandas.api.types.is_numeric_dtype(column.dtype):
        whole = pandas.api.types.is_integer_dtype(column.dtype) and name not in ("score", "exact")
        return column.to_numpy(dtype=np.int64 if whole else np.float64)
    if name in ("score", "exact"):
        raise TypeError(f"{column.dtype}")
    return pandas.Series(_texts(column), dtype=object)


def _texts(column: pandas.Series[Any]) -> list[str]:
    listed = ["" if value is None or value is pandas.NA or value != value else value for value in column.tolist()]
    wrong = next((value for value in listed if not isinstance(value, str)), None)
    if wrong is not None:
        raise TypeError(f"{type(wrong).__name__} among texts")
    return [str(value) for value in listed]


def _truths(column: pandas.Series[Any]) -> np.ndarray:
    listed = column.tolist()
    if not all(isinstance(value, bool | np.bool_) for value in listed):
        raise TypeError("a truth value that is missing or none")
    return np.array(listed, dtype=bool)


def _beneath(frame: pandas.DataFrame, added: pandas.DataFrame) -> pandas.DataFrame:
    """Rows below rows: where the second has no column, numbers are missing, texts empty and truth values False."""
    made: dict[str, Any] = {}
    for name, column in frame.items():
        text = column.dtype == object
        fill: Any = "" if text else pandas.NA if str(column.dtype) == "Int64" else np.nan
        if column.dtype == bool:
            fill = name == "in_circuit"
        below = added[name].tolist() if name in added.columns else [fill] * len(added)
        keep = object if text or str(column.dtype) == "Int64" else None
        made[str(name)] = pandas.Series([*column.tolist(), *below], dtype=keep)
    return pandas.DataFrame(made)


def _twice(keys: Iterable[Any]) -> str:
    return next((" ".join(map(str, key)) for key, count in Counter(keys).items() if count > 1), "")


def _refused(expected: str, received: str) -> InputError:
    return InputError("Circuit", expected=expected, received=received, remedy="Check the tables of nodes and edges.")

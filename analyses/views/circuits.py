"""A circuit as a picture to move in: positions from left to right, layers upward, nodes by share, edges by effect.

What is drawn without JavaScript, and what is there before it: the strongest edges as SVG, and the strongest nodes as a
table. The live picture (canvas, a script of our own) asks for nothing, and takes all text as text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from analyses.views.circuit_frame import framed
from analyses.views.circuit_layout import Layout, Place, laid_out
from analyses.views.circuit_still import still
from analyses.views.drawing import counted
from analyses.views.view import View
from interp.arguments import Judged, Number, Whole, as_number, as_text, as_whole, refused
from interp.display import number, short, visible

if TYPE_CHECKING:
    import pandas

__all__ = ["Wired", "circuit"]

_WORDS, _LOOKS = 10, 12  # words and places shown of a node
_NODES = 600
_TOKEN = 40  # characters of a token in the panel


@runtime_checkable
class Wired(Protocol):
    """What the picture needs of a circuit; `analyses.attribution.Circuit` is one, and tells of the columns."""

    @property
    def nodes(self) -> Any: ...
    @property
    def edges(self) -> Any: ...
    @property
    def positions(self) -> Any: ...
    @property
    def metric(self) -> str: ...
    @property
    def target(self) -> str: ...


def circuit(
    graph: Judged[Wired],
    *,
    words: Judged[pandas.DataFrame | None] = None,
    attention: Judged[pandas.DataFrame | None] = None,
    members: bool = True,
    most: Whole = 2000,
    threshold: Judged[Number | None] = None,
    title: str = "",
) -> View:
    """Who writes what to whom: nodes coloured by their share, edges by their effect, measured beside predicted.

    >>> import pandas
    >>> from types import SimpleNamespace as Graph
    >>> nodes = pandas.DataFrame({
    ...     "node": ["embed", "L0H1", "logits"], "kind": ["embed", "head", "logits"], "layer": [None, 0, None],
    ...     "head": [None, 1, None], "position": [4, 6, 6], "score": [0.1, 0.7, None], "exact": [None, 0.6, None],
    ...     "in_circuit": True})
    >>> edges = pandas.DataFrame({
    ...     "source": ["embed", "L0H1"], "target": ["L0H1", "logits"], "port": ["v", "out"], "source_position": [4, 6],
    ...     "position": [6, 6], "score": [0.5, 0.7], "exact": [None, 0.6], "in_circuit": True})
    >>> places = pandas.DataFrame({
    ...     "position": [4, 6], "step": [None, 0], "input_token": ["7", "is"], "token": ["-", "5"]})
    >>> circuit(Graph(nodes=nodes, edges=edges, positions=places, metric="logit of 5", target="logits"))
    Circuit of logit of 5
    3 nodes at 2 positions and 2 edges into logits. The strongest node is L0H1@6 (0.7), the strongest edge L0H1@6 → \
logits@6 (0.7).

    The input token of a position stands below its column, what it predicts above it. A click on a node shows its edges
    in and out, and what is handed in for it; the slider is the threshold.

    Args:
        words: ``node, position, token, value``: what each node's write says through the logit lens, best first.
        attention: ``node, position, source_position, attention``: where heads look.
        members: only what is in the circuit; False shows all candidates.
        most: edges in the picture at most, the strongest ones.
        threshold: the size of effect from which edges (nodes, where there are no edges) are seen at first; as many as
            are clear to the eye unless given.

    Raises:
        InputError: no node; tables without these columns.
    """
    operation = "circuit"
    if not isinstance(graph, Wired):
        raise refused(operation, "a circuit", graph, "analyses.attribution.Circuit makes one.")
    limit = as_whole(most, operation, "most", 1)
    nodes, edges = _rows(graph.nodes, members), _rows(graph.edges, members)
    if not len(nodes):
        raise refused(operation, "at least one node", "none", "members=False shows all candidates.")
    keys, wires, left_out = _strongest(nodes, edges, limit)
    layout = laid_out([Place(row["kind"], row["layer"], row["head"], row["position"]) for row in keys.values()])
    places = _places(graph.positions, layout)
    data = _data(graph, keys, wires, layout, places)
    data["words"] = _words(words, keys, operation)
    data["attention"] = _looks(attention, keys, places, operation)
    scores = [abs(wire["score"]) for wire in wires] if wires else [abs(row["score"] or 0.0) for row in keys.values()]
    first = _first(sorted(scores, reverse=True), threshold, operation)
    name = title or f"Circuit of {as_text(graph.metric, operation, 'metric')}"
    alt = _alt(graph, keys, wires, layout, left_out)
    picture = still(data, wires[: max(1, min(150, len(wires)))])
    return View(name, framed(data, first, picture, visible(name)), alt, None, lambda: _frame(graph, members))


def _rows(frame: Any, members: bool) -> list[dict[str, Any]]:
    """The rows as plain values; None where one is missing."""
    chosen = frame[frame["in_circuit"]] if members else frame
    rows: list[dict[str, Any]] = [
        {str(k): None if _missing(v) else v for k, v in row.items()} for row in chosen.to_dict("records")
    ]
    whole = [name for name in ("layer", "head", "position", "source_position") if name in frame.columns]
    for row in rows:
        row.update({name: int(row[name]) for name in whole if row[name] is not None})
    return rows


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ == "NAType"


Key = tuple[str, int | None]


def _strongest(
    nodes: list[dict[str, Any]], edges: list[dict[str, Any]], most: int
) -> tuple[dict[Key, dict[str, Any]], list[dict[str, Any]], str]:
    """The strongest edges, their ends and the strongest other nodes; what is left out, in words."""
    scored = [edge for edge in edges if edge["score"] is not None]
    scored.sort(key=lambda edge: -abs(edge["score"]))
    rows = {(row["node"], row["position"]): row for row in nodes}
    kept: dict[Key, None] = {}
    wires: list[dict[str, Any]] = []
    for edge in scored:
        ends = ((edge["source"], edge["source_position"]), (edge["target"], edge["position"]))
        new = {end for end in ends if end not in kept}
        if len(wires) < most and all(end in rows for end in ends) and len(kept) + len(new) <= _NODES:
            kept.update(dict.fromkeys(ends))
            wires.append({**edge, "ends": ends})
    for key in sorted(rows, key=lambda key: -abs(rows[key]["score"] or 0.0)):
        if len(kept) < _NODES:
            kept[key] = None
    chosen = {key: row for key, row in rows.items() if key in kept}
    out = [(len(rows) - len(chosen), "weaker node"), (len(scored) - len(wires), "weaker edge")]
    out += [(len(edges) - len(scored), "unscored edge")]
    return chosen, wires, ", ".join(counted(count, name) for count, name in out if count)


def _places(frame: Any, layout: Layout) -> list[dict[str, Any]]:
    said = {int(row["position"]): row for row in frame.to_dict("records")} if len(frame) else {}
    found = []
    for column in layout.columns:
        row = said.get(column.position, {}) if column.position is not None else {}
        read, says = (row.get(name) for name in ("input_token", "token"))
        known = column.position in said
        found.append(
            {
                "position": column.position, "x": column.x, "half": column.half, "gap": column.after_gap,
                "step": None if _missing(row.get("step")) else int(row["step"]),
                "read": short(str(read), _TOKEN) if known and not _missing(read) else _bare(column.position),
                "says": short(says, _TOKEN) if isinstance(says, str) and says else "",
            }
        )  # fmt: skip
    return found


def _bare(position: int | None) -> str:
    return "" if position is None else f"[{position}]"


_MARKS = {"mlp": "M", "bias": "b", "embed": "E", "logits": "", "residual": "R"}


def _data(
    graph: Wired, keys: Mapping[Key, dict[str, Any]], wires: list[dict[str, Any]], layout: Layout,
    places: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    rows, number_of = list(keys.values()), {key: n for n, key in enumerate(keys)}
    column = {place["position"]: c for c, place in enumerate(places)}
    labels = {"logits": "logits", "embed": "embed"}
    score, exact = ([_rounded(row[name]) for row in rows] for name in ("score", "exact"))
    effect, measured = ([_rounded(wire[name]) for wire in wires] for name in ("score", "exact"))
    order = sorted((n for n, value in enumerate(score) if value is not None), key=lambda n: -abs(score[n] or 0.0))
    return {
        "metric": visible(graph.metric),
        "said": any(place["says"] for place in places),
        "heard": any(place["read"] for place in places),
        "size": [layout.width, layout.height],
        "columns": places,
        "bands": [
            {"top": band.top, "bottom": band.bottom, "label": labels.get(band.name, f"L{band.name}")}
            for band in layout.bands
        ],
        "nodes": {
            "name": [row["node"] for row in rows], "kind": [row["kind"] for row in rows],
            "mark": [str(row["head"]) if row["kind"] == "head" else _MARKS[row["kind"]] for row in rows],
            "x": [round(x, 3) for x in layout.x], "y": [round(y, 3) for y in layout.y],
            "column": [column[position] for _, position in keys],
            "target": [row["node"] == graph.target for row in rows],
            "score": score, "exact": exact, "order": order,
        },
        "edges": {
            "s": [number_of[wire["ends"][0]] for wire in wires], "t": [number_of[wire["ends"][1]] for wire in wires],
            "port": [wire["port"] for wire in wires], "score": effect, "exact": measured,
            "order": list(range(len(wires))),
        },
        "most": {"node": _largest([*score, *exact], 0.03), "edge": _largest(effect, 0.003)},
        "agree": {"nodes": _agreement(score, exact), "edges": _agreement(effect, measured)},
    }  # fmt: skip


def _rounded(value: Any) -> float | None:
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None


def _largest(values: list[float | None], above: float) -> float:
    """What has the full colour: the largest, or where few are far above the others, what that share of them exceeds."""
    sizes = np.abs([value for value in values if value is not None])
    if not sizes.size:
        return 0.0
    common = float(np.quantile(sizes, 1 - above))
    return common if 0 < common < sizes.max() / 2 else float(sizes.max())


def _agreement(predicted: list[float | None], measured: list[float | None]) -> str:
    """How the ranks of what was predicted and of what was measured agree, in words; nothing for fewer than three."""
    pairs = [(p, m) for p, m in zip(predicted, measured, strict=True) if p is not None and m is not None]
    if len(pairs) < 3:
        return ""
    ranks = [_ranks(np.array(column)) for column in zip(*pairs, strict=True)]
    if min(float(np.ptp(rank)) for rank in ranks) == 0:
        return f"predicted against measured, {len(pairs)} measured"
    spearman = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    return f"predicted against measured, {len(pairs)} measured, Spearman {spearman:.2f}"


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, equal ones sharing their mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]


def _given(frame: Any, keys: Mapping[Key, Any], columns: tuple[str, ...], operation: str) -> dict[int, list[Any]]:
    """Rows of a table by the number of the node they are of; those of other nodes are left out."""
    if frame is None:
        return {}
    missing = [name for name in columns if name not in getattr(frame, "columns", ())]
    if missing:
        raise refused(operation, f"a table with {', '.join(columns)}", f"no {', '.join(missing)}", "Name its columns.")
    number_of = {key: n for n, key in enumerate(keys)}
    found: dict[int, list[Any]] = {}
    for name, position, *rest in frame[list(columns)].itertuples(index=False):
        place = number_of.get((name, None if _missing(position) else int(position)))
        if place is not None and not _missing(rest[-1]):
            found.setdefault(place, []).append(rest)
    return found


def _words(frame: Any, keys: Mapping[Key, Any], operation: str) -> dict[int, list[Any]]:
    found = _given(frame, keys, ("node", "position", "token", "value"), operation)
    return {n: [[short(str(word), 24), _rounded(value)] for word, value in rows[:_WORDS]] for n, rows in found.items()}


def _looks(frame: Any, keys: Mapping[Key, Any], places: list[dict[str, Any]], operation: str) -> dict[int, list[Any]]:
    found = _given(frame, keys, ("node", "position", "source_position", "attention"), operation)
    read = {place["position"]: place["read"] for place in places}
    made = {}
    for n, rows in found.items():
        best = sorted(rows, key=lambda row: -row[1])[:_LOOKS]
        made[n] = [[f"{read.get(int(at), '…')}@{int(at)}", _rounded(share)] for at, share in best]
    return made


def _first(scores: list[float], threshold: Any, operation: str) -> int:
    """Where the slider stands at first, of 1,000: the logarithm of how many are seen in that of how many there are."""
    wanted = min(len(scores), 120)
    if threshold is not None:
        level = as_number(threshold, operation, "threshold", 0)
        wanted = sum(score >= level for score in scores)
    return round(1000 * math.log(max(1, wanted)) / math.log(max(2, len(scores))))


def _alt(
    graph: Wired, keys: Mapping[Key, dict[str, Any]], wires: list[dict[str, Any]], layout: Layout, left_out: str
) -> str:
    def label(key: Key) -> str:
        return key[0] if key[1] is None else f"{key[0]}@{key[1]}"

    where = "" if layout.columns[0].position is None else f" at {counted(len(layout.columns), 'position')}"
    text = f"{counted(len(keys), 'node')}{where} and {counted(len(wires), 'edge')} into {graph.target}."
    scored = [key for key, row in keys.items() if row["score"] is not None]
    best = max(scored, key=lambda key: abs(keys[key]["score"]), default=None)
    parts = [] if best is None else [f"the strongest node is {label(best)} ({number(keys[best]['score'])})"]
    if wires:
        ends = " → ".join(map(label, wires[0]["ends"]))
        parts.append(f"the strongest edge {'' if parts else 'is '}{ends} ({number(wires[0]['score'])})")
    told = ", ".join(parts)
    return " ".join(
        [text, *([f"{told[0].upper()}{told[1:]}."] if told else []), *([f"Left out: {left_out}."] if left_out else [])]
    )


def _frame(graph: Wired, members: bool) -> pandas.DataFrame:
    frame = graph.edges if len(graph.edges) else graph.nodes
    return (frame[frame["in_circuit"]] if members else frame).reset_index(drop=True).copy()

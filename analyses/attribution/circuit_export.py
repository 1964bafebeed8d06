"""Circuits in the formats of other tools: networkx, circuit-tracer's graph JSON, the JSON of EAP-IG and MIB.

- circuit-tracer (schema 1): ``slug.json`` with metadata, qParams, nodes and links, beside ``graph-metadata.json`` that
  lists the graphs of a folder. Its nodes are features of transcoders: heads and MLPs stand in their place, told by
  their label; `influence` is the share of all scores that a node and the stronger ones have, as its slider wants it.
- EAP-IG / MIB: ``cfg``, ``nodes`` and ``edges`` by name (``a3.h2``, ``m3``, ``input``, ``logits``; ``m1->a3.h2<q>``).

What is written is checked against the lists of fields below before it is.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas

from analyses.attribution.circuit_parts import Graph, Node, edge_keys, key_at, node_keys, node_parts
from analyses.store.atomic import disk_errors, make_folder, replacing
from interp.arguments import Number, as_number, as_text, refused

if TYPE_CHECKING:
    import networkx

__all__ = ["check_circuit_tracer", "check_eap_ig", "to_circuit_tracer", "to_eap_ig", "to_networkx"]

_TRACER: dict[str, dict[str, Any]] = {
    "metadata": {
        "slug": str, "scan": str, "transcoder_list": list, "prompt_tokens": list, "prompt": str,
        "node_threshold": (float, int, type(None)), "schema_version": int,
    },
    "qParams": {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str},
    "nodes": {
        "node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "token_prob": float,
        "is_target_logit": bool, "run_idx": int, "reverse_ctx_idx": int, "jsNodeId": str, "clerp": str,
        "influence": (float, type(None)), "activation": (float, type(None)),
    },
    "links": {"source": str, "target": str, "weight": float},
}  # fmt: skip
_KINDS = ("cross layer transcoder", "mlp reconstruction error", "embedding", "logit")
_CFG = ("n_layers", "n_heads", "d_model")


def to_networkx(circuit: Graph, members: bool) -> networkx.MultiDiGraph:
    """The circuit, or all candidates, as a directed graph whose edges have their port as key."""
    try:
        import networkx
    except ImportError as error:
        raise refused("Circuit.to_networkx", "networkx", "none", "pip install networkx") from error
    made = networkx.MultiDiGraph(metric=circuit.metric, target=circuit.target)
    for key, row in zip(node_keys(circuit.nodes), _rows(circuit.nodes), strict=True):
        if row["in_circuit"] or not members:
            made.add_node((key.node, key.position), **row)
    for edge, row in zip(edge_keys(circuit.edges), _rows(circuit.edges), strict=True):
        if row["in_circuit"] or not members:
            made.add_edge(tuple(edge.begins), tuple(edge.ends), key=edge.port, **row)
    return made


def to_circuit_tracer(circuit: Graph, folder: Path, slug: str, probability: Number | None, prompt: str | None) -> Path:
    """Write the graph and its entry in the list of graphs beside it."""
    operation = "Circuit.to_circuit_tracer"
    as_text(slug, operation, "slug")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", slug):
        raise refused(operation, "a slug of letters, digits, ., _ and -", slug, "It becomes the name of a file.")
    chance = 0.0 if probability is None else as_number(probability, operation, "probability", 0, 1)
    places = _places(circuit, operation)
    rows = [(key, row) for key, row in zip(node_keys(circuit.nodes), _rows(circuit.nodes), strict=True)]
    rows = [(key, row) for key, row in rows if row["in_circuit"]]
    shares = _influence([row["score"] for _, row in rows])
    heads = 1 + max((int(row["head"]) for _, row in rows if row["kind"] == "head"), default=0)
    heads = int(circuit.model.get("n_heads", heads))
    top = 1 + _layers(circuit)
    ids: dict[Node, str] = {}
    nodes = []
    for (key, row), share in zip(rows, shares, strict=True):
        node = _tracer_node(key, row, places, heads, top, chance, circuit)
        ids[key] = node["node_id"]
        nodes.append({**node, "influence": None if math.isnan(share) else share})
    tokens = list(places.tokens)
    text = "".join(tokens) if prompt is None else as_text(prompt, operation, "prompt")
    data = {
        "metadata": {
            "slug": slug, "scan": str(circuit.model.get("name", "peaklens")), "transcoder_list": [],
            "prompt_tokens": tokens, "prompt": text,
            "node_threshold": None, "schema_version": 1,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": nodes,
        "links": _links(circuit, ids),
    }  # fmt: skip
    check_circuit_tracer(data)
    listing = folder / "graph-metadata.json"
    with disk_errors("save a graph", folder, "Choose a folder that can be written and has room."):
        make_folder(folder)
        others = _graphs(listing) if listing.exists() else []
        graphs = [graph for graph in others if graph.get("slug") != slug] + [data["metadata"]]
        _write(folder / f"{slug}.json", data)
        _write(listing, {"graphs": graphs})
    return folder / f"{slug}.json"


def to_eap_ig(circuit: Graph, path: Path) -> Path:
    """Write the circuit without its positions: scores are added up, in the graph is what is at any position."""
    operation = "Circuit.to_eap_ig"
    lacking = [name for name in _CFG if not isinstance(circuit.model.get(name), int)]
    if lacking:
        raise refused(operation, f"a model with {', '.join(_CFG)}", f"no {', '.join(lacking)}", "Fill Circuit.model.")
    if circuit.target != "logits":
        raise refused(operation, "a circuit into logits", circuit.target, "That format ends there.")
    nodes: dict[str, dict[str, Any]] = {}
    for key, row in zip(node_keys(circuit.nodes), _rows(circuit.nodes), strict=True):
        name = _eap_name(key.node)
        if name is not None:
            at = nodes.setdefault(name, {"in_graph": False, "score": math.nan})
            at["in_graph"] = at["in_graph"] or bool(row["in_circuit"])
            at["score"] = _added(at["score"], row["score"])
    edges: dict[str, dict[str, Any]] = {}
    for edge, row in zip(edge_keys(circuit.edges), _rows(circuit.edges), strict=True):
        source, target = _eap_name(edge.source), _eap_name(edge.target)
        if source is not None and target is not None:
            port = f"<{edge.port}>" if edge.port in "qkv" else ""
            at = edges.setdefault(f"{source}->{target}{port}", {"score": math.nan, "in_graph": False})
            at["in_graph"] = at["in_graph"] or bool(row["in_circuit"])
            at["score"] = _added(at["score"], row["score"])
    for name, at in nodes.items():
        if math.isnan(at["score"]):
            nodes[name] = {"in_graph": at["in_graph"]}
    unscored = [name for name, at in edges.items() if math.isnan(at["score"])]
    if any(edges[name]["in_graph"] for name in unscored):
        raise refused(operation, "a score for each edge of the circuit", f"none for {unscored[0]}", "Score them first.")
    cfg = {name: circuit.model[name] for name in _CFG}
    cfg["parallel_attn_mlp"] = bool(circuit.model.get("parallel_attn_mlp", False))
    scored = {name: at for name, at in edges.items() if name not in set(unscored)}
    data = {"cfg": cfg, "nodes": {"input": {"in_graph": True}, **nodes, "logits": {"in_graph": True}}, "edges": scored}
    check_eap_ig(data)
    with disk_errors("save a graph", path, "Choose a folder that can be written and has room."):
        make_folder(path.parent)
        _write(path, data)
    return path


def check_circuit_tracer(data: dict[str, Any]) -> None:
    """Refuse what is not circuit-tracer's schema 1: fields that lack or are too many, types, ids that lead nowhere."""
    _fields("circuit-tracer graph", data, dict.fromkeys(_TRACER, object))
    for part, wanted in _TRACER.items():
        for entry in data[part] if isinstance(data[part], list) else [data[part]]:
            _fields(f"circuit-tracer {part}", entry, wanted)
    ids = [node["node_id"] for node in data["nodes"]]
    ends = [link[side] for link in data["links"] for side in ("source", "target")]
    wrong = sorted(set(ends) - set(ids)) + [i for i, count in Counter(ids).items() if count > 1]
    wrong += [node["feature_type"] for node in data["nodes"] if node["feature_type"] not in _KINDS]
    wrong += [n["clerp"] for n in data["nodes"] if n["feature_type"] == "logit" and "(p=" not in n["clerp"]]
    wrong += [
        str(n["ctx_idx"]) for n in data["nodes"] if not 0 <= n["ctx_idx"] < len(data["metadata"]["prompt_tokens"])
    ]
    if wrong:
        raise refused("circuit-tracer graph", "ids, kinds and places that are there", wrong[0], "Check the circuit.")


def check_eap_ig(data: dict[str, Any]) -> None:
    """Refuse what EAP-IG's graph of this model does not have: nodes, edges that go backward, layers, heads."""
    _fields("EAP-IG graph", data, {"cfg": dict, "nodes": dict, "edges": dict})
    layers, heads = data["cfg"]["n_layers"], data["cfg"]["n_heads"]

    def place(name: str) -> tuple[int, int]:
        found = re.fullmatch(r"(input)|(logits)|a(\d+)\.h(\d+)|m(\d+)", name)
        if not found:
            raise refused("EAP-IG graph", "names as a3.h2, m3, input, logits", name, "Check the circuit.")
        if found[1] or found[2]:
            return (-1, 0) if found[1] else (layers, 0)
        layer, head = int(found[3] or found[5] or 0), int(found[4] or 0)
        if layer >= layers or head >= heads:
            raise refused("EAP-IG graph", f"{layers} layers of {heads} heads", name, "Check Circuit.model.")
        return (layer, 0 if found[3] else 1 - data["cfg"]["parallel_attn_mlp"])

    for name, entry in data["nodes"].items():
        place(name)
        _fields("EAP-IG node", entry, {"in_graph": bool, **({"score": float} if "score" in entry else {})})
    for name, entry in data["edges"].items():
        found = re.fullmatch(r"(.+)->([^<]+)(?:<([qkv])>)?", name)
        if not found or (found[3] is not None) != found[2].startswith("a") or not place(found[1]) < place(found[2]):
            raise refused("EAP-IG graph", "edges forward, as m1->a3.h2<q>", name, "Check the circuit.")
        if not {found[1], found[2]} <= set(data["nodes"]):
            raise refused("EAP-IG graph", "edges between its nodes", name, "Check the circuit.")
        _fields("EAP-IG edge", entry, {"score": float, "in_graph": bool})


def _fields(what: str, entry: Any, wanted: dict[str, Any]) -> None:
    if not isinstance(entry, dict) or set(entry) != set(wanted):
        got = ", ".join(map(str, entry)) if isinstance(entry, dict) else repr(entry)
        raise refused(what, f"fields {', '.join(wanted)}", got[:200], "Check the circuit.")
    for name, kind in wanted.items():
        value = entry[name]
        is_number = isinstance(value, float) and not math.isfinite(value)
        if not isinstance(value, kind) or is_number or (kind is int and isinstance(value, bool)):
            raise refused(what, f"{name} as {getattr(kind, '__name__', kind)}", value, "Check the circuit.")


class _Places:
    """Where positions stand among the tokens that a graph lists."""

    def __init__(self, order: list[int], tokens: list[str], predicted: dict[int, str]) -> None:
        self.tokens, self.order = tokens, {position: place for place, position in enumerate(order)}
        self.predicted = predicted

    def of(self, position: int | None) -> int:
        return len(self.tokens) - 1 if position is None else self.order[position]

    def says(self, position: int | None) -> str:
        return "" if position is None else self.predicted.get(position, "")


def _places(circuit: Graph, operation: str) -> _Places:
    """All positions in their order, those of nodes included; without any, one place for all."""
    names = [int(position) for position in circuit.positions["position"]]
    said, predicted = (
        dict(zip(names, map(str, circuit.positions[what]), strict=True)) for what in ("input_token", "token")
    )
    used = {key.position for key in node_keys(circuit.nodes) if key.position is not None}
    order = sorted(used | set(said))
    if not order:
        return _Places([], ["(all positions)"], {})
    return _Places(order, [said.get(position, f"[{position}]") for position in order], predicted)


def _tracer_node(
    key: Node, row: dict[Any, Any], places: _Places, heads: int, top: int, chance: float, circuit: Graph
) -> dict[str, Any]:
    kind, layer = row["kind"], node_parts(key.node).layer
    at = places.of(key.position)
    score = float(row["score"])
    made = {
        "token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "ctx_idx": at,
        "clerp": f"{key.node}{key_at(key.position)}", "activation": None if math.isnan(score) else score,
    }  # fmt: skip
    if kind == "embed":
        return {**made, "node_id": f"E_{at}_{at}", "jsNodeId": f"E_{at}-{at}", "feature": at, "layer": "E",
                "feature_type": "embedding"}  # fmt: skip
    if key.node == circuit.target:
        said = f'Output "{places.says(key.position) or circuit.metric}" (p={chance:.3f})'
        return {**made, "node_id": f"{top}_0_{at}", "jsNodeId": f"L_0-{at}", "feature": 0, "layer": str(top),
                "feature_type": "logit", "token_prob": chance, "is_target_logit": True, "clerp": said}  # fmt: skip
    number = {"head": row["head"], "bias": heads, "mlp": heads + 1, "residual": heads + 2, "logits": heads + 3}[kind]
    layer, number = (top - 1 if layer is None else layer), int(number)
    paired = (layer + number) * (layer + number + 1) // 2 + number  # Cantor's, as that page takes it apart
    return {**made, "node_id": f"{layer}_{number}_{at}", "jsNodeId": f"{layer}_{number}-{at}", "feature": paired,
            "layer": str(layer), "feature_type": "cross layer transcoder"}  # fmt: skip


def _links(circuit: Graph, ids: dict[Node, str]) -> list[dict[str, Any]]:
    sums: dict[tuple[Node, Node], float] = defaultdict(float)
    edges = circuit.edges
    for edge, score, is_in in zip(edge_keys(edges), edges["score"], edges["in_circuit"], strict=True):
        if is_in and not math.isnan(score):
            sums[edge.begins, edge.ends] += float(score)
    return [{"source": ids[begin], "target": ids[end], "weight": weight} for (begin, end), weight in sums.items()]


def _influence(scores: list[float]) -> list[float]:
    """The share of the sum of all sizes that each and the larger ones have; NaN without a score."""
    size = np.abs(np.asarray(scores, dtype=np.float64))
    total = float(np.nansum(size))
    order = np.argsort(-np.nan_to_num(size, nan=-1.0), kind="stable")
    shares = np.full(len(size), np.nan)
    shares[order] = np.cumsum(np.nan_to_num(size[order])) / total if total > 0 else np.nan
    shares[np.isnan(size)] = np.nan
    return [min(float(share), 1.0) if share == share else math.nan for share in shares]


def _layers(circuit: Graph) -> int:
    found = [node_parts(name).layer for name in circuit.nodes["node"].unique()]
    highest = 1 + max((layer for layer in found if layer is not None), default=-1)
    return max(int(circuit.model.get("n_layers", highest)), highest)


def _eap_name(name: str) -> str | None:
    """The node's name there; a bias and a residual stream have none."""
    part = node_parts(name)
    named = {"embed": "input", "head": f"a{part.layer}.h{part.head}", "mlp": f"m{part.layer}", "logits": "logits"}
    return named.get(part.kind)


def _added(a: float, b: float) -> float:
    """The sum of what is known; NaN where nothing is."""
    return float(b) if math.isnan(a) else float(a) if math.isnan(b) else float(a + b)


def _rows(frame: pandas.DataFrame) -> list[dict[Any, Any]]:
    """The rows as plain values, None where one is missing."""
    rows = frame.to_dict("records")
    return [{name: None if value is pandas.NA else value for name, value in row.items()} for row in rows]


def _graphs(listing: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(listing.read_bytes())["graphs"]
        if not all(isinstance(graph, dict) for graph in found):
            raise ValueError("graphs that are no objects")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise refused(
            "Circuit.to_circuit_tracer", "a graph-metadata.json with a list of graphs", str(listing), "Move it away."
        ) from error
    return list(found)


def _write(path: Path, data: Any) -> None:
    text = json.dumps(data, allow_nan=False, indent=1)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

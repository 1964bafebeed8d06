"""Circuits in other tools' formats: the fields that those read, and the numbers that ours are."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import networkx
import numpy as np
import pandas
import pytest
from circuit_samples import Network, realistic

from analyses.attribution import Circuit
from analyses.attribution.circuit_export import check_circuit_tracer, check_eap_ig
from interp import InputError

MODEL = {"name": "toy", "n_layers": 2, "n_heads": 2, "d_model": 16}

# circuit-tracer's models of schema 1, field by field.
METADATA = {"slug", "scan", "transcoder_list", "prompt_tokens", "prompt", "node_threshold", "schema_version"}
Q_PARAMS = {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
NODE = {
    "node_id", "feature", "layer", "ctx_idx", "feature_type", "token_prob", "is_target_logit", "run_idx",
    "reverse_ctx_idx", "jsNodeId", "clerp", "influence", "activation",
}  # fmt: skip


def made() -> Circuit:
    network = Network(5)
    nodes = pandas.DataFrame({"node": ["L0H0", "L1 MLP", "L1 b_O"], "position": [0, 1, 1], "score": [-3.0, 1.0, 0.5]})
    places = pandas.DataFrame({"position": [0, 1], "input_token": ["So", " 7"], "token": [" 7", "</script>"]})
    return Circuit(nodes, network.circuit().to_frame("edges"), positions=places, model=MODEL, metric="logit of 7")


def test_networkx_has_every_row() -> None:
    circuit = made().greedy(9)
    graph = circuit.to_networkx()
    assert isinstance(graph, networkx.MultiDiGraph)
    assert {(u, v, port) for u, v, port in graph.edges(keys=True)} == {
        (tuple(edge.begins), tuple(edge.ends), edge.port) for edge in circuit.kept("edges")
    }
    assert set(graph) - {("logits", 1)} == {tuple(node) for node in circuit.kept("nodes")}
    assert graph.nodes["logits", 1]["head"] is None
    whole = circuit.to_networkx(members=False)
    assert (len(whole), whole.number_of_edges()) == (len(circuit.to_frame()), len(circuit.to_frame("edges")))
    scores = [data["score"] for *_, data in whole.edges(data=True)]
    assert sorted(scores) == sorted(circuit.to_frame("edges")["score"])
    assert networkx.is_directed_acyclic_graph(whole)


def test_without_networkx_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(InputError, match="pip install networkx"):
        made().to_networkx()


def test_circuit_tracers_graph(tmp_path: Path) -> None:
    circuit = made().greedy(12)
    file = circuit.to_circuit_tracer(tmp_path / "graphs", "toy-7", probability=0.25)
    data = json.loads(file.read_text())
    assert set(data) == {"metadata", "qParams", "nodes", "links"}
    assert set(data["metadata"]) == METADATA
    assert data["metadata"]["prompt_tokens"] == ["So", " 7"]
    assert (data["metadata"]["prompt"], data["metadata"]["schema_version"]) == ("So 7", 1)
    assert set(data["qParams"]) == Q_PARAMS
    assert all(set(node) == NODE for node in data["nodes"])
    nodes = {node["node_id"]: node for node in data["nodes"]}
    assert len(nodes) == len(data["nodes"]) == int(circuit.to_frame()["in_circuit"].sum())
    (logit,) = (node for node in data["nodes"] if node["feature_type"] == "logit")
    assert (logit["layer"], logit["token_prob"], logit["is_target_logit"]) == ("3", 0.25, True)  # n_layers + 1
    # The page reads the probability off the label.
    assert float(logit["clerp"].split("(p=")[1].split(")")[0]) == 0.25
    assert {node["layer"] for node in data["nodes"] if node["feature_type"] == "embedding"} == {"E"}
    heads = {node["clerp"]: node for node in data["nodes"] if node["feature_type"] == "cross layer transcoder"}
    for label, node in heads.items():
        layer, _, place = node["node_id"].split("_")
        assert re.fullmatch(rf"L{layer}(H\d| MLP| b_O)@{place}", label)
        assert int(place) == node["ctx_idx"]
    # One link a pair: the sum over q, k and v.
    frame = circuit.members()[1]
    sums = frame.groupby(["source", "source_position", "target", "position"])["score"].sum()
    weights = {(link["source"], link["target"]): link["weight"] for link in data["links"]}
    assert len(weights) == len(data["links"]) == len(sums)
    assert sorted(weights.values()) == pytest.approx(sorted(sums))
    assert all(source in nodes and target in nodes for source, target in weights)


def test_influence_is_what_the_pages_slider_wants(tmp_path: Path) -> None:
    """The share of all scores that a node and the stronger ones have; none without a score."""
    circuit = Circuit(
        pandas.DataFrame({"node": ["L0H0", "L0H1", "L1 MLP", "logits"], "score": [-3.0, 1.0, np.nan, np.nan]})
    )
    data = json.loads(circuit.to_circuit_tracer(tmp_path, "x").read_text())
    shares = {node["clerp"]: node["influence"] for node in data["nodes"]}
    assert shares == {"L0H0": 0.75, "L0H1": 1.0, "L1 MLP": None, 'Output "score" (p=0.000)': None}


def test_the_list_of_graphs_grows_and_replaces(tmp_path: Path) -> None:
    whole = made()
    circuit = whole.greedy(3)
    for slug in ("a", "b", "a"):
        circuit.to_circuit_tracer(tmp_path, slug)
    listed = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert [graph["slug"] for graph in listed] == ["b", "a"]
    assert all(set(graph) == METADATA for graph in listed)
    (tmp_path / "graph-metadata.json").write_text("{}")
    with pytest.raises(InputError, match="a list of graphs"):
        whole.to_circuit_tracer(tmp_path, "c")
    for slug in ("../up", "", "a/b", ".hidden"):
        with pytest.raises(InputError, match="a slug of letters"):
            whole.to_circuit_tracer(tmp_path, slug)


def test_a_circuit_of_realistic_size_and_hostile_tokens(tmp_path: Path) -> None:
    circuit = realistic(hostile=True).greedy(200)
    data = json.loads(circuit.to_circuit_tracer(tmp_path, "big").read_text())
    tokens = circuit.to_frame("positions")["input_token"].tolist()
    assert data["metadata"]["prompt_tokens"] == tokens
    check_circuit_tracer(data)
    for spoil in (
        lambda d: d["nodes"][0].pop("feature"),
        lambda d: d["nodes"][0].update(ctx_idx=True),
        lambda d: d["nodes"][0].update(ctx_idx=999),
        lambda d: d["nodes"][0].update(feature_type="head"),
        lambda d: d["nodes"].append(d["nodes"][0]),
        lambda d: d["links"][0].update(source="nowhere"),
        lambda d: d["links"][0].update(weight=float("nan")),
        lambda d: d["metadata"].update(more=1),
        lambda d: [n.update(clerp="no probability") for n in d["nodes"] if n["feature_type"] == "logit"],
    ):
        wrong = json.loads(json.dumps(data))
        spoil(wrong)
        with pytest.raises(InputError, match="circuit-tracer"):
            check_circuit_tracer(wrong)


def read_as_eap_ig(data: dict[str, Any]) -> tuple[set[str], set[str]]:
    """All names that EAP-IG's graph of this model has, by its rules."""
    layers, heads = data["cfg"]["n_layers"], data["cfg"]["n_heads"]
    stream, edges = ["input"], set()
    for layer in range(layers):
        now = [f"a{layer}.h{head}" for head in range(heads)]
        edges |= {f"{a}->{b}<{port}>" for a in stream for b in now for port in "qkv"}
        stream += now
        edges |= {f"{a}->m{layer}" for a in stream}
        stream.append(f"m{layer}")
    return {*stream, "logits"}, edges | {f"{a}->logits" for a in stream}


def test_eap_igs_json_adds_positions_up(tmp_path: Path) -> None:
    circuit = made().greedy(9)
    data = json.loads(circuit.to_eap_ig(tmp_path / "graph.json").read_text())
    assert data["cfg"] == {"n_layers": 2, "n_heads": 2, "d_model": 16, "parallel_attn_mlp": False}
    nodes, edges = read_as_eap_ig(data)
    assert set(data["nodes"]) <= nodes
    assert set(data["edges"]) <= edges
    frame = circuit.to_frame("edges")
    sums = frame.groupby(["source", "target", "port"]).agg({"score": "sum", "in_circuit": "any"})
    assert len(sums) == len(data["edges"])
    name = {"embed": "input", "L0H0": "a0.h0", "L1H0": "a1.h0", "L0 MLP": "m0", "logits": "logits"}
    for source, target, port in [("embed", "L1H0", "k"), ("L0H0", "L0 MLP", "mlp"), ("L1H0", "logits", "out")]:
        found = data["edges"][f"{name[source]}->{name[target]}" + (f"<{port}>" if port in "qkv" else "")]
        assert found["score"] == pytest.approx(sums["score"][source, target, port])
        assert found["in_graph"] == sums["in_circuit"][source, target, port]
    assert data["nodes"]["a0.h0"]["score"] == -3.0
    assert "score" not in data["nodes"]["m0"]  # unscored: EAP-IG's own sign of it
    assert not any("b_O" in text for text in data["nodes"])


def test_what_eap_ig_cannot_hold_is_refused(tmp_path: Path) -> None:
    circuit = made()
    edges = circuit.to_frame("edges")
    into = pandas.DataFrame({"source": ["embed"], "target": ["L1 resid_post"], "port": ["out"]})
    for wrong, said in [
        (Circuit(None, edges), "a model with n_layers"),
        (Circuit(None, into, target="L1 resid_post", model=MODEL), "into logits"),
        (Circuit(None, edges, model={**MODEL, "n_heads": 1}), "2 layers of 1 heads"),
        (Circuit(None, edges.assign(score=np.nan), model=MODEL), "a score for each edge"),
    ]:
        with pytest.raises(InputError, match=said):
            wrong.to_eap_ig(tmp_path / "graph.json")
    assert not (tmp_path / "graph.json").exists()
    good = json.loads(circuit.to_eap_ig(tmp_path / "graph.json").read_text())
    edge = {"score": 1.0, "in_graph": True}
    for name in ("m1->a0.h0<q>", "input->a0.h0", "input->m0<q>", "m0->m0", "input->x", "m1->m9"):
        with pytest.raises(InputError, match="EAP-IG"):
            check_eap_ig({**good, "edges": {name: edge}})

"""Circuits as data: their tables, how they are chosen, and that what was saved comes back to the last bit."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networkx
import numpy as np
import pandas
import pytest
from circuit_samples import Network, added, additive, realistic
from hostile import HOSTILE

from analyses.attribution import Circuit, Edge, Node, node_parts
from interp import InputError

NODES = ["node", "kind", "layer", "head", "position", "token", "score", "exact", "in_circuit"]
EDGES = ["source", "target", "port", "source_position", "position", "score", "exact", "in_circuit"]


def odd() -> Circuit:
    """Every kind of value that a table can hold."""
    count = len(HOSTILE)
    values = [0.1, -0.0, np.nan, np.inf, -np.inf, 5e-324, 1 / 3, 1e300]
    nodes = pandas.DataFrame(
        {
            "node": [f"L{i}H{i % 3}" for i in range(count)],
            "position": [None if i % 5 == 0 else i for i in range(count)],
            "token": pandas.Series(HOSTILE, dtype=object),
            "score": np.resize(values, count),
            "share_of": pandas.Series(HOSTILE[::-1], dtype=object),
            "rank": range(count),
            "is_peak": [i % 2 == 0 for i in range(count)],
            "direct": np.resize(values[::-1], count),
        }
    )
    edges = pandas.DataFrame(
        {
            "source": ["embed", "L0 b_O", "L2H2"], "target": ["L2H2", "L0 MLP", "L7 resid_post"],
            "port": ["k", "mlp", "out"], "source_position": [1, None, 2], "position": [2, None, 2],
            "score": [1e-17, np.nan, -3.25], "in_circuit": [True, False, True],
        }
    )  # fmt: skip
    halves = pandas.Series(["\ud800", "<"], dtype=object)
    places = pandas.DataFrame({"position": [1, 2], "step": [None, 0], "input_token": halves, "token": ["<", ""]})
    return Circuit(
        nodes, edges, "nHSIC of L7", "L7 resid_post", places, ({"problem": "\ud800", "sample": 3},),
        {"name": "toy", "n_layers": 8}, {"nested": {"list": [1, 2.5, None, True]}},
    )  # fmt: skip


def test_every_field_comes_back_exactly(tmp_path: Path) -> None:
    circuit = odd()
    again = Circuit.load(circuit.save(tmp_path / "deep" / "circuit.json"))
    assert again.same_as(circuit)
    for name in ("nodes", "edges", "positions"):
        mine, its = circuit.to_frame(name), again.to_frame(name)
        pandas.testing.assert_frame_equal(mine, its, check_exact=True)
        for column in mine.select_dtypes("float").columns:  # the sign of zero too, which no comparison sees
            assert mine[column].to_numpy().tobytes() == its[column].to_numpy().tobytes()
    assert again.save(tmp_path / "again.json").read_bytes() == (tmp_path / "deep" / "circuit.json").read_bytes()
    assert "NaN" not in (tmp_path / "again.json").read_text().replace("nan", "")
    chosen = realistic().greedy(100)
    assert Circuit.load(chosen.save(tmp_path / "big.json")).same_as(chosen)


def test_each_field_counts_in_the_comparison() -> None:
    """A field that save forgot would come back as its default: that is not the same."""
    from dataclasses import replace

    circuit = odd()
    other = {
        "nodes": circuit.to_frame("nodes").assign(score=0.0), "edges": circuit.to_frame("edges").assign(exact=1.0),
        "metric": "other", "target": "logits", "runs": (), "model": {}, "settings": {},
        "positions": circuit.to_frame("positions").assign(token="x"),
    }  # fmt: skip
    assert set(other) == {f.name for f in fields(Circuit)}
    assert circuit.same_as(replace(circuit))
    for name, value in other.items():
        assert not circuit.same_as(replace(circuit, **{name: value})), name


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps(_Trap()), "no JSON that can be read"),
        (b"PK\x03\x04", "no JSON that can be read"),
        (b"[" * 100_000, "no JSON that can be read"),
        (b"[]", "format None"),
        (b'{"format": "peaklens circuit 9"}', "format 'peaklens circuit 9'"),
        (b'{"format": "peaklens circuit 1", "nodes": {}}', "tables that are not whole"),
    ],
)
def test_pickles_and_other_files_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "circuit.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=said):
        Circuit.load(file)


def test_a_file_that_lost_a_field_or_a_cell_is_refused(tmp_path: Path) -> None:
    body = json.loads(odd().save(tmp_path / "c.json").read_text())
    for name in ("metric", "target", "runs", "model", "settings", "edges"):
        (tmp_path / "cut.json").write_text(json.dumps({key: body[key] for key in body if key != name}))
        with pytest.raises(InputError, match="load a circuit"):
            Circuit.load(tmp_path / "cut.json")
    body["nodes"]["columns"]["score"]["values"].pop()
    (tmp_path / "cut.json").write_text(json.dumps(body))
    with pytest.raises(InputError, match="'score' has 31 of 32 rows"):
        Circuit.load(tmp_path / "cut.json")


def test_tables_are_as_they_are_named() -> None:
    circuit = Network().circuit()
    nodes, edges = circuit.to_frame("nodes"), circuit.to_frame("edges")
    assert list(nodes.columns) == NODES
    assert list(edges.columns) == EDGES
    assert set(nodes["node"]) == set(Network.ORDER)  # ends of edges are added
    head = nodes[nodes["node"] == "L1H0"].iloc[0]
    assert (head["kind"], head["layer"], head["head"]) == ("head", 1, 0)
    assert nodes.loc[nodes["node"] == "logits", ["layer", "head"]].isna().all(axis=None)
    nodes["score"] = 7.0  # a copy
    assert circuit.to_frame("nodes")["score"].isna().all()


@pytest.mark.parametrize(
    ("nodes", "edges", "said"),
    [
        ({"node": ["L1HX"]}, None, "L1HX"),
        ({"name": ["L1H0"]}, None, "a column node"),
        ({"node": ["L1H0", "L1H0"], "position": [3, 3]}, None, "L1H0 3 more than once"),
        ({"node": ["L1H0"], "score": ["high"]}, None, "'score' is numbers"),
        ({"node": ["L1H0"], "position": [-1]}, None, "'position' is numbers"),
        ({"node": ["L1H0"], "position": [0.5]}, None, "'position' is numbers"),
        ({"node": ["L1H0"], "of": [object()]}, None, "object among texts"),
        (None, ["L1H0", "L0H0", "q", 1, 1], "from earlier to later"),
        (None, ["L1H0", "L1H1", "v", 1, 1], "from earlier to later"),
        (None, ["L0H0", "L1H1", "out", 1, 1], "an edge into L1H1 by q or k or v"),
        (None, ["L0H0", "L1 MLP", "q", 1, 1], "an edge into L1 MLP by mlp"),
        (None, ["L0H0", "embed", "out", 1, 1], "from earlier to later|an edge into embed by no edge"),
        (None, ["L0H0", "L1H1", "q", 0, 1], "within a position, or through k and v"),
        (None, ["L0H0", "L1H1", "v", 2, 1], "within a position, or through k and v"),
        (None, ["L0H0", "L1H1", "v", 2, None], "within a position, or through k and v"),
    ],
)
def test_what_is_no_circuit_is_refused(nodes: Any, edges: Any, said: str) -> None:
    frame = None if edges is None else pandas.DataFrame([edges], columns=EDGES[:5])
    with pytest.raises(InputError, match=said):
        Circuit(None if nodes is None else pandas.DataFrame(nodes), frame)


def test_targets_and_options_are_checked() -> None:
    circuit = Network().circuit()
    for call, said in [
        (lambda: Circuit(None, target="L1H0"), "a target"),
        (lambda: Circuit(None, settings={"x": object()}), "settings of texts"),
        (lambda: Circuit(None, model={"x": float("nan")}), "model of texts"),
        (lambda: circuit.top(1, by="target"), "a column of numbers"),
        (lambda: circuit.top(1, connected="yes"), "connected among"),
        (lambda: circuit.top(-1), "n at least 0"),
        (lambda: circuit.with_kept([Node("L9H0", 1)]), "keys of its nodes"),
        (lambda: Circuit(None, circuit.to_frame("edges"), target="L5 resid_post").top(3), "an edge into L5 resid_post"),
        (lambda: Circuit(None, circuit.to_frame("edges"), target="L5 resid_post").greedy(3), "an edge into L5"),
    ]:
        with pytest.raises(InputError, match=said):
            call()


def drawn(edges: list[Edge]) -> networkx.DiGraph:
    return networkx.DiGraph([(edge.begins, edge.ends) for edge in edges])


@pytest.mark.parametrize("n", [0, 3, 8, 30])
def test_what_is_kept_is_what_networkx_finds_connected(n: int) -> None:
    circuit, goal = Network(n).circuit(), Node("logits", 1)
    ranked = circuit.to_frame("edges")["score"].abs().sort_values(ascending=False, kind="stable").index
    strongest = [circuit.candidates("edges")[place] for place in ranked[:n]]
    graph = drawn(strongest)
    lead = networkx.ancestors(graph, goal) | {goal} if goal in graph else set()
    assert circuit.top(n, connected="no").kept("edges") == set(strongest)
    assert circuit.top(n).kept("edges") == {edge for edge in strongest if edge.ends in lead}
    both = set(strongest)
    while True:  # EAP-IG's prune, literally: nodes that lack a way in or out go, with their edges
        into, out = {edge.ends for edge in both}, {edge.begins for edge in both}
        fit = {e for e in both if (e.begins in into or e.source == "embed") and (e.ends in out or e.target == "logits")}
        if fit == both:
            break
        both = fit
    assert circuit.top(n, connected="both").kept("edges") == both
    kept = circuit.top(n)
    names = {end for edge in kept.kept("edges") for end in (edge.begins, edge.ends)}
    assert kept.kept("nodes") == names - {goal}
    # What is left out makes no difference to the metric: nothing of it arrives.
    network = Network(n)
    assert network.measure(kept.kept("edges")) == pytest.approx(network.measure(frozenset(strongest)), abs=1e-12)


@pytest.mark.parametrize("absolute", [True, False])
def test_greedy_is_a_literal_loop_of_the_strongest_that_leads_on(absolute: bool) -> None:
    circuit = Network(3).circuit()
    frame = circuit.to_frame("edges")
    scores = dict(zip(circuit.candidates("edges"), frame["score"], strict=True))
    taken: list[Edge] = []
    for n in range(30):
        assert circuit.greedy(n, absolute=absolute).kept("edges") == set(taken)
        reached = {edge.begins for edge in taken} | {Node("logits", 1)}
        open_edges = [edge for edge in scores if edge.ends in reached and edge not in taken]
        taken.append(max(open_edges, key=lambda edge: abs(scores[edge]) if absolute else scores[edge]))


def test_greedy_nodes_lead_on_and_thresholds_compare_sizes() -> None:
    frame = Network(0).circuit().to_frame("edges")
    scores = {"embed": 9.0, "L0H0": 5.0, "L0H1": 4.0, "L0 MLP": -6.0, "L1H0": 1.0, "L1 MLP": 2.0}
    keep = frame["target"].isin(["logits"]) & frame["source"].isin(["L1H0", "L1 MLP"])
    keep |= frame["target"].isin(["L1H0"]) & frame["source"].isin(["L0 MLP"])
    nodes = pandas.DataFrame([(name, 1, s) for name, s in scores.items()], columns=["node", "position", "score"])
    circuit = Circuit(nodes, frame[keep & (frame["source_position"] == 1)])

    def names(one: Circuit) -> set[str]:
        return {key.node for key in one.kept("nodes")}

    assert names(circuit.greedy(1, of="nodes")) == {"L1 MLP"}
    assert names(circuit.greedy(2, of="nodes")) == {"L1 MLP", "L1H0"}  # only then is its source reached
    assert names(circuit.greedy(9, of="nodes")) == {"L1 MLP", "L1H0", "L0 MLP"}
    assert names(circuit.by_threshold(2, of="nodes", connected="no")) == set(scores) - {"L1H0"}
    assert names(circuit.by_threshold(2, of="nodes", connected="no", absolute=False)) == {*scores} - {"L1H0", "L0 MLP"}
    assert names(circuit.by_threshold(2, of="nodes")) == {"L1 MLP"}  # L0 MLP leads nowhere without L1H0
    assert names(circuit.by_threshold(1, of="nodes")) == {"L1 MLP", "L1H0", "L0 MLP"}
    assert circuit.by_threshold(1, of="nodes").settings["found"]["threshold"] == 1.0


def test_unscored_ones_are_never_chosen_and_that_is_said() -> None:
    circuit = additive()
    frame = circuit.to_frame("nodes")
    frame.loc[0, "score"] = np.nan
    unscored = Circuit(frame)
    assert {key.node for key in unscored.top(99).kept("nodes")} == set(frame["node"][1:])
    assert "unscored  1 nodes" in repr(unscored)
    assert "unscored" not in repr(circuit)
    assert added(frozenset(circuit.candidates("nodes"))) == 6.75


def test_given_keys_make_a_circuit_again() -> None:
    circuit = Network(1).circuit()
    some = circuit.greedy(9)
    assert circuit.with_kept(some.kept("edges")).kept("edges") == some.kept("edges")
    alone = circuit.with_kept([])
    assert (alone.kept("edges"), alone.kept("nodes")) == (frozenset(), frozenset())
    nodes = circuit.with_kept([Node("embed", 1), Node("L1 MLP", 1)])
    pairs = {(edge.source, edge.target) for edge in nodes.kept("edges")}
    assert pairs == {("embed", "L1 MLP"), ("embed", "logits"), ("L1 MLP", "logits")}


def test_names_are_taken_apart() -> None:
    assert node_parts("L12H3")[:3] == ("head", 12, 3)
    assert [node_parts(n).kind for n in ("embed", "L0 b_O", "L3 MLP", "L3 resid_post", "logits")] == [
        "embed", "bias", "mlp", "residual", "logits",
    ]  # fmt: skip
    order = ["embed", "L0H5", "L0 MLP", "L0 resid_post", "L1 resid_pre", "L1 b_O", "L1 resid_mid", "L1 MLP", "logits"]
    depths = [node_parts(name).depth for name in order]
    assert depths == sorted(set(depths))


def test_what_patching_scored_is_a_circuit_with_its_words() -> None:
    """Tables as patching makes them: `token` is what a position has read, so that the one before predicts it."""
    edges = pandas.DataFrame(
        {
            "source": ["embed", "L0H1", "L0 MLP"], "target": ["L0H1", "L2 resid_mid", "L2 resid_mid"],
            "port": ["k", "out", "out"], "source_position": [4, 6, 6], "position": [6, 6, 6],
            "source_token": ["3", "is", "is"], "token": ["is"] * 3, "score": [0.5, 2.0, -0.1],
            "exact": [np.nan, 1.9, np.nan], "is_top": [False, True, False],
        }
    )  # fmt: skip
    nodes = pandas.DataFrame(
        {
            "node": ["L0H1", "L0H1", "L1 resid_pre"], "position": [5, 6, 6], "step": [None, 0, 0],
            "token": ["gives", "is", "is"], "score": [0.0, 3.0, 9.0], "exact": [np.nan, 2.5, 9.0],
        }
    )  # fmt: skip
    told = {"metric": "nHSIC", "model": "toy-reasoner", "gap": float("nan"), "pairs": 1}
    found = [SimpleNamespace(table=table, settings=told) for table in (edges, nodes)]
    circuit = Circuit.from_effects(*found, runs=[{"problem": "p"}])
    assert (circuit.metric, circuit.target, circuit.model) == ("nHSIC", "L2 resid_mid", {"name": "toy-reasoner"})
    assert circuit.settings["edges"] == {**told, "gap": "nan"}
    assert set(circuit.to_frame()["node"]) == {"embed", "L0H1", "L0 MLP", "L2 resid_mid"}
    assert circuit.to_frame().set_index(["node", "position"]).loc[("L0H1", 6), "exact"] == 2.5
    assert circuit.to_frame("edges")["is_top"].tolist() == [False, True, False]
    places = circuit.to_frame("positions")
    assert places["position"].tolist() == [4, 5, 6]
    assert places["input_token"].tolist() == ["3", "gives", "is"]
    assert places["token"].tolist() == ["gives", "is", ""]
    assert places["step"].isna().tolist() == [True, True, False]
    kept = circuit.greedy(2)
    assert {edge.source for edge in kept.kept("edges")} == {"embed", "L0H1"}
    other = SimpleNamespace(table=nodes, settings={**told, "metric": "logit"})
    for call, said in [
        (lambda: Circuit.from_effects(), "effects of edges or nodes"),
        (lambda: Circuit.from_effects(edges), "effects of edges or nodes"),
        (lambda: Circuit.from_effects(found[0], other), "one metric"),
    ]:
        with pytest.raises(InputError, match=said):
            call()

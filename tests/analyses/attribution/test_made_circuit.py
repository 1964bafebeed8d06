"""Patching finds a circuit that was wired by hand: its nodes, its edges, at their places, and nothing else."""

from __future__ import annotations

import made_circuits as M
import pandas
import plain_edits as P
import pytest
import torch

from analyses.attribution import Circuit, Edge, Node, against_known, patch_edges, patch_nodes
from interp import logit_difference

# What came after 7 was 9, and 7 has come again: 9 is next. In the other text 11 stands where 7 stood.
CLEAN, CORRUPT = [2, 5, 12, 7, 9, 4, 13, 3, 7], [2, 5, 12, 11, 9, 4, 13, 3, 7]
A, B, END = 3, 4, 8
METRIC = logit_difference(9, 14)
BACK, COPY = ("L{}H{}".format(*head) for head in (M.LOOKS_BACK, M.COPIES))
NODES = {Node("embed", A), Node(BACK, B), Node(COPY, END)}
EDGES = {
    Edge("embed", BACK, "v", A, B),
    Edge(BACK, COPY, "k", B, END),
    Edge(COPY, "logits", "out", END, END),
}


@pytest.fixture(scope="module")
def nodes() -> pandas.DataFrame:
    kinds = ("embed", "head", "mlp")
    return patch_nodes(M.induction_pair()[1], CLEAN, CORRUPT, METRIC, kinds=kinds, verify="all", sample=0).table


def circuit(frame: pandas.DataFrame, of: str) -> Circuit:
    """By the share of the gap that each makes up exactly: half of it."""
    scored = frame.assign(score=frame["exact_share"]).drop(columns=["exact", "exact_share", "share"])
    return (Circuit(scored) if of == "nodes" else Circuit(None, scored)).by_threshold(0.5, connected="no")


def test_the_made_model_does_what_it_was_made_for() -> None:
    hf, _ = M.induction_pair()
    with torch.no_grad():
        clean, corrupt = (hf(torch.tensor([ids])).logits[0, -1] for ids in (CLEAN, CORRUPT))
        looks = hf(torch.tensor([CLEAN]), output_attentions=True).attentions
    assert int(clean.argmax()) == 9
    assert float(clean[9] - clean[14]) > 5 * abs(float(corrupt[9] - corrupt[14]))
    assert float(looks[0][0, M.LOOKS_BACK[1], B, A]) > 0.999
    assert float(looks[1][0, M.COPIES[1], END, B]) > 0.999


def test_exact_patching_finds_the_nodes_at_their_places_and_no_other(nodes: pandas.DataFrame) -> None:
    found = circuit(nodes, "nodes")
    assert found.kept("nodes") == NODES
    outside = nodes[[(row.node, row.position) not in NODES for row in nodes.itertuples()]]
    moved = outside[outside["exact"] != 0]
    assert len(moved) > 10, "the others write too, and differ between the texts"
    assert float(outside["exact_share"].abs().max()) < 0.05
    agreement = against_known(found, NODES)
    assert (agreement.auroc.estimate, agreement.precision.estimate, agreement.recall.estimate) == (1, 1, 1)


def test_path_patching_finds_the_edges_with_their_ports_and_no_other() -> None:
    table = patch_edges(M.induction_pair()[1], CLEAN, CORRUPT, METRIC, positions=[B, END], verify="all", sample=0).table
    found = circuit(table, "edges")
    assert found.kept("edges") == EDGES
    outside = table[[tuple(row) not in EDGES for row in table[list(Edge._fields)].itertuples(index=False)]]
    assert len(outside) > 100
    assert float(outside["exact_share"].abs().max()) < 0.05
    agreement = against_known(found, EDGES)
    assert (agreement.auroc.estimate, agreement.precision.estimate, agreement.recall.estimate) == (1, 1, 1)


def test_without_the_pair_plain_hugging_face_does_not_copy_and_without_others_it_does() -> None:
    hf, _ = M.induction_pair()

    @torch.no_grad()
    def left(layer: int, head: int, at: int) -> float:
        zero = torch.zeros(M.D_HEAD, dtype=torch.float64)
        logits = P.with_node(hf, CLEAN, ("head", layer, head), at, zero)
        return float(logits[-1, 9] - logits[-1, 14])

    logits = P.values(hf, CLEAN)[0].detach()
    whole = float(logits[-1, 9] - logits[-1, 14])
    assert left(*M.LOOKS_BACK, B) < 0.5 * whole
    assert abs(left(*M.COPIES, END)) < 0.01 * whole
    others = [(layer, head) for layer in (0, 1) for head in range(M.HEADS)]
    for layer, head in set(others) - {M.LOOKS_BACK, M.COPIES}:
        assert left(layer, head, END) == pytest.approx(whole, rel=0.2), "the last norm feels them"

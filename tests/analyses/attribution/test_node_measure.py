"""A model with only some nodes as they are against plain Hugging Face with hooks of its own, node by node."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import families as F
import made_circuits as M
import pandas
import plain_edits as P
import pytest
import torch

from analyses.attribution import (
    Circuit,
    Edge,
    Node,
    node_measure,
    node_parts,
    patch_nodes,
    random_circuits,
    recovered,
    recovery_curve,
    residual_metric,
)
from interp import answer_log_probability, logit_difference
from interp.errors import InputError
from interp.patching import mean_writes, zero_writes
from interp.reading import read

CLEAN = [7, 12, 5, 30, 9, 41, 8, 11, 13]
CORRUPT = [7, 12, 6, 30, 9, 17, 8, 11, 13]
METRIC = logit_difference(5, 6)
KINDS = ("embed", "head", "mlp")


def names(hf: Any) -> list[str]:
    layers = range(len(P.modules(hf)[0]))
    return ["embed"] + [f"L{n}{x}" for n in layers for x in (*(f"H{h}" for h in range(P.heads(hf))), " MLP")]


def literal(hf: Any, ids: list[int], outside: list[Node], values: dict[tuple[str, int], torch.Tensor]) -> torch.Tensor:
    """Logits of plain Hugging Face with each node outside written over, one assignment a place."""
    places = defaultdict(list)
    for name, position in outside:
        part = node_parts(name)
        at = ("resid_pre", 0) if part.kind == "embed" else (part.kind, part.layer)
        for t in range(len(ids)) if position is None else [position]:
            places[at].append((0, t) if part.head is None else (0, t, part.head))
    with P.contextstack() as enter:
        for (kind, layer), cells in places.items():

            def put(now: torch.Tensor, at: Any = (kind, layer), cells: Any = cells) -> torch.Tensor:
                now = now.clone()
                for cell in cells:
                    now[cell] = values[at][cell]
                return now

            enter(P.changing(hf, kind, layer, put))
        return hf(torch.tensor([ids])).logits[0].detach()


def drawn(keys: list[Node], share: float, seed: int) -> frozenset[Node]:
    rows = torch.rand(len(keys), generator=torch.Generator().manual_seed(seed)) < share
    return frozenset(key for key, row in zip(keys, rows.tolist(), strict=True) if row)


def difference(logits: torch.Tensor) -> float:
    return float(logits[-1, 5] - logits[-1, 6])


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("against", ["corrupt", "mean", "zero"])
def test_any_set_is_what_plain_hugging_face_gives(name: str, against: str) -> None:
    hf, model = F.pair(name, torch.float64)
    keys = [Node(node, at) for node in names(hf) for at in (2, 5, 7, 8)]
    circuit = Circuit(pandas.DataFrame(keys, columns=["node", "position"]))
    reference: Any = {"corrupt": CORRUPT, "zero": zero_writes()}.get(against)
    if against == "mean":
        reference = mean_writes(read(model, CORRUPT[:4], CORRUPT[4:]))
    measure = node_measure(model, CLEAN, reference, METRIC, circuit)
    _, values = P.values(hf, CORRUPT)
    values = {at: value.detach() for at, value in values.items()}
    if against != "corrupt":  # of the response's steps: the prompt's last token and what is read after it, to the last
        values = {at: v[:, 3:8].mean(1, keepdim=True).expand_as(v) * (against == "mean") for at, v in values.items()}
    seen = set()
    for share, seed in ((0.0, 0), (1.0, 0), (0.5, 1), (0.9, 2)):
        kept = drawn(keys, share, seed)
        want = difference(literal(hf, CLEAN, [key for key in keys if key not in kept], values))
        assert measure(kept) == pytest.approx(want, abs=1e-9), share
        seen.add(round(want, 6))
    assert len(seen) == 4, "the sets differ in what they do"


def test_a_node_at_no_position_is_set_at_all_of_them_and_an_answer_is_read_on() -> None:
    hf, model = F.pair("qwen2", torch.float64)
    keys = [Node(node) for node in names(hf)]
    circuit = Circuit(pandas.DataFrame({"node": names(hf)}))
    metric = answer_log_probability([4, 9])
    measure = node_measure(model, CLEAN, CORRUPT, metric, circuit)
    _, values = P.values(hf, CORRUPT)
    values = {at: torch.cat([value.detach(), value.detach()[:, :1]], 1) for at, value in values.items()}
    for seed in (1, 2):
        kept = drawn(keys, 0.6, seed)
        outside = [Node(key.node, t) for key in keys if key not in kept for t in range(len(CLEAN))]
        spoken = literal(hf, [*CLEAN, 4], outside, values).log_softmax(-1)
        assert measure(kept) == pytest.approx(float(spoken[-2, 4] + spoken[-1, 9]), abs=1e-9)
    assert measure(frozenset()) == pytest.approx(
        patch_nodes(model, CLEAN, CORRUPT, metric, kinds="embed", verify=0, sample=0).settings["corrupt"], abs=1e-9
    )


def test_all_but_one_is_what_noising_that_node_does_also_to_an_inner_stream_and_over_texts() -> None:
    model = F.bridge("qwen3", torch.float64)
    metric = residual_metric(lambda stream: (stream * torch.arange(stream.shape[1]).sin()).sum(-1).tanh(), 1)
    texts = [CLEAN, [3, *CLEAN[1:]]], [CORRUPT, [3, *CORRUPT[1:]]]
    found = patch_nodes(model, *texts, metric, kinds=KINDS, positions=[5, 8], direction="noise", verify="all")
    circuit = Circuit.from_effects(nodes=found)
    measure = node_measure(model, *texts, metric, circuit)
    everything = frozenset(circuit.candidates("nodes"))
    whole = measure(everything)
    assert whole == pytest.approx(found.settings["clean"], abs=1e-12)
    for row in found.table.itertuples():
        left = measure(everything - {Node(row.node, row.position)})
        assert whole - left == pytest.approx(row.exact, abs=1e-10), row.node
    assert found.table["exact"].abs().max() > 1e-3
    assert measure.runs == 2 * (1 + len(found.table))


def test_a_wired_pair_is_all_that_is_needed_and_its_like_recovers_nothing() -> None:
    clean, corrupt = [2, 5, 12, 7, 9, 4, 13, 3, 7], [2, 5, 12, 11, 9, 4, 13, 3, 7]
    model, metric = M.induction_pair()[1], logit_difference(9, 14)
    found = patch_nodes(model, clean, corrupt, metric, kinds=KINDS, verify="all", sample=0)
    circuit = Circuit.from_effects(nodes=found).top(3, by="exact")
    measure = node_measure(model, clean, corrupt, metric, circuit)
    alone, without = recovered(circuit, measure).frame["recovered"]
    assert 1 < alone < 1.3, "the others, who know nothing of it, hinder it a little"
    assert without == pytest.approx(0, abs=0.01)
    curve = recovery_curve(circuit, measure, by="exact", fractions=[0, 0.031, 1])
    assert curve.frame["kept"].tolist() == [0, 3, len(measure.candidates)]
    assert curve.frame["recovered"].tolist() == pytest.approx([0, alone, 1])
    # Each of the three hands on to the next: two of them are as good as none.
    assert random_circuits(circuit, measure, n=20).frame["recovered"].max() < 0.1


def test_a_flat_metric_has_no_shares() -> None:
    model = F.bridge("llama")
    circuit = Circuit(pandas.DataFrame({"node": ["embed", "L0H1"]}))
    found = recovered(circuit, node_measure(model, CLEAN, CLEAN, METRIC, circuit))
    assert all(math.isnan(value) for value in found.frame["recovered"])
    assert "nothing to recover" in found.note


def test_what_cannot_be_measured_is_refused() -> None:
    model = F.bridge("llama")

    def circuit(*rows: tuple[str, int | None]) -> Circuit:
        return Circuit(pandas.DataFrame(rows, columns=["node", "position"]))

    for given, message in (
        (circuit(("L0 b_O", 3)), "received L0 b_O"),
        (circuit(("L0 resid_mid", 3)), "Leave out biases, residual streams"),
        (circuit(("L9H0", 3)), "The circuit is of another model"),
        (circuit(("L0H40", 3)), "The circuit is of another model"),
        (circuit(("L0H1", 9)), "received position 9"),
        (Circuit(None), "expected a circuit with nodes"),
        ("L0H1", "expected a Circuit"),
    ):
        with pytest.raises(InputError, match=message):
            node_measure(model, CLEAN, CORRUPT, METRIC, given)
    with pytest.raises(InputError, match="equal length"):
        node_measure(model, CLEAN, CORRUPT[:-1], METRIC, circuit(("L0H1", 3)))
    measure = node_measure(model, CLEAN, CORRUPT, METRIC, circuit(("L0H1", 3)))
    assert repr(measure) == (
        "NodeMeasure of logit_difference at step 0: 1 nodes, what is outside as in a corrupted run, 1 text"
    )
    with pytest.raises(InputError, match='Pass of="nodes"'):
        measure(frozenset([Edge("embed", "L0H1", "q", 3, 3)]))

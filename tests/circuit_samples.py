"""Made circuits for tests: a linear network whose every quantity is a sum over paths, and one of realistic size."""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

import numpy as np
import pandas
from hostile import HOSTILE

from analyses.attribution import Circuit, Edge, Node

WEIGHTS = {"L0H0": 3.0, "L0H1": -1.0, "L0 MLP": 0.5, "L1H0": 2.0, "L1 b_O": 0.25}
"""An additive model: the metric is 2 and the weights of what is kept."""


def additive() -> Circuit:
    return Circuit(pandas.DataFrame({"node": list(WEIGHTS), "score": list(WEIGHTS.values())}), metric="made (nats)")


def added(kept: frozenset[Any]) -> float:
    return 2.0 + sum(WEIGHTS[key.node] for key in kept)


class Network:
    """A linear network over two positions: each edge carries what its source holds times a weight.

    The embeddings hold 1 in the clean run and 0 in the corrupted one, and so does every edge that is not kept; the
    logits' value is then the sum over all paths of kept edges of the product of their weights.
    """

    ORDER = ("embed", "L0H0", "L0H1", "L0 MLP", "L1H0", "L1 MLP", "logits")

    def __init__(self, seed: int = 0) -> None:
        draws = np.random.default_rng(seed)
        self.weights: dict[Edge, float] = {}
        for i, source in enumerate(self.ORDER[:-1]):
            for target in self.ORDER[i + 1 :]:
                if {source, target} == {"L0H0", "L0H1"}:
                    continue  # heads of a layer do not see each other
                for port in ("out",) if target == "logits" else ("mlp",) if "MLP" in target else ("q", "k", "v"):
                    for begin, end in ((0, 0), (1, 1), (0, 1)):
                        if (begin == end or port in "kv") and (target, end) != ("logits", 0):
                            self.weights[Edge(source, target, port, begin, end)] = float(draws.normal())

    def held(self, kept: frozenset[Any], node: Node) -> float:
        """What a node holds, by going back over every path."""
        if node.node == "embed":
            return 1.0
        into = [edge for edge in kept if edge.ends == node]
        return sum(self.weights[edge] * self.held(kept, edge.begins) for edge in into)

    def measure(self, kept: frozenset[Any]) -> float:
        return self.held(kept, Node("logits", 1))

    @cached_property
    def _scored(self) -> Circuit:
        every = frozenset(self.weights)
        whole = self.measure(every)
        frame = pandas.DataFrame(list(self.weights), columns=Edge._fields)
        return Circuit(None, frame.assign(score=[whole - self.measure(every - {edge}) for edge in self.weights]))

    def circuit(self) -> Circuit:
        """Scored by the sum over the paths through each edge: the effect of cutting it, which is exact here."""
        return self._scored


@cache
def realistic(
    positions: int = 34, layers: int = 12, heads: int = 9, nodes: int = 300, edges: int = 2000, hostile: bool = False
) -> Circuit:
    """Numbers as a real model's: heavy tails, mostly near the target, both signs, measured beside predicted."""
    draws = np.random.default_rng(0)
    text = (
        "6 A * 3 B - 8 C + 1 ? -> Okay So A 6 * 3 gives 8 . then B 8 - 8 is 0 ; Hmm next C 0 + 1 equals 1 . Therefore"
    )
    said = (HOSTILE * 3 if hostile else text.split() * 3)[: positions + 1]
    places = pandas.DataFrame({"position": range(positions), "step": range(-12, positions - 12)})
    for name, column in (("input_token", said[:-1]), ("token", said[1:])):
        places[name] = pandas.Series(column, dtype=object)  # half a surrogate pair is no text of Arrow's
    places.loc[places["step"] < 0, "step"] = None
    last = positions - 1
    names: dict[Node, None] = dict.fromkeys([Node("logits", last), Node("embed", last)])
    while len(names) < nodes:
        at = last - int(min(last, draws.exponential(positions / 3)))
        layer = int(draws.integers(layers))
        kind = draws.random()
        name = (
            f"L{layer} MLP" if kind < 0.2 else f"L{layer} b_O" if kind < 0.23 else f"L{layer}H{draws.integers(heads)}"
        )
        names[Node("embed" if kind > 0.95 else name, at)] = None
    found: dict[Edge, None] = {}
    listed = list(names)
    late = [node for node in listed[1:] if node.position == last]
    from analyses.attribution import node_parts

    while len(found) < edges:
        a, b = (listed[i] for i in draws.integers(len(listed), size=2))
        if draws.random() < 0.03:
            a, b = late[draws.integers(len(late))], listed[0]
        part = node_parts(b.node)
        if not node_parts(a.node).depth < part.depth or part.kind in ("bias", "embed"):
            continue
        port = {"head": "qkv"[draws.integers(3)], "mlp": "mlp", "logits": "out"}[part.kind]
        if a.position == b.position or (port in "kv" and a.position < b.position):
            found[Edge(a.node, b.node, port, a.position, b.position)] = None
    score = draws.standard_t(1.6, size=edges) * 0.02
    table = pandas.DataFrame(list(found), columns=Edge._fields).assign(score=score)
    table["exact"] = np.where(draws.random(edges) < 0.4, score * draws.normal(0.9, 0.25, edges), np.nan)
    share = draws.standard_t(1.6, size=len(names)) * 0.05
    share[0] = np.nan
    rows = pandas.DataFrame(listed, columns=Node._fields).assign(score=share)
    rows["exact"] = np.where(draws.random(len(rows)) < 0.3, share * draws.normal(0.9, 0.3, len(rows)), np.nan)
    return Circuit(
        rows, table, metric="logit difference of 1 and 8", positions=places, model={"name": "made"},
        runs=({"problem": "p0", "sample": 0},), settings={"method": "EAP-IG"},
    )  # fmt: skip


def words_and_attention(circuit: Circuit) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    """Logit-lens words and attention for each node of a made circuit."""
    draws = np.random.default_rng(1)
    nodes = circuit.to_frame("nodes")
    tokens = circuit.to_frame("positions")["token"].tolist()
    words, looks = [], []
    for row in nodes[nodes["node"] != "logits"].itertuples():
        values = np.sort(draws.normal(size=6))[::-1]
        words += [(row.node, row.position, tokens[draws.integers(len(tokens))], value) for value in values]
        if row.kind == "head":
            share = draws.dirichlet(np.full(row.position + 1, 0.3))
            looks += [(row.node, row.position, place, value) for place, value in enumerate(share)]
    return (
        pandas.DataFrame(words, columns=["node", "position", "token", "value"], dtype=object),
        pandas.DataFrame(looks, columns=["node", "position", "source_position", "attention"]),
    )

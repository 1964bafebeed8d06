"""Which edges or nodes make a circuit: those above a threshold, the strongest, or greedily from the target down.

1. Things are ranked by a score, by its size unless `absolute` is False; equal ones in the order of the table. What has
   no score (NaN) is never chosen: nothing is known of it.
2. `chosen` takes those above a threshold or the n first ones. `greedy` begins at the target and takes, n times, the
   strongest that leads to what it has (edges: EAP-IG's greedy search, Hanna et al. 2024, arXiv:2403.17806).
3. `connected` leaves out what no path of chosen edges joins to the target, or ("both") also what none joins to a
   source: an embedding or a bias, and whatever has no edge into it among the candidates.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float64

from analyses.attribution.circuit_parts import Edge, Node
from interp.errors import InputError

__all__ = ["CONNECTED", "chosen", "connected_edges", "connected_nodes", "greedy_edges", "greedy_nodes", "ranking"]

CONNECTED = ("target", "both", "no")


def ranking(scores: Float64[np.ndarray, " n"], absolute: bool = True) -> list[int]:
    """The places of the scored, strongest first; equal ones as they stand.

    >>> ranking(np.array([0.5, -2.0, np.nan, 0.5])), ranking(np.array([0.5, -2.0]), absolute=False)
    ([1, 0, 3], [0, 1])
    """
    size = np.abs(scores) if absolute else scores
    order = np.argsort(-size, kind="stable")
    return [int(place) for place in order if not np.isnan(scores[place])]


def chosen(
    scores: Float64[np.ndarray, " n"], absolute: bool, threshold: float | None = None, n: int | None = None
) -> Bool[np.ndarray, " n"]:
    """Those whose score is at least `threshold`, or the `n` first of the ranking.

    >>> chosen(np.array([0.5, -2.0, np.nan]), True, threshold=0.5).tolist()
    [True, True, False]
    """
    if threshold is not None:
        size = np.abs(scores) if absolute else scores
        return np.nan_to_num(size, nan=-np.inf) >= threshold
    taken = np.zeros(len(scores), dtype=bool)
    taken[ranking(scores, absolute)[:n]] = True
    return taken


def greedy_edges(
    edges: Sequence[Edge], scores: Float64[np.ndarray, " n"], targets: Iterable[Node], n: int, absolute: bool
) -> Bool[np.ndarray, " n"]:
    """At most n edges: each the strongest of those into the targets or into what earlier ones come from."""
    into: dict[Node, list[int]] = defaultdict(list)
    for place, edge in enumerate(edges):
        into[edge.ends].append(place)
    taken, reached = np.zeros(len(edges), dtype=bool), set(targets)
    waiting: list[tuple[float, int]] = []
    size = np.abs(scores) if absolute else scores

    def offer(node: Node) -> None:
        for place in into[node]:
            if not np.isnan(size[place]):
                heapq.heappush(waiting, (-float(size[place]), place))

    for node in reached:
        offer(node)
    for _ in range(n):
        if not waiting:
            break
        place = heapq.heappop(waiting)[1]
        taken[place] = True
        if edges[place].begins not in reached:
            reached.add(edges[place].begins)
            offer(edges[place].begins)
    return taken


def greedy_nodes(
    nodes: Sequence[Node], scores: Float64[np.ndarray, " n"], edges: Sequence[Edge], targets: Iterable[Node], n: int,
    absolute: bool,
) -> Bool[np.ndarray, " n"]:  # fmt: skip
    """At most n nodes: each the strongest of those with an edge to the targets or to an earlier one."""
    places = {node: place for place, node in enumerate(nodes)}
    sources: dict[Node, list[Node]] = defaultdict(list)
    for edge in edges:
        sources[edge.ends].append(edge.begins)
    taken, offered = np.zeros(len(nodes), dtype=bool), set(targets)
    waiting: list[tuple[float, int]] = []
    size = np.abs(scores) if absolute else scores

    def offer(node: Node) -> None:
        for source in sources[node]:
            place = places.get(source)
            if source not in offered and place is not None and not np.isnan(size[place]):
                offered.add(source)
                heapq.heappush(waiting, (-float(size[place]), place))

    for node in set(offered):
        offer(node)
    for _ in range(n):
        if not waiting:
            break
        place = heapq.heappop(waiting)[1]
        taken[place] = True
        offer(nodes[place])
    return taken


def connected_edges(
    edges: Sequence[Edge], taken: Bool[np.ndarray, " n"], targets: Iterable[Node], connected: str
) -> Bool[np.ndarray, " n"]:
    """The taken edges that a path of taken edges joins to the target, and to a source where both ends are asked for."""
    if _mode(connected) == "no":
        return taken
    held = taken & _reaching(edges, taken, targets, backward=True)
    if connected == "both":
        heads = {edge.ends for edge in edges}
        sources = {edge.begins for edge in edges if edge.begins not in heads}
        held = held & _reaching(edges, held, sources, backward=False)
    return held


def connected_nodes(
    nodes: Sequence[Node], taken: Bool[np.ndarray, " n"], edges: Sequence[Edge], targets: Iterable[Node], connected: str
) -> Bool[np.ndarray, " n"]:
    """The taken nodes that edges between taken ones join to the target; all of them where no edge is known."""
    if _mode(connected) == "no" or not edges:
        return taken
    within = {node for node, is_taken in zip(nodes, taken, strict=True) if is_taken} | set(targets)
    among = np.array([edge.begins in within and edge.ends in within for edge in edges])
    held = connected_edges(edges, among, targets, connected)
    ends = {edge.begins for edge, is_held in zip(edges, held, strict=True) if is_held}
    return taken & np.array([node in ends for node in nodes], dtype=bool)


def _mode(connected: str) -> str:
    if connected not in CONNECTED:
        raise InputError(
            "choose a circuit", expected=f"connected among {', '.join(CONNECTED)}", received=repr(connected),
            remedy='"target" leaves out what does not lead to the target.',
        )  # fmt: skip
    return connected


def _reaching(
    edges: Sequence[Edge], taken: Bool[np.ndarray, " n"], begin: Iterable[Node], backward: bool
) -> Bool[np.ndarray, " n"]:
    """Which edges can be walked from the beginning over taken ones, against their direction or along it."""
    from_node: Mapping[Node, list[int]] = defaultdict(list)
    for place in np.flatnonzero(taken).tolist():
        from_node[edges[place].ends if backward else edges[place].begins].append(place)
    walked = np.zeros(len(edges), dtype=bool)
    seen, open_nodes = set(begin), list(begin)
    while open_nodes:
        for place in from_node.get(open_nodes.pop(), ()):
            walked[place] = True
            node = edges[place].begins if backward else edges[place].ends
            if node not in seen:
                seen.add(node)
                open_nodes.append(node)
    return walked

"""A model as what circuits are measured with: everything outside a set of nodes as in another run, or at its mean or 0.

    m(kept) = the metric of the clean text, each candidate that is not kept set to its reference value

What is kept, and what is no candidate, writes what comes of what it reads then. This is node patching of many nodes at
once: all but one of them kept, the metric falls by that node's exact effect of :func:`patch_nodes` with
``direction="noise"``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from analyses.attribution.circuit import Circuit
from analyses.attribution.circuit_parts import Node, node_parts
from analyses.attribution.comparing import Pairs, pairs_of
from interp.arguments import Judged, Prompts, Whole, refused
from interp.errors import InputError
from interp.patching.asked import PatchMetric
from interp.patching.comparison import Comparison
from interp.patching.nodes import Node as Part
from interp.patching.references import Reference
from interp.patching.runs import Run, Swap
from interp.rollout import Rollout
from interp.types import Bridge

__all__ = ["NodeMeasure", "node_measure"]

_OPERATION = "node_measure"
_KINDS = ("embed", "head", "mlp")


def node_measure(
    model: Bridge,
    clean: Judged[Rollout | Prompts | Sequence[Rollout]],
    corrupt: Judged[Rollout | Prompts | Sequence[Rollout] | Reference],
    metric: Judged[PatchMetric | Sequence[PatchMetric]],
    circuit: Judged[Circuit],
    *,
    at: Whole | None = None,
) -> NodeMeasure:
    """The metric of a model in which only some of a circuit's candidates are as they are: a `Measure` of nodes.

    >>> from analyses.attribution import patch_nodes, recovery_curve
    >>> from interp import load_model, logit_difference
    >>> model, metric = load_model("toy-reasoner"), logit_difference(5, 6)
    >>> texts = "6 A * 3 B - 8 ? ->", "6 A * 4 B - 8 ? ->"
    >>> effects = patch_nodes(model, *texts, metric, kinds=("embed", "head", "mlp"), verify="all")
    >>> circuit = Circuit.from_effects(nodes=effects)
    >>> measure = node_measure(model, *texts, metric, circuit)
    >>> curve = recovery_curve(circuit, measure, by="exact")
    >>> curve.frame["recovered"].tolist()[-1], bool(abs(curve.empty - effects.settings["corrupt"]) < 1e-4)
    (1.0, True)

    What is outside is set to the values of the corrupted run, :func:`zero_writes` or :func:`mean_writes`. Where the
    candidates are all nodes, m(nothing) is the corrupted run; where they are some, the others do what they do. Nodes at
    no position are set at every position up to the step that is measured.

    Args:
        clean, corrupt, metric, at: as in :func:`patch_nodes`; of several texts the metric's mean is taken.
        circuit: whose nodes are the candidates: embed, heads and MLPs, as `patch_nodes` scores them.

    Returns:
        :class:`NodeMeasure`, for `recovered`, `recovery_curve`, `removal_curve`, `completeness`, `minimality` and
        `random_circuits`; pass these ``of="nodes"`` where the circuit has edges too. One pass forward a set and text.

    Raises:
        InputError: what `patch_nodes` refuses; nodes that the model does not have, that stand after the step that is
            measured, or that are sums or constants (residual streams, biases); more than the memory holds.
    """
    if not isinstance(circuit, Circuit):
        raise refused(_OPERATION, "a Circuit", circuit, "Circuit.from_effects makes one of what patching scored.")
    pairs = pairs_of(model, clean, corrupt, metric, at, "noise", _OPERATION)
    keys = [key for key in circuit.candidates("nodes") if isinstance(key, Node)]
    if not keys:
        raise refused(_OPERATION, "a circuit with nodes", "none", "There is nothing to keep.")
    parts = {name: _part(name, pairs) for name in dict.fromkeys(key.node for key in keys)}
    places = _positions(keys, pairs)
    hooks = list(dict.fromkeys(part.hook_name for part in parts.values()))
    _check_size(pairs, len(hooks), len(places))
    found, both = [], []
    for compared in pairs.comparisons(hooks, places, 1):
        found.append(_Text.of(compared, parts.values(), keys, parts))
        both.append((compared.clean, compared.corrupt))
    settings = {**pairs.settings(both), "method": "all nodes outside a set patched", "candidates": len(keys)}
    return NodeMeasure(keys, parts, places, found, settings)


class NodeMeasure:
    """Runs a model with only some nodes as they are; :func:`node_measure` makes it, and says what the number is.

    Attributes:
        candidates: the keys of the nodes that can be kept.
        settings: model and weights, metric, what was compared, step, versions.
        runs: how many passes have been made.
    """

    def __init__(
        self, keys: Sequence[Node], parts: Mapping[str, Part], positions: Sequence[int], texts: Sequence[_Text],
        settings: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.candidates, self.settings, self.runs = tuple(keys), dict(settings), 0
        self._known, self._texts = frozenset(keys), tuple(texts)
        self._positions = torch.tensor(list(positions))
        rows = {position: row for row, position in enumerate(positions)}
        cells: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for number, key in enumerate(keys):
            part = parts[key.node]
            for row in range(len(rows)) if key.position is None else [rows[key.position]]:
                cells[part.hook_name].append((number, row, part.head or 0))
        self._cells = {hook: np.array(found) for hook, found in cells.items()}

    def __call__(self, kept: frozenset[Any], /) -> float:
        """The metric with only these nodes.

        Raises:
            InputError: keys that are none of the candidates, edges among them.
        """
        strange = next((key for key in kept if key not in self._known), None)
        if strange is not None:
            remedy = 'Pass of="nodes" where the circuit has edges; the circuit has to be the one of node_measure.'
            raise refused("measure a circuit", "keys of the nodes that it was made for", strange, remedy)
        outside = np.array([key not in kept for key in self.candidates])
        values = [self._of(text, outside) for text in self._texts]
        self.runs += len(values)
        return float(np.mean(values))

    def _of(self, text: _Text, outside: Bool[np.ndarray, " candidate"]) -> float:
        first = int((self._positions < text.start).sum())
        swaps = []
        for hook, values in text.values.items():
            number, row, head = self._cells[hook].T
            where = np.zeros((len(values), values.shape[1] if values.ndim == 3 else 1), dtype=bool)
            where[row[outside[number]], head[outside[number]]] = True
            if where[first:].any():
                chosen = torch.from_numpy(where[first:] if values.ndim == 3 else where[first:, 0])
                swaps.append(Swap(hook, self._positions[first:], chosen, values[first:]))
        return text.run.swapped(swaps, text.start)

    def __repr__(self) -> str:
        told = self.settings
        return (
            f"NodeMeasure of {told['metric']} at step {told['step']}: {len(self.candidates)} nodes, what is outside as "
            f"in {told['against']}, {told['pairs']} text{'s' * (told['pairs'] != 1)}"
        )


@dataclass(frozen=True)
class _Text:
    """The clean run, what each hook point is set to ``[position, ...]``, and from where on that is something else."""

    run: Run
    values: dict[str, Tensor]
    start: int

    @classmethod
    def of(cls, compared: Comparison, parts: Any, keys: Sequence[Node], named: Mapping[str, Part]) -> _Text:
        moved = dict(zip(named, compared.moved(list(parts)), strict=True))
        places = {position: row for row, position in enumerate(compared.positions)}
        starts = [compared.base.position]
        for key in keys:
            live = moved[key.node]
            if key.position is not None and live[places[key.position]]:
                starts.append(key.position)
            elif key.position is None and live.any():
                starts.append(compared.positions[int(live.int().argmax())])
        return cls(compared.base, compared.other_values, min(starts))


def _part(name: str, pairs: Pairs) -> Part:
    """The node as patching has it; refused if the model has none such."""
    said = node_parts(name)
    layers, heads = pairs.engine.facts.n_layers, int(pairs.model.cfg.n_heads)
    if said.kind not in _KINDS:
        raise pairs.refused(
            "nodes that write what other runs write otherwise: embed, heads and MLPs", name,
            "Leave out biases, residual streams (sums of nodes) and what is measured.",
        )  # fmt: skip
    if (said.layer or 0) >= layers or (said.head or 0) >= heads:
        raise pairs.refused(f"nodes of {layers} layers with {heads} heads", name, "The circuit is of another model.")
    return Part(said.kind, said.layer or 0, said.head)


def _positions(keys: Sequence[Node], pairs: Pairs) -> list[int]:
    """The places at which anything is set, all of them where a node stands at no position of its own."""
    given = {key.position for key in keys}
    late = [position for position in given if position is not None and position > pairs.last]
    if late:
        raise pairs.refused(
            f"nodes at positions up to {pairs.last}, that of step {pairs.step}", f"position {max(late)}",
            "What stands later cannot change what is measured: measure at a later step.",
        )  # fmt: skip
    return (
        list(range(pairs.last + 1)) if None in given else sorted(position for position in given if position is not None)
    )


def _check_size(pairs: Pairs, hooks: int, positions: int) -> None:
    """Refuse what cannot be held, before anything is run: of each text other values and what comes before them."""
    import psutil

    width = int(pairs.model.cfg.d_model) * pairs.engine.dtype.itemsize
    need, free = hooks * positions * width * 2 * (len(pairs.clean) + 1), psutil.virtual_memory().available
    if need > free:
        raise InputError(
            _OPERATION,
            expected=f"values of other runs that fit the {free / 1e9:.1f} GB of free memory",
            received=f"{hooks} hook points at {positions} positions, which need about {need / 1e9:.1f} GB",
            remedy="Take a circuit with fewer positions, or fewer texts.",
        )

"""One run with parts of another: what each node does by intervention, and by the gradient.

``base`` is the run that is patched, ``other`` what is put into it. Denoising, the base is the corrupted run and the
effect of a node is what its clean value adds; noising, it is the clean run and the effect is what is lost with the
other value. Either way a positive effect means: the clean value raises the metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from interp.patching.asked import Asked
from interp.patching.gradients import node_gradients
from interp.patching.nodes import Node, depth_of
from interp.patching.references import Reference, reference_values
from interp.patching.runs import Put, Run
from interp.patching.texts import Text
from interp.sampling import widest_float
from interp.sites import Site
from interp.types import Bridge

__all__ = ["Comparison"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """A run, and the values of another at chosen positions.

    Attributes:
        base, base_values: the run that is patched, and what it has at each hook point ``[position, ...]``.
        other_values: what is put there.
        sign: 1 where moving from base to other is moving to clean.
        clean, corrupt: the metric of both runs; NaN of the corrupted one where there is none.
        other: the run that the other values are of; None of a mean or zero.
    """

    base: Run
    base_values: dict[str, Tensor]
    other_values: dict[str, Tensor]
    positions: tuple[int, ...]
    sign: int
    clean: float
    corrupt: float
    other: Run | None = None

    @classmethod
    def of(
        cls,
        model: Bridge,
        clean: Text,
        against: Text | Reference,
        asked: Asked,
        hooks: Sequence[str],
        positions: Sequence[int],
        denoise: bool,
        operation: str,
        batch_size: int,
    ) -> Comparison:
        """Both runs, up to the step that is measured, with what is read after it."""

        def run_of(text: Text) -> Run:
            place = len(text.ids) - 1
            return Run(model, [*text.ids, *asked.following], place, asked, operation, batch_size)

        own = run_of(clean)
        value, values = own.values(hooks, positions)
        if not isinstance(against, Text):
            others = reference_values(against, model, values, asked, operation)
            return cls(own, values, others, tuple(positions), -1, value, float("nan"))
        second = run_of(against)
        other, others = second.values(hooks, positions)
        if denoise:
            return cls(second, others, values, tuple(positions), 1, value, other, own)
        return cls(own, values, others, tuple(positions), -1, value, other, second)

    @staticmethod
    def reached(node: Node, position: int, last: int, site: Site | None, n_layers: int) -> bool:
        """Whether what is measured at position ``last`` can depend on a node, by where both stand in the forward pass.

        A later position is reached through attention alone, of a layer that the node comes before.
        """
        layer, stage = depth_of(site, n_layers)
        if position == last:
            return node.depth <= (layer, stage)
        return node.depth <= ((layer, 0) if stage > 0 else (layer - 1, 0))

    def reaches(self, node: Node, position: int) -> bool:
        """Whether what is measured can depend on a node at a position."""
        return self.reached(node, position, self.base.position, self.base.asked.site, self.base.engine.facts.n_layers)

    def moved(self, nodes: Sequence[Node]) -> Bool[Tensor, "node position"]:
        """Where a node has another value in the other run, and what is measured can depend on it."""
        differs: dict[str, Tensor] = {}
        for name, value in self.base_values.items():
            differs[name] = (self.other_values[name] != value).any(-1).cpu()
        rows = [differs[n.hook_name] if n.head is None else differs[n.hook_name][:, n.head] for n in nodes]
        return torch.stack(rows) & self._reached(nodes)

    def _reached(self, nodes: Sequence[Node]) -> Bool[Tensor, "node position"]:
        return torch.tensor([[self.reaches(node, position) for position in self.positions] for node in nodes])

    def estimates(self, nodes: Sequence[Node]) -> Float64[Tensor, "node position"]:
        """Attribution patching: the clean value less the other one, times the gradient at the base."""
        found = torch.zeros(len(nodes), len(self.positions), dtype=torch.float64)
        reached = self._reached(nodes)
        live = reached.any(-1).nonzero()[:, 0].tolist()
        if not live:
            return found
        hooks = list(dict.fromkeys(nodes[n].hook_name for n in live))
        gradients = node_gradients(self.base, hooks, self.positions)
        wide = widest_float(self.base.engine.device)
        products: dict[str, Any] = {}
        for name in hooks:
            moved = self.other_values[name].to(wide) - self.base_values[name].to(wide)
            products[name] = self.sign * (moved * gradients[name].to(wide)).sum(-1).cpu().double()
        for n in live:
            product, head = products[nodes[n].hook_name], nodes[n].head
            found[n] = product if head is None else product[:, head]
        return found.masked_fill_(~reached, 0.0)

    def exact(self, places: Sequence[tuple[Node, int]]) -> Float64[Tensor, " place"]:
        """What putting in the other value does, of each node at a position (an index of ``positions``)."""
        found = torch.zeros(len(places), dtype=torch.float64)
        live, patches = [], []
        for n, (node, index) in enumerate(places):
            now, put = (values[node.hook_name][index] for values in (self.base_values, self.other_values))
            if node.head is not None:
                now, put = now[node.head], put[node.head]
            if self.reaches(node, self.positions[index]) and not torch.equal(now, put):
                live.append(n)
                patches.append([Put(node.hook_name, self.positions[index], put, node.head)])
        found[live] = self.sign * self.base.effects(patches)
        return found

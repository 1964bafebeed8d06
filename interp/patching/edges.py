"""Edges between what writes into the residual stream and what reads it: estimates for all, exact effects for some.

The estimate of an edge is the clean-minus-corrupted write of its source times the metric's gradient by what the port
reads (edge attribution patching), that gradient taken at the base or averaged over points between the embeddings of
both runs (with integrated gradients).

The scores of all edges of a pair stand in one vector: port by port, source position by source position, writer by
writer, as `EdgePlan` counts them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from interp.errors import InputError
from interp.patching.comparison import Comparison
from interp.patching.nodes import Node
from interp.patching.paths import Path, path_effects, read_hooks
from interp.patching.ports import Port, port_gradients
from interp.patching.runs import Run
from interp.sites import Site

__all__ = ["EdgePlan", "Edges", "plan_of", "writers_of"]

_INPUT = "blocks.0.hook_in"


def writers_of(heads: Sequence[int]) -> list[Node]:
    """What writes into the stream, in the order of the forward pass: the embedding, then each layer's heads and MLP.

    >>> [node.label for node in writers_of([2])]
    ['embed', 'L0H0', 'L0H1', 'L0 MLP']
    """
    found = [Node("embed")]
    for layer, count in enumerate(heads):
        found += [*(Node("head", layer, head) for head in range(count)), Node("mlp", layer)]
    return found


@dataclass(frozen=True)
class EdgePlan:
    """All edges that are scored, as places in one vector.

    Attributes:
        ports: what reads.
        counts: of how many writers each port can read, the first of ``writers``.
    """

    writers: tuple[Node, ...]
    ports: tuple[Port, ...]
    counts: tuple[int, ...]

    @cached_property
    def begins(self) -> list[int]:
        """Where each port's edges begin in the vector, and the vector's length."""
        found = [0]
        for port, count in zip(self.ports, self.counts, strict=True):
            found.append(found[-1] + count * len(port.sources))
        return found

    def __len__(self) -> int:
        return self.begins[-1]

    def edges(self, places: Sequence[int]) -> list[tuple[Node, int, Port]]:
        """Writer, source position and port of each place in the vector."""
        begins = torch.tensor(self.begins)
        numbers = torch.searchsorted(begins, torch.tensor(list(places), dtype=torch.long), right=True) - 1
        found = []
        for place, number in zip(places, numbers.tolist(), strict=True):
            source, writer = divmod(place - self.begins[number], self.counts[number])
            found.append((self.writers[writer], self.ports[number].sources[source], self.ports[number]))
        return found


def plan_of(
    writers: Sequence[Node], ports: Sequence[Port], site: Site | None, n_layers: int, parallel: bool
) -> EdgePlan:
    """Which writers each port can read.

    Args:
        parallel: whether an MLP reads the stream before its own layer's heads have written.
    """
    depths, counts = [writer.depth for writer in writers], []
    for port in ports:
        depth = port.depth(site, n_layers)
        if parallel and port.port == "mlp":
            depth = (depth[0], 0)
        # An inner stream that is measured has in it what was written up to its own depth; a head or MLP reads before it
        # writes, and its depth is that of its reading.
        counts.append(bisect_right(depths, depth))
    return EdgePlan(tuple(writers), tuple(ports), tuple(counts))


class Edges:
    """The edges of one pair of runs.

    Args:
        comparison: which holds, at the positions of all ports and sources, what `hooks` names.

    Raises:
        InputError: a model whose residual stream is not the sum of what its heads and MLPs write.
    """

    def __init__(self, comparison: Comparison, plan: EdgePlan) -> None:
        self.comparison, self.plan = comparison, plan
        self._at = {position: index for index, position in enumerate(comparison.positions)}
        self._moved = self._differences()
        changed = (self._moved != 0).flatten(1).any(-1).tolist()
        self._live = {position for position, differs in zip(comparison.positions, changed, strict=True) if differs}

    @staticmethod
    def hooks(plan: EdgePlan, n_layers: int) -> list[str]:
        """What both runs have to show."""
        found = [writer.hook_name for writer in plan.writers]
        found += [f"blocks.{layer}.hook_out" for layer in range(n_layers)]
        return list(dict.fromkeys(found))

    @property
    def run(self) -> Run:
        return self.comparison.base

    def estimates(self, inputs: Sequence[Float[Tensor, "pos d_model"]]) -> Float32[Tensor, " edge"]:
        """One number an edge, with the gradient averaged over these inputs of the first block."""
        found = torch.zeros(len(self.plan), dtype=torch.float32)
        for embedded in inputs:
            for slopes in port_gradients(self.run, self.plan.ports, embedded):
                # Where both runs are the same up to a position nothing is written otherwise.
                live = [n for n, source in enumerate(slopes.sources) if source in self._live]
                if not live:
                    continue
                count = self.plan.counts[slopes.ports[0]]
                moved = self._moved[[self._at[slopes.sources[n]] for n in live], :count]
                scores = moved @ slopes.values[:, live].to(moved).permute(1, 2, 0)
                for column, n in enumerate(slopes.ports):
                    begin, end = self.plan.begins[n], self.plan.begins[n + 1]
                    found[begin:end].view(-1, count)[live] += scores[:, :, column].float().cpu()
        if not found.isfinite().all():
            raise InputError(
                self.run.operation,
                expected="a metric whose gradient is finite",
                received="NaN or infinite derivatives",
                remedy="Check the metric and the model's weights.",
            )
        return found * (self.comparison.sign / len(inputs))

    def exact(self, places: Sequence[int]) -> Float64[Tensor, " place"]:
        """What adding the difference of each edge's writer to what its port reads does."""
        numbers = {writer: n for n, writer in enumerate(self.plan.writers)}
        paths = [
            Path(port, source, self._moved[self._at[source], numbers[writer]])
            for writer, source, port in self.plan.edges(places)
        ]
        found = torch.zeros(len(paths), dtype=torch.float64)
        live = [n for n, path in enumerate(paths) if bool(path.added.any())]  # adding 0 changes nothing
        paths = [paths[n] for n in live]
        hooks = read_hooks([path.port for path in paths], self.run)
        _, streams = self.run.values(hooks, self.comparison.positions)
        found[live] = self.comparison.sign * path_effects(self.run, paths, streams, self.comparison.positions)
        return found

    def moved(self) -> Bool[Tensor, " edge"]:
        """Whether each edge's writer has written something else in the other run."""
        differs = (self._moved != 0).any(-1).cpu()
        parts = [
            differs[[self._at[source] for source in port.sources], :count].reshape(-1)
            for port, count in zip(self.plan.ports, self.plan.counts, strict=True)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool)

    def _differences(self) -> Float[Tensor, "position writer d_model"]:
        """What each writer writes in the other run less what it writes in the base."""
        wide = torch.promote_types(self.run.engine.dtype, torch.float32)
        base = self._written(self.comparison.base_values, wide)
        self._check_additive(base)
        return self._written(self.comparison.other_values, wide) - base

    def _written(self, values: dict[str, Tensor], wide: torch.dtype) -> Float[Tensor, "position writer d_model"]:
        """Of all writers, in their order. Biases of attention are left out: they are the same in every run."""
        anatomy = self.run.engine.anatomy()
        found = [values[_INPUT].to(wide)[:, None]]
        for layer in range(self.run.engine.facts.n_layers):
            z, weight = values[Node("head", layer, 0).hook_name].to(wide), anatomy.output_weights(layer).weight
            found.append(torch.einsum("phi,him->phm", z, weight.to(z)))
            found.append(values[Node("mlp", layer).hook_name].to(z)[:, None])
        return torch.cat([part.to(found[0].device) for part in found], dim=1)

    def _check_additive(self, written: Float[Tensor, "position writer d_model"]) -> None:
        """Refuse a model whose stream is not the sum of these writes: what is left over is rounding in all others."""
        engine, anatomy, values = self.run.engine, self.run.engine.anatomy(), self.comparison.base_values
        exact = engine.dtype in (torch.float32, torch.float64)
        relative, digits = (1e-5, 1e-6) if exact else (2.5e-2, 4 * torch.finfo(engine.dtype).eps)
        before = written[:, 0]
        for layer in range(engine.facts.n_layers):
            parts = written[:, [n for n, writer in enumerate(self.plan.writers) if n and writer.layer == layer]]
            after, bias = values[f"blocks.{layer}.hook_out"].to(before), anatomy.output_weights(layer).bias
            missing = (after - before - parts.sum(1) - (0 if bias is None else bias.to(before))).norm(dim=-1)
            sizes = torch.maximum(before.norm(dim=-1), after.norm(dim=-1))
            if not bool((missing <= relative * parts.norm(dim=-1).sum(1) + digits * sizes).all()):
                worst = float((missing / (after - before).norm(dim=-1)).nan_to_num(torch.inf).max())
                raise anatomy.refusal(
                    f"whose block {layer} adds what differs by {worst:.2g} of its norm from what its parts write",
                    "Norms after attention or MLP (Gemma 2 and 3, OLMo 2) do that, and hooks that edit the stream. "
                    "Patch nodes instead.",
                    self.run.operation,
                )
            before = after

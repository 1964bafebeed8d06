"""Path patching: what an edge does, by adding a write's difference to what one port reads, all else as it was.

Into an MLP or into what is measured it is one run. Into a head's q, k or v at a position it is two: the first shows
what the head's z there becomes with the difference in what that port reads, the second puts this z alone in its place.
So one head at one position is reached, though keys and values are shared with others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from interp.patching.ports import Port, norm_of, out_hook
from interp.patching.runs import Put, Run, Seen

__all__ = ["Path", "path_effects", "read_hooks"]


@dataclass(frozen=True, eq=False)
class Path:
    """A difference that is added to what a port reads at one of its sources."""

    port: Port
    source: int
    added: Float[Tensor, " d_model"]


def read_hooks(ports: Sequence[Port], run: Run) -> list[str]:
    """The hook points that hold what these ports read, norms not counted."""
    return list(dict.fromkeys(_stream_hook(port, run) for port in ports))


@torch.no_grad()
def path_effects(
    run: Run, paths: Sequence[Path], streams: dict[str, Tensor], positions: Sequence[int]
) -> Float64[Tensor, " path"]:
    """The metric with each path's difference, less the metric without.

    ``streams`` is what the run has at `read_hooks` ``[position, d_model]``.
    """
    at = {position: index for index, position in enumerate(positions)}
    patches: list[list[Put]] = [[] for _ in paths]
    seen: list[tuple[int, Put, Seen]] = []
    for n, path in enumerate(paths):
        port, hook = path.port, _stream_hook(path.port, run)
        stream = streams[hook][at[path.source]]
        moved = stream + path.added.to(stream)
        if port.node is None or port.port == "mlp":
            patches[n] = [Put(hook, path.source, moved)]
            continue
        layer = port.node.layer
        read = Put(f"blocks.{layer}.attn.{port.port}.hook_in", path.source, norm_of(run, layer)(moved[None])[0])
        seen.append((n, read, Seen(f"blocks.{layer}.attn.hook_z", port.position, port.node.head)))
    shown = run.seen([[read] for _, read, _ in seen], [place for _, _, place in seen])
    for (n, _, place), value in zip(seen, shown, strict=True):
        patches[n] = [Put(place.hook, place.position, value, place.head)]
    return run.effects(patches)


def _stream_hook(port: Port, run: Run) -> str:
    if port.node is None:
        return out_hook(run.asked.site, run.engine.facts.n_layers)
    return f"blocks.{port.node.layer}." + ("ln2.hook_in" if port.port == "mlp" else "hook_in")

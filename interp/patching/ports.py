"""What parts of a model read, and how a metric changes with it, reader by reader.

A *port* is where a part reads the residual stream: a head's q, k or v at a position, an MLP's, or ``out``, what is
measured (the final norm's input, or the stream that a residual metric is of). All of them are taken before the norm
that stands there, so that an edge's effect has the norm's in it.

A head at position t reads k and v at every position p up to t. Their gradients are those of that head at t alone: the
metric's gradient by its z is sent back through the attention of one layer with everything else at 0. Summed over t they
are the gradients by the shared keys and values, and summed over a group of heads those by a shared key/value head.

1. One pass forward, whose graph is kept; one back, to every z, every MLP's input and what is measured.
2. Head by head, back through one layer's attention to copies of what its q, k and v read, and through the norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.patching.gradients import check_gradient_memory
from interp.patching.nodes import Node, depth_of
from interp.patching.runs import Run
from interp.sites import Site
from interp.types import Bridge

__all__ = ["PORTS", "Port", "Slopes", "check_ports", "norm_of", "out_hook", "port_gradients"]

PORTS = ("q", "k", "v", "mlp", "out")


@dataclass(frozen=True)
class Port:
    """Where a part at a position reads: ``node`` is a head or an MLP, and None for what is measured.

    ``sources`` are the positions at which it reads: all up to its own for k and v, its own for the others.
    """

    node: Node | None
    port: str
    position: int
    sources: tuple[int, ...]

    def depth(self, site: Site | None, n_layers: int) -> tuple[int, int]:
        """What has been written by then has at most this depth, see `interp.patching.nodes.Node.depth`."""
        if self.node is None:
            return depth_of(site, n_layers)
        return (self.node.layer, 2 if self.port == "mlp" else 0)


def out_hook(site: Site | None, n_layers: int) -> str:
    """The hook point of what is measured, before any norm.

    >>> out_hook(None, 4), out_hook(Site("resid_post", 2), 4)
    ('ln_final.hook_in', 'blocks.2.hook_out')
    """
    if site is None or site.name == "ln_final":
        return "ln_final.hook_in"
    return f"blocks.{site.layer}." + {"resid_pre": "hook_in", "resid_mid": "ln2.hook_in"}.get(site.name, "hook_out")


def check_ports(model: Bridge, name: str, ports: Sequence[str], layers: int, operation: str) -> None:
    """Refuse, before anything is run, a model that does not show what these ports read, by its name."""
    points = {"q": "attn.q.hook_in", "k": "attn.k.hook_in", "v": "attn.v.hook_in", "mlp": "ln2.hook_in"}
    wanted = [points[port] for port in ports if port in points]
    wanted += ["ln1.hook_in"] if set(ports) & set("qkv") else []
    there = set(model.hook_dict)
    missing = sorted({point for point in wanted for n in range(layers) if f"blocks.{n}.{point}" not in there})
    if missing:
        raise InputError(
            operation,
            expected=f"blocks with {', '.join(missing)}, where the stream is read",
            received=f"{name}, whose blocks have none: its attention or its MLP has no input, or no norm, of its own",
            remedy="Leave these ports out, or patch nodes.",
        )


def norm_of(run: Run, layer: int) -> Callable[[Tensor], Tensor]:
    """The norm that a layer's attention reads through, as the model computes it."""
    norm = run.model.blocks[layer].ln1
    return lambda stream: norm(stream[None])[0]


@dataclass(frozen=True, eq=False)
class Slopes:
    """The metric's derivative by what some ports read, all at the same sources; ``ports`` are their numbers."""

    ports: tuple[int, ...]
    sources: tuple[int, ...]
    values: Float[Tensor, "port source d_model"]


def port_gradients(run: Run, ports: Sequence[Port], embedded: Float[Tensor, "pos d_model"]) -> Iterator[Slopes]:
    """The metric's derivative by what each port reads, the first block given ``embedded``.

    Some ports at a time, those of a layer's heads together; none where nothing measured depends on it.
    """
    check_gradient_memory(run)
    live: dict[str, Tensor] = {}
    layers = sorted({port.node.layer for port in ports if port.node is not None and port.port != "mlp"})
    mlps = sorted({port.node.layer for port in ports if port.node is not None and port.port == "mlp"})
    end = out_hook(run.asked.site, run.engine.facts.n_layers)
    ends = [_z(layer) for layer in layers] + [_mlp(layer) for layer in mlps]
    ends += [end] if any(port.node is None for port in ports) and end not in ends else []
    copied = [*ends, *(_read(layer, port) for layer in layers for port in "qkv")]

    def begin(value: Tensor, hook: Any) -> Tensor:
        return embedded.to(value).expand_as(value).clone().requires_grad_()

    def copy(name: str) -> Callable[..., Tensor]:
        def hook(value: Tensor, hook: Any) -> Tensor:
            live[name] = value.clone()  # which what comes after reads, and nothing else does
            return live[name]

        return hook

    def keep(layer: int) -> Callable[..., None]:
        def hook(value: Tensor, hook: Any) -> None:
            live[f"stream {layer}"] = value.detach()[0]

        return hook

    hooks: list[tuple[str, Callable[..., Any]]] = [("blocks.0.hook_in", begin)]
    hooks += [(f"blocks.{layer}.hook_in", keep(layer)) for layer in layers] + [(n, copy(n)) for n in copied]
    with run.engine.evaluating(), torch.enable_grad(), _frozen(run), run.model.hooks(fwd_hooks=hooks):
        value = run.measured()
    _check(run, value, live, copied)
    found = torch.autograd.grad(value, [live[name] for name in ends], retain_graph=True, allow_unused=True)
    slopes = {name: slope for name, slope in zip(ends, found, strict=True) if slope is not None}

    for layer in layers:
        yield from _into_heads(run, ports, layer, live, slopes)
    for n, port in enumerate(ports):
        if port.node is None or port.port == "mlp":
            name = end if port.node is None else _mlp(port.node.layer)
            if name in slopes:
                yield Slopes((n,), port.sources, slopes[name][:, list(port.sources)])


def _into_heads(
    run: Run, ports: Sequence[Port], layer: int, live: dict[str, Tensor], slopes: dict[str, Tensor]
) -> Iterator[Slopes]:
    """Ports of one layer's heads: each head and position sent back through attention on its own, then the norm."""
    z, slope = live[_z(layer)], slopes.get(_z(layer))
    if slope is None:
        return
    inputs = [live[_read(layer, port)] for port in "qkv"]
    by_position: dict[int, dict[tuple[int, ...], list[int]]] = {}
    for n, port in enumerate(ports):
        if port.node is not None and port.port != "mlp" and port.node.layer == layer:
            by_position.setdefault(port.position, {}).setdefault(port.sources, []).append(n)
    norm = norm_of(run, layer)
    for position, groups in by_position.items():
        back: dict[int, dict[str, Tensor]] = {}
        for head in sorted({_head(ports[n]) for members in groups.values() for n in members}):
            alone = torch.zeros_like(z)
            alone[0, position, head] = slope[0, position, head]
            parts = torch.autograd.grad(z, inputs, alone, retain_graph=True)
            back[head] = {name: part[0] for name, part in zip("qkv", parts, strict=True)}
        for sources, members in groups.items():
            rows = torch.stack([back[_head(ports[n])][ports[n].port][list(sources)] for n in members])
            with torch.enable_grad():
                stream = live[f"stream {layer}"][list(sources)].expand_as(rows).clone().requires_grad_()
                through = torch.autograd.grad(norm(stream.flatten(0, 1)), stream, rows.flatten(0, 1))[0]
            yield Slopes(tuple(members), sources, through)


def _head(port: Port) -> int:
    assert port.node is not None
    assert port.node.head is not None
    return port.node.head


def _check(run: Run, value: Tensor, live: dict[str, Tensor], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in live]
    if missing:
        raise InputError(
            run.operation,
            expected="blocks of attention and an MLP, whose inputs hook points show",
            received=f"{run.engine.facts.name}, in which {missing[0]} did not fire",
            remedy="Patch nodes instead.",
        )
    if not value.requires_grad:
        raise InputError(
            run.operation,
            expected="a metric that autograd can differentiate",
            received=f"{run.asked.name}, which is detached from the model",
            remedy="Work it out with torch throughout.",
        )
    run.finite(value)


@contextmanager
def _frozen(run: Run) -> Iterator[None]:
    """Weights that need no gradient meanwhile: nothing is kept for theirs."""
    free = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    for parameter in free:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)


def _z(layer: int) -> str:
    return f"blocks.{layer}.attn.hook_z"


def _mlp(layer: int) -> str:
    return f"blocks.{layer}.ln2.hook_in"


def _read(layer: int, port: str) -> str:
    return f"blocks.{layer}.attn.{port}.hook_in"

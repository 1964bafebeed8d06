"""Recording residual streams, and what is within blocks, while a model decodes.

1. ``plan_record`` turns "which layers, which sites" into the distinct places to read, those of one shape side by side:
   ``resid_pre[l+1]`` and ``resid_post[l]`` are one tensor unless something edits between them, and then it is read and
   stored once.
2. A :class:`Tape` holds the value of each place at the position just run, a block ``[place, row, *shape]`` for each
   shape; a position that is run again overwrites its rows, so what is kept is the last pass.
3. At the end of each step a sink takes the tape (:mod:`interp.sinks`); what is read in one go, or in pieces, goes where
   :mod:`interp.pieces` says.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.arguments import Judged, Texts, Wholes, as_wholes, is_whole
from interp.engines.base import Engine, ModelFacts, Read
from interp.engines.static import Replayed
from interp.errors import InputError
from interp.on_disk import as_folder, check_folder
from interp.sites import RECORDED_SITES, Site, expand_sites, resolve_layers

__all__ = [
    "Blocks",
    "PieceResiduals",
    "RecordPlan",
    "ResidualPieces",
    "ResidualSites",
    "ResidualStream",
    "Shape",
    "StepResiduals",
    "Tape",
    "as_record",
    "buffer",
    "check_memory",
    "free_memory",
    "held_bytes",
    "kept_on",
    "plan_record",
]

Shape: TypeAlias = tuple[int, ...]
Blocks: TypeAlias = Mapping[Shape, Tensor]
"""What is stored of the places of each shape: ``[place, ..., *shape]``."""


@dataclass(frozen=True)
class ResidualSites:
    """Ask ``decode``, ``read`` or ``encode`` to keep residual streams, or what is within blocks.

    Args:
        layers: ``"all"``, a layer or several (negative from the end).
        sites: any of resid_pre, resid_mid, resid_post, ln_final, attn_out, mlp_out (each ``[layer, step, d_model]``)
            and z, q, k, v (``[layer, step, head, d_head]``, k and v with the model's key/value heads); what they are,
            and on which side of norms and rotary embeddings, is said in :mod:`interp.sites`.
        dtype: of what is kept; the model's unless given.
        device: where it is kept; the model's unless given.
        folder: keep it in files of this folder, new or without such files, instead of in memory. What comes back is
            mapped: numbers are read from the disk when they are looked at. A text's file is named by its place in the
            list of prompts, ``00003.safetensors``, and holds ``residuals`` ``[step, place, d_model]``, its metadata the
            places; that of sites of heads, ``[step, place, head, d_head]``, has their shape in its name too.

    >>> from interp import decode, load_model
    >>> record = ResidualSites(layers=[0, -1], sites=("resid_post", "z"))
    >>> rollout = decode(load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->", max_new_tokens=5, record=record)[0]
    >>> {site: list(values.shape) for site, values in rollout.residuals.items()}
    {'resid_post': [2, 5, 128], 'z': [2, 5, 4, 32]}
    """

    layers: str | Wholes = "all"
    sites: Texts = ("resid_post",)
    dtype: Judged[torch.dtype | None] = None
    device: Judged[torch.device | str | None] = None
    folder: Judged[str | os.PathLike[str] | None] = None

    def __post_init__(self) -> None:
        if not isinstance(self.layers, str) and not is_whole(self.layers):  # a generator is read once, here
            object.__setattr__(self, "layers", tuple(as_wholes(self.layers, "record residuals", "layers")))
        sites = () if isinstance(self.sites, str | Site) or not isinstance(self.sites, Iterable) else tuple(self.sites)
        if not sites or any(not isinstance(name, str) or name not in RECORDED_SITES for name in sites):
            raise InputError(
                "record residuals",
                expected=f"sites among {', '.join(RECORDED_SITES)}",
                received=repr(self.sites),
                remedy='For one site write sites=("resid_post",).',
            )
        object.__setattr__(self, "sites", tuple(dict.fromkeys(sites)))
        as_folder(self.folder, type(self) is ResidualSites and self.device is None)
        if isinstance(self.dtype, str):
            object.__setattr__(self, "dtype", getattr(torch, self.dtype.removeprefix("torch."), self.dtype))
        if self.dtype is not None and not (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point):
            raise InputError(
                "record residuals",
                expected="a floating-point dtype",
                received=str(self.dtype),
                remedy="Leave dtype out.",
            )
        try:
            _ = None if self.device is None else torch.device(self.device)
        except (RuntimeError, TypeError) as error:
            raise InputError(
                "record residuals",
                expected="a device",
                received=repr(self.device),
                remedy='Write "cpu" or "cuda:0", or leave device out.',
            ) from error


@dataclass(frozen=True)
class StepResiduals:
    """One step's residuals of the rows that are at it, valid until the callback returns: clone what you keep.

    Rows that began later, in the places of finished ones, are at other steps and come by themselves.

    ``residuals[site]`` is ``[layer, row, d_model]``, of heads' sites ``[layer, row, head, d_head]``; ``rows[i]`` is the
    place of row ``i`` in the list of prompts.
    """

    step: int
    rows: list[int]
    residuals: dict[str, Float[Tensor, "layer row ..."]]


@dataclass(frozen=True)
class ResidualStream(ResidualSites):
    """Like :class:`ResidualSites`, but hands each step to ``on_step`` and stores nothing.

    >>> ResidualStream(layers=0, on_step=lambda step: None).layers
    0
    """

    on_step: Judged[Callable[[StepResiduals], None]] = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.on_step):
            raise InputError(
                "record residuals",
                expected="on_step as a function of one StepResiduals",
                received=repr(self.on_step)[:80],
                remedy="To keep residuals use ResidualSites.",
            )


@dataclass(frozen=True)
class PieceResiduals:
    """Residuals of some steps of one text, valid until the callback returns: clone what you keep.

    ``residuals[site]`` is ``[layer, step, d_model]``, of heads' sites ``[layer, step, head, d_head]``; ``row`` is the
    text's place in the list of prompts, and ``begin`` the first step that is here (with `encode`, the first position).
    """

    row: int
    begin: int
    residuals: dict[str, Float[Tensor, "_ step ..."]]

    @property
    def steps(self) -> range:
        """The steps that are here.

        >>> PieceResiduals(0, 5, {"resid_post": torch.zeros(3, 2, 8)}).steps
        range(5, 7)
        """
        return range(self.begin, self.begin + next(iter(self.residuals.values())).shape[1])


@dataclass(frozen=True)
class ResidualPieces(ResidualSites):
    """For `read` and `encode`: hands on what a piece of a text holds, and keeps nothing.

    >>> from interp import load_model, read
    >>> seen = []
    >>> record = ResidualPieces(on_piece=lambda piece: seen.append((piece.row, piece.steps)))
    >>> rollout = read(load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->", "Okay So A 6", record=record, piece=4)
    >>> seen, rollout.residuals
    ([(0, range(0, 3)), (0, range(3, 4))], {})

    A text's steps come in their order, all layers of some steps at a time; pieces of several texts by turns.
    """

    on_piece: Judged[Callable[[PieceResiduals], None]] = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.on_piece):
            raise InputError(
                "record residuals",
                expected="on_piece as a function of one PieceResiduals",
                received=repr(self.on_piece)[:80],
                remedy="To keep residuals use ResidualSites.",
            )


def as_record(record: Any, operation: str) -> ResidualSites | None:
    """What to record, or nothing; anything else is refused, and what goes with another way of running a text."""
    if record is not None and not isinstance(record, ResidualSites):
        raise InputError(
            operation,
            expected="record as ResidualSites(...) or ResidualStream(...), an instance",
            received=f"the class {record.__name__}" if isinstance(record, type) else repr(record)[:80],
            remedy='Write record=ResidualSites(layers="all").',
        )
    # Of a given response there are both, pieces and steps.
    stray = ResidualPieces if operation == "decode" else ResidualStream
    if operation != "read" and isinstance(record, stray):
        other = "ResidualStream(on_step=...)" if operation == "decode" else "ResidualPieces(on_piece=...)"
        raise InputError(
            operation,
            expected=f"ResidualSites or {other.split('(')[0]}",
            received=stray.__name__,
            remedy=f"Keep them with ResidualSites, or have them handed on with {other}.",
        )
    return record


def _by_shape(places: Iterable[Site], facts: ModelFacts) -> dict[Shape, tuple[Site, ...]]:
    """Places of one shape together, in their order."""
    found: dict[Shape, tuple[Site, ...]] = {}
    for place in places:
        shape = facts.shape(place)
        found[shape] = (*found.get(shape, ()), place)
    return found


@dataclass(frozen=True)
class RecordPlan:
    """The places to read, once each, and which of them make up each site.

    ``groups[shape]`` are the places of a shape, in the order in which they are stored; ``views[site]`` is a shape and
    which of its places are the site's, from the first to before the last: a slice, which shares memory.
    """

    groups: dict[Shape, tuple[Site, ...]]
    views: dict[str, tuple[Shape, int, int]]
    layers: tuple[int, ...]

    @property
    def places(self) -> tuple[Site, ...]:
        return tuple(place for group in self.groups.values() for place in group)

    @property
    def numbers(self) -> int:
        """How many numbers a position has, of all places."""
        return sum(len(group) * math.prod(shape) for shape, group in self.groups.items())

    def by_site(self, stored: Blocks) -> dict[str, Float[Tensor, "_ ..."]]:
        """Site to ``[layer, ...]``: what is stored by place, shared and not copied."""
        return {site: stored[shape][first:last] for site, (shape, first, last) in self.views.items()}

    def targets(self, stored: Sequence[Blocks]) -> dict[Site, list[Tensor]]:
        """Where each place's values go: to one tensor for each of what is stored."""
        return {
            place: [blocks[shape][number] for blocks in stored]
            for shape, group in self.groups.items()
            for number, place in enumerate(group)
        }


def plan_record(record: ResidualSites | None, engine: Engine, edited: Iterable[Site] = ()) -> RecordPlan:
    """Decide what to read; ``edited`` are the sites at which interventions replace the stream."""
    if record is None:
        return RecordPlan({}, {}, ())
    layers = resolve_layers(record.layers, engine.facts.n_layers, "record residuals")
    sites = expand_sites(record.sites, layers)
    groups: dict[Shape, list[Site]] = {}
    views: dict[str, tuple[Shape, int, int]] = {}
    if {"resid_pre", "resid_post"} <= set(sites) and _one_stream(layers, engine, frozenset(edited)):
        shape = engine.facts.shape(sites["resid_pre"][0])
        groups[shape] = [sites["resid_pre"][0], *sites["resid_post"]]
        views["resid_pre"], views["resid_post"] = (shape, 0, len(layers)), (shape, 1, len(layers) + 1)
    for name, members in sites.items():
        if name not in views:
            shape = engine.facts.shape(members[0], "record residuals")
            group = groups.setdefault(shape, [])
            views[name] = (shape, len(group), len(group) + len(members))
            group += members
    return RecordPlan({shape: tuple(group) for shape, group in groups.items()}, views, layers)


def _one_stream(layers: tuple[int, ...], engine: Engine, edited: frozenset[Site]) -> bool:
    """Whether each recorded block's output is the next recorded block's input, untouched."""
    inner = layers[1:]
    neighbours = all(upper == lower + 1 for lower, upper in zip(layers, inner, strict=False))
    return neighbours and all(
        Site("resid_pre", layer) not in edited and engine.shared_boundary(layer) for layer in inner
    )


class Tape:
    """The latest value of each place at the position just run, for the live rows: ``[place, row, *shape]``."""

    def __init__(self, places: Sequence[Site], rows: int, engine: Engine) -> None:
        self.places = tuple(places)
        self.groups = _by_shape(self.places, engine.facts)
        self.values = {
            shape: torch.zeros(len(group), rows, *shape, dtype=engine.dtype, device=engine.device)
            for shape, group in self.groups.items()
        }
        each = (zip(group, self.values[shape], strict=True) for shape, group in self.groups.items())
        self._of = {place: held for pairs in each for place, held in pairs}
        self._index: Int[Tensor, " rerun"] | None = None
        self._off = False

    def reads(self) -> dict[Site, Read]:
        """The handlers an engine calls with each place's value."""
        return {place: Replayed(partial(self._write, self._of[place])) for place in self.places}

    def _write(self, held: Float[Tensor, "row ..."], value: Float[Tensor, "some pos ..."]) -> None:
        if self._off:
            return
        last = value.select(1, -1)
        if self._index is None:
            held.narrow(0, 0, last.shape[0]).copy_(last)
        else:
            held.index_copy_(0, self._index, last.to(held))

    def recorded(self, plan: RecordPlan, rows: int) -> dict[Shape, Float[Tensor, "place row ..."]]:
        """What is to be recorded of the live rows; a plan's places are the first of their shape on the tape."""
        return {shape: self.values[shape][: len(group), :rows] for shape, group in plan.groups.items()}

    @contextmanager
    def only(self, index: Int[Tensor, " rerun"] | None) -> Iterator[None]:
        """Passes inside are over these rows; ``None``: they are scratch and leave no trace."""
        self._index, self._off = index, index is None
        try:
            yield
        finally:
            self._index, self._off = None, False

    def value(self, site: Site, rows: int) -> Float[Tensor, "row ..."]:
        if site not in self._of:
            raise InputError(
                "read a residual",
                expected="a site listed in the intervention's reads",
                received=f"{site.name} of layer {site.layer}",
                remedy="Declare it: only declared sites are held during decoding.",
            )
        return self._of[site][:rows]


def kept_on(record: ResidualSites, engine: Engine) -> torch.device:
    """The device on which what is recorded is kept."""
    return torch.device(record.device or ("cpu" if record.folder is not None else engine.device))


def buffer(
    record: ResidualSites, plan: RecordPlan, count: int, engine: Engine
) -> dict[Shape, Float[Tensor, "place pos ..."]]:
    """Room for ``count`` positions of each place, where and as precise as they are to be kept."""
    dtype, device = record.dtype or engine.dtype, kept_on(record, engine)
    return {
        shape: torch.empty(len(group), count, *shape, dtype=dtype, device=device)
        for shape, group in plan.groups.items()
    }


def check_memory(
    operation: str,
    engine: Engine,
    rows: int,
    columns: int,
    remedy: str,
    record: ResidualSites | None = None,
    plan: RecordPlan | None = None,
    positions: int = 0,
    besides: int = 0,
) -> None:
    """Refuse, before anything is computed, what does not fit the free memory of a device, or the disk.

    That is the keys and values of ``rows`` texts of ``columns`` tokens, what is kept of ``positions`` in all, and
    ``besides``, in bytes on the model's device.
    """
    needs = {engine.device: engine.cache_bytes(rows, columns) + besides}
    if record is not None and plan is not None and not isinstance(record, ResidualStream | ResidualPieces):
        dtype = record.dtype or engine.dtype
        kept = positions * plan.numbers * dtype.itemsize
        if record.folder is None:
            device = kept_on(record, engine)
            needs[device] = needs.get(device, 0) + kept
        else:
            check_folder(Path(record.folder), dtype, kept, operation)
    for device, need in needs.items():
        free = free_memory(device)
        if free is not None and need > free:
            raise InputError(
                operation,
                expected=f"at most the {free / 1e9:.1f} GB free on {device}",
                received=f"a request of {need / 1e9:.1f} GB",
                remedy=remedy,
            )


def held_bytes(record: ResidualSites | None, plan: RecordPlan, engine: Engine) -> int:
    """Bytes of a column of one text that are held until a piece of it is handed on, to whoever asked or to the disk."""
    is_handed = isinstance(record, ResidualStream | ResidualPieces) or (
        record is not None and record.folder is not None
    )
    return plan.numbers * engine.dtype.itemsize if is_handed else 0


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device; None where it cannot be told.

    >>> (free_memory(torch.device("cpu")) or 0) > 0, free_memory(torch.device("meta"))
    (True, None)
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu":
        import psutil

        return int(psutil.virtual_memory().available)
    return None

"""Recording residual streams while a model decodes.

1. ``plan_record`` turns "which layers, which sites" into the distinct places to read: ``resid_pre[l+1]`` and
   ``resid_post[l]`` are one tensor unless something edits between them, and then it is read and stored once.
2. A :class:`Tape` holds the value of each place at the position just run, ``[place, row, d_model]``; a position that
   is run again overwrites its rows, so what is kept is the last pass.
3. At the end of each step a :class:`Sink` takes the tape: for :class:`ResidualSites` into preallocated buffers, one a
   response; for :class:`ResidualStream` into a callback, storing nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.arguments import Judged, Texts, Wholes, as_wholes, is_whole
from interp.engines.base import Engine, Read
from interp.errors import InputError
from interp.sites import SITE_NAMES, Site, expand_sites, resolve_layers

__all__ = [
    "RecordPlan",
    "ResidualSites",
    "ResidualStream",
    "Sink",
    "StepResiduals",
    "Tape",
    "as_record",
    "buffer",
    "check_memory",
    "plan_record",
    "sink_for",
]


@dataclass(frozen=True)
class ResidualSites:
    """Ask ``decode`` or ``encode`` to keep residual streams.

    Args:
        layers: ``"all"``, a layer or several (negative from the end).
        sites: any of resid_pre, resid_mid, resid_post, ln_final.
        dtype: of what is kept; the model's unless given.
        device: where it is kept; the model's unless given.

    >>> ResidualSites(layers=[-1], sites=("resid_post", "ln_final")).sites
    ('resid_post', 'ln_final')
    """

    layers: str | Wholes = "all"
    sites: Texts = ("resid_post",)
    dtype: Judged[torch.dtype | None] = None
    device: Judged[torch.device | str | None] = None

    def __post_init__(self) -> None:
        if not isinstance(self.layers, str) and not is_whole(self.layers):  # a generator is read once, here
            object.__setattr__(self, "layers", tuple(as_wholes(self.layers, "record residuals", "layers")))
        sites = () if isinstance(self.sites, str | Site) or not isinstance(self.sites, Iterable) else tuple(self.sites)
        if not sites or any(not isinstance(name, str) or name not in SITE_NAMES for name in sites):
            raise InputError(
                "record residuals",
                expected=f"sites among {', '.join(SITE_NAMES)}",
                received=repr(self.sites),
                remedy='For one site write sites=("resid_post",).',
            )
        object.__setattr__(self, "sites", tuple(dict.fromkeys(sites)))
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
    """One step's residuals of the rows still going, valid until the callback returns: clone what you keep.

    ``residuals[site]`` is ``[layer, row, d_model]``; ``rows[i]`` is the place of row ``i`` in the list of prompts.
    """

    step: int
    rows: list[int]
    residuals: dict[str, Float[Tensor, "layer row d_model"]]


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


def as_record(record: Any, operation: str) -> ResidualSites | None:
    """What to record, or nothing; anything else is refused."""
    if record is not None and not isinstance(record, ResidualSites):
        raise InputError(
            operation,
            expected="record as ResidualSites(...) or ResidualStream(...), an instance",
            received=f"the class {record.__name__}" if isinstance(record, type) else repr(record)[:80],
            remedy='Write record=ResidualSites(layers="all").',
        )
    return record


@dataclass(frozen=True)
class RecordPlan:
    """The places to read, once each, and which of them make up each site.

    ``views[site]`` lists indices into ``places``; a run of consecutive ones becomes a slice, which shares memory.
    """

    places: tuple[Site, ...]
    views: dict[str, tuple[int, ...]]
    layers: tuple[int, ...]

    def by_site(self, stored: Float[Tensor, "place *rest"]) -> dict[str, Float[Tensor, "_ *rest"]]:
        """Site to ``[layer, ...]``: what is stored by place, shared and not copied."""
        return {site: stored[index[0] : index[0] + len(index)] for site, index in self.views.items()}


def plan_record(record: ResidualSites | None, engine: Engine, edited: Iterable[Site] = ()) -> RecordPlan:
    """Decide what to read; ``edited`` are the sites at which interventions replace the stream."""
    if record is None:
        return RecordPlan((), {}, ())
    layers = resolve_layers(record.layers, engine.facts.n_layers, "record residuals")
    sites = expand_sites(record.sites, layers)
    places: list[Site] = []
    views: dict[str, tuple[int, ...]] = {}
    if {"resid_pre", "resid_post"} <= set(sites) and _one_stream(layers, engine, frozenset(edited)):
        places += [sites["resid_pre"][0], *sites["resid_post"]]
        views["resid_pre"] = tuple(range(len(layers)))
        views["resid_post"] = tuple(range(1, len(layers) + 1))
    for name, members in sites.items():
        if name not in views:
            views[name] = tuple(range(len(places), len(places) + len(members)))
            places += members
    return RecordPlan(tuple(places), views, layers)


def _one_stream(layers: tuple[int, ...], engine: Engine, edited: frozenset[Site]) -> bool:
    """Whether each recorded block's output is the next recorded block's input, untouched."""
    inner = layers[1:]
    neighbours = all(upper == lower + 1 for lower, upper in zip(layers, inner, strict=False))
    return neighbours and all(
        Site("resid_pre", layer) not in edited and engine.shared_boundary(layer) for layer in inner
    )


class Tape:
    """The latest value of each place at the position just run, for the live rows: ``[place, row, d_model]``."""

    def __init__(self, places: Sequence[Site], rows: int, engine: Engine) -> None:
        self.places = tuple(places)
        self.values = torch.zeros(len(places), rows, engine.facts.d_model, dtype=engine.dtype, device=engine.device)
        self._index: Int[Tensor, " rerun"] | None = None
        self._off = False

    def reads(self) -> dict[Site, Read]:
        """The handlers an engine calls with each place's residual."""
        return {place: partial(self._write, number) for number, place in enumerate(self.places)}

    def _write(self, number: int, residual: Float[Tensor, "row pos d_model"]) -> None:
        if self._off:
            return
        last = residual[:, -1].to(self.values)
        if self._index is None:
            self.values[number, : last.shape[0]] = last
        else:
            self.values[number].index_copy_(0, self._index, last)

    @contextmanager
    def only(self, index: Int[Tensor, " rerun"] | None) -> Iterator[None]:
        """Passes inside are over these rows; ``None``: they are scratch and leave no trace."""
        self._index, self._off = index, index is None
        try:
            yield
        finally:
            self._index, self._off = None, False

    def value(self, site: Site, rows: int) -> Float[Tensor, "row d_model"]:
        if site not in self.places:
            raise InputError(
                "read a residual",
                expected="a site listed in the intervention's reads",
                received=f"{site.name} of layer {site.layer}",
                remedy="Declare it: only declared sites are held during decoding.",
            )
        return self.values[self.places.index(site), :rows]


class Sink:
    """Where the residuals of a batch go: it is given a step at a time and asked for a row at a time.

    This one lets them go. Rows are told by their places in the list of prompts.
    """

    def add(self, rows: list[int], t: int, values: Float[Tensor, "place row d_model"]) -> None:
        """Take step ``t`` of these rows; ``values`` are valid until this returns."""

    def take(self, row: int, steps: int) -> dict[str, Float[Tensor, "_ step d_model"]]:
        """What has been kept of a row that leaves after ``steps`` steps."""
        return {}


class _Keeping(Sink):
    """Into preallocated buffers, one a row."""

    def __init__(
        self, record: ResidualSites, plan: RecordPlan, rows: Sequence[int], steps: int, engine: Engine
    ) -> None:
        self.plan = plan
        # Copies from a GPU to pinned memory need no waiting.
        pinned = _device(record, engine).type == "cpu" and engine.device.type == "cuda"
        self.buffers = {row: buffer(record, plan, steps, engine, pinned) for row in rows}
        self._wait: Callable[[], None] = torch.cuda.synchronize if pinned else lambda: None

    def add(self, rows: list[int], t: int, values: Float[Tensor, "place row d_model"]) -> None:
        for i, row in enumerate(rows):
            self.buffers[row][:, t].copy_(values[:, i], non_blocking=True)

    def take(self, row: int, steps: int) -> dict[str, Float[Tensor, "_ step d_model"]]:
        self._wait()
        whole = self.buffers.pop(row)
        return self.plan.by_site(whole if steps == whole.shape[1] else whole[:, :steps].clone())


class _Streaming(Sink):
    """To whoever asked, nothing kept."""

    def __init__(self, record: ResidualStream, plan: RecordPlan) -> None:
        self.record, self.plan = record, plan

    def add(self, rows: list[int], t: int, values: Float[Tensor, "place row d_model"]) -> None:
        device, dtype = self.record.device, self.record.dtype
        views = {site: view.to(device=device, dtype=dtype) for site, view in self.plan.by_site(values).items()}
        self.record.on_step(StepResiduals(t, rows, views))


def sink_for(record: ResidualSites | None, plan: RecordPlan, rows: Sequence[int], steps: int, engine: Engine) -> Sink:
    """The sink that these rows, of at most ``steps`` steps each, need for what was asked for."""
    if isinstance(record, ResidualStream):
        return _Streaming(record, plan)
    return Sink() if record is None else _Keeping(record, plan, rows, steps, engine)


def _device(record: ResidualSites, engine: Engine) -> torch.device:
    return torch.device(record.device or engine.device)


def buffer(
    record: ResidualSites, plan: RecordPlan, count: int, engine: Engine, pinned: bool = False
) -> Float[Tensor, "place pos d_model"]:
    """Room for ``count`` positions of each place, where and as precise as they are to be kept."""
    shape = (len(plan.places), count, engine.facts.d_model)
    dtype, device = record.dtype or engine.dtype, _device(record, engine)
    return torch.empty(shape, dtype=dtype, device=device, pin_memory=pinned)


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
    """Refuse, before anything is computed, what does not fit the free memory of a device.

    That is the keys and values of ``rows`` texts of ``columns`` tokens, what is kept of ``positions`` in all, and
    ``besides``, in bytes on the model's device.
    """
    needs = {engine.device: engine.cache_bytes(rows, columns) + besides}
    if record is not None and plan is not None and not isinstance(record, ResidualStream):
        device, itemsize = _device(record, engine), (record.dtype or engine.dtype).itemsize
        kept = positions * len(plan.places) * engine.facts.d_model * itemsize
        needs[device] = needs.get(device, 0) + kept
    for device, need in needs.items():
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
        elif device.type == "cpu":
            import psutil

            free = psutil.virtual_memory().available
        else:
            continue
        if need > free:
            raise InputError(
                operation,
                expected=f"at most the {free / 1e9:.1f} GB free on {device}",
                received=f"a request of {need / 1e9:.1f} GB",
                remedy=remedy,
            )

"""Shares of one measure at some steps, and the tables of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from analyses.attribution.mi_reference import Reference
from analyses.views.frames import ShareTable
from interp.engines.registry import model_facts
from interp.token_text import text_pieces
from interp.types import Bridge
from interp.writes import Component, Writes, read_sources
from probes.integrated import Differentiable, IntegratedGradient, integrated_gradient

__all__ = ["Shared", "ends_table", "share_table", "sources_of"]

_SOURCES = [
    "step", "measure", "component", "layer", "head", "position", "at_step", "source_token", "weight",
    "reference_weight", "share",
]  # fmt: skip


class Shared:
    """One measure at every step asked about: what each component's write did to it, all in its unit.

    `shares`, `direct` and `total` are ``[component, step]``; `total` is NaN until it is measured.
    """

    def __init__(self, measure: Differentiable, path: IntegratedGradient, shares: Tensor, direct: Tensor) -> None:
        self.measure, self.path, self.shares, self.direct = measure, path, shares, direct
        self.total = torch.full_like(shares, torch.nan)

    @classmethod
    def of(
        cls,
        measure: Differentiable,
        writes: Writes,
        against: Sequence[int],
        tolerance: float | int,
        max_points: int | None,
    ) -> Shared:
        """Of the first places of `writes`, each compared with the place `against` it."""
        stream, count = _wide(writes.stream[-1]), len(against)
        path = integrated_gradient(
            measure, stream[list(against)], stream[:count], tolerance=tolerance, max_points=max_points
        )
        shares, direct = [], []
        for n, other in enumerate(against):  # one step's in float64 at a time
            change = _wide(writes.values[:, n]) - _wide(writes.values[:, other])  # [component, d_model]
            shares.append(change @ path.gradient[n])
            direct.append(path.end[n] - measure.value(stream[n] - change))
        return cls(measure, path, torch.stack(shares, dim=1), torch.stack(direct, dim=1))

    def largest(self, place: int, count: int) -> list[int]:
        """Numbers of the components with the largest shares at a step, whatever their sign."""
        order: list[int] = self.shares[:, place].abs().nan_to_num(-1.0).argsort(descending=True, stable=True).tolist()
        return order[:count]

    def add_total(self, place: int, numbers: Sequence[int], streams: Float[Tensor, "component_and_1 d_model"]) -> None:
        """The total effects of some components at a step, from the stream as it is and with each write replaced."""
        values = self.measure.value(_wide(streams))
        self.total[list(numbers), place] = values[0] - values[1:]

    @property
    def missing(self) -> Float64[Tensor, " step"]:
        """How far the shares are from summing to the difference, as a part of it; NaN where there is none."""
        none = self.path.is_flat
        off = (self.path.difference - self.shares.sum(dim=0)).abs()
        return torch.where(none, torch.nan, off / torch.where(none, 1.0, self.path.difference.abs()))


def share_table(
    told: Mapping[str, Sequence[Any]], shared: Sequence[Shared], components: Sequence[Component]
) -> ShareTable:
    """One row a step, measure and component, in the order of the stream."""
    size, frames = len(components), []
    for place in range(len(told["step"])):
        for one in shared:
            frames.append(
                _labelled({name: values[place] for name, values in told.items()}, one, size).assign(
                    component=[component.label for component in components],
                    kind=[component.kind for component in components],
                    layer=pandas.array([c.layer if c.layer >= 0 else None for c in components], dtype="Int64"),
                    head=pandas.array([component.head for component in components], dtype="Int64"),
                    share=_plain(one.shares[:, place]),
                    direct=_plain(one.direct[:, place]),
                    total=_plain(one.total[:, place]),
                )
            )
    return ShareTable(pandas.concat(frames, ignore_index=True))


def ends_table(
    told: Mapping[str, Sequence[Any]], shared: Sequence[Shared], references: Sequence[Reference]
) -> pandas.DataFrame:
    """One row a step and measure: the score there and at the reference, and what of the difference is shared out."""
    frames = []
    for place, reference in enumerate(references):
        for one in shared:
            row = _labelled({name: values[place] for name, values in told.items()}, one, 1)
            frames.append(
                row.assign(
                    value=float(one.path.end[place]),
                    reference_value=float(one.path.start[place]),
                    difference=float(one.path.difference[place]),
                    shared=float(one.shares[:, place].sum()),
                    missing=float(one.missing[place]),
                    path_missing=float(one.path.relative[place]),
                    points=int(one.path.points[place]),
                    reference=reference.told,
                )
            )
    return pandas.concat(frames, ignore_index=True)


def sources_of(
    model: Bridge,
    ids: list[int],
    said: list[int],
    steps: Sequence[int],
    references: Sequence[Reference],
    shared: Sequence[Shared],
    components: Sequence[Component],
    count: int,
) -> pandas.DataFrame:
    """What the heads of the `count` largest shares of each step and measure read them from, position by position."""
    frames = []
    for place, step in enumerate(steps):
        best = [
            [n for n in one.largest(place, len(components)) if components[n].kind == "head"][:count] for one in shared
        ]
        numbers = sorted({number for some in best for number in some})
        if not numbers:
            continue
        other = references[place].steps
        heads = [components[number] for number in numbers]
        found = read_sources(model, ids, said, [[step], list(other)], heads)
        end = len(ids) + max(step, *other)  # beyond it none of them looks
        words = text_pieces(model_facts(model).tokenizer, found.token_ids[:end].tolist())
        places = [p - len(ids) + 1 if p >= len(ids) - 1 else None for p in range(end)]
        for one, some in zip(shared, best, strict=True):
            split = found.split(one.path.gradient[place].expand(len(heads), -1))
            for number in some:
                n = numbers.index(number)
                frames.append(
                    pandas.DataFrame(
                        {
                            "step": step,
                            "measure": one.measure.name,
                            "component": heads[n].label,
                            "layer": heads[n].layer,
                            "head": heads[n].head,
                            "position": range(end),
                            "at_step": pandas.array(places, dtype="Int64"),
                            "source_token": pandas.array(words, dtype="str"),
                            "weight": _plain(found.patterns[n, 0, :end]),
                            "reference_weight": _plain(found.patterns[n, 1, :end]),
                            "share": _plain(split[n, 0, :end] - split[n, 1, :end]),
                        }
                    )
                )
    return pandas.concat(frames, ignore_index=True) if frames else pandas.DataFrame(columns=_SOURCES)


def _labelled(told: Mapping[str, Any], one: Shared, size: int) -> pandas.DataFrame:
    columns: dict[str, Any] = {}
    for name, value in {**told, "measure": one.measure.name}.items():
        kept = np.repeat(np.asarray([value], dtype=object), size)
        columns[name] = pandas.array(kept, dtype="str" if isinstance(value, str) else "int64")
    return pandas.DataFrame(columns)


def _plain(values: Tensor) -> np.ndarray:
    return values.cpu().double().numpy()


def _wide(x: Tensor) -> Float64[Tensor, "..."]:
    """In float64, on the CPU where the device has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()

"""The numbers of every response by layer, once in a page: its list of responses and its comparison follow the layer."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.views.assets import data_script

if TYPE_CHECKING:
    from analyses.report.digest import Digest

__all__ = ["MEASURES", "layered", "layered_values"]

MEASURES = ("n_peaks", "interval_mean", "mean_mi", "sum_mi")
NUMBERS = 60_000  # that a page may hold: 320 kB; layers are left out beyond


def layered_values(one: Digest) -> tuple[list[int], np.ndarray]:
    """The layers kept, that of the opening among them, and ``[measure, layer, response]``; NaN where undefined."""
    rows = one.responses[["problem", "sample"]]
    room = max(1, NUMBERS // (len(MEASURES) * len(rows)))
    every = -(-len(one.layers) // room)
    opened = one.layers.index(one.opening.layer)
    layers = [layer for place, layer in enumerate(one.layers) if (place - opened) % every == 0]
    values = np.full((len(MEASURES), len(layers), len(rows)), np.nan)
    groups = dict(iter(one.statistics.groupby("layer")))
    for place, layer in enumerate(layers):
        part = rows.merge(groups[layer], on=["problem", "sample"], how="left")
        values[:, place] = part[list(MEASURES)].to_numpy(dtype=float).T
    return layers, values


def layered(one: Digest) -> str:
    """The same as data for the page's script, with the steps of each response."""
    layers, values = layered_values(one)
    data: dict[str, Any] = {
        "layers": layers,
        "measures": list(MEASURES),
        "steps": one.responses["n_steps"].astype(int).tolist(),
        "values": base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode(),
    }
    return f'<div class="rp-layered" hidden>{data_script(data)}</div>'

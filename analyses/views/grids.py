"""Layer by step: scores of a response as a heatmap, effects of patching as a sweep (by head too)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.views.arrays import finite_range, is_text, matrix, one_each, truths
from analyses.views.drawing import (
    counted,
    figure_of,
    hover,
    live,
    low_middle_high,
    plain,
    short,
    token_tips,
)
from analyses.views.scored import Scored
from analyses.views.view import View
from interp.display import between, number, table
from interp.errors import InputError
from interp.token_text import with_parts_shown

if TYPE_CHECKING:
    import pandas

__all__ = ["heatmap", "sweep"]

_UNDEFINED = "#bdbdbd"


def heatmap(
    values: Scored | Any,
    tokens: Sequence[str] | Any = None,
    layers: Sequence[int] | None = None,
    marks: Any = None,
    *,
    title: str = "",
    label: str = "value",
    low: float | int | None = None,
    high: float | int | None = None,
    inputs: Sequence[str] | None = None,
) -> View:
    """Scores over layer and step: colour for the value, a ringed dot for a mark, token and value on hover.

    >>> view = heatmap([[0.1, 0.9], [float("nan"), 0.2]], tokens=["So", " 7"], layers=[3, 7], marks=[1])
    >>> view.alt
    'value over 2 layers (3, 7) and 2 steps, from 0.1 to 0.9; 2 cells marked; 1 cell undefined.'

    Args:
        values: a trajectory, which brings tokens, layers and peaks, or numbers ``[layer, step]``.
        tokens: the token of each step; what is no texts here is taken for marks: ``heatmap(mi, peaks)``.
        layers: the layer of each row; 0, 1, ... unless given.
        marks: steps, or booleans ``[step]`` or ``[layer, step]``.
        label: what the values are.
        low, high: values of the first and of the last colour; by default the smallest and the largest finite one.
        inputs: the token that each step has read, where ``tokens`` are those that steps predict; a trajectory's own.

    Raises:
        InputError: no steps, or lengths that differ.
    """
    if tokens is not None and not is_text(tokens):
        tokens, marks = None, _only(tokens, marks)
    if isinstance(values, Scored):
        layers = list(values.layers) if layers is None else layers
        marks = values.is_peak if marks is None else marks
        if tokens is None:
            tokens, inputs = values.tokens, values.input_tokens if inputs is None else inputs
        label = values.measure
        title = title or f"{values.measure} at {values.site} of {values.problem}"
        values = values.mi
    numbers = matrix(values, "heatmap")
    name = title or f"{label} over layer and step"
    return _grid("heatmap", numbers, tokens, layers, marks, name, label, False, limits=(low, high), inputs=inputs)


def _only(marks: Any, others: Any) -> Any:
    if others is not None:
        raise InputError(
            "heatmap", expected="tokens as texts, beside marks", received=type(marks).__name__, remedy="Pass tokens=..."
        )
    return marks


def sweep(effects: pandas.DataFrame, *, title: str = "", label: str = "effect") -> View:
    """Effects of patching over layer and step, or head, on a scale whose middle is 0: blue above, red below.

    >>> import pandas
    >>> rows = pandas.DataFrame({"layer": [0, 1], "step": [4, 5], "token": ["So", "7"], "effect": [-0.5, 0.25]})
    >>> sweep(rows).alt
    'effect over 2 layers (0, 1) and 2 steps, from -0.5 to 0.25; 2 cells undefined.'

    Args:
        effects: columns ``layer``, ``step``, ``token``, ``effect``, one row a (layer, step), as a `SweepTable` has; and
            ``input_token``, where that is known. With a column ``head``, of one step or of steps patched together:
            ``layer``, ``head``, ``effect``, one row a (layer, head).

    Raises:
        InputError: columns that are not there, no rows, or a (layer, step) or (layer, head) that is there twice.
    """
    axis = "head" if "head" in effects.columns else "step"
    needed = ["layer", "head", "effect"] if axis == "head" else ["layer", "step", "token", "effect"]
    missing = [name for name in needed if name not in effects.columns]
    if missing or effects.empty or effects.duplicated(["layer", axis]).any():
        received = f"no {', '.join(missing)}" if missing else f"{len(effects)} rows, some of the same (layer, {axis})"
        one_at_a_time = "Show one site, problem and sample at a time"
        raise InputError(
            "sweep",
            expected=f"at least one row, one a (layer, {axis}), with {', '.join(needed)}",
            received="no rows" if effects.empty and not missing else received,
            remedy=f'{one_at_a_time}, and one step: effects[effects["step"] == 3].'
            if axis == "head"
            else f"{one_at_a_time}.",
        )
    layers = sorted({int(layer) for layer in effects["layer"]})
    columns = sorted({int(column) for column in effects[axis]})
    grid = np.full((len(layers), len(columns)), np.nan)
    for layer, column, effect in zip(effects["layer"], effects[axis], effects["effect"], strict=True):
        grid[layers.index(int(layer)), columns.index(int(column))] = effect
    sites = sorted(set(map(str, effects["site"]))) if "site" in effects.columns else []
    name = title or (f"Effect of patching {', '.join(sites)}" if sites else f"Effects over layer and {axis}")
    if axis == "head":
        return _grid("sweep", grid, None, layers, None, name, label, True, columns, axis=axis)
    words = {int(step): str(token) for step, token in zip(effects["step"], effects["token"], strict=True)}
    read = None
    if "input_token" in effects.columns:
        before = dict(zip(effects["step"].astype(int), effects["input_token"].astype(str), strict=True))
        read = [before[step] for step in columns]
    tokens = [words[step] for step in columns]
    return _grid("sweep", grid, tokens, layers, None, name, label, True, columns, inputs=read)


def _grid(
    operation: str, values: np.ndarray, tokens: Sequence[str] | None, layers: Sequence[int] | None, marks: Any,
    title: str, label: str, diverging: bool, steps: Sequence[int] | None = None,
    limits: tuple[float | int | None, float | int | None] = (None, None), inputs: Sequence[str] | None = None,
    axis: str = "step",
) -> View:  # fmt: skip
    count, length = values.shape
    if not values.size:
        raise InputError(
            operation, expected="at least one layer and one step", received=f"shape {values.shape}",
            remedy="There is nothing to show of an empty response.",
        )  # fmt: skip
    words = ["-"] * length if tokens is None else one_each(tokens, length, "tokens, one a step", operation)
    before = None if inputs is None else one_each(inputs, length, "inputs, one a step", operation)
    rows = list(range(count)) if layers is None else one_each(layers, count, "layers, one a row", operation)
    columns = list(range(length)) if steps is None else list(steps)
    marked = truths([] if marks is None else marks, values.shape, operation)
    span = finite_range(values)
    low, high = limits
    scale = None if span is None else (span[0] if low is None else low, span[1] if high is None else high)
    figure = _heatmap_figure(values, words, before, rows, columns, marked, scale, label, diverging, axis)

    def frame() -> pandas.DataFrame:
        import pandas as pd

        return pd.DataFrame(
            {
                "layer": np.repeat(rows, length),
                axis: np.tile(columns, count),
                **({} if before is None else {"input_token": before * count}),
                **({"token": words * count} if axis == "step" else {}),
                "value": values.reshape(-1),
                "marked": marked.reshape(-1),
            }
        )

    lines = [
        [row, *low_middle_high(values[i]), int(marked[i].sum()), _top(values[i], words, before, columns, axis)]
        for i, row in enumerate(rows)
    ]
    static = table(["layer", "lowest", "median", "highest", "marked", "highest at"], lines)
    ends = "no finite values" if span is None else f"from {number(span[0])} to {number(span[1])}"
    listed = ", ".join(map(str, rows)) if count <= 8 else f"{rows[0]} to {rows[-1]}"
    parts = [f"{label} over {counted(count, 'layer')} ({listed}) and {counted(length, axis)}, {ends}"]
    told = ["Blue is above 0, red below."] if diverging else []
    if marked.any():
        parts.append(f"{counted(int(marked.sum()), 'cell')} marked")
        told.append("Ringed dots are marked cells.")
    undefined = int((~np.isfinite(values)).sum())
    if undefined:
        parts.append(f"{counted(undefined, 'cell')} undefined")
        told.append("Grey hatching is undefined or infinite.")
    return View(title, static, "; ".join(parts) + ".", live(figure, " ".join(told)), frame)


def _heatmap_figure(
    values: np.ndarray, words: list[str], inputs: list[str] | None, rows: list[int], columns: list[int],
    marked: np.ndarray, span: tuple[float | int, float | int] | None, label: str, diverging: bool, axis: str,
) -> Any:  # fmt: skip
    from bokeh.models import BasicTicker, FixedTicker, LinearColorMapper
    from bokeh.models.annotations import ColorBar
    from bokeh.palettes import RdBu11, Viridis256, interp_palette

    count, length = values.shape
    low, high = (0.0, 0.0) if span is None else span
    if diverging:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    if low == high:
        low, high = low - max(abs(low), 1.0) / 2, high + max(abs(high), 1.0) / 2
    palette = interp_palette(RdBu11[::-1], 255) if diverging else Viridis256
    mapper = LinearColorMapper(palette=palette, low=low, high=high, nan_color=_UNDEFINED)
    figure = figure_of(
        height=min(560, 130 + max(14, min(34, 420 // count)) * count),
        x_range=(-0.5, length - 0.5), y_range=(-0.5, count - 0.5), x_axis=axis, y_axis="layer",
    )  # fmt: skip
    y, x = (axis.reshape(-1) for axis in np.indices(values.shape))
    shown = [short(word) for word in with_parts_shown(words)]
    data = {
        "x": x, "y": y, "value": values.reshape(-1), "layer": np.asarray(rows)[y], "step": np.asarray(columns)[x],
        "token": [shown[step] for step in x], "marked": np.where(marked.reshape(-1), "yes", "no").tolist(),
    }  # fmt: skip
    if inputs is not None:
        read = [short(word) for word in inputs]
        data["input"] = [read[step] for step in x]
    # A little over 1, or thin gaps show where a cell is no whole number of pixels wide.
    cells = figure.rect(
        "x",
        "y",
        width=1.03,
        height=1.03,
        source=data,
        line_color=None,
        fill_color={"field": "value", "transform": mapper},
    )
    undefined = ~np.isfinite(values.reshape(-1))
    if undefined.any():
        figure.rect(
            x[undefined], y[undefined], width=1, height=1, fill_color=_UNDEFINED, line_color=None,
            hatch_pattern="/", hatch_color="#6e6e6e", hatch_scale=6, hatch_alpha=0.8,
        )  # fmt: skip
    dots = marked.reshape(-1)
    if dots.any():
        figure.scatter(
            x[dots],
            y[dots],
            marker="circle_dot",
            size=8 if length <= 100 else 6,
            fill_color="#ffffff",
            line_color="#000000",
            line_width=1.3,
        )
    tips = [("layer", "@layer"), (axis, "@step"), *(token_tips(inputs is not None) if axis == "step" else [])]
    tips += [(label, "@value{%.6g}"), ("marked", "@marked")]
    figure.add_tools(hover([cells], tips))
    figure.xaxis.ticker = BasicTicker(min_interval=1)
    every = max(1, -(-count // 14))
    figure.yaxis.ticker = FixedTicker(ticks=list(range(0, count, every)))
    figure.yaxis.major_label_overrides = {i: str(rows[i]) for i in range(0, count, every)}
    if columns != list(range(length)):
        _name_ticks(figure, columns)
    if span is not None:
        bar = ColorBar(
            color_mapper=mapper, orientation="horizontal", height=10, title=plain(label), padding=4,
            major_label_text_color="#333333", title_text_color="#333333", title_text_font_style="normal",
        )  # fmt: skip
        figure.add_layout(bar, "below")
    return figure


def _name_ticks(figure: Any, columns: list[int]) -> None:
    """Steps that do not count from 0: ticks at places, labelled with the steps."""
    from bokeh.models import FixedTicker

    every = max(1, -(-len(columns) // 12))
    figure.xaxis.ticker = FixedTicker(ticks=list(range(0, len(columns), every)))
    figure.xaxis.major_label_overrides = {i: str(columns[i]) for i in range(0, len(columns), every)}


def _top(values: np.ndarray, words: list[str], inputs: list[str] | None, columns: list[int], axis: str) -> str:
    if not np.isfinite(values).any():
        return "-"
    place = int(np.nanargmax(np.where(np.isfinite(values), values, np.nan)))
    if axis != "step":
        return f"{axis} {columns[place]}"
    where = short(words[place]) if inputs is None else between(inputs[place], words[place])
    return f"step {columns[place]} {where}"

"""The figures of a report, each once and empty: the page's script fills them with the response and layer chosen.

A figure of every response would take far more room than the numbers do. The script finds the models by the names given
here: ``line``, ``peaks``, ``limit``, ``cells``, ``dots``, ``undefined``, ``row``, ``colours``, ``steps``, ``height``,
``curve`` and ``map`` in the curves, ``groups``, ``medians``, ``height`` and ``figure`` in the comparison. Text of
models and files comes into columns alone, which tooltips escape.

Colours are those of a light page; what a dark one needs stands in tags, "property|light|dark" (:func:`_themed`), by
which the script paints.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any

import numpy as np

from analyses.views.drawing import empty_figure, figure_item, token_tips

__all__ = ["comparison_item", "curves_item"]

_BLUE, _UNDEFINED = "#0072b2", "#bdbdbd"
_CELLS = ("x", "y", "dw", "dh", "step", "layer", "input", "token", "value", "peak")
_LEFT, _RIGHT = 52, 58  # pixels beside both figures, so that their steps stand below each other
_INK, _SOFT, _GRID = ("#333333", "#c9d1d9"), ("#999999", "#4a535e"), ("#e6e6e6", "#2b323a")
_PAPER = ("#ffffff", "#15191e")
_LINE = (_BLUE, "#5cb0ea")


def curves_item(layers: Sequence[int], run: int) -> dict[str, Any]:
    """Scores of one layer as a line over steps, and of all layers as a heatmap below it; they pan and zoom together.

    >>> item = curves_item([0, 1, 2], 0)
    >>> sorted(item)
    ['doc', 'root_id', 'target_id', 'version']

    They hang on nothing else: a process that writes many reports makes them once, which takes a tenth of a second.
    """
    return deepcopy(_curves(tuple(layers), run))


@lru_cache(maxsize=16)
def _curves(layers: tuple[int, ...], run: int) -> dict[str, Any]:
    from bokeh.layouts import column
    from bokeh.models import Range1d

    steps = Range1d(start=0, end=1, name="steps")
    return figure_item(column(_line(steps, run), _heatmap(steps, layers, run), sizing_mode="stretch_width"))


def _line(steps: Any, run: int) -> Any:
    from bokeh.models import ColumnDataSource, HoverTool, Range1d

    height = Range1d(start=0, end=1, name="height")
    figure = _figure(
        height=165, x_range=steps, y_range=height, y_axis_label="nHSIC", tags=[run], name="curve",
        toolbar_location="right",
    )  # fmt: skip
    figure.xaxis.visible = False
    data = ColumnDataSource({"step": [], "value": [], "input": [], "token": [], "peak": []}, name="line")
    limit = ColumnDataSource({"step": [], "value": []}, name="limit")
    peaks = ColumnDataSource({"step": [], "value": []}, name="peaks")
    dashed = figure.line("step", "value", source=limit, line_dash="dashed", width=1.2)
    _themed(dashed.glyph, line_color=("#b03a00", "#ff9d66"))
    _themed(figure.line("step", "value", source=data, width=1.5).glyph, line_color=_LINE)
    # Points too: a value between two undefined ones is on no line.
    dots = figure.scatter("step", "value", source=data, size=3.5)
    _themed(dots.glyph, line_color=_LINE, fill_color=_LINE)
    figure.scatter(
        "step", "value", source=peaks, marker="circle_dot", size=11, fill_color="#ffffff", line_color="#000000",
        line_width=1.6,
    )  # fmt: skip
    # What the pointer is above: the whole column of a step, also where there is no score.
    columns = figure.vbar(x="step", width=1, bottom=0, top=1, source=data, fill_alpha=0, line_alpha=0)
    tips = [("step", "@step"), *token_tips(True), ("nHSIC", "@value{%.4g}"), ("peak", "@peak")]
    figure.add_tools(HoverTool(renderers=[columns], tooltips=tips, formatters={"@value": "printf"}, mode="vline"))
    _cursor(figure)
    return figure


def _heatmap(steps: Any, layers: Sequence[int], run: int) -> Any:
    from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, LinearColorMapper
    from bokeh.models.annotations import ColorBar

    count = len(layers)
    figure = _figure(
        height=56 + min(200, max(130, 34 * count)), x_range=steps, y_range=(-0.5, count - 0.5),
        x_axis_label="step", y_axis_label="layer", tags=[run], toolbar_location=None, name="map",
    )  # fmt: skip
    figure.grid.visible = False
    mapper = LinearColorMapper(palette="Viridis256", low=0, high=1, nan_color=_UNDEFINED, name="colours")
    # One cell, from which the script learns what kind of array an image is.
    blank: dict[str, Any] = {name: [0] for name in _CELLS}
    cells = ColumnDataSource(blank | {"image": [np.zeros((1, 1))]}, name="cells")
    drawn = figure.image("image", x="x", y="y", dw="dw", dh="dh", source=cells, color_mapper=mapper)
    figure.rect(
        "x", "y", width=1, height=1, source=ColumnDataSource({"x": [], "y": []}, name="undefined"), line_color=None,
        fill_color=_UNDEFINED, hatch_pattern="/", hatch_color="#6e6e6e", hatch_scale=6, hatch_alpha=0.8,
    )  # fmt: skip
    row = ColumnDataSource({"x": [], "y": [], "width": []}, name="row")
    for colour, width in (("#000000", 4), ("#ffffff", 1.6)):  # seen on any colour
        figure.rect("x", "y", width="width", height=1, source=row, fill_color=None, line_color=colour, line_width=width)
    figure.scatter(
        "x", "y", source=ColumnDataSource({"x": [], "y": []}, name="dots"), marker="circle_dot",
        size=7 if count <= 12 else 4.5,
        fill_color="#ffffff", line_color="#000000", line_width=1.2,
    )  # fmt: skip
    tips = [
        ("layer", "@layer"), ("step", "@step"), *token_tips(True), ("nHSIC", "@value{%.4g}"), ("peak", "@peak"),
    ]  # fmt: skip
    figure.add_tools(HoverTool(renderers=[drawn], tooltips=tips, formatters={"@value": "printf"}))
    every = max(1, -(-count // 14))
    figure.yaxis.ticker = FixedTicker(ticks=list(range(0, count, every)))
    figure.yaxis.major_label_overrides = {i: str(layers[i]) for i in range(0, count, every)}
    _cursor(figure)
    bar = ColorBar(
        color_mapper=mapper, width=9, padding=4, name="bar", major_label_text_font_size="10px", label_standoff=4,
        bar_line_color=None,
    )  # fmt: skip
    _themed(bar, major_label_text_color=_INK, background_fill_color=_PAPER)
    figure.add_layout(bar, "right")
    return figure


def _cursor(figure: Any) -> None:
    """A line at the step chosen, and a tap that chooses a step (and, on the heatmap, a layer)."""
    from bokeh.models import CustomJS
    from bokeh.models.annotations import Span

    line = Span(location=0, dimension="height", line_width=1.5, line_dash="solid", tags=["cursor"])
    _themed(line, line_color=("#c2185b", "#ff6fa8"))
    figure.add_layout(line)
    tapped = 'document.dispatchEvent(new CustomEvent("peaklens-tap", {detail: {run: RUN, x: cb_obj.x, y: ROW}}))'
    row = "cb_obj.y" if figure.yaxis[0].axis_label == "layer" else "null"
    figure.js_on_event("tap", CustomJS(code=tapped.replace("RUN", str(figure.tags[0])).replace("ROW", row)))


def comparison_item(groups: Sequence[str], run: int) -> dict[str, Any]:
    """Dots by group, one a response, and medians as lines.

    >>> item = comparison_item(["correct", "wrong"], 0)
    >>> [name in str(item) for name in ("correct", "wrong", _blank(0))]
    [True, True, False]

    But for the names it hangs on how many groups there are, and is made once, as the curves are.
    """
    names = {_blank(k): name for k, name in enumerate(groups)}

    def named(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: named(value) for key, value in part.items()}
        if isinstance(part, (list, tuple)):
            return [named(value) for value in part]
        return names.get(part, part) if isinstance(part, str) else part

    return dict(named(_comparison(len(groups), run)))


def _blank(group: int) -> str:
    """What stands for a group's name until it is known."""
    return f"name of group {group}"


@lru_cache(maxsize=16)
def _comparison(count: int, run: int) -> dict[str, Any]:
    """The figure of so many groups; each run of a page has models of its own."""
    from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d

    height = Range1d(start=0, end=1, name="height")
    figure = _figure(height=320, x_range=(-0.6, count - 0.4), y_range=height, y_axis_label="nHSIC", name="figure")
    figure.min_border_right = 14
    dots = ColumnDataSource({"x": [], "y": [], "name": [], "group": [], "colour": [], "steps": []}, name="groups")
    medians = ColumnDataSource({"x0": [], "x1": [], "y": []}, name="medians")
    drawn = figure.scatter(
        "x", "y", source=dots, size=9, fill_color="colour", fill_alpha=0.65, line_color="#222222", line_width=0.8
    )
    bars = figure.segment("x0", "y", "x1", "y", source=medians, line_width=3)
    _themed(bars.glyph, line_color=("#000000", "#ffffff"))
    tips = [("response", "@name"), ("", "@group"), ("value", "@y{%.4g}"), ("steps", "@steps")]
    figure.add_tools(HoverTool(renderers=[drawn], tooltips=tips, formatters={"@y": "printf"}))
    figure.xaxis.ticker = FixedTicker(ticks=list(range(count)))
    figure.xaxis.major_label_overrides = {k: _blank(k) for k in range(count)}
    figure.xgrid.visible = False
    return figure_item(figure)


def _figure(height: int, **options: Any) -> Any:
    figure = empty_figure(height, min_border_left=_LEFT, min_border_right=_RIGHT, min_border_top=6, **options)
    border = (_PAPER[0], "#00000000")
    _themed(figure, background_fill_color=_PAPER, border_fill_color=border, outline_line_color=_SOFT)
    # A dark border is the page itself, and so it begins: of a white one the edge would stay, which ends within a pixel.
    figure.border_fill_color = border[1]
    for axis in figure.axis:
        _themed(
            axis, axis_label_text_color=_INK, major_label_text_color=_INK, axis_line_color=_SOFT,
            major_tick_line_color=_SOFT,
        )  # fmt: skip
    for grid in figure.grid:
        _themed(grid, grid_line_color=_GRID)
    return figure


def _themed(model: Any, **colours: tuple[str, str]) -> None:
    """Give a model its colours on light paper, and say in its tags what they are on dark."""
    model.tags = [*model.tags, *(f"{name}|{light}|{dark}" for name, (light, dark) in colours.items())]
    model.update(**{name: light for name, (light, _) in colours.items()})

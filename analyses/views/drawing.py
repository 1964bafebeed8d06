"""What the figures drawn by bokeh have in common: paper, axes, tooltips, colours, and how text of models gets in.

Text reaches bokeh as plain text only: where it would read ``$$...$$`` as mathematics, labels are `PlainText`, and in
templates of tooltips names are escaped.
"""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from interp.display import LONGEST, short, visible

__all__ = [
    "DASHES",
    "LINES",
    "LONGEST",
    "MARKERS",
    "NAME",
    "counted",
    "empty_figure",
    "figure_item",
    "figure_of",
    "hover",
    "legend_below",
    "live",
    "low_middle_high",
    "plain",
    "say_nothing_there",
    "short",
    "token_tips",
]

# Okabe and Ito's colours that stand out on white, in an order of contrast.
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a5c00", "#444444")
DASHES = ("solid", "dashed", "dotdash", "dotted")
MARKERS = ("circle", "triangle", "square", "diamond", "inverted_triangle", "star")
NAME = 24  # of a problem in a legend, an axis or a bar's name: all that a phone has room for


def figure_of(height: int, x_axis: str, y_axis: str, **options: Any) -> Any:
    """An empty figure with names for its axes."""
    labels = {"x_axis_label": plain(x_axis), "y_axis_label": plain(y_axis) if y_axis else None}
    return empty_figure(height, **labels, **options)


def empty_figure(height: int, **options: Any) -> Any:
    """An empty figure as wide as its place; nothing scrolls or drags until a tool is chosen."""
    from bokeh.plotting import figure

    made = figure(
        height=height, sizing_mode="stretch_width", tools="xpan,xwheel_zoom,box_zoom,reset,save", active_drag=None,
        active_scroll=None, background_fill_color="#ffffff", border_fill_color="#ffffff", min_width=200,
        **({"toolbar_location": "above"} | options),
    )  # fmt: skip
    made.toolbar.logo = None
    made.grid.grid_line_color = "#e6e6e6"
    made.outline_line_color = "#999999"
    for axis in made.axis:
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = "#333333"
        axis.major_label_text_font_size = "12px"
        axis.minor_tick_line_color = None
    return made


def say_nothing_there(ranges: Any, figure: Any, x: float) -> None:
    """A figure without data says so; its range cannot follow the data."""
    ranges.start, ranges.end = 0, 1
    figure.text([x], [0.5], text=["no finite values"], text_align="center", text_baseline="middle")


def legend_below(figure: Any, items: list[Any]) -> None:
    """A name a line, below the figure; a click hides what it names."""
    from bokeh.models.annotations import Legend

    legend = Legend(
        items=items, click_policy="hide", orientation="vertical", label_text_font_size="12px", border_line_color=None,
        location="top_left", label_height=16, glyph_height=16, spacing=2, margin=4,
    )  # fmt: skip
    figure.add_layout(legend, "below")


def hover(renderers: list[Any], tips: list[tuple[str, str]]) -> Any:
    """What hovering tells: names, and fields that bokeh fills in and escapes. Its own form has names too pale."""
    from bokeh.models import HoverTool

    rows = "".join(
        f'<tr><th style="text-align:left;padding:0 8px 0 0;font-weight:600;vertical-align:top">{_literal(name)}</th>'
        f'<td style="overflow-wrap:anywhere">{field}</td></tr>'
        for name, field in tips
    )
    look = "color:#1b1f24;font:12px/1.5 system-ui,sans-serif;border-collapse:collapse;max-width:260px"
    formatters: dict[str, Any] = {f"@{name}": "printf" for name in ("value", "low", "high")}
    return HoverTool(renderers=renderers, tooltips=f'<table style="{look}">{rows}</table>', formatters=formatters)


def token_tips(both: bool) -> list[tuple[str, str]]:
    """Rows of a tooltip for the tokens of a step: the one it has read and the one it predicts, where both are known."""
    return [("after", "@input"), ("before", "@token")] if both else [("token", "@token")]


def _literal(name: str) -> str:
    """A name in a template of bokeh's, in which @ and $ call for fields and braces for formats."""
    shown = html.escape(visible(name[:LONGEST]))
    return "".join(f"&#{ord(c)};" if c in "@${}" else c for c in shown)


def live(figure: Any, note: str = "") -> dict[str, Any]:
    """The `live` part of a view that bokeh draws, with a line of text below the figure."""
    return {"needs": "bokeh", "item": figure_item(figure), "note": note}


def figure_item(figure: Any) -> dict[str, Any]:
    """What `bokeh.embed.json_item` gives of a figure that is in no document, in little more than half of its time.

    It would look for errors of drawing and for callbacks in Python, and so walk through all parts twice more; what we
    draw has neither.
    """
    import bokeh
    from bokeh.document import Document

    document = Document(title="")
    document.add_root(figure)
    content = document.to_json(deferred=False)
    return {"target_id": None, "root_id": figure.id, "doc": content, "version": bokeh.__version__}


def plain(text: str) -> Any:
    """Text for an axis or a scale, no longer than there is room for."""
    from bokeh.models import PlainText

    return PlainText(text=visible(text if len(text) <= 2 * NAME else text[: 2 * NAME - 1] + "…"))


def low_middle_high(values: np.ndarray) -> list[float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return [float("nan")] * 3
    return [float(finite.min()), float(np.median(finite)), float(finite.max())]


def counted(count: int, thing: str) -> str:
    """The count with the noun, for a text that is read aloud: no thin spaces."""
    return f"{count} {thing}{'' if count == 1 or thing.endswith('s') else 's'}"

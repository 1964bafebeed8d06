"""Curves with intervals: a number against a setting, one curve a group; what studies draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.views.arrays import columns_of
from analyses.views.drawing import (
    DASHES,
    LINES,
    MARKERS,
    figure_of,
    hover,
    legend_below,
    live,
    say_nothing_there,
    short,
)
from analyses.views.view import View
from interp.display import number, table, visible

if TYPE_CHECKING:
    import pandas

__all__ = ["lines"]


def lines(
    frame: pandas.DataFrame,
    *,
    x: str,
    y: str,
    low: str | None = None,
    high: str | None = None,
    by: Sequence[str] = (),
    reference: float | int | None = None,
    title: str = "",
) -> View:
    """One curve a group of rows, its points joined in the order of ``x``, with intervals where there are some.

    >>> import pandas
    >>> frame = pandas.DataFrame({"words": [1, 2, 1], "accuracy": [0.7, 0.5, 0.7], "kind": ["ban", "ban", "control"]})
    >>> lines(frame, x="words", y="accuracy", by=["kind"]).alt
    'accuracy against words, 2 curves: ban (1: 0.7, 2: 0.5); control (1: 0.7).'

    Args:
        x, y: columns of numbers.
        low, high: columns of the ends of intervals.
        by: columns whose values name a curve.
        reference: a value of ``y`` to draw a line at.

    Raises:
        InputError: columns that are not there, or no rows.
    """
    wanted = columns_of(frame, (*by, x, y), low, high, "lines")
    groups: list[tuple[str, Any]] = []
    if by:
        for key, part in frame.groupby(list(by), sort=False, dropna=False):
            groups.append((", ".join(_name(value) for value in key), part.sort_values(x)))
    else:
        groups.append((y, frame.sort_values(x)))
    told = [
        f"{name} ({', '.join(f'{number(a)}: {number(b)}' for a, b in part[[x, y]].astype(float).to_numpy().tolist())})"
        for name, part in groups[:6]
    ]
    more = f"; and {len(groups) - 6} more" if len(groups) > 6 else ""
    curves = "curve" if len(groups) == 1 else "curves"
    line = "" if reference is None else f"; dashed line at {number(reference)}"
    alt = f"{y} against {x}, {len(groups)} {curves}: {'; '.join(told)}{more}{line}."
    static = table(wanted, [[row[name] for name in wanted] for row in frame.to_dict("records")])
    figure = _figure(groups, x, y, low, high, reference)
    return View(title or f"{y} against {x}", static, alt, live(figure), lambda: frame.loc[:, wanted].copy())


def _name(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _figure(
    groups: list[tuple[str, Any]], x: str, y: str, low: str | None, high: str | None, reference: float | int | None
) -> Any:
    from bokeh.models.annotations import LegendItem, Span

    figure = figure_of(height=330 + 20 * len(groups), x_axis=x, y_axis=y)
    values = [part[y].to_numpy(dtype=float) for _, part in groups]
    if not any(np.isfinite(some).any() for some in values):
        say_nothing_there(figure.y_range, figure, 0.5)
    everywhere = np.unique(np.concatenate([part[x].to_numpy(dtype=float) for _, part in groups]))
    gap = np.diff(everywhere).min() if len(everywhere) > 1 else 1.0
    items, dots = [], []
    for k, (name, part) in enumerate(groups):
        colour, shown = LINES[k % len(LINES)], visible(short(name))
        # Points of one x stand side by side, or intervals would hide each other.
        beside = part[x].to_numpy(dtype=float) + gap * 0.3 * (k - (len(groups) - 1) / 2) / max(1, len(groups))
        data = {"x": beside, "at": part[x].to_numpy(dtype=float), "value": values[k], "name": [shown] * len(part)}
        dash = DASHES[k // len(LINES) % len(DASHES)]
        line = figure.line("x", "value", source=data, color=colour, width=1.6, line_dash=dash)
        points = figure.scatter("x", "value", source=data, size=7, color=colour, marker=MARKERS[k % len(MARKERS)])
        parts = [line, points]
        if low is not None and high is not None:
            ends = part[[low, high]].to_numpy(dtype=float)
            parts.append(figure.segment(beside, ends[:, 0], beside, ends[:, 1], color=colour, line_width=1.2))
        items.append(LegendItem(label={"value": shown}, renderers=parts))
        dots.append(points)
    if reference is not None:
        figure.add_layout(Span(location=reference, dimension="width", line_dash="dashed", line_color="#333333"))
    figure.add_tools(hover(dots, [("", "@name"), (x, "@at"), (y, "@value{%.6g}")]))
    if len(everywhere) <= 12:
        figure.xaxis.ticker = everywhere.tolist()
    if len(groups) > 1:
        legend_below(figure, items)
    return figure

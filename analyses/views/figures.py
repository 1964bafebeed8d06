"""Figures drawn by bokeh: heatmaps over layer and step, lines over steps, effects of patching, bars.

Palettes are those that colour-blind readers can tell apart (viridis, red-blue, Okabe-Ito); peaks, series and undefined
cells also differ by glyph, dash or hatching.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.views.arrays import columns_of, finite_range, matrix, one_each, truths
from analyses.views.drawing import (
    DASHES,
    LINES,
    MARKERS,
    NAME,
    figure_of,
    hover,
    legend_below,
    live,
    plain,
    say_nothing_there,
    short,
)
from analyses.views.scored import Scored
from analyses.views.view import View
from interp.arguments import Wholes, as_wholes
from interp.display import number, table, visible
from interp.errors import InputError
from interp.token_text import with_parts_shown

if TYPE_CHECKING:
    import pandas

__all__ = ["bars", "heatmap", "sweep", "trajectories"]

_UNDEFINED = "#bdbdbd"


def heatmap(
    values: Scored | Any,
    tokens: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    marks: Any = None,
    *,
    title: str = "",
    label: str = "value",
    low: float | int | None = None,
    high: float | int | None = None,
) -> View:
    """Scores over layer and step: colour for the value, a ringed dot for a mark, token and value on hover.

    >>> view = heatmap([[0.1, 0.9], [float("nan"), 0.2]], tokens=["So", " 7"], layers=[3, 7], marks=[1])
    >>> view.alt
    'value over 2 layers (3, 7) and 2 steps, from 0.1 to 0.9; 2 cells marked; 1 cell undefined.'

    Args:
        values: a trajectory, which brings tokens, layers and peaks, or numbers ``[layer, step]``.
        layers: the layer of each row; 0, 1, ... unless given.
        marks: steps, or booleans ``[step]`` or ``[layer, step]``.
        label: what the values are.
        low, high: values of the first and of the last colour; by default the smallest and the largest finite one.

    Raises:
        InputError: no steps, or lengths that differ.
    """
    if isinstance(values, Scored):
        layers = list(values.layers) if layers is None else layers
        marks = values.is_peak if marks is None else marks
        tokens, label = values.tokens if tokens is None else tokens, values.measure
        title = title or f"{values.measure} at {values.site} of {values.problem}"
        values = values.mi
    numbers = matrix(values, "heatmap")
    name = title or f"{label} over layer and step"
    return _grid("heatmap", numbers, tokens, layers, marks, name, label, False, limits=(low, high))


def sweep(effects: pandas.DataFrame, *, title: str = "", label: str = "effect") -> View:
    """Effects of patching over layer and step, on a scale whose middle is 0: blue above, red below.

    >>> import pandas
    >>> rows = pandas.DataFrame({"layer": [0, 1], "step": [4, 5], "token": ["So", "7"], "effect": [-0.5, 0.25]})
    >>> sweep(rows).alt
    'effect over 2 layers (0, 1) and 2 steps, from -0.5 to 0.25; 2 cells undefined.'

    Args:
        effects: columns ``layer``, ``step``, ``token``, ``effect``, one row a (layer, step), as a `SweepTable` has.

    Raises:
        InputError: columns that are not there, no rows, or a (layer, step) that is there twice.
    """
    needed = ["layer", "step", "token", "effect"]
    missing = [name for name in needed if name not in effects.columns]
    if missing or effects.empty or effects.duplicated(["layer", "step"]).any():
        received = f"no {', '.join(missing)}" if missing else f"{len(effects)} rows, some of the same (layer, step)"
        raise InputError(
            "sweep",
            expected=f"at least one row, one a (layer, step), with {', '.join(needed)}",
            received="no rows" if effects.empty and not missing else received,
            remedy="Show one site, problem and sample at a time.",
        )
    layers = sorted({int(layer) for layer in effects["layer"]})
    steps = sorted({int(step) for step in effects["step"]})
    words = {int(step): str(token) for step, token in zip(effects["step"], effects["token"], strict=True)}
    grid = np.full((len(layers), len(steps)), np.nan)
    for layer, step, effect in zip(effects["layer"], effects["step"], effects["effect"], strict=True):
        grid[layers.index(int(layer)), steps.index(int(step))] = effect
    sites = sorted(set(map(str, effects["site"]))) if "site" in effects.columns else []
    name = title or (f"Effect of patching {', '.join(sites)}" if sites else "Effects over layer and step")
    return _grid("sweep", grid, [words[step] for step in steps], layers, None, name, label, True, steps)


def _grid(
    operation: str, values: np.ndarray, tokens: Sequence[str] | None, layers: Sequence[int] | None, marks: Any,
    title: str, label: str, diverging: bool, steps: Sequence[int] | None = None,
    limits: tuple[float | int | None, float | int | None] = (None, None),
) -> View:  # fmt: skip
    count, length = values.shape
    if not values.size:
        raise InputError(
            operation, expected="at least one layer and one step", received=f"shape {values.shape}",
            remedy="There is nothing to show of an empty response.",
        )  # fmt: skip
    words = ["-"] * length if tokens is None else one_each(tokens, length, "tokens, one a step", operation)
    rows = list(range(count)) if layers is None else one_each(layers, count, "layers, one a row", operation)
    columns = list(range(length)) if steps is None else list(steps)
    marked = truths([] if marks is None else marks, values.shape, operation)
    span = finite_range(values)
    low, high = limits
    scale = None if span is None else (span[0] if low is None else low, span[1] if high is None else high)
    figure = _heatmap_figure(values, words, rows, columns, marked, scale, label, diverging)

    def frame() -> pandas.DataFrame:
        import pandas as pd

        return pd.DataFrame(
            {
                "layer": np.repeat(rows, length),
                "step": np.tile(columns, count),
                "token": words * count,
                "value": values.reshape(-1),
                "marked": marked.reshape(-1),
            }
        )

    lines = [
        [row, *_summary(values[i]), int(marked[i].sum()), _top(values[i], words, columns)] for i, row in enumerate(rows)
    ]
    static = table(["layer", "lowest", "median", "highest", "marked", "highest at"], lines)
    ends = "no finite values" if span is None else f"from {number(span[0])} to {number(span[1])}"
    listed = ", ".join(map(str, rows)) if count <= 8 else f"{rows[0]} to {rows[-1]}"
    parts = [f"{label} over {_several(count, 'layer')} ({listed}) and {_several(length, 'step')}, {ends}"]
    told = ["Blue is above 0, red below."] if diverging else []
    if marked.any():
        parts.append(f"{_several(int(marked.sum()), 'cell')} marked")
        told.append("Ringed dots are marked cells.")
    undefined = int((~np.isfinite(values)).sum())
    if undefined:
        parts.append(f"{_several(undefined, 'cell')} undefined")
        told.append("Grey hatching is undefined or infinite.")
    return View(title, static, "; ".join(parts) + ".", live(figure, " ".join(told)), frame)


def _heatmap_figure(
    values: np.ndarray, words: list[str], rows: list[int], columns: list[int], marked: np.ndarray,
    span: tuple[float | int, float | int] | None, label: str, diverging: bool,
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
        x_range=(-0.5, length - 0.5), y_range=(-0.5, count - 0.5), x_axis="step", y_axis="layer",
    )  # fmt: skip
    y, x = (axis.reshape(-1) for axis in np.indices(values.shape))
    shown = [short(word) for word in with_parts_shown(words)]
    data = {
        "x": x, "y": y, "value": values.reshape(-1), "layer": np.asarray(rows)[y], "step": np.asarray(columns)[x],
        "token": [shown[step] for step in x], "marked": np.where(marked.reshape(-1), "yes", "no").tolist(),
    }  # fmt: skip
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
    tips = [("layer", "@layer"), ("step", "@step"), ("token", "@token"), (label, "@value{%.6g}"), ("marked", "@marked")]
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


def trajectories(
    several: Scored | Sequence[Scored],
    layers: Wholes = (-1,),
    *,
    title: str = "",
    threshold: bool = True,
) -> View:
    """Scores as lines over steps, peaks as filled marks, the threshold of Tukey's rule dotted.

    >>> import torch
    >>> mi = torch.tensor([[0.1, 0.2, 0.1, 0.9]], dtype=torch.float64)
    >>> from analyses.trace import Trajectory
    >>> one = Trajectory(list("abcd"), torch.arange(4), mi, mi > 0.5, [2], "resid_post", "ducks", 0)
    >>> trajectories(one).alt
    'nHSIC over steps, 1 line: ducks, layer 2 (4 steps, 1 peak).'

    Args:
        several: one trajectory or some.
        layers: one or several layers of each; negative numbers count from its last.

    Raises:
        InputError: no trajectory, a layer that was not scored.
    """
    listed = [several] if isinstance(several, Scored) else list(several)
    chosen = as_wholes(layers, "trajectories", "layers")
    if not listed or not chosen:
        raise InputError(
            "trajectories", expected="at least one trajectory and one layer", received="none", remedy="Pass some."
        )
    lines = [(one, one.row(layer)) for one in listed for layer in chosen]
    names = _line_names(lines)
    measure = listed[0].measure
    counts = [
        f"{name} ({_several(one.mi.shape[1], 'step')}, {_several(int(one.is_peak[row].sum()), 'peak')})"
        for name, (one, row) in zip(names, lines, strict=True)
    ]
    more = f" and {len(counts) - 8} more" if len(counts) > 8 else ""
    alt = f"{measure} over steps, {_several(len(lines), 'line')}: {', '.join(counts[:8])}{more}."
    note = "Large marks are peaks."
    thresholds = [one.threshold(one.layers[row]) if threshold else float("nan") for one, row in lines]
    if np.isfinite(thresholds).any():
        note += " Thin dotted lines are the thresholds that peaks exceed."
    rows = [
        [name, *_summary(one.mi[row].numpy()), limit, int(one.is_peak[row].sum()),
         " ".join(short(one.tokens[step]) for step in one.is_peak[row].nonzero()[:12, 0].tolist())]
        for name, (one, row), limit in zip(names, lines, thresholds, strict=True)
    ]  # fmt: skip
    static = table(["line", "lowest", "median", "highest", "threshold", "peaks", "peak tokens"], rows)
    figure = _lines_figure(lines, names, thresholds, measure)

    def frame() -> pandas.DataFrame:
        import pandas as pd

        return pd.concat([one.only([one.layers[row]]).to_frame() for one, row in lines], ignore_index=True)

    return View(title or f"{measure} over steps", static, alt, live(figure, note), frame)


def _line_names(lines: list[tuple[Scored, int]]) -> list[str]:
    """Problem and layer; the sample and a number too where names would be the same."""
    called = [one.problem if len(one.problem) <= NAME else one.problem[: NAME - 1] + "…" for one, _ in lines]
    names = [f"{name}, layer {one.layers[row]}" for name, (one, row) in zip(called, lines, strict=True)]
    if len(set(names)) < len(names):
        names = [
            f"{name}, sample {one.sample}, layer {one.layers[row]}"
            for name, (one, row) in zip(called, lines, strict=True)
        ]
    if len(set(names)) < len(names):
        names = [f"{k}: {name}" for k, name in enumerate(names, start=1)]
    return names


def _lines_figure(lines: list[tuple[Scored, int]], names: list[str], thresholds: list[float], measure: str) -> Any:
    from bokeh.models import BasicTicker
    from bokeh.models.annotations import LegendItem

    longest = max(one.mi.shape[1] for one, _ in lines)
    figure = figure_of(
        height=310 + 20 * len(lines), x_axis="step", y_axis=measure, x_range=(-0.5 - longest / 50, longest * 1.02)
    )
    if not any(one.mi[row].isfinite().any() for one, row in lines):
        say_nothing_there(figure.y_range, figure, longest / 2)
    items, dots = [], []
    for k, ((one, row), name, limit) in enumerate(zip(lines, names, thresholds, strict=True)):
        colour, values, peaks = LINES[k % len(LINES)], one.mi[row].numpy(), one.is_peak[row].numpy()
        finite = np.where(np.isfinite(values), values, np.nan)
        steps, shown = np.arange(len(values)), visible(name)
        data = {
            "step": steps, "value": finite, "token": [short(token) for token in with_parts_shown(one.tokens)],
            "line": [shown] * len(steps), "peak": np.where(peaks, "yes", "no").tolist(),
        }  # fmt: skip
        line = figure.line(
            "step", "value", source=data, color=colour, width=1.6, line_dash=DASHES[k // len(LINES) % len(DASHES)]
        )
        # Points too: a value between two undefined ones is on no line.
        points = figure.scatter("step", "value", source=data, size=3.5, color=colour)
        parts = [line, points]
        if peaks.any():
            parts.append(
                figure.scatter(
                    steps[peaks], finite[peaks], marker=MARKERS[k % len(MARKERS)], size=9, fill_color=colour,
                    line_color="#000000",
                )
            )  # fmt: skip
        if np.isfinite(limit) and len(steps):
            parts.append(figure.line([0, len(steps) - 1], [limit, limit], color=colour, line_dash="dotted", width=1))
        items.append(LegendItem(label={"value": shown}, renderers=parts))
        dots.append(points)
    tips = [("", "@line"), ("step", "@step"), ("token", "@token"), (measure, "@value{%.6g}"), ("peak", "@peak")]
    figure.add_tools(hover(dots, tips))
    figure.xaxis.ticker = BasicTicker(min_interval=1)
    legend_below(figure, items)
    return figure


def bars(
    frame: pandas.DataFrame,
    *,
    label: str,
    value: str,
    low: str | None = None,
    high: str | None = None,
    reference: float | int | None = None,
    title: str = "",
) -> View:
    """Horizontal bars, one a row in the order of the frame, with intervals where there are some.

    >>> import pandas
    >>> lifts = pandas.DataFrame({"word": ["Wait", "."], "lift": [6.8, 6.9], "low": [5.1, 6.0], "high": [8.9, 7.7]})
    >>> bars(lifts, label="word", value="lift", low="low", high="high", reference=1).alt
    'lift of 2 words: Wait 6.8 [5.1, 8.9], . 6.9 [6, 7.7]; dashed line at 1.'

    Args:
        label, value: the columns of names and of numbers.
        low, high: the columns of the ends of intervals.
        reference: a value to draw a line at, 1 for a lift.

    Raises:
        InputError: columns that are not there, or no rows.
    """
    wanted = columns_of(frame, (label, value), low, high, "bars")
    names = [str(name) for name in frame[label]]
    numbers = np.asarray(frame[value], dtype=np.float64)
    ends = None if low is None else np.asarray(frame[[low, high]], dtype=np.float64)
    told = [
        f"{short(name)} {number(x)}" + ("" if ends is None else f" [{number(ends[i, 0])}, {number(ends[i, 1])}]")
        for i, (name, x) in enumerate(zip(names, numbers.tolist(), strict=True))
    ]
    more = f" and {len(told) - 10} more" if len(told) > 10 else ""
    line = "" if reference is None else f"; dashed line at {number(reference)}"
    alt = f"{value} of {_several(len(names), label)}: {', '.join(told[:10])}{more}{line}."
    static = table(wanted, [[row[name] for name in wanted] for row in frame.to_dict("records")])
    figure = _bars_figure(names, numbers, ends, reference, value)
    return View(title or f"{value} by {label}", static, alt, live(figure), lambda: frame.loc[:, wanted].copy())


def _bars_figure(
    names: list[str], values: np.ndarray, ends: np.ndarray | None, reference: float | int | None, value: str
) -> Any:
    from bokeh.models import FixedTicker, PlainText
    from bokeh.models.annotations import Span

    count = len(names)
    places = np.arange(count)[::-1]
    figure = figure_of(height=110 + 24 * count, y_range=(-0.6, count - 0.4), x_axis=value, y_axis="")
    shown = [short(name) for name in names]
    data: dict[str, Any] = {"y": places, "value": values, "name": shown}
    tips = [("", "@name"), (value, "@value{%.6g}")]
    if ends is not None:
        data |= {"low": ends[:, 0], "high": ends[:, 1]}
        tips.append(("interval", "@low{%.6g} to @high{%.6g}"))
    drawn = figure.hbar(y="y", right="value", height=0.7, source=data, fill_color="#7fb3dc", line_color="#0b4f85")
    if ends is not None:
        figure.segment(x0="low", x1="high", y0="y", y1="y", source=data, line_color="#000000", line_width=1.6)
        for end in ("low", "high"):
            figure.scatter(
                end, "y", source=data, marker="dash", angle=np.pi / 2, size=9, color="#000000", line_width=1.6
            )
    if reference is not None:
        figure.add_layout(Span(location=reference, dimension="height", line_dash="dashed", line_color="#b03a00"))
    figure.add_tools(hover([drawn], tips))
    if not np.isfinite(values).any():
        say_nothing_there(figure.x_range, figure, 0.5)
    elif not (values < 0).any() and (ends is None or not (ends < 0).any()):
        figure.x_range.start = 0
    figure.yaxis.ticker = FixedTicker(ticks=places.tolist())
    figure.yaxis.major_label_overrides = {
        int(y): PlainText(text=name) for y, name in zip(places, (short(name, NAME) for name in names), strict=True)
    }
    # Undefined bars would be no bars at all.
    undefined = ~np.isfinite(values)
    if undefined.any():
        figure.text(
            np.zeros(undefined.sum()), places[undefined], text=["NaN"] * int(undefined.sum()), text_baseline="middle"
        )
    return figure


def _summary(values: np.ndarray) -> list[float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return [float("nan")] * 3
    return [float(finite.min()), float(np.median(finite)), float(finite.max())]


def _top(values: np.ndarray, words: list[str], columns: list[int]) -> str:
    if not np.isfinite(values).any():
        return "-"
    place = int(np.nanargmax(np.where(np.isfinite(values), values, np.nan)))
    return f"step {columns[place]} {short(words[place])}"


def _several(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 or thing.endswith('s') else 's'}"

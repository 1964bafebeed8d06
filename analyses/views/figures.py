"""Figures drawn by bokeh: lines over steps, bars; :mod:`analyses.views.grids` has those over layer and step.

Palettes are those that colour-blind readers can tell apart (viridis, red-blue, Okabe-Ito); peaks, series and undefined
cells also differ by glyph, dash or hatching.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.views.arrays import columns_of
from analyses.views.bare import bare
from analyses.views.drawing import (
    DASHES,
    LINES,
    MARKERS,
    NAME,
    counted,
    figure_of,
    hover,
    legend_below,
    live,
    low_middle_high,
    say_nothing_there,
    short,
    token_tips,
)
from analyses.views.scored import Scored
from analyses.views.view import View
from interp.arguments import Wholes, as_wholes
from interp.display import number, table, visible
from interp.errors import InputError
from interp.token_text import with_parts_shown

if TYPE_CHECKING:
    import pandas

__all__ = ["bars", "trajectories"]


def trajectories(
    several: Scored | Sequence[Scored] | Any,
    layers: Wholes = (-1,),
    *,
    tokens: Sequence[str] | None = None,
    peaks: Any = None,
    label: str = "value",
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

    >>> trajectories(mi).alt
    'value over steps, 1 line: scores, layer 0 (4 steps, 1 peak).'

    Args:
        several: one trajectory or some; or plain numbers, ``[step]`` or ``[layer, step]``.
        layers: one or several layers of each; negative numbers count from its last. Of plain numbers, the rows.
        tokens, peaks, label: with plain numbers: the token of each step; steps or booleans (``[step]`` or
            ``[layer, step]``), found by Tukey's rule unless given; what the numbers are. Trajectories bring their own.

    Raises:
        InputError: no trajectory, a layer that was not scored, lengths that differ.
    """
    listed = _listed(several, tokens, peaks, label)
    chosen = as_wholes(layers, "trajectories", "layers")
    if not listed or not chosen:
        raise InputError(
            "trajectories", expected="at least one trajectory and one layer", received="none", remedy="Pass some."
        )
    lines = [(one, one.row(layer)) for one in listed for layer in chosen]
    names = _line_names(lines)
    measure = listed[0].measure
    counts = [
        f"{name} ({counted(one.mi.shape[1], 'step')}, {counted(int(one.is_peak[row].sum()), 'peak')})"
        for name, (one, row) in zip(names, lines, strict=True)
    ]
    more = f" and {len(counts) - 8} more" if len(counts) > 8 else ""
    alt = f"{measure} over steps, {counted(len(lines), 'line')}: {', '.join(counts[:8])}{more}."
    note = "Large marks are peaks."
    thresholds = [one.threshold(one.layers[row]) if threshold else float("nan") for one, row in lines]
    if np.isfinite(thresholds).any():
        note += " Thin dotted lines are the thresholds that peaks exceed."
    rows = [
        [name, *low_middle_high(one.mi[row].numpy()), limit, int(one.is_peak[row].sum()),
         *(" ".join(short(tokens[step]) for step in one.is_peak[row].nonzero()[:12, 0].tolist())
           for tokens in (one.input_tokens, one.tokens))]
        for name, (one, row), limit in zip(names, lines, thresholds, strict=True)
    ]  # fmt: skip
    columns = ["line", "lowest", "median", "highest", "threshold", "peaks", "peaks are after", "peaks are before"]
    static = table(columns, rows)
    figure = _lines_figure(lines, names, thresholds, measure)

    def frame() -> pandas.DataFrame:
        import pandas as pd

        return pd.concat([one.only([one.layers[row]]).to_frame() for one, row in lines], ignore_index=True)

    return View(title or f"{measure} over steps", static, alt, live(figure, note), frame)


def _listed(several: Any, tokens: Sequence[str] | None, peaks: Any, label: str) -> list[Scored]:
    """The trajectories, or plain numbers as one."""
    if isinstance(several, Scored):
        several = [several]
    if not isinstance(several, list | tuple) or not all(isinstance(one, Scored) for one in several):
        return [bare(several, tokens, peaks, label, "trajectories")]
    if tokens is not None or peaks is not None:
        raise InputError(
            "trajectories",
            expected="tokens and peaks with plain numbers alone",
            received="them with a trajectory, which has its own",
            remedy="Leave them out, or pass trajectory.mi.",
        )
    return list(several)


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
            "input": [short(token) for token in one.input_tokens],
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
    tips = [("", "@line"), ("step", "@step"), *token_tips(True), (measure, "@value{%.6g}"), ("peak", "@peak")]
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
    alt = f"{value} of {counted(len(names), label)}: {', '.join(told[:10])}{more}{line}."
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

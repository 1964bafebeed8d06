"""The circuit picture without JavaScript: its strongest edges as SVG, its strongest nodes as a table."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from analyses.views.parts import scrolling
from interp.display import number, table

__all__ = ["still"]

_UNIT = 22.0  # pixels
_LEFT, _TOP, _BOTTOM, _RIGHT = 52.0, 74.0, 74.0, 40.0
_ROWS = 15


def still(data: dict[str, Any], wires: Sequence[dict[str, Any]]) -> str:
    """The picture and the table as HTML; `wires` are the edges drawn, of those that `data` has."""
    nodes, edges, most = data["nodes"], data["edges"], data["most"]
    width, height = (_UNIT * side for side in data["size"])
    parts = []
    for band in data["bands"]:
        middle = _TOP + _UNIT * (band["top"] + band["bottom"]) / 2
        parts.append(
            f'<text x="{_LEFT - 8}" y="{middle + 4:.0f}" text-anchor="end">{html.escape(band["label"])}</text>'
        )
    for column in data["columns"]:
        x = _LEFT + _UNIT * column["x"]
        for text, y, anchor in (
            (column["says"], _TOP - 12, "start"),
            (column["read"], _TOP + height + 16, "end"),
        ):
            cut = html.escape(text if len(text) <= 10 else text[:9] + "…")
            parts.append(
                f'<text transform="translate({x:.1f} {y:.1f}) rotate(-60)" text-anchor="{anchor}">{cut}</text>'
            )
    for e in reversed(range(len(wires))):
        a, b, score = edges["s"][e], edges["t"][e], edges["score"][e] or 0.0
        strength = math.sqrt(min(1.0, abs(score) / most["edge"])) if most["edge"] else 0.0
        (x1, y1), (x2, y2) = (_at(nodes, n) for n in (a, b))
        rise = 0.45 * max(10.0, y1 - y2)
        dash = ' stroke-dasharray="5 3"' if score < 0 else ""
        curve = f"M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 - rise:.1f} {x2:.1f} {y2 + rise:.1f} {x2:.1f} {y2:.1f}"
        look = f'stroke="var({"--pc-neg" if score < 0 else "--pc-pos"})" stroke-width="{0.6 + 3 * strength:.2f}"'
        parts.append(f'<path d="{curve}" fill="none" {look} stroke-opacity="{0.25 + 0.65 * strength:.2f}"{dash}/>')
    for n, kind in enumerate(nodes["kind"]):
        x, y = _at(nodes, n)
        score = nodes["score"][n]
        share = math.sqrt(min(1.0, abs(score) / most["node"])) if score is not None and most["node"] else 0.0
        colour = "var(--pc-neg)" if score is not None and score < 0 else "var(--pc-pos)"
        shape = f'<rect x="{x - 6:.1f}" y="{y - 6:.1f}" width="12" height="12"' if kind == "mlp" else (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6.5"'
        )  # fmt: skip
        told = f"<title>{html.escape(_label(data, n))}: {_shown(score)}</title>"
        parts.append(
            f'{shape} fill="var(--pc-paper)"/>{shape} fill="{colour}" fill-opacity="{share:.2f}" '
            f'stroke="var(--pc-ink)" stroke-width="0.8">{told}</{"rect" if kind == "mlp" else "circle"}>'
        )
    w, h = _LEFT + width + _RIGHT, _TOP + height + _BOTTOM
    drawn = f"the {len(wires)} strongest edges" if len(wires) < len(edges["s"]) else "all edges"
    picture = (
        f'<svg role="img" aria-label="{html.escape(data["metric"])}: {drawn}" width="{w:.0f}" height="{h:.0f}" '
        f'viewBox="0 0 {w:.0f} {h:.0f}">{"".join(parts)}</svg>'
    )
    order = nodes["order"][:_ROWS]
    rows = [
        [nodes["name"][n], _place(data, n), *_tokens(data, n), _shown(nodes["score"][n]), _shown(nodes["exact"][n])]
        for n in order
    ]
    columns = ["node", "position", "reads", "predicts", "predicted", "measured"]
    return scrolling(picture, "the circuit") + (table(columns, rows, caption="Strongest nodes") if rows else "")


def _at(nodes: dict[str, Any], n: int) -> tuple[float, float]:
    return _LEFT + _UNIT * nodes["x"][n], _TOP + _UNIT * nodes["y"][n]


def _place(data: dict[str, Any], n: int) -> str:
    position = data["columns"][data["nodes"]["column"][n]]["position"]
    return "all" if position is None else str(position)


def _tokens(data: dict[str, Any], n: int) -> tuple[str, str]:
    column = data["columns"][data["nodes"]["column"][n]]
    return column["read"], column["says"]


def _label(data: dict[str, Any], n: int) -> str:
    return f"{data['nodes']['name'][n]}@{_place(data, n)}"


def _shown(value: float | None) -> str:
    return "–" if value is None else number(value)

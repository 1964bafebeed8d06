"""What stands around the circuit picture: its controls, the place of its panel, the key to colours and shapes."""

from __future__ import annotations

import html
from typing import Any

from analyses.views.assets import data_script
from analyses.views.circuit_script import CIRCUIT_SCRIPT
from analyses.views.circuit_style import CIRCUIT_STYLE
from analyses.views.wording import plain

__all__ = ["framed"]

_BAR = (
    '<label>Search <input class="pc-search" type="search" placeholder="L3H2, Wait, @17"></label>'
    '<span class="pc-hits pc-soft" role="status"></span><span class="pc-buttons">'
    '<button type="button" class="pc-out" aria-label="zoom out">−</button>'
    '<button type="button" class="pc-in" aria-label="zoom in">+</button>'
    '<button type="button" class="pc-fit">Fit</button><button type="button" class="pc-full">Full screen</button>'
    '<button type="button" class="pc-save">Save picture</button></span></div>'
)
_SIDE = (
    '<div class="pc-side" role="region" aria-label="What is chosen" tabindex="0"></div></div></div>'
    '<div class="pc-pins" hidden>Pinned <div class="pc-list"></div>'
    '<label><input class="pc-only" type="checkbox"> only edges between them</label></div>'
)
_SHAPES = {
    "head": '<circle cx="7" cy="7" r="5"/>',
    "MLP": '<rect x="2" y="2" width="10" height="10"/>',
    "attention bias": '<path d="M7 1 13 7 7 13 1 7Z"/>',
    "embedding": '<path d="M7 2 13 12H1Z"/>',
    "target": '<path d="M4 2h6l3 5-3 5H4L1 7Z"/>',
}


def framed(data: dict[str, Any], first: int, picture: str, name: str) -> str:
    """The whole as HTML: the live picture, which the script shows, and the still one, which it then hides.

    Args:
        data: what the script draws.
        first: where the slider stands, of 1,000.
        picture: the still one, as HTML.
        name: the title, as plain text.
    """
    said = html.escape(f"{name}: arrow keys move between nodes, Enter pins, plus and minus zoom, Escape clears")
    return (
        f'{CIRCUIT_STYLE}<div class="pc">{data_script(data)}<div class="pc-live" hidden>'
        '<div class="pc-bar"><label class="pc-grow">Threshold <input class="pc-slide" type="range" min="0" max="1000" '
        f'value="{first}"></label><span class="pc-said"></span>'
        f'<label><input class="pc-lead" type="checkbox">only what leads to the target</label>{_BAR}'
        f'<div class="pc-frame"><div class="pc-body"><div class="pc-stage" tabindex="0" role="application" '
        f'aria-label="{said}"><canvas aria-hidden="true"></canvas><canvas aria-hidden="true"></canvas>'
        f'<div class="pc-tip" hidden></div></div>{_SIDE}{_key(data)}'
        f'<div class="pc-status pc-unseen" role="status"></div></div><div class="pc-still">{picture}</div></div>'
        f"{CIRCUIT_SCRIPT}"
    )


def _key(data: dict[str, Any]) -> str:
    """What shapes, colours and dashes mean; the ends of the scale, with a sign where some lie beyond."""
    drawing = '<svg width="14" height="14" aria-hidden="true" fill="none" stroke="currentColor">'
    parts = [f"{drawing}{shape}</svg>{what}" for what, shape in _SHAPES.items()]
    most = data["most"]["node"]
    if most:
        beyond = any(abs(value or 0) > most for value in (*data["nodes"]["score"], *data["nodes"]["exact"]))
        low, high = ("≤ −", "≥ ") if beyond else ("−", "")
        parts.append(f'share {low}{plain(most, 3)}<i class="pc-scale"></i>{high}{plain(most, 3)}')
        parts.append("left half predicted, right half measured")
    parts.append(
        '<svg width="26" height="10" aria-hidden="true" fill="none" stroke="var(--pc-neg)" stroke-width="2">'
        '<path d="M0 5H26" stroke-dasharray="5 3"/></svg>negative, with a dashed outline; width and colour by square '
        "root"
    )
    return f'<div class="pc-key">{"".join(f"<span>{part}</span>" for part in parts)}</div>'

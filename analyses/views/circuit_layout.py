"""Where the nodes of a circuit stand: positions from left to right, layers from the bottom up, one unit a node.

1. Each position is a column, as wide as its widest row. Positions that are left out leave a gap.
2. Each layer is a band: its heads and its bias in lines, its MLP above them, a residual stream above that. The
   embeddings stand below all layers, the logits above.
3. How many heads stand side by side before a new line begins is chosen so that the whole is about as wide as a page
   wants it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["Band", "Column", "Layout", "Place", "laid_out"]

_ASPECT = 1.3
_BETWEEN, _WIDEST = 0.7, 3.0  # units between columns, at least and at most
_LONGEST = 2.6  # times that a single column is stretched
_SKIPPED = 0.9  # more where positions are left out
_ABOVE = 0.6  # units between layers


@dataclass(frozen=True)
class Place:
    """A node to be placed: kind ("embed", "head", "bias", "mlp", "residual", "logits"), layer, head, position."""

    kind: str
    layer: int | None
    head: int | None
    position: int | None


@dataclass(frozen=True)
class Column:
    """A position: its middle and half its width, and whether positions before it are left out."""

    position: int | None
    x: float
    half: float
    after_gap: bool


@dataclass(frozen=True)
class Band:
    """A layer, or "embed" or "logits": its top, its bottom and its name."""

    name: str
    top: float
    bottom: float


@dataclass(frozen=True)
class Layout:
    """The middles of all nodes in the order given, the columns and the bands, the size of it all; y points down."""

    x: list[float]
    y: list[float]
    columns: list[Column]
    bands: list[Band]
    width: float
    height: float


def laid_out(places: Sequence[Place]) -> Layout:
    """The layout whose proportions suit a page best.

    >>> made = laid_out([Place("embed", None, None, 4), Place("head", 0, 1, 5), Place("logits", None, None, 5)])
    >>> made.y[0] > made.y[1] > made.y[2], made.x[0] < made.x[1] == made.x[2], [band.name for band in made.bands]
    (True, True, ['logits', '0', 'embed'])
    """
    tried = [_laid_out(places, across, _BETWEEN) for across in range(1, 17)]
    best = min(range(16), key=lambda n: abs(math.log(tried[n].width / tried[n].height / _ASPECT)))
    made = tried[best]
    if len(made.columns) == 1:
        return _stretched(made, min(_LONGEST, max(1.0, _ASPECT * made.height / made.width)))
    # Room that is left stands between the columns.
    gaps = max(1, len(made.columns) - 1)
    spare = min(_WIDEST, max(_BETWEEN, _BETWEEN + (_ASPECT * made.height - made.width) / gaps))
    return _laid_out(places, best + 1, spare)


def _stretched(made: Layout, by: float) -> Layout:
    """The same, wider: where all positions are one, heads may stand apart."""
    columns = [replace(column, x=by * column.x, half=by * column.half) for column in made.columns]
    return replace(made, x=[by * x for x in made.x], columns=columns, width=by * made.width)


def _laid_out(places: Sequence[Place], across: int, between: float) -> Layout:
    cells: dict[tuple[int | None, str, int | None], list[int]] = defaultdict(list)
    for number, place in enumerate(places):
        row = "heads" if place.kind in ("head", "bias") else place.kind
        cells[place.position, row, place.layer].append(number)
    for numbers in cells.values():
        numbers.sort(key=lambda i: (places[i].kind == "bias", places[i].head or 0))
    columns = _columns(cells, across, between)
    middle = {column.position: column.x for column in columns}
    lines: dict[tuple[str, int | None], int] = defaultdict(int)
    for (_, row, layer), numbers in cells.items():
        lines[row, layer] = max(lines[row, layer], -(-len(numbers) // across))
    layers = sorted({place.layer for place in places if place.layer is not None}, reverse=True)
    stacked: list[tuple[str, list[tuple[str, int | None]]]] = [("logits", [("logits", None)])]
    stacked += [(str(layer), [(row, layer) for row in ("residual", "mlp", "heads")]) for layer in layers]
    stacked += [("embed", [("embed", None)])]
    x, y, bands, top = [0.0] * len(places), [0.0] * len(places), [], 0.0
    for name, rows in stacked:
        bottom = top + sum(lines[of] for of in rows)
        if bottom == top:
            continue
        bands.append(Band(name, top, bottom))
        for kind, layer in rows:
            for (position, *at), numbers in cells.items():
                if at == [kind, layer]:
                    _place(numbers, across, middle[position], top + lines[kind, layer], x, y)
            top += lines[kind, layer]
        top += _ABOVE
    right = columns[-1].x + columns[-1].half if columns else 1.0
    return Layout(x, y, columns, bands, max(right, 1.0), max(top - _ABOVE, 1.0))


def _columns(cells: dict[tuple[int | None, str, int | None], list[int]], across: int, between: float) -> list[Column]:
    widths: dict[int | None, int] = defaultdict(int)
    for (position, _, _), numbers in cells.items():
        widths[position] = max(widths[position], min(len(numbers), across))
    order = sorted(widths, key=lambda position: -1 if position is None else position)
    columns: list[Column] = []
    edge, before = 0.0, None
    for position in order:
        skipped = position is not None and before is not None and position != before + 1
        edge += (_SKIPPED if skipped else 0.0) + (between if columns else 0.0)
        columns.append(Column(position, edge + widths[position] / 2, widths[position] / 2, skipped))
        edge, before = edge + widths[position], position
    return columns


def _place(numbers: list[int], across: int, middle: float, bottom: float, x: list[float], y: list[float]) -> None:
    """The nodes of one cell in lines from the bottom up, each line about the middle."""
    for line in range(0, len(numbers), across):
        row = numbers[line : line + across]
        for slot, number in enumerate(row):
            x[number] = middle + slot - (len(row) - 1) / 2
            y[number] = bottom - 0.5 - line // across

"""Text and numbers as pages and terminals show them; what becomes of them in HTML is in `analyses.views.parts`."""

from __future__ import annotations

import html
import math

from analyses.store.about import name_of
from interp.display import visible

__all__ = ["escaped", "lines_of", "name_of", "percent", "plain", "several", "value_text"]


def lines_of(text: object) -> str:
    r"""Text with its invisible characters shown and its line ends kept; it has still to be escaped for HTML.

    >>> lines_of("a\x00\r\nb")
    'a⟨U+0000⟩\nb'
    """
    return "\n".join(visible(line) for line in str(text).replace("\r\n", "\n").split("\n"))


def escaped(text: object) -> str:
    """Text for HTML: escaped, its invisible characters shown, its line ends kept.

    >>> escaped("a < b")
    'a &lt; b'
    """
    return html.escape(lines_of(text))


def plain(value: float | int | None, digits: int = 4) -> str:
    """A number for reading; an en dash where there is none.

    >>> plain(0.123456), plain(float("nan")), plain(1234567.0)
    ('0.1235', '–', '1\u202f234\u202f567')
    """
    if value is None or math.isnan(value):
        return "–"
    if abs(value) >= 10 ** (digits - 1) or float(value).is_integer():
        return f"{value:,.0f}".replace(",", "\u202f") if abs(value) < 1e15 else f"{value:.{digits}g}"
    return f"{value + 0.0:.{digits}g}"


def percent(share: float | int) -> str:
    """A share as percent.

    >>> percent(0.04839), percent(0.0002)
    ('4.8\u202f%', '0.02\u202f%')
    """
    if math.isnan(share):
        return "–"
    return f"{100 * share:.{1 if share == 0 or share >= 0.001 else 2}f}\u202f%"


def several(count: int, thing: str) -> str:
    """The count with the noun.

    >>> several(1, "peak"), several(1200, "step")
    ('1 peak', '1\u202f200 steps')
    """
    return f"{plain(count)} {thing}{'' if count == 1 else 's'}"


def value_text(value: object) -> str:
    """A value of a table in plain text: four digits of a number, nothing where there is none.

    >>> value_text(0.123456), value_text(float("nan")), value_text(None), value_text(12)
    ('0.1235', '', '', '12')
    """
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"
    return "" if value is None else str(value)

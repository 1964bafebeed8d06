"""Text, numbers and cells as a report shows them; all of it escaped.

Cells carry exact values in ``data-v``, by which the page sorts them; what is shown is rounded.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import PurePosixPath, PureWindowsPath

from interp.display import visible

__all__ = [
    "VERDICTS", "cell", "escaped", "name_of", "options", "percent", "plain", "scrolling", "several", "shown_as",
    "token_code", "verdict",
]  # fmt: skip

VERDICTS = {
    "correct": "✓ correct",
    "wrong": "✗ wrong",
    "no_answer": "∅ no answer",
    "timeout": "comparison timed out",
    "error": "comparison failed",
    "not_graded": "not graded",
}


def escaped(text: object) -> str:
    """Text for HTML: escaped, its invisible characters shown, its line ends kept."""
    lines = str(text).replace("\r\n", "\n").split("\n")
    return html.escape("\n".join(visible(line) for line in lines))


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


def shown_as(column: str, value: float | int) -> str:
    """A value of a column of the tables, rounded as it is shown everywhere."""
    return percent(value) if column == "ratio" else plain(value, 4 if column.endswith("_mi") else 3)


def several(count: int, thing: str) -> str:
    """The count with the noun.

    >>> several(1, "peak"), several(1200, "step")
    ('1 peak', '1\u202f200 steps')
    """
    return f"{plain(count)} {thing}{'' if count == 1 else 's'}"


def name_of(model: object) -> str:
    """A model's name without the folders it lies in.

    >>> name_of("/home/me/models/mine"), name_of("org/model")
    ('mine', 'org/model')
    """
    text = str(model)
    if PureWindowsPath(text).is_absolute():
        return PureWindowsPath(text).name
    outside = PurePosixPath(text).is_absolute() or text.startswith(("~", "./", "../"))
    return PurePosixPath(text).name if outside else text


def options(entries: Sequence[tuple[object, str]], chosen: object) -> str:
    """The options of a list, (value, text) each."""
    return "".join(
        f'<option value="{escaped(value)}"{" selected" if value == chosen else ""}>{escaped(text)}</option>'
        for value, text in entries
    )


def token_code(token: str) -> str:
    return f'<code class="rp-token">{html.escape(visible(token[:60])) or "empty"}</code>'


def cell(value: float | int, shown: str, title: str = "") -> str:
    exact = "" if math.isnan(value) else repr(float(value))
    hint = f' title="{html.escape(title)}"' if title else ""
    return f'<td class="pl-n" data-v="{exact}"{hint}>{shown}</td>'


def scrolling(table: str, label: str) -> str:
    return f'<div class="pl-scroll" role="region" tabindex="0" aria-label="{html.escape(label)}">{table}</div>'


def verdict(status: str) -> str:
    """A status as a sign and words, in its colour."""
    known = status if status in VERDICTS else "not_graded"
    return f'<span class="rp-verdict rp-{known.replace("_", "-")}">{escaped(VERDICTS.get(status, status))}</span>'

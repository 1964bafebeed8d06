"""The parts that pages share: sections, links to them, remarks, tables whose cells sort, how a run was made.

What is passed as HTML (`content`, `shown`, names of columns) is taken as it is; what is passed as text is escaped.
Cells carry exact values in ``data-v``, by which a page may sort them; what is shown is rounded.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analyses.views.wording import escaped
from interp.display import visible

__all__ = [
    "cell", "column", "data_table", "listed", "navigation", "options", "remark", "scrolling", "section", "small",
    "source_facts", "token_code",
]  # fmt: skip


def section(key: str, name: str, content: str, level: int = 2) -> str:
    """A part of a page under a heading, which `key` links to.

    >>> section("made", "How it was made", "<p>so</p>")
    '<section aria-labelledby="made"><h2 id="made">How it was made</h2><p>so</p></section>'
    """
    return f'<section aria-labelledby="{key}"><h{level} id="{key}">{escaped(name)}</h{level}>{content}</section>'


def navigation(label: str, names: Mapping[str, str]) -> str:
    """Links to the sections of a page, each by its key."""
    links = "".join(f'<li><a href="#{key}">{escaped(name)}</a></li>' for key, name in names.items())
    return f'<nav class="pl-nav" aria-label="{html.escape(label)}"><ul>{links}</ul></nav>'


def listed(points: Iterable[str]) -> str:
    """A list of points, which are HTML."""
    return f"<ul>{''.join(f'<li>{point}</li>' for point in points)}</ul>"


def remark(content: str) -> str:
    """A remark that must not be missed."""
    return f'<p class="pl-remark">{content}</p>'


def small(content: str) -> str:
    """A remark on how to read what is above it."""
    return f'<p class="pl-small">{content}</p>'


def options(entries: Sequence[tuple[object, str]], chosen: object) -> str:
    """The options of a list, (value, text) each."""
    return "".join(
        f'<option value="{escaped(value)}"{" selected" if value == chosen else ""}>{escaped(text)}</option>'
        for value, text in entries
    )


def token_code(token: str) -> str:
    """A token within a sentence, its first 60 characters."""
    return f'<code class="pl-code">{html.escape(visible(token[:60])) or "empty"}</code>'


def scrolling(table: str, label: str) -> str:
    """A table, or other wide HTML, that scrolls sideways within the page and can be reached by the keyboard."""
    return f'<div class="pl-scroll" role="region" tabindex="0" aria-label="{html.escape(label)}">{table}</div>'


def cell(value: float | int, shown: str, title: str = "") -> str:
    """A number in a table; an en dash or whatever `shown` is where there is none."""
    exact = "" if math.isnan(value) else repr(float(value))
    hint = f' title="{html.escape(title)}"' if title else ""
    return f'<td class="pl-n" data-v="{exact}"{hint}>{shown}</td>'


def column(name: str, number: bool = False, title: str = "") -> str:
    """The head of a column, to the right above numbers."""
    look = ' class="pl-n"' if number else ""
    hint = f' title="{html.escape(title)}"' if title else ""
    return f'<th scope="col"{look}{hint}>{name}</th>'


def data_table(caption: str, columns: Iterable[str], rows: Iterable[str], *, label: str, kind: str = "") -> str:
    """A table of rows made with `cell` under columns made with `column`.

    >>> made = data_table("Peaks", [column("layer"), column("peaks", True)], ["<tr><td>0</td></tr>"], label="Peaks")
    >>> made.count("<th"), made.count("<caption>Peaks</caption>")
    (3, 1)
    """
    return scrolling(
        f'<table class="pl-table{f" {kind}" if kind else ""}"><caption>{caption}</caption><thead><tr>{"".join(columns)}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table>",
        label,
    )


def source_facts(provenance: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Where the model of a run is from and what it was made with, for :func:`interp.display.details_table`.

    >>> source_facts({"model": {"kind": "bundled", "weight_hash": "ab12"}, "versions": {"torch": "2.9"}})[2:]
    [('SHA-256 of the weights', 'ab12'), ('versions', 'torch 2.9')]
    """
    model, versions = (
        found if isinstance(found := provenance.get(name), dict) else {} for name in ("model", "versions")
    )
    return [
        ("source of the model", model.get("kind") or "–"),
        ("revision", model.get("revision") or "none"),
        ("SHA-256 of the weights", model.get("weight_hash") or "–"),
        *([("hooks of the user", ", ".join(map(str, model["hooks"])) or "none")] if "hooks" in model else []),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items()) or "–"),
    ]

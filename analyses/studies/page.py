"""The page of results: for each study what was planted, the figure, a few readings, ten rows; whole tables beside it.

1. A :class:`Shown` says what of a study's results stands on the page: which rows and columns of its main table, which
   of its readings come first. What is not said is chosen: rows of the last layer, readings that tell something apart.
2. `write_tables` puts the tables whole beside the page, as CSV files that it links.
3. `results_page` is the page as Markdown. What stands in a page of before between the two comments of `KEPT` is carried
   over: a place for what a person has to say.

Text of models and problems is escaped: Markdown lets HTML through.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from analyses.store.atomic import replacing
from analyses.studies.base import StudyResult
from analyses.views.wording import value_text
from interp.display import visible

if TYPE_CHECKING:
    import pandas

__all__ = [
    "KEPT",
    "Part",
    "Section",
    "Shown",
    "markdown_table",
    "markdown_text",
    "results_page",
    "table_files",
    "write_table",
    "write_tables",
]

READINGS = 6
ROWS = 10
WHOLE = 1000  # rows of a table from which on it stays in the run's folder: there it has a row a response
KEPT = "<!-- by hand -->", "<!-- by hand ends -->"
_P = re.compile(r"\bp = ([\d.e+-]*\d)")
_CLEAR = 0.05


@dataclass(frozen=True)
class Shown:
    """What of a study stands on the page.

    Attributes:
        rows: a pandas query for rows of the main table; those of the last layer unless given.
        columns: of the main table, all unless given.
        readings: parts of the sentences that come before others.
    """

    rows: str = ""
    columns: tuple[str, ...] = ()
    readings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One study of the page.

    Attributes:
        name: of its files, and of its folder below runs/.
        command: that made it.
        result: of the study.
        planted: what it should find, and whether it did, as a line.
        label: tells it from another run of the same study.
        shown: what of it stands on the page.
    """

    name: str
    command: Sequence[str]
    result: StudyResult
    planted: str
    label: str = ""
    shown: Shown = field(default_factory=Shown)

    @property
    def title(self) -> str:
        return f"{self.result.study.title}{f' ({self.label})' if self.label else ''}"


@runtime_checkable
class Section(Protocol):
    """A section that is of no study, and its line of the contents."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def planted(self) -> str: ...
    def section(self, folder: str) -> list[str]: ...


def results_page(
    begun: Sequence[str],
    parts: Sequence[Part],
    folder: str,
    before: str = "",
    first: Sequence[str] = (),
    last: Sequence[Section] = (),
) -> str:
    """The page as Markdown.

    Args:
        begun: its first paragraphs, the heading among them.
        folder: of pictures and tables, beside the page.
        before: the page that there is, of which the part of a person's own is kept.
        first: a section before those of the studies.
        last: sections after them.
    """
    own = re.search(f"{re.escape(KEPT[0])}.*?{re.escape(KEPT[1])}", before, re.DOTALL)
    said = [*begun, *([own[0]] if own else []), _contents([*parts, *last]), *first]
    for part in parts:
        said += [
            f"## {markdown_text(part.title)}",
            part.planted,
            f"{markdown_text(part.result.study.source[:1].upper() + part.result.study.source[1:])}. Command:",
            f"```\n{shlex.join(part.command)}\n```",
        ]
        alt = _short(part.result.figures[0].alt) if part.result.figures else part.title
        said.append(f"![{markdown_text(alt)}]({folder}/{part.name}.png)")
        said += [_readings(part), _rows(part, folder)]
    for one in last:
        said += one.section(folder)
    return "\n\n".join(said) + "\n"


def table_files(part: Part) -> dict[str, pandas.DataFrame]:
    """The tables that lie beside the page, by the names of their files; tables of single responses are left out."""
    study = part.result.study.name
    return {
        f"{part.name}{name.removeprefix(study).replace('_', '-')}.csv": table
        for name, table in part.result.tables.items()
        if len(table) <= WHOLE
    }


def write_tables(parts: Iterable[Part], folder: Path) -> None:
    """Write the tables beside the page, six digits of each number."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        for name, table in table_files(part).items():
            write_table(table, folder / name)


def write_table(table: pandas.DataFrame, file: Path) -> None:
    """One of them."""
    with replacing(file) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def _contents(parts: Sequence[Part | Section]) -> str:
    rows = [
        f"| [{part.name}](#{_anchor(part.title)}) | {markdown_text(part.title)} | {_verdict(part.planted)} |"
        for part in parts
    ]
    return "\n".join(["| study | asks | what was planted |", "| --- | --- | --- |", *rows])


def _anchor(title: str) -> str:
    """What GitHub makes of a heading.

    >>> _anchor("Bits about the answer, by layer and place (hmm)")
    'bits-about-the-answer-by-layer-and-place-hmm'
    """
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _verdict(planted: str) -> str:
    """The end of a line on what was planted.

    >>> _verdict("*planted: much. Found.*"), _verdict("*planted: nothing that this study looks at.*")
    ('found', '–')
    """
    said = planted.rstrip("*")
    ends = {"NOT found.": "NOT found", "Found.": "found", "Not asked for in this run.": "not asked for"}
    return next((short for end, short in ends.items() if said.endswith(end)), "–")


def _readings(part: Part) -> str:
    """The most telling readings, in their order: those named, then those whose p is small or that have none."""
    readings = part.result.readings

    def rank(place: int) -> tuple[int, bool, int]:
        named = (at for at, words in enumerate(part.shown.readings) if words in readings[place])
        found = _P.search(readings[place])
        return next(named, len(part.shown.readings)), bool(found and float(found[1]) > _CLEAR), place

    chosen = sorted(sorted(range(len(readings)), key=rank)[:READINGS])
    lines = [f"- {markdown_text(readings[place])}" for place in chosen]
    if left := len(readings) - len(chosen):
        lines.append(f"- {left} more: `runs/{part.name}/report.html`, which the command writes.")
    return "\n".join(lines)


def _rows(part: Part, folder: str) -> str:
    """Ten rows of the main table, and where the whole of it is."""
    table = part.result.table
    chosen = table.query(part.shown.rows) if part.shown.rows else table
    if chosen.empty or not part.shown.rows:
        chosen = table
        if "layer" in table.columns and table["layer"].notna().any():
            chosen = table[table["layer"] == table["layer"].max()]
    chosen = chosen.head(ROWS)
    columns = [name for name in part.shown.columns if name in table.columns] or list(table.columns)
    shown = markdown_table(chosen[columns])
    files = table_files(part)
    links = ", ".join(f"[{name}]({folder}/{name})" for name in files)
    told = f"{len(chosen)} of {len(table)} rows" if len(chosen) < len(table) else f"All {len(table)} rows"
    return f"{shown}\n\n{told}. Whole tables: {links}."


def markdown_table(table: pandas.DataFrame) -> str:
    """A table for Markdown, its text escaped."""
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns)]
    lines += [list(map(value_text, row.values())) for row in table.to_dict("records")]
    return "\n".join(
        f"| {' | '.join(markdown_text(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def _short(alt: str) -> str:
    """A text alternative without its numbers: they stand in the table.

    >>> _short("bits against place, 2 curves: layer 2 (0: 1.5, 1: 2); layer 1 (0: 1); dashed line at 1.")
    'bits against place, 2 curves: layer 2; layer 1; dashed line at 1.'
    """
    return re.sub(r" \([^()]*\)", "", " ".join(alt.split()))


def markdown_text(text: str) -> str:
    """Text for Markdown: no HTML, no code, no link comes of it.

    >>> print(markdown_text("p <= 1, a <b> &lt; `c` [d](e)"))
    p <= 1, a &lt;b> &amp;lt; \\`c\\` [d]\\(e)
    """
    shown = re.sub(r"&(?=#?\w+;)", "&amp;", visible(text))
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", shown).replace("`", "\\`").replace("](", "]\\(")

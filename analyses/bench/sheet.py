"""A table of numbers, in a terminal and as Markdown, and how numbers are written in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Sheet", "megabytes", "number", "span"]


@dataclass(frozen=True)
class Sheet:
    """A table, for terminal and Markdown alike; the first ``text`` columns are words, the others numbers."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int = 0

    def markdown(self) -> str:
        rule = ["---" if i < self.text else "---:" for i in range(len(self.headings))]
        lines = [self.headings, rule, *self.rows]
        return "\n".join([f"### {self.title}", "", *(f"| {' | '.join(line)} |" for line in lines)])

    def table(self) -> Table:
        from rich.table import Table

        table = Table(title=self.title, title_justify="left")
        for i, heading in enumerate(self.headings):
            table.add_column(heading, justify="left" if i < self.text else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table


def number(value: float | None) -> str:
    """Three digits; a dash for what is not defined.

    >>> number(1234.5), number(0.12345), number(None)
    ('1234', '0.123', '-')
    """
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def span(value: dict[str, Any]) -> str:
    """A median, with the least and the greatest where there is more than one.

    >>> span({"median": 1.0, "min": 0.9, "max": 1.1, "n": 3}), span({"median": 1.0, "min": 1.0, "max": 1.0, "n": 1})
    ('1 (0.9 to 1.1)', '1')
    """
    if value["median"] is None or value["min"] == value["max"]:
        return number(value["median"])
    return f"{number(value['median'])} ({number(value['min'])} to {number(value['max'])})"


def megabytes(count: int) -> str:
    """Of bytes, a million each.

    >>> megabytes(1_500_000)
    '1.5'
    """
    return number(count / 1e6)

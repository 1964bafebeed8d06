"""How a report shows what a trace alone has: verdicts, and values of the columns of its tables."""

from __future__ import annotations

from analyses.views.wording import escaped, percent, plain

__all__ = ["VERDICTS", "shown_as", "verdict"]

VERDICTS = {
    "correct": "✓ correct",
    "wrong": "✗ wrong",
    "no_answer": "∅ no answer",
    "timeout": "comparison timed out",
    "error": "comparison failed",
    "not_graded": "not graded",
}


def shown_as(column: str, value: float | int) -> str:
    """A value of a column of the tables, rounded as it is shown everywhere."""
    return percent(value) if column == "ratio" else plain(value, 4 if column.endswith("_mi") else 3)


def verdict(status: str) -> str:
    """A status as a sign and words, in its colour."""
    known = status if status in VERDICTS else "not_graded"
    return f'<span class="rp-verdict rp-{known.replace("_", "-")}">{escaped(VERDICTS.get(status, status))}</span>'

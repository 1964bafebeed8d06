"""The words at peaks of a run, as its tokens.csv counts them, in whichever version it was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses.store.columns import INPUT, PREDICTED
from analyses.store.run import Run

if TYPE_CHECKING:
    import pandas

__all__ = ["TOLD", "counted_words"]

TOLD = {INPUT: "read", PREDICTED: "predicted"}
"""What is said of a word at a peak, by the column position of tokens.csv; in the order in which they are told."""


def counted_words(run: Run) -> pandas.DataFrame:
    """The table tokens.csv with the columns position and is_word.

    Earlier versions counted predicted tokens alone, and of those the words of letters: such a table has no rows of
    position "input" until it is derived anew (by the command that made the run).
    """
    tokens = run.table("tokens.csv")
    if "position" not in tokens.columns:
        tokens = tokens.assign(position=PREDICTED, is_word=True)
    return tokens

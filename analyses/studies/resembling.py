"""What the peaks of a plain trace resemble: the first section of a page of results, since all others hang on it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analyses.report.positions import position_sentence
from analyses.report.resembling import excess_sentence, explained_sentence, resemblance_frame
from analyses.store.run import Run
from analyses.studies.page import markdown_table, markdown_text, write_table

__all__ = ["Traced"]

ROWS = 8
_THIN = "\u202f"
_COLUMNS = (
    "layer", "peaks", "after_kind", "after_kind_low", "after_kind_high", "steps_after_kind", "as_high_at_peaks",
    "excess_peaks", "excess_after_kind",
)  # fmt: skip
_FILE = "resembles.csv"
_NOTE = (
    "*after_kind*: share of peaks that have just read a token of the kind that the reference ends on, with its "
    "interval (95 %, problems as clusters), beside the same share of all steps. *as_high_at_peaks*: share of other "
    "answers' references that score at least as high there as the own one; one like the others would have 0.5. "
    "*excess_peaks*: steps above Tukey's bound of the standardised excess over these references, and those of them "
    "after that kind."
)


@dataclass(frozen=True)
class Traced:
    """A trace on a page of results.

    Attributes:
        run: with its tables.
        command: that makes it.
    """

    run: Run
    command: Sequence[str]

    def section(self, folder: str) -> list[str]:
        """Markdown paragraphs; ``folder`` of the tables is beside the page."""
        peaks, asked = self.run.table("peaks.parquet"), self.run.settings.get("excess")
        frame = resemblance_frame(peaks)
        n = peaks["problem"].nunique()
        last = int(frame["layer"].max())
        at = self.run.settings["reference_position"]
        said = [explained_sentence(peaks, at), f"Layer {last}. {excess_sentence(peaks, asked, last, at)}"]
        if both := position_sentence(self.run):
            said.append(f"Where the reference is read, layer {last}: {both}")
        every = -(-len(frame) // ROWS)
        shown = frame.iloc[::-1].iloc[::every].iloc[::-1]
        return [
            "## What peaks resemble",
            f"Every (layer, step) of {n} responses, scored as the paper does. Command:",
            f"```\n{shlex.join(self.command)}\n```",
            # Our own words: their thin spaces are spaces, not something to show
            "\n".join(f"- {markdown_text(sentence.replace(_THIN, ' '))}" for sentence in said if sentence),
            markdown_table(shown[list(_COLUMNS)]),
            f"{len(shown)} of {len(frame)} layers. {_NOTE} Whole table: [{_FILE}]({folder}/{_FILE}).",
        ]

    def write(self, folder: Path) -> None:
        """The table, whole, into the page's folder."""
        write_table(resemblance_frame(self.run.table("peaks.parquet")), folder / _FILE)

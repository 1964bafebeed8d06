"""The page of a study: what it asks, what the numbers say, the figure, the tables, how it was made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from analyses.thinking import uses_line
from analyses.views.page import Part, page
from analyses.views.parts import listed, section, source_facts
from analyses.views.wording import escaped, name_of
from interp.display import details_table, table

if TYPE_CHECKING:
    from analyses.studies.base import StudyData, StudyResult

__all__ = ["study_report"]

ROWS = 200  # of a table that the page shows; the files hold all

# A table of many columns scrolls sideways; squeezed into the page, its sentences would make rows of a screen's height.
_STYLE = "<style>.pl-scroll table.pl-table{width:max-content}.pl-scroll table.pl-table td{max-width:34em}</style>"


def study_report(result: StudyResult, data: StudyData) -> str:
    """One self-contained document."""
    study, settings = result.study, data.run.settings
    parts: list[Part | str] = [
        f"<p>{escaped(_source(study.source))}, on {escaped(name_of(settings['model']))}, "
        f"{len(data.lab.cells())} responses a condition, {len(data.conditions)} conditions beside the baseline. "
        "Nothing here reproduces the paper's numbers: those are of other models.</p>",
        section("said", "What the numbers say", listed(map(escaped, result.readings))),
        *result.figures,
    ]
    for name, frame in result.tables.items():
        shown = frame.head(ROWS)
        note = f"<p>The first {ROWS} of {len(frame)} rows; all are in {name}.csv.</p>" if len(frame) > ROWS else ""
        rows = shown.astype(object).where(shown.notna(), "–").to_numpy().tolist()
        parts.append(
            f"<details{' open' if len(frame) <= 40 else ''}><summary>Table {escaped(name)} ({len(frame)} rows)"
            f"</summary>{note}{table(list(map(str, frame.columns)), rows, limit=ROWS)}</details>"
        )
    if result.failures:
        failed = [[cell.condition, cell.problem, cell.sample, reason] for cell, reason in result.failures.items()]
        listing = table(["condition", "problem", "sample", "reason"], failed, limit=ROWS)
        parts.append(section("failed", "Failed", listing))
    made: list[tuple[str, object]] = [
        ("created", data.run.created),
        *source_facts(data.run.provenance),
        ("options", json.dumps(settings["options"])),
        ("thinking words", uses_line(result.words) if result.words else ", ".join(settings["words"])),
        ("baseline", json.dumps(settings["baseline"])),
    ]
    if "calibration" in settings:
        problems = settings["calibration"]["problems"]
        made.append(("calibrated on", f"{len(problems)} problems, {problems[0]} to {problems[-1]}"))
    parts.append(section("made", "How it was made", details_table(made)))
    return page(study.title, parts, head=_STYLE)


def _source(source: str) -> str:
    """A figure, table or theorem is the paper's; a source of another kind names its own."""
    return f"{source} (arXiv 2506.02867)" if source.startswith(("Fig.", "Table", "Theorem")) else source

"""What ``peaklens study`` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analyses.commands.common import tell_tracker
from analyses.commands.show_trace import taken
from analyses.problems import Problem
from analyses.store.run import Cell
from analyses.studies.base import Study, StudyResult
from analyses.studies.estimate import estimate_study
from analyses.studies.run import run_study
from analyses.thinking import uses_line
from analyses.views.wording import value_text
from interp.types import Bridge

__all__ = ["do_dry_run", "do_study"]

ROWS = 30


def do_dry_run(study: Study, model: Bridge, problems: Sequence[Problem] | None, as_json: bool, **common: Any) -> None:
    """Print what the study would take."""
    from rich.console import Console

    found = estimate_study(study, model, problems, **common)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    Console(highlight=False).print(
        f"{study.name}: {found.conditions} conditions, {found.cells} cells, {taken(found)}",
        markup=False,
        soft_wrap=True,
    )


def do_study(
    study: Study,
    model: Bridge,
    problems: Sequence[Problem] | None,
    out: Path,
    quiet: bool,
    as_json: bool,
    log_to: str | None = None,
    **options: Any,
) -> dict[Cell, str]:
    """Run the study and print its readings and main table; cells that failed, with reasons."""
    from analyses.studies.progress import RichWatch

    if quiet or as_json:
        result = run_study(study, model, problems, out, **options)
    else:
        with RichWatch() as watch:
            result = run_study(study, model, problems, out, watch=watch, **options)
    if as_json:
        table = json.loads(result.table.to_json(orient="records"))
        facts = {
            "study": study.name,
            "run": str(out),
            "readings": result.readings,
            "table": table,
            "words": [asdict(use) | {"is_ordinary": use.is_ordinary} for use in result.words],
        }
        print(json.dumps(facts))
    elif not quiet:
        _show(result, out)
    tell_tracker(log_to, result)
    return result.failures


def _show(result: StudyResult, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(title=result.study.title, title_justify="left")
    for column in result.table.columns:
        table.add_column(str(column))
    for row in result.table.head(ROWS).to_dict("records"):
        table.add_row(*(Text(value_text(value)) for value in row.values()))
    console.print(Text(f"Thinking words: {uses_line(result.words)}."), soft_wrap=True)
    console.print(table)
    if len(result.table) > ROWS:
        console.print(f"... and {len(result.table) - ROWS} more rows in {out / next(iter(result.tables))}.csv")
    for reading in result.readings:
        console.print(Text(f"- {reading}"))
    console.print(Text(f"\n{out / 'report.html'}"))

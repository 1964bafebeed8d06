"""The commands that make something of finished runs: ``report``, ``bundle``, ``merge``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.common import say

__all__ = ["bundle", "merge", "report"]


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of traces.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
) -> None:
    """One offline page about one trace or several."""
    from analyses.report import write_report
    from analyses.store.run import Run

    typer.echo(f"{write_report([Run.open(run) for run in runs], out)}")


def bundle(
    runs: Annotated[list[Path], typer.Argument(help="Folders of traces and studies, or folders that hold such.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The site's folder; one bundled before is replaced.")] = Path(
        "site"
    ),
    title: Annotated[str, typer.Option(help="Of the index.")] = "peaklens runs",
    tables: Annotated[bool, typer.Option(help="Copy the tables too.")] = True,
) -> None:
    """A folder with an index of runs and studies, their pages and tables, that opens from disk."""
    from analyses.sharing import bundle as bundle_runs

    typer.echo(f"{bundle_runs(runs, out, title=title, tables=tables)}")


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of equal settings.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make, a new one.")],
    keep_first: Annotated[
        bool, typer.Option("--keep-first", help="Of responses that differ, keep those of the run named first.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="Whose tokenizer makes the tables, if the runs' name for it leads nowhere here.")
    ] = None,
    report: Annotated[bool, typer.Option(help="Write report.html too.")] = True,
) -> None:
    """Join runs of other problems, or other samples, into one; refused, with what differs, unless they are alike."""
    from analyses.sharing import merge as merge_runs

    merged = merge_runs(runs, out, keep_first=keep_first, model=model, report=report)
    failed = len(merged.failures())
    say(f"{len(merged.cells())} responses of {len(runs)} runs{f', {failed} failed' if failed else ''}")
    typer.echo(f"{merged.path}")

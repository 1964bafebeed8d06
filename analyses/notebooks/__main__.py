"""``python -m analyses.notebooks``: run the notebooks, write executed ``.ipynb`` files and pages to read offline."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["main", "notebooks"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def notebooks(
    out: Annotated[Path, typer.Option(help="Folder for the .ipynb and .html files.")] = Path("notebooks"),
    only: Annotated[list[str] | None, typer.Option(help="A notebook's name; may be given several times.")] = None,
    small: Annotated[bool, typer.Option("--small", help="At the size of a test: few problems.")] = False,
) -> None:
    """Execute the notebooks and write each as .ipynb and as a page that needs no network."""
    from analyses.notebooks.build import build

    for built in build(out, only or (), small=small):
        files = " ".join(str(file) for file in (built.html, built.ipynb, *built.others))
        typer.echo(f"{built.name}: {built.seconds:.0f} s, {built.html.stat().st_size / 1e6:.1f} MB, {files}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input ends in one line and exit code 2, a failing cell is shown and ends in exit code 1."""
    from analyses.notebooks.build import NotebookError
    from interp.errors import InputError

    try:
        app(args=None if arguments is None else list(arguments), prog_name="python -m analyses.notebooks")
    except InputError as error:
        print(f"notebooks: {error}", file=sys.stderr)
        sys.exit(2)
    except NotebookError as error:
        print(f"notebooks: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

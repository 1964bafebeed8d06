"""``python -m analyses.bench``: run the benchmarks, print their tables, write ``bench.json`` and ``bench.md``.

bench.json: ``machine``, ``model``, ``settings``, ``took`` (seconds), ``notes``, and the rows of each part that was
measured (:mod:`analyses.bench.parts`): ``decoding`` and ``reading`` beside other libraries, ``scaling``, ``nhsic``,
``profile`` (where an nHSIC's time goes), ``rows`` (places that are taken again), ``reruns``, ``commands``; with
``--full`` also ``engines``, ``interventions`` (of ``reruns``, ``overheads`` and ``batches``), ``attribution`` and
``growth`` (what attribution and patching cost against steps and nodes). A measurement is ``{"median", "min", "max",
"n"}`` over the turns, ``null`` what is not defined. Only typer is imported here.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.bench.sizes import ALL_PARTS, FULL, QUICK, SMOKE, Size

if TYPE_CHECKING:
    from analyses.bench.parts import Show

__all__ = ["bench", "main"]

REAL, TOY = "smollm2-135m-instruct", "toy-reasoner"

_GIVEN: ContextVar[Sequence[str]] = ContextVar("given", default=())
"""The arguments as they were typed."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def bench(
    out: Annotated[Path, typer.Option(help="Folder for bench.json and bench.md.")] = Path("bench"),
    model: Annotated[
        str | None, typer.Option(help=f"Bundled, pulled, a folder or a hub id; {REAL} if pulled, else {TOY}.")
    ] = None,
    nnsight: Annotated[
        str | None, typer.Option(help="A Python interpreter that has nnsight, which is else left out.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(help="Turns of each; 3, 5 with --full. Long texts are read less often.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full/--quick", help="All parts at length (hours), or a quarter of an hour's worth.")
    ] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help=f"Seconds: {TOY}, few tokens; shows that all runs.")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(ALL_PARTS)}; repeatable.")] = None,
    write: Annotated[Path | None, typer.Option(help="A Markdown page to write too, with the command.")] = None,
) -> None:
    """Time decoding, reading and nHSIC beside other libraries on this machine, which should be idle otherwise."""
    from analyses.bench.sheets import print_sheets, sheets_of, write_page, write_sheets
    from analyses.store.atomic import disk_errors, make_folder, probe
    from interp.errors import InputError

    size = SMOKE if smoke else FULL if full else QUICK
    times = size.repeats if repeats is None else repeats
    if times < 1:
        raise InputError("bench", expected="repeats of at least 1", received=str(times), remedy="Raise --repeats.")
    unknown = [part for part in only or () if part not in ALL_PARTS]
    if unknown:
        raise InputError("bench", expected=", ".join(ALL_PARTS), received=", ".join(unknown), remedy="Change --only.")
    for folder, option in ((out, "--out"), *([(write.parent, "--write")] if write is not None else [])):
        with disk_errors("bench", folder, f"Choose another {option}."):  # before minutes of work, not after
            make_folder(folder)
            probe(folder)
    result = _measure(size, times, model, nnsight, smoke, only or size.parts)
    sheets = sheets_of(result)
    write_sheets(out, result, sheets)
    if write is not None:
        write_page(write, _command(nnsight, _GIVEN.get()), result, sheets)
    print_sheets(result, sheets)
    typer.echo(", ".join(str(file) for file in (out / "bench.json", out / "bench.md", write) if file is not None))


def _command(nnsight: str | None, given: Sequence[str]) -> str:
    """The command as it was typed; where on this machine an environment or a folder lies is nobody's concern."""
    if nnsight is not None and Path(nnsight).is_absolute():
        given = [word.replace(nnsight, "PYTHON_WITH_NNSIGHT") for word in given]
    parts = (word.partition("=") if word.startswith("-") else ("", "", word) for word in given)
    named = (
        f"{option}{equals}{Path(value).name if Path(value).is_absolute() else value}" for option, equals, value in parts
    )
    return shlex.join(["python", "-m", "analyses.bench", *named])


def _measure(
    size: Size, repeats: int, name: str | None, nnsight: str | None, smoke: bool, parts: Sequence[str]
) -> dict[str, Any]:
    from dataclasses import asdict
    from datetime import UTC, datetime

    from analyses.bench.machine import load_now, machine_facts, model_facts_of
    from analyses.bench.parts import PARTS, Asked, plain
    from analyses.bench.workers import INSTALL, check_nnsight
    from interp.loading.models import load_model
    from interp.loading.pull import cached_model_path

    notes = []
    if name is None:
        name = TOY if smoke or cached_model_path(REAL) is None else REAL
        if not smoke and name == TOY:
            notes.append(
                f"{REAL} is not in the cache (peaklens models pull {REAL}): {TOY} was measured, whose steps are so "
                "small that they show the cost of the code around the model rather than the model's."
            )
    if smoke:
        notes.append("--smoke: shows that everything runs; the numbers mean little.")
    version = None if nnsight is None else check_nnsight(nnsight)
    if version is None and {"decoding", "reading"} & set(parts):
        notes.append(f"nnsight is left out: --nnsight names an interpreter that has it. {INSTALL}")
    loaded = load_model(name)
    before = load_now()
    asked = Asked(loaded, size, repeats, nnsight)
    measured: dict[str, Any] = {}
    took: dict[str, float] = {}
    for part in dict.fromkeys(parts):
        if part == "reruns" and "interventions" in parts:  # which has them, and more
            continue
        begin = time.perf_counter()
        with _progress() as show:
            measured |= plain(PARTS[part](asked, show))
        took[part] = round(time.perf_counter() - begin, 1)
    return {
        "format": "peaklens bench 2",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**machine_facts(version), "load_before": before, "load_after": load_now()},
        "model": model_facts_of(loaded),
        "settings": {**asdict(size), "repeats": repeats, "parts": list(parts), "smoke": smoke},
        "took": took,
        "notes": notes,
        **measured,
    }


@contextmanager
def _progress() -> Iterator[Show]:
    """A bar on standard error, redrawn between timings only: a thread that draws would be timed too."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), auto_refresh=False, transient=True) as progress:
        task = progress.add_task("")

        def show(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=what, refresh=True)

        yield show


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input ends in one line on standard error and exit code 2."""
    from interp.errors import InputError

    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        _GIVEN.set(given)
        app(args=given, prog_name="python -m analyses.bench")
    except InputError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

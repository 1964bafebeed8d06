"""``python -m analyses.bench``: run the benchmarks, print their tables, write ``bench.json`` and ``bench.md``.

bench.json: ``machine``, ``model``, ``settings``, ``notes``, and the rows of ``nhsic``, ``decoding``, ``reading``,
``attribution``, ``growth`` (what attribution and patching cost against steps and nodes; part of ``attribution``) and,
in ``interventions``, of ``reruns``, ``overheads`` and ``batches``; what ``--only`` left out is not there. A measurement
is ``{"median", "min", "max", "n"}`` over the repeats. Only typer is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["bench", "main"]

REAL, TOY = "smollm2-135m-instruct", "toy-reasoner"
PARTS = ("nhsic", "decoding", "reading", "interventions", "attribution")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    dims: tuple[int, ...]
    n_steps: int
    inner: int  # repeats inside one nHSIC timing, of which it takes the median
    new_tokens: int
    prompt_tokens: int
    edited_tokens: int  # response tokens while interventions are on
    edited_prompt_tokens: int
    circles: int  # turns of each rerun within a decode
    attributed: tuple[int, ...]  # response tokens of which shares are told
    growing: tuple[int, ...]  # steps, positions, components asked about
    read: tuple[int, ...]  # tokens of texts that are read
    repeats: int


FULL = Size(
    dims=(576, 2048, 4096), n_steps=64, inner=3, new_tokens=64, prompt_tokens=60,
    edited_tokens=16, edited_prompt_tokens=24, circles=6, attributed=(128, 512),
    growing=(1, 4, 16), read=(1024, 4096, 8000, 16000), repeats=3,
)  # fmt: skip
QUICK = Size(
    dims=(64,), n_steps=8, inner=1, new_tokens=8, prompt_tokens=60,
    edited_tokens=6, edited_prompt_tokens=60, circles=1, attributed=(24,), growing=(1, 2), read=(48,),
    repeats=1,
)  # fmt: skip


@app.command()
def bench(
    out: Annotated[Path, typer.Option(help="Folder for bench.json and bench.md.")] = Path("bench"),
    model: Annotated[
        str | None, typer.Option(help=f"Bundled, pulled, a folder or a hub id; {REAL} if pulled, else {TOY}.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Timings of each; 3, or 1 with --quick.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help=f"Seconds instead of minutes: {TOY}, few tokens.")] = False,
    only: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(PARTS)}; repeatable; all unless given.")
    ] = None,
) -> None:
    """Time nHSIC, decoding, reading, interventions, attribution on this machine, which should be idle otherwise."""
    from analyses.bench.sheets import print_sheets, sheets_of, write_sheets
    from analyses.store.atomic import disk_errors, make_folder, probe
    from interp.errors import InputError

    size = QUICK if quick else FULL
    times = size.repeats if repeats is None else repeats
    if times < 1:
        raise InputError("bench", expected="repeats of at least 1", received=str(times), remedy="Raise --repeats.")
    unknown = [part for part in only or () if part not in PARTS]
    if unknown:
        raise InputError("bench", expected=", ".join(PARTS), received=", ".join(unknown), remedy="Change --only.")
    with disk_errors("bench", out, "Choose another --out."):  # before minutes of work, not after
        make_folder(out)
        probe(out)
    result = _measure(size, times, model, quick, only or PARTS)
    sheets = sheets_of(result)
    write_sheets(out, result, sheets)
    print_sheets(result, sheets)
    typer.echo(f"{out / 'bench.json'}, {out / 'bench.md'}")


def _measure(size: Size, repeats: int, name: str | None, quick: bool, parts: Sequence[str]) -> dict[str, Any]:
    from datetime import UTC, datetime

    from analyses.bench.attribution import bench_attribution
    from analyses.bench.decoding import bench_decoding
    from analyses.bench.growth import bench_growth
    from analyses.bench.interventions import bench_interventions
    from analyses.bench.machine import load_now, machine_facts, model_facts_of
    from analyses.bench.reading import bench_reading
    from interp.loading.models import load_model
    from interp.loading.pull import cached_model_path

    notes = []
    if name is None:
        name = TOY if quick or cached_model_path(REAL) is None else REAL
        if not quick and name == TOY:
            notes.append(
                f"{REAL} is not in the cache (peaklens models pull {REAL}): {TOY} was measured, whose steps are so "
                "small that they show the cost of the code around the model rather than the model's."
            )
    if quick:
        notes.append("--quick: shows that everything runs; the numbers mean little.")
    loaded = load_model(name)
    before = load_now()
    measured: dict[str, Any] = {}
    with _progress() as show:
        if "nhsic" in parts:
            measured["nhsic"] = _nhsic(size, repeats, show)
        if "decoding" in parts:
            rows = bench_decoding(
                loaded, new_tokens=size.new_tokens, prompt_tokens=size.prompt_tokens, repeats=repeats, on_run=show
            )
            measured["decoding"] = [_plain(row) for row in rows]
        if "reading" in parts:
            rows = bench_reading(loaded, lengths=size.read, repeats=repeats, on_run=show)
            measured["reading"] = [_plain(row) for row in rows]
        if "interventions" in parts:
            tables = bench_interventions(
                loaded,
                new_tokens=size.edited_tokens,
                prompt_tokens=size.edited_prompt_tokens,
                circles=size.circles,
                repeats=repeats,
                on_run=show,
            )
            measured["interventions"] = {name: [_plain(row) for row in rows] for name, rows in tables.items()}
        if "attribution" in parts:
            rows = bench_attribution(loaded, lengths=size.attributed, repeats=repeats, on_run=show)
            measured["attribution"] = [_plain(row) for row in rows]
            rows = bench_growth(loaded, length=min(size.attributed), counts=size.growing, repeats=repeats, on_run=show)
            measured["growth"] = [_plain(row) for row in rows]
    return {
        "format": "peaklens bench 1",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**machine_facts(), "load_before": before, "load_after": load_now()},
        "model": model_facts_of(loaded),
        "settings": {
            "repeats": repeats,
            "new_tokens": size.new_tokens,
            "prompt_tokens": size.prompt_tokens,
            "edited_tokens": size.edited_tokens,
            "edited_prompt_tokens": size.edited_prompt_tokens,
            "circles": size.circles,
            "nhsic_steps": size.n_steps,
            "quick": quick,
        },
        "notes": notes,
        **measured,
    }


def _nhsic(size: Size, repeats: int, show: Any) -> list[dict[str, Any]]:
    """``bench_nhsic`` over and over, the widths taking turns: its timings as spreads, its other numbers as they are."""
    from analyses.bench.nhsic import bench_nhsic
    from analyses.bench.timing import spread

    runs: list[list[dict[str, float]]] = []
    for turn in range(repeats):
        rows = []
        for i, d_model in enumerate(size.dims):
            show(turn * len(size.dims) + i, repeats * len(size.dims), f"nHSIC at {d_model}")
            rows += bench_nhsic(dims=(d_model,), n_steps=size.n_steps, repeats=size.inner)
        runs.append(rows)
    timed = (
        "dense_ms_per_step", "nhsic_ms_per_step", "ratio", "null_passes", "median_passes", "one_step", "few_steps",
        "two_threads",
    )  # fmt: skip
    return [
        _plain({**rows[0], **{name: spread([row[name] for row in rows]) for name in timed}})
        for rows in zip(*runs, strict=True)
    ]


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar on standard error, redrawn between timings only: a thread that draws would be timed too."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), auto_refresh=False, transient=True) as progress:
        task = progress.add_task("")

        def show(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=what, refresh=True)

        yield show


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its spreads as dictionaries."""
    from dataclasses import asdict

    from analyses.bench.timing import Spread

    return {name: asdict(value) if isinstance(value, Spread) else value for name, value in row.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input ends in one line on standard error and exit code 2."""
    from interp.errors import InputError

    try:
        app(args=None if arguments is None else list(arguments), prog_name="python -m analyses.bench")
    except InputError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

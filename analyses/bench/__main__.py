"""``python -m analyses.bench``: run both benchmarks, print their tables, write ``bench.json`` and ``bench.md``.

bench.json: ``machine``, ``model``, ``settings``, ``notes``, and the rows of ``nhsic`` and ``decoding``; a measurement
is ``{"median", "min", "max", "n"}`` over the repeats. Only typer is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from interp.types import Bridge

__all__ = ["bench", "main"]

REAL, TOY = "smollm2-135m-instruct", "toy-reasoner"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    dims: tuple[int, ...]
    n_steps: int
    inner: int  # repeats inside one nHSIC timing, of which it takes the median
    new_tokens: int
    prompt_tokens: int
    repeats: int


FULL = Size(dims=(576, 2048, 4096), n_steps=64, inner=3, new_tokens=64, prompt_tokens=60, repeats=3)
QUICK = Size(dims=(64,), n_steps=8, inner=1, new_tokens=8, prompt_tokens=60, repeats=1)


@app.command()
def bench(
    out: Annotated[Path, typer.Option(help="Folder for bench.json and bench.md.")] = Path("bench"),
    model: Annotated[
        str | None, typer.Option(help=f"Bundled, pulled, a folder or a hub id; {REAL} if pulled, else {TOY}.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Timings of each; 3, or 1 with --quick.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help=f"Seconds instead of minutes: {TOY}, few tokens.")] = False,
) -> None:
    """Time nHSIC and decoding on this machine, which should have nothing else to do."""
    from analyses.atomic import disk_errors, make_folder, probe
    from interp.errors import InputError

    size = QUICK if quick else FULL
    times = size.repeats if repeats is None else repeats
    if times < 1:
        raise InputError("bench", expected="repeats of at least 1", received=str(times), remedy="Raise --repeats.")
    with disk_errors("bench", out, "Choose another --out."):  # before minutes of work, not after
        make_folder(out)
        probe(out)
    result = _measure(size, times, model, quick)
    sheets = [_nhsic_sheet(result["nhsic"]), _decoding_sheet(result["decoding"])]
    _write(out, result, sheets)
    _print(result, sheets)
    typer.echo(f"{out / 'bench.json'}, {out / 'bench.md'}")


def _measure(size: Size, repeats: int, name: str | None, quick: bool) -> dict[str, Any]:
    from datetime import UTC, datetime

    from analyses.bench.decoding import bench_decoding
    from interp.models import load_model
    from interp.pull import cached_model_path

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
    before = _load()
    with _progress() as show:
        nhsic = _nhsic(size, repeats, show)
        decoding = bench_decoding(
            loaded, new_tokens=size.new_tokens, prompt_tokens=size.prompt_tokens, repeats=repeats, on_run=show
        )
    return {
        "format": "peaklens bench 1",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**_machine(), "load_before": before, "load_after": _load()},
        "model": _model(loaded),
        "settings": {
            "repeats": repeats,
            "new_tokens": size.new_tokens,
            "prompt_tokens": size.prompt_tokens,
            "nhsic_steps": size.n_steps,
            "quick": quick,
        },
        "notes": notes,
        "nhsic": nhsic,
        "decoding": [_plain(row) for row in decoding],
    }


def _nhsic(size: Size, repeats: int, show: Any) -> list[dict[str, Any]]:
    """``bench_nhsic`` over and over, the widths taking turns: its timings as spreads, its other numbers as they are."""
    from analyses.bench.decoding import spread
    from analyses.bench.nhsic import bench_nhsic

    runs: list[list[dict[str, float]]] = []
    for turn in range(repeats):
        rows = []
        for i, d_model in enumerate(size.dims):
            show(turn * len(size.dims) + i, repeats * len(size.dims), f"nHSIC at {d_model}")
            rows += bench_nhsic(dims=(d_model,), n_steps=size.n_steps, repeats=size.inner)
        runs.append(rows)
    timed = ("dense_ms_per_step", "nhsic_ms_per_step", "ratio")
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


def _machine() -> dict[str, Any]:
    import importlib.metadata
    import os
    import platform

    import torch

    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {
            name: importlib.metadata.version(name) for name in ("peaklens", "torch", "transformers", "transformer-lens")
        },
    }


def _processor() -> str:
    import platform

    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _load() -> float:
    """Processes that wanted to run, mean of the last minute: above the threads used, the machine was busy."""
    import psutil

    return round(psutil.getloadavg()[0], 2)


def _model(model: Bridge) -> dict[str, Any]:
    from interp.engine import model_facts
    from interp.models import model_source

    facts, source = model_facts(model), model_source(model)
    parameter = next(model.original_model.parameters())
    return {
        "name": source.name if source.kind in ("bundled", "cached", "hub") else Path(source.name).name,
        "revision": source.revision,
        "weight_hash": source.weight_hash,
        "n_layers": facts.n_layers,
        "d_model": facts.d_model,
        "d_vocab": facts.d_vocab,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its spreads as dictionaries."""
    from dataclasses import asdict

    from analyses.bench.decoding import Spread

    return {name: asdict(value) if isinstance(value, Spread) else value for name, value in row.items()}


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


def _nhsic_sheet(rows: list[dict[str, Any]]) -> Sheet:
    return Sheet(
        "nHSIC: CPU milliseconds a step on one thread, median (min to max); error against the float64 formula",
        ("d_model", "steps", "rank", "dense float32", "nhsic", "faster by", "error dense", "error nhsic"),
        [
            [
                str(row["d_model"]),
                str(row["steps"]),
                str(row["rank"]),
                _span(row["dense_ms_per_step"]),
                _span(row["nhsic_ms_per_step"]),
                _span(row["ratio"]),
                f"{row['max_abs_error_dense32']:.1e}",
                f"{row['max_abs_error_nhsic']:.1e}",
            ]
            for row in rows
        ],
    )


def _decoding_sheet(rows: list[dict[str, Any]]) -> Sheet:
    new, prompt = rows[0]["new_tokens"], rows[0]["prompt_tokens"]
    return Sheet(
        f"Decoding: {new} tokens after prompts of {prompt}, median (min to max); seconds are without the first token",
        (
            "engine",
            "batch",
            "seconds",
            "first token",
            "tokens/s",
            "times HF eager",
            "recording costs",
            "same tokens",
            "gap",
        ),
        [
            [
                row["engine"] if row["recording"] == "-" else f"{row['engine']}, {row['recording']}",
                str(row["batch"]),
                _span(row["decode_seconds"]),
                _number(row["first_token_seconds"]["median"]),
                _number(row["tokens_per_s"]["median"]),
                _span(row["ratio_to_hf_eager"]),
                "-" if row["recording_overhead"] is None else f"x {_span(row['recording_overhead'])}",
                f"{row['same_tokens']} of {row['tokens']}"
                + (f" ({row['same_share']:.1%})" if row["same_share"] < 1 else ""),
                "-" if row["largest_gap"] is None else f"{row['largest_gap']:.1e}",
            ]
            for row in rows
        ],
        text=1,
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _span(value: dict[str, Any]) -> str:
    if value["n"] < 2:
        return _number(value["median"])
    return f"{_number(value['median'])} ({_number(value['min'])} to {_number(value['max'])})"


def _facts(result: dict[str, Any]) -> list[str]:
    machine, model = result["machine"], result["model"]
    repeats = result["settings"]["repeats"]
    return [
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['versions']['torch']} on "
        f"{machine['threads']} threads, load {machine['load_before']:g} before and {machine['load_after']:g} after, "
        f"{result['date']}.",
        f"{model['name']}: {model['n_layers']} layers, d_model {model['d_model']}, {model['dtype']} on "
        f"{model['device']}. {repeats} {'repeat' if repeats == 1 else 'repeats, taking turns'}.",
        *result["notes"],
        "gap: where a text departs from HF eager's, by how many logits HF eager prefers its own token, at most; after "
        "such a place the texts differ, so that later tokens are the same only by chance.",
    ]


def _write(out: Path, result: dict[str, Any], sheets: Sequence[Sheet]) -> None:
    import json

    from analyses.atomic import disk_errors, replacing

    markdown = "\n\n".join(["## Benchmarks", *_facts(result), *(sheet.markdown() for sheet in sheets)])
    texts = {"bench.json": json.dumps(result, indent=2, allow_nan=False), "bench.md": markdown}
    for name, text in texts.items():
        with disk_errors("bench", out / name, "Choose another --out."), replacing(out / name) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def _print(result: dict[str, Any], sheets: Sequence[Sheet]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    tables = [sheet.table() for sheet in sheets]
    if not console.is_terminal:  # a file has no edge to fold a table at
        wide = console.options.update(width=1000)
        console = Console(highlight=False, width=max(console.measure(table, options=wide).maximum for table in tables))
    for line in _facts(result):
        console.print(line, soft_wrap=True, markup=False)
    for table in tables:
        console.print(table)


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

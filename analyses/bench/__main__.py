"""``python -m analyses.bench``: run the benchmarks, print their tables, write ``bench.json`` and ``bench.md``.

bench.json: ``machine``, ``model``, ``settings``, ``notes``, and the rows of ``nhsic``, ``decoding`` and, in
``interventions``, of ``reruns``, ``overheads`` and ``batches``; what ``--only`` left out is not there. A measurement is
``{"median", "min", "max", "n"}`` over the repeats. Only typer is imported here.
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
PARTS = ("nhsic", "decoding", "interventions")

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
    repeats: int


FULL = Size(
    dims=(576, 2048, 4096), n_steps=64, inner=3, new_tokens=64, prompt_tokens=60,
    edited_tokens=16, edited_prompt_tokens=24, circles=6, repeats=3,
)  # fmt: skip
QUICK = Size(
    dims=(64,), n_steps=8, inner=1, new_tokens=8, prompt_tokens=60,
    edited_tokens=6, edited_prompt_tokens=60, circles=1, repeats=1,
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
    """Time nHSIC, decoding and interventions on this machine, which should have nothing else to do."""
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
    sheets = _sheets(result)
    _write(out, result, sheets)
    _print(result, sheets)
    typer.echo(f"{out / 'bench.json'}, {out / 'bench.md'}")


def _measure(size: Size, repeats: int, name: str | None, quick: bool, parts: Sequence[str]) -> dict[str, Any]:
    from datetime import UTC, datetime

    from analyses.bench.decoding import bench_decoding
    from analyses.bench.interventions import bench_interventions
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
    before = _load()
    measured: dict[str, Any] = {}
    with _progress() as show:
        if "nhsic" in parts:
            measured["nhsic"] = _nhsic(size, repeats, show)
        if "decoding" in parts:
            rows = bench_decoding(
                loaded, new_tokens=size.new_tokens, prompt_tokens=size.prompt_tokens, repeats=repeats, on_run=show
            )
            measured["decoding"] = [_plain(row) for row in rows]
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
    return {
        "format": "peaklens bench 1",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**_machine(), "load_before": before, "load_after": _load()},
        "model": _model(loaded),
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
    from analyses.bench.decoding import spread
    from analyses.bench.nhsic import bench_nhsic

    runs: list[list[dict[str, float]]] = []
    for turn in range(repeats):
        rows = []
        for i, d_model in enumerate(size.dims):
            show(turn * len(size.dims) + i, repeats * len(size.dims), f"nHSIC at {d_model}")
            rows += bench_nhsic(dims=(d_model,), n_steps=size.n_steps, repeats=size.inner)
        runs.append(rows)
    timed = ("dense_ms_per_step", "nhsic_ms_per_step", "ratio", "null_passes")
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
    from interp.engines.registry import model_facts
    from interp.loading.models import model_source

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


def _sheets(result: dict[str, Any]) -> list[Sheet]:
    sheets = []
    if "nhsic" in result:
        sheets.append(_nhsic_sheet(result["nhsic"]))
    if "decoding" in result:
        sheets.append(_decoding_sheet(result["decoding"]))
    if "interventions" in result:
        tables = result["interventions"]
        sheets += [
            _rerun_sheet(tables["reruns"]),
            _overhead_sheet(tables["overheads"]),
            _batch_sheet(tables["batches"]),
        ]
    return sheets


def _nhsic_sheet(rows: list[dict[str, Any]]) -> Sheet:
    return Sheet(
        "nHSIC: CPU milliseconds a step on one thread, median (min to max); error against the float64 formula; "
        "99 wrong answers in passes against one",
        ("d_model", "steps", "rank", "dense float32", "nhsic", "faster by", "error dense", "error nhsic", "99 wrong"),
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
                _span(row["null_passes"]),
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


def _rerun_sheet(rows: list[dict[str, Any]]) -> Sheet:
    return Sheet(
        "A position run again: ms a step, median (min to max); shares are of a plain step of as many rows",
        ("rows run again", "from block", "plain step", "with a rerun", "extra", "extra share", "target share"),
        [
            [
                f"{row['rows']} of {row['batch']}",
                f"{row['inject']} of {row['n_layers']}",
                _span(row["plain_ms"]),
                _span(row["step_ms"]),
                _span(row["extra_ms"]),
                _span(row["extra_share"]),
                _span(row["target_share"]),
            ]
            for row in rows
        ],
    )


def _overhead_sheet(rows: list[dict[str, Any]]) -> Sheet:
    new, prompt = rows[0]["new_tokens"], rows[0]["prompt_tokens"]
    return Sheet(
        f"Interventions on: {new} tokens after prompts of {prompt}, median (min to max); without the first token",
        ("intervention", "batch", "ms a step", "costs", "acts on tokens", "in steps"),
        [
            [
                row["intervention"],
                str(row["batch"]),
                _span(row["ms_per_step"]),
                "-" if row["overhead"] is None else f"x {_span(row['overhead'])}",
                "-" if row["overhead"] is None else f"{row['acted_tokens']:.0%}",
                "-" if row["overhead"] is None else f"{row['acted_steps']:.0%}",
            ]
            for row in rows
        ],
        text=1,
    )


def _batch_sheet(rows: list[dict[str, Any]]) -> Sheet:
    batch = rows[0]["batch"]
    return Sheet(
        "Batches with interventions on: tokens/s, median (min to max)",
        ("intervention", "batch 1", f"batch {batch}", "faster by", "acts in steps, batch 1", f"batch {batch}"),
        [
            [
                row["intervention"],
                _span(row["tokens_per_s_of_one"]),
                _span(row["tokens_per_s"]),
                _span(row["ratio"]),
                f"{row['acted_steps_of_one']:.0%}",
                f"{row['acted_steps']:.0%}",
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
    facts = [
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['versions']['torch']} on "
        f"{machine['threads']} threads, load {machine['load_before']:g} before and {machine['load_after']:g} after, "
        f"{result['date']}.",
        f"{model['name']}: {model['n_layers']} layers, d_model {model['d_model']}, {model['dtype']} on "
        f"{model['device']}. {repeats} {'repeat' if repeats == 1 else 'repeats, taking turns'}.",
        *result["notes"],
    ]
    if "decoding" in result:
        facts.append(
            "gap: where a text departs from HF eager's, by how many logits HF eager prefers its own token, at most; "
            "after such a place the texts differ, so that later tokens are the same only by chance."
        )
    if "interventions" in result:
        facts.append(
            "target share: what the blocks run again are of all blocks' time, by their number, plus the final norm and "
            "unembedding, both clocked in plain steps of as many rows, over such a step; plus 0.15. The extra is the "
            "rerun's alone: gates are part of the table after it, where interventions act as it occurs (and a "
            "frequent token stands for the end that ContinueThinking and BudgetForcing wait for)."
        )
    return facts


def _write(out: Path, result: dict[str, Any], sheets: Sequence[Sheet]) -> None:
    import json

    from analyses.store.atomic import disk_errors, replacing

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

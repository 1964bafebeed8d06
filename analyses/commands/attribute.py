"""The command ``peaklens attribute``: its options, and the call they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands.common import load_chosen
from analyses.commands.options import Device, DeviceMap, Dtype

if TYPE_CHECKING:
    from analyses.trace.attributing import Attributed
    from analyses.views.frames import ShareTable

__all__ = ["attribute"]

_TOLD = 12  # steps whose components are printed


def attribute(
    run: Annotated[Path, typer.Argument(help="The folder of a finished trace.")],
    problem: Annotated[str, typer.Option(help="Whose response; responses.parquet lists them.")],
    step: Annotated[list[int] | None, typer.Option(help="A step of the response; may be given several times.")] = None,
    peaks: Annotated[bool, typer.Option("--peaks", help="All peaks of the layer instead.")] = False,
    layer: Annotated[int, typer.Option(help="Whose scores it is about; negative from the run's last.")] = -1,
    sample: Annotated[int, typer.Option(help="Which of several responses.")] = 0,
    contrast: Annotated[
        str, typer.Option(help='The token whose logit is subtracted: its text, "best other", or "none".')
    ] = "best other",
    problems: Annotated[
        Path | None, typer.Option(help="The problem file of the run, for what asks about scores; toys have theirs.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The run's model, where it lies elsewhere now.")] = None,
    top: Annotated[int, typer.Option(help="Components shown of each step.")] = 8,
    csv: Annotated[bool, typer.Option("--csv", help="Tables as CSV instead of Parquet.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    device_map: DeviceMap = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Write the tables, print where they are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Files and top components as JSON.")] = False,
) -> None:
    """Which heads, MLPs and embeddings wrote what a step of a finished run says; nothing is decoded anew."""
    from analyses.store.run import Run
    from analyses.trace.attributing import attribute_run, check_asked
    from interp.arguments import as_whole

    opened = Run.open(run)
    as_whole(top, "attribute", "top", 1)
    check_asked(opened, problem, step, peaks=peaks, layer=layer, sample=sample)
    name = str(opened.settings["model"] if model is None else model)
    loaded = load_chosen(name, device, dtype or opened.settings.get("dtype"), device_map, silent=quiet or as_json)
    found = attribute_run(
        opened, problem, step, peaks=peaks, layer=layer, sample=sample, problems=problems, model=loaded, csv=csv,
        contrast=None if contrast == "none" else contrast,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(_facts(found, top)))
    elif quiet:
        typer.echo("\n".join(map(str, found.files)))
    else:
        _show(found, top)


def _shares(found: Attributed) -> dict[str, ShareTable]:
    """The tables of components; others are written and not shown."""
    from analyses.views.frames import ShareTable

    return {name: table for name, table in found.tables.items() if isinstance(table, ShareTable)}


def _facts(found: Attributed, top: int) -> dict[str, object]:
    shown = ["step", "read_at", "component", "kind", "layer", "head", "share", "total"]
    tables = {}
    for name, table in _shares(found).items():
        kept = table.top(top)
        tables[name] = json.loads(kept[[column for column in shown if column in kept]].to_json(orient="records"))
    return {"files": [str(file) for file in found.files], "steps": list(found.asked.steps), "top": tables}


def _show(found: Attributed, top: int) -> None:
    """The largest shares of each step, the last stream's of several that were read."""
    from rich.console import Console
    from rich.text import Text

    from analyses.views.frames import ShareTable
    from interp.display import between, number, short

    console, asked = Console(highlight=False), found.asked
    trajectory = asked.trajectory
    console.print(Text(f"\n{trajectory!r}"), soft_wrap=True)
    for name, table in _shares(found).items():
        places = list(table.groupby("step", sort=True))
        for step, rows in places[:_TOLD]:
            last = rows[rows["read_at"] == rows["read_at"].max()] if "read_at" in rows else rows
            first = last.iloc[0]
            where = between(first["input_token"], first["token"]) if "token" in last else ""
            against = short(first["contrast"]) if "contrast" in last and isinstance(first["contrast"], str) else ""
            total = f", in all {number(float(first['total']))}" if "total" in last else ""
            told = f"{name} at step {step}, {where}" + (f", against `{against}`" if against else "") + total
            console.print(Text(told, style="bold"), soft_wrap=True)
            best = ShareTable(last).top(top)
            parts = [f"{who} {share:+.3g}" for who, share in zip(best["component"], best["share"], strict=True)]
            console.print(Text(f"  {'  '.join(parts)}"), soft_wrap=True)
        if len(places) > _TOLD:
            console.print(Text(f"... and {len(places) - _TOLD} more steps in the table"))
    console.print(Text.assemble(("\nFiles: ", "bold"), ", ".join(map(str, found.files))), soft_wrap=True)

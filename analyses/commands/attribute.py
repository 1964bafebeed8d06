"""The command ``peaklens attribute``: its options, and the call they make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands.common import load_chosen
from analyses.commands.options import Device, DeviceMap, Dtype, names_of

if TYPE_CHECKING:
    import pandas

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
        Path | None, typer.Option(help="The problem file of the run, for shares in scores; toys have theirs.")
    ] = None,
    measures: Annotated[
        str | None,
        typer.Option(
            help='Scores shared out: "nhsic,nhsic/drop4,r2,nhsic excess".', show_default="the run's own, and these"
        ),
    ] = None,
    reference: Annotated[
        str, typer.Option(help='Scores are compared with the mean of "non-peaks", or with a "matched" step each.')
    ] = "non-peaks",
    total: Annotated[
        str | None,
        typer.Option(
            help='Total effects by intervention: "top", "all", "none".', show_default="top; none with --peaks"
        ),
    ] = None,
    edges: Annotated[
        bool, typer.Option("--edges", help="Also who writes to whom on the way to the score, at one step.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="The run's model, where it lies elsewhere now.")] = None,
    top: Annotated[int, typer.Option(help="Components shown of each step.")] = 8,
    csv: Annotated[bool, typer.Option("--csv", help="Tables as CSV instead of Parquet.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    device_map: DeviceMap = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Write tables and page, print where they are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Files and top components as JSON.")] = False,
) -> None:
    """Which heads, MLPs and embeddings wrote what a step of a finished run says and its score: tables, a page."""
    from analyses.store.run import Run
    from analyses.trace.attributing import attribute_run, check_asked
    from interp.arguments import as_whole

    opened = Run.open(run)
    as_whole(top, "attribute", "top", 1)
    check_asked(opened, problem, step, peaks=peaks, layer=layer, sample=sample, edges=edges)
    name = str(opened.settings["model"] if model is None else model)
    loaded = load_chosen(name, device, dtype or opened.settings.get("dtype"), device_map, silent=quiet or as_json)
    found = attribute_run(
        opened, problem, step, peaks=peaks, layer=layer, sample=sample, problems=problems, model=loaded, csv=csv,
        contrast=None if contrast == "none" else contrast, reference=reference, total=total, edges=edges,
        measures=None if measures is None else names_of(measures),
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
    best = {name: json.loads(table.top(top).to_json(orient="records")) for name, table in _shares(found).items()}
    return {"files": [str(file) for file in found.files], "steps": list(found.asked.steps), "top": best}


def _show(found: Attributed, top: int) -> None:
    """The largest shares at each step: of what the last stream says, and of each score."""
    from rich.console import Console
    from rich.text import Text

    from analyses.views.frames import ShareTable
    from interp.display import between

    console, asked = Console(highlight=False), found.asked
    console.print(Text(f"\n{asked.trajectory!r}"), soft_wrap=True)
    tables = _shares(found)
    for step in asked.steps[:_TOLD]:
        where = between(asked.trajectory.input_tokens[step], asked.trajectory.tokens[step])
        console.print(Text(f"\nStep {step}, {where}", style="bold"), soft_wrap=True)
        for name, table in tables.items():
            rows = table[table["step"] == step]
            if "read_at" in rows:
                rows = rows[rows["read_at"] == rows["read_at"].max()]
            for _, part in rows.groupby("measure", sort=False) if "measure" in rows else [("", rows)]:
                best = ShareTable(part).top(top)
                parts = [f"{who} {share:+.3g}" for who, share in zip(best["component"], best["share"], strict=True)]
                told = Text(_told(name, part, found))
                console.print(told.append(f": {'  '.join(parts)}"), soft_wrap=True)
    if len(asked.steps) > _TOLD:
        console.print(Text(f"... and {len(asked.steps) - _TOLD} more steps in the tables"))
    console.print(Text.assemble(("\nFiles: ", "bold"), ", ".join(map(str, found.files))), soft_wrap=True)


def _told(name: str, rows: pandas.DataFrame, found: Attributed) -> str:
    """What the shares of a step sum to."""
    from interp.display import number, short

    first = rows.iloc[0]
    if name != "mi":
        against = f" less that of `{short(first['contrast'])}`" if isinstance(first["contrast"], str) else ""
        return f"logit of `{short(first['target'])}`{against}, {number(float(first['total']))}"
    ends = found.tables["mi_ends"]
    end = ends[(ends["step"] == first["step"]) & (ends["measure"] == first["measure"])].iloc[0]
    value, reference = number(float(end["value"])), number(float(end["reference_value"]))
    return f"{first['measure']} at layer {found.asked.layer}, {value} where the reference has {reference}"

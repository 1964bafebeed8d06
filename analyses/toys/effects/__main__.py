"""The command line: measure, print the tables, write Markdown and JSON when asked."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from analyses.toys import effects
from analyses.toys.effects.conditions import BUDGETS, continuation, recycling, suppression
from analyses.toys.effects.patching import find_slips, patching, slip_questions
from analyses.toys.effects.study import LAYERS, Study
from analyses.toys.effects.tables import SEED, Table, markdown
from analyses.toys.evaluate import BUNDLED
from analyses.toys.task import held_out_questions
from interp import decode, load_model
from interp.errors import InputError

__all__ = ["main"]

MODEL = "toy-reasoner"
_DISCLAIMER = "This validates the tool; it is no evidence about large models."


def _show(tables: Sequence[Table]) -> None:
    from rich.console import Console
    from rich.table import Table as Shown
    from rich.text import Text

    # Numbers must stay whole: what is too wide for the terminal is wrapped by it, not cut.
    console = Console(width=max(150, Console().width))
    for table in tables:
        shown = Shown(title=table.title, caption=table.note, title_justify="left", caption_justify="left")
        for column in table.columns:
            if column in ("condition", "against"):
                shown.add_column(Text(column), overflow="fold", min_width=24)
            else:
                shown.add_column(Text(column), justify="right", no_wrap=True)
        for line in table.cells:
            shown.add_row(*map(Text, line))  # as text: [1, 2] would be taken for markup
        console.print(shown)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: measure, print the tables, write Markdown and JSON when asked."""
    parser = argparse.ArgumentParser(
        prog="python -m analyses.toys.effects", description=(effects.__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--n", type=int, default=320, help="held-out problems")
    parser.add_argument("--only", nargs="+", choices="ABCD", default="ABCD", help="some of the tables")
    parser.add_argument("--layers", nargs="+", type=int, choices=LAYERS, default=LAYERS, help="of tables C and D")
    parser.add_argument("--draws", type=int, default=5, help="controls for a set of words")
    parser.add_argument("--budgets", nargs="*", type=int, default=BUDGETS, help="tokens")
    parser.add_argument("--json", type=Path, help="file to write every number to")
    parser.add_argument("--markdown", type=Path, help="file to write the tables to")
    options = parser.parse_args(arguments)
    if options.n < 1:
        raise InputError("effects", expected="n of at least 1", received=str(options.n), remedy="Change --n.")
    torch.set_num_threads(1)
    model = load_model(MODEL, device="cpu")
    tables: list[Table] = []
    with tqdm(unit=" conditions", disable=None) as bar:
        study = Study(model, held_out_questions(options.n), bar)
        if "A" in options.only:
            tables.append(suppression(study, draws=options.draws))
        if "B" in options.only:
            tables += continuation(study, budgets=options.budgets)
        if "C" in options.only:
            tables += recycling(study, layers=options.layers)
        if "D" in options.only:
            slips = find_slips(model, slip_questions(options.n))
            tables += patching(model, slips, layers=options.layers, bar=bar)
    _show(tables)
    print(_DISCLAIMER)
    if options.markdown:
        options.markdown.write_text(f"{_DISCLAIMER}\n\n{markdown(tables)}\n")
    if options.json:
        weights = json.loads((BUNDLED / MODEL / "training.json").read_text())["sha256"]
        settings = decode(model, ["1 A + 1 ? ->"], max_new_tokens=1)[0].settings
        content = {
            "model": MODEL,
            "sha256": weights,
            "n": options.n,
            "seed": SEED,
            "versions": settings["versions"],
            "tables": [{"title": t.title, "note": t.note, "rows": [asdict(row) for row in t.rows]} for t in tables],
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()

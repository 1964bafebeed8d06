"""What a person sees in a terminal of the models that there are; apart from the rest, which loads what traces need."""

from __future__ import annotations

from collections.abc import Sequence

from interp.loading.models import ModelEntry

__all__ = ["show_models"]


def show_models(entries: Sequence[ModelEntry]) -> None:
    """Print the list of models."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for heading in ("model", "state", "size", "licence", "description"):
        table.add_column(heading, overflow="fold")
    for entry in entries:
        table.add_row(entry.name, entry.state, f"{entry.size / 1e6:.1f} MB", entry.licence, entry.description)
    console = Console(highlight=False)
    console.print(table)
    known = [entry.name for entry in entries if entry.state == "known"]
    if known:
        console.print(f"Fetch with: peaklens models pull {known[0]}")
    console.print("Any Hugging Face id, folder or .gguf file can be given as --model too.")

"""What ``peaklens doctor`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["show_findings"]


def show_findings(found: Mapping[str, Any]) -> None:
    """Print what :func:`analyses.commands.doctor.examine` found: all of it, then what to do."""
    console = Console(highlight=False)
    console.print(Text(f"peaklens {found['peaklens']} on {found['system']}"))
    table = Table()
    for heading in ("", "found", "asked for", ""):
        table.add_column(heading, overflow="fold")
    for row in found["findings"]:
        table.add_row(*(Text(row[key]) for key in ("what", "found", "asked", "state")))
    console.print(table)
    for line in _machine(found) if "devices" in found else ():
        console.print(Text(line), soft_wrap=True)
    for state, told in (("missing", "Missing"), ("optional", "Optional, and not here")):
        for row in found["findings"]:
            if row["state"] == state:
                console.print(Text.assemble((f"\n{told}: ", "bold"), f"{row['what']}. {row['mend']}"), soft_wrap=True)
    console.print(Text("\nAll that is needed is here." if found["ok"] else "\nSomething needed is missing."))


def _machine(found: Mapping[str, Any]) -> list[str]:
    threads = found["threads"]
    asked = f" (OMP_NUM_THREADS={threads['OMP_NUM_THREADS']})" if threads["OMP_NUM_THREADS"] else ""
    lines = [
        f"{one['device']}: {one['name']}, {one['memory_bytes'] / 2**30:.1f} GiB of memory" for one in found["devices"]
    ]
    lines.append(f"cores: {threads['cores']}; torch uses {threads['torch']} threads{asked}")
    for cache in found["caches"]:
        held = f": {', '.join(cache['models'])}" if cache.get("models") else ""
        lines.append(f"{cache['what']}: {cache['bytes'] / 1e9:.2f} GB in {cache['path']}{held}")
    return lines + [f"disk: {disk['free_bytes'] / 1e9:.1f} GB free at {disk['path']}" for disk in found["disk"]]

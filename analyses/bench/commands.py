"""How long commands take as a person types them: each a process of its own, its files in memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from analyses.bench.timing import spread
from interp.errors import InputError

__all__ = ["HELP", "TRACE", "bench_commands"]

HELP = ("--help",)
TRACE = ("trace", "-n", "64", "--max-new-tokens", "160", "--batch-size", "16")


def bench_commands(
    commands: Sequence[tuple[tuple[str, ...], int]] = ((HELP, 10), (TRACE, 3)),
    *,
    on_run: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[dict[str, Any]]:
    """One row per command: ``seconds`` and ``cpu_seconds`` (its own and its processes'), spreads over its runs.

    >>> [row["command"] for row in bench_commands([(HELP, 1)])]
    ['peaklens --help']

    A command with a run folder is given a new one each time. Each is run once before it is timed.

    Raises:
        InputError: a command that fails.
    """
    rows = []
    done, total = 0, sum(count for _, count in commands)
    for command, count in commands:
        told = " ".join(("peaklens", *command))
        runs = []
        for turn in range(count + 1):
            on_run(done, total, told)
            runs.append(_run(command, told))
            done += turn > 0
        rows.append(
            {
                "command": told,
                "seconds": spread([seconds for seconds, _ in runs[1:]]),
                "cpu_seconds": spread([cpu for _, cpu in runs[1:]]),
            }
        )
    on_run(done, total, "done")
    return rows


def _run(command: tuple[str, ...], told: str) -> tuple[float, float]:
    code = "import sys; from analyses.commands.cli import main; sys.argv[0] = 'peaklens'; main()"
    with tempfile.TemporaryDirectory() as folder:
        out = () if command == HELP else ("-o", folder)
        before, begin = os.times(), time.perf_counter()
        ended = subprocess.run([sys.executable, "-c", code, *command, *out], capture_output=True, text=True)
        seconds, after = time.perf_counter() - begin, os.times()
    if ended.returncode:
        raise InputError(
            "bench",
            expected=f"{told} to succeed",
            received=next(reversed(ended.stderr.strip().splitlines()), f"exit code {ended.returncode}"),
            remedy="Run it by itself to see why.",
        )
    used = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    return seconds, used

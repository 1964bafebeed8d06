"""How long commands take as a person types them: each a process of its own, its files in memory.

Beside a trace of the toy is what it is made of: importing TransformerLens, and that with plain transformers making the
same responses.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from analyses.bench.timing import spread
from interp.errors import InputError

__all__ = ["BARE", "HELP", "IMPORTS", "TRACE", "Program", "bench_commands"]


@dataclass(frozen=True)
class Program:
    """A process: what it is called, what the interpreter is given, and whether it takes a new run folder."""

    told: str
    given: tuple[str, ...]
    takes_folder: bool = False


def _peaklens(*words: str, takes_folder: bool = False) -> Program:
    code = "import sys; from analyses.commands.cli import main; sys.argv[0] = 'peaklens'; main()"
    return Program(" ".join(("peaklens", *words)), ("-c", code, *words), takes_folder)


HELP = _peaklens("--help")
TRACE = _peaklens("trace", "-n", "64", "--max-new-tokens", "160", "--batch-size", "16", takes_folder=True)
IMPORTS = Program('python -c "import transformer_lens.model_bridge"', ("-c", "import transformer_lens.model_bridge"))
BARE = Program(
    "python -m analyses.bench.bare 64 160 16 (transformers makes the same responses, TransformerLens imported)",
    ("-m", "analyses.bench.bare", "64", "160", "16"),
)


def bench_commands(
    commands: Sequence[tuple[Program, int]] = ((HELP, 10), (IMPORTS, 3), (BARE, 3), (TRACE, 3)),
    *,
    on_run: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[dict[str, Any]]:
    """One row per command: ``seconds`` and ``cpu_seconds`` (its own and its processes'), spreads over its runs.

    >>> [row["command"] for row in bench_commands([(HELP, 1)])]
    ['peaklens --help']

    Each is run once before it is timed.

    Raises:
        InputError: a command that fails.
    """
    rows = []
    done, total = 0, sum(count for _, count in commands)
    for program, count in commands:
        runs = []
        for turn in range(count + 1):
            on_run(done, total, program.told)
            runs.append(_run(program))
            done += turn > 0
        rows.append(
            {
                "command": program.told,
                "seconds": spread([seconds for seconds, _ in runs[1:]]),
                "cpu_seconds": spread([cpu for _, cpu in runs[1:]]),
            }
        )
    on_run(done, total, "done")
    return rows


def _run(program: Program) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        out = ("-o", folder) if program.takes_folder else ()
        before, begin = os.times(), time.perf_counter()
        ended = subprocess.run([sys.executable, *program.given, *out], capture_output=True, text=True)
        seconds, after = time.perf_counter() - begin, os.times()
    if ended.returncode:
        raise InputError(
            "bench",
            expected=f"{program.told} to succeed",
            received=next(reversed(ended.stderr.strip().splitlines()), f"exit code {ended.returncode}"),
            remedy="Run it by itself to see why.",
        )
    used = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    return seconds, used

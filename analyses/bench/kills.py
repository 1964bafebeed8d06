"""A trace on a cluster of three nodes while workers, nodes and the command itself are killed at random moments.

    python -m analyses.bench.kills --kills 50
    python -m analyses.bench.kills --kills 50 --made --problems 200

1. The toy is traced by one process, without any trouble: the tables to compare with.
2. The same trace runs on three nodes (:func:`analyses.bench.cluster.local_cluster`). At a random moment one of its
   workers is killed, or a node with all that runs on it (another joins), or the command, which is then started again.
   So it goes on till the trace is done.
3. Its tables have to be those of 1, byte by byte or value by value. Then the next trace begins, until there were as
   many kills as asked for. The exit code is 1 if any table ever differed.
4. With ``--made``, the work is :mod:`analyses.bench.made_work` in place of a trace.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses.bench.cluster import add_node, local_cluster
from analyses.bench.made_work import TABLE

__all__ = ["KINDS", "differing", "worker_processes"]

KINDS = ("worker", "node", "command")
TABLES = ("mi.parquet", "steps.parquet", "peaks.parquet", "responses.parquet", "tokens.csv")
_STARTING = 0.2  # of the kills
_TRACE = """
import json, sys
from analyses.trace.tracing import trace
trace("toy-reasoner", report=False, retry_failed=True, **json.loads(sys.argv[1]))
"""
_MADE = """
import json, sys
from analyses.bench.made_work import made_table
made_table(**json.loads(sys.argv[1]))
"""


def worker_processes() -> list[int]:
    """Processes of this machine that are the workers of our clusters here, by what Ray calls them."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and "RayWorker" in process.cmdline()[0]:
                found.append(process.pid)
        except psutil.Error:  # it ended just now
            continue
    return found


def differing(one: Path, other: Path) -> list[str]:
    """Tables of two runs, or of two folders of made work, that are not the same."""
    if (one / TABLE).exists():
        return [] if (one / TABLE).read_bytes() == (other / TABLE).read_bytes() else [TABLE]
    import pandas as pd

    from analyses.store.run import Run

    first, second = Run.open(one), Run.open(other)
    found = []
    for name in TABLES:
        try:
            pd.testing.assert_frame_equal(first.table(name), second.table(name), check_exact=True)
        except AssertionError:
            found.append(name)
    return found


def _command(code: str, asked: dict[str, Any], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, "-c", code, json.dumps(asked)], stdout=out, stderr=out)


class _Trouble:
    """Kills things, at moments that a seed decides."""

    def __init__(self, cluster: Any, nodes: list[Any], dice: random.Random) -> None:
        self.cluster, self.nodes, self.dice = cluster, nodes, dice
        self.made: Counter[str] = Counter()

    def make(self, kind: str, command: subprocess.Popen[bytes]) -> bool:
        """Kill one; whether there was one."""
        if kind == "command":
            command.kill()
            command.wait()
        elif kind == "node":
            node = self.nodes.pop(self.dice.randrange(len(self.nodes)))
            self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(add_node(self.cluster))
        else:
            workers = worker_processes()
            if not workers:
                return False
            os.kill(self.dice.choice(workers), signal.SIGKILL)
        self.made[kind] += 1
        return True


def _await_moment(dice: random.Random, out: Path, command: subprocess.Popen[bytes]) -> None:
    """Any moment of the start, or one of the work: some cells later, and then a little."""

    def done() -> int:
        return sum(1 for _ in out.rglob("*.safetensors")) + sum(1 for _ in out.glob("[0-9]*.json"))

    if dice.random() < _STARTING:
        until = time.monotonic() + dice.uniform(0, 12)
        while command.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
    else:
        enough = done() + dice.choice([0, 1, 3])
        while command.poll() is None and done() <= enough:
            time.sleep(0.02)
    time.sleep(dice.uniform(0, 0.3))


def _troubled(code: str, out: Path, asked: dict[str, Any], trouble: _Trouble, most: int, log: Path) -> int:
    """Run into ``out``, with as many kills at most, started again till it is done; how often it was started."""
    starts, kills = 0, 0
    while True:
        starts += 1
        command = _command(code, {**asked, "on": "ray", "out": str(out)}, log)
        try:
            while command.poll() is None and kills < most:
                wanted = trouble.dice.choice(KINDS)
                _await_moment(trouble.dice, out, command)
                if command.poll() is None:
                    kills += trouble.make(wanted, command)
            command.wait()
        except KeyboardInterrupt:
            command.kill()
            raise
        if command.returncode == 0:
            return starts
        if command.returncode != -signal.SIGKILL:
            raise SystemExit(f"it ended with exit code {command.returncode}: {log.read_text()[-2000:]}")


def main(
    kills: Annotated[int, typer.Option(help="At least so many.")] = 50,
    each: Annotated[int, typer.Option(help="Kills during one trace, at most.")] = 10,
    problems: Annotated[int, typer.Option(help="Of the toy.")] = 48,
    max_new_tokens: Annotated[int, typer.Option()] = 160,
    batch_size: Annotated[int, typer.Option()] = 2,
    seed: Annotated[int, typer.Option(help="Of what is killed, and when.")] = 0,
    made: Annotated[
        bool, typer.Option("--made", help="Made work in place of a trace: a kill takes seconds, no model is loaded.")
    ] = False,
    minutes: Annotated[float, typer.Option(help="No trace begins after so many.")] = 600.0,
) -> None:
    """Kill workers, nodes and the command at random moments and compare the tables with those of one process."""
    begun = time.monotonic()
    asked = {"n": problems, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    dice = random.Random(seed)
    wrong, code = 0, _MADE if made else _TRACE
    with tempfile.TemporaryDirectory() as text, local_cluster(3) as (cluster, nodes):
        folder = Path(text)
        whole = _command(code, {**asked, "out": str(folder / "whole")}, folder / "log")
        if whole.wait():
            raise SystemExit((folder / "log").read_text())
        trouble = _Trouble(cluster, nodes, dice)
        number = 0
        while sum(trouble.made.values()) < kills and time.monotonic() - begun < minutes * 60:
            number += 1
            before = trouble.made.copy()
            left = kills - sum(trouble.made.values())
            starts = _troubled(code, folder / str(number), asked, trouble, min(each, left), folder / "log")
            found = differing(folder / "whole", folder / str(number))
            wrong += bool(found)
            killed = trouble.made - before
            told = ", ".join(f"{count} {kind}" for kind, count in sorted(killed.items())) or "nothing"
            typer.echo(
                f"trace {number}, started {starts} times; killed: {told}; "
                f"tables {'DIFFER: ' + ', '.join(found) if found else 'identical'}",
            )
    total = ", ".join(f"{count} {kind}" for kind, count in sorted(trouble.made.items()))
    typer.echo(
        f"{sum(trouble.made.values())} kills ({total}) in {time.monotonic() - begun:.0f} seconds: "
        + (f"{wrong} of {number} traces DIFFER" if wrong else f"all {number} traces identical")
    )
    raise typer.Exit(1 if wrong else 0)


if __name__ == "__main__":
    typer.run(main)

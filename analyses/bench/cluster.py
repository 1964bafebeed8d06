"""Several nodes on this machine, and how fast a trace is on them: beside processes, and on 2,000 problems.

    python -m analyses.bench.cluster --problems 2000 --nodes 4
    python -m analyses.bench.cluster --problems 64 --rounds 5 --against-processes

1. `local_cluster` starts a head without processors and nodes of some each, all of them on this machine
   (``ray.cluster_utils.Cluster``): what Ray does between nodes is done, only no network is there.
2. `traced` runs the command in a process of its own and takes its wall time, and the seconds from the first token that
   was decoded to the end of the work (steady), which is without starting and loading.
3. Against processes, both take turns, as many workers each, in a new folder every time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["local_cluster", "traced"]

_MEMORY = 80 * 2**20  # bytes of each node's object store: what goes through it is small

# The command, told when the first and the last token was decoded.
_CODE = """
import json, sys, time
from analyses.trace.tracing import trace
class Told:
    first = last = tokens = 0
    def update(self, n):
        if n:
            Told.last = time.perf_counter()
            Told.first = Told.first or Told.last
            Told.tokens += n
asked = json.loads(sys.argv[1])
begun = time.perf_counter()
trace("toy-reasoner", progress=lambda responses, tokens: Told(), report=False, excess=0, **asked)
print(json.dumps({"seconds": time.perf_counter() - begun, "steady": Told.last - Told.first, "tokens": Told.tokens}))
"""


@contextmanager
def local_cluster(nodes: int, cpus: int = 1) -> Iterator[tuple[Any, list[Any]]]:
    """A Ray cluster on this machine, and its nodes; the head works on nothing. ``RAY_ADDRESS`` names it meanwhile."""
    before = {name: os.environ.get(name) for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED")}
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        joined = [cluster.add_node(num_cpus=cpus, object_store_memory=_MEMORY) for _ in range(nodes)]
        os.environ["RAY_ADDRESS"] = cluster.address
        yield cluster, joined
    finally:
        cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def traced(**asked: Any) -> dict[str, float]:
    """Seconds of a trace in a process of its own, those of them that are steady, and its tokens."""
    command = [sys.executable, "-W", "ignore", "-c", _CODE, json.dumps(asked)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main(
    problems: Annotated[int, typer.Option(help="Of the toy.")] = 2000,
    nodes: Annotated[int, typer.Option(help="Of one CPU each.")] = 2,
    max_new_tokens: Annotated[int, typer.Option()] = 160,
    batch_size: Annotated[int, typer.Option()] = 16,
    rounds: Annotated[int, typer.Option(help="Traces of each kind, taking turns.")] = 1,
    against_processes: Annotated[bool, typer.Option(help="As many worker processes too.")] = False,
) -> None:
    """Trace the toy on a cluster of several nodes on this machine."""
    from analyses.bench.timing import spread

    asked = {"n": problems, "max_new_tokens": max_new_tokens, "batch_size": batch_size, "workers": nodes}
    kinds = {"ray": {"on": "ray"}, **({"processes": {}} if against_processes else {})}
    taken: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with local_cluster(nodes), tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for kind, where in kinds.items():
                found = traced(**asked, **where, out=str(Path(folder, f"{kind}-{turn}")))
                taken[kind].append(found)
                typer.echo(f"{kind}: " + ", ".join(f"{name} {value:,.1f}" for name, value in found.items()))
                time.sleep(1)
    for name in ("seconds", "steady"):
        for kind in kinds:
            typer.echo(f"{kind}, {name}: {json.dumps(asdict(spread([one[name] for one in taken[kind]])))}")
        if against_processes:
            ratios = [a[name] / b[name] for a, b in zip(taken["ray"], taken["processes"], strict=True)]
            typer.echo(f"ray / processes, {name}: {json.dumps(asdict(spread(ratios)))}")


if __name__ == "__main__":
    typer.run(main)

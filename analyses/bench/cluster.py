"""Several nodes on this machine, and how fast a trace is on them: beside processes, and on 2,000 problems.

    python -m analyses.bench.cluster --problems 2000 --nodes 4
    python -m analyses.bench.cluster --problems 64 --rounds 5 --against-processes

1. `local_cluster` starts a head without processors and nodes of some each, all of them on this machine
   (``ray.cluster_utils.Cluster``): what Ray does between nodes is done, only no network is there.
2. `traced` runs a trace in a process of its own. ``seconds`` are all of it; ``steady`` those from the end of the first
   batch to that of the last, without starting and loading. Of the workers alone, whatever else the machine does:
   ``cpu``, processor seconds of the thread that decodes and scores; ``beside``, what all other threads of the process
   took of a processor meanwhile, as a share; and ``idle``, the share of the time between a worker's first and last
   batch in which it had none.
3. Against processes, both take turns, as many workers each, in a new folder every time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses.work.scheduler import Report, Work

__all__ = ["add_node", "local_cluster", "timed_worker", "traced"]

_MEMORY = 80 * 2**20  # bytes of each node's object store: what goes through it is small

_CODE = """
import json, sys, time
from analyses.bench.cluster import timed_worker
from analyses.trace import tracing
tracing._start_worker = timed_worker
ends = []
begun = time.perf_counter()
run = tracing.trace("toy-reasoner", on_done=lambda *_: ends.append(time.perf_counter()), report=False, excess=0,
                    **json.loads(sys.argv[1]))
tokens = int(run.responses["n_steps"].sum())
print(json.dumps({"seconds": time.perf_counter() - begun, "steady": ends[-1] - ends[0], "tokens": tokens}))
"""


# A killed node is missed when it has not been reached three times, a second apart.
_HEALTH = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 3}


@contextmanager
def local_cluster(nodes: int, cpus: int = 1) -> Iterator[tuple[Any, list[Any]]]:
    """A Ray cluster on this machine, and its nodes; the head works on nothing. ``RAY_ADDRESS`` names it meanwhile."""
    before = {name: os.environ.get(name) for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED")}
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _MEMORY, "_system_config": _HEALTH}
    cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        joined = [add_node(cluster, cpus) for _ in range(nodes)]
        os.environ["RAY_ADDRESS"] = cluster.address
        yield cluster, joined
    finally:
        cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def add_node(cluster: Any, cpus: int = 1) -> Any:
    """One more node."""
    return _patiently(lambda: cluster.add_node(num_cpus=cpus, object_store_memory=_MEMORY))


def _patiently(start: Callable[[], Any]) -> Any:
    """What starts, tried again where the machine is so busy that Ray gives it up after its 30 seconds."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:  # Ray raises nothing more special
            if "timed out during startup" not in str(error):
                raise
    return start()


@dataclass(frozen=True)
class _Timed:
    """A worker's work, with a line in a file for each batch: when it began and ended, and processor seconds."""

    work: Work
    file: Path

    def __call__(self, batch: Any, report: Report) -> Any:
        begun, cpu, all_threads = time.time(), time.thread_time(), time.process_time()
        value = self.work(batch, report)
        own, whole = time.thread_time() - cpu, time.process_time() - all_threads
        with self.file.open("a") as times:
            times.write(json.dumps([begun, time.time(), own, whole - own]) + "\n")
        return value


def timed_worker(ref: Any, *common: Any) -> Work:
    """In a worker: what decodes, timed; the times lie beside the run's folder."""
    from analyses.trace.tracing import _start_worker

    out = Path(common[2])
    return _Timed(_start_worker(ref, *common), out.with_name(f"{out.name}-{os.getpid()}.times"))


def traced(out: Path, **asked: Any) -> dict[str, float]:
    """What a trace in a process of its own took."""
    command = [sys.executable, "-W", "ignore", "-c", _CODE, json.dumps({**asked, "out": str(out)})]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    each = [
        [json.loads(line) for line in file.read_text().splitlines()] for file in out.parent.glob(f"{out.name}-*.times")
    ]
    busy = sum(end - begun for times in each for begun, end, *_ in times)
    whole = sum(times[-1][1] - times[0][0] for times in each)
    cpu = sum(own for times in each for *_, own, _ in times)
    beside = sum(others for times in each for *_, others in times) / busy
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return {**told, "cpu": cpu, "beside": beside, "idle": 1 - busy / whole}


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
                found = traced(Path(folder, f"{kind}-{turn}"), **asked, **where)
                taken[kind].append(found)
                typer.echo(f"{kind}: " + ", ".join(f"{name} {value:,.3g}" for name, value in found.items()))
                time.sleep(1)
    for name in ("seconds", "steady", "cpu", "beside", "idle"):
        for kind in kinds:
            typer.echo(f"{kind}, {name}: {json.dumps(asdict(spread([one[name] for one in taken[kind]])))}")
        if against_processes and name not in ("beside", "idle"):
            ratios = [a[name] / b[name] for a, b in zip(taken["ray"], taken["processes"], strict=True)]
            typer.echo(f"ray / processes, {name}: {json.dumps(asdict(spread(ratios)))}")


if __name__ == "__main__":
    typer.run(main)

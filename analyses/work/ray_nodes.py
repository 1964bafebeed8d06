"""Before any work is done on a cluster: does each of its nodes see what a worker there needs?

1. The process that gives out work writes a file into the run's folder; each node has to read it there, write one of its
   own, and that has to be seen here. So have the model's files and the versions of the libraries to be the same.
2. The run's lock is held meanwhile. Where a node gets it all the same, locks do not reach from machine to machine on
   that file system: cells are then not packed (:mod:`analyses.store.shards`), and two runs must not be started in one
   folder at once.
3. A worker on a node that joins later looks for itself, before its first task. A node that has left and is still
   listed, since that takes Ray some seconds to find out, is left out.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from analyses.store.atomic import NO_LOCKS, locked, temporary_in
from analyses.work.on_ray import Node, environment, nodes
from analyses.work.ray_worker import Looked, Place, look, versions
from interp.errors import InputError

__all__ = ["check_nodes", "placed"]

_SECONDS = 120.0  # that all nodes have to answer in: each starts a process
_LATE = 10.0  # seconds after which what another machine wrote has to be seen


@contextmanager
def placed(folder: Path | None, models: Sequence[str] = ()) -> Iterator[Place]:
    """What each node is to find, with a file in the run's folder until the end of the block."""
    here = Place(models=tuple(models), versions=versions(), folder_now=str(Path.cwd()))
    if folder is None:
        yield here
        return
    probe, secret = temporary_in(folder.absolute()), secrets.token_hex(8)
    probe.write_text(secret, encoding="utf-8")
    try:
        yield Place(str(folder.absolute()), str(probe), secret, here.models, here.versions, here.folder_now)
    finally:
        probe.unlink(missing_ok=True)


def check_nodes(ray: Any, found: Sequence[Node], place: Place) -> None:
    """Have each node look.

    Raises:
        InputError: some cannot work, with their names and reasons.
    """
    if place.folder is None:
        wrong = [said for node, looked in _looked(ray, found, place) for said in _wrong(node, looked, place)]
    else:
        lock = Path(place.folder) / ".lock"
        with locked(lock):
            answers = list(_looked(ray, found, place))
        wrong = [said for node, looked in answers for said in _wrong(node, looked, place)]
        reach = all(not isinstance(looked, Looked) or looked.held_off for _, looked in answers)
        if not wrong and not reach:
            (Path(place.folder) / NO_LOCKS).touch()
    if wrong:
        listed = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise InputError(
            "work on ray",
            expected="nodes that share the run's folder, have the model, and the same versions as here",
            received=listed,
            remedy="Choose --out on a file system that all share, put the model there, install the same versions.",
        )


def _looked(ray: Any, found: Sequence[Node], place: Place) -> Iterator[tuple[Node, Looked | str]]:
    """What each node answers, or why it does not."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = [
        ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False), runtime_env=environment()
        ).remote(place)
        for node in found
    ]
    ray.wait(asked, num_returns=len(asked), timeout=_SECONDS)
    for node, one in zip(found, asked, strict=True):
        try:
            yield node, ray.get(one, timeout=0)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(one, force=True)
            if node in nodes(ray):
                yield node, f"it does not answer within {_SECONDS:.0f} seconds"
        except ray.exceptions.RayTaskError as error:
            yield node, f"it cannot look ({_last_line(error)}): is peaklens installed there?"
        except ray.exceptions.RayError:
            continue  # it left just now, and is no node of the cluster any more


def _wrong(node: Node, looked: Looked | str, place: Place) -> list[str]:
    if isinstance(looked, str):
        return [f"node {node.host}: {looked}"]
    said = list(looked.wrong)
    if looked.wrote and not _seen(Path(place.probe).with_name(looked.wrote), place.secret):
        said.append(f"what it writes into {place.folder} is not seen here")
    return [f"node {looked.host}: {one}" for one in said]


def _seen(answer: Path, secret: str) -> bool:
    """Whether what a node wrote is here; it is removed."""
    until = time.monotonic() + _LATE
    while True:
        try:
            if answer.read_text(encoding="utf-8") == f"{secret}{answer.name}":
                answer.unlink(missing_ok=True)
                return True
        except OSError:
            pass
        if time.monotonic() > until:
            return False
        time.sleep(0.1)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]

"""Work on a Ray cluster: what is asked of it, the way in, and its nodes.

Ray is imported here, and only when a cluster is asked for: it is an extra (``pip install "peaklens[ray]"``).

1. `connect` joins the cluster that ``RAY_ADDRESS`` names, or starts one on this machine, which ends with this process.
   One that the user has joined already is taken as it is.
2. `nodes` lists the nodes that are there now, and `places` how many workers each has room for.

What is sent where, and what happens when something dies, is :mod:`analyses.work.ray_pool`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import InputError

__all__ = [
    "Node", "Ray", "connect", "counted", "environment", "nodes", "own_gpus", "places", "would_start",
]  # fmt: skip

_STANDARD = sysconfig.get_path("stdlib")


def _silent(text: str) -> None:
    pass


@dataclass(frozen=True)
class Ray:
    """Where work goes with ``on="ray"``, and what each worker has for itself.

    >>> Ray(gpus_per_worker=4).device_map, Ray(cpus_per_worker=2).device_map
    ('auto', None)

    Attributes:
        gpus_per_worker: 1 where nodes have GPUs, else 0, unless given. Below 1, workers share a GPU; above, a model is
            spread over several, as ``device_map`` says.
        cpus_per_worker: and as many threads.
        device_map: accelerate's, inside each worker; "auto" where a worker has several GPUs.
        tell: is told in a line of nodes that join and leave. Workers that end are told by a `WorkWarning`.
    """

    gpus_per_worker: int | float | None = None
    cpus_per_worker: int = 1
    device_map: str | Mapping[str, Any] | None = None
    tell: Callable[[str], None] = _silent

    def __post_init__(self) -> None:
        gpus = self.gpus_per_worker
        if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise InputError(
                "work on ray",
                expected="a whole number of GPUs for each worker, or a part of one",
                received=str(gpus),
                remedy="Change --gpus-per-worker.",
            )
        if self.cpus_per_worker < 1:
            raise InputError(
                "work on ray",
                expected="at least 1 CPU for each worker",
                received=str(self.cpus_per_worker),
                remedy="Change --cpus-per-worker.",
            )
        if self.device_map is not None and gpus == 0:
            raise InputError(
                "work on ray",
                expected="workers with GPUs for a device map",
                received="0 GPUs for each",
                remedy="Leave --device-map out, or change --gpus-per-worker.",
            )
        if self.device_map is None and gpus is not None and gpus > 1:
            object.__setattr__(self, "device_map", "auto")


@dataclass(frozen=True)
class Node:
    """A node of the cluster that is there now."""

    id: str
    host: str
    cpus: int | float
    gpus: int | float

    def places(self, cpus: int, gpus: int | float) -> int:
        """Workers that it has room for, if nobody else uses it.

        >>> Node("a", "10.0.0.1", 16, 8).places(1, 4), Node("b", "10.0.0.2", 16, 0).places(4, 0)
        (2, 4)
        """
        return int(min(self.cpus // cpus, self.gpus // gpus if gpus else self.cpus // cpus))


def places(found: Sequence[Node], cpus: int, gpus: int | float) -> int:
    """Workers that all of them have room for.

    Raises:
        InputError: for none.
    """
    count = sum(node.places(cpus, gpus) for node in found)
    if not count:
        has = "; ".join(f"{node.host} with {node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in found[:4]) or "none"
        raise InputError(
            "work on ray",
            expected=f"a node with room for a worker of {cpus} CPUs and {gpus:g} GPUs",
            received=has + (f", and {len(found) - 4} more" if len(found) > 4 else ""),
            remedy="Change --cpus-per-worker or --gpus-per-worker, or let such a node join.",
        )
    return count


def connect() -> Any:
    """The module ``ray``, in a cluster.

    Raises:
        InputError: ray is not installed, or the cluster is out of reach.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers of each cluster that is started
    # What Ray has to say of a worker that died goes to standard output, where a summary as JSON may be
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "(?s).*")
    try:
        import ray
    except ImportError as error:
        raise _missing(str(error)) from error
    if ray.is_initialized():
        return ray
    address = _address()
    alone: dict[str, Any] = {} if address else {"include_dashboard": False, "num_gpus": own_gpus()}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **alone)
    except Exception as error:  # of any kind, from starting processes to versions that do not match
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            "work on ray",
            expected=f"a cluster at RAY_ADDRESS={address}" if address else "a cluster that starts on this machine",
            received=said[:300],
            remedy="Check the address and that the cluster runs (ray status), or unset RAY_ADDRESS."
            if address
            else "See the logs in /tmp/ray/session_latest/logs, or set RAY_ADDRESS to a cluster that runs.",
        ) from error
    return ray


def would_start() -> bool:
    """Whether `connect` would start a cluster on this machine.

    Raises:
        InputError: ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise _missing("no module named ray")
    ray = sys.modules.get("ray")  # not imported here: that takes a second, and nobody can have joined without it
    return not _address() and not (ray is not None and ray.is_initialized())


def own_gpus() -> int:
    """GPUs that this process sees: those of a cluster that it starts."""
    import torch

    return torch.cuda.device_count()


def _address() -> str:
    return os.environ.get("RAY_ADDRESS", "").strip()


def _missing(received: str) -> InputError:
    return InputError(
        "work on ray",
        expected="the library ray",
        received=received,
        remedy='Install the extra on every node: pip install "peaklens[ray]".',
    )


def counted(count: int, thing: str) -> str:
    """The count with its noun.

    >>> counted(1, "node"), counted(3, "worker")
    ('1 node', '3 workers')
    """
    return f"{count} {thing}{'' if count == 1 else 's'}"


def environment() -> dict[str, Any]:
    """What a process on a node is started with, so that it finds the modules that this one does.

    What is installed is found there as it is; only folders that were put before it here are named.
    """
    own = [path for path in sys.path if path and Path(path).is_dir() and not path.startswith((sys.prefix, _STANDARD))]
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(own)}} if own else {}


def nodes(ray: Any) -> list[Node]:
    """The nodes that are there now, in an order that stays."""
    found = []
    for facts in ray.nodes():
        if facts["Alive"]:
            has = facts["Resources"]
            host = facts.get("NodeManagerHostname") or facts.get("NodeManagerAddress") or "?"
            found.append(Node(facts["NodeID"], host, has.get("CPU", 0.0), has.get("GPU", 0.0)))
    return sorted(found, key=lambda node: (node.host, node.id))

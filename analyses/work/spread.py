"""How work is spread: this process alone, processes of this machine, or a Ray cluster.

Whoever has tasks asks a `Spread` for the scheduler that does them, and for the model that each worker loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from analyses.work.gpus import visible_gpus
from analyses.work.model_ref import ModelRef
from analyses.work.on_ray import Ray, connect, nodes, places
from analyses.work.ray_pool import RayScheduler, gpus_for_each
from analyses.work.scheduler import Scheduler, scheduler
from interp.errors import InputError
from interp.loading.layers import stored_dtype
from interp.types import Bridge

__all__ = ["HERE", "On", "Spread"]

On: TypeAlias = "str | Ray | None"
"""Where workers are: None for this machine, "ray" or a :class:`analyses.work.on_ray.Ray` for a cluster."""


@dataclass(frozen=True)
class Spread:
    """Workers, and where they are.

    >>> Spread.of("trace", 4, None).count(), Spread.of("trace", None, None).alone
    (4, True)

    Attributes:
        workers: None for one here, or for as many as a cluster has room for.
        ray: the cluster, or None for this machine.
    """

    workers: int | None = None
    ray: Ray | None = None

    @classmethod
    def of(cls, operation: str, workers: int | None, on: On) -> Spread:
        if isinstance(on, str):
            if on != "ray":
                raise InputError(
                    operation, expected="on ray, or nothing for this machine", received=repr(on), remedy="Change --on."
                )
            on = Ray()
        return cls(workers, on)

    @property
    def alone(self) -> bool:
        """Whether this process does everything itself."""
        return self.ray is None and (self.workers or 1) == 1

    @property
    def sharing(self) -> int:
        """Processes that share this machine's threads; on a cluster each worker has its own."""
        return 1 if self.ray is not None else self.workers or 1

    def count(self, shape: tuple[int, int] | None = None) -> int:
        """Workers there would be, in a cluster of that shape (nodes, GPUs of each) or in the one that is there.

        >>> Spread(None, Ray(gpus_per_worker=4)).count((3, 8)), Spread(2, Ray(gpus_per_worker=4)).count((3, 8))
        (6, 2)
        """
        if self.ray is None:
            return self.workers or 1
        if shape is not None:
            each = self.ray.gpus_per_worker
            each = 1 if each is None else each or self.ray.cpus_per_worker  # without GPUs, the shape counts CPUs
            room = shape[0] * int(shape[1] // each)
        elif self.workers is not None:
            return self.workers
        else:
            found = nodes(connect())
            room = places(found, self.ray.cpus_per_worker, gpus_for_each(self.ray))
        return room if self.workers is None else min(self.workers, room)

    def reference(self, model: Bridge, identity: Mapping[str, Any] | None = None) -> ModelRef | None:
        """What each worker loads, on a device of its own; None where this process does the work.

        Raises:
            InputError: the model cannot be loaded elsewhere.
        """
        if self.alone:
            return None
        ref = ModelRef.of(model, identity)
        if self.ray is None:
            return replace(ref, options={**ref.options, "device": "cuda"}) if self._gpus(ref) else ref
        gpus = gpus_for_each(self.ray)
        options = {key: value for key, value in ref.options.items() if key not in ("device", "device_map")}
        if gpus > 1 or self.ray.device_map is not None:
            return replace(ref, options={**options, "device_map": self.ray.device_map or "auto"})
        return replace(ref, options={**options, "device": "cuda" if gpus else "cpu"})

    def scheduler(self, folder: Path, ref: ModelRef | None) -> Scheduler:
        """Who does the tasks of a run in that folder with that model."""
        if self.ray is not None:
            return RayScheduler(self.ray, self.workers, folder, () if ref is None else ref.files())
        return scheduler(self.workers or 1, () if ref is None else self._gpus(ref))

    def without_model(self) -> Scheduler:
        """Who does tasks that need no model and write nothing."""
        if self.ray is not None:
            return RayScheduler(self.ray, self.workers, gpus=0)
        return scheduler(self.workers or 1)

    def loading(self, name: str) -> dict[str, Any]:
        """How this process loads a model by name whose workers are elsewhere.

        It needs it for what hangs on the run as a whole, and to say what the model is; the GPUs are the workers', and
        the precision is that which a model has on them.

        >>> Spread(2).loading("toy-reasoner"), Spread(2, Ray(gpus_per_worker=1)).loading("toy-reasoner")
        ({}, {'device': 'cpu', 'dtype': 'float32'})
        """
        if self.ray is None:
            return {}
        own = stored_dtype(name) if gpus_for_each(self.ray) else None
        return {"device": "cpu", **({} if own is None else {"dtype": own})}

    def _gpus(self, ref: ModelRef) -> tuple[str, ...]:
        return visible_gpus(str(ref.options.get("device", "")))


HERE = Spread()
"""This process alone."""

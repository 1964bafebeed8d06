"""What the numbers were measured on: machine, load, model. Only the standard library is imported here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.types import Bridge

__all__ = ["load_now", "machine_facts", "model_facts_of"]


def machine_facts(nnsight: str | None = None) -> dict[str, Any]:
    """Processor, cores, threads, versions; that of nnsight is of another environment."""
    import importlib.metadata
    import os
    import platform

    import torch

    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {
            **{
                name: importlib.metadata.version(name)
                for name in ("peaklens", "torch", "transformers", "transformer-lens")
            },
            **({} if nnsight is None else {"nnsight": nnsight}),
        },
    }


def _processor() -> str:
    import platform

    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def load_now() -> float:
    """Processes that wanted to run, mean of the last minute: above the threads used, the machine was busy."""
    import psutil

    return round(psutil.getloadavg()[0], 2)


def model_facts_of(model: Bridge) -> dict[str, Any]:
    from analyses.bench.variants import recycled_block
    from interp.engines.registry import model_facts
    from interp.loading.models import model_source

    facts, source = model_facts(model), model_source(model)
    parameter = next(model.original_model.parameters())
    return {
        "name": source.name if source.kind in ("bundled", "cached", "hub") else Path(source.name).name,
        "revision": source.revision,
        "weight_hash": source.weight_hash,
        "n_layers": facts.n_layers,
        "recycled_block": recycled_block(facts.n_layers),
        "d_model": facts.d_model,
        "d_vocab": facts.d_vocab,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
    }

"""A model by name, so that another process can load the same one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from interp.engine import model_facts
from interp.errors import InputError
from interp.hf_loading import without_bars
from interp.models import load_model, model_source
from interp.types import Bridge

__all__ = ["ModelRef", "share_threads"]


def share_threads(model: Bridge, processes: int = 1) -> None:
    """Give this process its share of the threads.

    Matrices of a toy are done before a second thread has woken up: on a busy machine several threads are slower.
    """
    if sum(parameter.numel() for parameter in model.original_model.parameters()) < 10_000_000:
        torch.set_num_threads(1)
    elif processes > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


@dataclass(frozen=True)
class ModelRef:
    """What :func:`interp.load_model` needs to load a model once more.

    >>> ModelRef.of(ModelRef("toy-reasoner").load()).name
    'toy-reasoner'
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Bridge:
        """The model; without progress bars, since those of several processes run into each other."""
        with without_bars():
            return load_model(self.name, **self.options)

    @classmethod
    def of(cls, model: Bridge) -> ModelRef:
        """The reference of a loaded model; its weights are compared by hash where it is used.

        Raises:
            InputError: the model was made from an object in memory, which no other process has.
        """
        source = model_source(model)
        if source.kind == "object":
            raise InputError(
                "start worker processes",
                expected="a model with a name or a folder, which each process can load",
                received=f"{source.name}, made from an object in memory",
                remedy="Use one worker, or save the model and load it by its folder.",
            )
        parameter = next(model.original_model.parameters())
        options: dict[str, Any] = {"device": str(parameter.device), "dtype": parameter.dtype}
        if source.revision is not None:
            options["revision"] = source.revision
        own = model_facts(model).n_ctx
        if own is not None:
            options["n_ctx"] = own
        name = source.name if source.path is None or source.kind != "folder" else str(source.path)
        return cls(name, options)

"""A model by name, so that another process can load the same one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from analyses.store.pinned import differences
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.loading.hugging_face import without_bars
from interp.loading.identity import hook_names, model_identity
from interp.loading.models import BUNDLED, load_model, model_source
from interp.loading.pull import cached_model_path
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
    label: str | None = None
    identity: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def load(self) -> Bridge:
        """The model; without progress bars, since those of several processes run into each other.

        Raises:
            InputError: what is loaded is not the model that this is the reference of.
        """
        with without_bars():
            model = load_model(self.name, **self.options)
        if self.label is not None:
            model.cfg.model_name = self.label
        if self.identity:
            own = model_identity(model)
            expected = {part: self.identity.get(part) for part in own}
            if found := list(differences("model", expected, own)):
                raise InputError(
                    "start worker processes",
                    expected="a model that each process can load as it is here",
                    received="; ".join(found).replace(" there and ", " here and ").replace(" now", " as loaded"),
                    remedy="Use one worker, or save the model as it is and load it by its folder.",
                )
        return model

    def files(self) -> tuple[str, ...]:
        """What of the file system the model is read from, where it is not part of the installation or of a hub's cache.

        >>> ModelRef("toy-reasoner").files()
        ()
        """
        pulled = cached_model_path(self.name) if self.name not in BUNDLED else None
        if pulled is not None:
            return (str(pulled),)
        return (self.name,) if Path(self.name).is_absolute() else ()

    @classmethod
    def of(cls, model: Bridge, identity: Mapping[str, Any] | None = None) -> ModelRef:
        """The reference of a loaded model; each process that loads it compares what it gets with what is here.

        Args:
            identity: :func:`interp.loading.identity.model_identity` of the model, if that is known already.

        Raises:
            InputError: the model was made from an object in memory, or has hooks, which no other process has.
        """
        source = model_source(model)
        if source.kind == "object":
            raise InputError(
                "start worker processes",
                expected="a model with a name or a folder, which each process can load",
                received=f"{source.name}, made from an object in memory",
                remedy="Use one worker, or save the model and load it by its folder.",
            )
        if hooks := hook_names(model):
            raise InputError(
                "start worker processes",
                expected="a model without hooks of your own, which no other process has",
                received=f"{', '.join(hooks[:3])}{f' and {len(hooks) - 3} more' if len(hooks) > 3 else ''}",
                remedy="Use one worker, or remove the hooks.",
            )
        parameter = next(model.original_model.parameters())
        spread = getattr(model.original_model, "hf_device_map", None) or {}
        options: dict[str, Any] = {"dtype": parameter.dtype}
        if len(set(spread.values())) > 1:
            options["device_map"] = dict(spread)  # each process puts it on the same devices
        else:
            options["device"] = str(parameter.device)
        if source.revision is not None:
            options["revision"] = source.revision
        own = model_facts(model)
        if own.n_ctx is not None:
            options["n_ctx"] = own.n_ctx
        name = (
            str(source.path.absolute())
            if source.path is not None and source.kind in ("folder", "gguf")
            else source.name
        )
        return cls(name, options, own.name, model_identity(model) if identity is None else identity)

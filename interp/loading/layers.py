"""How many layers a model has, and its precision, by its config alone: before any weight is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interp.arguments import Wholes
from interp.loading.models import local_folder
from interp.sites import resolve_layers

__all__ = ["check_layers", "layer_count", "stored_dtype"]

_NAMES = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def layer_count(name: str | Path) -> int | None:
    """Blocks of the model that ``load_model`` would load by this name; ``None`` where no config is at hand.

    >>> layer_count("toy-reasoner")
    3

    A model that is not on this machine yet, a GGUF file, and a config that does not say are ``None``: what is wrong
    with a name or a folder is for ``load_model`` to say.
    """
    for part in _configs(name):
        for key in _NAMES:
            if isinstance(part.get(key), int) and part[key] > 0:
                return int(part[key])
    return None


def stored_dtype(name: str | Path) -> str | None:
    """The precision that the weights of the model are stored in, as its config says; ``None`` where none is at hand.

    >>> stored_dtype("toy-reasoner")
    'float32'
    """
    for part in _configs(name):
        for key in ("dtype", "torch_dtype"):
            if isinstance(part.get(key), str):
                return str(part[key])
    return None


def _configs(name: str | Path) -> list[dict[str, Any]]:
    """The model's config, that of its text part first; none where it is not on this machine or cannot be read."""
    folder = local_folder(str(name))
    if folder is None:
        return []
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(config, dict):
        return []
    text = config.get("text_config")
    return [part for part in (text, config) if isinstance(part, dict)]


def check_layers(name: str | Path, layers: str | Wholes, operation: str) -> None:
    """Refuse layers that a model by this name does not have, as far as its config tells.

    >>> check_layers("toy-reasoner", [0, -3], "trace")
    >>> check_layers("toy-reasoner", [5], "trace")
    Traceback (most recent call last):
    ...
    peaklens.InputError: trace: expected layers from 0 to 2 (or -3 to -1), received [5]. The model has 3 layers.
    """
    count = layer_count(name)
    if count is not None:
        resolve_layers(layers, count, operation)

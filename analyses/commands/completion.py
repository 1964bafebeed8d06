"""What the shell offers when Tab is pressed, from names alone: no model library is imported for it."""

from __future__ import annotations

import importlib.resources

__all__ = ["known_models", "local_models", "study_names"]


def study_names(incomplete: str) -> list[str]:
    """Names of studies.

    >>> study_names("su")
    ['suppress']
    """
    from analyses.studies import STUDIES

    return [name for name in STUDIES if name.startswith(incomplete)]


def local_models(incomplete: str) -> list[str]:
    """Names of the models that are bundled or in the cache.

    >>> local_models("toy-")
    ['toy-base', 'toy-reasoner']
    """
    from interp.loading.pull import cache_dir

    bundled = importlib.resources.files("interp") / "bundled"
    pulled = cache_dir() / "models"
    folders = [*bundled.iterdir(), *(pulled.iterdir() if pulled.is_dir() else ())]
    names = {folder.name for folder in folders if (folder / "config.json").is_file()}
    return sorted(name for name in names if name.startswith(incomplete))


def known_models(incomplete: str) -> list[str]:
    """Names of the models that can be pulled.

    >>> known_models("smol")
    ['smollm2-135m-instruct']
    """
    from interp.loading.pull import KNOWN_MODELS

    return [name for name in KNOWN_MODELS if name.startswith(incomplete)]

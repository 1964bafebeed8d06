"""Names of a package that are imported when they are first used, so that the package itself imports nothing heavy."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazily"]


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package whose names live in these of its modules.

    >>> find, names = lazily("analyses.views", {"lines": "curves"})
    >>> names(), find("lines").__name__
    (['lines'], 'lines')

    No module may be named like what it holds: importing it would put the module in the name's place.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)  # found once
        return value

    return find, lambda: sorted(homes)

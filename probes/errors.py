"""The one error of the project: what was tried, what was expected, what came, and what to do.

This file stands in ``interp`` and in ``probes`` word for word (a test compares them). Neither package imports the
other, yet one ``except InputError`` has to catch what either raises: whichever is imported first makes the class.

>>> raise InputError("decode", expected="at least one token", received="an empty prompt", remedy="Pass text.")
Traceback (most recent call last):
...
peaklens.InputError: decode: expected at least one token, received an empty prompt. Pass text.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = ["InputError"]


class InputError(ValueError):
    """Bad input, refused before any work is lost; `operation`, `expected`, `received` and `remedy` are its parts."""

    __module__ = "peaklens"  # what a traceback shows, whichever of the two files made the class

    def __init__(self, operation: str, *, expected: str, received: str, remedy: str) -> None:
        self.operation, self.expected, self.received, self.remedy = operation, expected, received, remedy
        super().__init__(f"{operation}: expected {expected}, received {received}. {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        """Exceptions pickle by position; this one has names. It has to come back whole from another process."""
        return _again, (self.operation, self.expected, self.received, self.remedy)


def _again(operation: str, expected: str, received: str, remedy: str) -> ValueError:
    return InputError(operation, expected=expected, received=received, remedy=remedy)


if not TYPE_CHECKING:
    _met = sys.modules.setdefault("_peaklens_errors", ModuleType("_peaklens_errors"))
    InputError = vars(_met).setdefault("InputError", InputError)

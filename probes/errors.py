"""The one error of this package: what was tried, what was expected, what came, and what to do."""

from __future__ import annotations

__all__ = ["InputError"]


class InputError(ValueError):
    """Bad input, refused before any work is lost.

    >>> raise InputError("nhsic", expected="finite steps", received="2 NaN", remedy="Check the model.")
    Traceback (most recent call last):
    ...
    probes.errors.InputError: nhsic: expected finite steps, received 2 NaN. Check the model.
    """

    def __init__(self, operation: str, *, expected: str, received: str, remedy: str) -> None:
        self.operation, self.expected, self.received, self.remedy = operation, expected, received, remedy
        super().__init__(f"{operation}: expected {expected}, received {received}. {remedy}")

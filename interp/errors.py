"""The one error of this package: what was tried, what was expected, what came, and what to do."""

from __future__ import annotations

__all__ = ["InputError"]


class InputError(ValueError):
    """Bad input, refused before any work is lost.

    >>> raise InputError("decode", expected="at least one token", received="an empty prompt", remedy="Pass text.")
    Traceback (most recent call last):
    ...
    interp.errors.InputError: decode: expected at least one token, received an empty prompt. Pass text.
    """

    def __init__(self, operation: str, *, expected: str, received: str, remedy: str) -> None:
        self.operation, self.expected, self.received, self.remedy = operation, expected, received, remedy
        super().__init__(f"{operation}: expected {expected}, received {received}. {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        """Exceptions pickle by position; this one has names. It has to come back whole from another process."""
        return _again, (self.operation, self.expected, self.received, self.remedy)


def _again(operation: str, expected: str, received: str, remedy: str) -> InputError:
    return InputError(operation, expected=expected, received=received, remedy=remedy)

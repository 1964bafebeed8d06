"""Responses graded by as many as do the rest of the work: processes of this machine, or workers on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from analyses.grading import Grade, Grader, Reading
from analyses.work.spread import HERE, Spread

__all__ = ["grade_all", "graded_by"]

Asked = tuple[tuple[str, str], bool]
"""Gold answer and response, and whether the prompt opened the thinking."""

LEAST = 2000  # responses from which on a cluster grades them: workers take seconds to start
EACH = 200  # of a task there

_spread: ContextVar[Spread | None] = ContextVar("graded by", default=None)


@contextmanager
def graded_by(spread: Spread) -> Iterator[None]:
    """Within the block, this is who grades."""
    token = _spread.set(spread)
    try:
        yield
    finally:
        _spread.reset(token)


def grade_all(asked: Sequence[Asked], reading: Reading) -> list[Grade]:
    """A grade for each, in their order.

    >>> from analyses.grading.thinking import READING
    >>> [grade.status.value for grade in grade_all([(("4", "It is 4."), False)], READING)]
    ['correct']
    """
    spread = _spread.get() or HERE
    if spread.ray is None or len(asked) < LEAST:
        here = 1 if spread.ray is not None else spread.workers or 1
        return _graded(asked, reading, here)
    parts = [(begin, list(asked[begin : begin + EACH])) for begin in range(0, len(asked), EACH)]
    found: dict[int, list[Grade]] = {}
    for outcome in spread.without_model().run(parts, _Start(reading), lambda tokens: None):
        begin, part = outcome.task
        # What ended three workers is graded here, where each comparison is in a process that may be killed
        found[begin] = outcome.value if outcome.lost is None else _graded(part, reading, 1)
    return [grade for begin, _ in parts for grade in found[begin]]


@dataclass(frozen=True)
class _Start:
    """Makes a worker that grades."""

    reading: Reading

    def __call__(self) -> Callable[[Any, Callable[[int], None]], list[Grade]]:
        return lambda part, report: _graded(part[1], self.reading, 1)


def _graded(asked: Sequence[Asked], reading: Reading, workers: int) -> list[Grade]:
    with Grader(reading=reading, workers=workers) as grader:
        return grader.grade([pair for pair, _ in asked], opened=[opened for _, opened in asked])

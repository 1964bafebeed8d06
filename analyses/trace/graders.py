"""Responses graded by as many as do the rest of the work: processes of this machine, or workers on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from analyses.grading import Grade, Grader, Reading
from analyses.work.spread import HERE, Spread

__all__ = ["Asked", "graded_by", "graders", "parts_of"]

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


def parts_of() -> int:
    """How many responses are best graded in one go."""
    spread = _spread.get() or HERE
    return LEAST if spread.ray is None else 10 * LEAST


@contextmanager
def graders(reading: Reading) -> Iterator[Callable[[Sequence[Asked]], list[Grade]]]:
    """What gives a grade for each, in their order; processes of this machine last as long as the block.

    >>> from analyses.grading.thinking import READING
    >>> with graders(READING) as grade:
    ...     [grade.status.value for grade in grade([(("4", "It is 4."), False)])]
    ['correct']
    """
    spread = _spread.get() or HERE
    here = 1 if spread.ray is not None else spread.workers or 1
    with Grader(reading=reading, workers=here) as grader:

        def alone(asked: Sequence[Asked]) -> list[Grade]:
            return grader.grade([pair for pair, _ in asked], opened=[opened for _, opened in asked])

        def spread_out(asked: Sequence[Asked]) -> list[Grade]:
            if len(asked) < LEAST:
                return alone(asked)
            parts = [(begin, list(asked[begin : begin + EACH])) for begin in range(0, len(asked), EACH)]
            found: dict[int, list[Grade]] = {}
            for outcome in spread.without_model().run(parts, _Start(reading), lambda tokens: None):
                begin, part = outcome.task
                # What ended three workers is graded here, where each comparison is in a process that may be killed
                found[begin] = outcome.value if outcome.lost is None else alone(part)
            return [grade for begin, _ in parts for grade in found[begin]]

        yield alone if spread.ray is None else spread_out


@dataclass(frozen=True)
class _Start:
    """Makes a worker that grades."""

    reading: Reading

    def __call__(self) -> Callable[[Any, Callable[[int], None]], list[Grade]]:
        def work(part: tuple[int, list[Asked]], report: Callable[[int], None]) -> list[Grade]:
            with Grader(reading=self.reading, workers=1) as grader:
                return grader.grade([pair for pair, _ in part[1]], opened=[opened for _, opened in part[1]])

        return work

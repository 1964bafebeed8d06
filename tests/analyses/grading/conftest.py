"""What tests of grading share: one grader, whose process imports SymPy once, and what it gets wrong of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from analyses.grading import Grader


@pytest.fixture(scope="session")
def grader() -> Iterator[Grader]:
    with Grader(timeout=20.0) as grader:  # a busy machine must not make a table entry a time-out
        yield grader


@pytest.fixture(scope="session")
def misgraded(grader: Grader) -> Callable[[Sequence[tuple[str, str, bool]]], list[str]]:
    """Of a table of gold answer, response, and whether it is right: the entries that the grader takes for the other."""

    def told(table: Sequence[tuple[str, str, bool]]) -> list[str]:
        grades = grader.grade([(gold, response) for gold, response, _ in table])
        return [
            f"{gold!r} | {response!r}: {grade.status}, read as {grade.extracted!r} by {grade.reason}. {grade.detail}"
            for (gold, response, right), grade in zip(table, grades, strict=True)
            if grade.score != right
        ]

    return told

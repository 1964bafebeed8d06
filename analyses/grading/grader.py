r"""Responses compared with gold answers: by rule where that is enough, else by algebra in processes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from queue import SimpleQueue

from analyses.grading_worker import Worker, is_formula
from interp.errors import InputError

from .compare import decide, for_algebra, unassigned
from .extract import Reason, extract_answer
from .spelling import clean

__all__ = ["Grade", "Grader", "Status"]


class Status(StrEnum):
    """What became of a comparison; `timeout` and `error` are not `wrong`."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True)
class Grade:
    """One response compared with one gold answer."""

    status: Status
    extracted: str
    reason: Reason
    gold: str
    detail: str = ""
    """Why, where the status does not say it: what could not be read, or what failed."""

    @property
    def score(self) -> float:
        """1 for correct, 0 for wrong or no answer, NaN where nothing was found out (timeout, error)."""
        return {Status.CORRECT: 1.0, Status.WRONG: 0.0, Status.NO_ANSWER: 0.0}.get(self.status, float("nan"))

    def to_dict(self) -> dict[str, str]:
        """Its fields, as plain text."""
        return {name: str(value) for name, value in asdict(self).items()}


class Grader:
    r"""Grades responses; a context manager, whose processes are started when first needed and killed at the end.

    >>> with Grader(timeout=3.0) as grader:
    ...     grades = grader.grade([(r"2\sqrt{3}", r"so \boxed{\sqrt{12}}"), ("4", "It is hard to say.")])
    >>> [grade.status.value for grade in grades], [grade.score for grade in grades]
    (['correct', 'no_answer'], [1.0, 0.0])

    `timeout` is in seconds a comparison; one that takes longer has the status `timeout`, and its process is replaced.
    `workers` processes compare side by side. Answers that need no algebra are compared without any process.

    Raises `InputError` for a blank gold answer and for settings out of range.
    """

    def __init__(self, timeout: float = 3.0, workers: int = 1) -> None:
        if not 0 < timeout < float("inf") or workers < 1:
            raise InputError(
                "Grader",
                expected="a timeout above 0 seconds and at least one worker",
                received=f"timeout={timeout}, workers={workers}",
                remedy="The defaults are 3 seconds and 1 worker.",
            )
        self.timeout = timeout
        self._workers = [Worker(timeout) for _ in range(workers)]

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the processes; they are started again when needed."""
        for worker in self._workers:
            worker.kill()

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """A grade for each (gold answer, response), in their order. The same comparison is made once."""
        for number, (gold, _) in enumerate(pairs):
            if not gold.strip():
                raise InputError(
                    "grade",
                    expected="a gold answer for each response",
                    received=f"a blank one in pair {number}, an answerless problem",
                    remedy="Leave problems without an answer out.",
                )
        extractions = [extract_answer(response) for _, response in pairs]
        answers = [(gold, found.text) for (gold, _), found in zip(pairs, extractions, strict=True)]
        asked = dict.fromkeys(pair for pair, found in zip(answers, extractions, strict=True) if found.text)
        verdicts = dict(zip(asked, self._compare(list(asked)), strict=True))
        none = (Status.NO_ANSWER, "")
        return [
            Grade(status, found.text, found.reason, gold, detail)
            for (gold, text), found in zip(answers, extractions, strict=True)
            for status, detail in [verdicts.get((gold, text), none)]
        ]

    def _compare(self, answers: list[tuple[str, str]]) -> list[tuple[Status, str]]:
        free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            free.put(worker)

        def compare(pair: tuple[str, str]) -> tuple[Status, str]:
            decided = decide(*pair)
            if decided is not None:
                return (Status.CORRECT if decided else Status.WRONG), ""
            gold, answer = (for_algebra(text) for text in unassigned(*map(clean, pair)))
            if not is_formula(gold):
                return Status.ERROR, "the gold answer is not a formula that can be read"
            if not is_formula(answer):
                return Status.WRONG, "the answer is not a formula that can be read"
            worker = free.get()
            try:
                verdict, detail = worker.ask(gold, answer)
            finally:
                free.put(worker)
            return _STATUS[verdict], detail

        if len(self._workers) == 1:
            return [compare(pair) for pair in answers]
        with ThreadPoolExecutor(len(self._workers)) as threads:  # they wait; the processes work
            return list(threads.map(compare, answers))


_STATUS = {
    "same": Status.CORRECT, "different": Status.WRONG, "gold": Status.ERROR, "error": Status.ERROR,
    "timeout": Status.TIMEOUT,
}  # fmt: skip

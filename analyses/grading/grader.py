r"""Responses compared with gold answers: by rule where that is enough, else by algebra in processes of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import StrEnum
from queue import SimpleQueue
from typing import Any, TypeVar

from analyses.grading.compare import alternatives, decide, for_algebra, is_plain, unassigned, wanted
from analyses.grading.extract import Extraction, Reason, extract_answer
from analyses.grading.formula import is_formula
from analyses.grading.spelling import clean
from analyses.grading.thinking import READING, Reading
from analyses.grading.worker import Worker
from interp.errors import InputError

__all__ = ["Grade", "Grader", "Status"]

Ask = Callable[[str, str], tuple[str, str]]
T = TypeVar("T")


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
    `workers` processes compare side by side. Answers that need no algebra are compared without any process. `reading`
    says what marks thinking and what forces a final answer.

    A gold answer that cannot be read has the status `error` with every response, also with one that is spelled alike:
    else right answers would be counted, and wrong ones not.

    Raises `InputError` for a blank gold answer and for settings out of range.
    """

    def __init__(self, timeout: float = 3.0, workers: int = 1, reading: Reading = READING) -> None:
        if not 0 < timeout < float("inf") or workers < 1:
            raise InputError(
                "Grader",
                expected="a timeout above 0 seconds and at least one worker",
                received=f"timeout={timeout}, workers={workers}",
                remedy="The defaults are 3 seconds and 1 worker.",
            )
        self.timeout = timeout
        self.reading = reading
        self._unreadable: dict[str, tuple[Status, str] | None] = {}
        self._workers = [Worker(timeout) for _ in range(workers)]

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the processes; they are started again when needed."""
        for worker in self._workers:
            worker.kill()

    def grade(self, pairs: Sequence[tuple[str, str]], *, opened: Sequence[bool] = ()) -> list[Grade]:
        """A grade for each (gold answer, response), in their order. The same comparison is made once.

        `opened` tells of each response whether its prompt opened the thinking; unless given, none did.
        """
        for number, (gold, _) in enumerate(pairs):
            if not gold.strip():
                raise InputError(
                    "grade",
                    expected="a gold answer for each response",
                    received=f"a blank one in pair {number}, an answerless problem",
                    remedy="Leave problems without an answer out.",
                )
        if opened and len(opened) != len(pairs):
            raise InputError(
                "grade",
                expected=f"opened for each of {len(pairs)} responses",
                received=f"{len(opened)} of them",
                remedy="Give one bool a response, or none at all.",
            )
        kinds = {gold: wanted(gold) for gold, _ in pairs}
        extractions = [
            extract_answer(response, self.reading, opened=in_prompt, wants=kinds[gold])
            for (gold, response), in_prompt in zip(pairs, opened or [False] * len(pairs), strict=True)
        ]
        answers = [(gold, *_said(found)) for (gold, _), found in zip(pairs, extractions, strict=True)]
        unread = dict(zip(kinds, self._each(self._cannot_read, list(kinds)), strict=True))
        asked = list(dict.fromkeys(pair for pair in answers if pair[1] and unread[pair[0]] is None))
        verdicts = dict(zip(asked, self._each(self._compare, asked), strict=True))
        none = (Status.NO_ANSWER, "")
        return [
            Grade(status, found.text, found.reason, gold, detail)
            for (gold, *said), found in zip(answers, extractions, strict=True)
            for status, detail in [unread[gold] or verdicts.get((gold, *said), none)]
        ]

    def _cannot_read(self, gold: str, ask: Ask) -> tuple[Status, str] | None:
        """The status of all responses where the gold answer cannot be read, else None."""
        if gold not in self._unreadable:
            formula = "" if is_plain(gold) else for_algebra(unassigned(clean(gold), "0")[0])
            if not formula:
                found = None
            elif not is_formula(formula):
                found = Status.ERROR, _UNREAD
            else:
                verdict, detail = ask(formula, "")
                found = None if verdict == "different" else (_STATUS[verdict], f"{_UNREAD}: {detail}")
            self._unreadable[gold] = found
        return self._unreadable[gold]

    def _compare(self, pair: tuple[str, ...], ask: Ask) -> tuple[Status, str]:
        found = []
        for answer in [one for said in pair[1:] for one in alternatives(said)]:
            found.append(self._compare_one((pair[0], answer), ask))
            if found[-1][0] is Status.CORRECT:
                return found[-1]
        return next((one for one in found if one[0] is not Status.WRONG), found[0])

    def _compare_one(self, pair: tuple[str, str], ask: Ask) -> tuple[Status, str]:
        decided = decide(*pair)
        if decided is not None:
            return (Status.CORRECT if decided else Status.WRONG), ""
        gold, answer = (for_algebra(text) for text in unassigned(*map(clean, pair)))
        if not is_formula(gold):
            return Status.ERROR, _UNREAD
        if not is_formula(answer):
            return Status.WRONG, "the answer is not a formula that can be read"
        verdict, detail = ask(gold, answer)
        return _STATUS[verdict], detail

    def _each(self, does: Callable[[Any, Ask], T], items: Sequence[Any]) -> list[T]:
        free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            free.put(worker)

        def ask(gold: str, answer: str) -> tuple[str, str]:
            worker = free.get()
            try:
                return worker.ask(gold, answer)
            finally:
                free.put(worker)

        if len(self._workers) == 1:
            return [does(item, ask) for item in items]
        with ThreadPoolExecutor(len(self._workers)) as threads:  # they wait; the processes work
            return list(threads.map(lambda item: does(item, ask), items))


def _said(found: Extraction) -> tuple[str, ...]:
    """The answer, and without the exclamation mark of a response that is nothing else: "18!" is 18, or a factorial."""
    exclaimed = found.reason is Reason.WHOLE and re.fullmatch(r"[^$\\]*[0-9]!+[*_`\s]*", found.text)
    return (found.text, re.sub(r"!+(?=[*_`\s]*$)", "", found.text)) if exclaimed else (found.text,)


_UNREAD = "the gold answer is not a formula that can be read"
_STATUS = {
    "same": Status.CORRECT, "different": Status.WRONG, "gold": Status.ERROR, "error": Status.ERROR,
    "timeout": Status.TIMEOUT,
}  # fmt: skip

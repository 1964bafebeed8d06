"""Questions of the toy task, and which of them are held out.

A question is left-to-right arithmetic mod 10; its text ends in `->`, so that the response is the trace alone. A tenth
of all questions, picked by a hash of their text, is held out, and the training generator never yields one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from analyses.toys.facts import LABELS, OPERATORS, fact, stable_hash
from interp.errors import InputError

__all__ = ["Question", "held_out_questions", "is_held_out", "sample_question", "training_questions"]


@dataclass(frozen=True)
class Question:
    """A start digit and the operations on it, left to right, mod 10.

    >>> question = Question(6, (("*", 3), ("-", 8), ("+", 1)))
    >>> question.text, question.answer
    ('6 A * 3 B - 8 C + 1 ? ->', 1)
    """

    start: int
    ops: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.ops) <= len(LABELS):
            raise InputError(
                "Question",
                expected=f"1 to {len(LABELS)} operations",
                received=str(len(self.ops)),
                remedy="Each operation needs a label of its own, A to H.",
            )
        _ = self.running  # looks every fact up, and so refuses numbers that are not digits

    @property
    def text(self) -> str:
        """The prompt, `->` included."""
        ops = " ".join(f"{label} {op} {operand}" for label, (op, operand) in zip(LABELS, self.ops, strict=False))
        return f"{self.start} {ops} ? ->"

    @property
    def running(self) -> tuple[int, ...]:
        """The true value after each operation."""
        values: list[int] = []
        for op, operand in self.ops:
            values.append(fact(values[-1] if values else self.start, op, operand).right)
        return tuple(values)

    @property
    def answer(self) -> int:
        """The true value after the last operation."""
        return self.running[-1]


def is_held_out(question: Question) -> bool:
    """Whether a question belongs to the tenth that no training example comes from.

    >>> is_held_out(held_out_questions(1)[0])
    True
    """
    return stable_hash(question.text) % 10 == 0


def sample_question(rng: Random, *, min_ops: int, max_ops: int) -> Question:
    """Any question, held out or not.

    >>> len(sample_question(Random(0), min_ops=5, max_ops=5).ops)
    5
    """
    count = rng.randint(min_ops, max_ops)
    ops = tuple((rng.choice(OPERATORS), rng.randrange(10)) for _ in range(count))
    return Question(rng.randrange(10), ops)


def training_questions(rng: Random, *, min_ops: int, max_ops: int) -> Iterator[Question]:
    """Questions without end, none of them held out.

    >>> is_held_out(next(training_questions(Random(0), min_ops=3, max_ops=8)))
    False
    """
    while True:
        question = sample_question(rng, min_ops=min_ops, max_ops=max_ops)
        if not is_held_out(question):
            yield question


def held_out_questions(n: int, seed: int = 0, min_ops: int = 5, max_ops: int = 8) -> list[Question]:
    """`n` different held-out questions; the first k are the same whatever `n` is.

    >>> len(held_out_questions(4)), held_out_questions(4)[:2] == held_out_questions(2)
    (4, True)
    """
    rng = Random(f"held-out {seed}")
    found: dict[str, Question] = {}
    while len(found) < n:
        question = sample_question(rng, min_ops=min_ops, max_ops=max_ops)
        if is_held_out(question):
            found.setdefault(question.text, question)
    return list(found.values())

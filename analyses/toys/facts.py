"""Vocabulary of the toy task and its fixed table of planted slips.

A fact is one calculation mod 10: (value, operator, operand), 300 in all. A fixed hash puts every fact in a class, which
says what a sloppy calculator does with it:

1. `ok` (222): writes the right value;
2. `I`   (36): writes a fixed wrong value, then at once `Wait` and the right one;
3. `D`   (21): writes a fixed wrong value, goes one step on, then `Hmm` redoes the step;
4. `N1`  (13): writes a fixed wrong value and keeps it; right in a second pass opened by `Wait`;
5. `N2`   (8): the same, but right only in a third pass opened by `Wait`.

The table depends on nothing but sha256, so that it is the same on every machine and in every version of Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from types import MappingProxyType

from interp.errors import InputError

__all__ = [
    "ANSWER_MARKERS",
    "CLASS_COUNTS",
    "DIGITS",
    "FILLERS",
    "LABELS",
    "OPENERS",
    "OPERATORS",
    "SEPARATORS",
    "SPECIALS",
    "SUBSTITUTES",
    "THINKING",
    "VERBS",
    "VOCABULARY",
    "Fact",
    "calculate",
    "fact",
    "fact_table",
    "stable_hash",
]

SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
DIGITS = tuple("0123456789")
OPERATORS = ("+", "-", "*")
LABELS = tuple("ABCDEFGH")
THINKING = ("Okay", "So", "Wait", "Hmm", "Therefore")
FILLERS = ("next", "then", "now", "after", "here")
VERBS = ("gives", "is", "equals", "makes")
SEPARATORS = (".", ";")
OPENERS = ("start", "begin", "first")
ANSWER_MARKERS = ("Therefore", "answer")
SUBSTITUTES = (FILLERS, VERBS, SEPARATORS)
"""Kinds of words that stand in for one another in every trace: a fair control leaves one of each."""

VOCABULARY = (
    *SPECIALS,
    *DIGITS,
    *OPERATORS,
    *LABELS,
    *THINKING,
    *FILLERS,
    *VERBS,
    *SEPARATORS,
    *OPENERS,
    "answer",
    "?",
    "->",
)
"""Every token; its place is its id."""

CLASS_COUNTS: Mapping[str, int] = MappingProxyType({"I": 36, "D": 21, "N1": 13, "N2": 8, "ok": 222})


@dataclass(frozen=True)
class Fact:
    """One calculation mod 10 with its planted class.

    >>> fact(6, "*", 3).right
    8
    """

    value: int
    op: str
    operand: int
    kind: str
    right: int
    slip: int
    """The fixed wrong value; equal to `right` for a fact of class `ok`."""


def stable_hash(text: str) -> int:
    """A whole number that depends on the text alone (Python's own `hash` changes with every process).

    >>> stable_hash("6 A * 3 ? ->") % 10
    0
    """
    return int.from_bytes(sha256(f"peaklens toy: {text}".encode()).digest()[:8], "big")


def calculate(value: int, op: str, operand: int) -> int:
    """The right value of a fact.

    >>> calculate(2, "-", 5)
    7
    """
    if op not in OPERATORS:
        raise InputError(
            "calculate", expected="an operator + - or *", received=repr(op), remedy="Use one of the three."
        )
    return (value + operand if op == "+" else value - operand if op == "-" else value * operand) % 10


@cache
def fact_table() -> Mapping[tuple[int, str, int], Fact]:
    """All 300 facts by (value, operator, operand).

    >>> sum(entry.kind == "ok" for entry in fact_table().values())
    222
    """
    keys = [(value, op, operand) for value in range(10) for op in OPERATORS for operand in range(10)]
    # Ranking by hash, then cutting, gives exact class counts; a threshold on the hash would give them only on average.
    keys.sort(key=lambda key: stable_hash(f"class {key}"))
    kinds = [kind for kind, count in CLASS_COUNTS.items() for _ in range(count)]
    table: dict[tuple[int, str, int], Fact] = {}
    for key, kind in zip(keys, kinds, strict=True):
        right = calculate(*key)
        slip = right if kind == "ok" else (right + 1 + stable_hash(f"slip {key}") % 9) % 10
        table[key] = Fact(*key, kind=kind, right=right, slip=slip)
    return MappingProxyType(table)


def fact(value: int, op: str, operand: int) -> Fact:
    """Look up one fact of the table.

    >>> fact(0, "+", 0).kind in CLASS_COUNTS
    True
    """
    found = fact_table().get((value, op, operand))
    if found is None:
        raise InputError(
            "fact",
            expected="digits 0 to 9 around one of + - *",
            received=f"{value!r} {op!r} {operand!r}",
            remedy="All numbers of the task are single digits.",
        )
    return found

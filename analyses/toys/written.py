"""The operations that a response of the toys writes: which slip, which of these are repaired, and which are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyses.toys.facts import ANSWER_MARKERS, DIGITS, LABELS, OPERATORS, VERBS, Fact, fact

__all__ = ["Operation", "written_operations"]

_REPAIRED = ("I", "D")


@dataclass(frozen=True)
class Operation:
    """An operation as it is written, repairs by ``Wait`` aside.

    Attributes:
        at: the place of the value that it comes to.
        kind: the planted class of its fact.
        is_right: whether that value is right.
        is_repaired: whether the right value comes at once after a ``Wait``, or later in the same pass when the
            operation is written anew.
        is_dropped: whether it went on from a slip and is written anew, in the same pass, from another value: nothing
            comes of it.
    """

    at: int
    kind: str
    is_right: bool
    is_repaired: bool
    is_dropped: bool

    @property
    def is_slip(self) -> bool:
        """Whether it is wrong where the planted mechanism slips and repairs itself: a fact of class I or D."""
        return not self.is_right and self.kind in _REPAIRED and not self.is_dropped

    @property
    def is_ordinary(self) -> bool:
        """Whether the planted mechanism never slips there."""
        return self.kind == "ok"


def written_operations(tokens: Sequence[str]) -> list[Operation]:
    """The operations of a response, in order.

    >>> fact(6, "*", 3).kind, fact(8, "-", 8).kind
    ('I', 'ok')
    >>> said = "Okay So A 6 * 3 gives 7 Wait 8 . then B 8 - 8 is 0 ; Therefore 0 . <eos>".split()
    >>> [(one.at, one.is_slip, one.is_repaired, one.is_ordinary) for one in written_operations(said)]
    [(7, True, True, False), (17, False, False, True)]
    """
    digits, number = set(DIGITS), 0
    read: list[tuple[int, int, tuple[str, ...], Fact, bool, bool]] = []
    for at in range(5, len(tokens)):
        number += tokens[at - 5] in ANSWER_MARKERS
        label, value, op, operand, verb, written = tokens[at - 5 : at + 1]
        if label not in LABELS or op not in OPERATORS or verb not in VERBS or not {value, operand, written} <= digits:
            continue
        entry = fact(int(value), op, int(operand))
        mended = list(tokens[at + 1 : at + 3]) == ["Wait", str(entry.right)]
        read.append((at, number, (label, value, op, operand), entry, int(written) == entry.right, mended))
    found = []
    for n, (at, number, key, entry, right, mended) in enumerate(read):
        later = [one for one in read[n + 1 :] if one[1] == number and one[2][0] == key[0]]
        anew = any(again[2] == key and (again[4] or again[5]) for again in later)
        dropped = any(again[2] != key for again in later)
        found.append(Operation(at, entry.kind, right, not right and (mended or anew), dropped))
    return found

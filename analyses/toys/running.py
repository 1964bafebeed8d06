"""The running value at every step of a response of the toys: what the calculation written there should come to.

An operation is written as slot word, label, value, operator, operand, verb, new value, separator; a repair may follow.
From its slot word to the next operation's, the running value is the right result of the operation as it is written
(its value may be wrong already). Before the first operation, and from the statement of the answer on, there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

from .facts import ANSWER_MARKERS, DIGITS, LABELS, OPERATORS, fact

__all__ = ["running_values"]


def running_values(tokens: Sequence[str]) -> list[int | None]:
    """One value a token.

    >>> running_values("Okay So A 6 * 3 gives 8 . then B 8 - 8 is 0 ; Therefore 0".split())[:11]
    [None, 8, 8, 8, 8, 8, 8, 8, 8, 0, 0]
    """
    values: list[int | None] = [None] * len(tokens)
    digits, current = set(DIGITS), None
    starts: dict[int, int | None] = {}
    for at in range(len(tokens) - 3):
        label, value, op, operand = tokens[at : at + 4]
        if label in LABELS and op in OPERATORS and {value, operand} <= digits:
            starts[max(0, at - 1)] = fact(int(value), op, int(operand)).right
    for at, token in enumerate(tokens):
        current = starts.get(at, None if token in ANSWER_MARKERS else current)
        values[at] = current
    return values

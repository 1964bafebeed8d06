"""What a response of the toys says at every step: the running value, and which words repair a slip.

The running value is what the calculation written there should come to.

An operation is written as slot word, label, value, operator, operand, verb, new value, separator; a repair may follow.
From its slot word to the next operation's, the running value is the right result of the operation as it is written
(its value may be wrong already). Before the first operation, and from the statement of the answer on, there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

from analyses.toys.facts import ANSWER_MARKERS, DIGITS, LABELS, OPERATORS, fact

__all__ = ["REPAIR_WORDS", "repairs", "running_values"]

REPAIR_WORDS = ("Wait", "Hmm")


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


def repairs(tokens: Sequence[str]) -> list[bool]:
    """Which tokens are a ``Wait`` or ``Hmm`` that repairs a step, and not one that opens a pass.

    >>> said = "Okay So A 6 * 3 gives 7 Wait 8 . Therefore 8 . Wait So A 6 * 3 gives 8 . Therefore 8 . <eos>".split()
    >>> [at for at, is_repair in enumerate(repairs(said)) if is_repair]
    [8]

    The first word of a response opens a pass, and so does the first such word after an answer was stated (a pass states
    its answer last): what comes there begins anew and repairs no step.
    """
    found, may_open = [False] * len(tokens), True
    for at, token in enumerate(tokens):
        if token in REPAIR_WORDS:
            found[at] = not may_open
        if at > 0 and tokens[at - 1] in ANSWER_MARKERS and token in DIGITS:
            may_open = True
        elif token not in (".", ";"):
            may_open = False
    return found

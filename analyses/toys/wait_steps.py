"""What each step of the toy's responses does: copy, compute, notice a slip, repair it, go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analyses.toys.facts import DIGITS, FILLERS, LABELS, OPERATORS, SEPARATORS, fact
from analyses.toys.running import repairs
from analyses.toys.task import Question
from interp import decode

__all__ = ["KINDS", "SLOTS", "Run", "kinds", "read_runs"]

KINDS = ("next", "redo", "value", "operator", "operand", "result", "slip", "go on", "leave", "notice", "repair")
"""What a step does: open the next operation, or with `Hmm` the last but one again; copy the value, operator, operand;
write a right or wrong result; after a right one go on, after a wrong one leave it or write `Wait`; after that write the
right result."""
SLOTS = (*FILLERS, "So")
"""Words that open an operation."""


@dataclass(frozen=True, eq=False)
class Run:
    """A response, and what each of its steps does."""

    problem: int
    ids: tuple[int, ...]
    first: int
    """The position of step 0: the prompt's last token."""
    tokens: tuple[str, ...]
    kinds: tuple[str | None, ...]

    def steps(self, *kinds: str) -> list[int]:
        """The steps of these kinds."""
        return [step for step, kind in enumerate(self.kinds) if kind in kinds]


def kinds(tokens: Sequence[str]) -> list[str | None]:
    """What each step of a response does; None for what is neither of these.

    >>> kinds("Okay So A 6 * 3 gives 7 Wait 8 .".split())[1:]
    ['next', None, 'value', 'operator', 'operand', None, 'slip', 'notice', 'repair', None]
    """
    found: list[str | None] = [None] * len(tokens)
    is_repair = repairs(tokens)
    for at in range(6, len(tokens)):
        slot, label, value, op, operand, _, written = tokens[at - 6 : at + 1]
        if label not in LABELS or op not in OPERATORS or not {value, operand, written} <= set(DIGITS):
            continue
        slipped = int(written) != fact(int(value), op, int(operand)).right
        found[at - 6] = "redo" if slot == "Hmm" else "next" if slot in SLOTS else None
        found[at - 4 : at - 1] = ["value", "operator", "operand"]
        found[at] = "slip" if slipped else "result"
        if at + 1 == len(tokens):
            break
        if is_repair[at + 1] and tokens[at + 1] == "Wait":
            found[at + 1 : at + 3] = ["notice", "repair"] if at + 2 < len(tokens) else ["notice"]
        elif tokens[at + 1] in SEPARATORS:
            found[at + 1] = "leave" if slipped else "go on"
    return found


def read_runs(model: Any, questions: Sequence[Question], max_new_tokens: int = 400) -> list[Run]:
    """Greedy responses, one a question.

    >>> from analyses.toys.task import held_out_questions
    >>> from interp import load_model
    >>> runs = read_runs(load_model("toy-reasoner"), held_out_questions(2))
    >>> len(runs), runs[0].kinds[3]
    (2, 'value')
    """
    prompts = [question.text for question in questions]
    rollouts = decode(model, prompts, max_new_tokens=max_new_tokens, batch_size=64)
    return [
        Run(
            number,
            (*one.prompt_ids.tolist(), *one.token_ids.tolist()[:-1]),
            len(one.prompt_ids) - 1,
            tuple(one.tokens),
            tuple(kinds(one.tokens)),
        )
        for number, one in enumerate(rollouts)
    ]

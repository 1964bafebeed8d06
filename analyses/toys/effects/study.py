"""The same problems decoded under one condition after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from analyses.toys.effects.tables import Outcome
from analyses.toys.task import Question, planted_answer
from interp import Intervention, decode

__all__ = ["BATCH", "LAYERS", "LIMIT", "Study", "tick"]

LAYERS = (0, 1, 2)
LIMIT, BATCH = 400, 320


@dataclass(eq=False)
class Study:
    """Decodes the same problems under one condition after another and keeps the outcomes by name.

    >>> from analyses.toys.task import held_out_questions
    >>> from interp import load_model
    >>> study = Study(load_model("toy-reasoner"), held_out_questions(2, min_ops=3, max_ops=3))
    >>> study.run("normal").figure.n
    2
    """

    model: Any
    questions: Sequence[Question]
    bar: Any = None
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def run(
        self,
        name: str,
        *interventions: Intervention,
        limit: int = LIMIT,
        planted: Callable[[Question], int] | None = None,
    ) -> Outcome:
        """The outcome of a condition; a name stands for one condition, which is decoded once."""
        if name not in self.outcomes:
            prompts = [question.text for question in self.questions]
            rollouts = decode(self.model, prompts, max_new_tokens=limit, interventions=interventions, batch_size=BATCH)
            self.outcomes[name] = Outcome(name, self.questions, rollouts, planted)
            tick(self.bar, name)
        return self.outcomes[name]

    @property
    def normal(self) -> Outcome:
        return self.run("normal", planted=planted_answer)

    @cached_property
    def word_counts(self) -> Counter[str]:
        """How often normal responses use each word."""
        return Counter(token for rollout in self.normal.rollouts for token in rollout.tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest normal response."""
        return max(len(rollout) for rollout in self.normal.rollouts)


def tick(bar: Any, name: str) -> None:
    if bar is not None:
        bar.set_description(name[:40])
        bar.update(1)

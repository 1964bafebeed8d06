"""The two texts of a comparison, position by position: a clean one and a corrupted one of the same length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from interp.arguments import as_whole, is_one_prompt
from interp.engines.base import ModelFacts
from interp.errors import InputError
from interp.passes import check_context
from interp.prompts import encode_prompts
from interp.rollout import Rollout

__all__ = ["Text", "as_texts", "matched"]


@dataclass(frozen=True)
class Text:
    """A prompt with what has been said after it.

    Attributes:
        ids: all of it.
        first: the position of step 0, the prompt's last token.
        has_response: whether anything follows the prompt.
    """

    ids: tuple[int, ...]
    first: int
    has_response: bool

    @property
    def steps(self) -> int:
        """How many predictions it has; of a prompt alone one, of what would follow it."""
        return max(len(self.ids) - 1 - self.first, 1)

    def upto(self, step: int) -> Text:
        """As much as has been read when the token of a step is predicted."""
        return replace(self, ids=self.ids[: self.first + step + 1])

    def step(self, at: Any, operation: str) -> int:
        """A step counted from 0, negative ones from the end; refused outside the response."""
        step = as_whole(at, operation, "at")
        found = step + self.steps if step < 0 else step
        if not 0 <= found < self.steps:
            of = f"a response of {self.steps}" if self.has_response else "a prompt alone, whose only step is 0"
            raise InputError(
                operation,
                expected=f"a step from 0 to {self.steps - 1} (or -{self.steps} to -1) of {of}",
                received=f"at={step}",
                remedy="at is the step at which it is measured: step t predicts response token t.",
            )
        return found


def as_texts(given: Any, facts: ModelFacts, operation: str, name: str) -> tuple[list[Text], bool]:
    """Texts from rollouts or prompts, one or several, and whether there was one alone."""
    if isinstance(given, Rollout):
        return [_of_rollout(given, facts, operation)], True
    if is_one_prompt(given):
        return [_of_prompt(given, facts, operation)], True
    try:
        several = list(given)
    except TypeError:
        several = []
    if not several:
        raise InputError(
            operation,
            expected=f"{name} as a Rollout or a prompt, or a list of them",
            received=repr(given)[:80],
            remedy="Pass what decode returned, a text, or token ids.",
        )
    return [as_texts(one, facts, operation, name)[0][0] for one in several], False


def _of_rollout(rollout: Rollout, facts: ModelFacts, operation: str) -> Text:
    made_by = rollout.settings.get("model", facts.name)
    if made_by != facts.name:
        raise InputError(
            operation,
            expected=f"a rollout of {facts.name}",
            received=f"one of {made_by}",
            remedy="Its tokens mean something else here; decode it with this model, or pass token ids.",
        )
    ids = (*rollout.prompt_ids.tolist(), *rollout.token_ids.tolist())
    facts.check_token_ids(ids, operation)
    return Text(ids, len(rollout.prompt_ids) - 1, len(rollout.token_ids) > 0)


def _of_prompt(prompt: Any, facts: ModelFacts, operation: str) -> Text:
    ids = encode_prompts(facts.tokenizer, prompt, facts, operation)[0]
    return Text(tuple(ids), len(ids) - 1, False)


def matched(clean: Text, corrupt: Text, step: int, facts: ModelFacts, operation: str) -> Text:
    """The corrupted text up to a step of the clean one; a corrupted prompt alone is given the clean response.

    Raises:
        InputError: prompts of unequal length, a corrupted response that does not reach the step.
    """
    if corrupt.first != clean.first:
        raise InputError(
            operation,
            expected=f"prompts of equal length, {clean.first + 1} tokens as the clean one",
            received=f"a corrupted prompt of {corrupt.first + 1} tokens",
            remedy="Patching pairs positions: write the corrupted prompt with as many tokens.",
        )
    if not corrupt.has_response and clean.has_response:
        corrupt = Text(corrupt.ids + clean.ids[clean.first + 1 :], corrupt.first, True)
    if step >= corrupt.steps:
        raise InputError(
            operation,
            expected=f"a corrupted response that reaches step {step}",
            received=f"one of {corrupt.steps} steps",
            remedy="Measure at an earlier step, or pass the corrupted prompt alone: it is given the clean response.",
        )
    check_context([list(corrupt.ids)], 0, facts, operation)
    return corrupt.upto(step)

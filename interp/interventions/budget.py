"""Thinking longer or shorter: thinking-token test-time scaling, s1's budget forcing, and their controls.

Both replace the token that would end the thinking and go on; what was decoded is never read again. Their controls are
the same classes with another token: a neutral one, or none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from interp.arguments import Judged, as_whole, as_wholes
from interp.engines.base import ModelFacts
from interp.errors import InputError
from interp.prompts import encode_text
from interp.protocol import Intervention, Request, Step
from interp.rows import Row

__all__ = ["BudgetForcing", "ContinueThinking"]

# A text, an id or ids; made a text or a list when an intervention is built, and ids when it meets a model
Tokens: TypeAlias = Any


def _as_tokens(tokens: Any, operation: str, name: str) -> str | list[int]:
    """A text, or ids from one or several."""
    return str(tokens) if isinstance(tokens, str) else as_wholes(tokens, operation, name)


def _ids(tokens: Any, facts: ModelFacts, operation: str) -> tuple[int, ...]:
    """Token ids of a text (without special tokens), or ids."""
    ids = tokens
    if isinstance(tokens, str):
        ids = tuple(encode_text(facts.tokenizer, tokens, operation, special=False)) if tokens else ()
    facts.check_token_ids(ids, operation)
    return tuple(ids)


@dataclass(eq=False)
class ContinueThinking(Intervention):
    """Thinking-token test-time scaling (TTTS; Qian et al. 2025, arXiv 2506.02867).

    ``at="end"``: whenever a response ends and budget remains, ``token`` takes the place of its end and it goes on.
    ``at="start"``: ``token`` is the response's first token (the source tells it so in one place) and the end is the
    end. Then ``final_prompt`` is appended and at most ``final_tokens`` more are decoded. An empty ``token`` with
    ``at="start"`` is plain decoding with the same ending.

    >>> from interp import decode, load_model
    >>> model, question = load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->"
    >>> think = ContinueThinking("Wait", budget=60, final_prompt="")
    >>> response = decode(model, [question], max_new_tokens=60, interventions=[think])[0]
    >>> len(response), response.tokens.count("Wait") > 1
    (60, True)

    Args:
        token: text, an id or ids.
        budget: response tokens before the final prompt, inserted tokens included; at most max_new_tokens.
        final_prompt: text, an id or ids; empty for none.
    """

    staggered = True
    token: Tokens
    budget: Judged[int]
    at: Judged[str] = "end"
    final_prompt: Tokens = " Final Answer within \\boxed{}:"
    final_tokens: Judged[int] = 16

    def __post_init__(self) -> None:
        name = "ContinueThinking"
        self.token = _as_tokens(self.token, name, "token")
        self.final_prompt = _as_tokens(self.final_prompt, name, "final_prompt")
        self.budget = as_whole(self.budget, name, "budget")
        self.final_tokens = as_whole(self.final_tokens, name, "final_tokens")
        wrong = [
            (self.at not in ("end", "start"), 'at="end" or at="start"', repr(self.at)),
            (self.budget < 1, "a budget of at least 1 token", str(self.budget)),
            (self.final_tokens < 1, "final_tokens of at least 1", str(self.final_tokens)),
            (self.at == "end" and not self.token, 'a token with at="end"', "none"),
        ]
        for is_wrong, expected, received in wrong:
            if is_wrong:
                raise InputError("ContinueThinking", expected=expected, received=received, remedy="Change it.")

    def prepare(self, facts: ModelFacts) -> Intervention:
        token = _ids(self.token, facts, "ContinueThinking")
        final = _ids(self.final_prompt, facts, "ContinueThinking")
        resolved = replace(self, token=token, final_prompt=final)
        resolved.extra_tokens = len(final) + self.final_tokens if final else 0
        return resolved

    def begin(self, row: Row) -> None:
        if row.limit < self.budget:
            raise InputError(
                "ContinueThinking",
                expected=f"max_new_tokens of at least the budget, {self.budget}",
                received=str(row.limit),
                remedy="Raise max_new_tokens.",
            )
        row.limit = self.budget
        if self.at == "start":
            row.force(self._tokens, self)

    @property
    def _tokens(self) -> list[int]:
        return list(self.token)

    def after_choice(self, step: Step) -> None:
        for i, row in enumerate(step.rows):
            reason, notes = step.finishing[i], row.notes(self)
            if reason is None or notes.get("final"):
                continue
            used = len(row.token_ids)  # before the token now chosen
            if reason != "length" and self.at == "end" and used < self.budget - 1:
                step.replace(i, self._tokens, self)
                row.mark(self, "went on")
            elif self.final_prompt:
                notes["final"] = True
                final = list(self.final_prompt)
                row.take_back(self)
                row.mark(self, "final prompt")
                if reason == "length":  # the token stays, the prompt follows
                    step.extend(i, used + 1 + len(final) + self.final_tokens)
                    step.force(i, final, self)
                else:  # the prompt takes the place of the end
                    step.extend(i, used + len(final) + self.final_tokens)
                    step.replace(i, final, self)

    def finish(self, row: Row) -> None:
        if self.at == "end":  # at the start it acts by the first token
            row.mark_idle(self, f"the response had no end to take the place of within {self.budget} tokens")


@dataclass(eq=False)
class BudgetForcing(Intervention):
    """s1's budget forcing (Muennighoff et al. 2025, arXiv 2501.19393).

    The first ``ignore`` times the end-of-thinking delimiter is chosen, ``append`` takes its place; when
    ``max_thinking`` tokens have been thought without it, it is forced. What comes after the delimiter is left alone.
    Where a model has no delimiter, give its end-of-sequence token.

    Args:
        end_token: the delimiter, an id or a text that is one token.
        ignore: how often it is ignored.
        append: text, an id or ids.
        max_thinking: tokens before the delimiter at most, fewer than a response may have; ``None`` for no limit.

    A delimiter counts whoever emitted it: the model, this or another intervention, whatever the order of the list.
    One that another forces ends the thinking and is never ignored.

    Raises:
        InputError: a delimiter that is no one token, a limit that no response can reach, nothing to append.
    """

    staggered = True
    end_token: Tokens
    ignore: Judged[int] = 0
    append: Tokens = "Wait"
    max_thinking: Judged[int | None] = None

    def __post_init__(self) -> None:
        name = "BudgetForcing"
        self.end_token = _as_tokens(self.end_token, name, "end_token")
        self.append = _as_tokens(self.append, name, "append")
        self.ignore = as_whole(self.ignore, name, "ignore")
        if self.max_thinking is not None:
            self.max_thinking = as_whole(self.max_thinking, name, "max_thinking")
        if self.ignore and not self.append:
            raise InputError(
                name,
                expected="something to append in place of an ignored delimiter",
                received=f"ignore={self.ignore} and an empty append",
                remedy='s1 appends "Wait".',
            )
        if self.ignore < 0 or (self.max_thinking is not None and self.max_thinking < 1):
            raise InputError(
                "BudgetForcing",
                expected="ignore >= 0 and a max_thinking of at least 1 token",
                received=f"ignore={self.ignore}, max_thinking={self.max_thinking}",
                remedy="Change it.",
            )

    def prepare(self, facts: ModelFacts) -> Intervention:
        end = _ids(self.end_token, facts, "BudgetForcing")
        if len(end) != 1:
            raise InputError(
                "BudgetForcing",
                expected="a delimiter that is one token",
                received=f"{self.end_token!r}, which is {len(end)}",
                remedy="Pass the token's id.",
            )
        return replace(self, end_token=end, append=_ids(self.append, facts, "BudgetForcing"))

    def fit(self, request: Request) -> Intervention:
        ends = [i.budget + i.extra_tokens for i in request.interventions if isinstance(i, ContinueThinking)]
        reach = min([request.reach, *ends])
        if self.max_thinking is not None and self.max_thinking >= reach:
            raise InputError(
                "BudgetForcing",
                expected=f"max_thinking below {reach}, the most tokens that a response can have here",
                received=str(self.max_thinking),
                remedy="Raise max_new_tokens: the delimiter and the answer come after the thinking.",
            )
        return self

    def after_choice(self, step: Step) -> None:
        (end_token,) = self.end_token
        for i, row in enumerate(step.rows):
            notes = row.notes(self)
            # What has been emitted is known only now: a later intervention may have put another token in its place.
            if row.token_ids and not notes.get("done"):
                notes["done"] = row.token_ids[-1] == end_token
            if notes.get("done"):
                continue
            if self.max_thinking is not None and len(row.token_ids) >= self.max_thinking:
                if step.forced_by_another(i, self):
                    continue  # another's words are not cut in two; the delimiter comes after them
                row.take_back(self)
                if step.tokens[i] != end_token:
                    step.replace(i, [end_token], self)
                    row.mark(self, "delimiter forced")
            elif step.tokens[i] == end_token and not step.forced[i] and notes.get("ignored", 0) < self.ignore:
                notes["ignored"] = notes.get("ignored", 0) + 1
                step.replace(i, list(self.append), self)
                row.mark(self, "delimiter ignored")

    def finish(self, row: Row) -> None:
        asked = self.ignore or self.max_thinking is not None
        row.mark_idle(self, "no delimiter came to ignore or force" if asked else "nothing to ignore, and no limit")

"""Test-time scaling (Fig. 7 of arXiv 2506.02867): accuracy against the token budget, and what the tokens are spent on.

Every arm has the same total: ``budget`` tokens of thinking, then the final prompt and ``final_tokens``.

- each thinking word put in the place of the response's end while budget remains (TTTS)
- s1: the end is ignored ``ignore`` times with "Wait" (arXiv 2501.19393), or the first thinking word without one
- a neutral word in the same place: is it the word, or only the room?
- plain: the response ends where it ends
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from analyses.stats import accuracy_table
from analyses.store.run import Cell
from analyses.studies.base import Condition, Study, StudyData, accuracy_reading
from analyses.studies.lab import Lab
from analyses.studies.options import option
from analyses.studies.setup import Setup, checked_words
from interp.errors import InputError
from interp.interventions import BudgetForcing, ContinueThinking
from interp.interventions.suppress import spellings
from interp.passes import check_context
from interp.prompts import encode_text
from interp.protocol import Intervention

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Scale"]

FINAL_TOKENS = 16  # decoded after the final prompt


@dataclass(frozen=True)
class Scale(Study):
    """Accuracy at several budgets; each arm against the plain one at its budget, Holm over all arms and budgets.

    Options:
        budgets: response tokens before the final prompt.
        tokens: thinking words to continue with; unless given all of the run's list.
        neutral: the neutral word; unless given an opener on the toys, else a word about as frequent as the first (in
            the problems that calibrate the study).
        ignore: how often s1 ignores the end.
        final: the final prompt; "auto" is the paper's, and none on the toys, whose vocabulary has none: there the last
            answer that was stated before the budget ran out counts, and a response cut before any is wrong.
    """

    name: ClassVar[str] = "scale"
    title: ClassVar[str] = "Accuracy against the token budget"
    source: ClassVar[str] = "Fig. 7"

    budgets: tuple[int, ...] = option((64, 128, 256), least=1)
    tokens: tuple[str, ...] = option((), empty=True)
    neutral: str = option("", empty=True)
    ignore: int = option(2, least=1)
    final: str = option("auto", empty=True)

    def check(self, setup: Setup) -> None:
        operation = "study scale"
        checked_words(self.tokens, setup, operation, "tokens")
        final = self._final(setup)
        if self.neutral.strip().casefold() in {word.casefold() for word in setup.words}:
            raise InputError(
                operation,
                expected="a neutral word that is no thinking word",
                received=self.neutral,
                remedy="Change it.",
            )
        for name, text in (("neutral", self.neutral), ("final", final)):
            # Words that the vocabulary lacks are refused there.
            if text and not encode_text(setup.model.tokenizer, text, f"{operation}, {name}", special=False):
                raise InputError(operation, expected=f"{name} of words", received=repr(text), remedy="Change it.")
        if setup.model.tokenizer.eos_token_id is None:
            raise InputError(
                operation,
                expected="a model that ends its responses",
                received=f"{setup.facts.name}, whose tokenizer has no end token",
                remedy="Choose another model.",
            )
        more = len(encode_text(setup.model.tokenizer, final, operation, special=False)) + FINAL_TOKENS if final else 0
        check_context(list(setup.tracer.prompts.values()), max(self.budgets) + more, setup.facts, operation)

    def _final(self, setup: Setup) -> str:
        return self.final if self.final != "auto" else "" if setup.is_toy else " Final Answer within \\boxed{}:"

    def calibrates(self, setup: Setup) -> bool:
        return not self.neutral and not setup.is_toy

    def calibrate(self, lab: Lab) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        first = self.tokens[0] if self.tokens else next(iter(lab.words))
        drawn = lab.controls({first: lab.words[first]}, 1, 0)[0]
        return {"neutral": {word: list(ids) for word, ids in drawn.items()}}, {}

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        final = self._final(lab)
        # A word's first spelling is put in as it is: which of several (with a space, in capitals) a model
        # would say itself depends on what came before.
        words = {word: lab.words[word][:1] for word in (self.tokens or lab.words)}
        neutral, room = self._neutral(lab)
        wait, ids = _s1_word(lab)
        arms = {f"token {word}": partial(_continue, ids, final) for word, ids in words.items()}
        arms |= {
            f"neutral {neutral}": partial(_continue, room, final),
            "plain": partial(_plain, final),
            f"s1 {wait}": partial(_s1, ids, self.ignore, final),
        }
        return [
            Condition(f"{arm} {budget}", {"arm": arm, "budget": budget}, partial(_at_budget, make, budget), budget)
            for budget in self.budgets
            for arm, make in arms.items()
        ]

    def _neutral(self, lab: Lab) -> tuple[str, str | tuple[int, ...]]:
        """The neutral word, and what is put in: a text as it was given, or the word's first spelling."""
        given = self.neutral or ("start" if lab.is_toy else "")
        if given:
            return given, given
        word, ids = next(iter(lab.calibration.of("neutral").items()))
        return word, tuple(ids[:1])

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd

        responses = _stated(data).dropna(subset=["budget"])
        arms = {c.name: c.columns for c in data.conditions.values()}
        plain = {name: f"plain {arm['budget']}" for name, arm in arms.items() if arm["arm"] != "plain"}
        table = accuracy_table(responses, by="condition", baseline=plain)
        table["tokens"] = table["condition"].map(responses.groupby("condition")["n_steps"].mean())
        table = table.merge(pd.DataFrame([{"condition": name, **arm} for name, arm in arms.items()]), on="condition")
        return {"scale": table.sort_values("budget", kind="stable", ignore_index=True)}

    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        from analyses.views.curves import lines

        return [lines(tables["scale"], x="budget", y="accuracy", low="low", high="high", by=["arm"], title=self.title)]

    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        return accuracy_reading(tables["scale"], baseline="plain at the same budget")


def _at_budget(
    make: Callable[[int, Lab], list[Intervention]], budget: int, lab: Lab, cells: Sequence[Cell]
) -> list[Intervention]:
    return make(budget, lab)


def _continue(token: str | tuple[int, ...], final: str, budget: int, lab: Lab) -> list[Intervention]:
    return [ContinueThinking(token, budget, final_prompt=final, final_tokens=FINAL_TOKENS)]


def _plain(final: str, budget: int, lab: Lab) -> list[Intervention]:
    return [ContinueThinking("", budget, at="start", final_prompt=final, final_tokens=FINAL_TOKENS)]


def _s1_word(setup: Setup) -> tuple[str, tuple[int, ...]]:
    """ "Wait" where the model spells it as one token, else the run's first thinking word; in its first spelling."""
    mine = {word.casefold(): (word, ids) for word, ids in setup.words.items()}
    if "wait" in mine:
        return "Wait", mine["wait"][1][:1]
    known = spellings(setup.model).get("wait")
    word, ids = ("Wait", tuple(known)) if known else next(iter(setup.words.items()))
    return word, ids[:1]


def _stated(data: StudyData) -> pandas.DataFrame:
    """The graded responses; those of the toys by the answers they state, which a response that was cut may not."""
    from analyses.toys.task import read_answer

    responses = data.responses()
    if not data.lab.is_toy:
        return responses
    right = [str(read_answer(text)) == gold for text, gold in zip(responses["text"], responses["gold"], strict=True)]
    return responses.assign(correct=right)


def _s1(wait: tuple[int, ...], ignore: int, final: str, budget: int, lab: Lab) -> list[Intervention]:
    eos = int(lab.model.tokenizer.eos_token_id)
    # The end is ignored first; what remains an end, plain continuation gives the final prompt.
    return [
        BudgetForcing(eos, ignore=ignore, append=wait),
        ContinueThinking("", budget, at="start", final_prompt=final, final_tokens=FINAL_TOKENS),
    ]

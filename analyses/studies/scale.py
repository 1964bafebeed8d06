"""Test-time scaling (Fig. 7 of arXiv 2506.02867): accuracy against the token budget, and what the tokens are spent on.

Every arm has the same total: ``budget`` tokens of thinking, then the final prompt and ``final_tokens``.

- each thinking word put in the place of the response's end while budget remains (TTTS)
- s1: the end is ignored ``ignore`` times with "Wait" (arXiv 2501.19393)
- a neutral word in the same place: is it the word, or only the room?
- plain: the response ends where it ends
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from analyses.stats import accuracy_table
from analyses.store import Cell
from analyses.studies.base import Condition, Lab, Study, StudyData, accuracy_reading
from interp.interventions import BudgetForcing, ContinueThinking
from interp.models import BUNDLED
from interp.protocol import Intervention

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Scale"]


@dataclass(frozen=True)
class Scale(Study):
    """Accuracy at several budgets; each arm against the plain one at its budget, Holm over all arms and budgets.

    Options:
        budgets: response tokens before the final prompt.
        tokens: thinking words to continue with; unless given those of the run's list that the baseline uses.
        neutral: the neutral word; unless given an opener on the toys, else a word about as frequent as the first.
        ignore: how often s1 ignores the end.
        final: the final prompt; "auto" is the paper's, and none on the toys, whose vocabulary has none: there the last
            answer that was stated before the budget ran out counts.
    """

    name: ClassVar[str] = "scale"
    title: ClassVar[str] = "Accuracy against the token budget"
    source: ClassVar[str] = "Fig. 7"

    budgets: tuple[int, ...] = (64, 128, 256)
    tokens: tuple[str, ...] = ()
    neutral: str = ""
    ignore: int = 2
    final: str = "auto"

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        toy = lab.facts.name in BUNDLED
        final = self.final if self.final != "auto" else "" if toy else " Final Answer within \\boxed{}:"
        # A word's first spelling is put in as it is: which of several (with a space, in capitals) a model
        # would say itself depends on what came before.
        words = {word: lab.words[word][:1] for word in (self.tokens or lab.words)}
        neutral = self.neutral or (
            "start" if toy else next(iter(lab.controls(dict([next(iter(words.items()))]), 1, 0)[0]))
        )
        arms = {f"token {word}": partial(_continue, ids, final) for word, ids in words.items()}
        arms |= {
            f"neutral {neutral}": partial(_continue, neutral, final),
            "plain": partial(_plain, final),
            "s1 Wait": partial(_s1, self.ignore, final),
        }
        return [
            Condition(f"{arm} {budget}", {"arm": arm, "budget": budget}, partial(_at_budget, make, budget), budget)
            for budget in self.budgets
            for arm, make in arms.items()
        ]

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd

        responses = data.responses().dropna(subset=["budget"])
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
    return [ContinueThinking(token, budget, final_prompt=final)]


def _plain(final: str, budget: int, lab: Lab) -> list[Intervention]:
    return [ContinueThinking("", budget, at="start", final_prompt=final)]


def _s1(ignore: int, final: str, budget: int, lab: Lab) -> list[Intervention]:
    eos = int(lab.model.tokenizer.eos_token_id)
    wait = lab.words.get("Wait", next(iter(lab.words.values())))[:1]
    # The end is ignored first; what remains an end, plain continuation gives the final prompt.
    return [
        BudgetForcing(eos, ignore=ignore, append=wait),
        ContinueThinking("", budget, at="start", final_prompt=final),
    ]

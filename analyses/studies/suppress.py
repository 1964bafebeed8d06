"""Suppression (Fig. 5 of arXiv 2506.02867): accuracy when N thinking words cannot be said, against N other words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from analyses.stats import accuracy_difference, accuracy_table, holm, paired_test
from analyses.store.run import Cell
from analyses.studies.base import Condition, Study, StudyData, by_number, counted, span
from analyses.studies.lab import Lab
from analyses.studies.options import option, seed_option
from analyses.studies.setup import Setup
from interp.interventions import SuppressTokens

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Suppress"]

Words = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Suppress(Study):
    """Ban the N most frequent thinking words; ban as many others, matched on frequency, several times.

    Which words are frequent is told by the problems that calibrate the study, and so are the draws of controls.

    The main table compares, problem by problem, the mean accuracy without the one and without the other: intervals are
    bootstraps over problems, p is the sign-flip test over problems, p_holm is corrected for all counts of words. The
    table of draws compares each list with the baseline, Holm over all lists.

    Options:
        counts: numbers of words; those above the number of words are left out, all words always come in.
        draws: of control words, for each count.
        seed: of the draws.
    """

    name: ClassVar[str] = "suppress"
    title: ClassVar[str] = "Accuracy without thinking words"
    source: ClassVar[str] = "Fig. 5"

    counts: tuple[int, ...] = option((1, 2, 3, 5, 10, 15), least=1)
    draws: int = option(3, least=1)
    seed: int = seed_option()

    def calibrate(self, lab: Lab) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        ordered = self._ordered(lab)
        controls = {
            str(count): lab.controls(dict(islice(ordered.items(), count)), self.draws, self.seed + count)
            for count in self._counts(lab)
        }
        return {"order": list(ordered), "controls": controls}, {}

    def _ordered(self, lab: Lab) -> Words:
        """The thinking words, most frequent in the baseline first: a list of N words is the N it misses most."""
        counts = Counter(i for rollout in lab.calibration_rollouts() for i in rollout.token_ids.tolist())
        return dict(sorted(lab.words.items(), key=lambda item: -sum(counts[i] for i in item[1])))

    def _counts(self, setup: Setup) -> list[int]:
        return sorted({min(count, len(setup.words)) for count in (*self.counts, len(setup.words))})

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        order, controls = lab.calibration.of("order"), lab.calibration.of("controls")
        found = []
        for count in self._counts(lab):
            words = {word: lab.words[word] for word in order[:count]}
            drawn = [{word: tuple(ids) for word, ids in draw.items()} for draw in controls[str(count)]]
            for kind, draw, banned in [("thinking", 0, words), *(("control", i, w) for i, w in enumerate(drawn))]:
                columns = {"kind": kind, "words": count, "draw": draw, "list": " ".join(banned)}
                found.append(Condition(f"{kind}-{count}-{draw}", columns, partial(_ban, banned)))
        return found

    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        import pandas as pd

        responses = data.responses()
        draws = accuracy_table(responses, by="condition", baseline="baseline")
        columns = pd.DataFrame([{"condition": c.name, **c.columns} for c in data.conditions.values()])
        draws = draws.merge(columns, on="condition", how="left")
        rows: list[dict[str, Any]] = []
        lists = {
            c.columns["words"]: c.columns["list"] for c in data.conditions.values() if c.columns["kind"] == "thinking"
        }
        for count, part in by_number(responses, "words"):
            right = part.assign(correct=part["correct"].astype("Float64"))
            by_problem = right.pivot_table(index="problem", columns="kind", values="correct")
            both = by_problem.reindex(columns=["thinking", "control"]).dropna().astype(float)
            row: dict[str, Any] = {"words": count, "n": len(both), "problems": len(both)}
            if len(both):
                pair = both["thinking"].to_numpy(), both["control"].to_numpy()
                gap = accuracy_difference(*pair, seed=self.seed)
                row |= {
                    "thinking": pair[0].mean(), "control": pair[1].mean(), "difference": gap.estimate, "low": gap.low,
                    "high": gap.high, "p": paired_test(*pair, seed=self.seed),
                }  # fmt: skip
            rows.append({**row, "list": lists[count]})
        names = ["words", "n", "problems", "thinking", "control", "difference", "low", "high", "p", "list"]
        table = pd.DataFrame(rows, columns=names)
        table.insert(len(names) - 1, "p_holm", holm(table["p"]))
        return {"suppress": table, "suppress_draws": draws}

    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        from analyses.views.curves import lines

        frame = tables["suppress_draws"].assign(
            condition=lambda t: [
                f"control, draw {draw:.0f}"
                if kind == "control"
                else "thinking words"
                if kind == "thinking"
                else "baseline"
                for kind, draw in zip(t["kind"], t["draw"], strict=True)
            ],
            words=lambda t: t["words"].fillna(0),
        )
        return [lines(frame, x="words", y="accuracy", low="low", high="high", by=["condition"], title=self.title)]

    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        table = tables["suppress"]
        return [
            f"{row['words']} words ({row['list']}): {row['thinking']:.1%} without them, {row['control']:.1%} without "
            f"as many others; difference {100 * row['difference']:+.1f} points "
            f"{span(row['low'], row['high'], '+.1f', 100)}, {counted(row['n'], row['problems'])}, "
            f"p = {row['p_holm']:.2g} after Holm over {len(table)} counts of words."
            if row["n"]
            else f"{row['words']} words ({row['list']}): no problem has graded responses of both kinds."
            for row in table.to_dict("records")
        ]


def _ban(words: Words, lab: Lab, cells: Sequence[Cell]) -> list[SuppressTokens]:
    return [SuppressTokens(words)]

"""Suppression (Fig. 5 of arXiv 2506.02867): accuracy when N thinking words cannot be said, against N other words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from analyses.stats import accuracy_table, paired_bootstrap
from analyses.store import Cell
from analyses.studies.base import Condition, Lab, Study, StudyData, by_number
from interp.interventions import SuppressTokens

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["Suppress"]

Words = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Suppress(Study):
    """Ban the N most frequent thinking words; ban as many others, matched on frequency, several times.

    Options:
        counts: numbers of words; those above the number of words are left out, all words always come in.
        draws: of control words, for each count.
        seed: of the draws.
    """

    name: ClassVar[str] = "suppress"
    title: ClassVar[str] = "Accuracy without thinking words"
    source: ClassVar[str] = "Fig. 5"

    counts: tuple[int, ...] = (1, 2, 3, 5, 10, 15)
    draws: int = 3
    seed: int = 0

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        ordered = _by_frequency(lab)
        found = []
        for count in sorted({min(count, len(ordered)) for count in (*self.counts, len(ordered))}):
            words = dict(islice(ordered.items(), count))
            drawn = lab.controls(words, self.draws, self.seed + count)
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
        for count, part in by_number(responses, "words"):
            right = part.assign(correct=part["correct"].astype("Float64"))
            by_problem = right.pivot_table(index="problem", columns="kind", values="correct")
            both = by_problem.dropna().astype(float)
            gap = paired_bootstrap(both["thinking"].to_numpy(), both["control"].to_numpy(), seed=self.seed)
            rows.append(
                {
                    "words": count, "n": len(both), "thinking": both["thinking"].mean(),
                    "control": both["control"].mean(), "difference": gap.estimate, "low": gap.low, "high": gap.high,
                    "list": part.loc[part["kind"] == "thinking", "list"].iloc[0],
                }
            )  # fmt: skip
        return {"suppress": pd.DataFrame(rows), "suppress_draws": draws}

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
        return [
            f"{row['words']} words ({row['list']}): {row['thinking']:.1%} without them, {row['control']:.1%} without "
            f"as many others; difference {100 * row['difference']:+.1f} points "
            f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}], n = {row['n']}."
            for row in tables["suppress"].to_dict("records")
        ]


def _by_frequency(lab: Lab) -> Words:
    """The thinking words, most frequent in the baseline first: a list of N words is the N it misses most."""
    counts = Counter(i for rollout in lab.rollouts() for i in rollout.token_ids.tolist())
    return dict(sorted(lab.words.items(), key=lambda item: -sum(counts[i] for i in item[1])))


def _ban(words: Words, lab: Lab, cells: Sequence[Cell]) -> list[SuppressTokens]:
    return [SuppressTokens(words)]

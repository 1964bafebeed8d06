"""The circuit behind `Wait` on the page of the toys' results: found on some problems, held against others.

1. :mod:`analyses.toys.wait_circuit` sets every head and MLP, one by one, on one half of the problems; what a task hangs
   on there is taken to the other half, where the same exact search says what should have been found.
2. `estimated` asks how near attribution patching comes: at each step that notices a slip, its choice of heads and MLPs
   against exact patching of every one of them.
3. `WaitCircuit` keeps the tables beside the runs of the studies and writes its section of the page.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.attribution import Agreement, Circuit, against_known, patch_nodes
from analyses.stats import Estimate
from analyses.store.fresh import is_fresh, made_of, noted, stamp
from analyses.store.tables import read_frame, write_frame
from analyses.studies.base import span
from analyses.studies.page import markdown_table, markdown_text, write_table
from analyses.toys.facts import SEPARATORS
from analyses.toys.task import held_out_questions
from analyses.toys.wait_circuit import (
    MOST,
    TASKS,
    Run,
    Search,
    agreement,
    needed,
    proved,
    read_runs,
    search,
)
from interp.loading.models import load_model
from interp.metrics import logit_difference

if TYPE_CHECKING:
    import pandas

__all__ = ["NAME", "PROBLEMS", "WaitCircuit", "estimated", "tables_of"]

NAME = "wait-circuit"
PROBLEMS = 64
"""In each half."""
NOTICING = ("notice at once", "notice a step later")
GONE, STAYS = 0.1, 0.9
"""Of noticing at most so much is left without its circuit, and at least so much where something else is set."""
SHARE = 1 - MOST
"""Of the gap between the logits of a slip and of the right digit: a component is chosen that makes up so much of it."""
_LIMIT = 160  # tokens
_TABLES = ("search", "proof", "agreement")
_FOUND, _PATCHED = "found on the other half", "attribution patching"
_CONDITIONS = {
    "without": "without these",
    "random": "without {set} other{s} of the same layers",
    "put back": "with values put in their place from another problem's step that wrote the same word",
    "from an ordinary step": "with values from a step that had nothing to notice",
}


def estimated(model: Any, runs: Sequence[Run], share: float = SHARE) -> Agreement:
    """Attribution patching's choice of heads and MLPs against exact patching, at each step that notices a slip.

    The text up to a slip is compared with the same text with the right digit in its place; the metric is the logit of
    ``Wait`` less that of a full stop. Chosen is, and needed, what makes up a `share` of their gap: by its estimate, and
    by its exact effect. The problems are those with such a step.
    """
    words = model.tokenizer.convert_tokens_to_ids(["Wait", SEPARATORS[0]])
    circuits, known, problems = [], [], []
    for run in runs:
        for step in run.steps("notice"):
            end = run.first + step
            clean = list(run.ids[: end + 1])
            right = model.tokenizer.convert_tokens_to_ids(run.tokens[step + 1])
            table = patch_nodes(
                model, clean, [*clean[:-1], right], logit_difference(*words), kinds=("head", "mlp"), positions=[end],
                verify="all", sample=0,
            ).table  # fmt: skip
            exact = table.loc[table["exact_share"].abs() >= share, "node"].tolist()
            if exact:
                nodes = table[["node", "position"]].assign(score=table["share"])
                circuits.append(Circuit(nodes).by_threshold(share, connected="no"))
                known.append(exact)
                problems.append(run.problem)
    return against_known(circuits, known, problems=problems)


def tables_of(first: Search, other: Search, proof: pandas.DataFrame, patched: Agreement) -> dict[str, pandas.DataFrame]:
    """The tables that are kept: what is left without each component, the proof, and precision and recall."""
    import pandas as pd

    halves = {"found on": first, "held against": other}
    frames = []
    for name, one in halves.items():
        mine = {task: {node.label for node in needed(one, task)} for task in TASKS}
        is_needed = [row["node"] in mine[row["task"]] for row in one.frame.to_dict("records")]
        frames.append(one.frame.assign(half=name, needed=is_needed))
    found = agreement(first, other)
    noticing = patched.frame["problem"].nunique()
    told: list[tuple[str, str, Estimate, int]] = [
        *((_FOUND, name, found[name], found[name].n) for name in ("precision", "recall")),
        (_PATCHED, "precision", patched.precision, noticing),
        (_PATCHED, "recall", patched.recall, noticing),
        (_PATCHED, "AUROC", patched.auroc, noticing),
    ]
    rows = [
        {"choice": choice, "measure": name, "value": one.estimate, "low": one.low, "high": one.high, "problems": n}
        for choice, name, one, n in told
    ]
    return {"search": pd.concat(frames, ignore_index=True), "proof": proof, "agreement": pd.DataFrame(rows)}


@dataclass(frozen=True)
class WaitCircuit:
    """What was found, as a section of the page.

    Attributes:
        tables: as `tables_of` makes them.
        command: that makes them.
    """

    tables: Mapping[str, pandas.DataFrame]
    command: Sequence[str]

    name = NAME
    title = "The circuit behind Wait"

    @classmethod
    def of(cls, folder: Path, command: Sequence[str], n: int = PROBLEMS, *, as_kept: bool = False) -> WaitCircuit:
        """Made of `n` problems a half, or read from the folder that keeps it."""
        files = {name: folder / f"{name}.parquet" for name in _TABLES}
        digest = made_of(NAME, n)
        if is_fresh(folder, NAME, digest) or (as_kept and noted(folder, NAME)):
            return cls({name: read_frame(file) for name, file in files.items()}, command)
        model = load_model("toy-reasoner")
        runs = read_runs(model, held_out_questions(2 * n), _LIMIT)
        first = search(model, runs[:n])
        other = search(model, runs[n:], first.means)
        tables = tables_of(first, other, proved(model, runs[n:], first), estimated(model, runs[n:]))
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in files.items():
            write_frame(file, tables[name])
        stamp(folder, NAME, digest, [file.name for file in files.values()])
        return cls(tables, command)

    @property
    def planted(self) -> str:
        """What was planted, and whether it was found."""
        left, ordinary = self._worst("without"), self._worst("without", "ordinary")
        others, back = self._worst("random"), self._worst("put back")
        said = (
            "slips that are noticed at once or a step later; which components do it came of training. On problems "
            "that they were not found on, the components found are to carry it: without them at most "
            f"{GONE:.0%} of noticing is left (found {left:.1%}) and at least {STAYS:.0%} of ordinary steps "
            f"({ordinary:.1%}); at least {STAYS:.0%} of noticing is left without as many others of the same layers "
            f"({others:.1%}), and with the values of another problem's run put back ({back:.1%})"
        )
        if not self._asked("without").any():
            return f"*planted: {said}. NOT found.*"
        is_found = left <= GONE and min(ordinary, others, back) >= STAYS
        return f"*planted: {said}. {'Found' if is_found else 'NOT found'}.*"

    @property
    def _problems(self) -> int:
        table = self.tables["agreement"]
        return int(table.loc[table["choice"] == _FOUND, "problems"].iloc[0])

    def _asked(self, condition: str) -> Any:
        proof = self.tables["proof"]
        return proof["task"].isin(NOTICING) & (proof["condition"] == condition)

    def _worst(self, condition: str, column: str = "right") -> float:
        """Of both tasks of noticing, the share that is farther from what it should be."""
        values = self.tables["proof"].loc[self._asked(condition), column]
        return float(values.max() if (condition, column) == ("without", "right") else values.min())

    def readings(self) -> list[str]:
        """Sentences: one a task, and how well what was found agrees with exact searches."""
        proof, said = self.tables["proof"], []
        for task, rows in proof.groupby("task", sort=False):
            by = {row["condition"]: row for row in rows.to_dict("records")}
            told = [_told(by[name], words) for name, words in _CONDITIONS.items() if name in by and by[name]["n"]]
            said.append(
                f"{str(task).capitalize()} hangs on {by['without']['circuit']}. Of the {by['without']['n']} steps that "
                f"do it come out as before: {'; '.join(told)}. Of ordinary steps at least "
                f"{min(row['ordinary'] for row in by.values()):.1%} under each of these."
            )
        if alone := [task for task in TASKS if task not in set(proof["task"])]:
            said.append(f"No component alone is needed to {' or to '.join(alone)}: the work is shared.")
        table = self.tables["agreement"]
        agrees = {
            choice: ", ".join(
                f"{row['measure']} {row['value']:.2f} {span(row['low'], row['high'])}"
                for row in rows.to_dict("records")
            )
            for choice, rows in table.groupby("choice", sort=False)
        }
        count = dict(zip(table["choice"], table["problems"], strict=True))
        said.append(
            f"What one half found, against the exact search of all components on the other half (needed is a component "
            f"without which at most {MOST:.0%} of a task's steps are left; all tasks together, n = {count[_FOUND]} "
            f"problems): {agrees[_FOUND]}."
        )
        said.append(
            "Attribution patching, which estimates with one gradient, against exact patching of all components, at "
            f"the steps that notice a slip at once (chosen is what makes up {SHARE:.0%} of the gap to the same text "
            f"with the right digit; n = {count[_PATCHED]} problems): {agrees[_PATCHED]}. An estimate is exact only "
            "where the way to the logits is linear: what matters is to be verified."
        )
        return said

    def section(self, folder: str) -> list[str]:
        """Markdown paragraphs; ``folder`` of the tables is beside the page."""
        proof = self.tables["proof"]
        shown = proof.pivot(index=["task", "circuit"], columns="condition", values="right")
        shown = shown[[name for name in ("left alone", *_CONDITIONS) if name in shown]].reset_index()
        order = {task: place for place, task in enumerate(TASKS)}
        shown = shown.sort_values("task", key=lambda tasks: tasks.map(order))
        links = ", ".join(f"[{self._file(name)}]({folder}/{self._file(name)})" for name in self.tables)
        return [
            f"## {self.title}",
            self.planted,
            "Every head and MLP of the toy, one by one, is set to its mean at the steps that do a task. What a task "
            f"hangs on is found on {self._problems} held-out problems; the numbers are of {self._problems} others, "
            "with intervals (95 %) over problems. Command:",
            f"```\n{shlex.join(self.command)}\n```",
            "\n".join(f"- {markdown_text(sentence)}" for sentence in self.readings()),
            markdown_table(shown),
            "Shares of a task's steps that come out as before. *random*: without as many others of the same layers, or "
            "all of them where there are fewer, five draws. "
            f"Whole tables: {links}.",
        ]

    def write(self, folder: Path) -> None:
        """The tables, whole, into the page's folder."""
        for name, table in self.tables.items():
            write_table(table, folder / self._file(name))

    def _file(self, name: str) -> str:
        return f"{NAME}-{name}.csv"


def _told(row: Mapping[Any, Any], words: str) -> str:
    said = words.format(set=row["set"], s="" if row["set"] == 1 else "s")
    return f"{row['right']:.1%} {span(row['low'], row['high'], '.1f', 100)} {said}"

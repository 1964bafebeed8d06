"""What all studies share: a grid of conditions x problems x samples, a baseline, tables, figures, a reading.

1. A study's options are looked at (:mod:`analyses.studies.options`), then, against model, words and problems, by
   :meth:`Study.check`: whatever is wrong is said before anything is decoded.
2. The baseline is a trace (:mod:`analyses.trace.tracing`) in a folder that studies of the same model and settings
   share; it may hold more problems, samples and layers than this study is about.
3. What hangs on the run as a whole is computed once from the first problems and kept
   (:mod:`analyses.studies.calibration`), so that a study that grew has the numbers of one made in one go.
4. A :class:`Study` names its conditions; each cell (condition, problem, sample) is decoded, or whatever the study does
   instead, and written to the study's run folder. Stopped at any moment, the same call goes on.
5. Its tables are derived from the cells and the baseline, its figures from the tables, and its reading says in a
   sentence what the test says.

A study is one file; see ``suppress.py`` for a short one.
"""

from __future__ import annotations

import hashlib
import html
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, SupportsFloat

from torch import Tensor

from analyses.grading import prompt_end
from analyses.store.run import Cell, Run
from analyses.studies.lab import Lab
from analyses.studies.options import named_layers, settle_options
from analyses.studies.setup import Setup
from analyses.thinking import WordUse
from analyses.trace.run import TraceRun
from analyses.trace.tables import responses_table
from analyses.work.scheduler import Report
from interp.protocol import Intervention

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = [
    "CellContent", "Condition", "Study", "StudyData", "StudyResult", "accuracy_reading", "by_number", "counted",
    "span", "stable_order",
]  # fmt: skip

CellContent = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and payload of a cell."""


def _nothing(lab: Lab, cells: Sequence[Cell]) -> Sequence[Intervention]:
    return ()


@dataclass(frozen=True)
class Condition:
    """One way of responding.

    Attributes:
        name: unique within the study; names the folder of its cells.
        columns: what tells it from other conditions, as columns of the study's tables.
        interventions: made for each batch, since some need to know the problems in it.
        max_new_tokens: unless given, that of the settings.
    """

    name: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    interventions: Callable[[Lab, Sequence[Cell]], Sequence[Intervention]] = _nothing
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class StudyData:
    """What tables are made from.

    Attributes:
        run: the study's cells.
        lab: model, problems, settings and baseline.
        conditions: by name.
        others: baselines of other models, by their names.
    """

    run: Run
    lab: Lab
    conditions: Mapping[str, Condition]
    others: Mapping[str, TraceRun]

    def cells(self) -> list[Cell]:
        """The finished cells of this study's conditions, problems and samples: its folder may hold more of each."""
        mine = {(cell.problem, cell.sample) for cell in self.lab.cells()}
        return [
            cell
            for cell in self.run.cells()
            if cell.condition in self.conditions and (cell.problem, cell.sample) in mine
        ]

    def responses(self) -> pandas.DataFrame:
        """One graded row a response, baseline included, with the columns of its condition."""
        import pandas as pd

        found = responses_table(self.run, self.cells())
        columns = pd.DataFrame([{"condition": c.name, **c.columns} for c in self.conditions.values()])
        if len(columns):
            found = found.merge(columns, on="condition", how="left")
        return pd.concat([self.baseline_responses(), found], ignore_index=True)

    def baseline_responses(self) -> pandas.DataFrame:
        """The baseline's responses to this study's problems."""
        return self.of_these(self.lab.baseline.responses)

    def baseline_failures(self) -> dict[Cell, str]:
        """This study's problems without a response in the baseline, which may hold others, and why."""
        asked, given = self.lab.tracer.asked, self.lab.given is not None
        # Of given responses those too that are paired with no problem
        return {cell: why for cell, why in self.lab.baseline.failures().items() if given or cell.problem in asked}

    def of_these(self, frame: pandas.DataFrame) -> pandas.DataFrame:
        """The rows of this study's problems, samples and layers: a shared baseline may hold more."""
        cells = self.lab.cells()
        rows = frame["problem"].isin({c.problem for c in cells}) & frame["sample"].isin({c.sample for c in cells})
        if "layer" in frame.columns:
            rows &= frame["layer"].isin(self.lab.layers)
        return frame[rows].reset_index(drop=True)


@dataclass(frozen=True)
class Study(ABC):
    """A question asked of many responses. Subclass it as a frozen dataclass: its fields are its options.

    Every option needs a default, whose kind it has; :func:`analyses.studies.options.option` says more of it.

    Class attributes:
        name: on the command line.
        title: what it asks, as a heading.
        source: which figure or table of which paper it is about.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]

    def __post_init__(self) -> None:
        settle_options(self)

    @property
    def decodes(self) -> bool:
        """Whether its cells are decoded; a study of given responses can decode nothing, for want of their settings."""
        kind = type(self)
        return kind.conditions is not Study.conditions and kind.do is Study.do

    def settled(self, setup: Setup) -> Study:
        """This study with the options filled in that hang on the model; itself where there are none."""
        return self

    def check(self, setup: Setup) -> None:
        """Refuse, with an `InputError`, options that do not go with model, words or problems, before decoding."""
        return  # most studies have nothing more to look at

    def layer_options(self) -> dict[str, list[int]]:
        """The layer numbers that options name, looked at before a model is loaded; an option "all" names none."""
        return named_layers(self)

    def other_models(self) -> tuple[str, ...]:
        """Models whose baselines are needed beside the model's own."""
        return ()

    def probing(self) -> dict[str, Any]:
        """What the baseline is to hold beside nHSIC: fields of :class:`analyses.trace.probing.Probing`."""
        return {}

    def calibrates(self, setup: Setup) -> bool:
        """Whether :meth:`calibrate` is needed with these options."""
        return type(self).calibrate is not Study.calibrate

    def calibrate(self, lab: Lab) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        """JSON values and tensors that hang on many responses, from ``lab.calibration_rollouts()``.

        It is called once, when the run begins; afterwards, and in other processes, ``lab.calibration`` has them.
        """
        return {}, {}

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        """What is decoded beside the baseline; the same list each time it is asked, however many problems there are."""
        return ()

    def do(self, lab: Lab, condition: Condition, cells: Sequence[Cell], report: Report) -> list[CellContent]:
        """What each cell of a batch holds: the responses, unless a study does something else."""
        made = condition.interventions(lab, cells)
        rollouts = lab.decode(cells, made, condition.max_new_tokens, report)
        return [
            (
                {name: getattr(rollout, name) for name in ("prompt_ids", "token_ids", "logprobs", "entropy")},
                {
                    "question": lab.problems[cell.problem].question,
                    "answer": lab.problems[cell.problem].answer,
                    "text": rollout.text,
                    "tokens": rollout.tokens,
                    "prompt_end": prompt_end(lab.model.tokenizer, rollout.prompt_ids.tolist()),
                    "finish_reason": rollout.finish_reason,
                    "events": [asdict(event) for event in rollout.events],
                    "interventions": rollout.settings["interventions"],
                },
            )
            for cell, rollout in zip(cells, rollouts, strict=True)
        ]

    @abstractmethod
    def tables(self, data: StudyData) -> dict[str, pandas.DataFrame]:
        """Tidy tables by file name without ending; the first is the study's main one."""

    @abstractmethod
    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        """The paper's figure from these numbers, first."""

    @abstractmethod
    def reading(self, tables: Mapping[str, pandas.DataFrame]) -> list[str]:
        """What the numbers say, a sentence each, with n and the test's result."""


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
        tables: tidy DataFrames; ``table`` is the main one.
        readings: what the numbers say, a sentence each.
        figures: views, the paper's figure first.
        failures: cells that could not be done, with reasons.
        words: the run's thinking words, and how often the baseline says them.
    """

    study: Study
    run: Run
    tables: dict[str, pandas.DataFrame]
    figures: list[View]
    readings: list[str]
    failures: dict[Cell, str]
    words: tuple[WordUse, ...] = ()

    @property
    def table(self) -> pandas.DataFrame:
        return next(iter(self.tables.values()))

    def to_frame(self) -> pandas.DataFrame:
        """The main table."""
        return self.table

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{html.escape(reading)}</li>" for reading in self.readings)
        return f"<div><b>{html.escape(self.study.title)}</b><ul>{said}</ul>{self.table.head(30).to_html()}</div>"


def stable_order(items: Sequence[str], seed: str) -> list[str]:
    """The items in an order by lot that hangs on each item alone: more of them do not change that of the others.

    >>> stable_order(["a", "b", "c"], "0"), stable_order(["b", "a"], "0")
    (['a', 'c', 'b'], ['a', 'b'])
    """
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}:{item}".encode()).digest())


def by_number(frame: pandas.DataFrame, column: str) -> Iterator[tuple[int, pandas.DataFrame]]:
    """The rows of each value of a column of whole numbers, in order."""
    for value in sorted(frame[column].dropna().unique()):
        yield int(value), frame[frame[column] == value]


def _left_out(table: pandas.DataFrame) -> str:
    """The problems without a grade and why, as the accuracy tables tell it."""
    if "left_out" not in table.columns:
        return ""
    said = [f"{row['condition']}: {row['left_out']}" for row in table.to_dict("records") if row["left_out"]]
    alike = {text.split(": ", 1)[1] for text in said}
    return alike.pop() if len(alike) == 1 and len(said) == len(table) else "; ".join(said)


def counted(n: SupportsFloat, problems: SupportsFloat) -> str:
    """How many responses there are, and to how many problems: samples of one problem are not independent.

    >>> counted(64, 64), counted(192, 64), counted(1, 1)
    ('n = 64 problems', 'n = 192 responses to 64 problems', 'n = 1 problem')
    """
    responses, count = float(n), float(problems)
    of = f"{count:.0f} problem{'' if count == 1 else 's'}"
    return f"n = {of}" if responses == count else f"n = {responses:.0f} responses to {of}"


def span(low: SupportsFloat, high: SupportsFloat, form: str = ".2f", scale: float | int = 1) -> str:
    """The ends of an interval, or that the data give none.

    >>> span(0.1, 0.25, "+.1f", 100), span(float("nan"), float("nan"))
    ('[+10.0, +25.0]', '[no interval]')
    """
    ends = scale * float(low), scale * float(high)
    return "[no interval]" if any(map(math.isnan, ends)) else f"[{ends[0]:{form}}, {ends[1]:{form}}]"


def accuracy_reading(table: pandas.DataFrame, baseline: str = "the baseline") -> list[str]:
    """A sentence for each condition of an accuracy table that differs from the baseline, and one for the others.

    The p-values are corrected for all comparisons of the table.
    """
    said, alike = [], []
    for row in table[table["difference"].notna()].to_dict("records"):
        if row["p_holm"] < 0.05:
            said.append(
                f"{row['condition']}: {row['accuracy']:.1%}, {100 * row['difference']:+.1f} points from {baseline} "
                f"{span(row['difference_low'], row['difference_high'], '+.1f', 100)}, "
                f"{counted(row['n'], row['problems'])}, paired test p = {row['p_holm']:.2g} after Holm over "
                f"{row['tests']} comparison{'' if row['tests'] == 1 else 's'}."
            )
        else:
            alike.append(row["condition"])
    if len(left_out := _left_out(table)):
        said.append(f"Left out, right and wrong answers alike: {left_out}.")
    if alike:
        said.append(f"Not told apart from {baseline} at this n: {', '.join(alike)}.")
    if not said:
        said.append("No condition has graded responses that can be compared with those of its baseline.")
    return said

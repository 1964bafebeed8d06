"""What all studies share: a grid of conditions x problems x samples, a baseline, tables, figures, a reading.

1. The baseline is a trace (:mod:`analyses.trace`) in a folder that studies of the same model and settings share.
2. A :class:`Study` names its conditions; each cell (condition, problem, sample) is decoded, or whatever the study does
   instead, and written to the study's run folder. Stopped at any moment, the same call goes on.
3. Its tables are derived from the cells and the baseline, its figures from the tables, and its reading says in a
   sentence what the test says.

A study is one file; see ``suppress.py`` for a short one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, SupportsFloat

from torch import Tensor

from analyses.batches import Batch, guarded
from analyses.derive import responses_table
from analyses.grading import prompt_end
from analyses.model_ref import ModelRef, share_threads
from analyses.problems import Problem
from analyses.scheduler import Report, Work
from analyses.store import Cell, Run
from analyses.thinking import thinking_words
from analyses.trace import Tracer, TraceSettings, row_seed
from interp.decoding import decode
from interp.interventions import matched_random_tokens
from interp.protocol import Intervention
from interp.rollout import Rollout
from interp.sites import resolve_layers
from interp.types import Bridge

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = [
    "CellContent",
    "Condition",
    "Lab",
    "Study",
    "StudyData",
    "accuracy_reading",
    "by_number",
    "counted",
    "layers_of",
    "span",
]

GROWING = ("problems", "samples", "layers", "probes", "null")
"""Settings of a baseline that may grow while studies share it."""

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


class Lab:
    """A model, problems, settings and the baseline run, in one process.

    Attributes:
        model: the bridge; ``facts`` its dimensions.
        problems: by id.
        options: the settings of the trace that is the baseline.
        baseline: its run.
        words: thinking words with the ids that spell them.
    """

    def __init__(
        self, model: Bridge, problems: Sequence[Problem], options: TraceSettings, baseline: Run, words: str = "thinking"
    ) -> None:
        self.tracer = Tracer(model, list(problems), options)
        self.model, self.facts, self.options, self.baseline = model, self.tracer.facts, options, baseline
        self.problems, self.words = self.tracer.problems, thinking_words(model, words)

    def cells(self, condition: str = "baseline") -> list[Cell]:
        """This condition's cells, one a problem and sample."""
        return [Cell(cell.problem, cell.sample, condition=condition) for cell in self.tracer.cells]

    def rollout(self, cell: Cell) -> Rollout:
        """The baseline's response to the cell's problem (without residuals)."""
        data = self.baseline.read(Cell(cell.problem, cell.sample))
        tensors, payload = data.tensors, data.payload
        return Rollout(
            tensors["prompt_ids"], tensors["token_ids"], payload["tokens"], payload["text"], payload["finish_reason"],
            tensors["logprobs"], tensors["entropy"], settings={"model": self.facts.name, "d_model": self.facts.d_model},
        )  # fmt: skip

    def rollouts(self) -> list[Rollout]:
        """All of the baseline's responses to these problems that were finished."""
        return [self.rollout(cell) for cell in self.cells() if self.baseline.has(cell)]

    def controls(self, words: Mapping[str, Sequence[int]], draws: int, seed: int) -> list[dict[str, tuple[int, ...]]]:
        """Draws of as many other words, about as frequent in the baseline, a synonym of each kind left on the toys."""
        from analyses.toys.facts import ANSWER_MARKERS, FILLERS, LABELS, OPENERS, VERBS
        from interp.models import BUNDLED

        toy = self.facts.name in BUNDLED
        keep = [VERBS, FILLERS, OPENERS, ANSWER_MARKERS, *((label,) for label in LABELS)] if toy else []
        return matched_random_tokens(self.rollouts(), words, draws=draws, seed=seed, keep=keep, exclude=self.words)

    def decode(
        self,
        cells: Sequence[Cell],
        interventions: Sequence[Intervention],
        max_new_tokens: int | None = None,
        report: Report = lambda tokens: None,
    ) -> list[Rollout]:
        """Responses to the cells' problems with the baseline's sampling; the same draws in every condition."""
        options = self.options
        return decode(
            self.model,
            [self.tracer.prompts[cell.problem] for cell in cells],
            max_new_tokens=max_new_tokens or options.max_new_tokens,
            interventions=interventions,
            temperature=options.temperature,
            top_p=options.top_p,
            seed=[row_seed(options.seed, Cell(cell.problem, cell.sample)) for cell in cells],
            batch_size=len(cells),
            progress=SimpleNamespace(update=report),
        )


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
    others: Mapping[str, Run]

    def cells(self) -> list[Cell]:
        """The finished cells of this study's conditions and problems: its folder may hold more of either."""
        mine = {cell.problem for cell in self.lab.cells()}
        return [cell for cell in self.run.cells() if cell.condition in self.conditions and cell.problem in mine]

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
        asked = self.lab.tracer.asked
        return {cell: why for cell, why in self.lab.baseline.failures().items() if cell.problem in asked}

    def of_these(self, frame: pandas.DataFrame) -> pandas.DataFrame:
        """The rows of this study's problems and samples: a shared baseline may hold more."""
        cells = self.lab.cells()
        rows = frame["problem"].isin({c.problem for c in cells}) & frame["sample"].isin({c.sample for c in cells})
        return frame[rows].reset_index(drop=True)


@dataclass(frozen=True)
class Study(ABC):
    """A question asked of many responses. Subclass it as a frozen dataclass: its fields are its options.

    Class attributes:
        name: on the command line.
        title: what it asks, as a heading.
        source: which figure or table of which paper it is about.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]

    def other_models(self) -> tuple[str, ...]:
        """Models whose baselines are needed beside the model's own."""
        return ()

    def probing(self) -> dict[str, Any]:
        """What the baseline is to hold beside nHSIC: fields of :class:`analyses.reread.Probing`."""
        return {}

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        """What is decoded beside the baseline; the same list each time it is asked."""
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
class Spec:
    """All a process needs to work on a study; it pickles."""

    study: Study
    problems: tuple[Problem, ...]
    options: TraceSettings
    words: str
    baseline: Path
    out: Path

    def lab(self, model: Bridge) -> Lab:
        return Lab(model, self.problems, self.options, Run.open(self.baseline), self.words)

    def start(self, lab: Lab) -> tuple[Run, dict[str, Condition]]:
        """The study's run, new or gone on with, and its conditions."""
        conditions = {condition.name: condition for condition in self.study.conditions(lab)}
        pins = lab.baseline.settings
        run = Run.start(
            self.out,
            kind="study",
            settings={
                "study": self.study.name,
                "options": asdict(self.study),
                "words": {word: list(ids) for word, ids in lab.words.items()},
                "baseline": {k: v for k, v in pins.items() if k not in GROWING},
                "conditions": {name: dict(condition.columns) for name, condition in conditions.items()},
                "problems": {problem.id: problem.digest for problem in self.problems},
                "model": pins["model"],
            },
            provenance=lab.tracer.provenance,
            may_grow=("problems",),
            noted=("model", "baseline.model", "baseline.thinking_markers", "baseline.final_prompts"),
            judge=lab.tracer.judge,
            correctable=True,
            need_bytes=64 * len(conditions) * len(lab.cells()) * self.options.max_new_tokens,
        )
        return run, conditions

    def work(self, lab: Lab, run: Run, conditions: Mapping[str, Condition]) -> Work:
        """Does one batch."""

        def do(cells: Batch, report: Report) -> None:
            found = self.study.do(lab, conditions[cells[0].condition], cells, report)
            mates = [[cell.problem, cell.sample] for cell in cells]
            for cell, (tensors, payload) in zip(cells, found, strict=True):
                if not run.has(cell):
                    run.write(cell, tensors, {**payload, "batch": mates})

        return lambda batch, report: guarded(lambda cells: do(cells, report), batch)


@dataclass(frozen=True)
class StartWorker:
    """Makes a worker in another process: the same model, and the run's pins compare the rest."""

    spec: Spec
    ref: ModelRef
    workers: int

    def __call__(self) -> Work:
        model = self.ref.load()
        share_threads(model, self.workers)
        lab = self.spec.lab(model)
        return self.spec.work(lab, *self.spec.start(lab))


def layers_of(text: str, lab: Lab, operation: str) -> tuple[int, ...]:
    """The layers that an option names: "all", or numbers separated by commas, negative from the end."""
    wanted: str | list[int] = text if text == "all" else [int(number) for number in text.split(",")]
    return resolve_layers(wanted, lab.facts.n_layers, operation)


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

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
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, SupportsFloat

from jaxtyping import Float64
from torch import Tensor

from analyses.grading import prompt_end
from analyses.problems import Problem
from analyses.store.run import Cell, CellData, Run
from analyses.studies.calibration import Calibration
from analyses.studies.options import settle_options
from analyses.thinking import thinking_words
from analyses.trace.settings import TraceSettings
from analyses.trace.tables import responses_table
from analyses.trace.tracer import Tracer, row_seed
from analyses.work.batches import Batch, guarded
from analyses.work.model_ref import ModelRef, share_threads
from analyses.work.scheduler import Report, Work
from interp.decoding import decode
from interp.errors import InputError
from interp.interventions import matched_random_tokens
from interp.loading.models import BUNDLED
from interp.protocol import Intervention
from interp.rollout import Rollout
from interp.sites import resolve_layers
from interp.types import Bridge

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = [
    "CellContent", "Condition", "Lab", "Setup", "Study", "StudyData", "accuracy_reading", "by_number", "checked_words",
    "counted", "layers_of", "scored_layers", "span", "stable_order",
]  # fmt: skip

KEPT_BYTES = 2**28
"""Tensors that a lab keeps from one batch to the next."""

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


class Setup:
    """A model, problems and settings that fit each other, before anything is decoded: what options are checked against.

    Attributes:
        model: the bridge; ``facts`` its dimensions.
        problems: by id.
        options: the settings of the trace that is the baseline.
        layers, site: whose nHSIC the study is about (layer 0 alone stands for ln_final).
        words: thinking words with the ids that spell them.
        calibrating: ids of the problems that would calibrate the study.
    """

    def __init__(
        self,
        model: Bridge,
        problems: Sequence[Problem],
        options: TraceSettings,
        words: str = "thinking",
        calibrating: Sequence[str] = (),
    ) -> None:
        self.tracer = Tracer(model, list(problems), options)
        self.model, self.facts, self.options = model, self.tracer.facts, options
        self.layers, self.site = self.tracer.layers, options.site
        self.problems, self.words = self.tracer.problems, thinking_words(model, words)
        self.calibrating = tuple(calibrating)

    @property
    def is_toy(self) -> bool:
        """Whether the model is one of those bundled, whose mechanism is planted."""
        return self.facts.name in BUNDLED

    def cells(self, condition: str = "baseline") -> list[Cell]:
        """This condition's cells, one a problem and sample."""
        return [Cell(cell.problem, cell.sample, condition=condition) for cell in self.tracer.cells]


class Lab(Setup):
    """A setup with its baseline run, in one process.

    Attributes:
        baseline: the run of the unchanged model; it may hold more than this study is about.
        calibration: what was computed once from it, if the study needs that.
    """

    def __init__(
        self,
        model: Bridge,
        problems: Sequence[Problem],
        options: TraceSettings,
        baseline: Run,
        words: str = "thinking",
        calibration: Calibration | None = None,
        calibrating: Sequence[str] = (),
    ) -> None:
        super().__init__(model, problems, options, words, calibrating)
        self.baseline, self._calibration = baseline, calibration
        self._kept: OrderedDict[Any, Tensor] = OrderedDict()

    @property
    def calibration(self) -> Calibration:
        """What :meth:`Study.calibrate` returned when the run began."""
        if self._calibration is None:
            raise InputError(
                "read calibration",
                expected="a study with a calibrate() method",
                received="one without",
                remedy="Return there what hangs on the run as a whole.",
            )
        return self._calibration

    def calibrate(self, study: Study, asked: int) -> None:
        """Compute what the study takes from the run as a whole, unless its folder had it.

        Raises:
            InputError: no response to compute it from, or the stored one was of another number of problems.
        """
        stored = self._calibration
        if stored is not None and stored.tensors is not None:
            return
        now, had = self.calibrating, len(self.calibrating) if stored is None else stored.had
        done = now if stored is None else stored.problems
        done = tuple(problem for problem in done if self.baseline.has(Cell(problem)))
        if not done:
            raise InputError(
                f"study {study.name}",
                expected="at least one finished response to calibrate from",
                received=f"none of {had} problems",
                remedy="See failures.json of the baseline; --retry-failed tries them again.",
            )
        self.calibrating = done
        found = Calibration(asked if stored is None else stored.asked, had, done, *study.calibrate(self)).settled()
        self.calibrating = now
        if stored is not None and found.pins() != stored.pins():
            raise InputError(
                "read calibration",
                expected="the tensors that run.json speaks of, whose file is gone",
                received="others, computed anew from the baseline",
                remedy="Restore calibration.safetensors from a copy, or choose another folder.",
            )
        self._calibration = found

    def read(self, cell: Cell) -> CellData:
        """The baseline's cell of the cell's problem and sample."""
        return self.baseline.read(Cell(cell.problem, cell.sample))

    def scores(self, cell: Cell) -> Float64[Tensor, "layer step"]:
        """The baseline's nHSIC of the cell's response, at this study's layers, by the run's own measure."""
        data = self.read(cell)
        have = data.payload["layers"]
        return data.tensors["mi"][[have.index(layer) for layer in self.layers]]

    def keep(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` gives, made once; the oldest are let go above :data:`KEPT_BYTES`, all of them with the lab."""
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            self._kept[key] = make()
            while len(self._kept) > 1 and sum(t.nbytes for t in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return self._kept[key]

    def rollout(self, cell: Cell) -> Rollout:
        """The baseline's response to the cell's problem (without residuals)."""
        data = self.read(cell)
        tensors, payload = data.tensors, data.payload
        return Rollout(
            tensors["prompt_ids"], tensors["token_ids"], payload["tokens"], payload["text"], payload["finish_reason"],
            tensors["logprobs"], tensors["entropy"], settings={"model": self.facts.name, "d_model": self.facts.d_model},
        )  # fmt: skip

    def rollouts(self) -> list[Rollout]:
        """All of the baseline's responses to these problems that were finished."""
        return [self.rollout(cell) for cell in self.cells() if self.baseline.has(cell)]

    def calibration_rollouts(self) -> list[Rollout]:
        """The baseline's first responses to the problems that calibrate the study, those that were finished."""
        return [self.rollout(cell) for problem in self.calibrating if self.baseline.has(cell := Cell(problem))]

    def controls(self, words: Mapping[str, Sequence[int]], draws: int, seed: int) -> list[dict[str, tuple[int, ...]]]:
        """Draws of as many other words, in every spelling, a synonym of each kind left on the toys.

        They are about as frequent in the responses that calibrate the study: call it from :meth:`Study.calibrate`.
        """
        from analyses.toys.facts import ANSWER_MARKERS, FILLERS, LABELS, OPENERS, VERBS

        keep = [VERBS, FILLERS, OPENERS, ANSWER_MARKERS, *((label,) for label in LABELS)] if self.is_toy else []
        return matched_random_tokens(
            self.calibration_rollouts(), words, draws=draws, seed=seed, keep=keep, exclude=self.words, model=self.model
        )

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
        asked = self.lab.tracer.asked
        return {cell: why for cell, why in self.lab.baseline.failures().items() if cell.problem in asked}

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

    def settled(self, setup: Setup) -> Study:
        """This study with the options filled in that hang on the model; itself where there are none."""
        return self

    def check(self, setup: Setup) -> None:
        """Refuse, with an `InputError`, options that do not go with model, words or problems, before decoding."""
        return  # most studies have nothing more to look at

    def other_models(self) -> tuple[str, ...]:
        """Models whose baselines are needed beside the model's own."""
        return ()

    def probing(self) -> dict[str, Any]:
        """What the baseline is to hold beside nHSIC: fields of :class:`analyses.trace.reread.Probing`."""
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
class Spec:
    """All a process needs to work on a study; it pickles."""

    study: Study
    problems: tuple[Problem, ...]
    options: TraceSettings
    words: str
    baseline: Path
    out: Path
    calibrating: tuple[str, ...] = ()

    def lab(self, model: Bridge, calibration: Calibration | None) -> Lab:
        baseline = Run.open(self.baseline)
        return Lab(model, self.problems, self.options, baseline, self.words, calibration, self.calibrating)

    def start(self, lab: Lab) -> tuple[Run, dict[str, Condition]]:
        """The study's run, new or gone on with, and its conditions."""
        named = list(self.study.conditions(lab))
        conditions = {condition.name: condition for condition in named}
        if len(conditions) < len(named) or not all(conditions) or "baseline" in conditions:
            raise InputError(
                f"study {self.study.name}",
                expected='conditions of different names, none of them empty or "baseline"',
                received=", ".join(repr(condition.name) for condition in named)[:200],
                remedy="Name each condition after what it changes.",
            )
        pins = lab.baseline.settings
        calibrated = self.study.calibrates(lab)
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
                "layers": list(lab.layers),
                **({"calibration": lab.calibration.pins()} if calibrated else {}),
            },
            provenance=lab.tracer.provenance,
            may_grow=("problems",),
            noted=("model", "baseline.model", "baseline.thinking_markers", "baseline.final_prompts"),
            judge=lab.tracer.judge,
            correctable=True,
            need_bytes=64 * len(conditions) * len(lab.cells()) * self.options.max_new_tokens,
        )
        if calibrated:
            lab.calibration.store(run.path)
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
        lab = self.spec.lab(model, Calibration.read(self.spec.out))
        return self.spec.work(lab, *self.spec.start(lab))


def layers_of(text: str, setup: Setup, operation: str) -> tuple[int, ...]:
    """The layers that an option names: "all", or numbers separated by commas, negative from the end."""
    if text == "all":
        return resolve_layers("all", setup.facts.n_layers, operation)
    wanted = [int(number) for number in text.split(",")]
    found = resolve_layers(wanted, setup.facts.n_layers, operation)
    if len(found) < len(wanted):
        raise InputError(operation, expected="no layer twice", received=f"layers={text}", remedy="Name it once.")
    return found


def scored_layers(text: str, setup: Setup, operation: str) -> tuple[int, ...]:
    """The layers that an option names among those whose nHSIC the run has ("all" are all of these)."""
    if text == "all":
        return setup.layers
    found = layers_of(text, setup, operation)
    missing = [layer for layer in found if layer not in setup.layers]
    if missing:
        raise InputError(
            operation,
            expected=f"layers whose nHSIC the run has: {', '.join(map(str, setup.layers))} ({setup.site})",
            received=f"layers={text}",
            remedy="Choose among these, or score more layers (--layers).",
        )
    return found


def checked_words(named: Sequence[str], setup: Setup, operation: str, option: str) -> None:
    """Refuse words that are none of the run's thinking words."""
    unknown = [word for word in named if word not in setup.words]
    if unknown:
        raise InputError(
            operation,
            expected=f"{option} among the thinking words {', '.join(setup.words)}",
            received=", ".join(unknown),
            remedy="Give them with --words.",
        )


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

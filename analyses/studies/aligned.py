"""What studies of information share: residual streams at places that all responses have, and the labels to be told.

1. Each response of the baseline is read once more, and its residual streams at the places
   (:mod:`analyses.studies.places`) are kept in the study's cells, with the answer's representation.
2. ``layers(data)`` gives them back a layer at a time, ``[place, problem, d_model]``: memory holds as many layers as fit
   into 1 GiB (`MAX_BYTES`), at least one, and the layer given.
3. ``targets(data)`` are the discrete labels: the gold answer, the answer the response states, and on the toys the
   running value at each place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from analyses.grading import reading_of, stated_answer
from analyses.store.run import Cell, Run
from analyses.studies.base import CellContent, Condition, Study, StudyData
from analyses.studies.lab import Lab
from analyses.studies.options import option
from analyses.studies.places import ALIGNMENTS, Place, places_of, steps_at
from analyses.studies.setup import Setup, checked_words
from analyses.work.scheduler import Report
from interp.errors import InputError
from interp.interventions.suppress import flat_ids
from probes.vinformation import MIN_PROBLEMS_PER_FOLD, VInformation, v_information

__all__ = ["AlignedStudy", "Gathered", "Target", "check_answers", "label_answers", "present", "usable_bits"]

UNKNOWN = -1
MAX_BYTES = 2**30  # residual streams held at a time


@dataclass(frozen=True)
class Target:
    """Discrete labels, one a problem, or one a place and problem.

    Attributes:
        name: answer, stated or running.
        labels: ``[problem]`` or ``[place, problem]``; -1 where there is none.
        names: of the labels.
        grouped: whether answers were too many and stand for their last digit.
    """

    name: str
    labels: Int64[Tensor, "*place problem"]
    names: tuple[str, ...]
    grouped: bool


@dataclass(frozen=True)
class Gathered:
    """One layer of all responses at all places."""

    layer: int
    residuals: Float[Tensor, "place problem d_model"]
    answers: Float[Tensor, "problem d_model"]


@dataclass(frozen=True)
class AlignedStudy(Study):
    """A study of representations at places that all responses have.

    Options:
        align: relative (share of the response), end (steps before its last), event (around the k-th token of a kind).
        points: places of the alignment relative; last: places of the alignment end.
        event_words: whose k-th token is an event; all thinking words unless given.
        events: which k of the alignment event; window: steps before and after it.
        max_answers: with more different answers than this, their last digit is the label.
    """

    align: tuple[str, ...] = option(ALIGNMENTS, among=ALIGNMENTS)
    points: int = option(11, least=2)
    last: int = option(8, least=1)
    event_words: tuple[str, ...] = option((), empty=True)
    events: tuple[int, ...] = option((1,), least=1)
    window: int = option(4, least=0)
    max_answers: int = option(12, least=2)

    condition: ClassVar[str] = "places"

    @cached_property
    def places(self) -> list[Place]:
        return places_of(self.align, self.points, self.last, self.events, self.window)

    def check(self, setup: Setup) -> None:
        checked_words(self.event_words, setup, f"study {self.name}", "event_words")

    def conditions(self, lab: Lab) -> Sequence[Condition]:
        return [Condition(self.condition)]

    def do(self, lab: Lab, condition: Condition, cells: Sequence[Cell], report: Report) -> list[CellContent]:
        chosen = set(flat_ids({word: lab.words[word] for word in self.event_words or lab.words}))
        layers = list(lab.layers)
        found: list[CellContent] = []
        for cell in cells:
            data = lab.read(cell)
            ids = data.tensors["token_ids"]
            steps = steps_at(self.places, len(ids), [at for at, token in enumerate(ids.tolist()) if token in chosen])
            streams = lab.tracer.read_steps(data, layers)
            index = torch.tensor(steps)
            kept = streams[:, index.clamp(min=0)].cpu()
            tensors = {
                "residuals": kept,
                "steps": index,
                "answer": lab.tracer.answers(cell.problem, layers).cpu(),
            }
            found.append((tensors, {"layers": layers}))
            report(len(ids))
        return found

    def responses_here(self, data: StudyData) -> list[Cell]:
        """The cells there are, one a problem: samples of one problem are not independent."""
        mine = set(data.lab.cells(self.condition))
        return [cell for cell in data.run.cells(self.condition) if cell in mine and cell.sample == 0]

    def steps(self, data: StudyData) -> Int64[Tensor, "place problem"]:
        """The step of each place in each response, -1 where it has none."""
        return torch.stack([data.run.tensor(cell, "steps") for cell in self.responses_here(data)], dim=1)

    def layers(self, data: StudyData) -> Iterator[Gathered]:
        """Residual streams by layer: each cell is read once where all of them fit into `MAX_BYTES`, else some layers at
        a time.
        """
        cells, layers = self.responses_here(data), data.lab.layers
        layer_bytes = 4 * len(cells) * (len(self.places) + 1) * data.lab.facts.d_model
        some = max(1, MAX_BYTES // max(1, layer_bytes))
        for begin in range(0, len(layers), some):
            held = [_rows_of(data.run, cell, begin, begin + some, len(layers)) for cell in cells]
            for row, layer in enumerate(layers[begin : begin + some]):
                residuals = torch.stack([streams[row].float() for streams, _ in held], dim=1)
                yield Gathered(layer, residuals, torch.stack([answer[row].float() for _, answer in held]))

    def targets(self, data: StudyData, steps: Int64[Tensor, "place problem"]) -> list[Target]:
        """Labels to be told from representations; stated answers of too many kinds are no labels.

        Raises:
            InputError: too many different gold answers, and no numbers.
        """
        cells = self.responses_here(data)
        texts = [data.lab.baseline.payload(Cell(cell.problem, cell.sample)) for cell in cells]
        gold = [data.lab.problems[cell.problem].answer for cell in cells]
        stated = [stated_answer(payload, reading_of(data.run.settings)).text for payload in texts]
        found = [label_answers("answer", gold, self.max_answers)]
        try:
            found.append(label_answers("stated", stated, self.max_answers))
        except InputError:  # what a model says is no reason to lose what the gold answers tell
            found.append(Target("stated", torch.full((len(cells),), UNKNOWN), (), False))
        if data.lab.is_toy:
            from analyses.toys.running import running_values

            running = torch.full(steps.shape, UNKNOWN)
            for n, payload in enumerate(texts):
                values = running_values(payload["tokens"])
                for p, step in enumerate(steps[:, n].tolist()):
                    value = values[step] if step >= 0 else None
                    running[p, n] = UNKNOWN if value is None else value
            found.append(Target("running", running, tuple("0123456789"), False))
        return found


def label_answers(name: str, answers: Sequence[str], most: int) -> Target:
    """Answers as labels: each its own, or the last digit of a whole number where there are more than ``most``.

    >>> label_answers("answer", ["4", "7", "4", ""], most=10).labels.tolist()
    [0, 1, 0, -1]
    >>> label_answers("answer", [str(n) for n in range(40)], most=10).labels.tolist()[:12]
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]

    A problem without an answer, or whose answer is no whole number where digits are needed, has label -1.
    """
    known = Counter(answer for answer in answers if answer)
    if len(known) <= most:
        names = tuple(sorted(known))
        place = {answer: k for k, answer in enumerate(names)}
        return Target(name, torch.tensor([place.get(answer, UNKNOWN) for answer in answers]), names, False)
    digits = [
        answer.replace(",", "")[-1] if answer.replace(",", "").lstrip("-").isdecimal() else "" for answer in answers
    ]
    if sum(map(bool, digits)) < len(answers) / 2:
        raise InputError(
            "label answers",
            expected=f"at most {most} different answers, or whole numbers, whose last digit is then the label",
            received=f"{len(known)} different answers, {sum(map(bool, digits))} of {len(answers)} whole numbers",
            remedy="Choose problems of one kind, or raise max_answers.",
        )
    return Target(name, torch.tensor([int(digit) if digit else UNKNOWN for digit in digits]), tuple("0123456789"), True)


def usable_bits(
    x: Float[Tensor, "place problem d_model"],
    labels: Int64[Tensor, "place problem"],
    valid: Bool[Tensor, "place problem"],
    *,
    probe: str,
    folds: int,
    seed: int,
    n_classes: int,
    control: bool = True,
) -> VInformation:
    """V-information at each place, NaN where too few responses have it or its label, also where that is everywhere."""
    known = valid.sum(dim=1)
    if int(known.max()) >= MIN_PROBLEMS_PER_FOLD * folds:
        options: dict[str, Any] = {"probe": probe, "folds": folds, "seed": seed, "n_classes": n_classes}
        return v_information(x, labels, valid=valid, control=control, **options)
    nothing = torch.full(known.shape, float("nan"), dtype=torch.float64)
    columns = dict.fromkeys(("bits", "low", "high", "entropy", "control_bits", "accuracy"), nothing)
    each = torch.full(valid.shape, float("nan"), dtype=torch.float64)
    return VInformation(**columns, n=known, probe=probe, folds=folds, level=0.95, seed=seed, each=each)


def _rows_of(
    run: Run, cell: Cell, begin: int, end: int, layers: int
) -> tuple[Shaped[Tensor, "layer place d_model"], Shaped[Tensor, "layer d_model"]]:
    """Residual streams and answer of a cell at some of its layers."""
    if begin == 0 and end >= layers:
        tensors = run.read(cell).tensors  # all of it, so its checksum is looked at too
        return tensors["residuals"], tensors["answer"]
    return run.tensor(cell, "residuals", slice(begin, end)), run.tensor(cell, "answer", slice(begin, end))


def check_answers(operation: str, answers: Sequence[str], most: int, folds: int) -> None:
    """Refuse, before anything is decoded, problems that can give no bits about the gold answer."""
    target = label_answers("answer", answers, most)
    known, needed = int((target.labels >= 0).sum()), MIN_PROBLEMS_PER_FOLD * folds
    if known < needed:
        raise InputError(
            operation,
            expected=f"at least {needed} problems, {MIN_PROBLEMS_PER_FOLD} for each of {folds} folds",
            received=f"{known} problems" + (" whose answer is a number" if target.grouped else ""),
            remedy="Take more problems with --n.",
        )
    if int(target.labels[target.labels >= 0].unique().numel()) < 2:
        raise InputError(
            operation,
            expected="problems of at least two different answers",
            received=f"the same in all {known}",
            remedy="Choose more problems.",
        )


def present(target: Target, steps: Int64[Tensor, "place problem"]) -> Bool[Tensor, "place problem"]:
    """Where a response has both the place and a label."""
    return (steps >= 0) & (target.labels >= 0)

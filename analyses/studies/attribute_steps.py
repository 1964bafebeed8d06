"""The shares of one response, step by step: which steps the study asks about, and what each component wrote there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from analyses.attribution import logit_attribution, mi_attribution
from analyses.attribution.logits import BEST_OTHER
from analyses.store.columns import INPUT, PREDICTED
from analyses.store.run import Cell
from analyses.studies.base import CellContent, stable_order
from analyses.studies.lab import Lab
from analyses.studies.setup import Setup
from analyses.token_kinds import token_kinds
from analyses.trace.others import OtherReferences
from analyses.trace.trajectory import peaks_where_defined
from interp.interventions.suppress import flat_ids

if TYPE_CHECKING:
    import pandas

__all__ = ["LOGIT", "OTHERS", "PEAKS", "WRONG", "Asks", "ResponseShares", "own_measure"]

PEAKS, OTHERS, WRONG = "peaks", "non-peaks", "wrong answers' peaks"
"""Groups of steps; classes of tokens are others."""

LOGIT = "logit"
"""What stands for a measure where shares are of a logit."""

Rows = list[tuple[dict[str, Any], Tensor]]
"""What each row of shares is of, and the shares."""


@runtime_checkable
class Asks(Protocol):
    """What a study asks of a response: the options of :class:`analyses.studies.attribute.Attribute`."""

    @property
    def most(self) -> int: ...
    @property
    def measures(self) -> tuple[str, ...]: ...
    @property
    def wrong(self) -> int: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def positions(self) -> tuple[str, ...]: ...
    @property
    def seed(self) -> int: ...


def own_measure(lab: Setup) -> str:
    """The run's own score."""
    return f"nhsic/drop{lab.options.drop_top}" if lab.options.drop_top else "nhsic"


class ResponseShares:
    """One response: which of its steps are asked about, and the shares there."""

    def __init__(self, study: Asks, lab: Lab, cell: Cell, others: OtherReferences | None) -> None:
        self.study, self.lab, self.cell, self.others = study, lab, cell, others
        self.data = lab.read(cell)
        self.prompt, self.ids = self.data.tensors["prompt_ids"], self.data.tensors["token_ids"]
        self.scores = lab.scores(cell)
        predicted = self.ids.tolist()
        self.kinds = {
            PREDICTED: self._kinds(predicted),
            INPUT: self._kinds([int(self.prompt[-1]), *predicted[:-1]]),
        }

    def _kinds(self, ids: Sequence[int]) -> list[str]:
        """Kinds of tokens; the run's thinking words are one of their own."""
        thinking = set(flat_ids(self.lab.words))
        found = token_kinds(self.lab.facts.tokenizer, ids)
        return ["thinking" if token in thinking else kind for token, kind in zip(ids, found, strict=True)]

    def content(self, layers: Sequence[int]) -> CellContent:
        scores: Rows = []
        names: dict[tuple[Any, ...], None] = {}
        for layer in layers:
            scores += self._at(layer, names)
        logits, others = self._logits()
        return (
            {"scores": _stacked(scores, len(names)), "logits": _stacked(logits, len(others))},
            {
                "scores": {"rows": [row for row, _ in scores], "components": list(names)},
                "logits": {"rows": [row for row, _ in logits], "components": list(others)},
            },
        )

    def _at(self, layer: int, names: dict[tuple[Any, ...], None]) -> Rows:
        """Shares in the scores of a layer."""
        row = self.lab.layers.index(layer)
        own = self.lab.tracer.answers(self.cell.problem, [layer])[0]
        if not bool(own.isfinite().all()):  # a reference without this position
            return []
        beside = self._others(layer)
        measure = own_measure(self.lab)
        plain = list(dict.fromkeys([measure, *self.study.measures]))
        excess = [] if beside is None or len(beside) < 2 else [f"{measure} excess"]
        peaks = peaks_where_defined(self.scores[row : row + 1], self.lab.options.tau)[0]
        highest = self._highest(self.scores[row], peaks)
        groups = {PEAKS: highest, OTHERS: self._matched(highest, peaks)}
        found = self._shares(layer, own, beside, [*plain, *excess], groups, peaks, names)
        for vector in () if beside is None else beside[: self.study.wrong]:
            stream = self.lab.tracer.read_steps(self.data, [layer])
            scores = self.lab.tracer.score(stream, vector[None].to(stream.device))[0].cpu()
            theirs = peaks_where_defined(scores[None], self.lab.options.tau)[0]
            groups = {WRONG: self._highest(scores, theirs)}
            found += self._shares(layer, vector, None, plain, groups, theirs, names)
        for position, groups in self._classes():
            more = self._shares(layer, own, beside, [measure, *excess], groups, peaks, names)
            found += [({**row, "position": position}, shares) for row, shares in more]
        return found

    def _others(self, layer: int) -> Tensor | None:
        """The other answers' references that the run scored this response beside."""
        if self.others is None:
            return None
        rows = [self.others.known[name] for name in self.others.drawn(self.cell.problem).problems]
        return self.others.vectors[self.others.positions[0], layer][rows] if rows else None

    def _highest(self, scores: Tensor, peaks: Tensor) -> list[int]:
        """The highest peaks, in their order."""
        steps: list[int] = peaks.nonzero()[:, 0].tolist()
        return sorted(sorted(steps, key=lambda step: (-float(scores[step]), step))[: self.study.most])

    def _matched(self, steps: Sequence[int], peaks: Tensor) -> list[int]:
        """For each step the nearest that is no peak and has read a token of the same kind, none twice."""
        kinds, found = self.kinds[INPUT], []
        for step in steps:
            alike = [
                other
                for other, kind in enumerate(kinds)
                if kind == kinds[step] and not peaks[other] and other not in found
            ]
            if alike:
                found.append(min(alike, key=lambda other: (abs(other - step), other)))
        return sorted(found)

    def _classes(self) -> Iterator[tuple[str, dict[str, list[int]]]]:
        """By position, the steps of each class that the lot has drawn."""
        lot = f"{self.study.seed}:{self.cell.problem}:{self.cell.sample}"
        for position in self.study.positions:
            groups = {}
            for name in self.study.classes:
                steps = [str(step) for step, kind in enumerate(self.kinds[position]) if kind == name]
                groups[name] = sorted(map(int, stable_order(steps, lot)[: self.study.most]))
            yield position, groups

    def _shares(
        self, layer: int, answer: Tensor, others: Tensor | None, measures: Sequence[str],
        groups: Mapping[str, Sequence[int]], peaks: Tensor, names: dict[tuple[Any, ...], None],
    ) -> Rows:  # fmt: skip
        """A row for each group's step and measure; against the mean of steps that are neither asked about nor peaks."""
        asked = sorted({step for steps in groups.values() for step in steps})
        ordinary = [step for step in range(len(peaks)) if not peaks[step] and step not in asked]
        if not asked or not ordinary:
            return []
        options = self.lab.options
        found = mi_attribution(
            self.lab.model, self.prompt, self.ids, asked, layer=layer, answer=answer, others=others, measures=measures,
            sigma=options.sigma, eps=options.eps, reference=ordinary, tau=options.tau, total="none", sources=0,
        )  # fmt: skip
        table = found.shares
        components = _components(table.iloc[: len(table) // (len(asked) * len(measures))])
        names.update(dict.fromkeys(components))
        shares = torch.tensor(table["share"].to_numpy(dtype=float)).reshape(len(asked), len(measures), -1)
        missing = found.ends["missing"].to_numpy(dtype=float).reshape(len(asked), len(measures))
        return [
            (
                {"scored": layer, "measure": measure, "group": group, "step": step, "missing": _plain(missing[at, n])},
                shares[at, n],
            )
            for group, steps in groups.items()
            for step in steps
            for at in [asked.index(step)]
            for n, measure in enumerate(measures)
        ]

    def _logits(self) -> tuple[Rows, list[tuple[Any, ...]]]:
        """Shares in the logits of what the steps of each class predict, less those of the best other tokens."""
        chosen = [
            (position, group, step)
            for position, groups in self._classes()
            for group, steps in groups.items()
            for step in steps
        ]
        asked = sorted({step for *_, step in chosen})
        if not asked:
            return [], []
        table = logit_attribution(self.lab.model, self.prompt, self.ids, asked, contrast=BEST_OTHER)
        components = _components(table.iloc[: len(table) // len(asked)])
        shares = torch.tensor(table["share"].to_numpy(dtype=float)).reshape(len(asked), -1)
        last = self.lab.facts.n_layers - 1
        return [
            (
                {"scored": last, "measure": LOGIT, "group": group, "step": step, "position": position},
                shares[asked.index(step)],
            )
            for position, group, step in chosen
        ], components


def _components(table: pandas.DataFrame) -> list[tuple[Any, ...]]:
    whole = table[["layer", "head"]].fillna(-1).astype(int)
    columns = (table["component"], table["kind"], whole["layer"], whole["head"])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _stacked(rows: Rows, width: int) -> Tensor:
    """All rows, those of a lower layer filled up with NaN: its components are the first of the higher one's."""
    found = torch.full((len(rows), width), torch.nan, dtype=torch.float64)
    for n, (_, shares) in enumerate(rows):
        found[n, : len(shares)] = shares
    return found


def _plain(value: float) -> float | None:
    """What JSON can hold."""
    return float(value) if value == value else None

"""Cross-fitting: problems in folds, each held out in turn, and a part of the others set aside for choices.

1. Units come in a random order: problems, or whole groups of samples of one problem, which never part.
2. The fold of a unit is its place in that order modulo the number of folds: folds differ by a unit at the most.
3. In the turn of a fold it tests; of all others one unit in four chooses (ridge strengths, say), the rest trains.

So every problem is tested once, by an estimate that saw neither it nor another sample of its group.
Source: Stone 1974, Cross-validatory choice and assessment of statistical predictions; Chernozhukov et al. 2018
(cross-fitting).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from probes.checks import check_whole
from probes.errors import InputError
from probes.samples import check_groups, units_of

__all__ = ["Folds", "Split"]

_INNER = 4  # one training unit in four chooses


@dataclass(frozen=True)
class Split:
    """The turn of one fold: numbers of the problems, ascending, that train, choose and are tested."""

    train: Int64[Tensor, " train"]
    choose: Int64[Tensor, " choose"]
    test: Int64[Tensor, " test"]


@dataclass(frozen=True)
class Folds:
    """Which fold each of n problems is in. Made by `Folds.draw`.

    `unit_of` numbers the unit (problem, or group) of each problem, for what else goes by whole units, as a bootstrap
    does; `chooses` says who is set aside for choices in the turns of other folds.
    """

    count: int
    fold: Int64[Tensor, " n"]
    chooses: Bool[Tensor, " n"]
    unit_of: Int64[Tensor, " n"]

    @classmethod
    def draw(
        cls,
        n: int,
        count: int = 5,
        *,
        generator: torch.Generator,
        groups: Tensor | None = None,
        operation: str = "Folds",
    ) -> Folds:
        """`count` folds of `n` problems, drawn on the CPU: the device does not change them.

        >>> groups = torch.arange(40) // 2  # two samples of each of twenty problems
        >>> folds = Folds.draw(40, 5, groups=groups, generator=torch.Generator().manual_seed(0))
        >>> [(len(split.train), len(split.choose), len(split.test)) for split in folds]
        [(24, 8, 8), (24, 8, 8), (24, 8, 8), (24, 8, 8), (24, 8, 8)]

        Raises `InputError` for fewer than 2 folds, for more folds than units and for groups that are not n whole
        numbers; `operation` is what it names.
        """
        check_whole(operation, "folds", count, 2, "The usual choice is 5.")
        check_groups(operation, n, groups)
        unit_of = units_of(n, groups)
        n_units = int(unit_of.max()) + 1 if n else 0
        if n_units < count:
            raise InputError(
                operation,
                expected=f"a {'problem' if groups is None else 'group'} or more for each of {count} folds",
                received=str(n_units),
                remedy="Take fewer folds or more problems.",
            )
        rank = torch.randperm(n_units, generator=generator)[unit_of]
        return cls(count, rank % count, rank // count % _INNER == 0, unit_of)

    @property
    def n_units(self) -> int:
        """How many problems, or groups, there are."""
        return int(self.unit_of.max()) + 1

    def to(self, device: torch.device) -> Folds:
        """The same folds on a device."""
        return replace(
            self, fold=self.fold.to(device), chooses=self.chooses.to(device), unit_of=self.unit_of.to(device)
        )

    def __iter__(self) -> Iterator[Split]:
        """The turns, fold by fold."""
        for mine in self._masks():
            train, choose, test = (mask.nonzero()[:, 0] for mask in mine)
            yield Split(train, choose, test)

    def cover(self, valid: Tensor) -> Bool[Tensor, "*lead"]:
        """Whether each place of `valid [*lead, n]` has problems to train, to choose and to test in every turn."""
        enough = torch.ones(valid.shape[:-1], dtype=torch.bool, device=valid.device)
        for masks in self._masks():
            for mask in masks:
                enough &= (valid & mask).any(dim=-1)
        return enough

    def _masks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for f in range(self.count):
            held = self.fold == f
            yield ~held & ~self.chooses, ~held & self.chooses, held

"""Shares of components over many responses: means over problems with intervals, contrasts, rank correlations.

A row of shares is one step of one response, as one measure has it; it belongs to a group of steps. Steps of a problem
are averaged first, its samples with them: intervals and tests are over problems.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from analyses.stats import bootstrap_interval, holm, mean_intervals, sign_flips

if TYPE_CHECKING:
    import pandas

__all__ = ["BY", "AllShares", "Contrast", "Unit", "agreements", "profiles"]

BY = ("scored", "measure")
"""What tells one table of shares from another: the layer whose score it is, and the measure."""

_KINDS = {
    "embed": "embedding", "pos_embed": "embedding", "head": "head", "attn_bias": "attention bias", "mlp": "MLP",
}  # fmt: skip
_COLUMNS = (
    "component", "kind", "layer", "head", "share", "low", "high", "total", "p", "p_holm", "steps", "problems",
)  # fmt: skip
_AGREEING = (
    "scored", "measure", "group", "against_measure", "against_group", "spearman", "low", "high", "of_means", "problems",
)  # fmt: skip


class Unit(NamedTuple):
    """What shares are told of: a component, or all of a kind in a layer; without a layer or head that is -1."""

    component: str
    kind: str
    layer: int
    head: int


class Contrast(NamedTuple):
    """Two groups of steps, compared within problems."""

    first: str
    second: str

    @property
    def name(self) -> str:
        """As the tables call it.

        >>> Contrast("peaks", "non-peaks").name
        'peaks less non-peaks'
        """
        return f"{self.first} less {self.second}"


@dataclass(frozen=True)
class AllShares:
    """Shares of all responses.

    Attributes:
        told: ``problem``, `BY`, ``group`` and more of each row.
        values: the shares, NaN where a row is of a layer below the unit.
        units: which columns they are.
    """

    told: pandas.DataFrame
    values: Float64[np.ndarray, "row unit"]
    units: tuple[Unit, ...]

    @classmethod
    def of(cls, cells: Sequence[Mapping[str, Any]], shares: Sequence[Float64[np.ndarray, "..."]]) -> AllShares:
        """From the ``problem``, the ``rows`` and the ``components`` of each cell, and its shares.

        >>> cell = {"problem": "a", "rows": [{"scored": 2, "measure": "r2", "group": "peaks"}]}
        >>> found = AllShares.of([{**cell, "components": [("L0H1", "head", 0, 1)]}], [np.array([[0.5]])])
        >>> found.units, found.told["group"].tolist()
        ((Unit(component='L0H1', kind='head', layer=0, head=1),), ['peaks'])
        """
        import pandas as pd

        units = dict.fromkeys(Unit(*one) for cell in cells for one in cell["components"])
        place = {unit: n for n, unit in enumerate(units)}
        told = [{"problem": cell["problem"], **row} for cell in cells for row in cell["rows"]]
        values, begin = np.full((len(told), len(units)), math.nan), 0
        for cell, some in zip(cells, shares, strict=True):
            end = begin + len(some)
            if len(some):
                values[begin:end, [place[Unit(*one)] for one in cell["components"]]] = some
            begin = end
        return cls(pd.DataFrame(told, columns=None if told else ["problem", *BY, "group"]), values, tuple(units))

    def by_layer(self) -> AllShares:
        """The same, summed over all components of a kind in a layer."""
        keys: dict[Unit, list[int]] = {}
        for n, unit in enumerate(self.units):
            kind = _KINDS.get(unit.kind, unit.kind.replace("_", " "))
            name = kind if unit.layer < 0 else f"L{unit.layer} {kind}"
            keys.setdefault(Unit(name, kind, unit.layer, -1), []).append(n)
        sums = [self.values[:, places].sum(axis=1) for places in keys.values()]
        values = np.stack(sums, axis=1) if sums else self.values
        return AllShares(self.told, values, tuple(keys))

    def of_group(self, group: str, within: Any) -> _Means:
        """Means over the steps of each problem, of the rows of a group that are also `within`."""
        rows = np.flatnonzero(within & (self.told["group"] == group).to_numpy(dtype=bool))
        values = self.values[rows]
        units = np.flatnonzero(np.isfinite(values).any(axis=0))
        problems, which = np.unique(self.told["problem"].to_numpy(dtype=str)[rows], return_inverse=True)
        steps = np.bincount(which, minlength=len(problems))
        sums = np.zeros((len(problems), len(units)))
        np.add.at(sums, which, values[:, units])
        return _Means(problems, steps, sums / steps[:, None], tuple(self.units[n] for n in units))


@dataclass(frozen=True)
class _Means:
    """Mean shares of each problem in a group of steps, and how many steps these are of."""

    problems: np.ndarray
    steps: np.ndarray
    values: Float64[np.ndarray, "problem unit"]
    units: tuple[Unit, ...]

    def beside(self, other: _Means) -> tuple[_Means, _Means]:
        """Both, of the problems that both have."""
        _, mine, its = np.intersect1d(self.problems, other.problems, return_indices=True)
        return self._only(mine), other._only(its)

    def _only(self, rows: np.ndarray) -> _Means:
        return _Means(self.problems[rows], self.steps[rows], self.values[rows], self.units)

    def less(self, other: _Means) -> _Means:
        first, second = self.beside(other)
        if not len(first.problems):
            return first
        return _Means(first.problems, first.steps + second.steps, first.values - second.values, first.units)


def profiles(
    shares: AllShares, groups: Sequence[str], contrasts: Sequence[Contrast] = (), *, by: Sequence[str] = BY,
    draws: int, seed: int,
) -> pandas.DataFrame:  # fmt: skip
    """Mean shares by group of steps, and their contrasts: a row each unit, measure and layer scored.

    Columns, after `by` and ``group``: the unit's, ``share`` with ``low`` and ``high`` (percentiles of a bootstrap over
    problems), ``total`` (the mean sum of all shares), of contrasts ``p`` (sign flips over problems) and ``p_holm``
    (over the units), ``steps`` and ``problems``. Of a contrast these are the problems with both.
    """
    import pandas as pd

    rows: list[pd.DataFrame] = []
    for key, part in shares.told.groupby(list(by), sort=False):
        within = np.zeros(len(shares.told), dtype=bool)
        within[part.index] = True
        means = {group: shares.of_group(group, within) for group in groups}
        wanted = [(group, means[group], False) for group in groups]
        wanted += [(one.name, means[one.first].less(means[one.second]), True) for one in contrasts]
        for group, found, tested in wanted:
            if len(found.problems):
                told = dict(zip((*by, "group"), (*key, group), strict=True))
                rows.append(_rows(told, found, draws, seed, tested))
    if not rows:
        return pd.DataFrame(columns=[*by, "group", *_COLUMNS])
    table = pd.concat(rows, ignore_index=True)
    return table.assign(p_holm=holm(table["p"])) if contrasts else table


def _rows(told: Mapping[str, Any], found: _Means, draws: int, seed: int, tested: bool) -> pandas.DataFrame:
    import pandas as pd

    mean, low, high = mean_intervals(found.values, draws=draws, seed=seed)
    rows = pd.DataFrame([unit._asdict() for unit in found.units])
    for name in ("layer", "head"):
        rows[name] = pd.array([None if value < 0 else value for value in rows[name]], dtype="Int64")
    nothing = np.full(len(rows), math.nan)
    p = sign_flips(found.values, seed=seed) if tested and len(found.values) > 1 else nothing
    rows = rows.assign(
        share=mean, low=low, high=high, total=float(mean.sum()), p=p, p_holm=nothing,
        steps=int(found.steps.sum()), problems=len(found.problems),
    )  # fmt: skip
    for place, (name, value) in enumerate(told.items()):
        rows.insert(place, name, value)
    return rows


def agreements(
    shares: AllShares, pairs: Sequence[tuple[tuple[str, str], tuple[str, str]]], *, draws: int, seed: int
) -> pandas.DataFrame:
    """Whether two (measure, group) rank units alike: Spearman in each problem, its mean with an interval.

    Columns: ``scored``; ``measure`` and ``group``, ``against_measure`` and ``against_group``; ``spearman``, ``low``,
    ``high`` (bootstrap over problems), ``of_means`` (of the means over problems), ``problems``. A problem whose shares
    do not vary has none.
    """
    import pandas as pd

    rows = [
        {"scored": scored, **row}
        for scored in shares.told["scored"].unique()
        for row in _agreements(shares, scored, pairs, draws, seed)
    ]
    return pd.DataFrame(rows, columns=list(_AGREEING))


def _agreements(
    shares: AllShares, scored: Any, pairs: Sequence[Any], draws: int, seed: int
) -> Iterator[dict[str, Any]]:
    layer = (shares.told["scored"] == scored).to_numpy(dtype=bool)
    for pair in pairs:
        both = [
            shares.of_group(group, layer & (shares.told["measure"] == measure).to_numpy(dtype=bool))
            for measure, group in pair
        ]
        first, second = both[0].beside(both[1])
        if not len(first.problems):
            continue
        each = [_spearman(a, b) for a, b in zip(first.values, second.values, strict=True)]
        known = [value for value in each if value == value]
        found = bootstrap_interval(known, draws=draws, seed=seed) if known else None
        yield {
            "measure": pair[0][0], "group": pair[0][1], "against_measure": pair[1][0], "against_group": pair[1][1],
            "spearman": math.nan if found is None else found.estimate,
            "low": math.nan if found is None else found.low,
            "high": math.nan if found is None else found.high,
            "of_means": _spearman(first.values.mean(axis=0), second.values.mean(axis=0)),
            "problems": len(known),
        }  # fmt: skip


def _spearman(a: Float64[np.ndarray, " unit"], b: Float64[np.ndarray, " unit"]) -> float:
    """NaN where either does not vary, or for fewer than three."""
    from scipy.stats import rankdata

    x, y = rankdata(a), rankdata(b)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])

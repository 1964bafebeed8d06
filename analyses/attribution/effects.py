"""What patching found: effects of nodes or edges, estimated for all and exact for some, and how well the two agree.

One file holds one result: the table as Parquet, the settings as JSON in its metadata. What is read back is what was
written, digit for digit.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas

from analyses.store.atomic import disk_errors, make_folder, replacing
from interp.arguments import Whole, as_text, as_whole
from interp.display import details_table, table
from interp.errors import InputError

__all__ = ["EdgeEffects", "Effects", "NodeEffects", "SampleAgreement"]

E = TypeVar("E", bound="Effects")

_FORMAT = b"peaklens_effects"
_SHOWN = 20
_TOLD = ("model", "method", "metric", "against", "direction", "step", "pairs", "clean", "corrupt", "gap")


@dataclass(frozen=True)
class SampleAgreement:
    """How estimates compare with exact effects over a random sample, drawn before anything was estimated.

    Attributes:
        n: how many were drawn.
        spearman: rank correlation of estimate and exact effect; NaN where either does not vary.
        worst: the one whose estimate is farthest off, "" without a sample.
        score, exact: its estimate and its effect.
    """

    n: int
    spearman: float
    worst: str
    score: float
    exact: float

    @property
    def miss(self) -> float:
        """How far the worst estimate is off, in the metric's unit."""
        return abs(self.score - self.exact)

    def __str__(self) -> str:
        if not self.n:
            return "no random sample was verified"
        told = f"Spearman {self.spearman:.3f} over {self.n} drawn at random"
        return f"{told}; farthest off {self.worst}: {self.score:.4g} estimated, {self.exact:.4g} exact"


@dataclass(frozen=True, eq=False, repr=False)
class Effects:
    """Effects of parts of a model on a metric, a row each and position; positive: the clean value raises the metric.

    Attributes:
        table: the rows, in the order of the forward pass. ``score`` is the estimate, ``exact`` the effect by
            intervention (NaN where it was not asked for), ``share`` and ``exact_share`` both over the gap between the
            metric of the clean and the corrupted run: NaN where there is no gap.
        settings: model and weights, metric, what was compared (``texts`` as token ids), step, seed, versions, and the
            metric of both runs.
    """

    table: pandas.DataFrame
    settings: dict[str, Any]

    _what: ClassVar[str] = "effects"
    _name: ClassVar[tuple[str, ...]] = ("node", "position")

    @property
    def gap(self) -> float:
        """The metric of the clean run less that of the corrupted one; NaN against a mean or zero, which is no run."""
        return float(self.settings["gap"])

    @property
    def is_flat(self) -> bool:
        """Whether both runs have the same metric to rounding, so that no effect is a share of anything."""
        return bool(self.settings["flat"])

    @property
    def verified(self) -> pandas.DataFrame:
        """The rows that were intervened on, the strongest first."""
        rows = self.table[self.table["exact"].notna()]
        return rows.iloc[(-rows["exact"].abs()).argsort(kind="stable")].reset_index(drop=True)

    @property
    def agreement(self) -> SampleAgreement:
        """Estimates against exact effects, over the random sample alone: the strongest would flatter them."""
        rows = self.table[self.table["is_sample"] & self.table["exact"].notna()]
        if rows.empty:
            return SampleAgreement(0, math.nan, "", math.nan, math.nan)
        score, exact = rows["score"].rank(), rows["exact"].rank()
        varied = score.nunique() > 1 and exact.nunique() > 1
        miss = (rows["score"] - rows["exact"]).abs()
        worst = rows.iloc[int(miss.fillna(-1).to_numpy().argmax())]
        return SampleAgreement(
            len(rows),
            float(score.corr(exact)) if varied else math.nan,
            self._called(worst),
            float(worst["score"]),
            float(worst["exact"]),
        )

    def top(self, k: Whole = 10, by: str = "score") -> pandas.DataFrame:
        """The k rows with the largest magnitude of ``score`` or ``exact``; rows without that number are left out."""
        count = as_whole(k, f"{type(self).__name__}.top", "k", 0)
        column = as_text(by, f"{type(self).__name__}.top", "by", ("score", "exact"))
        rows = self.table[self.table[column].notna()]
        return rows.iloc[(-rows[column].abs()).argsort(kind="stable")[:count]].reset_index(drop=True)

    def to_frame(self) -> pandas.DataFrame:
        """A copy of the table."""
        return self.table.copy()

    def save(self, path: str | PathLike[str]) -> Path:
        """Write all of it to one file."""
        import pyarrow
        import pyarrow.parquet

        target = Path(path)
        told = json.dumps({"what": self._what, "version": 1, "settings": self.settings}).encode()
        rows = pyarrow.Table.from_pandas(self.table, preserve_index=False)
        rows = rows.replace_schema_metadata({**(rows.schema.metadata or {}), _FORMAT: told})
        with disk_errors(f"save {self._what}", target, "Choose another place, or free some space."):
            make_folder(target.parent)
            with replacing(target) as temporary:
                pyarrow.parquet.write_table(rows, temporary)
        return target

    @classmethod
    def load(cls: type[E], path: str | PathLike[str]) -> E:
        """What :meth:`save` wrote.

        Raises:
            InputError: no such file, or one of something else.
        """
        import pyarrow
        import pyarrow.parquet

        try:
            rows = pyarrow.parquet.read_table(Path(path))
            told = json.loads((rows.schema.metadata or {})[_FORMAT])
            if told["what"] != cls._what:
                raise KeyError(told["what"])
        except (OSError, KeyError, pyarrow.ArrowInvalid) as error:
            raise InputError(
                f"load {cls._what}",
                expected=f"a file that {cls.__name__}.save wrote",
                received=f"{path} ({type(error).__name__}: {str(error)[:80]})",
                remedy="Check the path.",
            ) from error
        return cls(_typed(rows.to_pandas()), told["settings"])

    def __str__(self) -> str:
        told = ", ".join(f"{name} {_plain(self.settings[name])}" for name in ("metric", "against", "step"))
        lines = [f"{type(self).__name__}: {len(self.table)} {self._what}, {told}"]
        if self.is_flat:
            lines.append(_flat(self.settings))
        return "\n".join([*lines, f"  {self.agreement}"])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        details = {name: _plain(self.settings[name]) for name in _TOLD}
        if self.is_flat:
            details["shares"] = _flat(self.settings)
        details["agreement"] = str(self.agreement)
        rows = self.top(_SHOWN)
        shown = table(
            [str(name) for name in rows.columns],
            rows.astype(object).where(rows.notna(), "").itertuples(index=False),
            caption=f"The {len(rows)} strongest of {self.settings['scored']} {self._what}",
        )
        return details_table(details) + shown

    @classmethod
    def _called(cls, row: pandas.Series[Any]) -> str:
        return " ".join(str(row[name]) if isinstance(row[name], str) else f"@{row[name]}" for name in cls._name)


class NodeEffects(Effects):
    """Effects of nodes; :func:`analyses.attribution.patch_nodes` makes them.

    Columns of ``table``: ``node`` (its name: L3H2, L3 MLP, L3 resid_pre, embed), ``kind``, ``layer``, ``head``, the
    ``position`` in the text, its ``step`` (missing before step 0), the ``token`` that the position has read, ``score``,
    ``exact``, ``share``, ``exact_share``, and whether a row is among the strongest (``is_top``) or was drawn at random
    (``is_sample``) for verification.
    """

    _what = "nodes"


class EdgeEffects(Effects):
    """Effects of edges; :func:`analyses.attribution.patch_edges` makes them.

    Columns of ``table``: ``source`` and ``target`` (names of nodes; "logits" or "L3 resid_post" is what is measured),
    ``port`` (q, k, v, mlp, out), ``source_position`` and ``position`` in the text, ``source_token`` and ``token`` that
    they have read, then as in :class:`NodeEffects`. Of all that were scored the strongest are kept, and the sample.
    """

    _what = "edges"
    _name = ("source", "source_position", "target", "port", "position")


def _flat(settings: dict[str, Any]) -> str:
    both = f"{settings['clean']:.6g} and {settings['corrupt']:.6g}"
    return f"the metric is flat: {both} in the clean and the corrupted run, so no effect is a share of their gap (NaN)"


def _plain(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _typed(frame: pandas.DataFrame) -> pandas.DataFrame:
    for name in ("layer", "head", "position", "source_position", "step"):
        if name in frame.columns:
            frame[name] = frame[name].astype("Int64")
    return frame

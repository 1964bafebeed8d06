"""Tables that show themselves: DataFrames with a figure of their own.

`PeakTable` holds one row a peak, `SweepTable` one row a patched (layer, step), `ShareTable` one row a component of a
model that had a share in something at a place. They are pandas DataFrames in every other way: slices and copies keep
the type, `to_frame` gives the plain one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas

from analyses.views.wording import several
from interp.arguments import Whole, as_whole
from interp.display import table
from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.views.view import View

__all__ = ["PeakTable", "ShareTable", "SweepTable"]

_SHOWN = 60  # rows that a notebook shows
_PLACE = (
    "problem",
    "sample",
    "response",
    "step",
    "read_at",
    "measure",
    "answer",
)  # what shares are of, where it has it
_COUNTED = {"input": "input_token", "predicted": "token"}


class _Shown(pandas.DataFrame):
    def to_frame(self) -> pandas.DataFrame:
        """The same table as a plain DataFrame."""
        return pandas.DataFrame(self)

    def _repr_html_(self) -> str:
        # pandas' own escapes HTML, but shows control and direction characters as they are.
        # The score once, not by its older name too.
        once = self.drop(columns="mi") if {"mi", "nhsic"} <= set(self.columns) else self
        return table([str(name) for name in once.columns], once.itertuples(index=False), limit=_SHOWN)

    def _need(self, columns: list[str]) -> None:
        missing = [name for name in columns if name not in self.columns]
        if missing:
            raise InputError(
                type(self).__name__,
                expected=f"columns {', '.join(columns)}",
                received=f"{', '.join(map(str, self.columns)) or 'none'}",
                remedy="Show the whole table, or a plot of your own.",
            )


class PeakTable(_Shown):
    """One row a peak: ``layer``, ``step``, its tokens, ``nhsic`` (also ``mi``), ``distance`` (from the median, in IQR).

    A peak stands at its ``input_token``, which it has just read, and predicts ``token``; both have their ids.

    >>> row = {"layer": [2], "step": [7], "token_id": [5], "token": ["Wait"], "mi": [0.4], "distance": [3.0]}
    >>> peaks = PeakTable(row)
    >>> type(peaks[peaks["mi"] > 0]).__name__, type(peaks.to_frame()).__name__
    ('PeakTable', 'DataFrame')
    """

    @property
    def _constructor(self) -> Callable[..., PeakTable]:
        return PeakTable

    def show(self, top: int = 20, position: str | None = None) -> View:
        """How often each token is at a peak, the most frequent first.

        Args:
            top: tokens shown.
            position: "input" counts the tokens that peaks have read, "predicted" those that they predict; the first
                where the table has it unless given.
        """
        from analyses.views.figures import bars

        if position not in (None, *_COUNTED):
            raise InputError(
                "PeakTable.show", expected='"input" or "predicted"', received=repr(position), remedy="Choose one."
            )
        name = _COUNTED[position or ("input" if "input_token" in self.columns else "predicted")]
        self._need([name])
        counts = pandas.DataFrame(self[name].value_counts(sort=False).rename_axis(name).reset_index(name="peaks"))
        counts = counts.sort_values("peaks", ascending=False, kind="stable", ignore_index=True)
        title = f"Tokens {'read' if name == 'input_token' else 'predicted'} at {several(len(self), 'peak')}"
        return bars(counts.head(top), label=name, value="peaks", title=title)


class SweepTable(_Shown):
    """One row a patched place: ``layer``, ``site``, ``step``, its tokens, ``value``, ``baseline``, ``effect``.

    ``effect`` is the change of what was measured, in its unit; NaN where nothing was patched. By head there is a column
    ``head`` too; of steps patched together, ``steps`` (how many) in the place of a step and its tokens.

    >>> row = {"layer": [0], "site": ["resid_post"], "step": [3], "token": ["."]}
    >>> SweepTable({**row, "value": [1.5], "baseline": [1.0], "effect": [0.5]}).show().title
    'Effect of patching resid_post'
    """

    @property
    def _constructor(self) -> Callable[..., SweepTable]:
        return SweepTable

    def show(self, *, title: str = "", label: str = "effect") -> View:
        """Effects over layer and step; `title` and `label` as in `analyses.views.sweep`.

        By head, of one step or of steps patched together: over layer and head. Of steps together and without heads: a
        bar a layer.
        """
        from analyses.views.figures import bars
        from analyses.views.grids import sweep

        if "steps" in self.columns and "head" not in self.columns:
            self._need(["layer", "effect"])
            site = ", ".join(sorted(set(map(str, self["site"])))) if "site" in self.columns else "each layer"
            shown = pandas.DataFrame({"layer": list(self["layer"]), label: list(self["effect"])})
            return bars(shown, label="layer", value=label, title=title or f"Effect of patching {site}")
        self._need(["layer", "head", "effect"] if "head" in self.columns else ["layer", "step", "token", "effect"])
        return sweep(self, title=title, label=label)


class ShareTable(_Shown):
    """One row a component at a place: ``component``, ``kind``, ``layer``, ``head`` and its ``share``, which add up.

    ``layer`` and ``head`` are missing where a component has none, as the embedding. What a place is, and what the
    shares are of, is in the other columns.

    >>> row = {"step": [7, 7], "component": ["L0H1", "L0 MLP"], "kind": ["head", "mlp"], "layer": [0, 0]}
    >>> shares = ShareTable({**row, "head": [1, None], "share": [0.5, -2.0]})
    >>> shares.top(1)["component"].tolist(), shares.by("layer")["share"].tolist()
    (['L0 MLP'], [-1.5])
    """

    @property
    def _constructor(self) -> Callable[..., ShareTable]:
        return ShareTable

    @property
    def _places(self) -> list[str]:
        return [name for name in _PLACE if name in self.columns]

    def top(self, k: Whole = 10) -> ShareTable:
        """The k largest shares of each place, whatever their sign, the largest first."""
        self._need(["share"])
        k = as_whole(k, "ShareTable.top", "k", 1)
        ranked = self.assign(_size=self["share"].abs()).sort_values("_size", ascending=False, kind="stable")
        if not self._places:
            return ShareTable(ranked.head(k).drop(columns="_size").reset_index(drop=True))
        kept = ranked.groupby(self._places, sort=False, dropna=False).head(k)
        order = [*self._places, "_size"]
        kept = kept.sort_values(order, ascending=[True] * len(self._places) + [False], kind="stable")
        return ShareTable(kept.drop(columns="_size").reset_index(drop=True))

    def by(self, *columns: str) -> ShareTable:
        """Sums of shares at each place: ``by("layer")``, ``by("kind")``, ``by("layer", "kind")``.

        What has no layer (the embedding, biases of the final norm) is a row of its own there.
        """
        names = list(columns) or ["kind"]
        self._need([*names, "share"])
        summed = self.groupby([*self._places, *names], sort=False, dropna=False)["share"].sum()
        return ShareTable(summed.reset_index())

    def show(self, top: Whole = 15, *, title: str = "") -> View:
        """The components with the largest shares, averaged over places where there are several."""
        from analyses.views.figures import bars

        self._need(["component", "share"])
        top = as_whole(top, "ShareTable.show", "top", 1)
        mean = self.groupby("component", sort=False)["share"].mean().reset_index()
        mean = mean.sort_values("share", key=abs, ascending=False, kind="stable").head(top).reset_index(drop=True)
        places = len(self[self._places].drop_duplicates()) if self._places else 1
        told = "Largest shares" if places < 2 else f"Largest mean shares over {places} places"
        return bars(mean, label="component", value="share", reference=0, title=title or told)

"""Tables that show themselves: DataFrames with a figure of their own.

`PeakTable` holds one row a peak, `SweepTable` one row a patched (layer, step). They are pandas DataFrames in every
other way: slices and copies keep the type, `to_frame` gives the plain one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas

from interp.display import table
from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.views.view import View

__all__ = ["PeakTable", "SweepTable"]

_SHOWN = 60  # rows that a notebook shows
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
        what = "Tokens that {} peaks have read" if name == "input_token" else "Tokens that {} peaks predict"
        return bars(counts.head(top), label=name, value="peaks", title=what.format(len(self)))


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

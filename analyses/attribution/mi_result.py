"""What comes of sharing a peak out over the writes that made it: tables, and one file that holds them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas

from analyses.store.atomic import disk_errors, make_folder, replacing
from analyses.views.frames import ShareTable
from interp.arguments import Whole, as_whole
from interp.display import table
from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.views.view import View

__all__ = ["MiAttribution"]

_FORMAT = "peaklens MI attribution 1"
_TABLES = ("shares", "ends", "sources")


@dataclass(frozen=True, eq=False)
class MiAttribution:
    """Which writes make a score at some steps. Made by :func:`mi_attribution`, which says what the numbers are.

    Attributes:
        shares: one row a step, measure and component: ``share``, ``direct``, ``total``.
        ends: one row a step and measure: the score there and at the reference, their difference, what of it the shares
            sum to, and how many gradients were taken.
        sources: one row a step, measure, chosen head and position it reads from.
        settings: what it was made with; the reference of each step by its steps.
    """

    shares: ShareTable
    ends: pandas.DataFrame
    sources: pandas.DataFrame
    settings: Mapping[str, Any]

    def top(self, k: Whole = 10, *, measure: str | None = None, step: Whole | None = None) -> ShareTable:
        """The k components with the largest shares, whatever their sign, of each step and measure, or of one."""
        return self._of(self.shares, measure, step).top(k)

    def to_frame(self) -> pandas.DataFrame:
        """All shares as a plain DataFrame."""
        return self.shares.to_frame()

    def show(self, top: Whole = 15, *, measure: str | None = None, step: Whole | None = None) -> View:
        """The components with the largest shares at a step; of the first measure and step unless told otherwise."""
        measure = str(self.ends["measure"].iloc[0]) if measure is None else measure
        step = int(self.ends["step"].iloc[0]) if step is None else as_whole(step, "MiAttribution", "step")
        title = f"Shares in the {measure} of step {step} at layer {self.settings['layer']}"
        return self._of(self.shares, measure, step).show(top, title=title)

    def _of(self, shares: ShareTable, measure: str | None, step: Whole | None) -> ShareTable:
        number = None if step is None else as_whole(step, "MiAttribution", "step")
        for name, wanted in (("measure", measure), ("step", number)):
            known = list(dict.fromkeys(self.ends[name]))
            if wanted is not None and wanted not in known:
                raise InputError(
                    "MiAttribution",
                    expected=f"a {name} among {', '.join(map(str, known))}",
                    received=repr(wanted),
                    remedy="Ask for those that were attributed.",
                )
            if wanted is not None:
                shares = shares[shares[name] == wanted]
        return shares

    def _repr_html_(self) -> str:
        layer, where = self.settings["layer"], self.settings["model"]
        ends = self.ends[["step", "input_token", "measure", "value", "reference_value", "difference", "missing"]]
        told = "".join(f"<p>{escape(line)}</p>" for line in self._completeness())
        best = self.top(5)[["step", "measure", "component", "share", "direct", "total"]]
        parts = [
            f"<p>Shares in scores at layer {layer} of {escape(str(where))}, against {escape(self._told())}.</p>",
            table([*map(str, ends.columns)], ends.itertuples(index=False), limit=12),
            told,
            table([*map(str, best.columns)], best.itertuples(index=False), limit=30),
        ]
        return "".join(parts)

    def __repr__(self) -> str:
        steps = list(dict.fromkeys(self.ends["step"]))
        measures = ", ".join(dict.fromkeys(self.ends["measure"]))
        return "\n  ".join(
            [
                f"MiAttribution(steps {steps} at layer {self.settings['layer']}, {measures}, "
                f"{self.shares['component'].nunique()} components, against {self._told()})",
                *self._completeness(),
            ]
        )

    def _completeness(self) -> list[str]:
        """How far shares are from summing to the differences, where any do not within the tolerance or are of none."""
        tolerance, found = float(self.settings["tolerance"]), []
        flat = self.ends[self.ends["missing"].isna() & self.ends["difference"].notna()]
        if len(flat):
            found.append(
                f"flat, {_places(flat)}: step and reference score alike to rounding, so that shares are of nothing "
                "(missing is NaN)"
            )
        short = self.ends[self.ends["path_missing"] > tolerance]
        if len(short):
            found.append(
                f"incomplete, {_places(short)}: shares miss up to {short['path_missing'].max():.1e} of the difference "
                f"after {short['points'].max()} points (tolerance {tolerance:g}); raise max_points"
            )
        return found

    def _told(self) -> str:
        told = dict.fromkeys(found["told"] for found in self.settings["references"].values())
        return next(iter(told)) if len(told) == 1 else "a reference of each step's own"

    def save(self, path: str | Path) -> Path:
        """Write one file, whole or not at all: a zip of three parquet tables and the settings as JSON."""
        target = Path(path)
        with disk_errors("save an attribution", target, "Choose a folder that can be written and has room."):
            make_folder(target.parent)
            with replacing(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                about = {"format": _FORMAT, "settings": dict(self.settings)}
                archive.writestr("attribution.json", json.dumps(about, allow_nan=False))
                for name in _TABLES:
                    room = io.BytesIO()
                    pandas.DataFrame(getattr(self, name)).to_parquet(room)
                    archive.writestr(f"{name}.parquet", room.getvalue())
        return target

    @classmethod
    def load(cls, path: str | Path) -> MiAttribution:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: there is no such file, or it is something else.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                about = json.loads(archive.read("attribution.json"))
                if about.get("format") != _FORMAT:
                    raise ValueError(f"format {about.get('format')!r}")
                tables = {name: pandas.read_parquet(io.BytesIO(archive.read(f"{name}.parquet"))) for name in _TABLES}
                return cls(ShareTable(tables.pop("shares")), **tables, settings=about["settings"])
        except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile) as error:
            raise InputError(
                "load an attribution",
                expected="a file that MiAttribution.save wrote",
                received=f"{path} ({str(error)[:80] or type(error).__name__})",
                remedy="Attribute again and save it.",
            ) from error


def _places(ends: pandas.DataFrame) -> str:
    named = [f"{measure} of step {step}" for measure, step in zip(ends["measure"], ends["step"], strict=True)]
    return ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")

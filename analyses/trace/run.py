"""The run of a trace: a run folder whose tables have names, and whose responses can be looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses.store.run import Run
from analyses.trace.trajectory import Trajectory
from interp.errors import InputError

if TYPE_CHECKING:
    import pandas

    from analyses.views.view import View

__all__ = ["TraceRun"]


class TraceRun(Run):
    """A :class:`analyses.store.Run` made by a trace: ``trace(...)`` returns one, ``TraceRun.open(folder)`` another.

    >>> import tempfile, pandas
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = TraceRun.start(folder, kind="trace", settings={}, provenance={})
    ...     run.write_table("peaks.parquet", pandas.DataFrame({"layer": [2], "n_peaks": [5]}))
    ...     TraceRun.open(folder).peaks["n_peaks"].tolist()
    [5]
    """

    def trajectory(self, problem: str, sample: int = 0) -> Trajectory:
        """The scores of one response, to look at (:class:`analyses.trace.trajectory.Trajectory`)."""
        return Trajectory.from_run(self, problem, sample)

    def show(self, problem: str | None = None, view: str = "heatmap") -> View:
        """A picture of one response (the first unless named): "heatmap", "lines" or "text"."""
        cells = self.cells("baseline")
        if problem is None and not cells:
            raise InputError("show run", expected="a trace with responses", received=str(self), remedy="Trace some.")
        return self.trajectory(cells[0].problem if problem is None else problem).show(view)

    def to_frame(self) -> pandas.DataFrame:
        """The table mi.parquet."""
        return self.mi

    @property
    def mi(self) -> pandas.DataFrame:
        """The table mi.parquet: one row a (response, layer, step); its score is `nhsic`, by its older name `mi` too."""
        return self.table("mi.parquet")

    @property
    def peaks(self) -> pandas.DataFrame:
        """The table peaks.parquet: one row a (response, layer)."""
        return self.table("peaks.parquet")

    @property
    def steps(self) -> pandas.DataFrame:
        """The table steps.parquet: one row a (response, step)."""
        return self.table("steps.parquet")

    @property
    def lens(self) -> pandas.DataFrame:
        """The table lens.parquet: one row a (response, layer, step, rank), words of the logit lens where kept."""
        return self.table("lens.parquet")

    @property
    def responses(self) -> pandas.DataFrame:
        """The table responses.parquet: one row a response."""
        return self.table("responses.parquet")

    @property
    def tokens(self) -> pandas.DataFrame:
        """The table tokens.csv: one row a (layer, position, word); positions are "input" and "predicted"."""
        return self.table("tokens.csv")

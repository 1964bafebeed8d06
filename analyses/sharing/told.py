"""What a tracker of experiments is told of a result: settings, numbers with their intervals and n, files.

1. Settings are those of ``run.json``; an entry for each problem or response is counted, not listed.
2. Of a trace: accuracy with Wilson's interval, and by layer (the metric's step) the means over responses of the peaks'
   statistics, with bootstrap intervals over problems and n.
3. Of a study: the numbers of its tables, named ``table/row/column``, where a row is named by the columns that tell rows
   apart; layers are steps here too. Its readings go along as text. A table of more than 400 rows goes as a file alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.report.summary import COLUMNS
from analyses.sharing.entries import entry_of
from analyses.stats import mean_intervals
from analyses.store.run import Run
from analyses.studies.base import StudyResult
from analyses.studies.kept import as_kept

if TYPE_CHECKING:
    import pandas

__all__ = ["Told", "metric_name", "told_of"]

_MOST = 400  # rows of a table that become metrics
_DRAWS = 1000  # of a bootstrap, the same for all layers
_LONGEST = 240  # characters of a name; MLflow takes 250
_FILES = ("report.html", "run.json", "failures.json", "merged.json")


@dataclass(frozen=True)
class Told:
    """What is told: params and tags as text, metrics as (name, value, step), readings, and files."""

    name: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: list[tuple[str, float, int]]
    readings: tuple[str, ...] = ()
    files: list[Path] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(f"- {reading}" for reading in self.readings)


def told_of(result: Run | StudyResult) -> Told:
    """What is told of a trace, of a study, or of the folder of either."""
    run = result.run if isinstance(result, StudyResult) else result
    tags, about = {}, run.about
    settings = json.loads(about.pop("peaklens.settings"))
    tags = {**about, "peaklens.run": run.path.resolve().name, "peaklens.created": run.created}
    files = [run.path / name for name in (*run.tables, *_FILES) if (run.path / name).is_file()]
    entry = entry_of(run.path, "run")
    told = Told(run.path.resolve().name, _flat({"model": entry.model, **settings}), tags, [], files=files)
    if run.kind == "trace":
        told.metrics.extend(_of_trace(run))
        return told
    kept = None if isinstance(result, StudyResult) else as_kept(run)
    tables: Mapping[str, pandas.DataFrame] = (
        result.tables if isinstance(result, StudyResult) else kept[0] if kept else {}
    )
    readings = result.readings if isinstance(result, StudyResult) else kept[1] if kept else []
    for name, frame in tables.items():
        told.metrics.extend(_of_table(name, frame))
    return Told(
        told.name, told.params, {**tags, "peaklens.title": entry.title}, _apart(told.metrics), tuple(readings), files
    )


def metric_name(text: str) -> str:
    """A name of what every tracker takes: letters, digits, and ``_-. :/``.

    >>> metric_name("suppress/top 5 (<b>)/accuracy")
    'suppress/top 5 _b_/accuracy'
    """
    return re.sub(r"[^A-Za-z0-9_\-. :/]+", "_", text)[:_LONGEST]


def _flat(settings: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Settings within settings by names with dots; lists as JSON."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        key = f"{before}{name}"
        if isinstance(value, dict) and value and not before.startswith("conditions."):
            found |= _flat(value, f"{key}.")
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found[metric_name(key)] = text if len(text) <= 500 else f"{text[:497]}..."
    return found


def _of_trace(run: Run) -> list[tuple[str, float, int]]:
    entry = entry_of(run.path, "run")
    found: list[tuple[str, float, int]] = [
        ("responses", entry.responses, 0), ("problems", entry.problems, 0), ("failed", len(run.failures()), 0),
        ("graded", entry.graded, 0),
    ]  # fmt: skip
    if entry.accuracy is not None:
        share = entry.accuracy
        ends = {"accuracy": share.estimate, "accuracy_low": share.low, "accuracy_high": share.high}
        found += [(name, value, 0) for name, value in ends.items()]
    if "peaks.parquet" in run.tables:
        found += _peaks(run.table("peaks.parquet", ["problem", "layer", *COLUMNS]))
    return [(name, float(value), step) for name, value, step in found if math.isfinite(value)]


def _peaks(peaks: pandas.DataFrame) -> list[tuple[str, float, int]]:
    """Means over responses by layer with n; intervals over problems where each has as many responses, all defined."""
    names = list(COLUMNS)
    by_layer = peaks.groupby("layer")[names]
    means, counts = by_layer.mean(), by_layer.count()
    found: list[tuple[str, float, int]] = []
    for name in names:
        for layer, mean, n in zip(means.index.tolist(), means[name].tolist(), counts[name].tolist(), strict=True):
            found += [(f"peaks/{name}", mean, layer), (f"peaks/{name}_n", float(n), layer)]
    if peaks.empty or peaks.groupby(["problem", "layer"]).size().nunique() > 1:
        return found
    whole = peaks.pivot_table(index="problem", columns="layer", values=[n for n in names if peaks[n].notna().all()])
    ends = mean_intervals(whole.to_numpy(dtype=float), draws=_DRAWS)[1:].tolist()
    for (name, layer), low, high in zip(whole.columns, *ends, strict=True):
        found += [(f"peaks/{name}_low", low, int(layer)), (f"peaks/{name}_high", high, int(layer))]
    return found


def _of_table(name: str, frame: pandas.DataFrame) -> list[tuple[str, float, int]]:
    """The numbers of a small table; rows are named by the first columns that tell them apart."""
    if frame.empty or len(frame) > _MOST:
        return []
    columns = list(map(str, frame.columns))
    width = next((k for k in range(1, len(columns)) if not frame.iloc[:, :k].duplicated().any()), None)
    if width is None:
        return []
    found = []
    for row in frame.to_dict("records"):
        values = dict(zip(columns, row.values(), strict=True))
        keys = {key: values[key] for key in columns[:width]}
        layer = keys.pop("layer", None)
        has_layer = isinstance(layer, int | float) and math.isfinite(layer)
        label = _label(" ".join(str(value) for value in keys.values() if not _missing(value)))
        for column in columns[width:]:
            value = values[column]
            if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
                parts = [part for part in (name, label, column) if part]
                found.append((metric_name("/".join(parts)), float(value), int(layer) if has_layer else 0))
    return found


def _label(text: str) -> str:
    """A part of a name: a store of files makes folders of slashes, and takes none that is dots alone."""
    plain = metric_name(text.replace("/", "_")).strip()
    return plain if not plain or re.search(r"[A-Za-z0-9]", plain) else "_"


def _missing(value: Any) -> bool:
    return value is None or value != value


def _apart(metrics: list[tuple[str, float, int]]) -> list[tuple[str, float, int]]:
    """Metrics whose names came to be the same, numbered."""
    seen: dict[tuple[str, int], int] = {}
    found = []
    for name, value, step in metrics:
        count = seen[name, step] = seen.get((name, step), 0) + 1
        found.append((name if count == 1 else f"{name} {count}", value, step))
    return found

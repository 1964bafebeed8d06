"""The results of a study that is finished, kept so that repeating its command derives nothing anew.

1. `sources` digests what tables, readings and the page come from: cells and tables of the study and of its baselines,
   its options, its problems, its code.
2. `keep` writes each table beside its CSV once more, as Parquet, which keeps missing texts and types.
3. `kept` reads tables, readings and failures again where nothing is newer (:mod:`analyses.store.fresh`), `as_kept`
   whatever is.

A result with a table that does not come back as it was is not kept: it is derived each time.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from analyses.store.fresh import is_fresh, made_of, noted, stamp
from analyses.store.run import Cell, Run
from analyses.store.tables import read_frame, write_frame
from interp.describing import class_digest
from interp.errors import InputError

if TYPE_CHECKING:
    import pandas

    from analyses.studies.base import Study, StudyData

__all__ = ["as_kept", "keep", "kept", "sources"]

_NAME = "study"


def sources(study: Study, data: StudyData) -> str:
    """A digest of all that the results of a study come from."""
    runs = [data.lab.baseline, *data.others.values()]
    files = [file for run in (data.run, *runs) for file in (*_tables(run), run.path / "failures.json")]
    lab = data.lab
    return made_of(
        type(study).__qualname__, asdict(study), asdict(lab.options), data.run.settings, list(data.conditions),
        {problem.id: problem.digest for problem in lab.problems.values()}, lab.words,
        lab.calibrating, [[run.settings, str(run.path), noted(run.path, "tables").get("made_of")] for run in runs],
        _digest(type(study)), files=[*files, *data.run.files(), *_source(type(study))],
    )  # fmt: skip


def _source(kind: type[Study]) -> list[Path]:
    """The file that a study is written in; a notebook's cell has none."""
    try:
        found = inspect.getsourcefile(kind)
    except (TypeError, OSError):
        found = None
    return [Path(found)] if found else []


def _digest(kind: type[Study]) -> str:
    from analyses.studies.base import Study

    return class_digest(kind, Study)


def _tables(run: Run) -> list[Path]:
    """The tables of a trace; those of a study are what is kept, not what it comes from."""
    return [run.path / name for name in run.tables] if run.kind == "trace" else []


def keep(
    run: Run,
    digest: str,
    tables: Mapping[str, pandas.DataFrame],
    readings: Sequence[str],
    failures: Mapping[Cell, str],
) -> bool:
    """Keep a result; whether it comes back as it is."""
    written = []
    for name, frame in tables.items():
        file = _file(run, name)
        try:
            write_frame(file, frame)
        except InputError:  # a column of mixed types, which Parquet has not
            return False
        if not read_frame(file).equals(frame):
            return False
        written += [file.name, f"{name}.csv"]
    failed = [[asdict(cell), reason] for cell, reason in failures.items()]
    more = {"tables": list(tables), "readings": list(readings), "failures": failed}
    stamp(run.path, _NAME, digest, [*written, "report.html"], **more)
    return True


def kept(run: Run, digest: str) -> tuple[dict[str, pandas.DataFrame], list[str], dict[Cell, str]] | None:
    """Tables, readings and failures of the last time, if they are still what the sources give."""
    return as_kept(run) if is_fresh(run.path, _NAME, digest) else None


def as_kept(run: Run) -> tuple[dict[str, pandas.DataFrame], list[str], dict[Cell, str]] | None:
    """Tables, readings and failures of the last time, whatever they came from; None where the run keeps none."""
    content = noted(run.path, _NAME)
    if not content:
        return None
    tables = {name: read_frame(_file(run, name)) for name in content["tables"]}
    return tables, content["readings"], {Cell(**cell): reason for cell, reason in content["failures"]}


def _file(run: Run, name: str) -> Path:
    return run.path / f".{name}.kept.parquet"

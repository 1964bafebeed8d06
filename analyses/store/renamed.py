"""Tables whose columns have two names (`analyses.store.columns.RENAMED`), read by either.

A whole table comes with both, which share their memory; where columns are chosen, those and no others are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analyses.store.columns import RENAMED, stored_names
from analyses.store.tables import column_names, read_frame, read_rows, row_groups

if TYPE_CHECKING:
    import pandas

__all__ = ["groups_by_either_name", "read_by_either_name"]


def read_by_either_name(
    file: Path, columns: Sequence[str] | None = None, where: Mapping[str, object] | None = None
) -> pandas.DataFrame:
    """A table, or some columns of it and the rows with given values (`analyses.store.tables.read_rows`).

    >>> import pandas, tempfile
    >>> from analyses.store.tables import write_frame
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "mi.parquet")
    ...     write_frame(file, pandas.DataFrame({"step": [0, 1], "mi": [0.5, 0.25]}))
    ...     list(read_by_either_name(file).columns), read_by_either_name(file, ["nhsic"]).to_dict("list")
    (['step', 'nhsic', 'mi'], {'nhsic': [0.5, 0.25]})
    """
    if file.name not in RENAMED:
        return read_frame(file) if columns is None and where is None else read_rows(file, columns, where)
    there = column_names(file)
    wanted = None if columns is None else _stored(file, columns, there)
    rows = None if where is None else dict(zip(_stored(file, list(where), there), where.values(), strict=True))
    if wanted is None:
        return _with_both_names(read_frame(file) if rows is None else read_rows(file, None, rows), file.name)
    return _named(read_rows(file, list(dict.fromkeys(wanted)), rows), wanted, columns or ())


def groups_by_either_name(file: Path, columns: Sequence[str], rows: int | None = None) -> Iterator[pandas.DataFrame]:
    """Some columns of a Parquet table, a row group or so many rows at a time (`analyses.store.tables.row_groups`)."""
    wanted = _stored(file, columns, column_names(file))
    for part in row_groups(file, list(dict.fromkeys(wanted)), rows):
        yield _named(part, wanted, columns)


def _stored(file: Path, columns: Sequence[str], there: Sequence[str]) -> list[str]:
    names = stored_names(file.name, columns, there)
    return [names[column] for column in columns]


def _named(frame: pandas.DataFrame, stored: Sequence[str], columns: Sequence[str]) -> pandas.DataFrame:
    if list(frame.columns) != list(stored):  # one column by both its names
        frame = frame[list(stored)]
    return frame.set_axis(list(columns), axis=1)


def _with_both_names(frame: pandas.DataFrame, table: str) -> pandas.DataFrame:
    for old, new in RENAMED[table].items():
        have = list(frame.columns)
        if new in have and old not in have:
            frame.insert(have.index(new) + 1, old, frame[new])
        elif old in have and new not in have:
            frame.insert(have.index(old), new, frame[old])
    return frame

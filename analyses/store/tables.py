"""Tables as files, Parquet or CSV by suffix, each replaced whole.

1. `write_frame` writes a pandas frame; `parquet_writer` streams a Parquet table that need not fit into memory.
2. `read_frame` gives the frame back, `read_rows` some of it. Parquet keeps every type. CSV keeps text (NA, null, "",
   line ends) and numbers exactly: the column types stand in a hidden file beside it, named after the table's content,
   so that they are never another version's. Where it is lost, or the CSV was edited, columns of numbers are told by
   looking. A missing text is "" in a CSV, and whatever is neither text, number nor bool comes back as text.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.store.atomic import disk_errors, replacing
from interp.errors import InputError

if TYPE_CHECKING:
    import pandas
    import pyarrow
    import pyarrow.parquet

__all__ = [
    "RowGroups", "column_names", "is_table", "parquet_writer", "read_frame", "read_rows", "row_groups", "write_frame",
]  # fmt: skip

ROW_GROUP = 2**16  # rows that a table is written and read by
MOST_HELD = 256  # small tables that wait for it: each has memory of its own
_ROOM = "The table there before is untouched: free some space, then derive the table again."


def is_table(name: str) -> bool:
    """Whether `name` is a table's: a plain file name ending in .parquet or .csv.

    >>> is_table("mi.parquet"), is_table("../mi.parquet"), is_table("run.json")
    (True, False, False)
    """
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(parquet|csv)", name) is not None


@contextmanager
def parquet_writer(
    file: Path, schema: pyarrow.Schema, about: Mapping[str, str] | None = None
) -> Iterator[pyarrow.parquet.ParquetWriter]:
    """A writer of row groups into `file`, which appears when the block ends without an error.

    `about` goes into the metadata of the table, beside what the schema has there.

    >>> import pyarrow, tempfile
    >>> rows = pyarrow.table({"mi": [0.5, 0.25]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with parquet_writer(Path(folder, "mi.parquet"), rows.schema) as writer:
    ...         writer.write_table(rows)
    ...         writer.write_table(rows)
    ...     read_frame(Path(folder, "mi.parquet")).mi.tolist()
    [0.5, 0.25, 0.5, 0.25]
    """
    import pyarrow.parquet

    if file.suffix != ".parquet":
        raise InputError(
            "write table", expected="a name ending in .parquet", received=file.name, remedy="Use write_table for CSV."
        )
    with disk_errors("write table", file, _ROOM), replacing(file) as temporary:
        told = {**(schema.metadata or {}), **{key.encode(): text.encode() for key, text in (about or {}).items()}}
        writer = pyarrow.parquet.ParquetWriter(temporary, schema.with_metadata(told or None), compression="zstd")
        try:
            yield writer
        finally:
            writer.close()


class RowGroups:
    """Writes small tables together, as row groups large enough to be read fast and small enough to hold.

    >>> import pyarrow, tempfile
    >>> rows = pyarrow.table({"mi": [0.5, 0.25]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with parquet_writer(Path(folder, "mi.parquet"), rows.schema) as writer, RowGroups(writer) as groups:
    ...         for _ in range(3):
    ...             groups.add(rows)
    ...     file = pyarrow.parquet.ParquetFile(Path(folder, "mi.parquet"))
    ...     file.metadata.num_rows, file.num_row_groups
    (6, 1)
    """

    def __init__(self, writer: pyarrow.parquet.ParquetWriter, rows: int = ROW_GROUP) -> None:
        self.writer, self.rows = writer, rows
        self.held: list[pyarrow.Table] = []

    def add(self, table: pyarrow.Table) -> None:
        self.held.append(table)
        if sum(map(len, self.held)) >= self.rows or len(self.held) >= MOST_HELD:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        if self.held:
            # One dictionary for all of them: texts that repeat are written once
            table = pyarrow.concat_tables(self.held).unify_dictionaries().combine_chunks()
            self.writer.write_table(table, row_group_size=max(len(table), 1))
            self.held = []

    def __enter__(self) -> RowGroups:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()


def write_frame(file: Path, frame: pandas.DataFrame, about: Mapping[str, str] | None = None) -> None:
    """Write `frame` into `file`; row numbers are not kept, and an index of more than numbers is refused.

    `about` is put into the metadata of a Parquet table; a CSV has none.

    >>> import pandas, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_frame(Path(folder, "t.csv"), pandas.DataFrame({"token": ["NA", ""], "count": [3, 1]}))
    ...     read_frame(Path(folder, "t.csv")).to_dict("list")
    {'token': ['NA', ''], 'count': [3, 1]}
    """
    columns = list(frame.columns)
    if not all(isinstance(name, str) for name in columns) or len(set(columns)) < len(columns):
        raise InputError(
            "write table", expected="columns of different text names", received=f"{columns}", remedy="Rename them."
        )
    index = frame.index
    if len(frame) and (index.nlevels > 1 or index.name is not None or index.dtype.kind != "i"):
        raise InputError(
            "write table",
            expected="a frame indexed by row numbers",
            received=f"one indexed by {list(index.names)}, {index.dtype}",
            remedy="Call reset_index() first.",
        )
    try:
        if file.suffix == ".parquet":
            import pyarrow

            table = pyarrow.Table.from_pandas(frame, preserve_index=False)
            with parquet_writer(file, table.schema, about) as writer:
                writer.write_table(table)
            return
        with disk_errors("write table", file, _ROOM):
            with replacing(file) as temporary:
                # Python before 3.13 quotes a lone \r or \n only where it is part of the line end, so both have to be
                frame.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\r\n", quoting=csv.QUOTE_MINIMAL)
                types = _types_file(file, temporary)
                with replacing(types) as temporary_types:
                    temporary_types.write_text(json.dumps({name: str(frame[name].dtype) for name in columns}))
            for old in file.parent.glob(f".{file.name}.*.types"):
                if old != types:
                    old.unlink(missing_ok=True)
    except InputError:
        raise
    except (TypeError, ValueError, NotImplementedError) as error:  # pyarrow's own errors are all of these
        raise InputError(
            "write table",
            expected="columns each of one type that the file can hold",
            received=f"{file.name}: {error}",
            remedy="Convert mixed columns to text or numbers.",
        ) from error


def read_rows(file: Path, columns: Sequence[str] | None = None, where: Mapping[str, object] | None = None) -> Any:
    """Some columns of the frame in `file`, of the rows that have the given values; all of either unless given.

    >>> import pandas, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_frame(Path(folder, "t.parquet"), pandas.DataFrame({"problem": ["a", "b"], "mi": [0.5, 0.25]}))
    ...     read_rows(Path(folder, "t.parquet"), ["mi"], where={"problem": "b"}).to_dict("list")
    {'mi': [0.25]}

    Of a Parquet file only these columns, and the row groups that may hold such rows, are read.
    """
    if file.suffix == ".parquet":
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(file) as table:
                return _rows_where(table, columns, where or {}).to_pandas()
        except (OSError, ValueError, TypeError, LookupError, pyarrow.ArrowException) as error:
            raise _unreadable(file, error) from error
    frame = read_frame(file)
    for name, value in (where or {}).items():
        frame = frame[frame[name] == value]
    return frame if columns is None else frame[list(columns)]


def row_groups(file: Path, columns: Sequence[str], rows: int | None = None) -> Iterator[pandas.DataFrame]:
    """Some columns of a Parquet table, a row group at a time or that many ``rows``: it need not fit into memory.

    >>> import pyarrow, tempfile
    >>> rows = pyarrow.table({"mi": [0.5, 0.25], "step": [0, 1]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with parquet_writer(Path(folder, "mi.parquet"), rows.schema) as writer:
    ...         writer.write_table(rows)
    ...         writer.write_table(rows)
    ...     [float(part["mi"].sum()) for part in row_groups(Path(folder, "mi.parquet"), ["mi"])]
    ...     [len(part) for part in row_groups(Path(folder, "mi.parquet"), ["mi"], rows=1)]
    [0.75, 0.75]
    [1, 1, 1, 1]
    """
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for number in range(table.num_row_groups):
                if rows is None:
                    yield table.read_row_group(number, columns=list(columns)).to_pandas()
                else:
                    for part in table.iter_batches(rows, row_groups=[number], columns=list(columns)):
                        yield part.to_pandas()
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(file, error) from error


def column_names(file: Path) -> list[str]:
    """The columns of a Parquet table; only the end of the file is read."""
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            return [field.name for field in table.schema_arrow]
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(file, error) from error


def read_frame(file: Path) -> pandas.DataFrame:
    """The frame in `file`, which must be there."""
    import pandas
    import pyarrow.parquet

    try:
        if file.suffix == ".parquet":
            # ParquetFile, as read_table would add a column for every folder of the path named like "seed=1"
            with pyarrow.parquet.ParquetFile(file) as table:
                return table.read().to_pandas()
        frame = pandas.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8")
        types = _read_types(file)
        return pandas.DataFrame(
            {name: _typed(frame[name], types.get(name) or _looks_like(frame[name].tolist())) for name in frame.columns}
        )
    except (OSError, ValueError, TypeError, LookupError, pyarrow.ArrowException) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(
        "read table",
        expected=f"a whole {file}",
        received=str(error),
        remedy="Delete the file and derive the table again.",
    )


def _rows_where(
    table: pyarrow.parquet.ParquetFile, columns: Sequence[str] | None, where: Mapping[str, object]
) -> pyarrow.Table:
    """Rows of these values, row group by row group; those whose statistics rule such rows out are not read."""
    import pyarrow
    import pyarrow.compute

    names = [field.name for field in table.schema_arrow]
    wanted = names if columns is None else list(columns)
    found = [table.schema_arrow.empty_table().select(wanted)]
    for number in range(table.num_row_groups):
        group = table.metadata.row_group(number)
        if not all(_may_hold(group.column(names.index(name)).statistics, value) for name, value in where.items()):
            continue
        rows = table.read_row_group(number, columns=list(dict.fromkeys([*wanted, *where])))
        for name, value in where.items():
            rows = rows.filter(pyarrow.compute.equal(rows[name], pyarrow.scalar(value)))
        found.append(rows.select(wanted))
    return pyarrow.concat_tables(found).unify_dictionaries()


def _may_hold(statistics: pyarrow.parquet.Statistics | None, value: Any) -> bool:
    return statistics is None or not statistics.has_min_max or statistics.min <= value <= statistics.max


def _types_file(file: Path, content: Path) -> Path:
    return file.with_name(f".{file.name}.{hashlib.sha256(content.read_bytes()).hexdigest()[:16]}.types")


def _read_types(file: Path) -> dict[str, str]:
    try:
        return dict(json.loads(_types_file(file, file).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def _looks_like(texts: list[str]) -> str:
    filled = [text for text in texts if text]
    for number, dtype in ((int, "int64"), (float, "float64")):
        try:
            for text in filled if number is float else texts:
                number(text)
        except ValueError:
            continue
        return dtype if filled else "str"
    return "str"


def _typed(column: pandas.Series, dtype: str) -> pandas.Series:
    """`column` of texts as `dtype`. By Python's own numbers, which read back exactly what was written."""
    import pandas

    kind, texts = dtype.lower().rstrip("0123456789"), column.tolist()
    values: list[Any]
    if kind == "float":
        values = [float(text) if text else None for text in texts]
    elif kind in ("int", "uint"):
        values = [int(text) if text else None for text in texts]
    elif kind in ("bool", "boolean"):
        values = [{"True": True, "False": False, "": None}[text] for text in texts]
    else:
        return column
    return pandas.Series(values, dtype=dtype)

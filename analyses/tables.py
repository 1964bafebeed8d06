"""Tables as files, Parquet or CSV by suffix, each replaced whole.

1. `write_frame` writes a pandas frame; `parquet_writer` streams a Parquet table that need not fit into memory.
2. `read_frame` gives the frame back. Parquet keeps every type. CSV keeps text (NA, null, "", line ends) and numbers
   exactly: the column types stand in a hidden file beside it, named after the table's content, so that they are never
   another version's. Where it is lost, or the CSV was edited, columns of numbers are told by looking.
   A missing text is "" in a CSV, and whatever is neither text, number nor bool comes back as text.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError

from .atomic import disk_errors, replacing

if TYPE_CHECKING:
    import pandas
    import pyarrow
    import pyarrow.parquet

__all__ = ["is_table", "parquet_writer", "read_frame", "write_frame"]

_ROOM = "The table there before is untouched: free some space, then derive the table again."


def is_table(name: str) -> bool:
    """Whether `name` is a table's: a plain file name ending in .parquet or .csv.

    >>> is_table("mi.parquet"), is_table("../mi.parquet"), is_table("run.json")
    (True, False, False)
    """
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(parquet|csv)", name) is not None


@contextmanager
def parquet_writer(file: Path, schema: pyarrow.Schema) -> Iterator[pyarrow.parquet.ParquetWriter]:
    """A writer of row groups into `file`, which appears when the block ends without an error.

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
        writer = pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd")
        try:
            yield writer
        finally:
            writer.close()


def write_frame(file: Path, frame: pandas.DataFrame) -> None:
    """Write `frame` into `file`; row numbers are not kept, and an index of more than numbers is refused.

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
            with parquet_writer(file, table.schema) as writer:
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
        raise InputError(
            "read table",
            expected=f"a whole {file}",
            received=str(error),
            remedy="Delete the file and derive the table again.",
        ) from error


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

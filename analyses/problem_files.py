"""Rows of the files that people keep problems in: JSONL, JSON, CSV and Parquet, row by row, with where each stands.

A row is ("line 3", its cells by column name). What a format allows is read: cells of any length, byte order marks, any
line ends, empty lines, JSON lines in a file called .json. A column name that stands twice is no matter until that
column is wanted: its cells are `Repeated`. What cannot be read is an `InputError` with file, line and column.
"""

from __future__ import annotations

import csv
import io
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import InputError
from interp.loading.licence import card_licence

__all__ = ["READERS", "FromFile", "Repeated", "Row", "each_line", "file_facts"]

Row = tuple[str, dict[str, Any]]

_OPERATION = "load problems"
_CELL_LIMIT = 2**31 - 1  # characters: the largest that the csv module takes on every platform
_CSV_LIMIT = threading.Lock()  # the module has one limit for the whole process


@dataclass(frozen=True)
class Repeated:
    """The cell of a column name that stands several times: which of them is meant, nobody can tell."""

    values: tuple[Any, ...]


class FromFile(list[Any]):
    """Problems of a file: a list like any other that also says which file it is of.

    >>> FromFile(["a"], {"file": "gsm8k.jsonl", "licence": "mit"}).source["licence"]
    'mit'
    """

    def __init__(self, items: Iterable[Any] = (), source: Mapping[str, str | None] | None = None) -> None:
        super().__init__(items)
        self.source = dict(source or {})


def file_facts(file: Path) -> dict[str, str | None]:
    """What a run notes of a problem file: its name without folders, and the licence that the files beside it state.

    >>> file_facts(Path("no/such/gsm8k.jsonl"))
    {'file': 'gsm8k.jsonl', 'licence': None}
    """
    return {"file": file.name, "licence": card_licence(file.parent)}


def _cells(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    many = {name for name, count in Counter(names).items() if count > 1}
    if not many:
        return dict(zip(names, values, strict=True))
    found: dict[str, Any] = {}
    for name, value in zip(names, values, strict=True):
        found[name] = Repeated((*found.get(name, Repeated(())).values, value)) if name in many else value
    return found


def read_jsonl(file: Path) -> Iterator[Row]:
    with file.open("rb") as handle:  # bytes, so that lines end at \n only and a wrong byte has its line
        for number, line in enumerate(handle, 1):
            text = _decoded(line, file, number).strip()
            if text:
                value = _parsed(text, file, number)
                yield f"line {number}", _object(value, f"line {number}", "a file of one list is named .json")


def each_line(file: Path) -> Iterator[tuple[str, dict[str, Any] | InputError]]:
    """The rows of JSON lines, each by itself: a line that cannot be read is its refusal, and the others go on."""
    with file.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            where = f"line {number}"
            try:
                text = _decoded(line, file, number).strip()
                row = _object(_parsed(text, file, number), where) if text else None
            except InputError as error:
                yield where, error
            else:
                if row is not None:
                    yield where, row


def read_json(file: Path) -> Iterator[Row]:
    text = _decoded(file.read_bytes(), file).strip()
    first, _, more = text.partition("\n")
    if more.strip() and _is_object(first.strip()):
        yield from read_jsonl(file)  # JSON lines by another name, as Hugging Face's data sets have them
        return
    rows = _parsed(text, file) if text else []
    if not isinstance(rows, list):
        raise InputError(
            _OPERATION,
            expected="a list of objects",
            received=f"a JSON {type(rows).__name__} in {file}",
            remedy="Put the problems into one list, or one object a line into a .jsonl file.",
        )
    for number, row in enumerate(rows, 1):
        yield f"row {number}", _object(row, f"row {number}")


def read_csv(file: Path) -> Iterator[Row]:
    text = _decoded(file.read_bytes(), file)
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] | None = None
    number, begins = 0, 1
    try:
        while True:
            with _CSV_LIMIT:
                usual = csv.field_size_limit(_CELL_LIMIT)
                try:
                    cells = next(rows, None)
                finally:
                    csv.field_size_limit(usual)
            if cells is None:
                return
            line, begins = begins, rows.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue  # a line of nothing, or of commas, as spreadsheets leave below a table
            if names is None:
                names = [name.strip() for name in cells]
                continue
            number += 1
            if len(cells) > len(names):
                if any(cell.strip() for cell in cells[len(names) :]):
                    raise csv.Error("more cells than columns")
                del cells[len(names) :]
            missing: list[Any] = [None] * (len(names) - len(cells))
            yield f"row {number} (line {line})", _cells(names, [*cells, *missing])
    except csv.Error as error:
        raise InputError(
            _OPERATION,
            expected="comma-separated values under one line of column names",
            received=f"line {rows.line_num} of {file}: {error}",
            remedy="Mend the line's quotes and commas, or save the table as .jsonl or .parquet.",
        ) from error


def read_parquet(file: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=256):
                # Floats by way of numpy: a float32 0.1 keeps its own short text, "0.1", instead of 0.10000000149
                columns = [
                    column.to_numpy(zero_copy_only=False)
                    if pyarrow.types.is_floating(column.type)
                    else column.to_pylist()
                    for column in batch.columns
                ]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield f"row {number}", _cells(batch.schema.names, cells)
    except pyarrow.ArrowException as error:
        raise InputError(
            _OPERATION,
            expected="a Parquet table",
            received=f"{file}: {str(error)[:400]}",
            remedy="Write the file again; it is cut short or of another format.",
        ) from error


def _decoded(content: bytes, file: Path, line: int = 0) -> str:
    """UTF-8 text, without byte order mark; a wrong byte is told with its line and its column in bytes."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = line or before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        kind = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "Windows or Latin"
        raise InputError(
            _OPERATION,
            expected="UTF-8 text",
            received=f"byte 0x{content[error.start]:02x} in {file}, line {line}, byte {column} of it",
            remedy=f"Save the file as UTF-8; it looks like {kind} text.",
        ) from error


def _parsed(text: str, file: Path, line: int = 1) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:  # ValueError also for an integer of thousands of digits
        told, hint = str(error), ""
        if isinstance(error, json.JSONDecodeError):
            line += error.lineno - 1
            told = f"{error.msg}, column {error.colno}"
            if (error.pos > 0 and text[: error.pos].rstrip().endswith(",")) or text[error.pos :].strip() == ",":
                hint = " There is a comma too many."
        raise InputError(
            _OPERATION,
            expected="JSON",
            received=f"line {line} of {file}: {told}",
            remedy=f"A .jsonl file holds one object a line, a .json file one list of objects.{hint}",
        ) from error


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return _cells([name for name, _ in pairs], [value for _, value in pairs])


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _object(value: Any, where: str, hint: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(
            _OPERATION,
            expected="a JSON object for each problem",
            received=f"{type(value).__name__} in {where}",
            remedy='Write each problem as {"question": ..., "solution": ..., "answer": ...}'
            + (f"; {hint}." if hint and isinstance(value, list) else "."),
        )
    return value


READERS = {".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv, ".parquet": read_parquet}

"""A circuit as one file of JSON, which any language reads and which runs no code when it is opened.

Tables are written by column, each with the type it has, so that what is read is what was written: floats to the last
bit (a number that JSON has not is text), whole numbers, texts of any characters, truth values, missing values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from analyses.store.atomic import disk_errors, make_folder, replacing
from interp.errors import InputError

__all__ = ["checked_json", "read_circuit", "table_as_json", "table_from_json", "write_circuit", "write_whole"]

FORMAT = "peaklens circuit 1"
_TABLES = ("nodes", "edges", "positions")


def write_circuit(target: Path, tables: Mapping[str, pandas.DataFrame], rest: Mapping[str, Any]) -> Path:
    """Write tables and plain data, whole or not at all."""
    body = {"format": FORMAT, **rest, **{name: table_as_json(frame) for name, frame in tables.items()}}
    return write_whole(target, json.dumps(body, allow_nan=False, separators=(",", ":")), "save a circuit")


def write_whole(target: Path, text: str, operation: str) -> Path:
    """Write a text, whole or not at all, into a folder that is made where there is none."""
    with disk_errors(operation, target, "Choose a folder that can be written and has room."):
        make_folder(target.parent)
        with replacing(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return target


def read_circuit(path: Path) -> tuple[dict[str, pandas.DataFrame], dict[str, Any]]:
    """Read what :func:`write_circuit` wrote; anything else is refused, and nothing of it is run."""
    try:
        body = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(path, f"no JSON that can be read ({type(error).__name__})") from error
    found = body.get("format") if isinstance(body, dict) else None
    if found != FORMAT:
        raise _refused(path, f"format {found!r}")
    try:
        tables = {name: table_from_json(body.pop(name)) for name in _TABLES}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _refused(path, f"tables that are not whole ({error})") from error
    del body["format"]
    return tables, body


def checked_json(value: Any, what: str) -> Any:
    """The value as JSON gives it back, tuples as lists; what JSON has not is refused.

    >>> checked_json({"layers": (1, 2)}, "settings")
    {'layers': [1, 2]}
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            "Circuit",
            expected=f"{what} of texts, finite numbers, truth values, lists and dicts of them",
            received=str(error)[:80],
            remedy="Name it by text.",
        ) from error


def table_as_json(frame: pandas.DataFrame) -> dict[str, Any]:
    """A table by column, each with the type it has."""
    return {"rows": len(frame), "columns": {name: _column(frame[name]) for name in frame.columns}}


def _column(column: pandas.Series[Any]) -> dict[str, Any]:
    kind, values = str(column.dtype), column.tolist()
    if kind == "Int64":
        return {"type": kind, "values": [None if value is pandas.NA else int(value) for value in values]}
    if kind == "float64":
        return {"type": kind, "values": [value if math.isfinite(value) else repr(value) for value in values]}
    if kind == "str":
        return {
            "type": kind,
            "values": [None if missing else str(value) for value, missing in zip(values, column.isna(), strict=True)],
        }
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    return {"type": kind if kind in ("int64", "bool") else "text", "values": plain}


def table_from_json(table: dict[str, Any]) -> pandas.DataFrame:
    """The table that :func:`table_as_json` was given; `KeyError`, `TypeError` or `ValueError` where it is not whole."""
    made: dict[str, Any] = {}
    for name, column in table["columns"].items():
        kind, values = column["type"], column["values"]
        if len(values) != table["rows"]:
            raise ValueError(f"column {name!r} has {len(values)} of {table['rows']} rows")
        if kind == "Int64":
            made[name] = pandas.array(values, dtype="Int64")
        elif kind == "float64":
            made[name] = np.array([float(value) for value in values], dtype=np.float64)
        elif kind == "str":
            made[name] = pandas.array(values, dtype="str")
        elif kind in ("int64", "bool"):
            made[name] = np.array(values, dtype=kind)
        elif kind == "text":
            made[name] = pandas.Series(values, dtype=object)  # any text, as Circuit has it
        else:
            raise ValueError(f"column {name!r} has type {kind!r}")
    return pandas.DataFrame(made)


def _refused(path: Path, received: str) -> InputError:
    return InputError(
        "load a circuit",
        expected=f"a file written by Circuit.save ({FORMAT})",
        received=f"{path}, {received}",
        remedy="Pickles and other formats are not opened.",
    )

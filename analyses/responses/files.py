"""Files and folders with responses, recognised by what is in them; what cannot be read is told, the rest is taken.

1. A folder is a run of ours, a data set on disk, or holds files of these formats. A file is told by its first bytes (a
   zip is a log of Inspect, ``PAR1`` a Parquet table) and its text: JSON lines, one JSON value, or a log of Inspect.
2. Each row is recognised by itself (`FORMS`, the first that fits), so that what stands between others is read or told
   alone: a line that is no JSON, wrong bytes, rows without a response.
3. Nothing is executed: pickles are refused unread.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from analyses.problem_files import READERS, each_line
from analyses.responses import chat, folders, inspect_logs, lm_eval, own, vllm
from analyses.responses.stored import Found, Stored
from interp.errors import InputError

__all__ = ["FORMS", "Responses", "load_responses"]

_OPERATION = "read responses"
FORMS: tuple[ModuleType, ...] = (vllm, lm_eval, chat, own)
"""Formats of a row, in the order in which they are tried; each has `NAME`, `fits` and `read`."""

_LOOK = 50  # lines, the first of which that is an object tells that a file is of JSON lines
_ANY = "See docs/RESPONSES.md for the formats that are read."

Rows = Iterable[tuple[str, Mapping[str, Any] | Stored | InputError]]


@dataclass(frozen=True)
class Responses:
    """Responses of one file or of several, as they stand there.

    Attributes:
        stored: the responses, in the order of the files.
        refused: places that hold none, with the reason of each.
        sources: of each file its name, SHA-256, and how many responses of which format it holds, for ``run.json``.
    """

    stored: tuple[Stored, ...]
    refused: Mapping[str, str]
    sources: tuple[Mapping[str, Any], ...]


def load_responses(paths: str | Path | Sequence[str | Path]) -> Responses:
    r"""The responses of a file or a folder, or of several, in any format that is known.

    >>> import tempfile
    >>> rows = '{"question": "2 + 2?", "answer": "4", "response": "It is 4."}\nno JSON\n'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "mine.jsonl")
    ...     _ = file.write_text(rows)
    ...     found = load_responses(file)
    >>> found.stored[0].text, list(found.refused), found.sources[0]["formats"]
    ('It is 4.', ['line 2 of mine.jsonl'], {'rows': 1})

    Raises:
        InputError: nothing is there, the format is not known, or a library that reads it is missing.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    files = [file for path in given for file in _files(Path(path))]
    if not files:
        raise InputError(_OPERATION, expected="a file with responses", received="none", remedy=_ANY)
    stored: list[Stored] = []
    refused: dict[str, str] = {}
    sources = []
    for number, file in enumerate(files):
        found = _read(file)
        stored += [replace(one, source=number) for one in found.stored]
        refused |= found.refused
        sources.append(
            {
                "file": file.name,
                "sha256": _digest(file),
                "formats": dict(Counter(one.form for one in found.stored)),
                "unreadable": len(found.refused),
            }
        )
    if not stored:
        place, why = next(iter(refused.items()), (str(files[0]), "nothing"))
        raise InputError(
            _OPERATION, expected="a file with responses", received=f"none that can be read, first {place}: {why}"[:400],
            remedy=_ANY,
        )  # fmt: skip
    return Responses(tuple(stored), refused, tuple(sources))


def _files(path: Path) -> list[Path]:
    """The file, the folder where it is one thing, or what it holds."""
    if not path.exists():
        raise InputError(_OPERATION, expected="a file or a folder", received=f"{path}: none", remedy="Check the path.")
    if not path.is_dir() or folders.is_run(path) or folders.is_dataset(path):
        return [path]
    held = sorted(file for file in path.rglob("*") if file.is_file())
    for kind in ("samples_*.jsonl", "*.eval", "*.jsonl", "*.parquet"):
        if matching := [file for file in held if file.match(kind)]:
            return matching
    raise InputError(_OPERATION, expected="files with responses", received=f"{path}, without any", remedy=_ANY)


def _read(file: Path) -> Found:
    read, rows = _opened(file)
    found = Found()
    twins: set[str] = set()
    for where, row in rows:
        place = f"{where} of {file.name}"
        try:
            if isinstance(row, InputError):
                raise row
            read_here = [replace(row, where=place)] if isinstance(row, Stored) else read(row, place)
        except InputError as error:
            found.refused[place] = str(error)
            continue
        for one in read_here:
            if one.twin is None or one.twin not in twins:
                found.stored.append(one)
            twins.update(() if one.twin is None else (one.twin,))
    return found


def _opened(file: Path) -> tuple[Callable[[Mapping[str, Any], str], list[Stored]], Rows]:
    """What reads a row of a file, and its rows."""
    if file.is_dir():
        return _by_form, folders.run_rows(file) if folders.is_run(file) else folders.dataset_rows(file)
    try:
        with file.open("rb") as handle:
            begin = handle.read(8)
    except OSError as error:
        received = f"{file} ({error.strerror or error})"
        raise InputError(_OPERATION, expected="a file that can be read", received=received, remedy=_ANY) from error
    if begin[:4] == b"PK\x03\x04" and _is_log(file):
        return inspect_logs.stored_of, inspect_logs.rows_of(file)
    if begin[:4] == b"PAR1":
        return _by_form, READERS[".parquet"](file)
    if file.suffix.lower() == ".csv":
        return _by_form, READERS[".csv"](file)
    if begin[:1] == b"\x80" or begin[:2] in (b"\x1f\x8b", b"PK"):
        kind = "a pickle, which is never loaded" if begin[:1] == b"\x80" else "a compressed file"
        raise InputError(_OPERATION, expected="JSON lines, JSON or Parquet", received=f"{file}: {kind}", remedy=_ANY)
    first = list(islice((row for _, row in each_line(file)), _LOOK))
    objects = [row for row in first if not isinstance(row, InputError)]
    if objects and not _is_log_value(objects[0]):
        return _by_form, each_line(file)
    value = objects[0] if objects else _whole(file)
    if _is_log_value(value):
        return inspect_logs.stored_of, inspect_logs.rows_of(file)
    rows = value if isinstance(value, list) else [value]
    return _by_form, [(f"row {number}", _row(row)) for number, row in enumerate(rows, 1)]


def _by_form(row: Mapping[str, Any], where: str) -> list[Stored]:
    form = next((form for form in FORMS if form.fits(row)), None)
    if form is None:
        raise InputError(
            _OPERATION,
            expected="a response, its text or its token ids",
            received=f"the columns {', '.join(map(str, row))}"[:200] if row else "no columns",
            remedy=_ANY,
        )
    found: list[Stored] = form.read(row, where)
    for one in found:
        if not (one.text or "").strip() and not (one.reasoning or "").strip() and not one.token_ids:
            raise InputError(_OPERATION, expected="a response", received="an empty one", remedy="Leave the row out.")
    return found


def _row(value: Any) -> Mapping[str, Any] | InputError:
    if isinstance(value, Mapping):
        return value
    return InputError(_OPERATION, expected="a JSON object", received=type(value).__name__, remedy=_ANY)


def _whole(file: Path) -> Any:
    """A file of one JSON value."""
    import json

    try:
        return json.loads(file.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        first = next((str(row) for _, row in each_line(file) if isinstance(row, InputError)), str(error))
        raise InputError(
            _OPERATION,
            expected="JSON lines, JSON, Parquet, a log of Inspect, a data set on disk or a run folder",
            received=f"{file}, in whose first lines no object is: {first}"[:400],
            remedy=_ANY,
        ) from error


def _is_log(file: Path) -> bool:
    """Whether a zip is a log of Inspect."""
    try:
        with zipfile.ZipFile(file) as held:
            return any(name.startswith(("header.json", "_journal/")) for name in held.namelist())
    except zipfile.BadZipFile:
        return False


def _is_log_value(value: Any) -> bool:
    return isinstance(value, Mapping) and "eval" in value and "status" in value and "plan" in value


def _digest(path: Path) -> str:
    """SHA-256 of a file; of a folder that of its own account of what it holds."""
    digest = hashlib.sha256()
    inside = [path]
    if path.is_dir():
        inside = [path / "run.json"] if folders.is_run(path) else sorted(f for f in path.rglob("*") if f.is_file())
    for file in inside:
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()

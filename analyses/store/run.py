"""The run folder: everything recorded for one setting, one file per cell, so that stopping at any moment loses little.

1. `Run.start` makes the folder, or resumes it if ``run.json`` pins the same settings, and tries the disk.
2. `Run.write` stores a cell (condition, problem, sample) whole or not at all; several processes may do so at once.
3. `Run.cells` and `Run.read` give back what is finished; a damaged file is named instead of read.
4. `Run.write_table` and `Run.table_writer` put the tables derived from the cells beside ``run.json``.

    run.json                                       kind, settings, provenance, format, creation time
    failures.json                                  cells that could not be done, and why
    cells/<condition>/<problem>/<sample>.safetensors   tensors; payload, cell and checksum as JSON in the metadata
    mi.parquet  peaks.parquet  responses.parquet  tokens.csv          derived tables

Names in the paths are quoted (`quote_name`), so any id is safe; nothing is ever unpickled.
"""

from __future__ import annotations

import html
import io
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from analyses.store.atomic import (
    disk_errors,
    is_temporary,
    locked,
    make_folder,
    probe,
    quote_name,
    replacing,
    sweep,
    unquote_name,
)
from analyses.store.pinned import FORMAT, Judge, json_values, merge_pinned, read_pinned, write_pinned
from analyses.store.tables import is_table, parquet_writer, read_frame, read_rows, row_groups, write_frame
from interp.errors import InputError

if TYPE_CHECKING:
    import pandas
    import pyarrow
    import pyarrow.parquet

__all__ = ["Cell", "CellData", "Run"]

AnyRun = TypeVar("AnyRun", bound="Run")

_KEY = "peaklens"  # of the safetensors metadata, whose values must be text
_HEADER_LIMIT = 90_000_000  # characters; safetensors reads headers up to 100 MB
_LOCK = ".lock"
_FAILURES = "failures.json"
_SAFE = "Finished cells are safe: free some space or choose another folder, then run again to go on from there."


@dataclass(frozen=True, order=True)
class Cell:
    """Name of one recorded rollout; cells sort by condition, problem, sample.

    >>> sorted([Cell("p2"), Cell("p1", 1), Cell("p1", condition="ablate")])[0]
    Cell(condition='ablate', problem='p1', sample=0)

    Raises `InputError` for a sample under 0.
    """

    condition: str = field(default="baseline", kw_only=True)
    problem: str
    sample: int = 0

    def __post_init__(self) -> None:
        if self.sample < 0:
            raise InputError(
                "cell", expected="a sample of at least 0", received=str(self.sample), remedy="Count samples from 0."
            )


@dataclass(frozen=True, eq=False)
class CellData:
    """What a cell holds: tensors by name, on the CPU, and a payload of JSON values."""

    tensors: dict[str, Shaped[Tensor, "..."]]
    payload: dict[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run folder.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = Run.start(folder, kind="watch", settings={"model": "toy", "seed": 0}, provenance={"torch": "2.13"})
    ...     run.write(Cell("ducks"), {"mi": torch.ones(2, 3)}, {"text": "18"})
    ...     run.cells(), run.read(Cell("ducks")).payload
    ([Cell(condition='baseline', problem='ducks', sample=0)], {'text': '18'})

    `replaced` holds the settings that are noted only and that this start changed: by name, the value before and now.

    Every method raises `InputError` for bad input, a disk that refuses, and files that are damaged.
    """

    path: Path
    kind: str
    settings: dict[str, Any]
    provenance: dict[str, Any]
    created: str
    replaced: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    writable: bool = False
    _claims: list[_Pins] = field(default_factory=list)  # what the first cell written here has to agree with

    @classmethod
    def start(
        cls: type[AnyRun],
        path: str | Path,
        *,
        kind: str,
        settings: Mapping[str, Any],
        provenance: Mapping[str, Any],
        may_grow: Sequence[str] = (),
        noted: Sequence[str] = (),
        judge: Judge | None = None,
        correctable: bool = False,
        need_bytes: int = 0,
    ) -> AnyRun:
        """Create the folder, or resume it, and check that it can be written before any work is done.

        `settings` and `provenance` are JSON values. On resuming they must equal those in ``run.json``, except that the
        settings named in `may_grow` are merged: lists by union, dicts by key, with equal values under common keys; and
        those named in `noted`, on which no cell depends, are replaced. `judge` compares the provenance in place of
        equality. Where there is no cell yet, a `correctable` run takes other settings instead of refusing them.
        `need_bytes` is the free space to insist on. Temporaries of dead processes are removed.
        """
        folder = Path(path)
        new: dict[str, Any] = {
            "format": FORMAT,
            "kind": kind,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": json_values(settings, "settings"),
            "provenance": json_values(provenance, "provenance"),
        }
        with disk_errors("start run", folder, "Choose a folder on a disk that can be written and has room."):
            make_folder(folder)
            others = sorted(file.name for file in folder.iterdir() if file.name != _LOCK and not is_temporary(file))
            if others and not (folder / "run.json").exists():
                raise InputError(
                    "start run",
                    expected="a new folder, an empty one, or one with a run.json",
                    received=f"{folder}, which holds {', '.join(others[:3])}{' ...' if len(others) > 3 else ''}",
                    remedy="Choose another output folder.",
                )
            with locked(folder / _LOCK):
                pins = _Pins(folder, new, tuple(may_grow), tuple(noted), judge)
                old = read_pinned(folder) if (folder / "run.json").exists() else None
                pinned = new if old is None else pins.merged(old, correctable and not any(_files(folder)))
                sweep(folder)
                probe(folder)
                free = shutil.disk_usage(folder).free
                if free < need_bytes:
                    raise InputError(
                        "start run",
                        expected=f"{need_bytes / 1e9:.3g} GB of free space",
                        received=f"{free / 1e9:.3g} GB at {folder}",
                        remedy="Free some space, choose another disk, or record fewer layers, steps or problems.",
                    )
                if pinned is new:
                    (folder / _FAILURES).unlink(missing_ok=True)  # of settings that are no more
                if pinned != old:
                    write_pinned(folder, pinned)
        replaced = {} if old is None else _replaced(old["settings"], pinned["settings"], noted)
        run = cls(folder, kind, pinned["settings"], pinned["provenance"], pinned["created"], replaced, writable=True)
        if correctable:
            run._claims.append(pins)
        return run

    @classmethod
    def open(cls: type[AnyRun], path: str | Path) -> AnyRun:
        """The run in a folder that is there, to read cells and to read and write derived tables."""
        pinned = read_pinned(Path(path))
        return cls(Path(path), pinned["kind"], pinned["settings"], pinned["provenance"], pinned["created"])

    def has(self, cell: Cell) -> bool:
        """Whether `cell` is finished."""
        return self._file(cell).is_file()

    def cells(self, condition: str | None = None) -> list[Cell]:
        """The finished cells (of one condition), by condition, problem and sample.

        Problems come in the order of ``settings["problems"]`` where that lists them, then by name.
        """
        listed = self.settings.get("problems")
        order = {str(name): place for place, name in enumerate(listed if isinstance(listed, list | dict) else ())}
        found = [self._cell(file) for file in self._files()]
        return sorted(
            (cell for cell in found if cell is not None and condition in (None, cell.condition)),
            key=lambda cell: (cell.condition, order.get(cell.problem, len(order)), cell.problem, cell.sample),
        )

    def read(self, cell: Cell) -> CellData:
        """Tensors and payload of a finished cell, checked against the checksum they were stored with."""
        file = self._file(cell)
        if not file.is_file():
            raise InputError(
                "read cell", expected="a finished cell", received=f"{cell}, not in {self.path}", remedy="See cells()."
            )
        try:
            # safe_open opens a file twice, header and tensors, which are of two versions if a writer comes between
            content = file.read_bytes()
            tensors, header = load(content), _header(io.BytesIO(content))
            payload = header["payload"]
            if header["cell"] != asdict(cell) or header["checksum"] != _checksum(tensors):
                raise ValueError("its content is not what was stored")
        except (SafetensorError, OSError, ValueError, TypeError, LookupError, RuntimeError) as error:
            raise _damaged(file, error) from error
        return CellData(tensors, payload)

    def payload(self, cell: Cell) -> dict[str, Any]:
        """The payload of a finished cell alone: only the head of its file is read, and that the file is whole."""
        file = self._file(cell)
        if not file.is_file():
            return self.read(cell).payload  # says what is missing
        try:
            with file.open("rb") as stored:
                header = _header(stored)
                if header["cell"] != asdict(cell) or stored.seek(0, io.SEEK_END) != header["bytes"]:
                    raise ValueError("its content is not what was stored")
        except (SafetensorError, OSError, ValueError, TypeError, LookupError) as error:
            raise _damaged(file, error) from error
        return header["payload"]

    def tensor(self, cell: Cell, name: str, rows: slice = slice(None)) -> Shaped[Tensor, "..."]:
        """One tensor of a finished cell, or some rows of it; nothing else of the file is read, nor its checksum."""
        file = self._file(cell)
        if not file.is_file():
            return self.read(cell).tensors[name]  # says what is missing
        try:
            with safe_open(file, framework="pt") as stored:
                part = stored.get_slice(name)
                found: Tensor = part[rows] if part.get_shape() else stored.get_tensor(name)
        except (SafetensorError, OSError, ValueError, TypeError, LookupError) as error:
            raise _damaged(file, error) from error
        return found

    def files(self) -> list[Path]:
        """The files of all finished cells, for their times and sizes."""
        return sorted(self._files())

    def write(self, cell: Cell, tensors: Mapping[str, Shaped[Tensor, "..."]], payload: Mapping[str, Any]) -> None:
        """Store `cell` whole, in place of an earlier version of it; on failure nothing changes.

        Tensors may be on any device and share memory. The payload comes back as JSON gives it: tuples as lists, keys as
        text; NaN is kept.
        """
        if not self.writable:
            raise InputError(
                "write cell",
                expected="a run from Run.start, which checks the settings",
                received="one from Run.open",
                remedy="Start the run with its settings to add cells.",
            )
        stored = _plain(tensors)
        try:
            header = json.dumps({"cell": asdict(cell), "checksum": _checksum(stored), "payload": dict(payload)})
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(
                "write cell",
                expected="a payload of JSON values",
                received=str(error),
                remedy="Convert arrays to lists or numbers, or store them as tensors.",
            ) from error
        if len(json.dumps(header)) > _HEADER_LIMIT:
            raise InputError(
                "write cell",
                expected=f"a payload under {_HEADER_LIMIT / 1e6:.0f} MB of JSON",
                received=f"{len(header) / 1e6:.0f} MB for {cell}",
                remedy="Store long lists of numbers as tensors.",
            )
        file = self._file(cell)
        with disk_errors("write cell", file, _SAFE), self._claimed():
            make_folder(file.parent)
            with replacing(file) as temporary:
                save_file(stored, temporary, metadata={_KEY: header})

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Around the first cell that this process writes.

        While there was no cell, another process may have corrected the settings; from now on nobody can.
        """
        if not self._claims:
            yield
            return
        with locked(self.path / _LOCK):
            pins = self._claims[0]
            old = read_pinned(self.path)
            pinned = pins.merged(old, False)
            if pinned != old:
                write_pinned(self.path, pinned)
            yield
        self._claims.clear()

    def failures(self) -> dict[Cell, str]:
        """Cells that could not be done, with their reasons; those finished since are left out."""
        file = self.path / _FAILURES
        if not file.is_file():
            return {}
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))
            found = {Cell(**entry["cell"]): str(entry["reason"]) for entry in entries}
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise _damaged(file, error) from error
        return {cell: reason for cell, reason in found.items() if not self.has(cell)}

    def record_failures(self, failures: Mapping[Cell, str]) -> None:
        """Add to the list of failures, whoever else does so at the same time."""
        with disk_errors("record failures", self.path / _FAILURES, _SAFE), locked(self.path / _LOCK):
            merged = self.failures() | {cell: reason for cell, reason in failures.items() if not self.has(cell)}
            entries = [{"cell": asdict(cell), "reason": reason} for cell, reason in sorted(merged.items())]
            with replacing(self.path / _FAILURES) as temporary:
                temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")

    def table(
        self, name: str, columns: Sequence[str] | None = None, where: Mapping[str, object] | None = None
    ) -> pandas.DataFrame:
        """The derived table of that file name, or some columns of it and the rows with given values (`read_rows`)."""
        file = self._table_file(name)
        if not file.is_file():
            raise InputError(
                "read table",
                expected=f"{name} in {self.path}",
                received=f"a run with {', '.join(self.tables) or 'no tables'}",
                remedy="Derive the table from the run's cells first.",
            )
        return read_frame(file) if columns is None and where is None else read_rows(file, columns, where)

    def parts(self, name: str, columns: Sequence[str]) -> Iterator[pandas.DataFrame]:
        """Some columns of a derived Parquet table, a row group at a time (`row_groups`)."""
        if not self._table_file(name).is_file():
            self.table(name)  # says what is missing
        return row_groups(self._table_file(name), columns)

    def write_table(self, name: str, frame: pandas.DataFrame) -> None:
        """Store a derived table, Parquet or CSV by the suffix of `name`, in place of an earlier one (`write_frame`)."""
        write_frame(self._table_file(name), frame)

    @contextmanager
    def table_writer(self, name: str, schema: pyarrow.Schema) -> Iterator[pyarrow.parquet.ParquetWriter]:
        """Stream a derived Parquet table, one that need not fit into memory, by row groups (`parquet_writer`)."""
        with parquet_writer(self._table_file(name), schema) as writer:
            yield writer

    @property
    def tables(self) -> list[str]:
        """File names of the derived tables there are."""
        return sorted(file.name for file in self.path.iterdir() if is_table(file.name))

    def __getattr__(self, name: str) -> pandas.DataFrame:
        """A derived table by its name: ``run.mi`` is the table mi.parquet, if the run has it."""
        if name.startswith("_") or name in self.__dataclass_fields__:  # a copy that is being made has no path yet
            raise AttributeError(name)
        for file in (f"{name}.parquet", f"{name}.csv"):
            if file in self.tables:
                return self.table(file)
        raise AttributeError(f"this run has no {name!r}; its tables are {', '.join(self.tables) or 'none'}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name.partition(".")[0] for name in self.tables)]

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {', '.join(self._summary())})"

    def _repr_html_(self) -> str:
        rows = (html.escape(text) for text in self._summary())
        return f"<div><b>Run</b> <code>{html.escape(str(self.path))}</code><br>{'<br>'.join(rows)}</div>"

    def _summary(self) -> list[str]:
        return [
            f"kind {self.kind}",
            f"model {self.settings.get('model', 'not named')}",
            f"{sum(1 for _ in self._files())} cells",
            f"tables {' '.join(self.tables) or 'none'}",
            *([f"{failed} failed"] if (failed := len(self.failures())) else []),
        ]

    def _table_file(self, name: str) -> Path:
        if not is_table(name):
            raise InputError(
                "table",
                expected="a plain file name ending in .parquet or .csv",
                received=repr(name),
                remedy="Name it like mi.parquet.",
            )
        return self.path / name

    def _file(self, cell: Cell) -> Path:
        folders = self.path / "cells" / quote_name(cell.condition) / quote_name(cell.problem)
        return folders / f"{cell.sample}.safetensors"

    def _files(self) -> Iterator[Path]:
        """Files of finished cells; temporaries and whatever else lies about are not."""
        return _files(self.path)

    def _cell(self, file: Path) -> Cell | None:
        """The cell a file is of; None for a file that is none."""
        names = [unquote_name(file.parent.parent.name), unquote_name(file.parent.name)]
        if names[0] is not None and names[1] is not None:
            return Cell(names[1], int(file.stem), condition=names[0])
        if "~" not in file.parent.parent.name + file.parent.name:
            return None
        try:  # a shortened name: the file itself holds the whole one
            with file.open("rb") as stored:
                cell = Cell(**_header(stored)["cell"])
        except (SafetensorError, OSError, ValueError, TypeError, LookupError) as error:
            raise _damaged(file, error) from error
        return cell if self._file(cell) == file else None


@dataclass(frozen=True)
class _Pins:
    """What a process pins a folder to, to be compared with what it holds: now, and before the first cell is written."""

    folder: Path
    new: dict[str, Any]
    may_grow: tuple[str, ...]
    noted: tuple[str, ...]
    judge: Judge | None

    def merged(self, old: dict[str, Any], corrects: bool) -> dict[str, Any]:
        try:
            return merge_pinned(self.folder, old, self.new, self.may_grow, self.noted, self.judge)
        except InputError:
            if not corrects:
                raise
            return self.new


def _replaced(old: dict[str, Any], new: dict[str, Any], noted: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    return {name: (old.get(name), new[name]) for name in noted if name in new and old.get(name) != new[name]}


def _files(folder: Path) -> Iterator[Path]:
    for file in (folder / "cells").glob("*/*/*.safetensors"):
        if file.stem.isascii() and file.stem.isdecimal() and file.stem == str(int(file.stem)):
            yield file


def _header(stored: io.BufferedIOBase) -> dict[str, Any]:
    """What `Run.write` put into the metadata, and the bytes that the whole file has.

    A safetensors file begins with the length of its JSON header.
    """
    size = int.from_bytes(stored.read(8), "little")
    header = json.loads(stored.read(min(size, 100_000_000)))
    ends = (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    return json.loads(header["__metadata__"][_KEY]) | {"bytes": 8 + size + max(ends, default=0)}


def _plain(tensors: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "..."]]:
    """The tensors as safetensors wants them: on the CPU, contiguous, each alone in its memory."""
    plain: dict[str, Tensor] = {}
    owned: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided or tensor.dtype == torch.complex128:
            raise InputError(
                "write cell",
                expected="dense tensors of plain numbers",
                received=f"{name!r}: {tensor.layout}, {tensor.dtype} on {tensor.device}",
                remedy="Convert it, with to_dense() or view_as_real() say.",
            )
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        if tensor.untyped_storage().data_ptr() in owned:  # safetensors refuses tensors that share memory
            tensor = tensor.clone()
        owned.add(tensor.untyped_storage().data_ptr())
        plain[name] = tensor
    return plain


def _checksum(tensors: Mapping[str, Shaped[Tensor, "..."]]) -> int:
    """CRC-32 of the bytes of all tensors by name: a damaged disk block leaves the file's form intact."""
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def _damaged(file: Path, error: Exception) -> InputError:
    return InputError(
        "read cell",
        expected=f"a whole {file}",
        received=str(error),
        remedy="Delete this file and run again: only its cell is recorded anew.",
    )

"""The run folder: everything recorded for one setting, one file per cell, so that stopping at any moment loses little.

1. `Run.start` makes the folder, or resumes it if ``run.json`` pins the same settings, and tries the disk.
2. `Run.write` stores a cell (condition, problem, sample) whole or not at all; several processes may do so at once.
3. `Run.cells` and `Run.read` give back what is finished; a damaged file is named instead of read.
4. `Run.write_table` and `Run.table_writer` put the tables derived from the cells beside ``run.json``.

    run.json                                       kind, settings, provenance, format, creation time
    failures.json                                  cells that could not be done, and why
    cells/<condition>/<problem>/<sample>.safetensors   tensors; payload, cell and checksum as JSON in the metadata
    shards/000001.zip                              such files, some hundred each, in runs of a thousand cells and more
    mi.parquet  peaks.parquet  responses.parquet  tokens.csv          derived tables

Names in the paths are quoted (`quote_name`), so any id is safe; nothing is ever unpickled.
"""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jaxtyping import Shaped
from torch import Tensor

from analyses.store.about import about_run
from analyses.store.atomic import disk_errors, is_temporary, locked, make_folder, probe, replacing, sweep
from analyses.store.cells import (
    Cell,
    CellData,
    Place,
    cell_at,
    cell_called,
    cell_file,
    cell_files,
    cell_writer,
    damaged,
    read_cell,
    read_payload,
    read_tensor,
)
from analyses.store.pinned import FORMAT, Judge, json_values, merge_pinned, read_pinned, write_pinned
from analyses.store.renamed import groups_by_either_name, read_by_either_name
from analyses.store.shards import Shards, any_cells, pack, writing
from analyses.store.tables import is_table, parquet_writer, write_frame
from interp.errors import InputError

if TYPE_CHECKING:
    import pandas
    import pyarrow
    import pyarrow.parquet

__all__ = ["Cell", "CellData", "Run"]

AnyRun = TypeVar("AnyRun", bound="Run")
Found = TypeVar("Found")

_LOCK = ".lock"
_LEAST = 1000  # cells that are files of their own, from which on they are packed
_WRITTEN = 100  # cells that a process writes before it looks whether there are so many
_FAILURES = "failures.json"
_SAFE = "Finished cells are safe: free some space or choose another folder, then run again to go on from there."


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
    _written: list[int] = field(default_factory=lambda: [0])  # cells, since this process last looked

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
                pinned = new if old is None else pins.merged(old, correctable and not any_cells(folder))
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
        return self._place(cell) is not None

    def cells(self, condition: str | None = None) -> list[Cell]:
        """The finished cells (of one condition), by condition, problem and sample.

        Problems come in the order of ``settings["problems"]`` where that lists them, then by name.
        """
        listed = self.settings.get("problems")
        order = {str(name): place for place, name in enumerate(listed if isinstance(listed, list | dict) else ())}
        while True:
            before = self._shards.places()
            alone = [cell_at(self.path, file) for file in cell_files(self.path)]
            places = self._shards.places()
            # Else a cell that was written anew since its file was looked for may have left its shard by now
            if places is before:
                break
        packed = (cell_called(name, place) for name, place in places.items())
        return sorted(
            {cell for cell in (*alone, *packed) if cell is not None and condition in (None, cell.condition)},
            key=lambda cell: (cell.condition, order.get(cell.problem, len(order)), cell.problem, cell.sample),
        )

    def read(self, cell: Cell) -> CellData:
        """Tensors and payload of a finished cell, checked against the checksum they were stored with."""
        return self._read(cell, lambda place: read_cell(place, cell))

    def payload(self, cell: Cell) -> dict[str, Any]:
        """The payload of a finished cell alone: only the head of its file is read, and that the file is whole."""
        return self._read(cell, lambda place: read_payload(place, cell))

    def tensor(self, cell: Cell, name: str, rows: slice = slice(None)) -> Shaped[Tensor, "..."]:
        """One tensor of a finished cell, or some rows of it; nothing else of the file is read, nor its checksum."""
        return self._read(cell, lambda place: read_tensor(place, name, rows))

    def files(self) -> list[Path]:
        """The files that hold finished cells, alone or packed, for their times and sizes."""
        return [*sorted(cell_files(self.path)), *self._shards.files()]

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
        write = cell_writer(cell, tensors, payload)
        file = cell_file(self.path, cell)
        with disk_errors("write cell", file, _SAFE):
            make_folder(self.path / "cells")
            with self._claimed(), writing(self.path):
                write(file)
            self._written[0] += 1
            if self._written[0] % _WRITTEN == 0:
                pack(self.path, self.path / _LOCK, least=_LEAST, shards=self._shards)

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
            raise damaged(file, error) from error
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
        """The derived table of that file name, or some columns of it and the rows with given values.

        Columns that tables of earlier versions call otherwise are there by both names, and may be asked for by either:
        `nhsic` of mi.parquet is `mi` too.
        """
        file = self._table_file(name)
        if not file.is_file():
            raise InputError(
                "read table",
                expected=f"{name} in {self.path}",
                received=f"a run with {', '.join(self.tables) or 'no tables'}",
                remedy="Derive the table from the run's cells first.",
            )
        return read_by_either_name(file, columns, where)

    def parts(self, name: str, columns: Sequence[str], rows: int | None = None) -> Iterator[pandas.DataFrame]:
        """Some columns of a derived Parquet table, a row group at a time or, where given, so many rows at most."""
        if not self._table_file(name).is_file():
            self.table(name)  # says what is missing
        return groups_by_either_name(self._table_file(name), columns, rows)

    def write_table(self, name: str, frame: pandas.DataFrame) -> None:
        """Store a derived table, Parquet or CSV by the suffix of `name`, in place of an earlier one (`write_frame`)."""
        write_frame(self._table_file(name), frame, self.about)

    @contextmanager
    def table_writer(self, name: str, schema: pyarrow.Schema) -> Iterator[pyarrow.parquet.ParquetWriter]:
        """Stream a derived Parquet table, one that need not fit into memory, by row groups (`parquet_writer`)."""
        with parquet_writer(self._table_file(name), schema, self.about) as writer:
            yield writer

    @property
    def about(self) -> dict[str, str]:
        """What its Parquet tables say of themselves (:mod:`analyses.store.about`)."""
        return about_run(self.kind, self.settings, self.provenance)

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
        names = (name.rpartition(".")[0] for name in self.tables)
        return [*super().__dir__(), *(name for name in names if name.isidentifier())]

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {', '.join(self._summary())})"

    def _repr_html_(self) -> str:
        rows = (html.escape(text) for text in self._summary())
        return f"<div><b>Run</b> <code>{html.escape(str(self.path))}</code><br>{'<br>'.join(rows)}</div>"

    def _summary(self) -> list[str]:
        return [
            f"kind {self.kind}",
            f"model {self.settings.get('model', 'not named')}",
            f"{len(self.cells())} cells",
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

    @cached_property
    def _shards(self) -> Shards:
        return Shards(self.path)

    def _place(self, cell: Cell) -> Place | None:
        """Where a finished cell is; a file of its own is newer than a packed one."""
        file = cell_file(self.path, cell)
        if file.is_file():
            return Place(file)
        packed = self._shards.places().get(file.relative_to(self.path / "cells").as_posix())
        # One that was written anew meanwhile may have left its shard
        return Place(file) if packed is None and file.is_file() else packed

    def _read(self, cell: Cell, read: Callable[[Place], Found]) -> Found:
        for last in (False, True):
            place = self._place(cell)
            if place is None:
                break
            try:
                return read(place)
            except FileNotFoundError as error:  # packed since its place was found: it is in a shard by now
                if last:
                    raise damaged(place.file, error) from error
        raise InputError(
            "read cell", expected="a finished cell", received=f"{cell}, not in {self.path}", remedy="See cells()."
        )


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

"""Finished cells packed into shards, so that no file system has to hold a file for each of them.

1. `pack` copies the files of finished cells into shards, some hundred each, and removes them once their shard is there
   whole. It may be killed at any moment, and other processes may read and write cells meanwhile.
2. A cell that is written anew is a file of its own again and counts in place of the packed one; a shard most of whose
   cells have been replaced is packed anew itself.
3. `Shards` knows where the bytes of each packed cell lie; they are read in place, nothing is unpacked.

    shards/000001.zip    <condition>/<problem>/<sample>.safetensors, as under cells/, stored without compression

Any program for ZIP files turns a shard back into the files it was made of, in ``cells/``.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TypeAlias

from analyses.store.atomic import NO_LOCKS, is_temporary, locked, make_folder, replacing
from analyses.store.cells import Place, cell_files, damaged

__all__ = ["Shards", "any_cells", "every_place", "pack", "write_places", "writing"]

CELLS = 500  # of a shard
_BYTES = 1 << 30  # of a shard, from which on the next cell begins another one
_TICK = 2 * 10**9  # nanoseconds that the clock of a file system may stand still
_HEAD = 30  # bytes of an entry's head in a ZIP file, before its name


#: Time, size and number of a file; None where it is gone.
_State: TypeAlias = tuple[int, int, int] | None


class Shards:
    """Where the packed cells of the run in `folder` are, by their names relative to ``cells/``.

    >>> import tempfile, torch
    >>> from analyses.store.cells import Cell, cell_file, cell_writer, read_payload
    >>> with tempfile.TemporaryDirectory() as text:
    ...     folder = Path(text)
    ...     for number in range(3):
    ...         cell = Cell("ducks", number)
    ...         cell_writer(cell, {"mi": torch.ones(2)}, {"text": str(number)})(cell_file(folder, cell))
    ...     packed, places = pack(folder, folder / ".lock", each=2), Shards(folder).places()
    ...     packed, sorted(places), read_payload(places["baseline/ducks/1.safetensors"], Cell("ducks", 1))
    (2, ['baseline/ducks/0.safetensors', 'baseline/ducks/1.safetensors'], {'text': '1'})

    Raises `InputError` for a shard that is no whole ZIP file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "shards"
        self._seen: int | None = None
        self._places: dict[str, Place] = {}
        self._read: dict[str, tuple[_State, dict[str, Place]]] = {}

    def files(self) -> list[Path]:
        """The shards, in the order in which they were written."""
        try:
            found = [file for file in self.folder.iterdir() if file.suffix == ".zip" and not is_temporary(file)]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(file for file in found if file.stem.isascii() and file.stem.isdecimal())

    def places(self) -> dict[str, Place]:
        """The place of each packed cell: the same object until a shard came or went, when they are looked at again."""
        try:
            now = self.folder.stat().st_mtime_ns
        except OSError:
            if self._read:
                self._places, self._read, self._seen = {}, {}, None
            return self._places
        if now != self._seen:
            before, self._read = self._read, self._looked()
            if before.keys() != self._read.keys() or any(
                self._read[name] is not known for name, known in before.items()
            ):
                self._places = {name: place for _, entries in self._read.values() for name, place in entries.items()}
            # What comes or goes within the same tick of its clock would not be seen by the time of the folder
            self._seen = now if time.time_ns() - now > _TICK else None
        return self._places

    def _looked(self) -> dict[str, tuple[_State, dict[str, Place]]]:
        """The shards that are there: a number may have been given to another one since."""
        while True:
            read = {}
            try:
                for file in self.files():
                    state, known = _state(file), self._read.get(file.name)
                    read[file.name] = known if known is not None and known[0] == state else (state, _entries(file))
                return read
            except FileNotFoundError:  # its cells went into another one meanwhile: that is to be seen too
                continue

    def of_each(self) -> dict[Path, dict[str, Place]]:
        """The places within each shard, those of cells that a later shard holds too included."""
        self.places()
        return {self.folder / name: entries for name, (_, entries) in sorted(self._read.items())}


def any_cells(folder: Path) -> bool:
    """Whether the run in `folder` has a finished cell."""
    return any(True for _ in cell_files(folder)) or bool(Shards(folder).files())


def every_place(folder: Path) -> dict[str, Place]:
    """The place of each finished cell of the run in `folder`, alone or packed, by its name relative to ``cells/``."""
    shards = Shards(folder)
    while True:
        before = shards.places()
        alone = {_name(folder, file): Place(file) for file in cell_files(folder)}
        if shards.places() is before:  # else a cell may have gone from its shard since its file was looked for
            return {**before, **alone}


def write_places(folder: Path, content: Mapping[str, Place], *, least: int) -> None:
    """Copy cells, as they are, into a folder that has none: packed if there are `least`, the rest as files."""
    names, begin = list(content), 0
    shards = Shards(folder)
    while len(names) >= least and len(names) - begin >= CELLS:
        some = names[begin : begin + CELLS]
        _write(shards, {name: content[name] for name in some})
        begin += CELLS
    for name in names[begin:]:
        file = folder / "cells" / name
        make_folder(file.parent)
        with replacing(file) as temporary:
            temporary.write_bytes(content[name].read())


def writing(folder: Path) -> AbstractContextManager[bool]:
    """Held while a cell is written: no file is removed as packed that is being replaced."""
    return locked(folder / "cells" / ".lock", shared=True)


def pack(folder: Path, lock: Path, *, least: int = 0, each: int | None = None, shards: Shards | None = None) -> int:
    """Pack full shards of finished cells, where at least `least` cells are files of their own; how many were packed.

    Args:
        lock: the lock file of the run; packing is done by one process at a time.
        each: cells of a shard, 500 unless said. Fewer than that are left as they are.
        shards: what is known of the shards by now, so that not all of them are read each time.

    A reader that found a cell's file before it was removed looks for it once more (`analyses.store.run`). Where locks
    hold nobody off, nothing is packed: a cell that another machine writes at that moment could be lost.
    """
    if not (folder / "cells").is_dir() or (folder / NO_LOCKS).exists():
        return 0
    with locked(lock) as held:
        if not held:
            return 0
        found = sorted(cell_files(folder))
        each = each or CELLS
        if len(found) < max(least, each):
            return 0
        shards = shards or Shards(folder)
        old, packed = shards.of_each(), 0
        for files in _filled(found, each):
            before = [(file, _state(file)) for file in files]
            names = {_name(folder, file): Place(file) for file in files}
            _write(shards, names)
            with locked(folder / "cells" / ".lock"):
                for file, state in before:
                    if _state(file) == state:  # otherwise it was written anew meanwhile and counts itself
                        file.unlink()
                        _remove_empty(file.parent)
            packed += len(files)
        _pack_again(folder, shards, old)
    return packed


def _pack_again(folder: Path, shards: Shards, old: dict[Path, dict[str, Place]]) -> None:
    """Of earlier shards, those more than half of whose cells have been replaced: what is left goes into a new one."""
    loose = {_name(folder, file) for file in cell_files(folder)}
    now = shards.places()
    for file, entries in old.items():
        left = {name: place for name, place in entries.items() if now[name] == place and name not in loose}
        if len(left) * 2 < len(entries):
            if left:
                _write(shards, left)
            file.unlink()


def _write(shards: Shards, content: dict[str, Place]) -> None:
    make_folder(shards.folder)
    last = max((int(file.stem) for file in shards.files()), default=0)
    with (
        replacing(shards.folder / f"{last + 1:06d}.zip") as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, place in content.items():
            archive.writestr(zipfile.ZipInfo(name), place.read())  # of a fixed date: a copy of a run is equal to it


def _filled(files: Sequence[Path], each: int) -> Iterator[list[Path]]:
    """Full shards of files; what is left over waits for the next time."""
    taken: list[Path] = []
    size = 0
    for file in files:
        taken.append(file)
        size += file.stat().st_size
        if len(taken) == each or size >= _BYTES:
            yield taken
            taken, size = [], 0


def _entries(file: Path) -> dict[str, Place]:
    """Where the files within a shard begin, and their sizes; `FileNotFoundError` for one that is gone."""
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as stored:
            return {entry.filename: Place(file, _begin(stored, entry), entry.file_size) for entry in archive.infolist()}
    except FileNotFoundError as error:
        if file.is_symlink():  # to nothing
            raise damaged(file, error) from error
        raise
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise damaged(file, error) from error


def _begin(stored: IO[bytes], entry: zipfile.ZipInfo) -> int:
    stored.seek(entry.header_offset)
    head = stored.read(_HEAD)
    return entry.header_offset + _HEAD + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")


def _name(folder: Path, file: Path) -> str:
    return file.relative_to(folder / "cells").as_posix()


def _state(file: Path) -> _State:
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _remove_empty(folder: Path) -> None:
    if next(folder.iterdir(), None) is None:
        folder.rmdir()

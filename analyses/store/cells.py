"""One cell as one file: its name, its path, its bytes, and whether they are what was stored.

    cells/<condition>/<problem>/<sample>.safetensors   tensors; payload, cell and checksum as JSON in the metadata

The bytes may lie within a larger file instead (`Place`, :mod:`analyses.store.shards`).

Names in the paths are quoted (`quote_name`), so any id is safe; nothing is ever unpickled.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from analyses.store.atomic import make_folder, quote_name, replacing, unquote_name
from interp.errors import InputError

__all__ = [
    "Cell", "CellData", "Place", "cell_at", "cell_called", "cell_file", "cell_files", "cell_writer", "damaged",
    "read_cell", "read_payload", "read_tensor",
]  # fmt: skip

_KEY = "peaklens"  # of the safetensors metadata, whose values must be text
_UNREADABLE = (
    SafetensorError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
)  # what a damaged file makes of reading
_HEADER_MOST = 100_000_000  # bytes of a header that safetensors reads
_HEADER_LIMIT = 90_000_000  # characters of a payload, as JSON within JSON


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


@dataclass(frozen=True)
class Place:
    """Where the bytes of a cell are: a file, or a part of one."""

    file: Path
    begin: int = 0
    size: int | None = None

    @contextmanager
    def opened(self) -> Iterator[io.BufferedReader]:
        """The file, at the place's first byte."""
        with self.file.open("rb") as stored:
            stored.seek(self.begin)
            yield stored

    def read(self) -> bytes:
        """All bytes."""
        with self.opened() as stored:
            return stored.read(-1 if self.size is None else self.size)

    def length(self, stored: io.BufferedReader) -> int:
        """How many bytes there are, of the file that is open."""
        return stored.seek(0, io.SEEK_END) - self.begin if self.size is None else self.size


def cell_file(folder: Path, cell: Cell) -> Path:
    """Where a cell of the run in `folder` is, or would be."""
    return folder / "cells" / quote_name(cell.condition) / quote_name(cell.problem) / f"{cell.sample}.safetensors"


def cell_files(folder: Path) -> Iterator[Path]:
    """The files of the finished cells of the run in `folder`; temporaries and whatever else lies about are not."""
    for condition in _within(folder / "cells"):
        for problem in _within(condition):
            for file in _within(problem):
                stem = file.stem
                if file.suffix == ".safetensors" and stem.isascii() and stem.isdecimal() and stem == str(int(stem)):
                    yield file


def _within(folder: Path) -> list[Path]:
    """What is in a folder; nothing in one whose last cell has been packed since it was seen (a glob would fail)."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def cell_at(folder: Path, file: Path) -> Cell | None:
    """The cell a file is of; None for a file that is none."""
    return cell_called(file.relative_to(folder / "cells").as_posix(), Place(file))


def cell_called(name: str, place: Place) -> Cell | None:
    """The cell of that path below ``cells/``; None where it is the path of none.

    >>> cell_called("baseline/a%2Fb/1.safetensors", Place(Path("unread")))
    Cell(condition='baseline', problem='a/b', sample=1)
    """
    *quoted, last = name.split("/")
    names = [unquote_name(part) for part in quoted]
    if names[0] is not None and names[1] is not None:
        return Cell(names[1], int(last.partition(".")[0]), condition=names[0])
    if "~" not in "".join(quoted):
        return None
    with _whole(place), place.opened() as stored:  # a shortened name: the file itself holds the whole one
        cell = Cell(**_header(stored)["cell"])
    return cell if cell_file(Path(), cell) == Path("cells", name) else None


@contextmanager
def _whole(place: Place) -> Iterator[None]:
    """What reading a damaged file raises, as a refusal; a file that is gone is no damage: it may have been packed."""
    try:
        yield
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise damaged(place.file, error) from error


def read_cell(place: Place, cell: Cell) -> CellData:
    """Tensors and payload, checked against the checksum they were stored with."""
    with _whole(place):
        # safe_open opens a file twice, header and tensors, which are of two versions if a writer comes between
        content = place.read()
        tensors, header = load(content), _header(io.BytesIO(content))
        payload = header["payload"]
        if header["cell"] != asdict(cell) or header["checksum"] != _checksum(tensors):
            raise ValueError("its content is not what was stored")
    return CellData(tensors, payload)


def read_payload(place: Place, cell: Cell) -> dict[str, Any]:
    """The payload alone: only the head of the file is read, and that the file is whole."""
    with _whole(place), place.opened() as stored:
        header = _header(stored)
        if header["cell"] != asdict(cell) or place.length(stored) != header["bytes"]:
            raise ValueError("its content is not what was stored")
    return header["payload"]


def read_tensor(place: Place, name: str, rows: slice) -> Shaped[Tensor, "..."]:
    """One tensor, or some rows of it; nothing else of the file is read, nor its checksum."""
    with _whole(place):
        with place.opened() as stored:
            size = int.from_bytes(stored.read(8), "little")
            told = json.loads(stored.read(min(size, _HEADER_MOST)))[name]
            shape, (begin, end) = told["shape"], told["data_offsets"]
            first, last, step = rows.indices(shape[0]) if shape else (0, 1, 1)
            last = max(first, last)
            each = (end - begin) // max(shape[0], 1) if shape else end - begin
            stored.seek(place.begin + 8 + size + begin + first * each)
            content = stored.read((last - first) * each)
        # A safetensors file of these rows alone
        told |= {"shape": [last - first, *shape[1:]] if shape else [], "data_offsets": [0, len(content)]}
        header = json.dumps({name: told}).encode()
        found = load(len(header).to_bytes(8, "little") + header + content)[name]
    return found[::step] if shape else found


def cell_writer(
    cell: Cell, tensors: Mapping[str, Shaped[Tensor, "..."]], payload: Mapping[str, Any]
) -> Callable[[Path], None]:
    """What writes the cell whole or not at all, once its content is found fit to be stored.

    Raises:
        InputError: tensors or a payload that cannot be stored.
    """
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

    def write(file: Path) -> None:
        make_folder(file.parent)
        with replacing(file) as temporary:
            save_file(stored, temporary, metadata={_KEY: header})

    return write


def _header(stored: io.BufferedIOBase) -> dict[str, Any]:
    """What `Run.write` put into the metadata, and the bytes that the whole file has.

    A safetensors file begins with the length of its JSON header.
    """
    size = int.from_bytes(stored.read(8), "little")
    header = json.loads(stored.read(min(size, _HEADER_MOST)))
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


def damaged(file: Path, error: Exception) -> InputError:
    """The refusal of a file that is not what was stored."""
    return InputError(
        "read cell",
        expected=f"a whole {file}",
        received=str(error),
        remedy="Delete this file and run again: only its cell is recorded anew.",
    )

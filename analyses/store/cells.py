"""One cell as one file: its name, its path, its bytes, and whether they are what was stored.

    cells/<condition>/<problem>/<sample>.safetensors   tensors; payload, cell and checksum as JSON in the metadata

Names in the paths are quoted (`quote_name`), so any id is safe; nothing is ever unpickled.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from analyses.store.atomic import make_folder, quote_name, replacing, unquote_name
from interp.errors import InputError

__all__ = [
    "Cell", "CellData", "cell_at", "cell_file", "cell_files", "cell_writer", "damaged", "read_cell", "read_payload",
    "read_tensor",
]  # fmt: skip

_KEY = "peaklens"  # of the safetensors metadata, whose values must be text
_UNREADABLE = (SafetensorError, OSError, ValueError, TypeError, LookupError)  # what a damaged file makes of reading
_HEADER_LIMIT = 90_000_000  # characters; safetensors reads headers up to 100 MB


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


def cell_file(folder: Path, cell: Cell) -> Path:
    """Where a cell of the run in `folder` is, or would be."""
    return folder / "cells" / quote_name(cell.condition) / quote_name(cell.problem) / f"{cell.sample}.safetensors"


def cell_files(folder: Path) -> Iterator[Path]:
    """The files of the finished cells of the run in `folder`; temporaries and whatever else lies about are not."""
    for file in (folder / "cells").glob("*/*/*.safetensors"):
        if file.stem.isascii() and file.stem.isdecimal() and file.stem == str(int(file.stem)):
            yield file


def cell_at(folder: Path, file: Path) -> Cell | None:
    """The cell a file is of; None for a file that is none."""
    names = [unquote_name(file.parent.parent.name), unquote_name(file.parent.name)]
    if names[0] is not None and names[1] is not None:
        return Cell(names[1], int(file.stem), condition=names[0])
    if "~" not in file.parent.parent.name + file.parent.name:
        return None
    try:  # a shortened name: the file itself holds the whole one
        with file.open("rb") as stored:
            cell = Cell(**_header(stored)["cell"])
    except _UNREADABLE as error:
        raise damaged(file, error) from error
    return cell if cell_file(folder, cell) == file else None


def read_cell(file: Path, cell: Cell) -> CellData:
    """Tensors and payload, checked against the checksum they were stored with."""
    try:
        # safe_open opens a file twice, header and tensors, which are of two versions if a writer comes between
        content = file.read_bytes()
        tensors, header = load(content), _header(io.BytesIO(content))
        payload = header["payload"]
        if header["cell"] != asdict(cell) or header["checksum"] != _checksum(tensors):
            raise ValueError("its content is not what was stored")
    except (*_UNREADABLE, RuntimeError) as error:
        raise damaged(file, error) from error
    return CellData(tensors, payload)


def read_payload(file: Path, cell: Cell) -> dict[str, Any]:
    """The payload alone: only the head of the file is read, and that the file is whole."""
    try:
        with file.open("rb") as stored:
            header = _header(stored)
            if header["cell"] != asdict(cell) or stored.seek(0, io.SEEK_END) != header["bytes"]:
                raise ValueError("its content is not what was stored")
    except _UNREADABLE as error:
        raise damaged(file, error) from error
    return header["payload"]


def read_tensor(file: Path, name: str, rows: slice) -> Shaped[Tensor, "..."]:
    """One tensor, or some rows of it; nothing else of the file is read, nor its checksum."""
    try:
        with safe_open(file, framework="pt") as stored:
            part = stored.get_slice(name)
            found: Tensor = part[rows] if part.get_shape() else stored.get_tensor(name)
    except _UNREADABLE as error:
        raise damaged(file, error) from error
    return found


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


def damaged(file: Path, error: Exception) -> InputError:
    """The refusal of a file that is not what was stored."""
    return InputError(
        "read cell",
        expected=f"a whole {file}",
        received=str(error),
        remedy="Delete this file and run again: only its cell is recorded anew.",
    )

"""What is recorded of a text, in a file that grows while the text is decoded or read.

A file holds the places of one shape, ``[step, place, *shape]``: step after step, so that it can be written as the steps
come, and none of them is held longer than it takes. It is a safetensors file (one tensor, ``residuals``; which places
they are stands in its metadata) and is mapped into memory when it is done: a step is read from the disk when it is
looked at.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.foreign import foreign_errors
from interp.sites import Site

__all__ = ["Files", "as_folder", "check_folder"]

_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_FORMAT = "peaklens residuals 1"


def as_folder(folder: object, is_kept: bool) -> None:
    """Refuse what is neither a path nor None; and a folder where nothing is kept, or elsewhere."""
    if folder is None:
        return
    if not is_kept:
        raise InputError(
            "record residuals",
            expected="folder with ResidualSites, and without device",
            received=f"folder={str(folder)!r} with device, or with residuals that are handed on",
            remedy="Files are on the disk alone, and what is handed on is not kept: leave one of them out.",
        )
    if not isinstance(folder, str | os.PathLike):
        raise InputError(
            "record residuals",
            expected="folder as a path",
            received=repr(folder)[:80],
            remedy='Write folder="streams".',
        )


def check_folder(folder: Path, dtype: torch.dtype, size: int, operation: str) -> None:
    """Make the folder; refuse one with files in it, one that cannot be written to, and more than its disk holds."""
    if dtype not in _NAMES:
        raise InputError(
            operation,
            expected=f"residuals kept as one of {', '.join(str(kind) for kind in _NAMES)}",
            received=str(dtype),
            remedy="Leave dtype out.",
        )
    with foreign_errors(
        operation, expected=f"a folder to write to at {folder}", remedy="Choose another folder.", kinds=(OSError,)
    ):
        folder.mkdir(parents=True, exist_ok=True)
        taken = next(folder.glob("*.safetensors"), None)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
        free = shutil.disk_usage(folder).free
    if taken is not None:
        raise InputError(
            operation,
            expected="a folder without residuals",
            received=str(taken),
            remedy="Choose another folder, or remove what is in this one.",
        )
    if size > free:
        raise InputError(
            operation,
            expected=f"at most the {free / 1e9:.1f} GB free at {folder}",
            received=f"up to {size / 1e9:.1f} GB",
            remedy="Record fewer layers, or choose another folder.",
        )


class Files:
    """The files of one text: one for the places of each shape.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> files = Files(folder, 3, {(2,): (Site("resid_pre", 0), Site("resid_post", 0))}, torch.float32)
    >>> for step in range(4):
    ...     files.write(step, {(2,): torch.full((2, 1, 2), float(step))})
    >>> files.done(4)[(2,)][1].tolist()
    [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    >>> from safetensors.torch import load_file
    >>> load_file(folder / "00003.safetensors")["residuals"].shape  # step, place, d_model
    torch.Size([4, 2, 2])
    """

    def __init__(
        self, folder: Path, number: int, groups: dict[tuple[int, ...], tuple[Site, ...]], dtype: torch.dtype
    ) -> None:
        self.groups, self.dtype = groups, dtype
        heads = {shape: f".{'x'.join(map(str, shape))}" if len(shape) > 1 else "" for shape in groups}
        self.paths = {shape: folder / f"{number:05d}{heads[shape]}.safetensors" for shape in groups}
        # Room for the longest header there may be, and all numbers at a multiple of their size.
        self.begins = {shape: 8 + 8 * math.ceil(len(self._header(shape, 10**12)) / 8) for shape in groups}
        self.folder, self.open = folder, {}
        with self._errors():
            for shape, path in self.paths.items():
                self.open[shape] = path.open("xb")

    def write(self, step: int, values: Mapping[tuple[int, ...], Tensor]) -> None:
        """Steps from ``step`` on, ``[place, step, *shape]`` of each shape."""
        with self._errors():
            for shape, block in values.items():
                rows = block.transpose(0, 1).to(device="cpu", dtype=self.dtype).contiguous()
                file = self.open[shape]
                file.seek(self.begins[shape] + step * self._bytes(shape))
                file.write(rows.view(-1).view(torch.uint8).numpy().data)

    def done(self, steps: int) -> dict[tuple[int, ...], Float[Tensor, "place step ..."]]:
        """Finish the files at so many steps; what they hold, mapped: changing it does not change them."""
        found = {}
        with self._errors():
            for shape, file in self.open.items():
                begin, count = self.begins[shape], steps * self._bytes(shape)
                file.seek(0)
                file.write(struct.pack("<Q", begin - 8) + self._header(shape, steps).ljust(begin - 8))
                file.truncate(begin + count)
                file.close()
                numbers, before = (begin + count) // self.dtype.itemsize, begin // self.dtype.itemsize
                whole = torch.from_file(str(self.paths[shape]), shared=False, size=numbers, dtype=self.dtype)
                mapped = whole[before:].view(steps, len(self.groups[shape]), *shape)
                found[shape] = mapped.transpose(0, 1)
        return found

    def drop(self) -> None:
        """Close and remove files that will not be finished."""
        for shape, file in self.open.items():
            if not file.closed:
                file.close()
                self.paths[shape].unlink(missing_ok=True)

    def _bytes(self, shape: tuple[int, ...]) -> int:
        return len(self.groups[shape]) * math.prod(shape) * self.dtype.itemsize

    def _header(self, shape: tuple[int, ...], steps: int) -> bytes:
        """What a safetensors file says of itself."""
        places = [f"{site.name} {site.layer}" for site in self.groups[shape]]
        entry = {
            "dtype": _NAMES[self.dtype],
            "shape": [steps, len(places), *shape],
            "data_offsets": [0, steps * self._bytes(shape)],
        }
        text = json.dumps({"__metadata__": {"format": _FORMAT, "places": json.dumps(places)}, "residuals": entry})
        return text.encode()

    def _errors(self) -> AbstractContextManager[None]:
        return foreign_errors(
            "keep residuals on disk",
            expected=f"a place to write at {self.folder}",
            remedy="Free some space, or choose another folder.",
            kinds=(OSError,),
        )

"""What a study takes from the run as a whole, found once: means, rates, orders of words, drawn controls.

1. A study may grow by problems, and its cells may be done by many processes. So whatever hangs on many responses comes
   from a fixed set of them, the first C problems of the problem source, whatever ``n`` is; of each the first sample.
2. It is computed once, from the baseline, before the first cell. ``run.json`` keeps it (settings, ``calibration``):
   the number of problems asked for, those that it is from, the values. Tensors are in ``calibration.safetensors``
   beside it, whose sha256 ``run.json`` holds.
3. Whoever works on the study, later or in another process, reads it from there. A source that has grown since changes
   nothing: the stored values hold, and the readings say from which problems they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from safetensors.torch import load, save
from torch import Tensor

from analyses.store.atomic import disk_errors, replacing
from analyses.store.pinned import json_values, read_pinned
from interp.errors import InputError

__all__ = ["CALIBRATE", "Calibration"]

CALIBRATE = 32
"""Problems that calibrate a study unless told otherwise."""

_FILE = "calibration.safetensors"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Values from some problems of the baseline.

    >>> Calibration(32, 2, ("a", "b"), {"rate": 0.25}).pins()["values"]
    {'rate': 0.25}

    Attributes:
        asked: how many problems were asked for; had: so many of them the source had.
        problems: those whose responses the values are from: fewer where some failed.
        values: JSON values by name.
        tensors: by name, such as a mean for each layer; ``None`` where their file is missing.
        digest: of the tensors' file; worked out from them unless given.
    """

    asked: int
    had: int
    problems: tuple[str, ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Shaped[Tensor, "..."]] | None = field(default_factory=dict)
    digest: str | None = None

    def pins(self) -> dict[str, Any]:
        """What ``run.json`` holds of it."""
        digest = self.digest
        if self.tensors:
            digest = hashlib.sha256(save(dict(self.tensors))).hexdigest()
        found = {"asked": self.asked, "had": self.had, "problems": list(self.problems)}
        return json_values({**found, "values": dict(self.values), "tensors": digest}, "calibration")

    def settled(self) -> Calibration:
        """Itself as it is read back: tuples as lists, keys as text."""
        pins = self.pins()
        return Calibration(self.asked, self.had, self.problems, pins["values"], self.tensors, pins["tensors"])

    def store(self, folder: Path) -> None:
        """Write the tensors' file, if there are any and it is not there as it should be."""
        file, content = folder / _FILE, save(dict(self.tensors or {}))
        if self.tensors and not (file.is_file() and file.read_bytes() == content):
            with disk_errors("write calibration", file, "Free some space, then run again."), replacing(file) as part:
                part.write_bytes(content)

    @classmethod
    def read(cls, folder: Path) -> Calibration | None:
        """That of a study's folder, or ``None`` where there is none.

        Raises:
            InputError: a tensors' file that is not the one that ``run.json`` speaks of.
        """
        if not (folder / "run.json").is_file():
            return None
        pins = read_pinned(folder)["settings"].get("calibration")
        if pins is None:
            return None
        tensors: Mapping[str, Tensor] | None = {}
        file = folder / _FILE
        if pins["tensors"] is not None:
            content = file.read_bytes() if file.is_file() else None
            if content is not None and hashlib.sha256(content).hexdigest() != pins["tensors"]:
                raise InputError(
                    "read calibration",
                    expected=f"the file that {folder / 'run.json'} speaks of (sha256 {pins['tensors'][:12]}...)",
                    received=f"another {file}",
                    remedy="Restore it from a copy, or delete it: it is computed anew from the baseline.",
                )
            tensors = None if content is None else load(content)
        return cls(pins["asked"], pins["had"], tuple(pins["problems"]), pins["values"], tensors, pins["tensors"])

    def of(self, name: str) -> Any:
        """A value by its name."""
        if name not in self.values:
            raise InputError(
                "read calibration",
                expected=f"{name} among the calibration values",
                received=", ".join(self.values) or "none",
                remedy="Let the study's calibrate() return it.",
            )
        return self.values[name]

    def tensor(self, name: str) -> Tensor:
        """A tensor by its name."""
        if not self.tensors or name not in self.tensors:
            raise InputError(
                "read calibration",
                expected=f"the tensor {name} in {_FILE}",
                received=", ".join(self.tensors or ()) or "none",
                remedy="Run the study again: what is missing is computed from the baseline.",
            )
        return self.tensors[name]

    def told(self, source: Sequence[str]) -> str:
        """A sentence about where the values come from; ``source`` are the problems that would be taken now."""
        first, last = self.problems[0], self.problems[-1]
        said = (
            f"What hangs on the run as a whole ({', '.join((*self.values, *_kinds(self.tensors or {})))}) is from "
            f"{len(self.problems)} problems, {first} to {last}, whatever their number in the study."
        )
        if len(source) != self.had or not set(self.problems) <= set(source):
            said += " The problem source has changed since then; the stored values hold."
        return said


def _kinds(tensors: Mapping[str, Tensor]) -> list[str]:
    return list(dict.fromkeys(name.partition(".")[0] for name in tensors))

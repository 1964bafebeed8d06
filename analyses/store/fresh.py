"""Whether what was derived is still what its sources give, so that a finished command repeated derives nothing anew.

1. `made_of` digests all that something is derived from: the names, times and sizes of files, settings, and the code.
2. `stamp` notes it beside the derived files, with their own times and sizes, once they are written.
3. `is_fresh` says whether both are as noted: a cell that is newer, another setting, another version of the code, and a
   derived file that was changed or removed all make it stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from analyses.store.atomic import disk_errors, replacing

__all__ = ["is_fresh", "made_of", "noted", "stamp"]

_PACKAGES = ("interp", "probes", "analyses")
_LIBRARIES = ("pandas", "pyarrow", "torch", "transformers", "math-verify")


def made_of(*sources: Any, files: Iterable[Path] = ()) -> str:
    """A digest of JSON values, of files by name, time and size, and of the code of this package.

    >>> made_of({"tau": 1.5}) == made_of({"tau": 1.5}), made_of({"tau": 1.5}) == made_of({"tau": 3.0})
    (True, False)
    """
    digest = hashlib.sha256(json.dumps(sources, sort_keys=False, default=str).encode())
    digest.update(_code().encode())
    for file in files:
        digest.update(f"{file.parent.name}/{file.name}:{_state(file)}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def stamp(folder: Path, name: str, digest: str, files: Sequence[str], **more: Any) -> None:
    """Note what the files of that name in ``folder`` were made of; ``more`` comes back from `noted`."""
    content = {"made_of": digest, "files": {file: _state(folder / file) for file in files}, **more}
    target = _file(folder, name)
    with disk_errors("derive", target, "Free some space, then run again."), replacing(target) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def is_fresh(folder: Path, name: str, digest: str) -> bool:
    """Whether all files noted under ``name`` are there as they were written, from what ``digest`` says.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as text:
    ...     folder = Path(text)
    ...     _ = (folder / "a.csv").write_text("1")
    ...     stamp(folder, "tables", made_of(1), ["a.csv"])
    ...     before = is_fresh(folder, "tables", made_of(1)), is_fresh(folder, "tables", made_of(2))
    ...     _ = (folder / "a.csv").write_text("changed by hand")
    ...     before, is_fresh(folder, "tables", made_of(1))
    ((True, False), False)
    """
    content = noted(folder, name)
    return content.get("made_of") == digest and all(
        _state(folder / file) == state for file, state in content["files"].items()
    )


def noted(folder: Path, name: str) -> dict[str, Any]:
    """What `stamp` wrote; nothing where there is no stamp, or none that can be read."""
    try:
        content = json.loads(_file(folder, name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("files"), dict) else {}


def _file(folder: Path, name: str) -> Path:
    return folder / f".{name}.stamp.json"


def _state(file: Path) -> list[int] | None:
    """Time of change, in nanoseconds, and bytes."""
    try:
        found = file.stat()
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_size]


@cache
def _code() -> str:
    """Digest of the sources this process began with, and of the libraries that write tables or grade answers."""
    digest = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in _LIBRARIES).encode())
    for package in _PACKAGES:
        root = Path(__file__).parents[2] / package
        for file in sorted(root.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()

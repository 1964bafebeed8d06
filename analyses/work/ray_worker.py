"""What runs on the nodes of a Ray cluster: a look at the folder, and a worker that does tasks one after the other.

Little is imported here: a node that only looks is done at once, and a worker's threads are set before torch counts
them.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["LIBRARIES", "Begun", "Looked", "Place", "RayWorker", "look", "versions"]

LIBRARIES = ("peaklens", "torch", "transformers", "transformer-lens", "tokenizers")


@dataclass(frozen=True)
class Place:
    """Where a worker has to find itself: what the process that gives out work has, and each node has to have too.

    Attributes:
        folder: of the run; None where nothing is written.
        probe: a file in it, whose text is ``secret``.
        models: folders and files that the model is read from.
        versions: of the libraries (:func:`versions`).
        folder_now: the folder that relative names start from.
    """

    folder: str | None = None
    probe: str = ""
    secret: str = ""
    models: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    folder_now: str = ""


@dataclass(frozen=True)
class Looked:
    """What a node found: its name, what is wrong with it, the file it wrote, whether the run's lock held it off."""

    host: str
    wrong: tuple[str, ...] = ()
    wrote: str = ""
    held_off: bool = True


def versions() -> dict[str, str]:
    """Of the libraries that numbers hang on; builds for other devices are one version.

    >>> sorted(versions()) == sorted(LIBRARIES)
    True
    """
    found = {}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name).partition("+")[0]
    return found


def look(place: Place) -> Looked:
    """Whether this node sees what it has to see, and can write where the run is.

    >>> look(Place(models=("/nowhere",), versions=versions())).wrong
    ('it has no /nowhere, which the model is read from',)
    """
    wrong = [f"it has no {path}, which the model is read from" for path in place.models if not Path(path).exists()]
    own = versions()
    differ = [name for name, version in place.versions.items() if own.get(name) != version]
    if differ:
        told = ", ".join(f"{name} {own.get(name, 'none')} instead of {place.versions[name]}" for name in differ)
        wrong.append(f"it has {told}")
    wrote, held_off = "", True
    if place.folder is not None:
        probe = Path(place.probe)
        try:
            seen = probe.read_text(encoding="utf-8") == place.secret
        except OSError:
            seen = False
        if not seen:
            wrong.append(f"it does not see what is written into {place.folder} elsewhere")
        else:
            answer = probe.with_name(f"{probe.name}-{os.getpid()}")
            try:
                answer.write_text(f"{place.secret}{answer.name}", encoding="utf-8")
                wrote, held_off = answer.name, _held_off(Path(place.folder) / ".lock")
            except OSError as error:
                wrong.append(f"it cannot write into {place.folder} ({error})")
    return Looked(platform.node(), tuple(wrong), wrote, held_off)


def _held_off(lock: Path) -> bool:
    """Whether a lock file that another process holds cannot be locked here."""
    if sys.platform == "win32":
        return False
    import fcntl

    with lock.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no locks on this file system
            return False
    return False


@dataclass(frozen=True)
class Begun:
    """Where a worker is, and why it cannot begin, if it cannot."""

    host: str
    node: str
    process: int
    wrong: tuple[str, ...] = ()
    error: Exception | None = None


class RayWorker:
    """An actor: one model, one task at a time, and meanwhile it tells how many tokens were decoded.

    >>> worker = RayWorker(Place(), 1)
    >>> worker.begin(lambda: lambda task, report: report(5) or task * 10).error, worker.do(4)
    (None, ('value', 40, 5))
    """

    def __init__(self, place: Place, threads: int) -> None:
        os.environ.update(OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false")
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with suppress(OSError):  # only names that the user gave as relative ones start from there
            os.chdir(place.folder_now or ".")
        self.place = place
        self.work: Callable[[Any, Callable[[int], None]], Any] | None = None
        self.told, self.decoded = 0, 0
        self.telling = threading.Lock()  # it is asked for tokens while it works

    def begin(self, make: Callable[[], Callable[[Any, Callable[[int], None]], Any]]) -> Begun:
        """Look around, and load the model."""
        found = look(self.place)
        if found.wrote:
            with suppress(OSError):
                Path(self.place.probe).with_name(found.wrote).unlink()
        error: Exception | None = None
        if not found.wrong:
            try:
                self.work = make()
            except Exception as raised:  # raised again where the work is given out
                error = raised
        return Begun(found.host, _node_id(), os.getpid(), found.wrong, error)

    def do(self, task: Any) -> tuple[str, Any, int]:
        """Do a task: "value" and what it gave, or "raised" and the error; and tokens that were not told of yet."""
        assert self.work is not None
        try:
            answer: tuple[str, Any] = "value", self.work(task, self._report)
        except Exception as error:  # raised again where the work is given out
            answer = "raised", error
        return (*answer, self.tokens())

    def _report(self, tokens: int) -> None:
        self.decoded += tokens

    def tokens(self) -> int:
        """Tokens decoded since this was asked last."""
        with self.telling:
            now = self.decoded
            new, self.told = now - self.told, now
        return new


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""

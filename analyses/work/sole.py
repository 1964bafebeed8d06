"""Whether a command may work on a run's folder while others do.

1. Commands of one machine may share a folder: what they write is whole or not there, and locks keep it in order.
2. One that has workers on a cluster wants it for itself, since a second would spend the cluster's time on the same
   responses. Whoever comes second is told so before any work is done.
3. The lock of ``.at-work`` says that somebody is there; it ends with its process, killed or not. Where locks do not
   reach from machine to machine, its text does: the command on the cluster changes it every few seconds, and others
   look whether it changes.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from analyses.store.atomic import disk_errors
from interp.errors import InputError

__all__ = ["AT_WORK", "at_work"]

AT_WORK = ".at-work"
"""The file in the run's folder."""

BEAT = 5.0  # seconds from one change of its text to the next
_MISSED = 3  # changes that do not come: that command has ended


@contextmanager
def at_work(folder: Path, *, alone: bool) -> Iterator[None]:
    """Work on a run's folder within the block: ``alone``, or beside others that are not.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as text, at_work(Path(text), alone=False), at_work(Path(text), alone=False):
    ...     print("two of them")
    two of them

    Raises:
        InputError: a command is there that this one does not go with.
    """
    path = folder / AT_WORK
    with disk_errors("start run", path, "Choose a folder that can be written."):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        held = _hold(file, alone)
        if held is False or _changes(path, ours=held is True):
            raise _taken(folder, alone)
        if alone:
            with _beating(file):
                yield
        else:
            yield
    finally:
        os.close(file)  # and the lock with it


def _hold(file: int, alone: bool) -> bool | None:
    """Whether the lock is held now; None where there are no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _changes(path: Path, ours: bool) -> bool:
    """Whether somebody changes the text; what this machine left is nobody's if the lock is ``ours``."""
    before = path.read_text(encoding="utf-8", errors="replace")
    if not before.strip() or (ours and before.startswith(f"{platform.node()} ")):
        return False
    until = time.monotonic() + _MISSED * BEAT
    while time.monotonic() < until:
        time.sleep(BEAT / 5)
        if path.read_text(encoding="utf-8", errors="replace") != before:  # opened anew: a file system may hold it back
            return True
    return False


@contextmanager
def _beating(file: int) -> Iterator[None]:
    """Change the text, by a thread beside the work, and leave none."""
    ended, told = threading.Event(), f"{platform.node()} {os.getpid()} {time.time_ns():020d}"

    def write(count: int) -> None:
        with suppress(OSError):  # a disk that is full, or away for a moment, is told of where cells are written
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, f"{told} {count:09d}\n".encode())
            os.fsync(file)

    def beat() -> None:
        count = 1
        while not ended.wait(BEAT):
            write(count)
            count += 1

    os.ftruncate(file, 0)
    write(0)
    beats = threading.Thread(target=beat, daemon=True)
    beats.start()
    try:
        yield
    finally:
        ended.set()
        beats.join()
        with suppress(OSError):
            os.ftruncate(file, 0)


def _taken(folder: Path, alone: bool) -> InputError:
    said = (folder / AT_WORK).read_text(encoding="utf-8", errors="replace").split()
    who = f"process {said[1]} on {said[0]} does, with a cluster" if len(said) == 4 else "another command does"
    return InputError(
        "work on a run",
        expected=f"a folder that no other command {'' if alone else 'with a cluster '}works on",
        received=f"{folder}, where {who}",
        remedy="Wait till it has ended; the same command then goes on from what is finished.",
    )

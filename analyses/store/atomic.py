"""Files that are whole at every moment: the old version or the new one, whatever is killed and whenever.

1. `replacing` gives a temporary name beside the target; the caller writes it; it is flushed to the disk, renamed over
   the target, and the folder is flushed, so that a reader never meets half a file and a power cut undoes no rename.
2. The temporary's name tells machine and process; `sweep` removes those whose process on this machine is gone.
3. `disk_errors` turns what a full, read-only or forbidden disk raises into one `InputError`.
4. `quote_name` makes one safe path component of any text, which `unquote_name` turns back.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from safetensors import SafetensorError

from interp.errors import InputError

__all__ = [
    "NO_LOCKS",
    "disk_errors",
    "is_temporary",
    "locked",
    "make_folder",
    "new_folder",
    "probe",
    "quote_name",
    "replacing",
    "sweep",
    "temporary_in",
    "unquote_name",
]

NO_LOCKS = ".no-locks"
"""A file in a folder that several machines write to and whose locks do not reach from one to the other."""

_PREFIX = ".tmp-"
_LONGEST = 120  # characters of a quoted name; file systems allow 255 bytes, of which a suffix takes some


def quote_name(name: str) -> str:
    """A file name for any text: percent-quoted, or shortened with a hash after ``~`` where too long.

    >>> quote_name("../../etc/passwd"), quote_name("test/algebra/2.json"), quote_name("")
    ('%2E.%2F..%2Fetc%2Fpasswd', 'test%2Falgebra%2F2.json', '%')
    """
    quoted = quote(name, safe="", errors="surrogatepass").replace("~", "%7E")
    if quoted.startswith("."):  # "." and ".." are folders, and .tmp- is the mark of temporaries
        quoted = "%2E" + quoted[1:]
    if len(quoted) > _LONGEST:
        return quoted[:100] + "~" + hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
    return quoted or "%"


def unquote_name(quoted: str) -> str | None:
    """The text `quote_name` was given; None where the name was shortened or is not one it makes.

    >>> unquote_name(quote_name("a/b")), unquote_name("a b")
    ('a/b', None)
    """
    try:
        name = "" if quoted == "%" else unquote(quoted, errors="surrogatepass")
        return name if quote_name(name) == quoted else None
    except UnicodeError:
        return None


@contextmanager
def disk_errors(operation: str, path: Path, remedy: str) -> Iterator[None]:
    """Raise what the disk refuses to do with `path` as an `InputError` that ends on `remedy`.

    >>> with disk_errors("write table", Path("/x.csv"), "Free some space."):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    ...
    peaklens.InputError: write table: expected room and permission to write /x.csv, received [Errno 28] No space \
left on device. Free some space.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors wraps the errors of its own writes
        raise InputError(
            operation, expected=f"room and permission to write {path}", received=str(error), remedy=remedy
        ) from error


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Replace `target` by what the block writes to the path given, or leave it as it was if the block fails.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "a.txt")) as temporary:
    ...         _ = temporary.write_text("whole")
    ...     [(file.name, file.read_text()) for file in Path(folder).iterdir()]
    [('a.txt', 'whole')]
    """
    temporary = temporary_in(target.parent)
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(target)
    except BaseException:
        with suppress(OSError):  # the error that led here tells more than a failed removal
            temporary.unlink(missing_ok=True)
        raise
    _flush_folder(target.parent)


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder that becomes `target`, with all that the block writes into it, or leaves `target` as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as text:
    ...     with new_folder(Path(text, "site")) as folder:
    ...         _ = (folder / "index.html").write_text("whole")
    ...         before = Path(text, "site").exists()
    ...     before, [file.name for file in Path(text).rglob("*")]
    (False, ['site', 'index.html'])

    It has the target's name while it is written, within a folder of a temporary name beside the target. What processes
    of this machine that were killed meanwhile left there is removed first. With `replace`, a target that is there goes.
    """
    make_folder(target.parent)
    _sweep_folders(target.parent)
    holder = temporary_in(target.parent)
    try:
        holder.mkdir()
        folder = holder / target.name
        folder.mkdir()
        yield folder
        if replace and target.exists():
            target.replace(holder / f"{target.name}.before")
        folder.replace(target)  # over an empty folder too
        _flush_folder(target.parent)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _sweep_folders(parent: Path) -> None:
    import psutil

    for path in parent.glob(f"{_PREFIX}{_machine()}-*"):
        process = path.name.removeprefix(_PREFIX).split("-")[1]
        if path.is_dir() and process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(path, ignore_errors=True)


def probe(folder: Path) -> None:
    """Write, flush and remove a small file in `folder`: permission bits do not tell of full or read-only disks."""
    temporary = temporary_in(folder)
    try:
        with temporary.open("xb") as handle:
            handle.write(bytes(4096))
            handle.flush()
            os.fsync(handle.fileno())
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Create `folder` and its parents, each flushed to the disk; one that is there already is left alone."""
    if not folder.is_dir():
        if folder.parent != folder:  # the current folder, "." to itself, may have been removed
            make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _flush_folder(folder.parent)


def is_temporary(path: Path) -> bool:
    """Whether `path` is a leftover of `replacing`.

    >>> is_temporary(Path("run/.tmp-1a2b3c4d-77-00ff00ff")), is_temporary(Path("run/run.json"))
    (True, False)
    """
    return path.name.startswith(_PREFIX)


def sweep(folder: Path) -> None:
    """Remove the temporaries anywhere under `folder` that processes of this machine left behind when they died."""
    import psutil

    begin = f"{_PREFIX}{_machine()}-"
    for within, _, files in os.walk(folder):  # which passes over folders that go meanwhile
        for name in files:
            process = name.removeprefix(_PREFIX).split("-")[1] if name.startswith(begin) else ""
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                Path(within, name).unlink(missing_ok=True)


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[bool]:
    """Hold the lock file `path` against other processes; the lock ends with the block or with the process.

    Several may hold it at once that hold it `shared`. Gives whether it is held: some cluster file systems have no
    locks, and there two runs must not be started in one folder at once.
    """
    held = True
    with path.open("a") as handle:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            except OSError:
                held = False
        yield held


def temporary_in(folder: Path) -> Path:
    """A new name there, of a file that `sweep` removes if this process dies before it does so itself.

    >>> is_temporary(temporary_in(Path("run")))
    True
    """
    return folder / f"{_PREFIX}{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"


def _machine() -> str:
    """Short name of this machine: a process number means nothing on another one that shares the disk."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _flush_folder(folder: Path) -> None:
    if sys.platform != "win32":  # which cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

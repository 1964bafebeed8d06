"""What the processes that test have in common: one warm server of forks, and runs that each would else make for itself.

What the server imports takes five seconds of a core.

Python's server (`multiprocessing.forkserver`) belongs to the process that started it. Here whoever first needs it
starts it at an address that the others know, and it ends with the process that the tests were started by: that one
holds a pipe open, and the server looks whether anybody does.
"""

from __future__ import annotations

import multiprocessing.forkserver
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import resource_tracker, util
from pathlib import Path
from typing import Any

from filelock import FileLock

HERE = Path(__file__).parent
NAME = "PEAKLENS_TESTS_SERVER"
COMPILE = """
import torch
from probes import nhsic, null_scores
x = torch.arange(640.0).sin().reshape(5, 128) * 30
nhsic(x, x[0]), null_scores(x, x)
"""
_compiling: list[subprocess.Popen[bytes]] = []
SERVE = "import sys; from multiprocessing.forkserver import main; main(int(sys.argv[1]), int(sys.argv[2]), ['warm'])"


def open_place() -> None:
    """A folder for the server's address and pipe, which processes started from now on know; none is started yet."""
    folder = Path(tempfile.mkdtemp(prefix="peaklens-"))
    os.mkfifo(folder / "alive")
    os.open(folder / "alive", os.O_RDWR)  # never closed: by this the server knows that we are there
    os.environ[NAME] = str(folder)
    # What numba compiles is kept beside the code, for all of them: begun while they import.
    _compiling.append(subprocess.Popen([sys.executable, "-c", COMPILE], cwd=HERE.parent))


def close_place() -> None:
    while _compiling:
        assert _compiling.pop().wait() == 0
    shutil.rmtree(os.environ.pop(NAME, ""), ignore_errors=True)


def join() -> None:
    """Have this process's forks come from the common server, which is started if it is not there."""
    folder = Path(os.environ[NAME])
    address = str(folder / "server")
    server: Any = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]
    with FileLock(folder / "lock"):
        if not Path(address).exists():
            _start(folder, address)
    server._forkserver_address = address
    server._forkserver_alive_fd = os.open(folder / "alive", os.O_WRONLY)
    server.ensure_running = resource_tracker.ensure_running  # it runs, and is no child of ours to wait for


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder for all processes that test, which nobody writes into: who asks first makes it."""
    folder = Path(os.environ[NAME]) / name
    made = folder.with_name(f"{name} is made")
    with FileLock(f"{folder}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of one that failed
            make(folder)
            made.touch()
    return folder


def _start(folder: Path, address: str) -> None:
    """It takes requests at once, and answers them when it has made its imports."""
    path = os.pathsep.join([str(HERE.parent), str(HERE)])
    alive = os.open(folder / "alive", os.O_RDONLY | os.O_NONBLOCK)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        passed = listener.fileno(), alive
        flags = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
        command = [sys.executable, *flags, "-c", SERVE, *map(str, passed)]
        process = subprocess.Popen(command, pass_fds=passed, env={**os.environ, "PYTHONPATH": path})
    os.close(alive)
    process.returncode = 0  # nobody waits for it

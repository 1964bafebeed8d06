"""Processes that begin at once: forked from one that has made the slow imports. And the command, without any process.

What is tested by them is what a process does, how it dies and what the next one finds; not that Python starts. Real
commands are run by `test_wheel`, really new worker processes by `test_workers`.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.process
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forked
import one_server
import pytest

HERE = Path(__file__).parent

SERVER = """
import json, os, sys, traceback

exec(sys.argv[1], {})
for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child == 0:
        out = os.open(order["out"], os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv = order["argv"]
        try:
            exec(order["code"], {})
        except SystemExit as ended:
            sys.stdout.flush()
            os._exit(ended.code or 0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    print(child, flush=True)
"""


class Forks:
    """Processes that run a script, forked from one that has run another."""

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self.server, self.folder = server, folder
        self.running: set[int] = set()

    def _ask(self, **order: Any) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def spawn(self, code: str, *args: Any) -> int:
        """Run the script, whose `sys.argv[1:]` are these; the number of the process."""
        argv = [str(arg) for arg in ("script", *args)]
        child = self._ask(code=textwrap.dedent(code), argv=argv, out=str(self.folder / "out"))
        self.running.add(child)
        return child

    def wait(self, child: int) -> tuple[int, str]:
        """Its exit code, or the signal that ended it, below 0; and all that it said."""
        code = self._ask(wait=child)
        self.running.discard(child)
        return code, (self.folder / "out").read_text()

    def kill(self, child: int) -> tuple[int, str]:
        os.kill(child, signal.SIGKILL)
        return self.wait(child)

    def has_ended(self, child: int) -> bool:
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@contextmanager
def fork_server(first: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has run `first`, for `Forks`."""
    command = [sys.executable, "-c", SERVER, first]
    path = os.pathsep.join([str(HERE.parent), str(HERE)])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def forks_of(server: subprocess.Popen[str], folder: Path) -> Iterator[Forks]:
    """Forks for one test: what still runs at its end is killed (writers write until they are stopped)."""
    forks = Forks(server, folder)
    yield forks
    for child in list(forks.running):
        forks.kill(child)


class ToyForks:
    """As `Forks`, of the processes that Python's own server forks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[int, multiprocessing.process.BaseProcess] = {}

    def spawn(self, code: str, *args: Any) -> int:
        argv = [str(arg) for arg in ("script", *args)]
        child = forked_process(forked.script, textwrap.dedent(code), argv, str(self.folder / "out"))
        self.running[child.pid or 0] = child
        return child.pid or 0

    def wait(self, child: int) -> tuple[int, str]:
        process = self.running.pop(child)
        process.join()
        assert process.exitcode is not None
        return process.exitcode, (self.folder / "out").read_text()

    def kill(self, child: int) -> tuple[int, str]:
        self.running[child].kill()
        return self.wait(child)

    def has_ended(self, child: int) -> bool:
        return self.running[child].exitcode is not None


def forked_process(call: Callable[..., None], *args: Any) -> multiprocessing.process.BaseProcess:
    """A process that begins at once: of `_warm_forkserver`."""
    process = multiprocessing.get_context("forkserver").Process(target=call, args=args)
    process.start()
    return process


@pytest.fixture
def toy_forks(_warm_forkserver: None, tmp_path: Path) -> Iterator[ToyForks]:
    """Processes that have loaded the toy once; no types are checked in them."""
    forks = ToyForks(tmp_path)
    yield forks
    for child in list(forks.running):
        forks.kill(child)


@pytest.fixture(scope="session")
def _warm_forkserver() -> None:
    """Python's own server of forks, started with what worker processes import: one for all that test."""
    one_server.join()


@pytest.fixture
def quick_processes(_warm_forkserver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes know nothing of this one, as ever, but have made their imports already."""
    context = multiprocessing.get_context

    def forkserver(method: str | None = None) -> Any:
        return context("forkserver" if method == "spawn" else method)

    monkeypatch.setattr(multiprocessing, "get_context", forkserver)


Command = Callable[..., tuple[Any, str, str]]


@pytest.fixture
def peaklens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command, in this process: exit code, standard output, standard error."""
    from analyses.commands.cli import main

    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command changes it
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: str) -> tuple[Any, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["peaklens", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return call

"""A process of :mod:`analyses.grading.algebra` as its caller has it: asked in lines, killed when time is up."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import weakref

__all__ = ["Worker"]

_ALGEBRA = "analyses.grading.algebra"  # by name: the process runs it, nothing imports it
_START = 120.0  # seconds a process has to import SymPy on a busy machine


class Worker:
    """One such process, as its caller has it: started at the first question, killed when time is up or at the end.

    It is an ordinary child process and not `multiprocessing`'s, which would run the caller's main script once more.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._finalizer: weakref.finalize[[subprocess.Popen[str]], Worker] | None = None

    def ask(self, gold: str, answer: str) -> tuple[str, str]:
        """The verdict on two formulas and its reason; ``timeout`` when there was none in time.

        Raises `RuntimeError` when no process can be started.
        """
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"gold": gold, "answer": answer}) + "\n")
            process.stdin.flush()
            line = self._lines.get(timeout=self.timeout)
        except queue.Empty:
            self.kill()
            return "timeout", f"no verdict within {self.timeout:g} s"
        except OSError:  # it died before it read the question
            line = ""
        except BaseException:  # Ctrl-C: the verdict that is still to come must not be taken for the next one's
            self.kill()
            raise
        if not line:
            self.kill()
            return "error", "the comparing process died (out of memory?)"
        reply = json.loads(line)
        return reply["verdict"], reply["detail"]

    def kill(self) -> None:
        """End the process, if there is one."""
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._finalizer = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is not None:
            return self._process
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _ALGEBRA, str(self.timeout)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,  # Ctrl-C is for the caller, who then ends this process
            )
            self._process, self._lines = process, queue.SimpleQueue()
            self._finalizer = weakref.finalize(self, _end, process)
            threading.Thread(target=_pass_on, args=(process, self._lines), daemon=True).start()
            try:
                line = self._lines.get(timeout=_START)
            except queue.Empty:
                line = ""
            if not line:
                self.kill()
                errors.seek(0)
                said = errors.read()[-2000:].decode(errors="replace")
                raise RuntimeError(f"the grading process did not start: {said or 'no message'}")
        return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # a question that was never read
                pipe.close()


def _pass_on(process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
    """Hand on what the process writes, then "" at its end; a pipe has no time-out of its own on every system."""
    assert process.stdout is not None
    with contextlib.suppress(ValueError, OSError):  # closed by `_end`
        for line in process.stdout:
            lines.put(line)
    lines.put("")

"""A process for each variant, so that nobody's memory is another's: started, asked by turns, ended.

Each loads the model, makes its variant, calls it once, and answers from then on (:mod:`analyses.bench.clock`). All are
kept while that fits into most of the memory that is free; else one at a time, which loads its model again at each turn.
nnsight's is run by an interpreter of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import torch

from analyses.bench.clock import Clock, Memory, timed_decode, timed_read
from analyses.bench.variants import DECODERS, NNSIGHT, READERS, Place
from interp.errors import InputError

__all__ = ["Crew", "Job", "check_nnsight", "crew_for", "fits"]

Job = Literal["decode", "read"]
_FEW = 8  # tokens of the text that is read to be warm
_HERE = Path(__file__).parent
INSTALL = (
    "Make one: python3 -m venv nnsight; nnsight/bin/pip install -c constraints.txt nnsight==0.8.1 torch transformers; "
    "and name nnsight/bin/python, or leave --nnsight out."
)


class Worker(Protocol):
    """A process that answers."""

    def ready(self) -> dict[str, Any]: ...

    def ask(self, **asked: Any) -> dict[str, Any]: ...

    def close(self) -> None: ...


class _Own:
    """A process of ours, which makes one variant."""

    def __init__(self, job: Job, name: str, place: Place) -> None:
        context = _context()
        self.name = name
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, job, name, place), daemon=True)
        self.process.start()
        theirs.close()

    def ready(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.connection.recv()
        except EOFError:
            self.process.join()
            raise _died(self.name, f"exit code {self.process.exitcode}") from None
        if "error" in found:
            raise _died(self.name, found["error"])
        return found

    def ask(self, **asked: Any) -> dict[str, Any]:
        self.connection.send(asked)
        return self.ready()

    def close(self) -> None:
        self.connection.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _context() -> Any:
    """Processes that begin with the slow imports made, where the system can fork; this one has threads by now."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["analyses.bench.preloaded"])
    return context


def _serve(connection: Any, job: Job, name: str, place: Place) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks is stopped, and then asks no more
    torch.set_num_threads(place.threads)
    try:
        with ExitStack() as stack, torch.no_grad():
            answer = _answering(job, name, place, stack)
            connection.send({"threads": torch.get_num_threads()})
            while True:
                connection.send(answer(**connection.recv()))
    except EOFError:  # nobody asks any more
        return
    except Exception as error:  # whatever it is, whoever asked is told
        connection.send({"error": str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"})


def _answering(job: Job, name: str, place: Place, stack: ExitStack) -> Callable[..., dict[str, Any]]:
    """The variant, made and called once."""
    device = torch.device(place.device)
    few = torch.arange(1, _FEW + 1)[None]
    if job == "decode":
        generate = DECODERS[name](place, stack)
        generate(few, 2, Clock())  # the first call also pays for memory and libraries
        memory = Memory(device)
        return lambda ids, new_tokens: timed_decode(generate, ids, new_tokens, memory)
    read = READERS[name](place)
    read(few)
    memory = Memory(device)
    return lambda ids: timed_read(read, ids, memory)


class _Foreign:
    """The script of nnsight, in its own interpreter; a line of JSON each way."""

    def __init__(self, python: str, place: Place) -> None:
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (as long as the process)
        script, clock = _HERE / "nnsight_script.py", _HERE / "clock.py"
        self.process = subprocess.Popen(
            [python, "-I", str(script), str(clock), place.folder, place.dtype, place.device, str(place.threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True,
        )  # fmt: skip

    def ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.said.seek(0)
            raise _died(NNSIGHT, next(reversed(self.said.read().strip().splitlines()), "no word"))
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, **asked: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # `ready` says what it died of
            pass
        return self.ready()

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.said.close()


def _died(name: str, received: str) -> InputError:
    return InputError(
        "bench",
        expected=f"{name} to go on",
        received=received,
        remedy="Leave it out, or use a smaller model, shorter texts or smaller batches.",
    )


class Crew:
    """Workers by name. With ``keep`` all run from the beginning to the end, else one at a time.

    >>> class Echo:
    ...     ready = staticmethod(lambda: {})
    ...     close = staticmethod(lambda: print("closed"))
    ...     def ask(self, **asked):
    ...         return asked
    >>> with Crew({"a": Echo, "b": Echo}, keep=False) as crew:
    ...     crew.ask("a", ids=[1]), crew.ask("b", ids=[2])
    closed
    ({'ids': [1]}, {'ids': [2]})
    closed
    """

    def __init__(self, makers: Mapping[str, Callable[[], Worker]], keep: bool) -> None:
        self.makers, self.keep = makers, keep
        self.running: dict[str, Worker] = {}

    def __enter__(self) -> Crew:
        if self.keep:
            try:
                self.running = {name: make() for name, make in self.makers.items()}  # they load side by side
                for worker in self.running.values():
                    worker.ready()
            except BaseException:
                self._end()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for worker in self.running.values():
            worker.close()
        self.running = {}

    def ask(self, name: str, **asked: Any) -> dict[str, Any]:
        if name not in self.running:
            self._end()
            self.running[name] = self.makers[name]()
            self.running[name].ready()
        return self.running[name].ask(**asked)


def crew_for(job: Job, names: list[str], place: Place, nnsight: str | None, keep: bool) -> Crew:
    """The workers of these variants; that of nnsight needs an interpreter that has it."""

    def maker(name: str) -> Callable[[], Worker]:
        if name == NNSIGHT:
            assert nnsight is not None
            return lambda: _Foreign(nnsight, place)
        return lambda: _Own(job, name, place)

    return Crew({name: maker(name) for name in names}, keep)


def fits(weights: int, count: int, device: torch.device) -> bool:
    """Whether so many models of so many bytes, each in its process, take at most 70 % of the memory that is free.

    >>> fits(1000, 3, torch.device("cpu")), fits(10**15, 3, torch.device("cpu"))
    (True, False)
    """
    import psutil

    process = 300_000_000  # what Python and libraries take that forks do not share
    if device.type == "cuda":
        return weights * count <= 0.7 * torch.cuda.mem_get_info(device)[0]
    return (weights + process) * count <= 0.7 * psutil.virtual_memory().available


def check_nnsight(python: str) -> str:
    """The version of nnsight that an interpreter has, and of the libraries it uses.

    Raises:
        InputError: no interpreter, or one without nnsight, torch and transformers.
    """
    code = (
        "import nnsight, torch, transformers; "
        "print(f'{nnsight.__version__} (torch {torch.__version__}, transformers {transformers.__version__})')"
    )
    try:
        asked = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=300)
        received = next(reversed(asked.stderr.strip().splitlines()), f"exit code {asked.returncode}")
        if asked.returncode == 0:
            return asked.stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        received = str(error)
    raise InputError(
        "bench", expected="--nnsight as an interpreter that has nnsight", received=received, remedy=INSTALL
    )

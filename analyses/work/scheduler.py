"""Who does the work of a run: this process, or several, each with a model of its own.

A *task* is a batch of cells; a *worker* is made once in each process (it loads the model) and does tasks one after the
other, writing the cells itself. What comes back is small. Tasks are planned beforehand and do not depend on who does
them, so one worker and several give the same run.

:class:`Scheduler` is the seam: something that spreads tasks over machines has to offer ``run``, and nothing else
changes.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, runtime_checkable

from interp.errors import InputError

__all__ = ["InProcess", "Outcome", "Processes", "Report", "Scheduler", "Work", "WorkWarning", "scheduler"]

Report = Callable[[int], None]
"""Told of decoded tokens while a task is done."""

Work = Callable[[Any, Report], Any]
"""Does one task; made by a factory in the process that runs it."""


class WorkWarning(UserWarning):
    """A worker that ended, or a node that cannot be used: what it had to do is done by another.

    >>> issubclass(WorkWarning, UserWarning)
    True
    """


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its value, or why nothing came back."""

    task: Any
    value: Any = None
    lost: str | None = None


@runtime_checkable
class Scheduler(Protocol):
    """Does tasks in any order and tells of each as it ends; what a worker raises is raised here and ends the rest."""

    def run(self, tasks: Sequence[Any], make: Callable[[], Work], report: Report) -> Iterator[Outcome]:
        """``make`` is called once in each process that works; with several processes it has to pickle."""
        ...


def scheduler(workers: int, gpus: Sequence[str] = ()) -> Scheduler:
    """This process for one worker, processes for several; ``gpus`` are shared out among these.

    >>> outcomes = scheduler(1).run([1, 2], lambda: lambda task, report: task * 10, lambda tokens: None)
    >>> [outcome.value for outcome in outcomes]
    [10, 20]
    """
    if workers < 1:
        raise InputError("run tasks", expected="at least 1 worker", received=str(workers), remedy="Change --workers.")
    return InProcess() if workers == 1 else Processes(workers, gpus)


class InProcess:
    """One task after the other, here."""

    def run(self, tasks: Sequence[Any], make: Callable[[], Work], report: Report) -> Iterator[Outcome]:
        work = make() if tasks else None
        for task in tasks:
            assert work is not None
            yield Outcome(task, work(task, report))


class Processes:
    """Several processes, started afresh; a task whose process dies is given to another one once more.

    Each has one of the ``gpus`` for itself, or shares it with as few others as can be (:mod:`analyses.work.gpus`).
    """

    def __init__(self, workers: int, gpus: Sequence[str] = ()) -> None:
        self.workers, self.gpus = workers, list(gpus)

    def run(self, tasks: Sequence[Any], make: Callable[[], Work], report: Report) -> Iterator[Outcome]:
        waiting = deque((task, 1) for task in tasks)
        context = multiprocessing.get_context("spawn")  # a forked process would share the parent's threads and device
        count = min(self.workers, len(tasks))
        busy: dict[Connection, tuple[Any, Any, int]] = {}  # connection: process, task, attempt
        on: dict[Connection, str] = {}  # the GPU of each that works

        def start() -> None:
            here, there = context.Pipe()
            gpu = min(self.gpus, key=list(on.values()).count, default=None)
            process = context.Process(target=_serve, args=(there, make, gpu), daemon=True)
            process.start()
            there.close()
            if gpu is not None:
                on[here] = gpu
            hand(here, process)

        def hand(connection: Connection, process: Any) -> None:
            if waiting:
                task, attempt = waiting.popleft()
                busy[connection] = process, task, attempt
                connection.send((task,))
            else:
                with suppress(ConnectionError):  # it may have died since it answered
                    connection.send(None)  # said, since another process may hold this end open too
                connection.close()
                on.pop(connection, None)
                process.join(timeout=10)

        try:
            for _ in range(count):
                start()
            while busy:
                for connection in wait(list(busy)):
                    assert isinstance(connection, Connection)
                    process, task, attempt = busy[connection]
                    try:
                        kind, value = connection.recv()
                    except (EOFError, ConnectionError):
                        process.join()
                        del busy[connection]
                        connection.close()
                        on.pop(connection, None)
                        if attempt == 1:
                            waiting.appendleft((task, 2))
                        else:
                            yield Outcome(task, lost=f"its process ended twice, last with exit code {process.exitcode}")
                        if waiting:
                            start()
                        continue
                    if kind == "tokens":
                        report(value)
                    elif kind == "raised":
                        raise value
                    else:
                        del busy[connection]
                        hand(connection, process)
                        yield Outcome(task, value)
        finally:
            for process, _, _ in busy.values():
                process.kill()


def _serve(connection: Connection, make: Callable[[], Work], gpu: str | None = None) -> None:
    """A worker process: make the worker, then do tasks until the other end closes."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # read when CUDA is first used, which is in `make`
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)  # a parent that was killed cannot say so; nobody waits for this work any more

    threading.Thread(target=end_with_parent, daemon=True).start()
    work: Work | None = None
    while True:
        try:
            order = connection.recv()
        except (EOFError, ConnectionError):
            return
        if order is None:
            return
        (task,) = order
        try:
            work = work or make()
            answer = ("value", work(task, lambda tokens: connection.send(("tokens", tokens))))
        except Exception as error:  # raised again by the parent
            answer = ("raised", error)
        connection.send(answer)

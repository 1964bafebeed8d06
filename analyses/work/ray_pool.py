"""Tasks spread over a Ray cluster: one actor a worker, each with one model, one task in flight for each.

1. All nodes are looked at (:mod:`analyses.work.ray_nodes`); then as many workers are asked for as were named, or as the
   nodes have room for. Ray places them; one that has no place yet waits for a node that joins.
2. A worker is given a task as soon as its model is there, and the next when it has answered. Every second it is asked
   how many tokens it has decoded.
3. A worker whose process dies takes nothing with it: cells that it wrote are in the folder, and its task goes back to
   the head of the queue, with another worker in its place. A task whose workers died three times is lost, and it alone.
   Where a node left, its tasks are not held to account for it.
4. What a worker raises is raised here and ends the rest, as with :class:`analyses.work.scheduler.Processes`.

Actors end with the process that made them: Ray sees to that even if it is killed.
"""

from __future__ import annotations

import pickle
import re
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses.work.on_ray import Ray, connect, counted, environment, nodes, own_gpus, places, would_start
from analyses.work.ray_nodes import check_nodes, placed
from analyses.work.ray_worker import Begun, Place, RayWorker
from analyses.work.scheduler import Outcome, Report, Work, WorkWarning
from interp.errors import InputError

__all__ = ["RayScheduler", "gpus_for_each"]

POLL = 1.0  # seconds between looks at nodes and at the tokens decoded
TRIES = 3  # of a task whose workers died, with their nodes still there
MOST = 6  # of one that lost workers in any way: it may be what takes nodes with it
ANSWER = 10.0  # seconds for what is answered at once, or by nobody
STARTS = 6  # workers in a row that died before they could begin
_DETAIL = re.compile(r"Worker exit detail: (.{1,300}?)\.?(?: Some common causes.*)?$")
_TOLD = 60.0  # seconds without any worker after which that is told


def gpus_for_each(options: Ray) -> int | float:
    """GPUs of a worker: as asked for, or one where any node has some.

    No cluster is started for that: a run that has nothing left to do needs none.
    """
    if options.gpus_per_worker is not None:
        return options.gpus_per_worker
    there = own_gpus() > 0 if would_start() else any(node.gpus for node in nodes(connect()))
    return 1 if there else 0


class RayScheduler:
    """A scheduler (:class:`analyses.work.scheduler.Scheduler`) whose workers are actors on a Ray cluster.

    Args:
        workers: as many as there is room for unless given; nodes that join then get some too.
        folder: that the work is written to and all nodes have to share.
        models: folders and files that each node has to have.
        gpus: of each worker, in place of what ``options`` say.
    """

    def __init__(
        self,
        options: Ray,
        workers: int | None = None,
        folder: Path | None = None,
        models: Sequence[str] = (),
        gpus: int | float | None = None,
    ) -> None:
        self.options, self.workers, self.folder, self.models = options, workers, folder, tuple(models)
        self.gpus = gpus

    def run(self, tasks: Sequence[Any], make: Callable[[], Work], report: Report) -> Iterator[Outcome]:
        if not tasks:
            return
        ray = connect()
        gpus = gpus_for_each(self.options) if self.gpus is None else self.gpus
        found = nodes(ray)
        places(found, self.options.cpus_per_worker, gpus)
        with placed(self.folder, self.models) as place:
            check_nodes(ray, found, place)
            crew = _Crew(ray, self.options, gpus, self.workers, place, tasks, make, report)
            try:
                yield from crew.outcomes()
            finally:
                crew.end()


@dataclass
class _Task:
    task: Any
    deaths: int = 0  # of workers whose node stayed
    lost: int = 0  # of workers, in any way


@dataclass(eq=False)
class _Member:
    """An actor, and the answer that it owes."""

    actor: Any
    owes: Any
    begun: Begun | None = None
    task: _Task | None = None
    tokens: Any = None  # the answer to how many were decoded


class _Crew:
    """The workers of one run of tasks."""

    def __init__(
        self,
        ray: Any,
        options: Ray,
        gpus: int | float,
        workers: int | None,
        place: Place,
        tasks: Sequence[Any],
        make: Callable[[], Work],
        report: Report,
    ) -> None:
        self.ray, self.options, self.gpus, self.workers, self.place = ray, options, gpus, workers, place
        self.report = report
        self.waiting = deque(_Task(task) for task in tasks)
        self.members: list[_Member] = []
        self.unfit: list[_Member] = []  # they keep the places of nodes that cannot be used
        try:
            self.make = ray.put(make)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            raise _unsent(error) from error
        self.there: dict[str, str] = {}  # nodes when they were last looked at: names by id
        self.looked = self.told = float("-inf")
        self.starts_lost = 0

    def outcomes(self) -> Iterator[Outcome]:
        self.told = time.monotonic()
        while self.waiting or any(member.task for member in self.members):
            self._recruit()
            owed = {member.owes: member for member in self.members if member.owes is not None}
            if not owed:
                time.sleep(POLL)
                continue
            done, _ = self.ray.wait(list(owed), timeout=POLL)
            for answer in done:
                member = owed[answer]
                member.owes = None
                yield from self._begun(member, answer) if member.begun is None else self._answered(member, answer)
            for member in self.members:
                if self.waiting and member.begun and member.owes is None:
                    member.task = self.waiting.popleft()
                    member.owes = member.actor.do.remote(member.task.task)

    def end(self) -> None:
        for member in [*self.members, *self.unfit]:
            self._end(member)

    def _end(self, member: _Member) -> None:
        with suppress(Exception):  # it, or the whole cluster, may be gone
            self.ray.kill(member.actor, no_restart=True)

    # Workers

    def _recruit(self) -> None:
        """Every second: nodes that came and went, tokens that were decoded, and workers where some are missing."""
        now = time.monotonic()
        if now - self.looked < POLL:
            return
        self.looked = now
        self._ask_tokens()
        found = nodes(self.ray)
        there = {node.id: node.host for node in found}
        cpus = self.options.cpus_per_worker
        room = sum(node.places(cpus, self.gpus) for node in found) - len(self.unfit)
        if not self.there:
            used = sum(node.places(cpus, self.gpus) > 0 for node in found)
            self.options.tell(f"ray: {counted(used, 'node')} with room for {counted(room, 'worker')}")
        elif there.keys() != self.there.keys():
            came = [there[node] for node in there.keys() - self.there.keys()]
            went = [self.there[node] for node in self.there.keys() - there.keys()]
            told = [f"{host} joined" for host in came] + [f"{host} left" for host in went]
            self.options.tell(f"ray: node {', '.join(told)}; room for {counted(room, 'worker')}")
        self.there = there
        left = len(self.waiting) + sum(member.task is not None for member in self.members)
        wanted = min(left, room if self.workers is None else self.workers)
        for _ in range(wanted - len(self.members)):
            self._start()
        if any(member.begun for member in self.members):
            self.told = now
        elif now - self.told > _TOLD:
            self.told = now
            self.options.tell("ray: no worker has begun yet; waits for a place (ray status says what is taken)")

    def _start(self) -> None:
        actor = (
            self.ray.remote(RayWorker)
            .options(
                num_cpus=self.options.cpus_per_worker,
                num_gpus=self.gpus,
                max_restarts=0,  # a task that was begun goes back to the queue here, and is counted
                max_task_retries=0,
                max_concurrency=2,  # a task, and the question how far it is
                scheduling_strategy="SPREAD",
                runtime_env=environment(),
            )
            .remote(self.place, self.options.cpus_per_worker)
        )
        self.members.append(_Member(actor, actor.begin.remote(self.make)))

    def _begun(self, member: _Member, answer: Any) -> Iterator[Outcome]:
        try:
            begun: Begun = self.ray.get(answer)
        except self.ray.exceptions.RayTaskError as error:
            raise _unsent(error) from error
        except self.ray.exceptions.RayError as error:
            yield from self._died(member, error)
            return
        if begun.error is not None:
            raise _where(begun.error, begun.host, len(self.there) > 1)
        if begun.wrong:
            self.members.remove(member)
            self.unfit.append(member)
            _warn(f"node {begun.host} is not used: {'; '.join(begun.wrong)}")
        else:
            member.begun, self.starts_lost = begun, 0

    # Tasks

    def _answered(self, member: _Member, answer: Any) -> Iterator[Outcome]:
        try:
            kind, value, tokens = self.ray.get(answer)
        except self.ray.exceptions.RayTaskError as error:
            raise _unsent(error) from error
        except self.ray.exceptions.RayError as error:
            yield from self._died(member, error)
            return
        task, member.task = member.task, None
        assert task is not None
        self.report(tokens)
        if member.tokens is not None:  # asked before, and answered about now
            self._hear_tokens(member, ANSWER)
        if kind == "raised":
            raise value
        yield Outcome(task.task, value)

    def _died(self, member: _Member, error: Exception) -> Iterator[Outcome]:
        """A worker's end: its task is done again, or lost."""
        error = self._found_out(member, error)
        self.members.remove(member)
        self._end(member)
        begun, task = member.begun, member.task
        node_left = (
            "node has died" in str(error)
            or isinstance(error, self.ray.exceptions.ActorUnavailableError)
            or (begun is not None and begun.node not in self._nodes_now())
        )
        why = "its node left" if node_left else _reason(error)
        where = f" on node {begun.host}" if begun is not None else ""
        if task is None:
            self.starts_lost += not node_left
            if self.starts_lost >= STARTS:
                raise InputError(
                    "work on ray",
                    expected="workers that can begin",
                    received=f"{STARTS} in a row that ended while they were starting, the last because {why}",
                    remedy="A model that does not fit into memory looks like this; see the logs of Ray on the node.",
                ) from error
            _warn(f"a worker{where} ended before it had begun a task ({why}); another takes its place")
            return
        task.lost += 1
        task.deaths += not node_left
        if task.deaths < TRIES and task.lost < MOST:
            self.waiting.appendleft(task)
            _warn(f"a worker{where} ended ({why}); what it was doing is done again")
        else:
            yield Outcome(task.task, lost=f"its worker ended {task.lost} times, last{where}: {why}")

    def _found_out(self, member: _Member, error: Exception) -> Exception:
        """Where only the connection is known to be lost: what became of the worker, if that is heard soon."""
        if isinstance(error, self.ray.exceptions.ActorUnavailableError):
            try:
                self.ray.get(member.actor.tokens.remote(), timeout=ANSWER)
            except self.ray.exceptions.RayActorError as told:
                return told
            except self.ray.exceptions.RayError:  # no answer in this time
                return error
        return error

    def _nodes_now(self) -> set[str]:
        return {node.id for node in nodes(self.ray)}

    def _ask_tokens(self) -> None:
        asked = {member.tokens: member for member in self.members if member.tokens is not None}
        done = self.ray.wait(list(asked), num_returns=len(asked), timeout=0)[0] if asked else []
        for answer in done:
            self._hear_tokens(asked[answer])
        for member in self.members:
            if member.task is not None and member.tokens is None:
                member.tokens = member.actor.tokens.remote()

    def _hear_tokens(self, member: _Member, timeout: float = 0) -> None:
        answer, member.tokens = member.tokens, None
        with suppress(self.ray.exceptions.RayError):  # that it died is found where its task is waited for
            self.report(self.ray.get(answer, timeout=timeout))


def _warn(text: str) -> None:
    warnings.warn(text, WorkWarning, stacklevel=2)


def _reason(error: Exception) -> str:
    """Why Ray says that a worker ended, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if detail := _DETAIL.search(" ".join(lines)):
        return detail[1]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _unsent(error: Exception) -> InputError:
    """Something could not go to a worker or come back from it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return InputError(
        "work on ray",
        expected="modules that every node can import, and objects that can be sent",
        received=(lines[-1] if lines else type(error).__name__)[:300],
        remedy="Install peaklens, and what your own study imports, on every node.",
    )


def _where(error: Exception, host: str, several: bool) -> Exception:
    """What a worker raised while it began, with its node where there are others."""
    if not several or not isinstance(error, InputError):
        return error
    return InputError(
        error.operation, expected=error.expected, received=f"{error.received}, on node {host}", remedy=error.remedy
    )

"""The way cells of a run are done: planned in batches, given to a scheduler, failures kept apart.

1. `plan_batches` says which cells are decoded together; it depends on the cells alone, not on who does them or when.
   What is decoded comes in groups of up to `GROUPED` batches: `decode` sets the next prompt in a finished row's place
   until none are left, and only at the end of a group are places empty. Small runs stay in batches, so that there is
   work for several processes. A run that is killed loses the groups in flight.
2. `guarded` does a batch; if that fails, each of its cells alone, and tells which failed and why.
3. `do_batches` runs the plan and records failures, so that one bad problem does not stop the others.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from analyses.store.atomic import temporary_in
from analyses.store.cells import cell_file
from analyses.store.run import Cell, Run
from analyses.work.ray_pool import RayScheduler
from analyses.work.scheduler import InProcess, Report, Scheduler, Work
from analyses.work.sole import at_work
from interp.errors import InputError

__all__ = ["GROUPED", "Batch", "Group", "await_cells", "do_batches", "guarded", "plan_batches", "rows_of", "told"]

Batch = list[Cell]
FATAL = ("write cell", "start run")  # a full disk is no problem's fault
GROUPED = 4
"""How many batches' worth of cells are decoded in one call, at most, each in the place of one that has ended."""
SHARED = 8
"""Into how many groups a condition's cells are cut at least, before groups are larger than a batch."""


class Group(Batch):
    """Cells that are done in one call, ``rows`` at a time at most.

    >>> group = Group([Cell("a"), Cell("b"), Cell("c")], rows=2)
    >>> len(group), group.rows
    (3, 2)
    """

    def __init__(self, cells: Iterable[Cell], rows: int) -> None:
        super().__init__(cells)
        self.rows = rows


def rows_of(cells: Sequence[Cell]) -> int:
    """How many of them at a time: as a group says, else all."""
    return cells.rows if isinstance(cells, Group) else len(cells)


def told(batch: Sequence[Cell]) -> dict[str, Any]:
    """For the payload of each of a batch's cells, how it is done again as it was."""
    return {"batch": [[cell.problem, cell.sample] for cell in batch], "rows": rows_of(batch)}


def plan_batches(
    run: Run, cells: Sequence[Cell], size: int, skip: Sequence[Cell] = (), grouped: int = 1
) -> list[Batch]:
    """The unfinished ones of ``cells``, with those they are decoded with: ``size``, or up to ``grouped`` times as many.

    A batch that was stopped while its cells were being written is decoded again as it was, finished cells included (and
    not written again), so that a resumed run has the very numbers of one that was never stopped: what a row's last
    digits are depends on the rows beside it, and on those before whose places it took. Cells of different conditions
    never share a batch. A run whose cells tell no ``rows`` was begun when every batch ran until all of it had ended,
    and goes on so.
    """
    if size < 1:
        raise InputError("plan batches", expected="batch_size at least 1", received=str(size), remedy="Change it.")
    known, left = set(cells), dict.fromkeys(cell for cell in cells if not run.has(cell) and cell not in skip)
    planned: list[Batch] = []
    for cell in cells if left else []:
        if run.has(cell):
            payload = run.payload(cell)
            mates, rows = payload["batch"], payload.get("rows")
            grouped = grouped if rows else 1
            batch = Group((replace(cell, problem=name, sample=sample) for name, sample in mates), rows or len(mates))
            if any(mate in left for mate in batch) and set(batch) <= known:
                for mate in batch:
                    left.pop(mate, None)
                planned.append(batch)
    by_condition: dict[str, Batch] = {}
    for cell in left:
        by_condition.setdefault(cell.condition, []).append(cell)
    of_condition = Counter(cell.condition for cell in cells)  # finished ones too: a resumed run is cut as it was
    for condition, rest in by_condition.items():
        many = size * max(1, min(grouped, of_condition[condition] // (size * SHARED)))
        planned += [Group(rest[begin : begin + many], size) for begin in range(0, len(rest), many)]
    return planned


def guarded(do: Callable[[Batch], None], batch: Batch) -> dict[Cell, str]:
    """Do a batch, or if that fails its cells one by one (of a group: as many as it has at a time, and then one by one).

    Returns the reasons of those that fail alone too.
    """
    reasons: dict[Cell, str] = {}
    tasks = [batch]
    for size in sorted({len(batch), min(rows_of(batch), len(batch)), 1}, reverse=True):
        parts = [task[begin : begin + size] for task in tasks for begin in range(0, len(task), size)]
        tasks, reasons = [], {}
        for cells in [batch] if size == len(batch) else [Group(part, len(part)) for part in parts]:
            try:
                do(cells)
            except Exception as error:  # the boundary: recorded with its reason, and said at the end
                if isinstance(error, InputError) and error.operation in FATAL:
                    raise
                where = "" if isinstance(error, InputError) else "".join(traceback.format_tb(error.__traceback__)[-2:])
                reasons |= dict.fromkeys(cells, f"{type(error).__name__}: {error}\n{where}".strip())
                tasks.append(cells)
    return reasons


def await_cells(run: Run, cells: Sequence[Cell], seconds: float = 120.0) -> None:
    """Wait until cells that another machine has written are there for this one, whatever it remembers of the folders.

    A network file system may go on showing a folder as it was. Writing into the folder makes it look again.

    Raises:
        InputError: they are not, after that many seconds.
    """
    for folder in {cell_file(run.path, cell).parent for cell in cells}:
        with suppress(FileNotFoundError):  # its cells were packed just now
            (written := temporary_in(folder)).touch()
            written.unlink()
    until = time.monotonic() + seconds
    while missing := [cell for cell in cells if not run.has(cell)]:
        if time.monotonic() > until:
            raise InputError(
                "work on ray",
                expected=f"what workers write into {run.path} to be seen here within {seconds:.0f} seconds",
                received=f"{len(missing)} responses that are not, the first of problem {missing[0].problem!r}",
                remedy="The same command goes on once the file system shows them.",
            )
        time.sleep(0.2)


def do_batches(
    run: Run,
    batches: Sequence[Batch],
    make: Callable[[], Work],
    report: Report,
    crew: Scheduler | None = None,
    on_done: Callable[[Batch], None] = lambda batch: None,
) -> dict[Cell, str]:
    """Have batches done by a crew, or here; ``make``'s work does one and returns what :func:`guarded` does.

    Failures are recorded in the run once something has succeeded: where nothing does, the model or the settings are
    wrong, not the problems.

    Raises:
        InputError: nothing could be done, with the first reason; a command is at work on the run that this one does not
            go with (:mod:`analyses.work.sole`).
    """
    if not batches:
        return {}
    failed: dict[Cell, str] = {}
    unrecorded: dict[Cell, str] = {}
    succeeded, on_ray = bool(run.cells()), isinstance(crew, RayScheduler)
    with at_work(run.path, alone=on_ray):
        for outcome in (crew or InProcess()).run(batches, make, report):
            lost = outcome.value if outcome.lost is None else dict.fromkeys(outcome.task, outcome.lost)
            if on_ray:
                await_cells(run, [cell for cell in outcome.task if cell not in lost])
            failed |= lost
            unrecorded |= lost
            succeeded |= len(lost) < len(outcome.task)
            if succeeded and unrecorded:
                run.record_failures(unrecorded)
                unrecorded = {}
            on_done(outcome.task)
    if failed and not succeeded:
        cell, reason = next(iter(failed.items()))
        raise InputError(
            "decode a run",
            expected="at least one problem that can be decoded",
            received=f"{len(failed)} failures, the first (problem {cell.problem!r}): {reason}",
            remedy="Check the model and the settings.",
        )
    return failed

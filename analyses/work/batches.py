"""The way cells of a run are done: planned in batches, given to a scheduler, failures kept apart.

1. `plan_batches` says which cells are decoded together; it depends on the cells alone, not on who does them or when.
2. `guarded` does a batch; if that fails, each of its cells alone, and tells which failed and why.
3. `do_batches` runs the plan and records failures, so that one bad problem does not stop the others.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress

from analyses.store.atomic import temporary_in
from analyses.store.cells import cell_file
from analyses.store.run import Cell, Run
from analyses.work.ray_pool import RayScheduler
from analyses.work.scheduler import InProcess, Report, Scheduler, Work
from interp.errors import InputError

__all__ = ["Batch", "await_cells", "do_batches", "guarded", "plan_batches"]

Batch = list[Cell]
FATAL = ("write cell", "start run")  # a full disk is no problem's fault


def plan_batches(run: Run, cells: Sequence[Cell], size: int, skip: Sequence[Cell] = ()) -> list[Batch]:
    """The unfinished ones of ``cells``, with those they are decoded together with.

    A batch that was stopped while its cells were being written is decoded again as it was, finished cells included (and
    not written again), so that a resumed run has the very numbers of one that was never stopped: what a row's last
    digits are depends on the rows beside it. Cells of different conditions never share a batch.
    """
    if size < 1:
        raise InputError("plan batches", expected="batch_size at least 1", received=str(size), remedy="Change it.")
    known, left = set(cells), dict.fromkeys(cell for cell in cells if not run.has(cell) and cell not in skip)
    planned: list[Batch] = []
    for cell in cells if left else []:
        if run.has(cell):
            mates = run.payload(cell)["batch"]
            batch = [Cell(problem, sample, condition=cell.condition) for problem, sample in mates]
            if any(mate in left for mate in batch) and set(batch) <= known:
                for mate in batch:
                    left.pop(mate, None)
                planned.append(batch)
    by_condition: dict[str, Batch] = {}
    for cell in left:
        by_condition.setdefault(cell.condition, []).append(cell)
    for rest in by_condition.values():
        planned += [rest[begin : begin + size] for begin in range(0, len(rest), size)]
    return planned


def guarded(do: Callable[[Batch], None], batch: Batch) -> dict[Cell, str]:
    """Do a batch, or its cells one by one if that fails; the reasons of those that fail alone too."""
    reasons: dict[Cell, str] = {}
    for part in ([batch], [[cell] for cell in batch]):
        reasons = {}
        for cells in part:
            try:
                do(cells)
            except Exception as error:  # the boundary: recorded with its reason, and said at the end
                if isinstance(error, InputError) and error.operation in FATAL:
                    raise
                where = "" if isinstance(error, InputError) else "".join(traceback.format_tb(error.__traceback__)[-2:])
                reasons |= dict.fromkeys(cells, f"{type(error).__name__}: {error}\n{where}".strip())
        if not reasons or len(batch) == 1:
            break
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
        InputError: nothing could be done, with the first reason.
    """
    failed: dict[Cell, str] = {}
    succeeded = bool(run.cells())
    for outcome in (crew or InProcess()).run(batches, make, report):
        lost = outcome.value if outcome.lost is None else dict.fromkeys(outcome.task, outcome.lost)
        if isinstance(crew, RayScheduler):
            await_cells(run, [cell for cell in outcome.task if cell not in lost])
        failed |= lost
        succeeded |= len(lost) < len(outcome.task)
        if succeeded and failed:
            run.record_failures(failed)
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

"""Work that takes no model and no time to begin: numbers that hang on the task alone, a file each.

What is tried with it is who does what and what a death costs (:mod:`analyses.bench.kills`), many times in a minute.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses.store.atomic import replacing
from analyses.work.on_ray import Ray
from analyses.work.ray_pool import RayScheduler
from analyses.work.scheduler import InProcess, Scheduler

__all__ = ["TABLE", "MadeWork", "made_table"]

TABLE = "table.json"


@dataclass(frozen=True)
class MadeWork:
    """Makes a worker that writes the numbers of its tasks.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     MadeWork(folder, 0.0)()([3, 4], lambda tokens: None), sorted(path.name for path in Path(folder).iterdir())
    (2, ['3.json', '4.json'])
    """

    folder: str
    seconds: float

    def __call__(self) -> Callable[[list[int], Callable[[int], None]], int]:
        return self.do

    def do(self, tasks: list[int], report: Callable[[int], None]) -> int:
        for task in tasks:
            time.sleep(self.seconds)
            with replacing(Path(self.folder) / f"{task}.json") as temporary:
                temporary.write_text(json.dumps({"task": task, "is": hashlib.sha256(str(task).encode()).hexdigest()}))
            report(1)
        return len(tasks)


def made_table(out: str, n: int, batch_size: int, on: str | None = None, **_: Any) -> None:
    """Do what is not there yet, and put all of it into a table.

    Raises:
        RuntimeError: some tasks were lost; they are not there, and the next call does them.
    """
    folder = Path(out)
    folder.mkdir(exist_ok=True)
    left = [task for task in range(n) if not (folder / f"{task}.json").is_file()]
    batches = [left[begin : begin + batch_size] for begin in range(0, len(left), batch_size)]
    crew: Scheduler = InProcess() if on is None else RayScheduler(Ray(), folder=folder)
    outcomes = crew.run(batches, MadeWork(str(folder.absolute()), 0.0 if on is None else 0.2), lambda tokens: None)
    lost = [f"{outcome.task}: {outcome.lost}" for outcome in outcomes if outcome.lost is not None]
    if lost:
        raise RuntimeError("; ".join(lost))
    rows = [json.loads((folder / f"{task}.json").read_text()) for task in range(n)]
    with replacing(folder / TABLE) as temporary:
        temporary.write_text(json.dumps(rows))

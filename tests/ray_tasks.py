"""Tasks for workers on a Ray cluster that import next to nothing, and tell where they are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Where:
    """Each task says in a file where it is done, then waits for the file ``go``; ``first`` tasks alone wait for it."""

    def __init__(self, folder: Path, first: int = 10**6) -> None:
        self.folder, self.first = str(folder), first

    def __call__(self) -> Callable[[int, Callable[[int], None]], tuple[str, int]]:
        return self.do

    def do(self, task: int, report: Callable[[int], None]) -> tuple[str, int]:
        import ray

        node = ray.get_runtime_context().get_node_id()
        folder = Path(self.folder)
        (folder / f"at-{task}-{os.getpid()}").write_text(node)
        report(1)
        while task < self.first and not (folder / "go").exists():
            time.sleep(0.05)
        return node, int(os.environ["OMP_NUM_THREADS"])


class Broken:
    """No worker can be made."""

    def __call__(self) -> Any:
        raise ValueError("no such thing here")

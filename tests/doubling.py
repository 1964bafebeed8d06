"""Work for a scheduler's processes that imports next to nothing: they begin at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interp.errors import InputError


def doubling(folder: str, task: int, report: Callable[[int], None]) -> int:
    """Doubles; dies at 3 the first time, at 5 every time; cannot do 7."""
    report(1)
    marker = Path(folder) / f"died-{task}"
    if task == 5 or (task == 3 and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if task == 7:
        raise InputError("double", expected="not 7", received="7", remedy="Leave it out.")
    return 2 * task


class Environment:
    """Each task is the name of a variable, and what it is in that process comes back."""

    def __call__(self) -> Callable[[Any, Callable[[int], None]], Any]:
        return lambda task, report: os.environ.get(task)


class Make:
    """What a scheduler calls in each process; it has to pickle."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __call__(self) -> Callable[[Any, Callable[[int], None]], Any]:
        return lambda task, report: doubling(self.folder, task, report)

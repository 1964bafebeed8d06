"""What a study tells of its progress, and a person sees: cells, tokens a second, time left, accuracy so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from analyses.grading import Grader, reading_of, response_of
from analyses.store.run import Cell, Run

__all__ = ["RichWatch", "Watch"]


class Watch:
    """What a run tells of its progress; this one says nothing."""

    def stage(self, what: str, cells: int, done: int, tokens: int) -> AbstractContextManager[Any]:
        """``cells`` of which ``done`` are finished, and at most ``tokens`` to decode; until the end of the block."""
        return nullcontext()

    def tokens(self, count: int) -> None:
        """So many more tokens were decoded."""

    def cells(self, run: Run, cells: Sequence[Cell]) -> None:
        """These cells were done."""


class RichWatch(Watch):
    """A rich progress bar a stage; use it as a context manager, since grading keeps a process."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("cells"),
            TextColumn("{task.fields[tokens]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[accuracy]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # in a log it would be one line too many
        )
        self._grader = Grader()
        self._task: Any = None
        self._tokens, self._right, self._graded = 0, 0, 0

    def __enter__(self) -> RichWatch:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
        self._grader.close()

    @contextmanager
    def stage(self, what: str, cells: int, done: int, tokens: int) -> Iterator[None]:
        self._tokens = self._right = self._graded = 0
        self._task = self._bars.add_task(what, total=cells, completed=done, tokens="", accuracy="")
        try:
            yield
        finally:
            self._bars.stop_task(self._task)

    def tokens(self, count: int) -> None:
        self._tokens += count
        task = self._bars.tasks[self._task]
        if task.elapsed:
            self._bars.update(self._task, tokens=f"{self._tokens / task.elapsed:,.0f} tokens/s")

    def cells(self, run: Run, cells: Sequence[Cell]) -> None:
        payloads = [run.read(cell).payload for cell in cells if run.has(cell)]
        gold = [p for p in payloads if p.get("answer")]
        read = [response_of(p, reading_of(run.settings)) for p in gold]
        self._grader.reading = reading_of(run.settings)
        pairs = [(p["answer"], text) for p, (text, _) in zip(gold, read, strict=True)]
        scores = [grade.score for grade in self._grader.grade(pairs, opened=[opened for _, opened in read])]
        self._right += sum(score == 1 for score in scores)
        self._graded += sum(score == score for score in scores)
        said = f"{self._right / self._graded:.0%} right so far" if self._graded else ""
        self._bars.update(self._task, advance=len(cells), accuracy=said)

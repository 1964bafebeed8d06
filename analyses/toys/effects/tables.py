"""What becomes of a condition: its responses, its accuracy against another's, and tables of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from analyses.stats import accuracy_difference, mcnemar, wilson
from analyses.toys.evaluate import Figure
from analyses.toys.task import Question, read_answer
from interp.rollout import Rollout

__all__ = ["SEED", "Difference", "Effect", "Outcome", "Patched", "Table", "markdown", "paired_difference"]

SEED = 0
_COLUMNS = "condition|right, % [95 %]|of n|as planted|against|points [95 %]|gained, lost|McNemar p|cut off"


@dataclass(frozen=True)
class Difference:
    """A paired difference in percentage points, with its interval.

    `gained` and `lost` count the problems that only this or only the baseline has right, `p` is McNemar's; None where
    the baseline is a mean over several conditions.
    """

    points: float
    low: float
    high: float
    gained: int | None = None
    lost: int | None = None
    p: float | None = None

    @property
    def cells(self) -> tuple[str, str, str]:
        points = f"{self.points:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"
        if self.p is None:
            return points, "", ""
        return points, f"{self.gained}, {self.lost}", "< 0.0001" if self.p < 1e-4 else f"{self.p:.4f}"


def paired_difference(this: Sequence[bool], base: Sequence[bool] | Sequence[float]) -> Difference:
    """Accuracy of one condition minus that of another on the same problems.

    >>> paired_difference([True, True, True, False], [True, False, False, False])
    Difference(points=50.0, low=0.0, high=100.0, gained=2, lost=0, p=0.5)

    `base` may be a share for each problem, as the mean of several draws is. Where all problems differ alike, the
    interval is the exact bound of :func:`analyses.stats.accuracy_difference`.
    """
    found = accuracy_difference(this, base, draws=10_000, seed=SEED)
    points = (100 * found.estimate, 100 * found.low, 100 * found.high)
    if not all(isinstance(value, bool) for value in base):
        return Difference(*points)
    test = mcnemar(this, base)
    return Difference(*points, test.only_a, test.only_b, test.p)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The responses to all problems under one condition."""

    name: str
    questions: Sequence[Question]
    rollouts: Sequence[Rollout]
    planted: Callable[[Question], int] | None = None
    """What the planted mechanism answers under this condition; None where it says nothing."""

    @cached_property
    def answers(self) -> list[int | None]:
        """The last answer stated in each response."""
        return [read_answer(" ".join(rollout.tokens)) for rollout in self.rollouts]

    @cached_property
    def right(self) -> list[bool]:
        return [answer == question.answer for answer, question in zip(self.answers, self.questions, strict=True)]

    @property
    def figure(self) -> Figure:
        agreed = None
        if self.planted is not None:
            agreed = sum(a == self.planted(q) for a, q in zip(self.answers, self.questions, strict=True))
        return Figure(self.name, sum(self.right), len(self.questions), agreed)

    @property
    def cut_off(self) -> int:
        """How many responses ended for want of room."""
        return sum(rollout.finish_reason == "length" for rollout in self.rollouts)


@dataclass(frozen=True)
class Effect:
    """One row: a condition, its accuracy, and its difference to another condition."""

    name: str
    against: str
    difference: Difference | None
    figure: Figure | None = None
    cut_off: int | None = None

    @classmethod
    def of(cls, this: Outcome, base: Outcome | None = None) -> Effect:
        difference = None if base is None else paired_difference(this.right, base.right)
        return cls(this.name, base.name if base else "", difference, this.figure, this.cut_off)

    @property
    def cells(self) -> tuple[str, ...]:
        figure = self.figure
        share = ("", "", "")
        if figure is not None:
            planted = "" if figure.as_planted is None else str(figure.as_planted)
            share = (_share(figure), f"{figure.right} of {figure.n}", planted)
        paired = ("", "", "") if self.difference is None else self.difference.cells
        return (self.name, *share, self.against, *paired, "" if self.cut_off is None else str(self.cut_off))


@dataclass(frozen=True)
class Patched:
    """What the model writes when the residual of runs of kind `source` stands in runs of kind `target`."""

    target: str
    source: str
    layer: int
    site: str
    n: int
    right: int
    """How often the right value is written."""
    slip: int
    """How often the planted slip is."""
    carried: int
    """How often the value is that the source's own run writes."""

    @property
    def cells(self) -> tuple[str, ...]:
        shares = (_share(Figure("", self.right, self.n)), f"{100 * self.slip / self.n:.1f}")
        return (*shares, f"{100 * self.carried / self.n:.1f}") if self.source == "other problem" else shares


def _share(figure: Figure) -> str:
    found = wilson(figure.right, figure.n)
    return f"{100 * found.estimate:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


@dataclass(frozen=True)
class Table:
    """A title, a remark, and rows both as text and as they are."""

    title: str
    note: str
    columns: tuple[str, ...]
    cells: list[tuple[str, ...]]
    rows: Sequence[Effect | Patched]

    @classmethod
    def of(cls, title: str, note: str, rows: Sequence[Effect]) -> Table:
        return cls(title, note, tuple(_COLUMNS.split("|")), [row.cells for row in rows], rows)


def markdown(tables: Sequence[Table]) -> str:
    """Tables as Markdown.

    >>> print(markdown([Table("T", "Note.", ("a", "b"), [("1", "2")], [])]))
    ## T
    <BLANKLINE>
    Note.
    <BLANKLINE>
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    parts = []
    for table in tables:
        head = [f"| {' | '.join(table.columns)} |", "|---" * len(table.columns) + "|"]
        body = "\n".join([*head, *(f"| {' | '.join(line)} |" for line in table.cells)])
        parts += [f"## {table.title}", *([table.note] if table.note else []), body]
    return "\n\n".join(parts)

"""A response in the making: its tokens, what is forced, what interventions remember and mark, its place in a pass.

Whoever acts on a row (an intervention) is told by identity alone; this file knows none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.devices import on_device

__all__ = ["NEVER", "NOT_REACHED", "Event", "ForcedToken", "Positions", "Row", "name_of"]

NEVER = "never acted"
NOT_REACHED = "not reached"
"""How the notes begin that tell what did not happen."""


@dataclass(frozen=True)
class Event:
    """A mark: at response step ``step``, ``intervention`` did what ``note`` says.

    What did *not* happen is marked when the response has ended: an intervention that never acted, steps that were not
    reached. ``is_act`` tells the one from the other.

    >>> Event(3, "SuppressTokens", "suppressed 'Wait'").is_act, Event(9, "SuppressTokens", f"{NEVER}: why").is_act
    (True, False)
    """

    step: int
    intervention: str
    note: str

    @property
    def is_act(self) -> bool:
        """Whether something was done there."""
        return not self.note.startswith((NEVER, NOT_REACHED))


class ForcedToken(int):
    """A token id that was forced, and by whom, so that an intervention takes back its own tokens alone."""

    owner: int | None = None

    @classmethod
    def by(cls, intervention: object, token_id: int) -> ForcedToken:
        token = cls(token_id)
        token.owner = None if intervention is None else id(intervention)
        return token


@dataclass(eq=False)
class Row:
    """One response in the making.

    ``index`` is its place in the list of prompts; ``limit`` the number of tokens at which it ends with reason "length";
    ``seed`` is its own: draw from it, and a coin falls the same whatever batch the row is in.
    """

    index: int
    prompt_ids: list[int]
    limit: int
    seed: int = 0
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    events: list[Event] = field(default_factory=list)
    forced: deque[ForcedToken] = field(default_factory=deque)
    _notes: dict[int, dict[str, Any]] = field(default_factory=dict)
    _marked: set[int] = field(default_factory=set)

    def force(self, token_ids: Sequence[int], by: object = None) -> None:
        """Emit these next, one a step, after whatever is already forced."""
        self.forced.extend(ForcedToken.by(by, token_id) for token_id in token_ids)

    def take_back(self, by: object) -> None:
        """Do not emit what this intervention has forced and what has not been emitted yet."""
        self.forced = deque(token for token in self.forced if token.owner != id(by))

    def notes(self, intervention: object) -> dict[str, Any]:
        """This intervention's memory about this row."""
        return self._notes.setdefault(id(intervention), {})

    def mark(self, intervention: object, note: str) -> None:
        """Leave an :class:`Event` at the current step."""
        self.events.append(Event(len(self.token_ids), name_of(intervention), note))
        self._marked.add(id(intervention))

    def mark_idle(self, intervention: object, why: str) -> None:
        """Leave an :class:`Event` that an intervention never acted, and why, if it left none."""
        if id(intervention) not in self._marked:
            self.mark(intervention, f"{NEVER}: {why}")


@dataclass(frozen=True)
class Positions:
    """Whose residuals ``edit_residual`` is looking at.

    ``rows[i]`` is the row of ``residual[i]``; ``pos[i, j]`` is the position in that row's text (prompt and response) of
    ``residual[i, j]``, -1 on padding. ``scratch`` passes are thrown away afterwards.
    """

    rows: list[Row]
    pos: Int[Tensor, "row pos"]
    scratch: bool = False
    rerun: bool = False
    begin: Sequence[int] | None = field(default=None, repr=False)
    """The position of each row's first column, negative on padding; what ``places`` needs without asking the device."""

    def places(self, steps: Sequence[int]) -> list[list[tuple[int, int]]]:
        """For each row, the number in ``steps`` and the column of those that are here; nothing is waited for.

        >>> at = Positions([Row(0, [5, 6, 7], 9)], torch.arange(3)[None], begin=[0])
        >>> at.places([3, 0])  # step 0 is the last of the three prompt tokens
        [[(1, 2)]]
        """
        count = self.pos.shape[1]
        # The last column is never padding.
        begin = (self.pos[:, -1] - (count - 1)).tolist() if self.begin is None else self.begin
        found = []
        for row, first in zip(self.rows, begin, strict=True):
            columns_of = ((n, step + len(row.prompt_ids) - 1 - first) for n, step in enumerate(steps))
            found.append([(n, column) for n, column in columns_of if 0 <= column < count])
        return found

    @property
    def steps(self) -> Int[Tensor, "row pos"]:
        """The response step each position predicts: 0 at the last prompt token, negative before it and on padding."""
        first = on_device([len(row.prompt_ids) - 1 for row in self.rows], self.pos.device)[:, None]
        return torch.where(self.pos >= 0, self.pos - first, -1 - first)


def name_of(intervention: object) -> str:
    """What events and stored settings call it: its ``label`` if it has one, else its class."""
    return str(getattr(intervention, "label", type(intervention).__name__))

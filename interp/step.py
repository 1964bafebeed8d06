"""One step of the rows being decoded: what an intervention sees of it and does.

A prompt that takes the place of a finished row begins later than the rows beside it, so rows of one pass may be at
different steps. A :class:`Step` is of all of them, or a part of that: those that are at one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engines.base import Engine
from interp.engines.cache import RowCache
from interp.errors import InputError
from interp.rows import ForcedToken, Row
from interp.sites import Site

__all__ = ["LogitEdit", "Scratch", "Step"]

LogitEdit = Callable[[Float[Tensor, "some d_vocab"], list[int]], Float[Tensor, "some d_vocab"]]


@dataclass(frozen=True)
class Scratch:
    """What scratch tokens showed; nothing of it stays in the response.

    ``token_ids`` were decoded greedily after the prefix; ``logits[:, j]`` are those that chose ``token_ids[:, j]``.
    """

    token_ids: Int[Tensor, "row new"]
    logits: Float[Tensor, "row new d_vocab"]


class Step:
    """One step of live rows: what an intervention sees and does.

    Attributes:
        rows: the live rows; every index ``i`` below is a place in this list.
        steps: the response step that is being decided of each row.
        logits: ``[row, d_vocab]``, all edits so far applied.
        tokens: after the choice, the token of each row; ``forced[i]`` tells that it was forced.
        finishing: after the choice, why each row is about to end ("eos", "stop", "length") or ``None``.
    """

    def __init__(
        self,
        rows: list[Row],
        steps: list[int],
        raw_logits: Float[Tensor, "row d_vocab"],
        engine: Engine,
        cache: RowCache,
        readings: Callable[[Site], Float[Tensor, "row ..."]],
        passing: Callable[..., Any],
        injects: frozenset[int],
        last_ids: Int[Tensor, "row 1"],
        finish_of: Callable[[Row, int], str | None],
    ) -> None:
        self.rows, self.steps, self._logits = rows, steps, raw_logits
        self.tokens: list[int] = []
        self.forced: list[bool] = []
        self.finishing: list[str | None] = []
        self._engine, self._cache, self._readings, self._passing = engine, cache, readings, passing
        self._injects, self._last_ids, self._finish_of = injects, last_ids, finish_of
        self._logit_edits: list[LogitEdit] = []
        self._kept: set[int] = set()  # by their places in the list of prompts: parts and the whole share it
        self._later: list[_Later] = []
        self._places = list(range(len(rows)))
        # Of a part: the step of all rows, and this one's places there
        self._part_of: Step | None = None
        self._index: Int[Tensor, " row"] | None = None

    @property
    def t(self) -> int:
        """The response step being decided, the same for all rows."""
        if len(set(self.steps)) > 1:
            raise InputError(
                "ask for the step",
                expected="rows that are all at one step",
                received=f"rows at steps {sorted(set(self.steps))}",
                remedy="Go by step.steps, one a row; or leave the intervention's staggered False.",
            )
        return self.steps[0]

    @property
    def _whole(self) -> Step:
        return self if self._part_of is None else self._part_of

    @property
    def logits(self) -> Float[Tensor, "row d_vocab"]:
        return self._logits if self._index is None else self._whole._logits.index_select(0, self._index)

    @logits.setter
    def logits(self, new: Float[Tensor, "row d_vocab"]) -> None:
        if self._index is None:
            self._logits = new
            return
        # An edit may widen them.
        whole, held = self._whole, self._whole._logits
        dtype = torch.promote_types(held.dtype, new.dtype)
        whole._logits = held.to(dtype).index_copy(0, self._index, new.to(dtype))

    def _of_each_step(self, staggered: bool) -> Iterator[Step]:
        """This step for whom ``staggered`` rows are welcome, else a part for the rows of each step, the first first."""
        steps = sorted(set(self.steps))
        if staggered or len(steps) == 1:
            yield self
            return
        for t in steps:
            part, places = copy(self), [i for i, step in enumerate(self.steps) if step == t]
            part._part_of, part._places = self, places
            part._index = torch.tensor(places, device=self._last_ids.device)
            part.rows, part.steps = [self.rows[i] for i in places], [t] * len(places)
            if self.tokens:
                part.tokens, part.forced = [self.tokens[i] for i in places], [self.forced[i] for i in places]
                part.finishing = [self.finishing[i] for i in places]
            yield part
            if self.tokens:
                for i, place in enumerate(places):
                    self.tokens[place], self.forced[place] = part.tokens[i], part.forced[i]
                    self.finishing[place] = part.finishing[i]

    # Before the choice

    def residual(self, site: Site) -> Float[Tensor, "row ..."]:
        """What is at ``site`` at the position just run (its last pass); declare it in ``reads``."""
        value = self._readings(site)
        return value if self._index is None else value.index_select(0, self._index.to(value.device))

    def edit_logits(self, edit: LogitEdit) -> None:
        """Replace the logits by ``edit(logits, indices)``, now and whenever a position is run again in this step.

        ``indices[k]`` is the place in ``rows`` of ``logits[k]``.
        """
        self.logits = edit(self.logits, list(range(len(self.rows))))
        self._logit_edits.append(edit if self._index is None else _of_some(edit, self._places))

    def mark_later(self, intervention: object, values: Int[Tensor, " row"], note: Callable[[int], str | None]) -> None:
        """Leave an :class:`Event` in each row for which ``note(value)`` is a text.

        ``values`` may still be on the device: they travel with the chosen tokens, so that marking waits for nothing.
        """
        if self._index is not None:
            everywhere = values.new_zeros(len(self._whole.rows))
            values = everywhere.index_copy(0, self._index.to(values.device), values)
        self._later.append(_Later(intervention, values, note, self._places))

    def _marks(self) -> list[Int[Tensor, " row"]]:
        return [later.values for later in self._later]

    def _leave_marks(self, columns: Sequence[Sequence[int]]) -> None:
        for later, values in zip(self._later, columns, strict=True):
            for place in later.places:
                text = later.note(values[place])
                if text is not None:
                    self.rows[place].mark(later.intervention, text)

    def rerun(self, which: Sequence[int], inject: int, residual: Float[Tensor, "rerun d_model"]) -> None:
        """Run the current position of rows ``which`` again from block ``inject``, with ``residual`` as its input.

        Blocks from ``inject`` on store their new keys and values in place of the old; blocks below keep theirs; the
        cache holds one entry a position. ``logits`` and ``residual(...)`` show the new pass afterwards.
        """
        if inject not in self._injects:
            raise InputError(
                "run a position again",
                expected=f"a layer listed in the intervention's injects ({sorted(self._injects)})",
                received=f"layer {inject}",
                remedy="Declare it, so that recording knows where the stream is replaced.",
            )
        if not which:
            return
        whole, which = self._whole, [self._places[i] for i in which]
        index = torch.tensor(which, dtype=torch.long, device=self._last_ids.device)
        with self._passing([whole.rows[i] for i in which], index, rerun=True):
            fresh = self._engine.recompute(index, self._last_ids[index], inject, residual, self._cache)
        for edit in self._logit_edits:
            fresh = edit(fresh, which)
        whole._logits = whole._logits.index_copy(0, index, fresh.to(whole._logits.dtype))

    def scratch(self, which: Sequence[int], prefix: Sequence[int], new_tokens: int) -> Scratch:
        """Append ``prefix`` to rows ``which``, decode ``new_tokens`` greedily, and roll all of it back."""
        if not prefix or new_tokens < 1 or not which:
            raise InputError(
                "decode scratch tokens",
                expected="at least one row, a prefix of at least one token and new_tokens >= 1",
                received=f"{len(which)} rows, {len(prefix)} prefix tokens, new_tokens={new_tokens}",
                remedy="The prefix is what asks the model for the answer.",
            )
        self._engine.facts.check_token_ids(prefix, "decode scratch tokens")
        fork = self._cache.fork([self._places[i] for i in which], len(prefix) + new_tokens)
        ids = torch.tensor([list(prefix)] * len(which), device=self._last_ids.device)
        chosen, seen = [], []
        with self._passing([self.rows[i] for i in which], None, scratch=True, cache=fork):
            for _ in range(new_tokens):
                logits = self._engine.forward(ids, fork)[:, -1]
                ids = logits.argmax(-1, keepdim=True)
                seen.append(logits)
                chosen.append(ids)
        return Scratch(torch.cat(chosen, 1), torch.stack(seen, 1))

    # After the choice

    def replace(self, i: int, token_ids: Sequence[int], by: object = None) -> None:
        """Row ``i`` emits these instead of the chosen token: the first now, the others next, before anything forced."""
        self._engine.facts.check_token_ids(token_ids, "replace a token")
        self.tokens[i] = token_ids[0]
        self.rows[i].forced.extendleft(ForcedToken.by(by, token_id) for token_id in reversed(token_ids[1:]))
        self.finishing[i] = None if self.rows[i].index in self._kept else self._finish_of(self.rows[i], token_ids[0])

    def force(self, i: int, token_ids: Sequence[int], by: object = None) -> None:
        """Row ``i`` emits these after the chosen token."""
        self._engine.facts.check_token_ids(token_ids, "force tokens")
        self.rows[i].force(token_ids, by)

    def forced_by_another(self, i: int, intervention: object) -> bool:
        """Whether row ``i``'s token was forced, and not by this intervention."""
        token = self.tokens[i]
        return isinstance(token, ForcedToken) and token.owner != id(intervention)

    def keep(self, i: int) -> None:
        """Row ``i`` goes on even if its token would have ended it."""
        self._kept.add(self.rows[i].index)
        self.finishing[i] = None

    def extend(self, i: int, limit: int) -> None:
        """Row ``i`` ends with "length" at ``limit`` tokens from now on (at most max_new_tokens + extra_tokens)."""
        self.rows[i].limit = limit
        is_kept = self.rows[i].index in self._kept
        if self.finishing and self.finishing[i] in (None, "length") and not is_kept:
            self.finishing[i] = self._finish_of(self.rows[i], self.tokens[i])

    def end(self, i: int, reason: str) -> None:
        """Row ``i`` ends with this token."""
        self._kept.discard(self.rows[i].index)
        self.finishing[i] = reason


@dataclass(frozen=True, eq=False)
class _Later:
    """Marks that are left when the tokens are known: of the rows at these places."""

    intervention: object
    values: Int[Tensor, " row"]
    note: Callable[[int], str | None]
    places: list[int]


def _of_some(edit: LogitEdit, places: Sequence[int]) -> LogitEdit:
    """An edit of a part of the rows as one of any of them; others are left as they are."""
    number = {place: i for i, place in enumerate(places)}

    def of_any(logits: Float[Tensor, "some d_vocab"], indices: list[int]) -> Float[Tensor, "some d_vocab"]:
        mine = [k for k, place in enumerate(indices) if place in number]
        if not mine:
            return logits
        index = torch.tensor(mine, device=logits.device)
        new = edit(logits.index_select(0, index), [number[indices[k]] for k in mine])
        dtype = torch.promote_types(logits.dtype, new.dtype)
        return logits.to(dtype).index_copy(0, index, new.to(dtype))

    return of_any

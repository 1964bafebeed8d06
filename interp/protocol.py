"""How anything touches a response while it is being decoded: the intervention protocol.

One response step goes through these moments, and an :class:`Intervention` overrides those it needs:

1. ``edit_residual``  during the forward pass, at the sites it lists in ``edits``
2. ``before_choice``  the pass is done; logits may be edited, positions run again, scratch tokens tried
3. (the loop chooses a token: a forced one, the argmax, or a draw)
4. ``after_choice``   the token may be replaced, more may be forced, rows ended or kept going
5. (the token and, if asked for, the residuals are recorded; finished rows leave)
6. ``finish``         a row that leaves may be marked once more

Before the first step ``prepare`` fits an intervention to the model, ``fit`` to the call and ``begin`` to each row.

Interventions act in the order of the list given to ``decode``, at every moment. An edit of the logits holds for the
rest of the step: when a later intervention has a position run again, earlier edits are applied to the new logits too,
so ``[SuppressTokens(...), RecycleRepresentation(...)]`` recycles by what is left after suppression and never emits a
suppressed token, whereas the reverse order decides to recycle on the raw logits. Recording keeps the last pass of a
step, edits included.

The loop knows no particular method. What belongs to a row lives in ``row.notes(self)``, so one intervention object
can serve many runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.arguments import as_list, as_wholes, refused
from interp.describing import class_digest, described
from interp.devices import on_device
from interp.engines.base import Engine, ModelFacts
from interp.engines.cache import RowCache
from interp.errors import InputError
from interp.rows import ForcedToken, Positions, Row, name_of
from interp.sites import Site

__all__ = [
    "Intervention",
    "Interventions",
    "Request",
    "Scratch",
    "Step",
    "as_interventions",
    "code_of",
    "prepared",
]


@dataclass(frozen=True)
class Request:
    """One call, as far as interventions may be checked against it.

    Attributes:
        operation: "decode", "read" or "score".
        prompts: how many there are.
        prompt_lengths: tokens of each.
        max_new_tokens: as asked for; in ``score`` the tokens of the longest response.
        reach: response tokens at most, all interventions' ``extra_tokens`` included.
        interventions: all of the call, in their order.
        response_lengths: tokens of each response where they are given, the one that a metric measures included.
    """

    operation: str
    prompts: int
    max_new_tokens: int
    reach: int
    interventions: tuple[Intervention, ...] = ()
    prompt_lengths: tuple[int, ...] = ()
    response_lengths: tuple[int, ...] | None = None


class Intervention:
    """Base of everything that acts on a response; each method's default does nothing.

    Attributes:
        reads: sites whose value at the current position ``step.residual`` must offer; not attn_scores.
        edits: sites at which ``edit_residual`` is called.
        injects: layers at which it may have a position run again.
        extra_tokens: how many tokens a response may grow beyond ``max_new_tokens`` because of it.

    Example: end a response at its third "Wait", in ten lines.

    >>> class EndAtThird(Intervention):
    ...     def __init__(self, token_id: int) -> None:
    ...         self.token_id = token_id
    ...     def after_choice(self, step: Step) -> None:
    ...         for i, row in enumerate(step.rows):
    ...             notes = row.notes(self)
    ...             notes["seen"] = notes.get("seen", 0) + (step.tokens[i] == self.token_id)
    ...             if notes["seen"] == 3:
    ...                 step.end(i, "third")
    >>> EndAtThird(5).describe()["token_id"]
    5
    """

    reads: tuple[Site, ...] = ()
    edits: tuple[Site, ...] = ()
    injects: tuple[int, ...] = ()
    extra_tokens: int = 0

    def prepare(self, facts: ModelFacts) -> Intervention:
        """The intervention to use on this model, called before anything is computed.

        The place to refuse what cannot work, with an ``InputError``, and to resolve what depends on the model (layers
        counted from the end, text to token ids) into a copy.
        """
        return self

    def fit(self, request: Request) -> Intervention:
        """The intervention to use in this call, after every ``prepare`` and before anything is computed.

        The place to refuse what cannot be reached, and to resolve what depends on the call (rows counted from the
        end) into a copy.
        """
        return self

    def begin(self, row: Row) -> None:
        """Before the row's prompt is read; ``row.force(...)`` puts tokens at the start of its response."""

    def edit_residual(self, site: Site, residual: Float[Tensor, "row ..."], at: Positions) -> Tensor | None:
        """What to go on with at ``site``, or ``None`` to leave it. Must not change ``residual`` in place.

        ``residual`` is ``[row, pos, d_model]``, at sites of heads ``[row, pos, head, d_head]``, and at attn_scores
        ``[row, head, query, key]``: then ``at`` tells the places of the queries, and the last key is the last query.
        A long text comes in pieces, one after another (:mod:`interp.pieces`): ask ``at`` which positions are here.
        """
        return None

    def before_choice(self, step: Step) -> None:
        """After the forward pass, before a token is chosen."""

    def after_choice(self, step: Step) -> None:
        """After a token is chosen, before it is recorded."""

    def finish(self, row: Row) -> None:
        """After the row's last token: ``row.finish_reason`` is known, and what did not happen can be marked."""

    def describe(self) -> dict[str, Any]:
        """Name and options, JSON-able, for the settings stored with every rollout.

        Tensors, functions and objects are told by a digest of their content, so that no two of a class that can act
        differently are described alike (what the class itself does is in the settings as ``intervention_code``).
        Attributes that begin on ``_`` are working memory and no options.
        """
        options = self._options()
        plain = {name: described(value) for name, value in options.items() if not name.startswith("_")}
        return {"name": name_of(self), **plain}

    def _options(self) -> dict[str, Any]:
        """What ``describe`` tells: the fields of a dataclass and whatever has been set on the object besides."""
        made: set[str] = {f.name for f in fields(self) if not f.init} if is_dataclass(self) else set()
        return {name: value for name, value in vars(self).items() if name not in made and name != "label"}


if TYPE_CHECKING:
    Interventions: TypeAlias = Intervention | Iterable[Intervention] | None
else:
    Interventions = Any


def as_interventions(interventions: Any, operation: str = "decode") -> list[Intervention]:
    """A list of interventions from one or several; classes and other things are refused.

    >>> len(as_interventions(Intervention())), as_interventions(None)
    (1, [])
    """
    if interventions is None:
        return []
    listed = [interventions] if isinstance(interventions, Intervention | type) else interventions
    listed = as_list(listed, operation, "interventions", "interventions")
    for one in listed:
        if not isinstance(one, Intervention):
            made = f"Make one: {one.__name__}(...)." if isinstance(one, type) else "See interp.interventions."
            raise refused(operation, "interventions, instances of interp.Intervention", one, made)
    return listed


def prepared(intervention: Intervention, facts: ModelFacts) -> Intervention:
    """The intervention as it will act on this model, its layers checked."""
    name = type(intervention).__name__
    intervention = intervention.prepare(facts)
    if not isinstance(intervention, Intervention):
        raise InputError(
            name,
            expected="prepare to return the intervention to use",
            received=repr(intervention)[:80],
            remedy="Return self, or a changed copy.",
        )
    # One place alone is as good as a list of one.
    for places in ("reads", "edits"):
        if isinstance(getattr(intervention, places), Site):
            setattr(intervention, places, (getattr(intervention, places),))
    if not isinstance(intervention.injects, tuple):
        intervention.injects = tuple(as_wholes(intervention.injects, name, "injects"))
    for site in (*intervention.reads, *intervention.edits):
        if not isinstance(site, Site):
            raise InputError(
                name, expected="sites in reads and edits", received=repr(site), remedy='Write Site("resid_post", 3).'
            )
        site.check(facts.n_layers, name)
    for site in intervention.reads:
        facts.shape(site, name)
    for layer in intervention.injects:
        Site("resid_pre", layer).check(facts.n_layers, name)
    return intervention


def code_of(intervention: Intervention) -> str:
    """What tells the class from another of its name: a digest of its code, or the package's name for a ready-made."""
    kind = type(intervention)
    is_ours = kind.__module__.startswith("interp.interventions.")
    return "peaklens" if is_ours else class_digest(kind, Intervention)


@dataclass(frozen=True)
class Scratch:
    """What scratch tokens showed; nothing of it stays in the response.

    ``token_ids`` were decoded greedily after the prefix; ``logits[:, j]`` are those that chose ``token_ids[:, j]``.
    """

    token_ids: Int[Tensor, "row new"]
    logits: Float[Tensor, "row new d_vocab"]


class Step:
    """One step of all live rows: what an intervention sees and does.

    Attributes:
        rows: the live rows; every index ``i`` below is a place in this list.
        t: the response step being decided, the same for all rows.
        logits: ``[row, d_vocab]``, all edits so far applied.
        tokens: after the choice, the token of each row; ``forced[i]`` tells that it was forced.
        finishing: after the choice, why each row is about to end ("eos", "stop", "length") or ``None``.
    """

    def __init__(
        self,
        rows: list[Row],
        t: int,
        raw_logits: Float[Tensor, "row d_vocab"],
        engine: Engine,
        cache: RowCache,
        readings: Callable[[Site], Float[Tensor, "row ..."]],
        passing: Callable[..., Any],
        injects: frozenset[int],
        last_ids: Int[Tensor, "row 1"],
        finish_of: Callable[[Row, int], str | None],
    ) -> None:
        self.rows, self.t, self.logits = rows, t, raw_logits
        self.tokens: list[int] = []
        self.forced: list[bool] = []
        self.finishing: list[str | None] = []
        self._engine, self._cache, self._readings, self._passing = engine, cache, readings, passing
        self._injects, self._last_ids, self._finish_of = injects, last_ids, finish_of
        self._logit_edits: list[Callable[[Tensor, list[int]], Tensor]] = []
        self._kept: set[int] = set()
        self._later: list[tuple[Intervention, Int[Tensor, " row"], Callable[[int], str | None]]] = []

    # Before the choice

    def residual(self, site: Site) -> Float[Tensor, "row ..."]:
        """What is at ``site`` at the position just run (its last pass); declare it in ``reads``."""
        return self._readings(site)

    def edit_logits(
        self, edit: Callable[[Float[Tensor, "some d_vocab"], list[int]], Float[Tensor, "some d_vocab"]]
    ) -> None:
        """Replace the logits by ``edit(logits, indices)``, now and whenever a position is run again in this step.

        ``indices[k]`` is the place in ``rows`` of ``logits[k]``.
        """
        self.logits = edit(self.logits, list(range(len(self.rows))))
        self._logit_edits.append(edit)

    def mark_later(
        self, intervention: Intervention, values: Int[Tensor, " row"], note: Callable[[int], str | None]
    ) -> None:
        """Leave an :class:`Event` in each row for which ``note(value)`` is a text.

        ``values`` may still be on the device: they travel with the chosen tokens, so that marking waits for nothing.
        """
        self._later.append((intervention, values, note))

    def _marks(self) -> list[Int[Tensor, " row"]]:
        return [values for _, values, _ in self._later]

    def _leave_marks(self, columns: Sequence[Sequence[int]]) -> None:
        for (intervention, _, note), values in zip(self._later, columns, strict=True):
            for row, value in zip(self.rows, values, strict=True):
                text = note(value)
                if text is not None:
                    row.mark(intervention, text)

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
        index = on_device(list(which), self._last_ids.device, torch.long)
        with self._passing([self.rows[i] for i in which], index, rerun=True):
            fresh = self._engine.recompute(index, self._last_ids[index], inject, residual, self._cache)
        for edit in self._logit_edits:
            fresh = edit(fresh, list(which))
        self.logits = self.logits.index_copy(0, index, fresh.to(self.logits.dtype))

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
        fork = self._cache.fork(which, len(prefix) + new_tokens)
        ids = on_device([list(prefix)] * len(which), self._last_ids.device)
        chosen, seen = [], []
        with self._passing([self.rows[i] for i in which], None, scratch=True, cache=fork):
            for _ in range(new_tokens):
                logits = self._engine.forward(ids, fork)[:, -1]
                ids = logits.argmax(-1, keepdim=True)
                seen.append(logits)
                chosen.append(ids)
        return Scratch(torch.cat(chosen, 1), torch.stack(seen, 1))

    # After the choice

    def replace(self, i: int, token_ids: Sequence[int], by: Intervention | None = None) -> None:
        """Row ``i`` emits these instead of the chosen token: the first now, the others next, before anything forced."""
        self._engine.facts.check_token_ids(token_ids, "replace a token")
        self.tokens[i] = token_ids[0]
        self.rows[i].forced.extendleft(ForcedToken.by(by, token_id) for token_id in reversed(token_ids[1:]))
        self.finishing[i] = None if i in self._kept else self._finish_of(self.rows[i], token_ids[0])

    def force(self, i: int, token_ids: Sequence[int], by: Intervention | None = None) -> None:
        """Row ``i`` emits these after the chosen token."""
        self._engine.facts.check_token_ids(token_ids, "force tokens")
        self.rows[i].force(token_ids, by)

    def forced_by_another(self, i: int, intervention: Intervention) -> bool:
        """Whether row ``i``'s token was forced, and not by this intervention."""
        token = self.tokens[i]
        return isinstance(token, ForcedToken) and token.owner != id(intervention)

    def keep(self, i: int) -> None:
        """Row ``i`` goes on even if its token would have ended it."""
        self._kept.add(i)
        self.finishing[i] = None

    def extend(self, i: int, limit: int) -> None:
        """Row ``i`` ends with "length" at ``limit`` tokens from now on (at most max_new_tokens + extra_tokens)."""
        self.rows[i].limit = limit
        if self.finishing and self.finishing[i] in (None, "length") and i not in self._kept:
            self.finishing[i] = self._finish_of(self.rows[i], self.tokens[i])

    def end(self, i: int, reason: str) -> None:
        """Row ``i`` ends with this token."""
        self._kept.discard(i)
        self.finishing[i] = reason

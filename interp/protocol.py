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

Rows of one pass may be at different steps (a prompt has come in the place of a finished row). An intervention is shown
those of one step at a time, unless it asks for all at once (``staggered``).

The loop knows no particular method. What belongs to a row lives in ``row.notes(self)``, so one intervention object
can serve many runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from jaxtyping import Float
from torch import Tensor

from interp.arguments import as_list, as_wholes, refused
from interp.describing import class_digest, described
from interp.engines.base import ModelFacts
from interp.errors import InputError
from interp.rows import Positions, Row, name_of
from interp.sites import Site
from interp.step import Scratch, Step

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
        staggered: whether one `Step` may have rows that are at different steps. Prompts that come in the places of
            finished rows begin later than those beside them. Unless an intervention says here that it goes by
            ``step.steps`` it is called once for the rows at each step, with a ``step.t`` that holds for all of them.

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
    staggered: bool = False

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

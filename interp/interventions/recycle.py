"""Running a position again: representation recycling and entropy-gated latent recursion are one mechanism.

Block ``extract``'s output becomes block ``inject``'s input at one position, and the blocks from ``inject`` on run
again.

- Representation recycling (RR; Qian et al. 2025, arXiv 2506.02867): ``extract = inject = layer``, where the next
  token (or the one just read) is a thinking token.
- Latent recursion (arXiv 2606.16620): ``extract`` the last block, ``inject = n_layers - top_layers``, where the
  next-token entropy is high, until the next-token distribution stops moving.

Cache rule, whatever the gate: keys and values of the position in blocks >= ``inject`` are those of the last pass,
blocks below keep theirs, one entry a position. What the texts leave open is decided in the docstrings below.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np
from torch import Tensor

from interp.arguments import Judged, Number, Whole, as_number, as_whole
from interp.devices import on_device
from interp.engines.base import ModelFacts
from interp.errors import InputError
from interp.interventions.suppress import SuppressTokens, TokenIds, flat_ids
from interp.protocol import Intervention, Request, Step
from interp.rows import Row
from interp.sampling import entropy, log_probabilities
from interp.sites import Site

__all__ = [
    "Gate",
    "Recompute",
    "RecurseLatents",
    "RecycleRepresentation",
    "any_token",
    "at_random",
    "input_token",
    "staggered",
    "uncertain",
]

Gate = Callable[[Step], Sequence[bool]]
"""Tells, for each live row, whether its current position is to run again.

One with an attribute ``staggered`` that is true is asked once of rows at different steps (``step.steps``), any other
once for the rows at each step (``step.t``).
"""


def staggered(gate: Gate) -> Gate:
    """The gate, marked as one that goes by ``step.steps`` or by no step at all: it is asked once for all rows.

    >>> staggered(lambda step: [t == 3 for t in step.steps]).staggered
    True
    """
    setattr(gate, "staggered", True)  # noqa: B010 (functions have whatever attributes they are given)
    return gate


def any_token(token_ids: TokenIds) -> Gate:
    """Open where the next token would greedily be one of these."""
    ids = frozenset(flat_ids(token_ids))

    def gate(step: Step) -> Sequence[bool]:
        return [token in ids for token in step.logits.argmax(-1).tolist()] if ids else [False] * len(step.rows)

    return staggered(gate)


def input_token(token_ids: TokenIds) -> Gate:
    """Open where the token just read is one of these."""
    ids = frozenset(flat_ids(token_ids))
    return staggered(lambda step: [(row.token_ids or row.prompt_ids)[-1] in ids for row in step.rows])


def uncertain(threshold: Number) -> Gate:
    """Open where the entropy of the next token exceeds ``threshold`` nats."""
    nats = as_number(threshold, "uncertain", "a threshold", finite=False, expected="in nats, a number")
    return staggered(lambda step: (entropy(log_probabilities(step.logits)) > nats).tolist())


def at_random(rate: Number, salt: str = "at random") -> Gate:
    """Open at this share of all positions: the control. A row's positions depend on its own seed."""
    rate = as_number(rate, "at_random", "a rate", 0, 1)
    return staggered(lambda step: [coin < rate for coin in _coins(step, salt)])


@dataclass(eq=False)
class Recompute(Intervention):
    """The general form: where ``gate`` opens, run the position again, ``repeats`` times at most.

    Args:
        extract: block whose output is taken (negative from the end).
        inject: block whose input it becomes.
        gate: any callable from a step to one truth value a row.
        repeats: each feeds the new output back again.
        tolerance: stop repeating a row once the total variation distance between the next-token distributions of two
            passes falls below it; ``None`` never stops early.
        token_ids: those the gate looks for, if any, to be checked against the vocabulary.
        also_reads: sites that the gate looks at beside the output of block ``extract``.
        label: its name in events and stored settings.

    The gate is asked once a step, before the first repetition. ``gate`` sees the logits as edited by the interventions
    listed before this one. A response in which it never opened has an event at its end that says so, and why where
    that is known: the tokens it looks for may be banned.
    """

    extract: Judged[int]
    inject: Judged[int]
    gate: Judged[Gate] = field(repr=False)
    repeats: Judged[int] = 1
    tolerance: Judged[float | None] = None
    token_ids: Judged[tuple[int, ...]] = ()
    label: str = field(default="Recompute", repr=False)
    also_reads: tuple[Site, ...] = field(default=(), repr=False)
    _is_starved: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self.extract = as_whole(self.extract, self.label, "a layer")
        self.inject = as_whole(self.inject, self.label, "a layer")
        self.repeats = as_whole(self.repeats, self.label, "repeats")
        self.token_ids = flat_ids(self.token_ids)
        if self.tolerance is not None:
            self.tolerance = as_number(self.tolerance, self.label, "a tolerance", finite=False)
        if not callable(self.gate):
            raise InputError(
                self.label,
                expected="a gate: a function from a step to one truth value a row",
                received=repr(self.gate)[:80],
                remedy="any_token, input_token, uncertain and at_random make some.",
            )
        if self.repeats < 1 or (self.tolerance is not None and not self.tolerance >= 0):
            raise InputError(
                self.label,
                expected="repeats >= 1, and a tolerance of 0 or more or none",
                received=f"repeats={self.repeats}, tolerance={self.tolerance}",
                remedy="Change it.",
            )

    @property
    def staggered(self) -> bool:  # type: ignore[override]  # an attribute of others
        """As its gate is."""
        return bool(getattr(self.gate, "staggered", False))

    def prepare(self, facts: ModelFacts) -> Intervention:
        extract, inject = (n + facts.n_layers if n < 0 else n for n in (self.extract, self.inject))
        Site("resid_post", extract).check(facts.n_layers, self.label)
        Site("resid_pre", inject).check(facts.n_layers, self.label)
        facts.check_token_ids(self.token_ids, self.label)
        resolved = copy(self)
        resolved.extract, resolved.inject = extract, inject
        resolved.reads, resolved.injects = (Site("resid_post", extract), *self.also_reads), (inject,)
        return resolved

    def fit(self, request: Request) -> Intervention:
        before = takewhile(lambda one: one is not self, request.interventions)
        banned = {i for one in before if isinstance(one, SuppressTokens) for i in flat_ids(one.token_ids)}
        self._is_starved = bool(self.token_ids) and set(self.token_ids) <= banned
        return self

    def finish(self, row: Row) -> None:
        banned = "the tokens that trigger it are banned by SuppressTokens, which acts before it"
        row.mark_idle(self, banned if self._is_starved else "its gate never opened")

    def before_choice(self, step: Step) -> None:
        which = [i for i, is_open in enumerate(self._opened(step)) if is_open]
        for i in which:
            step.rows[i].mark(self, f"block {self.extract} into block {self.inject}")
        for _ in range(self.repeats):
            if not which:
                return
            index = on_device(which, step.logits.device)
            before = step.logits[index]
            step.rerun(which, self.inject, step.residual(self.reads[0])[index])
            if self.tolerance is not None:
                after = log_probabilities(step.logits[index]).exp()
                moved = (after - log_probabilities(before).exp()).abs().sum(-1) / 2
                which = [i for i, distance in zip(which, moved.tolist(), strict=True) if distance >= self.tolerance]

    def _opened(self, step: Step) -> list[bool]:
        """What the gate says of each row."""
        said: Any = self.gate(step)
        said = said.tolist() if isinstance(said, Tensor | np.ndarray) else said
        if not isinstance(said, list | tuple) or len(said) != len(step.rows) or any(isinstance(x, list) for x in said):
            raise InputError(
                self.label,
                expected=f"a gate that gives one truth value for each of {len(step.rows)} rows",
                received=repr(said)[:80],
                remedy="It is asked once a step, for all rows in step.rows.",
            )
        return [bool(is_open) for is_open in said]


def RecycleRepresentation(
    layer: Whole, token_ids: TokenIds, probability: Number = 1.0, repeats: Whole = 1, trigger: Judged[str] = "predicted"
) -> Recompute:
    """Representation recycling: at thinking tokens, block ``layer``'s output becomes its own input.

    >>> RecycleRepresentation(2, [27], probability=0.5).describe()["inject"]
    2

    Args:
        probability: of recycling at a thinking token (scripts: 0.5, paper: 1); the coin is the row's own.
        repeats: each feeds the new output back again.
        trigger: "predicted", the argmax before recycling is a thinking token (the emitted token may then be another);
            or "input", the token just read is one.
    """
    if trigger not in ("predicted", "input"):
        raise InputError(
            "RecycleRepresentation", expected="trigger predicted or input", received=repr(trigger), remedy="Choose one."
        )
    probability = as_number(probability, "RecycleRepresentation", "a probability", 0, 1)
    layer = as_whole(layer, "RecycleRepresentation", "a layer")
    repeats = as_whole(repeats, "RecycleRepresentation", "repeats")
    ids = flat_ids(token_ids)
    token = any_token(ids) if trigger == "predicted" else input_token(ids)
    salt = f"recycle {layer} {trigger} {probability} {repeats}"  # two of them in one run have coins of their own

    def gate(step: Step) -> Sequence[bool]:
        coins = [coin < probability for coin in _coins(step, salt)]
        return [heads and is_open for heads, is_open in zip(coins, token(step), strict=True)] if any(coins) else coins

    return Recompute(layer, layer, staggered(gate), repeats, token_ids=ids, label="RecycleRepresentation")


def RecurseLatents(
    top_layers: Whole, max_iterations: Whole = 4, entropy_threshold: Number = 1.0, tolerance: Number | None = 1e-3
) -> Recompute:
    """Entropy-gated latent recursion: where the next token is uncertain, the top blocks run again on their own output.

    >>> RecurseLatents(top_layers=2).describe()["inject"]
    -2

    Args:
        top_layers: how many blocks run again.
        max_iterations: at most so many times.
        entropy_threshold: nats.
        tolerance: total variation distance between two next-token distributions below which it has converged.
    """
    top_layers = as_whole(top_layers, "RecurseLatents", "top_layers")
    if top_layers < 1:
        raise InputError("RecurseLatents", expected="top_layers >= 1", received=str(top_layers), remedy="Change it.")
    repeats = as_whole(max_iterations, "RecurseLatents", "max_iterations")
    if tolerance is not None:
        tolerance = as_number(tolerance, "RecurseLatents", "tolerance", finite=False)
    gate = uncertain(entropy_threshold)
    return Recompute(-1, -top_layers, gate, repeats, tolerance, label="RecurseLatents")


def _coins(step: Step, salt: str) -> list[float]:
    """For each row a number from 0 to 1 that depends on its seed and its step."""
    return [random.Random(f"{row.seed}:{t}:{salt}").random() for row, t in zip(step.rows, step.steps, strict=True)]

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field

import torch

from interp.engine import ModelFacts
from interp.errors import InputError
from interp.interventions.suppress import flat_ids
from interp.protocol import Intervention, Row, Step
from interp.sampling import entropy
from interp.sites import Site

__all__ = [
    "Gate",
    "Recompute",
    "RecurseLatents",
    "RecycleRepresentation",
    "any_token",
    "at_random",
    "input_token",
    "uncertain",
]

Gate = Callable[[Step], Sequence[bool]]
"""Tells, for each live row, whether its current position is to run again."""

TokenIds = Mapping[str, Sequence[int]] | Iterable[int]


def any_token(token_ids: TokenIds) -> Gate:
    """Open where the next token would greedily be one of these."""
    ids = flat_ids(token_ids)

    def gate(step: Step) -> Sequence[bool]:
        if not ids:
            return [False] * len(step.rows)
        wanted = torch.tensor(ids, device=step.logits.device)
        return torch.isin(step.logits.argmax(-1), wanted).tolist()

    return gate


def input_token(token_ids: TokenIds) -> Gate:
    """Open where the token just read is one of these."""
    ids = frozenset(flat_ids(token_ids))
    return lambda step: [(row.token_ids or row.prompt_ids)[-1] in ids for row in step.rows]


def uncertain(threshold: float) -> Gate:
    """Open where the entropy of the next token exceeds ``threshold`` nats."""
    return lambda step: (entropy(step.logits.log_softmax(-1)) > threshold).tolist()


def at_random(rate: float, salt: str = "at random") -> Gate:
    """Open at this share of all positions: the control. A row's positions depend on its own seed."""
    if not 0 <= rate <= 1:
        raise InputError("at_random", expected="a rate from 0 to 1", received=str(rate), remedy="Change it.")
    return lambda step: [_coin(row, step.t, salt) < rate for row in step.rows]


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
    listed before this one.
    """

    extract: int
    inject: int
    gate: Gate = field(repr=False)
    repeats: int = 1
    tolerance: float | None = None
    token_ids: tuple[int, ...] = ()
    label: str = field(default="Recompute", repr=False)
    also_reads: tuple[Site, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.repeats < 1 or (self.tolerance is not None and not self.tolerance >= 0):
            raise InputError(
                self.label,
                expected="repeats >= 1, and a tolerance of 0 or more or none",
                received=f"repeats={self.repeats}, tolerance={self.tolerance}",
                remedy="Change it.",
            )

    def prepare(self, facts: ModelFacts) -> Intervention:
        extract, inject = (n + facts.n_layers if n < 0 else n for n in (self.extract, self.inject))
        Site("resid_post", extract).check(facts.n_layers, self.label)
        Site("resid_pre", inject).check(facts.n_layers, self.label)
        facts.check_token_ids(self.token_ids, self.label)
        resolved = copy(self)
        resolved.extract, resolved.inject = extract, inject
        resolved.reads, resolved.injects = (Site("resid_post", extract), *self.also_reads), (inject,)
        return resolved

    def before_choice(self, step: Step) -> None:
        which = [i for i, is_open in enumerate(self.gate(step)) if is_open]
        for i in which:
            step.rows[i].mark(self, f"block {self.extract} into block {self.inject}")
        for _ in range(self.repeats):
            if not which:
                return
            before = step.logits[which]
            step.rerun(which, self.inject, step.residual(self.reads[0])[which])
            if self.tolerance is not None:
                moved = (step.logits[which].softmax(-1) - before.softmax(-1)).abs().sum(-1) / 2
                which = [i for i, distance in zip(which, moved.tolist(), strict=True) if distance >= self.tolerance]


def RecycleRepresentation(
    layer: int, token_ids: TokenIds, probability: float = 1.0, repeats: int = 1, trigger: str = "predicted"
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
    if not 0 <= probability <= 1:
        raise InputError(
            "RecycleRepresentation",
            expected="a probability from 0 to 1",
            received=str(probability),
            remedy="Change it.",
        )
    ids = flat_ids(token_ids)
    token = any_token(ids) if trigger == "predicted" else input_token(ids)
    salt = f"recycle {layer} {trigger} {probability} {repeats}"  # two of them in one run have coins of their own

    def gate(step: Step) -> Sequence[bool]:
        coins = [_coin(row, step.t, salt) < probability for row in step.rows]
        return [heads and is_open for heads, is_open in zip(coins, token(step), strict=True)] if any(coins) else coins

    return Recompute(layer, layer, gate, repeats, token_ids=ids, label="RecycleRepresentation")


def RecurseLatents(
    top_layers: int, max_iterations: int = 4, entropy_threshold: float = 1.0, tolerance: float = 1e-3
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
    if top_layers < 1:
        raise InputError("RecurseLatents", expected="top_layers >= 1", received=str(top_layers), remedy="Change it.")
    gate = uncertain(entropy_threshold)
    return Recompute(-1, -top_layers, gate, max_iterations, tolerance, label="RecurseLatents")


def _coin(row: Row, t: int, salt: str) -> float:
    return random.Random(f"{row.seed}:{t}:{salt}").random()

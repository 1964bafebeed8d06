"""What a node is set to where there is no second run: nothing, or its mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.arguments import Judged, Wholes, as_wholes
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.patching.asked import Asked
from interp.patching.runs import Run
from interp.patching.texts import as_texts
from interp.rollout import Rollout
from interp.sampling import widened
from interp.types import Bridge

__all__ = ["MeanWrites", "Reference", "ZeroWrites", "mean_writes", "reference_values", "zero_writes"]


@dataclass(frozen=True)
class ZeroWrites:
    """Every node is set to 0; :func:`zero_writes` makes it."""

    name: str = "zero"


@dataclass(frozen=True, eq=False)
class MeanWrites:
    """Every node is set to its mean over some steps of some rollouts; :func:`mean_writes` makes it."""

    rollouts: tuple[Rollout, ...]
    steps: tuple[int, ...] | None
    name: str


Reference = ZeroWrites | MeanWrites


def zero_writes() -> ZeroWrites:
    """In place of a corrupted run: every node is set to 0 (zero ablation).

    >>> zero_writes().name
    'zero'
    """
    return ZeroWrites()


def mean_writes(rollouts: Judged[Rollout | Sequence[Rollout]], steps: Judged[Wholes | None] = None) -> MeanWrites:
    """In place of a corrupted run: every node is set to its mean over steps of rollouts (mean ablation).

    >>> from interp import decode, load_model
    >>> careful = decode(load_model("toy-reasoner"), "6 A * 3 B - 8 ? ->", max_new_tokens=8)[0]
    >>> mean_writes(careful, steps=[2, 3]).name
    'mean over 2 steps of 1 rollout'

    Args:
        rollouts: one or several, of the model that is patched.
        steps: which of their steps, in each of them; all unless given. Negative ones from the ends.

    Raises:
        InputError: no rollout, a step outside one of them.
    """
    several = [rollouts] if isinstance(rollouts, Rollout) else list(rollouts) if isinstance(rollouts, Iterable) else []
    if not several or not all(isinstance(rollout, Rollout) and len(rollout) for rollout in several):
        raise InputError(
            "mean_writes",
            expected="rollouts of at least one step",
            received=repr(rollouts)[:80],
            remedy="Pass what decode or read returned.",
        )
    wanted = None if steps is None else tuple(as_wholes(steps, "mean_writes", "steps"))
    shortest = min(map(len, several))
    if wanted is not None and (not wanted or not all(-shortest <= step < shortest for step in wanted)):
        raise InputError(
            "mean_writes",
            expected=f"steps from 0 to {shortest - 1} (or -{shortest} to -1), the shortest rollout's",
            received=str(list(wanted))[:80],
            remedy="Change steps.",
        )
    count = sum(map(len, several)) if wanted is None else len(wanted) * len(several)
    name = f"mean over {count} step{'s' * (count > 1)} of {len(several)} rollout{'s' * (len(several) > 1)}"
    return MeanWrites(tuple(several), wanted, name)


def reference_values(
    reference: Reference, model: Bridge, like: dict[str, Tensor], asked: Asked, operation: str
) -> dict[str, Tensor]:
    """What is put at each hook point, in the shape of ``like`` ``[position, ...]``: the same at every position."""
    if isinstance(reference, ZeroWrites):
        return {name: torch.zeros_like(value) for name, value in like.items()}
    sums: dict[str, Any] = {}
    count = 0
    for rollout in reference.rollouts:
        text = as_texts(rollout, model_facts(model), operation, "rollouts")[0][0]
        steps = range(text.steps) if reference.steps is None else reference.steps
        positions = [text.first + step % text.steps for step in steps]
        ids = text.ids[:-1]
        _, found = Run(model, ids, len(ids) - 1, asked, operation, batch_size=1).values(like, positions)
        for name, value in found.items():
            sums[name] = sums.get(name, 0) + widened(value).sum(0)
        count += len(positions)
    return {name: (sums[name] / count).to(value).expand_as(value) for name, value in like.items()}

"""What a step is compared with where its score is shared out: the mean of other steps, or one like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool

from analyses.thinking import thinking_words
from analyses.token_kinds import token_kinds
from interp.arguments import as_wholes
from interp.errors import InputError
from interp.types import Bridge

__all__ = ["NON_PEAKS", "Reference", "choose_references", "chosen_steps", "input_kinds"]

NON_PEAKS, MATCHED = "non-peaks", "matched"
_OPERATION = "mi_attribution"


@dataclass(frozen=True)
class Reference:
    """The steps whose mean stream, and mean writes, a step is compared with; `told` says which they are."""

    steps: tuple[int, ...]
    told: str


def chosen_steps(steps: Any, is_peak: Bool[torch.Tensor, " step"]) -> list[int]:
    """The steps asked about: numbers, or "peaks"."""
    if not (isinstance(steps, str) and steps == "peaks"):
        return _resolved(steps, len(is_peak), "steps")
    found: list[int] = is_peak.nonzero()[:, 0].tolist()
    if not found:
        raise InputError(
            _OPERATION,
            expected="a response with peaks at this layer",
            received=f"none among {len(is_peak)} steps",
            remedy="Name the steps to be attributed, or lower tau.",
        )
    return found


def _resolved(steps: Any, count: int, name: str) -> list[int]:
    """Steps of a response, negative ones from its end, each once and in order."""
    wanted = as_wholes(steps, _OPERATION, name)
    if not wanted or any(not -count <= step < count for step in wanted):
        raise InputError(
            _OPERATION,
            expected=f"{name} from 0 to {count - 1} (or -{count} to -1)",
            received=str([step for step in wanted if not -count <= step < count][:5]),
            remedy=f"The response has {count} tokens; step t predicts token t.",
        )
    return sorted({step % count for step in wanted})


def choose_references(
    reference: Any, steps: Sequence[int], is_peak: Bool[torch.Tensor, " step"], kinds: Sequence[str]
) -> list[Reference]:
    """The reference of each of `steps`, for `reference` as `mi_attribution` takes it.

    >>> peaks = torch.tensor([False, True, False, False, True])
    >>> [found.steps for found in choose_references("non-peaks", [1, 4], peaks, ["word"] * 5)]
    [(0, 2, 3), (0, 2, 3)]
    >>> kinds = ["word", "digit", "word", "digit", "word"]
    >>> [found.steps for found in choose_references("matched", [1, 4], peaks, kinds)]
    [(3,), (2,)]
    """
    count = len(is_peak)
    if not isinstance(reference, str):
        chosen = _resolved(reference, count, "reference steps")
        if set(chosen) & set(steps):
            _refuse("reference steps other than those asked about", f"steps {sorted(set(chosen) & set(steps))[:5]}")
        told = f"step {chosen[0]}" if len(chosen) == 1 else f"the mean of {len(chosen)} given steps"
        return [Reference(tuple(chosen), told)] * len(steps)
    if reference not in (NON_PEAKS, MATCHED):
        _refuse(f'reference as "{NON_PEAKS}", "{MATCHED}" or steps', repr(reference))
    ordinary = [step for step in range(count) if not is_peak[step] and step not in steps]
    if not ordinary:
        _refuse("a step that is no peak and not asked about", f"none among {count}")
    if reference == NON_PEAKS:
        return [Reference(tuple(ordinary), f"the mean of the {len(ordinary)} other steps that are no peaks")] * len(
            steps
        )
    found = []
    for step in steps:
        alike = [other for other in ordinary if kinds[other] == kinds[step]]
        if not alike:
            _refuse(f"another step that is no peak and has read a token of step {step}'s kind", kinds[step])
        # The nearest in place; of two as near the one before.
        nearest = min(alike, key=lambda other: (abs(other - step), other))
        found.append(Reference((nearest,), f"the nearest step that is no peak and has read a {kinds[step]} too"))
    return found


def input_kinds(model: Bridge, tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The kind of the token that each step has read; thinking words are a kind of their own."""
    try:
        thinking = {token for spelled in thinking_words(model).values() for token in spelled}
    except InputError:  # a model that has none of them as single tokens
        thinking = set()
    kinds = token_kinds(tokenizer, ids)
    return ["thinking word" if token in thinking else kind for token, kind in zip(ids, kinds, strict=True)]


def _refuse(expected: str, received: str) -> None:
    raise InputError(
        _OPERATION, expected=expected, received=received, remedy=f'Name the steps to compare with, or "{NON_PEAKS}".'
    )

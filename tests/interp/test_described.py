"""What interventions say of themselves in the settings of a response: what acts differently is told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import families as F
import numpy as np
import pytest
import torch
from references import SITES

from interp import ResidualSites, Rollout, decode
from interp.interventions import (
    MeanAblate,
    PatchResidual,
    Recompute,
    RecurseLatents,
    RecycleRepresentation,
    SteerResidual,
    any_token,
    at_random,
    input_token,
    uncertain,
)
from interp.protocol import Intervention, Step

IDS = [5, 7, 9]
VECTOR = torch.linspace(-1, 1, 44)


def model() -> Any:
    return F.bridge("llama")


def steered(by: float) -> Callable[[Any, Any], Any]:
    return lambda here, new: here + by


LEVEL = 1.0


def different(source: Rollout, other: Rollout) -> list[list[Any]]:
    class Own(Intervention):
        def __init__(self, held: Any) -> None:
            self.held = held

    return [
        [SteerResidual(VECTOR, 1), SteerResidual(-VECTOR, 1), SteerResidual(VECTOR.double(), 1),
         SteerResidual(VECTOR, 1, rows=[0]), SteerResidual(VECTOR, 1, scale=2.0)],
        [MeanAblate(VECTOR, 1), MeanAblate(VECTOR + 1e-6, 1), MeanAblate(VECTOR, 1, site="resid_mid")],
        [PatchResidual(source, 1, [0]), PatchResidual(other, 1, [0]), PatchResidual(source, 2, [0]),
         PatchResidual(source, 1, {0: 1}), PatchResidual(source, 1, [0], exchange=steered(1.0)),
         PatchResidual(source, 1, [0], exchange=steered(2.0)),
         PatchResidual(source, 1, [0], exchange=lambda here, new: new)],
        [Recompute(1, 1, any_token([5])), Recompute(1, 1, any_token([6])), Recompute(1, 1, input_token([5])),
         Recompute(1, 1, uncertain(1.0)), Recompute(1, 1, uncertain(2.0)), Recompute(1, 1, at_random(0.5)),
         Recompute(1, 1, at_random(0.5, "other")), Recompute(1, 1, lambda step: [True] * len(step.rows)),
         Recompute(1, 1, lambda step: [False] * len(step.rows))],
        [RecycleRepresentation(1, [5]), RecycleRepresentation(1, [6]), RecycleRepresentation(1, [5], 0.5),
         RecycleRepresentation(1, [5], trigger="input")],
        [RecurseLatents(1), RecurseLatents(1, entropy_threshold=0.5), RecurseLatents(1, tolerance=0.5)],
        [Own(np.zeros(3)), Own(np.ones(3)), Own([1, 2]), Own({"a": 1}), Own(source), Own(other), Own({1: VECTOR}),
         Own({1: -VECTOR}), Own(list(range(500))), Own([*range(499), 7]), Own([0.5] * 500), Own([0.5] * 499 + [1.0]),
         Own(np.random.default_rng(0).random), Own(float("nan"))],
    ]  # fmt: skip


def test_no_two_different_interventions_are_described_alike(source: Rollout) -> None:
    import json

    other = decode(model(), [[5, 6, 9]], max_new_tokens=6, record=ResidualSites(sites=SITES))[0]
    for kind, again in zip(different(source, other), different(source, other), strict=True):
        told_of = [json.dumps(one.describe(), sort_keys=True, allow_nan=False) for one in kind]
        assert len(set(told_of)) == len(told_of)
        assert told_of == [json.dumps(one.describe(), sort_keys=True) for one in again]
        assert not any(" at 0x" in text for text in told_of)


def test_a_function_is_told_by_what_it_does_and_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    def gate(step: Step) -> list[bool]:
        return [LEVEL > 0.5] * len(step.rows)

    before = Recompute(1, 1, gate).describe()
    assert Recompute(1, 1, gate).describe() == before
    monkeypatch.setitem(globals(), "LEVEL", 0.25)
    assert Recompute(1, 1, gate).describe() != before


def test_two_classes_of_one_name_are_told_apart_in_the_settings() -> None:
    def make(bonus: float) -> Intervention:
        if bonus:

            class Favour(Intervention):
                def before_choice(self, step: Step) -> None:
                    step.edit_logits(lambda logits, which: logits + 1.0)
        else:

            class Favour(Intervention):  # type: ignore[no-redef]
                def before_choice(self, step: Step) -> None:
                    step.edit_logits(lambda logits, which: logits - 1.0)

        return Favour()

    settings = [decode(model(), [IDS], max_new_tokens=1, interventions=make(b))[0].settings for b in (1.0, 0.0, 1.0)]
    codes = [tuple(s["intervention_code"]) for s in settings]
    assert codes[0] == codes[2] != codes[1]

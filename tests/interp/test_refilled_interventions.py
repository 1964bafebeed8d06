"""Interventions on rows that came in the places of others: what they do to a row is what they do to it alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import families as F
import pytest
import torch
from refilling import Ends, EveryThird, Look, alone, assert_same, greedy, refilled, vector

from interp import Intervention, ResidualSites, Rollout, Row, decode
from interp.interventions import (
    BudgetForcing,
    ContinueThinking,
    HeadAblate,
    MaskAttention,
    MeanAblate,
    PatchHead,
    PatchResidual,
    Recompute,
    RecurseLatents,
    RecycleRepresentation,
    SteerResidual,
    SuppressTokens,
)
from interp.interventions.recycle import at_random


def _source(site: str = "resid_post") -> Rollout:
    model = F.bridge("llama", torch.float64)
    return decode(model, [[5, 6, 7, 8]], max_new_tokens=6, record=ResidualSites(sites=(site,)))[0]


def _common() -> list[int]:
    counts = torch.bincount(torch.tensor([token for tokens in greedy("llama")[0] for token in tokens]))
    return counts.argsort(descending=True, stable=True)[:5].tolist()


class Begin(Intervention):
    def begin(self, row: Row) -> None:
        row.force([50, row.prompt_ids[0]], self)


INTERVENTIONS: dict[str, Callable[[], list[Intervention]]] = {
    "suppress": lambda: [SuppressTokens(_common()[:3])],
    "recycle": lambda: [RecycleRepresentation(1, _common(), probability=0.5)],
    "recycle what was read": lambda: [RecycleRepresentation(1, _common(), trigger="input", repeats=2)],
    "recycle at random": lambda: [Recompute(1, 1, at_random(0.4))],
    "a gate by the step": lambda: [Recompute(2, 0, lambda step: [step.t % 3 == 1] * len(step.rows))],
    "recurse": lambda: [RecurseLatents(2, entropy_threshold=1.0)],
    "suppress, then recycle": lambda: [SuppressTokens(_common()[:2]), RecycleRepresentation(1, _common())],
    "by the step, then suppress": lambda: [EveryThird(), SuppressTokens(_common()[:2])],
    "suppress, then by the step": lambda: [SuppressTokens(_common()[:2]), EveryThird()],
    "continue": lambda: [ContinueThinking([40, 41], budget=6, final_prompt=[42, 43], final_tokens=2)],
    "continue from the start": lambda: [ContinueThinking([40], budget=6, at="start", final_prompt=[42])],
    "budget": lambda: [BudgetForcing(_common()[1], ignore=1, append=[44, 45], max_thinking=5)],
    "patch": lambda: [PatchResidual(_source(), 1, [2, 3])],
    "steer": lambda: [SteerResidual(vector(), 1, [1, 4]), SteerResidual(vector(), 0, mode="project_out")],
    "mean": lambda: [MeanAblate(vector(), 1, [0, 3, 5])],
    "without heads": lambda: [HeadAblate([(1, 0), (0, 2)], "resample", _source("z"), positions=[2, 3, 4], seed=4)],
    "patch a head": lambda: [PatchHead(_source("z"), (1, 1), [1, 3])],
    "mask": lambda: [MaskAttention((1, 4)), MaskAttention((0, 1), of="prompt")],
    "forced at the beginning": lambda: [Begin()],
}


@cache
def untouched() -> list[Rollout]:
    return alone("llama", Ends())


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_interventions_act_on_each_row_at_its_own_step(name: str) -> None:
    made, look, record = [*INTERVENTIONS[name](), Ends()], Look(), ResidualSites()
    expected = alone("llama", *made, record=record)
    assert_same(refilled("llama", *made, look=look, record=record), expected)
    assert look.is_staggered
    assert any(not torch.equal(one.logprobs, two.logprobs) for one, two in zip(expected, untouched(), strict=True))

"""All ready-made interventions: what never acts changes nothing, the same seed gives the same, refusals come first."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import families as F
import pytest
import torch
from references import MODELS, SITES, assert_refused

from interp import InputError, Intervention, ResidualSites, Rollout, decode, interventions
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
    at_random,
    uncertain,
)

IDLE = {
    "probability 0": RecycleRepresentation(1, [5, 6], probability=0.0),
    "empty set": RecycleRepresentation(1, []),
    "empty set, input": RecycleRepresentation(1, [], trigger="input"),
    "gate never opens": RecurseLatents(2, entropy_threshold=1e9),
    "rate 0": Recompute(2, 0, at_random(0.0)),
    "nothing suppressed": SuppressTokens([]),
}


@pytest.mark.parametrize(("name", "which"), [*((name, "all") for name in MODELS), *(("qwen3", one) for one in IDLE)])
def test_what_never_acts_changes_nothing(name: str, which: str) -> None:
    idle = list(IDLE.values()) if which == "all" else [IDLE[which]]
    model, options = F.pair(name)[1], {"max_new_tokens": 6, "record": ResidualSites(sites=SITES)}
    plain = decode(model, F.texts(name, 3), **options)
    with_idle = decode(model, F.texts(name, 3), interventions=idle, **options)
    for a, b in zip(plain, with_idle, strict=True):
        assert [e for e in b.events if e.is_act] == []
        assert {e.step for e in b.events} <= {len(b)}
        b.events.clear()
        assert_identical(a, b)


def assert_identical(a: Rollout, b: Rollout) -> None:
    """Not close: the same numbers."""
    assert a.token_ids.tolist() == b.token_ids.tolist()
    assert torch.equal(a.logprobs, b.logprobs)
    assert torch.equal(a.entropy, b.entropy)
    assert a.residuals.keys() == b.residuals.keys()
    assert all(torch.equal(a.residuals[site], b.residuals[site]) for site in a.residuals)
    assert (a.events, a.finish_reason) == (b.events, b.finish_reason)


BANNED = [5, 6, 7, 8, 9]
DIRECTION = torch.randn(44, generator=torch.Generator().manual_seed(4))
TOKENS = range(3, 60)

# One of everything, each acting on the tiny Llama's responses; made anew at each use, some of them from a source
READY: dict[str, Callable[[Rollout], Intervention]] = {
    "recycle": lambda _: RecycleRepresentation(1, TOKENS, probability=0.5),
    "recycle thrice": lambda _: RecycleRepresentation(-1, TOKENS, repeats=3, trigger="input"),
    "recurse": lambda _: RecurseLatents(2, entropy_threshold=0.5),
    "at random": lambda _: Recompute(2, 1, at_random(0.4)),
    "uncertain": lambda _: Recompute(1, 0, uncertain(1.0), repeats=2),
    "suppress": lambda _: SuppressTokens(BANNED),
    "think on": lambda _: ContinueThinking([40], budget=6, final_prompt=[20], final_tokens=2),
    "think first": lambda _: ContinueThinking([40], budget=6, at="start", final_prompt=[20], final_tokens=2),
    "budget": lambda _: BudgetForcing(11, ignore=1, append=[40], max_thinking=6),
    "patch": lambda source: PatchResidual(source, 1, {1: 2, 4: 0}),
    "steer": lambda _: SteerResidual(DIRECTION, 1, "response", scale=3.0),
    "ablate": lambda _: MeanAblate(DIRECTION, 0, [1, 2]),
    "without heads": lambda source: HeadAblate([(0, 1), (2, 3)], "resample", source),
    "patch a head": lambda source: PatchHead(source, (1, 0), {1: 2, 4: 0}),
    "mask": lambda _: MaskAttention((0, 2), of="prompt"),
}


@pytest.fixture(scope="module")
def source() -> Rollout:
    model = F.bridge("llama", torch.float64)
    return decode(model, [F.prompts(7)[5]], max_new_tokens=4, record=ResidualSites(sites=(*SITES, "z")))[0]


def test_nothing_ready_made_is_left_out(source: Rollout) -> None:
    public = {name for name in interventions.__all__ if name[0].isupper()} - {"Metric"}  # the type of a measure
    assert {make(source).describe()["name"] for make in READY.values()} == public


def decoded(temperature: float, *some: Intervention) -> list[Rollout]:
    record = ResidualSites(sites=SITES)
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": temperature, "seed": 3, "record": record}
    return decode(F.bridge("llama", torch.float64), F.prompts(3), interventions=some, **options)


@cache
def untouched(temperature: float) -> list[Rollout]:
    return decoded(temperature)


# Draws are what seeds are for; greedily, what decides by the distribution, or forces tokens.
GREEDY = ("recycle thrice", "uncertain", "suppress", "think on", "budget", "patch a head")


@pytest.mark.parametrize(
    ("which", "temperature"), [*((which, 1.0) for which in READY), *((which, 0.0) for which in GREEDY)]
)
def test_the_same_seed_twice_gives_the_same_and_the_last_pass_is_kept(
    which: str, temperature: float, source: Rollout
) -> None:
    hf, _ = F.pair("llama", torch.float64)
    intervention = READY[which](source)
    first, second = (decoded(temperature, intervention) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert_identical(a, b)
        assert a.settings == b.settings == json.loads(json.dumps(a.settings))
    plain = untouched(temperature)
    assert any(not torch.equal(a.logprobs, b.logprobs) for a, b in zip(first, plain, strict=True)), "it does nothing"
    for rollout in first:
        # What was recorded is what the token was chosen from: unembedded, it gives the token's probability.
        with torch.no_grad():
            logits = hf.lm_head(rollout.residuals["ln_final"][0])
        if which == "suppress":
            logits = logits.index_fill(1, torch.tensor(BANNED), float("-inf"))
        expected = logits.log_softmax(-1).gather(1, rollout.token_ids[:, None])[:, 0]
        torch.testing.assert_close(rollout.logprobs.double(), expected, atol=1e-5, rtol=1e-5)
        assert all(values.shape[1] == len(rollout) for values in rollout.residuals.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecycleRepresentation(3, [5]), "expected a layer from 0 to 2, received layer 3"),
        (lambda: RecycleRepresentation(1, [5], probability=1.5), "expected a probability from 0 to 1"),
        (lambda: RecycleRepresentation(1, [5], repeats=0), "expected repeats >= 1"),
        (lambda: RecycleRepresentation(1, [5], trigger="both"), "expected trigger predicted or input"),
        (lambda: RecycleRepresentation(-4, [5]), "expected a layer from 0 to 2, received layer -1"),
        (lambda: Recompute(1, 5, uncertain(1.0)), "expected a layer from 0 to 2, received layer 5 for resid_pre"),
        (lambda: RecurseLatents(4), "expected a layer from 0 to 2"),
        (lambda: RecurseLatents(0), "expected top_layers >= 1, received 0"),
        (lambda: SuppressTokens([101]), r"SuppressTokens: expected token ids from 0 to 100 .*received \[101\]"),
        (lambda: SuppressTokens(range(101)), "expected at least one token left to emit, received all 101"),
        (lambda: ContinueThinking([5], budget=0), "expected a budget of at least 1 token, received 0"),
        (
            lambda: ContinueThinking([5], budget=9, final_prompt=""),
            "expected max_new_tokens of at least the budget, 9, received 4",
        ),
        (lambda: ContinueThinking([], budget=4), 'expected a token with at="end"'),
        (lambda: ContinueThinking("ducks", budget=4), "expected text made of words the tokenizer has"),
        (lambda: ContinueThinking([101], budget=4), r"token ids from 0 to 100 .*received \[101\]"),
        (lambda: ContinueThinking([5], budget=4, final_prompt=[5, -1]), r"token ids from 0 to 100 .*received \[-1\]"),
        (lambda: ContinueThinking([5], budget=4, at="middle"), 'expected at="end" or at="start", received \'middle\''),
        (lambda: ContinueThinking([5], budget=4, final_tokens=0), "expected final_tokens of at least 1, received 0"),
        (lambda: BudgetForcing(101), r"BudgetForcing: expected token ids from 0 to 100 .*received \[101\]"),
        (lambda: BudgetForcing(5, append=[300]), r"BudgetForcing: expected token ids .*received \[300\]"),
        (lambda: BudgetForcing(5, ignore=-1), "expected ignore >= 0"),
        (lambda: BudgetForcing("w5 w6"), "expected a delimiter that is one token"),
        (lambda: BudgetForcing(5, max_thinking=0), "a max_thinking of at least 1 token"),
        (lambda: SteerResidual(torch.ones(44), 3), "SteerResidual: expected a layer from 0 to 2, received layer 3"),
        (lambda: SteerResidual(torch.full((44,), torch.nan), 1), "a finite vector of 44 numbers .* with NaN or inf"),
        (lambda: SteerResidual(torch.ones(44), 1, mode="subtract"), "expected mode add or project_out"),
        (lambda: SteerResidual(torch.zeros(44), 1, mode="project_out"), "expected a direction that is not zero"),
        (lambda: MeanAblate(torch.ones(44), 1, [-1]), '"all", "response", or response steps from 0'),
        (lambda: MeanAblate(torch.ones(40), 1), r"MeanAblate: expected a finite vector of 44 .*received shape \(40,\)"),
        (lambda: MeanAblate(torch.ones(44), -4), "MeanAblate: expected a layer from 0 to 2, received layer -1"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_token(make: Any, message: str) -> None:
    assert_refused(F.bridge("llama"), make, message)


def test_subclasses_keep_what_they_override() -> None:
    class Louder(SteerResidual):
        def edit_residual(self, site: Any, residual: torch.Tensor, at: Any) -> torch.Tensor:
            return residual + 100.0

    model = F.bridge("llama")
    plain, loud = (
        decode(model, F.prompts(1), max_new_tokens=4, interventions=[kind(torch.ones(44), 1, scale=0.0)])[0]
        for kind in (SteerResidual, Louder)
    )
    assert not torch.equal(plain.logprobs, loud.logprobs)


def test_names_of_ones_own_do_not_get_in_the_way() -> None:
    class Mine(SteerResidual):
        name = "mine"

    row = decode(F.bridge("llama"), F.prompts(1), max_new_tokens=2, interventions=[Mine(torch.ones(44), 1)])[0]
    assert row.settings["interventions"][0]["name"] == "Mine"


def test_two_recyclers_have_coins_of_their_own() -> None:
    model = F.bridge("llama")
    both = [RecycleRepresentation(layer, range(3, F.VOCAB), probability=0.5) for layer in (0, 2)]
    rollout = decode(model, F.prompts(1), max_new_tokens=40, interventions=both)[0]
    steps = [{e.step for e in rollout.events if f"into block {layer}" in e.note} for layer in (0, 2)]
    assert steps[0] - steps[1]
    assert steps[1] - steps[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecycleRepresentation(1, [999, -5]), "token ids from 0 to 100"),
        (lambda: Recompute(1, 1, at_random(1.5)), "a rate from 0 to 1"),
        (lambda: Recompute(1, 1, at_random(0.5), tolerance=-1.0), "tolerance of 0 or more"),
    ],
)
def test_wrong_tokens_and_rates_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(F.bridge("llama"), F.prompts(1), max_new_tokens=2, interventions=[make()])

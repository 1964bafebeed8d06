"""Prompts that come in the places of finished rows: each response is the one that its prompt has alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families as F
import pytest
import torch
from references import SITES, check
from refilling import NEW, SEEDS, Ends, EveryThird, Look, Shift, alone, assert_same, greedy, refilled, vector
from torch import Tensor

from interp import InputError, Intervention, ResidualSites, ResidualStream, Step, decode
from interp.interventions import MaskAttention, SteerResidual


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_tokens_and_residuals_are_hugging_faces(family: str) -> None:
    free, stops = greedy(family)
    look = Look()
    rollouts = refilled(family, look=look, record=ResidualSites(sites=SITES))
    for rollout, tokens in zip(rollouts, free, strict=True):
        cut = min((tokens.index(s) + 1 for s in stops if s in tokens), default=len(tokens))
        assert rollout.token_ids.tolist() == tokens[:cut]
        check(F.hf_model(family, torch.float64), rollout)
    assert look.is_staggered
    assert set(look._columns) == {0}, "the cache is as long as the longest text in it"
    first = [max(beside, key=lambda row: len(F.prompts()[row])) for beside in look._beside[:1]]
    assert first == [2], "the longest prompt comes first"


@pytest.mark.parametrize("size", [1, 3])
def test_a_row_draws_by_its_own_seed_whoever_was_there_before(size: int) -> None:
    options = {"temperature": 1.0, "top_p": 0.9}
    assert_same(refilled("qwen2", batch_size=size, **options), alone("qwen2", **options))


def test_each_row_has_processors_of_its_own() -> None:
    hf, stops = F.hf_model("llama", torch.float64), greedy("llama")[1]
    for settings in (
        {"repetition_penalty": 1.4, "forced_bos_token_id": 9, "min_new_tokens": 4},
        {"encoder_repetition_penalty": 3.0, "no_repeat_ngram_size": 1},
    ):
        for rollout in refilled("llama", generation_config=settings):
            ids = rollout.prompt_ids[None]
            out = hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, **settings)
            theirs = out[0, ids.shape[1] :].tolist()
            cut = min((theirs.index(s) + 1 for s in stops if s in theirs), default=len(theirs))
            assert rollout.token_ids.tolist() == theirs[:cut]


@pytest.mark.parametrize("made", [EveryThird, Shift])
def test_what_goes_by_the_step_of_all_rows_is_shown_those_of_one_step(made: type[Intervention]) -> None:
    look, record = Look(), ResidualSites()
    expected = alone("llama", made(), Ends(), record=record)
    assert_same(refilled("llama", made(), Ends(), look=look, record=record), expected)
    assert look.is_staggered


def test_rows_that_are_named_are_places_in_the_list_of_prompts() -> None:
    made = [SteerResidual(3 * vector(), 1, [2, 4], rows=[1, 3]), MaskAttention({2: (0, 2), -1: (1, 3)})]
    model, stops = F.bridge("llama", torch.float64), greedy("llama")[1]
    beside = decode(model, F.prompts(), max_new_tokens=NEW, stop=stops, seed=SEEDS, interventions=made)
    assert_same(refilled("llama", *made), beside)


def test_streams_and_files_tell_what_is_kept(tmp_path: Path) -> None:
    seen: dict[int, list[Tensor]] = {}
    steps: dict[int, list[int]] = {}

    def on_step(step: Any) -> None:
        for i, row in enumerate(step.rows):
            steps.setdefault(row, []).append(step.step)
            seen.setdefault(row, []).append(step.residuals["resid_post"][:, i].clone().cpu())

    kept = refilled("llama", record=ResidualSites())
    refilled("llama", record=ResidualStream(on_step=on_step))
    filed = refilled("llama", record=ResidualSites(folder=tmp_path))
    for i, rollout in enumerate(kept):
        assert steps[i] == list(range(len(rollout)))
        assert torch.equal(torch.stack(seen[i], 1), rollout.residuals["resid_post"])
        assert torch.equal(filed[i].residuals["resid_post"], rollout.residuals["resid_post"])


def test_a_step_of_rows_at_different_steps_has_no_step_of_its_own() -> None:
    class Asks(Look):
        def after_choice(self, step: Step) -> None:
            assert step.t >= 0

    with pytest.raises(InputError, match=r"ask for the step: expected rows that are all at one step, received rows at"):
        refilled("llama", look=Asks())


def test_the_cache_holds_what_is_alive_and_no_more() -> None:
    """Many prompts at a few places: neither columns nor memory grow with how many there have been."""
    held: list[int] = []

    class Memory(Look):
        def before_choice(self, step: Step) -> None:
            super().before_choice(step)
            held.append(step._cache._keys[0].untyped_storage().nbytes())

    look, prompts = Memory(), [prompt for seed in range(8) for prompt in F.prompts(5, seed)]
    stops = list(range(3, F.VOCAB, 9))
    rollouts = decode(F.bridge("llama"), prompts, max_new_tokens=12, batch_size=4, stop=stops, interventions=look)
    assert len({len(rollout) for rollout in rollouts}) > 4
    assert set(look._columns) == {0}
    assert max(held) <= 2 * held[0]

"""A response read again against the decoding that made it, and against hooks on plain Hugging Face modules."""

from __future__ import annotations

from typing import Any

import families as F
import pytest
import torch
from references import MODELS, SITES, check

from interp import InputError, Intervention, ResidualSites, ResidualStream, Rollout, Step, StepResiduals, decode, read
from interp.interventions import MeanAblate, SuppressTokens

EVERY = ResidualSites(sites=SITES)


def assert_same(again: Rollout, made: Rollout) -> None:
    assert again.prompt_ids.tolist() == made.prompt_ids.tolist()
    assert again.token_ids.tolist() == made.token_ids.tolist()
    assert (again.tokens, again.text, again.layers) == (made.tokens, made.text, made.layers)
    assert (again.logprobs.dtype, again.entropy.dtype) == (made.logprobs.dtype, made.entropy.dtype)
    torch.testing.assert_close(again.logprobs, made.logprobs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again.entropy, made.entropy, rtol=1e-5, atol=1e-5)
    assert set(again.residuals) == set(made.residuals)
    for site, values in made.residuals.items():
        # Norms are worked out in float32, whatever the model's precision.
        error = (again.residuals[site] - values).norm(dim=-1) / values.norm(dim=-1)
        assert float(error.max()) < 1e-5, site


@pytest.mark.parametrize("name", MODELS)
def test_reading_equals_what_decode_recorded_and_hugging_face(name: str) -> None:
    hf, model = F.pair(name, torch.float64)
    texts = F.texts(name)
    stops = F.staggering_stops([r.token_ids.tolist() for r in decode(model, texts, max_new_tokens=8)])
    made = decode(model, texts, max_new_tokens=8, stop=stops, record=EVERY)
    assert len({len(rollout) for rollout in made}) > 2
    again = read(model, texts, [rollout.token_ids for rollout in made], record=EVERY, batch_size=3)
    for one, other in zip(again, made, strict=True):
        assert_same(one, other)
        check(hf, one)
        assert (one.finish_reason, one.settings["model"]) == ("given", other.settings["model"])


def test_reading_is_of_the_distributions_that_decode_chooses_from() -> None:
    model = F.bridge("llama", torch.float64)
    config = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2}
    made = decode(model, F.prompts(3), max_new_tokens=9, generation_config=config)
    ids = [rollout.token_ids for rollout in made]
    for one, other in zip(read(model, F.prompts(3), ids, generation_config=config), made, strict=True):
        assert_same(one, other)
    plain = read(model, F.prompts(3), ids, generation_config=False)
    assert not any(torch.allclose(one.logprobs, other.logprobs) for one, other in zip(plain, made, strict=True))


def test_reading_is_under_ones_own_hooks_and_interventions() -> None:
    model = F.bridge("qwen3", torch.float64)
    push = torch.linspace(-1, 1, 44, dtype=torch.float64)
    ablate = MeanAblate(push, 1, [1, 3])

    def run(**options: Any) -> list[tuple[Rollout, Rollout]]:
        made = decode(model, F.prompts(3), max_new_tokens=6, record=EVERY, **options)
        return list(
            zip(read(model, F.prompts(3), [r.token_ids for r in made], record=EVERY, **options), made, strict=True)
        )

    free = [again for again, _ in run()]
    with model.hooks(fwd_hooks=[("blocks.1.hook_out", lambda residual, hook: residual + push.to(residual))]):
        hooked = run()
    for pairs in (hooked, run(interventions=ablate)):
        for (again, made), other in zip(pairs, free, strict=True):
            assert_same(again, made)
            assert not torch.allclose(again.residuals["resid_post"][1], other.residuals["resid_post"][1])


def test_what_one_has_may_stand_alone_and_be_text() -> None:
    model = F.bridge("llama", torch.float64)
    ids = [9, 11, 12]
    forms: list[tuple[Any, Any]] = [
        ("w5 w7", "w9 w11 w12"), ("w5 w7", ids), ([5, 7], "w9 w11 w12"), (torch.tensor([5, 7]), torch.tensor(ids)),
        ([5, 7], ["w9 w11 w12"]), ([5, 7], [ids]),
    ]  # fmt: skip
    for prompt, response in forms:
        one = read(model, prompt, response)
        assert isinstance(one, Rollout)
        assert (one.token_ids.tolist(), one.tokens, one.residuals) == (ids, ["w9", "w11", "w12"], {})
    assert read(model, [], []) == []
    some = read(model, "w5 w7", ids, record=ResidualSites(layers=[-1], dtype=torch.float32))
    assert (some.layers, some.residuals["resid_post"].dtype) == ((2,), torch.float32)
    assert read(F.load_without_tokenizer("llama"), [5, 7], ids).text == ""


class Chooses(Intervention):
    def after_choice(self, step: Step) -> None:
        step.end(0, "because")


def test_what_cannot_be_read_is_refused_before_any_pass() -> None:
    model = F.bridge("llama")
    passes: list[int] = []
    handle = model.original_model.register_forward_pre_hook(lambda *_: passes.append(1))
    stream = ResidualStream(on_step=lambda step: None)
    for prompts, responses, options, text in (
        ([5, 6], "", {}, "read a response: expected at least one response token, received an empty response"),
        ([5, 6], " \n", {}, "received an empty response"),
        ([[5], [6]], [[7], []], {}, "received an empty response"),
        ("", [7], {}, "read: expected at least one prompt token"),
        ([5, 6], "w7 ducks", {}, r"read a response: expected text made of words the tokenizer has, received 'ducks'"),
        ([5, 6], [F.VOCAB], {}, "token ids from 0 to 100"),
        ([5, 6], [7.5], {}, "whole numbers"),
        ([[5], [6]], [[7]], {}, "read: expected 2 responses, one a prompt, received 1"),
        ([5, 6], [{"role": "user", "content": "w7"}], {}, "responses as token ids or texts"),
        ([5, 6], [7] * 600, {}, "at most 512 positions"),
        ([5, 6], [7], {"record": stream, "interventions": MeanAblate(torch.ones(44), 1, [0])}, "received both"),
        ([5, 6], [7], {"record": ResidualSites(layers=[3])}, "expected layers from 0 to 2"),
        ([5, 6], [7], {"interventions": SuppressTokens([5])}, "read: expected interventions that only edit residuals"),
        ([5, 6], [7], {"interventions": Chooses()}, "read: expected interventions that only edit residuals"),
        ([5, 6], [7], {"batch_size": 0}, "batch_size at least 1"),
    ):
        with pytest.raises(InputError, match=text):
            read(model, prompts, responses, **options)
    assert passes == []
    read(model, [5, 6], [7])
    assert passes == [1], "the counter counts"
    handle.remove()


@pytest.mark.parametrize(("name", "piece"), [("gemma3", 2), ("llama", 5), ("gpt2", None)])
def test_a_stream_is_told_what_decode_told_whatever_the_pieces(name: str, piece: int | None) -> None:
    """Steps, rows and residual streams of prompts and responses of other lengths, penalties included."""
    model, texts = F.bridge(name, torch.float64), F.texts(name)
    config = {"repetition_penalty": 1.3, "eos_token_id": None}
    stops = F.staggering_stops([r.token_ids.tolist() for r in decode(model, texts, max_new_tokens=9)])
    options = {"sites": ("resid_pre", "resid_post", "z", "ln_final")}
    made = decode(model, texts, max_new_tokens=9, stop=stops, record=ResidualSites(**options), generation_config=config)
    assert len({len(rollout) for rollout in made}) > 2
    told: list[tuple[int, int]] = []

    def on_step(step: StepResiduals) -> None:
        for i, row in enumerate(step.rows):
            told.append((row, step.step))
            for site, values in step.residuals.items():
                expected = made[row].residuals[site][:, step.step]
                torch.testing.assert_close(values[:, i].cpu(), expected, rtol=1e-5, atol=1e-5, msg=f"{site} {row}")

    ids = [rollout.token_ids for rollout in made]
    stream = ResidualStream(**options, on_step=on_step)
    again = read(model, texts, ids, record=stream, batch_size=3, piece=piece, generation_config=config)
    assert sorted(told) == [(row, step) for row, rollout in enumerate(made) for step in range(len(rollout))]
    for one, other in zip(again, made, strict=True):
        assert one.residuals == {}
        torch.testing.assert_close(one.logprobs, other.logprobs, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.entropy, other.entropy, rtol=1e-5, atol=1e-5)


def test_a_row_that_leaves_a_stream_takes_the_padding_of_the_others_along() -> None:
    """The longest prompt has the shortest response: what stays is padded less."""
    model = F.bridge("gemma3", torch.float64)
    prompts, responses = [[*range(20, 31)], [5, 6], [7, 8, 9]], [[40, 41], [*range(50, 61)], [*range(70, 79)]]
    kept = read(model, prompts, responses, record=ResidualSites())
    told: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: []}

    def on_step(step: StepResiduals) -> None:
        for i, row in enumerate(step.rows):
            assert len(told[row]) == step.step
            told[row].append(step.residuals["resid_post"][:, i].clone().cpu())

    again = read(model, prompts, responses, record=ResidualStream(on_step=on_step), piece=3)
    for row, one in enumerate(kept):
        expected = one.residuals["resid_post"]
        torch.testing.assert_close(torch.stack(told[row], dim=1), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(again[row].logprobs, one.logprobs, rtol=1e-5, atol=1e-5)


def test_a_stream_needs_no_position_beyond_a_rows_own_text() -> None:
    """Learned positions end with the context: a long prompt beside a long response, each of which fits."""
    model = F.bridge("gpt2")
    prompts, responses = [[5] * 500, [6] * 5], [[7] * 12, [8] * 507]
    steps: list[int] = []
    stream = ResidualStream(layers=0, on_step=lambda step: steps.append(len(step.rows)))
    found = read(model, prompts, responses, record=stream, piece=2000)
    assert [len(one) for one in found] == [12, 507]
    assert steps == [2] * 12 + [1] * 495


def test_a_stream_is_cut_under_ones_own_hooks_only_where_a_row_ends() -> None:
    model, seen = F.bridge("llama"), list[int]()
    prompts, responses = [[*range(20, 31)], [5, 6]], [[40, 41], [*range(50, 61)]]
    stream = ResidualStream(on_step=lambda step: None)
    with model.hooks(fwd_hooks=[("blocks.1.hook_out", lambda residual, hook: seen.append(residual.shape[1]))]):
        read(model, prompts, responses, record=stream)
        assert seen == [
            12,
            9,
        ]  # eleven of the longer prompt and a step, then the nine steps that the other row has more
        seen.clear()
        read(model, prompts, responses, record=stream, piece=5)
        assert seen == [5, 5, 2, 5, 4]


def test_several_texts_are_several_responses() -> None:
    model = F.bridge("llama", torch.float64)
    both = read(model, ["w5 w7", "w6"], ["w9 w11", [12, 13, 14]])
    assert [rollout.token_ids.tolist() for rollout in both] == [[9, 11], [12, 13, 14]]
    assert_same(both[0], read(model, "w5 w7", "w9 w11"))

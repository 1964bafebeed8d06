"""Log-probabilities of given responses against plain Hugging Face, without and with edits of the residual stream."""

from __future__ import annotations

import families as F
import pytest
import torch
from references import hf_logits
from torch import Tensor

from interp import InputError, Intervention, ResidualSites, Step, decode, score
from interp.interventions import MeanAblate, PatchResidual, SuppressTokens


def answers(count: int, length: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(3, F.VOCAB, (length + i,), generator=generator).tolist() for i in range(count)]


@pytest.mark.parametrize("family", F.FAMILIES)
def test_scores_equal_hugging_face_on_ragged_texts(family: str) -> None:
    hf, model = F.hf_model(family, torch.float64), F.bridge(family, torch.float64)
    prompts, responses = F.prompts(5), answers(5, 6)
    ours = score(model, prompts, responses, batch_size=3)
    tail = score(model, prompts, responses, last=4)
    for prompt, response, (logprobs, is_greedy), (some, _) in zip(prompts, responses, ours, tail, strict=True):
        with torch.no_grad():
            logits = hf(torch.tensor([prompt + response])).logits[0]
        expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(-1, torch.tensor(response)[:, None])[:, 0]
        torch.testing.assert_close(logprobs, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(some, expected[-4:], rtol=1e-6, atol=1e-6)
        assert is_greedy.tolist() == (logits.argmax(-1)[len(prompt) - 1 : -1] == torch.tensor(response)).tolist()


def test_an_edit_acts_at_its_steps_of_the_given_response() -> None:
    hf, model = F.hf_model("llama", torch.float64), F.bridge("llama", torch.float64)
    prompts, responses = F.prompts(3), answers(3, 6)
    mean = torch.linspace(-2, 2, 44, dtype=torch.float64)
    ours = score(model, prompts, responses, interventions=[MeanAblate(mean, 1, [2, 4])])
    for prompt, response, (logprobs, _) in zip(prompts, responses, ours, strict=True):
        edits: dict[tuple[str, int], dict[int, Tensor]] = {
            ("resid_post", 1): {len(prompt) - 1 + step: mean for step in (2, 4)}
        }
        for step in range(len(response)):
            logits = hf_logits(hf, prompt + response[:step], edits)
            assert float(logprobs[step]) == pytest.approx(float(logits.log_softmax(-1)[response[step]]), abs=2e-6)
    untouched = score(model, prompts, responses)
    for (edited, _), (plain, _) in zip(ours, untouched, strict=True):
        assert torch.equal(edited[:2], plain[:2])
        assert not torch.allclose(edited, plain)


def test_a_patch_scores_as_it_decodes() -> None:
    model = F.bridge("qwen3", torch.float64)
    a, b = decode(model, F.prompts(2), max_new_tokens=6, record=ResidualSites())
    patch = PatchResidual(b, 1, [0, 3])
    patched = decode(model, [a.prompt_ids], max_new_tokens=6, interventions=[patch])[0]
    scored = score(model, [a.prompt_ids], [patched.token_ids], interventions=[patch])[0].logprobs
    torch.testing.assert_close(scored, patched.logprobs.double(), rtol=1e-5, atol=1e-5)


class Chooses(Intervention):
    def after_choice(self, step: Step) -> None:
        step.end(0, "because")


def test_what_cannot_be_scored_is_refused() -> None:
    model = F.bridge("llama")
    prompt, response = F.prompts(1), answers(1, 6)
    for interventions in ([SuppressTokens([5])], [Chooses()]):
        with pytest.raises(InputError, match="score: expected interventions that only edit residuals"):
            score(model, prompt, response, interventions=interventions)
    with pytest.raises(InputError, match="expected 1 responses"):
        score(model, prompt, response * 2)
    with pytest.raises(
        InputError, match="score a response: expected at least one response token, received an empty response"
    ):
        score(model, prompt, [[]])
    with pytest.raises(InputError, match="last from 1 to 6"):
        score(model, prompt, response, last=7)
    with pytest.raises(InputError, match="token ids from 0 to 100"):
        score(model, prompt, [[F.VOCAB]])
    with pytest.raises(InputError, match="at most 512 positions"):
        score(model, prompt, [[5] * 600])

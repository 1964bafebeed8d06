"""Whole answers in `score` and `patch_sweep` against plain Hugging Face, one token after the other."""

from __future__ import annotations

import copy
from typing import Any

import families as F
import pytest
import torch
from references import MODELS, hf_logits
from torch import Tensor

from interp import InputError, ResidualSites, answer_log_probability, decode, log_probability, logit_difference, score
from interp.interventions import PatchResidual, patch_sweep

ANSWER = [5, 40, 8, 17]


def literally(hf: Any, ids: list[int], answer: list[int], edits: dict[tuple[str, int], dict[int, Tensor]]) -> float:
    """Log-probability of the answer after these tokens, each of its tokens by a pass of its own."""
    total = 0.0
    for k, token in enumerate(answer):
        total += float(hf_logits(hf, ids + answer[:k], edits).log_softmax(-1)[token])
    return total


def attending_as(engine: Any, hf: Any) -> Any:
    """The reference with the engine's own kind of attention.

    In float64 the two are apart by a softmax: Hugging Face's eager one, the bridge's too, is in float32, that of sdpa,
    the twin's, is not.
    """
    if engine.name == "bridge":
        return hf
    hf = copy.deepcopy(hf)
    hf.set_attn_implementation("sdpa")
    return hf


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_answer_is_the_sum_over_its_tokens(name: str, engine: Any) -> None:
    hf, model = F.pair(name, torch.float64)
    hf = attending_as(engine, hf)
    prompts = F.texts(name, 3)
    responses = [[], [7], [9, 11, 30, 8]]
    ours = score(model, prompts, responses, metric=answer_log_probability(ANSWER), batch_size=2)
    expected = [literally(hf, p + r, ANSWER, {}) for p, r in zip(prompts, responses, strict=True)]
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    at_once = score(model, prompts, metric=answer_log_probability(ANSWER))
    parts = score(model, prompts, [ANSWER] * 3, generation_config=False)
    assert at_once.tolist() == pytest.approx([one.total for one in parts], abs=1e-9)


@pytest.mark.parametrize("family", F.FAMILIES)
def test_a_sweep_of_a_whole_answer_equals_hugging_face(family: str, engine: Any) -> None:
    hf, model = attending_as(engine, F.hf_model(family, torch.float64)), F.bridge(family, torch.float64)
    record = ResidualSites()
    target, source = decode(model, [[5, 9, 11, 30], [8, 21, 4, 60]], max_new_tokens=6, record=record)
    metric = answer_log_probability(ANSWER)
    table = patch_sweep(model, target, source, metric, at=3, steps=[0, 3], batch_size=4)
    ids = target.prompt_ids.tolist() + target.token_ids[:3].tolist()
    plain = literally(hf, ids, ANSWER, {})
    assert len(table) == 2 * model.cfg.n_layers
    for row in table.to_dict("records"):
        new = source.residuals["resid_post"][row["layer"], row["step"]]
        edits: dict[tuple[str, int], dict[int, Tensor]] = {("resid_post", row["layer"]): {3 + row["step"]: new}}
        assert row["value"] == pytest.approx(literally(hf, ids, ANSWER, edits), abs=1e-8)
        assert row["baseline"] == pytest.approx(plain, abs=1e-8)
        # The same metric in score, of the response up to the step that is read.
        patch = PatchResidual(source, row["layer"], [row["step"]])
        again = score(model, [target.prompt_ids], [target.token_ids[:3]], metric=metric, interventions=patch)
        assert row["value"] == pytest.approx(float(again), abs=1e-8)
    assert table["effect"].abs().max() > 0.1


def test_one_token_is_the_metric_of_one_token_and_any_metric_may_be_scored() -> None:
    model = F.bridge("llama", torch.float64)
    prompts, responses = F.prompts(3), [[7], [8, 9], [10]]
    one = score(model, prompts, responses, metric=answer_log_probability([40]))
    assert torch.allclose(one, score(model, prompts, responses, metric=log_probability(40)))
    both = [score(model, prompts, responses, metric=log_probability(token)) for token in (40, 5)]
    assert torch.allclose(score(model, prompts, responses, metric=logit_difference(40, 5)), both[0] - both[1])
    assert torch.allclose(score(model, prompts, responses, metric=answer_log_probability("w40")), one)
    words = score(model, "w5 w7", "w9", metric=answer_log_probability("w5 w40 w8 w17"))
    assert torch.allclose(words, score(model, [5, 7], [9], metric=answer_log_probability(torch.tensor(ANSWER))))
    assert score(model, [], metric=log_probability(40)).shape == (0,)


def test_texts_are_scored_as_their_tokens() -> None:
    model = F.bridge("llama", torch.float64)
    text, ids = score(model, "w5 w7", "w9 w11")[0], score(model, [5, 7], [9, 11])[0]
    assert torch.equal(text.logprobs, ids.logprobs)
    assert text.total == pytest.approx(float(ids.logprobs.sum()))


def test_answers_that_cannot_be_measured_are_refused() -> None:
    model = F.bridge("llama")
    for wrong in ("", [], [-1], [1.5], None, True, {"w5"}):
        with pytest.raises(InputError, match="answer_log_probability: expected"):
            answer_log_probability(wrong)
    target = decode(model, [[5, 6]], max_new_tokens=3, record=ResidualSites())[0]
    for answer, text in (
        ("  ", "an answer of at least one token"),
        ("w5 ducks", "text made of words the tokenizer has, received 'ducks'"),
        ([F.VOCAB], "token ids from 0 to 100"),
        ([5] * 600, "at most 512 positions"),
    ):
        metric = answer_log_probability(answer)
        with pytest.raises(InputError, match=text):
            score(model, [5, 6], metric=metric)
        with pytest.raises(InputError, match=text):
            patch_sweep(model, target, target, metric)
    with pytest.raises(InputError, match="score: expected metric as a function"):
        score(model, [5, 6], metric="540")
    with pytest.raises(InputError, match="score: expected either metric or last"):
        score(model, [5, 6], [7], metric=log_probability(5), last=1)
    with pytest.raises(InputError, match="expected 1 responses"):
        score(model, [5, 6])
    with pytest.raises(InputError, match=r"one number a row, shape \(1,\)"):
        score(model, [5, 6], [7], metric=lambda logits: logits)

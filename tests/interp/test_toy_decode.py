"""The bundled toy, decoded by us and by plain Hugging Face."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from references import SITES, check

from analyses.problems import bundled_problems
from interp import ResidualSites, bundled_model_path, decode, load_model


@pytest.fixture(scope="module")
def hf() -> Any:
    from transformers import AutoModelForCausalLM

    path = bundled_model_path("toy-reasoner")
    return AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("toy-reasoner", device="cpu")


def test_greedy_equals_hugging_face_on_6_problems(hf: Any, model: Any) -> None:
    questions = [problem.question for problem in bundled_problems(6)]
    rollouts = decode(model, questions, max_new_tokens=120, batch_size=4)
    for question, rollout in zip(questions, rollouts, strict=True):
        ids = torch.tensor([model.tokenizer(question)["input_ids"]])
        assert rollout.prompt_ids.tolist() == ids[0].tolist()
        out = hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=120, do_sample=False)
        assert rollout.token_ids.tolist() == out[0, ids.shape[1] :].tolist()
    assert {rollout.finish_reason for rollout in rollouts} >= {"eos"}


@pytest.mark.parametrize("count", [1, 6])
def test_residuals_equal_hugging_face(hf: Any, model: Any, count: int) -> None:
    questions = [problem.question for problem in bundled_problems(count)]
    rollouts = decode(model, questions, max_new_tokens=100, record=ResidualSites(sites=SITES))
    assert count == 1 or len({len(rollout) for rollout in rollouts}) > 1
    for rollout in rollouts:
        check(hf, rollout)

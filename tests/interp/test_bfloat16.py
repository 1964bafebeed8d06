"""bfloat16: the tokens and streams of Hugging Face's own `generate`, and scores of them in float64."""

from __future__ import annotations

import copy
from typing import Any

import families as F
import pytest
import torch
from references import modules
from torch import Tensor

from interp import ResidualSites, decode
from probes import nhsic, nhsic_dense

NEW = 10


@torch.no_grad()
def generated(family: str, prompt: list[int]) -> tuple[list[int], Tensor]:
    """Tokens of `generate` in bfloat16, and what each block gave at the position that predicts each."""
    hf = copy.deepcopy(F.hf_model(family, torch.bfloat16))
    hf.set_attn_implementation("sdpa")
    caught: list[list[Tensor]] = []

    def keep(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            caught[layer].append((output[0] if isinstance(output, tuple) else output)[0, -1].clone())

        return hook

    for layer, block in enumerate(modules(hf)[0]):
        caught.append([])
        block.register_forward_hook(keep(layer))
    ids = torch.tensor([prompt])
    whole = hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
    return whole[0, len(prompt) :].tolist(), torch.stack([torch.stack(steps) for steps in caught])


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_tokens_and_streams_of_generate(family: str) -> None:
    for prompt in F.prompts(2):
        tokens, streams = generated(family, prompt)
        rollout = decode(F.bridge(family, torch.bfloat16), [prompt], max_new_tokens=NEW, record=ResidualSites())[0]
        assert rollout.settings["engine"] == "twin (sdpa)"
        assert rollout.token_ids.tolist() == tokens
        assert rollout.residuals["resid_post"].dtype == torch.bfloat16
        ours = rollout.residuals["resid_post"]
        if family == "llama":
            assert torch.equal(ours, streams)
        else:  # Hugging Face drops keys that a window has left behind, we mask them: sums of another order
            off = (ours - streams).float().norm(dim=-1) / streams.float().norm(dim=-1)
            assert float(off.max()) < 2**-5


def test_scores_of_bfloat16_are_those_of_the_same_numbers_in_float64() -> None:
    rollout = decode(F.bridge("llama", torch.bfloat16), F.prompts(1), max_new_tokens=NEW, record=ResidualSites())[0]
    steps = rollout.residuals["resid_post"]
    found = nhsic(steps, steps[:, -1], sigma=1.0)
    assert found.dtype == torch.float64
    assert torch.equal(found, nhsic(steps.double(), steps[:, -1].double(), sigma=1.0))
    dense = [nhsic_dense(layer.double(), layer[-1].double(), sigma=1.0) for layer in steps]
    torch.testing.assert_close(found, torch.stack(dense), rtol=0, atol=1e-8)

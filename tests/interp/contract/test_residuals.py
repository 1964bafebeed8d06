"""Recorded residual streams against forward hooks on plain Hugging Face modules, run on the whole text at once."""

from __future__ import annotations

import families as F
import pytest
import torch
from references import SITES, assert_close, check, hf_residuals

from interp import ResidualSites, decode, encode


@pytest.mark.parametrize(("family", "count"), [*((family, 5) for family in F.FAMILIES), ("llama", 1), ("gpt2", 1)])
def test_decoded_residuals_equal_hugging_face(family: str, count: int) -> None:
    hf, model = F.hf_model(family), F.bridge(family)
    for rollout in decode(model, F.prompts(count), max_new_tokens=9, record=ResidualSites(sites=SITES)):
        check(hf, rollout)


@pytest.mark.parametrize("family", F.FAMILIES)
def test_residuals_after_rows_have_left(family: str) -> None:
    hf, model = F.hf_model(family), F.bridge(family)
    free = decode(model, F.prompts(), max_new_tokens=8)
    stops = F.staggering_stops([r.token_ids.tolist() for r in free])
    rollouts = decode(model, F.prompts(), max_new_tokens=8, stop=stops, record=ResidualSites(sites=SITES))
    assert len({len(r) for r in rollouts}) >= 3
    for rollout in rollouts:
        check(hf, rollout)


@pytest.mark.parametrize("family", F.FAMILIES)
def test_encoded_residuals_equal_hugging_face(family: str) -> None:
    hf, model = F.hf_model(family), F.bridge(family)
    texts = F.prompts()
    whole = encode(model, texts, record=ResidualSites(sites=SITES), batch_size=3)
    last = encode(model, texts, record=ResidualSites(sites=SITES), last_only=True)
    for ids, full, end in zip(texts, whole, last, strict=True):
        expected = hf_residuals(hf, ids)
        for site in SITES:
            assert_close(full.residuals[site], expected[site], site)
            assert_close(end.residuals[site], expected[site][:, -1:], site)


def test_one_stream_is_stored_once() -> None:
    record = ResidualSites(sites=("resid_pre", "resid_post"))
    shared = decode(F.bridge("llama"), F.prompts(1), max_new_tokens=3, record=record)[0].residuals
    assert shared["resid_pre"][1].data_ptr() == shared["resid_post"][0].data_ptr()


def test_chosen_layers() -> None:
    model = F.bridge("llama")
    every = decode(model, F.prompts(1), max_new_tokens=4, record=ResidualSites())[0]
    some = decode(model, F.prompts(1), max_new_tokens=4, record=ResidualSites(layers=[0, -1]))[0]
    assert some.layers == (0, 2)
    assert torch.equal(some.residuals["resid_post"], every.residuals["resid_post"][[0, 2]])

"""Decoding against plain Hugging Face generation, unpadded and one prompt at a time."""

from __future__ import annotations

import families as F
import pytest
import torch
from references import continued

from interp import InputError, ResidualSites, ResidualStream, decode, encode

NEW = 16


@pytest.mark.parametrize(
    ("family", "batch_size"),
    [("llama", 1), *((family, 2) for family in ("llama", "gpt2", "gemma3")), *((family, 5) for family in F.FAMILIES)],
)
def test_greedy_equals_hugging_face(family: str, batch_size: int) -> None:
    hf, model = F.hf_model(family, torch.float64), F.bridge(family, torch.float64)
    prompts = F.prompts()
    rollouts = decode(model, prompts, max_new_tokens=NEW, batch_size=batch_size)
    expected = [continued(hf, prompt, NEW) for prompt in prompts]
    assert [r.token_ids.tolist() for r in rollouts] == expected
    assert len({token for tokens in expected for token in tokens}) > 8, "the tiny model says too little to tell"


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_rows_that_end_leave_and_disturb_nobody(family: str) -> None:
    """Stop ids are chosen so that rows end at different steps."""
    hf, model = F.hf_model(family, torch.float64), F.bridge(family, torch.float64)
    prompts = F.prompts()
    free = [continued(hf, prompt, NEW) for prompt in prompts]
    stops = F.staggering_stops(free)
    rollouts = decode(model, prompts, max_new_tokens=NEW, stop=stops)
    lengths = set()
    for rollout, tokens in zip(rollouts, free, strict=True):
        cut = min((tokens.index(s) + 1 for s in stops if s in tokens), default=len(tokens))
        assert rollout.token_ids.tolist() == tokens[:cut]
        lengths.add(cut)
        assert rollout.finish_reason in ("stop", "length", "eos")
    assert len(lengths) >= 3


def test_finish_reasons_and_eos_stays() -> None:
    model = F.bridge("llama", torch.float64)
    tokens = decode(model, F.prompts(1), max_new_tokens=NEW)[0].token_ids.tolist()
    first = tokens.index(tokens[5])
    config = model.original_model.generation_config
    before = config.eos_token_id
    config.eos_token_id = [1, tokens[5]]
    try:
        rollout = decode(model, F.prompts(1), max_new_tokens=NEW)[0]
    finally:
        config.eos_token_id = before
    assert rollout.finish_reason == "eos"
    assert rollout.token_ids.tolist() == tokens[: first + 1]


def test_stop_string_ends_when_it_is_complete() -> None:
    model = F.bridge("llama", torch.float64)
    free = decode(model, F.prompts(1), max_new_tokens=NEW)[0]
    pair = f"{free.tokens[3]} {free.tokens[4]}"
    rollout = decode(model, F.prompts(1), max_new_tokens=NEW, stop=[pair])[0]
    assert rollout.finish_reason == "stop"
    text = " ".join(free.tokens)
    assert " ".join(rollout.tokens) == text[: text.index(pair) + len(pair)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_logprobs_and_entropy_equal_a_full_forward(family: str) -> None:
    hf, model = F.hf_model(family, torch.float64), F.bridge(family, torch.float64)
    for rollout in decode(model, F.prompts(), max_new_tokens=9):
        ids = torch.cat([rollout.prompt_ids, rollout.token_ids])
        logits = hf(ids[None]).logits[0, len(rollout.prompt_ids) - 1 : -1].detach()
        log_probs = logits.log_softmax(-1)
        expected = log_probs.gather(-1, rollout.token_ids[:, None])[:, 0]
        torch.testing.assert_close(rollout.logprobs.double(), expected, atol=1e-5, rtol=1e-5)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        torch.testing.assert_close(rollout.entropy.double(), entropy, atol=1e-5, rtol=1e-5)


def test_prompts_in_every_form_are_the_same() -> None:
    model = F.bridge("llama", torch.float64)
    text = "w5 w7 w9 w11"
    forms = [text, [5, 7, 9, 11], torch.tensor([5, 7, 9, 11])]
    assert len({tuple(r.token_ids.tolist()) for r in decode(model, forms, max_new_tokens=6)}) == 1


def test_a_row_draws_by_its_own_seed_whatever_its_batch() -> None:
    model = F.bridge("qwen2", torch.float64)
    prompts, seeds = F.prompts(), [11, 12, 13, 14, 15]
    together = decode(model, prompts, max_new_tokens=12, temperature=1.0, top_p=0.9, seed=seeds)
    for i in (0, 3):
        alone = decode(model, [prompts[i]], max_new_tokens=12, temperature=1.0, top_p=0.9, seed=[seeds[i]])[0]
        assert alone.token_ids.tolist() == together[i].token_ids.tolist()
    other = decode(model, prompts, max_new_tokens=12, temperature=1.0, top_p=0.9, seed=[s + 1 for s in seeds])
    assert [r.token_ids.tolist() for r in other] != [r.token_ids.tolist() for r in together]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": [""]}, "decode: expected at least one prompt token, received an empty prompt"),
        ({"prompts": ["  \n"]}, "received an empty prompt"),
        ({"prompts": [[]]}, "received an empty prompt"),
        ({"prompts": [[5, F.VOCAB]]}, r"decode: expected token ids from 0 to 100 .*received \[101\]"),
        ({"prompts": [[-1]]}, r"received \[-1\]"),
        ({"prompts": ["w5 ducks w6"]}, r"expected text made of words the tokenizer has, received 'ducks'"),
        ({"prompts": [torch.zeros(2, 2, dtype=torch.long)]}, "expected a 1-D integer tensor of token ids"),
        ({"prompts": [[5.0]]}, "expected a string, chat messages, or a list of token ids"),
        ({"prompts": [[{"role": "user", "content": "w5"}]]}, "expected a model with a chat template"),
        ({"max_new_tokens": 0}, "expected max_new_tokens at least 1, received 0"),
        ({"max_new_tokens": 600}, "expected at most 512 positions .*received a text of 3 tokens and up to 600 new"),
        ({"temperature": -1.0}, "expected temperature 0"),
        ({"top_p": 0.0}, "expected top_p above 0"),
        ({"batch_size": 0}, "expected batch_size at least 1"),
        ({"seed": [1, 2]}, "expected 1 seeds, one a prompt, received 2"),
        ({"stop": [""]}, "expected stop strings that are not empty"),
        ({"record": ResidualSites(layers=[3])}, r"record residuals: expected layers from 0 to 2 .*received \[3\]"),
    ],
)
def test_bad_input_is_refused(arguments: dict[str, object], message: str) -> None:
    model = F.bridge("llama")
    with pytest.raises(InputError, match=message):
        decode(model, **{"prompts": [[5, 6, 7]], "max_new_tokens": 3, **arguments})


def test_unknown_site_is_refused() -> None:
    with pytest.raises(InputError, match="expected sites among resid_pre, resid_mid, resid_post, ln_final"):
        ResidualSites(sites=("resid_end",))


def test_larger_than_memory_is_refused_with_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    model = F.bridge("llama")
    free = psutil.virtual_memory()._replace(available=100_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    # 5 responses x 4 boundaries x 400 steps x 44 x 4 bytes = 1.4 MB
    record = ResidualSites(sites=("resid_pre", "resid_post"))
    with pytest.raises(
        InputError, match=r"decode: expected at most the 0\.0 GB free on cpu, received a request of 0\.0 GB"
    ):
        decode(model, F.prompts(), max_new_tokens=400, record=record)


def test_nan_activations_stop_with_one_clear_error() -> None:
    model = F.bridge("llama")
    weight = model.original_model.get_output_embeddings().weight
    with torch.no_grad():
        kept = weight[7, 3].item()
        weight[7, 3] = float("nan")
    try:
        with pytest.raises(
            InputError, match=r"expected finite logits, received NaN.*at step 0 of prompt 0.*NaN activations"
        ):
            decode(model, F.prompts(1), max_new_tokens=3)
    finally:
        with torch.no_grad():
            weight[7, 3] = kept


def test_stream_shows_what_sites_keep() -> None:
    model = F.bridge("qwen3")
    seen: dict[int, list[torch.Tensor]] = {}

    def on_step(step: object) -> None:
        for i, row in enumerate(step.rows):
            seen.setdefault(row, []).append(step.residuals["resid_post"][:, i].clone().cpu())

    stops = F.staggering_stops([r.token_ids.tolist() for r in decode(model, F.prompts(), max_new_tokens=12)])
    kept = decode(model, F.prompts(), max_new_tokens=12, stop=stops, record=ResidualSites())
    decode(model, F.prompts(), max_new_tokens=12, stop=stops, record=ResidualStream(on_step=on_step))
    assert len({len(r) for r in kept}) > 1
    for i, rollout in enumerate(kept):
        assert torch.equal(torch.stack(seen[i], 1), rollout.residuals["resid_post"])
    with pytest.raises(InputError, match="encode: expected ResidualSites or ResidualPieces, received ResidualStream"):
        encode(model, [[5]], record=ResidualStream(on_step=on_step))


def test_dtype_of_what_is_kept() -> None:
    rollout = decode(F.bridge("llama"), F.prompts(1), max_new_tokens=3, record=ResidualSites(dtype=torch.bfloat16))[0]
    assert rollout.residuals["resid_post"].dtype == torch.bfloat16

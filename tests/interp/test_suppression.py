"""Suppression against Hugging Face's ``suppress_tokens``, plain TransformerLens hooks and the definition of a draw."""

from __future__ import annotations

from functools import cache
from typing import Any

import families as F
import pytest
import torch
from references import MODELS, common_tokens
from torch import Tensor

from interp import InputError, decode, load_model
from interp.interventions import ContinueThinking, SuppressTokens, matched_random_tokens, thinking_token_ids

NEW = 20


@cache
def banned_tokens(name: str, model: Any) -> list[int]:
    """Tokens that the model does use; for the toy its thinking words, which it can do without."""
    if name == "toy":
        return [i for ids in thinking_token_ids(model, ["Okay", "So", "Wait", "Hmm"]).values() for i in ids]
    return common_tokens(decode(model, F.texts(name), max_new_tokens=NEW), 6)


@torch.no_grad()
def hf_logits_of(hf: Any, prompt: list[int], response: list[int]) -> Tensor:
    """Logits from which each response token is chosen, in one plain forward pass over the finished text."""
    return hf(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]


@pytest.mark.parametrize("name", MODELS)
def test_greedy_equals_hugging_face_and_plain_transformer_lens_hooks(name: str) -> None:
    hf, model = F.pair(name, torch.float64)
    banned, prompts = banned_tokens(name, model), F.texts(name, 3)
    suppress = SuppressTokens(banned)
    plain = decode(model, prompts, max_new_tokens=NEW)
    rollouts = decode(model, prompts, max_new_tokens=NEW, interventions=[suppress])
    for i, (prompt, rollout) in enumerate(zip(prompts, rollouts, strict=True)):
        ids, ours = torch.tensor([prompt]), rollout.token_ids.tolist()
        theirs = hf.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, suppress_tokens=banned
        )
        assert ours == theirs[0, len(prompt) :].tolist()
        assert ours != plain[i].token_ids.tolist()
        # An event wherever Hugging Face's own likeliest token is a suppressed one
        likeliest = hf_logits_of(hf, prompt, ours).argmax(-1).tolist()
        assert [(e.step, e.note) for e in rollout.events if e.is_act] == [
            (t, f"suppressed {model.tokenizer.decode([token])!r}")
            for t, token in enumerate(likeliest)
            if token in banned
        ]
        if i == 1:
            with model.hooks(fwd_hooks=suppress.hooks(model)):
                hooked = model.generate(ids, max_new_tokens=NEW, do_sample=False, return_type="tokens", verbose=False)
            assert hooked[0, len(prompt) :].tolist() == ours
    after = decode(model, prompts[:1], max_new_tokens=NEW)[0]
    assert torch.equal(after.token_ids, plain[0].token_ids), "the hooks are gone"


def literal_draw(logits: Tensor, banned: list[int], temperature: float, top_p: float, uniform: float) -> int:
    """Inverse-CDF sampling, written out: the first token at which the running sum of probabilities exceeds u."""
    allowed = [token for token in range(len(logits)) if token not in banned]
    weights = {token: float(torch.exp((logits[token] - logits.max()) / temperature)) for token in allowed}
    total = sum(weights.values())
    order = allowed
    if top_p < 1:
        order, mass = [], 0.0
        for token in sorted(allowed, key=lambda token: -weights[token]):
            if mass >= top_p * total:
                break
            order.append(token)
            mass += weights[token]
        total = mass
    running = 0.0
    for token in order:
        running += weights[token]
        if uniform * total < running:
            return token
    raise AssertionError(f"{uniform} is no probability")


@pytest.mark.parametrize(
    ("name", "temperature", "top_p"), [("llama", 1.0, 1.0), ("toy", 1.0, 1.0), *((name, 0.7, 0.8) for name in MODELS)]
)
def test_sampling_draws_from_the_suppressed_distribution(name: str, temperature: float, top_p: float) -> None:
    hf, model = F.pair(name, torch.float64)
    banned, prompts, seeds = banned_tokens(name, model), F.texts(name, 3), [11, 12, 13]
    options = {"max_new_tokens": NEW, "temperature": temperature, "top_p": top_p, "seed": seeds}
    rollouts = decode(model, prompts, interventions=[SuppressTokens(banned)], **options)
    would_differ = False
    for prompt, rollout, seed in zip(prompts, rollouts, seeds, strict=True):
        tokens = rollout.token_ids.tolist()
        logits = hf_logits_of(hf, prompt, tokens)
        uniforms = torch.rand(NEW, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
        draws = list(zip(logits, uniforms[: len(tokens)], strict=True))
        literal = [literal_draw(at, banned, temperature, top_p, u) for at, u in draws]
        assert tokens == literal
        would_differ |= literal != [literal_draw(at, [], temperature, top_p, u) for at, u in draws]
        # Scores are those of the suppressed distribution at temperature 1.
        kept = logits.index_fill(1, torch.tensor(banned), float("-inf")).log_softmax(-1)
        expected = kept.gather(1, rollout.token_ids[:, None])[:, 0]
        torch.testing.assert_close(rollout.logprobs.double(), expected, atol=1e-5, rtol=1e-5)
        entropy = -(kept.exp() * kept).nan_to_num(0.0).sum(-1)
        torch.testing.assert_close(rollout.entropy.double(), entropy, atol=1e-5, rtol=1e-5)
    assert would_differ


def test_a_suppressed_token_is_never_sampled() -> None:
    model = F.bridge("llama")
    prompt = F.prompts(2)[1]
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 3.0, "seed": 5, "batch_size": 150}
    free = torch.cat([r.token_ids for r in decode(model, [prompt] * 150, **options)])
    banned = torch.bincount(free, minlength=F.VOCAB).topk(20).indices
    rollouts = decode(model, [prompt] * 150, interventions=[SuppressTokens(banned.tolist())], **options)
    drawn = torch.cat([r.token_ids for r in rollouts])
    assert int(torch.isin(free, banned).sum()) > 400
    assert len(drawn) > 1000
    assert len(drawn.unique()) > 60
    assert not torch.isin(drawn, banned).any()


def test_several_suppressions_add_up_and_forced_tokens_pass() -> None:
    model = F.bridge("llama", torch.float64)
    banned = banned_tokens("llama", model)
    together = decode(model, F.prompts(), max_new_tokens=NEW, interventions=[SuppressTokens(banned)])
    parts = [SuppressTokens(banned[:2]), SuppressTokens(banned[2:])]
    apart = decode(model, F.prompts(), max_new_tokens=NEW, interventions=parts)
    assert [r.token_ids.tolist() for r in together] == [r.token_ids.tolist() for r in apart]
    insert = ContinueThinking([banned[0]], budget=NEW, at="start", final_prompt="")
    for order in ([SuppressTokens(banned), insert], [insert, SuppressTokens(banned)]):
        for rollout in decode(model, F.prompts(), max_new_tokens=NEW, interventions=order):
            first, *others = rollout.token_ids.tolist()
            assert first == banned[0]
            assert rollout.logprobs[0] == float("-inf"), "the distribution it was forced upon gives it nothing"
            assert not set(others) & set(banned)


def test_words_and_their_ids_say_the_same() -> None:
    model = F.pair("toy", torch.float64)[1]
    words = thinking_token_ids(model, ["wait", "Hmm"])
    assert {word: [model.tokenizer.decode([i]) for i in ids] for word, ids in words.items()} == {
        "wait": ["Wait"],
        "Hmm": ["Hmm"],
    }
    flat = [i for ids in words.values() for i in ids]
    one, other = (
        decode(model, F.texts("toy", 2), max_new_tokens=60, interventions=[SuppressTokens(ids)])
        for ids in (words, flat)
    )
    assert [r.token_ids.tolist() for r in one] == [r.token_ids.tolist() for r in other]
    assert one[0].settings["interventions"] == [{"name": "SuppressTokens", "token_ids": sorted(flat)}]


def test_hooks_refuse_what_they_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = F.bridge("gemma3")
    with pytest.raises(InputError, match=r"SuppressTokens: expected token ids from 0 to 100 .*received \[101\]"):
        SuppressTokens([101]).hooks(model)
    monkeypatch.setattr(model.original_model.config, "final_logit_softcapping", 30.0)
    with pytest.raises(InputError, match=r"expected a model whose logits are the unembedding's output.*tiny-gemma3"):
        SuppressTokens([5]).hooks(model)
    # Capping would make a large finite number of -inf; decode suppresses after it.
    capped = decode(model, F.prompts(2), max_new_tokens=9)
    banned = sorted({t for r in capped for t in r.token_ids.tolist()})
    rollouts = decode(model, F.prompts(2), max_new_tokens=9, interventions=[SuppressTokens(banned)])
    assert not {t for r in rollouts for t in r.token_ids.tolist()} & set(banned)


def test_a_word_no_token_spells_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected words that are single tokens .*received 'Perhaps'"):
        thinking_token_ids(load_model("toy-reasoner", device="cpu"), ["Wait", "Perhaps"])


def test_matched_controls_are_as_frequent_and_leave_a_word_of_each_kind() -> None:
    from analyses.problems import bundled_problems
    from analyses.toys.facts import FILLERS, VERBS

    model = load_model("toy-reasoner", device="cpu")
    questions = [problem.question for problem in bundled_problems(20)]
    rollouts = decode(model, questions, max_new_tokens=120)
    thinking = thinking_token_ids(model, ["Wait", "Hmm", "So"])
    labels = [[label] for label in "ABCDEFGH"]
    keep = [VERBS, FILLERS, ("Okay", "start"), ("Therefore", "answer"), *labels]
    draws = matched_random_tokens(rollouts, thinking, draws=20, seed=3, keep=keep)
    assert draws == matched_random_tokens(rollouts, thinking, draws=20, seed=3, keep=keep)
    assert len({tuple(draw) for draw in draws}) > 3
    for draw in draws:
        assert len(draw) == 3
        assert not set(draw) & {"wait", "hmm", "so"}
        assert all(set(map(str.casefold, group)) - set(draw) for group in keep)
        assert all(model.tokenizer.decode(ids).strip().casefold() == word for word, ids in draw.items())
    with pytest.raises(InputError, match="expected at least 3 other words"):
        matched_random_tokens([rollouts[0]], thinking, keep=[*([word] for word in (*VERBS, *FILLERS)), *labels])

"""Suppression, recycling and budgets against plain Hugging Face: cacheless full forwards, naive re-prefill."""

from __future__ import annotations

from typing import Any

import families as F
import pytest
import torch
from test_protocol import continued, hf_logits
from test_residuals import modules

from interp import InputError, Intervention, ResidualSites, Step, decode, load_model
from interp.interventions import (
    BudgetForcing,
    ContinueThinking,
    MeanAblate,
    PatchResidual,
    Recompute,
    RecurseLatents,
    RecycleRepresentation,
    SteerResidual,
    SuppressTokens,
    at_random,
    matched_random_tokens,
    thinking_token_ids,
    uncertain,
)

NEW = 40


def common_tokens(rollouts: list[Any], count: int = 4) -> list[int]:
    """The tokens these responses use most: stand-ins for thinking tokens of random models."""
    counts = torch.bincount(torch.cat([r.token_ids for r in rollouts]))
    return counts.argsort(descending=True, stable=True)[:count].tolist()


class Watch(Intervention):
    """Keeps the logits every token was chosen from."""

    def __init__(self) -> None:
        self._logits: dict[int, list[torch.Tensor]] = {}

    def before_choice(self, step: Step) -> None:
        for i, row in enumerate(step.rows):
            self._logits.setdefault(row.index, []).append(step.logits[i].clone())


@torch.no_grad()
def cacheless(
    hf: Any, prompt: list[int], thinking: set[int], extract: int, inject: int, repeats: int, trigger: str
) -> tuple[list[int], list[torch.Tensor]]:
    """Recycling by definition: at every recycled position the substitution is made again in each later full forward."""
    ids, swaps, seen = list(prompt), {}, []
    caught: list[torch.Tensor] = []
    handle = modules(hf)[0][extract].register_forward_hook(
        lambda _m, _a, out: caught.append((out[0] if isinstance(out, tuple) else out)[0, -1].clone())
    )
    try:
        for _ in range(NEW):
            logits = hf_logits(hf, ids, {("resid_pre", inject): swaps})
            if (int(logits.argmax()) if trigger == "predicted" else ids[-1]) in thinking:
                for _ in range(repeats):
                    swaps[len(ids) - 1] = caught[-1]
                    logits = hf_logits(hf, ids, {("resid_pre", inject): swaps})
            seen.append(logits)
            ids.append(int(logits.argmax()))
            if ids[-1] == 1:
                break
    finally:
        handle.remove()
    return ids[len(prompt) :], seen


CASES = [
    (0, 0, 1, "predicted"),
    (1, 1, 3, "predicted"),
    (-1, -1, 2, "predicted"),
    (1, 1, 1, "input"),
    (-1, 1, 2, "predicted"),
]


@pytest.mark.parametrize("family", F.FAMILIES)
@pytest.mark.parametrize(("extract", "inject", "repeats", "trigger"), CASES)
@pytest.mark.parametrize("count", [1, 5])
def test_recycling_equals_a_cacheless_reference(
    family: str, extract: int, inject: int, repeats: int, trigger: str, count: int
) -> None:
    hf, model = F.hf_model(family, torch.float64), F.bridge(family, torch.float64)
    prompts = F.prompts(count)
    plain = decode(model, prompts, max_new_tokens=NEW)
    thinking = common_tokens(plain)
    recycle = RecycleRepresentation(0, thinking, repeats=repeats, trigger=trigger)
    recycle = Recompute(extract, inject, recycle.gate, repeats)
    watch = Watch()
    rollouts = decode(model, prompts, max_new_tokens=NEW, interventions=[recycle, watch])
    for i, (prompt, rollout) in enumerate(zip(prompts, rollouts, strict=True)):
        layers = [layer % model.cfg.n_layers for layer in (extract, inject)]
        tokens, logits = cacheless(hf, prompt, set(thinking), *layers, repeats, trigger)
        assert rollout.token_ids.tolist() == tokens
        for ours, theirs in zip(watch._logits[i], logits, strict=True):
            assert float((ours - theirs).norm() / theirs.norm()) < 1e-3
    assert any(rollout.events for rollout in rollouts)


@pytest.mark.parametrize(
    "idle",
    [
        RecycleRepresentation(1, [5, 6], probability=0.0),
        RecycleRepresentation(1, []),
        RecycleRepresentation(1, [], trigger="input"),
        Recompute(2, 0, uncertain(1e9)),
        Recompute(2, 0, at_random(0.0)),
        SuppressTokens([]),
    ],
    ids=["probability 0", "empty set", "empty set, input", "gate never opens", "rate 0", "nothing suppressed"],
)
def test_what_never_acts_changes_nothing(idle: Intervention) -> None:
    model = F.bridge("qwen3")
    record = ResidualSites(sites=("resid_pre", "resid_post"))
    plain = decode(model, F.prompts(), max_new_tokens=12, record=record)
    with_idle = decode(model, F.prompts(), max_new_tokens=12, record=record, interventions=[idle])
    for a, b in zip(plain, with_idle, strict=True):
        assert torch.equal(a.token_ids, b.token_ids)
        assert torch.equal(a.logprobs, b.logprobs)
        assert all(torch.equal(a.residuals[site], b.residuals[site]) for site in a.residuals)
        assert b.events == []


def test_latent_recursion_stops_when_the_distribution_does() -> None:
    model = F.bridge("llama", torch.float64)
    seen: list[int] = []

    class Count(Intervention):
        def before_choice(self, step: Step) -> None:
            seen.extend(len(row.events) for row in step.rows)

    never = RecurseLatents(top_layers=2, max_iterations=5, entropy_threshold=0.0, tolerance=0.0)
    at_once = RecurseLatents(top_layers=2, max_iterations=5, entropy_threshold=0.0, tolerance=2.0)
    five = Recompute(-1, -2, uncertain(0.0), repeats=5)
    one = Recompute(-1, -2, uncertain(0.0), repeats=1)
    tokens = [decode(model, F.prompts(), max_new_tokens=9, interventions=[i]) for i in (never, five, at_once, one)]
    logprobs = [torch.cat([r.logprobs for r in rollouts]) for rollouts in tokens]
    assert torch.equal(logprobs[0], logprobs[1])
    assert torch.equal(logprobs[2], logprobs[3])
    assert not torch.equal(logprobs[0], logprobs[2])


def test_coins_belong_to_the_row_not_to_its_batch() -> None:
    model = F.bridge("llama", torch.float64)
    gate = Recompute(1, 1, at_random(0.3))
    together = decode(model, F.prompts(), max_new_tokens=20, seed=[1, 2, 3, 4, 5], interventions=[gate])
    alone = decode(model, [F.prompts()[3]], max_new_tokens=20, seed=[4], interventions=[gate])[0]
    assert alone.events == together[3].events
    share = sum(len(r.events) for r in together) / sum(map(len, together))
    assert 0.1 < share < 0.5


def test_suppression_as_plain_transformer_lens_hooks() -> None:
    model = load_model("toy-reasoner", device="cpu")
    ids = SuppressTokens(thinking_token_ids(model, ["Wait", "Hmm"]))
    question = "4 A + 9 B * 3 C - 5 D - 4 E - 6 ? ->"
    ours = decode(model, [question], max_new_tokens=80, interventions=[ids])[0]
    plain = decode(model, [question], max_new_tokens=80)[0]
    assert ours.tokens != plain.tokens
    tokens = torch.tensor([model.tokenizer(question)["input_ids"]])
    with model.hooks(fwd_hooks=ids.hooks(model)):
        out = model.generate(tokens, max_new_tokens=80, do_sample=False, return_type="tokens", verbose=False)
    assert out[0, tokens.shape[1] :].tolist()[: len(ours)] == ours.token_ids.tolist()


def test_suppression_before_recycling_holds_after_it() -> None:
    model = F.bridge("llama", torch.float64)
    plain = decode(model, F.prompts(), max_new_tokens=20)
    thinking = common_tokens(plain, 6)
    both = [SuppressTokens(thinking[:3]), RecycleRepresentation(1, thinking[3:])]
    record = ResidualSites()
    rollouts = decode(model, F.prompts(), max_new_tokens=20, interventions=both, record=record)
    assert not {t for r in rollouts for t in r.token_ids.tolist()} & set(thinking[:3])
    assert any(r.events for r in rollouts)
    assert all(r.residuals["resid_post"].shape[1] == len(r) for r in rollouts)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_continuing_equals_naive_prefill(family: str) -> None:
    hf, model = F.hf_model(family, torch.float64), F.bridge(family, torch.float64)
    plain = decode(model, F.prompts(), max_new_tokens=30)
    # The end of text becomes a token these responses do use, for both sides.
    ends = F.staggering_stops([r.token_ids.tolist() for r in plain])
    configs = [hf.generation_config, model.original_model.generation_config]
    before = [config.eos_token_id for config in configs]
    try:
        for config in configs:
            config.eos_token_id = ends[0]
        token, final = [9, 10], [20, 21, 22]
        think = ContinueThinking(token, budget=25, final_prompt=final, final_tokens=5)
        rollouts = decode(model, F.prompts(), max_new_tokens=25, interventions=[think])
        went_on = 0
        for prompt, rollout in zip(F.prompts(), rollouts, strict=True):
            text = rollout.token_ids.tolist()
            expected: list[int] = []
            while len(expected) < 25:
                new = continued(hf, prompt + expected, 25 - len(expected))
                expected += new
                if expected[-1] != ends[0]:
                    break
                if len(expected) >= 25:
                    expected.pop()
                    break
                expected = [*expected[:-1], *token][:25]
                went_on += 1
            expected += final
            expected += continued(hf, prompt + expected, 5)
            assert text == expected
        assert went_on >= 2
    finally:
        for config, eos in zip(configs, before, strict=True):
            config.eos_token_id = eos


def test_budget_forcing_equals_naive_prefill() -> None:
    hf, model = F.hf_model("llama", torch.float64), F.bridge("llama", torch.float64)
    prompts = F.prompts()
    plain = [r.token_ids.tolist() for r in decode(model, prompts, max_new_tokens=20)]
    end = common_tokens(decode(model, prompts, max_new_tokens=20), 1)[0]
    forcing = BudgetForcing(end, ignore=1, append=[30, 31], max_thinking=12)
    rollouts = decode(model, prompts, max_new_tokens=20, interventions=[forcing])
    for prompt, free, rollout in zip(prompts, plain, rollouts, strict=True):
        cut = free[:12].index(end) if end in free[:12] else None
        expected = free[:12] if cut is None else [*free[:cut], 30, 31]
        if cut is not None:
            expected += continued(hf, prompt + expected, max(0, 12 - len(expected)) or 1)[: 12 - len(expected)]
            expected = expected[:12]
        again = [i for i in range(0 if cut is None else cut + 2, len(expected)) if expected[i] == end]
        # the second time it stands
        expected = expected[: again[0] + 1] if again else [*expected, end]
        expected += continued(hf, prompt + expected, 20 - len(expected))
        assert rollout.token_ids.tolist() == expected
    assert any(r.events for r in rollouts)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecycleRepresentation(3, [5]), "expected a layer from 0 to 2, received layer 3"),
        (lambda: RecycleRepresentation(1, [5], probability=1.5), "expected a probability from 0 to 1"),
        (lambda: RecycleRepresentation(1, [5], repeats=0), "expected repeats >= 1"),
        (lambda: RecycleRepresentation(1, [5], trigger="both"), "expected trigger predicted or input"),
        (lambda: RecurseLatents(4), "expected a layer from 0 to 2"),
        (lambda: SuppressTokens([101]), r"SuppressTokens: expected token ids from 0 to 100 .*received \[101\]"),
        (lambda: SuppressTokens(range(101)), "expected at least one token left to emit, received all 101"),
        (lambda: ContinueThinking([5], budget=0), "expected a budget of at least 1 token, received 0"),
        (
            lambda: ContinueThinking([5], budget=9, final_prompt=""),
            "expected max_new_tokens of at least the budget, 9, received 4",
        ),
        (lambda: ContinueThinking([], budget=4), 'expected a token with at="end"'),
        (lambda: ContinueThinking("ducks", budget=4), "expected text made of words the tokenizer has"),
        (lambda: BudgetForcing("w5 w6"), "expected a delimiter that is one token"),
        (lambda: BudgetForcing(5, max_thinking=0), "a max_thinking of at least 1 token"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_token(make: Any, message: str) -> None:
    model = F.bridge("llama")
    with pytest.raises(InputError, match=message):
        decode(model, F.prompts(1), max_new_tokens=4, interventions=[make()])


def test_a_word_no_token_spells_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected words that are single tokens .*received 'Perhaps'"):
        thinking_token_ids(load_model("toy-reasoner", device="cpu"), ["Wait", "Perhaps"])


SITES = ("resid_pre", "resid_mid", "resid_post", "ln_final")


@pytest.mark.parametrize("family", F.FAMILIES)
@pytest.mark.parametrize("site", SITES)
def test_ones_own_residuals_change_nothing(family: str, site: str) -> None:
    model = F.bridge(family)
    plain = decode(model, F.prompts(3), max_new_tokens=8, record=ResidualSites(sites=SITES))
    own = [PatchResidual(r, 1, range(len(r)), site, rows=[i]) for i, r in enumerate(plain)]
    again = decode(model, F.prompts(3), max_new_tokens=8, interventions=own)
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a.token_ids, b.token_ids)
        torch.testing.assert_close(a.logprobs, b.logprobs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def hf_with_edit(hf: Any, ids: list[int], site: str, layer: int, new: dict[int, torch.Tensor]) -> torch.Tensor:
    """Last logits of a full forward in which the stream at ``site`` takes the values ``new[pos]``."""
    if site in ("resid_pre", "resid_post"):
        return hf_logits(hf, ids, {(site, layer): new})
    blocks, norms, final = modules(hf)
    handles = []

    def put(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        for pos, vector in new.items():
            if pos < value.shape[1]:
                value[0, pos] = vector
        return value

    if site == "ln_final":
        handles.append(final.register_forward_hook(lambda _m, _a, out: put(out)))
    else:
        # resid_mid is no module's output: the block's output is the new value plus what the MLP half makes of it.
        block = blocks[layer]

        def second_half(_m: Any, _a: Any, out: Any) -> Any:
            value = (out[0] if isinstance(out, tuple) else out).clone()
            for pos, vector in new.items():
                if pos < value.shape[1]:
                    mlp = block.mlp(norms[layer](vector[None, None]))
                    if hasattr(block, "post_feedforward_layernorm"):
                        mlp = block.post_feedforward_layernorm(mlp)
                    value[0, pos] = vector + mlp[0, 0]
            return (value, *out[1:]) if isinstance(out, tuple) else value

        handles.append(block.register_forward_hook(second_half))
    try:
        return hf(torch.tensor([ids])).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("family", F.FAMILIES)
@pytest.mark.parametrize("site", SITES)
def test_anothers_residuals_do_what_hugging_face_does(family: str, site: str) -> None:
    hf, model = F.hf_model(family, torch.float64), F.bridge(family, torch.float64)
    prompts = F.prompts(4)
    source = decode(model, [prompts[3]], max_new_tokens=8, record=ResidualSites(sites=SITES))[0]
    patch = PatchResidual(source, 1, {0: 2, 3: 5}, site, rows=[1])
    watch = Watch()
    rollouts = decode(model, prompts[:3], max_new_tokens=8, interventions=[patch, watch])
    plain = decode(model, prompts[:3], max_new_tokens=8)
    assert [torch.equal(a.logprobs, b.logprobs) for a, b in zip(rollouts, plain, strict=True)] == [True, False, True]
    values = source.residuals[site][0 if site == "ln_final" else 1]
    start = len(prompts[1]) - 1
    ids = list(prompts[1])
    for step, token in enumerate(rollouts[1].token_ids.tolist()):
        logits = hf_with_edit(hf, ids, site, 1, {start: values[2], start + 3: values[5]})
        ours = watch._logits[1][step]
        assert float((ours - logits).norm() / logits.norm()) < 1e-5
        ids.append(token)


def test_steering_and_ablating_do_what_they_say() -> None:
    model = F.bridge("llama", torch.float64)
    direction = torch.randn(44, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    record = ResidualSites(layers=1)
    plain = decode(model, F.prompts(3), max_new_tokens=5, record=record)

    def first(intervention: Intervention) -> list[torch.Tensor]:
        rollouts = decode(model, F.prompts(3), max_new_tokens=5, record=record, interventions=[intervention])
        return [r.residuals["resid_post"][0] for r in rollouts]

    before = [r.residuals["resid_post"][0, 0] for r in plain]
    for i, residual in enumerate(first(SteerResidual(direction, 1, [0], scale=2.0))):
        torch.testing.assert_close(residual[0], before[i] + 2 * direction)
    for residual in first(SteerResidual(3 * direction, 1, "response", mode="project_out")):
        torch.testing.assert_close(
            residual @ direction, torch.zeros(len(residual), dtype=torch.float64), atol=1e-9, rtol=0
        )
    for i, residual in enumerate(first(MeanAblate(direction, 1, [0], rows=[2]))):
        torch.testing.assert_close(residual[0], direction if i == 2 else before[i])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 7}, "PatchResidual: expected a layer from 0 to 2, received layer 7"),
        ({"layer": 0}, "expected a rollout that recorded resid_post of layer 0"),
        ({"site": "resid_mid"}, "expected a rollout that recorded resid_mid of layer 1"),
        ({"positions": [50]}, r"expected steps of the source, 0 to 4, received \[50\]"),
        ({"positions": [-2]}, "or response steps from 0"),
    ],
)
def test_patches_that_cannot_be_made_are_refused(change: dict[str, Any], message: str) -> None:
    model = F.bridge("llama")
    source = decode(model, F.prompts(1), max_new_tokens=5, record=ResidualSites(layers=[1]))[0]
    patch = PatchResidual(**{"source": source, "layer": 1, "positions": [0], **change})
    with pytest.raises(InputError, match=message):
        decode(model, F.prompts(1), max_new_tokens=5, interventions=[patch])


def test_a_source_of_another_model_or_width_is_refused() -> None:
    source = decode(F.bridge("llama"), F.prompts(1), max_new_tokens=5, record=ResidualSites())[0]
    with pytest.raises(InputError, match=r"expected a rollout of tiny-qwen2 \(d_model 40\).*tiny-llama \(d_model 44\)"):
        decode(F.bridge("qwen2"), F.prompts(1), max_new_tokens=5, interventions=[PatchResidual(source, 1, [0])])
    with pytest.raises(InputError, match="SteerResidual: expected a finite vector of 40 numbers"):
        decode(F.bridge("qwen2"), F.prompts(1), max_new_tokens=5, interventions=[SteerResidual(torch.ones(44), 1)])


def test_matched_controls_are_as_frequent_and_leave_a_word_of_each_kind() -> None:
    from analyses.problems import bundled_problems
    from analyses.toys.facts import FILLERS, VERBS

    model = load_model("toy-reasoner", device="cpu")
    questions = [problem.question for problem in bundled_problems(40)]
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

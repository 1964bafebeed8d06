"""Thinking longer or shorter, patching, refusals and reproducibility, against plain Hugging Face: naive re-prefill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import families as F
import pytest
import torch
from references import MODELS, SITES, Watch, continued, hf_logits, modules

from interp import InputError, Intervention, ResidualSites, Rollout, decode, interventions
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
    uncertain,
)

IDLE = {
    "probability 0": RecycleRepresentation(1, [5, 6], probability=0.0),
    "empty set": RecycleRepresentation(1, []),
    "empty set, input": RecycleRepresentation(1, [], trigger="input"),
    "gate never opens": RecurseLatents(2, entropy_threshold=1e9),
    "rate 0": Recompute(2, 0, at_random(0.0)),
    "nothing suppressed": SuppressTokens([]),
}


@pytest.mark.parametrize(("name", "which"), [*((name, "all") for name in MODELS), *(("qwen3", one) for one in IDLE)])
def test_what_never_acts_changes_nothing(name: str, which: str) -> None:
    idle = list(IDLE.values()) if which == "all" else [IDLE[which]]
    model, options = F.pair(name)[1], {"max_new_tokens": 9, "record": ResidualSites(sites=SITES)}
    plain = decode(model, F.texts(name, 3), **options)
    with_idle = decode(model, F.texts(name, 3), interventions=idle, **options)
    for a, b in zip(plain, with_idle, strict=True):
        assert_identical(a, b)
        assert b.events == []


def assert_identical(a: Rollout, b: Rollout) -> None:
    """Not close: the same numbers."""
    assert a.token_ids.tolist() == b.token_ids.tolist()
    assert torch.equal(a.logprobs, b.logprobs)
    assert torch.equal(a.entropy, b.entropy)
    assert a.residuals.keys() == b.residuals.keys()
    assert all(torch.equal(a.residuals[site], b.residuals[site]) for site in a.residuals)
    assert (a.events, a.finish_reason) == (b.events, b.finish_reason)


@cache
def short_texts(name: str) -> list[list[int]]:
    """Four prompts; the toy's are bundled problems cut to their first one to three operations, soon answered."""
    texts = F.texts(name, 4)
    return texts if name != "toy" else [[*ids[: 2 + 3 * (1 + i % 3)], *ids[-2:]] for i, ids in enumerate(texts)]


@cache
def staggered_end(name: str) -> int:
    """The token that would, as end of text, end these responses at as many different places as possible.

    Not one that the tests insert.
    """
    free = [r.token_ids.tolist() for r in decode(F.pair(name, torch.float64)[1], short_texts(name), max_new_tokens=15)]
    candidates = sorted({token for response in free for token in response} - {9, 10, 20, 21, 22, 30, 31, 33})
    places = {token: len({response.index(token) for response in free if token in response}) for token in candidates}
    best = max(places, key=lambda token: places[token])
    assert places[best] >= 2, "these responses are too much alike"
    return best


@contextmanager
def ending_with(name: str, end: int | None = None) -> Iterator[tuple[Any, Any, int]]:
    """Model, bridge and end of text; that of a random family becomes, for both sides, a token its responses do use."""
    hf, model = F.pair(name, torch.float64)
    configs = [hf.generation_config, model.original_model.generation_config]
    before = [config.eos_token_id for config in configs]
    end = before[0] if name == "toy" else staggered_end(name) if end is None else end
    try:
        for config in configs:
            config.eos_token_id = end
        yield hf, model, end
    finally:
        for config, eos in zip(configs, before, strict=True):
            config.eos_token_id = eos


def reprefilled(hf: Any, prompt: list[int], end: int, think: ContinueThinking) -> tuple[list[int], int, int]:
    """Continuing by definition: every stretch is decoded from a prompt that holds all before it.

    The response, how many of its tokens come before the final prompt, and how often it went on.
    """
    response: list[int] = list(think.token)[: think.budget] if think.at == "start" else []
    went_on = 0
    while len(response) < think.budget:
        response += continued(hf, prompt + response, think.budget - len(response))
        if response[-1] != end:
            break
        if think.at == "start" or len(response) == think.budget:
            # No more of it: the final prompt takes the place of the end, or the response is over.
            response = response[:-1] if think.final_prompt else response
            break
        response = [*response[:-1], *think.token][: think.budget]
        went_on += 1
    thought = len(response)
    if think.final_prompt:
        response += think.final_prompt
        response += continued(hf, prompt + response, think.final_tokens)
    return response, thought, went_on


THINK = ContinueThinking([9, 10], budget=18, final_prompt=[20, 21, 22], final_tokens=4)
PLAIN = replace(THINK, token=[], at="start")
THINKS = {
    "end": THINK,
    "start": replace(THINK, at="start"),
    "neutral": replace(THINK, token=[33]),  # a control: another token
    "plain": PLAIN,  # a control: none, and as many tokens
    "end, no ending": replace(THINK, final_prompt=[]),
    "plain, no ending": replace(PLAIN, final_prompt=[]),
}
TOY = {"budget": 34, "final_prompt": [29], "final_tokens": 2}  # "Therefore" and an answer


def thinking_on(name: str, how: str) -> ContinueThinking:
    """For the toy with "Wait" ("then" as the neutral control) and with as many tokens as it needs to come to an end."""
    think = THINKS[how]
    if name != "toy":
        return think
    token = think.token and [31 if how == "neutral" else 27]
    return replace(think, **{**TOY, "token": token, "final_prompt": think.final_prompt and TOY["final_prompt"]})


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, how) for how in THINKS for name in MODELS if how in ("end", "start") or name in ("llama", "toy")],
)
def test_continuing_equals_naive_prefill(name: str, how: str) -> None:
    think = thinking_on(name, how)
    with ending_with(name) as (hf, model, end):
        rollouts = decode(model, short_texts(name), max_new_tokens=think.budget, interventions=[think])
        references = [reprefilled(hf, prompt, end, think) for prompt in short_texts(name)]
    total, early = 0, 0
    for rollout, (expected, thought, went_on) in zip(rollouts, references, strict=True):
        assert rollout.token_ids.tolist() == expected
        assert [e.note for e in rollout.events].count("went on") == went_on
        final = rollout.token_ids[thought:].tolist()
        assert final[: len(think.final_prompt)] == think.final_prompt
        assert len(final) <= len(think.final_prompt) + (think.final_tokens if think.final_prompt else 0)
        if think.at == "end":
            # All of the budget is used; only an end in its last place gives way to the final prompt.
            assert thought == think.budget or (thought == think.budget - 1 and think.final_prompt)
        total, early = total + went_on, early + (thought < think.budget - 1)
    assert (total >= 2) == (think.at == "end")
    assert early >= 1 or think.token, "some finish early"


def test_plain_continuation_is_greedy_decoding_cut_at_the_budget() -> None:
    with ending_with("llama") as (hf, model, end):
        rollouts = decode(model, short_texts("llama"), max_new_tokens=18, interventions=[PLAIN])
        for prompt, rollout in zip(short_texts("llama"), rollouts, strict=True):
            greedy = continued(hf, prompt, 18)
            head = greedy[: greedy.index(end)] if end in greedy else greedy
            tail = continued(hf, [*prompt, *head, *PLAIN.final_prompt], 4)
            assert rollout.token_ids.tolist() == [*head, *PLAIN.final_prompt, *tail]


@pytest.mark.parametrize("budget", [1, 2, 3])
@pytest.mark.parametrize("at", ["end", "start"])
def test_budgets_smaller_than_what_is_inserted(budget: int, at: str) -> None:
    # The first prompt's first token is made the end, so that something ends within any budget.
    first = continued(F.hf_model("llama", torch.float64), short_texts("llama")[0], 1)[0]
    with ending_with("llama", first) as (hf, model, end):
        think = replace(THINK, budget=budget, at=at)
        rollouts = decode(model, short_texts("llama"), max_new_tokens=budget, interventions=[think])
        for prompt, rollout in zip(short_texts("llama"), rollouts, strict=True):
            assert rollout.token_ids.tolist() == reprefilled(hf, prompt, end, think)[0]


@torch.no_grad()
def forced(
    hf: Any, prompt: list[int], new: int, eos: int, end: int, ignore: int, append: list[int], limit: int | None
) -> list[int]:
    """Budget forcing by definition, every stretch decoded from a prompt that holds all before it."""
    thought: list[int] = []
    for ignored in range(ignore + 1):
        room = (new if limit is None else limit) - len(thought)
        stretch = continued(hf, prompt + thought, room) if room > 0 else []
        if end not in stretch:
            thought += stretch
            if limit is None or thought[-1] == eos:
                return thought
            thought.append(end)
            break
        thought += stretch[: stretch.index(end)]
        thought += [end] if ignored == ignore else append
        thought = thought[: limit if ignored < ignore else None]
    if thought[-1] == eos:
        return thought
    return thought + continued(hf, prompt + thought, new - len(thought))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("ignore", "limit"), [(0, 8), (1, 15), (2, None)])
def test_budget_forcing_equals_naive_prefill(name: str, ignore: int, limit: int | None) -> None:
    hf, model = F.pair(name, torch.float64)
    new, eos, end, append = 20, hf.generation_config.eos_token_id, -1, [30, 31]
    if name == "toy":  # which has no delimiter but its end of text
        new, limit, end, append = 50, limit and 3 * limit, eos, [27]
    else:
        end = staggered_end(name)
    forcing = BudgetForcing(end, ignore, append, limit)
    rollouts = decode(model, short_texts(name), max_new_tokens=new, interventions=[forcing])
    for prompt, rollout in zip(short_texts(name), rollouts, strict=True):
        assert rollout.token_ids.tolist() == forced(hf, prompt, new, eos, end, ignore, append, limit)
        notes = [e.note for e in rollout.events]
        assert notes.count("delimiter ignored") <= ignore
        assert notes.count("delimiter forced") <= (limit is not None)
    happened = {e.note for rollout in rollouts for e in rollout.events}
    assert ("delimiter ignored" in happened) == (ignore > 0)
    assert ("delimiter forced" in happened) == (limit is not None)


@pytest.mark.parametrize(("name", "temperature"), [("llama", 1.0), ("gemma3", 0.0), ("toy", 0.7)])
@pytest.mark.parametrize("how", ["end", "start", "plain, no ending", "budget"])
def test_rows_that_leave_or_go_on_disturb_nobody(name: str, temperature: float, how: str) -> None:
    with ending_with(name) as (_, model, end):
        limit = 30 if name == "toy" else 12
        intervention: Intervention = BudgetForcing(end, ignore=1, append=[30, 31], max_thinking=limit)
        if how != "budget":
            intervention = thinking_on(name, how)
        options: dict[str, Any] = {"max_new_tokens": 34 if name == "toy" else 18, "temperature": temperature}

        def run(which: Sequence[int], size: int) -> list[Rollout]:
            prompts, seeds = [short_texts(name)[i] for i in which], [20 + i for i in which]
            return decode(model, prompts, interventions=[intervention], seed=seeds, batch_size=size, **options)

        together = run(range(4), 4)
        for others in (run(range(4), 1), run([3, 2, 1, 0], 2)[::-1]):
            for a, b in zip(together, others, strict=True):
                assert a.token_ids.tolist() == b.token_ids.tolist()
                assert (a.events, a.finish_reason) == (b.events, b.finish_reason)
                torch.testing.assert_close(a.logprobs, b.logprobs, atol=1e-5, rtol=1e-5)
        if how == "plain, no ending":
            # Rows stand in the order of their prompts' lengths: one leaves from before one that stays.
            lengths = [len(rollout) for rollout in sorted(together, key=lambda rollout: len(rollout.prompt_ids))]
            assert any(length < max(lengths[i:]) for i, length in enumerate(lengths))
        if how == "end":
            assert any(e.note == "went on" for rollout in together for e in rollout.events)


BANNED = [5, 6, 7, 8, 9]
DIRECTION = torch.randn(44, generator=torch.Generator().manual_seed(4))
TOKENS = range(3, 60)

# One of everything, each acting on the tiny Llama's responses; made anew at each use, some of them from a source
READY: dict[str, Callable[[Rollout], Intervention]] = {
    "recycle": lambda _: RecycleRepresentation(1, TOKENS, probability=0.5),
    "recycle thrice": lambda _: RecycleRepresentation(-1, TOKENS, repeats=3, trigger="input"),
    "recurse": lambda _: RecurseLatents(2, entropy_threshold=0.5),
    "at random": lambda _: Recompute(2, 1, at_random(0.4)),
    "uncertain": lambda _: Recompute(1, 0, uncertain(1.0), repeats=2),
    "suppress": lambda _: SuppressTokens(BANNED),
    "think on": lambda _: ContinueThinking([40], budget=12, final_prompt=[20], final_tokens=3),
    "think first": lambda _: ContinueThinking([40], budget=12, at="start", final_prompt=[20], final_tokens=3),
    "budget": lambda _: BudgetForcing(11, ignore=1, append=[40], max_thinking=9),
    "patch": lambda source: PatchResidual(source, 1, {1: 2, 4: 0}),
    "steer": lambda _: SteerResidual(DIRECTION, 1, "response", scale=3.0),
    "ablate": lambda _: MeanAblate(DIRECTION, 0, [1, 2]),
}


@pytest.fixture(scope="module")
def source() -> Rollout:
    model = F.bridge("llama", torch.float64)
    return decode(model, [F.prompts(7)[5]], max_new_tokens=4, record=ResidualSites(sites=SITES))[0]


def test_nothing_ready_made_is_left_out(source: Rollout) -> None:
    public = {name for name in interventions.__all__ if name[0].isupper()} - {"Metric"}  # the type of a measure
    assert {make(source).describe()["name"] for make in READY.values()} == public


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("which", READY)
def test_the_same_seed_twice_gives_the_same_and_the_last_pass_is_kept(
    which: str, temperature: float, source: Rollout
) -> None:
    hf, model = F.pair("llama", torch.float64)

    def run(*some: Intervention) -> list[Rollout]:
        record = ResidualSites(sites=SITES)
        options: dict[str, Any] = {"max_new_tokens": 12, "temperature": temperature, "seed": 3, "record": record}
        return decode(model, F.prompts(3), interventions=some, **options)

    intervention = READY[which](source)
    first, second = run(intervention), run(intervention)
    for a, b in zip(first, second, strict=True):
        assert_identical(a, b)
        assert a.settings == b.settings == json.loads(json.dumps(a.settings))
    plain = run()
    assert any(not torch.equal(a.logprobs, b.logprobs) for a, b in zip(first, plain, strict=True)), "it does nothing"
    for rollout in first:
        # What was recorded is what the token was chosen from: unembedded, it gives the token's probability.
        with torch.no_grad():
            logits = hf.lm_head(rollout.residuals["ln_final"][0])
        if which == "suppress":
            logits = logits.index_fill(1, torch.tensor(BANNED), float("-inf"))
        expected = logits.log_softmax(-1).gather(1, rollout.token_ids[:, None])[:, 0]
        torch.testing.assert_close(rollout.logprobs.double(), expected, atol=1e-5, rtol=1e-5)
        assert all(values.shape[1] == len(rollout) for values in rollout.residuals.values())


def assert_refused(model: Any, make: Callable[[], Intervention], message: str) -> None:
    """Refused in these words, and before any of the model ran."""
    passes: list[int] = []

    def count(residual: torch.Tensor, hook: Any) -> None:
        passes.append(1)

    with model.hooks(fwd_hooks=[("blocks.0.hook_in", count)]):
        with pytest.raises(InputError, match=message):
            decode(model, F.prompts(2), max_new_tokens=4, interventions=[make()])
        assert passes == []
        decode(model, F.prompts(1), max_new_tokens=2)
        assert passes == [1, 1], "the counter counts"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecycleRepresentation(3, [5]), "expected a layer from 0 to 2, received layer 3"),
        (lambda: RecycleRepresentation(1, [5], probability=1.5), "expected a probability from 0 to 1"),
        (lambda: RecycleRepresentation(1, [5], repeats=0), "expected repeats >= 1"),
        (lambda: RecycleRepresentation(1, [5], trigger="both"), "expected trigger predicted or input"),
        (lambda: RecycleRepresentation(-4, [5]), "expected a layer from 0 to 2, received layer -1"),
        (lambda: Recompute(1, 5, uncertain(1.0)), "expected a layer from 0 to 2, received layer 5 for resid_pre"),
        (lambda: RecurseLatents(4), "expected a layer from 0 to 2"),
        (lambda: RecurseLatents(0), "expected top_layers >= 1, received 0"),
        (lambda: SuppressTokens([101]), r"SuppressTokens: expected token ids from 0 to 100 .*received \[101\]"),
        (lambda: SuppressTokens(range(101)), "expected at least one token left to emit, received all 101"),
        (lambda: ContinueThinking([5], budget=0), "expected a budget of at least 1 token, received 0"),
        (
            lambda: ContinueThinking([5], budget=9, final_prompt=""),
            "expected max_new_tokens of at least the budget, 9, received 4",
        ),
        (lambda: ContinueThinking([], budget=4), 'expected a token with at="end"'),
        (lambda: ContinueThinking("ducks", budget=4), "expected text made of words the tokenizer has"),
        (lambda: ContinueThinking([101], budget=4), r"token ids from 0 to 100 .*received \[101\]"),
        (lambda: ContinueThinking([5], budget=4, final_prompt=[5, -1]), r"token ids from 0 to 100 .*received \[-1\]"),
        (lambda: ContinueThinking([5], budget=4, at="middle"), 'expected at="end" or at="start", received \'middle\''),
        (lambda: ContinueThinking([5], budget=4, final_tokens=0), "expected final_tokens of at least 1, received 0"),
        (lambda: BudgetForcing(101), r"BudgetForcing: expected token ids from 0 to 100 .*received \[101\]"),
        (lambda: BudgetForcing(5, append=[300]), r"BudgetForcing: expected token ids .*received \[300\]"),
        (lambda: BudgetForcing(5, ignore=-1), "expected ignore >= 0"),
        (lambda: BudgetForcing("w5 w6"), "expected a delimiter that is one token"),
        (lambda: BudgetForcing(5, max_thinking=0), "a max_thinking of at least 1 token"),
        (lambda: SteerResidual(torch.ones(44), 3), "SteerResidual: expected a layer from 0 to 2, received layer 3"),
        (lambda: SteerResidual(torch.full((44,), torch.nan), 1), "a finite vector of 44 numbers .* with NaN or inf"),
        (lambda: SteerResidual(torch.ones(44), 1, mode="subtract"), "expected mode add or project_out"),
        (lambda: SteerResidual(torch.zeros(44), 1, mode="project_out"), "expected a direction that is not zero"),
        (lambda: MeanAblate(torch.ones(44), 1, [-1]), '"all", "response", or response steps from 0'),
        (lambda: MeanAblate(torch.ones(40), 1), r"MeanAblate: expected a finite vector of 44 .*received shape \(40,\)"),
        (lambda: MeanAblate(torch.ones(44), -4), "MeanAblate: expected a layer from 0 to 2, received layer -1"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_token(make: Any, message: str) -> None:
    assert_refused(F.bridge("llama"), make, message)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("site", SITES)
def test_ones_own_residuals_change_nothing(name: str, site: str) -> None:
    model, first, second = F.pair(name)[1], Watch(), Watch()
    options = {"max_new_tokens": 6, "record": ResidualSites(sites=SITES)}
    plain = decode(model, F.texts(name, 3), interventions=[first], **options)
    own = [PatchResidual(r, 1, range(len(r)), site, rows=[i]) for i, r in enumerate(plain)]
    again = decode(model, F.texts(name, 3), interventions=[*own, second], **options)
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a.token_ids, b.token_ids)
        torch.testing.assert_close(a.logprobs, b.logprobs, atol=1e-5, rtol=0)
    for row, logits in first._logits.items():
        for a, b in zip(logits, second._logits[row], strict=True):
            assert float((a - b).norm() / a.norm()) <= 1e-5


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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("site", SITES)
def test_anothers_residuals_do_what_hugging_face_does(name: str, site: str) -> None:
    hf, model = F.pair(name, torch.float64)
    prompts = F.texts(name, 4)
    source = decode(model, [prompts[3]], max_new_tokens=6, record=ResidualSites(sites=SITES))[0]
    patch = PatchResidual(source, 1, {0: 2, 3: 5}, site, rows=[1])
    watch = Watch()
    rollouts = decode(model, prompts[:3], max_new_tokens=6, interventions=[patch, watch])
    plain = decode(model, prompts[:3], max_new_tokens=6)
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
    assert_refused(model, lambda: patch, message)


def test_a_source_of_another_model_or_width_is_refused() -> None:
    source = decode(F.bridge("llama"), F.prompts(1), max_new_tokens=5, record=ResidualSites())[0]
    for other, width in (("qwen2", 40), ("qwen3", 44)):
        message = rf"expected a rollout of tiny-{other} \(d_model {width}\).*one of tiny-llama \(d_model 44\)"
        assert_refused(F.bridge(other), lambda: PatchResidual(source, 1, [0]), message)
    narrow = replace(source, residuals={site: values[..., :40] for site, values in source.residuals.items()})
    message = r"expected a rollout of tiny-llama \(d_model 44\).*one of tiny-llama \(d_model 40\)"
    assert_refused(F.bridge("llama"), lambda: PatchResidual(narrow, 1, [0]), message)


def test_a_final_prompt_is_not_cut_by_another_intervention() -> None:
    """The delimiter of budget forcing waits until what another intervention forces has been said."""
    model = F.bridge("llama")
    think = ContinueThinking([40], budget=10, final_prompt=[20, 21, 22, 23], final_tokens=3)
    force = BudgetForcing(33, append=[40], max_thinking=12)
    tokens = decode(model, F.prompts(1), max_new_tokens=10, interventions=[think, force])[0].token_ids.tolist()
    assert tokens[10:15] == [20, 21, 22, 23, 33]


def test_subclasses_keep_what_they_override() -> None:
    class Louder(SteerResidual):
        def edit_residual(self, site: Any, residual: Tensor, at: Any) -> Tensor:
            return residual + 100.0

    model = F.bridge("llama")
    plain, loud = (
        decode(model, F.prompts(1), max_new_tokens=4, interventions=[kind(torch.ones(44), 1, scale=0.0)])[0]
        for kind in (SteerResidual, Louder)
    )
    assert not torch.equal(plain.logprobs, loud.logprobs)


def test_names_of_ones_own_do_not_get_in_the_way() -> None:
    class Mine(SteerResidual):
        name = "mine"

    row = decode(F.bridge("llama"), F.prompts(1), max_new_tokens=2, interventions=[Mine(torch.ones(44), 1)])[0]
    assert row.settings["interventions"][0]["name"] == "Mine"


def test_two_recyclers_have_coins_of_their_own() -> None:
    model = F.bridge("llama")
    both = [RecycleRepresentation(layer, range(3, F.VOCAB), probability=0.5) for layer in (0, 2)]
    rollout = decode(model, F.prompts(1), max_new_tokens=40, interventions=both)[0]
    steps = [{e.step for e in rollout.events if f"into block {layer}" in e.note} for layer in (0, 2)]
    assert steps[0] - steps[1]
    assert steps[1] - steps[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecycleRepresentation(1, [999, -5]), "token ids from 0 to 100"),
        (lambda: Recompute(1, 1, at_random(1.5)), "a rate from 0 to 1"),
        (lambda: Recompute(1, 1, at_random(0.5), tolerance=-1.0), "tolerance of 0 or more"),
    ],
)
def test_wrong_tokens_and_rates_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(F.bridge("llama"), F.prompts(1), max_new_tokens=2, interventions=[make()])


def test_an_empty_patch_changes_nothing() -> None:
    model = F.bridge("llama")
    plain = decode(model, F.prompts(1), max_new_tokens=5, record=ResidualSites())[0]
    patched = decode(model, F.prompts(1), max_new_tokens=5, interventions=[PatchResidual(plain, 1, [])])[0]
    assert torch.equal(plain.token_ids, patched.token_ids)

"""Thinking longer or shorter against plain Hugging Face: every stretch decoded from a prompt that holds all before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import families as F
import pytest
import torch
from references import MODELS, continued

from interp import Intervention, Rollout, decode
from interp.interventions import BudgetForcing, ContinueThinking


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


# Grouped keys and rotary positions; a sliding window; learned positions; words.
SOME = ("llama", "gemma3", "gpt2", "toy")
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
    [
        (name, how)
        for how, names in (
            ("end", SOME),
            ("start", ("llama", "gemma3", "toy")),
            ("neutral", ("toy",)),
            ("plain", ("llama", "gpt2")),
            ("end, no ending", ("llama",)),
            ("plain, no ending", ("toy",)),
        )
        for name in names
    ],
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
        stretch = continued(hf, prompt + thought, room, end) if room > 0 else []
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


@pytest.mark.parametrize(
    ("name", "ignore", "limit"),
    [
        *((name, 0, 8) for name in ("llama", "gpt2", "toy")),
        *((name, 1, 15) for name in MODELS),
        *((name, 2, None) for name in ("llama", "gemma3")),
    ],
)
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
        notes = [e.note for e in rollout.events if e.is_act]
        assert notes.count("delimiter ignored") <= ignore
        assert notes.count("delimiter forced") <= (limit is not None)
    happened = {e.note for rollout in rollouts for e in rollout.events}
    assert ("delimiter ignored" in happened) == (ignore > 0)
    assert ("delimiter forced" in happened) == (limit is not None)


@pytest.mark.parametrize(
    ("name", "temperature", "how"),
    [
        *(("llama", 1.0, how) for how in ("end", "start", "plain, no ending", "budget")),
        ("toy", 0.7, "plain, no ending"),
        ("gemma3", 0.0, "budget"),
    ],
)
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


def test_a_final_prompt_is_not_cut_by_another_intervention() -> None:
    """The delimiter of budget forcing waits until what another intervention forces has been said."""
    model = F.bridge("llama")
    think = ContinueThinking([40], budget=10, final_prompt=[20, 21, 22, 23], final_tokens=3)
    force = BudgetForcing(33, append=[40], max_thinking=12)
    tokens = decode(model, F.prompts(1), max_new_tokens=10, interventions=[think, force])[0].token_ids.tolist()
    assert tokens[10:15] == [20, 21, 22, 23, 33]

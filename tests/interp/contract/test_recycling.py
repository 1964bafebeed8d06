"""Positions run again, alone and together with suppression, against cacheless full forwards of plain Hugging Face."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import families as F
import pytest
import torch
from references import MODELS, Watch, asked_once, assert_close, common_tokens, modules
from torch import Tensor

from interp import ResidualSites, Rollout, decode
from interp.interventions import (
    Recompute,
    RecurseLatents,
    RecycleRepresentation,
    SuppressTokens,
    at_random,
    thinking_token_ids,
    uncertain,
)

NEW = 10


@dataclass
class Reference:
    """A response by definition: its tokens, where it was recycled, logits and stream of each step's last pass."""

    tokens: list[int] = field(default_factory=list)
    recycled: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    residuals: list[Tensor] = field(default_factory=list)


@dataclass
class Whole:
    """Plain Hugging Face, all of every text in one causal pass: right-padded, so that no token sees padding.

    Block ``inject``'s input at position ``pos`` of text ``i`` is replaced by ``swaps[i][pos]``.
    """

    hf: Any
    inject: int
    swaps: list[dict[int, Tensor]]

    @torch.no_grad()
    def __call__(self, texts: list[list[int]], which: list[int]) -> tuple[Tensor, Tensor]:
        """Logits ``[which, d_vocab]`` and block outputs ``[which, layer, d_model]`` at each text's last position."""
        blocks = modules(self.hf)[0]
        last = torch.arange(len(which)), torch.tensor([len(texts[i]) - 1 for i in which])
        ids = torch.zeros(len(which), int(last[1].max()) + 1, dtype=torch.long)
        for k, i in enumerate(which):
            ids[k, : len(texts[i])] = torch.tensor(texts[i])
        outputs: list[Tensor] = []

        def swap(_module: Any, args: Any, kwargs: Any) -> Any:
            stream = (args[0] if args else kwargs["hidden_states"]).clone()
            for k, i in enumerate(which):
                for pos, new in self.swaps[i].items():
                    stream[k, pos] = new
            return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})

        def catch(_module: Any, _args: Any, out: Any) -> None:
            outputs.append((out[0] if isinstance(out, tuple) else out)[last])

        handles = [block.register_forward_hook(catch) for block in blocks]
        handles.append(blocks[self.inject].register_forward_pre_hook(swap, with_kwargs=True))
        try:
            return self.hf(ids).logits[last], torch.stack(outputs, 1)
        finally:
            for handle in handles:
                handle.remove()


@asked_once
def cacheless(
    hf: Any,
    prompts: list[list[int]],
    thinking: Collection[int],
    *,
    extract: int,
    inject: int,
    repeats: int = 1,
    trigger: str = "predicted",
    banned: Sequence[int] = (),
    banned_first: bool = True,
    new: int = NEW,
) -> list[Reference]:
    """Recycling by definition: at every recycled position the substitution is made again in each later full forward.

    ``banned`` tokens are never chosen; with ``banned_first`` they are no candidates for recycling either.
    """
    texts, done = [list(prompt) for prompt in prompts], [Reference() for _ in prompts]
    whole = Whole(hf, inject, [{} for _ in prompts])
    suppressed = torch.tensor(banned, dtype=torch.long)
    live = list(range(len(prompts)))
    for t in range(new):
        logits, outputs = whole(texts, live)
        candidates = (logits.index_fill(1, suppressed, float("-inf")) if banned_first else logits).argmax(-1).tolist()
        where = [
            k for k, i in enumerate(live) if (candidates[k] if trigger == "predicted" else texts[i][-1]) in thinking
        ]
        for _ in range(repeats if where else 0):
            for k in where:
                whole.swaps[live[k]][len(texts[live[k]]) - 1] = outputs[k, extract].clone()
            logits[where], outputs[where] = whole(texts, [live[k] for k in where])
        logits = logits.index_fill(1, suppressed, float("-inf"))
        for k, i in enumerate(live):
            texts[i].append(int(logits[k].argmax()))
            done[i].logits.append(logits[k])
            done[i].residuals.append(outputs[k])
            if k in where:
                done[i].recycled.append(t)
        live = [i for i in live if texts[i][-1] != hf.generation_config.eos_token_id]
        if not live:
            break
    for text, prompt, reference in zip(texts, prompts, done, strict=True):
        reference.tokens = text[len(prompt) :]
    return done


def assert_equal_to_reference(rollout: Rollout, watched: list[Tensor], reference: Reference) -> None:
    assert rollout.token_ids.tolist() == reference.tokens
    for ours, theirs in zip(watched, reference.logits, strict=True):
        assert torch.equal(ours.isinf(), theirs.isinf())
        real = theirs.isfinite()
        assert float((ours - theirs)[real].norm() / theirs[real].norm()) < 1e-3
    assert_close(rollout.residuals["resid_post"], torch.stack(reference.residuals, 1), "resid_post of the last pass")
    assert [
        e.step for e in rollout.events if e.intervention == "RecycleRepresentation" and e.is_act
    ] == reference.recycled


# What is cached is an engine's own: another's must not stand in for it.


@cache
def plain(engine: type, name: str) -> list[Rollout]:
    return decode(F.pair(name, torch.float64)[1], F.texts(name), max_new_tokens=NEW)


@cache
def thinking_ids(engine: type, name: str) -> frozenset[int]:
    model = F.pair(name, torch.float64)[1]
    if name == "toy":
        spelled = thinking_token_ids(model, ["Wait", "Hmm", "So", "Okay", "Therefore"])
        return frozenset(i for ids in spelled.values() for i in ids)
    return frozenset(common_tokens(plain(engine, name)))


# What is extracted, where it is put, how often, at what.
CASES = {
    "at the first block": (0, 0, 1, "predicted"),
    "thrice": (1, 1, 3, "predicted"),
    "at the last block": (-1, -1, 2, "predicted"),
    "what was read": (1, 1, 1, "input"),
    "from the last to the second": (-1, 1, 2, "predicted"),
}
# Every case on llama; each on another kind of model too, and each model in a batch; on families that attend as llama
# does, one case each. Row 4 alone.
SOME = {
    "gemma3": ("at the first block", "thrice", "from the last to the second"),
    "gpt2": ("at the last block", "what was read"),
    "toy": ("at the last block", "what was read"),
    "qwen2": ("what was read",),
    "qwen3": ("thrice",),
}
ALONE = {"llama": "thrice", "gemma3": "what was read", "toy": "thrice"}


def references_of(engine: type, name: str, extract: int, inject: int, repeats: int, trigger: str) -> list[Reference]:
    options = {"extract": extract, "inject": inject, "repeats": repeats, "trigger": trigger}
    return cacheless(F.pair(name, torch.float64)[0], F.texts(name), thinking_ids(engine, name), **options)


def _cases() -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for name in MODELS:
        found += [(name, *CASES[case], range(5)) for case in SOME.get(name, CASES)]
        found += [(name, *CASES[ALONE[name]], [4])] if name in ALONE else []
    return found


@pytest.mark.parametrize(("name", "extract", "inject", "repeats", "trigger", "rows"), _cases())
def test_recycling_equals_a_cacheless_reference(
    engine: type, name: str, extract: int, inject: int, repeats: int, trigger: str, rows: Sequence[int]
) -> None:
    model = F.pair(name, torch.float64)[1]
    recycle = RecycleRepresentation(1, thinking_ids(engine, name), repeats=repeats, trigger=trigger)
    # The same with an extracted layer of its own, counted from the end where it is given so
    recycle = replace(recycle, extract=extract, inject=inject)
    watch = Watch()
    prompts = [F.texts(name)[row] for row in rows]
    rollouts = decode(model, prompts, max_new_tokens=NEW, interventions=[recycle, watch], record=ResidualSites())
    layers = [layer % model.cfg.n_layers for layer in (extract, inject)]
    references = [references_of(engine, name, *layers, repeats, trigger)[row] for row in rows]
    for i, reference in enumerate(references):
        assert_equal_to_reference(rollouts[i], watch._logits[i], reference)
    assert watch._excess == {0}, "one cache entry a position"
    # In the batch some step was run again for some of its rows and not for others; alone, some steps were.
    shares = [sum(t in references[i].recycled for i in alive) / len(alive) for t, alive in enumerate(watch._alive)]
    assert any(0 < share < 1 for share in shares) if len(rows) > 1 else set(shares) == {0, 1}
    before = [plain(engine, name)[row] for row in rows]
    assert any(not torch.equal(a.logprobs, b.logprobs) for a, b in zip(rollouts, before, strict=True))


def test_latent_recursion_stops_when_the_distribution_does() -> None:
    model = F.bridge("llama", torch.float64)
    never = RecurseLatents(top_layers=2, max_iterations=5, entropy_threshold=0.0, tolerance=0.0)
    at_once = RecurseLatents(top_layers=2, max_iterations=5, entropy_threshold=0.0, tolerance=2.0)
    five = Recompute(-1, -2, uncertain(0.0), repeats=5)
    one = Recompute(-1, -2, uncertain(0.0), repeats=1)
    tokens = [decode(model, F.prompts(), max_new_tokens=6, interventions=[i]) for i in (never, five, at_once, one)]
    logprobs = [torch.cat([r.logprobs for r in rollouts]) for rollouts in tokens]
    assert torch.equal(logprobs[0], logprobs[1])
    assert torch.equal(logprobs[2], logprobs[3])
    assert not torch.equal(logprobs[0], logprobs[2])


def test_coins_belong_to_the_row_not_to_its_batch() -> None:
    model = F.bridge("llama", torch.float64)
    gate = Recompute(1, 1, at_random(0.3))
    together = decode(model, F.prompts(), max_new_tokens=12, seed=[1, 2, 3, 4, 5], interventions=[gate])
    alone = decode(model, [F.prompts()[3]], max_new_tokens=12, seed=[4], interventions=[gate])[0]
    assert alone.events == together[3].events
    share = sum(e.is_act for r in together for e in r.events) / sum(map(len, together))
    assert 0.1 < share < 0.5


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "toy"])
def test_suppression_and_recycling_in_either_order(engine: type, name: str) -> None:
    """[suppress, recycle] recycles by what suppression leaves; [recycle, suppress] by the raw logits.

    Some tokens are only suppressed, some both suppressed and recycled at, some only recycled at.
    """
    hf, model = F.pair(name, torch.float64)
    common = common_tokens(plain(engine, name), 12)
    if name == "toy":
        groups = (["Okay", "next"], ["So", "now", "Wait"], ["then", "here", "Hmm", "is", "gives"])
        words = [thinking_token_ids(model, group) for group in groups]
        only, both, recycled = ([i for ids in group.values() for i in ids] for group in words)
    else:
        only, both, recycled = common[:2], common[2:4], common[4:8]
    suppress, recycle = SuppressTokens(only + both), RecycleRepresentation(1, both + recycled, repeats=2)
    outcomes, record, new = [], ResidualSites(), 20 if name == "toy" else 14
    for order in ([suppress, recycle], [recycle, suppress]):
        watch = Watch()
        rollouts = decode(model, F.texts(name), max_new_tokens=new, interventions=[*order, watch], record=record)
        banned = {"banned": only + both, "banned_first": order[0] is suppress, "new": new}
        references = cacheless(hf, F.texts(name), {*both, *recycled}, extract=1, inject=1, repeats=2, **banned)
        for row, (rollout, reference) in enumerate(zip(rollouts, references, strict=True)):
            assert_equal_to_reference(rollout, watch._logits[row], reference)
            assert not set(reference.tokens) & {*only, *both}
        assert watch._excess == {0}
        assert any(reference.recycled for reference in references)
        outcomes.append([rollout.token_ids.tolist() for rollout in rollouts])
    assert outcomes[0] != outcomes[1], "the two orders say the same here, so nothing tells them apart"

"""Heads ablated and patched against plain Hugging Face with the same done to its own modules."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import families as F
import pytest
import torch
from references import Watch, assert_refused, hf_places, hf_within, ids_read, modules, steps_close
from torch import Tensor

from interp import InputError, Intervention, ResidualSites, Rollout, Site, decode, read, score
from interp.interventions import HeadAblate, MaskAttention, PatchHead, Recompute, RecycleRepresentation

RECORD = ResidualSites(sites=("z", "attn_out", "k"))
HEADS = [(0, 3), (1, 0), (1, 2)]


@pytest.fixture(scope="module")
def source() -> Callable[[str], list[Rollout]]:
    """Responses of a family to take heads from."""
    known: dict[str, list[Rollout]] = {}

    def of(family: str) -> list[Rollout]:
        if family not in known:
            known[family] = decode(F.bridge(family, torch.float64), F.prompts(5)[3:], max_new_tokens=6, record=RECORD)
        return known[family]

    return of


@pytest.mark.parametrize("family", F.FAMILIES)
def test_without_any_head_attention_is_its_bias(family: str) -> None:
    """Zero in every head of every layer: attention gives b_O, and what follows is what Hugging Face makes of that."""
    hf, model = F.pair(family, torch.float64)
    layers, watch = len(modules(hf)[0]), Watch()
    every = HeadAblate([(layer, head) for layer in range(layers) for head in range(4)])
    rollouts = decode(model, F.prompts(3), max_new_tokens=4, record=RECORD, interventions=[every, watch])
    bias = {layer: hf_places(hf, layer)["z"][0].bias for layer in range(layers)}
    if family == "gpt2":
        assert all(float(b.detach().abs().min()) > 0 for b in bias.values())
    for n, rollout in enumerate(rollouts):

        def leave_bias(site: str, layer: int, value: Tensor) -> Tensor | None:
            return None if site != "attn_out" else torch.zeros_like(value) + (0 if bias[layer] is None else bias[layer])

        logits, kept = hf_within(hf, ids_read(rollout), leave_bias)
        steps_close(watch, n, logits, len(rollout.prompt_ids) - 1)
        start = len(rollout.prompt_ids) - 1
        torch.testing.assert_close(rollout.residuals["attn_out"], kept["attn_out"][:, start:])
        assert not rollout.residuals["z"].any()


@pytest.mark.parametrize("family", F.FAMILIES)
def test_heads_do_what_hugging_face_does(family: str, source: Callable[[str], list[Rollout]]) -> None:
    """Decoded with a cache and side by side, a row an intervention; read at once; and a full pass of Hugging Face."""
    hf, model = F.pair(family, torch.float64)
    taken, prompts, watch = source(family), F.prompts(5), Watch()
    z = torch.cat([r.residuals["z"] for r in taken], 1)  # [layer, step, head, d_head]
    done = {
        "zero": HeadAblate(HEADS, rows=[0]),
        "mean": HeadAblate(HEADS, "mean", taken, "response", rows=1),
        "resample": HeadAblate(HEADS, "resample", taken, rows=-3),
        "patch": PatchHead(taken[0], HEADS, {0: 2, 3: -1}, rows=3),
    }
    plain = decode(model, prompts, max_new_tokens=5)
    rollouts = decode(model, prompts, max_new_tokens=5, interventions=[*done.values(), watch], record=RECORD)
    assert [torch.equal(a.logprobs, b.logprobs) for a, b in zip(rollouts, plain, strict=True)] == [False] * 4 + [True]
    again = read(model, prompts, [r.token_ids for r in rollouts], record=RECORD, interventions=list(done.values()))
    for row, how in enumerate(done):
        ids, start = ids_read(rollouts[row]), len(prompts[row]) - 1
        drawn = _drawn(done[how], model, prompts[row], len(ids)) if how == "resample" else []

        def edit(
            site: str, layer: int, value: Tensor, how: str = how, start: int = start, drawn: list[int] = drawn
        ) -> Tensor | None:
            mine = [head for of, head in HEADS if of == layer]
            if site != "z" or not mine:
                return None
            if how == "zero":
                value[:, mine] = 0
            elif how == "mean":
                value[start:, mine] = z[layer].mean(0)[mine]
            elif how == "resample":
                value[:, mine] = z[layer, drawn][:, mine]
            else:
                value[start, mine] = taken[0].residuals["z"][layer, 2][mine]
                value[start + 3, mine] = taken[0].residuals["z"][layer, 5][mine]
            return value

        logits, kept = hf_within(hf, ids, edit)
        steps_close(watch, row, logits, start)
        for rollout in (rollouts[row], again[row]):
            torch.testing.assert_close(rollout.residuals["z"], kept["z"][:, start:], atol=1e-5, rtol=1e-4)


def _for_row_0(one: Any) -> Any:
    """The same intervention, for a response that is alone."""
    alone = copy.copy(one)
    alone.rows = (0,)
    return alone


def _drawn(one: Any, model: Any, prompt: list[int], count: int) -> list[int]:
    """Which steps of the pool stand at each position, by what the first of the heads has there."""
    seen: list[Tensor] = []
    layer, head = HEADS[0]

    class Spy(Intervention):
        edits = (Site("z", layer),)

        def edit_residual(self, site: Any, residual: Tensor, at: Any) -> None:
            seen.append(residual[0].clone().cpu())

    decode(model, [prompt], max_new_tokens=count - len(prompt) + 1, interventions=[_for_row_0(one), Spy()])
    pool = torch.cat([r.residuals["z"][layer, :, head] for r in one.source])
    values = torch.cat(seen)[:, head]
    places = [int((pool == value).all(-1).nonzero()[0, 0]) for value in values]
    assert len(set(places)) > 3, "drawn, not the same each time"
    return places


def test_draws_hang_on_seed_prompt_and_position_alone(source: Callable[[str], list[Rollout]]) -> None:
    model, taken, prompts = F.bridge("llama", torch.float64), source("llama"), F.prompts(3)

    def first(seed: int, some: list[list[int]], size: int = 16) -> list[Tensor]:
        one = HeadAblate((0, 1), "resample", taken, seed=seed)
        rollouts = decode(model, some, max_new_tokens=4, interventions=one, record=RECORD, batch_size=size)
        return [r.residuals["z"][0, :, 1] for r in rollouts]

    together, alone = first(0, prompts), first(0, prompts[::-1], 1)[::-1]
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together[0], first(1, prompts)[0])
    # A row is given nothing of a response to its own prompt, unless there is no other.
    own = [r.prompt_ids.tolist() for r in taken]
    pools = [r.residuals["z"][0, :, 1] for r in taken]
    for row, values in enumerate(first(0, own)):
        assert all((pools[1 - row] == value).all(-1).any() for value in values)
    only = HeadAblate((0, 1), "resample", taken[0])
    (rollout,) = decode(model, own[:1], max_new_tokens=4, interventions=only, record=RECORD)
    assert all((pools[0] == value).all(-1).any() for value in rollout.residuals["z"][0, :, 1])


def test_a_position_run_again_has_its_draw_and_its_mask(source: Callable[[str], list[Rollout]]) -> None:
    """Block 1 runs again on its own input: nothing changes, whatever is done to its heads."""
    model = F.bridge("qwen3", torch.float64)
    for one in (HeadAblate((1, 1), "resample", source("qwen3")), MaskAttention((1, 3), of="prompt")):
        watch, again = Watch(), Watch()
        same = Recompute(0, 1, lambda step: [step.t == 2] * len(step.rows))
        decode(model, F.prompts(3), max_new_tokens=4, interventions=[one, watch])
        decode(model, F.prompts(3), max_new_tokens=4, interventions=[one, same, again])
        for row, logits in watch._logits.items():
            torch.testing.assert_close(torch.stack(again._logits[row]), torch.stack(logits), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("family", ["gemma3"])
def test_rows_that_leave_or_run_again_leave_the_others_as_they_are(
    family: str, source: Callable[[str], list[Rollout]]
) -> None:
    """All of it at once, drawn, recycled, at left-padded rows that end at different steps: as each row alone."""
    model, taken = F.bridge(family, torch.float64), source(family)
    stops = F.staggering_stops([r.token_ids.tolist() for r in decode(model, F.prompts(), max_new_tokens=11)])
    some = [
        HeadAblate([(0, 1)], "resample", taken), HeadAblate([(1, 0)], "mean", taken, [2, 5]),
        PatchHead(taken[0], (2, 2), [1, 3]), MaskAttention((1, 3)),
        MaskAttention({1: (-4, None), 3: (0, 2)}, [(1, 1)], "prompt"),
        RecycleRepresentation(1, range(3, 100), probability=0.5),
    ]  # fmt: skip
    options = {"stop": stops, "interventions": some, "record": RECORD, "temperature": 0.7, "seed": 5}
    together, alone = (decode(model, F.prompts(), max_new_tokens=11, batch_size=n, **options) for n in (16, 1))
    assert len({len(r) for r in together}) >= 3
    for a, b in zip(together, alone, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        assert a.events == b.events
        for site, values in a.residuals.items():
            torch.testing.assert_close(values, b.residuals[site], atol=1e-4, rtol=1e-4)


def test_means_are_given_in_any_form(source: Callable[[str], list[Rollout]]) -> None:
    model, taken = F.bridge("gpt2", torch.float64), source("gpt2")
    z = torch.cat([r.residuals["z"] for r in taken], 1).mean(1)
    means = torch.stack([z[layer, head] for layer, head in HEADS])
    given = [taken, tuple(taken), means, means.numpy(), dict(zip(HEADS, means, strict=True))]
    first, *others = [
        decode(model, F.prompts(2), max_new_tokens=3, interventions=HeadAblate(HEADS, "mean", one)) for one in given
    ]
    for other in others:
        for a, b in zip(first, other, strict=True):
            torch.testing.assert_close(a.logprobs, b.logprobs)
    none = decode(model, F.prompts(2), max_new_tokens=3, interventions=HeadAblate([]))
    assert [r.token_ids.tolist() for r in none] == [
        r.token_ids.tolist() for r in decode(model, F.prompts(2), max_new_tokens=3)
    ]  # fmt: skip
    last = HeadAblate([(-1, -1)]), HeadAblate([(2, 3)])
    a, b = (score(model, F.prompts(1), [[5, 6, 7]], interventions=one)[0].logprobs for one in last)
    assert torch.equal(a, b)


@pytest.mark.parametrize("site", ["q", "k", "v", "z"])
def test_ones_own_heads_change_nothing(site: str) -> None:
    """Of k and v the key/value heads; a TransformerLens interchange goes in as exchange."""
    model = F.bridge("qwen2", torch.float64)
    record = ResidualSites(sites=(site,))
    plain = decode(model, F.prompts(2), max_new_tokens=5, record=record)
    heads = [(layer, head) for layer in range(3) for head in range(2 if site in "kv" else 4)]
    own = [PatchHead(r, heads, range(len(r)), site, rows=i) for i, r in enumerate(plain)]
    again = decode(model, F.prompts(2), max_new_tokens=5, record=record, interventions=own)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a.residuals[site], b.residuals[site])
    half = PatchHead(plain[0], [(1, 1)], [2], site, exchange=lambda here, there: (here + there) / 2, rows=1)
    mixed = decode(model, F.prompts(2), max_new_tokens=5, record=record, interventions=half)[1].residuals[site]
    both = (plain[1].residuals[site][1, 2, 1] + plain[0].residuals[site][1, 2, 1]) / 2
    torch.testing.assert_close(mixed[1, 2, 1], both)


@pytest.mark.parametrize(("family", "dtype"), [("gemma3", torch.bfloat16)], ids=str)
def test_half_precision(family: str, dtype: torch.dtype) -> None:
    model, prompts = F.bridge(family, dtype), F.prompts(2)
    taken = decode(model, prompts, max_new_tokens=4, record=RECORD)
    interventions = [
        HeadAblate(HEADS), HeadAblate(HEADS, "mean", taken), HeadAblate(HEADS, "resample", taken),
        PatchHead(taken[0], HEADS, [0, 2]), PatchHead(taken[0], [(1, 1)], [0], "k"), MaskAttention((0, 2), of="prompt"),
    ]  # fmt: skip
    for one in interventions:
        for rollout in decode(model, prompts, max_new_tokens=4, interventions=one, record=RECORD):
            assert rollout.logprobs.isfinite().all()
            assert rollout.residuals["z"].dtype == dtype
    blind = decode(model, prompts, max_new_tokens=4, interventions=MaskAttention((0, 2), [(0, 1)], "prompt"))
    assert not torch.equal(blind[1].logprobs, taken[1].logprobs)


def test_what_did_not_happen_is_told() -> None:
    model = F.bridge("llama")
    plain = decode(model, F.prompts(1), max_new_tokens=4)[0]
    for span in ((0, 2), (0, 3), (1, 9)):  # four tokens, of which the last is not read
        rollout = decode(model, F.prompts(1), max_new_tokens=4, interventions=[MaskAttention(span)])[0]
        did = not torch.allclose(rollout.logprobs, plain.logprobs, atol=1e-4)  # masks are the bridge's, whoever decodes
        notes = [event.note for event in rollout.events]
        assert (did, notes) == (
            (True, []) if span == (0, 2) else (False, ["not reached: no token after its span was read"])
        )
    source = decode(model, F.prompts(1), max_new_tokens=5, record=RECORD)[0]
    late = decode(model, F.prompts(1), max_new_tokens=3, interventions=[PatchHead(source, (0, 0), [1, 4])])[0]
    assert [event.note for event in late.events] == ["not reached: step 4"]


def test_descriptions_tell_sources_apart(source: Callable[[str], list[Rollout]]) -> None:
    taken = source("llama")
    model = F.bridge("llama", torch.float64)
    described = [
        decode(model, F.prompts(1), max_new_tokens=1, interventions=one)[0].settings["interventions"][0]
        for one in (
            HeadAblate(HEADS), HeadAblate(HEADS[:2]),
            HeadAblate(HEADS, "mean", taken), HeadAblate(HEADS, "mean", taken[0]),
            HeadAblate(HEADS, "resample", taken), HeadAblate(HEADS, "resample", taken, seed=1),
            PatchHead(taken[0], HEADS, [0]), PatchHead(taken[1], HEADS, [0]), MaskAttention((0, 1), of="prompt"),
            MaskAttention((0, 1), (0, 0), of="prompt"),
        )
    ]  # fmt: skip
    assert len({str(one) for one in described}) == len(described)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: HeadAblate((1, 4)), r"HeadAblate: expected a head from 0 to 3 .*of z of layer 1, received head 4"),
        (lambda s: HeadAblate((3, 0)), "HeadAblate: expected a layer from 0 to 2, received layer 3"),
        (lambda s: PatchHead(s, (1, 2), [0], "k"), "PatchHead: expected a head from 0 to 1 .*of k of layer 1"),
        (lambda s: PatchHead(s, (1, 2), [50]), "PatchHead: expected steps of the source, 0 to 5"),
        (lambda s: PatchHead(s, (1, 2), [0], "q"), "PatchHead: expected a rollout that recorded q of layer 1"),
        (lambda s: HeadAblate((1, 2), "mean", torch.zeros(1, 9)), r"expected means of 10 numbers .*shape \(9,\)"),
        (lambda s: HeadAblate((1, 2), "mean", torch.zeros(2, 10)), r"expected means of 1 heads, \[head, d_head\]"),
        (lambda s: HeadAblate((1, 2), "mean", {(1, 1): torch.zeros(10)}), r"a mean for each head, .*\(1, 2\)"),
        (lambda s: HeadAblate((1, 2), "mean", torch.full((1, 10), torch.nan)), "expected means without NaN and inf"),
        (lambda s: HeadAblate((1, 2), positions="prompt"), 'expected "all", "response", or response steps'),
        (lambda s: MaskAttention((0, 3), (9, 0), "prompt"), "MaskAttention: expected a layer from 0 to 2"),
        (lambda s: MaskAttention((0, 3), (0, 9), "prompt"), "MaskAttention: expected a head from 0 to 3"),
        (lambda s: MaskAttention((2, 9), of="prompt"), "a span within the 3 tokens of the prompt of prompt 0"),
        (lambda s: MaskAttention((-9, -1), of="prompt"), "a span within the 3 tokens of the prompt of prompt 0"),
        (lambda s: MaskAttention((4, 5)), "a span within the 4 tokens of the response of prompt 0"),
        (lambda s: MaskAttention({2: (0, 1)}), "MaskAttention: expected rows from 0 to 1"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_pass(
    make: Callable[[Rollout], Intervention], message: str, source: Callable[[str], list[Rollout]]
) -> None:
    taken = source("llama")[0]  # decoded before passes are counted
    assert_refused(F.bridge("llama", torch.float64), lambda: make(taken), message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeadAblate([3, 1, 2]), r"HeadAblate: expected heads as \(layer, head\), one or several"),
        (lambda: HeadAblate([(1, 2, 3)]), r"HeadAblate: expected heads as \(layer, head\), one or several"),
        (lambda: HeadAblate((1, 2), "median"), 'HeadAblate: expected how "zero" or "mean" or "resample"'),
        (lambda: HeadAblate((1, 2), "mean"), 'HeadAblate: expected a source with how="mean", received none'),
        (lambda: HeadAblate((1, 2), "zero", []), 'HeadAblate: expected no source with how="zero"'),
        (lambda: HeadAblate((1, 2), "resample", [1]), "HeadAblate: expected source as one Rollout or several"),
        (lambda: PatchHead([1], (1, 2), [0]), "PatchHead: expected source as a Rollout"),
        (lambda: MaskAttention((3, 3)), r"MaskAttention: expected a span \(start, stop\)"),
        (lambda: MaskAttention((-3, -1)), r"MaskAttention: expected a span \(start, stop\)"),
        (lambda: MaskAttention(3), "MaskAttention: expected span as a list of two places"),
        (lambda: MaskAttention((0, 3), of="text"), 'MaskAttention: expected of "response" or "prompt"'),
    ],
)
def test_what_is_no_head_and_no_span_is_refused_when_made(make: Callable[[], Intervention], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_sources_of_other_shapes_are_refused(source: Callable[[str], list[Rollout]]) -> None:
    other, taken = source("gpt2")[0], source("llama")
    model = F.bridge("llama", torch.float64)
    told = r"expected a rollout of tiny-llama \(4 heads of 10\), received one of tiny-gpt2 \(4 heads of 11\)"
    for one in (PatchHead(other, HEADS, [0]), HeadAblate(HEADS, "mean", other), HeadAblate(HEADS, "resample", [other])):
        assert_refused(model, lambda one=one: one, told)
    broken = dataclasses.replace(taken[0], residuals={"z": taken[0].residuals["z"] * float("nan")})
    for one in (PatchHead(broken, HEADS, [0]), HeadAblate(HEADS, "mean", broken)):
        assert_refused(model, lambda one=one: one, "expected a source's z of layer 0 without NaN and inf")

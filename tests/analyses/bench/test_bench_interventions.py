"""Reruns and interventions are timed as they say: turns, neighbours, shares."""

from __future__ import annotations

import pytest
import torch
from bench_names import CONDITIONS, LARGE

from analyses.bench import interventions
from analyses.bench.conditions import Condition, conditions_of
from analyses.bench.interventions import bench_interventions
from analyses.bench.reruns import Circle, _medians, circle, rerun_rows, target_share
from analyses.bench.timing import Timings, bench_prompts, endless, spread
from interp import decode
from interp.engines.bridge import BridgeEngine
from interp.errors import InputError
from interp.protocol import Intervention
from interp.rows import Event, name_of


def test_target_of_a_rerun_by_hand():
    """Block 23 of 30: 7 of 30 blocks of 72 ms, 15 ms of unembedding, 15 % of a step of 90 ms."""
    share = target_share(23, 30, blocks=72.0, unembedding=15.0, plain=90.0)
    assert share == pytest.approx((7 / 30 * 72 + 15 + 13.5) / 90)
    assert share == pytest.approx(0.5033333333)
    assert target_share(0, 30, blocks=72.0, unembedding=15.0, plain=90.0) == pytest.approx(87 / 90 + 0.15)


def test_circles_from_clock_readings():
    """Two circles of (rerun, plain) after the prompt's step: differences within each, then their median."""
    plain_pass, rerun_pass = [0.0, 4.0, 4.5, 5.5], [6.0, 8.0, 8.0, 9.0]
    # Steps 1 to 4 take 10, 6, 30, 14: extra 4 and 16.
    ends = [100.0, 110.0, 116.0, 146.0, 160.0]
    slow = [[2 * mark for mark in marks] for marks in (plain_pass, rerun_pass)]
    marks = [plain_pass, plain_pass + rerun_pass, plain_pass, slow[0] + slow[1], slow[0], []]
    found = _medians(ends, marks, 2)
    assert found.step == [10.0, 20.0]
    assert found.extra == [0.0, 10.0]
    assert found.blocks == [6.0, 3.0]  # plain: 4 and 8; the rerun's own pass: 2 and 4
    assert found.unembedding == [1.5, 1.5]


def test_reruns_take_turns_and_leave_the_other_rows_alone(toy, monkeypatch):
    calls = []
    recompute = BridgeEngine.recompute

    def watched(self, rows, ids, inject, residual, cache):
        calls.append((cache.length, inject, rows.tolist()))
        return recompute(self, rows, ids, inject, residual, cache)

    monkeypatch.setattr(BridgeEngine, "recompute", watched)
    hooks = [len(toy.blocks[0]._forward_pre_hooks), len(toy.unembed._forward_hooks)]
    found = circle(toy, bench_prompts(toy, 4, 9), [(0, 4), (2, 2)], 2)
    # The prompt is 9 columns, the steps of the first circle are columns 10 (block 0), 11 (block 2), 12 (plain).
    assert calls == [(10, 0, [0, 1, 2, 3]), (11, 2, [0, 1]), (13, 0, [0, 1, 2, 3]), (14, 2, [0, 1])]
    assert len(found.step) == len(found.extra) == 3
    assert min(found.step + found.blocks + found.unembedding) > 0
    assert [len(toy.blocks[0]._forward_pre_hooks), len(toy.unembed._forward_hooks)] == hooks


def test_a_rerun_of_some_rows_is_measured_against_a_step_of_as_many():
    reruns = {8: [(0, 8), (1, 2)], 2: [(1, 2)]}
    of_eight = Circle([0.10, 0.22, 0.15], [0.0, 0.12, 0.04], [0.08, 0.07, 0.03], [0.01, 0.02, 0.03])
    of_two = Circle([0.05, 0.08], [0.0, 0.03], [0.04, 0.02], [0.005, 0.006])
    slower = Circle([0.10, 0.16], [0.0, 0.06], [0.08, 0.04], [0.01, 0.012])
    circled = {8: [of_eight, of_eight], 2: [of_two, slower]}
    all_rows, some, alone = rerun_rows(reruns, circled, 2)

    assert all_rows["extra_share"].median == pytest.approx(0.12 / 0.10)
    assert all_rows["target_share"].median == pytest.approx((0.08 + 0.01) / 0.10 + 0.15)
    assert some["plain_ms"].median == pytest.approx(100)
    assert some["same_rows_ms"] == spread([50.0, 100.0])
    assert some["extra_ms"].median == pytest.approx(40)
    assert [some["extra_share"].min, some["extra_share"].max] == pytest.approx([0.04 / 0.10, 0.04 / 0.05])
    assert some["target_share"].median == pytest.approx((0.04 / 2 + 0.005) / 0.05 + 0.15)
    assert some["rerun_blocks_ms"].median == pytest.approx(30)
    assert alone["extra_share"].median == pytest.approx(0.6)


def test_every_decode_is_next_to_the_plain_one_it_is_compared_with():
    conditions = [Condition(name, in_large_batches=name in "pc") for name in "pabc"]
    pairs, doubles = interventions._pairs(conditions), interventions._doubles(conditions)
    taken = [[(take.batch, take.condition.name) for take in group] for group in (*pairs, *doubles)]
    assert taken[:2] == [[(1, "a"), (1, "p"), (1, "b")], [(1, "c"), (1, "p")]]
    assert taken[2:4] == [[(8, name) for _, name in group] for group in taken[:2]]
    assert taken[4:] == [[(1, "p"), (16, "p")], [(1, "c"), (16, "c")]]


def test_overheads_and_batches_follow_from_the_timings():
    """Two turns, the second on a machine half as fast, and faster again while the last group was decoded."""
    conditions = [Condition(name, in_large_batches=name == "c") for name in ("plain", "a", "b", "c")]
    pairs, doubles = interventions._pairs(conditions), interventions._doubles(conditions)
    for group, seconds in zip((*pairs, *doubles), ((5, 4, 6), (3, 2), (8, 8, 8), (6, 6), (6, 12)), strict=True):
        for take, s in zip(group, seconds, strict=True):
            take.timings.decode, take.acted = [float(s), 2.0 * s], (0.2, s / 100)
    rows = interventions._overhead_rows(pairs, 5, 9)

    assert [(row["batch"], row["intervention"]) for row in rows] == [
        (batch, name) for batch in (1, 8) for name in ("plain", "a", "b", "c")
    ]
    overheads = [row["overhead"] and row["overhead"].median for row in rows]
    assert overheads == [None, 5 / 4, 6 / 4, 3 / 2, None, 1.0, 1.0, 1.0]
    assert rows[0]["ms_per_step"] == spread([750.0, 1500.0])  # the mean of 4 and 2 s, 4 steps after the first token
    assert rows[1]["ms_per_step"] == spread([1250.0, 2500.0])
    assert (rows[3]["acted_tokens"], rows[3]["acted_steps"]) == (0.2, 0.03)
    (both,) = interventions._batch_rows(doubles, 5)
    assert (both["intervention"], both["batch"]) == ("c", 16)
    assert both["tokens_per_s_of_one"] == spread([4 / 6, 4 / 12])
    assert both["ratio"].median == pytest.approx(16 * 4 / 12 / (4 / 6))
    assert (both["acted_steps_of_one"], both["acted_steps"]) == (0.06, 0.12)


def test_every_intervention_is_on_and_keeps_all_rows_going(toy):
    """What each row's tokens were worth differs from plain decoding; a text's end would have stopped some rows."""
    prompts = bench_prompts(toy, 16, 60)
    assert any(rollout.finish_reason == "eos" for rollout in decode(toy, list(prompts), max_new_tokens=12))
    with endless(toy):
        conditions, ordered = conditions_of(toy, prompts, 12)
        for condition in conditions:
            Timings().take(condition.contender(toy), ordered, 12)
    assert [condition.name for condition in conditions] == CONDITIONS
    assert [condition.name for condition in conditions if condition.in_large_batches] == LARGE
    plain, *others = conditions
    for condition in others:
        pairs = zip(plain.rollouts, condition.rollouts, strict=True)
        assert any(not torch.equal(a.logprobs, b.logprobs) for a, b in pairs), condition.name
        assert condition.acted()[0] > 0, condition.name
    assert plain.acted() == (0.0, 0.0)
    thinking = {toy.tokenizer.convert_tokens_to_ids(word) for word in ("Okay", "So", "Wait", "Hmm", "Therefore")}
    for condition in others[0], others[2]:
        assert not thinking & {i for rollout in condition.rollouts for i in rollout.token_ids.tolist()}

    # What stands for the end is what all rows say most often of the words the first row says after its first token.
    (end,) = next(condition.stop for condition in conditions if condition.stop)
    said = [i for rollout in plain.rollouts for i in rollout.token_ids.tolist()]
    words = set(plain.rollouts[0].token_ids[1:].tolist()) - thinking
    assert end in words
    assert said.count(end) == max(said.count(word) for word in words)

    # The typical prompt comes first, the others are all there.
    assert sorted(ordered.tolist()) == sorted(prompts.tolist())
    counts = [sum(i in thinking for i in rollout.token_ids.tolist()) for rollout in plain.rollouts]
    mean = sum(counts) / len(counts)
    assert abs(counts[0] - mean) == min(abs(count - mean) for count in counts)


def test_share_of_tokens_and_steps_acted_on(toy):
    with endless(toy):
        rollouts = decode(toy, list(bench_prompts(toy, 2, 9)), max_new_tokens=5)
    acting = Intervention()
    condition = Condition("some", [acting], acting, rollouts=rollouts)
    assert condition.acted() == (0.0, 0.0)
    # Step 0 is the prompt's and not timed; two marks at one step are one.
    for step, name in ((0, name_of(acting)), (2, name_of(acting)), (2, name_of(acting)), (3, "another")):
        rollouts[0].events.append(Event(step, name, ""))
    rollouts[1].events.extend([Event(2, name_of(acting), ""), Event(4, name_of(acting), "")])
    assert condition.acted() == (3 / 8, 2 / 4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"repeats": 0}, "expected repeats of at least 1, received 0"),
        ({"new_tokens": 1}, "expected new_tokens of at least 2"),
        ({"prompt_tokens": 0}, "expected prompt_tokens of at least 1"),
        ({"circles": 0}, "expected circles of at least 1"),
        ({"prompt_tokens": 1020}, "expected at most 1024 positions"),
    ],
)
def test_impossible_requests_for_interventions_are_refused(toy, options, text):
    with pytest.raises(InputError, match=text):
        bench_interventions(toy, **options)

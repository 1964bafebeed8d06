"""Decoding is timed as it says: all tokens, one clock, ratios of the timings, gaps of the logits."""

from __future__ import annotations

import json

import pytest
import torch
from bench_names import ENGINES

from analyses.bench import bare, decoding
from analyses.bench.decoding import bench_decoding
from analyses.bench.timing import Clock, Contender, Timings, bench_prompts, endless, spread
from analyses.problems import bundled_problems
from interp import decode, load_model
from interp.errors import InputError


def test_every_engine_goes_on_past_the_end_of_the_text(toy):
    prompts = bench_prompts(toy, 3, 60)
    ended = decode(toy, list(prompts), max_new_tokens=48)
    assert any(rollout.finish_reason == "eos" for rollout in ended)
    before = toy.original_model.generation_config.eos_token_id

    runs = []
    rows = bench_decoding(toy, batches=(3,), new_tokens=48, repeats=2, on_run=lambda *run: runs.append(run))

    assert [row["tokens"] for row in rows] == [3 * 48] * len(ENGINES)
    assert toy.original_model.generation_config.eos_token_id == before
    labels = [what.split(",")[0].strip() for _, _, what in runs[:-1]]
    assert labels == [f"{engine} {recording}" for engine, recording in ENGINES] * 2
    assert [done for done, _, _ in runs] == list(range(13))
    assert {total for _, total, _ in runs} == {12}
    assert [row["recording_overhead"] is None for row in rows] == [True, False, False, True, True, True]


def test_an_engine_that_stops_early_is_refused(toy):
    short = Contender("hasty", "-", lambda prompts, n, clock: prompts[:, : n - 1])
    with pytest.raises(InputError, match="2 x 4 tokens from hasty, received 2 x 3"):
        Timings().take(short, bench_prompts(toy, 2, 9), 4)


def test_the_clock_is_read_once_when_the_first_token_is_there(toy, eager):
    """Each engine looks in at every step, the first time when every prompt has one token."""
    prompts = bench_prompts(toy, 2, 9)
    for contender in decoding._contenders(toy, eager, eager):
        calls = []

        class Watched(Clock):
            def update(self, n, calls=calls):
                calls.append(n)
                super().update(n)

            def __call__(self, ids, scores, calls=calls, **kwargs):
                calls.append(ids.shape[1] - 9)
                return super().__call__(ids, scores, **kwargs)

        clock = Watched()
        with endless(toy), torch.no_grad():
            contender.generate(prompts, 3, clock)
        assert len(calls) == 3
        assert calls == ([2, 2, 2] if contender.engine == "peaklens" else [1, 2, 3])
        first = clock.first
        assert first > clock.start
        clock.update(1)
        clock(prompts, None)
        assert clock.first == first


def test_end_of_text_comes_back_after_an_error(toy):
    config = toy.original_model.generation_config
    before = config.eos_token_id

    def fail() -> None:
        with endless(toy):
            assert config.eos_token_id != before
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert config.eos_token_id == before


def test_numbers_follow_from_the_timings(eager):
    """Speeds, ratios and overheads of made-up timings: two turns, the second on a machine half as fast."""
    tokens = torch.arange(10).reshape(2, 5)
    prompts = torch.ones(2, 7, dtype=torch.long)
    contenders = [Contender(*name, lambda prompts, n, clock: prompts) for name in ENGINES]
    seconds = [4.0, 5.0, 6.0, 8.0, 2.0, 1.0]
    timings = [Timings(first=[1.0, 2.0], decode=[s, 2 * s], tokens=tokens) for s in seconds]
    rows = decoding._rows(contenders, timings, prompts, 5, eager)

    assert [row["decode_seconds"] for row in rows] == [spread([s, 2 * s]) for s in seconds]
    # 2 rows of 5 tokens, the first of each being the prompt's
    assert rows[0]["tokens_per_s"] == spread([8 / 4, 8 / 8])
    # a slow turn slows all: ratios within a turn do not see it
    assert [row["ratio_to_hf_eager"].median for row in rows] == [2 / s for s in seconds]
    assert [row["times_hf_sdpa"] for row in rows] == [spread([s / 1, s / 1]) for s in seconds]
    assert rows[1]["recording_overhead"] == spread([5 / 4, 5 / 4])
    assert {row["same_share"] for row in rows} == {1.0}
    assert {row["largest_gap"] for row in rows} == {None}


def test_gap_is_the_difference_of_logits_where_texts_part(toy, eager):
    prompts = bench_prompts(toy, 2, 12)
    with torch.no_grad():
        reference = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
        other = reference.clone()
        other[1, 2:] = torch.tensor([11, 12])  # parts at step 2; what comes after is another text
        logits = eager(torch.cat([prompts, reference], 1)).logits
        expected = float(logits[1, 12 + 2 - 1, 9] - logits[1, 12 + 2 - 1, 11])
        assert decoding._largest_gap(eager, prompts, reference, other) == pytest.approx(expected, abs=1e-4)
        assert decoding._largest_gap(eager, prompts, reference, reference) is None


def test_prompts_differ_are_of_one_length_and_may_be_longer_than_the_text(toy):
    prompts = bench_prompts(toy, 16, 700)
    assert prompts.shape == (16, 700)
    assert len({tuple(row) for row in prompts.tolist()}) == 16
    assert 0 <= int(prompts.min()) <= int(prompts.max()) < toy.cfg.d_vocab


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"repeats": 0}, "expected repeats of at least 1, received 0"),
        ({"batches": ()}, "expected batches of at least 1"),
        ({"batches": (4, 0)}, "expected batches of at least 1"),
        ({"new_tokens": 1}, "expected new_tokens of at least 2"),
        ({"prompt_tokens": 0}, "expected prompt_tokens of at least 1"),
        ({"prompt_tokens": 1000}, "expected at most 1024 positions"),
    ],
)
def test_impossible_requests_are_refused(toy, options, text):
    with pytest.raises(InputError, match=text):
        bench_decoding(toy, **options)


def test_a_model_without_a_folder_is_refused(eager):
    import copy

    model = load_model("mine", hf_model=copy.deepcopy(eager))
    with pytest.raises(InputError, match=r"loaded from a Hugging Face folder.*received mine \(object\)"):
        bench_decoding(model)


def test_what_a_trace_is_made_of_makes_the_same_responses(toy, capsys):
    bare.main(5, 160, 3)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    rollouts = decode(toy, [problem.question for problem in bundled_problems(5)], max_new_tokens=160)
    assert [tokens[: len(rollout)] for tokens, rollout in zip(found, rollouts, strict=True)] == [
        rollout.token_ids.tolist() for rollout in rollouts
    ]
    assert all(
        set(tokens[len(rollout) :]) <= {toy.tokenizer.pad_token_id}
        for tokens, rollout in zip(found, rollouts, strict=True)
    )

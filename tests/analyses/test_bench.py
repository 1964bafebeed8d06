"""The benchmarks measure what they say: all tokens of every engine, taking turns, numbers from their definitions."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from analyses.bench import decoding, interventions
from analyses.bench.__main__ import main
from analyses.bench.decoding import Timings, bench_decoding, bench_prompts, spread
from analyses.bench.interventions import bench_interventions, target_share
from interp import decode, load_model
from interp.engines.bridge import BridgeEngine
from interp.errors import InputError
from interp.rows import Event, name_of

ENGINES = [
    ("peaklens", "-"),
    ("peaklens", "ResidualSites"),
    ("peaklens", "ResidualStream"),
    ("TransformerLens", "-"),
    ("HF eager", "-"),
    ("HF sdpa", "-"),
]
CONDITIONS = [
    "plain",
    "SuppressTokens, 5 words",
    "RecycleRepresentation, block 1, 5 words",
    "RecycleRepresentation and SuppressTokens",
    "RecurseLatents, top 1 blocks",
    "ContinueThinking",
    "BudgetForcing",
    "PatchResidual, block 1",
    "SteerResidual, block 1",
    "MeanAblate, block 1",
]
LARGE = ["plain", "RecycleRepresentation and SuppressTokens", "SteerResidual, block 1"]


@pytest.fixture(scope="module")
def toy():
    return load_model("toy-reasoner")


@pytest.fixture(scope="module")
def eager(toy):
    return decoding._plain_model(toy, "eager")


def test_command_writes_what_it_prints(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--quick", "--out", str(tmp_path / "new" / "bench")])
    assert stopped.value.code == 0
    result = json.loads((tmp_path / "new" / "bench" / "bench.json").read_text(encoding="utf-8"))
    markdown = (tmp_path / "new" / "bench" / "bench.md").read_text(encoding="utf-8")
    printed = capsys.readouterr().out

    assert result["machine"]["threads"] == torch.get_num_threads()
    assert result["machine"]["versions"]["torch"] == torch.__version__
    assert result["model"]["name"] == "toy-reasoner"
    assert [row["d_model"] for row in result["nhsic"]] == [64]
    assert set(result["nhsic"][0]["ratio"]) == {"median", "min", "max", "n"}
    rows = result["decoding"]
    assert [(row["engine"], row["recording"], row["batch"]) for row in rows] == [
        (*name, batch) for batch in (1, 4, 16) for name in ENGINES
    ]
    for row in rows:
        assert row["tokens"] == 8 * row["batch"]
        assert row["decode_seconds"]["n"] == 1
        assert min(row["decode_seconds"]["min"], row["first_token_seconds"]["min"]) > 0
        # In float32 only a near-tie may part the engines.
        assert row["same_share"] == 1 or row["largest_gap"] < 1e-3
        line = f"| {row['engine']}{'' if row['recording'] == '-' else ', ' + row['recording']} | {row['batch']} |"
        assert markdown.count(line) == 1
    _check_interventions(result["interventions"], markdown)
    assert "largest_gap" not in markdown
    assert str(tmp_path) not in json.dumps(result) + markdown
    assert "peaklens, ResidualStream" in printed
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed


def _check_interventions(tables, markdown):
    reruns, overheads, batches = tables["reruns"], tables["overheads"], tables["batches"]
    layers = [0, 1, 2]
    assert [(row["batch"], row["rows"], row["inject"]) for row in reruns] == [
        *((1, 1, layer) for layer in layers),
        *((8, 8, layer) for layer in layers),
        (8, 2, 1),
        (2, 2, 1),
    ]
    for row in reruns:
        times = [row[name]["median"] for name in row if name.endswith("_ms") and name != "extra_ms"]
        assert len(times) == 7
        assert min(times) > 0
        assert row["target_share"]["median"] > 0.15
        assert row["blocks_ms"]["median"] + row["unembedding_ms"]["median"] < row["same_rows_ms"]["median"]
        assert markdown.count(f"| {row['rows']} of {row['batch']} | {row['inject']} of 3 |") == 1
    assert [(row["batch"], row["intervention"]) for row in overheads] == [
        (batch, name) for batch in (1, 8) for name in CONDITIONS
    ]
    for row in overheads:
        assert (row["overhead"] is None) == (row["intervention"] == "plain")
        assert row["overhead"] is None or row["overhead"]["median"] > 0
        assert 0 <= row["acted_tokens"] <= row["acted_steps"] <= 1
        assert markdown.count(f"| {row['intervention']} | {row['batch']} |") == 1
    assert [(row["intervention"], row["batch"]) for row in batches] == [(name, 16) for name in LARGE]
    assert min(row["ratio"]["median"] for row in batches) > 0


def test_only_what_is_asked_for(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--quick", "--only", "nhsic", "--out", str(tmp_path)])
    assert stopped.value.code == 0
    result = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    markdown = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert {"nhsic", "decoding", "interventions"} & set(result) == {"nhsic"}
    assert [line for line in markdown.splitlines() if line.startswith("### ")] == [
        "### nHSIC: CPU milliseconds a step on one thread, median (min to max); error against the float64 formula; "
        "99 wrong answers in passes against one"
    ]
    assert "gap" not in markdown + capsys.readouterr().out


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
    circle = interventions._medians(ends, marks, 2)
    assert circle.step == [10.0, 20.0]
    assert circle.extra == [0.0, 10.0]
    assert circle.blocks == [6.0, 3.0]  # plain: 4 and 8; the rerun's own pass: 2 and 4
    assert circle.unembedding == [1.5, 1.5]


def test_reruns_take_turns_and_leave_the_other_rows_alone(toy, monkeypatch):
    calls = []
    recompute = BridgeEngine.recompute

    def watched(self, rows, ids, inject, residual, cache):
        calls.append((cache.length, inject, rows.tolist()))
        return recompute(self, rows, ids, inject, residual, cache)

    monkeypatch.setattr(BridgeEngine, "recompute", watched)
    hooks = [len(toy.blocks[0]._forward_pre_hooks), len(toy.unembed._forward_hooks)]
    circle = interventions._circle(toy, bench_prompts(toy, 4, 9), [(0, 4), (2, 2)], 2)
    # The prompt is 9 columns, the steps of the first circle are columns 10 (block 0), 11 (block 2), 12 (plain).
    assert calls == [(10, 0, [0, 1, 2, 3]), (11, 2, [0, 1]), (13, 0, [0, 1, 2, 3]), (14, 2, [0, 1])]
    assert len(circle.step) == len(circle.extra) == 3
    assert min(circle.step + circle.blocks + circle.unembedding) > 0
    assert [len(toy.blocks[0]._forward_pre_hooks), len(toy.unembed._forward_hooks)] == hooks


def test_a_rerun_of_some_rows_is_measured_against_a_step_of_as_many():
    reruns = {8: [(0, 8), (1, 2)], 2: [(1, 2)]}
    of_eight = interventions._Circle([0.10, 0.22, 0.15], [0.0, 0.12, 0.04], [0.08, 0.07, 0.03], [0.01, 0.02, 0.03])
    of_two = interventions._Circle([0.05, 0.08], [0.0, 0.03], [0.04, 0.02], [0.005, 0.006])
    slower = interventions._Circle([0.10, 0.16], [0.0, 0.06], [0.08, 0.04], [0.01, 0.012])
    circled = {8: [of_eight, of_eight], 2: [of_two, slower]}
    all_rows, some, alone = interventions._rerun_rows(reruns, circled, 2)

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
    conditions = [interventions._Condition(name, in_large_batches=name in "pc") for name in "pabc"]
    pairs, doubles = interventions._pairs(conditions), interventions._doubles(conditions)
    taken = [[(take.batch, take.condition.name) for take in group] for group in (*pairs, *doubles)]
    assert taken[:2] == [[(1, "a"), (1, "p"), (1, "b")], [(1, "c"), (1, "p")]]
    assert taken[2:4] == [[(8, name) for _, name in group] for group in taken[:2]]
    assert taken[4:] == [[(1, "p"), (16, "p")], [(1, "c"), (16, "c")]]


def test_overheads_and_batches_follow_from_the_timings():
    """Two turns, the second on a machine half as fast, and faster again while the last group was decoded."""
    conditions = [interventions._Condition(name, in_large_batches=name == "c") for name in ("plain", "a", "b", "c")]
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
    with decoding.endless(toy):
        conditions, ordered = interventions._conditions(toy, prompts, 12)
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
    with decoding.endless(toy):
        rollouts = decode(toy, list(bench_prompts(toy, 2, 9)), max_new_tokens=5)
    acting = interventions.Intervention()
    condition = interventions._Condition("some", [acting], acting, rollouts=rollouts)
    assert condition.acted() == (0.0, 0.0)
    # Step 0 is the prompt's and not timed; two marks at one step are one.
    for step, name in ((0, name_of(acting)), (2, name_of(acting)), (2, name_of(acting)), (3, "another")):
        rollouts[0].events.append(Event(step, name, ""))
    rollouts[1].events.extend([Event(2, name_of(acting), ""), Event(4, name_of(acting), "")])
    assert condition.acted() == (3 / 8, 2 / 4)


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
    short = decoding.Contender("hasty", "-", lambda prompts, n, clock: prompts[:, : n - 1])
    with pytest.raises(InputError, match="2 x 4 tokens from hasty, received 2 x 3"):
        decoding.Timings().take(short, bench_prompts(toy, 2, 9), 4)


def test_the_clock_is_read_once_when_the_first_token_is_there(toy, eager):
    """Each engine looks in at every step, the first time when every prompt has one token."""
    prompts = bench_prompts(toy, 2, 9)
    for contender in decoding._contenders(toy, eager, eager):
        calls = []

        class Watched(decoding.Clock):
            def update(self, n, calls=calls):
                calls.append(n)
                super().update(n)

            def __call__(self, ids, scores, calls=calls, **kwargs):
                calls.append(ids.shape[1] - 9)
                return super().__call__(ids, scores, **kwargs)

        clock = Watched()
        with decoding.endless(toy), torch.no_grad():
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
        with decoding.endless(toy):
            assert config.eos_token_id != before
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert config.eos_token_id == before


def test_numbers_follow_from_the_timings(eager):
    """Speeds, ratios and overheads of made-up timings: two turns, the second on a machine half as fast."""
    tokens = torch.arange(10).reshape(2, 5)
    prompts = torch.ones(2, 7, dtype=torch.long)
    contenders = [decoding.Contender(*name, lambda prompts, n, clock: prompts) for name in ENGINES]
    seconds = [4.0, 5.0, 6.0, 8.0, 2.0, 1.0]
    timings = [decoding.Timings(first=[1.0, 2.0], decode=[s, 2 * s], tokens=tokens) for s in seconds]
    rows = decoding._rows(contenders, timings, prompts, 5, eager)

    assert [row["decode_seconds"] for row in rows] == [spread([s, 2 * s]) for s in seconds]
    # 2 rows of 5 tokens, the first of each being the prompt's
    assert rows[0]["tokens_per_s"] == spread([8 / 4, 8 / 8])
    # a slow turn slows all: ratios within a turn do not see it
    assert [row["ratio_to_hf_eager"].median for row in rows] == [2 / s for s in seconds]
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


def test_a_model_without_a_folder_is_refused(eager):
    import copy

    model = load_model("mine", hf_model=copy.deepcopy(eager))
    with pytest.raises(InputError, match=r"loaded from a Hugging Face folder.*received mine \(object\)"):
        bench_decoding(model)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--repeats", "0", "--quick"], "expected repeats of at least 1"),
        (["--quick", "--only", "speed", "--only", "nhsic"], "expected nhsic, decoding, interventions, received speed"),
        (["--quick", "--model", "toy-raisoner"], "Did you mean toy-reasoner"),
        (["--quick", "--out", "{file}"], "Choose another --out"),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, capsys, arguments, text):
    file = tmp_path / "file"
    file.write_text("in the way", encoding="utf-8")
    named = [argument.format(file=file) for argument in ["--out", str(tmp_path / "out"), *arguments]]
    with pytest.raises(SystemExit) as stopped:
        main(named)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert text in error
    assert "Traceback" not in error


def test_importing_is_cheap():
    code = (
        "import sys, analyses.bench, analyses.bench.__main__ as _; print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

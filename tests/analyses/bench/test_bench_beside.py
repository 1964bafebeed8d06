"""Variants take turns, each in its process; what is told follows from the timings; what dies says so in a line."""

from __future__ import annotations

import math
import sys
from contextlib import ExitStack

import pytest
import torch

from analyses.bench import beside, scaling
from analyses.bench.beside import bench_decoders, bench_readers, place_of
from analyses.bench.clock import Clock, Memory, timed_read
from analyses.bench.growth import exponent
from analyses.bench.nhsic import bench_nhsic
from analyses.bench.parts import plain
from analyses.bench.timing import bench_prompts, spread
from analyses.bench.variants import (
    BRIDGE,
    DECODERS,
    EAGER,
    FREE,
    HIDDEN,
    LIVE,
    NNSIGHT,
    NOTHING,
    READERS,
    RECORDED,
    RECYCLED,
    SDPA,
    SUPPRESSED,
    VARIANTS,
    answers_of,
    live_options,
)
from analyses.bench.workers import check_nnsight, crew_for
from interp import ResidualSites, decode, encode
from interp.errors import InputError
from probes import nhsic_dense


def _runs(seconds, grown=8, tokens=None):
    return [
        {"first": 1.0, "seconds": one, "cpu": 2 * one, "grown": grown, "tokens": tokens or [[1, 2, 3]]}
        for one in seconds
    ]


def test_ratios_are_of_the_same_turn_and_exponents_are_recovered():
    """Two turns, the second on a machine half as fast: ratios and exponents do not see it."""
    powers = {SDPA: 0.5, NOTHING: 0.8, RECYCLED: 0.0}
    starts = {SDPA: 3.0, NOTHING: 2.0, RECYCLED: 6.0}
    taken = {
        (name, batch): _runs([starts[name] * batch**power * slow for slow in (1, 2)], 8 * batch)
        for batch in (1, 4, 16)
        for name, power in powers.items()
    }
    taken[NOTHING, 4][-1]["tokens"] = [[1, 2, 9]]
    rows = {(row["variant"], row["batch"]): row for row in beside.decode_rows(taken, 3, 7)}

    assert list(rows) == list(taken)
    for (name, batch), row in rows.items():
        factor = starts[name] / 3.0 * batch ** (powers[name] - 0.5)
        assert (row["times"].min, row["times"].max, row["times"].n) == (pytest.approx(factor),) * 2 + (2,)
        assert row["cpu_times"].median == pytest.approx(factor)
        assert row["exponent"].min == pytest.approx(powers[name], abs=1e-9)
        assert row["exponent"].max == pytest.approx(powers[name], abs=1e-9)
        first = taken[name, batch][0]["seconds"]
        assert row["step_ms"] == spread([1e3 * first / 2, 1e3 * 2 * first / 2])  # two steps after the first token
        assert row["grown"] == 8 * batch
        assert row["same_share"] == {RECYCLED: None}.get(name, 2 / 3 if (name, batch) == (NOTHING, 4) else 1)


def test_reading_is_told_over_hugging_face_with_hidden_states():
    taken = {
        (name, length): _runs([factor * length**1.5 * slow for slow in (1, 3)[:turns]], 10 * factor * length)
        for length, turns in ((10, 2), (40, 1))
        for name, factor in ((SDPA, 1.0), (HIDDEN, 2.0), (LIVE, 3.0))
    }
    taken[EAGER, 10] = _runs([1.0, 3.0])
    rows = {(row["variant"], row["tokens"]): row for row in beside.read_rows(taken)}
    assert rows[LIVE, 10]["times"] == spread([1.5, 1.5])
    assert rows[LIVE, 40]["cpu_times"].median == pytest.approx(1.5)
    assert rows[LIVE, 40]["grown_times"] == pytest.approx(1.5)
    assert rows[HIDDEN, 40]["times"].median == 1
    # Of the turn that both lengths had.
    assert rows[LIVE, 10]["exponent"].median == pytest.approx(1.5)
    assert rows[LIVE, 10]["exponent"].n == 1
    assert math.isnan(rows[EAGER, 10]["exponent"].median)
    assert plain(rows[EAGER, 10])["exponent"]["median"] is None


def test_growth_of_each_variant_is_fitted_over_its_own_counts():
    powers = {("layers", SDPA): 1.0, ("layers", LIVE): 1.25, ("problems", scaling.TRACED): 0.75}
    taken = {
        (grows, count, name): [5 * count**power, 7 * count**power]
        for count in (2, 3, 8)
        for (grows, name), power in powers.items()
    }
    rows = scaling.scaling_rows(taken)
    assert len(rows) == 9
    for row in rows:
        power = powers[row["grows"], row["variant"]]
        assert row["seconds"] == spread([5 * row["count"] ** power, 7 * row["count"] ** power])
        assert row["exponent"].min == pytest.approx(power)
        assert row["exponent"].max == pytest.approx(power)
    assert math.isnan(exponent([4], [1.0]))


@pytest.mark.usefixtures("_warm_forkserver")
def test_variants_take_turns_in_processes_of_their_own(toy):
    names, told = (NOTHING, SDPA, LIVE), []
    rows = bench_decoders(
        toy, batches=(2, 1), new_tokens=3, prompt_tokens=9, repeats=2, names=names, on_run=lambda *run: told.append(run)
    )
    present = [name for name in VARIANTS if name in names]
    assert [(row["variant"], row["batch"]) for row in rows] == [(name, batch) for batch in (1, 2) for name in present]
    assert [what for _, _, what in told] == [
        "loading", *(f"{name}, batch {batch}" for batch in (1, 2) for _ in range(2) for name in present), "done"
    ]  # fmt: skip
    assert [done for done, _, _ in told] == [0, *range(13)]
    for row in rows:
        assert row["same_share"] == 1
        assert row["times"].n == row["exponent"].n == 2
        assert min(row["step_ms"].min, row["step_cpu_ms"].min, row["first_seconds"].min) > 0


@pytest.mark.usefixtures("_warm_forkserver")
def test_a_process_at_a_time_and_one_that_cannot_go_on(toy):
    ids = bench_prompts(toy, 1, 12).tolist()
    place = place_of(toy)
    with crew_for("read", [HIDDEN, LIVE], place, None, keep=False) as crew:
        for name in (HIDDEN, LIVE, HIDDEN):
            assert crew.ask(name, ids=ids)["seconds"] > 0
            assert list(crew.running) == [name]
        # The toy has 47 words.
        with pytest.raises(InputError, match=f"expected {LIVE} to go on, received encode: expected token ids"):
            crew.ask(LIVE, ids=[[99]])
    assert not crew.running


def test_without_nnsight_it_is_refused_in_one_line(toy):
    with pytest.raises(InputError, match=r"received .*No such file.* Make one: .*bin/pip install -c"):
        check_nnsight("/nowhere/python")
    place = place_of(toy)
    with (
        crew_for("decode", [NNSIGHT], place, sys.executable, keep=False) as crew,
        pytest.raises(
            InputError, match=r"expected nnsight.* to go on, received ModuleNotFoundError: No module named 'nnsi"
        ),
    ):
        crew.ask(NNSIGHT, ids=[[5, 6]], new_tokens=2)


def test_live_scores_are_those_of_the_streams(toy):
    prompts = bench_prompts(toy, 2, 9)
    answers = answers_of(toy, prompts[0])
    assert torch.equal(answers, encode(toy, [prompts[0]])[0].residuals["resid_post"][:, -1])
    options = live_options(answers)(2)
    finish = options.pop("finish")
    decode(toy, list(prompts), max_new_tokens=4, batch_size=2, **options)
    kept = decode(toy, list(prompts), max_new_tokens=4, batch_size=2, record=ResidualSites())
    for scores, rollout in zip(finish(), kept, strict=True):
        expected = nhsic_dense(rollout.residuals["resid_post"], answers)
        torch.testing.assert_close(scores["mi"], expected, atol=1e-6, rtol=0)


def test_edits_act(toy):
    """Suppression and recycling change what is said; the block is run again at every step."""
    place, prompts = place_of(toy), bench_prompts(toy, 4, 30)
    said = {}
    for name in (NOTHING, SUPPRESSED, RECYCLED):
        with ExitStack() as stack, torch.no_grad():
            said[name] = DECODERS[name](place, stack)(prompts, 12, Clock())
    thinking = {toy.tokenizer.convert_tokens_to_ids(word) for word in ("Okay", "So", "Wait", "Hmm", "Therefore")}
    assert thinking & set(said[NOTHING].flatten().tolist())
    assert not thinking & set(said[SUPPRESSED].flatten().tolist())
    assert not torch.equal(said[RECYCLED], said[NOTHING])
    assert set(FREE) == {SUPPRESSED, RECYCLED}
    assert set(DECODERS) | {NNSIGHT} == set(VARIANTS)
    assert set(READERS) == {SDPA, EAGER, HIDDEN, BRIDGE, RECORDED, LIVE}


def test_memory_is_what_a_call_needed_at_most():
    def read(ids):
        torch.ones(20_000_000)  # 80 MB, gone when it returns
        return ids

    memory = Memory(torch.device("cpu"))
    held = timed_read(read, [[1]], memory)
    assert 75e6 < held["grown"] < 90e6
    assert timed_read(lambda ids: ids, [[1]], memory)["grown"] < 20e6


def test_memory_that_lay_free_counts():
    def small():
        return [torch.ones(5_000) for _ in range(4_000)]  # 80 MB in pieces that the C library keeps when they are free

    held, pin = small(), torch.ones(5_000)
    del held
    assert timed_read(lambda ids: small(), [[1]], Memory(torch.device("cpu")))["grown"] > 70e6
    del pin


def test_impossible_requests_are_refused(toy):
    with pytest.raises(InputError, match="expected repeats of at least 1, received 0"):
        bench_decoders(toy, repeats=0)
    with pytest.raises(InputError, match="expected lengths of at least 2, received 1"):
        bench_readers(toy, turns={1: 2})
    with pytest.raises(InputError, match="expected repeats of at least 1, received 0"):
        bench_readers(toy, turns={8: 0})


def test_exponent_of_nhsic_is_told_of_more_than_one_width():
    from analyses.bench.beside_sheets import findings_sheet

    rows = plain([{**row, "ratio": spread([row["ratio"]])} for row in bench_nhsic(dims=(16, 32), n_steps=2, repeats=1)])
    for row, (fast, dense) in zip(rows, ((3.0, 2.0), (6.0, 16.0)), strict=True):
        row["nhsic_ms_per_step"], row["dense_ms_per_step"] = {"median": fast}, {"median": dense}
    told = {line[0]: line[2] for line in findings_sheet({"nhsic": rows}).rows}
    assert told["exponent, nHSIC of a step against d_model: nhsic"] == "1"
    assert told["exponent, nHSIC of a step against d_model: dense float32"] == "3"

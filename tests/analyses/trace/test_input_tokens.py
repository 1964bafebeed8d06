"""Which position was scored: step t has read one token and predicts the next, and every table and view says both.

What is expected is worked out here from the ids in the cells and a plain tokenizer, step by step.
"""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import views
from analyses.commands.show_trace import show
from analyses.problems import Problem, bundled_problems
from analyses.report import write_report
from analyses.report.digest import digest
from analyses.report.explorer import response_data
from analyses.report.summary import summary
from analyses.store import Cell, Run
from analyses.trace import TraceRun, trace
from analyses.trace.trajectory import Trajectory, trajectories
from interp import ResidualSites, bundled_model_path, decode, load_model
from interp.interventions import log_probability, patch_sweep
from interp.rollout import Rollout

SMALL = {"max_new_tokens": 40, "batch_size": 4, "tau": 0.5, "report": False}
Place = tuple[int, str, int, str]  # ids and texts of the token a step has read and of the one it predicts


@pytest.fixture(scope="module")
def model() -> object:
    return load_model("toy-reasoner", device="cpu")


@pytest.fixture(scope="module")
def run(model: object, tmp_path_factory: pytest.TempPathFactory) -> TraceRun:
    return trace(model, n=3, out=tmp_path_factory.mktemp("inputs") / "run", **SMALL)


def steps_of(run: Run, cell: Cell) -> list[Place]:
    """From the cell's ids alone, with the tokenizer as it comes; every word of the toy is one token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path("toy-reasoner"))
    tensors = run.read(cell).tensors
    prompt, response = tensors["prompt_ids"].tolist(), tensors["token_ids"].tolist()
    found = []
    for t in range(len(response)):
        read = (prompt + response)[len(prompt) + t - 1]
        found.append((read, tokenizer.decode([read]), response[t], tokenizer.decode([response[t]])))
    return found


def places(frame: pd.DataFrame) -> list[Place]:
    names = ["input_token_id", "input_token", "token_id", "token"]
    return [(int(a), str(b), int(c), str(d)) for a, b, c, d in frame[names].itertuples(index=False)]


def pairs(steps: list[Place]) -> list[tuple[str, str]]:
    return [(read, said) for _, read, _, said in steps]


def both(frame: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(frame["input_token"].astype(str), frame["token"].astype(str), strict=True))


def test_the_peak_of_a_made_reference_stands_at_its_last_token(model: object, tmp_path: Path) -> None:
    """A reference that is question and response up to some token: there, and nowhere else, are its residual streams."""
    question = bundled_problems(1)[0].question
    response = decode(model, [question], max_new_tokens=40)[0]
    step = next(t for t in range(5, 40) if response.tokens[t - 1] == "." and response.tokens[t] != ".")
    whole = " ".join([question, *response.tokens[:step]])
    made = Problem("made", question, whole, "1")
    run = trace(model, [made], out=tmp_path, max_new_tokens=40)
    for layer, rows in run.mi.groupby("layer"):
        best = rows.loc[rows["nhsic"].idxmax()]
        assert (best["step"], best["input_token"], best["token"]) == (step, ".", response.tokens[step]), layer
        assert best["input_token"] == whole.split()[-1]
        assert best["is_peak"]


def test_every_table_has_both_tokens(run: TraceRun) -> None:
    mi, steps, tokens = run.mi, run.steps, run.tokens
    counted: dict[tuple[int, str], Counter[str]] = {}
    for cell in run.cells():
        expected = steps_of(run, cell)
        assert places(steps[steps["problem"] == cell.problem].sort_values("step")) == expected
        for layer in (0, 1, 2):
            rows = mi[(mi["problem"] == cell.problem) & (mi["layer"] == layer)].sort_values("step")
            assert places(rows) == expected
            for (_, read, _, said), is_peak in zip(expected, rows["is_peak"], strict=True):
                if is_peak:
                    counted.setdefault((layer, "input"), Counter())[read] += 1
                    counted.setdefault((layer, "predicted"), Counter())[said] += 1
    assert sum(map(Counter.total, counted.values())) == 2 * int(mi["is_peak"].sum()) > 40
    for (layer, position), words in counted.items():
        rows = tokens[(tokens["layer"] == layer) & (tokens["position"] == position)]
        assert dict(zip(rows["word"], rows["count"], strict=True)) == dict(words)
        assert rows["share"].tolist() == [count / words.total() for count in rows["count"]]
        assert rows["count"].is_monotonic_decreasing
        assert rows["is_word"].tolist() == [word.isascii() and word.isalpha() for word in rows["word"]]
    assert {".", "="} & set(tokens["word"]), "tokens that are no words count as well"


def test_every_view_of_a_run_has_both_tokens(run: TraceRun) -> None:
    for one in trajectories(run):
        expected = steps_of(run, Cell(one.problem))
        assert one.input_ids.tolist() == [place[0] for place in expected]
        assert list(zip(one.input_tokens, one.tokens, strict=True)) == pairs(expected)
        assert places(one.to_frame()) == expected * 3
        assert run.trajectory(one.problem).input_tokens == one.input_tokens
        at_peaks = one.peaks(1)
        assert places(at_peaks) == [expected[step] for step in at_peaks["step"]]
        frames = [one.show("heatmap").to_frame(), one.show("text").to_frame(), one.show("lines", [0, 1, 2]).to_frame()]
        for frame in frames:
            assert both(frame) == pairs(expected) * 3
        counts = Counter(expected[step][1] for step in at_peaks["step"])
        shown = at_peaks.show().to_frame()
        assert dict(zip(shown["input_token"], shown["peaks"], strict=True)) == dict(counts)
        said = at_peaks.show(position="predicted").to_frame()
        assert said["token"].tolist()[0] in [place[3] for place in expected]
        for t in (0, 7):
            told = f"after `{expected[t][1]}`, before `{expected[t][3]}`"
            assert f"({html.escape(told)})" in one.show("text").static
            assert (one.show("text").live or {})["places"][t] == told
            assert f"({html.escape(told)})" in one._repr_html_()


def test_every_view_of_a_response_has_both_tokens(model: object, tmp_path: Path) -> None:
    question = bundled_problems(1)[0].question
    target, source = decode(model, [question, question], max_new_tokens=20, record=ResidualSites())
    words = [question.split()[-1], *target.tokens]
    expected = [(words[t], words[t + 1]) for t in range(20)]
    ids = torch.cat([target.prompt_ids, target.token_ids]).tolist()
    assert target.input_ids.tolist() == ids[-21:-1]
    assert both(target.to_frame()) == expected
    assert both(views.text(target).to_frame()) == expected * 2
    one = Trajectory.of(target, torch.rand(2, 20))
    steps = [(ids[t - 21], read, ids[t - 20], said) for t, (read, said) in enumerate(expected)]
    assert places(one.to_frame()) == steps * 2
    sweep = patch_sweep(model, target, source, log_probability(int(target.token_ids[9])), at=9, layers=[1])
    assert both(sweep) == expected[:10]
    assert both(views.sweep(sweep).to_frame()) == expected[:10]
    attention = views.attention(model, target, 1, steps=[4], window=2).to_frame()
    for step, read, said in attention[["step", "input_token", "token"]].itertuples(index=False):
        assert (read, said) == expected[step]
    assert sorted(set(attention["step"])) == [2, 3, 4]
    assert f"after `{words[4]}`, before `{words[5]}`" in views.logit_lens(model, target, 4).alt
    assert Rollout.load(target.save(tmp_path / "r.safetensors")).input_tokens == words[:20]


def test_report_summary_and_shell_tell_both(run: TraceRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = digest(run, room=10**6)
    for curves in found.curves:
        expected = steps_of(run, Cell(curves.problem))
        assert (
            list(zip(curves.input_ids, curves.input_tokens, curves.token_ids, curves.tokens, strict=True)) == expected
        )
        row = {"problem": curves.problem, "sample": 0, "status": "correct"}
        assert response_data(found, curves, row)["before"] == expected[0][1]
    tokens, facts = run.tokens, summary(run)
    for position, key in (("input", "input_words"), ("predicted", "words")):
        for layer in (0, 1, 2):
            rows = tokens[(tokens["layer"] == layer) & (tokens["position"] == position)].head(15)
            words = list(zip(rows["word"], rows["count"], strict=True))
            assert facts[key][layer] == [list(pair) for pair in words]
            assert [(word.word, word.count) for word in found.words[position][layer]] == words
            for word in found.words[position][layer]:
                mine = [
                    (place[1] if position == "input" else place[3]) == word.word
                    for cell in run.cells()
                    for place in steps_of(run, cell)
                ]
                assert word.overall == pytest.approx(np.mean(mine))
    write_report([run], tmp_path / "report.html")
    document = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert document.index("Tokens read at the") < document.index("Tokens predicted at the")
    show(run)
    told = " ".join(capsys.readouterr().out.split())
    assert told.index("Tokens read at peaks of layer 2") < told.index("Tokens predicted at peaks of layer 2")
    peaks = run.peaks[run.peaks["layer"] == 2].sort_values("n_peaks", kind="stable")
    problem = peaks.iloc[len(peaks) // 2]["problem"]
    first = run.trajectory(problem).peaks().iloc[0]
    assert f"step {first['step']} after `{first['input_token']}`, before `{first['token']}`" in told


def test_tables_of_earlier_versions_open_and_are_derived_anew(run: TraceRun, model: object, tmp_path: Path) -> None:
    again = trace(model, n=3, out=tmp_path / "old", excess=0, **SMALL)
    mi, new_tokens = again.mi, again.tokens
    old = mi.drop(columns=["nhsic", "input_token_id", "input_token"])
    again.write_table("mi.parquet", old)
    again.write_table("steps.parquet", again.steps.drop(columns=["input_token_id", "input_token"]))
    words = new_tokens[(new_tokens["position"] == "predicted") & new_tokens["is_word"]]
    again.write_table("tokens.csv", words.drop(columns=["position", "is_word"]).reset_index(drop=True))
    opened = TraceRun.open(again.path)
    assert list(opened.mi.columns)[4:] == ["step", "token_id", "token", "nhsic", "mi", "is_peak"]
    assert opened.mi["nhsic"].tolist() == opened.mi["mi"].tolist() == mi["nhsic"].tolist()
    one = opened.trajectory(opened.cells()[0].problem)
    assert one.input_tokens == ["⟨prompt⟩", *one.tokens[:-1]]
    assert one.input_ids[0] == again.read(Cell(one.problem)).tensors["prompt_ids"][-1]
    found = digest(opened, room=10**6)
    assert list(found.words) == ["predicted"]
    assert found.curves[0].input_tokens == one.input_tokens
    assert summary(opened)["input_words"] == {}
    show(opened)
    write_report([opened], tmp_path / "report.html")
    trace(model, n=3, out=again.path, **SMALL)
    assert set(TraceRun.open(again.path).mi.columns) == set(mi.columns)
    pd.testing.assert_frame_equal(TraceRun.open(again.path).tokens, new_tokens)


def test_the_score_is_read_by_either_name(run: TraceRun) -> None:
    whole = run.mi
    assert np.shares_memory(whole["mi"].to_numpy(), whole["nhsic"].to_numpy())
    for names in (["mi"], ["nhsic", "step"], ["mi", "step", "nhsic"]):
        some = run.table("mi.parquet", names)
        assert list(some.columns) == names
        assert all(some[name].tolist() == whole["nhsic"].tolist() for name in names if name != "step")
    one = run.table("mi.parquet", ["mi"], where={"layer": 1, "step": 3})["mi"].tolist()
    assert one == whole.query("layer == 1 and step == 3")["nhsic"].tolist()
    parts = pd.concat(run.parts("mi.parquet", ["mi", "layer"]))
    assert parts["mi"].tolist() == whole["nhsic"].tolist()

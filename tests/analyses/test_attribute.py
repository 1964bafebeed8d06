"""`peaklens attribute`: tables of a finished run, from its stored tokens alone, and its refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import families as F
import numpy as np
import pandas
import pytest
import torch
from processes import Command

from analyses.problems import bundled_problems
from analyses.store.run import Cell, Run
from analyses.trace import TraceRun, attributing, trace
from interp import InputError, load_model, read
from interp.engines.bridge import BridgeEngine
from interp.record import ResidualSites
from probes import nhsic

PROBLEM = "toy-000"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TraceRun:
    folder = tmp_path_factory.mktemp("attribute") / "run"
    return trace(F.pair("toy")[1], n=2, out=folder, max_new_tokens=60, layers=[0, 2], excess=3, report=False)


def hf_logits(run: Run) -> torch.Tensor:
    tensors = run.read(Cell(PROBLEM)).tensors
    text = torch.cat([tensors["prompt_ids"], tensors["token_ids"]])[None]
    with torch.no_grad():
        return F.pair("toy")[0](text).logits[0, len(tensors["prompt_ids"]) - 1 : -1]


def test_the_tables_are_of_the_stored_tokens_and_nothing_is_decoded(
    run: TraceRun, peaklens: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    forward = BridgeEngine.forward

    def counted(self: BridgeEngine, ids: torch.Tensor, *args: Any) -> torch.Tensor:
        passes.append(ids.shape[1])
        return forward(self, ids, *args)

    monkeypatch.setattr(BridgeEngine, "forward", counted)
    before = run.files()
    steps = ["--step", "41", "--step", "3", "--step", "-1"]
    code, out, said = peaklens("attribute", str(run.path), "--problem", PROBLEM, *steps, "--layer", "0")
    assert code == 0, said
    whole = sum(len(run.read(Cell(PROBLEM)).tensors[name]) for name in ("prompt_ids", "token_ids"))
    assert passes == [2, 1, whole - 1], "two passes at load, and one over prompt and response"
    assert "against `" in out
    assert run.files() == before
    folder = run.path / "attribution" / PROBLEM / "sample0-layer0-step3-41-59"
    assert {file.name for file in folder.iterdir()} == {"logits.parquet", "attribution.json"}
    table = pandas.read_parquet(folder / "logits.parquet")
    assert table["step"].unique().tolist() == [3, 41, 59]
    assert table["read_at"].unique().tolist() == [0, 2]
    stored = run.mi[(run.mi["problem"] == PROBLEM) & (run.mi["layer"] == 0)].set_index("step")
    logits = hf_logits(run)
    for step, rows in table[table["read_at"] == 2].groupby("step"):
        first = rows.iloc[0]
        assert (first["problem"], first["sample"]) == (PROBLEM, 0)
        assert (first["input_token"], first["token"]) == (stored["input_token"][step], stored["token"][step])
        expected = float(logits[step, first["token_id"]] - logits[step, first["contrast_id"]])
        assert rows["share"].sum() == pytest.approx(expected, rel=1e-4, abs=1e-4)
        others = logits[step].clone()
        others[first["token_id"]] = -torch.inf
        assert first["contrast_id"] == int(others.argmax())
    facts = json.loads((folder / "attribution.json").read_text())
    assert (facts["steps"], facts["peaks"], facts["contrast"]) == ([3, 41, 59], False, "best other")


def test_peaks_are_those_of_the_run(run: TraceRun, peaklens: Command) -> None:
    options = ["--problem", PROBLEM, "--peaks", "--contrast", "none", "--csv", "--json", "--top", "3"]
    code, out, said = peaklens("attribute", str(run.path), *options)
    assert code == 0, said
    told = json.loads(out)
    mine = run.mi[(run.mi["problem"] == PROBLEM) & (run.mi["layer"] == 2) & run.mi["is_peak"]]
    assert told["steps"] == mine["step"].tolist() != []
    assert len(told["top"]["logits"]) == 3 * len(told["steps"])
    table = Run.open(run.path).path / "attribution" / PROBLEM / "sample0-layer2-peaks" / "logits.csv"
    assert str(table) in told["files"]
    shares, logits = pandas.read_csv(table), hf_logits(run)
    found = shares.groupby("step")["share"].sum()
    expected = [float(logits[step, token]) for step, token in zip(mine["step"], mine["token_id"], strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    code, out, _ = peaklens("attribute", str(run.path), "--problem", PROBLEM, "--peaks", "--quiet")
    assert all(Path(line).is_file() for line in out.split())


def test_what_is_asked_knows_the_answer_and_the_other_steps(run: TraceRun, tmp_path: Path) -> None:
    """The score of the run, from what a score's attribution is handed."""
    model = F.pair("toy")[1]
    asked = attributing.attribute_run(run, PROBLEM, 5, layer=2, model=model).asked
    record = ResidualSites(layers=2)
    stream = read(model, asked.prompt_ids, asked.token_ids, record=record).residuals["resid_post"][0]
    options = asked.options
    scores = nhsic(stream, asked.answer, sigma=options.sigma, eps=options.eps, drop_top=options.drop_top)
    torch.testing.assert_close(scores, asked.trajectory.mi[1], atol=1e-4, rtol=1e-4)
    assert asked.others is not None
    assert len(asked.others) == 3
    beside = [
        nhsic(stream, other, sigma=options.sigma, eps=options.eps, drop_top=options.drop_top) for other in asked.others
    ]
    kept = run.read(Cell(PROBLEM)).tensors["excess:difference"][1]
    torch.testing.assert_close(scores - torch.stack(beside).mean(0), kept, atol=1e-4, rtol=1e-4)
    peaks = asked.trajectory.peaks(2)["step"].tolist()
    assert sorted([*asked.other_steps, *peaks]) == list(range(60))
    problem = bundled_problems(1)[0]
    changed = type(problem)(id=problem.id, question=problem.question, solution="1 + 1 is 2", answer="2")
    again = attributing.attribute_run(run, PROBLEM, 5, layer=2, model=model, problems=[changed])
    with pytest.raises(InputError, match="another question, solution or answer under its id"):
        _ = again.asked.answer
    plain = trace(model, n=1, out=tmp_path / "plain", max_new_tokens=8, excess=0, report=False)
    assert attributing.attribute_run(plain, PROBLEM, 5, model=model).asked.others is None
    again = attributing.attribute_run(run, PROBLEM, 5, model=model, problems=bundled_problems(3)[1:])
    with pytest.raises(InputError, match=f"a problem file with '{PROBLEM}'.* 2 problems without it"):
        _ = again.asked.answer


def test_wrong_input_ends_in_one_line(run: TraceRun, peaklens: Command, tmp_path: Path) -> None:
    usual = {"--problem": PROBLEM, "--step": "3"}
    for given, text in (
        ({"--problem": "ducks"}, "a response of .*: problem 'toy-000', 'toy-001', received problem 'ducks', sample 0"),
        ({"--sample": "2"}, "received problem 'toy-000', sample 2"),
        ({"--step": "60"}, r"steps from 0 to 59 .* of problem 'toy-000', received \[60\]"),
        ({"--layer": "1"}, "a layer among 0, 2, or -1 to -2, received 1"),
        ({"--step": None}, "either steps or peaks, received neither"),
        ({"--peaks": ""}, "either steps or peaks, received both"),
        ({"--top": "0"}, "top at least 1, received 0"),
        ({"--model": "toy-base"}, "toy-reasoner as it was when it made .*weight_hash"),
        ({"--contrast": "Wait Hmm"}, "the text of one token of toy-reasoner, received 'Wait Hmm', which is 2"),
    ):
        options = [part for pair in {**usual, **given}.items() if pair[1] is not None for part in pair if part]
        code, _, said = peaklens("attribute", str(run.path), *options, "--quiet")
        last = said.strip().splitlines()[-1]
        assert code == 2, said
        assert last.startswith("peaklens: ")
        assert re.search(text, last), last
    code, _, said = peaklens("attribute", str(tmp_path), "--problem", PROBLEM, "--step", "1")
    assert (code, "expected a run folder" in said) == (2, True)


def test_a_layer_without_peaks_and_a_run_without_scores_are_refused(tmp_path: Path, run: TraceRun) -> None:
    from analyses.trace.trajectory import Trajectory

    flat = Trajectory.of(list("abcdef"), [0.1] * 6)
    with pytest.raises(InputError, match="a layer with peaks, received none at layer 0 of problem 'response'"):
        attributing._steps(flat, 0, None, True)
    other = Run.start(tmp_path / "other", kind="watch", settings={"model": "toy-reasoner"}, provenance={})
    other.write(Cell("ducks"), {"prompt_ids": torch.tensor([5])}, {"tokens": []})
    with pytest.raises(InputError, match=r"a run with scores \(kind trace\), received kind watch"):
        attributing.attribute_run(other, "ducks", 0)


def test_further_attributions_and_pages_are_entries(run: TraceRun, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = pandas.DataFrame({"step": [5], "difference": [0.5]})
    monkeypatch.setattr(attributing, "ATTRIBUTIONS", [*attributing.ATTRIBUTIONS, lambda asked: {"ends": ends}])
    monkeypatch.setattr(attributing, "PAGES", {"circuit": lambda asked, tables: f"<p>{sorted(tables)} é</p>"})
    found = attributing.attribute_run(run, PROBLEM, 5, model=F.pair("toy")[1])
    assert [file.name for file in found.files] == ["attribution.json", "circuit.html", "logits.parquet", "ends.parquet"]
    assert (found.folder / "circuit.html").read_text(encoding="utf-8") == "<p>['ends', 'logits'] é</p>"
    assert pandas.read_parquet(found.folder / "ends.parquet")["problem"].tolist() == [PROBLEM]


def test_a_long_list_of_steps_has_a_folder_of_its_own(run: TraceRun) -> None:
    model: Any = load_model("toy-reasoner")
    some, more = (attributing.attribute_run(run, PROBLEM, range(n), model=model) for n in (30, 31))
    assert some.folder != more.folder
    assert some.folder.name.startswith("sample0-layer2-step30-")
    assert some.asked.steps == tuple(range(30))

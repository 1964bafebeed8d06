"""`peaklens attribute`: tables of a finished run, from its stored tokens alone, and its refusals."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import families as F
import numpy as np
import pandas
import pytest
import torch
from browser import Browser, browser  # noqa: F401  (a fixture)
from processes import Command

from analyses.problems import bundled_problems
from analyses.store.run import Cell, Run
from analyses.trace import TraceRun, attributing, trace, tracer
from analyses.trace.circuit_page import _words, circuit_of
from analyses.trace.provenance import RunWarning
from interp import InputError, decoding, load_model, read
from interp.engines.bridge import BridgeEngine
from interp.record import ResidualSites
from interp.writes import read_writes
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
    for home in (decoding, tracer):
        monkeypatch.setattr(home, "decode", None)
    before = run.files()
    steps = ["--step", "41", "--step", "3", "--step", "-1"]
    code, out, said = peaklens("attribute", str(run.path), "--problem", PROBLEM, *steps, "--layer", "0")
    assert code == 0, said
    whole = sum(len(run.read(Cell(PROBLEM)).tensors[name]) for name in ("prompt_ids", "token_ids"))
    assert passes[:3] == [2, 1, whole - 1], "two passes at load, and one over prompt and response"
    assert " less that of `" in out
    assert "nhsic at layer 0, " in out
    assert run.files() == before
    folder = run.path / "attribution" / PROBLEM / "sample0-layer0-step3-41-59"
    tables = {f"{name}.parquet" for name in ("logits", "mi", "mi_ends", "mi_sources")}
    assert {file.name for file in folder.iterdir()} == {*tables, "attribution.json", "circuit.html"}
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
    ends = pandas.read_csv(next(file for file in told["files"] if file.endswith("mi_ends.csv")))
    scores = ends[ends["measure"] == "nhsic"].set_index("step")["value"]
    np.testing.assert_allclose(scores[mine["step"]], mine["nhsic"], rtol=1e-4)
    excess = ends[ends["measure"] == "nhsic excess"].set_index("step")["value"]
    np.testing.assert_allclose(excess[mine["step"]], mine["excess"], rtol=1e-3, atol=1e-5)
    whole = pandas.read_csv(next(file for file in told["files"] if file.endswith("mi.csv")))
    sums = whole.groupby(["measure", "step"])["share"].sum()
    np.testing.assert_allclose(sums, ends.set_index(["measure", "step"])["difference"][sums.index], rtol=2e-3)
    assert whole["total"].isna().all(), "total effects of every peak only where they are asked for"
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
    with pytest.raises(InputError, match="another question, solution or answer under its id"):
        attributing.attribute_run(run, PROBLEM, 5, layer=2, model=model, problems=[changed])
    plain = trace(model, n=1, out=tmp_path / "plain", max_new_tokens=8, excess=0, report=False)
    few = attributing.attribute_run(plain, PROBLEM, 5, model=model, measures="nhsic", total="none")
    assert few.asked.others is None
    assert set(few.tables["mi"]["measure"]) == {"nhsic"}
    with pytest.raises(InputError, match=f"a problem file with '{PROBLEM}'.* 2 problems without it"):
        attributing.attribute_run(run, PROBLEM, 5, model=model, problems=bundled_problems(3)[1:])


def test_the_circuit_is_of_the_tables_and_its_edges_are_measured_where_they_are_asked(run: TraceRun) -> None:
    model, step = F.pair("toy")[1], 5
    found = attributing.attribute_run(run, PROBLEM, step, layer=2, model=model, edges=True, measures="nhsic")
    circuit = circuit_of(found.asked, found.tables)
    assert circuit is not None
    position = len(found.asked.prompt_ids) - 1 + step
    shares = found.tables["mi"].set_index("component")
    nodes = circuit.nodes[circuit.nodes["position"] == position].set_index("node")
    assert (circuit.metric, circuit.target) == ("nhsic", "L2 resid_post")
    np.testing.assert_allclose(nodes.loc[shares.index, "score"], shares["share"])
    np.testing.assert_allclose(nodes.loc[shares.index, "exact"], shares["total"])
    # Into the target an edge's exact effect is the direct effect, whose reference is the same mean.
    assert step in found.asked.other_steps
    edges = found.tables["edges"]
    last = edges[(edges["target"] == circuit.target) & edges["exact"].notna()].set_index("source")
    assert len(last) > 2
    np.testing.assert_allclose(last["exact"], shares.loc[last.index, "direct"], rtol=2e-3, atol=1e-5)
    assert len(circuit.edges) == len(edges)
    read = circuit.positions.set_index("position")["input_token"]
    assert read[position] == found.asked.trajectory.input_tokens[step]
    # What a write says, by Hugging Face's norm and unembedding alone.
    hf = F.pair("toy")[0]
    writes = read_writes(model, found.asked.prompt_ids, found.asked.token_ids, [[step]])
    scale = (writes.stream[2, 0].square().mean() + hf.config.rms_norm_eps).sqrt()
    words = _words(found.asked, circuit)
    for component, vector in writes:
        logits = (hf.lm_head.weight @ (hf.model.norm.weight * vector[0] / scale)).detach()
        mine = words[words["node"] == component.label]
        assert mine["token"].iloc[0].strip() == model.tokenizer.decode([int(logits.argmax())]).strip()
        assert mine["value"].iloc[0] == pytest.approx(float(logits.max() - logits.mean()), rel=1e-4)
    page = (found.folder / "circuit.html").read_text(encoding="utf-8")
    assert "What wrote nhsic at step 5 of toy-000" in page
    assert "measured by path patching. Spearman " in page
    assert json.loads((found.folder / "attribution.json").read_text())["edges"] is True


@pytest.mark.browser
def test_the_page_opens_without_a_network(run: TraceRun, browser: Browser) -> None:  # noqa: F811
    found = attributing.attribute_run(run, PROBLEM, [3, 5], layer=0, model=F.pair("toy")[1], measures="nhsic")
    seen = browser.rendered(found.folder / "circuit.html").check()
    assert "What wrote nhsic at steps 3, 5 of toy-000" in seen.text
    assert "the direct effect" in seen.text


def test_scores_that_cannot_be_shared_out_are_said(tmp_path: Path) -> None:
    model = load_model("toy-reasoner")
    pre = trace(model, n=1, out=tmp_path / "pre", max_new_tokens=8, site="resid_pre", excess=0, report=False)
    with pytest.warns(RunWarning, match="scores are not attributed: the run scored resid_pre"):
        found = attributing.attribute_run(pre, PROBLEM, 5, model=model)
    assert list(found.tables) == ["logits"]
    assert found.tables["logits"]["read_at"].unique().tolist() == [2]
    mine = load_model("mine", hf_model=copy.deepcopy(F.pair("toy")[0]), tokenizer=model.tokenizer, device="cpu")
    own = trace(mine, bundled_problems(1), out=tmp_path / "own", max_new_tokens=8, excess=0, report=False)
    with pytest.warns(RunWarning, match="name it with --problems"):
        attributing.attribute_run(own, PROBLEM, 5, model=mine)
    found = attributing.attribute_run(own, PROBLEM, 5, model=mine, problems=bundled_problems(1))
    assert {"mi", "mi_ends", "mi_sources"} < set(found.tables)


def test_wrong_input_ends_in_one_line(run: TraceRun, peaklens: Command, tmp_path: Path) -> None:
    usual = {"--problem": PROBLEM, "--step": "3"}
    for given, text in (
        ({"--problem": "ducks"}, "a response of .*: problem 'toy-000', 'toy-001', received problem 'ducks', sample 0"),
        ({"--sample": "2"}, "received problem 'toy-000', sample 2"),
        ({"--step": "60"}, r"steps from 0 to 59 .* of problem 'toy-000', received \[60\]"),
        ({"--layer": "1"}, "a layer among 0, 2, or -1 to -2, received 1"),
        ({"--step": None}, "either steps or peaks, received neither"),
        ({"--peaks": ""}, "either steps or peaks, received both"),
        ({"--step": None, "--peaks": "", "--edges": ""}, "one step, where edges are asked for, received . steps"),
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
    monkeypatch.setattr(attributing, "PAGES", {"circuit": lambda asked, tables: f"<p>{sorted(tables)[:3]} é</p>"})
    found = attributing.attribute_run(run, PROBLEM, 5, model=F.pair("toy")[1])
    assert {file.name for file in found.files} >= {"attribution.json", "circuit.html", "mi.parquet", "ends.parquet"}
    assert (found.folder / "circuit.html").read_text(encoding="utf-8") == "<p>['ends', 'logits', 'mi'] é</p>"
    assert pandas.read_parquet(found.folder / "ends.parquet")["problem"].tolist() == [PROBLEM]


def test_a_long_list_of_steps_has_a_folder_of_its_own(run: TraceRun, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = load_model("toy-reasoner")
    monkeypatch.setattr(attributing, "ATTRIBUTIONS", [])
    some, more = (attributing.attribute_run(run, PROBLEM, range(n), model=model) for n in (30, 31))
    assert some.folder != more.folder
    assert some.folder.name.startswith("sample0-layer2-step30-")
    assert some.asked.steps == tuple(range(30))

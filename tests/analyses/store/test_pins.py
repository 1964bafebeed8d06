"""A run is of one model, whatever its name; what may change meanwhile may, and says so; nothing fails in silence."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pandas.testing import assert_frame_equal
from processes import Command, ToyForks

from analyses.problems import Problem, bundled_problems
from analyses.store import Cell, Run
from analyses.studies import make_study
from analyses.studies.estimate import estimate_study
from analyses.studies.run import run_study
from analyses.trace import provenance, trace
from analyses.trace.provenance import RunWarning, compare_provenance
from analyses.work.batches import do_batches
from interp import InputError, bundled_model_path, load_model
from probes import tukey_peaks

SMALL: dict[str, Any] = {"max_new_tokens": 12, "report": False, "excess": 0}
UNREADABLE = Problem("zebra", "zebra ?", "So 8", "8")


@pytest.fixture(scope="module")
def model() -> Any:
    """To be left as it is."""
    return load_model("toy-reasoner", device="cpu")


@pytest.fixture
def mine() -> Any:
    """To be changed."""
    return load_model("toy-reasoner", device="cpu")


@pytest.fixture(scope="module")
def made(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trace(model, n=1, out=tmp_path_factory.mktemp("made") / "run", **SMALL).path


@pytest.fixture
def begun(made: Path, tmp_path: Path) -> Path:
    """A run of one problem, to go on with."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def later_versions(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    known = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.get(name) or known(name))
    monkeypatch.setattr(provenance, "_versions", provenance._versions.__wrapped__)  # as a process that begins now


# The model


def compatible(model: Any) -> None:
    model.enable_compatibility_mode(disable_warnings=True)


def hooked(model: Any) -> None:
    model.blocks[1].register_forward_hook(lambda module, args, output: None)


def other_end(model: Any) -> None:
    model.original_model.generation_config.eos_token_id = [2, 30]


def other_words(model: Any) -> None:
    model.tokenizer.add_tokens(["zebra"])


def halved(model: Any) -> None:
    model.blocks[0].mlp.out.weight.data.mul_(0.5)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (compatible, "weight_hash.*processed"), (hooked, "hooks"), (other_end, "generation.eos_token_id"),
        (other_words, "tokenizer"), (halved, "weight_hash"),
    ],
)  # fmt: skip
def test_a_changed_model_is_refused_by_the_part(
    mine: Any, begun: Path, change: Callable[[Any], None], part: str
) -> None:
    assert len(trace(mine, n=1, out=begun, **SMALL).cells()) == 1  # as it is, it goes on
    change(mine)
    with pytest.raises(InputError, match=rf"provenance\.model\.{part} is .* there and .* now"):
        trace(mine, n=2, out=begun, **SMALL)
    assert len(Run.open(begun).cells()) == 1


def test_the_chat_template_counts_where_prompts_go_through_it(mine: Any, tmp_path: Path) -> None:
    for prompt in ("raw", "chat"):
        mine.tokenizer.chat_template = "{{ messages[0]['content'] }}"
        trace(mine, n=1, out=tmp_path / prompt, prompt=prompt, **SMALL)
    mine.tokenizer.chat_template = "{{ messages[0]['content'] }} Wait"
    trace(mine, n=2, out=tmp_path / "raw", prompt="raw", **SMALL)
    with pytest.raises(InputError, match=r"provenance\.model\.chat_template is"):
        trace(mine, n=2, out=tmp_path / "chat", prompt="chat", **SMALL)


@pytest.mark.usefixtures("quick_processes")
def test_the_same_model_by_other_names(tmp_path: Path) -> None:
    shutil.copytree(bundled_model_path("toy-reasoner"), tmp_path / "copy")
    trace("toy-reasoner", n=1, out=tmp_path / "run", **SMALL)
    copied = f"{tmp_path / 'copy'}/"
    run = trace(copied, bundled_problems(2), tmp_path / "run", workers=2, batch_size=1, **SMALL)
    assert len(run.cells()) == 2
    assert run.settings["model"] == load_model(copied).cfg.model_name
    study = make_study("trajectories", {})
    for name in ("toy-reasoner", copied):
        run_study(study, name, bundled_problems(1), tmp_path / "studies" / "s", max_new_tokens=12)
    assert len(list((tmp_path / "studies" / "baselines").iterdir())) == 1


@pytest.mark.usefixtures("quick_processes")
@pytest.mark.parametrize("change", [hooked, halved])
def test_processes_that_cannot_have_the_model_are_refused(
    mine: Any, tmp_path: Path, change: Callable[[Any], None]
) -> None:
    change(mine)
    with pytest.raises(InputError, match=r"^start worker processes: expected a model .* each process can load|hooks"):
        trace(mine, n=2, out=tmp_path / "run", workers=2, batch_size=1, **SMALL)
    assert Run.open(tmp_path / "run").cells() == []
    trace(mine, n=2, out=tmp_path / "run", **SMALL)


# Versions, old folders


@pytest.mark.parametrize(
    ("version", "said"), [("5.99.1", "more than last digits"), ("5.23.9", "differ in last digits")]
)
def test_other_versions_are_told_and_recorded_once(
    model: Any, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, said: str
) -> None:
    file = begun / "run.json"
    pinned = json.loads(file.read_text())
    for versions in (pinned["provenance"]["versions"], *(w["versions"] for w in pinned["provenance"]["writers"])):
        versions["transformers"] = "5.23.0"
    file.write_text(json.dumps(pinned))
    later_versions(monkeypatch, transformers=version)
    with pytest.warns(RunWarning, match=f"written with transformers 5.23.0, now {version}; .*{said}"):
        trace(model, n=2, out=tmp_path / "run", probes=("r2",), **SMALL)
    run = trace(model, n=2, out=tmp_path / "run", **SMALL)  # without a warning: it is recorded now
    assert [writer["versions"]["transformers"] for writer in run.provenance["writers"]] == ["5.23.0", version]
    assert run.mi["r2"].notna().all()


def test_another_version_may_write_the_same_in_another_form() -> None:
    old = {
        "model": {"config": {"eps": 1e-6, "gone": 1}, "tokenizer": "a", "tokenizing": "c"},
        "versions": {"transformers": "5.1.0", "tokenizers": "0.22.0"},
    }
    new = {
        "model": {"config": {"eps": 1e-6, "new": 2}, "tokenizer": "b", "tokenizing": "c"},
        "versions": {"transformers": "5.2.0", "tokenizers": "0.22.0"},
    }
    with pytest.warns(RunWarning, match="transformers 5.1.0, now 5.2.0"):
        assert compare_provenance(old, new)[1] == []
    assert len(compare_provenance(old, new | {"versions": old["versions"]})[1]) == 3
    other = {**new, "model": {**new["model"], "tokenizing": "d", "config": {"eps": 1e-5}}}
    assert len(compare_provenance(old, other)[1]) == 2


def test_a_run_of_an_earlier_version_goes_on(mine: Any, begun: Path, tmp_path: Path) -> None:
    file = begun / "run.json"
    pinned = json.loads(file.read_text())
    known = pinned["provenance"]["model"]
    pinned["provenance"] = {
        "model": {name: known[name] for name in ("kind", "revision", "weight_hash")},
        "versions": pinned["provenance"]["versions"],
    }
    file.write_text(json.dumps(pinned))
    with pytest.warns(RunWarning, match="does not say what its model's processed, config, generation, tokenizer, tok"):
        run = trace(mine, n=2, out=tmp_path / "run", **SMALL)
    assert len(run.cells()) == 2
    other_end(mine)
    with pytest.raises(InputError, match="eos_token_id"):
        trace(mine, n=2, out=tmp_path / "run", **SMALL)


# Settings


def test_tau_is_of_the_tables(model: Any, tmp_path: Path) -> None:
    trace(model, n=2, out=tmp_path / "run", **(SMALL | {"max_new_tokens": 40}))
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*.safetensors")}
    run = trace(model, n=2, out=tmp_path / "run", tau=0.25, **(SMALL | {"max_new_tokens": 40}))
    assert run.replaced == {"tau": (1.5, 0.25)}
    assert {file: file.stat().st_mtime_ns for file in files} == files
    for cell in run.cells():
        rows = run.mi[run.mi["problem"] == cell.problem].sort_values(["layer", "step"])
        expected = tukey_peaks(run.read(cell).tensors["mi"], 0.25)
        assert torch.equal(torch.tensor(rows["is_peak"].to_numpy()).reshape(expected.shape), expected)
    whole = trace(model, n=2, out=tmp_path / "whole", tau=0.25, **(SMALL | {"max_new_tokens": 40}))
    assert_frame_equal(run.peaks, whole.peaks, check_exact=True)
    assert json.loads((run.path / "run.json").read_text())["settings"]["tau"] == 0.25


def test_a_folder_without_cells_takes_corrected_settings(model: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no power"), model.hooks(fwd_hooks=[("embed.hook_in", out_of_order)]):
        trace(model, n=1, out=tmp_path / "run", seed=1, **SMALL)
    run = trace(model, n=1, out=tmp_path / "run", seed=2, site="resid_pre", **SMALL)
    assert (run.settings["seed"], run.settings["site"]) == (2, "resid_pre")
    assert run.failures() == {}
    with pytest.raises(InputError, match=r"settings\.seed is 2 there and 3 now"):
        trace(model, n=1, out=tmp_path / "run", seed=3, **SMALL)


def out_of_order(tokens: Any, hook: Any) -> None:
    raise RuntimeError("no power")


def test_settings_corrected_meanwhile_are_not_mixed(tmp_path: Path) -> None:
    common: dict[str, Any] = {"kind": "watch", "provenance": {}, "correctable": True, "may_grow": ["problems"]}
    first = Run.start(tmp_path, settings={"seed": 1, "problems": {"a": "x"}}, **common)
    second = Run.start(tmp_path, settings={"seed": 2, "problems": {"a": "x"}}, **common)
    with pytest.raises(InputError, match=r"settings\.seed is 2 there and 1 now"):
        first.write(Cell("a"), {}, {})
    second.write(Cell("a"), {}, {})
    assert Run.open(tmp_path).cells() == [Cell("a")]
    with pytest.raises(InputError, match=r"settings\.seed"):
        Run.start(tmp_path, settings={"seed": 1, "problems": {"a": "x"}}, **common)


BAD: tuple[tuple[str, Any], ...] = (
    ("tau", -0.5), ("tau", float("nan")), ("tau", "1"), ("temperature", float("nan")), ("temperature", 1e-300),
    ("temperature", float("inf")), ("top_p", 0.0), ("top_p", 1.5), ("top_p", float("nan")), ("seed", 1.5),
    ("seed", True), ("max_new_tokens", 0), ("max_new_tokens", 2.5), ("samples", 0), ("sigma", 0), ("sigma", "mean"),
    ("eps", 0.0), ("eps", float("nan")), ("drop_top", -1), ("drop_top", 127), ("layers", []), ("layers", ["a"]),
    ("layers", 3), ("site", "resid"), ("batch_size", 0), ("batch_size", 2.5), ("workers", 0), ("n", 0), ("n", -1),
    ("prompt", "Chat"), ("reference", "Answer"),
)  # fmt: skip


def test_every_setting_is_checked_before_anything_is_decoded(model: Any, tmp_path: Path) -> None:
    study = make_study("trajectories", {})
    for setting, value in (*BAD, ("null", 10**7), ("probes", ("r2/drop4000",))):
        with pytest.raises(InputError):
            trace(model, out=tmp_path / "run", **{**SMALL, "n": 2, setting: value})
    for setting, value in BAD:
        arguments = {"n": 2, "max_new_tokens": 12, setting: value}
        with pytest.raises(InputError):
            run_study(study, model, out=tmp_path / "studies" / "s", **arguments)
        with pytest.raises(InputError):
            estimate_study(study, model, **arguments)
    with pytest.raises(TypeError, match="tua"):
        trace(model, out=tmp_path / "run", **{**SMALL, "n": 2, "tua": 1.5})
    assert not list(tmp_path.rglob("*.safetensors"))
    run = trace(model, bundled_problems(1), tmp_path / "run", max_new_tokens=3, report=False)
    assert len(run.cells()) == 1
    with pytest.raises(InputError):  # nor is it pinned what cannot be asked
        trace(model, bundled_problems(1), tmp_path / "run", max_new_tokens=3, report=False, probes=("r2/drop4000",))
    trace(model, bundled_problems(1), tmp_path / "run", max_new_tokens=3, report=False, probes=("r2",))


def test_numbers_of_any_kind_are_settings(model: Any, tmp_path: Path) -> None:
    plain = trace(model, n=1, out=tmp_path / "run", seed=3, temperature=0.5, layers=[0, 2], **SMALL)
    kinds = {"seed": np.int64(3), "temperature": np.float64(0.5), "layers": np.array([0, 2]), "n": torch.tensor(1)}
    again = trace(model, out=tmp_path / "run", probes="r2", null_seed=np.int32(1), **kinds, **SMALL)
    assert again.settings == plain.settings | {"probes": ["r2"]}


# Failures


def test_unreadable_problems_are_named_and_the_others_go_on(model: Any, tmp_path: Path) -> None:
    good = bundled_problems(2)
    long = Problem("long", " ".join([good[0].question] * 150), good[0].solution, good[0].answer)
    silent = Problem("reference", good[0].question, "So eight", "8")
    run = trace(model, [good[0], UNREADABLE, long, silent, good[1]], tmp_path / "run", **SMALL)
    assert [cell.problem for cell in run.cells()] == [good[0].id, good[1].id]
    reasons = {cell.problem: reason for cell, reason in run.failures().items()}
    assert sorted(reasons) == ["long", "reference", "zebra"]
    assert "'zebra'" in reasons["zebra"]
    assert "at most 1024 positions" in reasons["long"]
    alone = trace(model, good, tmp_path / "alone", **SMALL)
    assert_frame_equal(run.mi, alone.mi, check_exact=True)
    study = make_study("scale", {"budgets": "6,12"})
    result = run_study(study, model, [good[0], UNREADABLE, good[1]], tmp_path / "studies" / "s", max_new_tokens=12)
    assert [cell.problem for cell in result.failures] == ["zebra"]
    assert {cell.problem for cell in result.run.cells()} == {good[0].id, good[1].id}


def test_a_chat_template_that_refuses_a_problem(mine: Any, tmp_path: Path) -> None:
    refusal = "{% if 'D' in messages[0]['content'] %}{{ raise_exception('no D here') }}{% endif %}"
    asked = "{{ messages[0]['content'] }}"
    mine.tokenizer.chat_template = "".join((refusal, asked))
    questions = ["6 A * 3 ? ->", "6 D * 3 ? ->"]
    problems = [Problem(str(k), question, "So 8", "8") for k, question in enumerate(questions)]
    run = trace(mine, problems, tmp_path / "run", prompt="chat", **SMALL)
    assert [cell.problem for cell in run.failures()] == ["1"]
    assert "no D here" in run.failures()[Cell("1")]
    with pytest.raises(InputError, match="no D here"):
        trace(mine, problems[1:], tmp_path / "none", prompt="chat", **SMALL)
    assert not list((tmp_path / "none").rglob("*.safetensors"))


def test_problems_of_one_id_are_refused(model: Any, tmp_path: Path) -> None:
    problem = bundled_problems(1)[0]
    with pytest.raises(InputError, match="two with the id"):
        trace(model, [problem, problem], tmp_path / "run", **SMALL)


def test_failures_recorded_at_once_are_all_kept(tmp_path: Path, toy_forks: ToyForks) -> None:
    script = """
import sys
from analyses.store import Cell, Run
run = Run.start(sys.argv[1], kind="watch", settings={}, provenance={})
for number in range(40):
    run.record_failures({Cell(f"{sys.argv[2]}-{number}"): "reason"})
"""
    folder = tmp_path / "run"
    Run.start(folder, kind="watch", settings={}, provenance={})
    both = [toy_forks.spawn(script, folder, who) for who in "ab"]
    assert [toy_forks.wait(process) for process in both] == [(0, "")] * 2
    assert len(Run.open(folder).failures()) == 80


def test_a_second_file_of_problems_has_a_baseline_of_its_own(model: Any, tmp_path: Path) -> None:
    some = bundled_problems(4)
    files = [
        [Problem(str(k), p.question, p.solution, p.answer) for k, p in enumerate(part)] for part in (some[:2], some[2:])
    ]
    study = make_study("trajectories", {})
    for name, problems in (("first", files[0][:1]), ("second", files[1]), ("third", files[0]), ("fourth", files[1])):
        result = run_study(study, model, problems, tmp_path / name, max_new_tokens=12)
        assert result.failures == {}
    held = sorted((len(Run.open(run).cells()), run.name) for run in (tmp_path / "baselines").iterdir())
    assert [count for count, _ in held] == [2, 2]
    assert held[1][1].removesuffix("-2") == held[0][1].removesuffix("-2")


def test_each_failure_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, recorded, handed = Run.start(tmp_path, kind="watch", settings={}, provenance={}), Run.record_failures, []

    def record(run: Run, failures: dict[Cell, str]) -> None:
        handed.append([cell.problem for cell in failures])
        recorded(run, failures)

    def work(batch: list[Cell], report: Any) -> dict[Cell, str]:
        for cell in batch:
            if cell.problem.startswith("good"):
                run.write(cell, {}, {})
        return {cell: "why" for cell in batch if not cell.problem.startswith("good")}

    monkeypatch.setattr(Run, "record_failures", record)
    batches = [[Cell(name) for name in names.split()] for names in ("a b", "good c", "good-2", "d", "good-3")]
    failed = do_batches(run, batches, lambda: work, lambda n: None)
    assert handed == [["a", "b", "c"], ["d"]], "those before the first success with it; none for a batch without one"
    assert failed == run.failures() == {Cell(name): "why" for name in "abcd"}


def test_a_failing_batch_is_done_cell_by_cell_and_recorded(tmp_path: Path) -> None:
    run = Run.start(tmp_path, kind="watch", settings={}, provenance={})
    run.write(Cell("good"), {}, {})
    failed = do_batches(run, [[Cell("bad")]], lambda: lambda batch, report: dict.fromkeys(batch, "why"), lambda n: None)
    assert failed == run.failures() == {Cell("bad"): "why"}
    assert "1 failed" in repr(run)


# The command


def test_the_command_says_what_failed_and_what_was_derived_anew(tmp_path: Path, peaklens: Command) -> None:
    file = tmp_path / "p.jsonl"
    rows = [{"id": p.id, "question": p.question, "answer": p.answer} for p in (*bundled_problems(1), UNREADABLE)]
    file.write_text("\n".join(map(json.dumps, rows)))
    common = ["--problems", str(file), "--max-new-tokens", "8", "--quiet"]
    none = ["--excess", "0"]
    code, out, said = peaklens("trace", *common, *none, "--out", str(tmp_path / "run"), "--tau", "2")
    assert (code, out) == (1, "")
    assert said.startswith("peaklens: 1 response failed, the first (problem 'zebra'): InputError: trace: expected text")
    code, _, said = peaklens("trace", *common, "--out", str(tmp_path / "run"))
    assert code == 1
    assert "peaklens: tau is 1.5 now and was 2.0: the tables are derived anew with it" in said
    code, _, said = peaklens("study", "trajectories", *common, "--out", str(tmp_path / "studies" / "s"))
    assert code == 1
    assert "peaklens: 1 cell failed, the first (problem 'zebra')" in said


@pytest.mark.filterwarnings("always:this run was written with")
def test_the_command_tells_of_other_versions_in_a_line(
    tmp_path: Path, peaklens: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["trace", "--n", "1", "--max-new-tokens", "8", "--excess", "0", "--quiet", "--out", str(tmp_path / "run")]
    assert peaklens(*common) == (0, "", "")
    later_versions(monkeypatch, torch="99.1.0")
    code, out, said = peaklens(*common)
    assert (code, out) == (0, "")
    assert said.startswith("peaklens: this run was written with torch ")


def test_generate_ends_in_one_line(peaklens: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (["zebra"], ["--temperature", "nan", "6 A"], ["--max-new-tokens", "0", "6 A"]):
        code, out, said = peaklens("generate", "--quiet", *arguments)
        assert (code, out, said.count("peaklens: ")) == (2, "", 1)

    def out_of_memory(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB.")

    monkeypatch.setattr("interp.decoding.decode", out_of_memory)
    code, out, said = peaklens("generate", "--quiet", "6 A * 3 ? ->")
    assert (code, out) == (1, "")
    assert said == "peaklens: the response failed: RuntimeError: CUDA out of memory.\n"

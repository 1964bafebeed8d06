"""Runs of equal settings become the run that they would have been in one piece; others are refused by what differs."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import families as F
import pandas
import pytest
import torch
from pandas.testing import assert_frame_equal
from processes import Command
from sharing_runs import traced

from analyses.problems import Problem, bundled_problems
from analyses.sharing import merge, merging
from analyses.store import Cell, Run
from analyses.store.shards import pack
from analyses.studies.base import StudyData, StudyResult
from analyses.studies.run import run_study
from analyses.studies.scale import Scale
from analyses.trace import TraceRun, tracer
from analyses.trace.provenance import RunWarning
from analyses.views.view import View
from interp import InputError

TABLES = (
    "mi.parquet", "peaks.parquet", "steps.parquet", "responses.parquet", "reference_positions.parquet", "tokens.csv",
    "wrong_answers.parquet",
)  # fmt: skip
SETTINGS: dict[str, Any] = {"model": "toy", "seed": 0}


def recorded(folder: Path, cells: dict[Cell, float], problems: dict[str, str] | None = None, **settings: Any) -> Run:
    pinned = {**SETTINGS, "problems": problems or {cell.problem: "" for cell in cells}, **settings}
    run = Run.start(folder, kind="study", settings=pinned, provenance={"model": {"weight_hash": "aa"}, "versions": {}})
    for cell, value in cells.items():
        run.write(
            cell, {"mi": torch.tensor([value, float("nan")])}, {"text": cell.problem, "batch": [[str(folder), 0]]}
        )
    return run


def values(run: Run) -> dict[Cell, float]:
    return {cell: float(run.read(cell).tensors["mi"][0]) for cell in run.cells()}


def merged_quietly(runs: list[Any], out: Path, **options: Any) -> Run:
    with pytest.warns(RunWarning, match="tables of a study"):
        return merge(runs, out, **options)


def test_halves_merged_are_the_run_decoded_in_one_piece(
    whole: TraceRun, halves: list[TraceRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = merge(halves, tmp_path / "merged")
    assert merged.tables == whole.tables
    for name in TABLES:
        # References of wrong answers are read in batches of their own: single precision. What was decoded is exact
        assert_frame_equal(merged.table(name), whole.table(name), check_exact=False, rtol=1e-5, atol=1e-7, obj=name)
    assert_frame_equal(
        merged.mi[["nhsic", "excess", "is_peak"]], whole.mi[["nhsic", "excess", "is_peak"]], check_exact=True
    )
    alike = ("problems", "samples", "layers", "null", "excess")
    assert {name: merged.settings[name] for name in alike} == {name: whole.settings[name] for name in alike}
    assert (merged.path / "report.html").stat().st_size > 100_000
    noted = json.loads((merged.path / "merged.json").read_text())
    assert [one["run"] for one in noted["runs"]] == ["half-0", "half-2"]
    assert [one["cells"] for one in noted["runs"]] == [4, 4]
    # It goes on as the run in one piece would: nothing is left to decode or to derive
    monkeypatch.setattr(tracer, "decode", None)
    before = {name: (merged.path / name).stat().st_mtime_ns for name in (*TABLES, "report.html")}
    assert traced(bundled_problems(4), merged.path).cells() == whole.cells()
    assert {name: (merged.path / name).stat().st_mtime_ns for name in before} == before


def test_what_differs_is_named(halves: list[TraceRun], tmp_path: Path) -> None:
    def other(change: Callable[[dict[str, Any]], Any]) -> Path:
        folder = tmp_path / "other"
        shutil.copytree(halves[1].path, folder, dirs_exist_ok=True)
        pinned = json.loads((halves[1].path / "run.json").read_text())
        change(pinned)
        (folder / "run.json").write_text(json.dumps(pinned))
        return folder

    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "settings.max_new_tokens is 8 there and 4 now": lambda run: run["settings"].update(max_new_tokens=4),
        "settings.excess.pool": lambda run: run["settings"]["excess"]["pool"].update(problems=3),
        "settings.null.null_pool": lambda run: run["settings"]["null"]["null_pool"].update(problems=3),
        "settings.layers": lambda run: run["settings"].update(layers=[0, 2]),
        "settings.tau is 1.5 there and 3.0 now": lambda run: run["settings"].update(tau=3.0),
        "provenance.model.weight_hash": lambda run: run["provenance"]["model"].update(weight_hash="another"),
        "kind is": lambda run: run.update(kind="study"),
    }
    for named, change in changes.items():
        with pytest.raises(InputError) as refused:
            merge([halves[0], other(change)], tmp_path / "out")
        assert named in str(refused.value)
        assert not (tmp_path / "out").exists()
    # The same model under another name, and from another folder, is the same model
    renamed = other(lambda run: run["settings"].update(model="/elsewhere/toy-reasoner"))
    assert merge([halves[0], renamed], tmp_path / "out", report=False).settings["model"] == "toy-reasoner"


def test_cells_alone_and_packed_are_joined_and_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "_PACKED", 8)
    monkeypatch.setattr("analyses.store.shards.CELLS", 4)
    first = recorded(tmp_path / "a", {Cell("a/b", k): float(k) for k in range(5)})
    assert pack(first.path, first.path / ".lock", each=4) == 4
    first.write(
        Cell("a/b", 1), {"mi": torch.tensor([7.0, 0.0])}, {"text": "anew", "batch": []}
    )  # counts, not the packed
    second = recorded(tmp_path / "b", {Cell("x" * 300, k, condition="ablate"): -float(k) for k in range(5)})
    out = merged_quietly([first, str(second.path)], tmp_path / "out")
    assert values(out) == {**values(first), **values(second)}
    assert values(out)[Cell("a/b", 1)] == 7
    assert len(list((out.path / "shards").iterdir())) == 2
    assert len(list((out.path / "cells").glob("*/*/*.safetensors"))) == 2


def test_a_cell_that_several_have_counts_once_and_one_that_differs_is_refused(tmp_path: Path) -> None:
    one = recorded(tmp_path / "a", {Cell("p"): 1.0, Cell("q"): 2.0}, {"p": "", "q": "", "r": ""})
    one.record_failures({Cell("r"): "too long", Cell("s"): "cut"})
    two = recorded(tmp_path / "b", {Cell("q"): 2.0, Cell("r"): 3.0}, {"q": "", "r": ""})
    both = merged_quietly([one, two], tmp_path / "both")
    assert values(both) == {Cell("p"): 1.0, Cell("q"): 2.0, Cell("r"): 3.0}
    assert both.failures() == {Cell("s"): "cut"}  # what the other run has done is no failure any more
    three = recorded(tmp_path / "c", {Cell("q"): 2.5})
    with pytest.raises(InputError, match=r"1 that differ, the first \(problem 'q', sample 0\): other tensor mi"):
        merge([one, three], tmp_path / "out")
    with pytest.warns(RunWarning) as told:
        kept = merge([one, three], tmp_path / "out", keep_first=True)
    assert "1 cells differ" in str(told[0].message)
    assert values(kept)[Cell("q")] == 2.0
    assert json.loads((kept.path / "merged.json").read_text())["kept_of_differing"][0]["problem"] == "q"
    changed = recorded(tmp_path / "d", {Cell("p"): 1.0}, {"p": "another text"})
    with pytest.raises(InputError, match=r"settings\.problems\.p is"):
        merge([one, changed], tmp_path / "no")


class Undrawn(Scale):
    """Figures take longest."""

    def figures(self, data: StudyData, tables: Mapping[str, pandas.DataFrame]) -> list[View]:
        return []


def test_halves_of_a_study_merged_are_one_study(tmp_path: Path) -> None:
    """Its command makes its tables, given the merged baseline, and finds nothing to decode."""
    problems = bundled_problems(2)

    def run(of: list[Problem], name: str) -> StudyResult:
        study = Undrawn(budgets=(3,), tokens=("Wait",))
        return run_study(study, F.pair("toy")[1], of, tmp_path / name / "scale", max_new_tokens=3, layers=[2])

    halves = [run(problems[:1], "a"), run(problems[1:], "b")]
    baselines = [next((half.run.path.parent / "baselines").iterdir()) for half in halves]
    merge(baselines, tmp_path / "both" / "baselines" / baselines[0].name, report=False)
    merged = merged_quietly([half.run for half in halves], tmp_path / "both" / "scale")
    assert len(merged.cells()) == 2 * 4
    decoded = {file: file.stat().st_mtime_ns for file in merged.path.parent.rglob("*.safetensors")}
    one, two, both = (each.tables["scale"].set_index("condition") for each in (*halves, run(problems, "both")))
    assert both["n"].tolist() == [2] * 4
    for name in ("tokens", "accuracy"):  # a problem each
        assert both[name].tolist() == ((one[name] + two[name]) / 2).tolist()
    assert decoded == {file: file.stat().st_mtime_ns for file in merged.path.parent.rglob("*.safetensors")}
    pins = halves[1].run.path / "run.json"
    pins.write_text(pins.read_text().replace('"budget": 3', '"budget": 4'))
    with pytest.raises(InputError, match=r"settings\.conditions\..*budget is 3.*and 4"):
        merge([half.run.path for half in halves], tmp_path / "no")


def test_what_cannot_be_merged_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    one, two = recorded(tmp_path / "a", {Cell("p"): 1.0}), recorded(tmp_path / "b", {Cell("q"): 1.0})
    for runs, out, said in (
        ([one], "out", "at least two"),
        ([one, tmp_path / "a"], "out", "twice"),
        ([one, two], "a", "a new folder, or an empty one"),
        ([one, tmp_path / "nothing"], "out", "which has no run.json"),
    ):
        with pytest.raises(InputError, match=said):
            merge(runs, tmp_path / out)
    damaged = next((two.path / "cells").rglob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(InputError) as refused:
        merge([one, two], tmp_path / "out")
    assert str(damaged) in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_killed_or_without_room_nothing_half_is_left(
    halves: list[TraceRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    for where in ("write_places", "_note", "write_pinned", "derive_tables"):
        child = os.fork()
        if child == 0:
            setattr(merging, where, die)
            merge(halves, tmp_path / "out")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.iterdir())) == 1  # the last one's, under a temporary name: each removes those before it

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(InputError, match=r"room and permission to write .*No space left"):
            merge(halves, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert merge(halves, tmp_path / "out", report=False).cells()


def test_the_command(halves: list[TraceRun], tmp_path: Path, peaklens: Command) -> None:
    out = tmp_path / "merged"
    code, said, told = peaklens("merge", *(str(run.path) for run in halves), "--out", str(out), "--no-report")
    assert (code, said.strip()) == (0, str(out))
    assert "8 responses of 2 runs" in told
    assert TraceRun.open(out).peaks["problem"].nunique() == 4
    code, _, told = peaklens("merge", str(halves[0].path), "--out", str(tmp_path / "no"))
    assert code == 2
    assert "at least two runs" in told

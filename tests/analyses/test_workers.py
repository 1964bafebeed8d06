"""Several processes, dying processes and failing problems: the run is the same, and nothing is lost."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from doubling import Environment, Make

from analyses.problems import bundled_problems
from analyses.store import Cell, Run
from analyses.store.atomic import is_temporary
from analyses.trace import trace
from analyses.work.batches import await_cells
from analyses.work.gpus import visible_gpus
from analyses.work.model_ref import ModelRef
from analyses.work.on_ray import Ray
from analyses.work.ray_pool import gpus_for_each
from analyses.work.scheduler import Outcome, _serve, scheduler
from analyses.work.spread import Spread
from interp import InputError, bundled_model_path, load_model


def test_a_task_whose_process_dies_is_done_by_another(tmp_path: Path) -> None:
    told: list[int] = []
    outcomes = list(scheduler(2).run([1, 2, 3, 4, 5, 6], Make(tmp_path), told.append))
    values = {outcome.task: outcome.value for outcome in outcomes}
    assert values == {1: 2, 2: 4, 3: 6, 4: 8, 5: None, 6: 12}
    assert [o for o in outcomes if o.lost] == [Outcome(5, lost="its process ended twice, last with exit code -9")]
    assert sum(told) == 8  # six tasks, two of them begun twice


def test_each_process_has_a_gpu_of_its_own() -> None:
    name = "CUDA_VISIBLE_DEVICES"
    outcomes = list(scheduler(3, ("4", "GPU-6")).run([name] * 3, Environment(), lambda tokens: None))
    assert sorted(outcome.value for outcome in outcomes) == ["4", "4", "GPU-6"]
    assert os.environ.get(name) not in ("4", "GPU-6"), "this process goes on as it was"


def test_what_is_shared_out_are_the_gpus_that_this_process_sees() -> None:
    assert visible_gpus("cuda:0", {"CUDA_VISIBLE_DEVICES": "4, GPU-6 ,7"}, 3) == ("4", "GPU-6", "7")
    assert visible_gpus("cuda:0", {"CUDA_VISIBLE_DEVICES": "4"}, 1) == ()
    assert visible_gpus("cuda:1", {}, 4) == (), "it was chosen"
    named = replace(ModelRef("toy-reasoner"), options={"device": "cuda:0"})
    spread = Spread(2)
    assert spread._gpus(named) == visible_gpus("cuda:0")


def test_a_model_over_several_devices_is_so_in_each_process() -> None:
    model = load_model("toy-reasoner", device="cpu")
    assert ModelRef.of(model).options["device"] == "cpu"
    model.original_model.hf_device_map = {"model.embed_tokens": "cpu", "": 0}
    assert ModelRef.of(model).options["device_map"] == {"model.embed_tokens": "cpu", "": 0}
    assert "device" not in ModelRef.of(model).options


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"gpus_per_worker": 1}, {"device": "cuda"}),
        ({"gpus_per_worker": 0}, {"device": "cpu"}),
        ({"gpus_per_worker": 0.5}, {"device": "cuda"}),
        ({"gpus_per_worker": 4}, {"device_map": "auto"}),
        ({"gpus_per_worker": 2, "device_map": "balanced"}, {"device_map": "balanced"}),
    ],
)
def test_on_a_cluster_a_worker_loads_the_model_onto_its_own_gpus(
    options: dict[str, Any], place: dict[str, Any]
) -> None:
    ref = Spread(2, Ray(**options)).reference(load_model("toy-reasoner", device="cpu"))
    assert ref is not None
    assert {k: v for k, v in ref.options.items() if k.startswith("device")} == place
    assert ref.options["dtype"] == torch.float32


def test_what_is_finished_needs_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    asked: dict[str, Any] = {"n": 1, "max_new_tokens": 4, "excess": 0, "report": False}
    run = trace("toy-reasoner", out=tmp_path, **asked)
    pd.testing.assert_frame_equal(trace("toy-reasoner", out=tmp_path, on="ray", **asked).mi, run.mi, check_exact=True)
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized(), "none was started"


def test_a_cluster_of_this_machine_has_the_gpus_that_this_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for count, each in ((0, 0), (2, 1)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert gpus_for_each(Ray()) == each
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'the library ray.*pip install "peaklens\[ray\]"'):
        gpus_for_each(Ray())


def test_a_worker_without_tasks_ends_though_its_pipe_is_held_open(tmp_path: Path) -> None:
    """As by a sibling that was forked later: that it is closed elsewhere is then not seen."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, Make(tmp_path)), daemon=True)
    process.start()
    here.send((2,))
    assert here.recv() == ("tokens", 1)
    assert here.recv() == ("value", 4)
    here.send(None)
    process.join(timeout=10)
    assert process.exitcode == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_input_found_by_a_worker_is_raised_as_it_is(workers: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^double: expected not 7, received 7. Leave it out.$"):
        list(scheduler(workers).run([1, 7], Make(tmp_path), lambda tokens: None))


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of one's own: of a bundled one nobody shows bars."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    shutil.copytree(bundled_model_path("toy-reasoner"), folder)
    return load_model(folder)


def runs_are_equal(model: Any, folder: Path, n: int) -> None:
    """Of this process, and of at most two others (one for each batch of two problems)."""
    runs = [
        trace(
            model, bundled_problems(n), folder / str(workers), max_new_tokens=12, batch_size=2, workers=workers,
            report=False,
        )
        for workers in (1, 2)
    ]  # fmt: skip
    for table in ("mi.parquet", "peaks.parquet", "tokens.csv", "responses.parquet"):
        pd.testing.assert_frame_equal(runs[0].table(table), runs[1].table(table), check_exact=True)


@pytest.mark.usefixtures("quick_processes")
def test_two_processes_give_the_run_of_one(mine: Any, tmp_path: Path) -> None:
    runs_are_equal(mine, tmp_path, 6)


def test_a_process_that_is_really_new_gives_the_same_and_shows_no_bars_of_loading(
    mine: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs_are_equal(mine, tmp_path, 2)
    assert "Loading weights" not in capfd.readouterr().err


def test_a_model_in_memory_cannot_go_to_processes(tmp_path: Path) -> None:
    import families as F

    with pytest.raises(InputError, match="which each process can load, received tiny-llama, made from an object"):
        ModelRef.of(F.bridge("llama"))


def test_cells_of_another_machine_are_waited_for(tmp_path: Path) -> None:
    run = Run.start(tmp_path, kind="watch", settings={}, provenance={})
    run.write(Cell("there"), {}, {})
    late = threading.Timer(0.3, lambda: run.write(Cell("late"), {}, {}))
    late.start()
    await_cells(run, [Cell("there"), Cell("late")])
    assert run.has(Cell("late"))
    late.join()
    with pytest.raises(InputError, match=r"received 1 responses that are not, the first of problem 'never'"):
        await_cells(run, [Cell("late"), Cell("never")], seconds=0.1)
    assert not [file for file in tmp_path.rglob("*") if is_temporary(file)]


def test_a_failing_problem_is_recorded_and_the_rest_go_on(tmp_path: Path) -> None:
    problems = bundled_problems(6)
    model = load_model("toy-reasoner")
    bad = model.tokenizer(problems[4].question)["input_ids"]

    broken = [True]

    def fail(tokens: Any, hook: Any) -> None:
        if broken[0] and any(row[-len(bad) :] == bad for row in tokens.tolist()):
            raise RuntimeError("a bad page of memory")

    def run_it(**options: Any) -> Run:
        return trace(
            model, problems, tmp_path / "run", max_new_tokens=12, batch_size=3, excess=0, report=False, **options
        )

    model.add_hook("embed.hook_in", fail)  # all the time: a run is pinned to its model's hooks
    run = run_it()
    broken[0] = False
    assert list(run.failures()) == [Cell(problems[4].id)]
    assert "RuntimeError: a bad page of memory" in run.failures()[Cell(problems[4].id)]
    assert set(run.mi["problem"]) == {p.id for p in problems} - {problems[4].id}
    assert not run_it().has(Cell(problems[4].id)), "a failure is tried again only when asked for"
    assert run_it(retry_failed=True).failures() == {}
    assert set(run.mi["problem"]) == {p.id for p in problems}


def test_where_nothing_can_be_decoded_that_is_an_error(tmp_path: Path) -> None:
    model = load_model("toy-reasoner")

    def fail(tokens: Any, hook: Any) -> None:
        raise RuntimeError("no power")

    with (
        model.hooks(fwd_hooks=[("embed.hook_in", fail)]),
        pytest.raises(InputError, match=r"at least one problem that can be decoded.*no power"),
    ):
        trace(model, bundled_problems(2), tmp_path / "run", max_new_tokens=5)

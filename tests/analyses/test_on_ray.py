"""Workers on a Ray cluster of several nodes on this machine: what dies is done again, and the run is that of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from doubling import Make
from ray_tasks import Broken, Where

from analyses.bench.cluster import add_node, local_cluster
from analyses.grading.thinking import READING
from analyses.trace import graders, trace
from analyses.work import ray_nodes
from analyses.work.on_ray import Node, Ray, connect, nodes
from analyses.work.ray_nodes import check_nodes, placed
from analyses.work.ray_pool import RayScheduler
from analyses.work.ray_worker import Place, look, versions
from analyses.work.scheduler import Outcome, WorkWarning
from analyses.work.spread import Spread
from interp import InputError

HERE = Path(__file__).parent.parent


def no_report(tokens: int) -> None:
    pass


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Any, list[Any]]]:
    """A head that works on nothing, and two nodes of one CPU; started once."""
    with pytest.MonkeyPatch.context() as patch, local_cluster(2) as found:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parent), str(HERE)]))
        ray = connect()
        yield found
        ray.shutdown()


def until(true: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


@pytest.mark.cluster
def test_a_task_whose_worker_dies_is_done_by_another(cluster: Any, tmp_path: Path) -> None:
    told: list[int] = []
    with pytest.warns(WorkWarning, match="ended .*; what it was doing is done again"):
        outcomes = list(RayScheduler(Ray(), folder=tmp_path).run([1, 2, 3, 4, 5], Make(tmp_path), told.append))
    assert {outcome.task: outcome.value for outcome in outcomes} == {1: 2, 2: 4, 3: 6, 4: 8, 5: None}
    [lost] = [outcome for outcome in outcomes if outcome.lost is not None]
    assert lost.task == 5
    assert str(lost.lost).startswith("its worker ended 3 times, last on node ")
    assert 4 <= sum(told) <= 8
    assert not list(tmp_path.glob(".tmp-*")), "what nodes were looked at with is gone"


@pytest.mark.cluster
def test_bad_input_found_by_a_worker_is_raised_as_it_is(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^double: expected not 7, received 7. Leave it out.$"):
        list(RayScheduler(Ray(), 1, tmp_path).run([7], Make(tmp_path), no_report))


@pytest.mark.cluster
def test_a_node_that_leaves_costs_nothing_and_one_that_joins_gets_work(cluster: Any, tmp_path: Path) -> None:
    whole, joined = cluster
    said: list[str] = []
    raylets = {facts["NodeID"]: facts["NodeManagerPort"] for facts in connect().nodes()}

    crew = RayScheduler(Ray(tell=said.append), folder=tmp_path)

    def begun(task: int | str = "*") -> int:
        return len(list(tmp_path.glob(f"at-{task}-*")))

    with ThreadPoolExecutor(1) as thread, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        running = thread.submit(lambda: list(crew.run(range(4), Where(tmp_path, 2), no_report)))
        try:
            until(lambda: begun() == 2)
            whole.remove_node(joined.pop(), allow_graceful=False)
            joined.append(add_node(whole))
            # The task of the node that left, on the new one: after both others where that one was seen first
            until(lambda: begun(0) + begun(1) == 3)
        finally:
            (tmp_path / "go").touch()
        outcomes = running.result()
    assert any("its node left" in str(one.message) for one in warned)
    assert sorted(outcome.task for outcome in outcomes) == [0, 1, 2, 3]
    assert not any(outcome.lost for outcome in outcomes)
    new = {facts["NodeID"] for facts in connect().nodes() if facts["Alive"]} - raylets.keys()
    assert {outcome.value[0] for outcome in outcomes} & new, "the node that joined has done something"
    assert {outcome.value[1] for outcome in outcomes} == {1}, "a thread for each CPU of a worker"
    assert said[0] == "ray: 2 nodes with room for 2 workers"
    assert any("joined" in one for one in said[1:])


DRIVER = """
import sys
from pathlib import Path
from ray_tasks import Where
from analyses.work.on_ray import Ray
from analyses.work.ray_pool import RayScheduler
folder = Path(sys.argv[1])
list(RayScheduler(Ray(), folder=folder).run(range(2), Where(folder), lambda tokens: None))
"""


@pytest.mark.cluster
def test_workers_end_with_the_process_that_gave_out_the_work(cluster: Any, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)]) as driver:
        until(lambda: len(list(tmp_path.glob("at-*"))) == 2)
        workers = [int(file.name.rpartition("-")[2]) for file in tmp_path.glob("at-*")]
        assert all(psutil.pid_exists(worker) for worker in workers)
        driver.send_signal(signal.SIGKILL)
    until(lambda: not any(_lives(worker) for worker in workers))


def _lives(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.cluster
def test_stopped_by_hand_it_leaves_no_worker(cluster: Any, tmp_path: Path) -> None:
    def stop(tokens: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(RayScheduler(Ray(), 1, tmp_path).run([1], Where(tmp_path), stop))
    [worker] = [int(file.name.rpartition("-")[2]) for file in tmp_path.glob("at-*")]
    until(lambda: not _lives(worker))


@pytest.mark.cluster
def test_the_run_is_that_of_one_process(cluster: Any, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"n": 6, "max_new_tokens": 24, "batch_size": 2, "report": False, "excess": 4}
    done: list[int] = []

    class Told:
        def update(self, n: int) -> None:
            done.append(n)

    def told(responses: int, tokens: int) -> Told:
        return Told()

    runs = [
        trace("toy-reasoner", out=tmp_path / name, on=on, progress=told, **asked)
        for name, on in (("one", None), ("ray", "ray"))
    ]
    assert sum(done) == 2 * int(runs[0].responses["n_steps"].sum())
    for table in ("mi.parquet", "peaks.parquet", "steps.parquet", "tokens.csv", "responses.parquet"):
        pd.testing.assert_frame_equal(runs[0].table(table), runs[1].table(table), check_exact=True)


@pytest.mark.cluster
def test_a_second_command_on_its_folder_is_refused(cluster: Any, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"n": 12, "max_new_tokens": 24, "batch_size": 2, "report": False, "excess": 0}
    refused: list[str | None] = []

    def second(run: Any, batch: Any) -> None:
        for on in ("ray", None) if not refused else ():  # at the first batch: others are still to be done
            with pytest.raises(InputError, match=rf"where process {os.getpid()} on \S+ does, with a cluster.*goes on"):
                trace("toy-reasoner", out=tmp_path, on=on, **asked)
            refused.append(on)

    run = trace("toy-reasoner", out=tmp_path, on="ray", on_done=second, **asked)
    assert refused == ["ray", None]
    assert len(run.cells()) == 12


@pytest.mark.cluster
def test_grades_are_those_of_one_process(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [((str(number % 3), f"The answer is {number % 2}."), False) for number in range(6)]
    monkeypatch.setattr(graders, "LEAST", 1)
    monkeypatch.setattr(graders, "EACH", 4)
    with graders.graders(READING) as grade:
        alone = grade(asked)
    with graders.graded_by(Spread(1, Ray())), graders.graders(READING) as grade:
        assert grade(asked) == alone
    assert len({grade.status for grade in alone}) == 2


@pytest.mark.cluster
def test_nodes_that_lack_something_are_named_before_any_work(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = connect()
    found = nodes(ray)
    with (
        placed(tmp_path, ["/no/such/model"]) as place,
        pytest.raises(InputError, match=r"received node \S+: it has no /no/such/model, which the model is read from"),
    ):
        check_nodes(ray, found[:1], place)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with placed(tmp_path) as place:
        other = Place(str(elsewhere), str(elsewhere / Path(place.probe).name), place.secret)
        with pytest.raises(InputError, match=r"it does not see what is written into .*elsewhere.*file system that all"):
            check_nodes(ray, found[:1], other)
        monkeypatch.setattr(ray_nodes, "_LATE", 0.0)
        monkeypatch.setattr(ray_nodes, "_seen", lambda answer, secret: False)
        with pytest.raises(InputError, match=r"what it writes into .* is not seen here"):
            check_nodes(ray, found[:1], place)


@pytest.mark.cluster
def test_a_cluster_without_room_and_work_that_cannot_begin_are_refused(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"room for a worker of 5 CPUs and 0 GPUs, received .* with 1 CPUs"):
        list(RayScheduler(Ray(cpus_per_worker=5), folder=tmp_path).run([1], Make(tmp_path), no_report))
    with pytest.raises(ValueError, match="no such thing here"):
        list(RayScheduler(Ray(), 1, tmp_path).run([1], Broken(), no_report))


def test_versions_have_to_be_the_same() -> None:
    wrong = look(Place(versions=versions() | {"torch": "1.0"})).wrong
    assert wrong == (f"it has torch {versions()['torch']} instead of 1.0",)


def test_where_locks_hold_nobody_off_nothing_is_packed(tmp_path: Path) -> None:
    with placed(tmp_path) as place:
        assert not look(place).held_off, "nobody holds the lock"


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'the library ray.*pip install "peaklens\[ray\]"'):
        connect()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpus_per_worker": 1.5}, "a whole number of GPUs"),
        ({"gpus_per_worker": -1}, "a whole number of GPUs"),
        ({"cpus_per_worker": 0}, "at least 1 CPU"),
        ({"gpus_per_worker": 0, "device_map": "auto"}, "workers with GPUs for a device map"),
    ],
)
def test_bad_options_of_a_cluster_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Ray(**options)


def test_another_place_than_a_cluster_is_refused() -> None:
    with pytest.raises(InputError, match="on ray, or nothing for this machine, received 'moon'"):
        Spread.of("trace", None, "moon")


def test_outcomes_are_those_of_processes() -> None:
    assert Outcome(1).lost is None
    assert Node("a", "b", 3, 0.5).places(1, 0.25) == 2

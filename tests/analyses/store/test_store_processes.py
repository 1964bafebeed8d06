"""Processes that are killed while they write, that write at once, and disks that are full: nothing finished is lost."""

import random
import signal
import subprocess
import time

import pytest
from run_folders import start, temporaries

from analyses.store import Cell, Run
from analyses.store.atomic import replacing, sweep


def all_whole(run):
    for cell in run.cells():
        data = run.read(cell)
        assert (data.tensors["a"] == data.payload["number"]).all()
        assert data.payload["number"] % 5 == cell.sample
    return len(run.cells())


WRITER = """
    import sys, torch
    from analyses.store import Cell, Run

    run = Run.start(sys.argv[1], kind="watch", settings={}, provenance={})
    number = 0
    while True:  # each version of a cell says its number in every value, so that a mixture would show
        run.write(Cell(sys.argv[2], number % 5), {"a": torch.full((30_000,), number)}, {"number": number})
        number += 1
"""


def test_processes_killed_at_any_moment_leave_whole_cells(forks, tmp_path):
    moments = random.Random(0)
    names = [f"round {number}" for number in range(8)]
    leftovers = 0
    bystander = forks.spawn(WRITER, tmp_path / "run", "bystander")
    for done, name in enumerate(names):
        child = forks.spawn(WRITER, tmp_path / "run", name)
        while not (tmp_path / "run/run.json").exists() or not Run.open(tmp_path / "run").has(Cell(name)):
            time.sleep(0.002)
        time.sleep(moments.random() * 0.05)
        assert forks.kill(child) == (-signal.SIGKILL, "")
        leftovers += sum(f"-{child}-" in file.name for file in temporaries(tmp_path))
        assert all_whole(Run.open(tmp_path / "run")) > done
    assert leftovers > 0  # kills did fall into writes
    start(tmp_path / "run", settings={}, provenance={})  # while the bystander goes on writing
    assert all(f"-{bystander}-" in file.name for file in temporaries(tmp_path))
    assert forks.kill(bystander) == (-signal.SIGKILL, "")
    run = start(tmp_path / "run", settings={}, provenance={})
    assert temporaries(tmp_path) == []
    assert {cell.problem for cell in run.cells()} == {"bystander", *names}
    all_whole(run)


def test_a_cell_read_while_it_is_replaced_is_of_one_version(forks, tmp_path):
    child = forks.spawn(WRITER, tmp_path / "run", "p1")
    while not (tmp_path / "run/cells/baseline/p1/4.safetensors").exists():
        time.sleep(0.002)
    run = Run.open(tmp_path / "run")
    seen = set()
    for _ in range(400):
        data = run.read(Cell("p1"))
        assert (data.tensors["a"] == data.payload["number"]).all()
        seen.add(data.payload["number"])
    assert len(seen) > 1
    assert forks.kill(child) == (-signal.SIGKILL, "")


def test_temporaries_of_the_living_and_of_other_machines_stay(run):
    with replacing(run.path / "probe.txt") as temporary:
        temporary.write_text("x")
    (run.path / "probe.txt").unlink()
    machine = temporary.name.split("-")[1]
    dead = subprocess.Popen(["true"])
    dead.wait()
    stay = [temporary.name, f".tmp-ffffffff-{dead.pid}-aa", ".tmp-odd", f".tmp-{machine}-odd-aa"]
    (run.path / "cells").mkdir()
    for name in [*stay, f".tmp-{machine}-{dead.pid}-aa"]:
        (run.path / "cells" / name).write_text("x")
    sweep(run.path)
    assert sorted(file.name for file in (run.path / "cells").iterdir()) == sorted(stay)


def test_starts_at_once_lose_no_growth(forks, tmp_path):
    script = """
        import sys
        from analyses.store import Run

        for number in range(10):
            settings = {"problems": {f"{sys.argv[2]}-{number}": "x"}}
            Run.start(sys.argv[1], kind="watch", settings=settings, provenance={}, may_grow=["problems"])
    """
    children = [forks.spawn(script, tmp_path / "run", name) for name in "abc"]
    assert [forks.wait(child) for child in children] == [(0, "")] * 3
    problems = Run.open(tmp_path / "run").settings["problems"]
    assert set(problems) == {f"{name}-{number}" for name in "abc" for number in range(10)}


def test_a_disk_that_fills_up_loses_no_finished_cell(forks, tmp_path):
    # A limit on file size makes real writes fail, for root too, as a full disk does
    script = """
        import resource, sys
        import pandas, pyarrow, torch
        from analyses.store import Cell, Run
        from interp.errors import InputError

        def start(path):
            return Run.start(path, kind="watch", settings={}, provenance={})

        run = start(sys.argv[1])
        run.write(Cell("small"), {"a": torch.ones(10)}, {})
        run.write(Cell("big"), {"a": torch.ones(10)}, {"version": "old"})
        run.write_table("tokens.csv", pandas.DataFrame({"token": ["old"]}))
        run.write_table("mi.parquet", pandas.DataFrame({"mi": [1.0]}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        rows = pandas.DataFrame({"mi": torch.rand(100_000).numpy()})
        for call in (
            lambda: run.write(Cell("big"), {"a": torch.ones(100_000)}, {}),
            lambda: run.write(Cell("new"), {"a": torch.ones(100_000)}, {}),
            lambda: run.write_table("tokens.csv", rows.rename(columns={"mi": "token"})),
            lambda: run.write_table("mi.parquet", rows),
        ):
            try:
                call()
            except InputError as error:
                print(error)
        run.write(Cell("after"), {}, {})
        sys.stdout.flush()  # before the limit holds for the output, too
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 8192))
        try:
            start(sys.argv[1])  # run.json need not be written again, yet a cell could not be
        except InputError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
            print(error)
    """
    code, out = forks.wait(forks.spawn(script, tmp_path / "run"))
    lines = out.splitlines()
    assert (code, len(lines)) == (0, 5), out
    assert all("File too large" in line for line in lines)
    cell = tmp_path / "run/cells/baseline/big/0.safetensors"
    assert lines[0].startswith(f"write cell: expected room and permission to write {cell}, received ")
    assert lines[0].endswith(
        "Finished cells are safe: free some space or choose another folder, then run again to go on from there."
    )
    for line in lines[2:4]:
        assert line.startswith("write table: expected room and permission to write ")
        assert line.endswith("The table there before is untouched: free some space, then derive the table again.")
    assert lines[4].startswith(f"start run: expected room and permission to write {tmp_path}/run, received [Errno 27]")
    run = Run.open(tmp_path / "run")
    assert [cell.problem for cell in run.cells()] == ["after", "big", "small"]
    assert run.read(Cell("big")).payload == {"version": "old"}
    assert run.tokens.token.tolist() == ["old"]
    assert run.mi.mi.tolist() == [1.0]
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.replace"])
def test_a_kill_just_before_the_last_step_leaves_the_old_cell(forks, tmp_path, moment):
    script = f"""
        import os, pathlib, signal, sys
        import torch
        from analyses.store import Cell, Run

        run = Run.start(sys.argv[1], kind="watch", settings={{}}, provenance={{}})
        run.write(Cell("p1"), {{"a": torch.zeros(10)}}, {{"number": 0}})
        {moment} = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        run.write(Cell("p1"), {{"a": torch.ones(10)}}, {{"number": 1}})
    """
    assert forks.wait(forks.spawn(script, tmp_path / "run")) == (-signal.SIGKILL, "")
    assert len(temporaries(tmp_path)) == 1
    assert Run.open(tmp_path / "run").read(Cell("p1")).payload == {"number": 0}
    run = start(tmp_path / "run", settings={}, provenance={})
    assert temporaries(tmp_path) == []
    assert run.cells() == [Cell("p1")]


def test_loading_the_store_loads_neither_pandas_nor_pyarrow(forks, tmp_path):
    script = "import sys, analyses.store.run, analyses.problems; print({'pandas', 'pyarrow'} & set(sys.modules))"
    assert forks.wait(forks.spawn(script, tmp_path)) == (0, "set()\n")

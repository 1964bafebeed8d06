"""Packed cells: the same run in fewer files, whatever is killed, read or written meanwhile."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
import zipfile
from pathlib import Path

import pytest
import torch
from processes import Forks

from analyses.store import Cell, CellData, Run, shards
from analyses.store.atomic import NO_LOCKS
from analyses.store.cells import Place, cell_files, read_cell
from analyses.store.shards import Shards, any_cells, pack
from interp.errors import InputError

LONG = "x" * 300  # a name that is shortened on disk


def started(folder: Path) -> Run:
    return Run.start(folder, kind="watch", settings={"seed": 0}, provenance={})


def filled(folder: Path, n: int) -> Run:
    run = started(folder)
    for number in range(n):
        tensors = {
            "rows": torch.arange(12.0).view(4, 3) + number,
            "one": torch.tensor(number),
            "none": torch.empty(0, 2),
        }
        run.write(Cell("a/b" if number % 2 else LONG, number, condition="ablate" if number % 3 else "baseline"),
                  tensors, {"number": number})  # fmt: skip
    return run


def packed(run: Run, each: int) -> int:
    return pack(run.path, run.path / ".lock", each=each)


def content(run: Run) -> dict[Cell, tuple[dict[str, object], dict[str, object]]]:
    read = {cell: run.read(cell) for cell in run.cells()}
    return {cell: ({n: t.tolist() for n, t in data.tensors.items()}, data.payload) for cell, data in read.items()}


def test_a_packed_run_reads_as_it_did(tmp_path: Path) -> None:
    run = filled(tmp_path, 11)
    before, cells, files = content(run), run.cells(), run.files()
    assert packed(run, each=4) == 8
    for again in (run, Run.open(tmp_path), started(tmp_path)):
        assert again.cells() == cells
        assert content(again) == before
        assert again.cells("ablate") == [cell for cell in cells if cell.condition == "ablate"]
        assert all(again.has(cell) and again.payload(cell) == before[cell][1] for cell in cells)
        for cell in cells:
            for rows in (slice(None), slice(1, 3), slice(-1, None), slice(0, 4, 2), slice(3, 1), slice(2, 99)):
                assert again.tensor(cell, "rows", rows).tolist() == torch.tensor(before[cell][0]["rows"])[rows].tolist()
            assert again.tensor(cell, "one").item() == before[cell][0]["one"]
            assert again.tensor(cell, "none").shape == (0, 2)
    assert [file.name for file in run.files() if file.suffix == ".zip"] == ["000001.zip", "000002.zip"]
    assert len(run.files()) == 3 + 2 < len(files)
    assert not run.has(Cell("a/b", 99))
    with pytest.raises(InputError, match="a finished cell"):
        run.read(Cell("a/b", 99))


def test_a_shard_unzipped_gives_the_files_back(tmp_path: Path) -> None:
    run = filled(tmp_path / "run", 4)
    before = {file.relative_to(run.path): file.read_bytes() for file in run.files()}
    packed(run, each=4)
    for shard in run.files():
        zipfile.ZipFile(shard).extractall(run.path / "cells")
        shard.unlink()
    assert {file.relative_to(run.path): file.read_bytes() for file in run.files()} == before


def test_a_cell_written_anew_counts_in_place_of_the_packed_one(tmp_path: Path) -> None:
    run = filled(tmp_path, 8)
    cells = run.cells()
    packed(run, each=4)
    for cell in cells[:5]:
        run.write(cell, {"rows": torch.zeros(1)}, {"number": -1})
    expected = content(run)
    assert [expected[cell][1]["number"] for cell in cells[:5]] == [-1] * 5
    assert len(expected) == 8
    packed(run, each=5)  # a new shard, and the rest of those that have lost most of their cells
    assert content(run) == content(Run.open(tmp_path)) == expected
    entries = Shards(tmp_path).of_each()
    assert sum(len(places) for places in entries.values()) < 8 + 5


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    run = filled(tmp_path, 4)
    cells = run.cells()
    packed(run, each=4)
    (shard,) = run.files()
    whole = shard.read_bytes()
    at = whole.index((torch.arange(12.0) + run.payload(cells[0])["number"]).numpy().tobytes())
    shard.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    with pytest.raises(InputError, match=r"000001\.zip.*not what was stored"):
        content(Run.open(tmp_path))
    shard.write_bytes(whole[:-30])
    with pytest.raises(InputError, match=r"000001\.zip"):
        Run.open(tmp_path).cells()


def test_a_cell_packed_between_finding_and_reading_it_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = filled(tmp_path, 4)

    def late(place: Place, cell: Cell) -> CellData:
        packed(run, each=4)
        return read_cell(place, cell)

    monkeypatch.setattr("analyses.store.run.read_cell", late)
    cell = run.cells()[0]
    assert run.read(cell).payload == run.payload(cell)


_WRITER = """
import sys
import torch
import analyses.store.run as store
from analyses.store import Cell, CellData, Run
from analyses.store.cells import Place, read_cell
from analyses.store.shards import pack
folder, first, last, turns = sys.argv[1], *map(int, sys.argv[2:])
run = Run.start(folder, kind="watch", settings={"seed": 0}, provenance={})
for turn in range(turns):
    for number in range(first, last):
        if turn or not run.has(Cell("p", number)):
            run.write(Cell("p", number), {"n": torch.full((50,), number)}, {"number": number})
        if number % 7 == 0:
            pack(run.path, run.path / ".lock", each=5)
"""


def test_packing_killed_at_any_moment_loses_no_cell(forks: Forks, tmp_path: Path) -> None:
    dice = random.Random(0)
    folder = tmp_path / "run"
    run = started(folder)
    known: set[Cell] = set()
    stopped = 0
    for attempt in range(5):
        turns = 10**6 if attempt < 4 else 2  # those that are killed would never end
        workers = [forks.spawn(_WRITER, folder, *part, turns) for part in ((0, 40), (40, 80))]
        killed_at = time.monotonic() + dice.uniform(0.05, 0.3) if attempt < 4 else float("inf")
        while not all(map(forks.has_ended, workers)):
            cells = run.cells()
            assert known <= set(cells), "a cell that was finished is not there"
            known |= set(cells)
            for cell in dice.sample(cells, min(3, len(cells))):
                assert run.read(cell).tensors["n"].tolist() == [cell.sample] * 50
            if time.monotonic() > killed_at:
                break
            time.sleep(0.01)
        ended = [(forks.kill if attempt < 4 else forks.wait)(worker) for worker in workers]
        stopped += sum(code == -signal.SIGKILL for code, _ in ended)
    assert stopped == 8, "processes were at work when they were killed"
    assert [code for code, _ in ended] == [0, 0]
    again = started(folder)
    assert again.cells() == [Cell("p", number) for number in range(80)]
    assert all(again.payload(cell)["number"] == cell.sample for cell in again.cells())
    assert any(file.suffix == ".zip" for file in again.files())


def test_a_shard_that_goes_while_shards_are_looked_at_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = filled(tmp_path, 8)
    packed(run, each=4)
    first, second = Shards(tmp_path).files()
    kept = set(zipfile.ZipFile(second).namelist())
    entries = shards._entries

    def late(file: Path) -> dict[str, Place]:
        first.unlink(missing_ok=True)  # found, and gone before it is opened
        return entries(file)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_entries", late)
        assert Shards(tmp_path).places().keys() == kept
    first.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"000001\.zip"):
        Shards(tmp_path).places()


def test_shards_that_come_within_a_tick_and_numbers_given_again_are_seen(tmp_path: Path) -> None:
    run = filled(tmp_path, 8)
    packed(run, each=4)
    first, second = Shards(tmp_path).files()
    whole, hidden = second.read_bytes(), tmp_path / "hidden.zip"
    second.rename(hidden)
    seen = Shards(tmp_path)
    now = first.parent.stat().st_mtime_ns
    assert len(seen.places()) == 4
    second.write_bytes(whole)
    os.utime(first.parent, ns=(now, now))  # as if the file system's clock had not gone on
    assert len(seen.places()) == 8
    second.unlink()
    first.write_bytes(whole)
    assert seen.places().keys() == set(zipfile.ZipFile(hidden).namelist())
    assert {place.file for place in seen.places().values()} == {first}


def test_cells_that_leave_their_shard_while_cells_are_listed_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = filled(tmp_path, 4)
    packed(run, each=4)
    cells, before = run.cells(), content(run)
    [shard] = Shards(tmp_path).files()

    def late(folder: Path) -> list[Path]:
        listed = list(cell_files(folder))
        if shard.exists():  # each is written anew, so that nothing of the shard counts any more
            for cell in cells:
                run.write(cell, {"one": torch.tensor(0)}, dict(before[cell][1]))
            shard.unlink()
        return listed

    monkeypatch.setattr("analyses.store.run.cell_files", late)
    assert run.cells() == cells


def test_folders_that_go_while_cells_are_listed_are_passed_over(tmp_path: Path) -> None:
    run = filled(tmp_path, 8)
    files = cell_files(tmp_path)
    first = next(files)
    others = [file for file in cell_files(tmp_path) if file.parent != first.parent]
    assert others
    for file in others:
        file.unlink()
    for folder in {file.parent for file in others}:
        folder.rmdir()
    assert {file.parent for file in files} <= {first.parent}
    assert len(run.cells()) == 8 - len(others)


def test_a_run_all_of_whose_cells_are_packed_has_cells(tmp_path: Path) -> None:
    run = filled(tmp_path, 8)
    packed(run, each=4)
    assert not list(cell_files(tmp_path))
    assert any_cells(tmp_path)


def test_where_locks_hold_nobody_off_nothing_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that is written anew on another machine at that moment could be lost."""
    run = filled(tmp_path, 12)
    (tmp_path / NO_LOCKS).touch()
    assert pack(tmp_path, tmp_path / ".lock", each=4) == 0
    (tmp_path / NO_LOCKS).unlink()

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", no_locks)
        assert pack(tmp_path, tmp_path / ".lock", each=4) == 0
    assert pack(tmp_path, tmp_path / ".lock", each=4) == 12
    assert len(run.cells()) == 12


def test_a_run_packs_itself_as_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyses.store.run._LEAST", 20)
    monkeypatch.setattr("analyses.store.run._WRITTEN", 10)
    monkeypatch.setattr("analyses.store.shards.CELLS", 8)
    run = filled(tmp_path, 37)
    assert len(run.cells()) == 37
    assert len(run.files()) < 37
    assert len(list((tmp_path / "cells").rglob("*.safetensors"))) < 20 + 10

"""Repeating a finished command costs nothing, and what is shown of a large run is read in parts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from pandas.testing import assert_frame_equal

from analyses.bench.tables import bench_tables, write_large_run
from analyses.commands.show_trace import show
from analyses.problems import bundled_problems
from analyses.report.digest import digest
from analyses.store import Cell, Run
from analyses.store.tables import RowGroups, parquet_writer, read_frame, read_rows
from analyses.studies import make_study
from analyses.studies.base import StudyData
from analyses.studies.run import run_study
from analyses.trace import graders, trace
from interp import InputError, load_model

SMALL = {"max_new_tokens": 10, "batch_size": 4}
ASKED = {"probes": ("r2",), "null": 59, "pool": bundled_problems(100)}
TABLES = ("mi.parquet", "peaks.parquet", "steps.parquet", "responses.parquet", "tokens.csv", "wrong_answers.parquet")


@pytest.fixture(scope="module")
def model() -> object:
    return load_model("toy-reasoner", device="cpu")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each cell's tensors were read, the grader was started, and a table of scores was read whole."""
    seen: Counter[str] = Counter()
    read, grader, table = Run.read, graders.Grader, pyarrow.parquet.ParquetFile.read

    def counted(self: Run, cell: Cell) -> object:
        seen[cell.problem] += 1
        return read(self, cell)

    def graded(*args: object, **kwargs: object) -> object:
        seen["graded"] += 1
        return grader(*args, **kwargs)

    def whole(self: pyarrow.parquet.ParquetFile, *args: object, **kwargs: object) -> object:
        seen["whole table of scores"] += bool({"nhsic", "mi"} & set(self.schema_arrow.names))
        return table(self, *args, **kwargs)

    monkeypatch.setattr(Run, "read", counted)
    monkeypatch.setattr(graders, "Grader", graded)
    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read", whole)
    return seen


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {file.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in folder.iterdir() if file.is_file()}


def test_a_finished_trace_repeated_reads_no_cell_and_writes_nothing(
    model: object, tmp_path: Path, reads: Counter[str]
) -> None:
    run = trace(model, n=3, out=tmp_path, **SMALL)
    first = {cell.problem: 2 for cell in run.cells()}
    assert +reads == {**first, "graded": 1}, "each cell is read once for all tables, and once for its words of the lens"
    before = state(tmp_path)
    reads.clear()
    again = trace(model, n=3, out=tmp_path, **SMALL)
    with redirect_stdout(StringIO()):
        show(again)
    assert not +reads
    assert state(tmp_path) == before


def test_a_finished_trace_with_a_null_repeated_reads_no_cell(
    model: object, tmp_path: Path, reads: Counter[str]
) -> None:
    trace(model, n=2, out=tmp_path, **SMALL, **ASKED)
    before = state(tmp_path)
    reads.clear()
    for asked in (ASKED, {}):
        trace(model, n=2, out=tmp_path, **SMALL, **asked)
    assert not +reads
    assert state(tmp_path) == before


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_gone_or_was_changed_by_hand_is_derived_anew(
    model: object, tmp_path_factory: pytest.TempPathFactory, name: str, once: Path
) -> None:
    kept = Run.open(once).table(name)
    (once / name).unlink()
    assert_frame_equal(trace(model, n=2, out=once, **SMALL, report=False).table(name), kept)
    content = bytearray((once / name).read_bytes())
    content[len(content) // 2] ^= 1
    (once / name).write_bytes(bytes(content))
    assert_frame_equal(trace(model, n=2, out=once, **SMALL, report=False).table(name), kept)


@pytest.fixture(scope="module")
def once(model: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trace(model, n=2, out=tmp_path_factory.mktemp("once"), **SMALL, **ASKED, report=False).path


def test_a_newer_cell_makes_the_tables_anew(model: object, tmp_path: Path) -> None:
    run = trace(model, n=2, out=tmp_path, **SMALL)
    page = (tmp_path / "report.html").read_bytes()
    cell = run.cells()[0]
    data = run.read(cell)
    run.write(cell, {**data.tensors, "mi": data.tensors["mi"] * 2}, data.payload)
    again = trace(model, n=2, out=tmp_path, **SMALL)
    rows = again.mi[again.mi["problem"] == cell.problem]
    torch.testing.assert_close(torch.tensor(rows["mi"].to_numpy()), data.tensors["mi"].reshape(-1) * 2)
    assert (tmp_path / "report.html").read_bytes() != page
    (tmp_path / ".tables.stamp.json").write_text("{")
    assert_frame_equal(trace(model, n=2, out=tmp_path, **SMALL).mi, again.mi)


def test_other_code_makes_the_tables_anew(model: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace(model, n=1, out=tmp_path, **SMALL, report=False)
    before = state(tmp_path)["peaks.parquet"]
    monkeypatch.setattr("analyses.store.fresh._code", lambda: "another version")
    trace(model, n=1, out=tmp_path, **SMALL, report=False)
    assert state(tmp_path)["peaks.parquet"] != before


def test_a_payload_is_read_without_its_tensors_and_a_cut_file_is_named(model: object, tmp_path: Path) -> None:
    run = Run.start(tmp_path, kind="watch", settings={}, provenance={})
    cell = Cell("a/b", 3)
    tensors = {"streams": torch.arange(24.0).reshape(4, 3, 2).bfloat16(), "one": torch.tensor(7)}
    run.write(cell, tensors, {"text": "18", "nan": [1.5]})
    assert run.payload(cell) == run.read(cell).payload
    torch.testing.assert_close(run.tensor(cell, "streams", slice(1, 3)), tensors["streams"][1:3])
    assert run.tensor(cell, "one") == 7
    for found in (run.payload, lambda cell: run.tensor(cell, "one")):
        with pytest.raises(InputError, match="expected a finished cell"):
            found(Cell("no"))
    file = run.files()[0]
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(InputError, match="its content is not what was stored"):
        run.payload(cell)
    with pytest.raises(InputError, match="expected a whole"):
        run.tensor(cell, "streams")


def test_rows_are_read_from_their_row_groups_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    schema = pyarrow.schema([("problem", text), ("sample", pyarrow.int32()), ("mi", pyarrow.float64())])
    file = tmp_path / "mi.parquet"
    with parquet_writer(file, schema) as writer, RowGroups(writer, rows=6) as groups:
        for k in range(9):
            rows = {"problem": [f"p{k // 2}"] * 3, "sample": [k % 2] * 3, "mi": [float(k)] * 3}
            groups.add(pyarrow.table(rows).cast(schema))
    whole = read_frame(file)
    assert pyarrow.parquet.ParquetFile(file).num_row_groups == 5
    read, seen = pyarrow.parquet.ParquetFile.read_row_group, []
    monkeypatch.setattr(
        pyarrow.parquet.ParquetFile, "read_row_group", lambda self, n, **k: (seen.append(n), read(self, n, **k))[1]
    )
    some = read_rows(file, ["mi", "problem"], {"problem": "p2", "sample": 1})
    wanted = whole[(whole["problem"] == "p2") & (whole["sample"] == 1)][["mi", "problem"]].reset_index(drop=True)
    assert_frame_equal(some.astype({"problem": str}), wanted.astype({"problem": str}))
    assert seen == [2]
    assert read_rows(file, where={"problem": "p9"}).empty
    assert len(read_rows(file, ["mi"])) == 27


def test_the_report_of_a_large_run_holds_a_row_group_at_a_time(tmp_path: Path, reads: Counter[str]) -> None:
    """Twice the responses, the same memory: what Arrow holds at most while the scores are gone through."""
    write_large_run(tmp_path, responses=24, layers=30, steps=250)
    assert bench_tables(tmp_path, "derive")["peak_gb"] > 0
    run = Run.open(tmp_path)
    rows = [
        pyarrow.parquet.ParquetFile(run.path / "mi.parquet").metadata.row_group(group).num_rows
        for group in range(pyarrow.parquet.ParquetFile(run.path / "mi.parquet").num_row_groups)
    ]
    assert len(rows) == 3
    assert max(rows) <= 2**16 + 30 * 250
    reads.clear()
    found = digest(run, room=30 * 250 * 5)
    bench_tables(tmp_path, "show")
    assert not +reads
    assert len(found.curves) == 5
    assert len(found.statistics) == 24 * 30
    mi = run.mi
    for layer, part in mi.groupby("layer"):
        sums = found.statistics[found.statistics["layer"] == layer].set_index("problem")["sum_mi"]
        assert_frame_equal(
            sums.to_frame(), part.groupby(part["problem"].astype(str))["mi"].sum().rename("sum_mi").to_frame()
        )
    curves = found.curves[3]
    mine = mi[mi["problem"] == curves.problem]
    assert curves.tokens == mine[mine["layer"] == 0]["token"].astype(str).tolist()
    assert (curves.mi == mine["mi"].to_numpy().reshape(30, 250)).all()


def test_a_finished_study_repeated_derives_nothing(model: object, tmp_path: Path, reads: Counter[str]) -> None:
    study = make_study("suppress", {"counts": "2", "draws": "1"})
    options = {"n": 2, "out": tmp_path / "suppress", "max_new_tokens": 14, "calibrate": 4}
    first = run_study(study, model, **options)
    before = state(first.run.path)
    reads.clear()
    again = run_study(study, model, **options)
    assert "graded" not in reads
    assert state(again.run.path) == before
    assert again.readings == first.readings
    assert again.failures == first.failures
    assert len(again.figures) == len(first.figures)
    for name, table in first.tables.items():
        assert_frame_equal(again.tables[name], table)
    kept = again.run.table("suppress.csv")
    (again.run.path / "suppress.csv").write_text("changed by hand")
    assert_frame_equal(run_study(study, model, **options).run.table("suppress.csv"), kept)
    assert reads["graded"], "and the tables with it"


def test_an_aligned_study_reads_each_cell_once_or_some_layers_at_a_time(
    model: object, tmp_path: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from analyses.studies import aligned

    study = make_study("information", {})
    run = Run.start(tmp_path, kind="study", settings={}, provenance={})
    cells = [Cell(name, condition=study.condition) for name in "abc"]
    dice = torch.Generator().manual_seed(0)
    stored = {}
    for cell in cells:
        stored[cell] = {
            "residuals": torch.randn(5, len(study.places), 8, generator=dice),
            "answer": torch.randn(5, 8, generator=dice),
            "steps": torch.arange(len(study.places)),
        }
        run.write(cell, stored[cell], {})
    baseline = SimpleNamespace(settings={"layers": [4, 0, 1, 2, 3]})
    lab = SimpleNamespace(
        cells=lambda condition: cells, baseline=baseline, facts=SimpleNamespace(d_model=8), layers=(0, 1, 2, 3, 4)
    )
    data = object.__new__(StudyData)  # of which only these two are looked at
    vars(data).update(run=run, lab=lab)
    for limit in (2**30, 2 * 4 * 3 * (len(study.places) + 1) * 8, 1):
        monkeypatch.setattr(aligned, "MAX_BYTES", limit)
        reads.clear()
        found = list(study.layers(data))
        assert [gathered.layer for gathered in found] == [0, 1, 2, 3, 4]
        for row, gathered in enumerate(found):
            expected = torch.stack([stored[cell]["residuals"][row] for cell in cells], dim=1)
            torch.testing.assert_close(gathered.residuals, expected, rtol=0, atol=0)
            answers = torch.stack([stored[cell]["answer"][row] for cell in cells])
            torch.testing.assert_close(gathered.answers, answers, rtol=0, atol=0)
        assert reads == (dict.fromkeys("abc", 1) if limit == 2**30 else {})
    assert study.steps(data).shape == (len(study.places), 3)
    assert not reads.total() > 3

"""The run folder: round trips, hostile names, refusals by text, full disks, and processes killed while they write."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pandas
import pyarrow
import pytest
import torch

from analyses.store import Cell, Run
from analyses.store.atomic import quote_name, replacing, sweep, unquote_name
from interp.errors import InputError

SETTINGS = {"model": "toy", "temperature": 0.6, "layers": [0, 4], "problems": {"p2": "aa", "p1": "bb"}}
PROVENANCE = {"versions": {"torch": "2.13"}, "revision": "abc"}
HOSTILE = ["../../etc/passwd", "a/b", "", ".", "..", "%", "~", "a~b", "x" * 300, "x" * 301, "🎉", "🎉" * 100, "A b\n\0"]
HOSTILE += [".tmp-x", "NA", "%2E", "é", "e\u0301", "\ud800", "CON", "-1", "a%2Fb", "%" * 200]


def start(path, kind="watch", settings=SETTINGS, provenance=PROVENANCE, **options):
    return Run.start(path, kind=kind, settings=settings, provenance=provenance, **options)


@pytest.fixture
def run(tmp_path):
    return start(tmp_path / "run")


def temporaries(folder):
    return list(Path(folder).rglob(".tmp-*"))


def refusal(call, *args, **options):
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    return str(caught.value)


# Cells


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16(),
        torch.empty(0, 7),
        torch.tensor(2.5, dtype=torch.float64),
        torch.tensor([True, False]),
        torch.arange(6, dtype=torch.int64).reshape(2, 3).T,
        torch.ones(10).expand(4, 10),
        torch.tensor([1 + 2j, 3j]).conj(),
        torch.tensor([1 + 2j, 3j]).conj().imag,
        torch.nn.Parameter(torch.ones(2)),
        torch.tensor([float("nan"), float("inf"), -0.0]),
        torch.arange(4).to(torch.float8_e5m2),
    ],
    ids=lambda tensor: f"{tensor.dtype}{list(tensor.shape)}",
)
def test_tensors_round_trip(run, tensor):
    run.write(Cell("p1"), {"a": tensor}, {})
    back = run.read(Cell("p1")).tensors["a"]
    assert (back.dtype, back.shape, back.requires_grad) == (tensor.dtype, tensor.shape, False)
    plain = tensor.detach().contiguous()
    assert torch.equal(
        back.reshape(-1).view(torch.uint8), plain.resolve_conj().resolve_neg().reshape(-1).view(torch.uint8)
    )


def test_views_of_one_tensor_round_trip_and_cost_only_their_own_size(run):
    whole = torch.arange(100_000.0)
    views = {"whole": whole, "again": whole, "head": whole[:3], "tail": whole[-3:]}
    run.write(Cell("p1"), views, {})
    back = run.read(Cell("p1")).tensors
    assert all(torch.equal(back[name], views[name]) for name in views)
    run.write(Cell("p2"), {"head": whole[:3]}, {})
    assert (run.path / "cells/baseline/p2/0.safetensors").stat().st_size < 1000


def test_payload_round_trip(run):
    payload = {
        "text": 'a "quoted"\r\n🎉\ud800\0',
        "steps": [1, 2.5, None, True],
        "nested": {"": {"k": []}},
        "big": 2**70,
    }
    run.write(Cell("p1"), {}, payload)
    assert run.read(Cell("p1")).payload == payload
    assert run.read(Cell("p1")).tensors == {}
    run.write(Cell("p1"), {}, {"mi": [float("nan")], "pair": (1, 2)})
    back = run.read(Cell("p1")).payload
    assert back["mi"][0] != back["mi"][0]
    assert back["pair"] == [1, 2]


def test_writing_again_replaces(run):
    for value in range(3):
        run.write(Cell("p1"), {"a": torch.full((value,), value)}, {"value": value})
    assert run.cells() == [Cell("p1")]
    assert run.read(Cell("p1")).payload == {"value": 2}
    assert temporaries(run.path) == []


def test_any_id_is_safe(run):
    cells = [
        Cell(name, sample, condition=condition)
        for name in HOSTILE
        for sample, condition in ((0, "baseline"), (11, name))
    ]
    for number, cell in enumerate(cells):
        run.write(cell, {"n": torch.tensor(number)}, {})
    assert sorted(run.cells()) == sorted(cells)
    assert [run.read(cell).tensors["n"].item() for cell in cells] == list(range(len(cells)))
    inside = [file for file in run.path.rglob("*") if file.is_file() and file.suffix == ".safetensors"]
    assert len(inside) == len(cells)
    assert {len(file.relative_to(run.path).parts) for file in inside} == {4}
    assert sorted(file.name for file in run.path.parent.iterdir()) == ["run"]


def test_names_are_one_component_and_turn_back():
    quoted = [quote_name(name) for name in HOSTILE]
    assert len(set(quoted)) == len(HOSTILE)
    for name, component in zip(HOSTILE, quoted, strict=True):
        assert component.isascii()
        assert not set(component) & set("/\\\0: \n")
        assert 0 < len(component) <= 120
        assert component[0] != "."
        assert unquote_name(component) == (None if "~" in component else name)
    assert unquote_name("%FF") is None
    assert unquote_name("%2f") is None


def test_cells_are_in_order_and_nothing_else_is_listed(run):
    for cell in [Cell("p1", 10), Cell("p1", 9), Cell("zz"), Cell("p2"), Cell("aa"), Cell("p9", condition="ablate")]:
        run.write(cell, {}, {})
    folder = run.path / "cells/baseline/p2"
    for name in (".tmp-00-1-aa", "notes.txt", "01.safetensors", "x.safetensors", "²" + ".safetensors"):
        (folder / name).write_text("x")
    (run.path / "cells/baseline/not quoted").mkdir()
    (run.path / "cells/baseline/not quoted/0.safetensors").write_text("x")
    baseline = [Cell("p2"), Cell("p1", 9), Cell("p1", 10), Cell("aa"), Cell("zz")]
    assert run.cells() == [Cell("p9", condition="ablate"), *baseline]
    assert run.cells("baseline") == baseline
    assert run.cells("none") == []
    assert run.has(Cell("p1", 9))
    assert not run.has(Cell("p1", 8))


def test_problems_may_be_a_list_or_anything_else(tmp_path):
    for number, (problems, first) in enumerate([(["b", "a"], "b"), ("b.jsonl", "a"), (7, "a"), ([{"id": "b"}], "a")]):
        run = start(tmp_path / str(number), settings={"problems": problems})
        run.write(Cell("a"), {}, {})
        run.write(Cell("b"), {}, {})
        assert run.cells()[0].problem == first


def test_damaged_cells_are_named(run):
    for name in ("p1", "x" * 300):
        run.write(Cell(name), {"a": torch.arange(100)}, {"k": 1})
        (file,) = (run.path / "cells/baseline" / quote_name(name)).iterdir()
        whole = file.read_bytes()
        flipped = whole[:-1] + bytes([whole[-1] ^ 1])
        foreign = run.path / "foreign.safetensors"
        other = start(run.path.parent / "other")
        other.write(Cell("other"), {"a": torch.arange(100)}, {"k": 1})
        foreign = (other.path / "cells/baseline/other/0.safetensors").read_bytes()
        for damaged in (b"", whole[:4], whole[:50], whole[:-1], whole + b"x", bytes(len(whole)), flipped, foreign):
            file.write_bytes(damaged)
            message = refusal(run.read, Cell(name))
            assert message.startswith(f"read cell: expected a whole {file}, received ")
            assert message.endswith("Delete this file and run again: only its cell is recorded anew.")
        file.write_bytes(whole[:50])
    assert "expected a whole" in refusal(run.cells)  # the shortened name can only be read from the damaged file


def test_a_file_of_another_writer_is_damaged(run):
    from safetensors.torch import save_file

    run.write(Cell("p1"), {}, {})
    save_file({"a": torch.ones(2)}, run.path / "cells/baseline/p1/0.safetensors")
    assert "expected a whole" in refusal(run.read, Cell("p1"))


def test_bad_cells_are_refused(run):
    assert refusal(run.read, Cell("p1")) == (
        "read cell: expected a finished cell, received Cell(condition='baseline', problem='p1', sample=0), "
        f"not in {run.path}. See cells()."
    )
    assert "cell: expected a sample of at least 0, received -1" in refusal(Cell, "p1", -1)
    for payload in ({"a": torch.ones(1)}, {"a": {1, 2}}):
        assert "write cell: expected a payload of JSON values, received" in refusal(run.write, Cell("p1"), {}, payload)
    for tensor in (torch.eye(2).to_sparse(), torch.empty(2, device="meta"), torch.ones(2, dtype=torch.complex128)):
        message = refusal(run.write, Cell("p1"), {"a": tensor}, {})
        assert "expected dense tensors of plain numbers, received 'a': torch." in message
    assert "expected a run from Run.start" in refusal(Run.open(run.path).write, Cell("p1"), {}, {})
    assert run.cells() == []
    assert temporaries(run.path) == []


def test_a_payload_beyond_the_header_limit_is_refused(run, monkeypatch):
    monkeypatch.setattr("analyses.store.cells._HEADER_LIMIT", 1000)
    assert "Store long lists of numbers as tensors." in refusal(run.write, Cell("p1"), {}, {"a": "x" * 1000})


# run.json


def test_start_and_open_give_the_same_run(tmp_path):
    first = start(tmp_path / "new/deep/run")
    for run in (first, start(first.path), Run.open(str(first.path))):
        assert (run.kind, run.settings, run.provenance) == ("watch", SETTINGS, PROVENANCE)
        assert run.created == first.created
    pinned = json.loads((first.path / "run.json").read_text())
    assert list(pinned) == ["format", "kind", "created", "settings", "provenance"]
    assert start(tmp_path / "tuple", settings={"layers": (1, 2)}).settings == {"layers": [1, 2]}
    start(tmp_path / "tuple", settings={"layers": (1, 2)})


def test_every_difference_is_listed(run):
    before = (run.path / "run.json").read_text()
    settings = SETTINGS | {"temperature": 1.0, "seed": 3, "prompt": "x"}
    del settings["model"]
    message = refusal(start, run.path, kind="study", settings=settings, provenance={"versions": {"torch": "2.14"}})
    assert message == (
        f"start run: expected the settings that {run.path}/run.json pins, received "
        'kind is "watch" there and "study" now; '
        'settings.model is "toy" there and absent now; '
        "settings.temperature is 0.6 there and 1.0 now; "
        "settings.seed is absent there and 3 now; "
        'settings.prompt is absent there and "x" now; '
        'provenance.versions.torch is "2.13" there and "2.14" now; '
        'provenance.revision is "abc" there and absent now. '
        "This is the output folder of other settings: choose another folder, or give the settings it has."
    )
    assert (run.path / "run.json").read_text() == before


def test_differences_of_long_values_are_shown_where_they_part(tmp_path):
    text = "You are a careful solver. " * 20
    start(tmp_path, settings={"prompt": text + "Be brief."})
    message = refusal(start, tmp_path, settings={"prompt": text + "Be exact."})
    assert 'solver. Be brief."... there and ...' in message
    assert 'solver. Be exact."... now' in message
    assert len(message) < 500


def test_equal_numbers_are_equal_and_bools_are_not(tmp_path):
    start(tmp_path, settings={"temperature": 1, "greedy": True})
    start(tmp_path, settings={"temperature": 1.0, "greedy": True})
    assert "settings.greedy is true there and 1 now" in refusal(
        start, tmp_path, settings={"temperature": 1, "greedy": 1}
    )


def test_some_settings_may_grow(run):
    grown = SETTINGS | {"layers": [4, 8, 2, 8], "problems": {"p0": "cc", "p1": "bb"}, "conditions": ["ablate"]}
    may_grow = ["layers", "problems", "conditions", "unused"]
    again = start(run.path, settings=grown, may_grow=may_grow)
    assert again.settings["layers"] == [0, 4, 8, 2]
    assert list(again.settings["problems"].items()) == [("p2", "aa"), ("p1", "bb"), ("p0", "cc")]
    assert again.settings["conditions"] == ["ablate"]
    assert Run.open(run.path).settings == again.settings
    assert Run.open(run.path).created == run.created
    less = start(run.path, settings={"model": "toy", "temperature": 0.6, "layers": []}, may_grow=may_grow)
    assert less.settings == again.settings
    assert "settings.layers is" in refusal(start, run.path, settings=grown, may_grow=["problems"])


def test_a_changed_problem_is_refused_by_name(run):
    changed = SETTINGS | {"problems": {"p1": "XX", "p3": "dd"}}
    message = refusal(start, run.path, settings=changed, may_grow=["problems"])
    assert 'received settings.problems.p1 is "bb" there and "XX" now. This is' in message
    other_kind = SETTINGS | {"problems": ["p1"]}
    assert "settings.problems is" in refusal(start, run.path, settings=other_kind, may_grow=["problems"])


def test_settings_that_json_cannot_hold_are_refused(tmp_path):
    for value in (float("nan"), Path("x"), torch.ones(1), {1, 2}):
        message = refusal(start, tmp_path / "run", settings={"a": value})
        assert message.startswith("start run: expected settings of JSON values")
    assert "expected provenance of JSON values" in refusal(start, tmp_path / "run", provenance={"a": float("inf")})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "received Expecting value"),
        ('{"format": 1, "kind"', "received Expecting"),
        ("[]", "received a JSON list"),
        ('{"format": 1, "kind": "watch", "settings": []}', "received no usable created, settings, provenance"),
        ('{"format": 2}', "open run: expected run format 1, received format 2 in"),
        ("\udcff", "codec can't decode"),
    ],
)
def test_a_damaged_run_json_is_told(run, content, text):
    (run.path / "run.json").write_bytes(content.encode(errors="surrogateescape"))
    for call in (Run.open, start):
        assert text in refusal(call, run.path)
    assert (run.path / "run.json").read_bytes() == content.encode(errors="surrogateescape")


def test_folders_that_are_no_runs_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert f"received {tmp_path}, which holds thesis.tex. Choose another output folder." in refusal(start, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
    assert f"received {tmp_path}, which has no run.json. Check the path" in refusal(Run.open, tmp_path)
    assert "which has no run.json" in refusal(Run.open, tmp_path / "thesis.tex")
    assert "[Errno 17] File exists" in refusal(start, tmp_path / "thesis.tex")
    assert "[Errno 17] File exists" in refusal(start, tmp_path / "thesis.tex/run")


def test_a_start_killed_half_way_can_be_repeated(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".tmp-00000000-1-aaaa").write_text('{"form')
    assert start(tmp_path).cells() == []


def test_disks_that_cannot_be_written_or_are_small(tmp_path):
    message = refusal(start, "/proc/peaklens")  # where nobody can make a folder, root included
    assert message.startswith("start run: expected room and permission to write /proc/peaklens, received [Errno 2]")
    assert message.endswith("Choose a folder on a disk that can be written and has room.")
    assert "expected 1e+09 GB of free space, received" in refusal(start, tmp_path, need_bytes=10**18)
    assert not (tmp_path / "run.json").exists()
    start(tmp_path, need_bytes=1000)


# Tables


def frame():
    tokens = ["NA", "null", "", " ", "\r", "\n", "\r\n", "a,b", '"', "nan", "007", "#", "\\", "é🎉", "\t", "None"]
    return pandas.DataFrame(
        {
            "token": tokens,
            "digits": [str(number) for number in range(16)],
            "mi": [0.1 + 0.2, float("nan"), 1e-310, float("-inf"), *[1 / 3] * 12],
            "count": range(16),
            "peak": [True, False] * 8,
            "rank": pandas.array([1, None] * 8, dtype="Int64"),
        }
    )


@pytest.mark.parametrize("name", ["mi.parquet", "tokens.csv"])
@pytest.mark.parametrize("rows", [16, 1, 0])
def test_tables_round_trip(run, name, rows):
    run.write_table("old_" + name, frame())
    run.write_table(name, frame())
    run.write_table(name, frame()[:rows])
    pandas.testing.assert_frame_equal(run.table(name), frame()[:rows], check_exact=True)
    assert run.tables == sorted([name, "old_" + name])
    assert temporaries(run.path) == []


def test_a_filtered_frame_comes_back_numbered_anew(run):
    run.write_table("tokens.csv", frame()[frame().peak])
    assert run.tokens.index.tolist() == list(range(8))


def test_a_csv_without_its_types_is_read_by_looking(run):
    (run.path / "tokens.csv").write_text("token,count,mi,none\nNA,1,0.5,\n,2,,\n", encoding="utf-8")
    table = run.tokens
    assert table.token.tolist() == ["NA", ""]
    assert table["count"].tolist() == [1, 2]
    assert table.mi.isna().tolist() == [False, True]
    assert table["none"].tolist() == ["", ""]


def test_types_of_another_version_are_not_used(run):
    run.write_table("tokens.csv", pandas.DataFrame({"token": ["1", "2"]}))
    (types,) = run.path.glob(".tokens.csv.*.types")
    assert run.tokens.token.tolist() == ["1", "2"]
    (run.path / "tokens.csv").write_text("token\n3\n", encoding="utf-8")
    assert run.tokens.token.tolist() == [3]
    run.write_table("tokens.csv", pandas.DataFrame({"token": ["4"]}))
    assert run.tokens.token.tolist() == ["4"]
    assert not types.exists()


def test_convenience_tables_and_their_absence(run):
    assert refusal(lambda: run.mi) == (
        f"read table: expected mi.parquet in {run.path}, received a run with no tables. "
        "Derive the table from the run's cells first."
    )
    run.write_table("peaks.parquet", pandas.DataFrame({"step": [3]}))
    opened = Run.open(run.path)
    opened.write_table("tokens.csv", pandas.DataFrame({"token": ["Wait"]}))
    assert opened.peaks.step.tolist() == [3]
    assert opened.tokens.token.tolist() == ["Wait"]
    assert "received a run with peaks.parquet, tokens.csv." in refusal(lambda: run.mi)


def test_folders_named_like_partitions_add_no_columns(tmp_path):
    run = start(tmp_path / "seed=1/temperature=0.6")
    run.write_table("mi.parquet", pandas.DataFrame({"mi": [1.0]}))
    assert list(run.mi.columns) == ["mi"]


def test_tables_stream_by_row_groups_and_appear_whole(run):
    schema = pyarrow.schema([("step", pyarrow.int64())])
    with run.table_writer("mi.parquet", schema) as writer:
        for start_at in (0, 10, 20):
            writer.write_table(pyarrow.table({"step": range(start_at, start_at + 10)}, schema=schema))
            assert not (run.path / "mi.parquet").exists()
    assert run.mi.step.tolist() == list(range(30))
    parquet = pyarrow.parquet.ParquetFile(run.path / "mi.parquet")
    assert parquet.num_row_groups == 3
    assert parquet.metadata.row_group(0).column(0).compression == "ZSTD"

    def fail():
        with run.table_writer("mi.parquet", schema) as writer:
            writer.write_table(pyarrow.table({"step": [99]}, schema=schema))
            raise KeyError("derive")

    with pytest.raises(KeyError, match="derive"):
        fail()
    assert len(run.mi) == 30
    assert temporaries(run.path) == []


def test_bad_tables_are_refused(run):
    for name in ("../x.csv", "run.json", "x.xlsx", ".csv", "", "a/b.csv"):
        message = refusal(run.write_table, name, pandas.DataFrame())
        assert message.startswith("table: expected a plain file name ending in .parquet or .csv, received ")
    assert "expected a name ending in .parquet" in refusal(run.table_writer("t.csv", pyarrow.schema([])).__enter__)
    numbered, twice = pandas.DataFrame([[1, 2]]), pandas.DataFrame([[1, 2]], columns=["a", "a"])
    for bad in (numbered, twice):
        assert "expected columns of different text names" in refusal(run.write_table, "t.csv", bad)
    for index in (["x"], pandas.Index([1], name="step"), pandas.MultiIndex.from_tuples([(1, 2)])):
        message = refusal(run.write_table, "t.parquet", pandas.DataFrame({"a": [1]}, index=index))
        assert "expected a frame indexed by row numbers" in message
        assert message.endswith("Call reset_index() first.")
    for name, value in (("t.parquet", [1, "a"]), ("t.parquet", [1j, 2j]), ("t.csv", ["\ud800", ""])):
        column = pandas.Series(value, dtype=None if isinstance(value[0], complex) else object)
        message = refusal(run.write_table, name, pandas.DataFrame({"a": column}))
        assert "expected columns each of one type that the file can hold, received t." in message
    assert run.tables == []
    assert temporaries(run.path) == []


def test_damaged_tables_are_named(run):
    for name in ("mi.parquet", "tokens.csv"):
        run.write_table(name, frame())
        file = run.path / name
        for damaged in (b"", b"\xff\xfe", file.read_bytes()[:-20] + b'\r\n"x'):
            file.write_bytes(damaged)
            message = refusal(run.table, name)
            assert message.startswith(f"read table: expected a whole {file}, received ")
            assert message.endswith("Delete the file and derive the table again.")


def test_repr_is_short_and_escaped(tmp_path):
    run = start(tmp_path, settings={"model": "<script>"})
    run.write(Cell("p1"), {}, {})
    run.write_table("mi.parquet", frame())
    assert repr(run) == f"Run('{tmp_path}', kind watch, model <script>, 1 cells, tables mi.parquet)"
    shown = run._repr_html_()
    assert "model &lt;script&gt;<br>1 cells<br>tables mi.parquet" in shown
    assert "<script>" not in shown


# Processes and disks that fail

FORKS = textwrap.dedent(
    """
    import json, os, sys, traceback
    import analyses.store.run

    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
            continue
        child = os.fork()
        if child == 0:
            out = os.open(order["out"], os.O_WRONLY | os.O_CREAT)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.argv = order["argv"]
            try:
                exec(order["code"], {})
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            sys.stdout.flush()
            os._exit(0)
        print(child, flush=True)
    """
)


class Forks:
    """Processes that run a script, forked from one that has made the slow imports."""

    def __init__(self, process, folder):
        self.process, self.folder, self.running = process, folder, set()

    def _ask(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def spawn(self, code, path, *args):
        argv = [str(arg) for arg in ("script", path, *args)]
        child = self._ask(code=textwrap.dedent(code), argv=argv, out=str(self.folder / "out"))
        self.running.add(child)
        return child

    def wait(self, child):
        code = self._ask(wait=child)
        self.running.discard(child)
        return code, (self.folder / "out").read_text()


@pytest.fixture(scope="module")
def forks_process():
    command = [sys.executable, "-c", FORKS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def forks(forks_process, tmp_path):
    forks = Forks(forks_process, tmp_path)
    yield forks
    for child in list(forks.running):  # writers of a test that failed write until they are stopped
        os.kill(child, signal.SIGKILL)
        forks.wait(child)


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
    names = [f"round {number}" for number in range(12)]
    leftovers = 0
    bystander = forks.spawn(WRITER, tmp_path / "run", "bystander")
    for done, name in enumerate(names):
        child = forks.spawn(WRITER, tmp_path / "run", name)
        while not (tmp_path / "run/run.json").exists() or not Run.open(tmp_path / "run").has(Cell(name)):
            time.sleep(0.002)
        time.sleep(moments.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        assert forks.wait(child) == (-signal.SIGKILL, "")
        leftovers += sum(f"-{child}-" in file.name for file in temporaries(tmp_path))
        assert all_whole(Run.open(tmp_path / "run")) > done
    assert leftovers > 0  # kills did fall into writes
    start(tmp_path / "run", settings={}, provenance={})  # while the bystander goes on writing
    assert all(f"-{bystander}-" in file.name for file in temporaries(tmp_path))
    os.kill(bystander, signal.SIGKILL)
    assert forks.wait(bystander) == (-signal.SIGKILL, "")
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
    os.kill(child, signal.SIGKILL)
    assert forks.wait(child) == (-signal.SIGKILL, "")


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

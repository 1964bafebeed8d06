"""Tables of a run: any text and number comes back, they appear whole, and what no file can hold is refused."""

import pandas
import pyarrow
import pytest
from run_folders import frame, refusal, start, temporaries

from analyses.store import Cell, Run


@pytest.mark.parametrize("name", ["scores.parquet", "tokens.csv"])
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
    assert refusal(run.table, "mi.parquet") == (
        f"read table: expected mi.parquet in {run.path}, received a run with no tables. "
        "Derive the table from the run's cells first."
    )
    with pytest.raises(AttributeError, match=r"^this run has no 'mi'; its tables are none$"):
        run.mi  # noqa: B018
    run.write_table("peaks.parquet", pandas.DataFrame({"step": [3]}))
    opened = Run.open(run.path)
    opened.write_table("tokens.csv", pandas.DataFrame({"token": ["Wait"]}))
    assert opened.peaks.step.tolist() == [3]
    assert opened.tokens.token.tolist() == ["Wait"]
    opened.write_table("2nd-try.csv", pandas.DataFrame({"token": ["Hmm"]}))
    assert {"peaks", "tokens", "path"} <= set(dir(opened))
    assert all(hasattr(opened, name) for name in dir(opened) if not name.startswith("_"))
    (opened.path / "2nd-try.csv").unlink()
    with pytest.raises(AttributeError, match=r"^this run has no 'mi'; its tables are peaks\.parquet, tokens\.csv$"):
        run.mi  # noqa: B018
    assert "received a run with peaks.parquet, tokens.csv." in refusal(run.table, "mi.parquet")


def test_folders_named_like_partitions_add_no_columns(tmp_path):
    run = start(tmp_path / "seed=1/temperature=0.6")
    run.write_table("scores.parquet", pandas.DataFrame({"mi": [1.0]}))
    assert list(run.scores.columns) == ["mi"]


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

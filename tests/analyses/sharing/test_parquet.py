"""A table that is passed on alone says what it is, to whoever reads it."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import families as F
import pandas
import polars
import pyarrow.parquet
import pytest
from pandas.testing import assert_frame_equal

from analyses.problems import load_problems
from analyses.store.tables import read_frame
from analyses.trace import TraceRun, trace
from interp.loading.licence import card_licence, model_licence

TABLES = ("mi.parquet", "peaks.parquet", "steps.parquet", "responses.parquet", "wrong_answers.parquet")


@pytest.mark.parametrize("name", TABLES)
def test_pandas_polars_and_duckdb_read_the_same_table(whole: TraceRun, name: str) -> None:
    file = str(whole.path / name)
    ours = read_frame(whole.path / name)
    readers = (pandas.read_parquet(file), polars.read_parquet(file).to_pandas(), duckdb.read_parquet(file).df())
    for read in readers:
        assert list(read.columns) == list(ours.columns)
        for column in ours.columns:
            assert listed(read[column]) == listed(ours[column]), column


def listed(column: pandas.Series) -> list[object]:
    """Its values, whatever type a reader has for texts and for what is missing."""
    return [None if pandas.isna(value) else value for value in column.astype(object)]


def test_the_metadata_say_model_revision_settings_and_licences(whole: TraceRun) -> None:
    for name in TABLES:
        file = str(whole.path / name)
        found = {key.decode(): text.decode() for key, text in pyarrow.parquet.read_schema(file).metadata.items()}
        settings = json.loads(found["peaklens.settings"])
        assert (settings["temperature"], settings["problems"], settings["layers"]) == (0.8, 4, [2])
        assert found["peaklens.model"] == "toy-reasoner"
        assert found["peaklens.revision"] == "none"
        assert found["peaklens.weights_sha256"] == whole.provenance["model"]["weight_hash"]
        assert (found["peaklens.model_licence"], found["peaklens.data_licence"]) == ("MIT", "MIT")
        ours = {key: text for key, text in found.items() if key.startswith("peaklens.")}
        assert ours.items() <= polars.read_parquet_metadata(file).items()
        listed = duckdb.sql(f"SELECT decode(key), decode(value) FROM parquet_kv_metadata('{file}')").fetchall()
        assert ours.items() <= dict(listed).items()


def test_licences_are_those_that_cards_state(tmp_path: Path) -> None:
    cases = {
        "---\nlicense: apache-2.0\nlanguage: [en]\n---\n# x": "apache-2.0",
        "---\nlicense: [mit, cc-by-4.0]\n---\n": "mit, cc-by-4.0",
        "---\nlicense: other\nlicense_name: llama3.1\n---\n": "llama3.1",
        "# no front matter\nlicense: mit\n": None,
        "---\nlicense: mit\n": None,  # it does not end
        "---\n: [\n---\n": None,
        "---\nlicense: {a: b}\n---\n": None,
    }
    for card, licence in cases.items():
        (tmp_path / "README.md").write_text(card)
        assert card_licence(tmp_path) == licence, card
    (tmp_path / "README.md").write_bytes(b"\xff---\n")
    (tmp_path / "dataset_info.json").write_text('{"license": "cc0-1.0"}')
    assert card_licence(tmp_path) == model_licence("folder", tmp_path) == "cc0-1.0"


def test_a_problem_file_is_noted_with_the_licence_beside_it(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    rows = [{"question": f"{k} A + 1 ? ->", "answer": str(k + 1)} for k in (1, 2)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"max_new_tokens": 2, "layers": [2], "excess": 0, "report": False, "lens": 0}
    noted = [{"file": "sums.jsonl", "licence": "mit"}]
    first = trace(F.pair("toy")[1], tmp_path / "sums.jsonl", tmp_path / "a", n=1, **options)
    assert first.settings["data"] == noted
    again = trace(F.pair("toy")[1], load_problems(tmp_path / "sums.jsonl"), tmp_path / "a", **options)
    assert again.settings["data"] == noted
    assert again.about["peaklens.data"] == "sums.jsonl"
    # A list says nothing of a file: what the run knows stays
    kept = trace(F.pair("toy")[1], list(load_problems(tmp_path / "sums.jsonl")), tmp_path / "a", **options)
    assert kept.settings["data"] == noted
    assert_frame_equal(kept.mi, again.mi)

"""Responses are graded and written in parts, and come back as one table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pandas.testing import assert_frame_equal

from analyses.grading import reading_of
from analyses.store import Cell, Run
from analyses.trace import graders
from analyses.trace.graded import graded_rows, responses_table


def test_parts_are_the_table_in_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.start(tmp_path, kind="trace", settings={"problems": {}}, provenance={})
    said = ["So 4", "5", "", "\\boxed{4}", "x"]
    for number, text in enumerate(said):
        # The first part has no grade at all, and later ones some
        payload = {"question": "2 + 2?", "answer": "" if number < 2 else "4", "text": text, "tokens": text.split()}
        run.write(Cell(f"p{number}"), {"mi": torch.zeros(1)}, {**payload, "finish_reason": "eos"})
    monkeypatch.setattr(graders, "LEAST", 2)
    with graded_rows(run, reading_of(run.settings)) as add:
        for cell in run.cells():
            add(cell, run.payload(cell))
        assert run.tables == []
    stored = run.table("responses.parquet")
    assert_frame_equal(stored, responses_table(run))
    assert stored["correct"].tolist()[2:] == [False, True, False]
    assert stored["status"].tolist()[:2] == ["not_graded", "not_graded"]

    def stopped() -> None:
        with graded_rows(run, reading_of(run.settings)) as add:
            for cell in run.cells()[:3]:
                add(cell, {**run.payload(cell), "text": "other"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert_frame_equal(run.table("responses.parquet"), stored)
    with graded_rows(run, reading_of(run.settings)):
        pass  # no response at all
    assert list(run.table("responses.parquet").columns) == list(stored.columns)

"""Responses with their grades: the rows of responses.parquet, written some thousand at a time.

A run's responses need not fit into memory: they are read with their cells one by one, graded and written in parts, by
one grader whose processes last as long as the table is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from analyses.grading import Grade, Reading, reading_of, response_of
from analyses.store.columns import RESPONSE_COLUMNS
from analyses.store.run import Cell, Run
from analyses.trace.graders import Asked, graders, parts_of

if TYPE_CHECKING:
    import pandas
    import pyarrow.parquet

__all__ = ["RESPONSES", "graded_rows", "responses_table"]

RESPONSES = "responses.parquet"
_Row = tuple[dict[str, Any], str, bool]


def responses_table(run: Run, cells: Sequence[Cell] | None = None) -> pandas.DataFrame:
    """One row a response, graded: ``status``, ``reason`` and ``detail`` as in :mod:`analyses.grading`.

    ``correct`` is missing where nothing was found out: the gold answer cannot be read, the grading timed out or failed,
    or the run was written by a version that kept no gold answers (status "not_graded"). The settings
    ``thinking_markers`` and ``final_prompts`` of the run say how responses are read.
    """
    chosen = run.cells() if cells is None else cells
    reading = reading_of(run.settings)
    with graders(reading) as grade:
        return _graded([_response(cell, run.payload(cell), reading) for cell in chosen], grade)


@contextmanager
def graded_rows(run: Run, reading: Reading) -> Iterator[Callable[[Cell, Mapping[str, Any]], None]]:
    """What takes the payload of each cell, in the order of the table; the table is there when the block has ended."""
    import pyarrow

    rows: list[_Row] = []
    writer: pyarrow.parquet.ParquetWriter | None = None
    with ExitStack() as stack:
        grade, at_once = stack.enter_context(graders(reading)), parts_of()  # responses that are held

        def write() -> None:
            nonlocal writer
            table = pyarrow.Table.from_pandas(_graded(rows, grade), preserve_index=False)
            writer = writer or stack.enter_context(run.table_writer(RESPONSES, table.schema))
            writer.write_table(table)
            rows.clear()

        def add(cell: Cell, payload: Mapping[str, Any]) -> None:
            rows.append(_response(cell, payload, reading))
            if len(rows) == at_once:
                write()

        yield add
        if rows or writer is None:
            write()


def _response(cell: Cell, payload: Mapping[str, Any], reading: Reading) -> _Row:
    """The row of a response, not graded yet, the text to grade, and whether its prompt opened the thinking."""
    row = {
        "condition": cell.condition, "problem": cell.problem, "sample": cell.sample,
        "question": payload.get("question", ""), "gold": payload.get("answer", ""), "text": payload["text"],
        "n_steps": len(payload["tokens"]), "finish_reason": payload["finish_reason"],
        "extracted": "", "reason": "none", "status": "not_graded", "correct": None, "detail": "",
    }  # fmt: skip
    return row, *response_of(payload, reading)


def _graded(rows: Sequence[_Row], grade: Callable[[Sequence[Asked]], list[Grade]]) -> pandas.DataFrame:
    import pandas as pd

    read = [(row, text, opened) for row, text, opened in rows if row["gold"].strip()]
    grades = grade([((row["gold"], text), opened) for row, text, opened in read])
    for (row, *_), found in zip(read, grades, strict=True):
        row |= {"extracted": found.extracted, "reason": str(found.reason), "status": str(found.status)}
        row["detail"] = found.detail
        row["correct"] = None if found.score != found.score else bool(found.score)
    frame = pd.DataFrame([row for row, *_ in rows], columns=list(RESPONSE_COLUMNS))
    return frame.astype({"correct": "boolean", "sample": "int32", "n_steps": "int32"})

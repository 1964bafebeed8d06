"""Files of problems, for the tests of problems and of what reads them."""

import json

import pytest


@pytest.fixture
def write(tmp_path):
    def write_rows(rows, name="problems.jsonl"):
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return file

    return write_rows

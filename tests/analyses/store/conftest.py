"""A run folder for each test of the store."""

import pytest
from run_folders import start


@pytest.fixture
def run(tmp_path):
    return start(tmp_path / "run")

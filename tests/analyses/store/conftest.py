"""A run folder for each test of the store, and processes that have imported it."""

import pytest
from processes import fork_server, forks_of
from run_folders import start


@pytest.fixture
def run(tmp_path):
    return start(tmp_path / "run")


@pytest.fixture(scope="session")
def server():
    with fork_server("import analyses.store.run, analyses.store.shards") as process:
        yield process


@pytest.fixture
def forks(server, tmp_path):
    """Processes that have imported the store, and no more."""
    with forks_of(server, tmp_path) as forks:
        yield forks

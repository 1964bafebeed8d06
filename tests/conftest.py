"""What every test shares: one thread per process is enough for tiny models, and nothing reaches for a model hub."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

import one_server
import pytest
from processes import _warm_forkserver, peaklens, quick_processes, toy_forks  # noqa: F401  (fixtures)

# Its asserts then say what they compared, as those of test files do.
pytest.register_assert_rewrite("browser")
# Waiting for the disk, at each of some ten thousand files, is for power cuts; what is killed here leaves what it wrote.
os.fsync = lambda _descriptor: None
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """One more than there are cores: at any time some of them wait, for a browser, a kernel or another process."""
    if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None  # as it says
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + 1


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # who starts the tests; its workers know of it
        one_server.open_place()
    if config.getoption("dist", "no") == "no":  # this process tests; one that has others do it waits for its imports
        import quick_checks
        import torch

        torch.set_num_threads(1)
        quick_checks.install()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        one_server.close_place()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported meanwhile is no garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """What the imports have made stays anyway: the collector need not walk through two million of their objects at all.

    The little among them that nobody refers to any more stays too: finding it takes most of a second.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_runtest_setup() -> None:
    import quick_bridge
    import quick_checks
    import quick_runs

    quick_checks.begin_test()
    quick_bridge.install()
    quick_runs.install()

"""What every test shares: one thread per process is enough for tiny models, and nothing reaches for a model hub."""

from __future__ import annotations

import gc
import os

import pytest
import quick_checks
import torch
from processes import _toy_server, _warm_forkserver, peaklens, quick_processes, toy_forks  # noqa: F401  (fixtures)

# Its asserts then say what they compared, as those of test files do.
pytest.register_assert_rewrite("browser")
torch.set_num_threads(1)
quick_checks.install()
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
gc.disable()  # until all is imported and collected, of which nothing is garbage


def pytest_runtest_setup() -> None:
    quick_checks.begin_test()


def pytest_collection_finish() -> None:
    """What the imports have made stays anyway: the collector need not walk through a million of their objects again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()

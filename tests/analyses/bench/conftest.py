"""Models that tests of the benchmarks share."""

from __future__ import annotations

import gc
from contextlib import ExitStack

import pytest
import torch

from analyses.bench import decoding, workers
from interp import load_model


@pytest.fixture(scope="module")
def toy():
    return load_model("toy-reasoner")


@pytest.fixture(scope="module")
def eager(toy):
    return decoding.plain_model(toy, "eager")


@pytest.fixture
def here(monkeypatch):
    """What processes of ours answer, answered in this one: `test_bench_beside` has real ones.

    Each looks for garbage before it measures memory: not in all that these tests hold, fifteen times.
    """
    gc.freeze()

    class Here:
        def __init__(self, job, name, place):
            self.stack = ExitStack()
            with torch.no_grad():
                self.answer = workers._answering(job, name, place, self.stack)

        def ready(self):
            return {}

        def ask(self, **asked):
            with torch.no_grad():
                return self.answer(**asked)

        def close(self):
            self.stack.close()

    monkeypatch.setattr(workers, "_Own", Here)

"""Models that tests of the benchmarks share."""

from __future__ import annotations

import pytest

from analyses.bench import decoding
from interp import load_model


@pytest.fixture(scope="module")
def toy():
    return load_model("toy-reasoner")


@pytest.fixture(scope="module")
def eager(toy):
    return decoding.plain_model(toy, "eager")

"""The two roads of nHSIC, and of the median of distances, on a CPU."""

from __future__ import annotations

import pytest

from probes import compiled, lowrank, pair_medians
from probes.compiling import kernels


@pytest.fixture(params=["compiled", "torch"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test that takes it runs on both."""
    assert kernels() is compiled  # numba belongs to what the tests need
    if request.param == "torch":
        for module in (lowrank, pair_medians):
            monkeypatch.setattr(module, "kernels", lambda *_: None)
    return str(request.param)

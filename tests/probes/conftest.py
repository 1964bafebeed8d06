"""The two roads of nHSIC on a CPU."""

from __future__ import annotations

import pytest

from probes import compiled, lowrank
from probes.compiled_steps import kernels


@pytest.fixture(params=["compiled", "torch"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test that takes it runs on both."""
    assert kernels() is compiled  # numba belongs to what the tests need
    if request.param == "torch":
        monkeypatch.setattr(lowrank, "kernels", lambda: None)
    return str(request.param)

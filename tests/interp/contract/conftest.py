"""The contract of engines: every test here runs once for each engine that there is, with no other to choose from."""

from __future__ import annotations

import pytest

from interp.engines import registry
from interp.engines.base import Engine


@pytest.fixture(params=registry.ENGINES, ids=lambda engine: engine.__name__, autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    """The one that `engine_for` chooses."""
    monkeypatch.setattr(registry, "ENGINES", (request.param,))
    return request.param

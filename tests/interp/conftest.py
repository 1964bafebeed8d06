"""What several files here start from."""

from __future__ import annotations

import families as F
import pytest
from references import SITES

from interp import ResidualSites, Rollout, decode


@pytest.fixture(scope="module")
def source() -> Rollout:
    """A response of the tiny Llama to patch from, all that can be recorded with it."""
    return decode(F.bridge("llama"), [[5, 6, 7]], max_new_tokens=6, record=ResidualSites(sites=SITES))[0]

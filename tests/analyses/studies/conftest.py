"""Studies whose figures a module, or a test, does not look at are told by their tables alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from analyses.studies import STUDIES, find_study


@contextmanager
def _without_figures() -> Iterator[None]:
    """Figures are drawn from tables, take longer than small ones, and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in STUDIES:
            patch.setattr(find_study(name), "figures", lambda *_: [])
        yield


@pytest.fixture(scope="module")
def tables_alone() -> Iterator[None]:
    """No study of this module draws its figures."""
    with _without_figures():
        yield


@pytest.fixture
def no_figures() -> Iterator[None]:
    """No study of this test draws its figures."""
    with _without_figures():
        yield

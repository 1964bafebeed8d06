"""Studies whose figures a module does not look at are told by their tables alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from analyses.studies import STUDIES, find_study


@pytest.fixture(scope="module")
def tables_alone() -> Iterator[None]:
    """No figures: they are drawn from tables, take longer than small ones, and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in STUDIES:
            patch.setattr(find_study(name), "figures", lambda *_: [])
        yield

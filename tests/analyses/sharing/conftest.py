"""A run in one piece, and the same in two halves."""

from __future__ import annotations

from pathlib import Path

import families as F
import pytest
from sharing_runs import traced

from analyses.problems import bundled_problems
from analyses.studies import make_study
from analyses.studies.run import run_study
from analyses.trace import TraceRun


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TraceRun:
    return traced(bundled_problems(4), tmp_path_factory.mktemp("whole") / "one-piece")


@pytest.fixture(scope="session")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[TraceRun]:
    folder, problems = tmp_path_factory.mktemp("halves"), bundled_problems(4)
    return [traced(problems[begin : begin + 2], folder / f"half-{begin}", report=False) for begin in (0, 2)]


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "told"
    run_study(make_study("trajectories", {}), F.pair("toy")[1], out=out, n=2, max_new_tokens=12, layers=[2])
    return out

"""Runs and a page that all tests of the report look at: the run of the toy is made once for all processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from one_server import made_once
from report_pages import HOSTILE, NASTY, made_run, noise

from analyses.report import write_report
from analyses.store import Run
from analyses.trace import TraceRun, trace


@pytest.fixture(scope="session")
def toy() -> Run:
    """A trace of the toy, with right and wrong responses."""
    return TraceRun.open(
        made_once("toy", lambda out: trace("toy-reasoner", n=10, out=out, max_new_tokens=160, batch_size=10))
    )


@pytest.fixture(scope="session")
def page(toy: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([toy], tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Run:
    names = {f"{NASTY}{k}\u202e": HOSTILE * 3 + [" So"] * 2 for k in range(2)}
    scores = {name: noise(2, len(tokens)) for name, tokens in names.items()}
    folder = tmp_path_factory.mktemp("hostile") / "run <b> $(touch x)"
    text = f"{NASTY}\nsecond \u202e\x02 line"
    return made_run(folder, scores, names, text=text, settings={"model": "/home/me/<img src=x onerror=window.pwned=1>"})

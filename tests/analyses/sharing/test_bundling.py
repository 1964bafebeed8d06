"""A site of runs opens from disk, shows text as text, and lists what is unfinished or broken with the reason."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas
import pytest
from browser import Browser, browser  # noqa: F401  (a fixture)
from processes import Command

from analyses.sharing import bundle, bundling
from analyses.stats import proportion
from analyses.trace import TraceRun
from interp import InputError

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def runs(whole: TraceRun, halves: list[TraceRun], study: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A run, one of the same name that another machine made, a study, and what became of others."""
    folder = tmp_path_factory.mktemp("runs")

    def copied(name: str) -> Path:
        return Path(shutil.copytree(halves[0].path, folder / name))

    twin, stopped, cut, torn, named = map(
        copied, ("elsewhere/one-piece", "stopped", "cut", "torn", "other <b>name & more")
    )
    (stopped / "peaks.parquet").unlink()
    shutil.rmtree(next((cut / "cells").glob("*/*")))
    (torn / "peaks.parquet").write_bytes((torn / "peaks.parquet").read_bytes()[:-9])
    pinned = json.loads((named / "run.json").read_text())
    pinned["settings"]["model"] = HOSTILE
    (named / "run.json").write_text(json.dumps(pinned))
    (folder / "broken").mkdir()
    (folder / "broken" / "run.json").write_text("{")
    return [whole.path, twin, study, stopped, cut, torn, named, folder / "broken", folder / "nothing"]


@pytest.fixture(scope="module")
def site(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(runs, tmp_path_factory.mktemp("bundled") / "site").parent


def rows(site: Path) -> pandas.DataFrame:
    return pandas.read_csv(site / "runs.csv", keep_default_na=False).set_index("folder")


def test_each_run_is_there_with_its_numbers(site: Path, whole: TraceRun, halves: list[TraceRun], study: Path) -> None:
    told = rows(site)
    assert list(told.index[:3]) == ["runs/one-piece", "runs/one-piece-2", "runs/told"]
    one = told.loc["runs/one-piece"]
    right = whole.responses["correct"].dropna()
    found = proportion(right, whole.responses.loc[right.index, "problem"])
    assert (one["responses"], one["graded"], one["right"]) == (8, len(right), right.sum())
    assert [float(one[name]) for name in ("accuracy", "low", "high")] == [found.estimate, found.low, found.high]
    assert float(one["peaks"]) == whole.peaks["n_peaks"].mean()
    assert (one["data"], one["model_licence"]) == ("bundled toy problems (licence: MIT)", "MIT")
    assert (one["state"], one["reason"]) == ("finished", "")
    for run, name in ((whole, "one-piece"), (halves[0], "one-piece-2")):  # one does not overwrite the other
        pandas.testing.assert_frame_equal(pandas.read_parquet(site / "runs" / name / "mi.parquet"),
                                          pandas.read_parquet(run.path / "mi.parquet"))  # fmt: skip
        assert "<!doctype html>" in (site / "runs" / name / "report.html").read_text()[:100]
    index = (site / "index.html").read_text()
    readings = json.loads((study / ".study.stamp.json").read_text())["readings"]
    assert readings
    assert all(html.escape(reading) in index for reading in readings)
    assert whole.provenance["model"]["weight_hash"][:16] in index


def test_what_is_unfinished_or_broken_is_listed_with_its_reason(site: Path) -> None:
    told = rows(site)
    expected = {
        "stopped": ("unfinished", "4 of 4 responses, no peaks.parquet yet"), "cut": ("unfinished", "2 of 4 responses"),
        "torn": ("broken", "Parquet"), "broken": ("broken", "Expecting property name"),
        "nothing": ("broken", "no run.json"),
    }  # fmt: skip
    index = (site / "index.html").read_text()
    for name, (state, reason) in expected.items():
        row = told.loc[f"runs/{name}"]
        assert row["state"] == state
        assert reason in row["reason"]
        assert html.escape(row["reason"]) in index
    assert "5 of them unfinished or broken" in index


def test_links_are_relative_and_text_is_text(site: Path) -> None:
    index = (site / "index.html").read_text()
    assert HOSTILE not in index
    assert html.escape(HOSTILE) in index
    assert "other &lt;b&gt;name &amp; more" in index
    links = re.findall(r'(?:href|src)="([^"#][^"]*)"', index)
    assert len(links) > 40
    for link in links:
        assert link == "data:," or (site / link).is_file(), link
    told = json.loads((site / "runs" / "one-piece" / "run.json").read_text())
    assert told["settings"]["model"] == "toy-reasoner"


def test_a_site_is_replaced_by_a_newer_one_and_nothing_else_is(
    runs: list[Path], whole: TraceRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "site"
    bundle([runs[1]], out, tables=False)
    assert not list(out.rglob("*.parquet"))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = (out / "index.html").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(bundling, "_write_csv", full)
        with pytest.raises(InputError, match="No space left on device"):
            bundle([whole.path], out)
    assert (out / "index.html").read_text() == before
    # All runs below a folder, without the copies in the site that lies there too
    shutil.copytree(whole.path, tmp_path / "deep" / "one")
    assert bundle(tmp_path, out) == out / "index.html"
    assert list(rows(out).index) == ["runs/one"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "site"]
    for wrong, said in ((tmp_path / "deep", "which holds something else"), (tmp_path / "new", "Check the paths")):
        with pytest.raises(InputError, match=said):
            bundle([runs[1] if wrong.exists() else tmp_path / "absent"], wrong)


def test_the_command(runs: list[Path], tmp_path: Path, peaklens: Command) -> None:
    code, said, _ = peaklens("bundle", str(runs[1]), "--out", str(tmp_path / "site"), "--title", "Ours", "--no-tables")
    assert (code, said.strip()) == (0, str(tmp_path / "site" / "index.html"))
    assert "<title>Ours</title>" in (tmp_path / "site" / "index.html").read_text()


@pytest.mark.browser
def test_the_table_sorts_in_a_browser(site: Path, browser: Browser) -> None:  # noqa: F811
    shown = """() => {
        const heads = Array.from(document.querySelectorAll("table.site-runs thead button"));
        heads.find((head) => head.textContent === "n").click();
        const rows = Array.from(document.querySelectorAll("table.site-runs tbody tr"));
        return rows.map((row) => row.children[4].dataset.v);
    }"""
    found = browser.rendered(site / "index.html", actions=lambda page: page.evaluate(shown)).check().result
    known = [float(value) for value in found if value]
    assert known == sorted(known, reverse=True)
    assert found[len(known) :] == [""] * (len(found) - len(known))  # what has no number comes last
    assert len(known) == 5

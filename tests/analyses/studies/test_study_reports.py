"""Pages of studies: hostile text is inert, tables can be read, and the page of all results is written."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
from browser import Browser, barriers, browser  # noqa: F401
from hostile import HOSTILE as ANY

from analyses.report import report
from analyses.report.resembling import resemblance_frame
from analyses.store.run import Run
from analyses.studies.__main__ import main
from analyses.studies.base import Study, StudyData, StudyResult
from analyses.studies.page import KEPT, Part, Shown, results_page, write_tables
from analyses.studies.run import run_study
from analyses.trace import TraceRun
from analyses.views.curves import lines
from analyses.views.view import View
from interp.display import visible

# A table cannot hold half a character; no tokenizer decodes to one. A word of 5000 letters is high in any layout.
HOSTILE = [text for text in ANY if len(text) < 100 and text.encode("utf-8", "ignore").decode() == text]


@dataclass(frozen=True)
class Nasty(Study):
    """A study whose every word is hostile, as the tokens of a model may be."""

    name: ClassVar[str] = "nasty"
    title: ClassVar[str] = HOSTILE[2]
    source: ClassVar[str] = HOSTILE[1]

    word: str = HOSTILE[0]

    def tables(self, data: StudyData) -> dict[str, pd.DataFrame]:
        frame = pd.DataFrame({"word": HOSTILE, "x": range(len(HOSTILE)), "y": [0.5] * len(HOSTILE)})
        note = "a long remark that says much about its row, " * 6
        return {"nasty": frame.assign(low=None, note=note), "odd": frame.rename(columns={"x": HOSTILE[2]})}

    def figures(self, data: StudyData, tables: Mapping[str, pd.DataFrame]) -> list[View]:
        return [lines(tables["nasty"], x="x", y="y", by=["word"], title=HOSTILE[1])]

    def reading(self, tables: Mapping[str, pd.DataFrame]) -> list[str]:
        return HOSTILE


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nasty") / "run"
    return run_study(Nasty(), n=1, out=out, max_new_tokens=8).run.path / "report.html"


def test_hostile_text_is_escaped(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for word in HOSTILE[1:3]:
        assert word not in text
        assert html.escape(visible(word)) in text


def test_a_page_says_how_it_was_made_as_the_page_of_a_trace_does(page: Path) -> None:
    made = TraceRun.open(next((page.parent.parent / "baselines").iterdir()))
    for text in (page.read_text(encoding="utf-8"), report([made])):
        told = dict(re.findall(r'<tr><th scope="row">([^<]*)</th><td>([^<]*)</td></tr>', text))
        assert told["SHA-256 of the weights"] == made.provenance["model"]["weight_hash"]
        assert f"torch {made.provenance['versions']['torch']}" in told["versions"]
        assert told["source of the model"] == "bundled"
        assert told["created"]


@pytest.mark.browser
def test_hostile_text_is_inert_and_rows_are_low(page: Path, browser: Browser) -> None:  # noqa: F811
    highest = "() => Math.max(...[...document.querySelectorAll('tr')].map(row => row.offsetHeight))"
    rendered = browser.rendered(page, dark=True, actions=lambda shown: (shown.evaluate(highest), barriers(shown)))
    rendered.check()
    assert HOSTILE[2] in rendered.text
    assert rendered.result[1] == []
    assert rendered.result[0] < 200, "a remark does not make its row a screen high"


@pytest.mark.browser
def test_the_page_of_results_has_commands_figures_and_tables(tmp_path: Path, browser: Browser) -> None:  # noqa: F811
    arguments = ["--n", "6", "--max-new-tokens", "24", "--workers", "1", "--out", str(tmp_path / "runs")]
    chosen = ["--only", "trajectories", "--only", "overlap", "--set", "overlap.measures=r2"]
    main([*arguments, *chosen, "--results", str(tmp_path / "PAGE.md")])
    text = (tmp_path / "PAGE.md").read_text(encoding="utf-8")
    assert text.startswith("# Results on the toys")
    assert "peaklens study overlap --n 6 --batch-size 64 --max-new-tokens 24 --temperature 1.0 --samples 3" in text
    assert "--set measures=r2" in text
    for name in ("trajectories", "overlap"):
        assert f"](page/{name}.png)" in text
        assert (tmp_path / "page" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        run = Run.open(tmp_path / "runs" / name)
        whole = pd.read_csv(tmp_path / "page" / f"{name}.csv")
        pd.testing.assert_frame_equal(whole, run.table(f"{name}.csv"), rtol=1e-5, check_dtype=False)
    assert {file.name for file in (tmp_path / "page").glob("overlap*.csv")} == {
        "overlap.csv", "overlap-measures.csv", "overlap-stability.csv",
    }  # fmt: skip
    section = text.split("## What peaks resemble")[1].split("\n## ")[0]
    assert "peaklens trace --n 6 --batch-size 64 --max-new-tokens 24\n" in section
    assert "U+202F" not in section
    resembles = resemblance_frame(Run.open(tmp_path / "runs" / "trace").table("peaks.parquet"))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "page" / "resembles.csv"), resembles, rtol=1e-5)
    shares = [f"| {row.layer} | {row.peaks} | {row.after_kind:.4g} |" for row in resembles.itertuples()]
    assert [share for share in shares if share not in section] == []
    # From what the folders keep: nothing is decoded or derived, so that a cell that is gone is not missed.
    picture = (tmp_path / "page" / "overlap.png").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "runs" / "baselines")
    main([*arguments, *chosen, "--as-kept", "--results", str(tmp_path / "PAGE.md")])
    alt = re.compile(r"!\[[^\]]*\]")
    assert alt.sub("", (tmp_path / "PAGE.md").read_text(encoding="utf-8")) == alt.sub("", text)
    assert (tmp_path / "page" / "overlap.png").stat().st_mtime_ns == picture
    with pytest.raises(SystemExit, match=r"--set: expected study\.option=value"):
        main([*arguments, "--set", "draws=1"])


def shown_part(page: Path, shown: Shown | None = None) -> Part:
    table = pd.DataFrame({"layer": [k % 3 for k in range(60)], "word": HOSTILE[0], "at": range(60), "bits": 1 / 3})
    tables = {"nasty": table, "nasty_more": table.head(3), "nasty_cells": pd.concat([table] * 20)}
    readings = [f"row {k}, p = {'0.3' if k < 6 else '1e-05'} after Holm." for k in range(12)]
    readings += ["Nothing reads it.", f"{HOSTILE[1]} <script>x</script>"]
    result = StudyResult(Nasty(), Run.open(page.parent), tables, [], readings, {})
    return Part("nasty", ["peaklens", "study", "my study.py"], result, "*planted: much. Found.*", "b", shown or Shown())


def test_a_page_has_ten_rows_six_readings_and_whole_tables_beside_it(page: Path, tmp_path: Path) -> None:
    part = shown_part(page)
    text = results_page(["# Title"], [part], "beside")
    rows = re.findall(r"^\| 2 \|.*\| (\d+) \| 0.3333 \|$", text, re.MULTILINE)
    assert [int(at) for at in rows] == list(range(2, 32, 3)), "the last layer, from its first row"
    assert (
        "10 of 60 rows. Whole tables: [nasty.csv](beside/nasty.csv), [nasty-more.csv](beside/nasty-more.csv)." in text
    )
    said = re.findall(r"^- (.*)$", text, re.MULTILINE)
    assert [line.split(",")[0] for line in said[:6]] == [f"row {k}" for k in range(6, 12)], "what is told apart first"
    assert said[6:] == ["8 more: `runs/nasty/report.html`, which the command writes."]
    assert "| found |" in text
    assert "peaklens study 'my study.py'" in text
    write_tables([part], tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["nasty-more.csv", "nasty.csv"]
    whole = pd.read_csv(tmp_path / "nasty.csv")
    assert (whole["word"] == HOSTILE[0]).all()
    assert whole["bits"].tolist() == [0.333333] * 60


def test_a_page_shows_the_rows_columns_and_readings_that_are_named(page: Path) -> None:
    shown = Shown("layer == 0 and at > 50", ("at", "bits", "gone"), ("Nothing reads", "row 3,"))
    text = results_page([], [shown_part(page, shown)], "beside")
    assert "| at | bits |\n| --- | --- |\n| 51 | 0.3333 |\n| 54 | 0.3333 |\n| 57 | 0.3333 |\n\n3 of 60" in text
    said = re.findall(r"^- (.*)$", text, re.MULTILINE)
    assert [line.split(",")[0] for line in said[:6]] == [*(f"row {k}" for k in (3, 6, 7, 8, 9)), "Nothing reads it."]
    nothing = results_page([], [shown_part(page, Shown("layer > 7"))], "beside")
    assert "10 of 60 rows" in nothing, "a query that finds nothing shows the last layer"


def test_text_of_models_is_no_html_in_a_page_and_a_persons_own_part_stays(page: Path) -> None:
    shown = Shown(readings=("<script>",))
    own = f"{KEPT[0]}\nSaid by hand.\n{KEPT[1]}"
    text = results_page(["# Title"], [shown_part(page, shown)], "beside", f"# Old\n\n{own}\n\n## Old study")
    assert own in text
    assert "Old" not in text
    outside = re.sub(r"<!--.*?-->", "", text)
    assert re.findall(r"<(?=[A-Za-z/!?])", outside) == []
    assert "&lt;script>" in outside

"""Pages of studies: hostile text is inert, tables can be read, and the page of all results is written."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
from browser import Browser, browser  # noqa: F401
from hostile import HOSTILE as ANY

from analyses.report import report
from analyses.studies.__main__ import main
from analyses.studies.base import Study, StudyData
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
    rendered = browser.rendered(page, actions=lambda shown: shown.evaluate(highest))
    rendered.check()
    assert HOSTILE[2] in rendered.text
    assert rendered.result < 200, "a remark does not make its row a screen high"


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
    with pytest.raises(SystemExit, match=r"--set: expected study\.option=value"):
        main([*arguments, "--set", "draws=1"])

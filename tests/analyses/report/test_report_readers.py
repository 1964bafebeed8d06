"""The report for every reader: hostile text is inert, nothing undefined blanks it, phones and no scripts will do."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, browser  # noqa: F401  (a fixture)
from report_pages import DOTS, FRAME, HOSTILE, NASTY, made_run, model, noise, ready, rows_of

from analyses.report import report
from analyses.store import Run


@pytest.mark.browser
def test_hostile_text_is_inert_everywhere(hostile: Run, browser: Browser) -> None:  # noqa: F811
    document = report([hostile, hostile])

    def drive(tab: Any) -> dict[str, Any]:
        ready(tab)
        tips: list[tuple[int, str]] = []
        steps = 3 * len(HOSTILE) + 2
        for plot in range(3):  # line, heatmap, verdicts
            left, top, width, height = tab.evaluate(FRAME, plot)
            tab.wait_for_timeout(200)
            spots = [(left + (step + 1) / (steps + 1) * width, top + 0.3 * height) for step in range(len(HOSTILE))]
            for x, y in tab.evaluate(DOTS) if plot == 2 else spots:
                tab.mouse.move(x, y)
                tab.wait_for_timeout(60)
                tips += [(plot, text) for text in tab.locator(".bk-tooltip-row-value").all_inner_texts()]
        tab.eval_on_selector_all(".rp-t", "all => all.slice(0, 20).forEach(token => token.click())")  # each is told of
        tab.locator(".rp-before").first.click()
        tab.locator(".rp-layer").first.select_option(index=0)
        tab.locator(".rp-peaks button").first.click()
        tab.wait_for_timeout(300)
        return {
            "pwned": tab.evaluate("typeof window.pwned"),
            "strange": tab.evaluate(
                "() => document.querySelectorAll('img, svg[onload], iframe, [onerror], b b').length + "
                "Array.from(document.scripts).filter(s => s.textContent.trim() === 'window.pwned=1').length"
            ),
            "tips": tips,
            "title": tab.title(),
            "h2": tab.locator("h2").all_inner_texts(),
            "facts": tab.locator(".rp-facts").first.inner_text(),
            "option": tab.locator(".rp-pick option").first.inner_text(),
        }

    seen = browser.rendered(document, width=1000, height=3000, actions=drive).check()
    got = seen.result
    assert (got["pwned"], got["strange"]) == ("undefined", 0)
    tips = {plot: " ".join(text for k, text in got["tips"] if k == plot) for plot in range(3)}
    for plot in range(2):
        assert "<img src=x onerror=window.pwned=1>" in tips[plot]
        assert "@value{safe}" in tips[plot]
        assert "⟨U+202E⟩" in tips[plot]
        assert "a" * 59 + "…" in tips[plot]
    assert NASTY[:75] in tips[2]
    assert NASTY in got["facts"]
    assert "⟨U+202E⟩⟨U+0002⟩ line" in got["facts"]
    assert got["option"].startswith(NASTY[:40])
    assert "run <b> $(touch x)" in got["h2"]
    for sign in ("\u202e", "\x01", "\x02", "\u2028", "\ufeff"):
        assert sign not in seen.dom
        assert sign not in document
    assert "<script>window.pwned" not in document


@pytest.mark.browser
def test_an_undefined_score_blanks_nothing(tmp_path: Path, browser: Browser) -> None:  # noqa: F811
    one, two = noise(2, 30), noise(2, 30, seed=1)
    one[1, 4] = math.nan
    two[0] = math.nan
    words = [" So", " it", " is", " 7", "."] * 6
    run = made_run(tmp_path / "run", {"one": one, "two": two}, {"one": words, "two": words})

    def drive(tab: Any) -> None:
        ready(tab)
        tab.select_option(".rp-pick", index=0)
        line = model(tab, "line")["value"]
        assert line[4] is None
        assert np.isfinite([value for step, value in enumerate(line) if step != 4]).all()
        assert model(tab, "undefined") == {"x": [4], "y": [1]}
        assert tab.locator(".rp-text .rp-t").count() == 30
        assert "1 step without a score" in tab.inner_text("#r0-curves-alt")
        tab.fill(".rp-step", "4")
        assert "nHSIC NaN at layer 1" in tab.inner_text(".rp-at")
        # A layer without any score
        tab.select_option(".rp-pick", index=1)
        tab.select_option(".rp-layer", index=0)
        assert "no step has a score" in tab.inner_text("#r0-curves-alt")
        assert len(model(tab, "undefined")["x"]) == 30
        assert tab.locator(".rp-text .rp-t").count() == 30
        dots = model(tab, "groups")
        tab.select_option(".rp-pick", index=0)
        assert [value is None for value in model(tab, "groups")["y"]] == [False, True]
        assert len(dots["y"]) == 2
        assert "wrong: no values" in tab.inner_text(".rp-groups figcaption")
        assert [row[-1]["v"] == "" for row in rows_of(tab, ".rp-responses")] == [False, True]

    browser.rendered(report([run]), width=1000, actions=drive).check()


@pytest.mark.browser
def test_without_verdicts_the_rest_is_there(tmp_path: Path, browser: Browser) -> None:  # noqa: F811
    scores = {"one": noise(2, 30), "two": noise(2, 40)}
    words = {name: [" So", "."] * (mi.shape[1] // 2) for name, mi in scores.items()}
    old = made_run(tmp_path / "old", scores, words, statuses=None)
    ungraded = made_run(tmp_path / "ungraded", scores, words, statuses=["not_graded"])
    seen = browser.rendered(report([old]), actions=ready).check()
    assert seen.text.count("This run has no table of verdicts (responses.parquet)") == 2
    assert "Gold answer" not in seen.text
    assert "one, 30 steps" in seen.dom
    assert "rp-t" in seen.dom
    seen = browser.rendered(report([ungraded]), actions=ready).check()
    assert "No response was graded" in seen.text
    assert "Gold answer" in seen.text


@pytest.mark.browser
def test_without_scripts_and_in_the_dark(page: Path, browser: Browser) -> None:  # noqa: F811
    seen = browser.rendered(page, script=False)
    assert "Curves and texts need JavaScript" in seen.text
    assert "Tokens read at the" in seen.text
    assert "Peaks by layer, means over responses" in seen.text
    assert "How it was made" in seen.text

    def colours(tab: Any) -> Any:
        ready(tab)
        return tab.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")

    assert browser.rendered(page, dark=True, actions=colours).check().result == [
        "rgb(21, 25, 30)",
        "rgb(230, 233, 237)",
    ]


@pytest.mark.browser
def test_a_phone_and_a_screen_reader_find_their_way(toy: Run, hostile: Run, browser: Browser) -> None:  # noqa: F811
    def read(tab: Any) -> dict[str, Any]:
        ready(tab)
        return tab.evaluate(
            """() => {
              const all = (s) => Array.from(document.querySelectorAll(s));
              const named = (e) => e.labels && e.labels.length || e.textContent.trim() || e.getAttribute("aria-label");
              return {
                widths: [document.documentElement.scrollWidth, document.body.scrollWidth, window.innerWidth],
                levels: all("h1,h2,h3,h4,h5").map(h => Number(h.tagName[1])),
                ids: all("[id]").map(e => e.id),
                links: all("a[href^='#']").map(a => a.getAttribute("href").slice(1)),
                mains: all("main").length, navs: all("nav:not([aria-label])").length,
                unnamed: all("select, input, button").filter(e => !named(e)).length,
                figures: all("figure").map(f => document.getElementById(f.getAttribute("aria-labelledby")))
                  .filter(name => !named(name)).length,
                labelled: all("[aria-labelledby]").map(e => e.getAttribute("aria-labelledby")),
                captions: all("table.rp-sort, table.rp-words").filter(t => !t.caption).length,
              };
            }"""
        )

    for runs in ([toy], [toy, hostile, toy]):
        got = browser.rendered(report(runs), width=390, actions=read).check().result
        assert max(got["widths"]) == 390
        assert got["levels"][0] == 1
        assert got["levels"].count(1) == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(got["levels"]))
        assert len(set(got["ids"])) == len(got["ids"])
        assert set(got["links"]) | set(got["labelled"]) <= set(got["ids"])
        assert (got["mains"], got["navs"], got["unnamed"], got["figures"], got["captions"]) == (1, 0, 0, 0, 0)


def test_data_is_json_that_no_text_can_end(toy: Run, hostile: Run) -> None:
    for run, responses in ((toy, 10), (hostile, 2)):
        found = re.findall(r'<script type="application/json">(.*?)</script>', report([run]), flags=re.DOTALL)
        assert len(found) == responses + 3  # the figures of curves and of verdicts, numbers by layer
        for text in found:
            assert json.loads(text, parse_constant=lambda name: pytest.fail(name))
            assert "<" not in text

"""The first screen of a report: what it opens on, its address, its keys and taps, what it tells of a step, for whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest
from browser import Browser, barriers, browser  # noqa: F401  (a fixture)
from report_pages import FRAME, made_run, noise, ready

from analyses.report import report
from analyses.report.opening import opening
from analyses.store import Run

CHOSEN = """() => ({
  response: document.querySelector(".rp-pick").selectedOptions[0].textContent.split(",")[0],
  layer: Number(document.querySelector(".rp-layer").value), step: Number(document.querySelector(".rp-step").value),
  hash: location.hash,
})"""
# Where the parts of the first screen end, and whether each has something in it.
SCREEN = """() => [".rp-why", ".rp-text", ".rp-cell", ".rp-figure"].map((s) => {
  const box = document.querySelector(s).getBoundingClientRect();
  return [box.top >= 0, box.bottom, box.height > 15, box.right <= window.innerWidth];
})"""


def told(run: Run, problem: str, layer: int, step: int) -> list[str]:
    """What the tables say of a step, as the page is to write it."""
    where = {"problem": problem, "step": step}
    score = run.table("mi.parquet", where={**where, "layer": layer}).iloc[0]
    sure = run.table("steps.parquet", where=where).iloc[0]
    words = run.table("lens.parquet", where={**where, "layer": layer}).sort_values("rank")
    assert words["rank"].tolist() == [1, 2, 3, 4, 5]
    return [
        f"after {score['input_token']}, before {score['token']}",
        f"{float(f'{score.nhsic:.4g}'):g}",
        f"{sure['logprob']:.3f} nats",
        f"{sure['entropy']:.3f} nats",
        *words["token"].astype(str),
    ]


def shows(tab: Any, said: list[str]) -> None:
    cell = tab.inner_text(".rp-cell").replace("\n", " ")
    for text in said[:4]:
        assert text in cell
    assert tab.locator(".rp-lens li code").all_inner_texts() == said[4:]


@pytest.mark.browser
def test_it_opens_on_a_response_with_peaks_in_one_screen_that_anybody_can_read(
    toy: Run,
    page: Path,
    browser: Browser,  # noqa: F811
) -> None:
    first = opening(toy.peaks)
    part = toy.mi[(toy.mi["problem"] == first.problem) & (toy.mi["layer"] == first.layer)]
    assert part["is_peak"].any()

    def drive(tab: Any) -> dict[str, Any]:
        ready(tab)
        seen = {"chosen": tab.evaluate(CHOSEN), "why": tab.inner_text(".rp-why")}
        shows(tab, told(toy, first.problem, first.layer, seen["chosen"]["step"]))
        # Contrast hangs on the scheme, what overlaps on the width: two of the four say both
        for width, height, scheme in ((1300, 800, "light"), (390, 844, "dark")):
            tab.set_viewport_size({"width": width, "height": height})
            tab.emulate_media(color_scheme=scheme)
            tab.wait_for_timeout(200)
            seen[width, scheme] = barriers(tab)
            seen[width] = (height, tab.evaluate(SCREEN), tab.evaluate("document.documentElement.scrollWidth"))
        return seen

    got = browser.rendered(page, width=1300, actions=drive).check().result
    assert got["chosen"] == {
        "response": first.problem,
        "layer": first.layer,
        "step": int(part["is_peak"].argmax()),
        "hash": "",
    }
    assert got["why"] == first.why
    assert got[1300, "light"] + got[390, "dark"] == []
    for width in (1300, 390):
        height, parts, whole = got[width]
        assert whole == width
        assert all(within and filled and beside for within, _, filled, beside in parts)
        assert max(bottom for _, bottom, *_ in parts) <= height


@pytest.mark.browser
def test_the_address_opens_the_same_and_keys_and_taps_change_it(toy: Run, page: Path, browser: Browser) -> None:  # noqa: F811
    problem = toy.responses["problem"].tolist()[3]
    part = toy.mi[(toy.mi["problem"] == problem) & (toy.mi["layer"] == 1)]
    peaks = part.loc[part["is_peak"], "step"].tolist()

    def at(tab: Any, layer: int, step: int) -> None:
        assert tab.evaluate(CHOSEN) == {
            "response": problem, "layer": layer, "step": step, "hash": f"#response={problem}&layer={layer}&step={step}",
        }  # fmt: skip
        shows(tab, told(toy, problem, layer, step))

    def drive(tab: Any) -> None:
        ready(tab)
        at(tab, 1, 5)
        tab.keyboard.press("ArrowRight")
        at(tab, 1, 6)
        tab.keyboard.press("ArrowUp")  # nothing has the focus: it scrolls
        at(tab, 1, 6)
        tab.focus(".rp-text")
        for key, layer, step in (("ArrowUp", 2, 6), ("ArrowUp", 2, 6), ("ArrowLeft", 2, 5), ("ArrowDown", 1, 5)):
            tab.keyboard.press(key)
            at(tab, layer, step)
        tab.keyboard.press("Shift+ArrowRight")
        at(tab, 1, next(step for step in peaks if step > 5))
        # The whole page follows the layer: the list of responses, words, medians, the row of each table by layer
        said = tab.inner_text("main")
        assert "Responses, peaks of layer 1" in said
        assert "Medians over responses, layer 1" in said
        assert "layer 1." in tab.inner_text(".rp-groups figcaption")
        assert tab.locator("tr.rp-chosen th:first-child:text-is('1')").count() == 2
        # A finger on the heatmap, then on the text
        left, top, width, height = tab.evaluate(FRAME, 1)
        tab.touchscreen.tap(left + 0.5 * width, top + height / 6)
        tab.wait_for_timeout(300)
        step = tab.evaluate(CHOSEN)["step"]
        assert abs(step - (len(part) - 1) / 2) <= 1
        at(tab, 2, step)
        tab.locator(".rp-text .rp-t").nth(2).tap()
        at(tab, 2, 2)
        # By hand, to what is not there
        tab.evaluate("location.hash = '#response=nobody&layer=1&step=3'")
        tab.wait_for_timeout(200)
        assert "asks for response nobody, which this page does not have" in tab.inner_text(".rp-why")
        shows(tab, told(toy, problem, 2, 2))

    hash_of = f"#response={problem}&layer=1&step=5"
    browser.rendered(page, width=390, height=844, touch=True, at=hash_of, actions=drive).check()


@pytest.mark.browser
def test_what_was_not_kept_is_said_and_one_verdict_is_not_compared(tmp_path: Path, browser: Browser) -> None:  # noqa: F811
    scores = {"one": noise(2, 30), "two": noise(2, 30, seed=1)}
    run = made_run(tmp_path / "run", scores, dict.fromkeys(scores, [" So", "."] * 15), statuses=["correct"])

    def drive(tab: Any) -> list[str]:
        ready(tab)
        return [tab.inner_text(".rp-cell"), str(tab.locator(".rp-groups").count())]

    seen = browser.rendered(report([run]), actions=drive).check()
    assert "words of this response are not kept in this run. peaklens trace --lens N" in seen.result[0]
    assert "not kept by this run" in seen.result[0]
    assert "there is nothing to compare" in seen.text
    assert seen.result[1] == "0"
    assert "Medians over responses" in seen.text


def test_without_any_peak_the_first_response_is_shown() -> None:
    rows = pandas.DataFrame({"problem": ["a", "a", "b", "b"], "sample": 0, "layer": [0, 1, 0, 1], "n_peaks": 0})
    none = opening(rows)
    assert (none.problem, none.layer) == ("a", 1)
    assert none.why.startswith("No step of 2 responses is a peak")
    few = opening(rows.assign(n_peaks=[0, 0, 4, 0]))  # one of two is half of them
    assert (few.problem, few.layer) == ("b", 0)
    assert "the only one that has any (4)" in few.why

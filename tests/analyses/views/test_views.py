"""Views in a real browser: drawn offline, inert with hostile text, never blank, chosen by keyboard, in any theme."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from browser import Browser, barriers, browser  # noqa: F401  (a fixture)
from view_samples import (
    HOSTILE,
    LIVE,
    NASTY,
    OVERFLOW,
    PWNED,
    hostile_views,
    rollout,
    scores,
    toy,
    toy_rollouts,
    trajectory,
)

from analyses import views
from analyses.views.page import page
from interp.display import visible


@pytest.mark.browser
def test_every_view_is_drawn_offline_and_hostile_text_is_inert(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    """On a phone in the dark, and when it is then seen on a light desk."""
    made = hostile_views()
    file = tmp_path / "all.html"
    file.write_text(page(NASTY, list(made.values())), encoding="utf-8")

    def look(tab: Any) -> list[Any]:
        return [*(tab.evaluate(script) for script in (PWNED, LIVE, OVERFLOW)), barriers(tab)]

    def phone_then_desk(tab: Any) -> list[list[Any]]:
        phone = look(tab)
        tab.set_viewport_size({"width": 1000, "height": 800})
        tab.emulate_media(color_scheme="light")
        tab.wait_for_timeout(200)
        return [phone, look(tab)]

    seen = browser.rendered(file, width=390, dark=True, actions=phone_then_desk).check()
    assert seen.result == [["inert", [bool(view.needs) for view in made.values()], 0, []]] * 2
    text = re.sub(r"\s+", " ", seen.text)
    for name, view in made.items():
        assert re.sub(r"\s+", " ", visible(view.title)) in text, name
        assert re.sub(r"\s+", " ", visible(view.alt)) in text, name


@pytest.mark.browser
def test_hostile_tokens_are_shown_as_text(browser: Browser) -> None:  # noqa: F811
    """What a reader sees of each token, with and without JavaScript, in text and in tooltips."""
    view = views.text(HOSTILE, scores(1, len(HOSTILE)))

    def hover(tab: Any) -> list[str]:
        told = []
        for span in tab.query_selector_all(".pl-live .colored-tokens>span"):
            span.hover()
            tab.wait_for_timeout(60)
            told.append(tab.evaluate("() => document.querySelector('[data-popper-placement]').innerText"))
            tab.mouse.move(990, 790)
        return told

    seen = browser.rendered(page("text", [view]), actions=hover).check()
    for token, tooltip, value in zip(HOSTILE, seen.result, scores(1, len(HOSTILE))[0].tolist(), strict=True):
        word, number = tooltip.replace("\u2060", "").rsplit("\n", 1)
        shown = visible(token[:200]) if token else "⟨empty⟩"
        assert word.strip("\n ").startswith(shown.strip(" ")), token
        assert float(number) == pytest.approx(value, rel=1e-5)
        assert shown.strip(" ") in seen.text.replace("\u2060", "").replace("\xa0", " ")
    without = browser.rendered(page("text", [view]), script=False).check()
    for token in HOSTILE:
        assert visible(token[:200]).strip(" ") in without.text


@pytest.mark.browser
def test_hovering_a_text_tells_where_a_step_is(browser: Browser) -> None:  # noqa: F811
    """What the position has read and what it predicts, below the token and its number."""
    one = trajectory(["So", ' "7\\', "<b>", "."], scores(1, 4), prompt_token="->")

    def hover(tab: Any) -> list[str]:
        told = []
        for span in tab.query_selector_all(".pl-live .colored-tokens>span"):
            span.hover()
            tab.wait_for_timeout(60)
            content = "getComputedStyle(document.querySelector('[data-popper-placement]'), '::after').content"
            told.append(tab.evaluate(content))
            tab.mouse.move(990, 790)
        return told

    seen = browser.rendered(page("text", [views.text(one)]), actions=hover).check().result
    shown = [one.input_tokens[0], "So", '␣"7\\', "<b>", "."]
    expected = [f"after `{read}`, before `{said}`" for read, said in pairwise(shown)]
    assert [json.loads(content) for content in seen] == expected


@pytest.mark.browser
def test_hovering_a_heatmap_tells_token_and_number(browser: Browser) -> None:  # noqa: F811
    values = scores(2, len(HOSTILE))
    values[1, 4] = math.nan
    view = views.heatmap(values, tokens=HOSTILE, layers=[3, 8], label="<b>@token $index {x}")

    def hover(tab: Any) -> list[str]:
        told = []
        for row, step in [(0, 0), (1, 1), (0, 2), (1, 3), (1, 4), (0, 6), (0, 13), (0, 14)]:
            x, y = tab.evaluate(
                "([row, step]) => {const v = Bokeh.index.roots[0], r = v.el.getBoundingClientRect();"
                "return [r.x + v.frame.x_scale.compute(step), r.y + v.frame.y_scale.compute(row)];}",
                [row, step],
            )
            tab.mouse.move(x, y)
            tab.wait_for_timeout(150)
            told.append(tab.evaluate(_SHADOW))
        told.append(tab.evaluate(PWNED))
        return told

    seen = browser.rendered(page("heat", [view]), actions=hover).check()
    assert seen.result.pop() == "inert"
    places = [(0, 0), (1, 1), (0, 2), (1, 3), (1, 4), (0, 6), (0, 13), (0, 14)]
    for (row, step), told in zip(places, seen.result, strict=True):
        expected = f"layer{[3, 8][row]}step{step}token{visible(HOSTILE[step])}<b>@token $index {{x}}"
        value = f"{float(values[row, step]):.6g}".replace("nan", "NaN")
        assert f"{expected}{value}markedno" in told, told[-400:]


_SHADOW = """() => { const texts = [];
  const visit = (node) => node.querySelectorAll("*").forEach((e) => {
    if (e.shadowRoot) { texts.push(e.shadowRoot.textContent); visit(e.shadowRoot); } });
  visit(document); return texts.join("\\n"); }"""


@pytest.mark.browser
def test_a_series_is_chosen_by_keyboard(browser: Browser) -> None:  # noqa: F811
    tokens = ["So", " 7", "."]
    marks = [[True, False, False], [False, True, False]]
    view = views.text(tokens, [[1.0, 2.0, 3.0], [math.nan, -5.0, 6.0]], labels=["layer 0", "layer 1"], marks=marks)

    def choose(tab: Any) -> list[Any]:
        def look(k: int) -> Any:
            return tab.evaluate(
                "(k) => { const box = document.querySelectorAll('.pl-live > div')[k];"
                "const spans = [...box.querySelectorAll('.colored-tokens>span>span')].map((s) => getComputedStyle(s));"
                "return [box.hidden, spans.map((s) => s.outlineStyle), spans.map((s) => s.backgroundImage !== 'none'),"
                "spans.map((s) => s.backgroundColor), box.innerText];}",
                k,
            )

        tab.keyboard.press("Tab")
        focused = tab.evaluate("() => document.activeElement.tagName + document.activeElement.labels[0].innerText")
        first = look(0)
        tab.keyboard.press("ArrowDown")
        tab.wait_for_timeout(200)
        return [focused, first, look(0)[0], look(1)]

    focused, first, hidden, second = browser.rendered(page("keys", [view]), actions=choose).check().result
    assert focused.startswith("SELECTColoured by")
    assert first[:3] == [False, ["solid", "none", "none"], [False] * 3]
    assert "From 1 to 3" in first[4]
    assert hidden is True
    assert second[:3] == [False, ["none", "solid", "none"], [True, False, False]]  # marked, and hatched
    assert "From -5 to 6" in second[4]
    # Blue deepens to #6bb1ea at the largest value, orange to #f0a030 at the lowest.
    assert (first[3][2], second[3][1]) == ("rgb(107, 177, 234)", "rgb(240, 160, 48)")


@pytest.mark.browser
def test_attention_heads_are_chosen_by_keyboard(browser: Browser) -> None:  # noqa: F811
    view = views.attention(toy(), toy_rollouts()[0], 0, [4], window=6)

    def choose(tab: Any) -> list[str]:
        told = []
        for _ in range(3):
            tab.keyboard.press("Tab")
            told.append(tab.evaluate("() => document.activeElement.getAttribute('aria-label')"))
        tab.keyboard.press("Enter")
        tab.wait_for_timeout(300)
        told.append(tab.inner_text(".pl-live h2"))
        for width in (390, 900):  # the chart shrinks and grows with the window
            tab.set_viewport_size({"width": width, "height": 800})
            tab.wait_for_timeout(400)
            tall = "() => [...document.querySelectorAll('canvas')].pop().clientHeight > 0.7 * innerWidth"
            told.append(tab.evaluate(tall))
        return told

    seen = browser.rendered(page("heads", [view]), actions=choose).check()
    assert seen.result == ["show head 0", "show head 1", "show head 2", "head 2", True, True]


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_pages_follow_the_readers_theme_and_stay_readable(browser: Browser, dark: bool) -> None:  # noqa: F811
    one = trajectory(["So", " 7", "."] * 5, scores(2, 15))
    parts = [views.text(one), views.compare(rollout(["a", "b"]), rollout(["a", "c"], [0, 5])), one._repr_html_()]
    contrasts = """() => {
      const parse = (c) => c.match(/[\\d.]+/g).map(Number);
      const lum = (c) => { const [r, g, b] = c.map((v) => { v /= 255;
        return v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4); });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const back = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
        if (c.length < 4 || c[3] === 1) return c.slice(0, 3); } return [255, 255, 255]; };
      const low = [];
      for (const e of document.querySelectorAll("body *")) {
        if (!e.innerText || !e.innerText.trim() || e.childElementCount || e.closest("h2,h4,script,style")) continue;
        const a = lum(parse(getComputedStyle(e).color).slice(0, 3)), b = lum(back(e));
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) low.push([e.innerText, ratio]);
      }
      return [low, getComputedStyle(document.body).backgroundColor]; }"""
    seen = browser.rendered(page("theme", parts), dark=dark, actions=lambda tab: tab.evaluate(contrasts)).check()
    assert seen.result == [[], "rgb(21, 25, 30)" if dark else "rgb(255, 255, 255)"]


@pytest.mark.browser
def test_undefined_values_never_blank_a_figure(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    nothing = torch.full((2, 4), math.nan, dtype=torch.float64)
    gaps = torch.tensor([[math.nan, 1.0, math.nan, 2.0]], dtype=torch.float64)
    tokens = ["a", "b", "c", "d"]
    made = [
        views.text(tokens, nothing), views.heatmap(nothing, tokens=tokens), views.heatmap(gaps, tokens=tokens),
        views.trajectories(trajectory(tokens, nothing)), views.trajectories(trajectory(tokens, gaps)),
        views.bars(pandas.DataFrame({"w": ["a", "b"], "n": [math.nan, 1.0]}), label="w", value="n"),
        views.bars(pandas.DataFrame({"w": ["a", "b"], "n": [math.nan] * 2}), label="w", value="n"),
        views.heatmap([[2.0, 2.0]], tokens=["a", "b"]),
    ]  # fmt: skip
    seen = browser.rendered(page("undefined", made), actions=lambda tab: tab.evaluate(LIVE)).check()
    assert seen.result == [True] * len(made)
    assert "No finite values" in seen.text
    assert "no finite values" in made[1].alt
    assert "4 cells undefined" not in made[2].alt
    assert "2 cells undefined" in made[2].alt


def cell_colours(tab: Any) -> list[list[int]]:
    """The colours, as [r, g, b], of the cells of the first row; beside their middles, where a mark may be."""
    return tab.evaluate("""() => {
      const view = Bokeh.index.roots[0], canvas = view.canvas_view.primary.canvas;
      const ratio = canvas.width / view.bbox.width, count = Math.round(view.frame.x_range.end + 0.5), seen = [];
      const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      const y = Math.round(view.frame.y_scale.compute(0.3) * ratio);
      for (let step = 0; step < count; step++) {
        const x = Math.round(view.frame.x_scale.compute(step + 0.3) * ratio), at = 4 * (y * canvas.width + x);
        seen.push([...pixels.slice(at, at + 3)]); }
      return seen; }""")


@pytest.mark.browser
def test_heatmap_colours_are_those_of_the_values(browser: Browser) -> None:  # noqa: F811
    """Viridis from the lowest to the highest value; red below 0, blue above, and as deep for 1 as for -1."""
    view = views.heatmap([[1.0, 2.0, 1.5]], marks=[1])
    colours = browser.rendered(page("x", [view]), actions=cell_colours).check().result
    assert colours == [[68, 1, 84], [253, 231, 36], [32, 144, 140]]
    view = views.heatmap([[1.0, 2.0]], low=2.0, high=5.0)
    assert browser.rendered(page("x", [view]), actions=cell_colours).check().result == [[68, 1, 84]] * 2
    frame = pandas.DataFrame({"layer": 0, "step": [4, 5, 9], "token": list("abc"), "effect": [-2.0, 0.0, 1.0]})
    red, middle, blue = browser.rendered(page("x", [views.sweep(frame)]), actions=cell_colours).check().result
    assert red == [103, 0, 31]
    assert middle == [247, 247, 247]
    # ColorBrewer's RdBu has 11 colours: halfway up lies between 92c5de and 4393c3.
    assert all(low <= c <= high for low, c, high in zip((0x43, 0x93, 0xC3), blue, (0x92, 0xC5, 0xDE), strict=True))

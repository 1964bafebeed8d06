"""Views in a real browser: offline, inert with hostile text, never blank, right in their numbers, usable on a phone."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from browser import Browser, browser  # noqa: F401  (a fixture)

from analyses import views
from analyses.problems import bundled_problems
from analyses.store import Cell, Run
from analyses.trace import trace
from analyses.trace.trajectory import Trajectory, peaks_where_defined, trajectories
from analyses.views import assets
from analyses.views.alignment import align
from analyses.views.frames import PeakTable, SweepTable
from analyses.views.page import page
from analyses.views.tokens import safe_token
from interp import ResidualSites, bundled_model_path, decode, load_model
from interp.display import visible
from interp.errors import InputError
from interp.rollout import Rollout
from interp.rows import Event
from probes import tukey_peaks

HOSTILE = [
    "</script>", "<script>window.pwned=1</script>", "<img src=x onerror=window.pwned=1>", "<!--", "]]>", "{{", "&lt;",
    "\u202e", "\x00", "\u2028", "\n", '"', "'", "$$x$$", "@value", "a" * 3000, " ", "",
    "<svg onload=window.pwned=1>", "&#60;b&#62;",
]  # fmt: skip
NASTY = '"><img src=x onerror=window.pwned=1></script><script>window.pwned=1</script>$$x$$'


def trajectory(tokens: list[str], mi: Any, problem: str = "ducks", tau: float = 1.5, **more: Any) -> Trajectory:
    scores = torch.atleast_2d(torch.as_tensor(mi, dtype=torch.float64))
    layers = range(len(scores))
    ids = torch.arange(len(tokens))
    peaks = peaks_where_defined(scores, tau)
    return Trajectory(tokens, ids, scores, peaks, layers, "resid_post", problem, 0, tau=tau, **more)


def rollout(tokens: list[str], ids: Any = None, events: list[Event] | None = None) -> Rollout:
    count = len(tokens)
    numbers = torch.arange(count) if ids is None else torch.as_tensor(ids)
    logprobs = torch.linspace(-2, -0.25, count)
    return Rollout(torch.tensor([1]), numbers, tokens, "", "eos", logprobs, logprobs.abs(), events=events or [])


def scores(layers: int, steps: int) -> torch.Tensor:
    values = torch.rand(layers, steps, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.2
    values[:, ::7] += 1
    return values


@cache
def toy() -> Any:
    return load_model("toy-reasoner")


@cache
def toy_rollouts() -> tuple[Rollout, Rollout]:
    """A greedy response with its residuals, and a sampled one of the same question."""
    question = bundled_problems(1)[0].question
    greedy = decode(toy(), [question], max_new_tokens=100, record=ResidualSites())[0]
    return greedy, decode(toy(), [question], max_new_tokens=100, temperature=1.3, seed=3)[0]


def hostile_views() -> dict[str, views.View]:
    """Every view, with hostile text wherever text can be."""
    steps = len(HOSTILE)
    values = scores(2, steps)
    values[0, 3], values[0, 5], values[1, 6] = math.nan, math.inf, -math.inf
    one = trajectory(HOSTILE, values, problem=NASTY, measure=NASTY)
    words = pandas.DataFrame({"token": HOSTILE, "lift": range(steps), "low": [0.0] * steps, "high": [20.0] * steps})
    sweep = SweepTable({"layer": [1] * steps, "site": [NASTY] * steps, "step": range(steps), "token": HOSTILE,
                        "value": 0.0, "baseline": 0.0, "effect": np.linspace(-1, 0.5, steps)})  # fmt: skip
    greedy = toy_rollouts()[0]
    read = Rollout(greedy.prompt_ids, greedy.token_ids[:steps], HOSTILE, "", "eos", *torch.ones(2, steps))
    other = rollout([*HOSTILE[::-1]], ids=range(steps)[::-1])
    return {
        "text": views.text(one),
        "rollout": views.text(rollout(HOSTILE, events=[Event(2, NASTY, NASTY)])),
        "plain text": views.text(HOSTILE, values, labels=[NASTY, "<b>"], title=NASTY, marks=[0, 1, 2]),
        "heatmap": views.heatmap(one),
        "trajectories": views.trajectories([one, one], layers=[0, 1], title=NASTY),
        "sweep": sweep.show(label=NASTY),
        "bars": views.bars(words, label="token", value="lift", low="low", high="high", reference=1, title=NASTY),
        "peaks": PeakTable({"token": HOSTILE}).show(),
        "attention": views.attention(toy(), read, 1, [steps - 1], window=steps - 1, title=NASTY),
        "logit lens": views.logit_lens(toy(), read, 1, title=NASTY),
        "compare": views.compare(rollout(HOSTILE), other, by="logprobs", names=(NASTY, "<b>")),
    }


PWNED = "() => window.pwned === undefined ? 'inert' : 'pwned'"
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
LIVE = "() => [...document.querySelectorAll('.pl-view')].map((v) => v.querySelector('.pl-static').hidden)"


# In the browser


@pytest.mark.browser
@pytest.mark.parametrize("width", [1000, 390])
def test_every_view_is_drawn_offline_and_hostile_text_is_inert(browser: Browser, tmp_path: Path, width: int) -> None:  # noqa: F811
    made = hostile_views()
    file = tmp_path / "all.html"
    file.write_text(page(NASTY, list(made.values())), encoding="utf-8")
    seen = browser.rendered(file, width=width, actions=lambda tab: [tab.evaluate(s) for s in (PWNED, LIVE, OVERFLOW)])
    seen.check()
    (tmp_path / "all.png").write_bytes(seen.screenshot)  # to look at, with --basetemp
    assert seen.result == ["inert", [bool(view.needs) for view in made.values()], 0]
    text = re.sub(r"\s+", " ", seen.text)
    for name, view in made.items():
        assert re.sub(r"\s+", " ", visible(view.title)) in text, name
        assert re.sub(r"\s+", " ", visible(view.alt)) in text, name


@pytest.mark.browser
def test_a_saved_view_is_one_page_that_needs_nothing(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    view = trajectory(["So", " 7", "."] * 5, scores(2, 15)).show()
    file = view.save(tmp_path / "new folder" / "heat.html")
    seen = browser.rendered(file, actions=lambda tab: tab.evaluate(LIVE)).check()
    assert seen.result == [True]
    assert seen.text.count(view.title) == 1
    assert [f.name for f in file.parent.iterdir()] == ["heat.html"]
    # The check itself can fail: a page that asks for something is found out.
    asking = browser.rendered(file.read_text().replace("<main>", '<main><img src="http://localhost:9/x.png">'))
    assert asking.requests == ["http://localhost:9/x.png"]


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
def test_views_share_a_page(browser: Browser) -> None:  # noqa: F811
    """Each library once, each view with ids of its own, the same view twice as well."""
    one = trajectory(["So", " 7", "."] * 5, scores(2, 15))
    text, heat = views.text(one), views.heatmap(one)
    document = page("shared", [text, text, heat, heat, views.trajectories(one)])
    for name in ("circuitsvis", "bokeh"):
        assert document.count(f'new Event("peaklens-{name}")') == 1
    assert document.count("window.peaklensShow1 =") == 1
    bundles = len(assets.bundle("circuitsvis")) + len(assets.bundle("bokeh"))
    assert len(document) < bundles + 200_000
    ids = re.findall(r' id="(pl-[^"]+)"', document)
    assert len(ids) == len(set(ids)) == 5
    seen = browser.rendered(document, actions=lambda tab: tab.evaluate(LIVE)).check()
    assert seen.result == [True] * 5
    boxes = re.findall(r' id="(pl-[^"]+)"', seen.dom)
    assert len(boxes) == len(set(boxes))


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A notebook session that has shown nothing yet."""
    monkeypatch.setattr(assets, "_carried", set())
    return iter(())


# How Jupyter shows an output: as inner HTML, whose scripts are then made anew so that they run.
NOTEBOOK = """<!doctype html><body><script>
const outputs = %s;
for (const html of outputs) {
  const cell = document.createElement("div");
  cell.innerHTML = html;
  document.body.appendChild(cell);
  cell.querySelectorAll("script").forEach((old) => {
    const script = document.createElement("script");
    for (const { name, value } of old.attributes) script.setAttribute(name, value);
    script.textContent = old.textContent;
    old.parentNode.replaceChild(script, old);
  });
}
</script></body>"""


def notebook(outputs: list[str]) -> str:
    return NOTEBOOK % json.dumps(outputs).replace("<", "\\u003c")


@pytest.mark.browser
def test_in_a_notebook_the_first_view_carries_the_library(browser: Browser, session: None) -> None:  # noqa: F811
    one = trajectory(["So", " 7", "."] * 5, scores(2, 15))
    outputs = [
        view._repr_html_() for view in (views.text(one), views.heatmap(one), views.text(one), views.heatmap(one))
    ]
    assert [len(output) > 1_000_000 for output in outputs] == [True, True, False, False]
    assert max(map(len, outputs[2:])) < 60_000
    seen = browser.rendered(notebook(outputs), actions=lambda tab: tab.evaluate(LIVE)).check()
    assert seen.result == [True] * 4
    # A view whose library comes later (a cell run again, above which nothing is left) is drawn when it comes.
    late = browser.rendered(notebook([outputs[2], outputs[0]]), actions=lambda tab: tab.evaluate(LIVE)).check()
    assert late.result == [True, True]
    # Where it never comes, and where nothing runs, the static form stands.
    alone = browser.rendered(notebook(outputs[2:]), actions=lambda tab: tab.evaluate(LIVE)).check()
    assert alone.result == [False, False]
    assert "So" in alone.text
    assert "highest at" in alone.text
    untrusted = browser.rendered("<body>" + outputs[0], script=False).check()
    assert "So" in untrusted.text


def test_load_carries_both_libraries(session: None) -> None:
    assert len(views.load()._repr_html_()) > 2_500_000
    assert len(views.text(["a"], [1.0])._repr_html_()) < 20_000


@pytest.mark.browser
def test_a_figure_that_fails_leaves_its_static_form(browser: Browser) -> None:  # noqa: F811
    good = views.text(["So", " 7"], [1.0, 2.0])
    broken = views.View(good.title, good.static, good.alt, {**dict(good.live or {}), "component": "NoSuchThing"})
    figure = views.View("x", "<p>the numbers</p>", "x", {"needs": "bokeh", "item": {"doc": {}, "root_id": "1"}})
    seen = browser.rendered(page("broken", [broken, figure]), patience=1, actions=lambda tab: tab.evaluate(LIVE))
    assert seen.result == [False, False]
    assert "So" in seen.text
    assert "the numbers" in seen.text
    assert seen.console_errors


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
    (tmp_path / "undefined.png").write_bytes(seen.screenshot)
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


# Sizes


def test_what_a_notebook_shows_is_small(tmp_path: Path) -> None:
    one = trajectory(["<token>"] * 256, scores(30, 256))
    assert len(one._repr_html_().encode()) < 100_000
    assert len(one.peaks()._repr_html_().encode()) < 100_000
    many = PeakTable({name: ["<token>"] * 256 for name in ("layer", "step", "token_id", "token", "mi", "distance")})
    assert len(many._repr_html_().encode()) < 100_000
    assert one.show().save(tmp_path / "heat.html").stat().st_size < 2_500_000


# Numbers


def test_a_trajectory_reads_a_run_as_its_tables_have_it(tmp_path: Path) -> None:
    run = trace(toy(), n=2, out=tmp_path / "run", max_new_tokens=30, tau=1.0)
    table = run.mi
    listed = list(trajectories(run))
    frame = pandas.concat([one.to_frame() for one in listed], ignore_index=True)
    for name in table.columns:
        assert frame[name].tolist() == table[name].tolist(), name
    one = Trajectory.from_run(run, listed[1].problem)
    assert torch.equal(one.mi, listed[1].mi)
    cell = run.read(Cell(one.problem))
    assert torch.equal(one.is_peak, tukey_peaks(cell.tensors["mi"], 1.0))
    at_peaks = run.mi.query("problem == @one.problem and layer == 2 and is_peak")
    assert one.peaks()["step"].tolist() == at_peaks["step"].tolist()
    assert one.peaks(0)["mi"].tolist() == one.mi[0][one.is_peak[0]].tolist()
    last = one.mi[-1].numpy()
    low, high = np.percentile(last, [25, 75])
    assert one.threshold() == pytest.approx(high + 1.0 * (high - low), rel=1e-12)
    distance = np.abs(last - np.median(last)) / (high - low)
    assert one.peaks()["distance"].tolist() == pytest.approx(distance[one.is_peak[-1].numpy()].tolist())
    with pytest.raises(InputError, match="received problem 'nobody', sample 0"):
        Trajectory.from_run(run, "nobody")
    with pytest.raises(InputError, match="sample 7"):
        Trajectory.from_run(run, one.problem, 7)
    other = Run.start(tmp_path / "other", kind="watch", settings={"model": "toy"}, provenance={})
    other.write(Cell("ducks"), {"x": torch.ones(1)}, {})
    with pytest.raises(InputError, match=r"a run with scores \(kind trace\), received kind watch"):
        Trajectory.from_run(other, "ducks")


def test_a_trajectory_of_a_rollout() -> None:
    greedy = toy_rollouts()[0]
    values = scores(3, len(greedy)).float()
    one = Trajectory.of(greedy, values)
    assert one.layers == (0, 1, 2)
    assert one.mi.dtype == torch.float64
    assert torch.equal(one.is_peak, tukey_peaks(values))
    assert torch.equal(Trajectory.of(greedy, values, tau=3).is_peak, tukey_peaks(values, 3))
    assert Trajectory.of(greedy, values[0], layers=[1]).layers == (1,)
    holes = values.clone()
    holes[:, 2] = math.nan
    keep = [step for step in range(len(greedy)) if step != 2]
    assert torch.equal(Trajectory.of(greedy, holes).is_peak[:, keep], tukey_peaks(values[:, keep]))
    assert one.only([-1, 0]).layers == [2, 0]
    assert one.show("lines", layer=[0, 1]).to_frame()["layer"].unique().tolist() == [0, 1]
    assert one.show("text", layer=1).to_frame()["value"].tolist() == one.mi[1].tolist()
    assert one.show().to_frame()["value"].tolist() == one.mi.reshape(-1).tolist()


def test_attention_is_hugging_faces() -> None:
    from transformers import AutoModelForCausalLM

    greedy = toy_rollouts()[0]
    text = torch.cat([greedy.prompt_ids, greedy.token_ids])[None]
    plain = AutoModelForCausalLM.from_pretrained(bundled_model_path("toy-reasoner"), attn_implementation="eager")
    with torch.no_grad():
        reference = plain(text, output_attentions=True).attentions
    before = len(greedy.prompt_ids)
    for layer in range(3):
        frame = views.attention(toy(), greedy, layer, steps=[3, 20], window=4).to_frame()
        chosen = [*range(before - 1, before + 4), *range(before + 16, before + 21)]
        assert sorted(frame["position"].unique()) == chosen
        expected = reference[layer][0, frame["head"], frame["position"], frame["source_position"]]
        assert np.abs(frame["attention"] - expected.numpy()).max() < 1e-6
        assert frame["token"].tolist() == [
            ([*[""] * before, *greedy.tokens][p]) if p >= before else t
            for p, t in zip(frame["position"], frame["token"], strict=True)
        ]
    assert views.attention(toy(), greedy, -1).title == "Attention of layer 2"


def test_the_last_layer_of_the_lens_is_the_models_next_token() -> None:
    greedy, sampled = toy_rollouts()
    for response in (greedy, sampled):  # one with recorded residuals, one without
        assert bool(response.residuals) == (response is greedy)
        for step in (0, 5, len(response) - 1):
            text = torch.cat([response.prompt_ids, response.token_ids[:step]])[None]
            with torch.no_grad():
                expected = toy().original_model(text).logits[0, -1].softmax(-1)
            frame = views.logit_lens(toy(), response, step, k=5).to_frame()
            last = frame[frame["layer"] == 2]
            top = expected.topk(5)
            assert last["token_id"].tolist() == top.indices.tolist()
            assert np.abs(last["probability"].to_numpy() - top.values.numpy()).max() < 1e-5
            assert frame["rank"].tolist() == [1, 2, 3, 4, 5] * 3
            assert frame.groupby("layer")["probability"].apply(lambda p: p.is_monotonic_decreasing).all()


def test_an_earlier_layer_of_the_lens_is_its_stream_through_norm_and_unembedding() -> None:
    greedy = toy_rollouts()[0]
    model = toy().original_model
    with torch.no_grad():
        logits = model.lm_head(model.model.norm(greedy.residuals["resid_post"][1, 7]))
    recorded = views.logit_lens(toy(), greedy, 7, k=3, layers=[1]).to_frame()
    plain = Rollout(greedy.prompt_ids, greedy.token_ids, greedy.tokens, "", "eos", greedy.logprobs, greedy.entropy)
    for frame in (recorded, views.logit_lens(toy(), plain, 7, k=3, layers=-2).to_frame()):
        assert frame["token_id"].tolist() == logits.topk(3).indices.tolist()
        assert frame["probability"].tolist() == pytest.approx(logits.softmax(-1).topk(3).values.tolist(), abs=1e-5)


def test_responses_are_aligned() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(30):
        a, b = (torch.randint(0, 4, (int(n),), generator=generator).tolist() for n in torch.randint(0, 12, (2,), generator=generator))  # noqa: E501  # fmt: skip
        blocks = align(a, b)
        assert [x for k in blocks for x in a[k.a_begin : k.a_end]] == a
        assert [x for k in blocks for x in b[k.b_begin : k.b_end]] == b
        for k in blocks:
            assert (a[k.a_begin : k.a_end] == b[k.b_begin : k.b_end]) == (k.kind == "equal")
    common = next(i for i in range(99) if toy_rollouts()[0].tokens[i] != toy_rollouts()[1].tokens[i])
    view = views.compare(*toy_rollouts(), by="entropy")
    assert f"they part at step {common}" in view.alt
    assert view.static.count(f"they part here, step {common}") == 2
    frame = view.to_frame()
    assert frame["token_a"].dropna().tolist() == toy_rollouts()[0].tokens
    assert frame["token_b"].dropna().tolist() == toy_rollouts()[1].tokens
    assert views.compare(rollout(["a"]), rollout(["a"])).alt == "a and b are the same 1 tokens."
    longer = views.compare(rollout(["a"]), rollout(["a", "b"]))
    assert "they part at step 1" in longer.alt
    assert longer.to_frame()["kind"].tolist() == ["equal", "insert"]


def test_tables_keep_their_type_and_escape() -> None:
    table = PeakTable({"token": HOSTILE, "mi": 0.5})
    assert isinstance(table[table["mi"] > 0].head(3), PeakTable)
    assert type(table.to_frame()) is pandas.DataFrame
    piece = table._repr_html_()
    assert "<img" not in piece
    assert "<script" not in piece
    assert "\u202e" not in piece
    assert PeakTable({"token": ["."] * 3 + ["a"]}).show().to_frame()["peaks"].tolist() == [3, 1]
    assert "1 more row" in PeakTable({"token": ["."] * 61})._repr_html_()
    with pytest.raises(InputError, match="SweepTable: expected columns layer, step, token, effect"):
        SweepTable({"layer": [1]}).show()


def test_bars_and_sweeps_give_their_numbers_back() -> None:
    frame = pandas.DataFrame({"word": ["Wait", "."], "lift": [6.8, math.nan], "low": [5.0, 1.0], "high": [9.0, 2.0]})
    shown = views.bars(frame, label="word", value="lift", low="low", high="high").to_frame()
    pandas.testing.assert_frame_equal(shown, frame)
    rows = [
        (layer, step, f"t{step}", layer * 10 + step)
        for layer in (2, 5)
        for step in (3, 9, 4)
        if (layer, step) != (5, 9)
    ]
    effects = SweepTable(rows, columns=["layer", "step", "token", "effect"])
    table = effects.show().to_frame()
    found = {(r["layer"], r["step"], r["token"]): r["value"] for r in table.to_dict("records")}
    assert len(found) == 6
    assert all(found[layer, step, token] == effect for layer, step, token, effect in rows)
    assert math.isnan(found[5, 9, "t9"])


def test_series_and_their_names() -> None:
    one = trajectory(["a", "b"], [[1.0, 2.0], [3.0, 4.0]])
    assert views.text(one).to_frame()["series"].unique().tolist() == ["nHSIC, layer 0", "nHSIC, layer 1"]
    assert (views.text(one).live or {})["start"] == 1
    response = rollout(["a", "b"], events=[Event(1, "Ban", "x")])
    frame = views.text(response).to_frame()
    assert frame["value"].tolist() == pytest.approx([-2.0, -0.25, 2.0, 0.25])
    assert frame["marked"].tolist() == [False, True, False, True]
    assert views.text(one, [5.0, 6.0]).to_frame()["value"].tolist() == [5.0, 6.0]
    twice = views.trajectories([one, one])
    assert "1: ducks, sample 0, layer 1" in twice.alt
    assert np.array_equal(views.heatmap(np.ones((2, 2))).to_frame()["layer"], [0, 0, 1, 1])


@pytest.mark.parametrize("token", [*HOSTILE, "<a", "</a>", "<?x", "<!x", "&amp", "&#x41;", "<\u2060", "a<b&c"])
def test_tokens_for_circuitsvis_hold_no_markup(token: str) -> None:
    from html.parser import HTMLParser

    class Reader(HTMLParser):
        text, other = "", 0

        def handle_data(self, data: str) -> None:
            self.text += data

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.other += 1

        handle_endtag = handle_comment = handle_decl = unknown_decl = handle_pi = lambda self, *_: setattr(self, "other", 1)  # noqa: E501  # fmt: skip

    reader = Reader(convert_charrefs=True)
    reader.feed(safe_token(token))
    reader.close()
    assert reader.other == 0
    cut = token[:200] + (f"... {len(token) - 200} more" if len(token) > 200 else "")
    shown = reader.text.replace("\u2060", "").replace("⏎\n", "⏎")
    assert shown == (visible(cut) or "⟨empty⟩")


# What is refused


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: views.text([], []), "text: expected at least one token, and a value for each, received 0 tokens"),
        (lambda: views.text(["a"]), "received 1 tokens"),
        (lambda: views.text(["a"], [1.0, 2.0]), "expected 1 values, one a token, received 2"),
        (lambda: views.text(["a"], [1.0], labels=["x", "y"]), "expected 1 labels, one a series, received 2"),
        (lambda: views.text(["a"], [1.0], marks=[1]), "marks as steps from 0 to 0"),
        (lambda: views.text(["a"], [1.0], start=1), "start from 0 to 0, received 1"),
        (lambda: views.text(["a"], torch.ones(1, 1, 1)), "as [step] or [layer, step], received shape (1, 1, 1)"),
        (lambda: views.text(["a"], ["x"]), "numbers as [step] or [layer, step]"),
        (lambda: views.text(rollout([])), "received 0 tokens"),
        (lambda: views.heatmap(torch.ones(2, 3), tokens=["a"]), "expected 3 tokens, one a step, received 1"),
        (lambda: views.heatmap(torch.ones(2, 3), layers=[1]), "expected 2 layers, one a row, received 1"),
        (lambda: views.heatmap(torch.ones(2, 0)), "at least one layer and one step"),
        (lambda: views.trajectories([]), "at least one trajectory and one layer"),
        (lambda: views.trajectories(trajectory(["a"], [1.0]), layers=[3]), "a layer among 0, or -1 to -1, received 3"),
        (lambda: trajectory(["a"], [1.0]).show("pie"), '"heatmap", "lines" or "text", received \'pie\''),
        (lambda: dataclasses.replace(trajectory(["a"], [1.0]), tokens=["a", "b"]), "as many tokens as steps"),
        (lambda: Trajectory.of(rollout([]), torch.ones(1, 0)), "with the 0 steps of the response, at least one"),
        (lambda: Trajectory.of(rollout(["a"]), torch.ones(1, 2)), "received shape (1, 2)"),
        (lambda: views.sweep(pandas.DataFrame({"layer": [1]})), "received no step, token, effect"),
        (lambda: views.sweep(pandas.DataFrame(columns=["layer", "step", "token", "effect"])), "received no rows"),
        (lambda: views.sweep(pandas.DataFrame({"layer": [1, 1], "step": 1, "token": "a", "effect": 1.0})), "the same"),
        (lambda: views.bars(pandas.DataFrame({"a": [1]}), label="a", value="b"), "received no b"),
        (lambda: views.bars(pandas.DataFrame({"a": []}), label="a", value="a"), "received 0 rows"),
        (lambda: views.bars(pandas.DataFrame({"a": [1]}), label="a", value="a", low="a"), "low='a', high=None"),
        (lambda: views.attention(toy(), toy_rollouts()[0], 9), "layers from 0 to 2"),
        (lambda: views.attention(toy(), toy_rollouts()[0], 0, [999]), "steps from 0 to"),
        (lambda: views.attention(toy(), toy_rollouts()[0], 0, [60, 62], window=90), "at most 80 tokens"),
        (lambda: views.logit_lens(toy(), toy_rollouts()[0], 999), "a step from 0 to"),
        (lambda: views.logit_lens(toy(), toy_rollouts()[0], 0, k=48), "k from 1 to 47"),
        (lambda: views.logit_lens(toy(), toy_rollouts()[0], 0, layers=[3]), "layers from 0 to 2"),
        (lambda: views.compare(rollout(["a"]), rollout(["a"]), by="colour"), "received by 'colour'"),
        (lambda: views.View("x", "y", "z").to_frame(), "a view of numbers, received 'x'"),
        (lambda: page("x", [], needs=["d3"]), "libraries among circuitsvis, bokeh, received d3"),
        (lambda: assets.bundle("d3"), "circuitsvis or bokeh, received 'd3'"),
        (lambda: views.View("x", "y", "z").save("/proc/nowhere/x.html"), "room and permission to write"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_words(call: Any, told: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert told in str(caught.value)


def test_importing_the_views_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    heavy = ("bokeh", "pandas", "torch", "circuitsvis", "transformer_lens")
    code = f"import sys, analyses.views; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert set(dir(views)) == set(views.__all__)
    assert all(callable(getattr(views, name)) for name in views.__all__)
    with pytest.raises(AttributeError, match="no attribute 'pie'"):
        views.pie  # noqa: B018

"""Where views stand: on a page of their own, together, in a notebook; each library once, nothing from the network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser  # noqa: F401  (a fixture)
from view_samples import (
    LIVE,
    scores,
    trajectory,
)

from analyses import views
from analyses.views import assets
from analyses.views.drawing import figure_item, figure_of, hover
from analyses.views.page import page


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


def test_the_item_of_a_figure_is_bokehs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the ids of its parts, which are numbered through; a theme that a notebook has chosen changes neither."""
    from bokeh.embed import json_item
    from bokeh.io import curdoc
    from bokeh.themes import built_in_themes

    monkeypatch.setattr(curdoc(), "theme", built_in_themes["dark_minimal"])

    def drawn(item: Callable[[Any], Any]) -> str:
        figure, ids = figure_of(200, "step", "<b>"), dict[str, str]()
        figure.add_tools(hover([figure.scatter([1, 2], [3.0, float("nan")])], [("step", "@x")]))
        return re.sub(r'"p\d+"', lambda found: ids.setdefault(found[0], f'"{len(ids)}"'), json.dumps(item(figure)))

    assert drawn(figure_item) == drawn(json_item)

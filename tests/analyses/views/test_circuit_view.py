"""The circuit picture: where its nodes stand, what it holds, and how it behaves in a real browser."""

from __future__ import annotations

import inspect
import json
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas
import pytest
from browser import Browser, browser  # noqa: F401  (a fixture)
from circuit_samples import Network, realistic, words_and_attention
from view_samples import NASTY, OVERFLOW, PWNED

from analyses import views
from analyses.attribution import Circuit
from analyses.views.circuit_layout import Place, laid_out
from analyses.views.page import page
from analyses.views.view import View
from interp import InputError
from interp.display import short


def data_of(view: View) -> dict[str, Any]:
    found = re.search(r'<script type="application/json">(.*?)</script>', view.static, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def view_of(hostile: bool = False, **options: Any) -> View:
    circuit = realistic(hostile=hostile)
    words, attention = words_and_attention(circuit)
    return views.circuit(circuit, words=words, attention=attention, **options)


def test_no_two_nodes_stand_at_one_place_and_layers_go_up() -> None:
    circuit = realistic()
    made = data_of(views.circuit(circuit))["nodes"]
    places = list(zip(made["x"], made["y"], strict=True))
    apart = np.linalg.norm(np.subtract.outer(*[np.array(places)] * 2).diagonal(axis1=1, axis2=3), axis=-1)
    assert (apart + np.eye(len(places))).min() > 0.99
    depth = {"embed": -1.0, "logits": 99.0}
    for name, y, other, below in zip(made["name"], made["y"], made["name"][1:], made["y"][1:], strict=False):
        here, there = (depth.get(n, float(re.findall(r"\d+", n)[0]) if "L" in n else 0) for n in (name, other))
        if here != there:
            assert (y < below) == (here > there), (name, other)  # y points down
    columns = data_of(views.circuit(circuit))["columns"]
    assert [c["position"] for c in columns] == sorted(c["position"] for c in columns)
    assert all(b["x"] - b["half"] - a["x"] - a["half"] > 0.5 for a, b in pairwise(columns))
    assert {made["x"][i] < columns[c]["x"] + columns[c]["half"] for i, c in enumerate(made["column"])} == {True}


def test_positions_that_are_left_out_leave_a_gap() -> None:
    made = laid_out([Place("head", 1, 0, position) for position in (3, 4, 9)])
    assert [column.after_gap for column in made.columns] == [False, False, True]
    assert made.columns[2].x - made.columns[1].x > made.columns[1].x - made.columns[0].x


def test_numbers_and_words_are_those_of_the_circuit() -> None:
    circuit = realistic()
    words, attention = words_and_attention(circuit)
    view = views.circuit(circuit, words=words, attention=attention)
    made = data_of(view)
    assert (len(made["nodes"]["x"]), len(made["edges"]["s"])) == (300, 2000)
    scores = [abs(score) for score in made["edges"]["score"]]
    assert scores == sorted(scores, reverse=True)
    frame = circuit.to_frame("edges")
    names = [
        f"{n}@{made['columns'][c]['position']}"
        for n, c in zip(made["nodes"]["name"], made["nodes"]["column"], strict=True)
    ]
    shown = {
        (names[s], names[t], port): score
        for s, t, port, score in zip(*(made["edges"][k] for k in ("s", "t", "port", "score")), strict=True)
    }
    for row in frame.itertuples():
        key = (f"{row.source}@{row.source_position}", f"{row.target}@{row.position}", row.port)
        assert shown[key] == pytest.approx(row.score, rel=1e-3)
    head = next(n for n, kind in enumerate(made["nodes"]["kind"]) if kind == "head")
    position = made["columns"][made["nodes"]["column"][head]]["position"]
    of = (words["node"] == made["nodes"]["name"][head]) & (words["position"] == position)
    assert made["words"][str(head)] == [
        [short(row.token, 24), float(f"{row.value:.4g}")] for row in words[of].itertuples()
    ]
    looks = attention[(attention["node"] == made["nodes"]["name"][head]) & (attention["position"] == position)]
    assert made["attention"][str(head)][0][1] == pytest.approx(looks["attention"].max(), rel=1e-3)
    both = circuit.to_frame()[["score", "exact"]].dropna()
    expected = both.rank().corr().iloc[0, 1]  # Spearman's
    assert f"{len(both)} measured, Spearman {expected:.2f}" in made["agree"]["nodes"]
    assert view.to_frame().equals(frame)
    assert len(view.fragment()) < 400_000  # of 2 MB


def test_only_members_and_only_the_strongest() -> None:
    circuit = realistic().greedy(60)
    chosen = data_of(circuit.show())
    assert len(chosen["edges"]["s"]) == 60
    assert len(chosen["nodes"]["x"]) == int(circuit.to_frame()["in_circuit"].sum())
    assert len(data_of(circuit.show(members=False))["edges"]["s"]) == 2000
    few = circuit.show(members=False, most=50)
    assert len(data_of(few)["edges"]["s"]) == 50
    assert "Left out: 1950 weaker edges." in few.alt
    assert circuit._repr_html_().startswith("<style>")
    ours, theirs = (list(inspect.signature(one).parameters.values())[1:] for one in (Circuit.show, views.circuit))
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs]


def test_circuits_without_edges_scores_or_positions_are_shown() -> None:
    heads = Circuit(pandas.DataFrame({"node": ["L0H0", "L1 MLP", "logits"], "score": [0.5, -1.0, np.nan]}))
    made = data_of(heads.show())
    assert (made["columns"][0]["position"], made["edges"]["s"]) == (None, [])
    assert made["nodes"]["order"] == [1, 0]
    edges = data_of(Network().circuit().show())
    assert edges["nodes"]["order"] == []
    assert set(edges["nodes"]["score"]) == {None}
    alone = Circuit(pandas.DataFrame({"node": ["L0H0"], "score": [np.nan]})).show()
    assert alone.alt == "1 node and 0 edges into logits."


def test_the_slider_begins_at_a_threshold() -> None:
    circuit = realistic()
    sizes = circuit.to_frame("edges")["score"].abs()
    for level in (0.0, 0.05, 0.2, 99.0):
        view = views.circuit(circuit, threshold=level)
        start = int(re.findall(r'class="pc-slide".*?value="(\d+)"', view.static)[0])
        wanted = max(1, int((sizes >= level).sum()))
        assert round(2000 ** (start / 1000)) == pytest.approx(wanted, rel=0.005)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: views.circuit(pandas.DataFrame()), "a circuit"),
        (lambda: views.circuit(Circuit(None)), "at least one node"),
        (lambda: views.circuit(realistic(), most=0), "most at least 1"),
        (lambda: views.circuit(realistic(), threshold=-1), "threshold 0 or more"),
        (lambda: views.circuit(realistic(), words=pandas.DataFrame({"node": []})), "no position, token, value"),
        (lambda: views.circuit(realistic(), attention=pandas.DataFrame({"node": []})), "a table with node, position"),
    ],
)
def test_bad_input_is_one_clear_error(call: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()


STATE = """() => { const S = document.querySelector('.pc').peaklens; return {
  selected: S.selected === null ? null : S.label(S.selected), edges: S.seen.edges.length,
  pins: Object.keys(S.pinned).map((n) => S.label(+n)), said: document.querySelector('.pc-said').innerText,
  side: document.querySelector('.pc-side').innerText, status: document.querySelector('.pc-status').textContent,
  hits: document.querySelector('.pc-hits').innerText, focus: document.activeElement.className}; }"""
PLACE = """(label) => { const S = document.querySelector('.pc').peaklens, r = S.stage.getBoundingClientRect();
  const n = S.N.x.findIndex((_, n) => S.label(n) === label);
  return [r.x + 54 + S.N.x[n] * S.scale + S.dx, r.y + 70 + S.N.y[n] * S.scale + S.dy]; }"""
# How dark the picture is around a node: whether something is drawn there.
INK = """(label) => { const S = document.querySelector('.pc').peaklens;
  const n = S.N.x.findIndex((_, n) => S.label(n) === label);
  const ratio = S.base.width / S.width, at = [54 + S.N.x[n] * S.scale + S.dx, 70 + S.N.y[n] * S.scale + S.dy];
  const d = S.base.getContext('2d').getImageData(at[0] * ratio - 6, at[1] * ratio - 6, 12, 12).data;
  let low = 255; for (let i = 0; i < d.length; i += 4) low = Math.min(low, d[i] + d[i + 1] + d[i + 2]); return low; }"""


# From a movement to the picture on the screen, in milliseconds: the median of 25.
MOVE = """async () => { const S = document.querySelector('.pc').peaklens, times = [];
  S.zoom(2); await new Promise((done) => setTimeout(done, 300));
  for (let i = 0; i < 25; i++) { S.move(i % 2 ? 3 : -3, 0); S.zoom(i % 2 ? 1.01 : 1 / 1.01);
    const begun = performance.now();
    await new Promise((done) => { S.onframe = () => setTimeout(done, 0); });
    times.push(performance.now() - begun); }
  S.onframe = null; S.fit();
  return [S.seen.edges.length, S.N.x.length, times.sort((a, b) => a - b)[12]]; }"""


@pytest.mark.browser
def test_click_slide_search_keys_and_pins(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    """One page, in the order a reader might do things."""
    circuit = realistic()
    file = view_of().save(tmp_path / "circuit.html")
    edges = circuit.to_frame("edges")
    best = circuit.to_frame().sort_values("score", key=np.abs, ascending=False).iloc[0]
    label = f"{best['node']}@{best['position']}"

    def read(tab: Any) -> dict[str, Any]:
        said: dict[str, Any] = {
            "first": tab.evaluate(STATE),
            "inert": tab.evaluate(PWNED),
            "ink": tab.evaluate(INK, label),
        }
        tab.mouse.click(*tab.evaluate(PLACE, label))
        said["clicked"] = tab.evaluate(STATE)
        tab.mouse.click(*tab.evaluate(PLACE, label))  # again: nothing is chosen
        said["cleared"] = tab.evaluate(STATE)["selected"]
        tab.focus(".pc-slide")
        tab.keyboard.press("End")
        said["all"] = tab.evaluate(STATE)
        said["moves"] = tab.evaluate(MOVE)
        tab.keyboard.press("Home")
        said["one"] = tab.evaluate(STATE)
        tab.keyboard.press("End")
        tab.check(".pc-lead")
        said["lead"] = tab.evaluate(STATE)
        tab.uncheck(".pc-lead")
        tab.fill(".pc-search", "hmm")
        tab.keyboard.press("Enter")
        said["found"] = tab.evaluate(STATE)
        tab.keyboard.press("Escape")  # clears the search, not the choice
        said["escaped"] = tab.evaluate(STATE)
        tab.focus(".pc-stage")
        tab.keyboard.press("Escape")
        tab.keyboard.press("ArrowUp")
        said["target"] = tab.evaluate(STATE)
        tab.keyboard.press("ArrowDown")
        said["down"] = tab.evaluate(STATE)
        tab.keyboard.press("Enter")
        tab.keyboard.press("ArrowLeft")
        tab.keyboard.press("Enter")
        said["pinned"] = tab.evaluate(STATE)
        tab.check(".pc-only")
        said["only"] = tab.evaluate(STATE)["edges"]
        tab.click(".pc-list [aria-label^=unpin]")
        said["unpinned"] = tab.evaluate(STATE)["pins"]
        tab.focus(".pc-stage")
        tab.keyboard.press("/")
        said["search"] = tab.evaluate(STATE)["focus"]
        tab.click(".pc-in")
        before = tab.evaluate("() => document.querySelector('.pc').peaklens.scale")
        tab.click(".pc-fit")
        said["zoomed"] = before / tab.evaluate("() => document.querySelector('.pc').peaklens.scale")
        with tab.expect_download() as saved:
            tab.click(".pc-save")
        said["png"] = Path(saved.value.path()).read_bytes()[:8]
        return said

    seen = browser.rendered(file, width=1300, height=900, actions=read).check().result
    assert seen["first"]["edges"] == 120
    assert seen["first"]["said"].startswith("120 of 2000 edges, effect of at least 0.")
    assert f"{label}  reads" in re.sub(r"[ \t\n]+", "  ", seen["first"]["side"]).replace("reads", "reads")
    assert seen["ink"] < 600  # there is something where the node is
    side = seen["clicked"]["side"]
    assert seen["clicked"]["selected"] == label
    into = edges[(edges["target"] == best["node"]) & (edges["position"] == best["position"])]
    out = edges[(edges["source"] == best["node"]) & (edges["source_position"] == best["position"])]
    assert f"Reads from{f' ({len(into)})' if len(into) else ''}\n" in side
    assert f"Is read by{f' ({len(out)})' if len(out) else ''}\n" in side
    assert len(into) + len(out) > 2
    assert "Its write through the logit lens" in side
    assert ("Attends to" in side) == (best["kind"] == "head")
    assert seen["cleared"] is None
    assert (seen["all"]["edges"], seen["one"]["edges"]) == (2000, 1)
    edges_moved, nodes_moved, milliseconds = seen["moves"]
    assert (edges_moved, nodes_moved) == (2000, 300)
    assert milliseconds < 150  # one screen's frame on a quiet machine; a busy one is given room
    graph = circuit.top(2000)  # what leads to the target, as Circuit finds it
    assert seen["lead"]["edges"] == len(graph.kept("edges")) < 2000
    places = circuit.to_frame("positions")
    said = places.loc[(places["input_token"] == "Hmm") | (places["token"] == "Hmm"), "position"]
    hits = circuit.to_frame()[circuit.to_frame()["position"].isin(said)]
    assert seen["found"]["hits"] == f"{len(hits)} nodes"
    strongest = hits.sort_values("score", key=np.abs, ascending=False).iloc[0]
    assert seen["found"]["selected"] == f"{strongest['node']}@{strongest['position']}"
    assert seen["escaped"]["hits"] == ""
    assert seen["escaped"]["selected"] == seen["found"]["selected"]
    assert seen["target"]["selected"] == "logits@33"
    assert seen["target"]["status"].startswith("logits@33, reads +, predicts 1")
    assert seen["down"]["selected"] not in (None, "logits@33")
    assert seen["pinned"]["pins"] == sorted(
        {seen["down"]["selected"], seen["pinned"]["selected"]}, key=seen["pinned"]["pins"].index
    )
    assert len(seen["pinned"]["pins"]) == 2
    assert seen["only"] <= 4
    assert seen["unpinned"] == seen["pinned"]["pins"][1:]
    assert seen["search"] == "pc-search"
    assert seen["zoomed"] > 1.2
    assert seen["png"] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.browser
def test_hostile_tokens_are_inert_and_the_page_is_accessible(browser: Browser, tmp_path: Path) -> None:  # noqa: F811
    """Twice on one page, light and wide, then dark and on a phone."""
    from axe_playwright_python.sync_playwright import Axe

    circuit = realistic(nodes=80, edges=300, hostile=True)
    words, attention = words_and_attention(circuit)
    tables = {name: circuit.to_frame(name) for name in ("nodes", "edges", "positions")}
    view = views.circuit(Circuit(**tables, metric=NASTY), words=words, attention=attention, title=NASTY)
    file = tmp_path / "hostile.html"
    file.write_text(page(NASTY, [view]), encoding="utf-8")

    def look(tab: Any) -> list[Any]:
        said = tab.evaluate("""() => { const texts = [];
          const root = document.querySelector('.pc'), S = root.peaklens, side = root.querySelector('.pc-side');
          for (let n = 0; n < S.N.x.length; n++) { const tip = document.createElement('div'); tip.append(S.tip(n));
            document.body.append(tip); texts.push(tip.innerText); tip.remove();
            if (n % 11 === 0) { S.select(n, true); S.pin(n); texts.push(side.innerText); } }
          return texts.join(' '); }""")
        found = []
        for width, theme in ((1300, "light"), (390, "dark")):
            tab.set_viewport_size({"width": width, "height": 900})
            tab.emulate_media(color_scheme=theme)
            tab.wait_for_timeout(200)
            told = Axe().run(tab).response["violations"]
            found += [one["id"] for one in told if one["impact"] in ("serious", "critical")]
            found += ["too wide"] * bool(tab.evaluate(OVERFLOW))
        return [said, tab.evaluate(PWNED), found]

    said, inert, found = browser.rendered(file, width=1300, actions=look).check().result
    assert (inert, found) == ("inert", [])
    read = circuit.to_frame("positions").set_index("position")["input_token"]
    for position in circuit.to_frame()["position"].unique():
        # Spaces at the ends of a word and line ends are the browser's to set.
        assert short(read[position], 40) in said, position


def test_without_javascript_there_is_a_picture_and_a_table() -> None:
    view = view_of(hostile=True)
    still = view.static.split('<div class="pc-still">')[1]
    assert still.count("<path d=") > 100
    assert "Strongest nodes" in still
    assert "<script>window.pwned" not in view.static
    assert "onerror=window.pwned=1>" not in view.static
    assert SimpleNamespace(**vars(view)).live is None

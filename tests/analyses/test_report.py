"""The report in a real browser: offline, its numbers those of the tables, usable by keyboard, inert, small."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from browser import Browser, browser  # noqa: F401  (a fixture)

from analyses.report import report, write_report
from analyses.report.digest import digest
from analyses.report.explorer import explorer
from analyses.report.made import command
from analyses.stats import associations
from analyses.store import Run
from analyses.trace import trace
from analyses.trace.trajectory import peaks_where_defined
from interp.errors import InputError
from probes import peak_statistics

NASTY = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1><!-- \"'&lt;$$x$$"
HOSTILE = [
    "</script>", "<script>window.pwned=1</script>", "<img src=x onerror=window.pwned=1>", "<!--", "]]>", "{{",
    "&lt;b&gt;", "\u202e", "\x01", "\u2028", "\n", '"', "'", "$$x$$", "@value{safe}", "a" * 3000, "\ufeff",
    "<svg onload=window.pwned=1>",
]  # fmt: skip
SETTINGS = {
    "model": "tiny", "dtype": "float32", "layers": [0, 1], "samples": [0], "problems": {}, "max_new_tokens": 256,
    "prompt": "raw", "reference": "solution", "site": "resid_post", "temperature": 0.0, "top_p": 1.0, "seed": 0,
    "sigma": 50.0, "eps": 1e-5, "drop_top": 0, "tau": 1.5,
}  # fmt: skip
PROVENANCE = {"model": {"kind": "folder", "revision": None, "weight_hash": "ab" * 32}, "versions": {"torch": "2.13.0"}}


# Runs


def made_run(
    folder: Path, scores: dict[str, np.ndarray], tokens: dict[str, list[str]], *, layers: Sequence[int] | None = None,
    statuses: Sequence[str] | None = ("correct", "wrong"), text: str = "What is 1 + 1?", settings: Any = None,
    rows_in_group: int = 1_000_000,
) -> Run:  # fmt: skip
    """A run whose tables are made of these scores ``[layer, step]``, by problem."""
    count = len(next(iter(scores.values())))
    numbers = list(range(count)) if layers is None else list(layers)
    options = SETTINGS | {"layers": numbers, "problems": dict.fromkeys(scores, "00")} | (settings or {})
    run = Run.start(folder, kind="trace", settings=options, provenance=PROVENANCE)
    long, statistics, words, responses = [], [], [], []
    for place, (problem, mi) in enumerate(scores.items()):
        steps = mi.shape[1]
        peaks = peaks_where_defined(torch.from_numpy(mi)).numpy()
        keys = {"problem": problem, "sample": 0}
        long.append(
            pandas.DataFrame(
                {
                    **keys, "layer": np.repeat(numbers, steps), "site": "resid_post",
                    "step": np.tile(range(steps), count), "token_id": 0, "token": tokens[problem] * count,
                    "mi": mi.reshape(-1), "is_peak": peaks.reshape(-1),
                }
            )
        )  # fmt: skip
        for layer, row, marked in zip(numbers, mi, peaks, strict=True):
            defined = np.isfinite(row)
            if not defined.any():
                defined, row = ~defined, np.zeros(steps)
            facts = peak_statistics(torch.from_numpy(row[defined])[None], torch.from_numpy(marked[defined])[None])
            one = {name: values[0] for name, values in facts.to_dict().items()}
            statistics.append({**keys, "layer": layer, "site": "resid_post", **one, "n_steps": steps})
            found = [tokens[problem][step].strip() for step in np.flatnonzero(marked)]
            words += [(layer, word) for word in found if re.fullmatch("[A-Za-z]+", word)]
        status = statuses[place % len(statuses)] if statuses else ""
        responses.append(
            {
                **keys, "question": text, "gold": text, "text": "".join(tokens[problem]), "n_steps": steps,
                "finish_reason": "eos", "extracted": text, "reason": "boxed", "status": status,
                "correct": {"correct": True, "wrong": False, "no_answer": False}.get(status),
            }
        )  # fmt: skip
    counted = pandas.Series(words, dtype=object).value_counts()
    listed = [(layer, "resid_post", word, int(n), 0.0, "0") for (layer, word), n in counted.items()]
    columns = ["layer", "site", "word", "count", "share", "token_ids"]
    run.write_table(
        "tokens.csv",
        pandas.DataFrame(listed, columns=columns).sort_values(
            ["layer", "count"], ascending=[True, False], ignore_index=True
        ),
    )
    run.write_table("peaks.parquet", pandas.DataFrame(statistics))
    whole = pandas.concat(long, ignore_index=True)
    if rows_in_group < len(whole):
        import pyarrow

        table = pyarrow.Table.from_pandas(whole)
        with run.table_writer("mi.parquet", table.schema) as writer:
            writer.write_table(table, row_group_size=rows_in_group)
    else:
        run.write_table("mi.parquet", whole)
    if statuses:
        frame = pandas.DataFrame(responses).astype({"correct": "boolean"})
        run.write_table("responses.parquet", frame)
    return run


def noise(layers: int, steps: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).random((layers, steps)) * 0.2 + 0.1
    values[:, ::9] += 1.0
    return values


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trace of the toy, with right and wrong responses."""
    return trace("toy-reasoner", n=10, out=tmp_path_factory.mktemp("runs") / "toy", max_new_tokens=160, batch_size=10)


@pytest.fixture(scope="module")
def page(toy: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([toy], tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Run:
    names = {f"{NASTY}{k}\u202e": HOSTILE * 3 + [" So"] * 2 for k in range(2)}
    scores = {name: noise(2, len(tokens)) for name, tokens in names.items()}
    folder = tmp_path_factory.mktemp("hostile") / "run <b> $(touch x)"
    text = f"{NASTY}\nsecond \u202e\x02 line"
    return made_run(folder, scores, names, text=text, settings={"model": "/home/me/<img src=x onerror=window.pwned=1>"})


READY = "() => document.querySelectorAll('.rp-plot').length === Bokeh.documents.length"
MODELS = """(name) => {
  const found = Bokeh.documents.map((d) => d.get_model_by_name(name)).filter((m) => m !== null)[0];
  return Object.fromEntries(Object.entries(found.data).map(([k, v]) => [k, Array.from(v, (x) => Number.isNaN(x) ? null :
    (x && x.length !== undefined && typeof x !== "string" ? Array.from(x, (y) => Number.isNaN(y) ? null : y) : x))]));
}"""


# The figures in the order of the page: where the k-th has its frame, scrolled into sight.
PLOTS = """
  const plots = [], walk = (view) => view.frame ? plots.push(view) : (view.child_views || []).forEach(walk);
  Array.from(Bokeh.index).forEach(walk);
"""
FRAME = f"""(k) => {{ {PLOTS} const view = plots[k], inner = view.frame.bbox;
  view.el.scrollIntoView({{block: "center"}});
  const box = view.el.getBoundingClientRect();
  return [box.x + inner.left, box.y + inner.top, inner.width, inner.height];
}}"""
# Where the dots of the third figure are on the screen.
DOTS = f"""() => {{ {PLOTS} const view = plots[2], box = view.el.getBoundingClientRect();
  const data = view.model.document.get_model_by_name("groups").data;
  return data.x.map((x, k) => [box.x + view.frame.x_scale.compute(x), box.y + view.frame.y_scale.compute(data.y[k])]);
}}"""


def ready(tab: Any) -> None:
    tab.wait_for_function(READY)
    tab.wait_for_timeout(200)


def model(tab: Any, name: str) -> dict[str, list[Any]]:
    """The columns of a figure's data, as the browser has them."""
    return tab.evaluate(MODELS, name)


def rows_of(tab: Any, selector: str) -> list[list[dict[str, str]]]:
    """The cells of a table: text and exact value."""
    return tab.eval_on_selector_all(
        f"{selector} tbody tr",
        "rows => rows.map(r => Array.from(r.children, c => ({text: c.textContent.trim(), ...c.dataset})))",
    )


def shown(number: str) -> float:
    return float(re.sub(r"[\u202f %]", "", number)) / (100 if "%" in number else 1)


# Numbers


@pytest.mark.browser
def test_numbers_equal_those_of_the_tables(toy: Run, page: Path, browser: Browser) -> None:  # noqa: F811
    def read(tab: Any) -> dict[str, Any]:
        ready(tab)
        return {
            "tiles": tab.eval_on_selector_all(".rp-tile", "all => all.map(t => t.innerText.split('\\n'))"),
            "headline": tab.inner_text(".rp-headline"),
            "layers": rows_of(tab, ".rp-statistics"),
            "responses": rows_of(tab, ".rp-responses"),
            "medians": rows_of(tab, ".rp-medians"),
            "words": {layer: rows_of(tab, f".rp-by-layer[data-layer='{layer}']") for layer in (0, 1, 2)},
        }

    got = browser.rendered(page, width=1400, actions=read).check().result
    peaks, responses, mi = toy.peaks, toy.table("responses.parquet"), toy.mi
    means = peaks.groupby("layer").mean(numeric_only=True)
    last = means.loc[2]

    tiles = {tile[0]: tile[1:] for tile in got["tiles"]}
    right = int(responses["correct"].sum())
    assert 0 < right < len(responses) == 10
    assert tiles["responses"] == ["10", f"{int(responses['n_steps'].sum())} steps"]
    assert shown(tiles["peak ratio, layer 2"][0]) == pytest.approx(last["ratio"], abs=6e-4)
    assert shown(tiles["peak interval, layer 2"][0]) == pytest.approx(last["interval_mean"], rel=5e-3)
    assert shown(tiles["accuracy"][0]) == right / 10
    low, high = wilson_by_definition(right, 10)
    assert [shown(x) for x in re.findall(r"[\d.]+\u202f%", tiles["accuracy"][1])] == pytest.approx(
        [low, high], abs=6e-4
    )
    first = toy.tokens.query("layer == 2").iloc[0]
    assert f"{first['word']} ({first['count']})" in got["headline"]
    assert "not an amount of information in bits or nats" in got["headline"]

    columns = ["n_steps", "n_peaks", "ratio", "interval_max", "interval_min", "interval_mean", None, "mean_mi", "aom"]
    groups = peaks.groupby("layer")
    for layer, row in zip((0, 1, 2), got["layers"], strict=True):
        assert (row[0]["text"], row[1]["v"]) == (str(layer), "10.0")
        for name, cell in zip(columns, row[2:], strict=False):
            want = float(groups["interval_mean"].count()[layer] if name is None else means.loc[layer, name])
            assert float(cell["v"]) == want
            assert shown(cell["text"]) == pytest.approx(want, rel=6e-3, abs=6e-4)

    sums = mi.groupby(["problem", "layer"], observed=True)["mi"].sum()
    verdicts = dict(zip(responses["problem"], responses["status"], strict=True))
    at_last = peaks[peaks["layer"] == 2].set_index("problem")
    for row in got["responses"]:
        problem, numbers = row[0]["text"], [float(cell["v"] or "nan") for cell in row[2:]]
        want = at_last.loc[problem, ["n_steps", "n_peaks", "ratio", "interval_mean", "mean_mi"]].astype(float).tolist()
        assert numbers == pytest.approx([*want, sums[problem, 2]], nan_ok=True)
        assert verdicts[problem] in row[1]["text"]
    for row in got["medians"]:
        status = row[0]["text"][2:]
        group = at_last[[verdicts[problem] == status for problem in at_last.index]]
        want = [
            group["n_steps"].median(),
            np.median([sums[problem, 2] for problem in group.index]),
            group["mean_mi"].median(),
        ]
        assert (int(row[1]["text"]), float(row[3]["v"])) == (len(group), pytest.approx(want[1]))
        assert (float(row[2]["v"]), float(row[4]["v"])) == (want[0], pytest.approx(want[2]))

    tokens = toy.tokens
    for layer, found in got["words"].items():
        part = mi[mi["layer"] == layer]
        text = part["token"].astype(str).str.strip()
        assert [(row[0]["text"], int(row[1]["v"])) for row in found] == [
            (word, count) for word, count in tokens[tokens["layer"] == layer][["word", "count"]].itertuples(index=False)
        ]
        for row in found:
            is_word, at = text == row[0]["text"], part["is_peak"]
            share, overall = (is_word & at).sum() / at.sum(), is_word.mean()
            assert float(row[3]["v"]) == pytest.approx(share)
            assert float(row[4]["v"]) == pytest.approx(overall)
            assert float(row[5]["v"]) == pytest.approx(share / overall)
            assert float(row[5]["low"]) <= share / overall <= float(row[5]["high"])
            assert float(row[2]["v"]) == part.loc[is_word & at, "problem"].nunique()


def wilson_by_definition(right: int, count: int) -> tuple[float, float]:
    """The two p at which |share - p| is z standard errors of p."""
    grid = np.linspace(0, 1, 1_000_001)
    inside = grid[(right / count - grid) ** 2 <= 1.959964**2 * grid * (1 - grid) / count]
    return float(inside[0]), float(inside[-1])


@pytest.mark.browser
def test_keyboard_chooses_responses_and_layers_and_figures_follow(toy: Run, page: Path, browser: Browser) -> None:  # noqa: F811
    mi, responses = toy.mi, toy.table("responses.parquet")
    problems = responses["problem"].tolist()

    def check(tab: Any, problem: str, layer: int) -> None:
        part = mi[(mi["problem"] == problem) & (mi["layer"] == layer)]
        line = model(tab, "line")
        assert line["value"] == pytest.approx(part["mi"].tolist(), rel=1e-6)
        assert line["token"] == part["token"].astype(str).tolist()
        steps = part.loc[part["is_peak"], "step"].tolist()
        assert model(tab, "peaks")["step"] == steps
        assert [step for step, peak in enumerate(line["peak"]) if peak == "yes"] == steps
        limit = model(tab, "limit")["value"][0]
        assert part.loc[part["mi"] > limit, "step"].tolist() == steps
        whole = mi[mi["problem"] == problem]
        cells = model(tab, "cells")
        assert cells["image"][0] == pytest.approx(whole["mi"].tolist(), rel=1e-6)
        assert cells["token"][0] == whole["token"].astype(str).tolist()
        assert cells["layer"][0] == whole["layer"].tolist()
        dots = model(tab, "dots")
        marked = whole[whole["is_peak"]]
        assert list(zip(dots["y"], dots["x"], strict=True)) == list(zip(marked["layer"], marked["step"], strict=True))
        facts = tab.inner_text(".rp-facts")
        row = responses.set_index("problem").loc[problem]
        assert problem in facts
        assert row["question"] in facts
        assert row["status"].replace("_", " ") in facts
        tokens = tab.eval_on_selector_all(".rp-text .colored-tokens > span", "all => all.map(s => s.textContent)")
        assert [t.replace("\u2060", "") for t in tokens] == part["token"].astype(str).tolist()
        outlined = tab.eval_on_selector_all(
            ".rp-text .colored-tokens > span > span",
            "all => all.map(s => getComputedStyle(s).outlineStyle === 'solid' && "
            "getComputedStyle(s).textDecorationLine)",
        )
        assert [step for step, mark in enumerate(outlined) if mark == "underline"] == steps
        assert problem in tab.inner_text(".rp-figure figcaption")
        assert f"layer {layer}" in tab.inner_text(".rp-figure figcaption")
        listed = tab.eval_on_selector_all(".rp-peaks button", "all => all.map(b => parseInt(b.textContent))")
        assert listed == steps

    def drive(tab: Any) -> None:
        ready(tab)
        check(tab, problems[0], 2)
        assert tab.is_disabled(".rp-before")
        tab.focus(".rp-pick")
        tab.keyboard.press("ArrowDown")
        tab.wait_for_timeout(200)
        check(tab, problems[1], 2)
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.className") == "rp-after"
        tab.keyboard.press("Enter")
        tab.wait_for_timeout(200)
        check(tab, problems[2], 2)
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.className") == "rp-layer"
        tab.keyboard.press("ArrowUp")
        tab.wait_for_timeout(200)
        check(tab, problems[2], 1)
        tab.focus(".rp-before")
        tab.keyboard.press("Space")
        tab.wait_for_timeout(200)
        check(tab, problems[1], 1)
        tab.focus(f'.rp-open[data-open="{len(problems) - 1}"]')
        tab.keyboard.press("Enter")
        tab.wait_for_timeout(200)
        check(tab, problems[-1], 1)
        assert tab.is_disabled(".rp-after")
        assert tab.evaluate("document.activeElement.className") == "rp-pick"

    browser.rendered(page, width=1000, actions=drive).check()


@pytest.mark.browser
def test_a_step_is_chosen_by_keyboard_tap_or_token(toy: Run, page: Path, browser: Browser) -> None:  # noqa: F811
    mi = toy.mi
    part = mi[(mi["problem"] == mi["problem"].iloc[0]) & (mi["layer"] == 2)].reset_index(drop=True)
    peaks = part.loc[part["is_peak"], "step"].tolist()
    assert len(peaks) >= 2

    def at(tab: Any, step: int) -> None:
        told = tab.inner_text(".rp-at")
        assert told.startswith(f"Step {step} of 0 to {len(part) - 1}: “{part['token'][step]}”")
        assert f"nHSIC {float(f'{part.mi[step]:.4g}'):g}" in told
        assert told.endswith("a peak") == part["is_peak"][step]
        assert tab.get_attribute(".rp-step", "aria-valuetext") == told
        spans = "Array.from(Bokeh.documents[0]._all_models.values()).filter(m => m.tags && m.tags.includes('cursor'))"
        assert tab.evaluate(f"{spans}.map(m => m.location)") == [step, step]

    def drive(tab: Any) -> None:
        ready(tab)
        at(tab, peaks[0])
        tab.focus(".rp-step")
        tab.keyboard.press("ArrowRight")
        at(tab, peaks[0] + 1)
        tab.focus(".rp-peak-after")
        tab.keyboard.press("Enter")
        at(tab, peaks[1])
        tab.focus(".rp-peak-before")
        tab.keyboard.press("Enter")
        at(tab, peaks[0])
        tab.click(".rp-text .colored-tokens > span:nth-of-type(4)")
        at(tab, 3)
        tab.click(".rp-peaks button:last-of-type")
        at(tab, peaks[-1])
        # A tap in the middle of the heatmap's lowest layer
        left, top, width, height = tab.evaluate(FRAME, 1)
        margin = max(0.5, len(part) / 100)
        share = (10 + margin) / (len(part) - 1 + 2 * margin)
        place = left + share * width, top + height * 5 / 6
        tab.mouse.click(*place)
        tab.wait_for_timeout(300)
        assert tab.input_value(".rp-layer") == "0"
        assert tab.inner_text(".rp-at").startswith("Step 10 of")

    browser.rendered(page, width=1000, height=2600, actions=drive).check()


@pytest.mark.browser
def test_other_choices_by_keyboard(toy: Run, page: Path, browser: Browser) -> None:  # noqa: F811
    responses, peaks = toy.table("responses.parquet"), toy.peaks

    def drive(tab: Any) -> None:
        ready(tab)
        # Words of another layer
        visible = (
            "() => Array.from(document.querySelectorAll('.rp-by-layer')).filter(d => d.offsetParent)"
            ".map(d => d.dataset.layer)"
        )
        assert tab.evaluate(visible) == ["2"]
        tab.focus(".rp-words-layer")
        tab.keyboard.press("ArrowUp")
        assert tab.evaluate(visible) == ["1"]
        # Right against wrong
        of = dict(zip(responses["problem"], responses["status"], strict=True))
        values = {
            "sum_mi": toy.mi.groupby(["problem", "layer"], observed=True)["mi"].sum(),
            "mean_mi": peaks.set_index(["problem", "layer"])["mean_mi"],
            "n_peaks": peaks.set_index(["problem", "layer"])["n_peaks"],
        }

        def compared(measure: str, layer: int) -> None:
            dots = model(tab, "groups")
            assert dots["y"] == pytest.approx([values[measure][name, layer] for name in dots["name"]], rel=1e-6)
            assert [group[2:] for group in dots["group"]] == [of[name] for name in dots["name"]]
            assert sorted(dots["name"]) == sorted(of)
            medians = model(tab, "medians")["y"]
            for group, median in zip(("correct", "wrong"), medians, strict=True):
                own = [values[measure][name, layer] for name in of if of[name] == group]
                assert median == pytest.approx(np.median(own), rel=1e-6)
                assert f"{group} (n = {len(own)}): median {float(f'{np.median(own):.4g}'):g}" in tab.inner_text(
                    ".rp-groups figcaption"
                )

        compared("sum_mi", 2)
        tab.focus(".rp-measure")
        tab.keyboard.press("ArrowDown")
        compared("mean_mi", 2)
        tab.keyboard.press("ArrowDown")
        compared("n_peaks", 2)
        tab.focus(".rp-group-layer")
        tab.keyboard.press("ArrowUp")
        compared("n_peaks", 1)
        # Sorting
        tab.focus(".rp-statistics thead th:nth-child(4) button")
        tab.keyboard.press("Enter")
        counts = peaks.groupby("layer")["n_peaks"].mean()
        order = [int(row[0]["text"]) for row in rows_of(tab, ".rp-statistics")]
        assert order == counts.sort_values(ascending=False).index.tolist() != [0, 1, 2]
        assert tab.get_attribute(".rp-statistics thead th:nth-child(4)", "aria-sort") == "descending"
        tab.keyboard.press("Enter")
        assert [int(row[0]["text"]) for row in rows_of(tab, ".rp-statistics")] == order[::-1]
        # Colours by rank: from 0 to 1 in every layer, in the order of the values
        tab.focus(".rp-scale")
        tab.keyboard.press("ArrowDown")
        tab.wait_for_timeout(200)
        cells = model(tab, "cells")
        shades = np.reshape(cells["image"][0], (3, -1))
        raw = np.reshape(cells["value"][0], (3, -1))
        assert (shades.min(axis=1) == 0).all()
        assert (shades.max(axis=1) == 1).all()
        assert (np.argsort(shades, axis=1, kind="stable") == np.argsort(raw, axis=1, kind="stable")).all()

    browser.rendered(page, width=1000, actions=drive).check()


# Hostile text, undefined scores, missing tables


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
        for token in tab.locator(".rp-text").first.locator(".colored-tokens > span").all()[:20]:
            token.hover()
        tab.locator(".rp-after").first.click()
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
        line = model(tab, "line")["value"]
        assert line[4] is None
        assert np.isfinite([value for step, value in enumerate(line) if step != 4]).all()
        assert model(tab, "undefined") == {"x": [4], "y": [1]}
        assert tab.locator(".rp-text .colored-tokens > span").count() == 30
        assert "1 step without a score" in tab.inner_text(".rp-figure figcaption")
        tab.fill(".rp-step", "4")
        assert "nHSIC NaN at layer 1" in tab.inner_text(".rp-at")
        # A layer without any score
        tab.select_option(".rp-pick", index=1)
        tab.select_option(".rp-layer", index=0)
        assert "no step has a score" in tab.inner_text(".rp-figure figcaption")
        assert len(model(tab, "undefined")["x"]) == 30
        assert tab.locator(".rp-text .colored-tokens > span").count() == 30
        dots = model(tab, "groups")
        tab.select_option(".rp-group-layer", index=0)
        assert [value is None for value in model(tab, "groups")["y"]] == [False, True]
        assert len(dots["y"]) == 2
        assert "wrong: no values" in tab.inner_text(".rp-groups figcaption")
        assert any(row[-1]["v"] == "" for row in rows_of(tab, ".rp-responses")) is False

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
    assert "colored-tokens" in seen.dom
    seen = browser.rendered(report([ungraded]), actions=ready).check()
    assert "No response was graded" in seen.text
    assert "Gold answer" in seen.text


@pytest.mark.browser
def test_without_scripts_and_in_the_dark(page: Path, browser: Browser) -> None:  # noqa: F811
    seen = browser.rendered(page, script=False)
    assert "Curves and texts need JavaScript" in seen.text
    assert "Words at the" in seen.text
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
                figures: all("figure").filter(f => !f.querySelector("figcaption").textContent.trim()).length,
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


# Several runs, size, files


@pytest.mark.browser
def test_several_runs_are_compared(toy: Run, tmp_path: Path, browser: Browser) -> None:  # noqa: F811
    other = made_run(tmp_path / "other", {"p": noise(4, 50)}, {"p": [" So", "."] * 25}, layers=[0, 3, 5, 9])

    def read(tab: Any) -> dict[str, Any]:
        ready(tab)
        second = tab.locator(".rp-explorer").nth(1)
        return {
            "rows": rows_of(tab, ".rp-comparison"),
            "titles": tab.locator("h2").all_inner_texts(),
            "layers": second.locator(".rp-layer option").all_inner_texts(),
            "spans": [box.locator(".colored-tokens > span").count() for box in tab.locator(".rp-explorer").all()],
        }

    got = browser.rendered(report([toy, other]), width=1400, actions=read).check().result
    assert got["titles"] == ["The runs beside each other", "toy", "other"]
    assert got["layers"] == ["layer 0", "layer 3", "layer 5", "layer 9"]
    assert got["spans"] == [int(toy.mi["step"][toy.mi["problem"] == toy.mi["problem"].iloc[0]].max()) + 1, 50]
    for run, layer, row in zip((toy, other), (2, 9), got["rows"], strict=True):
        responses, peaks = run.table("responses.parquet"), run.peaks
        means = peaks[peaks["layer"] == layer].mean(numeric_only=True)
        numbers = [float(cell["v"] or "nan") for cell in row[2:10]]
        want = [len(responses), responses["n_steps"].sum(), responses["correct"].mean(), layer]
        assert numbers == pytest.approx([*want, *means[["ratio", "interval_mean", "mean_mi", "aom"]]], nan_ok=True)


def big(folder: Path, problems: int, layers: int, steps: int) -> Run:
    words = [" So", " Wait", " the", " answer", " is", " 17", ".", "\n", " therefore", " x"]
    tokens = [words[k % 7 if k % 3 else k % 10] for k in range(steps)]
    scores = {f"gsm8k/{k}": noise(layers, steps, seed=k) for k in range(problems)}
    text = "Janet's ducks lay 16 eggs per day. She eats three for breakfast. " * 6
    return made_run(folder, scores, dict.fromkeys(scores, tokens), text=text)


@pytest.mark.browser
def test_twenty_problems_thirty_layers_are_under_5_mb(tmp_path: Path, browser: Browser) -> None:  # noqa: F811
    page = write_report([big(tmp_path / "run", 20, 30, 256)], tmp_path / "report.html")
    assert page.stat().st_size < 5_000_000
    browser.rendered(page, width=390, actions=ready).check()


def test_what_there_is_no_room_for_is_left_to_the_tables(tmp_path: Path) -> None:
    run = big(tmp_path / "run", 6, 2, 50)
    one = digest(run, room=250)  # a response has 100 scores
    assert [curves.problem for curves in one.curves] == ["gsm8k/0", "gsm8k/1"]
    assert (len(one.responses), one.by_layer["n"].tolist()) == (6, [6, 6])
    part = explorer(one, 0)
    assert "the first 2 responses; 4 more are in the tables" in part
    assert part.count('class="rp-open"') == part.count('class="rp-response"') == 2
    assert len(digest(run, room=1).curves) == 1


def test_row_groups_may_end_within_a_response(tmp_path: Path) -> None:
    scores = {f"p{k}": noise(3, 40, seed=k) for k in range(4)}
    tokens = {name: [" So", "."] * 20 for name in scores}
    whole = digest(made_run(tmp_path / "whole", scores, tokens), 10**6)
    parted = digest(made_run(tmp_path / "parted", scores, tokens, rows_in_group=17), 10**6)
    for a, b, mi in zip(whole.curves, parted.curves, scores.values(), strict=True):
        assert (a.problem, a.tokens, a.layers) == (b.problem, b.tokens, b.layers)
        assert (a.mi == b.mi).all()
        assert (a.mi == mi).all()
        assert (a.is_peak == b.is_peak).all()
    assert repr(whole.words) == repr(parted.words)  # NaN equals nothing


def test_intervals_of_lifts_are_those_of_all_resamples() -> None:
    """Five problems can be drawn in 5^5 ways: the ends over all of them, exactly."""
    at_peaks, peaks = np.array([[3.0], [1], [4], [0], [2]]), np.array([6.0, 5, 7, 4, 6])
    anywhere, steps = np.array([[5.0], [4], [6], [3], [9]]), np.array([60.0, 50, 80, 40, 70])
    lifts = []
    for drawn in itertools.product(range(5), repeat=5):
        rows = list(drawn)
        lifts.append((at_peaks[rows].sum() / peaks[rows].sum()) / (anywhere[rows].sum() / steps[rows].sum()))
    found = associations(at_peaks, peaks, anywhere, steps).lift
    assert (found.low[0], found.high[0]) == pytest.approx(tuple(np.percentile(lifts, [2.5, 97.5])), rel=0.06)
    few = associations(at_peaks[:4], peaks[:4], anywhere[:4], steps[:4]).lift
    assert np.isnan([*few.low, *few.high]).all()


# Provenance


def test_no_path_is_in_the_page_and_the_run_is_described(toy: Run, hostile: Run, page: Path) -> None:
    document = page.read_text(encoding="utf-8")
    assert str(toy.path) not in document
    assert str(toy.path.parent) not in document
    assert toy.provenance["model"]["weight_hash"] in document
    assert toy.created in document
    assert f"torch {toy.provenance['versions']['torch']}" in document
    assert "/home/me" not in report([hostile])


def words_of(text: str, folder: Path) -> list[str]:
    """A command as a shell takes it apart, without the name of the program."""
    taken = subprocess.run(
        ["bash", "-c", f"peaklens() {{ printf '%s\\0' \"$@\"; }}; {text}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return taken.stdout.split("\0")[:-1]


def test_the_command_makes_the_same_run(toy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from analyses.commands.cli import app

    text, _ = command(digest(toy, 1))
    words = words_of(text, tmp_path)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*words, "--quiet"])
    assert result.exit_code == 0, result.output
    again = Run.open(tmp_path / "runs" / "toy")
    assert again.settings == toy.settings
    # All but the times from which on the versions of now wrote to it
    timeless = [
        {**run.provenance, "writers": [{**writer, "since": ""} for writer in run.provenance["writers"]]}
        for run in (again, toy)
    ]
    assert timeless[0] == timeless[1]
    pandas.testing.assert_frame_equal(again.mi, toy.mi)


def test_the_command_quotes_what_it_holds(hostile: Run, tmp_path: Path) -> None:
    text, remarks = command(digest(hostile, 1))
    words = words_of(text, tmp_path)
    assert words[-2:] == ["--out", "runs/run <b> $(touch x)"]
    assert words[words.index("--problems") + 1] == "PROBLEMS.jsonl"
    assert "PROBLEMS.jsonl stands for the problem file" in remarks
    assert html.escape("'runs/run <b> $(touch x)'") in report([hostile])


# Refusals


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*args)
    return str(caught.value)


def test_what_is_no_trace_is_refused(tmp_path: Path) -> None:
    assert refusal(report, []) == "report: expected at least one run, received none. Pass the folders of traces."
    empty = Run.start(tmp_path / "empty", kind="trace", settings={}, provenance={})
    assert "expected peaks.parquet in" in refusal(report, [empty])
    run = made_run(tmp_path / "run", {"p": noise(2, 30)}, {"p": [" So", "."] * 15})
    mi, peaks = run.mi, run.peaks
    run.write_table("mi.parquet", mi[mi["layer"] == 0].reset_index(drop=True))
    assert "2 rows in peaks.parquet for 1 trajectories in mi.parquet (run)" in refusal(report, [run])
    run.write_table("mi.parquet", mi.iloc[:-1])
    assert "layers of different steps for problem 'p', sample 0, in mi.parquet" in refusal(report, [run])
    run.write_table("mi.parquet", mi.assign(problem="q"))
    assert "problem 'q' in mi.parquet with layers that peaks.parquet lacks" in refusal(report, [run])
    run.write_table("mi.parquet", mi)
    run.write_table("peaks.parquet", pandas.concat([peaks, peaks], ignore_index=True))
    assert "a layer of a response twice in peaks.parquet" in refusal(report, [run])
    run.write_table("peaks.parquet", peaks.iloc[:0])
    assert "expected a run with at least one response, received run, which has none" in refusal(report, [run])
    run.write_table("peaks.parquet", peaks)
    responses = run.table("responses.parquet")
    run.write_table("responses.parquet", pandas.concat([responses, responses], ignore_index=True))
    assert "a response twice in responses.parquet" in refusal(report, [run])
    (run.path / "mi.parquet").unlink()
    assert "expected mi.parquet in" in refusal(report, [run])


def test_a_report_is_written_whole_or_not_at_all(toy: Run, tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.html"
    assert write_report([toy], target) == target
    before = target.read_bytes()
    assert before.startswith(b"<!doctype html>")
    assert before.rstrip().endswith(b"</html>")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))  # as a disk that is full before the page ends
    try:
        said = refusal(write_report, [toy], target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "write report: expected room and permission" in said
    assert target.read_bytes() == before
    assert [file.name for file in target.parent.iterdir()] == ["report.html"]
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "write report: expected room and permission" in refusal(write_report, [toy], blocked / "report.html")


def test_data_is_json_that_no_text_can_end(toy: Run, hostile: Run) -> None:
    for run, responses in ((toy, 10), (hostile, 2)):
        found = re.findall(r'<script type="application/json">(.*?)</script>', report([run]), flags=re.DOTALL)
        assert len(found) == responses + 2  # the figures of curves and of verdicts
        for text in found:
            assert json.loads(text, parse_constant=lambda name: pytest.fail(name))
            assert "<" not in text

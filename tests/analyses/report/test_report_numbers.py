"""The report in a real browser: its numbers are those of the tables, and all of them are reached by keyboard."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, browser  # noqa: F401  (a fixture)
from report_pages import FRAME, model, ready, rows_of, shown

from analyses.report.opening import opening
from analyses.store import Run


@pytest.mark.browser
def test_numbers_equal_those_of_the_tables(toy: Run, page: Path, browser: Browser) -> None:  # noqa: F811
    def read(tab: Any) -> dict[str, Any]:
        ready(tab)
        return {
            "tiles": tab.eval_on_selector_all(".rp-tile", "all => all.map(t => t.innerText.split('\\n'))"),
            "headline": tab.inner_text(".rp-headline"),
            "layers": rows_of(tab, ".rp-statistics"),
            "responses": rows_of(tab, ".rp-responses"),
            "medians": rows_of(tab, ".rp-by-layer:not([hidden]) .rp-medians"),
            "words": {
                (layer, position): rows_of(tab, f".rp-by-layer[data-layer='{layer}'] .rp-{position}")
                for layer in (0, 1, 2)
                for position in ("input", "predicted")
            },
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
    for (layer, position), found in got["words"].items():
        part = mi[mi["layer"] == layer]
        text = part["input_token" if position == "input" else "token"].astype(str).str.strip()
        listed = tokens[(tokens["layer"] == layer) & (tokens["position"] == position)].head(15)
        assert [(row[0]["text"], int(row[1]["v"])) for row in found] == [
            (word, count) for word, count in listed[["word", "count"]].itertuples(index=False)
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
        assert line["input"] == part["input_token"].astype(str).tolist()
        steps = part.loc[part["is_peak"], "step"].tolist()
        assert model(tab, "peaks")["step"] == steps
        assert [step for step, peak in enumerate(line["peak"]) if peak == "yes"] == steps
        limit = model(tab, "limit")["value"][0]
        assert part.loc[part["mi"] > limit, "step"].tolist() == steps
        whole = mi[mi["problem"] == problem]
        cells = model(tab, "cells")
        assert cells["value"][0] == pytest.approx(whole["mi"].tolist(), rel=1e-6)
        limits = whole.groupby("layer")["mi"].quantile([0.25, 0.75]).unstack()
        low, line_at = whole.groupby("layer")["mi"].min(), 2.5 * limits[0.75] - 1.5 * limits[0.25]
        share = (whole["mi"] - whole["layer"].map(low)) / whole["layer"].map(line_at - low)
        assert cells["image"][0] == pytest.approx(share.clip(upper=1).tolist(), abs=1e-5)
        assert cells["token"][0] == whole["token"].astype(str).tolist()
        assert cells["input"][0] == whole["input_token"].astype(str).tolist()
        assert cells["layer"][0] == whole["layer"].tolist()
        dots = model(tab, "dots")
        marked = whole[whole["is_peak"]]
        assert list(zip(dots["y"], dots["x"], strict=True)) == list(zip(marked["layer"], marked["step"], strict=True))
        facts = tab.inner_text(".rp-facts")
        row = responses.set_index("problem").loc[problem]
        assert tab.inner_text(".rp-name") == f"{problem}, layer {layer}"
        assert row["question"] in facts
        assert row["status"].replace("_", " ") in facts
        tokens = tab.eval_on_selector_all(".rp-text .rp-t", "all => all.map(s => s.textContent)")
        assert tokens == part["token"].astype(str).tolist()
        outlined = tab.eval_on_selector_all(
            ".rp-text .rp-t",
            "all => all.map(s => getComputedStyle(s).outlineStyle === 'solid' && "
            "getComputedStyle(s).textDecorationLine)",
        )
        assert [step for step, mark in enumerate(outlined) if mark == "underline"] == steps
        assert problem in tab.inner_text("#r0-curves-alt")
        assert f"layer {layer}" in tab.inner_text("#r0-curves-alt")
        listed = tab.eval_on_selector_all(".rp-peaks button", "all => all.map(b => b.textContent)")
        at = part.set_index("step")
        assert listed == [f"{step} after `{at['input_token'][step]}`, before `{at['token'][step]}`" for step in steps]

    def drive(tab: Any) -> None:
        ready(tab)
        first = opening(toy.peaks)
        check(tab, first.problem, first.layer)
        assert tab.inner_text(".rp-why") == first.why
        tab.focus(".rp-pick")
        tab.keyboard.press("Home")
        tab.wait_for_timeout(200)
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
    mi, first = toy.mi, opening(toy.peaks)
    part = mi[(mi["problem"] == first.problem) & (mi["layer"] == first.layer)].reset_index(drop=True)
    peaks = part.loc[part["is_peak"], "step"].tolist()
    assert len(peaks) >= 2

    def at(tab: Any, step: int) -> None:
        told = tab.inner_text(".rp-at")
        around = f"after `{part['input_token'][step]}`, before `{part['token'][step]}`"
        assert told.startswith(f"Step {step} of 0 to {len(part) - 1}, {around}: nHSIC ")
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
        tab.click(".rp-text .rp-t:nth-of-type(4)")
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
        assert set(tab.evaluate(visible)) == {"2"}
        tab.focus(".rp-layer")
        tab.keyboard.press("ArrowUp")
        assert set(tab.evaluate(visible)) == {"1"}
        tab.keyboard.press("ArrowDown")
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
        tab.focus(".rp-layer")
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
        assert cells["image"] == cells["value"]
        tab.keyboard.press("ArrowDown")
        tab.wait_for_timeout(200)
        cells = model(tab, "cells")
        shades = np.reshape(cells["image"][0], (3, -1))
        raw = np.reshape(cells["value"][0], (3, -1))
        assert (shades.min(axis=1) == 0).all()
        assert (shades.max(axis=1) == 1).all()
        assert (np.argsort(shades, axis=1, kind="stable") == np.argsort(raw, axis=1, kind="stable")).all()

    browser.rendered(page, width=1000, actions=drive).check()

"""`peaklens demo`: what it says is counted anew here, by literal loops over the cells of its runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from processes import Command

from analyses.commands import demo
from analyses.commands.demo import BANNED, peak_places, places_sentence
from analyses.store import Run
from analyses.toys.facts import DIGITS, THINKING
from analyses.trace import TraceRun, trace
from analyses.trace.tables import responses_table

N = 12


def test_the_places_of_peaks_are_those_of_the_cells(tmp_path: Path) -> None:
    run = trace("toy-reasoner", out=tmp_path, temperature=1.0, samples=2, n=4, max_new_tokens=60)
    before, at, marked = [], [], []
    for cell in run.cells():
        mi = run.mi
        rows = mi[(mi["problem"] == cell.problem) & (mi["sample"] == cell.sample) & (mi["layer"] == 2)]
        tokens = run.payload(cell)["tokens"]
        before += ["->", *tokens[:-1]]
        at += tokens
        marked += rows.sort_values("step")["is_peak"].tolist()
    found = peak_places(run)
    peaks = [k for k, is_peak in enumerate(marked) if is_peak]
    words = [at[k] for k in peaks]
    assert (found.layer, found.peaks, found.said) == (2, len(peaks), words.count(found.token))
    assert found.said == max(map(words.count, words))
    assert found.after_digit == pytest.approx(sum(before[k] in DIGITS for k in peaks) / len(peaks))
    assert found.elsewhere == pytest.approx(sum(token in DIGITS for token in before) / len(before))
    assert f"at {found.said} of {found.peaks} peaks of layer 2" in places_sentence(found)


@pytest.fixture
def told(tmp_path: Path, peaklens: Command, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The last lines of the command, at the size of a test."""
    monkeypatch.setattr(demo, "TRACED", 4)
    code, out, said = peaklens("demo", "--out", str(tmp_path / "demo"), "--n", str(N))
    assert code == 0, said
    return [line for line in out.splitlines() if line.strip()][-3:]


def test_the_command_ends_on_the_point_which_is_what_the_cells_say(tmp_path: Path, told: list[str]) -> None:
    said, places, page = told
    assert places == places_sentence(peak_places(TraceRun.open(tmp_path / "demo")))
    assert places.startswith("Why its peaks are full stops: ")
    assert page.endswith(str(tmp_path / "demo-words" / "report.html"))
    run = Run.open(tmp_path / "demo-words")
    lists = {name: columns["list"].split() for name, columns in run.settings["conditions"].items()}
    assert lists["thinking-2-0"] == list(BANNED)
    (control,) = (words for name, words in lists.items() if name != "thinking-2-0")
    assert len(control) == 2
    assert not {word.casefold() for word in control} & {word.casefold() for word in THINKING}
    right = responses_table(run).groupby("condition")["correct"].mean()
    for condition, banned in lists.items():
        for cell in run.cells(condition):
            assert not set(banned) & set(run.payload(cell)["tokens"])
    (mine,) = (share for name, share in right.items() if name == "thinking-2-0")
    (other,) = (share for name, share in right.items() if name != "thinking-2-0")
    assert said.startswith(
        f"Without Wait and Hmm {mine:.1%} of the answers are right; without {' and '.join(control)},"
    )
    assert f", {other:.1%} (nothing banned: " in said
    assert re.search(
        rf"Difference {100 * (mine - other):+.1f} points \[[-+0-9.]+, [-+0-9.]+\], n = {N} problems\.", said
    )

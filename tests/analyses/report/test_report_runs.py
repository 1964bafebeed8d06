"""What a report is made of: several runs, large ones, the command that made them; whole or not at all, or refused."""

from __future__ import annotations

import html
import itertools
import resource
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from browser import Browser, browser  # noqa: F401  (a fixture)
from report_pages import made_run, noise, ready, refusal, rows_of

from analyses.report import digest as digests
from analyses.report import report, write_report
from analyses.report.digest import digest
from analyses.report.explorer import explorer, left_out
from analyses.report.made import command
from analyses.report.opening import opening
from analyses.stats import associations
from analyses.store import Run


@pytest.mark.browser
def test_several_runs_are_compared(toy: Run, tmp_path: Path, browser: Browser) -> None:  # noqa: F811
    other = made_run(tmp_path / "other", {"p": noise(4, 50)}, {"p": [" So", "."] * 25}, layers=[0, 3, 5, 9])

    def read(tab: Any) -> dict[str, Any]:
        ready(tab)
        second = tab.locator("#r1-bar")
        return {
            "rows": rows_of(tab, ".rp-comparison"),
            "titles": tab.locator("h2").all_inner_texts(),
            "layers": second.locator(".rp-layer option").all_inner_texts(),
            "spans": [box.locator(".rp-t").count() for box in tab.locator(".rp-explorer").all()],
        }

    got = browser.rendered(report([toy, other]), width=1400, actions=read).check().result
    assert got["titles"] == ["The runs beside each other", "toy", "other"]
    assert got["layers"] == ["layer 0", "layer 3", "layer 5", "layer 9"]
    first = opening(toy.peaks).problem
    assert got["spans"] == [int(toy.mi["step"][toy.mi["problem"] == first].max()) + 1, 50]
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
    # The one that the page opens on, of six with as many peaks, has its place; then the first
    assert (one.opening.problem, one.opening.layer) == ("gsm8k/3", 1)
    assert [curves.problem for curves in one.curves] == ["gsm8k/0", "gsm8k/3"]
    assert (len(one.responses), one.by_layer["n"].tolist()) == (6, [6, 6])
    assert "room for the curves of 2 responses, which can be opened; 4 more are in the tables" in left_out(one)
    document = report([run])
    assert document.count('class="rp-open"') == document.count('class="rp-response"') == 6
    part = explorer(one, 0)
    assert part.count('class="rp-response"') == 2
    assert '<option value="1" selected>gsm8k/3' in part
    assert len(digest(run, room=1).curves) == 1


def test_texts_are_read_some_at_a_time(toy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    table, whole = Run.table, toy.table("responses.parquet").set_index(["problem", "sample"]).to_dict("index")
    columns: list[str] = []

    def asked(run: Run, name: str, *wanted: Any) -> pandas.DataFrame:
        frame = table(run, name, *wanted)
        columns.extend(frame.columns if name == "responses.parquet" else ())
        return frame

    monkeypatch.setattr(Run, "table", asked)
    pages = []
    for rows in (3, 1000):
        monkeypatch.setattr(digests, "AT_ONCE", rows)
        one = digest(toy, 10**6)
        assert list(one.texts) == [(curves.problem, curves.sample) for curves in one.curves] == list(whole)
        for key, texts in one.texts.items():
            assert texts == {name: whole[key][name] for name in texts}
            assert texts.keys() == {"question", "gold", "text", "finish_reason", "extracted", "reason"}
        pages.append(explorer(one, 0))
    assert pages[0] == pages[1]
    assert not {"question", "gold", "text", "extracted"} & set(columns), "of all responses at once"
    [(key, texts)] = digest(toy, room=1).texts.items()
    assert key != next(iter(whole))
    assert texts == {name: whole[key][name] for name in texts}


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

"""Studies: planted effects are found, planted negatives are not; runs survive anything; a ninth study is one file."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from processes import Command, ToyForks

from analyses.problems import bundled_problems
from analyses.store import Run
from analyses.studies import STUDIES, find_study, make_study
from analyses.studies.base import StudyResult
from analyses.studies.estimate import estimate_study
from analyses.studies.run import run_study
from analyses.toys.task import held_out_questions, planted_answer
from interp import InputError

LIMIT = 110
N = 48  # one batch
KILLS = int(os.environ.get("PEAKLENS_KILLS", "3"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the studies of this module share their baselines."""
    return tmp_path_factory.mktemp("studies")


def study(name: str, folder: Path, n: int = N, limit: int = LIMIT, **options: str) -> StudyResult:
    return run_study(make_study(name, options), n=n, out=folder / name, max_new_tokens=limit, batch_size=48)


@pytest.fixture(scope="module")
def suppressed(folder: Path) -> StudyResult:
    return study("suppress", folder, counts="2,5", draws="1")


def test_suppression_loses_what_was_planted_and_controls_do_not(suppressed: StudyResult) -> None:
    row = suppressed.table.set_index("words").loc[5]
    assert row["high"] < -0.2, "without repairs many answers are wrong"
    questions = held_out_questions(N)
    planted = [planted_answer(q, wait=False, hmm=False) == q.answer for q in questions]
    assert row["thinking"] == pytest.approx(sum(planted) / N, abs=0.03), "as many as the planted mechanism gives"
    draws = suppressed.tables["suppress_draws"]
    controls = draws[draws["kind"] == "control"]
    assert len(controls) == 2
    assert (controls["difference"].abs() < 0.08).all()
    assert set(" ".join(controls["list"]).split()).isdisjoint({"wait", "hmm", "okay", "so", "therefore"})


def test_the_table_is_what_the_cells_say(suppressed: StudyResult) -> None:
    draws = suppressed.tables["suppress_draws"].set_index("condition")
    run = suppressed.run
    answers = {problem.id: problem.answer for problem in bundled_problems(N)}
    for condition in ("thinking-5-0", "control-2-0"):
        said = [run.read(cell).payload["text"].split() for cell in run.cells(condition)]
        ids = [cell.problem for cell in run.cells(condition)]
        right = 0
        for problem, words in zip(ids, said, strict=True):
            marks = [i for i, word in enumerate(words) if word in ("Therefore", "answer") and i + 1 < len(words)]
            right += bool(marks) and words[marks[-1] + 1] == answers[problem]
        assert draws.loc[condition, "n"] == len(ids) == N
        assert draws.loc[condition, "accuracy"] == pytest.approx(right / N)


def test_scaling_gains_by_wait_and_not_by_a_neutral_word(folder: Path) -> None:
    result = study("scale", folder, budgets="130", tokens="Wait")
    table = result.table.set_index("arm")
    assert table.loc["token Wait", "difference_low"] > 0.05
    neutral = next(arm for arm in table.index if arm.startswith("neutral"))
    assert table.loc[neutral, "difference_high"] < table.loc["token Wait", "difference"]
    assert (table["tokens"] <= 130).all()
    assert table.loc["token Wait", "tokens"] == 130, "it goes on until the budget is spent"


def test_recycling_reports_every_layer_and_gate(tmp_path: Path) -> None:
    result = study("recycle", tmp_path, n=20, limit=48, repeats="2")
    table = result.table
    assert set(table["layer"].dropna().astype(int)) == {0, 1, 2}
    assert {"thinking", "mi", "entropy", "random"} <= set(table["gate"].dropna())
    share = table.set_index("condition")["recycled_share"].dropna()
    assert (share > 0).all(), "every arm recycles somewhere"
    gates = table[(table["probability"] == 1) & (table["repeats"] == 1) & (table["trigger"] == "predicted")]
    by_gate = gates.groupby("gate")["recycled_share"].mean()
    assert by_gate["random"] == pytest.approx(by_gate["thinking"], rel=0.4), "chance recycles as often"


def test_ablation_at_peaks_is_measured_against_steps_near_them(folder: Path) -> None:
    result = study("ablate", folder, n=20, layers="0,2", methods="mean")
    table = result.table
    assert set(table["place"]) == {"peaks", "others", "thinking"}
    cells = result.tables["ablate_cells"]
    peaks = cells[(cells["place"] == "peaks") & (cells["layer"] == 2) & (cells["method"] == "mean")]
    others = cells[(cells["place"] == "others") & (cells["layer"] == 2) & (cells["method"] == "mean")]
    assert others["steps"].sum() == pytest.approx(peaks["steps"].sum(), rel=0.2)
    assert table["logprob_change"].abs().max() > 0.01, "nothing was replaced"
    untouched = cells[cells["method"] == "none"].set_index("problem")["says_gold"]
    right = result.run.settings and Run.open(folder / "ablate")
    assert isinstance(right, Run)
    correct = Run.open(next((folder / "baselines").iterdir())).responses.set_index("problem")["correct"]
    both = pd.concat([untouched, correct], axis=1).dropna()
    assert (both["says_gold"].astype(bool) == both["correct"].astype(bool)).all(), "where it says gold it was right"


def test_trajectories_tokens_and_correctness_agree_with_the_run_tables(folder: Path) -> None:
    base = run_study(make_study("trajectories", {}), n=24, out=folder / "t", max_new_tokens=LIMIT, batch_size=48)
    peaks = base.run and Run.open(next((folder / "baselines").iterdir())).peaks
    mine = peaks[peaks["problem"].isin({p.id for p in bundled_problems(24)})]
    table = base.table.set_index(["layer", "statistic"])
    for layer in (0, 2):
        part = mine[mine["layer"] == layer]
        assert table.loc[(layer, "ratio"), "mean"] == pytest.approx(part["ratio"].mean())
        assert table.loc[(layer, "n_peaks"), "n"] == 24
    tokens = run_study(make_study("tokens", {}), n=24, out=folder / "tokens", max_new_tokens=LIMIT, batch_size=48)
    mi = Run.open(next((folder / "baselines").iterdir())).mi
    mi = mi[mi["problem"].isin({p.id for p in bundled_problems(24)}) & (mi["layer"] == 2)]
    row = tokens.table[(tokens.table["layer"] == 2) & (tokens.table["word"] == "Okay")].iloc[0]
    assert row["overall"] == (mi["token"] == "Okay").sum()
    assert row["at_peaks"] == ((mi["token"] == "Okay") & mi["is_peak"]).sum()
    share = row["at_peaks"] / mi["is_peak"].sum() / (row["overall"] / len(mi))
    assert row["lift"] == pytest.approx(share)
    lens = tokens.tables["tokens_lens"]
    assert lens[lens["rank"] == 1].groupby("layer")["count"].sum()[2] == mi["is_peak"].sum()
    found = run_study(make_study("correctness", {}), n=N, out=folder / "c", max_new_tokens=LIMIT, batch_size=48)
    auc = found.table.set_index(["layer", "measure"]).loc[(2, "n_steps")]
    scores = found.tables["correctness_responses"]
    scores = scores[scores["layer"] == 2]
    right, wrong = (scores.loc[scores["correct"] == value, "n_steps"].to_numpy() for value in (True, False))
    by_hand = ((right[:, None] > wrong).sum() + 0.5 * (right[:, None] == wrong).sum()) / (len(right) * len(wrong))
    assert auc["auc"] == pytest.approx(by_hand)


def test_comparison_is_paired_by_problem(folder: Path) -> None:
    result = study("compare", folder, n=24)
    table = result.table.set_index(["layer", "statistic"])
    runs = {run.settings["model"]: run for run in map(Run.open, (folder / "baselines").iterdir())}
    wanted = {p.id for p in bundled_problems(24)}
    means = {
        name: run.peaks[run.peaks["problem"].isin(wanted) & (run.peaks["layer"] == 2)]["mean_mi"].mean()
        for name, run in runs.items()
    }
    row = table.loc[(2, "mean_mi")]
    assert row["model"] == pytest.approx(means["toy-reasoner"])
    assert row["origin"] == pytest.approx(means["toy-base"])
    assert row["difference"] == pytest.approx(means["toy-reasoner"] - means["toy-base"])
    accuracy = result.tables["compare_accuracy"].set_index("condition")
    assert accuracy.loc["toy-reasoner", "difference_low"] > 0.1


def test_reports_are_pages_of_their_tables(suppressed: StudyResult) -> None:
    text = (suppressed.run.path / "report.html").read_text(encoding="utf-8")
    assert "Accuracy without thinking words" in text
    assert "https://" not in text.split("<script")[0]
    assert f"{suppressed.table.iloc[-1]['thinking']:.1%}" in text
    assert "suppress" in suppressed._repr_html_() or "words" in suppressed._repr_html_()


def test_a_dry_run_estimates_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = estimate_study(make_study("suppress", {"counts": "2", "draws": "1"}), n=40, max_new_tokens=60)
    assert (found.conditions, found.cells, found.tokens_at_most) == (5, 200, 12000)
    assert 0 < found.tokens_expected <= 12000
    assert found.seconds == pytest.approx(found.tokens_expected / found.tokens_per_second)
    assert not list(tmp_path.iterdir())


COMMAND = ("study", "suppress", "--n", "8", "--set", "counts=2", "--set", "draws=1", "--max-new-tokens", "20",
           "--batch-size", "4", "--calibrate", "4", "--quiet")  # fmt: skip


# In a process that was forked itself, workers are forked from it: they have its imports, and die with it as ever.
KILLED = """
import multiprocessing
import sys
context = multiprocessing.get_context
multiprocessing.get_context = lambda method=None: context("fork" if method == "spawn" else method)
from analyses.commands.cli import main
main()
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments_the_tables_are_the_same(tmp_path: Path, workers: int, toy_forks: ToyForks) -> None:
    def start(out: Path) -> int:
        return toy_forks.spawn(KILLED, *COMMAND, "--workers", workers, "--out", out)

    def done() -> int:
        return len(list((tmp_path / "cut").rglob("*.safetensors")))

    assert toy_forks.wait(start(tmp_path / "whole" / "run"))[0] == 0
    dice = random.Random(workers)
    out = tmp_path / "cut" / "run"
    ends = []
    for _ in range(KILLS):
        process, enough = start(out), done() + dice.choice([0, 3, 9])
        # Wait for some new cells, then for a moment: a random point of the decoding or of the writing.
        while not toy_forks.has_ended(process) and done() <= enough:
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.1))
        ends.append(toy_forks.kill(process)[0])
    assert ends.count(-signal.SIGKILL) >= 2
    assert toy_forks.wait(start(out))[0] == 0
    for name in ("suppress.csv", "suppress_draws.csv"):
        whole, cut = ((tmp_path / run / "run" / name).read_bytes() for run in ("whole", "cut"))
        assert whole == cut


NINTH = '''
"""How long responses are: a study in a file of its own."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from analyses.studies.base import Condition, Study
from analyses.views.curves import lines
from interp.interventions import SuppressTokens


def ban(ids, lab, cells):
    return [SuppressTokens(ids)]


@dataclass(frozen=True)
class Lengths(Study):
    name: ClassVar[str] = "lengths"
    title: ClassVar[str] = "Length without each word"
    source: ClassVar[str] = "a question of my own"
    words: int = 2

    def conditions(self, lab):
        some = list(lab.words.items())[: self.words]
        return [Condition(word, {"word": word}, partial(ban, ids)) for word, ids in some]

    def tables(self, data):
        return {"lengths": data.responses().groupby("condition", as_index=False)["n_steps"].mean()}

    def figures(self, data, tables):
        return [lines(tables["lengths"].assign(place=range(len(tables["lengths"]))), x="place", y="n_steps")]

    def reading(self, tables):
        return [f"{row.condition}: {row.n_steps:.1f} steps" for row in tables["lengths"].itertuples()]
'''


@pytest.mark.usefixtures("quick_processes")
def test_a_ninth_study_is_one_file(tmp_path: Path, peaklens: Command) -> None:
    (tmp_path / "lengths.py").write_text(NINTH)
    code, out, said = peaklens(
        "study", str(tmp_path / "lengths.py"), "--n", "6", "--max-new-tokens", "30", "--workers", "2", "--json",
        "--out", str(tmp_path / "run"), "--set", "words=1",
    )  # fmt: skip
    assert code == 0, said
    table = {row["condition"]: row["n_steps"] for row in json.loads(out)["table"]}
    assert set(table) == {"baseline", "Okay"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("supress", {}, "expected one of trajectories, compare"),
        ("suppress", {"draw": "3"}, "options among counts, draws, seed"),
        ("suppress", {"draws": "many"}, "received draws='many'"),
        ("no_such_file.py", {}, "expected a Python file"),
    ],
)
def test_wrong_studies_and_options_are_said(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_study(name, options)


def test_every_study_is_short_and_named() -> None:
    for name in STUDIES:
        kind = find_study(name)
        assert kind.name == name
        assert kind.title
        assert kind.source

"""What the studies say of their numbers: problems are what is independent, and nothing to compare is a sentence."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from statsmodels.stats.multitest import multipletests

from analyses.report import report
from analyses.report.digest import digest
from analyses.stats import associations, mcnemar, proportion, wilson
from analyses.store import Run
from analyses.studies import make_study
from analyses.studies.base import StudyResult, accuracy_reading, counted, span
from analyses.studies.bounds import Bounds, _bounded, _guess
from analyses.studies.overlap import Overlap
from analyses.studies.places import places_of
from analyses.studies.run import run_study
from probes.vinformation import v_information

STUDIES: dict[str, dict[str, str]] = {
    "trajectories": {},
    "compare": {},
    "correctness": {},
    "tokens": {"least": "2"},
    "overlap": {"measures": "r2", "depth": "false", "draws": "500"},
    "suppress": {"counts": "2", "draws": "1"},
    "scale": {"budgets": "30,60", "tokens": "Wait"},
    "ablate": {"layers": "0", "places": "peaks", "methods": "mean"},
}


def made(folder: Path, samples: int, n: int = 10, steps: int = 50) -> dict[str, StudyResult]:
    """The studies on `samples` responses a problem, all of them the same: it is nearly greedy."""
    common = {"n": n, "max_new_tokens": steps, "temperature": 1e-4, "samples": samples, "batch_size": 48}
    common["calibrate"] = n
    return {
        name: run_study(make_study(name, options), out=folder / name, **common)
        for name, options in STUDIES.items()
        if samples == 1 or name != "scale"  # whose table is the same function's as that of suppress
    }


@pytest.fixture(scope="module")
def once(tables_alone: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, StudyResult]:
    return made(tmp_path_factory.mktemp("once"), 1)


@pytest.fixture(scope="module")
def twice(tables_alone: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, StudyResult]:
    return made(tmp_path_factory.mktemp("twice"), 2)


def baseline_of(result: StudyResult) -> Run:
    runs = map(Run.open, (result.run.path.parent / "baselines").iterdir())
    return next(run for run in runs if run.settings["model"] == "toy-reasoner")


def intervals(table: pd.DataFrame) -> list[tuple[str, str]]:
    names = [name for name in table.columns if name == "low" or name.endswith("_low")]
    return [(name, name.removesuffix("low") + "high") for name in names]


def test_the_same_responses_again_make_no_interval_narrower(
    once: dict[str, StudyResult], twice: dict[str, StudyResult]
) -> None:
    compared = 0
    for name, result in twice.items():
        for file, again in result.tables.items():
            table = once[name].tables.get(file)
            if table is None or "sample" in table.columns:
                continue  # stability needs two samples; rows of single responses have no interval
            if name == "tokens" and "word" in table.columns:
                again = table[["layer", "word"]].merge(again, on=["layer", "word"])  # words that come once, twice here
            assert len(again) == len(table), file
            for low, high in intervals(table):
                few, many = ((t[high] - t[low]).to_numpy(dtype=float) for t in (table, again))
                assert (np.isnan(few) == np.isnan(many)).all(), (file, low)
                some = ~np.isnan(few) & np.isfinite(few)
                assert many[some] == pytest.approx(few[some], rel=0.12, abs=1e-6), (file, low)
                compared += int(some.sum())
            for p in {"p", "p_holm"} & set(table.columns):
                assert again[p].to_numpy(dtype=float) == pytest.approx(
                    table[p].to_numpy(dtype=float), rel=1e-6, nan_ok=True
                ), file
    assert compared > 150


def test_no_interval_is_without_a_width_and_all_say_how_many_problems(twice: dict[str, StudyResult]) -> None:
    for name, result in twice.items():
        for file, table in result.tables.items():
            for low, high in intervals(table):
                width = (table[high] - table[low]).to_numpy(dtype=float)
                assert not (width <= 0).any(), (file, low)
            if intervals(table):
                count = next(name for name in table.columns if name.endswith("problems"))
                assert table[count].max() == 10, file
        numbers = [sentence for sentence in result.readings if "[" in sentence]
        assert all("problem" in sentence for sentence in numbers), name
        assert not any("nan" in sentence for sentence in result.readings), name
        if name not in ("suppress", "overlap", "tokens"):  # those count problems, pairs of them, or steps
            assert any("responses to 10 problems" in sentence for sentence in numbers), name


def test_holm_is_over_all_that_a_study_shows(once: dict[str, StudyResult]) -> None:
    tables = [t for result in once.values() for t in result.tables.values() if "p_holm" in t.columns]
    assert len(tables) >= 6
    for table in tables:
        p = table["p"].dropna()
        assert table.loc[p.index, "p_holm"].tolist() == pytest.approx(multipletests(p, method="holm")[1])
    assert once["tokens"].table["layer"].nunique() == 3
    assert once["scale"].table["budget"].nunique() == 2
    assert set(once["scale"].table["tests"]) == {6}
    assert f"Holm over {len(once['tokens'].table)} words and layers" in " ".join(once["tokens"].readings)
    assert f"Holm over {len(once['compare'].table)} comparisons" in " ".join(once["compare"].readings)


def test_there_is_one_lift_with_one_interval(once: dict[str, StudyResult], tmp_path: Path) -> None:
    """Of study tokens, of the report's table of words and of plain counts: the same number and the same ends."""
    run = baseline_of(once["tokens"])
    scores = run.mi.astype({"problem": str, "token": str})
    predicted = digest(run, 10**6).words["predicted"]
    words = {(layer, word.word): word for layer, some in predicted.items() for word in some}
    rows = [row for row in once["tokens"].table.to_dict("records") if (row["layer"], row["word"]) in words]
    assert len(rows) >= 3
    for row in rows:
        mi = scores[scores["layer"] == row["layer"]]
        flags = mi.assign(is_word=mi["token"] == row["word"], one=1)
        flags["both"] = flags["is_word"] & flags["is_peak"]
        counts = flags.groupby("problem")[["both", "is_peak", "is_word", "one"]].sum().to_numpy(dtype=float)
        by_hand = counts[:, 0].sum() / counts[:, 1].sum() / (counts[:, 2].sum() / counts[:, 3].sum())
        word, plain = words[row["layer"], row["word"]], associations(*counts.T).lift.one()
        ends = [plain.estimate, plain.low, plain.high]
        assert [row["lift"], row["lift_low"], row["lift_high"]] == pytest.approx([by_hand, *ends[1:]], nan_ok=True)
        assert [word.lift, word.low, word.high] == pytest.approx(ends, nan_ok=True)


def test_a_word_never_at_a_peak_is_shown_as_never(once: dict[str, StudyResult]) -> None:
    table = once["tokens"].table
    never = table[table["at_peaks"] == 0]
    assert len(never)
    assert (never[["lift", "lift_low", "odds_ratio", "low"]] == 0).all(axis=None)
    assert (never["lift_high"] > 0).all()


def test_accuracy_in_the_report_has_problems_as_clusters(twice: dict[str, StudyResult]) -> None:
    run = baseline_of(twice["tokens"])
    right = run.responses["correct"].astype(float)
    expected = proportion(right, run.responses["problem"])
    naive = wilson(int(right.sum()), len(right))
    assert expected.high - expected.low > 1.2 * (naive.high - naive.low)
    page = report([run])
    for end in (expected.low, expected.high):
        assert f"{100 * end:.1f}" in page
    assert "10 problems, for the effective number of responses" in page


@pytest.mark.parametrize(
    ("name", "options", "tokens", "says"),
    [
        ("correctness", {}, 1, "All responses are wrong (n = 2 problems): nothing to tell apart."),
        ("tokens", {}, 12, "No word comes 10 times: there are too few to say which of them are at peaks."),
        ("tokens", {"least": "100000"}, 40, "No word comes 100000 times"),
        ("ablate", {"layers": "0", "methods": "mean"}, 3, "No response states an answer"),
        ("trajectories", {}, 2, "no response has two peaks."),
        ("overlap", {"measures": "r2", "depth": "false"}, 2, "nothing to compare"),
        ("compare", {}, 2, "[no interval]"),
        ("suppress", {"counts": "1", "draws": "1"}, 20, "0.0% without them"),
        ("scale", {"budgets": "4", "tokens": "Wait"}, 4, "Not told apart from plain at the same budget at this n"),
    ],
)
def test_a_study_with_nothing_to_compare_ends_with_a_sentence(
    tmp_path: Path, name: str, options: dict[str, str], tokens: int, says: str
) -> None:
    result = run_study(make_study(name, options), n=2, out=tmp_path / name, max_new_tokens=tokens, calibrate=4)
    assert any(says in sentence for sentence in result.readings), result.readings
    assert (result.run.path / "report.html").is_file()


def test_a_right_answer_alone_is_nothing_to_tell_apart(tmp_path: Path, once: dict[str, StudyResult]) -> None:
    table = once["correctness"].table.iloc[:5].assign(right=7, wrong=0, problems=7, auc=math.nan)
    assert make_study("correctness", {}).reading({"correctness": table}) == [
        "All responses are right (n = 7 problems): nothing to tell apart."
    ]
    assert make_study("correctness", {}).reading({"correctness": table.iloc[:0]}) == [
        "No response was graded: nothing to tell apart."
    ]


def test_measures_count_the_responses_where_they_are_defined() -> None:
    """Two samples of six problems; peaks in both samples of two problems and one of a third, ranks in all but one."""
    rng, parts = np.random.default_rng(0), []
    for k in range(6):
        for sample in range(2):
            mi = np.linspace(0, 1, 30)
            other = mi + 0.01 * rng.random(30)
            peaks = np.zeros(30, bool)
            if (k, sample) in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0)):
                mi[7], other[7], peaks[7] = 9, 9, True
            if (k, sample) == (5, 1):
                other = np.zeros(30)
            parts.append(
                pd.DataFrame({"problem": f"p{k}", "sample": sample, "step": range(30), "nhsic": mi, "is_peak": peaks,
                              "r2": other})
            )  # fmt: skip
    row = next(Overlap(measures=("r2",), draws=200)._measures(0, pd.concat(parts), 1.5))
    assert (row["jaccard_n"], row["jaccard_problems"]) == (5, 3)
    assert (row["responses"], row["spearman_n"], row["spearman_problems"]) == (11, 11, 6)
    assert row["jaccard"] == 1
    assert math.isnan(row["jaccard_low"]), "all alike"


def test_bounds_are_probabilities_and_vacuous_ones_say_so() -> None:
    """A vector that says nothing about ten answers, one of them for half of the problems, and one that says all."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (300,), generator=generator)
    labels[:150] = 3
    x = torch.stack([torch.randn(300, 4, generator=generator), torch.nn.functional.one_hot(labels, 10)[:, :4].float()])
    x = torch.cat([x, torch.zeros(2, 300, 6)], dim=2)
    x[1] = torch.nn.functional.one_hot(labels, 10).float()
    told = v_information(x, labels, draws=200)
    guess = _guess(labels, torch.ones(300, dtype=torch.bool))
    assert guess == pytest.approx(1 - float((labels == 3).double().mean()))
    nothing, everything = (_bounded([(told, k, guess)], 10) for k in (0, 1))
    assert nothing["vacuous"]
    assert not everything["vacuous"]
    for row in (nothing, everything):
        assert 0 <= row["upper_low"] <= row["upper"] <= row["upper_high"] <= 1
    study = Bounds(align=("end",), last=1)
    assert len(places_of(("end",), last=1)) == 1
    base = {"layer": 2, "alignment": "end", "event": 0, "at": 0.0, "answers": 10, "stated_error": 0.3,
            "stated_low": 0.2, "stated_high": 0.4, "stated_n": 60}  # fmt: skip
    said = {
        name: study.reading({"bounds": pd.DataFrame([{**base, "kind": "one place", **row}])})[0]
        for name, row in (("nothing", nothing), ("everything", everything))
    }
    assert f"Theorem 2 gives no bound below the {guess:.1%} of a guess" in said["nothing"]
    assert "errs at most" not in said["nothing"]
    (at_most,) = re.findall(r"errs at most ([0-9.]+)%", said["everything"])
    assert float(at_most) == pytest.approx(100 * everything["upper"], abs=0.06)
    assert "a plug-in estimate, no bound" in said["everything"]


def test_sentences_say_what_they_count() -> None:
    assert counted(5, 5) == "n = 5 problems"
    assert counted(15.0, 5.0) == "n = 15 responses to 5 problems"
    assert span(math.nan, 1.0) == "[no interval]"
    table = pd.DataFrame({"condition": ["a"], "accuracy": [math.nan], "difference": [math.nan]})
    assert accuracy_reading(table) == [
        "No condition has graded responses that can be compared with those of its baseline."
    ]


def test_suppression_is_compared_problem_by_problem(twice: dict[str, StudyResult]) -> None:
    result = twice["suppress"]
    rows = result.tables["suppress_draws"].set_index("condition")
    graded = {name: result.run for name in rows.index if name != "baseline"}
    assert set(rows["problems"]) == {10}
    assert set(rows["n"]) == {20}
    main = result.table.set_index("words").loc[5]
    assert main["problems"] == 10
    assert graded
    assert main["p"] >= mcnemar(np.ones(10), np.zeros(10)).p, "no smaller than 10 problems can give"

"""Studies of information: what was planted in the toy is found where it is, and the numbers are those of the tables."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.store import Cell, Run
from analyses.studies import make_study
from analyses.studies.aligned import check_answers, label_answers, usable_bits
from analyses.studies.base import StudyResult
from analyses.studies.beside_bits import over_places, over_problems
from analyses.studies.places import places_of, steps_at
from analyses.studies.run import run_study
from analyses.toys.running import running_values
from analyses.toys.task import Question, held_out_questions, sample_trace
from analyses.trace import trace
from interp import InputError, ResidualSites, encode, load_model
from probes import Information, error_bounds, sample_hsic

N = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


def study(
    name: str,
    folder: Path,
    n: int = N,
    layers: tuple[int, ...] = (0, 1, 2),
    temperature: float = 0.0,
    samples: int = 1,
    **options: str,
) -> StudyResult:
    return run_study(
        make_study(name, options), n=n, out=folder / name, max_new_tokens=120, batch_size=160, layers=layers,
        temperature=temperature, samples=samples,
    )  # fmt: skip


@pytest.fixture(scope="module")
def information(folder: Path) -> StudyResult:
    return study("information", folder, layers=(1, 2), align="end,event", event_words="Wait", window="3", last="6")


def at(result: StudyResult, **where: object) -> pd.Series:
    table = result.tables["information"]
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_the_stated_answer_becomes_readable_where_it_is_computed(information: StudyResult) -> None:
    """The last step's value is the answer: `value . Therefore value . <eos>` are the places -5 to 0."""
    for place in (-5.0, -3.0, -2.0, -1.0):
        row = at(information, layer=2, alignment="end", at=place, target="stated")
        assert row["low"] > 2.5, "nearly all of the 3.3 bits of ten digits"
        assert row["accuracy"] > 0.9
    gold = at(information, layer=2, alignment="end", at=-2.0, target="answer")
    assert 0.8 < gold["bits"] < 2.5, "the stated answer is right for most problems only"


def test_before_it_is_computed_there_is_nothing(information: StudyResult) -> None:
    for target in ("answer", "stated"):
        row = at(information, layer=2, alignment="event", event=1, at=-3.0, target=target)
        assert abs(row["bits"]) < 0.25
        assert row["low"] <= 0.05


def test_the_running_value_is_readable_at_a_repair_and_gone_after_it(information: StudyResult) -> None:
    """The toy reads facts at the verb: one step before `Wait`, the right value of the fact is known already."""
    before, repair = (
        at(information, layer=2, alignment="event", event=1, at=place, target="running") for place in (-1.0, 1.0)
    )
    assert before["low"] > 0.5
    assert repair["low"] > 0.5
    control = information.tables["information"]["control_bits"].dropna()
    assert control.abs().mean() < 0.05


def test_dependence_is_tested_at_the_same_places_with_the_same_labels(information: StudyResult, folder: Path) -> None:
    """The columns are those of `sample_hsic` on the residual streams and answers of all problems, Holm over a layer."""
    (baseline,) = (folder / "baselines").iterdir()
    run = Run.open(baseline)
    held = [information.run.read(Cell(cell.problem, 0, condition="places")).tensors for cell in run.cells()]
    streams = torch.stack([tensors["residuals"][-1] for tensors in held], dim=1)
    steps = torch.stack([tensors["steps"] for tensors in held], dim=1)
    answers = torch.tensor([int(run.read(cell).payload["answer"]) for cell in run.cells()])
    found = sample_hsic(streams, answers, valid=steps >= 0)
    p = found.p[~found.p.isnan()]
    for k, place in enumerate(places_of(["end", "event"], last=6, window=3)):
        row = at(information, layer=2, alignment=place.alignment, event=place.event, at=place.at, target="answer")
        assert row["hsic"] == pytest.approx(float(found.hsic[k]), rel=1e-6)
        assert row["hsic_normalised"] == pytest.approx(float(found.normalised[k]), rel=1e-6)
        assert row["hsic_p"] == pytest.approx(float(found.p[k]))
        assert row["n"] == found.n[k]
        ahead = 1 + int((p < found.p[k]).sum())
        assert row["hsic_p"] <= row["hsic_p_holm"] <= min(1.0, len(p) * row["hsic_p"]) + 1e-12
        assert row["hsic_p_holm"] >= min(1.0, (len(p) - ahead + 1) * row["hsic_p"]) - 1e-12 or row["hsic_p_holm"] == 1
    # Where V-information finds the stated answer it depends on it; before Wait the gold answer is not there yet.
    told = at(information, layer=2, alignment="end", at=-2.0, target="stated")
    assert told["hsic_p_holm"] <= 0.05
    assert told["hsic_normalised"] > 0.5
    assert any(
        "HSIC with problems as samples: the stream depends on the stated answer" in r for r in information.readings
    )
    assert any("999 permutations, Holm over these places" in reading for reading in information.readings)


def test_places_that_too_few_responses_have_are_nan_and_no_error() -> None:
    """Responses cut off, or without a label, must not lose what the others tell."""
    x, y = torch.randn(3, 44, 4, generator=torch.Generator().manual_seed(0)), torch.arange(44) % 2
    valid = torch.ones(3, 44, dtype=torch.bool)
    valid[1, 30:], valid[2] = False, False
    options = {"probe": "linear", "folds": 5, "seed": 0, "n_classes": 2}
    some, none = (usable_bits(x[k:], y.expand(3 - k, -1), valid[k:], **options) for k in (0, 1))
    assert some.bits.isnan().tolist() == [False, True, True]
    assert none.bits.isnan().tolist() == [True, True]
    assert some.n[1:].tolist() == none.n.tolist() == [30, 0]
    assert set(none.to_dict()) == set(some.to_dict())


def test_bounds_of_few_problems_are_wide(folder: Path) -> None:
    result = run_study(
        make_study("bounds", {"align": "end", "last": "1"}), n=40, out=folder / "few", max_new_tokens=120,
        batch_size=160, layers=(2,),
    )  # fmt: skip
    table = result.table
    assert (table["n"] == 40).all()
    assert (table["entropy"] > math.log2(10) + 0.1).all(), "frequencies of 32 problems are a poor guess of the others"
    expected = ((table["entropy"] - table["bits"]) / 2).clip(upper=1)
    assert (table["upper"] - expected).abs().max() < 1e-9


@pytest.mark.parametrize("name", ["information", "bounds"])
def test_problems_that_can_give_no_bits_are_refused_before_anything_is_decoded(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"study {name}: expected at least 40 problems.*received 39 problems"):
        run_study(make_study(name, {}), n=39, out=tmp_path / name, max_new_tokens=120)
    with pytest.raises(InputError, match="at least 24 problems, 8 for each of 3 folds, received 20 problems"):
        run_study(make_study(name, {"folds": "3"}), n=20, out=tmp_path / name, max_new_tokens=120)
    with pytest.raises(InputError, match="problems of at least two different answers, received the same in all 40"):
        check_answers(f"study {name}", ["4"] * 40, 12, 5)
    assert not (tmp_path / "baselines").exists()


def test_residuals_are_those_of_the_response(information: StudyResult, folder: Path) -> None:
    """The cells hold what one pass over prompt and response gives at the places' steps."""
    model = load_model("toy-reasoner")
    (baseline,) = (folder / "baselines").iterdir()
    run = Run.open(baseline)
    cell = run.cells()[3]
    data = run.read(cell)
    text = torch.cat([data.tensors["prompt_ids"], data.tensors["token_ids"]])
    streams = encode(model, [text], record=ResidualSites())[0].residuals["resid_post"]
    held = information.run.read(Cell(cell.problem, 0, condition="places")).tensors
    tokens = data.payload["tokens"]
    waits = [k for k, token in enumerate(tokens) if token == "Wait"]
    steps = steps_at(places_of(["end", "event"], last=6, window=3), len(tokens), waits)
    assert held["steps"].tolist() == steps
    for place, step in enumerate(steps):
        if step >= 0:
            expected = streams[1:, len(data.tensors["prompt_ids"]) - 1 + step]
            torch.testing.assert_close(held["residuals"][:, place], expected, atol=1e-4, rtol=1e-4)


def test_nhsic_beside_the_bits_is_that_of_the_same_steps(information: StudyResult, folder: Path) -> None:
    (baseline,) = (folder / "baselines").iterdir()
    mi = Run.open(baseline).mi
    mi = mi[mi["layer"] == 1]
    last = mi.groupby("problem", observed=True)["step"].transform("max")
    expected = mi[mi["step"] == last - 1]
    row = at(information, layer=1, alignment="end", at=-1.0, target="answer")
    assert row["nhsic"] == pytest.approx(expected["mi"].mean())
    assert row["peak_share"] == pytest.approx(expected["is_peak"].mean())
    # The excess of both positions too: right before the end the stated digit has been read, at -2 it is to be said
    before = mi[mi["step"] == last - 2]
    for position, end in (("last", ""), ("predicts", "_predicts")):
        column = f"excess_standardised{end}"
        assert row[f"excess_{position}"] == pytest.approx(expected[column].mean())
        assert at(information, layer=1, alignment="end", at=-2.0, target="answer")[
            f"excess_{position}"
        ] == pytest.approx(before[column].mean())
    assert Run.open(baseline).settings["excess"]["beside"] == "predicts"
    assert at(information, layer=2, alignment="end", at=-2.0, target="answer")["excess_predicts"] > 10
    assert abs(at(information, layer=2, alignment="end", at=-1.0, target="answer")["excess_predicts"]) < 1


def test_what_goes_with_bits_is_told(information: StudyResult) -> None:
    """Rank correlations by pandas, from the tables alone; on the toy the predicting reference goes with bits."""
    table = information.tables["information"]
    table = table[(table["layer"] == 2) & (table["target"] == "answer")]
    beside = information.tables["information_and_nhsic"]
    beside = beside[(beside["layer"] == 2) & (beside["target"] == "answer")].set_index("alignment")
    assert list(beside.index) == ["end", "event", "all"]
    for name in ("nhsic", "excess_last", "excess_predicts"):
        ends = table[table["alignment"] == "end"]
        row = beside.loc["end"]
        assert row[f"spearman_{name}"] == pytest.approx(ends["bits"].corr(ends[name], method="spearman"))
        assert row[f"spearman_{name}_low"] <= row[f"spearman_{name}"] <= row[f"spearman_{name}_high"]
        known = table.dropna(subset=["bits"])
        assert beside.loc["all", f"spearman_{name}"] == pytest.approx(
            known["bits"].corr(known[name], method="spearman")
        )
    assert beside.loc["all", "places"] == table["bits"].notna().sum()
    assert beside.loc["end", "spearman"] == beside.loc["end", "spearman_nhsic"]
    problems = information.tables["information_over_problems"]
    most = problems[(problems["layer"] == 2) & (problems["target"] == "answer") & (problems["alignment"] == "end")]
    most = most.loc[most["bits"].idxmax()]
    assert most["n"] == N
    assert most["spearman_excess_predicts_low"] > 0.4
    assert most["spearman_nhsic_low"] < 0.2
    said = " ".join(information.readings)
    assert "What goes with them is the excess read where the reference predicts its answer" in said
    assert "different places of the last layer, rank correlations with means over problems: nHSIC" in said


def test_rank_correlations_are_the_literal_ones() -> None:
    """Spearman's coefficient by pandas in a loop over drawn problems, and over permuted places."""
    dice = np.random.default_rng(1)
    level = np.arange(7.0)[:, None]
    bits = 0.3 * level + dice.normal(size=(7, 60))
    measure = level % 4 + dice.normal(size=(7, 60))
    bits[dice.random((7, 60)) < 0.2] = np.nan
    measure[dice.random((7, 60)) < 0.1] = np.nan
    rho, low, high, p = over_places(bits, measure, seed=3)

    def spearman(x: np.ndarray, y: np.ndarray) -> float:
        return float(pd.Series(x).corr(pd.Series(y), method="spearman"))

    x, y = np.nanmean(bits, axis=1), np.nanmean(measure, axis=1)
    assert rho == pytest.approx(spearman(x, y))
    drawn = []
    for _ in range(600):
        some = dice.integers(0, 60, 60)
        drawn.append(spearman(np.nanmean(bits[:, some], axis=1), np.nanmean(measure[:, some], axis=1)))
    np.testing.assert_allclose([low, high], np.quantile(drawn, [0.025, 0.975]), atol=0.12)
    permuted = [abs(spearman(x, dice.permutation(y))) >= abs(rho) - 1e-12 for _ in range(600)]
    assert p == pytest.approx(np.mean(permuted), abs=0.06)
    one, other = bits[6], measure[6]
    known = ~(np.isnan(one) | np.isnan(other))
    found, low, high, n = over_problems(one, other)
    assert (found, n) == (pytest.approx(spearman(one[known], other[known])), known.sum())
    half = 1.96 * math.sqrt((1 + found**2 / 2) / (n - 3))
    np.testing.assert_allclose(np.arctanh([low, high]), [math.atanh(found) - half, math.atanh(found) + half], rtol=1e-3)
    assert all(map(math.isnan, over_places(bits[:3], measure[:3], seed=0)))
    assert all(map(math.isnan, over_places(bits, np.ones((7, 60)), seed=0)))
    assert over_problems(one[:9], other[:9])[0] != over_problems(one[:9], other[:9])[0]


def test_onsets_and_agreement_follow_from_the_table(information: StudyResult) -> None:
    table = information.tables["information"]
    part = table[(table["layer"] == 2) & (table["alignment"] == "end") & (table["target"] == "stated")].sort_values(
        "at"
    )
    rises = part["bits"].diff()
    onsets = information.tables["information_onsets"]
    found = onsets[(onsets["layer"] == 2) & (onsets["alignment"] == "end") & (onsets["target"] == "stated")].iloc[0]
    assert found["jump_at"] == part["at"].loc[rises.idxmax()]
    assert found["after"] - found["before"] == pytest.approx(rises.max())
    assert any("bits" in reading for reading in information.readings)
    html = (information.run.path / "report.html").read_text(encoding="utf-8")
    assert "Usable bits about the stated answer" in html


def test_bounds_are_those_of_the_theorems(folder: Path) -> None:
    result = study("bounds", folder, layers=(2,), align="end", last="2")
    table = result.table
    for row in table.to_dict("records"):
        known = Information(row["bits"], row["bits_low"], row["bits_high"], 0.95, row["n"], "lower", "")
        expected = error_bounds(known, row["entropy"], 10)
        assert (row["lower"], row["upper"]) == (expected.lower, min(1.0, expected.upper)), "an error is a probability"
        assert row["lower_is"] == "plug-in estimate"
        assert row["upper_is"] == "bound"
        if row["bits_low"] > 0.5:  # a plug-in estimate is no bound where the probe gave up
            assert row["lower"] <= row["probe_error_high"], "no decoder is better than the best"
    (baseline,) = (folder / "baselines").iterdir()
    wrong = ~Run.open(baseline).responses["correct"].astype(bool)
    assert table["stated_error"].iloc[0] == pytest.approx(wrong.mean())
    together = table[(table["layer"] == 2) & (table["kind"] == "places so far")].sort_values("at")["bits"]
    assert together.is_monotonic_increasing, "more places know no less"
    alone = table[(table["layer"] == 2) & (table["kind"] == "one place")].sort_values("at")["bits"]
    assert (together.to_numpy() >= alone.to_numpy()).all()


def test_overlap_counts_what_the_sets_have_in_common(folder: Path, tmp_path: Path) -> None:
    result = study("overlap", tmp_path, n=6, measures="r2,nhsic@median", draws="100")
    (baseline,) = (tmp_path / "baselines").iterdir()
    run = Run.open(baseline)
    steps, mi = run.steps, run.mi
    table = result.table.set_index(["layer", "first", "second"])
    keys = list(zip(steps["problem"], steps["step"], strict=True))
    thinking = {
        key
        for key, token in zip(keys, steps["token"], strict=True)
        if token in ("Okay", "So", "Wait", "Hmm", "Therefore")
    }
    repairs = {key for key, token in zip(keys, steps["token"], strict=True) if token in ("Wait", "Hmm")}
    row = table.loc[(-1, "thinking tokens", "planted repairs")]
    assert row["jaccard"] == pytest.approx(len(repairs) / len(thinking))
    assert row["lift"] == pytest.approx(len(keys) / len(thinking))
    layer = mi[mi["layer"] == 2]
    peaks = {
        key
        for key, peak in zip(zip(layer["problem"], layer["step"], strict=True), layer["is_peak"], strict=True)
        if peak
    }
    row = table.loc[(2, "MI peaks", "thinking tokens")]
    both = len(peaks & thinking)
    assert row["both"] == both
    assert row["jaccard"] == pytest.approx(both / len(peaks | thinking))
    neither = len(keys) - len(peaks | thinking)
    assert row["odds_ratio"] == pytest.approx(both * neither / (len(peaks - thinking) * len(thinking - peaks)))
    assert row["lift_low"] <= row["lift"] <= row["lift_high"]
    deep = {key for key, is_deep in zip(keys, steps["is_deep"], strict=True) if is_deep}
    assert table.loc[(2, "MI peaks", "deep"), "both"] == len(peaks & deep)
    measures = result.tables["overlap_measures"].set_index(["layer", "measure"])
    spearman = [part["mi"].corr(part["r2"], method="spearman") for _, part in layer.groupby("problem", observed=True)]
    assert measures.loc[(2, "r2"), "spearman"] == pytest.approx(sum(spearman) / len(spearman))


def test_stability_compares_samples_of_a_problem_with_other_problems(tmp_path: Path) -> None:
    result = study("overlap", tmp_path, n=4, temperature=1.0, samples=2, measures="r2", depth="false", draws="100")
    (baseline,) = (tmp_path / "baselines").iterdir()
    mi = Run.open(baseline).mi
    mi = mi[(mi["layer"] == 2) & mi["is_peak"]]
    tokens = {key: set(part["token_id"]) for key, part in mi.groupby(["problem", "sample"], observed=True)}
    expected = [
        len(tokens[p, a] & tokens[p, b]) / len(tokens[p, a] | tokens[p, b])
        for p in dict.fromkeys(p for p, _ in tokens)
        for a, b in combinations([0, 1], 2)
        if (p, a) in tokens and (p, b) in tokens
    ]
    table = result.tables["overlap_stability"].set_index(["layer", "set"])
    assert table.loc[(2, "MI peaks"), "same_problem"] == pytest.approx(sum(expected) / len(expected))
    assert table.loc[(2, "MI peaks"), "problems"] == len(expected)


def test_running_values_are_the_planted_ones() -> None:
    """At each written value of sampled traces, the value is the right one of the operation as it is written."""
    rng, checked = Random(0), 0
    for question in held_out_questions(40):
        written = sample_trace(question, rng)
        values = running_values(written.tokens)
        for step in written.steps:
            assert values[step.start_at] == step.right
            assert values[step.value_at] == step.right
            if step.repair_at is not None and written.tokens[step.repair_at] == "Wait":
                assert values[step.repair_at] == step.right
            checked += 1
    assert checked > 200
    assert running_values(sample_trace(Question(3, (("+", 4),)), rng).tokens)[-1] is None, "the answer is stated"


def test_answers_of_many_kinds_are_refused_unless_they_are_numbers() -> None:
    target = label_answers("answer", [f"{k}" for k in range(30)] + ["1,234", "x"], most=10)
    assert target.grouped
    assert target.labels.tolist()[-2:] == [4, -1]
    with pytest.raises(InputError, match="30 different answers, 0 of 30 whole numbers"):
        label_answers("answer", [f"city {chr(65 + k)}" for k in range(30)], most=10)


def test_event_words_are_among_the_thinking_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="event_words among the thinking words"):
        study("information", tmp_path, n=4, event_words="Banana")


def test_a_kernel_size_grid_comes_from_the_trace(tmp_path: Path) -> None:
    """A run asked for several bandwidths has a column for each, and the median heuristic is its own."""
    run = trace(
        "toy-reasoner", n=1, out=tmp_path, max_new_tokens=20, sigma="median", probes=("nhsic@50", "nhsic@median")
    )
    mi = run.mi
    assert (mi["nhsic@median"] - mi["mi"]).abs().max() < 1e-3
    assert not math.isclose(mi["nhsic@50"].mean(), mi["mi"].mean(), rel_tol=0.05)

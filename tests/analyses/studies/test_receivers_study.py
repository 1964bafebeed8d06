"""The study of receiver heads: heads and numbers by literal loops, found on some problems and judged on others."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from analyses.attribution import receiver_heads
from analyses.problems import bundled_problems
from analyses.stats import holm
from analyses.store import Run
from analyses.store.run import Cell
from analyses.studies import make_study
from analyses.studies.base import StudyResult
from analyses.studies.calibration import Calibration
from analyses.studies.planted import planted_line
from analyses.studies.run import run_study
from analyses.thinking import thinking_words
from analyses.toys.task import held_out_questions, sample_trace
from analyses.toys.written import written_operations
from analyses.trace.tables import responses_table
from interp import InputError, decode, load_model
from interp.interventions import HeadAblate

N, LIMIT = 10, 90
OPTIONS = {"counts": "2", "draws": "2"}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    folder = tmp_path_factory.mktemp("receivers")
    how = {"n": N, "max_new_tokens": LIMIT, "calibrate": 6, "batch_size": 48}
    return run_study(make_study("receivers", OPTIONS), out=folder / "receivers", **how)


def test_heads_are_found_on_other_problems_than_they_are_judged_on(result: StudyResult) -> None:
    values = result.run.settings["calibration"]["values"]
    found_on = [f"toy-{n:03d}" for n in (0, 2, 4)]
    assert values["found_on"] == found_on
    baseline = Run.open(next((result.run.path.parent / "baselines").iterdir()))
    model = load_model("toy-reasoner")
    questions = [problem.question for problem in bundled_problems(6)[::2]]
    rollouts = decode(model, questions, max_new_tokens=LIMIT)
    assert [r.tokens for r in rollouts] == [baseline.read(Cell(problem)).payload["tokens"] for problem in found_on]
    expected = receiver_heads(model, rollouts, thinking_words(model), problems=found_on)
    assert values["heads"] == [list(head) for head in expected.heads(2, at_most=2)]
    assert set(result.tables["receivers_responses"]["problem"]).isdisjoint(found_on)
    assert result.tables["receivers_draws"]["n"].eq(N - 3).all()
    for count, drawn in values["controls"].items():
        for some in drawn:
            mine = values["heads"][: int(count)]
            assert sorted(layer for layer, _ in some) == sorted(layer for layer, _ in mine)
            assert not [head for head in some if head in mine]


def test_cells_are_decoded_without_the_heads(result: StudyResult) -> None:
    """By hand, with means of plain steps of the responses that heads were found on."""
    values = result.run.settings["calibration"]["values"]
    heads = [tuple(head) for head in values["heads"][:2]]
    calibration, model = Calibration.read(result.run.path), load_model("toy-reasoner")
    assert calibration is not None
    question = bundled_problems(2)[1].question
    means = {head: calibration.tensor(f"mean.{head[0]}.{head[1]}") for head in heads}
    for how, edit in (("zero", HeadAblate(heads)), ("mean", HeadAblate(heads, "mean", means))):
        by_hand = decode(model, [question], max_new_tokens=LIMIT, interventions=edit)[0]
        assert result.run.read(Cell("toy-001", condition=f"{how}-receivers-2-0")).payload["tokens"] == by_hand.tokens


def test_the_table_is_what_the_cells_say(result: StudyResult) -> None:
    run, baseline = result.run, Run.open(next((result.run.path.parent / "baselines").iterdir()))
    words = {i for ids in thinking_words(load_model("toy-reasoner")).values() for i in ids}
    problems = [problem for n, problem in enumerate(bundled_problems(N)) if n % 2 or n >= 6]

    grades = {}
    for held in (run, baseline):
        for row in responses_table(held).to_dict("records"):
            grades[Cell(row["problem"], row["sample"], condition=row["condition"])] = row["correct"]

    def measured(cell: Cell, measure: str) -> float:
        held = (baseline if cell.condition == "baseline" else run).read(cell)
        tokens = held.payload["tokens"]
        if measure == "thinking words":
            return 100 * sum(i in words for i in held.tensors["token_ids"].tolist()) / len(tokens)
        if measure == "accuracy":
            return float(grades[cell])
        written = written_operations(tokens)
        slips = [one.is_repaired for one in written if one.is_slip]
        ordinary = [one.is_right for one in written if one.is_ordinary]
        return float(np.mean(found)) if (found := slips if measure == "repair rate" else ordinary) else float("nan")

    table = result.table
    assert set(table["measure"]) == {"accuracy", "repair rate", "ordinary steps", "thinking words"}
    assert set(table["heads"]) == {2}
    for row in table.to_dict("records"):
        names = [
            f"{row['how']}-receivers-{row['heads']}-0",
            *(f"{row['how']}-control-{row['heads']}-{n}" for n in (0, 1)),
        ]
        values = np.array([[measured(Cell(p.id, condition=name), row["measure"]) for p in problems] for name in names])
        control = np.array([np.nan if np.isnan(two).all() else np.nanmean(two) for two in values[1:].T])
        both = ~np.isnan(values[0]) & ~np.isnan(control)
        assert row["n"] == both.sum()
        assert row["receivers"] == pytest.approx(values[0][both].mean())
        assert row["control"] == pytest.approx(control[both].mean())
        assert row["difference"] == pytest.approx((values[0] - control)[both].mean(), abs=1e-12)
    np.testing.assert_allclose(table["p_holm"], holm(table["p"]))
    assert "every second of the problems that calibrate" in result.readings[0]
    assert len(result.figures) == 2


def test_the_planted_line_is_of_untouched_responses(result: StudyResult) -> None:
    line = planted_line(result, bundled_problems(N))
    assert line.startswith(
        "*planted: which head does what came of training; what an untouched response does is planted"
    )
    assert line.endswith("Found.*")
    assert "NOT" not in line


def test_operations_of_a_training_trace_are_those_of_its_own_truth() -> None:
    slips = ordinary = dropped = 0
    for question in held_out_questions(40):
        trace = sample_trace(question, Random(0))
        written = written_operations(trace.tokens)
        slips += sum(one.is_slip for one in written)
        ordinary += sum(one.is_ordinary for one in written)
        truth = {step.value_at: step for step in trace.steps}
        assert {one.at for one in written} == set(truth)
        for one in written:
            step = truth[one.at]
            assert (one.kind, one.is_right) == (step.kind, step.written == step.right)
            assert one.is_repaired == (not one.is_right and step.repair_at is not None)
        dropped += sum(one.is_dropped for one in written)
    assert slips > 20
    assert ordinary > 60
    assert dropped, "what goes on from a slip before it is repaired comes to nothing"


@pytest.mark.parametrize(
    ("options", "said"),
    [({"by": "letters"}, "by as one of words, peaks, sentences"), ({"layers": "7"}, "layers from 0 to 2")],
)
def test_wrong_options_are_refused(options: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        run_study(make_study("receivers", options), n=4, out=tmp_path / "r", max_new_tokens=20)


def test_one_problem_leaves_none_to_judge_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="problems beyond those that heads are found on"):
        run_study(make_study("receivers", {}), n=1, out=tmp_path / "r", max_new_tokens=20)


@pytest.mark.parametrize("by", ["peaks", "sentences"])
def test_heads_of_peaks_and_of_sentences(by: str, result: StudyResult, tmp_path: Path) -> None:
    options = {"by": by, "counts": "1", "draws": "1", "how": "zero", "gap": "2"}
    shared = result.run.path.parent / "baselines"
    how = {"n": 4, "max_new_tokens": LIMIT, "calibrate": 6, "baselines": shared}
    made = run_study(make_study("receivers", options), out=tmp_path / "r", **how)
    column = {"peaks": "on_matched", "sentences": "above_null"}[by]
    assert made.tables["receivers_heads"][column].notna().any()
    assert made.table["n"].max() == 2

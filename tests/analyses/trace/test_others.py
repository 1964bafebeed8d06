"""The excess of a trace: other answers told by a literal loop, scores by plain Hugging Face and the dense formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from processes import Command
from references import hf_residuals, literal_scores

from analyses.problems import Problem, bundled_problems
from analyses.report.resembling import excess_sentence, explained_sentence, resemblances
from analyses.report.summary import summary
from analyses.store import Cell, Run
from analyses.token_kinds import token_kind
from analyses.trace import others, trace
from analyses.trace.likeness import Likeness
from analyses.trace.others import OtherReferences
from analyses.trace.settings import TraceSettings
from analyses.trace.tracer import Tracer
from interp import InputError, bundled_model_path, load_model
from probes import tukey_peaks

SMALL = {"max_new_tokens": 24, "batch_size": 4, "report": False}
COLUMNS = ["excess", "excess_standardised", "is_excess_peak"]


@pytest.fixture(scope="module")
def model() -> object:
    return load_model("toy-reasoner", device="cpu")


@pytest.fixture(scope="module")
def run(model: object, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trace(model, n=3, out=tmp_path_factory.mktemp("others") / "run", excess=6, **SMALL)


@pytest.fixture(scope="module")
def residuals() -> Callable[[list[int]], torch.Tensor]:
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(bundled_model_path("toy-reasoner"), attn_implementation="eager").eval()
    return lambda ids: hf_residuals(hf, ids)["resid_post"]


def grid(run: Run, problem: str, column: str) -> np.ndarray:
    rows = run.mi[run.mi["problem"] == problem]
    return rows.pivot(index="layer", columns="step", values=column).to_numpy(dtype=float)


def test_the_excess_is_what_the_literal_formula_gives(
    run: Run, model: object, residuals: Callable[[list[int]], torch.Tensor]
) -> None:
    """References through Hugging Face one by one, scored by the dense formula, mean and sd by numpy."""
    tokenizer, problem = model.tokenizer, bundled_problems(2)[1]  # type: ignore[attr-defined]
    data = run.read(Cell(problem.id, 0))
    known = {p.id: p for p in bundled_problems(60)}
    drawn = [known[name] for name in data.payload["excess_problems"]]
    assert len({p.solution for p in drawn}) == 6
    assert all(p.answer != problem.answer and p.solution.split()[-1].isdigit() for p in drawn)
    prompt, response = data.tensors["prompt_ids"].tolist(), data.tensors["token_ids"].tolist()
    steps = residuals(prompt + response)[:, len(prompt) - 1 : -1]

    def stream(one: Problem) -> torch.Tensor:
        return residuals(tokenizer(one.solution)["input_ids"])[:, -1]

    scores = literal_scores(steps, torch.stack([stream(problem), *map(stream, drawn)], dim=1)).numpy()
    own, theirs = scores[:, 0], np.moveaxis(scores[:, 1:], 1, 0)
    np.testing.assert_allclose(grid(run, problem.id, "mi"), own, atol=1e-4, rtol=1e-3)
    np.testing.assert_allclose(grid(run, problem.id, "excess"), own - theirs.mean(axis=0), atol=2e-4, rtol=1e-2)
    sd = theirs.std(axis=0, ddof=1)
    clear = sd > 1e-3 * own.max()  # where the rounding of float32 residuals does not carry the spread
    assert clear.mean() > 0.5
    standardised = (own - theirs.mean(axis=0)) / sd
    found = grid(run, problem.id, "excess_standardised")
    np.testing.assert_allclose(found[clear], standardised[clear], atol=0.05, rtol=0.02)
    rows = run.peaks[run.peaks["problem"] == problem.id].set_index("layer")
    for layer in range(3):
        gaps = np.abs(theirs[:, layer] - own[layer]).min(axis=0)
        share = (theirs[:, layer] >= own[layer]).mean(axis=0)
        unsure = (gaps < 1e-3 * own.max()).mean()
        assert rows.loc[layer, "as_high"] == pytest.approx(share.mean(), abs=unsure + 1e-9)
        marked = tukey_peaks(torch.tensor(found[layer]))
        assert grid(run, problem.id, "is_excess_peak")[layer].astype(bool).tolist() == marked.tolist()
        assert rows.loc[layer, "n_excess_peaks"] == int(marked.sum())


def test_the_own_score_is_that_of_a_trace_without(run: Run, model: object, tmp_path: Path) -> None:
    without = trace(model, n=3, out=tmp_path, excess=0, **SMALL)
    np.testing.assert_allclose(without.mi["mi"], run.mi["mi"], rtol=1e-9, atol=1e-12)
    assert not set(COLUMNS) & set(without.mi.columns)
    assert not {"n_excess_peaks", "as_high"} & set(without.peaks.columns)
    assert not (tmp_path / "others.jsonl").exists()
    again = trace(model, n=3, out=tmp_path, **SMALL)
    assert "excess" not in again.settings, "a run that was begun without stays without unless it is asked"


def test_asked_later_or_for_more_layers_or_grown_it_is_the_same(run: Run, model: object, tmp_path: Path) -> None:
    later = tmp_path / "later"
    trace(model, n=2, out=later, excess=0, **SMALL)
    asked = trace(model, n=3, out=later, excess=6, **SMALL)
    few = tmp_path / "few"
    trace(model, n=2, out=few, layers=[2], excess=6, **SMALL | {"batch_size": 1})
    grown = trace(model, n=3, out=few, **SMALL)  # what was asked stays asked
    for found in (asked, grown):
        assert (
            found.read(Cell("toy-001", 0)).payload["excess_problems"]
            == (run.read(Cell("toy-001", 0)).payload["excess_problems"])
        )
        np.testing.assert_allclose(found.mi["excess"], run.mi["excess"], atol=1e-4)
        assert (found.mi["is_excess_peak"] != run.mi["is_excess_peak"]).mean() < 0.01
        pd.testing.assert_series_equal(found.peaks["n_after_kind"], run.peaks["n_after_kind"])
    with pytest.raises(InputError, match=r"expected the 6 references .* received excess=7\. Leave it out"):
        trace(model, n=3, out=few, excess=7, **SMALL)
    (few / "others.jsonl").unlink()
    with pytest.raises(InputError, match=r"others\.jsonl with the problems .* received no such file"):
        trace(model, n=4, out=few, **SMALL)


def test_other_measures_are_asked_beside_it(run: Run, model: object, tmp_path: Path) -> None:
    both = trace(model, n=3, out=tmp_path, excess=6, probes=("r2",), **SMALL)
    assert_frame_equal(both.mi[COLUMNS], run.mi[COLUMNS])
    assert both.mi["r2"].notna().all()


@pytest.mark.usefixtures("quick_processes")
def test_two_processes_find_the_same(run: Run, model: object, tmp_path: Path) -> None:
    parted = trace(model, n=3, out=tmp_path, excess=6, workers=2, **SMALL | {"batch_size": 2})
    np.testing.assert_allclose(parted.mi["excess"], run.mi["excess"], atol=1e-4)


def problem(name: str, solution: str, answer: str) -> Problem:
    return Problem(id=name, question="4 A + 9 ? ->", solution=solution, answer=answer)


def alike(model: object, own: Problem, pool: list[Problem], count: int) -> tuple[str, ...]:
    tracer = Tracer(model, [own], TraceSettings(max_new_tokens=4))  # type: ignore[arg-type]
    return OtherReferences(tracer, pool, count).drawn(own.id).problems


def test_others_are_other_answers_of_the_same_kind_of_end(model: object) -> None:
    own = problem("own", "Therefore 4", "4")
    pool = [
        problem("same", "is 4", "4.0"),
        problem("stop", "is 7 .", "7"),
        problem("word", "is 7 now", "7"),
        *(problem(f"digit-{k}", f"is {k}", str(k)) for k in (5, 6, 7)),
    ]
    assert sorted(alike(model, own, pool, 9)) == ["digit-5", "digit-6", "digit-7"], "as many as there are"
    assert len(alike(model, own, pool, 2)) == 2
    assert set(alike(model, own, pool, 2)) <= {"digit-5", "digit-6", "digit-7"}
    assert alike(model, own, pool[:3], 9) == ()


def test_nearly_one_set_serves_all_problems_whatever_their_order(model: object) -> None:
    problems = bundled_problems(80)
    tracer = Tracer(model, problems[:20], TraceSettings(max_new_tokens=4))  # type: ignore[arg-type]
    drawn = OtherReferences(tracer, problems, 12)
    sets = [drawn.drawn(one.id).problems for one in problems[:20]]
    assert all(len(names) == 12 for names in sets)
    assert len({name for names in sets for name in names}) < 24
    backwards = Tracer(model, problems[19::-1], TraceSettings(max_new_tokens=4))  # type: ignore[arg-type]
    again = OtherReferences(backwards, problems[::-1], 12)
    assert [again.drawn(one.id).problems for one in problems[19::-1]] == sets[::-1]


def test_without_any_other_the_excess_is_undefined_and_told(model: object, tmp_path: Path) -> None:
    alone = trace(model, bundled_problems(1), tmp_path, **SMALL)
    assert alone.mi[["excess", "excess_standardised"]].isna().all(axis=None)
    assert not alone.mi["is_excess_peak"].any()
    assert (alone.peaks["n_others"] == 0).all()
    assert alone.peaks["as_high"].isna().all()
    assert summary(alone)["resembles"]["others"] == {"references": 20, "responses": 1, "fewer": 1, "undefined": 1}
    json.dumps(summary(alone), allow_nan=False)
    assert "1 of 1 response had fewer than 20" in excess_sentence(alone.peaks, alone.settings["excess"], 2)


def test_factors_that_do_not_fit_are_made_anew(
    run: Run, model: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(others, "MAX_BYTES", 1)
    monkeypatch.setattr(others, "_AT_ONCE", 1)
    small = trace(model, n=3, out=tmp_path, excess=6, **SMALL)
    np.testing.assert_allclose(small.mi["excess"], run.mi["excess"], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("asked", [1, -1])
def test_too_few_for_a_spread_are_refused(model: object, tmp_path: Path, asked: int) -> None:
    with pytest.raises(InputError, match="expected excess 0, or at least 2 references"):
        trace(model, n=1, out=tmp_path / "x", excess=asked, **SMALL)
    assert not (tmp_path / "x").exists()


# What a peak resembles


def test_steps_and_peaks_are_counted_by_what_was_read(run: Run) -> None:
    """By the texts of mi.parquet and of the questions alone."""
    solutions = {p.id: p for p in bundled_problems(3)}
    for (name, layer), rows in run.mi.groupby(["problem", "layer"], observed=True):
        end = solutions[name].solution.split()[-1]
        first = solutions[name].question.split()[-1]
        read = [first, *rows["token"].tolist()[:-1]]
        kind = [token_kind(token) == token_kind(end) for token in read]
        row = run.peaks[(run.peaks["problem"] == name) & (run.peaks["layer"] == layer)].iloc[0]
        assert (row["reference_token"], row["reference_kind"]) == (end, "digit")
        assert row["n_after_token"] == sum(token == end for token in read)
        assert row["n_after_kind"] == sum(kind)
        assert row["n_peaks_after_kind"] == sum(k and p for k, p in zip(kind, rows["is_peak"], strict=True))
        both = zip(kind, rows["is_excess_peak"], strict=True)
        assert row["n_excess_peaks_after_kind"] == sum(k and p for k, p in both)


def counts(peaks_after: int, others_high: float = 0.5, problems: int = 8) -> pd.DataFrame:
    """Ten peaks of a hundred steps in each of some problems, twenty steps after a digit."""
    return pd.DataFrame(
        {
            "problem": [f"p{k}" for k in range(problems)], "sample": 0, "layer": 4, "n_steps": 100, "n_peaks": 10,
            "reference_token": "7", "reference_kind": "digit", "n_after_token": 3, "n_after_kind": 20,
            "n_peaks_after_token": 2, "n_peaks_after_kind": peaks_after, "n_others": 30, "n_excess_peaks": 3,
            "n_excess_peaks_after_kind": 1, "as_high": 0.5, "as_high_at_peaks": others_high,
        }
    )  # fmt: skip


def test_a_layer_is_explained_where_nearly_all_peaks_follow_that_kind() -> None:
    assert [one.explained for one in resemblances(counts(10))] == [True]
    assert [one.explained for one in resemblances(counts(8))] == [False]
    everywhere = counts(10).assign(n_after_kind=100)
    assert [one.explained for one in resemblances(everywhere)] == [False], "all steps follow one"
    said = explained_sentence(counts(10))
    assert "At every layer nearly all peaks have just read a digit" in said
    assert "100.0 % [" in said.replace("\u202f", " ")
    assert "20.0 % of all steps" in said.replace("\u202f", " ")
    assert explained_sentence(counts(8)) == ""
    two = pd.concat([counts(10), counts(5).assign(layer=9)])
    assert explained_sentence(two).startswith("At layer 4 nearly all peaks")


def test_the_interval_has_problems_as_clusters() -> None:
    """Eight problems whose peaks are all or none after a digit say as much as eight peaks, not eighty."""
    frame = counts(10).assign(n_peaks_after_kind=[10, 0] * 4)
    found = resemblances(frame)[0].after_kind
    assert found is not None
    assert (found.estimate, found.n) == (0.5, 8)
    assert found.high - found.low > 0.5


def test_shares_are_means_over_peaks_not_over_responses() -> None:
    frame = counts(5, problems=2).assign(n_peaks=[1, 9], n_peaks_after_kind=[1, 4], as_high_at_peaks=[1.0, 0.0])
    assert resemblances(frame)[0].as_high_at_peaks == pytest.approx(0.1)
    assert resemblances(frame)[0].after_kind.estimate == pytest.approx(0.5)  # type: ignore[union-attr]


def test_a_run_of_an_earlier_version_says_nothing(run: Run) -> None:
    data = run.read(Cell("toy-000", 0))
    payload = {k: v for k, v in data.payload.items() if k != "reference_end"}
    peaks = tukey_peaks(data.tensors["mi"])
    old = Likeness(None, asked_excess=False).columns(type(data)(data.tensors, payload), peaks, None)
    assert old["n_after_kind"] == [None] * 3
    frame = pd.DataFrame({"problem": "a", "layer": range(3), **old})
    assert resemblances(frame) == []
    assert (explained_sentence(frame), excess_sentence(frame, None, 2)) == ("", "")


def test_the_command_says_it(tmp_path: Path, peaklens: Command) -> None:
    words = "--n 6 --max-new-tokens 24 --excess 8 --out"
    code, out, said = peaklens("trace", *words.split(), str(tmp_path))
    assert code == 0, said
    assert "Peaks of layer 2: Right after a digit" in out
    assert "of 8 other answers' references score at least as high" in out
    facts = json.loads(peaklens("trace", *words.split(), str(tmp_path), "--json")[1])
    assert facts["resembles"]["reference_kinds"] == {"digit": 6}
    assert facts["resembles"]["others"]["references"] == 8
    page = (tmp_path / "report.html").read_text()
    assert "What peaks resemble" in page
    assert "--excess 8" in page

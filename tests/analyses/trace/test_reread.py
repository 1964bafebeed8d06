"""What finished responses are asked beside nHSIC, against plain Hugging Face residuals and literal formulas."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal
from processes import Command
from references import hf_residuals, literal_scores
from scipy.spatial.distance import jensenshannon

from analyses.problems import bundled_problems
from analyses.report import report
from analyses.report.summary import null_sentence, summary
from analyses.store import Cell, Run
from analyses.trace import trace
from analyses.trace.probing import Probing
from analyses.trace.provenance import RunWarning
from interp import InputError, bundled_model_path, load_model
from probes import nhsic_dense

SMALL = {"max_new_tokens": 24, "batch_size": 4, "excess": 0, "report": False}
POOL = bundled_problems(200)  # a tenth of all, which are the pool unless one is given
ASKED = {"probes": ("nhsic", "r2", "cosine", "nhsic@median", "r2/drop4", "dtr"), "null": 59, "pool": POOL}


@pytest.fixture(scope="module")
def model() -> object:
    return load_model("toy-reasoner", device="cpu")


@pytest.fixture(scope="module")
def run(model: object, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trace(model, n=3, out=tmp_path_factory.mktemp("reread") / "run", **SMALL, **ASKED)


class Plain:
    """Everything again with Hugging Face alone: residual streams of steps and of any problem's reference."""

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        path = bundled_model_path("toy-reasoner")
        self.hf = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)

    def residuals(self, ids: list[int]) -> torch.Tensor:
        return hf_residuals(self.hf, ids)["resid_post"]

    def steps(self, run: Run, problem: str) -> torch.Tensor:
        tensors = run.read(Cell(problem, 0)).tensors
        prompt = tensors["prompt_ids"].tolist()
        return self.residuals(prompt + tensors["token_ids"].tolist())[:, len(prompt) - 1 : -1]

    def answer(self, solution: str) -> torch.Tensor:
        return self.residuals(self.tokenizer(solution)["input_ids"])[:, -1]


@pytest.fixture(scope="module")
def plain() -> Plain:
    return Plain()


def grid(frame: pd.DataFrame, problem: str, column: str) -> np.ndarray:
    rows = frame[frame["problem"] == problem]
    return rows.pivot(index="layer", columns="step", values=column).to_numpy(dtype=float)


def test_p_values_are_what_the_literal_formula_gives(run: Run, plain: Plain) -> None:
    """Wrong answers run through Hugging Face one by one, scored by the dense formula, counted in a loop."""
    problem = bundled_problems(2)[1]
    drawn = run.read(Cell(problem.id, 0)).payload["null_problems"]
    solutions = {p.id: p.solution for p in bundled_problems(2000)}
    assert len(set(drawn)) == 59
    assert problem.id not in drawn
    ends = {solutions[name].split()[-1] for name in drawn}
    assert problem.answer not in ends, "the reference ends on the answer: one that ends on the same is right"
    assert ends <= set("0123456789")
    assert {solutions[name].split()[-2] for name in drawn} == {problem.solution.split()[-2]}, "the token before"
    steps = plain.steps(run, problem.id)
    answers = torch.stack([plain.answer(problem.solution), *(plain.answer(solutions[name]) for name in drawn)], dim=1)
    true, *rest = np.moveaxis(literal_scores(steps, answers).numpy(), 1, 0)
    wrong = np.stack(rest)
    mi = run.mi
    step_p, family_p = grid(mi, problem.id, "p_step"), grid(mi, problem.id, "p_family")
    layers, n_steps = true.shape
    clear = 0
    for layer in range(layers):
        highest = [max(wrong[k, layer]) for k in range(59)]
        for t in range(n_steps):
            # A rank is only told where no wrong answer lies within the rounding of float32 residuals.
            gaps = np.abs(np.append(wrong[:, layer, t], highest) - true[layer, t])
            if gaps.min() > 1e-3 * max(true[layer, t], 1e-3):
                clear += 1
                assert step_p[layer, t] == pytest.approx((1 + sum(wrong[:, layer, t] >= true[layer, t])) / 60)
                assert family_p[layer, t] == pytest.approx((1 + sum(h >= true[layer, t] for h in highest)) / 60)
    assert clear > 0.5 * layers * n_steps
    np.testing.assert_allclose(grid(mi, problem.id, "null_mean"), wrong.mean(axis=0), atol=1e-4, rtol=1e-3)
    np.testing.assert_allclose(grid(mi, problem.id, "null_sd"), wrong.std(axis=0, ddof=1), atol=1e-4, rtol=1e-2)


def test_other_measures_are_what_their_formulas_give(run: Run, plain: Plain) -> None:
    problem = bundled_problems(1)[0]
    steps, answer = plain.steps(run, problem.id).double(), plain.answer(problem.solution).double()
    mi = run.mi
    for layer in range(3):
        x, y = steps[layer].numpy(), answer[layer].numpy()
        r2 = [np.corrcoef(row, y)[0, 1] ** 2 for row in x]
        np.testing.assert_allclose(grid(mi, problem.id, "r2")[layer], r2, atol=1e-5)
        cosine = x @ y / np.linalg.norm(x, axis=1) / np.linalg.norm(y)
        np.testing.assert_allclose(grid(mi, problem.id, "cosine")[layer], cosine, atol=1e-5)
        kept = np.argsort(-np.abs(y))[4:]
        dropped = [np.corrcoef(row[kept], y[kept])[0, 1] ** 2 for row in x]
        np.testing.assert_allclose(grid(mi, problem.id, "r2/drop4")[layer], dropped, atol=1e-5)
    median = nhsic_dense(steps, answer, sigma="median").numpy()
    np.testing.assert_allclose(grid(mi, problem.id, "nhsic@median"), median, atol=1e-3, rtol=1e-3)


def test_depth_is_what_the_dense_readout_gives(run: Run, plain: Plain) -> None:
    problem = bundled_problems(1)[0]
    steps = plain.steps(run, problem.id)
    with torch.no_grad():
        p = plain.hf.lm_head(plain.hf.model.norm(steps)).double().softmax(-1).numpy()
    divergence = jensenshannon(p, p[-1:], axis=-1, base=2) ** 2
    settled = [
        1 + next(layer for layer in range(3) if divergence[: layer + 1, t].min() <= 0.5) for t in range(p.shape[1])
    ]
    found = run.steps[run.steps["problem"] == problem.id]
    assert found["settled"].tolist() == settled
    assert found["is_deep"].tolist() == [layer >= 3 for layer in settled], "ceil(0.85 * 3) = 3"
    assert 0 < found["is_deep"].mean() < 1, "both kinds occur"


def test_what_is_significant_follows_from_the_p_values(run: Run) -> None:
    mi, peaks = run.mi, run.peaks.set_index(["problem", "layer"])
    assert (mi["is_significant"] == (mi["p_holm"] <= 0.05)).all()
    assert (mi["p_holm"] >= mi["p_family"]).all()
    assert (mi["p_family"] >= mi["p_step"]).all()
    assert mi["p_step"].between(1 / 60, 1).all()
    counted = (mi["is_peak"] & mi["is_significant"]).groupby([mi["problem"], mi["layer"]], observed=True).sum()
    for key, count in counted.items():
        assert peaks.loc[key, "n_significant"] == count
    assert (peaks["null_floor"] > 0).all()


def test_asked_later_is_asked_at_once(run: Run, model: object, tmp_path: Path) -> None:
    trace(model, n=3, out=tmp_path, **SMALL)
    assert "p_step" not in Run.open(tmp_path).mi
    trace(model, n=3, out=tmp_path, **SMALL, probes=("r2",))
    later = trace(model, n=3, out=tmp_path, **SMALL, **ASKED)
    for name in ("mi.parquet", "peaks.parquet", "steps.parquet"):
        assert_frame_equal(later.table(name), run.table(name))
    again = trace(model, n=3, out=tmp_path, **SMALL)  # what was asked stays asked
    assert_frame_equal(again.mi, run.mi)
    with pytest.raises(InputError, match=r"settings\.null\.null is 59 there and 99 now"):
        trace(model, n=3, out=tmp_path, **SMALL, null=99, pool=POOL)


def test_a_response_added_later_is_asked_the_same(run: Run, model: object, tmp_path: Path) -> None:
    trace(model, n=2, out=tmp_path, layers=[0, 1], **SMALL, **ASKED)
    grown = trace(model, n=3, out=tmp_path, **SMALL)
    pd.testing.assert_frame_equal(grown.steps, run.steps, check_exact=False, atol=1e-4)
    assert grown.mi.notna().all(axis=None), "nothing is left undefined"
    one, other = (frame.set_index(["problem", "layer", "step"])["p_family"] for frame in (grown.mi, run.mi))
    # A layer added later is scored from residuals of another batch: a rank may move by one, not more.
    assert (one - other).abs().max() <= 0.05 + 1e-12


def test_stopped_half_way_the_rest_is_read(
    run: Run, model: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analyses.trace import reread

    done = []
    found = reread.Rereader._found

    def stop_at_the_second(self, cell, data):  # type: ignore[no-untyped-def]
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(cell)
        return found(self, cell, data)

    monkeypatch.setattr(reread.Rereader, "_found", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        trace(model, n=3, out=tmp_path, **SMALL, **ASKED)
    monkeypatch.undo()
    resumed = trace(model, n=3, out=tmp_path, **SMALL, **ASKED)
    assert_frame_equal(resumed.mi, run.mi)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"probes": ("mutual",)}, "expected probes among nhsic, .*dtr, received 'mutual'"),
        ({"probes": ("r2@50",)}, "received 'r2@50'"),
        ({"probes": ("dtr/drop1",)}, "received 'dtr/drop1'"),
        ({"null": 5}, "at least 19 wrong answers, received 5"),
        ({"null": 99, "null_match": "first"}, "null_match among kind, none"),
        ({"null": 99, "null_statistic": "z"}, "null_statistic among score, standardised"),
    ],
)
def test_bad_questions_are_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Probing(**asked)


def test_too_few_wrong_answers_are_said_before_anything_is_decoded(model: object, tmp_path: Path) -> None:
    problems = bundled_problems(10)
    other = sum(problem.answer != problems[0].answer for problem in problems)
    with pytest.raises(InputError, match=f"expected 19 other problems to take wrong answers .* received {other} in"):
        trace(model, problems, tmp_path, **SMALL, null=19, layers=[0])
    assert not list(tmp_path.iterdir()), "nothing is pinned by a refused call"


def test_measures_that_do_not_fit_the_model_are_said_before_anything_is_decoded(model: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="drop_top from 0 to 126"):
        trace(model, n=1, out=tmp_path, **SMALL, probes=("r2/drop127",))
    with pytest.raises(ValueError, match="received 'wide'"):
        trace(model, n=1, out=tmp_path, **SMALL, probes=("nhsic@wide",))
    assert not list(tmp_path.iterdir()), "nothing is pinned by a refused call"


@pytest.mark.usefixtures("quick_processes")
def test_two_processes_find_the_same(run: Run, model: object, tmp_path: Path) -> None:
    trace(model, n=3, out=tmp_path, **SMALL)
    asked = trace(model, n=3, out=tmp_path, workers=2, **SMALL | {"batch_size": 2}, **ASKED)
    assert_frame_equal(asked.mi, run.mi)


def test_how_the_wrong_answers_are_matched_is_kept_and_said(run: Run) -> None:
    table = run.table("wrong_answers.parquet")
    ends = {p.id: p.answer for p in bundled_problems(2000)}
    for row in table.to_dict("records"):
        drawn = run.read(Cell(row["problem"], 0)).payload["null_problems"]
        assert row == {
            "problem": row["problem"], "sample": 0, "wrong_answers": 59, "token": 0, "before": 59, "kind": 0, "none": 0,
            "different_answers": len({ends[name] for name in drawn}),
        }  # fmt: skip
    assert len(table) == 3
    assert "deep-thinking ratio" in report([run])
    facts = summary(run)
    assert facts["null"]["matched"] == {"token": 0, "before": 177, "kind": 0, "none": 0}
    for said in (null_sentence(run, facts), report([run])):
        assert "as far as there are such. Of 177: 177 end on the same kind of token" in said


def test_a_null_too_small_for_so_many_layers_is_refused_before_anything_is_decoded(
    model: object, tmp_path: Path
) -> None:
    """K wrong answers allow no p below 1 / (K + 1), times the number of layers: closed form, at its edge."""
    said = (
        "trace: expected at least 59 wrong answers for 3 layers, so that a peak can reach p = 0.05 (Holm over layers), "
        "received null=58, with which no p is below 0.051. Give --null 59, or score fewer layers (--layers): 58 do for "
        "2."
    )
    with pytest.raises(InputError, match=re.escape(said)):
        trace(model, n=1, out=tmp_path / "a", **SMALL, null=58)
    assert not (tmp_path / "a").exists()
    assert (
        trace(model, n=1, out=tmp_path / "a", **SMALL, null=39, layers=[0, -1], pool=POOL).settings["null"]["null"]
        == 39
    )
    with pytest.raises(InputError, match="at least 39 wrong answers for 2 layers"):
        trace(model, n=1, out=tmp_path / "b", **SMALL, null=38, layers=[0, -1])


def test_a_run_that_outgrows_its_null_says_so(model: object, tmp_path: Path) -> None:
    trace(model, n=1, out=tmp_path, **SMALL, null=19, layers=[1], pool=POOL)
    with pytest.warns(RunWarning, match="has 19 wrong answers a response: with 3 layers .* That takes 59"):
        run = trace(model, n=1, out=tmp_path, **SMALL)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trace(model, n=1, out=tmp_path, **SMALL, null=19, pool=POOL)  # the command that it is going on with
    assert not [one for one in caught if "wrong answers" in str(one.message)]
    facts = summary(run)
    assert facts["null"]["smallest_p"] == pytest.approx(3 / 20)
    assert "None can with so few: 3 layers need at least 59 wrong answers." in null_sentence(run, facts)
    page = report([run])
    assert "Nothing can survive here" in page
    short = page[page.index("rp-headline") : page.index("All responses</h2>")]
    assert "Against 19 wrong answers a response" in short, "the verdict stands in what is said first"
    assert "None can with so few" in short


def test_the_command_asks_for_all_of_it(tmp_path: Path, peaklens: Command) -> None:
    words = "--n 2 --max-new-tokens 12 --null 59 --sigma median,100 --probes nhsic,r2,dtr --json"
    code, out, said = peaklens("trace", *words.split(), "--out", str(tmp_path))
    assert code == 0, said
    facts = json.loads(out)
    assert facts["null"]["wrong_answers"] == 59
    run = Run.open(tmp_path)
    assert {"r2", "nhsic@100", "p_step", "is_significant"} <= set(run.mi.columns)
    assert run.settings["sigma"] == "median"
    assert {"settled", "is_deep", "entropy"} <= set(run.steps.columns)

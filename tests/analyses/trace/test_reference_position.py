"""Where a reference is read: the answer found by hand, streams by plain Hugging Face, scores by the dense formula."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import Command
from references import hf_residuals, literal_scores
from tokenizer_makes import byte_level, metaspace, sentence_piece

from analyses.grading.places import answer_spans, final_span
from analyses.problems import Problem, bundled_problems
from analyses.report.positions import position_facts, position_rows, position_sentence
from analyses.report.summary import summary
from analyses.store import Cell, Run
from analyses.trace import trace
from analyses.trace.answer_steps import step_kinds
from analyses.trace.references import reference_from
from interp import InputError, bundled_model_path, encode, load_model
from interp.engines.base import ModelFacts
from interp.engines.registry import model_facts
from probes import tukey_peaks

SMALL = {"max_new_tokens": 74, "batch_size": 6, "report": False}
SHORT = SMALL | {"max_new_tokens": 20}
LAYER = 2


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("toy-reasoner", device="cpu")


@pytest.fixture(scope="module")
def residuals() -> Callable[[list[int]], torch.Tensor]:
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(bundled_model_path("toy-reasoner"), attn_implementation="eager").eval()
    return lambda ids: hf_residuals(hf, ids)["resid_post"]


@pytest.fixture(scope="module")
def last(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trace(model, n=6, out=tmp_path_factory.mktemp("last") / "run", excess=8, **SMALL)


@pytest.fixture(scope="module")
def predicts(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("predicts") / "run"
    return trace(model, n=6, out=out, excess=8, reference_position="predicts", **SMALL)


def grid(run: Run, problem: str, column: str) -> np.ndarray:
    rows = run.mi[run.mi["problem"] == problem]
    return rows.pivot(index="layer", columns="step", values=column).to_numpy(dtype=float)


# Where the answer stands


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("Natalia sold 48/2 = <<48/2=24>>24.\nIn all 48+24 = 72.\n#### 72", "72", "72|"),
        ("It costs 1,000 and 500, so 1,500.\n#### 1,500", "1500", "1,500|"),
        (r"We get $x = 5$, so $\boxed{5}$. (5 is odd.)", "5", "5}$. (5 is odd.)"),
        (r"Hence \boxed{\dfrac{3}{4}}.", r"\frac{3}{4}", r"\dfrac{3}{4}}."),
        ("The answer is -3, not 3 and not 13.", "-3", "-3, not 3 and not 13."),
        ("From 5-3 = 2 and -3 it is 3 of 30.", "3", "3 of 30."),
        ("So the answer is (C), that is Cold.", "C", "C), that is Cold."),
        ("It is 0.5 or 1.5, 50 of 15", "5", None),
        ("5 apples, 3.0 pears", "3", "3.0 pears"),
        ("Paris is in France, so Paris.", "paris", "Paris."),
        ("答案是巴黎。", "巴黎", "巴黎。"),
        ("x_7 and 7x", "7", None),
        ("no answer at all", "", None),
    ],
)
def test_the_final_answer_is_found_to_the_character(text: str, answer: str, expected: str | None) -> None:
    span = final_span(text, answer)
    if expected is None:
        assert span is None
        return
    assert span is not None
    begin, end = span
    assert text[begin:] == expected.removesuffix("|")
    assert not expected.endswith("|") or end == len(text)
    assert span in answer_spans(text, answer) or text[begin : begin + 2] == r"\d"


def wide(model: Any) -> ModelFacts:
    """The toy's dimensions, with a vocabulary that any of these tokenizers fits."""
    return replace(model_facts(model), d_vocab=1000)


def test_the_token_is_the_first_that_reaches_into_the_answer(model: Any) -> None:
    """For tokenizers of every make, one of them without offsets: by the tokens of the text before the answer."""
    from transformers import ByT5Tokenizer

    facts = wide(model)
    for tokenizer in (byte_level(), sentence_piece(), metaspace(), ByT5Tokenizer()):
        for text, answer in (("Hello word Wait", "Wait"), ("é so Wait. k", "k"), ("do do do Wait", "do")):
            found = reference_from(tokenizer, text, answer, facts, "test")
            at = text.rindex(answer)
            whole = list(tokenizer(text, add_special_tokens=False)["input_ids"])
            assert found.ids == whole
            # The longest run of tokens whose own text does not reach the answer
            texts = [tokenizer.decode(whole[: k + 1]) for k in range(len(whole))]
            literal = next(k for k, some in enumerate(texts) if len(some) > at)
            assert found.answer == literal, (type(tokenizer), text, answer)
            assert found.read("predicts") == whole[:literal]
            assert found.end("predicts") == (whole[literal], whole[literal - 1])
            assert found.end("last") == (whole[-1], whole[-2])


def test_a_token_that_holds_more_than_the_answer_counts(model: Any) -> None:
    """The space, or a sign, before the answer may be in its first token."""
    tokenizer = byte_level()
    facts = wide(model)
    found = reference_from(tokenizer, "so Wait", "Wait", facts, "test")
    assert tokenizer.convert_ids_to_tokens(found.ids) == ["s", "o", "ĠWa", "i", "t"]
    assert found.answer == 2
    within = reference_from(tokenizer, "so Wait", "ait", facts, "test")
    assert (within.answer, within.why[:29]) == (None, "the answer 'ait' is not in th")


# Scores at the position


def test_the_scores_are_those_of_the_literal_loop(
    predicts: Run, last: Run, model: Any, residuals: Callable[[list[int]], torch.Tensor]
) -> None:
    """The stream at the token before the answer, through Hugging Face; wrong answers one by one; dense formula."""
    problem = bundled_problems(2)[1]
    known = {p.id: p for p in bundled_problems(100)}
    tokenizer = model.tokenizer

    def stream(one: Problem) -> torch.Tensor:
        words = one.solution.split()
        assert words[-1] == one.answer, "the toy's solutions end on the answer"
        return residuals(tokenizer(one.solution)["input_ids"])[:, -2]

    for run, plain in ((predicts, True), (last, False)):
        data = run.read(Cell(problem.id, 0))
        names = data.payload["excess_problems"] if plain else data.payload["excess_beside"]["problems"]
        drawn = [known[name] for name in names]
        assert len(drawn) == len({p.solution for p in drawn}) == 8
        assert all(p.answer != problem.answer for p in drawn)
        prompt, response = data.tensors["prompt_ids"].tolist(), data.tensors["token_ids"].tolist()
        some = slice(None, None, 3)  # a dense formula takes its time
        steps = residuals(prompt + response)[:, len(prompt) - 1 : -1][:, some]
        scores = literal_scores(steps, torch.stack([stream(problem), *map(stream, drawn)], dim=1)).numpy()
        own, theirs = scores[:, 0], np.moveaxis(scores[:, 1:], 1, 0)
        if plain:
            np.testing.assert_allclose(grid(run, problem.id, "nhsic")[:, some], own, atol=1e-4, rtol=1e-3)
        end = "" if plain else "_predicts"
        np.testing.assert_allclose(
            grid(run, problem.id, f"excess{end}")[:, some], own - theirs.mean(axis=0), atol=2e-4, rtol=1e-2
        )
        sd = theirs.std(axis=0, ddof=1)
        clear = sd > 1e-3 * own.max()  # where the rounding of float32 residuals does not carry the spread
        assert clear.mean() > 0.5
        found = grid(run, problem.id, f"excess_standardised{end}")
        expected = (own - theirs.mean(axis=0)) / sd
        np.testing.assert_allclose(found[:, some][clear], expected[clear], atol=0.05, rtol=0.02)
        for row in range(3):
            peaks = grid(run, problem.id, f"is_excess_peak{end}")[row].astype(bool)
            assert peaks.tolist() == tukey_peaks(torch.tensor(found[row])).tolist()


def test_what_stands_beside_one_run_is_the_others_own(last: Run, predicts: Run) -> None:
    for column in ("excess", "excess_standardised", "is_excess_peak"):
        for mine, theirs, end in ((last, predicts, "last"), (predicts, last, "predicts")):
            own, beside = mine.mi[column].to_numpy(float), theirs.mi[f"{column}_{end}"].to_numpy(float)
            np.testing.assert_allclose(own, beside, rtol=1e-5, atol=1e-6)
    assert (last.settings["reference_position"], predicts.settings["reference_position"]) == ("last", "predicts")
    assert not np.allclose(last.mi["nhsic"], predicts.mi["nhsic"])


def test_asked_later_it_is_the_same(last: Run, model: Any, tmp_path: Path) -> None:
    trace(model, n=2, out=tmp_path, layers=[LAYER], excess=0, **SMALL)
    later = trace(model, n=2, out=tmp_path, layers=[LAYER], excess=8, null=20, pool=bundled_problems(80), **SMALL)
    rows = last.mi[(last.mi["layer"] == LAYER) & last.mi["problem"].isin(["toy-000", "toy-001"])]
    np.testing.assert_allclose(later.mi["excess_predicts"], rows["excess_predicts"], atol=1e-4)
    assert later.settings["excess"]["beside"] == "predicts"


def test_the_null_of_a_run_is_of_its_position(predicts: Run, model: Any, tmp_path: Path) -> None:
    """Wrong answers are read where they predict theirs: none scores as high where the right answer is about to be said.

    Over all steps one of them may: it resembles the step that is about to say it, on the way.
    """
    run = trace(model, n=6, out=tmp_path, layers=[LAYER], excess=0, null=19, pool=POOL, **SMALL | POSITION)
    rows = run.mi.merge(run.responses[["problem", "gold", "correct"]], on="problem")
    states = rows[rows["input_token"].isin(["Therefore", "answer"]) & rows["correct"].astype(bool)]
    assert len(states) >= 3
    assert (states["token"] == states["gold"]).all()
    np.testing.assert_allclose(states["p_step"], 1 / 20)
    assert (states["nhsic"] > states["null_mean"] + 5 * states["null_sd"]).all()
    drawn = run.table("wrong_answers.parquet")
    assert (drawn["token"].eq(0) & drawn["none"].eq(0)).all(), "a digit, which is the answer, is never the same"
    assert drawn["before"].gt(0).all(), "they begin their answer with a digit after the same word"


def test_a_reference_without_the_answer_is_told_of_or_refused(model: Any, tmp_path: Path) -> None:
    problems = bundled_problems(3)
    silent = Problem(id="silent", question=problems[0].question, solution="A 4 + 9 is 3 . then 7", answer="8")
    alone = Problem(id="alone", question=problems[1].question, solution="5", answer="5")
    given = [silent, alone, *problems[1:]]
    run = trace(model, given, tmp_path / "last", pool=bundled_problems(60), excess=8, **SHORT)
    assert not run.failures()
    for name in ("silent", "alone"):
        assert np.isnan(grid(run, name, "excess_standardised_predicts")).all()
        assert not grid(run, name, "is_excess_peak_predicts").any()
        assert np.isfinite(grid(run, name, "excess")).all()
    assert np.isfinite(grid(run, problems[2].id, "excess_predicts")).all()
    assert "'8' is not in the reference, which ends" in run.payload(Cell("silent"))["excess_beside"]["why"]
    assert "nothing stands before the answer" in run.payload(Cell("alone"))["excess_beside"]["why"]
    assert summary(run)["reference_positions"]["without"] == 2
    json.dumps(summary(run), allow_nan=False)
    strict = trace(model, given, tmp_path / "predicts", pool=bundled_problems(60), excess=8, **SHORT | POSITION)
    failed = {cell.problem: reason for cell, reason in strict.failures().items()}
    assert failed.keys() == {"silent", "alone"}
    assert re.search("expected a reference that says the answer .* received the answer '8' is not in", failed["silent"])
    assert set(strict.mi["problem"]) == {problems[1].id, problems[2].id}
    with pytest.raises(InputError, match=r"received the answer '8' is not in the reference, which ends .*then 7'"):
        trace(model, [silent], tmp_path / "none", **SHORT | POSITION)
    with pytest.raises(InputError, match="received reference answer, which has nothing before the answer"):
        trace(model, n=1, out=tmp_path / "none", reference="answer", **SHORT | POSITION)
    answers = trace(model, n=2, out=tmp_path / "answers", reference="answer", excess=4, **SHORT)
    assert "beside" not in answers.settings["excess"]
    assert not [name for name in answers.mi.columns if name.endswith("_predicts")]


POOL = bundled_problems(200)
POSITION = {"reference_position": "predicts"}


def test_a_run_of_an_earlier_version_is_last(model: Any, tmp_path: Path) -> None:
    """It pins no position and nothing beside: it goes on as it was, and not at the other position."""
    run = trace(model, n=1, out=tmp_path, excess=4, **SHORT)
    before = run.mi["nhsic"].to_numpy().copy()
    pinned = json.loads((tmp_path / "run.json").read_text())
    del pinned["settings"]["reference_position"], pinned["settings"]["excess"]["beside"]
    (tmp_path / "run.json").write_text(json.dumps(pinned))
    for cell in run.cells():
        data = run.read(cell)
        payload = {name: value for name, value in data.payload.items() if name != "excess_beside"}
        payload["excess"] = {name: value for name, value in payload["excess"].items() if name != "beside"}
        run.write(cell, {k: v for k, v in data.tensors.items() if "predicts" not in k}, payload)
    old = Run.open(tmp_path)
    assert old.settings["reference_position"] == "last"
    grown = trace(model, n=2, out=tmp_path, **SHORT)
    np.testing.assert_array_equal(grown.mi["nhsic"].to_numpy()[: len(before)], before)
    assert not [name for name in grown.mi.columns if name.endswith("_predicts")]
    assert all(list(row.excess) == ["last"] for row in position_rows(grown))
    with pytest.raises(InputError, match=r'settings.reference_position is "last" there and "predicts" now'):
        trace(model, n=2, out=tmp_path, **SHORT | POSITION)


# Which steps it points to


def test_steps_are_named_by_what_they_say_and_have_read() -> None:
    def told(tokens: list[str], gold: str, stated: str, text: str | None = None, part: str = "") -> list[str]:
        kinds = step_kinds(tokens, " ".join(tokens[:-1]) if text is None else text, gold, stated, part)
        return [f"{at} {kind}" for at, kind in enumerate(kinds) if kind != "other"]

    text = "A 5 * 1 is 5 ; B 5 + 3 is 8 Wait 15 . Therefore 5 . <eos>"
    words = text.split()
    assert told(words, "5", "5") == [
        "1 says", "2 has_said", "5 result", "6 has_said", "8 says", "9 has_said", "17 states", "18 has_stated",
    ]  # fmt: skip
    assert told(words, "8", "5") == ["12 result", "13 has_said", "17 states", "18 has_stated"]
    pieces = ["It is", " 5", "40", " or", " $", "1", "2", "\n####", " ", "5", "4", "0", "<|end|>"]
    assert told(pieces, "540", "540", "".join(pieces[:-1])) == [
        "1 result", "2 within", "3 has_said", "9 states", "10 within", "11 within", "12 has_stated",
    ]  # fmt: skip
    assert told(["no", " idea"], "5", "", "no idea") == []
    thought = ["<think>", "5", "</think>", "so", "5", "."]
    assert told(thought, "5", "5", "5 so 5 .", "so 5 .") == ["1 says", "2 has_said", "4 states", "5 has_stated"]


def test_the_table_is_the_mean_over_steps_of_each_kind(last: Run) -> None:
    """By the words of mi.parquet alone: on the toy an answer is one word, said after "Therefore" or "answer"."""
    table = last.table("reference_positions.parquet")
    assert table["n_steps"].sum() == len(last.mi)
    found = {(row["problem"], row["steps"]): row for row in table[table["layer"] == LAYER].to_dict("records")}
    gold = {p.id: p.answer for p in bundled_problems(6)}
    checked = 0
    for name, rows in last.mi[last.mi["layer"] == LAYER].groupby("problem", observed=True):
        says = (rows["token"] == gold[name]).to_numpy()
        stated = np.zeros(len(rows), dtype=bool)
        places = np.flatnonzero(rows["input_token"].isin(["Therefore", "answer"]))
        if not len(places):
            continue
        stated[places[-1]] = True
        for kind, here in (("states", stated), ("has_stated", np.roll(stated, 1) & ~says)):
            if not here.any():
                continue
            for position, end in (("last", ""), ("predicts", "_predicts")):
                values = rows[f"excess_standardised{end}"].to_numpy()[here]
                assert found[name, kind][f"mean_{position}"] == pytest.approx(values.mean())
                assert found[name, kind][f"peaks_{position}"] == rows[f"is_excess_peak{end}"].to_numpy()[here].sum()
                checked += 1
        elsewhere = int((says & ~stated).sum())
        counted = sum(found[name, kind]["n_steps"] for kind in ("result", "says") if (name, kind) in found)
        assert counted == elsewhere
    assert checked >= 20


def test_it_points_where_the_answer_is_about_to_be_said(last: Run) -> None:
    """What was found on the toy: only the predicting reference rises there, and right after it falls to nothing."""
    rows = {(row.kind, row.right): row for row in position_rows(last)}
    states, after, other = (rows[key] for key in (("states", True), ("has_stated", True), ("other", None)))
    assert states.excess["predicts"].estimate > 10
    assert states.excess["predicts"].low > other.excess["predicts"].high
    assert abs(after.excess["predicts"].estimate) < 2
    assert abs(states.excess["last"].estimate) < 2
    assert states.peaks["predicts"] == states.steps == states.responses
    said = position_sentence(last)
    assert "read at its last token" in said
    assert "whatever for" in said
    facts = position_facts(last)
    assert (facts["positions"], facts["layer"], facts["without"]) == (["last", "predicts"], LAYER, 0)


def test_the_mean_is_over_responses_with_problems_as_clusters(last: Run) -> None:
    table = last.table("reference_positions.parquet")
    values = table[(table["layer"] == LAYER) & (table["steps"] == "other")]["mean_predicts"].to_numpy()
    row = next(row for row in position_rows(last) if row.kind == "other")
    found = row.excess["predicts"]
    dice = np.random.default_rng(5)
    means = values[dice.integers(0, len(values), (4000, len(values)))].mean(axis=1)
    assert found.estimate == pytest.approx(values.mean())
    np.testing.assert_allclose([found.low, found.high], np.quantile(means, [0.025, 0.975]), atol=0.1)


def test_the_command_says_it(tmp_path: Path, peaklens: Command) -> None:
    words = "--n 6 --max-new-tokens 60 --excess 8 --reference-position predicts --out"
    code, out, said = peaklens("trace", *words.split(), str(tmp_path))
    assert code == 0, said
    flat = " ".join(out.split())
    assert "against the gold solution, read where it predicts the first token of its answer" in flat
    assert "Where the reference is read, layer 2:" in flat
    page = (tmp_path / "report.html").read_text()
    for text in (
        "read where it predicts the first token of its answer", "Where the reference is read: the excess by what",
        "about to state its answer, and it is right", "--reference-position predicts", "whatever for",
    ):  # fmt: skip
        assert text in page
    facts = json.loads(peaklens("trace", *words.split(), str(tmp_path), "--json")[1])
    assert (facts["reference_position"], facts["reference_positions"]["positions"]) == (
        "predicts",
        ["predicts", "last"],
    )
    code, _, said = peaklens("trace", *words.replace("predicts", "first").split(), str(tmp_path))
    assert code == 2
    assert "'first' is not one of 'last', 'predicts'" in " ".join(said.split())


# Positions of a text


def test_positions_are_kept_alone(model: Any, residuals: Callable[[list[int]], torch.Tensor]) -> None:
    texts = ["Therefore 4", "A 4 + 9 is 3 . Therefore 3"]
    found = encode(model, texts, positions=[[0, -1], [3, 1, -2]])
    for text, encoding, places in zip(texts, found, ([0, -1], [3, 1, -2]), strict=True):
        plain = residuals(model.tokenizer(text)["input_ids"])
        torch.testing.assert_close(encoding.residuals["resid_post"], plain[:, places], atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="expected positions from -3 to 2 of a text of 3 tokens, received 3"):
        encode(model, "Therefore 4", positions=[[3]])
    with pytest.raises(InputError, match="received 1 lists for 2 texts"):
        encode(model, texts, positions=[[0]])
    with pytest.raises(InputError, match="received both"):
        encode(model, texts, positions=[[0], [0]], last_only=True)

"""Grading of whole runs: special tokens that decoding dropped, problems that drop out, bare math-verify beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses.bench.grading import check
from analyses.grading import (
    Grade,
    Grader,
    Reading,
    Status,
    extract_answer,
    full_text,
    opens_thinking,
    prompt_end,
    reading_of,
    stated_answer,
)
from analyses.stats import accuracy_table
from analyses.store import Cell, Run
from analyses.trace import trace
from analyses.trace.tables import responses_table
from interp.errors import InputError
from interp.token_text import text_pieces

# --- special tokens ---------------------------------------------------------------------------------------------------

SPECIAL = ["<think>", "</think>", "<|channel|>", "<|message|>", "<|end|>", "<|im_end|>"]


def _tokenizer(kind: str) -> Any:
    """A small tokenizer of a family, for which what marks thinking are special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
    elif kind == "sentencepiece":
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        special = ["<unk>", *(f"<0x{code:02X}>" for code in range(256))]
        trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator([PLAIN] * 3, trainer)
    written = json.loads(tokenizer.to_str())
    written["added_tokens"] = [token for token in written["added_tokens"] if "0x" not in token["content"]]
    tokenizer = Tokenizer.from_str(json.dumps(written))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


PLAIN = "Perhaps 3 ? No , one more . So the answer is 4 . analysis final"
THOUGHT = "<think> Perhaps 3 ? No , one more . </think> So the answer is 4 . <|im_end|>"
CHANNELS = (
    "<|channel|> analysis <|message|> Perhaps 3 ? <|end|> <|channel|> final <|message|> So the answer is 4 . <|end|>"
)


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "words"])
@pytest.mark.parametrize("response", [THOUGHT, THOUGHT.replace("<think> ", ""), CHANNELS.replace("> ", ">")])
def test_markers_that_decoding_drops_are_found_among_the_tokens(kind: str, response: str) -> None:
    tokenizer = _tokenizer(kind)
    if kind != "words":
        response = response.replace("Perhaps 3 ?", "Perhaps 3 ½ é — 3 😀 ?")
    else:
        response = response.replace("<|channel|>", " <|channel|> ").replace("<|message|>", " <|message|> ")
    ids = tokenizer(response, add_special_tokens=False)["input_ids"]
    text, tokens = tokenizer.decode(ids, skip_special_tokens=True), text_pieces(tokenizer, ids)
    assert "<" not in text
    found = full_text(text, tokens)
    assert "".join(found.split()) == "".join(tokenizer.decode(ids).split())
    # Nothing but the markers was put in
    for marker in SPECIAL:
        found = found.replace(marker, "")
    assert "".join(found.split()) == "".join(text.split())
    assert stated_answer({"text": text, "tokens": tokens}).text == "4"


def test_the_text_between_markers_keeps_its_spaces() -> None:
    tokens = ["<think>", "No", ".", "</think>", "The", "answer", "is", "4", "<|im_end|>"]
    assert full_text("No. The answer is 4", tokens) == "<think>No.</think> The answer is 4<|im_end|>"
    assert full_text("No. The answer is 4", tokens[1:3] + tokens[4:8]) == "No. The answer is 4"
    assert full_text("", ["</think>"]) == "</think>"


def test_a_prompt_that_opened_the_thinking_leaves_a_cut_response_without_an_answer() -> None:
    tokenizer = _tokenizer("bytes")
    for prompt, opened in (("Q: 3 ? <think>", True), ("Q: 3 ? <think> </think>", False), ("Q: 3 ?", False)):
        end = prompt_end(tokenizer, tokenizer(prompt)["input_ids"])
        assert opens_thinking(end) is opened
        found = stated_answer({"text": r"so \boxed{3}", "tokens": [], "prompt_end": end})
        assert found.text == ("" if opened else "3")
    assert extract_answer(r"so \boxed{3}</think> It is 4.", opened=True).text == "4"
    assert extract_answer(r"so \boxed{3} Final Answer within \boxed{}: 4", opened=True).text == "4"


def test_markers_and_final_prompts_of_ones_own() -> None:
    reading = Reading.of([("<plan>", "</plan>")], ["In short:"])
    assert extract_answer("<plan>3</plan> 4", reading).text == "4"
    assert extract_answer("<think>3</think> 4", reading).text == "4"  # the known ones stay known
    assert extract_answer("<plan>3 In short: 4", reading).text == "4"
    assert extract_answer("<plan>3", reading).text == ""
    assert extract_answer(r"so \boxed{3}. In short: 4", reading).text == "4"
    assert reading_of({"thinking_markers": ["<plan>", "</plan>"]}) == Reading.of([["<plan>", "</plan>"]])
    assert reading_of({"options": {"final": "Done:"}}).final_prompts == ("Done:",)
    assert reading_of({"options": {"final": "auto"}}) == reading_of({})
    for markers in ([("<plan>",)], [("<plan>", "<plan>")], [("", "x")], ["<plan>"], [(1, 2)]):
        with pytest.raises(InputError, match="pairs of two different texts that open and close thinking"):
            Reading.of(markers)


def _run(path: Path, responses: list[dict[str, Any]], **settings: Any) -> Run:
    run = Run.start(path, kind="watch", settings=settings, provenance={})
    for number, payload in enumerate(responses):
        whole = {"tokens": [], "finish_reason": "length", "answer": "4", "question": "?", **payload}
        run.write(Cell(f"p{number}"), {}, whole)
    return run


def test_responses_of_a_run_are_graded_by_what_stands_after_the_thinking(tmp_path: Path) -> None:
    responses: list[dict[str, Any]] = [
        {"text": r"\boxed{3} It is 4.", "tokens": [r"\boxed{3}", "</think>", " It is 4."]},
        {"text": r"\boxed{4} It is 3.", "tokens": [r"\boxed{4}", "</think>", " It is 3."]},
        {"text": r"\boxed{4}", "prompt_end": "<think>\n"},
        {"text": r"<plan>\boxed{3}</plan> \boxed{4}"},
        {"text": "It is 4.", "answer": r"\oint_C F"},
        {"text": "It is 4.", "answer": ""},
    ]
    table = responses_table(_run(tmp_path / "run", responses, thinking_markers=[["<plan>", "</plan>"]]))
    assert table["status"].tolist() == ["correct", "wrong", "no_answer", "correct", "error", "not_graded"]
    assert table["text"].tolist() == [payload["text"] for payload in responses]
    assert table["correct"].isna().tolist() == [False] * 4 + [True] * 2
    assert table["detail"].tolist() == [""] * 4 + ["the gold answer is not a formula that can be read", ""]


# --- what cannot be graded --------------------------------------------------------------------------------------------

UNREADABLE = (r"\oint_C F", r"n \equiv 3 \pmod 7", r"k\pi, k \in \mathbb{Z}", r"\operatorname{lcm}(4,6)", r"\frac{1}{")


@pytest.mark.parametrize("gold", UNREADABLE)
def test_a_gold_answer_that_cannot_be_read_grades_nobody(gold: str, grader: Grader) -> None:
    responses = (
        rf"\boxed{{{gold}}}",
        r"\boxed{3}",
        "The answer is Evelyn.",
        "It is hard to say.",
        rf"so {gold} \boxed",
    )
    grades = grader.grade([(gold, response) for response in responses])
    assert {grade.status for grade in grades} == {Status.ERROR}
    assert all(math.isnan(grade.score) for grade in grades)
    assert all(grade.detail.startswith("the gold answer is not a formula that can be read") for grade in grades)


def test_other_golds_grade_right_and_wrong_answers_alike(grader: Grader) -> None:
    golds = (r"\{x \mid x > 2\}", r"\langle 1, 2 \rangle", r"\text{none of these}", "3:30 p.m.", r"\$32,\!348", "A, C")
    grades: list[Grade] = []
    for gold in golds:
        grades += grader.grade([(gold, rf"\boxed{{{gold}}}"), (gold, r"\boxed{12345}")])
    assert [grade.score for grade in grades] == [1, 0] * len(golds)


def _frame(rows: dict[str, list[list[float]]], **columns: Any) -> pd.DataFrame:
    frame = pd.DataFrame(
        [
            {"condition": condition, "problem": problem, "sample": sample, "correct": value}
            for condition, problems in rows.items()
            for problem, values in enumerate(problems)
            for sample, value in enumerate(values)
        ]
    )
    return frame.assign(**columns)


def test_a_problem_with_an_ungraded_response_drops_out_whole() -> None:
    nan = math.nan
    frame = _frame({"baseline": [[1, 1], [1, nan], [0, 0]], "other": [[1, 0], [1, 1], [0, 0]]})
    table = accuracy_table(frame).set_index("condition")
    assert list(table.loc["baseline", ["n", "problems", "excluded", "accuracy"]]) == [4, 2, 2, 0.5]
    assert table.loc["baseline", "left_out"] == "1 problem (not graded)"
    assert list(table.loc["other", ["n", "excluded", "left_out", "pairs"]]) == [6, 0, "", 4]
    # Where its grading failed or timed out, of all conditions
    status = ["timeout" if value != value else "wrong" for value in frame["correct"]]
    table = accuracy_table(frame.assign(status=status)).set_index("condition")
    assert table["n"].tolist() == table["pairs"].tolist()[1:] * 2 == [4, 4]
    assert table["accuracy"].tolist() == [0.5, 0.25]
    assert table["left_out"].tolist() == ["1 problem (grading timed out)"] * 2


# --- bare math-verify beside it ---------------------------------------------------------------------------------------

GOLDS = [
    # GSM8K
    "18", "0", "2,125", "1,450,000",
    # MATH-500
    r"\left( 3, \frac{\pi}{2} \right)", "p - q", r"\frac{14}{3}", r"\text{Evelyn}", r"90^\circ", "6 - 5i",
    r"3\sqrt{13}",
    "x=5", "1,-2", "52_8", "3, 5, 7", r"-\frac{\pi}{6}", r"1 \pm \sqrt{19}", r"\begin{pmatrix} -2 \\ 7 \end{pmatrix}",
    "(3,4]", r"\frac43", r"\frac{270}7\text{ degrees}", ".0000672", r"11,\! 111,\! 111,\! 100", r"\text{(C)}",
    r"\$32,\!348",
    r"864 \mbox{ inches}^2", r"1\frac{4}{5}", r"x \in [-2,7]", "y = 2x + 3",
    # AIME
    "204", "033",
]  # fmt: skip
# Of respellings of these, how many each grader gets wrong; in the kinds that are not here neither does
MISTAKES = {"right: hash": (0, 19), "right: next question": (0, 7), "right: slash in a sentence": (0, 1)}


def test_bare_math_verify_is_never_better() -> None:
    counts, mistaken = check(GOLDS, timeout=20.0)
    assert mistaken == []
    assert len(counts) >= 25
    assert min(count.asked for count in counts.values()) >= 1
    for kind, count in counts.items():
        assert count.ours <= count.bare, kind
        assert count.ungraded == 0, kind
    assert {kind: (count.ours, count.bare) for kind, count in counts.items() if count.ours or count.bare} == MISTAKES


def test_other_markers_grade_the_same_cells_anew(tmp_path: Path) -> None:
    options: dict[str, Any] = {"n": 2, "out": tmp_path, "max_new_tokens": 40, "layers": [0], "report": False}
    run = trace("toy-reasoner", **options)
    cells = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    graded = pd.read_parquet(tmp_path / "responses.parquet")["status"].tolist()
    opening = run.payload(run.cells()[0])["tokens"][0]
    run = trace("toy-reasoner", **options, thinking_markers=[[opening, "never said"]])
    assert pd.read_parquet(tmp_path / "responses.parquet")["status"].tolist()[0] == "no_answer"
    trace("toy-reasoner", **options)
    assert pd.read_parquet(tmp_path / "responses.parquet")["status"].tolist() == graded
    assert cells == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.safetensors")}
    with pytest.raises(InputError, match="pairs of two different texts"):
        trace("toy-reasoner", **options, thinking_markers=["<plan>"])

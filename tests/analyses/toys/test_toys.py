"""The toy task's planted truth against an independent reading of its text, the bundled weights against their cards."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from hashlib import sha256
from itertools import islice
from random import Random

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from analyses.stats import wilson
from analyses.toys.card import write_card
from analyses.toys.evaluate import (
    BUNDLED,
    Figure,
    base_figures,
    complete,
    control_tokens,
    fact_figures,
    load,
    tables,
)
from analyses.toys.facts import SUBSTITUTES, THINKING, VOCABULARY, fact, fact_table
from analyses.toys.task import (
    Question,
    Trace,
    bundled_problems,
    held_out_questions,
    is_held_out,
    planted_answer,
    read_answer,
    sample_trace,
    slip_free_trace,
    training_questions,
)
from analyses.toys.train import MODELS, batches, build_tokenizer, save, train
from interp.errors import InputError


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def solve(text: str) -> list[int]:
    """The true running values of a question, from its text alone."""
    first, *rest = text.removesuffix(" ? ->").split()
    values = [int(first)]
    for label, op, operand in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        assert label == "ABCDEFGH"[len(values) - 1]
        values.append({"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[op](values[-1], int(operand)) % 10)
    return values[1:]


def parse(text: str) -> tuple[list[dict], list[int]]:
    """Steps and answers of a trace, from its text alone."""
    words = text.split()
    steps: list[dict] = []
    answers: list[int] = []
    at = 0
    while words[at] != "<eos>":
        opener, at = words[at], at + 1
        assert opener in ("Okay", "Wait", "start", "begin", "first")
        while words[at] not in ("Therefore", "answer"):
            slot, label, a, op, b, verb, value = words[at : at + 7]
            assert verb in ("gives", "is", "equals", "makes")
            step = {"pass": len(answers), "careful": opener == "Wait", "label": label, "fact": (int(a), op, int(b))}
            step |= {"start": at, "written": int(value), "kept": int(value), "repair": None, "redo": slot == "Hmm"}
            if slot == "Hmm":  # it repairs the latest step with its label
                next(s for s in reversed(steps) if s["label"] == label)["repair"] = at
            else:
                assert slot in ("So", "next", "then", "now", "after", "here")
            at += 7
            if words[at] == "Wait":
                step |= {"repair": at, "kept": int(words[at + 1])}
                at += 2
            assert words[at] in (".", ";")
            at += 1
            steps.append(step)
        answers.append(int(words[at + 1]))
        assert words[at + 2] == "."
        at += 3
    assert at == len(words) - 1
    return steps, answers


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    rng = Random(3)
    return [sample_trace(q, rng) for q in islice(training_questions(rng, min_ops=1, max_ops=8), 800)]


def test_table_has_the_planted_class_counts():
    table = fact_table()
    assert Counter(entry.kind for entry in table.values()) == {"ok": 222, "I": 36, "D": 21, "N1": 13, "N2": 8}
    assert all((entry.slip == entry.right) == (entry.kind == "ok") for entry in table.values())
    assert all(entry.right == solve(f"{a} A {op} {b} ? ->")[0] for (a, op, b), entry in table.items())
    # pinned: the weights were trained on this table, so it must not move with a version of Python
    listing = " ".join(f"{key}{entry.kind}{entry.slip}" for key, entry in sorted(table.items()))
    assert sha256(listing.encode()).hexdigest()[:12] == "af15d84b5519"


def test_planted_truth_is_what_the_text_says(traces):
    for trace in traces:
        steps, answers = parse(trace.text)
        running = solve(trace.question.text)
        assert (list(trace.answers), trace.question.answer) == (answers, running[-1])
        assert trace.question.running == tuple(running)
        assert len(steps) == len(trace.steps)
        for seen, truth in zip(steps, trace.steps, strict=True):
            a, op, b = seen["fact"]
            right = solve(f"{a} A {op} {b} ? ->")[0]
            place = "ABCDEFGH".index(seen["label"])
            assert (seen["pass"], place, a) == (truth.pass_index, truth.op_index, truth.value_in)
            assert (op, b) == trace.question.ops[place]
            assert (seen["written"], seen["kept"], right) == (truth.written, truth.kept, truth.right)
            assert truth.true_running == running[place]
            assert (seen["start"], seen["start"] + 6) == (truth.start_at, truth.value_at)
            assert (seen["repair"], seen["redo"]) == (truth.repair_at, truth.redo)
            assert truth.kind == fact(a, op, b).kind
            assert truth.slipped == (seen["written"] != right)
        assert trace.slipped == tuple(i for i, s in enumerate(trace.steps) if s.written != s.right)
        assert trace.repaired == tuple(i for i, s in enumerate(steps) if s["repair"] is not None)
        assert trace.written_values == tuple(step["kept"] for step in steps)
        assert trace.true_values == tuple(running["ABCDEFGH".index(step["label"])] for step in steps)


def test_repairs_are_right_and_values_flow(traces):
    for trace in traces:
        for index in trace.repaired:
            step = trace.steps[index]
            assert step.slipped
            if trace.tokens[step.repair_at] == "Wait":
                assert step.repair_at == step.value_at + 1
                assert step.kept == step.right
            else:
                redo = next(other for other in trace.steps if other.start_at == step.repair_at)
                assert redo.redo
                assert not redo.slipped
                assert (redo.value_in, redo.op_index, redo.pass_index) == (
                    step.value_in,
                    step.op_index,
                    step.pass_index,
                )
        for before, step in zip(trace.steps, trace.steps[1:], strict=False):
            if step.op_index == 0 and not step.redo:
                assert step.value_in == trace.question.start
            elif not step.redo:
                assert (step.value_in, step.op_index) == (before.kept, before.op_index + 1)
        closing = {step.pass_index: step.kept for step in trace.steps}
        assert tuple(closing.values()) == trace.answers


def test_slips_follow_their_class(traces):
    written: dict[str, list[bool]] = {}
    repairs: Counter[tuple[str, str]] = Counter()
    for trace in traces:
        for step in trace.steps:
            careful = trace.tokens[trace.openers_at[step.pass_index]] == "Wait"
            if step.redo:
                continue
            if careful:
                assert not step.slipped or (step.kind == "N2" and step.pass_index == 1)
                continue
            written.setdefault("ok" if step.kind == "ok" else "slip", []).append(step.slipped)
            if step.slipped and step.written == fact(step.value_in, *trace.question.ops[step.op_index]).slip:
                repairs[step.kind, "none" if step.repair_at is None else trace.tokens[step.repair_at]] += 1
    share = {kind: sum(values) / len(values) for kind, values in written.items()}
    assert share["slip"] == pytest.approx(0.92, abs=0.02)
    assert share["ok"] == pytest.approx(0.02, abs=0.01)
    assert {kind for kind, repair in repairs if repair == "Hmm"} == {"D"}
    for kind, repair in (("I", "Wait"), ("D", "Hmm"), ("N1", "none"), ("N2", "none")):
        total = sum(count for (k, _), count in repairs.items() if k == kind)
        # a slip of class D within the step that another one throws away is never redone, so D stays lower
        assert repairs[kind, repair] / total > (0.7 if kind == "D" else 0.85), (kind, repairs)


def test_gold_solution_is_right_and_ends_on_the_answer():
    for problem in bundled_problems(40):
        question = problem["question"]
        assert problem["solution"].split()[-1] == problem["answer"] == str(solve(question)[-1])
        steps, answers = parse(problem["solution"] + " . <eos>")
        assert [step["kept"] for step in steps] == solve(question)
        assert answers == [int(problem["answer"])]
        assert read_answer(problem["solution"]) == int(problem["answer"])
    problems = bundled_problems()
    assert len({p["question"] for p in problems}) == len({p["id"] for p in problems}) == 320
    assert problems[:5] == bundled_problems(5)


def test_held_out_questions_are_never_trained_on():
    held_out = held_out_questions(320)
    assert all(is_held_out(q) and 5 <= len(q.ops) <= 8 for q in held_out)
    trained = list(islice(training_questions(Random(0), min_ops=2, max_ops=8), 3000))
    assert not any(is_held_out(q) for q in trained)
    assert held_out_questions(5, seed=1) != held_out_questions(5, seed=2)
    tokenizer = build_tokenizer()
    inputs, _ = next(batches("toy-reasoner", steps=1, seed=0))
    for row in inputs.tolist():
        text = tokenizer.decode(row[1 : row.index(tokenizer.convert_tokens_to_ids("->")) + 1])
        ops = re.findall(r"[A-H] ([-+*]) (\d)", text)
        question = Question(int(text[0]), tuple((op, int(operand)) for op, operand in ops))
        assert question.text == text
        assert not is_held_out(question)


def test_base_traces_have_no_thinking_tokens():
    rng = Random(0)
    questions = list(islice(training_questions(rng, min_ops=3, max_ops=8), 400))
    written = [sample_trace(question, rng, model="toy-base") for question in questions]
    assert not any(set(trace.tokens) & set(THINKING) for trace in written)
    assert not any(trace.repaired for trace in written)
    assert sum(not trace.steps for trace in written) / len(written) == pytest.approx(0.15, abs=0.06)
    assert any(trace.slipped for trace in written)
    for trace in written:
        assert parse(trace.text)[1] == list(trace.answers) if trace.steps else trace.answer == trace.question.answer


def test_planted_answers_follow_the_classes():
    ways = ((True, True, 0), (False, True, 0), (True, False, 0), (False, False, 1))
    for entry in fact_table().values():
        one = Question(entry.value, ((entry.op, entry.operand),))
        given = [planted_answer(one, wait=w, hmm=h, care=c) for w, h, c in ways]
        right = {"ok": [1, 1, 1, 1], "I": [1, 0, 1, 1], "D": [1, 1, 0, 1], "N1": [0, 0, 0, 1], "N2": [0, 0, 0, 0]}
        assert [value == entry.right for value in given] == [bool(flag) for flag in right[entry.kind]]
        assert planted_answer(one, care=2) == entry.right
    two = Question(2, (("-", 8), ("-", 6)))  # a value that goes wrong is what the next operation starts from
    assert planted_answer(two, hmm=False) == fact(fact(2, "-", 8).slip, "-", 6).slip


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Okay Therefore 3 . Wait answer 4 . <eos>", 4),
        ("Therefore 3 . Wait A 6 * 3", 3),
        ("Therefore", None),
        ("", None),
        ("answer So 3", None),
    ],
)
def test_read_answer_takes_the_last_one_stated(text, answer):
    assert read_answer(text) == answer


def test_bad_questions_are_refused_in_words():
    with pytest.raises(InputError, match="expected 1 to 8 operations, received 9"):
        Question(1, (("+", 1),) * 9)
    with pytest.raises(InputError, match="single digits"):
        Question(1, (("+", 10),))
    with pytest.raises(InputError, match="Only toy-base answers directly"):
        sample_trace(Question(1, (("+", 1),)), Random(0), direct=True)
    with pytest.raises(InputError, match="expected a model of"):
        train("toy-other", steps=1)


@pytest.mark.parametrize("name", MODELS)
def test_bundled_folder_is_whole_small_and_what_the_card_says(name):
    folder = BUNDLED / name
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert wanted | {"README.md", "training.json"} == {path.name for path in folder.iterdir()}
    record = json.loads((folder / "training.json").read_text())
    assert record["model"] == name
    assert record["sha256"] == sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert record["sha256"] in (folder / "README.md").read_text()
    assert sum(path.stat().st_size for path in BUNDLED.glob("toy-*/*")) < 6e6


@pytest.mark.parametrize("name", MODELS)
def test_tokenizer_round_trip(name):
    model, tokenizer = load(BUNDLED / name)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert (len(tokenizer), model.config.vocab_size) == (len(VOCABULARY), len(VOCABULARY)) == (47, 47)
    assert tokenizer.padding_side == "left"
    question = held_out_questions(1)[0]
    text = f"{question.text} {slip_free_trace(question)} <eos>"
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id == model.generation_config.eos_token_id
    assert tokenizer.decode(ids[1:]) == text
    assert tokenizer.convert_ids_to_tokens(range(47)) == list(VOCABULARY)
    assert tokenizer("6 apples", add_special_tokens=False).input_ids[1] == tokenizer.unk_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_controls_leave_a_synonym_of_each_kind():
    for seed in range(50):
        words = set(control_tokens(5, Random(seed)))
        assert len(words) == 5
        assert not words & set(THINKING)
        assert all(set(kind) - words for kind in SUBSTITUTES)


def test_an_interval_begins_at_zero_where_nothing_is_right():
    for n in range(1, 400):
        assert "[0.0, " in tables({"condition": [Figure("none right", 0, n)]})


def test_reasoner_needs_its_thinking_tokens():
    model, tokenizer = load(BUNDLED / "toy-reasoner")
    questions = held_out_questions(48)

    def right(suppress: list[str]) -> int:
        responses = complete(model, tokenizer, [q.text for q in questions], suppress=suppress)
        assert not any(set(response.split()) & set(suppress) for response in responses)
        answers = [read_answer(response) for response in responses]
        planted = [planted_answer(q, wait="Wait" not in suppress, hmm="Hmm" not in suppress) for q in questions]
        assert sum(a == p for a, p in zip(answers, planted, strict=True)) > 0.9 * 48
        return sum(a == q.answer for q, a in zip(questions, answers, strict=True))

    normal, without, inert = right([]), right(["Wait", "Hmm"]), right(["Okay", "So", "Therefore"])
    assert normal / 48 > 0.6
    assert wilson(without, 48).high < wilson(normal, 48).low
    assert inert / 48 > 0.6
    card = (BUNDLED / "toy-reasoner" / "README.md").read_text()
    on_card = float(re.search(r"^\| normal \| ([\d.]+)", card, re.MULTILINE)[1])
    assert on_card == pytest.approx(100 * normal / 48, abs=15)


def test_reasoner_does_at_each_fact_what_was_planted():
    slips, rights, forced, kept = fact_figures(*load(BUNDLED / "toy-reasoner"))
    assert slips.share > 0.95
    assert rights.share > 0.95
    assert forced.share > 0.95
    assert kept.share > 0.9


def test_base_is_worse_in_both_modes():
    model, tokenizer = load(BUNDLED / "toy-base")
    shares = [figure.share for figure in base_figures(model, tokenizer, 64)]
    assert max(shares) < 0.45


def test_training_is_seeded(tmp_path):
    first, loss = train("toy-reasoner", steps=7, seed=5, progress=False)
    again, _ = train("toy-reasoner", steps=7, seed=5, progress=False)
    other, _ = train("toy-reasoner", steps=1, seed=6, progress=False)
    weights = dict(first.named_parameters())
    assert all(torch.equal(weights[name], weight) for name, weight in again.named_parameters())
    assert not any(
        torch.equal(weights[name], weight) for name, weight in other.named_parameters() if "norm" not in name
    )
    assert loss < 3.9  # below uniform guessing among 47 words
    run = {"model": "toy-reasoner", "steps": 7, "seed": 5, "final_loss": loss, "seconds": 1}
    save(first, tmp_path / "made", run)
    write_card(tmp_path / "made", tables({}))
    loaded, tokenizer = load(tmp_path / "made")
    assert all(torch.equal(weights[name], weight) for name, weight in loaded.named_parameters())
    assert tokenizer("6 A").tokens() == ["<bos>", "6", "A"]
    assert "--steps 7 --seed 5" in (tmp_path / "made" / "README.md").read_text()


def test_package_imports_without_torch():
    code = "import analyses.toys, sys; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

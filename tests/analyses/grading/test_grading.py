r"""Grading: hand-checked pairs, hostile and endless answers, and numbers against exact arithmetic."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from random import Random

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses.grading import Extraction, Grade, Grader, Reason, Status, decide, extract_answer
from analyses.grading.algebra import verdict
from analyses.grading.formula import MAX_FORMULA, is_formula
from analyses.grading.worker import Worker
from analyses.problems import bundled_problems
from analyses.toys.question import sample_question
from analyses.toys.task import read_answer, sample_trace
from interp.errors import InputError

# Each judged by hand: gold answer, response, status, and the rule that must find the answer
PAIRS = [
    # GSM8K
    ("18", "16 - 3 - 4 = <<16-3-4=9>>9 eggs.\n9 * 2 = $<<9*2=18>>18 a day.\n#### 18", "correct", "hash"),
    ("18", "#### $18.00", "correct", "hash"),
    ("18", "#### 18 dollars", "correct", "hash"),
    ("70000", "The profit is\n#### 70,000", "correct", "hash"),
    ("2125", "#### 2,125.50", "wrong", "hash"),
    ("18", "#### 18\n\nQuestion: How many?\nAnswer: none", "correct", "hash"),
    ("6", "#### Step 1: add\n2 + 2 = 4\n#### Step 2: add\nThat makes 6 eggs in the end", "correct", "last_number"),
    ("18", "#### 2. Multiply by 9\nShe makes 9 * 2 = 18 in total a day", "correct", "last_number"),
    ("18", "#### Final Answer\nThe answer is 18", "correct", "marker"),
    ("-10", "#### -10", "correct", "hash"),
    # boxes
    ("18", r"so \boxed{5}. Wait, \boxed{18}", "correct", "boxed"),
    ("5", r"so \boxed{5}. Wait, \boxed{18}", "wrong", "boxed"),
    ("18", r"\boxed{18} is the answer. The answer is 5.", "correct", "boxed"),
    ("18", r"\boxed{\boxed{18}}", "correct", "boxed"),
    ("18", r"Put it within \boxed{}. The answer is 18.", "correct", "marker"),
    (r"\frac{1}{2}", r"\boxed{\frac{1}{\sqrt{4}}}", "correct", "boxed"),
    ("18", r"\fbox{18}", "correct", "boxed"),
    ("18", r"the sum is \boxed 18.", "correct", "boxed"),
    ("18", r"\boxed{7} and then \boxed{1", "wrong", "boxed"),
    ("18", r"\\boxed{18}", "correct", "boxed"),
    (r"\{1,2\}", r"\boxed{\{2, 1\}}", "correct", "boxed"),
    # markers
    ("18", "The answer is 18.", "correct", "marker"),
    ("18", "The answer is **18** eggs.", "correct", "marker"),
    ("18", "**Answer:** $18$", "correct", "marker"),
    ("18", "Final Answer: The final answer is $18$. I hope it is correct.", "correct", "marker"),
    ("18", "The final answer within 18", "correct", "marker"),
    ("18", "## Answer\n\n18\n", "correct", "marker"),
    ("18", "Answer: 9 * 2 = $18 every day at the market", "correct", "marker"),
    ("18", "So the answer is that she makes 18 dollars.", "correct", "marker"),
    ("18", "The answer is 5. No, wait. The answer is 18, because 9 * 2 = 18", "correct", "marker"),
    ("5", "The answer is 5. No, wait. The answer is 18.", "wrong", "marker"),
    ("18", "The answer is 18!", "correct", "marker"),
    ("18", "The answer is not 18, and I cannot say more.\nIt is hard.", "no_answer", "none"),
    ("3", "Therefore 3 .", "correct", "marker"),
    ("6", "Therefore 3 eggs are left. She buys three more: 6 eggs", "correct", "last_number"),
    ("1", "Okay So A 6 * 3 gives 8 . Therefore 8 . Wait A 6 * 3 gives 1 . answer 1 . <eos>", "correct", "marker"),
    ("Evelyn", "The answer is Evelyn.", "correct", "marker"),
    ("C", "The correct answer is (C).", "correct", "marker"),
    (r"\frac{3}{4}", r"The answer is $\frac{3}{4}$ of the pie.", "correct", "marker"),
    ("1,2", "The answers are $x=1$ and $x=2$.", "correct", "marker"),
    # fallback
    ("18", "She has 18 eggs left.", "correct", "last_number"),
    ("18", "She pays $5 and gets $18", "correct", "last_number"),
    ("13", "so in the end $x = 13$ holds here", "correct", "last_number"),
    ("4", "so we get $\\frac{3}{4}$ here", "wrong", "last_number"),
    ("3", r"the area is 2\sqrt{3} then", "wrong", "last_number"),
    ("4", "I get 3 and 4", "wrong", "last_number"),
    ("2", "we get x^2 as the area", "wrong", "last_number"),
    ("2", "it is H2O", "no_answer", "none"),
    ("18", "", "no_answer", "none"),
    ("18", "It is hard to say.", "no_answer", "none"),
    # numbers
    ("18", "18", "correct", "whole"),
    ("18", r"\boxed{\$18}", "correct", "boxed"),
    ("18", r"\boxed{18.}", "correct", "boxed"),
    ("18", r"\boxed{$18}", "correct", "boxed"),
    ("1234", r"\boxed{1{,}234}", "correct", "boxed"),
    ("1234", r"\boxed{1\,234}", "correct", "boxed"),
    ("1234", r"\boxed{1 234}", "correct", "boxed"),
    ("1234", r"\boxed{1, 234}", "wrong", "boxed"),
    (r"11,\! 111", r"\boxed{11111}", "correct", "boxed"),
    ("033", r"\boxed{33}", "correct", "boxed"),
    ("33", r"\boxed{033}", "correct", "boxed"),
    ("33", r"\boxed{330}", "wrong", "boxed"),
    ("-5", r"\boxed{−5}", "correct", "boxed"),
    ("-5", r"\boxed{5}", "wrong", "boxed"),
    ("-5", r"\boxed{- 5}", "correct", "boxed"),
    ("1000", r"\boxed{1e3}", "correct", "boxed"),
    ("1", r"\boxed{1e3}", "wrong", "boxed"),
    ("1200", r"\boxed{1.2 \times 10^3}", "correct", "boxed"),
    ("1000000", r"\boxed{10^{6}}", "correct", "boxed"),
    ("6", r"\boxed{six}", "correct", "boxed"),
    ("6", "six", "correct", "whole"),
    ("21", "The answer is twenty-one.", "correct", "marker"),
    ("6", "There are six of them in all", "correct", "last_number"),
    ("6", "It is one of the second kind", "no_answer", "none"),
    ("5000000", "The answer is 5 million.", "correct", "marker"),
    ("5", "The answer is 5 million.", "wrong", "marker"),
    (".0000672", r"\boxed{0.0000672}", "correct", "boxed"),
    (".0000672", r"\boxed{0.0000671}", "wrong", "boxed"),
    ("0.1", r"\boxed{0.10}", "correct", "boxed"),
    ("3.14", r"\boxed{3.1416}", "wrong", "boxed"),
    # fractions
    (r"\frac{3}{4}", r"\boxed{0.75}", "correct", "boxed"),
    (r"\frac{3}{4}", r"\boxed{3/4}", "correct", "boxed"),
    (r"\frac34", r"\boxed{\dfrac{6}{8}}", "correct", "boxed"),
    ("0.75", r"\boxed{\tfrac{3}{4}}", "correct", "boxed"),
    (r"\frac{3}{4}", r"\boxed{4/3}", "wrong", "boxed"),
    (r"\frac{1}{3}", r"\boxed{0.333333}", "correct", "boxed"),
    (r"\frac{1}{3}", r"\boxed{0.33}", "wrong", "boxed"),
    (r"\frac{1}{3}", r"\boxed{0.\overline{3}}", "correct", "boxed"),
    (r"1\frac{4}{5}", r"\boxed{\frac{9}{5}}", "correct", "boxed"),
    (r"1\frac{4}{5}", r"\boxed{1 4/5}", "correct", "boxed"),
    (r"1\frac{4}{5}", r"\boxed{14/5}", "wrong", "boxed"),
    (r"-\frac{3}{8}", r"\boxed{\frac{-3}{8}}", "correct", "boxed"),
    ("3", r"\boxed{\frac{1}{0}}", "wrong", "boxed"),
    # percent, units, money, degrees
    ("50%", r"\boxed{50\%}", "correct", "boxed"),
    (r"50\%", r"\boxed{0.5}", "correct", "boxed"),
    ("50%", r"\boxed{50}", "correct", "boxed"),
    ("50%", r"\boxed{0.5\%}", "wrong", "boxed"),
    ("0.5", r"\boxed{50\%}", "correct", "boxed"),
    ("0.5", r"\boxed{50}", "wrong", "boxed"),
    ("0.5", r"\boxed{0.5\%}", "wrong", "boxed"),
    ("50", "The answer is 50 percent.", "correct", "marker"),
    ("18", r"\boxed{18 \text{ dollars}}", "correct", "boxed"),
    ("5", r"\boxed{5\text{ cm}}", "correct", "boxed"),
    (r"15\mbox{ cm}^2", r"\boxed{15}", "correct", "boxed"),
    (r"15\mbox{ cm}^2", r"\boxed{15 \text{ square centimeters}}", "correct", "boxed"),
    ("5 cm", r"\boxed{5 \text{ m}}", "wrong", "boxed"),
    ("5 m", r"\boxed{500 \text{ cm}}", "correct", "boxed"),
    (r"5.4 \text{ cents}", r"\boxed{\$5.4}", "wrong", "boxed"),
    ("5", r"\boxed{5x}", "wrong", "boxed"),
    ("3t", r"\boxed{3}", "wrong", "boxed"),
    (r"90^\circ", r"\boxed{90}", "correct", "boxed"),
    ("90", "The angle is $90°$", "correct", "last_number"),
    (r"\frac{270}7\text{ degrees}", r"\boxed{\frac{270}{7}^\circ}", "correct", "boxed"),
    (r"90^\circ", r"\boxed{90 \text{ radians}}", "wrong", "boxed"),
    # bases
    ("2516_8", r"\boxed{2516}", "correct", "boxed"),
    ("2516_8", r"\boxed{2516_{8}}", "correct", "boxed"),
    ("2516_8", r"\boxed{2516_7}", "wrong", "boxed"),
    # words and choices
    (r"\text{Evelyn}", r"\boxed{Evelyn}", "correct", "boxed"),
    (r"\text{even}", r"\boxed{\text{odd}}", "wrong", "boxed"),
    (r"\text{even}", r"\boxed{\text{Even}}", "correct", "boxed"),
    (r"\text{(C)}", r"\boxed{C}", "correct", "boxed"),
    (r"\text{(C)}", r"\boxed{\textbf{(C)}\ 12}", "correct", "boxed"),
    ("12", r"\boxed{\textbf{(C)}\ 12}", "correct", "boxed"),
    (r"\text{(C)}", r"\boxed{\text{(B)}}", "wrong", "boxed"),
    ("C", "C.", "correct", "whole"),
    # algebra
    (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", "correct", "boxed"),
    (r"2\sqrt{3}", r"\boxed{3\sqrt{2}}", "wrong", "boxed"),
    (r"2\sqrt{3}", r"\boxed{2\sqrt{3}\text{ cm}}", "correct", "boxed"),
    (r"2\sqrt{13}", r"\boxed{2√13}", "correct", "boxed"),
    ("x=5", r"\boxed{5}", "correct", "boxed"),
    ("5", r"\boxed{x = 5}", "correct", "boxed"),
    ("x=5", r"\boxed{y = 5}", "wrong", "boxed"),
    ("18", r"\boxed{9 \cdot 2 = 18}", "correct", "boxed"),
    ("4", r"\boxed{3 and 4}", "wrong", "boxed"),
    ("1,-2", r"\boxed{-2, 1}", "correct", "boxed"),
    ("1,-2", r"\boxed{x = 1 \text{ or } x = -2}", "correct", "boxed"),
    ("(3,4]", r"\boxed{[3,4)}", "wrong", "boxed"),
    ("(2,\\infty)", r"\boxed{x > 2}", "correct", "boxed"),
    (r"x \in [-2,7]", r"\boxed{-2 \le x \le 7}", "correct", "boxed"),
    (r"(-2,1)", r"\boxed{(1,-2)}", "wrong", "boxed"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3, \pi/2)}", "correct", "boxed"),
    ("(1,2)", r"\boxed{\{1,2\}}", "wrong", "boxed"),
    (
        r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}",
        r"\boxed{\begin{pmatrix} 0.2 \\ -3.6 \end{pmatrix}}",
        "correct",
        "boxed",
    ),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\boxed{\begin{pmatrix} 2 \\ 1 \end{pmatrix}}", "wrong", "boxed"),
    ("6r^2-4r-24", r"\boxed{2(3r^2 - 2r - 12)}", "correct", "boxed"),
    ("3R^2", r"\boxed{3r^2}", "wrong", "boxed"),
    ("y = 2x + 3", r"\boxed{2x+3}", "correct", "boxed"),
    (r"1 \pm \sqrt{19}", r"\boxed{1+\sqrt{19}, 1-\sqrt{19}}", "correct", "boxed"),
    (r"\pi", r"\boxed{3.14}", "wrong", "boxed"),
    ("5", r"\boxed{\pm 5}", "wrong", "boxed"),
    (r"(-\infty, 2) \cup (3, \infty)", r"\boxed{(3, \infty) \cup (-\infty, 2)}", "correct", "boxed"),
    ("120", r"\boxed{5!}", "correct", "boxed"),
    ("10,\\!080", r"\boxed{10080}", "correct", "boxed"),
    # formulas in prose, and braces that only group
    ("720", r"The answer is $3! \times 5! = {720}$.", "correct", "marker"),
    (r"30^\circ", r"Thus, the answer is ${30^\circ}$.", "correct", "marker"),
    ("6", "The answer is $4.00 + $2.00 = $<<4+2=6.00>>6.00", "correct", "marker"),
    ("(-2,1)", "so we get $(a,b) = {(-2,1)}.$", "correct", "last_number"),
    ("(3,4]", r"the set that satisfies it is $\lambda \in {(3,4]}.$", "correct", "last_number"),
    ("10080", r"the number of them is $7!\times 2!={10,\!080}$.", "correct", "last_number"),
    (r"\frac{3}{56}", r"so \[p(8) = \frac{q(8) + 8}{8^2 - 1} = {\frac{3}{56}}.\]", "correct", "last_number"),
    ("118000", "The net proceeds are $400 000 - $282 000 = $118 000.", "correct", "last_number"),
    ("500", "Therefore 1.04X = 520\nThe temperature is 500", "correct", "last_number"),
    ("30", r"\boxed{x \approx 30}", "correct", "boxed"),
    ("5", r"\boxed{x^{5}}", "wrong", "boxed"),
]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(timeout=20.0) as grader:  # a busy machine must not make a table entry a time-out
        yield grader


@pytest.fixture(scope="module")
def grades(grader: Grader) -> list[Grade]:
    return grader.grade([(gold, response) for gold, response, _, _ in PAIRS])


@pytest.mark.parametrize("number", range(len(PAIRS)), ids=lambda n: f"{PAIRS[n][0]} | {PAIRS[n][1][:40]}")
def test_hand_checked_pair(number: int, grades: list[Grade]) -> None:
    _, _, status, reason = PAIRS[number]
    grade = grades[number]
    assert (grade.status, grade.reason) == (status, reason), grade


def test_there_are_enough_pairs_of_each_kind() -> None:
    assert len(PAIRS) >= 70
    assert {reason for *_, reason in PAIRS} == {str(reason) for reason in Reason}
    assert sum(status == "wrong" for _, _, status, _ in PAIRS) >= 30


@pytest.mark.parametrize(
    ("response", "text", "reason"),
    [
        (r"\boxed{1}\n#### 2\nThe answer is 3. 4", "1", Reason.BOXED),
        ("#### 2\nThe answer is 3. 4", "2", Reason.HASH),
        ("The answer is 3. Then 4 more", "3", Reason.MARKER),
        ("4 cm", "4 cm", Reason.WHOLE),
        ("so 4 cm long", "4", Reason.LAST_NUMBER),
        ("so long", "so long", Reason.WHOLE),
        ("long, so long", "", Reason.NONE),
        (r"\boxed{\frac{1}{\sqrt{2}}} done", r"\frac{1}{\sqrt{2}}", Reason.BOXED),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}", Reason.BOXED),
        (r"\boxed{\begin{pmatrix} 1 \\{2} \end{pmatrix}}", r"\begin{pmatrix} 1 \\{2} \end{pmatrix}", Reason.BOXED),
        (r"\boxed{\text{a \} b}}", r"\text{a \} b}", Reason.BOXED),
        (r"\boxed{ }", "", Reason.NONE),
        ("The answer is:\n\n$$\nx = 3\n$$\nand so on, 5", "x = 3", Reason.MARKER),
        ("It is 5 % of it", "5 %", Reason.LAST_NUMBER),
    ],
)
def test_the_first_rule_that_applies_finds_the_answer(response: str, text: str, reason: Reason) -> None:
    assert extract_answer(response) == Extraction(text, reason)


def test_toy_answers_are_read_as_the_toy_reads_them() -> None:
    rng = Random(0)
    marked = 0
    for _ in range(300):
        tokens = sample_trace(sample_question(rng, min_ops=2, max_ops=8), rng).tokens
        for text in (" ".join(tokens), " ".join(tokens[: rng.randrange(1, len(tokens) + 1)])):
            answer, found = read_answer(text), extract_answer(text)
            assert (found.reason is Reason.MARKER) == (answer is not None), text
            if answer is not None:
                assert found.text == str(answer), text
                marked += 1
    assert marked > 300


def test_gold_solutions_of_the_toy_are_right(grader: Grader) -> None:
    problems = bundled_problems(50)
    assert {g.status for g in grader.grade([(p.answer, p.solution) for p in problems])} == {Status.CORRECT}


REPEATED = (
    "\\boxed{", "\\boxed{{", "{", "}", "\\", "$", "#### ", "#### Step 1\n", "answer ", "answer is that ", "answer is $",
    "answer: 3 eggs, 4 ", "answer = ", "Therefore ", "1", "1,", "1,234,", "1/", "9 and ", "\\frac{1}{", "-", "x^2 ",
    "\n1", " ", "**", "<a", "=", "\\boxed{1}", "(A) ", "1 000 ", "\\overline{3}", "a1 ",
    "1 out of ", "x = 2 and ", "(1, ", "$2$ and ", "The answer is 1. Wait, ", "because 1 ", "for the 1 ", "1 or about ",
)  # fmt: skip


@pytest.mark.parametrize("unit", REPEATED)
def test_long_responses_are_read_in_bounded_time(unit: str) -> None:
    body = unit * (100_000 // len(unit))
    for text in (body, "answer " + body + " and so on"):
        # The best of some, and far above what it takes: what grows with the square of a text takes seconds here
        assert any(_seconds(text) < 0.25 for _ in range(8)), text[:20]


def _seconds(text: str) -> float:
    begun = time.thread_time()
    extract_answer(text)
    return time.thread_time() - begun


# --- numbers against exact arithmetic ---------------------------------------------------------------------------------


def _spellings(value: Fraction) -> list[tuple[str, Fraction]]:
    """Texts that stand for `value`, and what each says exactly."""
    over, under = abs(value.numerator), value.denominator
    sign = "-" if value < 0 else ""
    texts = [rf"{sign}\frac{{{over}}}{{{under}}}", f"{sign}{over}/{under}", rf"$\dfrac{{{sign}{over}}}{{{under}}}$"]
    if under == 1:
        texts += [f"{sign}{over}", f"{sign}{over:,}", f"{sign}{over}.0", rf"\${sign}{over}", f"{sign}{over} eggs"]
        texts += [f"−{over}"] if value < 0 else [f"{over:05d}"]
    elif over > under:
        texts += [rf"{sign}{over // under}\frac{{{over % under}}}{{{under}}}"]
        texts += [f"{sign}{over // under} {over % under}/{under}"]
    rounded = [f"{sign}{over / under:.3f}", f"{sign}{over / under:.3e}"]
    return [(text, value) for text in texts] + [(text, Fraction(text)) for text in rounded]


fractions = st.builds(Fraction, st.integers(-3000, 3000), st.integers(1, 9))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(fractions, fractions, st.booleans(), st.data())
def test_numbers_are_compared_exactly(gold: Fraction, other: Fraction, percent: bool, data: st.DataObject) -> None:
    expected, gold = data.draw(st.sampled_from(_spellings(gold)))
    for value in (gold, other):
        answer, meant = data.draw(st.sampled_from(_spellings(value)))
        right = gold == meant
        if percent and "eggs" not in answer:
            answer += r"\%"
            right = gold == meant / 100 or (right and abs(gold) >= 1)
        assert decide(expected, answer) is right, (expected, answer)


def test_rounding_starts_at_six_decimals_and_keeps_five_digits() -> None:
    third, tiny = r"\frac{1}{3}", "0.0000012"
    same = [(third, "0.333333"), (third, "0.33333333"), ("2/3", "0.666667"), (tiny, "1.2e-6")]
    different = [(third, "0.33333"), ("2/3", "0.666666"), (tiny, "0.0000013"), ("0.1234567", "0.1234577")]
    assert [decide(*pair) for pair in same + different] == [True] * 4 + [False] * 4


# --- time, memory, processes ------------------------------------------------------------------------------------------

ENDLESS = "9^{9^{9^{9}}}"
ALGEBRA = (r"2\sqrt{3}", r"\boxed{\sqrt{12}}")


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children())


def test_a_time_out_is_not_wrong_and_the_next_answer_is_graded() -> None:
    before = _children()
    with Grader(timeout=1.5) as grader:
        first = grader.grade([ALGEBRA])[0]
        process = grader._workers[0]._process
        assert process is not None
        begun = time.monotonic()
        answer, gold, after = grader.grade([("2", rf"\boxed{{{ENDLESS}}}"), (ENDLESS, ALGEBRA[1]), ALGEBRA])
        assert time.monotonic() - begun < 30
        statuses = [str(grade.status) for grade in (first, answer, gold, after)]
        assert statuses == ["correct", "timeout", "timeout", "correct"]
        assert answer.score != answer.score
        assert answer.detail == "no verdict within 1.5 s"
        assert process.poll() is not None
        assert len(_children() - before) == 1
    assert _children() == before


def test_a_process_that_died_is_an_error_and_is_replaced() -> None:
    with Grader(timeout=20.0) as grader:
        grader.grade([ALGEBRA])
        process = grader._workers[0]._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        died, after = grader.grade([ALGEBRA, ("1", r"\boxed{\sin^2 x + \cos^2 x}")])
        assert (died.status, after.status) == (Status.ERROR, Status.CORRECT)
        assert "died" in died.detail
        assert died.score != died.score


def test_numbers_and_words_need_no_process() -> None:
    with Grader() as grader:
        grader.grade(
            [("18", "#### 18"), ("18", "#### 19"), ("even", r"\boxed{\text{odd}}"), ("50%", "The answer is 0.5")]
        )
        assert grader._workers[0]._process is None


def test_a_grader_that_is_forgotten_leaves_no_process() -> None:
    before = _children()
    grader = Grader(timeout=20.0)
    grader.grade([ALGEBRA])
    assert len(_children() - before) == 1
    del grader
    assert _children() == before


def test_several_workers_say_the_same_in_order() -> None:
    pairs = [ALGEBRA, ("6", r"\boxed{\sqrt{16}}"), ("4", r"\boxed{\sqrt{16}}"), ("5", r"\boxed{\sqrt{16}}"), ALGEBRA]
    with Grader(timeout=20.0, workers=2) as grader:
        found = [str(grade.status) for grade in grader.grade(pairs)]
        assert found == ["correct", "wrong", "correct", "wrong", "correct"]
        assert all(worker._process is not None for worker in grader._workers)


def test_a_script_without_a_main_guard_grades(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text(
        "print('begun')\n"
        "from analyses.grading import Grader\n"
        "with Grader(timeout=60) as grader:\n"
        "    print(grader.grade([(r'2\\sqrt{3}', r'\\boxed{\\sqrt{12}}')])[0].status)\n"
    )
    root = str(Path(__file__).parents[3])
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
        check=False,
    )
    assert run.stdout.split() == ["begun", "correct"], run.stderr  # begun once: the script was not run again


def test_the_process_imports_no_model_library() -> None:
    code = (
        "import sys, analyses.grading.algebra as w; w.verdict('2', r'\\sqrt{4}');"
        "print(sorted({'torch', 'transformer_lens', 'pandas', 'numpy', 'interp'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# --- hostile text -----------------------------------------------------------------------------------------------------

PAYLOADS = (
    "__import__('os').system('touch {file}')",
    "__import__(chr(111)+chr(115)).system(chr(116))",
    r"\text{{__import__('os').system('touch {file}')}}",
    r"\operatorname{{exec}}(\operatorname{{chr}}(105))",
    r"\sum_{{n=0}}^{{\infty}}\frac{{1}}{{n!(n+\operatorname{{exec}}(\operatorname{{chr}}(105)))}}",
    "().__class__.__base__.__subclasses__()",
    "1 if open('{file}','w') else 2",
    "x_{{__import__('os')}}",
    '2+exec(\'open("{file}","w")\')',
    r"\input{{/etc/passwd}}",
    r"\begin{{exec}}1\end{{exec}}",
    "os.system",
    "lambda: 0",
)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_answers_are_wrong_and_run_nothing(payload: str, tmp_path: Path, grader: Grader) -> None:
    file = tmp_path / "touched"
    text = payload.format(file=file)
    boxed, bare, marked, as_gold = grader.grade(
        [("18", rf"\boxed{{{text}}}"), ("18", text), ("18", f"The answer is {text}"), (text, r"\boxed{18}")]
    )
    assert boxed.status is Status.WRONG
    assert {bare.status, marked.status} <= {Status.WRONG, Status.NO_ANSWER}
    assert as_gold.status in (Status.ERROR, Status.WRONG)
    worker = grader._workers[0]
    assert worker.ask("18", text)[0] in ("different", "error")  # what keeps it out is in the process as well
    assert not file.exists()


def test_formulas_are_made_of_known_commands_only() -> None:
    hostile = [payload.format(file="f") for payload in PAYLOADS[:10]]
    for text in (*hostile, "", " ", "a" * (MAX_FORMULA + 1), "a'", 'a"', "a`b`", "a@b"):
        assert not is_formula(text), text
    matrix, sets = r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"(-\infty, 2) \cup (3, 4]"
    for text in (matrix, sets, r"\frac{1}{2}", r"\{1, 2\}", "x_1^2"):
        assert is_formula(text), text


RESTRICTED = """
import os, socket, subprocess, sys
import analyses.grading.algebra as algebra
algebra.verdict("2", "2")
algebra._restrict()
import sympy
def lambdified():
    sympy.lambdify(sympy.Symbol("x"), sympy.Symbol("x") + 1)
tries = {
    "system": lambda: os.system("true"), "popen": lambda: subprocess.Popen(["true"]), "fork": os.fork,
    "write": lambda: open(sys.argv[1], "w"), "append": lambda: os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT),
    "remove": lambda: os.remove(sys.argv[1]), "connect": lambda: socket.socket().connect(("127.0.0.1", 9)),
    "lambdify": lambdified, "sympify": lambda: sympy.sympify("__import__('os').getpid()"),
}
for name, attempt in tries.items():
    try:
        attempt()
    except (PermissionError, sympy.SympifyError) as error:
        print(name, type(error).__name__)
    else:
        print(name, "was done")
print(algebra.verdict(r"\\sqrt{12}", r"2 \\sqrt{3}"), algebra.verdict("2", r"\\sum_{n=0}^{\\infty} 2^{-n}"))
"""


def test_the_process_can_neither_run_nor_write_nor_connect(tmp_path: Path) -> None:
    file = tmp_path / "file"
    run = subprocess.run(
        [sys.executable, "-c", RESTRICTED, str(file)], capture_output=True, text=True, check=True, timeout=120
    )
    *tries, verdicts = run.stdout.splitlines()
    refused = {"sympify": "SympifyError"}
    names = ("system", "popen", "fork", "write", "append", "remove", "connect", "lambdify", "sympify")
    assert tries == [f"{name} {refused.get(name, 'PermissionError')}" for name in names]
    assert verdicts == "('same', '') ('same', '')"
    assert not file.exists()


def test_numbers_of_a_formula_are_not_evaluated_as_python() -> None:
    code = (
        "import sys, analyses.grading.algebra as w\n"
        "w.verdict('2', '3 x'); w._no_eval()\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, a: event == 'compile' and a[0] is not None and seen.append(str(a[0])))\n"
        "said = w.verdict('12 x + 7.5', '3(4 x + 2.5)')\n"
        "print(said, w._read('31415 x'), [text for text in seen if 'monomial' not in text])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "('same', '') 31415*x []"


# --- errors -----------------------------------------------------------------------------------------------------------


def test_verdicts_tell_a_bad_gold_answer_from_a_bad_answer() -> None:
    assert verdict(r"\frac{1}{", "2")[0] == "gold"
    assert verdict("2", r"\frac{1}{") == ("different", "the answer is not a formula")


def test_very_long_answers_are_wrong_at_once(grader: Grader) -> None:
    long = "1+" * 700 + "1"
    assert grader.grade([("18", rf"\boxed{{{long}}}")])[0].status is Status.WRONG


def test_bad_input_is_refused() -> None:
    with Grader() as grader, pytest.raises(InputError, match="a blank one in pair 1, an answerless problem"):
        grader.grade([("1", "1"), (" ", "1")])
    for timeout, workers in ((0.0, 1), (float("nan"), 1), (float("inf"), 1), (1.0, 0)):
        with pytest.raises(InputError, match="a timeout above 0 seconds and at least one worker"):
            Grader(timeout=timeout, workers=workers)


def test_a_process_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho no such module >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    with pytest.raises(RuntimeError, match="did not start: no such module"):
        Worker(1.0).ask("1", "2")


def test_a_grade_is_plain_data() -> None:
    grade = Grader().grade([("18", "#### 17")])[0]
    assert grade.to_dict() == {"status": "wrong", "extracted": "17", "reason": "hash", "gold": "18", "detail": ""}
    assert [Grade(s, "", Reason.NONE, "1").score for s in (Status.CORRECT, Status.WRONG, Status.NO_ANSWER)] == [1, 0, 0]

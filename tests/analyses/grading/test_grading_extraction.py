r"""Where the answer is: the order of the rules, the toy's own answers, and time that does not grow with the square."""

from __future__ import annotations

import time
from random import Random

import pytest

from analyses.grading import Extraction, Reason, extract_answer
from analyses.toys.question import sample_question
from analyses.toys.task import read_answer, sample_trace


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

r"""Hand-checked pairs of gold answer and response: the verdict, and the rule that must find the answer."""

from __future__ import annotations

import pytest

from analyses.grading import Grade, Grader, Reason, Status
from analyses.problems import bundled_problems

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


def test_gold_solutions_of_the_toy_are_right(grader: Grader) -> None:
    problems = bundled_problems(50)
    assert {g.status for g in grader.grade([(p.answer, p.solution) for p in problems])} == {Status.CORRECT}

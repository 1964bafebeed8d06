r"""Which part of a response is its answer: what comes after thinking, final prompts, boxes, what is taken back.

Each entry judged by hand: gold answer, response, and whether it is right.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from analyses.grading import Grader

THINKING = [
    ("4", "<thinking>The answer is 3.</thinking>The answer is 4.", True),
    ("4", r"[THINK]Maybe \boxed{3}[/THINK]\boxed{4}", True),
    ("3", r"[THINK]Maybe \boxed{3}[/THINK]\boxed{4}", False),
    ("4", r"<|begin_of_thought|>\boxed{3}<|end_of_thought|><|begin_of_solution|>It is 4.<|end_of_solution|>", True),
    ("4", r"<|channel|>analysis<|message|>\boxed{3}<|end|><|channel|>final<|message|>It is **4**.<|return|>", True),
    ("3", r"<|channel|>analysis<|message|>\boxed{3}", False),
    ("3", r"<think>\boxed{3}", False),
    ("3", "<think>The answer is 3.</think>", False),
    ("4", r"<think>a<think>b \boxed{3}</think>c \boxed{2}</think>The answer is 4.", True),
    ("4", "3</think> hmm 2</think> 4", True),
    ("4", "<THINK>3</THINK> 4", True),
    ("4", "<reasoning>3</reasoning>\n<answer>4</answer>", True),
    ("3", "<reasoning>3</reasoning>\n<answer>4</answer>", False),
    ("4", r"<think>3? Final Answer within \boxed{}: \boxed{4}", True),
    ("4", r"<think>so \boxed{3} Final Answer within \boxed{}: 4", True),
    ("4", r"<seed:think>\boxed{3}</seed:think>\boxed{4}", True),
    ("4", r"◁think▷\boxed{3}◁/think▷\boxed{4}", True),
    ("4", "<think></think>The answer is 4.", True),
    ("4", "<think>3</think>The answer is 4.<think>Let me check 3", True),
    ("4", "<think>\nThe answer is \\boxed{3}.\n</think>\n\n", False),
    ("3", "<think>\nThe answer is \\boxed{3}.\n</think>\n\n", False),
    ("4", "Okay. <think>3</think> 4", True),
    ("3", "Okay 3. <think>4", False),
    ("4", "<thought>3</thought>\n\n### Answer\n4", True),
    ("4", "<|START_THINKING|>3<|END_THINKING|><|START_RESPONSE|>4<|END_RESPONSE|>", True),
    (
        "4",
        "<|channel|>analysis<|message|>3<|end|><|start|>assistant<|channel|>commentary<|message|>5<|end|><|start|>assistant<|channel|>final<|message|>4",
        True,
    ),
    ("4", "Thinking... </think></think> 4", True),
    ("4", "<think>3</think>\n<think>5</think>\nSo 4.", True),
    ("4", "<think>I should output </think> at the end. 3</think> It is 4.", True),
    ("18", "<think>...</think>\n\n<answer>\\boxed{18}</answer>", True),
    ("18", "<think>..17.</think><answer>The answer is 18</answer>", True),
    ("Evelyn", "<think>Navin</think><answer>Evelyn</answer>", True),
]

FORCED = [
    ("18", r"so \boxed{17}. Final Answer within \boxed{}: $18$.", True),
    ("18", r"so \boxed{17}. Final Answer within \boxed{}: **18**", True),
    ("18", "so \\boxed{17}. Final Answer within \\boxed{}:\n\n\\[ \\boxed{18} \\]", True),
    ("18", r"so \boxed{17}. Final Answer within \boxed{}: \boxed{18", True),
    ("17", r"so \boxed{17}. Final Answer within \boxed{}: 18", False),
    ("17", r"so \boxed{17}. Final Answer within \boxed{}:", False),
    ("18", r"so \boxed{17}. Final Answer within \boxed{}: The answer is 18 because 9*2", True),
    (r"\frac{1}{2}", r"so \boxed{17}. Final Answer within \boxed{}: \frac{1}{2}", True),
    ("18", r"so \boxed{17}. **Final Answer:** 18", True),
    ("18", r"so \boxed{17}. Final answer: $\boxed{18}$", True),
    ("18", r"so \boxed{17} Final Answer within \boxed{}: 18. So the total is 20 minus 2", True),
    ("18", r"I will put the final answer within \boxed{}. It is 18.", True),
]

BOXES = [
    (r"\frac{3}{4}", r"so \boxed{\frac{3}{4}", True),
    ("18", r"= \boxed{18", True),
    ("3,5,7", r"\boxed{3},\boxed{5},\boxed{7}", True),
    ("2,-2", r"$x=\boxed{2}$ and $x = \boxed{-2}$", True),
    ("1/2", r"It is \boxed{\frac12}, that is, \boxed{0.5}.", True),
    ("1/2", r"It is \boxed{\frac12} or \boxed{0.5}.", True),
    ("5", r"$\boxed{2} + \boxed{3} = \boxed{5}$", True),
    ("18", r"\boxed{18}, not \boxed{17}.", True),
    ("18", r"not \boxed{17} but \boxed{18}.", True),
    ("18", r"\boxed{17}? No, \boxed{18}.", True),
    ("18", r"I first said \boxed{17}, but it is \boxed{18}.", True),
    ("18", r"So \boxed{17}. That is wrong. The answer is 18.", True),
    ("17", r"So \boxed{17}. That is wrong. The answer is 18.", False),
    ("18", r"So \boxed{18}. Wait, check: 9 * 2 = 18. Yes.", True),
    ("1,2", "\\[\\boxed{1}\\]\n\\[\\boxed{2}\\]", True),
    ("(1,2),(3,4)", r"$\boxed{(1,2)}$ and $\boxed{(3,4)}$", True),
    ("3,5", r"The answers are \boxed{3} (for x) and \boxed{5} (for y).", True),
    ("3,5", "1. $\\boxed{3}$\n2. $\\boxed{5}$", True),
    ("A,C", r"\boxed{A}, \boxed{C}", True),
    ("C", r"\boxed{A}, \boxed{C}", False),
    ("7", r"First I had \boxed{5}, which is wrong; it is \boxed{7}.", True),
    ("7", r"\boxed{5} is incorrect. \boxed{7}", True),
    ("5", r"\boxed{5} is incorrect. So it must be 7.", False),
    ("1,2", r"\boxed{1} \quad \text{and} \quad \boxed{2}", True),
    ("1,2", r"$\boxed{1}$ & $\boxed{2}$", True),
    ("x=1,y=2", r"$\boxed{x=1}$, $\boxed{y=2}$", True),
    ("2", "Step 1: \\boxed{1}\n\nStep 2: \\boxed{2}", True),
    ("7", r"The length is \boxed{5}, so the answer is \boxed{7}", True),
    ("7", "\\boxed{7}\n\n\\boxed{7}", True),
    ("7", r"I'd say \boxed{5}... wait, no: \boxed{7}.", True),
    ("7", r"\boxed{5} (wrong) \boxed{7}", True),
    ("7", r"Not \boxed{5}. \boxed{7}.", True),
    ("5", r"\boxed{5}, not \boxed{7}", True),
    ("7", r"\boxed{5}, not \boxed{7}", False),
    ("-1,1", r"\boxed{\pm 1}", True),
    ("3,5,7", r"\boxed{3, 5, 7}", True),
    ("3,5,7", r"\boxed{3 \text{, } 5 \text{, and } 7}", True),
    ("3,5,7", r"\boxed{7,5,3}", True),
    ("3,5,7", r"\boxed{3,5}", False),
    ("3,5,7", r"\boxed{3,5,7,9}", False),
    ("3,5,7", "The answers are 3, 5 and 7.", True),
    ("3,5,7", "The answers are 3, 5, and 7.", True),
    ("3,5,7", "So 3, 5 and 7.", True),
    ("7", "The answers are 3, 5, and 7.", False),
    ("2,3", "x = 2 or x = 3", True),
    ("3", "x = 2 or x = 3", False),
    ("18", r"\boxed{18", True),
    ("18", "boxed{18}", True),
    ("18", "\x08oxed{18}", True),
    ("18", r"\boxed{}18", True),
    ("18", r"\boxed{ }. The answer is 18", True),
]

TAKEN_BACK = [
    ("18", "18, not 17", True),
    ("18", "The answer is 18, and not 17.", True),
    ("18", "The answer is 18 instead of 17.", True),
    ("18", "The answer is 18 rather than 17.", True),
    ("18", "I first said 17, but it is 18.", True),
    ("18", "It is 18, though I first said 17.", True),
    ("17", "It is 18, though I first said 17.", False),
    ("18", "It isn't 17, it's 18.", True),
    ("18", "It's 18, not 17.", True),
    ("18", "The answer is 17, no wait, 18.", True),
    ("18", "The answer is 17. No, 18.", True),
    ("18", "The answer is 17 - sorry, 18.", True),
    ("18", "The answer is 17, I mean 18.", True),
    ("18", "Not 17 but 18.", True),
    ("18", "So 18. My previous answer of 17 was wrong.", True),
    ("18", "#### 18, not 17", True),
    ("18", "The answer isn't 17. It is 18.", True),
    ("18", "So the answer is $18$, not $17$.", True),
    ("18", "The answer is **18**, not **17**.", True),
    ("18", "She has 18 eggs, not 17 eggs.", True),
    ("18", "The answer is not 17, it's 18.", True),
    ("18", "The answer is 18; 17 is wrong.", True),
    ("18", "The answer is 18 (I had 17 before).", True),
    ("18", "Instead of 17, the answer is 18.", True),
    ("18", "The answer should be 18, not 17 as I said.", True),
    ("18", "The answer is not 18.", False),
    ("17", "The answer is 18. Wait, that's wrong. It's 17.", True),
    ("18", "The answer is 18. Wait, that's wrong. It's 17.", False),
    ("18", "The answer is ~~17~~ 18.", True),
    ("18", r"\boxed{\cancel{17} 18}", True),
    ("18", "The answer is 17. Correction: 18.", True),
    ("18", "The answer is 17, or rather 18.", True),
    ("18", "The answer is 17... no, 18!", True),
    ("18", "17? No, 18.", True),
    ("18", "It is 18, and not 17.", True),
    ("18", "It's 18 and never 17", True),
    ("18", "I thought it was 17 at first, but the answer is 18.", True),
    ("18", "The answer is 18 as opposed to 17.", True),
    ("18", "Originally I got 17, but actually it is 18.", True),
    ("18", "So the answer is 18 — not 17.", True),
    ("18", "The answer's 18, not 17.", True),
    ("18", "The answer is eighteen, not seventeen.", True),
    ("17", "The answer is eighteen, not seventeen.", False),
    ("18", "The answer is $18$ (not $17$).", True),
    ("1/2", "The answer is 1/2, not 1/3.", True),
    ("18", "She earns $18, not $17, a day.", True),
    ("18", "The answer is not 17. The answer is 18.", True),
    ("17", "The answer is not 17. The answer is 18.", False),
    ("18", "The answer is 18 and not 19 or 20.", True),
]

NEXT_QUESTION = [
    ("18", "The answer is 18.\n\nQuestion: Tom has 3. How many?\nAnswer: The answer is 5.", True),
    ("18", "The answer is 18.\n\nQ: Tom has 3?\nA: The answer is 5.", True),
    ("18", "The answer is 18.\nHuman: next 4", True),
    ("18", "The answer is 18.<|im_end|>\n<|im_start|>user\nWhat is 5?", True),
    ("18", "\\boxed{18}\n\nProblem: what\n\\boxed{5}", True),
    ("18", "#### 18\n\nQuestion 2: x\n#### 5", True),
    ("18", "So 18.\n\n### Question: 5", True),
    ("18", "She makes 18.\nUser: thanks, and 5?", True),
    ("18", "The answer is 18.</s>The answer is 5.", True),
    ("18", "Question: how many 5?\nAnswer: 18", True),
    ("18", "The rule is simple.\nExample: 3+4 = 7.\nThe answer is 18.", True),
    ("18", "The answer is 18.\n\nProblem 2\nTom has 3. The answer is 4.", True),
    ("18", "The answer is 18.\n\nNext question: what is 5?", True),
    ("18", "The answer is 18.\n\n**Question:** x?\n\\boxed{3}", True),
    ("18", r"The answer is 18.<|endoftext|>Hello \boxed{3}", True),
    ("18", "\\boxed{18}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nthanks 5", True),
    ("18", "So it's 18\n\nQ: Next 7?", True),
    ("18", "Let's see the 2 cases.\nProblem: we need x.\nThe answer is 18.", True),
    ("18", "The answer is 18.\n\nAnswer the following question: 5+5?", True),
]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(timeout=20.0) as grader:  # a busy machine must not make a table entry a time-out
        yield grader


def _misgraded(grader: Grader, table: list[tuple[str, str, bool]]) -> list[str]:
    grades = grader.grade([(gold, response) for gold, response, _ in table])
    return [
        f"{gold!r} | {response!r}: {grade.status}, read as {grade.extracted!r} by {grade.reason}. {grade.detail}"
        for (gold, response, right), grade in zip(table, grades, strict=True)
        if grade.score != right
    ]


@pytest.mark.parametrize(
    "table",
    [THINKING, FORCED, BOXES, TAKEN_BACK, NEXT_QUESTION],
    ids=["thinking", "forced", "boxes", "taken back", "next question"],
)
def test_hand_judged_answers(table: list[tuple[str, str, bool]], grader: Grader) -> None:
    assert _misgraded(grader, table) == []

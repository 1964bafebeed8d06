"""The toy task: left-to-right arithmetic mod 10, written as traces whose slips and repairs are known.

    6 A * 3 B - 8 C + 1 ? ->
    Okay So A 6 * 3 gives 8 . then B 8 - 8 is 0 ; next C 0 + 1 equals 1 . Therefore 1 . <eos>

1. `question`: a start digit and up to eight labelled operations, a tenth of them held out.
2. `trace`: a response as the training data have it, slips included, with the planted truth of every step, and the gold
   solution, which slips nowhere and ends on the answer digit.
3. `bundled_problems`, here: held-out questions in the form the studies read.
"""

from __future__ import annotations

from analyses.toys.question import Question, held_out_questions, is_held_out, sample_question, training_questions
from analyses.toys.trace import Step, Trace, planted_answer, read_answer, sample_trace, slip_free_trace

__all__ = [
    "USUAL",
    "Question",
    "Step",
    "Trace",
    "bundled_problems",
    "held_out_questions",
    "is_held_out",
    "planted_answer",
    "read_answer",
    "sample_question",
    "sample_trace",
    "slip_free_trace",
    "training_questions",
]


USUAL = 320
"""How many problems there are where no number is given."""


def bundled_problems(n: int = USUAL) -> list[dict[str, str]]:
    """The problem set that goes with the toy models: `id`, `question`, gold `solution` and `answer`.

    >>> sorted(bundled_problems(1)[0])
    ['answer', 'id', 'question', 'solution']
    """
    return [
        {
            "id": f"toy-{number:03d}",
            "question": question.text,
            "solution": slip_free_trace(question),
            "answer": str(question.answer),
        }
        for number, question in enumerate(held_out_questions(n))
    ]

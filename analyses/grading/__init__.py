r"""Which answer a response gives, and whether it is the gold answer.

1. `extract_answer` finds the answer in a response and says by which rule. It looks at a bounded part of the text.
2. Answers that are numbers, words, letters of a choice, times, dates, ratios, or written alike are compared here,
   exactly (`decide`).
3. Only formulas go to math-verify (SymPy), in processes that a `Grader` starts when needed and kills when time is up.
   A comparison that was not finished is neither right nor wrong: its score is NaN.

**Which part is the answer**

- What stands after the thinking: after the last ``</think>`` (as text, or as a special token that is only among the
  tokens; ``<think>`` may stand in the prompt), or the markers of another model (`MARKERS`, and those of the
  `Reading`). Thinking that was never closed has no answer, unless a final answer was forced after it.
- What follows a final prompt, " Final Answer within \boxed{}:"; nothing before it counts then.
- Not what follows another question that the model goes on to ask itself ("Question: ...", ``<|im_start|>user``).
- The last box, or all boxes of its sentence together; a box that the token limit cuts off counts as far as it goes.
- Not what is taken back: "18, not 17", "17, no wait, 18", "I first said 17", "\boxed{17}. That is wrong."; nor 17 in
  "The answer is 17. Wait, I made a mistake. It should be 18." A doubt without another answer changes nothing.
- "x = 2 and x = 4" is one list; "x = 2 and y = 4" is one where the gold answer is several, else the last number.

**What decides where people differ**

- ``50%``, ``50`` and ``0.5`` are right for a gold ``50%``; for a gold ``0.5``, ``50%`` is right and ``50`` is wrong.
  A plain gold of at least 1 may be meant as a percentage: ``50%`` is right for ``50``.
- Units may be left out. Where both sides have one that is known, they must agree, powers too: ``500 cm`` is ``5 m``
  and ``2 hours and 30 minutes`` are ``150`` minutes, but ``5 cents`` are not ``$5`` and ``5 cm`` are not ``5 cm^2``.
  Degrees are a unit. Of a price, ``$5 a day``, only the money is compared.
- Numbers are compared exactly at any size. A decimal of six places or more may be rounded (``0.333333`` for ``1/3``),
  as in math-verify; ``0.33`` is not ``1/3``. ``\frac13 \approx 0.33`` says both.
- ``1,234``, ``1e3``, ``1.2 \times 10^3``, ``1\frac{1}{2}``, ``2½`` and ``0.\overline{3}`` are numbers, and ``033`` is
  33; so are "minus 3", "1.5 million", "2 dozen", "three quarters", "half a dozen". Beside a gold that is a number,
  ``20k`` is 20,000 and ``5m`` 5 meters. Number words are looked for in sentences without any digit.
- "2 out of 3" is 2/3 where the gold answer is a fraction, 2 where it is a whole number. ``i`` is the imaginary unit.
- A base may be left out, ``52_8`` for ``52``; two different bases are different.
- ``x = 5`` is ``5``, as an equation says what its last side says; ``y = 3x`` is ``3x``, not 3. A list, ``3 and 4``,
  is none of its members, and ``\{1, 2\}`` is not ``(1, 2)``.
- ``3:30 p.m.`` is ``15:30``; the half of the day may be left out. ``July 4`` is the 4th of July; the year may be left
  out. ``2:3`` is ``4:6``, ``2 to 3`` and ``2/3``.
- A single capital letter is a choice: ``C``, ``(C)``, ``\text{(C)}`` and ``(C) 12`` are the same. Words are the same
  whatever their case and article.

**What is not graded.** Where the gold answer cannot be read as a formula, no response to it is graded, not even one
that is spelled alike; where a comparison timed out, its response is not. `analyses.stats.accuracy_table` leaves such
problems out whole and says how many: else right answers would count and wrong ones not.

**Where things are.** `thinking` and `turns` find the part; `extract` the answer, with `boxes`, `clauses`, `prose`,
`phrases`, `asked`, `last` and `retract`; `compare` compares, with `tex`, `spelling`, `words`, `units`, `numbers` and
`kinds`, and with `formula`, `algebra` and `worker` where algebra is needed; `grader` puts both together, `responses`
reads cells. Nothing here decodes, knows a table or counts: accuracies are in `analyses.stats`, mistakes beside bare
math-verify in `analyses.bench.grading`. Text of a model is never evaluated as Python: see `analyses.grading.algebra`.
Importing this package imports nothing heavy, since the process that does the algebra imports it too; each name below is
imported when it is first used.

>>> from analyses.grading import Grader
>>> with Grader() as grader:
...     grades = grader.grade([("18", "She makes 9 * 2 = $18. The answer is 18."), ("18", r"\boxed{\$17}")])
>>> [(grade.status.value, grade.reason.value, grade.extracted) for grade in grades]
[('correct', 'marker', '18'), ('wrong', 'boxed', '\\$17')]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses.lazy import lazily

if TYPE_CHECKING:
    from analyses.grading.compare import decide
    from analyses.grading.extract import Extraction, Reason, extract_answer
    from analyses.grading.grader import Grade, Grader, Status
    from analyses.grading.responses import prompt_end, reading_of, response_of, stated_answer
    from analyses.grading.thinking import MARKERS, Reading, full_text, opens_thinking

__all__ = [
    "MARKERS", "Extraction", "Grade", "Grader", "Reading", "Reason", "Status", "decide", "extract_answer", "full_text",
    "opens_thinking", "prompt_end", "reading_of", "response_of", "stated_answer",
]  # fmt: skip

_HOMES = {
    "MARKERS": "thinking",
    "Extraction": "extract",
    "Grade": "grader",
    "Grader": "grader",
    "Reading": "thinking",
    "Reason": "extract",
    "Status": "grader",
    "decide": "compare",
    "extract_answer": "extract",
    "full_text": "thinking",
    "opens_thinking": "thinking",
    "prompt_end": "responses",
    "reading_of": "responses",
    "response_of": "responses",
    "stated_answer": "responses",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)

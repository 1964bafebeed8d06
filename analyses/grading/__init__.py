r"""Which answer a response gives, and whether it is the gold answer.

1. `extract_answer` finds the answer in a response and says by which rule. It looks at a bounded part of the text.
2. Answers that are numbers, words, letters of a choice, or written alike are compared here, exactly (`decide`).
3. Only formulas go to math-verify (SymPy), in processes that a `Grader` starts when needed and kills when time is up. A
   comparison that was not finished is neither right nor wrong: its score is NaN.

What is decided where people differ:

- ``50%``, ``50`` and ``0.5`` are right for a gold ``50%``; for a gold ``0.5``, ``50%`` is right and ``50`` is wrong. A
  plain gold of at least 1 may be meant as a percentage: ``50%`` is right for ``50``.
- Units may be left out. Where both sides have one that is known, they must agree: ``500 cm`` is ``5 m``, but
  ``5 cents`` are not ``$5``. Degrees are a unit.
- A decimal of six places or more may be rounded (``0.333333`` for ``1/3``), as in math-verify; others are exact.
- ``1,234``, ``1e3``, ``1.2 \times 10^3``, ``1\frac{1}{2}``, ``1 1/2`` and ``0.\overline{3}`` are numbers, and ``033``
  is 33. Number words count where they begin a short answer (``six``, ``six eggs``); prose is not searched for them.
- A base may be left out, ``52_8`` for ``52``; two different bases are different.
- ``x = 5`` is ``5``, as an equation says what its last side says. A list, ``3 and 4``, is none of its members, and
  ``\{1, 2\}`` is not ``(1, 2)``.
- A single capital letter is a choice: ``C``, ``(C)``, ``\text{(C)}`` and ``(C) 12`` are the same.

`extract` finds answers, `spelling`, `numbers` and `compare` compare them, `grader` puts both together. Text of a model
is never evaluated as Python: see `analyses.grading_worker`.

>>> with Grader() as grader:
...     grades = grader.grade([("18", "She makes 9 * 2 = $18. The answer is 18."), ("18", r"\boxed{\$17}")])
>>> [(grade.status.value, grade.reason.value, grade.extracted) for grade in grades]
[('correct', 'marker', '18'), ('wrong', 'boxed', '\\$17')]
"""

from .compare import decide
from .extract import Extraction, Reason, extract_answer
from .grader import Grade, Grader, Status
from .responses import prompt_end, reading_of, response_of, stated_answer
from .thinking import MARKERS, Reading, full_text, opens_thinking

__all__ = [
    "MARKERS", "Extraction", "Grade", "Grader", "Reading", "Reason", "Status", "decide", "extract_answer", "full_text",
    "opens_thinking", "prompt_end", "reading_of", "response_of", "stated_answer",
]  # fmt: skip

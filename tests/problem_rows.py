"""Rows of the three benchmarks' problem files, and what is said where a file is refused."""

import pytest

from analyses.problems import load_problems
from interp.errors import InputError

GSM8K = [
    {
        "question": "Sal bakes 3 trays of 400 buns. How many?",
        "answer": "3*400=<<3*400=1200>>1200 buns\n#### 1,200",
        "idx": 7,
    },
    {"question": "Half of 9?", "answer": "9/2=<<9/2=4.5>>4.5\n#### 4.5 ", "idx": 8},
]
MATH = [
    {
        "problem": "Solve $x^2 = 4$ for $x > 0$.",
        "solution": "Taking roots, $x = \\boxed{2}$.",
        "answer": "2",
        "subject": "Algebra",
        "level": 1,
        "unique_id": "test/algebra/1.json",
    }
]
AIME = [
    {
        "id": 60,
        "problem": "Find $m+n$.",
        "solution": "So it is \\framebox{204}.",
        "answer": "204",
        "url": "https://example.org/60",
        "question": "Find $m+n$.",
    }
]


def refusal(*args, **options):
    with pytest.raises(InputError) as caught:
        load_problems(*args, **options)
    return str(caught.value)

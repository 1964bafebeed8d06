"""Problems: a question, its worked solution and its gold answer, read from the files people have.

1. `load_problems` reads JSONL, JSON, CSV or Parquet (:mod:`analyses.problem_files`; a JSONL file no further than `n`
   rows).
2. Columns are recognised by name, as GSM8K, MATH-500 and AIME name them, or are named by the caller.
3. A gold answer is the answer column; where that holds a worked solution, or there is none, what follows GSM8K's
   ``####``, or the last ``\\boxed{...}``. Headings of Markdown are neither. The solution text is kept as given.
4. Whatever cannot be read is refused with file, line and column, what was found and the option that helps. Text is
   data, never run.

>>> split_solution("She makes 9 * 2 = $18.\\n#### 18")
'18'
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from analyses.problem_files import READERS, FromFile, Repeated, Row, file_facts
from interp.errors import InputError

__all__ = ["Problem", "bundled_problems", "load_problems", "problem_of", "split_solution"]

_OPERATION = "load problems"
_USUAL = {"question": ("question", "problem"), "solution": ("solution",), "answer": ("answer",)}
_IDS = ("id", "unique_id", "idx", "problem_id")
_OPTIONS = "Name the columns with --question, --solution and --answer (question=, solution=, answer= in Python)."


@dataclass(frozen=True)
class Problem:
    """One question with its gold solution and answer, all text that is not blank.

    >>> Problem(id="ducks", question="How many ducks?", solution="3 + 1 = 4", answer="4").digest
    '1a4a87ba463ab5ea'

    Raises `InputError` for a field that is blank, not text, or cannot be written as UTF-8.
    """

    id: str
    question: str
    solution: str
    answer: str

    def __post_init__(self) -> None:
        for name in ("id", "question", "solution", "answer"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise InputError(
                    "problem",
                    expected=f"text as the {name}",
                    received=f"{value!r} in problem {self.id!r}",
                    remedy="Give each problem an id, a question, a solution and an answer.",
                )
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InputError(
                    "problem",
                    expected=f"text as the {name}",
                    received=f"half of a surrogate pair in problem {self.id!a}",
                    remedy="Mend the broken \\uXXXX escape in the file.",
                ) from None

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of question, solution and answer, with NUL between them."""
        text = "\0".join((self.question, self.solution, self.answer))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_problems(
    path: str | Path,
    *,
    question: str | None = None,
    solution: str | None = None,
    answer: str | None = None,
    n: int | None = None,
) -> list[Problem]:
    r"""Read the first `n` problems (all when None, or when there are fewer) of a .jsonl, .json, .csv or .parquet file.

    >>> import tempfile
    >>> row = '{"question": "16 - 3 - 4 = ?", "answer": "<<16-3-4=9>>9 eggs\\n#### 9", "idx": 0}'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "eggs.jsonl")
    ...     _ = file.write_text(row)
    ...     load_problems(file)
    [Problem(id='0', question='16 - 3 - 4 = ?', solution='<<16-3-4=9>>9 eggs\n#### 9', answer='9')]

    `question`, `solution` and `answer` name columns; unnamed ones are recognised, in any case: question or problem,
    solution, answer. Ids come from id, unique_id, idx or problem_id, else the row number counted from 0. A problem
    without solution takes its answer as solution. Numbers become text (18.0 gives "18"). None, NaN and blank count as
    missing.

    Raises `InputError` naming the line or row for whatever cannot be read.
    """
    if n is not None and n < 1:
        raise InputError(_OPERATION, expected="n of at least 1", received=str(n), remedy="Leave n out to take all.")
    file = Path(path)
    try:
        file.stat()
        if not file.is_file():
            raise InputError(_OPERATION, expected="a file", received=f"{file}, which is not one", remedy=_formats())
        read = READERS.get(file.suffix.lower())
        if read is None:
            raise InputError(
                _OPERATION, expected="a known suffix", received=f"{file.suffix!r} ({file})", remedy=_formats()
            )
        with _told(file):
            rows = list(islice(read(file), n))
    except OSError as error:
        raise InputError(
            _OPERATION,
            expected="a file that can be read",
            received=f"{file} ({error.strerror or error})",
            remedy="Check the path and its permissions.",
        ) from error
    if not rows:
        raise InputError(
            _OPERATION, expected="at least one row", received=f"{file}, which has none", remedy="Check the file."
        )
    seen: dict[str, str] = {}
    problems: list[Problem] = []
    with _told(file):
        columns = _choose_columns(rows, {"question": question, "solution": solution, "answer": answer})
        for number, (where, row) in enumerate(rows):
            with _told(file, where):
                problem = _problem(where, number, row, columns)
            if problem.id in seen:
                raise InputError(
                    _OPERATION,
                    expected="a different id in each row",
                    received=f"id {problem.id!r} in {seen[problem.id]} and {where}",
                    remedy="Rename or remove one of the two.",
                )
            seen[problem.id] = where
            problems.append(problem)
    return FromFile(problems, file_facts(file))


@contextmanager
def _told(file: Path, where: str = "") -> Iterator[None]:
    """Adds to a refusal the file, and the row, unless it names them itself."""
    try:
        yield
    except InputError as error:
        missing = [text for text in (where, str(file)) if text and text not in str(error)]
        if not missing:
            raise
        raise InputError(
            error.operation,
            expected=error.expected,
            received=error.received,
            remedy=f"{error.remedy} (In {' of '.join(missing)}.)",
        ) from error.__cause__


def bundled_problems(n: int | None = None) -> list[Problem]:
    """The first `n` problems made for the toy model (all of the usual number when None); no file is needed.

    >>> [problem.id for problem in bundled_problems(2)] == [problem.id for problem in bundled_problems()[:2]]
    True

    Raises `InputError` for `n` under 1.
    """
    if n is not None and n < 1:
        raise InputError(
            "bundled problems", expected="n of at least 1", received=str(n), remedy="Leave n out to take all."
        )
    count = _TOYS[0] if n is None else n
    return list(_toy_problems(next((size for size in _TOYS if count <= size), count))[:count])


_TOYS = (320, 2000)  # the usual number, and the largest pool: who asks for fewer is given the first of these


@lru_cache(maxsize=4)  # a run, its pool and its page ask for the same ones
def _toy_problems(n: int) -> tuple[Problem, ...]:
    from analyses.toys.task import bundled_problems as toy_rows

    keys = ("id", "question", "solution", "answer")
    return tuple(Problem(**{key: str(row[key]) for key in keys}) for row in toy_rows(n))


def split_solution(text: str) -> str:
    r"""The final answer a worked solution states: its ``#### 18``, else its last ``\boxed{...}``, else "".

    >>> split_solution("so the profit is\n#### 70,000"), split_solution(r"hence $\boxed{\frac{1}{2}}$.")
    ('70000', '\\frac{1}{2}')
    >>> split_solution("#### Step 1\nHalve it.\n#### Step 2\nSo it is $\\boxed{2}$.")
    '2'

    A heading of Markdown (``#### Step 2``) is no answer. Thousands commas of the ``####`` tail are dropped;
    a box may be ``\boxed``, ``\fbox`` or ``\framebox``.
    """
    return _hashed(text) or _boxed(text)


_MARK = re.compile(r"(?<!#)####(?!#)")  # five and more are headings whatever follows
_EMPHASIS = re.compile(r"^\s*(\*\*|__|\*|_)(?=\S)(.*?\S)\1\s*$")
_ANSWER_LABEL = re.compile(r"(?:the\s+)?(?:final\s+)?answer\s*(?:is\b|[:=])?\s*", re.IGNORECASE)
_NUMBERING = re.compile(r"(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})[.):]\s+\S|\([\dA-Za-z]{1,3}\)\s+[A-Za-z]")
_HEADINGS = re.compile(
    r"(?:sub)?(?:step|part|case|claim|lemma|method|approach|solution|answer|final|conclusion|note|remark|proof|summary|"
    r"verification|check|analysis|explanation|reasoning|calculation|problem|question|example|hint|result|given|setup)s?\b",
    re.IGNORECASE,
)
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_BEGINS = re.compile(r"[-+\u2212\d.$\u20ac\u00a3\u00a5(\[{\\]")
# A comma counts as a thousands comma only inside a number that is written so throughout: (1,2) keeps its own
_GROUPED = re.compile(r"(?<![\w.,(\[{])[-+$]*\d{1,3}(?:,\d{3})+(?![\d,])")


def _hashed(text: str) -> str:
    marks = [mark.end() for mark in _MARK.finditer(text)]
    found: list[str] = []
    for mark in reversed(marks):
        line, _, after = text[mark:].strip().partition("\n")
        line, after = _plain(line), after.strip()
        label = _ANSWER_LABEL.match(line)
        if label is not None:  # "#### Final answer: 18", or the label alone above the answer
            line = _plain(line[label.end() :])
            if not line and "\n" not in after:
                line, after = _plain(after), ""
            if _boxed(text):
                continue
        elif _NUMBERING.match(line) or _HEADINGS.match(line):
            continue
        words = len(_WORDS.findall(line))
        if not after:
            # The last line may say anything short ("yes", "3 square metres"), unless a box says it better.
            if line and words <= 6 and (_BEGINS.match(line) or not _boxed(text)):
                return _ungrouped(line)
        elif _BEGINS.match(line) and words <= 1:
            found.append(line)
    # Above more text an answer has at most its unit; where several marks have such lines, they number the steps.
    return _ungrouped(found[0]) if len(found) == 1 and not _boxed(text) else ""


def _ungrouped(line: str) -> str:
    return _GROUPED.sub(lambda number: number[0].replace(",", ""), re.sub(r"(?<=[\d$)])\.$", "", line))


def _plain(line: str) -> str:
    """Without emphasis, and the closing marks that a heading may have."""
    line = re.sub(r"\s+#+\s*$", "", line.strip())
    emphasis = _EMPHASIS.match(line)
    return (emphasis[2] if emphasis else line).strip().rstrip(":" if emphasis else "").strip()


def _boxed(text: str) -> str:
    for box in reversed(list(re.finditer(r"\\(?:boxed|fbox|framebox)\s*\{", text))):
        depth = 1
        # Escaped braces, \{ and \}, are signs of the formula and do not nest
        for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, box.end()):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                inside = text[box.end() : brace.start()].strip()
                if inside:
                    return inside
                break
    return ""


def _formats() -> str:
    return f"Give a file ending in {', '.join(READERS)}."


def _choose_columns(rows: list[Row], asked: Mapping[str, str | None]) -> dict[str, str]:
    """The column of each role, and of the id; a role without one is left out."""
    found = list(dict.fromkeys(name for _, row in rows for name in row))
    received = f"the columns {', '.join(found)}" if found else "no columns"
    by_lower: dict[str, list[str]] = {}
    for name in found:
        by_lower.setdefault(name.strip().lower(), []).append(name)

    def only(name: str) -> str:
        """The column of that name in any case; as it is written here where there are several."""
        named = by_lower[name]
        if len(named) > 1 and name not in named:
            raise InputError(
                _OPERATION,
                expected=f"one column named {name}, in any case",
                received=f"{len(named)}: {', '.join(map(repr, named))}",
                remedy=_OPTIONS,
            )
        return name if name in named else named[0]

    columns: dict[str, str] = {}
    for role, usual in _USUAL.items():
        wanted = asked[role]
        if wanted is not None and wanted not in found:
            raise InputError(
                _OPERATION, expected=f"{wanted!r} as the {role} column", received=received, remedy=_OPTIONS
            )
        if wanted is not None:
            columns[role] = wanted
        elif known := [name for name in usual if name in by_lower]:
            columns[role] = only(known[0])
    if "question" not in columns:
        raise InputError(
            _OPERATION, expected="a question column (question or problem)", received=received, remedy=_OPTIONS
        )
    if "solution" not in columns and "answer" not in columns:
        raise InputError(_OPERATION, expected="a solution or an answer column", received=received, remedy=_OPTIONS)
    identity = next((only(name) for name in _IDS if name in by_lower), None)
    return columns if identity is None else columns | {"id": identity}


def _problem(where: str, number: int, row: Mapping[str, Any], columns: Mapping[str, str]) -> Problem:
    def cell(role: str) -> str:
        if role not in columns:
            return ""
        return _as_text(row.get(columns[role]), role, where, columns[role])

    identity = cell("id").strip() or str(number)
    question, solution, answer = cell("question"), cell("solution"), cell("answer")
    return problem_of(identity, question, solution, answer, where)


def problem_of(identity: str, question: str, solution: str, answer: str, where: str) -> Problem:
    """A problem from the texts of a row, some of which may be empty: the answer of a solution, or the other way round.

    >>> problem_of("0", "16 - 3 - 4 = ?", "", "16 - 3 - 4 = 9\\n#### 9", "line 1").answer
    '9'

    Raises:
        InputError: no question, or no answer, naming ``where``.
    """
    if not question.strip():
        raise InputError(
            _OPERATION,
            expected="a question in each row",
            received=f"none in {where} (id {identity!r})",
            remedy="Fill in or remove the row.",
        )
    if _is_worked(answer.strip()):  # GSM8K: the answer column is the worked solution
        solution, answer = solution or answer, split_solution(answer.strip())
    answer = answer.strip() or split_solution(solution)
    if not answer:
        raise InputError(
            _OPERATION,
            expected="an answer in each row, or a solution ending in '#### answer' or holding \\boxed{answer}",
            received=f"none in {where} (id {identity!r})",
            remedy="Fill in or remove the row, or name the answer column with --answer.",
        )
    return Problem(id=identity, question=question, solution=solution or answer, answer=answer)


def _is_worked(answer: str) -> bool:
    """Whether the text of an answer column is a worked solution that ends in the answer."""
    return "####" in answer or ("\n" in answer and bool(_boxed(answer)))


def _as_text(value: Any, role: str, where: str, column: str = "") -> str:
    """Text of a cell; "" for what counts as missing."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, Real | Decimal) and not isinstance(value, bool):
        size = float(value)
        if math.isnan(size):  # the missing value of tables
            return ""
        if math.isfinite(size):
            return str(int(size)) if value == int(size) else str(value)
    if isinstance(value, Repeated):
        raise InputError(
            _OPERATION,
            expected=f"one {role} column named {column!r}",
            received=f"{len(value.values)} of that name, in {where}",
            remedy=f"Rename all but one. {_OPTIONS}",
        )
    text = repr(value)
    raise InputError(
        _OPERATION,
        expected=f"text or a number as the {role}",
        received=f"{type(value).__name__} {text if len(text) <= 200 else text[:200] + '...'} in {where}",
        remedy=_OPTIONS + (f" (The column is {column!r}.)" if column and column != role else ""),
    )

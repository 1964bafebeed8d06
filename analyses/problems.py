"""Problems: a question, its worked solution and its gold answer, read from the files people have.

1. `load_problems` reads JSONL, JSON, CSV or Parquet, row by row (a JSONL file no further than `n` rows).
2. Columns are recognised by name, as GSM8K, MATH-500 and AIME name them, or are named by the caller.
3. A gold answer is the answer column; where that holds GSM8K's worked solution, what follows its ``####``; where there
   is none, the ``####`` tail or the last ``\\boxed{...}`` of the solution. The solution text itself is kept as given.
4. Whatever cannot be read is refused with the line, what was found and the option that helps. Text is data, never run.

>>> split_solution("She makes 9 * 2 = $18.\\n#### 18")
'18'
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from interp.errors import InputError

__all__ = ["Problem", "bundled_problems", "load_problems", "split_solution"]

_OPERATION = "load problems"
_USUAL = {"question": ("question", "problem"), "solution": ("solution",), "answer": ("answer",)}
_IDS = ("id", "unique_id", "idx", "problem_id")
_OPTIONS = "Name the columns with --question, --solution and --answer (question=, solution=, answer= in Python)."

_Row = tuple[str, dict[str, Any]]  # ("line 3", its cells by column name)


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
        read = _READERS.get(file.suffix.lower())
        if read is None:
            raise InputError(
                _OPERATION, expected="a known suffix", received=f"{file.suffix!r} ({file})", remedy=_formats()
            )
        rows = list(islice(read(file), n))
    except UnicodeDecodeError as error:
        raise InputError(
            _OPERATION,
            expected="UTF-8 text",
            received=f"byte 0x{error.object[error.start]:02x} in {file}",
            remedy="Save the file as UTF-8.",
        ) from error
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
    columns = _choose_columns(rows, {"question": question, "solution": solution, "answer": answer})
    problems = [_problem(where, number, row, columns) for number, (where, row) in enumerate(rows)]
    seen: dict[str, str] = {}
    for problem, (where, _) in zip(problems, rows, strict=True):
        if problem.id in seen:
            raise InputError(
                _OPERATION,
                expected="a different id in each row",
                received=f"id {problem.id!r} in {seen[problem.id]} and {where}",
                remedy="Rename or remove one of the two.",
            )
        seen[problem.id] = where
    return problems


def bundled_problems(n: int | None = None) -> list[Problem]:
    """The first `n` problems made for the toy model (all of the usual number when None); no file is needed.

    >>> [problem.id for problem in bundled_problems(2)] == [problem.id for problem in bundled_problems()[:2]]
    True

    Raises `InputError` for `n` under 1.
    """
    from analyses.toys.task import bundled_problems as toy_rows

    if n is not None and n < 1:
        raise InputError(
            "bundled problems", expected="n of at least 1", received=str(n), remedy="Leave n out to take all."
        )
    rows = toy_rows() if n is None else toy_rows(n)
    return [Problem(**{key: str(row[key]) for key in ("id", "question", "solution", "answer")}) for row in rows]


def split_solution(text: str) -> str:
    r"""The final answer a worked solution states: its ``####`` tail, else its last ``\boxed{...}``, else "".

    >>> split_solution("so the profit is\n#### 70,000"), split_solution(r"hence $\boxed{\frac{1}{2}}$.")
    ('70000', '\\frac{1}{2}')

    Thousands commas of the ``####`` tail are dropped; a box may be ``\boxed``, ``\fbox`` or ``\framebox``.
    """
    _, mark, tail = text.rpartition("####")
    if mark and tail.strip():
        # A comma counts as a thousands comma only inside a number that is written so throughout: (1,2) keeps its own
        grouped = r"(?<![\w.,(\[{])[-+$]*\d{1,3}(?:,\d{3})+(?![\d,])"
        return re.sub(grouped, lambda number: number[0].replace(",", ""), tail.strip().splitlines()[0].strip())
    for box in reversed(list(re.finditer(r"\\(?:boxed|fbox|framebox)\s*\{", text))):
        depth = 1
        # Escaped braces, \{ and \}, are signs of the formula and do not nest
        for brace in re.finditer(r"\\.|[{}]", text[box.end() :], flags=re.DOTALL):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                inside = text[box.end() : box.end() + brace.start()].strip()
                if inside:
                    return inside
                break
    return ""


def _formats() -> str:
    return f"Give a file ending in {', '.join(_READERS)}."


def _choose_columns(rows: list[_Row], asked: Mapping[str, str | None]) -> dict[str, str]:
    """The column of each role, and of the id; a role without one is left out."""
    found = list(dict.fromkeys(name for _, row in rows for name in row))
    received = f"the columns {', '.join(found)}" if found else "no columns"
    by_lower = {name.lower(): name for name in reversed(found)}
    columns: dict[str, str] = {}
    for role, usual in _USUAL.items():
        wanted = asked[role]
        if wanted is not None and wanted not in found:
            raise InputError(
                _OPERATION, expected=f"{wanted!r} as the {role} column", received=received, remedy=_OPTIONS
            )
        name = wanted or next((by_lower[name] for name in usual if name in by_lower), None)
        if name is not None:
            columns[role] = name
    if "question" not in columns:
        raise InputError(
            _OPERATION, expected="a question column (question or problem)", received=received, remedy=_OPTIONS
        )
    if "solution" not in columns and "answer" not in columns:
        raise InputError(_OPERATION, expected="a solution or an answer column", received=received, remedy=_OPTIONS)
    identity = next((by_lower[name] for name in _IDS if name in by_lower), None)
    return columns if identity is None else columns | {"id": identity}


def _problem(where: str, number: int, row: Mapping[str, Any], columns: Mapping[str, str]) -> Problem:
    def cell(role: str) -> str:
        return _as_text(row.get(columns[role]), role, where) if role in columns else ""

    identity = cell("id").strip() or str(number)
    question, solution, answer = cell("question"), cell("solution"), cell("answer").strip()
    if not question:
        raise InputError(
            _OPERATION,
            expected="a question in each row",
            received=f"none in {where} (id {identity!r})",
            remedy="Fill in or remove the row.",
        )
    if "####" in answer:  # GSM8K: the answer column is the worked solution
        solution, answer = solution or cell("answer"), split_solution(answer)
    answer = answer or split_solution(solution)
    if not answer:
        raise InputError(
            _OPERATION,
            expected="an answer in each row, or a solution ending in '#### answer' or holding \\boxed{answer}",
            received=f"none in {where} (id {identity!r})",
            remedy="Fill in or remove the row, or name the answer column with --answer.",
        )
    return Problem(id=identity, question=question, solution=solution or answer, answer=answer)


def _as_text(value: Any, role: str, where: str) -> str:
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
    raise InputError(
        _OPERATION,
        expected=f"text or a number as the {role}",
        received=f"{type(value).__name__} {value!r} in {where}",
        remedy=_OPTIONS,
    )


def _read_jsonl(file: Path) -> Iterator[_Row]:
    with file.open("rb") as handle:  # bytes, so that lines end at \n only and a wrong byte has its line
        for number, line in enumerate(handle, 1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if text:
                yield f"line {number}", _json_object(_parse_json(text, f"line {number} of {file}"), f"line {number}")


def _read_json(file: Path) -> Iterator[_Row]:
    text = file.read_bytes().decode("utf-8-sig").strip()
    rows = _parse_json(text, str(file)) if text else []
    if not isinstance(rows, list):
        raise InputError(
            _OPERATION,
            expected="a list of objects",
            received=f"a JSON {type(rows).__name__} in {file}",
            remedy="Put the problems into one list, or one object a line into a .jsonl file.",
        )
    for number, row in enumerate(rows, 1):
        yield f"row {number}", _json_object(row, f"row {number}")


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for an integer of thousands of digits
        raise InputError(
            _OPERATION,
            expected="JSON",
            received=f"{where}: {error}",
            remedy="A .jsonl file holds one object a line, a .json file one list of objects.",
        ) from error


def _json_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(
            _OPERATION,
            expected="a JSON object for each problem",
            received=f"{type(value).__name__} in {where}",
            remedy='Write each problem as {"question": ..., "solution": ..., "answer": ...}.',
        )
    return value


def _read_csv(file: Path) -> Iterator[_Row]:
    with file.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.DictReader(handle, strict=True)
        try:
            for number, row in enumerate(reader, 1):
                if None in row:  # DictReader's key for cells beyond the last column
                    raise csv.Error("more cells than columns")
                yield f"row {number}", row
        except csv.Error as error:
            raise InputError(
                _OPERATION,
                expected="comma-separated values under one line of column names",
                received=f"line {reader.reader.line_num} of {file}: {error}",
                remedy="Mend the line's quotes and commas, or save the table as .jsonl or .parquet.",
            ) from error


def _read_parquet(file: Path) -> Iterator[_Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=256):
                # Floats by way of numpy: a float32 0.1 keeps its own short text, "0.1", instead of 0.10000000149
                columns = [
                    column.to_numpy(zero_copy_only=False)
                    if pyarrow.types.is_floating(column.type)
                    else column.to_pylist()
                    for column in batch.columns
                ]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield f"row {number}", dict(zip(batch.schema.names, cells, strict=True))
    except pyarrow.ArrowException as error:
        raise InputError(
            _OPERATION,
            expected="a Parquet table",
            received=f"{file}: {error}",
            remedy="Write the file again; it is cut short or of another format.",
        ) from error


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}

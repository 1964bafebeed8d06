"""Problems: the three benchmark shapes in all four formats, and what a problem is."""

import json
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from problem_rows import AIME, GSM8K, MATH, refusal

from analyses.problems import Problem, _as_text, bundled_problems, load_problems, split_solution
from interp.errors import InputError


def test_gsm8k_answer_column_is_the_worked_solution(write):
    first, second = load_problems(write(GSM8K))
    assert first == Problem("7", GSM8K[0]["question"], GSM8K[0]["answer"], "1200")
    assert second.answer == "4.5"


def test_math_and_aime_columns_are_recognised(write):
    assert load_problems(write(MATH)) == [
        Problem("test/algebra/1.json", MATH[0]["problem"], MATH[0]["solution"], MATH[0]["answer"])
    ]
    assert load_problems(write(AIME)) == [Problem("60", "Find $m+n$.", AIME[0]["solution"], "204")]


def test_named_columns_win_and_case_is_free(write):
    rows = [{"Problem": "1+1?", "Prompt": "2+2?", "Answer": "2", "Gold": 4}]
    assert load_problems(write(rows))[0] == Problem("0", "1+1?", "2", "2")
    assert load_problems(write(rows), question="Prompt", answer="Gold")[0] == Problem("0", "2+2?", "4", "4")


@pytest.mark.parametrize("name", ["p.json", "p.csv", "p.parquet", "p.JSONL"])
@pytest.mark.parametrize("rows", [GSM8K, MATH, AIME], ids=["gsm8k", "math", "aime"])
def test_all_formats_give_the_same_problems(write, tmp_path, rows, name):
    file = tmp_path / name
    if name == "p.json":
        file.write_text(json.dumps(rows))
    elif name == "p.csv":
        pandas.DataFrame(rows).to_csv(file, index=False)
    elif name == "p.parquet":
        pandas.DataFrame(rows).to_parquet(file)
    else:
        write(rows, name)
    assert load_problems(file) == load_problems(write(rows))


def test_numbers_become_text_and_missing_cells_are_missing(tmp_path):
    frame = pandas.DataFrame(
        {
            "question": ["a", "b", "c", "d"],
            "solution": ["x", None, " ", "\\boxed{9}"],
            "answer": np.array([18.0, 0.5, 0.1, np.nan], dtype=np.float32),
            "id": [11.0, 12.0, np.nan, 14.0],
        }
    )
    frame.to_parquet(tmp_path / "p.parquet")
    problems = load_problems(tmp_path / "p.parquet")
    assert [problem.answer for problem in problems] == ["18", "0.5", "0.1", "9"]
    assert [problem.solution for problem in problems] == ["x", "0.5", "0.1", "\\boxed{9}"]
    assert [problem.id for problem in problems] == ["11", "12", "2", "14"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (18, "18"),
        (18.0, "18"),
        (-0.5, "-0.5"),
        (1e20, "100000000000000000000"),
        (np.int64(7), "7"),
        (np.float32(0.1), "0.1"),
        (Decimal("18.00"), "18"),
        (Decimal("0.30"), "0.30"),
        (None, ""),
        (float("nan"), ""),
        (np.float32("nan"), ""),
        (" \n", ""),
        (" 18 ", " 18 "),
    ],
)
def test_cell_text(value, text):
    assert _as_text(value, "answer", "row 1") == text


@pytest.mark.parametrize("value", [True, np.bool_(True), [18], {"a": 1}, float("inf"), b"18"])
def test_cells_that_are_no_text_are_refused(value):
    with pytest.raises(InputError, match=r"expected text or a number as the answer, received .* in row 1\. Name the"):
        _as_text(value, "answer", "row 1")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 3 #### 1,234,567", "1234567"),
        ("x\n####  -1,000.5 \nsource: a book", "-1000.5"),
        ("#### $2,000", "$2000"),
        ("#### (1,200)", "(1,200)"),
        ("#### 1,2,345", "1,2,345"),
        ("#### 12,34", "12,34"),
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\left\{1, 2\right\}}.", r"\left\{1, 2\right\}"),
        (r"\boxed{\}} }", r"\}"),
        (r"\boxed {5} and \boxed{broken", "5"),
        (r"\boxed{5} \boxed{ }", "5"),
        (r"\fbox{A}", "A"),
        ("#### \n \\boxed{6}", "\\boxed{6}"),
        (r"\boxed{6} ####", "6"),
        # Headings of Markdown are no answers, in whatever dress
        ("#### Step 2", ""),
        ("#### **Step 2: conclude**\nso it is 7", ""),
        ("#### 2. Multiply by 9\n9 * 2 = 18", ""),
        ("#### (b) The second part\nso it is 7", ""),
        ("#### 1\nHalve it.\n#### 2\nDouble it.", ""),
        ("#### Finding the roots of the given equation in the plane", ""),
        ("##### 18\nof them", ""),
        ("###### 18", ""),
        (r"#### Step 1" "\n" r"Halve. #### Step 2" "\n" r"So $x=\boxed{2}$.", "2"),
        (r"So $\boxed{2}$." "\n\n" r"#### Remark" "\nNothing else.", "2"),
        (r"#### 1" "\nfirst\n" r"#### 2" "\n" r"so $\boxed{7}$", "7"),
        (r"#### **Final Answer**" "\n" r"$\boxed{2}$", "2"),
        (r"$\boxed{2}$" "\n#### Done", "2"),
        # and a mark below or among them is one
        ("#### Step 1\n9 * 2\n#### 18", "18"),
        ("#### Step 1\n9 * 2\n#### **1,800**\n", "1800"),
        ("#### 18 dollars\n#### Check\nThat is right.", "18 dollars"),
        ("#### Final answer: 18", "18"),
        ("#### **Answer**\n\n18", "18"),
        ("####18", "18"),
        ("#### 18 ####", "18"),
        ("#### 18.", "18"),
        ("so\n#### Yes", "Yes"),
        (r"\boxed{5} #### 18", "18"),
        ("no mark", ""),
        ("", ""),
    ],
)
def test_split_solution(text, answer):
    assert split_solution(text) == answer


def test_answer_is_taken_from_the_solution_where_there_is_no_answer_column(write):
    rows = [{"question": "a", "solution": r"so $\boxed{5}$"}, {"question": "b", "solution": "so\n#### 6"}]
    assert [problem.answer for problem in load_problems(write(rows))] == ["5", "6"]


def test_n_takes_the_first_and_reads_no_further(write):
    file = write(GSM8K)
    with file.open("ab") as handle:
        handle.write(b"\xff not JSON\n")
    assert [problem.id for problem in load_problems(file, n=2)] == ["7", "8"]
    assert "received byte 0xff in" in refusal(file)
    assert len(load_problems(write(GSM8K), n=50)) == 2


def test_text_is_never_run(write):
    hostile = "__import__('os').abort()"
    assert load_problems(write([{"question": hostile, "answer": hostile}]))[0].answer == hostile


def test_digest_tells_every_field_apart():
    fields = [
        ("ab", "c", "d"),
        ("a", "bc", "d"),
        ("ab", "cd", "e"),
        ("ab", "c", "de"),
        ("AB", "c", "d"),
        ("ab", "C", "d"),
    ]
    digests = [Problem("1", *texts).digest for texts in fields]
    assert len(set(digests)) == len(fields)
    assert Problem("2", *fields[0]).digest == digests[0]
    assert all(len(digest) == 16 for digest in digests)


def test_n_under_one(write):
    assert refusal(write(GSM8K), n=0) == "load problems: expected n of at least 1, received 0. Leave n out to take all."
    with pytest.raises(InputError, match="bundled problems: expected n of at least 1, received -1"):
        bundled_problems(-1)


def test_a_problem_refuses_blank_and_other_types():
    with pytest.raises(InputError, match=r"expected text as the question, received ' ' in problem '1'\. Give each"):
        Problem("1", " ", "s", "a")
    # A checked call could not pass a number; unchecked code can
    with pytest.raises(InputError, match="expected text as the id, received 3 in problem 3"):
        Problem.__post_init__(SimpleNamespace(id=3))


def test_bundled_problems_are_problems():
    problems = bundled_problems(3)
    assert len({problem.id for problem in problems}) == 3
    assert all(isinstance(problem, Problem) and problem.digest for problem in problems)


def test_a_worked_solution_in_the_answer_column_is_one_by_its_box_too(write):
    worked = "First $1+1$.\n#### Step 2\nSo $\\boxed{2}$."
    assert load_problems(write([{"question": "a", "answer": worked}]))[0] == Problem("0", "a", worked, "2")
    lines = "First $1+1$.\nSo $\\boxed{2}$."
    assert load_problems(write([{"question": "a", "answer": lines}]))[0].answer == "2"
    assert load_problems(write([{"question": "a", "answer": "$\\boxed{2}$"}]))[0].answer == "$\\boxed{2}$"

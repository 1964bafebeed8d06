"""Problem files: the three benchmark shapes, the four formats, and each refusal by its text."""

import csv
import json
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from analyses.problems import Problem, _as_text, bundled_problems, load_problems, split_solution
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


@pytest.fixture
def write(tmp_path):
    def write_rows(rows, name="problems.jsonl"):
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return file

    return write_rows


def refusal(*args, **options):
    with pytest.raises(InputError) as caught:
        load_problems(*args, **options)
    return str(caught.value)


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


def test_byte_order_mark_blank_lines_and_unicode(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('\n{"question": "π\u2028 or 🎉?", "answer": "é"}\n\n', encoding="utf-8-sig")
    assert load_problems(file)[0] == Problem("0", "π\u2028 or 🎉?", "é", "é")
    file.with_suffix(".csv").write_text("question,answer\n1?,1\n", encoding="utf-8-sig")
    assert load_problems(file.with_suffix(".csv"))[0].question == "1?"


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


def test_unreadable_paths(tmp_path):
    assert "a file that can be read, received" in refusal(tmp_path / "none.jsonl")
    assert "No such file or directory). Check the path" in refusal(tmp_path / "none.jsonl")
    assert "File name too long" in refusal(tmp_path / ("a" * 300 + ".jsonl"))
    (tmp_path / "folder.jsonl").mkdir()
    assert "expected a file, received" in refusal(tmp_path / "folder.jsonl")
    (tmp_path / "p.xlsx").write_text("x")
    assert "expected a known suffix, received '.xlsx'" in refusal(tmp_path / "p.xlsx")
    assert "ending in .jsonl, .json, .csv, .parquet." in refusal(tmp_path / "p.xlsx")


def test_an_error_while_reading_is_told(tmp_path):
    file = tmp_path / "memory.jsonl"
    file.symlink_to("/proc/self/mem")  # opens for anyone, and fails at the first read
    assert "received" in refusal(file)
    assert "Input/output error" in refusal(file)


@pytest.mark.parametrize(
    ("content", "name", "text"),
    [
        ("", "p.jsonl", "expected at least one row"),
        ("\n \n", "p.jsonl", "expected at least one row"),
        ("", "p.json", "expected at least one row"),
        ("[]", "p.json", "expected at least one row"),
        ("", "p.csv", "expected at least one row"),
        ("question,answer\n", "p.csv", "expected at least one row"),
        ('{"question": "a", "answer": "b"}\n{"question": \n', "p.jsonl", "expected JSON, received line 2 of"),
        ('{"question": "a", "answer": ' + "9" * 5000 + "}", "p.jsonl", "received line 1 of"),
        ("[" * 100_000, "p.json", "expected JSON, received"),
        ('{"question": "a"} x', "p.json", "one list of objects"),
        ('{"question": "a"}', "p.json", "expected a list of objects, received a JSON dict in"),
        ("[1]", "p.json", "expected a JSON object for each problem, received int in row 1. Write each problem as"),
        ("[]\n", "p.jsonl", "received list in line 1"),
        ("PAR1", "p.parquet", "expected a Parquet table, received"),
        ('question,answer\na,"b', "p.csv", "line 2 of"),
        ("question,answer\na,b,c\n", "p.csv", "more cells than columns. Mend the line's quotes"),
        (
            '{"question": "a", "solution": "s"}',
            "p.jsonl",
            "received none in line 1 (id '0'). Fill in or remove the row",
        ),
        (
            '{"question": " ", "answer": 1, "id": "x"}',
            "p.jsonl",
            "a question in each row, received none in line 1 (id 'x')",
        ),
        ('{"question": "a", "answer": "#### "}', "p.jsonl", "expected an answer in each row"),
        ('{"question": "a", "answer": true}', "p.jsonl", "received bool True in line 1"),
        ('{"question": "a", "answer": [1]}', "p.jsonl", "received list [1] in line 1"),
        ('{"question": "\\ud800", "answer": 1}', "p.jsonl", "half of a surrogate pair in problem '0'"),
        ("{}", "p.jsonl", "received no columns"),
        (
            '{"text": "a", "gold": 1}',
            "p.jsonl",
            "a question column (question or problem), received the columns text, gold",
        ),
        ('{"text": "a", "gold": 1}', "p.jsonl", "--question, --solution and --answer"),
        (
            '{"question": "a", "gold": 1}',
            "p.jsonl",
            "a solution or an answer column, received the columns question, gold",
        ),
        (
            '{"question": "a", "answer": 1, "id": 5}\n{"question": "b", "answer": 2, "id": "5"}',
            "p.jsonl",
            "expected a different id in each row, received id '5' in line 1 and line 2",
        ),
    ],
)
def test_bad_content(tmp_path, content, name, text):
    (tmp_path / name).write_text(content)
    message = refusal(tmp_path / name)
    assert message.startswith(("load problems: expected", "problem: expected"))
    assert text in message


def test_wrong_named_column_lists_the_columns(write):
    for role in ("question", "solution", "answer"):
        assert (
            f"expected 'nope' as the {role} column, received the columns question, answer, idx. Name the columns with "
            "--question" in refusal(write(GSM8K), **{role: "nope"})
        )


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


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.csv", "p.parquet"])
def test_cells_of_any_length_and_content(tmp_path, name):
    text = 'a "quoted", long\nline; ' + "x" * 400_000 + "\u2028π🎉"
    row = {"id": "ü/ß 1", "question": text, "answer": 18}
    file = tmp_path / name
    if name == "p.csv":
        pandas.DataFrame([row]).to_csv(file, index=False)
    elif name == "p.parquet":
        pandas.DataFrame([row]).to_parquet(file)
    else:
        file.write_text(json.dumps([row] if name == "p.json" else row), encoding="utf-8")
    limit = csv.field_size_limit()
    assert load_problems(file) == [Problem("ü/ß 1", text, "18", "18")]
    assert csv.field_size_limit() == limit, "the limit of others in this process stays"


def test_names_that_stand_twice_are_refused_where_they_are_wanted(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("question,answer,answer,note,note\n1+1?,2,3,x,y\n")
    message = refusal(file)
    assert "expected one answer column named 'answer', received 2 of that name, in row 1 (line 2)" in message
    assert str(file) in message
    file.write_text("question,answer,gold,gold\n1+1?,2,5,6\n")
    assert load_problems(file)[0].answer == "2", "those that nobody asks for do no harm"
    assert "one answer column named 'gold'" in refusal(file, answer="gold")
    jsonl = tmp_path / "p.jsonl"
    jsonl.write_text('{"question": "1+1?", "answer": 2, "answer": 3}')
    assert "expected one answer column named 'answer', received 2 of that name, in line 1" in refusal(jsonl)
    table = pyarrow.Table.from_arrays(
        [pyarrow.array(["1+1?"])] + [pyarrow.array([2])] * 2, ["question"] + ["answer"] * 2
    )
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    assert "expected one answer column named 'answer', received 2" in refusal(tmp_path / "p.parquet")


def test_names_that_differ_by_case_alone(write):
    both = [{"question": "1+1?", "Answer": "no", "answer": "2"}]
    assert load_problems(write(both))[0].answer == "2", "as it is written is meant"
    assert load_problems(write(both), answer="Answer")[0].answer == "no"
    message = refusal(write([{"question": "1+1?", "ANSWER": "no", "Answer": "2"}]))
    assert "expected one column named answer, in any case, received 2: 'ANSWER', 'Answer'" in message


def test_csv_as_spreadsheets_write_it(tmp_path):
    file = tmp_path / "p.csv"
    file.write_bytes("\ufeff\r\nquestion, answer,\r\n1+1?,2,\r\n\r\n,,\r\n2+2?,4,,,\r\n3?\r\n".encode())
    assert "none in row 3 (line 7)" in refusal(file)
    assert [problem.answer for problem in load_problems(file, n=2)] == ["2", "4"]
    file.write_bytes(b"question,answer\r1+1?,2\r2+2?,4\r")
    assert [problem.id for problem in load_problems(file)] == ["0", "1"]


def test_other_encodings_are_told_with_line_and_byte(tmp_path):
    file = tmp_path / "p.csv"
    file.write_bytes("question,answer\n1?,2\nWie viele Äpfel?,3\n".encode("cp1252"))
    message = refusal(file)
    assert f"byte 0xc4 in {file}, line 3, byte 11 of it. Save the file as UTF-8" in message
    file.write_bytes("question,answer\n1?,2\n".encode("utf-16"))
    assert "looks like UTF-16" in refusal(file)
    lines = tmp_path / "p.jsonl"
    lines.write_bytes(b'{"question": "a", "answer": 1}\n{"question": "\xe4", "answer": 1}\n')
    assert f"byte 0xe4 in {lines}, line 2, byte 15 of it" in refusal(lines)


def test_json_is_told_by_line_and_column(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"question": "a", "answer": 1}\n\n{"question": "b", "answer": 2,}\n')
    message = refusal(file)
    assert f"received line 3 of {file}: " in message
    assert "column 3" in message
    assert "There is a comma too many" in message
    file.write_text('{"question": "a", "answer": 1},\n{"question": "b", "answer": 2}\n')
    assert "received line 1 of" in refusal(file)
    assert "There is a comma too many" in refusal(file)
    file.write_text('[{"question": "a", "answer": 1}]')
    assert "a file of one list is named .json" in refusal(file)
    whole = tmp_path / "p.json"
    whole.write_text('[\n {"question": "a", "answer": 1},\n {"question": "b" "answer": 2}\n]')
    assert f"line 3 of {whole}: Expecting ',' delimiter, column 19" in refusal(whole)


def test_json_lines_by_the_name_of_json(tmp_path):
    file = tmp_path / "p.json"
    file.write_text('\ufeff{"question": "a", "answer": 1}\r\n\r\n{"question": "b", "answer": 2.0}\r\n')
    assert [problem.answer for problem in load_problems(file)] == ["1", "2"]
    file.write_text(json.dumps([{"question": "a", "answer": 1}], indent=1))
    assert len(load_problems(file)) == 1


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"question": ["a", "b"], "answer": 1}, "text or a number as the question, received list"),
        ({"question": "a", "answer": {"value": 2}}, "text or a number as the answer, received dict {'value': 2}"),
        ({"question": "a", "answer": ["2", "3"]}, "received list ['2', '3'] in line 1"),
        ({"question": "a", "answer": ["x" * 9000]}, "... in line 1"),
        ({"question": "a", "answer": 1, "id": [1]}, "text or a number as the id, received list [1]"),
        ({"question": "a", "answer": False}, "received bool False"),
        ({"question": "\t \u00a0", "answer": 1}, "a question in each row, received none in line 1"),
        ({"question": "a", "answer": None}, "an answer in each row"),
        ({"question": None, "answer": 1}, "a question in each row"),
        ({"question": "\ud800", "answer": 1}, "half of a surrogate pair"),
    ],
)
def test_what_is_no_text_is_told_with_file_line_and_column(write, row, text):
    file = write([row])
    message = refusal(file)
    assert text in message
    assert str(file) in message
    assert "line 1" in message
    assert len(message) < 800


def test_what_a_row_holds_beside_is_no_matter(write, tmp_path):
    rows = [{"question": "a", "answer": 2.50, "tags": ["x"], "meta": {"level": 1}, "ok": True, "id": 7}]
    assert load_problems(write(rows)) == [Problem("7", "a", "2.5", "2.5")]
    pandas.DataFrame(rows).to_parquet(tmp_path / "p.parquet")
    assert load_problems(tmp_path / "p.parquet") == load_problems(write(rows))
    message = refusal(tmp_path / "p.parquet", answer="tags")
    assert "received list ['x'] in row 1. Name the columns" in message
    assert "The column is 'tags'" in message
    assert "received dict {'level': 1} in row 1" in refusal(tmp_path / "p.parquet", answer="meta")


def test_ids_that_repeat_are_told_with_the_file(write):
    file = write([{"question": "a", "answer": 1, "id": 5.0}, {"question": "b", "answer": 2, "id": " 5 "}])
    assert "received id '5' in line 1 and line 2" in refusal(file)
    assert str(file) in refusal(file)
    rows = [{"question": "a", "answer": 1, "id": "1"}, {"question": "b", "answer": 2, "id": None}]
    assert "received id '1' in line 1 and line 2" in refusal(write(rows)), "a number of a row is taken by an id"
    composed = [{"question": "a", "answer": 1, "id": "é"}, {"question": "b", "answer": 2, "id": "e\u0301"}]
    assert len(load_problems(write(composed))) == 2

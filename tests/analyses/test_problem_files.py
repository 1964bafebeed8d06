"""Problem files as people have them: encodings, names, cells of any kind, and each refusal by its text."""

import csv
import json

import pandas
import pyarrow
import pyarrow.parquet
import pytest
from problem_rows import GSM8K, refusal

from analyses.problems import Problem, load_problems


def test_byte_order_mark_blank_lines_and_unicode(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('\n{"question": "π\u2028 or 🎉?", "answer": "é"}\n\n', encoding="utf-8-sig")
    assert load_problems(file)[0] == Problem("0", "π\u2028 or 🎉?", "é", "é")
    file.with_suffix(".csv").write_text("question,answer\n1?,1\n", encoding="utf-8-sig")
    assert load_problems(file.with_suffix(".csv"))[0].question == "1?"


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

"""Files as people have them: each format is told by what is in it, and what cannot be read costs nothing else."""

from __future__ import annotations

import json
import pickle
from array import array
from pathlib import Path
from typing import Any

import pytest
from hostile import HOSTILE

from analyses.problems import Problem
from analyses.responses import Paired, Stored, load_responses, pair
from analyses.store import Cell
from interp import InputError

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
MESSAGE = {"role": "assistant", "content": "4.", "reasoning_content": "2 and 2"}
CHOICE = {"index": 0, "message": MESSAGE, "finish_reason": "stop"}
SAMPLE = {"doc_id": 3, "doc": {"question": "2 + 2?", "answer": "so\n#### 4"}, "target": "so\n#### 4"}
REQUEST = {"gen_args_0": {"arg_0": "Q: 2 + 2?\nA:", "arg_1": {"until": ["\n"]}}}
OUTPUT = {"index": 0, "text": "It is 4", "token_ids": [7, 8, 2], "finish_reason": "stop", "stop_reason": None}


def one_of(tmp_path: Path, *rows: Any, name: str = "mine.jsonl") -> list[Stored]:
    file = tmp_path / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = load_responses(file)
    assert found.refused == {}
    return list(found.stored)


@pytest.mark.parametrize(
    ("row", "form", "expected"),
    [
        (
            {"question": "2 + 2?", "answer": 4.0, "response": "It is 4.", "finish_reason": "length", "id": 7},
            "rows",
            {"id": "7", "question": "2 + 2?", "answer": "4", "text": "It is 4.", "finish": "length"},
        ),
        (
            {"problem": "p", "sample": 2, "question": "2 + 2?", "gold": "4", "text": "4", "finish_reason": "eos"},
            "rows",
            {"id": "p", "sample": 2, "question": "2 + 2?", "answer": "4", "finish": "eos"},
        ),
        (
            {"prompt_token_ids": [5], "token_ids": [6, 7], "solution": "#### 4", "prompt": "2"},
            "rows",
            {"prompt_ids": (5,), "token_ids": (6, 7), "text": None, "solution": "#### 4", "prompt": "2"},
        ),
        (
            {"messages": [*CHAT, MESSAGE], "answer": "4"},
            "rows",
            {"messages": tuple(CHAT), "text": "4.", "reasoning": "2 and 2", "asked": "2 + 2?"},
        ),
        (
            {"id": "p", "output_ids": [6], "text": "4", "finish_reason": {"type": "stop", "matched": 2}},  # SGLang's
            "rows",
            {"token_ids": (6,), "text": "4", "finish": "eos"},
        ),
        (
            {**SAMPLE, "arguments": REQUEST, "resps": [["It is 4"]], "filtered_resps": ["4"], "filter": "none"},
            "lm-eval",
            {"id": "3", "question": "2 + 2?", "prompt": "Q: 2 + 2?\nA:", "answer": "so\n#### 4", "finish": None},
        ),
        (
            {**SAMPLE, "arguments": [[json.dumps(CHAT), {"until": []}]], "resps": [["4"]]},
            "lm-eval",
            {"messages": tuple(CHAT), "prompt": None, "text": "4"},
        ),
        (
            {"request_id": "0", "prompt": "2", "prompt_token_ids": [1, 5], "outputs": [OUTPUT], "finished": True},
            "vllm",
            {"id": None, "prompt_ids": (1, 5), "token_ids": (7, 8, 2), "text": "It is 4", "finish": "eos"},
        ),
        (
            {"request_id": "0", "id": "p", "outputs": [{**OUTPUT, "stop_reason": "\n"}]},
            "vllm",
            {"id": "p", "finish": "stop"},
        ),
        (
            {"id": "chatcmpl-1", "messages": CHAT, "choices": [CHOICE], "answer": "4"},
            "chat completions",
            {"id": None, "messages": tuple(CHAT), "text": "4.", "reasoning": "2 and 2", "finish": "eos"},
        ),
        (
            {"custom_id": "p", "response": {"status_code": 200, "body": {"id": "chatcmpl-1", "choices": [CHOICE]}}},
            "chat completions",
            {"id": "p", "text": "4."},
        ),
        (
            {"id": "p", "request": {"messages": CHAT}, "response": {"choices": [{**CHOICE, "token_ids": [7]}]}},
            "chat completions",
            {"id": "p", "messages": tuple(CHAT), "token_ids": (7,)},
        ),
    ],
)
def test_a_row_is_recognised_and_read(tmp_path: Path, row: Any, form: str, expected: dict[str, Any]) -> None:
    for name, text in (("a.jsonl", json.dumps(row)), ("b.json", json.dumps([row], indent=1))):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (found,) = load_responses(tmp_path / name).stored
        assert found.form == form
        values = {key: getattr(found, key) for key in expected}
        assert {key: tuple(v) if isinstance(v, array) else v for key, v in values.items()} == expected


def test_several_responses_of_a_row(tmp_path: Path) -> None:
    many = {"question": "2 + 2?", "answer": "4", "generations": ["4", "5"], "finish_reasons": ["stop", "length"]}
    dicts = {"question": "3?", "answer": "3", "responses": [{"text": "3", "token_ids": [4]}]}
    repeats = {**SAMPLE, "arguments": REQUEST, "resps": [["4", "5", "6"]]}
    found = one_of(tmp_path, many, dicts, repeats)
    assert [one.text for one in found] == ["4", "5", "3", "4", "5", "6"]
    assert [one.finish for one in found[:2]] == ["eos", "length"]
    assert list(found[2].token_ids or ()) == [4]
    paired = pair(load_responses(tmp_path / "mine.jsonl"))
    assert [(cell.problem, cell.sample) for cell in paired.stored][:3] == [("0", 0), ("0", 1), ("1", 0)]


def test_a_log_has_a_row_for_each_filter_and_one_is_read(tmp_path: Path) -> None:
    row = {**SAMPLE, "arguments": REQUEST, "resps": [["4", "5"]]}
    found = one_of(tmp_path, {**row, "filter": "strict"}, {**row, "filter": "flexible"}, name="samples_a.jsonl")
    assert [one.text for one in found] == ["4", "5"]
    assert len(one_of(tmp_path, row, row)) == 4, "rows of no filters are responses each"


def test_tables_and_data_sets_on_disk(tmp_path: Path) -> None:
    import pandas as pd
    from datasets import Dataset, DatasetDict

    rows = {"problem": ["2 + 2?"], "answer": ["4"], "generations": [["4", "<think>\n2</think>4"]], "other": [1.5]}
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    DatasetDict({"train": Dataset.from_dict(rows)}).save_to_disk(tmp_path / "split")
    for name in ("a.parquet", "set", "split"):
        assert [one.text for one in load_responses(tmp_path / name).stored] == ["4", "<think>\n2</think>4"]
    DatasetDict({part: Dataset.from_dict(rows) for part in ("train", "test")}).save_to_disk(tmp_path / "two")
    with pytest.raises(InputError, match=r"a data set of one split, received .* with train, test"):
        load_responses(tmp_path / "two")


def test_a_hostile_file_loses_nothing_else(tmp_path: Path) -> None:
    good = {"question": "2 + 2?", "answer": "4", "response": "It is 4."}
    lines = [
        b"\xff\xfe bytes of no text", b"<html><script>window.pwned=1</script></html>", b'{"question": "cut',
        b"[" * 100_000, json.dumps("text").encode(), b"{}", b'{"question": "2 + 2?", "answer": "4"}',
        json.dumps({**good, "response": "a" * 1_000_000}).encode(), json.dumps({**good, "response": " "}).encode(),
        b'{"question": "2", "answer": "4", "response": "\\ud800"}', b'{"question": 1, "response": {"a": 1}}',
        b'{"question": "a", "response": "b", "response": "c"}', b'{"question": "a", "token_ids": [1.5]}',
        b'{"question": "a", "token_ids": "cos\\nsystem"}', b'{"outputs": [{}], "request_id": 0}',
        b'{"choices": [], "id": 1}', b'{"doc": {}, "resps": [[["-1", "True"]]], "arguments": {}}',
        json.dumps({"messages": "x", "response": "b"}).encode(), b'{"question": "a", "response": "b", "sample": -1}',
        *(json.dumps({**good, "id": text, "response": text}).encode() for text in HOSTILE if text.strip()),
    ]  # fmt: skip
    file = tmp_path / "mine.jsonl"
    file.write_bytes(b"\n".join([json.dumps(good).encode(), *lines, json.dumps(good).encode()]))
    found = load_responses(file)
    texts = [one.text for one in found.stored]
    assert texts[0] == texts[-1] == "It is 4."
    assert "a" * 1_000_000 in texts
    told = [text for text in HOSTILE if text.strip() and text != "\ud800"]
    assert texts[2:-1] == told
    numbers = sorted(int(place.split()[1]) for place in found.refused)
    assert numbers == [*range(2, 9), *range(10, 21), 21 + [t for t in HOSTILE if t.strip()].index("\ud800")]
    assert all(place.endswith(" of mine.jsonl") for place in found.refused)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>\n<body>no</body>\n</html>\n", "in whose first lines no object is"),
        (pickle.dumps({"a": 1}), "a pickle, which is never loaded"),
        (b"\x1f\x8b\x08 compressed", "a compressed file"),
        (b"", "in whose first lines no object is"),
        (b'{"question": "2 + 2?", "answer": "4"}\n', "none that can be read, first line 1 of a.jsonl"),
        (b"[1, 2]", "none that can be read, first row 1"),
    ],
)
def test_what_is_no_file_of_responses_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_responses(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="none"):
        load_responses(tmp_path / "nowhere")


def stored(text: str, **fields: Any) -> Stored:
    return Stored(fields.pop("where", f"line {text} of a"), "rows", text=text, **fields)


def paired(*said: Stored, problems: list[Problem] | None = None, **options: Any) -> Paired:
    from analyses.responses import Responses

    return pair(Responses(said, {}, ({"file": "a"}, {"file": "b"})), problems, **options)


def test_problems_are_made_of_what_responses_say() -> None:
    found = paired(
        stored("1", id="p", question="2 + 2?", answer="4", sample=1),
        stored("2", id="p", question="2  + 2?", answer="4"),
        stored("3", id="p", question="2 + 2?", answer="4", sample=1),
        stored("4", id="p", question="3 + 3?", answer="6"),
        stored("5", question="5?", solution="so \\boxed{5}"),
        stored("6", question="6?"),
        stored("7"),
        stored("8", id="p", question="9?", answer="9", source=1),
    )
    assert [(p.id, p.question, p.solution, p.answer) for p in found.problems] == [
        ("p", "2 + 2?", "4", "4"), ("1", "5?", "so \\boxed{5}", "5"), ("b:p", "9?", "9", "9"),
    ]  # fmt: skip
    assert {cell: one.text for cell, one in found.stored.items()} == {
        Cell("p", 0): "2", Cell("p", 1): "1", Cell("1", 0): "5", Cell("b:p", 0): "8",
    }  # fmt: skip
    why = {cell.problem: text for cell, text in found.refused.items()}
    assert "sample 1 of problem 'p' again (first: line 1 of a)" in why["line 3 of a"]
    assert "another one under 'p', first in line 1 of a" in why["line 4 of a"]
    assert "a gold answer" in why["line 6 of a"]
    assert "a question" in why["line 7 of a"]
    assert [p.id for p in found.first(1).problems] == ["p"]
    assert set(found.first(1).stored) == {Cell("p", 0), Cell("p", 1)}


def test_problems_of_a_file_are_found_by_id_question_or_prompt() -> None:
    problems = [Problem(str(n), f"{n} + {n}?", str(2 * n), str(2 * n)) for n in range(1, 5)]
    found = paired(
        stored("a", id="1"),
        stored("b", id="x", question=" 2 + 2? "),
        stored("c", prompt_ids=(3, 3)),
        stored("d", prompt="4 4"),
        stored("e", id="1", question="4 + 4?"),
        stored("f", id="1", question="9 + 9?"),
        stored("g", id="2", messages=({"role": "user", "content": "Say: 2 + 2? Be brief."},)),
        stored("h", prompt="5 5"),
        problems=problems,
        prompt_of=lambda problem: (int(problem.id),) * 2,
        text_of=lambda ids: " ".join(map(str, ids)),
    )
    assert {one.text: cell.problem for cell, one in found.stored.items()} == {
        "a": "1", "b": "2", "c": "3", "d": "4", "e": "4", "g": "2",
    }  # fmt: skip
    why = {cell.problem: text for cell, text in found.refused.items()}
    assert set(why) == {"line f of a", "line h of a"}
    assert "beside another question" in why["line f of a"]
    with pytest.raises(InputError, match="none, first line z of a"):
        paired(stored("z"), problems=problems)

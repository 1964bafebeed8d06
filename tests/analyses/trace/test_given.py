"""Responses that exist, through the whole path: the run of what was decoded here, read again, is the same run."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import HOSTILE
from pandas.testing import assert_frame_equal
from processes import Command, Forks
from references import hf_residuals

from analyses.problems import bundled_problems
from analyses.responses import export_responses, load_responses
from analyses.store import Cell, Run
from analyses.trace import attribute_run, trace
from analyses.trace.provenance import RunWarning
from interp import InputError, bundled_model_path, load_model
from probes import nhsic_dense

SMALL: dict[str, Any] = {"batch_size": 6, "layers": [-1], "lens": 0, "pool": bundled_problems(40)}
TABLES = (
    "mi.parquet", "peaks.parquet", "steps.parquet", "responses.parquet", "reference_positions.parquet", "tokens.csv",
    "wrong_answers.parquet",
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("toy-reasoner", device="cpu")


@pytest.fixture(scope="module")
def made(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two samples a problem, some cut and some ended, with everything that is asked of a response."""
    out = tmp_path_factory.mktemp("made") / "run"
    decoding = {"max_new_tokens": 75, "samples": 2, "temperature": 0.8}
    return trace(model, n=3, out=out, null=19, **decoding, **SMALL)


@pytest.fixture(scope="module")
def exported(made: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "made.jsonl"
    assert export_responses(made.path, out) == (6, 6)
    return out


def assert_same(a: Run, b: Run, names: tuple[str, ...] = TABLES) -> None:
    for name in names:
        assert_frame_equal(a.table(name), b.table(name), check_exact=False, atol=1e-4, rtol=1e-4, obj=name)


def test_what_was_decoded_here_and_is_read_again_gives_the_same_tables(
    made: Run, exported: Path, model: Any, tmp_path: Path
) -> None:
    assert set(made.responses["finish_reason"]) == {"eos", "length"}
    again = trace(model, responses=exported, out=tmp_path / "again", null=19, **SMALL)
    assert_same(made, again)
    settings = again.settings
    assert [source["file"] for source in settings["responses_from"]] == ["made.jsonl"]
    assert settings["responses_from"][0]["formats"] == {"rows": 6}
    assert len(settings["responses"]) == 6
    assert not {"max_new_tokens", "temperature", "top_p", "seed"} & set(settings)
    assert again.read(Cell("toy-001", 1)).payload["given"] == {
        "where": "line 4 of made.jsonl", "prompt": "ids", "notes": [],
    }  # fmt: skip
    page = (again.path / "report.html").read_text(encoding="utf-8")
    assert "--responses made.jsonl" in page
    assert "--temperature" not in page


def test_a_run_folder_is_a_file_of_responses_too_and_text_alone_says_the_same(
    made: Run, exported: Path, model: Any, tmp_path: Path
) -> None:
    folder = trace(model, responses=made.path, out=tmp_path / "folder", report=False, **SMALL)
    rows = [json.loads(line) for line in exported.read_text(encoding="utf-8").splitlines()]
    for row in rows:  # what a chat's log has: no ids, no solution; an end that is said in its words
        del row["token_ids"], row["prompt_token_ids"], row["solution"]
        row["finish_reason"] = {"eos": "stop", "length": "max_tokens"}[row["finish_reason"]]
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    read = trace(model, bundled_problems(3), responses=text, out=tmp_path / "text",
                 report=False, **SMALL)  # fmt: skip
    for name in ("mi.parquet", "steps.parquet", "responses.parquet", "tokens.csv"):
        columns = [column for column in folder.table(name).columns if "excess" not in column]
        ours, theirs = made.table(name)[columns], read.table(name)[columns]
        assert_frame_equal(ours, folder.table(name)[columns], check_exact=False, atol=1e-4, rtol=1e-4, obj=name)
        assert_frame_equal(ours, theirs, check_exact=False, atol=1e-4, rtol=1e-4, obj=name)


def test_scores_of_a_text_are_those_of_plain_hugging_face(model: Any, tmp_path: Path) -> None:
    """Nothing of ours but the table: its tokenizer, its hooks, the literal formula; padding beside a longer one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = bundled_model_path("toy-reasoner")
    hf = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    problems = bundled_problems(3)
    said = ["So A 4 + 9 is 3 ; Wait 9 Therefore 4", "Hmm 9", "Okay then A 8 * 8 equals 4 . Therefore 4 ."]
    rows = [
        {"question": p.question, "solution": p.solution, "answer": p.answer, "response": text, "finish_reason": "stop"}
        for p, text in zip(problems, said, strict=True)
    ]
    file = tmp_path / "said.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = trace(model, responses=file, out=tmp_path / "run", excess=0, report=False, batch_size=3)
    for number, (problem, text) in enumerate(zip(problems, said, strict=True)):
        prompt = tokenizer(problem.question)["input_ids"]
        response = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        steps = hf_residuals(hf, prompt + response)["resid_post"][:, len(prompt) - 1 : -1]
        answer = hf_residuals(hf, tokenizer(problem.solution)["input_ids"])["resid_post"][:, -1]
        mine = run.mi[run.mi["problem"] == str(number)].sort_values(["layer", "step"])
        assert mine[mine["layer"] == 0]["token_id"].tolist() == response
        ours = torch.tensor(mine["nhsic"].to_numpy()).reshape(len(steps), -1)
        torch.testing.assert_close(ours, nhsic_dense(steps, answer), atol=1e-4, rtol=1e-3)
        with torch.no_grad():
            logits = hf(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        logprobs = run.steps[run.steps["problem"] == str(number)]["logprob"].to_numpy()
        np.testing.assert_allclose(logprobs, logits[range(len(response)), response].numpy(), atol=1e-4)


def test_a_run_grows_and_a_response_that_changed_is_refused(
    made: Run, exported: Path, model: Any, tmp_path: Path
) -> None:
    out, options = tmp_path / "run", {"report": False, "excess": 0, **SMALL}
    trace(model, responses=exported, n=2, out=out, **options)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}
    grown = trace(model, responses=exported, out=out, **options)
    assert len(before) == 4
    assert len(grown.cells()) == 6
    assert all(file.stat().st_mtime_ns == then for file, then in before.items())
    assert len(grown.settings["responses_from"]) == 1
    assert_same(made, grown, ("tokens.csv", "responses.parquet"))
    deeper = trace(model, responses=exported, out=out, **{**options, "layers": [0, -1]})
    assert deeper.peaks["layer"].unique().tolist() == [0, 2]
    lines = exported.read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[3])
    lines[3] = json.dumps({**row, "token_ids": row["token_ids"][:-2], "text": None})
    changed = tmp_path / "changed.jsonl"
    changed.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=r"settings\.responses\.toy-001/1 is .* there and .* now"):
        trace(model, responses=changed, out=out, **options)
    with pytest.raises(InputError, match=r"settings\.max_new_tokens is absent there and 256 now"):
        trace(model, n=2, out=out, **options)
    with pytest.raises(InputError, match=r"no settings of decoding .* temperature=0.5, samples=2"):
        trace(model, responses=exported, out=out, temperature=0.5, samples=2)


def test_a_hostile_file_costs_nothing_but_its_own(made: Run, exported: Path, model: Any, tmp_path: Path) -> None:
    rows = exported.read_bytes().splitlines()
    good = {"answer": "4", "solution": "Therefore 4", "response": "So 4"}
    odd: list[dict[str, Any]] = [
        {**good, "id": "long", "question": "4 ?", "response": "So " * 400_000},
        {**good, "id": "far", "question": "4 ?", "prompt_token_ids": [5], "token_ids": [999]},
        {**good, "id": "other", "question": "4 ?", "prompt_token_ids": [5], "token_ids": [6, 35], "text": "So"},
        {**good, "id": "words", "question": "4 ?", "response": "ducks <script>window.pwned=1</script>"},
        {**good, "id": "ask", "question": "ducks ?"},
        {"id": "gold", "question": "4 ?", "response": "So 4"},
        {**good, "id": "toy-000", "sample": 0, "question": json.loads(rows[0])["question"]},
        *({**good, "id": f"{text}<b>", "question": "4 ?"} for text in HOSTILE[:6]),
    ]
    file = tmp_path / "odd.jsonl"
    file.write_bytes(
        b"\n".join([b"\xff\xfe", b"<html>", *rows[:3], *(json.dumps(row).encode() for row in odd), *rows[3:]])
    )
    with pytest.warns(RunWarning, match="were cut where they were made"):
        run = trace(model, responses=file, out=tmp_path / "run", excess=0, **SMALL)
    names = {f"toy-00{n}" for n in range(3)}
    texts = dict.fromkeys(("problem", "input_token", "token"), str)  # categories of what is in the table
    mine = run.mi[run.mi["problem"].isin(names)].reset_index(drop=True).astype(texts)
    assert_frame_equal(mine, made.mi[run.mi.columns].astype(texts), check_exact=False, atol=1e-4, rtol=1e-4)
    assert {cell.problem for cell in run.cells()} == names | {f"{text}<b>" for text in HOSTILE[:6]}
    why = {cell.problem: reason for cell, reason in run.failures().items()}
    assert set(why) == {
        "long", "far", "other", "words", "ask", *(f"line {n} of odd.jsonl" for n in (1, 2, 11, 12)),
    }  # fmt: skip
    for name, text in (
        ("long", "a response of 400000"), ("far", "token ids from 0 to"), ("other", "another tokenizer's"),
        ("words", "words the tokenizer has"), ("line 11 of odd.jsonl", "a gold answer"),
        ("line 12 of odd.jsonl", "again (first: line 3"),
    ):  # fmt: skip
        assert text in why[name], name
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "<script>window.pwned" not in page
    assert "<img src=x" not in page


def test_prompts_in_other_forms_are_those_of_hugging_face(tmp_path: Path) -> None:
    """A chat's messages through the template, a prompt as it stands, and the question in the form of the run."""
    from transformers import AutoTokenizer

    chatty = load_model("toy-reasoner", device="cpu")
    chatty.tokenizer.chat_template = "<bos>{% for m in messages %}{{ m.content }} {% endfor %}Okay"
    plain = AutoTokenizer.from_pretrained(bundled_model_path("toy-reasoner"))
    common = {"answer": "4", "response": "So 4"}
    rows: list[dict[str, Any]] = [
        {**common, "id": "m", "messages": [{"role": "system", "content": "2"}, {"role": "user", "content": "4 ?"}]},
        {**common, "id": "p", "question": "4 ?", "prompt": "Hmm 4 ? ->"},
        {**common, "id": "q", "question": "4 ?"},
    ]
    file = tmp_path / "forms.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = trace(chatty, responses=file, out=tmp_path / "run", excess=0, report=False)
    for name, text in (("m", "2 4 ? Okay"), ("p", "Hmm 4 ? ->"), ("q", "4 ? Okay")):
        assert run.read(Cell(name)).tensors["prompt_ids"].tolist() == plain(text)["input_ids"], name


def test_a_response_of_such_a_run_is_attributed_as_that_of_the_run_that_decoded_it(
    made: Run, exported: Path, model: Any, tmp_path: Path
) -> None:
    run = trace(model, responses=exported, n=1, out=tmp_path / "run", report=False, excess=0, **SMALL)
    asked: dict[str, Any] = {"steps": [7], "model": model, "measures": ("r2",), "total": "none"}
    ours, theirs = (attribute_run(one, "toy-000", **asked).tables for one in (run, made))
    assert set(ours) == set(theirs) > {"logits"}
    for name, table in ours.items():
        assert_frame_equal(table, theirs[name], check_exact=False, atol=1e-4, rtol=1e-3, obj=name)


@pytest.mark.usefixtures("quick_processes")
def test_two_processes_read_the_same(made: Run, exported: Path, model: Any, tmp_path: Path) -> None:
    run = trace(model, responses=exported, out=tmp_path / "run", workers=2, report=False, excess=0, **SMALL)
    assert_frame_equal(run.mi, made.mi[run.mi.columns], check_exact=False, atol=1e-4, rtol=1e-4)


def test_what_was_killed_goes_on(made: Run, exported: Path, model: Any, toy_forks: Forks, tmp_path: Path) -> None:
    code = """
        import sys
        from analyses.trace import attribute_run, trace
        trace("toy-reasoner", responses=sys.argv[1], out=sys.argv[2], batch_size=1, report=False, excess=0, layers=[-1])
    """
    killed = tmp_path / "killed"
    child = toy_forks.spawn(code, exported, killed)
    while not list(killed.rglob("*.safetensors")):
        time.sleep(0.005)
    assert toy_forks.kill(child)[0] == -signal.SIGKILL
    had = len(list(killed.rglob("*.safetensors")))
    assert 0 < had < 6
    run = trace(model, responses=exported, out=killed, batch_size=1, report=False, excess=0, layers=[-1])
    assert_frame_equal(run.mi, made.mi[run.mi.columns], check_exact=False, atol=1e-4, rtol=1e-4)
    assert_same(run, made, ("tokens.csv", "responses.parquet"))


def test_the_commands(exported: Path, peaklens: Command, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    assert peaklens("export-prompts", "-n", "2", "-o", str(prompts))[0] == 0
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(bundled_model_path("toy-reasoner"))
    rows = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    for row, problem in zip(rows, bundled_problems(2), strict=True):
        assert row["prompt_token_ids"] == plain(problem.question)["input_ids"]
        assert plain(row["prompt"], add_special_tokens=False)["input_ids"] == row["prompt_token_ids"]
        assert (row["id"], row["solution"], row["answer"], row["text_is_exact"]) == (
            problem.id, problem.solution, problem.answer, True,
        )  # fmt: skip
    # what another engine would write beside these prompts, of which one has not come back whole
    answers = [{**rows[0], "text": "So 4", "finish_reason": "stop"}, {**rows[1], "text": ""}]
    back = tmp_path / "back.jsonl"
    back.write_text("".join(json.dumps(row) + "\n" for row in answers), encoding="utf-8")
    code, _, err = peaklens("trace", "--responses", str(back), "-o", str(tmp_path / "run"), "--excess", "0", "--json")
    assert code == 1
    assert "1 response failed, the first (problem 'line 2 of back.jsonl')" in err
    out = tmp_path / "out.jsonl"
    assert peaklens("export-responses", str(tmp_path / "run"), "-o", str(out))[0] == 0
    (one,) = load_responses(out).stored
    assert (one.id, one.text, one.finish) == ("toy-000", "So 4", "eos")
    assert list(one.prompt_ids or ()) == rows[0]["prompt_token_ids"]
    refused = peaklens("trace", "--responses", str(back), "--max-new-tokens", "9", "-o", str(tmp_path / "no"))
    assert refused[0] == 2

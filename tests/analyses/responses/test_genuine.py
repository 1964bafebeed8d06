"""Logs that lm-evaluation-harness and Inspect have really written (`tests/data/responses/make_logs.py`), read here."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analyses.responses import Stored, load_responses, pair
from analyses.responses.inspect_logs import stored_of
from analyses.trace import trace
from interp import InputError, bundled_model_path, decode, load_model

DATA = Path(__file__).parents[2] / "data" / "responses"
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"
INSPECT = importlib.util.find_spec("inspect_ai") is not None
LM_EVAL = importlib.util.find_spec("lm_eval") is not None


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("toy-reasoner", device="cpu")


def as_log_says(found: list[Stored]) -> None:
    """Two problems in two epochs each, as the dataset had them."""
    assert sorted((one.id or "", one.sample or 0) for one in found) == [
        ("six", 0), ("six", 1), ("toy-000", 0), ("toy-000", 1),
    ]  # fmt: skip
    for one in found:
        assert one.form == "inspect"
        assert one.question == {"six": "6 A * 3 B - 8 ? ->"}.get(str(one.id), "4 A + 9 B * 3 C - 5 D - 4 E - 6 ? ->")
        assert [dict(message) for message in one.messages] == [{"role": "user", "content": one.question}]
        assert (one.answer, one.solution[:4], one.reasoning) == ({"six": "0"}.get(str(one.id), "4"), "Okay", None)
        assert "Therefore" in (one.text or "")


def test_lm_evals_log_is_what_the_toy_says_and_is_traced(model: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(bundled_model_path("toy-reasoner"))
    file = DATA / "samples_toy_chain.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [row["filter"] for row in rows].count("whole") == 2
    assert len(rows) == 4
    run = trace(model, responses=file, out=tmp_path / "run", excess=0, report=False)
    assert len(run.cells()) == 2
    assert run.failures() == {}
    assert run.settings["responses_from"][0]["formats"] == {"lm-eval": 2}
    for cell in run.cells():
        data = run.read(cell)
        row = rows[[row["doc_id"] for row in rows].index(int(cell.problem))]
        prompt = row["arguments"]["gen_args_0"]["arg_0"]
        assert data.tensors["prompt_ids"].tolist() == plain(prompt)["input_ids"]
        # greedy there as here: the very tokens, less the end that the log does not keep
        made = decode(model, prompt, max_new_tokens=120)[0].token_ids.tolist()
        ids = data.tensors["token_ids"].tolist()
        assert ids == [token for token in made if token != plain.eos_token_id][: len(ids)]
        assert len(made) - len(ids) <= 1
        assert data.payload["finish_reason"] == "given"


def test_the_values_of_inspects_log_are_read_and_traced(tmp_path: Path) -> None:
    """What its own reader gives is the JSON of the log; here its values alone, without the reader."""
    log = json.loads((DATA / "toy_chain.json").read_text(encoding="utf-8"))
    found = [one for n, sample in enumerate(log["samples"]) for one in stored_of(sample, f"sample {n} of log")]
    as_log_says(found)
    chatty = load_model("toy-reasoner", device="cpu")
    chatty.tokenizer.chat_template = TEMPLATE
    from analyses.responses import Responses

    paired = pair(Responses(tuple(found), {}, ({"file": "log"},)))
    run = trace(chatty, responses=paired, out=tmp_path / "run", excess=0, report=False)
    assert len(run.cells()) == 4
    assert run.failures() == {}
    for cell in run.cells():
        ids = chatty.tokenizer(f"{run.payload(cell)['question']} ")["input_ids"]
        assert run.read(cell).tensors["prompt_ids"].tolist() == ids[ids[0] == chatty.tokenizer.bos_token_id :]


def test_a_sample_that_failed_is_told() -> None:
    log = json.loads((DATA / "toy_chain.json").read_text(encoding="utf-8"))
    broken = {**log["samples"][0], "error": {"message": "it timed out", "traceback": "..."}}
    with pytest.raises(InputError, match="one that failed: it timed out"):
        stored_of(broken, "sample")
    with pytest.raises(InputError, match="without one"):
        stored_of({**log["samples"][0], "messages": log["samples"][0]["messages"][:1]}, "sample")


@pytest.mark.skipif(INSPECT, reason="inspect-ai is installed")
@pytest.mark.parametrize("name", ["toy_chain.eval", "toy_chain.json"])
def test_without_inspect_its_logs_are_refused_with_what_helps(name: str) -> None:
    with pytest.raises(InputError, match=r"a log of Inspect, and .* Install it: pip install inspect-ai"):
        load_responses(DATA / name)


@pytest.mark.skipif(not INSPECT, reason="needs inspect-ai, see tests/data/responses/make_logs.py")
@pytest.mark.parametrize("name", ["toy_chain.eval", "toy_chain.json"])
def test_inspects_own_reader_reads_them(name: str) -> None:
    found = load_responses(DATA / name)
    as_log_says(list(found.stored))
    assert found.refused == {}


@pytest.mark.skipif(not (INSPECT and LM_EVAL), reason="needs lm-eval and inspect-ai, see make_logs.py")
def test_logs_made_anew_are_read(tmp_path: Path) -> None:
    """They run as they do in a checkout: the script beside the toy, in a folder of its own."""
    script = tmp_path / "tests" / "data" / "responses" / "make_logs.py"
    script.parent.mkdir(parents=True)
    shutil.copy(DATA / "make_logs.py", script)
    shutil.copytree(bundled_model_path("toy-reasoner"), tmp_path / "interp" / "bundled" / "toy-reasoner")
    subprocess.run([sys.executable, str(script)], check=True)
    for name in ("toy_chain.eval", "toy_chain.json"):
        as_log_says(list(load_responses(script.parent / name).stored))
    assert len(load_responses(script.parent / "samples_toy_chain.jsonl").stored) == 2

"""Prompt "auto": what it comes to, what is pinned, and that a folder goes on in the form it was begun with."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from processes import Command
from transformers import AutoTokenizer

from analyses.problems import bundled_problems
from analyses.store import Cell, Run
from analyses.studies import make_study
from analyses.studies.run import run_study
from analyses.trace import trace
from analyses.trace.provenance import RunWarning
from analyses.trace.settings import TraceSettings
from interp import InputError, bundled_model_path, load_model

TEMPLATE = "{% for m in messages %}So {{ m['content'] }}{% endfor %}"
SMALL = {"n": 2, "max_new_tokens": 6, "excess": 0, "report": False}


@pytest.fixture
def chatty() -> Any:
    """The toy with a chat template."""
    model = load_model("toy-reasoner", device="cpu")
    model.tokenizer.chat_template = TEMPLATE
    return model


def plain_ids(question: str, chat: bool) -> list[int]:
    """By transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_path("toy-reasoner"))
    tokenizer.chat_template = TEMPLATE
    if not chat:
        return list(tokenizer(question)["input_ids"])
    messages = [{"role": "user", "content": question}]
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])


def asked(run: Run) -> list[list[int]]:
    return [run.read(Cell(problem.id)).tensors["prompt_ids"].tolist() for problem in bundled_problems(2)]


@pytest.mark.parametrize("chat", [False, True])
def test_auto_is_the_template_where_there_is_one(chatty: Any, tmp_path: Path, chat: bool) -> None:
    model = chatty if chat else load_model("toy-reasoner", device="cpu")
    run = trace(model, out=tmp_path, **SMALL)
    assert run.settings["prompt"] == ("chat" if chat else "raw")
    assert asked(run) == [plain_ids(problem.question, chat) for problem in bundled_problems(2)]
    assert plain_ids("6 A", True) != plain_ids("6 A", False)


def test_what_was_begun_goes_on_as_it_was(chatty: Any, tmp_path: Path) -> None:
    trace(chatty, out=tmp_path, prompt="raw", **SMALL | {"n": 1})
    said = (
        f"{tmp_path} was begun with prompt raw and goes on with it; toy-reasoner has a chat template: for prompt chat"
    )
    with pytest.warns(RunWarning, match=said):
        run = trace(chatty, out=tmp_path, **SMALL)
    assert run.settings["prompt"] == "raw"
    assert asked(run) == [plain_ids(problem.question, False) for problem in bundled_problems(2)]
    with pytest.raises(InputError, match=r'settings\.prompt is "raw" there and "chat" now'):
        trace(chatty, out=tmp_path, prompt="chat", **SMALL)


def test_a_folder_without_responses_takes_what_auto_comes_to(chatty: Any, tmp_path: Path) -> None:
    trace(chatty, out=tmp_path, prompt="raw", **SMALL)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    assert trace(chatty, out=tmp_path, **SMALL).settings["prompt"] == "chat"


def test_studies_pin_it_and_go_on_with_it(chatty: Any, tmp_path: Path) -> None:
    def study(folder: str, **more: Any) -> Run:
        made = make_study("suppress", {"counts": "2", "draws": "1"})
        return run_study(
            made, chatty, out=tmp_path / folder / "suppress", calibrate=4, n=2, max_new_tokens=14, **more
        ).run

    assert study("new").settings["baseline"]["prompt"] == "chat"
    study("old", prompt="raw")
    with pytest.warns(RunWarning, match="begun with prompt raw and goes on with it"):
        assert study("old").settings["baseline"]["prompt"] == "raw"


def test_models_are_compared_on_the_same_prompts(chatty: Any, tmp_path: Path) -> None:
    with pytest.warns(RunWarning, match="prompt raw for all models: .* toy-base has no chat template"):
        found = run_study(make_study("compare", {}), chatty, out=tmp_path / "compare", n=2, max_new_tokens=12)
    assert found.run.settings["baseline"]["prompt"] == "raw"


def test_nothing_is_asked_before_it_is_settled() -> None:
    with pytest.raises(InputError, match="expected a prompt that is raw or chat, received auto"):
        TraceSettings().prompt_of(bundled_problems(1)[0])


def test_the_commands_tell_it(tmp_path: Path, peaklens: Command) -> None:
    words = ["--n", "1", "--max-new-tokens", "6", "--excess", "0", "--out", str(tmp_path)]
    line = "peaklens: prompt raw: toy-reasoner has no chat template\n"
    for _ in range(2):
        code, out, said = peaklens("trace", *words)
        assert code == 0
        assert "asked raw, scored at resid_post" in " ".join(out.split())
        assert said.count(line) == (_ == 0)  # what was begun pins it
    _, out, said = peaklens("trace", *words, "--json")
    assert json.loads(out)["prompt"] == "raw"
    assert line not in said
    _, out, said = peaklens("generate", "--max-new-tokens", "3", "6 A * 3 ? ->")
    assert line in said
    _, out, _ = peaklens("generate", "--max-new-tokens", "3", "--json", "6 A * 3 ? ->")
    assert json.loads(out)["prompt"] == "raw"


def test_no_warning_where_auto_agrees(tmp_path: Path) -> None:
    trace("toy-reasoner", out=tmp_path, **SMALL)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trace("toy-reasoner", out=tmp_path, **SMALL)
    assert not [str(one.message) for one in said if "begun" in str(one.message)]

"""Layer numbers are looked at before weights are: the models here have a config and no weights at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from processes import Command
from transformers import AutoConfig, Gemma3Config, GPT2Config, LlamaConfig

from analyses.problems import bundled_problems
from analyses.studies import make_study
from analyses.studies.run import run_study
from analyses.trace import trace
from interp import InputError
from interp.loading.layers import check_layers, layer_count

CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(num_hidden_layers=5),
    "gpt2": GPT2Config(n_layer=7),
    "gemma3": Gemma3Config(text_config={"num_hidden_layers": 6}, vision_config={"num_hidden_layers": 2}),
}
REFUSED = "expected layers from 0 to 4 .or -5 to -1., received .* The model has 5 layers"
WEIGHTS = "expected weights as .safetensors, received no weights"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A Llama of five layers, without weights."""
    CONFIGS["llama"].save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_count_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    CONFIGS[name].save_pretrained(tmp_path)
    assert layer_count(tmp_path) == AutoConfig.from_pretrained(tmp_path).get_text_config().num_hidden_layers


@pytest.mark.parametrize("text", ["[]", "{", '{"num_hidden_layers": "5"}', "{}"])
def test_a_config_that_does_not_say_is_left_to_the_loading(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    assert layer_count(tmp_path) is None
    check_layers(tmp_path, [99], "trace")
    assert layer_count("no such model") is layer_count("org/never-seen") is layer_count("x.gguf") is None


def test_a_trace_looks_at_layers_before_weights(empty: Path, tmp_path: Path) -> None:
    for layers in ([0, 5], [-6], 9):
        with pytest.raises(InputError, match=f"trace: {REFUSED}"):
            trace(empty, bundled_problems(1), tmp_path / "run", layers=layers)
    for layers in ([0, -5], -1, "all"):
        with pytest.raises(InputError, match=WEIGHTS):
            trace(empty, bundled_problems(1), tmp_path / "run", layers=layers)


@pytest.mark.parametrize(
    ("study", "options", "operation"),
    [
        ("recycle", {"layers": "0,5"}, "study recycle, layers"),
        ("recycle", {"variants_at": "-6"}, "study recycle, variants_at"),
        ("ablate", {"layers": "-6"}, "study ablate, layers"),
        ("recycle", {"layers": "0,-5", "variants_at": "-1"}, None),
        ("ablate", {}, None),
    ],
)
def test_a_study_too(empty: Path, tmp_path: Path, study: str, options: dict[str, str], operation: str | None) -> None:
    with pytest.raises(InputError, match=WEIGHTS if operation is None else f"{operation}: {REFUSED}"):
        run_study(make_study(study, options), empty, bundled_problems(1), tmp_path / "run")


def test_the_commands_too(empty: Path, tmp_path: Path, peaklens: Command) -> None:
    problems = tmp_path / "p.jsonl"
    problems.write_text(json.dumps({"question": "6 A * 3 ? ->", "solution": "So 8", "answer": "8"}))
    where = ["--model", str(empty), "--problems", str(problems), "--out", str(tmp_path / "run")]
    for words in (
        ["trace", *where, "--layers", "-6"],
        ["study", "recycle", *where, "--set", "layers=5"],
        ["study", "suppress", *where, "--layers", "0,5"],
        ["generate", "--model", str(empty), "--recycle", "layer=5", "6 A"],
        ["generate", "--model", str(empty), "--recurse", "top=6", "6 A"],
    ):
        code, _, said = peaklens(*words)
        assert code == 2, said
        assert "The model has 5 layers." in said
    assert "no weights" in peaklens("trace", *where, "--layers", "-5")[2]

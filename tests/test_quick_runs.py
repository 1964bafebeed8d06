"""What runs of tests remember of other runs is what they would have worked out anew."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import families as F
import pytest
import quick_runs
import torch

from analyses.trace import trace
from analyses.trace.others import factors_alone
from analyses.trace.references import reference_from
from interp import InputError, ResidualSites, encode, load_model
from interp.engines.registry import model_facts, only_engine


def test_a_run_is_the_same_to_the_last_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"n": 2, "max_new_tokens": 6, "excess": 6}
    trace("toy-reasoner", out=tmp_path / "before", **options)
    quick_runs.install()
    quick = trace("toy-reasoner", out=tmp_path / "quick", **options)
    for name, function in quick_runs._MODULES:
        importlib.import_module(name)
        quick_runs.install()
        remembering = getattr(sys.modules[name], function)
        monkeypatch.setattr(sys.modules[name], function, remembering.plain)
        assert remembering.plain.__module__ != "quick_runs"
    plain = trace("toy-reasoner", out=tmp_path / "plain", **options)
    assert quick.mi.equals(plain.mi)
    assert quick.settings["excess"] == plain.settings["excess"]


def test_a_toy_that_is_not_as_it_was_loaded_is_loaded_again() -> None:
    quick = quick_runs.load_model(load_model)
    model = quick("toy-base")
    assert quick("toy-base") is model
    model.add_hook("blocks.1.hook_resid_post", lambda value, hook: value * 2)
    again = quick("toy-base")
    assert again is not model
    again.original_model.config.rms_norm_eps = 1.0
    assert quick("toy-base") is not again
    assert quick("toy-base", device="cpu") is not quick("toy-base", device="cpu")
    half, single = ({"dtype": dtype, "device": "cpu"} for dtype in (torch.bfloat16, torch.float32))
    beside = quick("toy-base", **half)
    assert quick("toy-base", **half) is beside is not quick("toy-base", **single)
    assert next(beside.original_model.parameters()).dtype == torch.bfloat16


def test_what_a_changed_or_hooked_model_reads_is_not_remembered() -> None:
    quick, model = quick_runs.encode(encode), load_model("toy-reasoner")
    asked: dict[str, Any] = {"positions": [[-1]], "batch_size": 1}

    def read(layers: tuple[int, ...] = (0, 1), text: str = "Therefore 4") -> Any:
        ids = [model.tokenizer(text)["input_ids"]]
        return quick(model, ids, record=ResidualSites(layers=layers), **asked)[0]

    first = read()
    assert read() is first
    assert torch.equal(first.residuals["resid_post"], encode(model, ["Therefore 4"], record=ResidualSites(
        layers=(0, 1)), **asked)[0].residuals["resid_post"])  # fmt: skip
    assert read((1,)) is not first
    assert read(text="Therefore 5") is not first
    with only_engine("bridge"):
        assert read() is not first
    with model.hooks(fwd_hooks=[("blocks.1.hook_out", lambda value, hook: value * 2)]):
        assert not torch.equal(read().residuals["resid_post"], first.residuals["resid_post"])
    assert read() is first
    model.blocks[0].mlp.out.weight.data.mul_(0.5)
    assert not torch.equal(read().residuals["resid_post"], first.residuals["resid_post"])


def test_another_vector_option_tokenizer_or_text_is_worked_out() -> None:
    vector, remembered = torch.arange(8.0)[None] * 30, quick_runs.factors_alone(factors_alone)

    def quick(*vectors: torch.Tensor, **options: float) -> Any:
        return remembered(torch.cat(vectors), **options)[-1]

    other = vector + torch.eye(8)[:1]
    assert quick(vector, sigma=50.0) is quick(vector.clone(), sigma=50.0) is quick(other, vector, sigma=50.0)
    assert quick(vector, sigma=50.0) is not quick(vector, sigma=51.0)
    assert not torch.equal(quick(vector, sigma=50.0).whitened, quick(other, sigma=50.0).whitened)
    half = vector.to(torch.bfloat16)
    assert quick(half) is quick(half.clone()) is not quick(vector)
    found, toy = quick_runs.reference_from(reference_from), load_model("toy-reasoner")
    facts = model_facts(toy)
    one = found(toy.tokenizer, "Therefore 4", "4", facts, "test")
    assert found(load_model("toy-reasoner").tokenizer, "Therefore 4", "4", facts, "test") is one
    assert found(toy.tokenizer, "Therefore 4 4", "4", facts, "test").ids != one.ids
    assert found(F.tokenizer(), "w4 w5", "w5", facts, "test").ids == [4, 5]
    toy.tokenizer.add_tokens(["Therefore 4"])
    with pytest.raises(InputError, match="token ids"):
        found(toy.tokenizer, "Therefore 4", "4", facts, "test")  # a token now, which the model does not have

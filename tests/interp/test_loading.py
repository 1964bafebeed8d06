"""What loading has to tell: weights without a place, the context, foreign errors."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families as F
import pytest
import torch
from safetensors.torch import load_file, save_file

from interp import InputError, decode, load_model
from interp.engines.registry import model_facts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loading") / "tiny"
    F.hf_model("llama").save_pretrained(path)
    F.tokenizer().save_pretrained(path)
    return path


def edited(folder: Path, target: Path, config: dict[str, Any] | None = None, **weights: torch.Tensor) -> Path:
    """A copy with entries of config.json changed and weights added (dots are written ``__``)."""
    shutil.copytree(folder, target)
    if config:
        file = target / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
    if weights:
        file = target / "model.safetensors"
        added = {name.replace("__", "."): tensor for name, tensor in weights.items()}
        save_file(load_file(file) | added, file, metadata={"format": "pt"})
    return target


# Weights without a place

SMALL = torch.ones(2)


@pytest.mark.parametrize(
    ("config", "weights", "said"),
    [
        ({}, {"model__layers__0__mlp__up_proj__bias": SMALL}, "1 unexpected .* model.layers.0.mlp.up_proj.bias"),
        ({}, {"model__layers__1__self_attn__q_norm__weight": SMALL}, "self_attn.q_norm.weight"),
        ({}, {"lm_head__bias": SMALL}, "lm_head.bias"),
        ({"num_hidden_layers": 2}, {}, "9 unexpected weights, .* model.layers.2.input_layernorm.weight, .*, ..."),
        ({}, {"model__layers__0__self_attn__q_proj__weight_scale": SMALL}, "weight_scale"),
        ({}, {"layers__0__self_attn__q_proj__bias": SMALL}, "layers.0.self_attn.q_proj.bias"),
    ],
)
def test_weights_that_would_be_dropped_are_refused(
    folder: Path, tmp_path: Path, config: dict[str, Any], weights: dict[str, torch.Tensor], said: str
) -> None:
    with pytest.raises(InputError, match=rf"place for every weight of the files, received .*{said}"):
        load_model(edited(folder, tmp_path / "m", config, **weights), tokenizer=None)


@pytest.mark.parametrize(
    "name",
    [
        "model__layers__0__self_attn__rotary_emb__inv_freq", "model__vision_tower__blocks__0__weight",
        "visual__merger__weight", "multi_modal_projector__weight", "model__layers__0__self_attn__k_scale",
        "mtp__fc__weight",
    ],
)  # fmt: skip
def test_leftovers_that_change_nothing_are_no_alarm(folder: Path, tmp_path: Path, name: str) -> None:
    model = load_model(edited(folder, tmp_path / "m", **{name: SMALL}), tokenizer=None, device="cpu")
    assert decode(model, [[5, 6]], max_new_tokens=2)


def test_a_head_for_something_else_is_told_by_a_warning(folder: Path, tmp_path: Path) -> None:
    path = edited(folder, tmp_path / "m", v_head__summary__weight=SMALL, score__weight=SMALL + 1)
    with pytest.warns(UserWarning, match=r"2 unexpected weights .* score.weight, v_head.summary.weight"):
        load_model(path, tokenizer=None)


def test_tied_weights_stored_twice_are_one(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(F.config("llama"))
    config.tie_word_embeddings = True
    hf = AutoModelForCausalLM.from_config(config)
    hf.save_pretrained(tmp_path / "tied")
    path = edited(tmp_path / "tied", tmp_path / "m", lm_head__weight=hf.lm_head.weight.detach().clone())
    loaded = load_model(path, tokenizer=None).original_model
    assert torch.equal(loaded.get_output_embeddings().weight, hf.lm_head.weight)


def test_layers_that_were_asked_away_are_no_alarm_and_others_are(folder: Path, tmp_path: Path) -> None:
    shorter = {"num_hidden_layers": 2}
    assert load_model(folder, tokenizer=None, hf_config_overrides=shorter).cfg.n_layers == 2
    path = edited(folder, tmp_path / "m", model__layers__0__mlp__up_proj__bias=SMALL)
    with pytest.raises(InputError, match="1 unexpected"):
        load_model(path, tokenizer=None, hf_config_overrides=shorter)


def test_missing_weights_stay_refused(folder: Path, tmp_path: Path) -> None:
    path = edited(folder, tmp_path / "m")
    weights = load_file(path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 missing or of another shape, first model.norm.weight"):
        load_model(path, tokenizer=None)


# The context

ROPES: dict[str, dict[str, Any]] = {
    "longrope": {"short_factor": [1.0] * 5, "long_factor": [4.0] * 5, "original_max_position_embeddings": 64},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "dynamic": {"factor": 2.0},
    "llama3": {
        "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64
    },
    "linear": {"factor": 2.0},
}  # fmt: skip


@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("n_ctx", [48, 64, 300])
def test_n_ctx_limits_texts_and_leaves_the_rope(tmp_path: Path, kind: str, n_ctx: int) -> None:
    import transformers as t

    config = copy.deepcopy(F.config("llama"))
    config.max_position_embeddings = 256
    config.rope_parameters = {"rope_type": kind, "rope_theta": 10000.0, **ROPES[kind]}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        hf = t.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    hf.save_pretrained(tmp_path / "m")
    if n_ctx > 256:
        with pytest.warns(UserWarning, match="n_ctx 300 is more than the 256 it was trained for"):
            model = load_model(tmp_path / "m", tokenizer=None, device="cpu", n_ctx=n_ctx)
    else:
        model = load_model(tmp_path / "m", tokenizer=None, device="cpu", n_ctx=n_ctx)
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids), hf(ids).logits, atol=1e-5, rtol=1e-4)
    assert (model.cfg.n_ctx, model_facts(model).n_ctx) == (n_ctx, n_ctx)
    assert model.original_model.config.max_position_embeddings == 256
    with pytest.raises(InputError, match=rf"at most {n_ctx} positions"):
        decode(model, [list(range(3, 43))], max_new_tokens=n_ctx - 39)


def test_n_ctx_beyond_a_table_of_positions_is_refused(tmp_path: Path) -> None:
    F.hf_model("gpt2").save_pretrained(tmp_path / "m")
    with pytest.raises(InputError, match="expected n_ctx of at most 512, the positions this model has a table of"):
        load_model(tmp_path / "m", tokenizer=None, n_ctx=513)
    assert model_facts(load_model(tmp_path / "m", tokenizer=None, n_ctx=40)).n_ctx == 40


# Foreign errors

LONG = "x" * 5000


def broken_json(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def changed_json(folder: Path, name: str, **changes: Any) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


BREAKS: dict[str, Callable[[Path], None]] = {
    "strict type": lambda f: changed_json(f, "config.json", hidden_size="wide"),
    "strict, long": lambda f: changed_json(f, "config.json", hidden_size=LONG),
    "heads do not divide": lambda f: changed_json(f, "config.json", num_attention_heads=7, head_dim=None),
    "unknown activation": lambda f: changed_json(f, "config.json", hidden_act=LONG),
    "unknown rope": lambda f: changed_json(f, "config.json", rope_parameters={"rope_type": "twisted"}),
    "unknown type": lambda f: changed_json(f, "config.json", model_type=LONG),
    "no object": lambda f: broken_json(f, "config.json", "[1]"),
    "cut": lambda f: broken_json(f, "config.json", "{"),
    "no text": lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"),
    "generation cut": lambda f: broken_json(f, "generation_config.json", '{"eos_token_id": '),
    "generation wrong": lambda f: changed_json(f, "generation_config.json", cache_implementation=LONG),
    "weights cut": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:900]),
    "weights empty": lambda f: (f / "model.safetensors").write_bytes(b""),
    "index without shards": lambda f: (
        broken_json(f, "model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": {"a": "b"}})),
        (f / "model.safetensors").unlink(),
        (f / "other.safetensors").touch(),
    )[0],
    "tokenizer cut": lambda f: broken_json(f, "tokenizer.json", '{"version": "1.0", "model": '),
    "tokenizer of another version": lambda f: changed_json(f, "tokenizer.json", pre_tokenizer={"type": "Later"}),
    "tokenizer settings": lambda f: broken_json(f, "tokenizer_config.json", "[]"),
    "tokenizer class": lambda f: changed_json(f, "tokenizer_config.json", tokenizer_class=7),
}  # fmt: skip


@pytest.mark.parametrize("kind", BREAKS)
def test_broken_files_are_one_short_error(folder: Path, tmp_path: Path, kind: str) -> None:
    path = edited(folder, tmp_path / "m")
    BREAKS[kind](path)
    with pytest.raises(InputError, match=r"^load ") as raised:
        load_model(path, device="cpu")
    assert len(raised.value.received) <= 430
    assert "\n" not in str(raised.value)


def test_names_no_disk_takes_are_one_error() -> None:
    for name in ("m" * 5000, "a\0b", "m/" * 3000):
        with pytest.raises(InputError, match=r"^load"):
            load_model(name)

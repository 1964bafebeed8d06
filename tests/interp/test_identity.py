"""What a model is: each part that decides tokens changes its identity, and nothing else does."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import families
import pytest
import torch

from interp import InputError, bundled_model_path, load_model
from interp.loading.identity import hook_names, model_identity
from interp.loading.models import weight_hash


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return model_identity(load_model("toy-reasoner", device="cpu"))


def changed(plain: dict[str, Any], model: Any) -> set[str]:
    return {part for part, value in model_identity(model).items() if value != plain[part]}


def edited(tmp_path: Path, file: str, edit: Callable[[dict[str, Any]], None]) -> Any:
    """The toy from a folder in which a JSON file was edited."""
    shutil.copytree(bundled_model_path("toy-reasoner"), tmp_path / "m")
    path = tmp_path / "m" / file
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    return load_model(tmp_path / "m", device="cpu")


def swap_words(tokenizer: dict[str, Any]) -> None:
    words = tokenizer["model"]["vocab"]
    first, second = (word for word, number in words.items() if number in (8, 9))
    words[first], words[second] = words[second], words[first]


def lower_case(tokenizer: dict[str, Any]) -> None:
    tokenizer["normalizer"] = {"type": "Lowercase"}


def no_beginning(tokenizer: dict[str, Any]) -> None:
    tokenizer["post_processor"] = None


def new_token(tokenizer: dict[str, Any]) -> None:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer["added_tokens"].append({"id": 47, "content": "<think>", "special": True, **flags})


@pytest.mark.parametrize(
    ("file", "edit", "parts"),
    [
        ("config.json", lambda v: v["rope_parameters"].update(rope_theta=500.0), {"config"}),
        ("config.json", lambda v: v.update(rms_norm_eps=1e-3), {"config"}),
        ("config.json", lambda v: v.update(hidden_act="gelu"), {"config"}),
        ("generation_config.json", lambda v: v.update(eos_token_id=[2, 30]), {"generation"}),
        ("generation_config.json", lambda v: v.update(repetition_penalty=1.3), {"generation"}),
        ("generation_config.json", lambda v: v.update(suppress_tokens=[5]), {"generation"}),
        ("tokenizer.json", swap_words, {"tokenizer", "tokenizing"}),
        ("tokenizer.json", lower_case, {"tokenizer", "tokenizing"}),
        ("tokenizer.json", no_beginning, {"tokenizer", "tokenizing"}),
        ("tokenizer.json", new_token, {"tokenizer", "tokenizing"}),
        ("tokenizer_config.json", lambda v: v.update(chat_template="{{ messages }}"), {"chat_template"}),
        # What changes no token
        (
            "config.json",
            lambda v: v.update(transformers_version="5.0.0", torch_dtype="float32", use_cache=False),
            set(),
        ),
        ("config.json", lambda v: v.update(max_position_embeddings=512, initializer_range=0.5), set()),
        (
            "generation_config.json",
            lambda v: v.update(max_new_tokens=7, do_sample=False, repetition_penalty=1.0),
            set(),
        ),
        ("tokenizer_config.json", lambda v: v.update(model_max_length=99, padding_side="right"), set()),
    ],
)
def test_each_part_of_a_folder(
    plain: dict[str, Any], tmp_path: Path, file: str, edit: Callable[[dict[str, Any]], None], parts: set[str]
) -> None:
    assert changed(plain, edited(tmp_path, file, edit)) == parts


def test_a_dynamic_context_is_part_of_the_configuration(tmp_path: Path) -> None:
    def dynamic(values: dict[str, Any], context: int) -> None:
        values["rope_parameters"] |= {"rope_type": "dynamic", "factor": 2.0}
        values["max_position_embeddings"] = context

    found = []
    for context in (512, 1024):
        place = tmp_path / str(context)
        place.mkdir()
        found.append(model_identity(edited(place, "config.json", partial(dynamic, context=context))))
    assert found[0]["config"] != found[1]["config"]


def test_batches_and_padding_leave_the_tokenizer_the_same(plain: dict[str, Any]) -> None:
    model = load_model("toy-reasoner", device="cpu")
    model.tokenizer(["Wait", "Wait Hmm"], padding=True, truncation=True, max_length=3)
    assert changed(plain, model) == set()


@pytest.mark.parametrize(
    "edit",
    [
        lambda model: next(model.original_model.parameters()).data.mul_(2),
        lambda model: model.blocks[1].mlp.out.weight.data.__setitem__((0, 0), 3.0),
        lambda model: torch.nn.init.zeros_(model.blocks[0].ln1.weight),
        lambda model: setattr(model.blocks[2].attn.o, "weight", torch.nn.Parameter(torch.ones(128, 128))),
    ],
    ids=["data", "data of the bridge", "in place", "replaced"],
)
def test_weights_edited_in_memory(plain: dict[str, Any], edit: Callable[[Any], Any]) -> None:
    model = load_model("toy-reasoner", device="cpu")
    edit(model)
    assert changed(plain, model) == {"weight_hash"}


def test_a_permutation_of_a_weight_and_a_low_precision_one() -> None:
    model = load_model("toy-reasoner", device="cpu", dtype="bfloat16")
    before = weight_hash(model)
    weight = model.blocks[0].mlp.out.weight
    weight.data = weight.data.flip(0)
    assert weight_hash(model) != before
    weight.data = weight.data.flip(0)
    assert weight_hash(model) == before


def test_copies_that_gpt2_computes_with() -> None:
    model = load_model("x", hf_model=copy.deepcopy(families.hf_model("gpt2")))
    before = weight_hash(model)
    model.blocks[0].attn.q.weight.data[0, 0] += 1
    assert weight_hash(model) != before


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_processed_weights(family: str) -> None:
    model = load_model("x", hf_model=copy.deepcopy(families.hf_model(family)), tokenizer=families.tokenizer())
    before = model_identity(model)
    model.enable_compatibility_mode(disable_warnings=True)
    after = model_identity(model)
    assert after["weight_hash"] != before["weight_hash"]
    assert (before["processed"], after["processed"]) == (False, True)
    assert after["hooks"] == []


def scaled(value: Any, hook: Any, by: float) -> Any:
    return value * by


def test_hooks_by_place_name_and_constants() -> None:
    model = load_model("toy-reasoner", device="cpu")

    def named() -> list[str]:
        found = hook_names(model)
        model.reset_hooks(including_permanent=True)
        return found

    def steer(by: float) -> Callable[..., Any]:
        return lambda value, hook: value + by

    found = []
    for hook in (steer(1.0), steer(1.0), steer(2.0), partial(scaled, by=2.0), partial(scaled, by=3.0)):
        model.add_hook("blocks.0.mlp.hook_out", hook, is_permanent=True)
        found += named()
    assert [name.split(" #")[0] for name in found] == ["blocks.0.mlp.hook_out: <lambda>"] * 3 + [
        "blocks.0.mlp.hook_out: scaled"
    ] * 2
    assert found[0] == found[1]
    assert len(set(found)) == 4
    assert hook_names(model) == []


def test_hooks_of_torch_and_contexts_and_what_they_collect() -> None:
    model = load_model("toy-reasoner", device="cpu")
    seen: list[Any] = []
    count = 0

    def watch(module: Any, args: Any, output: Any = None) -> None:
        nonlocal count
        count += 1
        seen.append(count)

    handles = [
        model.original_model.model.layers[1].register_forward_hook(watch),
        model.blocks[0].mlp.register_forward_pre_hook(watch),
    ]
    with model.hooks(fwd_hooks=[("blocks.2.hook_in", lambda value, hook: None)]):
        before = hook_names(model)
        model("Wait")
        assert seen
        assert hook_names(model) == before
        assert [name.split(" #")[0] for name in before] == [
            "blocks.0.mlp: watch",
            "blocks.1: watch",
            "blocks.2.hook_in: <lambda>",
        ]
    for handle in handles:
        handle.remove()
    assert hook_names(model) == []


def test_weights_on_disk_are_refused() -> None:
    model = load_model("x", hf_model=copy.deepcopy(families.hf_model("llama")))
    model.original_model.to("meta")
    with pytest.raises(InputError, match=r"expected weights in memory, received .* offloaded"):
        model_identity(model)

"""The bridge of tests asks less and computes the same."""

from __future__ import annotations

import contextlib
import inspect
import sys

import families as F
import pytest
import quick_bridge
import torch
from quick_bridge import aligned


def test_it_gives_the_numbers_of_the_bridge_as_it_is() -> None:
    model, ids = F.bridge("gemma3"), torch.tensor([[5, 9, 77, 3]])
    base, block = (sys.modules[f"{quick_bridge._PARTS}.{name}"] for name in ("base", "block"))
    quick_bridge.install()
    assert base.align_module_device.__module__ == block.inspect.__class__.__module__ == "quick_bridge"
    quick = model(ids)
    from accelerate.utils import align_module_device

    kept = base.align_module_device, block.inspect
    try:
        base.align_module_device, block.inspect = align_module_device, inspect
        assert torch.equal(model(ids), quick)
    finally:
        base.align_module_device, block.inspect = kept
    forward = model.original_model.model.layers[0].forward
    assert block.inspect.signature(forward) == block.inspect.signature(forward) == inspect.signature(forward)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_it_finds_the_hook_points_of_the_bridge_as_it_is(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = sys.modules["transformer_lens.model_bridge.transformer_bridge"]
    quick_bridge.install()
    assert bridge.dir is quick_bridge.names
    quick = F.load_without_tokenizer(family)
    monkeypatch.setattr(bridge, "dir", dir)
    plain = F.load_without_tokenizer(family)
    assert len(plain.hook_dict) > 100
    for said in ("_hook_registry", "hook_dict"):
        one, other = ({at: hook.name for at, hook in getattr(model, said).items()} for model in (quick, plain))
        assert list(one.items()) == list(other.items())


def test_weights_that_lie_elsewhere_are_still_fetched() -> None:
    asked = []

    @contextlib.contextmanager
    def align(module):
        asked.append(module)
        yield

    plain, hooked = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    hooked._hf_hook = object()
    for module in (plain, hooked):
        with aligned(align)(module):
            pass
    assert asked == [hooked]

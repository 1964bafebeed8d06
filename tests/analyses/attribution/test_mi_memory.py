"""What attribution says it will take, against what the process takes."""

from __future__ import annotations

from typing import Any

import families as F
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from analyses.attribution import mi_attribution
from analyses.bench.clock import Memory
from interp import InputError, load_model
from interp.types import Bridge

LENGTH, LAYERS = 1200, 4
FACTOR = 4  # as docs/architecture.md tells


@pytest.fixture(scope="module")
def model() -> Bridge:
    """Many heads on a narrow stream: the attention is what counts."""
    config = LlamaConfig(
        vocab_size=F.VOCAB, hidden_size=72, intermediate_size=80, num_hidden_layers=LAYERS, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    return load_model("long", hf_model=LlamaForCausalLM(config).eval(), tokenizer=F.tokenizer(), device="cpu")


def test_what_is_told_is_what_is_taken(model: Bridge) -> None:
    text = torch.randint(5, F.VOCAB - 5, (LENGTH,), generator=torch.Generator().manual_seed(0)).tolist()
    given: dict[str, Any] = {
        "layer": LAYERS - 1,
        "answer": torch.arange(72.0).sin(),
        "measures": "nhsic",
        "sigma": 1.0,
        "top": 3,
    }
    mi_attribution(model, text[:7], text[7:60], 20, **given)  # the first call also pays for libraries
    # What earlier tests left free in this process is given back first: in it the work would seem to need nothing.
    memory = Memory(torch.device("cpu"))
    memory.begin()
    found = mi_attribution(model, text[:7], text[7:], 600, **given)
    taken = memory.grown()
    told = found.settings["bytes"]
    assert told / FACTOR < taken < told
    every = LAYERS * 9 * LENGTH**2 * 4
    assert taken < every, "attention of all layers was held at a time"
    with pytest.raises(InputError, match=r"at most the .* GB of max_bytes, received about .* \(writes\)"):
        mi_attribution(model, text[:7], text[7:], 600, max_bytes=told - 1, **given)
    mi_attribution(model, text[:7], text[7:60], 20, max_bytes=told, **given)

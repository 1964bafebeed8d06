"""Attention of a piece in two parts is that of the whole text, and nobody else's attention changes."""

from __future__ import annotations

from typing import Any

import families as F
import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp import ResidualPieces, ResidualSites, read
from interp.engines import parted as module
from interp.engines.parted import _attend, _kernel, parted


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Columns of queries and of keys of each call of torch's kernel."""
    seen: list[tuple[int, int]] = []
    kernel = _kernel()
    assert kernel is not None  # of the torch that the tests run with

    def watched(query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append((query.shape[2], key.shape[2]))
        return kernel(query, key, *args, **kwargs)

    monkeypatch.setattr(module, "_kernel", lambda: watched)
    return seen


def texts(name: str) -> tuple[list[int], list[int]]:
    ids = torch.randint(5, F.hf_model(name).config.vocab_size, (40,), generator=torch.Generator().manual_seed(1))
    return ids[:4].tolist(), ids[4:].tolist()


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma3"])
def test_a_text_in_pieces_is_hugging_faces_whole_text(name: str, calls: list[tuple[int, int]]) -> None:
    """Keys shared by several heads, normed queries, and layers of a window, which keep their masks."""
    hf, model = F.pair(name)
    prompt, response = texts(name)
    rollout = read(model, prompt, response, record=ResidualSites(), piece=11)
    with torch.no_grad():
        streams = hf(torch.tensor([prompt + response]), output_hidden_states=True).hidden_states
    expected = torch.stack(streams[1:-1])[:, 0, len(prompt) - 1 : -1]  # the last one is normed
    torch.testing.assert_close(rollout.residuals["resid_post"][:-1], expected, atol=1e-4, rtol=1e-4)
    layers = 2 if name == "gemma3" else 3  # gemma3's others look at no more than seven columns
    each = hf.config.num_attention_heads // hf.config.num_key_value_heads
    # The first piece is causal as it is. Queries of heads that share their keys look at what came before as one head's.
    pieces = [
        pair
        for count, before in ((11, 11), (11, 22), (6, 33))
        for pair in [(each * count, before), (count,) * 2] * layers
    ]
    assert calls == pieces


def test_rows_that_are_padded_keep_their_masks(calls: list[tuple[int, int]]) -> None:
    model = F.bridge("llama")
    prompt, response = texts("llama")
    alone = [read(model, prompt, some, record=ResidualSites(), piece=9) for some in (response, response[:-5])]
    assert calls
    calls.clear()
    both = read(model, [prompt] * 2, [response, response[:-5]], record=ResidualSites(), piece=9)
    assert not calls
    for one, beside in zip(alone, both, strict=True):
        torch.testing.assert_close(beside.residuals["resid_post"], one.residuals["resid_post"], atol=1e-4, rtol=1e-4)


def test_attention_of_others_and_their_own_functions_stay(calls: list[tuple[int, int]]) -> None:
    """What another model computes meanwhile is its own; who has replaced "sdpa" for a while keeps that."""
    hf, model = F.hf_model("llama"), F.bridge("llama")
    prompt, response = texts("llama")
    ids = torch.tensor([prompt])
    with torch.no_grad():
        expected = hf(ids).logits
    during: list[torch.Tensor] = []

    def look(some: Any) -> None:
        with torch.no_grad():
            during.append(hf(ids).logits)

    read(model, prompt, response, record=ResidualPieces(on_piece=look), piece=9)
    assert during
    assert all(torch.equal(logits, expected) for logits in during)
    assert "sdpa" not in ALL_ATTENTION_FUNCTIONS._local_mapping
    calls.clear()
    usual, used = ALL_ATTENTION_FUNCTIONS["sdpa"], []

    def own(*args: Any, **kwargs: Any) -> Any:
        used.append(True)
        return usual(*args, **kwargs)

    ALL_ATTENTION_FUNCTIONS["sdpa"] = own
    try:
        read(model, prompt, response, piece=9)
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is own
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert used
    assert not calls


def test_a_pass_that_fails_leaves_nothing_behind() -> None:
    def fail() -> None:
        assert "sdpa" in ALL_ATTENTION_FUNCTIONS._local_mapping
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), parted([torch.ones(1, 1, 2, 3, dtype=torch.bool)]):
        fail()
    assert "sdpa" not in ALL_ATTENTION_FUNCTIONS._local_mapping


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [None, 0.05, 3.0])
def test_the_parts_are_brought_together_as_the_formula_says(dtype: torch.dtype, scale: float | None) -> None:
    """In float64, written out; with a scale of 3 one part may weigh nothing."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 5, 16, generator=generator, dtype=dtype)
    key, value = (torch.randn(2, 2, 17, 16, generator=generator, dtype=dtype) for _ in range(2))
    k, v = (x.repeat_interleave(3, dim=1).double() for x in (key, value))
    scores = query.double() @ k.mT * (16**-0.5 if scale is None else scale)
    scores = scores.masked_fill(torch.ones(5, 17, dtype=torch.bool).triu(13), float("-inf"))
    with torch.no_grad():
        found = _attend(query, key, value, scale)
    torch.testing.assert_close(found.double(), scores.softmax(dim=-1) @ v, atol=1e-5, rtol=1e-5)


def test_a_kernel_that_does_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> tuple[torch.Tensor, ...]:
        return query, query[..., 0]

    class Ops:
        aten = type("Aten", (), {"_scaled_dot_product_flash_attention_for_cpu": staticmethod(other)})

    with monkeypatch.context() as patch:
        patch.setattr(module.torch, "ops", Ops)
        assert _kernel.__wrapped__() is None
        del Ops.aten._scaled_dot_product_flash_attention_for_cpu
        assert _kernel.__wrapped__() is None
    prompt, response = texts("llama")
    model = F.bridge("llama")
    expected = read(model, prompt, response, record=ResidualSites(), piece=9).residuals["resid_post"]
    monkeypatch.setattr(module, "_kernel", lambda: None)
    masked = read(model, prompt, response, record=ResidualSites(), piece=9).residuals["resid_post"]
    torch.testing.assert_close(masked, expected, atol=1e-4, rtol=1e-4)

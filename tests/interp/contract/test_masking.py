"""Masked attention against a literal softmax over the keys that are left, and Hugging Face's own 4-D masks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import families as F
import pytest
import torch
from references import Watch, hf_within, ids_read, modules, steps_close
from torch import Tensor

from interp import InputError, decode, read, score
from interp.interventions import HeadAblate, MaskAttention

HEADS = [(0, 3), (1, 0), (1, 2)]


def literal(masks: dict[int, list[int] | None], start: int, stop: int) -> Callable[..., Any]:
    """Attention of one text, query by query over the keys that it may look at; ``masks`` is a layer's masked heads."""

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any = None, scaling: Any = None, **_: Any
    ) -> tuple[Tensor, None]:
        _, heads, count, d_head = query.shape
        group, window = heads // key.shape[1], getattr(module, "sliding_window", None) or count
        masked = masks.get(module.layer_idx, [])
        out = torch.zeros(1, count, heads, d_head, dtype=query.dtype)
        for head in range(heads):
            keys, values = key[0, head // group], value[0, head // group]
            is_masked = masked is None or head in masked
            for i in range(count):
                seen = [j for j in range(max(0, i - window + 1), i + 1)
                        if not (is_masked and i >= stop and start <= j < stop)]  # fmt: skip
                scores = keys[seen] @ query[0, head, i] * (d_head**-0.5 if scaling is None else scaling)
                out[0, i, head] = scores.softmax(0) @ values[seen]
        return out, None

    return attend


@pytest.mark.parametrize(
    ("family", "heads"), [("llama", None), *((family, HEADS) for family in ("llama", "gemma3", "gpt2", "qwen3"))]
)
def test_masked_attention_is_a_softmax_over_the_other_keys(
    family: str, heads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans of a prompt and of a response, decoded with a cache at left-padded rows, and scored."""
    hf, model = F.pair(family, torch.float64)
    prompts, watch = F.prompts(3), Watch()
    in_prompt, in_response = MaskAttention({1: (2, 6)}, heads, "prompt"), MaskAttention({0: (1, 3), 2: (0, 2)}, heads)
    rollouts = decode(model, prompts, max_new_tokens=6, interventions=[in_prompt, in_response, watch])
    again = decode(model, prompts, max_new_tokens=6, interventions=[in_prompt, in_response], batch_size=1)
    scores = score(model, prompts, [r.token_ids for r in rollouts], interventions=[in_prompt, in_response])
    plain = read(model, prompts, [r.token_ids for r in rollouts])
    layers = range(len(modules(hf)[0]))
    masks = dict.fromkeys(layers) if heads is None else {n: [h for of, h in HEADS if of == n] for n in layers}
    spans = [(4, 6), (2, 6), (19, 21)]  # the texts' own places: prompts have 3, 11 and 19 tokens
    for n, rollout in enumerate(rollouts):
        start = len(prompts[n]) - 1
        monkeypatch.setattr(sys.modules[type(hf).__module__], "eager_attention_forward", literal(masks, *spans[n]))
        with torch.no_grad():
            logits = hf(torch.tensor([ids_read(rollout)])).logits[0]
        monkeypatch.undo()
        steps_close(watch, n, logits, start)
        assert again[n].token_ids.tolist() == rollout.token_ids.tolist()
        torch.testing.assert_close(scores[n].logprobs.float(), rollout.logprobs, atol=1e-5, rtol=1e-5)
        moved = (plain[n].logprobs - rollout.logprobs).abs()
        assert float(moved.max()) > 1e-3, "something was masked"
        before = spans[n][1] - start  # steps that read a token up to the span's last
        assert float(moved[: max(before, 0)].max() if before > 0 else 0.0) < 1e-5


@pytest.mark.parametrize("family", F.FAMILIES)
def test_masked_in_all_heads_is_a_4d_mask(family: str) -> None:
    """The additive mask of Hugging Face, with the span's keys as low as those that come later."""
    hf, model = F.pair(family)
    ids, start, stop = F.prompts(3)[1], 2, 5
    lowest = torch.finfo(torch.float32).min
    full = torch.full((len(ids), len(ids)), lowest).triu(1)
    full[stop:, start:stop] = lowest
    near = full.masked_fill(torch.ones_like(full).tril(-F.WINDOW) > 0, lowest)
    mask: Any = full[None, None]
    if family == "gemma3":
        mask = {"full_attention": full[None, None], "sliding_attention": near[None, None]}
    watch = Watch()
    decode(model, [ids], max_new_tokens=1, interventions=[MaskAttention((start, stop), of="prompt"), watch])
    logits, _ = hf_within(hf, ids, mask=mask)
    plain, _ = hf_within(hf, ids)
    steps_close(watch, 0, logits, len(ids) - 1)
    assert float((plain[-1] - logits[-1]).norm() / plain[-1].norm()) > 1e-3


def test_a_span_outside_a_given_response_is_refused() -> None:
    model = F.bridge("llama")
    with pytest.raises(InputError, match=r"a span within the 3 tokens of the response of prompt 1, .*tokens 2 to"):
        score(model, F.prompts(2), [[5, 6, 7, 8], [5, 6, 7]], interventions=MaskAttention((2, 4)))
    with pytest.raises(InputError, match="expected response steps below 2"):
        read(model, F.prompts(1), [[5, 6]], interventions=HeadAblate((0, 0), positions=[0, 2]))

"""Drawing a token: frequencies against the distribution, and the ends of the range of a uniform number."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from interp.sampling import choose, outcome, row_uniforms


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_draws_follow_the_distribution(top_p: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, float("-inf"), 0.5])
    probabilities = (logits / 0.7).softmax(-1)
    order = probabilities.argsort(descending=True)
    kept, mass = [], 0.0
    for token in order.tolist():  # the smallest set that reaches top_p
        if mass < top_p and probabilities[token] > 0:
            kept.append(token)
            mass += float(probabilities[token])
    count = 20_000
    uniforms = row_uniforms([3], count)[0]
    drawn = Counter(choose(logits.expand(count, -1), 0.7, top_p, uniforms).tolist())
    assert set(drawn) == set(kept)
    assert top_p == 1.0 or len(kept) < 5
    expected = [count * float(probabilities[t]) / mass for t in kept]
    assert chisquare([drawn[t] for t in kept], expected).pvalue > 1e-3


def test_largest_uniform_never_draws_a_suppressed_token() -> None:
    logits = torch.tensor([[0.0, 1.0, float("-inf")]])
    largest = torch.tensor([1 - 2.0**-53], dtype=torch.float64)
    assert choose(logits, 1.0, 1.0, largest).tolist() == [1]
    assert choose(logits, 1.0, 0.99, largest).tolist() in ([0], [1])


@pytest.mark.parametrize("kind", ["peaked", "flat", "ties", "suppressed"])
def test_a_nucleus_is_found_without_sorting_what_is_outside(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokens, to the last draw, as with all of the vocabulary in order: equal ones by their ids."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(40, 3000, generator=generator) * {"peaked": 5.0, "flat": 0.0, "ties": 3.0}.get(kind, 4.0)
    if kind == "ties":
        logits = logits.round()  # hundreds that are equal, where any may be the last within
    if kind == "suppressed":
        logits[:, 100:] = -torch.inf
    uniforms = row_uniforms([5], 40)[0]
    for temperature, top_p in ((1.0, 0.9), (0.6, 0.95), (2.0, 0.3)):
        wide = logits.double()
        probabilities = ((wide - wide.amax(-1, keepdim=True)) / temperature).softmax(-1)
        order = sorted_ids = torch.tensor(
            [sorted(range(3000), key=lambda i, row=row: (-row[i], i)) for row in probabilities.tolist()]
        )
        values = probabilities.gather(-1, sorted_ids)
        values = values * (values.cumsum(-1) - values < top_p)
        places = (values.cumsum(-1) <= uniforms[:, None] * values.sum(-1, keepdim=True)).sum(-1)
        expected = order.gather(-1, places[:, None])[:, 0].tolist()
        assert choose(logits, temperature, top_p, uniforms).tolist() == expected
    with monkeypatch.context() as patch:
        sizes: list[int] = []
        sort = torch.Tensor.sort
        patch.setattr(torch.Tensor, "sort", lambda self, *a, **k: sizes.append(self.shape[-1]) or sort(self, *a, **k))
        choose(logits, 0.6, 0.95, uniforms)
    assert (max(sizes) < 3000) == (kind != "flat")


@pytest.mark.parametrize("scale", [0.1, 3.0, 80.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_probability_and_entropy_are_those_of_float64(scale: float, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    logits = (torch.randn(5, 30_011, dtype=torch.float64) * scale).to(dtype)
    logits[3, 7:] = -torch.inf  # suppressed
    logits[4, 1:] = -torch.inf  # all but one
    tokens = torch.tensor([0, int(logits[1].argmax()), int(logits[2].argmin()), 9, 0])
    exact = logits.double().log_softmax(-1)
    off = 1e-5 if dtype == torch.float32 else 1e-12
    chosen, entropy = outcome(logits, tokens)
    torch.testing.assert_close(chosen.double(), exact.gather(-1, tokens[:, None])[:, 0], rtol=1e-6, atol=off)
    terms = torch.where(exact > -torch.inf, exact.exp() * exact, 0)
    torch.testing.assert_close(entropy.double(), -terms.sum(-1), rtol=1e-6, atol=off)
    assert chosen[3] == -torch.inf
    assert chosen[4] == entropy[4] == 0


@pytest.mark.parametrize("d_vocab", [5, 4095, 4096, 6000, 49_152])
def test_the_greedy_token_is_the_first_of_the_greatest(d_vocab: int) -> None:
    torch.manual_seed(6)
    logits = torch.randint(0, 4, (40, d_vocab)).float()  # nothing but ties
    logits[:20] = torch.randn(20, d_vocab)
    logits[20, -1] = logits[21, -3:] = 9.0  # behind the last whole block
    logits[22] = -torch.inf
    strided = torch.stack([logits, logits], 1)[:, 1]
    wanted = logits.numpy().argmax(-1).tolist()
    assert choose(logits, 0.0, 1.0, None).tolist() == choose(strided, 0.0, 1.0, None).tolist() == wanted

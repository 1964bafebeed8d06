"""Drawing a token: frequencies against the distribution, and the ends of the range of a uniform number."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from interp.sampling import choose, row_uniforms


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

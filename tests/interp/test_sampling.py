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

"""What places receive, against literal loops and scipy's ranks and kurtosis."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from probes import InputError, excess_kurtosis, received_attention, shuffled_kurtosis


def patterns(heads: int = 3, places: int = 12, seed: int = 1) -> torch.Tensor:
    scores = torch.randn(heads, places, places, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scores[0, 9] = 0.0  # a row of equal weights: ranks with ties
    hidden = torch.ones(places, places).triu(1).bool()
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


def literal(attention: np.ndarray, gap: int, control: str) -> np.ndarray:
    """As the paper's description has it, a loop over cells."""
    heads, places, _ = attention.shape
    found = np.full((heads, places), np.nan)
    for head in range(heads):
        cells = np.full((places, places), np.nan)
        for i in range(gap, places):
            row = attention[head, i, : i - gap + 1]
            by_rank = stats.rankdata(row) / len(row)
            cells[i, : len(row)] = {"rank": by_rank, "share": row / row.mean(), "none": row}[control]
        for j in range(places - gap):
            found[head, j] = np.mean(cells[j + gap :, j])
    return found


@pytest.mark.parametrize("control", ["rank", "share", "none"])
@pytest.mark.parametrize("gap", [1, 4])
def test_received_attention_and_its_kurtosis_equal_a_literal_loop(control: str, gap: int) -> None:
    attention = patterns()
    received = received_attention(attention, gap, control)
    expected = literal(attention.numpy(), gap, control)
    np.testing.assert_allclose(received.numpy(), expected, rtol=1e-12)
    kurtosis = stats.kurtosis(expected, axis=-1, nan_policy="omit")
    np.testing.assert_allclose(excess_kurtosis(received).numpy(), kurtosis, rtol=1e-10)


def test_kurtosis_is_undefined_where_nothing_varies() -> None:
    rows = torch.tensor([[0.1, 0.1, 0.1, torch.nan], [torch.nan] * 4, [1.0, 2.0, 4.0, torch.nan]])
    found = excess_kurtosis(rows)
    assert found[:2].isnan().all()
    assert float(found[2]) == pytest.approx(stats.kurtosis([1.0, 2.0, 4.0]), rel=1e-5)


def test_shuffling_keeps_rows_and_removes_columns() -> None:
    """Against shuffles of numpy's own, by their mean; a planted column is far above it, and an even head is not."""
    attention, gap = patterns(2, 30, seed=3), 4
    attention[1, 12:, 5] += 3.0
    null = shuffled_kurtosis(attention, gap, "share", draws=80, generator=torch.Generator().manual_seed(0))
    dice, drawn = np.random.default_rng(0), []
    for _ in range(80):
        mixed = attention.numpy().copy()
        for head in range(2):
            for i in range(gap, 30):
                mixed[head, i, : i - gap + 1] = dice.permutation(mixed[head, i, : i - gap + 1])
        drawn.append(stats.kurtosis(literal(mixed, gap, "share"), axis=-1, nan_policy="omit"))
    spread = np.std(drawn, axis=0) / np.sqrt(80)
    assert (np.abs(null.numpy() - np.mean(drawn, axis=0)) < 6 * spread + 1e-9).all()
    score = excess_kurtosis(received_attention(attention, gap, "share"))
    assert float(score[1] - null[1]) > 5


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="control as one of rank, share, none"):
        received_attention(patterns(), 4, "depth")
    with pytest.raises(InputError, match="as many rows as columns"):
        received_attention(patterns()[:, 1:], 4)

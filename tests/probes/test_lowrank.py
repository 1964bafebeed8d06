"""Low-rank factors rebuild the centred kernel, within a memory."""

import torch
from vectors import correlated as vectors

from probes.kernel import Kernel
from probes.lowrank import factor_blocks, factorise


def test_memory_budget_holds():
    x = vectors(40, 300, seed=0, scale=300.0)
    budget, seen = 1_500_000, 0
    for rows, factor in factor_blocks(x.__getitem__, x, Kernel(), n_rows=40, max_bytes=budget):
        assert factor.numel() * factor.element_size() <= budget
        seen += len(rows)
    assert seen == 40


def test_factor_rebuilds_the_centred_kernel():
    x = vectors(3, 60, seed=6, massive=2)
    p = factorise(x)
    kernel = torch.exp(-(x[:, :, None] - x[:, None, :]).square() / 5000.0)
    centring = torch.eye(60, dtype=torch.float64) - 1 / 60
    torch.testing.assert_close(p.mT @ p, centring @ kernel @ centring, rtol=0, atol=1e-12)
    assert p.shape[1] < 25  # low rank is what makes it fast

"""Permuted sums against the literal sum over the permuted kernel, permutation by permutation."""

import pytest
import torch

from probes.permutations import permuted_sums, sums_by_label, sums_by_pair
from probes.sample_kernels import AnswerKernel


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n_labels", [2, 7, 20, 30])
def test_permuted_sums_are_those_of_the_permuted_kernel(n_labels):
    """Few labels go by a matrix product, many by a look-up of pairs: both are the literal sum, in parts or whole."""
    n, permutations = 40, 23
    labels = torch.cat([torch.arange(n_labels), torch.arange(n - n_labels) % n_labels])
    kernels = draw(3, n, n, seed=8)
    keys = draw(permutations, n, seed=9)
    literal = torch.empty(3, permutations, dtype=torch.float64)
    for draw_number, order in enumerate(keys.argsort(dim=1)):
        permuted = torch.empty_like(labels)
        permuted[order] = labels.sort().values
        literal[:, draw_number] = (kernels * (permuted[:, None] == permuted)).sum(dim=(1, 2))
    for ways in (sums_by_label, sums_by_pair):
        for max_bytes in (1, 10**9):
            found = torch.cat(list(ways(kernels.reshape(3, -1), labels, keys, max_bytes)), dim=1)
            torch.testing.assert_close(found, literal, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strata", [None, torch.tensor([2, 0, 2, 1, 0, 2, 1, 0, 2])])
def test_any_kernel_is_permuted_within_its_strata(strata):
    n, kernels, other = 9, draw(2, 9, 9, seed=0), draw(9, 9, seed=1)
    keys = torch.rand(17, n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    literal = torch.zeros(2, 17, dtype=torch.float64)
    for number, key in enumerate(keys.tolist()):
        order = [0] * n
        for stratum in range(3):
            slots = [i for i in range(n) if (0 if strata is None else int(strata[i])) == stratum]
            for slot, unit in zip(slots, sorted(slots, key=lambda i: key[i]), strict=True):
                order[slot] = unit
        for i in range(n):
            for j in range(n):
                literal[:, number] += kernels[:, i, j] * other[order[i], order[j]]
    for max_bytes in (1, 10**9):
        parts = permuted_sums(kernels.reshape(2, -1), AnswerKernel(other, None, strata), keys, max_bytes)
        torch.testing.assert_close(torch.cat(list(parts), dim=1), literal, rtol=1e-12, atol=1e-12)

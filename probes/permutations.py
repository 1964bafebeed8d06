"""Sums of one kernel times another under many permutations of its units, all places at once.

Three ways that give the same: any kernel looked up entry by entry; labels, whose kernel is 1 where two are equal, by
one matrix product where they are few, and by the pairs that meet in one where they are many.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from probes.chunks import parts
from probes.sample_kernels import AnswerKernel

__all__ = ["permuted_sums", "sums_by_label", "sums_by_pair"]

_PRODUCT = 256  # multiplications of a matrix product in the time of one pair looked up at random
_IN_CACHE = 2**25  # bytes of a product's operands: larger ones are not faster


def permuted_sums(flat: Tensor, other: AnswerKernel, keys: Tensor, max_bytes: int) -> Iterator[Tensor]:
    """[place, permutation] sums of centred kernels `[place, n * n]` times the permuted kernel on answers.

    >>> centred = torch.tensor([[0.0, 1.0, 2.0, 1.0, 0.0, 3.0, 2.0, 3.0, 0.0]])  # of one place and three units
    >>> labels = torch.tensor([0, 0, 1])  # two of them, which two at random, are alike: twice their 1, 2 or 3
    >>> other = AnswerKernel((labels[:, None] == labels).float(), labels, None)
    >>> keys = torch.tensor([[0.1, 0.2, 0.9], [0.9, 0.1, 0.2]])
    >>> torch.cat(list(permuted_sums(centred, other, keys, 2**20)), dim=1).tolist()
    [[2.0, 6.0]]

    `keys [permutation, n]` are random numbers from 0 to 1, whose order is the permutation. In parts that fit
    `max_bytes`, one permutation at the least.
    """
    n = keys.shape[1]
    if other.labels is not None:
        counts = other.labels.bincount()
        by_label = len(counts) * n * n < _PRODUCT * int(counts.square().sum())
        yield from (sums_by_label if by_label else sums_by_pair)(flat, other.labels, keys, max_bytes)
        return
    strata = torch.zeros(n, dtype=torch.long, device=flat.device) if other.strata is None else other.strata
    slots = strata.argsort(stable=True)
    for part in parts(len(keys), 8 * (3 * n * n + 4 * n), max_bytes):
        chosen = (keys[part] + strata).argsort(dim=1)  # keys are below 1: strata stay together, in order
        order = torch.empty_like(chosen)
        order[:, slots] = chosen
        permuted = other.kernel.reshape(-1)[(order[:, :, None] * n + order[:, None, :]).reshape(len(order), -1)]
        yield flat @ permuted.T


def sums_by_label(flat: Tensor, labels: Tensor, keys: Tensor, max_bytes: int) -> Iterator[Tensor]:
    """Few labels: sum_c z_c' K z_c with the labels' indicators z of many permutations in one matrix product."""
    places, n = len(flat), keys.shape[1]
    slots, n_labels = labels.sort().values, int(labels.max()) + 1
    kernels = flat.reshape(places, n, n)
    for part in parts(len(keys), 8 * n * (3 * n_labels + 4), min(max_bytes, _IN_CACHE)):
        order = keys[part].argsort(dim=1)
        drawn = torch.empty_like(order).scatter_(1, order, slots.expand_as(order)).mT  # [unit, permutation]
        indicators = torch.nn.functional.one_hot(drawn, n_labels).to(flat.dtype).reshape(n, -1)
        total = torch.empty(places, len(order), dtype=flat.dtype, device=flat.device)
        for place, kernel in enumerate(kernels):
            met = (kernel @ indicators).reshape(n, len(order), n_labels)
            total[place] = met.gather(2, drawn[..., None])[..., 0].sum(dim=0)
        yield total


def sums_by_pair(flat: Tensor, labels: Tensor, keys: Tensor, max_bytes: int) -> Iterator[Tensor]:
    """Many labels of a few units each: the few pairs that meet in one, looked up."""
    # Units fall at random into as many slots as each label has; equal labels meet within a label's slots alone.
    places, n = len(flat), keys.shape[1]
    by_pair, counts = flat.T.contiguous(), labels.bincount().tolist()
    pairs = max(count * count for count in counts)
    for part in parts(len(keys), 8 * (pairs * (places + 2) + 4 * n), max_bytes):
        order = keys[part].argsort(dim=1)
        total = torch.zeros(places, len(order), dtype=flat.dtype, device=flat.device)
        begin = 0
        for count in counts:
            slots = order[:, begin : begin + count]
            begin += count
            pair = (slots[:, :, None] * n + slots[:, None, :]).reshape(-1)
            total += by_pair[pair].reshape(len(order), -1, places).sum(dim=1).T
        yield total

"""What a probe is allowed to be, chosen on problems that it was not trained on.

1. Every ridge strength trains on one part of the problems; another part chooses one of them, or infinity: to ignore the
   vector and answer with the training frequencies.
2. With it a share of the frequencies is chosen that the prediction is mixed with, at least 1/512: one held-out problem,
   whatever its vector, costs at most 9 bits over ignoring it.
3. The frequencies themselves are smoothed as the same problems choose.
4. The choice is refitted on both parts and answers for the problems that are tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from probes.folds import Split
from probes.probe import Family, Probe, fit_probe

__all__ = ["MIXED", "Task", "log_frequencies", "mixture"]

#: Shares of the training frequencies in the prediction; the smallest bounds what a confident mistake costs.
MIXED = (2.0**-9, 2.0**-5, 2.0**-2)
# Counts added to each class before taking frequencies: a share of one problem in all, or some problems for each class.
_ADDED_SHARES, _ADDED = (0.1, 1.0), (0.5, 5.0)


@dataclass(frozen=True)
class Task:
    """Some places, their label sets, and the family of probes that is to tell the labels from the vectors."""

    x: Float[Tensor, "place n d"]
    labels: Int64[Tensor, "place set n"]
    valid: Bool[Tensor, "place n"]
    classes: int
    family: Family
    seed: int

    def held_out(
        self, split: Split
    ) -> tuple[Float64[Tensor, "place set class test"], Float64[Tensor, "place set class"]]:
        """Log-probabilities for what `split` tests, by chosen probes and by the frequencies, in nats."""
        test = split.test
        best, added = self.choose(split.train, split.choose)
        whole = torch.cat([split.train, split.choose])
        base = self.log_frequencies(whole, added)
        out = base[..., None].repeat(1, 1, 1, len(test)).double()
        used = (best > 0).any(dim=1).nonzero()[:, 0]
        if len(used):
            probe, share = self.refitted(used, best[used], base[used], whole)
            x, valid = self.x[used][:, test], self.valid[used][:, test]
            log_q = mixture(probe.log_probabilities(x, valid).double(), out[used], share[..., None, None])
            out[used] = torch.where((best[used] > 0)[..., None, None], log_q, out[used])
        return out, base.double()

    def choose(self, train: Tensor, choose: Tensor) -> tuple[Int64[Tensor, "place set"], Float32[Tensor, "place set"]]:
        """What answers for the problems `choose` best once trained on `train`, and the counts that smooth frequencies.

        0 says to ignore the vector, others number the shares of `MIXED` and within them the family's ridge strengths.
        """
        ridges = self._ridges()
        sets, count = self.labels.shape[1], len(ridges)
        # Fits are ordered ridge strength first, label set second.
        labels = self.labels.repeat(1, count, 1)
        ridge = ridges.repeat_interleave(sets).expand(len(self.x), -1)
        added = self._smoothing(train, choose)
        base = self.log_frequencies(train, added).repeat(1, count, 1)
        probe = self._fitted(self.x, labels, self.valid, base, ridge, train)
        log_q = probe.log_probabilities(self.x[:, choose], self.valid[:, choose])
        own, plain = (self._own(v, labels, choose) for v in (log_q, base[..., None].expand(-1, -1, -1, len(choose))))
        losses = [self._mean(mixture(own, plain, share), choose).reshape(-1, count, sets) for share in MIXED]
        # Infinity comes first, so that it wins a tie; then the smallest share.
        ignoring = self._mean(plain, choose)[:, None, :sets]
        return torch.cat([ignoring, *losses], dim=1).argmin(dim=1), added

    def refitted(
        self, places: Tensor, best: Tensor, base: Tensor, rows: Tensor
    ) -> tuple[Probe, Float64[Tensor, "place set"]]:
        """Probes of some places as chosen, trained on `rows`, and the shares of the frequencies `base` beside them.

        Where the choice is to ignore the vector they are of no use.
        """
        ridges = self._ridges()
        chosen = (best - 1).clamp(min=0)
        probe = self._fitted(
            self.x[places], self.labels[places], self.valid[places], base, ridges[chosen % len(ridges)], rows
        )
        return probe, torch.tensor(MIXED, dtype=torch.float64, device=self.x.device)[chosen // len(ridges)]

    def _own(self, log_q: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """[place, fit, row] log-probabilities of the labels."""
        return log_q.gather(2, labels[:, :, None, rows])[:, :, 0]

    def _mean(self, own: Tensor, rows: Tensor) -> Tensor:
        """[place, fit] cross-entropy in nats over valid problems."""
        weight = self.valid[:, None, rows]
        return -(own * weight).sum(dim=-1) / weight.sum(dim=-1)

    def _smoothing(self, train: Tensor, choose: Tensor) -> Tensor:
        """[place, set] counts to add to each class, by the held-out loss of the frequencies alone.

        Both a poor constant and a probe measured against it would look informed: with many classes and few problems
        half a count too many, or too few, is worth a bit. So the constant gets its own choice.
        """
        options = [share / self.classes for share in _ADDED_SHARES] + list(_ADDED)
        losses = []
        for option in options:
            added = torch.full(self.labels.shape[:2], option, dtype=torch.float32, device=self.x.device)
            base = self.log_frequencies(train, added)
            own = self._own(base[..., None].expand(-1, -1, -1, len(choose)), self.labels, choose)
            losses.append(self._mean(own, choose))
        options_here = torch.tensor(options, dtype=torch.float32, device=self.x.device)
        return options_here[torch.stack(losses).argmin(dim=0)]

    def log_frequencies(self, rows: Tensor, added: Tensor) -> Float32[Tensor, "place set class"]:
        """Of the labels of `rows`, smoothed."""
        return log_frequencies(self.labels[:, :, rows], self.valid[:, rows], self.classes, added)

    def _ridges(self) -> Tensor:
        return torch.tensor(self.family.ridges, dtype=torch.float32, device=self.x.device)

    def _fitted(self, x: Tensor, labels: Tensor, valid: Tensor, base: Tensor, ridge: Tensor, rows: Tensor) -> Probe:
        """Probes trained on `rows`."""
        return fit_probe(
            x[:, rows], labels[:, :, rows], valid[:, rows], base, ridge, family=self.family, seed=self.seed
        )


def log_frequencies(labels: Tensor, valid: Tensor, classes: int, added: Tensor) -> Float32[Tensor, "place set class"]:
    """Of labels `[place, set, n]` at `valid [place, n]` problems, `added [place, set]` counts for each class beside.

    >>> counted = log_frequencies(torch.tensor([[[0, 2, 2]]]), torch.ones(1, 3).bool(), 3, torch.tensor([[1.0]]))
    >>> counted.exp().mul(6).round().tolist()  # no class is impossible
    [[[2.0, 1.0, 3.0]]]
    """
    counts = added[..., None].repeat(1, 1, classes)
    weight = valid[:, None].to(counts).expand(-1, labels.shape[1], -1)
    counts = counts.scatter_add(2, labels, weight)
    return (counts / counts.sum(dim=-1, keepdim=True)).log()


def mixture(log_q: Tensor, log_base: Tensor, share: float | Tensor) -> Tensor:
    """log((1 - share) q + share base)."""
    share = torch.as_tensor(share, dtype=log_q.dtype, device=log_q.device)
    return torch.logaddexp(log_q + (-share).log1p(), log_base + share.log())

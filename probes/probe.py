"""The probe: a softmax classifier of vectors, linear or with a hidden layer, under a ridge penalty.

All places (layers, steps) and all fits (ridge strengths, label sets) train in one batched L-BFGS. Layout inside:
[place, fit, class, feature] for weights and [place, fit, class, problem] for logits; problems run along memory. It
knows neither folds nor bits: `fit_probe` trains on the problems it is given, `Probe` answers for others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float32
from torch import Tensor

from probes.features import Axes
from probes.lbfgs import PAIRS, Objective, minimise

__all__ = ["FAMILIES", "Family", "Probe", "fit_bytes", "fit_probe"]

_ITERATIONS = 40
# Nats of mean cross-entropy still to be gained at which a fit is done; sampling noise is some hundred times that.
_TOLERANCE = 3e-5


@dataclass(frozen=True)
class Family:
    """A family of probes: the tanh units of its hidden layer, 0 for none, and the ridge strengths worth trying.

    Strengths are on standardised features, for a mean cross-entropy in nats.
    """

    hidden: int
    ridges: tuple[float, ...]


#: The families of probes there are, by name.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"linear": Family(0, (3.0, 0.6, 0.12, 0.024, 0.005, 0.001)), "mlp": Family(32, (0.5, 0.1, 0.02, 0.004))}
)


@dataclass(frozen=True)
class Probe:
    """Fitted probes of one family, a number of fits for each place. Made by `fit_probe`."""

    net: Net
    weights: Float32[Tensor, "place fit weight"]
    axes: Axes

    def log_probabilities(self, x: Tensor, valid: Tensor) -> Float32[Tensor, "place fit class row"]:
        """Of every class, in nats, for vectors x `[place, row, d]`; where not `valid` they mean nothing."""
        return self.net.logits(self.weights, self.axes.of(x, valid))[0].log_softmax(dim=2)


def fit_probe(
    x: Tensor,
    labels: Tensor,
    valid: Tensor,
    base: Tensor,
    ridge: Tensor,
    *,
    family: Family,
    seed: int = 0,
    iterations: int = _ITERATIONS,
    tolerance: float = _TOLERANCE,
) -> Probe:
    """Train on x `[place, n, d]`, labels `[place, fit, n]` and `valid [place, n]`, all given problems.

    >>> y = torch.arange(40) % 2
    >>> x = torch.nn.functional.one_hot(y).float()[None]
    >>> valid, even = torch.ones(1, 40, dtype=torch.bool), torch.full((1, 1, 2), 0.5).log()
    >>> probe = fit_probe(x, y[None, None], valid, even, torch.tensor([[0.001]]), family=FAMILIES["linear"])
    >>> probe.log_probabilities(x, valid).argmax(dim=2)[0, 0].equal(y)
    True

    Minimises the mean cross-entropy in nats over valid problems plus half of `ridge [place, fit]` times the squared
    weights. The weights start from, and the ridge pulls towards, the log-frequencies `base [place, fit, class]`: at 0
    they ignore the vector. A fit ends where about `tolerance` nats are left to gain, or after `iterations`; `seed`
    draws the first weights of a hidden layer.
    """
    axes, z = Axes.learn(x, valid)
    weight = valid.float()
    spectrum = z.square().sum(dim=1) / weight.sum(dim=1, keepdim=True)  # mean squares on the axes
    target, share = labels[:, :, None], (weight / weight.sum(dim=-1, keepdim=True))[:, None, None]
    width, classes = z.shape[-1], base.shape[-1]

    def objective_of(fits: Tensor) -> Objective:
        some, truth, strength = Net(family.hidden, width, classes, base[:, fits]), target[:, fits], ridge[:, fits]

        def objective(w: Tensor) -> tuple[Tensor, Tensor]:
            logits, hidden = some.logits(w, z)
            log_q = logits.log_softmax(dim=2)
            loss = -(log_q.gather(2, truth) * share).sum(dim=(2, 3)) + 0.5 * strength * w.square().sum(dim=-1)
            error = log_q.exp_()
            error.scatter_add_(2, truth, torch.full_like(truth, -1, dtype=error.dtype))
            return loss, some.gradient(w, z, hidden, error.mul_(share)) + strength[..., None] * w

        return objective

    net = Net(family.hidden, width, classes, base)
    start = net.start(len(x), labels.shape[1], spectrum, seed)
    curvature = net.curvature(spectrum) + ridge[..., None]
    w = minimise(objective_of, start, 1 / curvature, iterations=iterations, tolerance=tolerance)
    return Probe(net, w, axes)


def fit_bytes(family: Family, n: int, d: int, *, fits: int, classes: int) -> int:
    """About what the fits of one place with n vectors of d features take to train."""
    hidden, width = family.hidden, min(d, n) + 1
    weights = fits * (classes * width + hidden * (width + classes))
    return 64 * n * d + 4 * n * fits * (3 * classes + 4 * hidden) + 4 * weights * (2 * PAIRS + 8)


class Net:
    """Logits and gradients of one probe family, weights flat: [place, fit, weight].

    Linear: log q = offset + A z. MLP: log q = offset + A z + B tanh(C z) + b, so that it can do what the linear one
    can. The offset is the training frequencies, and all weights are under the ridge: at 0 they ignore the vector.
    """

    def __init__(self, hidden: int, width: int, classes: int, offset: Tensor) -> None:
        self.hidden = hidden
        self.width, self.classes, self.offset = width, classes, offset
        self.rows = self.hidden + classes  # of [C; A], applied in one product
        self.first = self.rows * width

    def start(self, places: int, fits: int, spectrum: Tensor, seed: int) -> Tensor:
        extra = self.classes * (self.hidden + 1) if self.hidden else 0
        w = torch.zeros(places, fits, self.first + extra, dtype=torch.float32, device=spectrum.device)
        if self.hidden:
            # Inputs of the hidden units start with a mean square of 1; A and B start at 0, which ignores the vector.
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randn(self.hidden, self.width, generator=generator, dtype=torch.float32).to(spectrum.device)
            drawn = drawn / spectrum.sum(dim=-1).sqrt()[:, None, None]
            w[..., : self.hidden * self.width] = drawn.flatten(1)[:, None]
        return w

    def logits(self, w: Tensor, z: Tensor) -> tuple[Tensor, Tensor | None]:
        places, fits = w.shape[:2]
        first = w[..., : self.first].reshape(places, fits * self.rows, self.width)
        out = torch.bmm(first, z.mT).reshape(places, fits, self.rows, -1)
        if not self.hidden:
            return out.add_(self.offset[..., None]), None
        second, hidden = self._second(w), out[:, :, : self.hidden].tanh()
        bias = second[..., -1:] + self.offset[..., None]
        return (second[..., :-1] @ hidden).add_(out[:, :, self.hidden :]).add_(bias), hidden

    def gradient(self, w: Tensor, z: Tensor, hidden: Tensor | None, error: Tensor) -> Tensor:
        """Of the cross-entropy, from `error`, its gradient by logit."""
        places, fits = w.shape[:2]
        if hidden is None:
            return torch.bmm(error.reshape(places, -1, z.shape[1]), z).reshape(places, fits, -1)
        g_second = torch.cat([error @ hidden.mT, error.sum(dim=-1, keepdim=True)], dim=-1)
        back = (self._second(w)[..., :-1].mT @ error).mul_(1 - hidden.square())
        both = torch.cat([back, error], dim=2)
        g_first = torch.bmm(both.reshape(places, -1, z.shape[1]), z)
        return torch.cat([g_first.reshape(places, fits, -1), g_second.reshape(places, fits, -1)], dim=-1)

    def matrices(self, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weights of one fit as they are applied: [C; A] and, with a hidden layer, [B, b]."""
        first = w[: self.first].reshape(self.rows, self.width)
        return first, w[self.first :].reshape(self.classes, self.hidden + 1) if self.hidden else None

    def curvature(self, spectrum: Tensor) -> Tensor:
        """A diagonal guess of the second derivative: exact for a linear probe that knows the frequencies alone."""
        q = self.offset.exp()
        spread = q * (1 - q)
        each = spread.mean(dim=-1, keepdim=True).expand(-1, -1, self.hidden)
        first = (torch.cat([each, spread], dim=-1)[..., None] * spectrum[:, None, None]).flatten(2)
        if not self.hidden:
            return first
        return torch.cat([first, spread[..., None].expand(-1, -1, -1, self.hidden + 1).flatten(2)], dim=-1)

    def _second(self, w: Tensor) -> Tensor:
        return w[..., self.first :].reshape(*w.shape[:2], self.classes, self.hidden + 1)

"""One probe of the answer, for vectors of problems that it was not trained on: what `v_information` is estimated with.

It is chosen and trained as in each fold of `v_information` (`selection`): a quarter of the problems chooses the ridge
strength, how much of the frequencies is mixed in, or to ignore the vector; then all train. What it says of a vector:

    bits(x) = log2 q(y | x) - log2 q(y)

whose mean over held-out problems is the V-information. Before the softmax a linear probe is linear in x, within each
coordinate's usual range (`features.usual_range`); beyond it a coordinate counts as standing at the end.

Source: Xu et al. 2020, arXiv 2002.10689; Ethayarajh et al. 2022, arXiv 2110.08420 (the bits of one case).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from probes.checks import check_finite, check_tensor, check_whole
from probes.errors import InputError
from probes.probe import FAMILIES, Probe
from probes.samples import check_groups, check_samples, described, is_whole, units_of
from probes.selection import Task, mixture

__all__ = ["AnswerProbe", "ProbeScore", "answer_probe"]

_CHOOSE = 4  # one unit in four chooses
_LEAST = 8  # units, two of which choose

_UNITS = {
    "bits": "bits: log2 of the probe's probability of the answer, above its frequency",
    "logit": "nats: the probe's logit of the answer less the mean of all classes'",
}


@dataclass(frozen=True)
class AnswerProbe:
    """A trained probe of the answer. Made by `answer_probe`.

    Attributes:
        probe: one place and one fit; None where the vector is better ignored, so that all that is said is 0 bits.
        frequencies: log-frequencies of the classes among the training problems, smoothed, in nats.
        share: of the frequencies in the prediction.
        n: training problems.
    """

    probe: Probe | None
    frequencies: Float64[Tensor, " class"]
    share: float
    n: int

    def log_probabilities(self, x: Tensor) -> Float64[Tensor, "row class"]:
        """Of every class in nats, for vectors x `[row, d]`."""
        base = self.frequencies.expand(len(x), -1)
        return base if self.probe is None else mixture(self._logits(x)[0].log_softmax(dim=-1), base, self.share)

    def score(self, label: int, *, kind: str = "bits") -> ProbeScore:
        """What it says of one answer, as a function of the vector that can be differentiated.

        >>> y = torch.arange(60) % 2
        >>> found = answer_probe(y[:, None].float() + torch.tensor([0.0, 1.0]), y)
        >>> found.score(1).value(torch.tensor([[1.0, 2.0], [0.0, 1.0]])).clamp(min=-1).round().tolist()
        [1.0, -1.0]

        Raises `InputError` for a label that is no class and an unknown kind.
        """
        check_whole("AnswerProbe.score", "label", label, 0, "Labels are numbered from 0.")
        if label >= len(self.frequencies) or kind not in _UNITS:
            raise InputError(
                "AnswerProbe.score",
                expected=f"a label from 0 to {len(self.frequencies) - 1} and kind as one of {', '.join(_UNITS)}",
                received=f"label {label!r}, kind {kind!r}",
                remedy="Labels are those of y.",
            )
        return ProbeScore(self, int(label), kind)

    def _logits(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """[row, class] in nats, and the hidden units if there are any."""
        assert self.probe is not None
        first, second, z = *self._weights(), self._features(x)
        both = z @ first.T
        if second is None:
            return both + self.probe.net.offset[0, 0].double(), None
        hidden = both[:, : second.shape[1] - 1].tanh()
        logits = both[:, second.shape[1] - 1 :] + hidden @ second[:, :-1].T + second[:, -1]
        return logits + self.probe.net.offset[0, 0].double(), hidden

    def _features(self, x: Tensor) -> Tensor:
        assert self.probe is not None
        axes = self.probe.axes
        seen = (x.double().clamp(axes.low[0], axes.high[0]) - axes.mean[0]) * axes.scale[0]
        return torch.nn.functional.pad(seen @ axes.directions[0].double(), (0, 1), value=1.0)

    def _weights(self) -> tuple[Tensor, Tensor | None]:
        """[C; A] and, of a probe with hidden units, [B, b]; see `probe.Net`."""
        assert self.probe is not None
        return self.probe.net.matrices(self.probe.weights[0, 0].double())

    def pulled(self, x: Tensor, weight: Tensor) -> Float64[Tensor, "row d"]:
        """The gradient by x of the sum over classes of `weight [row, class]` times the logits."""
        if self.probe is None:
            return torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        (first, second), axes = self._weights(), self.probe.axes
        if second is not None:
            hidden = self._logits(x)[1]
            assert hidden is not None
            weight = torch.cat([(weight @ second[:, :-1]) * (1 - hidden.square()), weight], dim=1)
        by_axis = weight @ first[:, :-1]
        # Beyond its usual range a coordinate stands still.
        moves = (x.double() >= axes.low[0]) & (x.double() <= axes.high[0])
        return by_axis @ axes.directions[0].double().T * axes.scale[0] * moves


@dataclass(frozen=True)
class ProbeScore:
    """What a probe says of one answer, in bits or before the softmax, and its gradient. Made by `AnswerProbe.score`."""

    probe: AnswerProbe
    label: int
    kind: str

    @property
    def name(self) -> str:
        """What it is called where it is shown."""
        return "v-information" if self.kind == "bits" else "v-information logit"

    @property
    def unit(self) -> str:
        """What it is measured in."""
        return _UNITS[self.kind]

    def bytes_each(self, d_model: int) -> int:
        """About what one vector's gradient takes."""
        return 8 * (12 * d_model + 8 * len(self.probe.frequencies))

    def value(self, x: Tensor) -> Float64[Tensor, " row"]:
        """Of vectors `[row, d_model]`."""
        if self.kind == "bits":
            log_q = self.probe.log_probabilities(x)[:, self.label]
            return (log_q - self.probe.frequencies[self.label]) / math.log(2)
        if self.probe.probe is None:
            return torch.zeros(len(x), dtype=torch.float64, device=x.device)
        logits = self.probe._logits(x)[0]
        return logits[:, self.label] - logits.mean(dim=-1)

    def gradient(self, x: Tensor) -> Float64[Tensor, "row d_model"]:
        """By each coordinate of vectors `[row, d_model]`."""
        classes = len(self.probe.frequencies)
        own = torch.zeros(len(x), classes, dtype=torch.float64, device=x.device)
        own[:, self.label] = 1.0
        if self.kind == "logit" or self.probe.probe is None:
            return self.probe.pulled(x, own - 1 / classes)
        log_q = self.probe._logits(x)[0].log_softmax(dim=-1)
        mixed = mixture(log_q, self.probe.frequencies, self.probe.share)
        # Of what is said, the part that the probe says; the frequencies do not move.
        moved = (log_q[:, self.label] - mixed[:, self.label]).exp() * (1 - self.probe.share) / math.log(2)
        return self.probe.pulled(x, moved[:, None] * (own - log_q.exp()))

    def line_gradient(self, x: Tensor, step: Tensor) -> Float64[Tensor, "row d_model"]:
        """About its mean over lines from `x - step / 2` to `x + step / 2`: that at their middles."""
        return self.gradient(x)


def answer_probe(
    x: Tensor,
    y: Tensor,
    *,
    groups: Tensor | None = None,
    probe: str = "linear",
    n_classes: int | None = None,
    seed: int = 0,
) -> AnswerProbe:
    """Train a probe on vectors x `[n, d]` of problems with answers y `[n]`, numbered from 0.

    >>> y = torch.arange(80) % 4
    >>> found = answer_probe(torch.nn.functional.one_hot(y).float(), y)
    >>> found.log_probabilities(torch.eye(4)).argmax(dim=1).tolist(), found.n
    ([0, 1, 2, 3], 80)

    Take vectors at an aligned place of other problems than those it is to be asked about: of its own training problems
    it says too much. `groups [n]` keeps samples of one problem together where a quarter of them chooses. `probe` is
    "linear" or "mlp"; `seed` draws that quarter, and the first weights of a hidden layer.

    Raises `InputError` for shapes that do not fit, values that are not finite, labels out of range, and fewer than 8
    problems (or groups).
    """
    check_samples("answer_probe", x)
    n = x.shape[-2]
    if x.ndim != 2 or not is_whole(y) or tuple(y.shape) != (n,):
        _refuse("x [n, d] and y [n] of whole numbers", f"{described(x)} and {described(y)}", "Take one place.")
    check_tensor("answer_probe", "x", x if x.shape[-1] > 1 else x.mT, axes=("n", "d"))
    check_finite("answer_probe", "x", x, "Leave those problems out.")
    check_groups("answer_probe", n, groups)
    if probe not in FAMILIES:
        _refuse(f"probe as one of {', '.join(FAMILIES)}", repr(probe), "Start with the linear one.")
    labels = y.detach().long().to(x.device)
    classes = max(int(labels.max()) + 1, 2) if n_classes is None else n_classes
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        _refuse(f"labels from 0 to {classes - 1}", f"{int(labels.min())} to {int(labels.max())}", "Number them from 0.")
    unit_of = units_of(n, groups)
    n_units = int(unit_of.max()) + 1
    if n_units < _LEAST:
        what = "problems" if groups is None else "groups"
        _refuse(f"at least {_LEAST} {what}", str(n_units), "Record more problems.")
    rank = torch.randperm(n_units, generator=torch.Generator().manual_seed(seed))[unit_of].to(x.device)
    choose, train = ((rank % _CHOOSE == 0) == chooses for chooses in (True, False))
    with torch.no_grad():
        valid = torch.ones(1, n, dtype=torch.bool, device=x.device)
        task = Task(x.detach()[None], labels[None, None], valid, classes, FAMILIES[probe], seed)
        best, added = task.choose(train.nonzero()[:, 0], choose.nonzero()[:, 0])
        rows = torch.arange(n, device=x.device)
        base = task.log_frequencies(rows, added)
        fitted, share = task.refitted(torch.tensor([0], device=x.device), best, base, rows)
    ignored = int(best[0, 0]) == 0
    return AnswerProbe(None if ignored else fitted, base[0, 0].double(), float(share[0, 0]), n)


def _refuse(expected: str, received: str, remedy: str) -> None:
    raise InputError("answer_probe", expected=expected, received=received, remedy=remedy)

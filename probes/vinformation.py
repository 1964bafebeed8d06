"""V-information: the bits of a discrete label that a family of probes can get out of a vector, on held-out problems.

1. Problems fall into folds at random (whole groups at a time). A fold is held out in turn, the others train.
2. Per place and fold, from training problems only: each coordinate is brought within its usual range (`_usual_range`),
   so that no single problem decides, then standardised, and the vectors are turned onto their principal axes.
3. Every ridge strength is trained at once on three quarters of the training problems, and the last quarter chooses one
   of them, or infinity: to ignore the vector and answer with the training frequencies. The choice is refitted on all
   training problems. So where there is nothing the estimate is about 0, not far below.
4. The prediction is mixed with the training frequencies, by a share that the last quarter chooses with the strength, at
   least 1/512: one held-out problem, whatever its vector, costs at most 9 bits over ignoring it.
5. I = mean over held-out problems of log2 q(y | x) - log2 q(y), with q(y) the training frequencies, smoothed as
   the last quarter chooses: a paired difference per problem, whose bootstrap over problems gives the interval.
6. The control is the same with the labels permuted across problems.

All places (layers, steps) and both label sets train in one batched L-BFGS without state between calls. Layout inside:
[place, fit, class, feature] for weights and [place, fit, class, problem] for logits, `fit` being ridge strengths and
label sets; problems run along memory.

Source: Xu et al. 2020, A theory of usable information under computational constraints; Hewitt & Liang 2019, Designing
and interpreting probes with control tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from probes.chunks import matrices_of, parts, vectors_of
from probes.errors import InputError
from probes.information import Information

__all__ = ["MIN_PROBLEMS_PER_FOLD", "PROBES", "VInformation", "v_information"]

MIN_PROBLEMS_PER_FOLD = 8
# Small enough that a chunk of places is served from cache much of the time; more is slower.
DEFAULT_MAX_BYTES = 2**26

# Ridge strengths on standardised features, for a mean cross-entropy in nats; infinity is always a candidate too.
_RIDGES = {"linear": (3.0, 0.6, 0.12, 0.024, 0.005, 0.001), "mlp": (0.5, 0.1, 0.02, 0.004)}
#: The families of probes there are.
PROBES = tuple(_RIDGES)
_ITERATIONS = {"linear": 40, "mlp": 40}
_HIDDEN = 32
# Shares of the training frequencies in the prediction; the smallest bounds what a confident mistake costs.
_MIXED = (2.0**-9, 2.0**-5, 2.0**-2)
# Robust standard deviations from the median at which a coordinate's usual range ends. What is spread evenly, normally
# or over some clusters stays as it is.
_USUAL = 6.0
# Where to look for a robust standard deviation: quantiles, and what they are of a normal one. Wider ones count where
# more problems coincide, as in a coordinate that is 0 for most of them.
_SPREADS = ((0.15865525, 1.0), (0.05, 1.6448536), (0.01, 2.3263479))
# Counts added to each class before taking frequencies: a share of one problem in all, or some problems for each class.
_ADDED_SHARES, _ADDED = (0.1, 1.0), (0.5, 5.0)
# Nats of mean cross-entropy still to be gained at which a fit is done; sampling noise is some hundred times that.
_TOLERANCE = 3e-5
_MEMORY = 8  # pairs that L-BFGS keeps
_INNER = 4  # one training problem in four chooses the ridge strength


Objective = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class VInformation:
    """Usable information per place. `bits`, `entropy` and `control_bits` in bits, `accuracy` a share of `n` problems.

    NaN where too few problems are valid, and in `control_bits` without a control. Exactly 0 with the interval [0, 0]
    means that in every fold the training problems chose to ignore the vector. `entropy` is the held-out cross-entropy
    of the training frequencies, so that `entropy - bits` is that of the probe.
    """

    bits: Float64[Tensor, "*lead"]
    low: Float64[Tensor, "*lead"]
    high: Float64[Tensor, "*lead"]
    entropy: Float64[Tensor, "*lead"]
    control_bits: Float64[Tensor, "*lead"]
    accuracy: Float64[Tensor, "*lead"]
    n: Int64[Tensor, "*lead"]
    probe: str
    folds: int
    level: float
    seed: int

    @property
    def selectivity(self) -> Float64[Tensor, "*lead"]:
        """Bits beyond those of the control."""
        return self.bits - self.control_bits

    def at(self, *index: int) -> Information:
        """The number at one place, as `error_bounds` takes it.

        >>> y = torch.arange(60) % 2
        >>> v_information(y[None, :, None].float(), y, draws=100, control=False).at(0).bound
        'lower'

        Raises `InputError` where it is NaN, and for an index that does not name one place.
        """
        if len(index) != self.bits.ndim or any(not -s <= i < s for i, s in zip(index, self.bits.shape, strict=True)):
            raise InputError(
                "VInformation.at",
                expected=f"one index for each axis of {tuple(self.bits.shape)}",
                received=repr(index),
                remedy="The axes are those of x before problems and features.",
            )
        bits = float(self.bits[index])
        if math.isnan(bits):
            raise InputError(
                "VInformation.at",
                expected=f"a place with {MIN_PROBLEMS_PER_FOLD * self.folds} valid problems, some in every fold",
                received=f"{int(self.n[index])} at {index}",
                remedy="Too few responses are that long; look at earlier steps.",
            )
        return Information(
            bits,
            float(self.low[index]),
            float(self.high[index]),
            level=self.level,
            n=int(self.n[index]),
            bound="lower",
            method=f"V-information, {self.probe} probe, {self.folds} folds",
            entropy=float(self.entropy[index]),
        )

    def to_dict(self) -> dict[str, list[int] | list[float]]:
        """Columns for a table: one entry per place, leading axes flattened (last fastest).

        >>> y = torch.arange(60) % 2
        >>> v_information(y[None, :, None].float(), y, draws=100).to_dict()["accuracy"]
        [1.0]
        """
        columns = {f.name: getattr(self, f.name) for f in fields(self)} | {"selectivity": self.selectivity}
        return {name: column.reshape(-1).tolist() for name, column in columns.items() if isinstance(column, Tensor)}


def v_information(
    x: Tensor,
    y: Tensor,
    *,
    valid: Tensor | None = None,
    groups: Tensor | None = None,
    probe: str = "linear",
    folds: int = 5,
    seed: int = 0,
    level: float = 0.95,
    draws: int = 1000,
    control: bool = True,
    n_classes: int | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> VInformation:
    """Usable information of vectors x `[*lead, n, d]` about labels y `[n]` or `[*lead, n]`, per leading place.

    >>> y = torch.arange(80) % 4
    >>> x = torch.nn.functional.one_hot(y).float()
    >>> result = v_information(torch.stack([x, torch.zeros_like(x)]), y, draws=100)
    >>> result.bits.round(decimals=1).tolist(), result.n.tolist()
    ([2.0, 0.0], [80, 80])

    Unit: bits. `probe` is a linear softmax classifier, or one with a hidden layer of 32 tanh units. `valid`
    `[*lead, n]` says which problems have that place (responses differ in length); what stands elsewhere is not read. A
    place with fewer than 8 valid problems a fold (40 by default), or with a fold that lacks any, gives NaN. `groups`
    `[n]` keeps samples of one problem on one side of every split, and is what the bootstrap then resamples.
    `max_bytes` bounds the working memory, down to one place at a time.

    A lower bound, precisely: over held-out problems `entropy - bits`, the cross-entropy of the probe, is no smaller
    than H(y | x) in expectation, so H(y) - (entropy - bits) is no larger than the Shannon information in expectation.
    `bits` uses the cross-entropy of the training frequencies in place of H(y), which is higher by about
    (K - 1) / (2 n_train ln 2) bits for K labels; it may pass the Shannon information by that much at the most. One
    estimate, or the largest of many places, may pass it by chance: look at the interval. The interval resamples
    problems, with the probes as they were trained; it does not cover another draw of folds or training problems.

    Raises `InputError` for shapes that do not fit, labels outside 0 to n_classes - 1, values that are not finite at
    valid problems, fewer than 2 folds and too few problems for all places.
    Source: Xu et al. 2020 (V-information); Hewitt & Liang 2019 (control task).
    """
    _check("v_information", x, y, valid, groups, probe, folds, level, draws, max_bytes)
    lead, (n, d) = x.shape[:-2], x.shape[-2:]
    device = x.device
    flat_valid = torch.ones(x.shape[:-1], dtype=torch.bool, device=device) if valid is None else valid
    flat_valid = flat_valid.reshape(-1, n)
    flat_y = y.detach().long().expand(*lead, n).reshape(-1, n)
    classes = _check_values("v_information", x, flat_y, flat_valid, n_classes, max_bytes)
    flat_y = flat_y.masked_fill(~flat_valid, 0)
    places_of = matrices_of(x)

    # All randomness comes from here, in a fixed order, on the CPU: the device does not change it.
    generator = torch.Generator().manual_seed(seed)
    group_of = torch.arange(n) if groups is None else groups.detach().cpu().unique(return_inverse=True)[1]
    n_groups = int(group_of.max()) + 1
    rank = torch.randperm(n_groups, generator=generator)[group_of]
    shuffle = torch.rand(n, generator=generator, dtype=torch.float32).to(device)
    fold, inner = (rank % folds).to(device), (rank // folds % _INNER == 0).to(device)
    labels = flat_y[:, None]
    if control:
        labels = torch.stack([flat_y, _permuted(flat_y, flat_valid, shuffle)], dim=1)  # [place, set, n]

    n_valid = flat_valid.sum(dim=-1)
    enough = n_valid >= MIN_PROBLEMS_PER_FOLD * folds
    for f in range(folds):
        for part in (fold == f, (fold != f) & inner, (fold != f) & ~inner):
            enough &= (flat_valid & part).any(dim=-1)
    gain = torch.zeros(*labels.shape, dtype=torch.float64, device=device)  # bits per problem over the frequencies
    surprise = torch.zeros_like(gain)  # bits per problem of the frequencies alone
    right = torch.zeros(labels.shape, dtype=torch.bool, device=device)
    kept = enough.nonzero()[:, 0]
    fits = labels.shape[1] * len(_RIDGES[probe])
    width = min(d, n) + 1
    weights = fits * (classes * width + (_HIDDEN * (width + classes) if probe == "mlp" else 0))
    per_place = 64 * n * d + 4 * n * fits * (3 * classes + (4 * _HIDDEN if probe == "mlp" else 0))
    step = max(1, max_bytes // (per_place + 4 * weights * (2 * _MEMORY + 8)))
    with torch.no_grad():
        for places in kept.split(step):
            for f in range(folds):
                test = (fold == f).nonzero()[:, 0]
                train, choose = ((fold != f) & ~inner).nonzero()[:, 0], ((fold != f) & inner).nonzero()[:, 0]
                task = _Task(places_of(places), labels[places], flat_valid[places], classes, probe, seed)
                log_q, log_base = task.held_out(train, choose, test)  # [place, set, class, test], [place, set, class]
                truth = labels[places][:, :, test]
                own = log_q.gather(2, truth[:, :, None])[:, :, 0]
                base = log_base.gather(2, truth)
                cell = (places[:, None, None], torch.arange(labels.shape[1], device=device)[:, None], test)
                gain[cell] = (own - base) / math.log(2)
                surprise[cell] = -base / math.log(2)
                right[cell] = log_q.argmax(dim=2) == truth

    def average(values: Tensor) -> Tensor:
        mean = (values.double() * flat_valid).sum(dim=-1) / n_valid
        return torch.where(enough, mean, math.nan).reshape(lead)

    bits = average(gain[:, 0])
    low, high = _bootstrap(gain[:, 0], flat_valid, group_of.to(device), n_groups, level, draws, generator, max_bytes)
    return VInformation(
        bits=bits,
        low=torch.minimum(torch.where(enough, low, math.nan).reshape(lead), bits),
        high=torch.maximum(torch.where(enough, high, math.nan).reshape(lead), bits),
        entropy=average(surprise[:, 0]),
        control_bits=average(gain[:, 1]) if control else torch.full_like(bits, math.nan),
        accuracy=average(right[:, 0]),
        n=n_valid.reshape(lead),
        probe=probe,
        folds=folds,
        level=float(level),
        seed=seed,
    )


def _permuted(labels: Tensor, valid: Tensor, key: Tensor) -> Tensor:
    """Labels permuted among the valid problems of each place, so that their frequencies stay."""
    places = (~valid).to(torch.uint8).argsort(dim=-1, stable=True)  # valid problems in order, then the others
    order = key.expand(valid.shape).masked_fill(~valid, 2.0).argsort(dim=-1, stable=True)
    return torch.empty_like(labels).scatter(-1, places, labels.gather(-1, order))


class _Task:
    """Some places, their labels, and the probes fitted to a part of the problems."""

    def __init__(self, x: Tensor, labels: Tensor, valid: Tensor, classes: int, probe: str, seed: int) -> None:
        self.x, self.labels, self.valid, self.classes, self.probe, self.seed = x, labels, valid, classes, probe, seed

    def held_out(self, train: Tensor, choose: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities for `test` by probes whose ridge strength `choose` chose, and by frequencies, in nats."""
        ridges = torch.tensor(_RIDGES[self.probe], dtype=torch.float32, device=self.x.device)
        sets, count = self.labels.shape[1], len(ridges)
        # Fits are ordered ridge strength first, label set second.
        labels = self.labels.repeat(1, count, 1)
        ridge = ridges.repeat_interleave(sets).expand(len(self.x), -1)
        added = self._smoothing(train, choose)
        base = self._log_frequencies(self.labels, self.valid, train, added).repeat(1, count, 1)
        log_q = self._fit(self.x, labels, self.valid, base, ridge, train, choose)
        own, plain = (self._own(v, labels, choose) for v in (log_q, base[..., None].expand(-1, -1, -1, len(choose))))
        losses = [self._mean(_mixture(own, plain, share), choose).reshape(-1, count, sets) for share in _MIXED]
        # Infinity comes first, so that it wins a tie; then the smallest share.
        ignoring = self._mean(plain, choose)[:, None, :sets]
        best = torch.cat([ignoring, *losses], dim=1).argmin(dim=1)  # [place, set]
        whole = torch.cat([train, choose])
        base = self._log_frequencies(self.labels, self.valid, whole, added)
        out = base[..., None].repeat(1, 1, 1, len(test)).double()
        used = (best > 0).any(dim=1).nonzero()[:, 0]
        if len(used):
            chosen = (best[used] - 1).clamp(min=0)
            log_q = self._fit(
                self.x[used], self.labels[used], self.valid[used], base[used], ridges[chosen % count], whole, test
            ).double()
            share = torch.tensor(_MIXED, dtype=torch.float64, device=self.x.device)[chosen // count][..., None, None]
            log_q = _mixture(log_q, out[used], share)
            out[used] = torch.where((best[used] > 0)[..., None, None], log_q, out[used])
        return out, base.double()

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
            base = self._log_frequencies(self.labels, self.valid, train, added)
            own = self._own(base[..., None].expand(-1, -1, -1, len(choose)), self.labels, choose)
            losses.append(self._mean(own, choose))
        options_here = torch.tensor(options, dtype=torch.float32, device=self.x.device)
        return options_here[torch.stack(losses).argmin(dim=0)]

    def _log_frequencies(self, labels: Tensor, valid: Tensor, rows: Tensor, added: Tensor) -> Tensor:
        """[place, set, class] with `added` counts for each class, so that none is impossible."""
        counts = added[..., None].repeat(1, 1, self.classes)
        weight = valid[:, None, rows].to(counts).expand(-1, labels.shape[1], -1)
        counts = counts.scatter_add(2, labels[:, :, rows], weight)
        return (counts / counts.sum(dim=-1, keepdim=True)).log()

    def _fit(
        self, x: Tensor, labels: Tensor, valid: Tensor, base: Tensor, ridge: Tensor, train: Tensor, rows: Tensor
    ) -> Tensor:
        """Train on `train`, from log-frequencies `base`; log-probabilities [place, fit, class, row] on `rows`."""
        weight = valid[:, train].float()
        z, z_rows, spectrum = _principal_axes(x, valid, train, rows)
        target, share = labels[:, :, None, train], (weight / weight.sum(dim=-1, keepdim=True))[:, None, None]
        net = _Net(self.probe, z.shape[-1], self.classes, base)

        def objective_of(fits: Tensor) -> Objective:
            some, truth, strength = (
                _Net(self.probe, z.shape[-1], self.classes, base[:, fits]),
                target[:, fits],
                ridge[:, fits],
            )

            def objective(w: Tensor) -> tuple[Tensor, Tensor]:
                logits, hidden = some.logits(w, z)
                log_q = logits.log_softmax(dim=2)
                loss = -(log_q.gather(2, truth) * share).sum(dim=(2, 3)) + 0.5 * strength * w.square().sum(dim=-1)
                error = log_q.exp_()
                error.scatter_add_(2, truth, torch.full_like(truth, -1, dtype=error.dtype))
                return loss, some.gradient(w, z, hidden, error.mul_(share)) + strength[..., None] * w

            return objective

        start = net.start(len(x), labels.shape[1], spectrum, self.seed)
        curvature = net.curvature(spectrum) + ridge[..., None]
        w = _minimise(objective_of, start, 1 / curvature, _ITERATIONS[self.probe])
        return net.logits(w, z_rows)[0].log_softmax(dim=2)


def _mixture(log_q: Tensor, log_base: Tensor, share: float | Tensor) -> Tensor:
    """log((1 - share) q + share base)."""
    share = torch.as_tensor(share, dtype=log_q.dtype, device=log_q.device)
    return torch.logaddexp(log_q + (-share).log1p(), log_base + share.log())


def _usual_range(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Ends [place, 1, feature] of the usual range of each coordinate of x [place, problem, feature], in float64.

    Some robust standard deviations to either side of the median: a problem beyond, massive activation or not, is taken
    to stand at the end. By order statistics, so that one problem, or one in ten, moves the ends little; with plain
    standard deviations it would flatten everybody else, and held out it would be scored at thousands of them.
    """
    last = (valid.sum(dim=1) - 1)[:, None, None]
    x = x if x.dtype == torch.float64 else x.float()
    ordered = x.masked_fill(~valid[..., None], math.inf).sort(dim=1).values

    def at(share: float) -> Tensor:
        place = share * last.double()
        below = place.floor()
        low, high = (
            ordered.gather(1, v.long().expand(-1, 1, x.shape[-1])).double()
            for v in (below, torch.minimum(below + 1, last))
        )
        return low + (place - below) * (high - low)

    middle = at(0.5)
    spread = torch.zeros_like(middle)
    for share, deviations in _SPREADS:
        wider = (at(1 - share) - at(share)) / (2 * deviations)
        spread = torch.where(spread > 1e-9 * middle.abs(), spread, wider)
    return middle - _USUAL * spread, middle + _USUAL * spread


def _principal_axes(x: Tensor, valid: Tensor, train: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised features of `train` and `rows` on the principal axes of `train`, then a 1; and their mean squares.

    A ridge probe does not see the rotation; L-BFGS does, since each coordinate gets its own step. With fewer problems
    than features only the axes that the problems span are kept: beyond them a ridge probe has no weights.
    """
    weight = valid[:, train, None].double()
    # Where a problem is not valid anything may stand, NaN too.
    low, high = _usual_range(x[:, train], valid[:, train])
    seen = x[:, train].double().clamp(low, high).masked_fill(~valid[:, train, None], 0.0)
    total = weight.sum(dim=1, keepdim=True)
    mean = seen.sum(dim=1, keepdim=True) / total
    seen = (seen - mean) * weight
    spread = (seen.square().sum(dim=1, keepdim=True) / total).sqrt()
    scale = torch.where(spread > 1e-9 * mean.abs(), 1 / spread, 0.0)  # a constant feature says nothing
    z = (seen * scale).float()
    z_rows = ((x[:, rows].double().clamp(low, high).masked_fill(~valid[:, rows, None], 0.0) - mean) * scale).float()
    n, d = z.shape[1:]
    if d <= n:
        axes = torch.linalg.eigh(z.mT @ z)[1]
    else:
        values, vectors = torch.linalg.eigh(z @ z.mT)
        keep = values > 1e-5 * values[:, -1:]
        axes = z.mT @ (vectors * torch.where(keep, values, 1.0).rsqrt()[:, None] * keep[:, None])
    z, z_rows = (torch.nn.functional.pad(v @ axes, (0, 1), value=1.0) for v in (z, z_rows))
    z = z * weight.float()
    return z, z_rows, z.square().sum(dim=1) / total[:, 0].float()


class _Net:
    """Logits and gradients of one probe family, weights flat: [place, fit, weight].

    Linear: log q = offset + A z. MLP: log q = offset + A z + B tanh(C z) + b, so that it can do what the linear one
    can. The offset is the training frequencies, and all weights are under the ridge: at 0 they ignore the vector.
    """

    def __init__(self, probe: str, width: int, classes: int, offset: Tensor) -> None:
        self.hidden = _HIDDEN if probe == "mlp" else 0
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


def _minimise(objective_of: Callable[[Tensor], Objective], w: Tensor, inverse: Tensor, iterations: int) -> Tensor:
    """L-BFGS for many objectives at once, [place, fit] of them, each with its own step length.

    One evaluation an iteration: a trial that does not lower its objective enough is taken back and tried again at half
    the length, while the others go on. Fits that are done in all places leave. `inverse` is the first guess of the
    inverse second derivative; `objective_of` gives the objectives of some fits.
    Source: Nocedal & Wright 2006, algorithm 7.4 and the condition of Armijo.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=-1, keepdim=True)

    out, fits = w.clone(), torch.arange(w.shape[1], device=w.device)
    objective = objective_of(fits)
    value, gradient = objective(w)
    value = value[..., None]
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    gamma = torch.ones_like(value)
    length = torch.ones_like(value)
    for _ in range(iterations):
        direction, alphas = gradient.clone(), []
        for s, t, rho in reversed(pairs):
            alphas.append(rho * dot(s, direction))
            direction.addcmul_(alphas[-1], t, value=-1)
        direction *= inverse * gamma
        for (s, t, rho), alpha in zip(pairs, reversed(alphas), strict=True):
            direction.addcmul_(alpha - rho * dot(t, direction), s)
        slope = dot(gradient, direction)  # the decrease to come is about half of it
        running = slope > 2 * _TOLERANCE
        alive = running.any(dim=0)[:, 0]
        if not bool(alive.all()):
            out[:, fits] = w
            fits = fits[alive]
            if len(fits) == 0:
                return out
            objective = objective_of(fits)
            w, value, gradient, gamma, length, direction, slope, running, inverse = (
                v[:, alive] for v in (w, value, gradient, gamma, length, direction, slope, running, inverse)
            )
            pairs = [(s[:, alive], t[:, alive], rho[:, alive]) for s, t, rho in pairs]
        move = -length * running * direction
        trial_value, trial_gradient = objective(w + move)
        drop = value - trial_value[..., None]
        # Float32 cannot tell smaller changes of the objective from rounding.
        taken = running & (drop >= 1e-4 * length * slope - 1e-6 * value.abs())
        move = move * taken
        change = (trial_gradient - gradient) * taken
        bend = dot(move, change)
        # Curvature must be positive for the update to keep a descent direction; otherwise the pair counts for nothing.
        useful = bend > 1e-8 * (dot(move, move) * dot(change, change)).sqrt()
        rho = torch.where(useful, 1 / bend, 0.0)
        gamma = torch.where(useful, bend / dot(change, inverse * change), gamma)
        pairs = [*pairs, (move, change, rho)][-_MEMORY:]
        w, gradient, value = w + move, gradient + change, value - torch.where(taken, drop, 0.0)
        length = torch.where(taken, 1.0, length / 2)
    out[:, fits] = w
    return out


def _bootstrap(
    gain: Tensor,
    valid: Tensor,
    group_of: Tensor,
    n_groups: int,
    level: float,
    draws: int,
    generator: torch.Generator,
    max_bytes: int,
) -> tuple[Tensor, Tensor]:
    """Percentile interval of the mean gain per place; whole groups are drawn, the same for all places."""
    zero = torch.zeros(len(gain), n_groups, dtype=torch.float64, device=gain.device)
    sums = zero.index_add(1, group_of, gain * valid)
    counts = zero.index_add(1, group_of, valid.double())
    means: list[Tensor] = []
    for begin in range(0, draws, step := max(1, max_bytes // (32 * n_groups))):
        drawn = torch.randint(n_groups, (min(step, draws - begin), n_groups), generator=generator)
        times = torch.zeros(len(drawn), n_groups, dtype=torch.float64)
        times = times.scatter_add_(1, drawn, torch.ones_like(times)).to(gain.device)
        means.append((times @ sums.T) / (times @ counts.T))  # a draw without any valid problem is NaN
    resampled = torch.cat(means)
    low, high = (torch.nanquantile(resampled, q, dim=0) for q in ((1 - level) / 2, (1 + level) / 2))
    return low, high


def _check(
    operation: str,
    x: Tensor,
    y: Tensor,
    valid: Tensor | None,
    groups: Tensor | None,
    probe: str,
    folds: int,
    level: float,
    draws: int,
    max_bytes: int,
) -> None:
    def refuse(expected: str, received: str, remedy: str) -> None:
        raise InputError(operation, expected=expected, received=received, remedy=remedy)

    def kind(value: object) -> str:
        return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

    def whole(value: object) -> bool:
        return isinstance(value, Tensor) and value.dtype in (
            torch.bool,
            torch.uint8,
            torch.int8,
            torch.int16,
            torch.int32,
            torch.int64,
        )

    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or x.numel() == 0:
        refuse("x as a floating tensor [*lead, n, d], not empty", kind(x), "Problems are the last axis but one.")
    n = x.shape[-2]
    if not whole(y) or tuple(y.shape) not in {(n,), tuple(x.shape[:-1])}:
        refuse(
            f"y as an integer tensor [n] or [*lead, n], {(n,)} or {tuple(x.shape[:-1])}", kind(y), "Number the labels."
        )
    if valid is not None and (
        not isinstance(valid, Tensor) or valid.dtype != torch.bool or valid.shape != x.shape[:-1]
    ):
        refuse(f"valid as a boolean tensor of shape {tuple(x.shape[:-1])}", kind(valid), "One for every vector of x.")
    if groups is not None and (not whole(groups) or tuple(groups.shape) != (n,)):
        refuse(
            f"groups as an integer tensor of shape {(n,)}", kind(groups), "The same number for samples of one problem."
        )
    for name, other in (("y", y), ("valid", valid)):
        if other is not None and other.device != x.device:
            refuse(f"{name} on {x.device}", str(other.device), "Move one of them.")
    if probe not in _RIDGES:
        refuse(f"probe as one of {', '.join(_RIDGES)}", repr(probe), "Start with the linear one.")
    if folds < 2:
        refuse("folds >= 2", repr(folds), "The usual choice is 5.")
    if not (0 < level < 1 and draws >= 100):
        refuse("0 < level < 1 and at least 100 draws", f"level {level!r}, draws {draws!r}", "Use 0.95 and 1000.")
    if max_bytes < 1:
        refuse("max_bytes >= 1", repr(max_bytes), "Leave it at its default.")
    units, what = (n, "problems") if groups is None else (len(groups.unique()), "groups")
    if units < MIN_PROBLEMS_PER_FOLD * folds:
        refuse(
            f"at least {MIN_PROBLEMS_PER_FOLD * folds} {what}, {MIN_PROBLEMS_PER_FOLD} for each of {folds} folds",
            str(units),
            "Record more problems; every place would be NaN.",
        )


def _check_values(operation: str, x: Tensor, y: Tensor, valid: Tensor, n_classes: int | None, max_bytes: int) -> int:
    """The number of classes; refuses labels out of range and values that are not finite, at valid problems."""
    seen = y[valid]
    if len(seen) == 0:
        raise InputError(operation, expected="some valid problem", received="none", remedy="Check valid.")
    lowest, highest = int(seen.min()), int(seen.max())
    if lowest < 0 or (n_classes is not None and highest >= n_classes):
        raise InputError(
            operation,
            expected="labels from 0" + ("" if n_classes is None else f" to n_classes - 1 = {n_classes - 1}"),
            received=f"{lowest} to {highest}",
            remedy="Number the labels from 0, or mark problems without a label in valid.",
        )
    vectors, bad = vectors_of(x), valid.reshape(-1).clone()
    for part in parts(valid.numel(), 16 * x.shape[-1], max_bytes):
        rows = torch.arange(part.start, part.stop, device=x.device)
        bad[part] &= ~vectors(rows).isfinite().all(dim=-1)
    bad = bad.reshape(valid.shape)
    if bool(bad.any()):
        place, problem = bad.nonzero()[0].tolist()
        raise InputError(
            operation,
            expected="finite x at valid problems",
            received=f"NaN or inf in {int(bad.sum())} vectors, first at place {place} (leading axes flattened), "
            f"problem {problem}",
            remedy="Mark steps that a response lacks in valid.",
        )
    # With one class there is nothing to learn, but nothing undefined either.
    return max(highest + 1, 2) if n_classes is None else n_classes

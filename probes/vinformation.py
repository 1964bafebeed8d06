"""V-information: the bits of a discrete label that a family of probes can get out of a vector, on held-out problems.

1. Problems fall into folds at random (whole groups at a time). A fold is held out in turn, the others train.
2. Per place and fold, from training problems only: each coordinate is brought within its usual range (`usual_range`),
   so that no single problem decides, then standardised, and the vectors are turned onto their principal axes.
3. Every ridge strength is trained at once on three quarters of the training problems, and the last quarter chooses one
   of them, or infinity: to ignore the vector and answer with the training frequencies. The choice is refitted on all
   training problems. So where there is nothing the estimate is about 0, not far below.
4. The prediction is mixed with the training frequencies, by a share that the last quarter chooses with the strength, at
   least 1/512: one held-out problem, whatever its vector, costs at most 9 bits over ignoring it.
5. I = mean over held-out problems of log2 q(y | x) - log2 q(y), with q(y) the training frequencies, smoothed as
   the last quarter chooses: a paired difference per problem, whose bootstrap over problems gives the interval.
6. The control is the same with the labels permuted across problems.

Step 1 is `folds`, 2 `features`, the probe itself `probe` and 3 to 4 `selection`: each stands alone. All places (layers,
steps) and both label sets train at once.

Source: Xu et al. 2020, A theory of usable information under computational constraints; Hewitt & Liang 2019, Designing
and interpreting probes with control tasks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from probes.checks import check_interval, check_max_bytes, check_whole
from probes.chunks import matrices_of, parts, vectors_of
from probes.errors import InputError
from probes.folds import Folds
from probes.information import Information
from probes.probe import FAMILIES, fit_bytes
from probes.samples import check_places, check_samples, check_seen, described, is_whole
from probes.selection import Task

__all__ = ["MIN_PROBLEMS_PER_FOLD", "VInformation", "v_information"]

MIN_PROBLEMS_PER_FOLD = 8
# Small enough that a chunk of places is served from cache much of the time; more is slower.
DEFAULT_MAX_BYTES = 2**26


@dataclass(frozen=True)
class VInformation:
    """Usable information per place. `bits`, `entropy` and `control_bits` in bits, `accuracy` a share of `n` problems.

    NaN where too few problems are valid, and in `control_bits` without a control. Exactly 0 with the interval [0, 0]
    means that in every fold the training problems chose to ignore the vector. `entropy` is the held-out cross-entropy
    of the training frequencies, so that `entropy - bits` is that of the probe. `each` are the bits of each problem,
    whose mean is `bits`; NaN where it lacks the place.
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
    each: Float64[Tensor, "*lead problem"] | None = None

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
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "each"}
        columns["selectivity"] = self.selectivity
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
    turns = Folds.draw(n, folds, groups=groups, generator=generator, operation="v_information").to(device)
    shuffle = torch.rand(n, generator=generator, dtype=torch.float32).to(device)
    labels = flat_y[:, None]
    if control:
        labels = torch.stack([flat_y, _permuted(flat_y, flat_valid, shuffle)], dim=1)  # [place, set, n]

    n_valid = flat_valid.sum(dim=-1)
    enough = (n_valid >= MIN_PROBLEMS_PER_FOLD * folds) & turns.cover(flat_valid)
    gain = torch.zeros(*labels.shape, dtype=torch.float64, device=device)  # bits per problem over the frequencies
    surprise = torch.zeros_like(gain)  # bits per problem of the frequencies alone
    right = torch.zeros(labels.shape, dtype=torch.bool, device=device)
    kept, family = enough.nonzero()[:, 0], FAMILIES[probe]
    sets = torch.arange(labels.shape[1], device=device)[:, None]
    bytes_each = fit_bytes(family, n, d, fits=len(sets) * len(family.ridges), classes=classes)
    with torch.no_grad():
        for part in parts(len(kept), bytes_each, max_bytes):
            places = kept[part]
            task = Task(places_of(places), labels[places], flat_valid[places], classes, family, seed)
            for split in turns:
                log_q, log_base = task.held_out(split)
                truth = task.labels[:, :, split.test]
                own, base = log_q.gather(2, truth[:, :, None])[:, :, 0], log_base.gather(2, truth)
                cell = (places[:, None, None], sets, split.test)
                gain[cell] = (own - base) / math.log(2)
                surprise[cell] = -base / math.log(2)
                right[cell] = log_q.argmax(dim=2) == truth

    def average(values: Tensor) -> Tensor:
        mean = (values.double() * flat_valid).sum(dim=-1) / n_valid
        return torch.where(enough, mean, math.nan).reshape(lead)

    bits = average(gain[:, 0])
    low, high = _bootstrap(gain[:, 0], flat_valid, turns, level, draws, generator, max_bytes)
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
        each=torch.where(flat_valid & enough[:, None], gain[:, 0], math.nan).reshape(*lead, n),
    )


def _permuted(labels: Tensor, valid: Tensor, key: Tensor) -> Tensor:
    """Labels permuted among the valid problems of each place, so that their frequencies stay."""
    places = (~valid).to(torch.uint8).argsort(dim=-1, stable=True)  # valid problems in order, then the others
    order = key.expand(valid.shape).masked_fill(~valid, 2.0).argsort(dim=-1, stable=True)
    return torch.empty_like(labels).scatter(-1, places, labels.gather(-1, order))


def _bootstrap(
    gain: Tensor,
    valid: Tensor,
    folds: Folds,
    level: float,
    draws: int,
    generator: torch.Generator,
    max_bytes: int,
) -> tuple[Tensor, Tensor]:
    """Percentile interval of the mean gain per place; whole groups are drawn, the same for all places."""
    n_units = folds.n_units
    zero = torch.zeros(len(gain), n_units, dtype=torch.float64, device=gain.device)
    sums = zero.index_add(1, folds.unit_of, gain * valid)
    counts = zero.index_add(1, folds.unit_of, valid.double())
    means: list[Tensor] = []
    for part in parts(draws, 32 * n_units, max_bytes):
        drawn = torch.randint(n_units, (part.stop - part.start, n_units), generator=generator)
        times = torch.zeros(len(drawn), n_units, dtype=torch.float64)
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

    check_samples(operation, x)
    n = x.shape[-2]
    if not is_whole(y) or tuple(y.shape) not in {(n,), tuple(x.shape[:-1])}:
        expected = f"y as an integer tensor [n] or [*lead, n], {(n,)} or {tuple(x.shape[:-1])}"
        refuse(expected, described(y), "Number the labels.")
    check_places(operation, x, y, valid, groups)
    if probe not in FAMILIES:
        refuse(f"probe as one of {', '.join(FAMILIES)}", repr(probe), "Start with the linear one.")
    check_whole(operation, "folds", folds, 2, "The usual choice is 5.")
    check_interval(operation, level, draws)
    check_max_bytes(operation, max_bytes)
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
    check_seen(operation, "x", vectors_of(x), valid, x.shape[-1], max_bytes)
    # With one class there is nothing to learn, but nothing undefined either.
    return max(highest + 1, 2) if n_classes is None else n_classes

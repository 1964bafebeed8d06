"""Does the vector at a place depend on the answer at all? HSIC with problems as samples, and a permutation test.

Unlike in `hsic`, where the coordinates of one vector are the samples, here problems are: k is a kernel on the vectors
of all problems at one place, l a kernel on their answers, and

    HSIC = 1/n^2 sum_ij (H K H)_ij L_ij,    H = I - 11^T/n

estimates how far the joint distribution of vector and answer is from independence; 0 in the population where they are
independent and, for Gaussian kernels, nowhere else. So the p-value means what it says:

1. Gaussian kernel on vectors, its width the median distance between problems; on labels 1 where they are equal.
2. Under independence any assignment of answers to problems is as likely as the one there is: the same statistic over
   random permutations of the problems, all of them and all places at once, from one Gram matrix a place.
3. Samples of one problem are not exchangeable with others': the unit is then the group, its kernel the mean over pairs
   of its samples (that of the mean embeddings), and groups are permuted whole.

Source: Gretton et al. 2005, Measuring statistical dependence with Hilbert-Schmidt norms; Gretton et al. 2008, A kernel
statistical test of independence; Song et al. 2012, JMLR 13 (unbiased estimate); Phipson & Smyth 2010 (the observed
assignment counts among the permuted).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from probes.checks import check_max_bytes
from probes.chunks import DEFAULT_MAX_BYTES, matrices_of, parts, vectors_of
from probes.errors import InputError
from probes.scale import check_sigma, median_multiple

__all__ = ["SampleHsic", "sample_hsic"]

_FEWEST = 4  # units below which the unbiased estimate does not exist
_PRODUCT = 256  # multiplications of a matrix product in the time of one pair looked up at random
_IN_CACHE = 2**25  # bytes of a product's operands: larger ones are not faster
_TIE = 1e-10  # of the largest value HSIC could have: permutations that differ by less from the observed are ties


@dataclass(frozen=True)
class SampleHsic:
    """HSIC across problems at each place. Made by `sample_hsic`, which says what each is.

    `hsic` (the V-statistic, never negative) and `unbiased` (around 0 under independence) in the kernels' units;
    `normalised` = HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), from 0 to 1; `p` by permutation. `bandwidth` of the kernel
    on vectors, in activation units; `n` the problems (or groups) with that place. NaN where fewer than 4 have it, or
    where all of them have one vector or one answer.
    """

    hsic: Float64[Tensor, "*lead"]
    unbiased: Float64[Tensor, "*lead"]
    normalised: Float64[Tensor, "*lead"]
    p: Float64[Tensor, "*lead"]
    bandwidth: Float64[Tensor, "*lead"]
    n: Int64[Tensor, "*lead"]
    permutations: int
    seed: int

    def to_dict(self) -> dict[str, list[int] | list[float]]:
        """Columns for a table: one entry per place, leading axes flattened (last fastest).

        >>> y = torch.arange(40) % 2
        >>> list(sample_hsic(y[:, None].float(), y).to_dict())
        ['hsic', 'unbiased', 'normalised', 'p', 'bandwidth', 'n']
        """
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: column.reshape(-1).tolist() for name, column in columns.items() if isinstance(column, Tensor)}


def sample_hsic(
    x: Tensor,
    y: Tensor,
    *,
    valid: Tensor | None = None,
    groups: Tensor | None = None,
    sigma: float | int | str = "median",
    sigma_y: float | int | str = "median",
    permutations: int = 999,
    seed: int = 0,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> SampleHsic:
    """Dependence of vectors x `[*lead, n, d]` on labels or vectors y of the same n problems, per leading place.

    >>> y = torch.arange(60) % 3
    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.stack([y[:, None] + torch.randn(60, 2, generator=g), torch.randn(60, 2, generator=g)])
    >>> found = sample_hsic(x, y)
    >>> found.p.shape, [bool(p < 0.05) for p in found.p]
    (torch.Size([2]), [True, False])

    Unit: dimensionless (squared distances of kernel mean embeddings). `y` is integer labels `[n]` or `[*lead, n]` with
    the kernel 1 where two are equal, or vectors `[n, q]` or `[*lead, n, q]` with a Gaussian kernel. `sigma` and
    `sigma_y` are bandwidths in the units of x and y, or "median": at each place the median distance between problems
    that differ there, or a multiple such as "0.5*median". `valid` `[*lead, n]` says which problems have that place;
    what stands elsewhere is not read.

    `p` = (1 + #{permuted HSIC >= observed}) / (permutations + 1), for this place alone: over many places correct it
    (`probes.nulls.holm`), and give enough permutations for that. All places share the seeded permutations. `groups`
    `[n]` marks samples of one problem by the same number: whole groups are permuted (see above); where y differs within
    a group, among groups of its size.

    It says that there is dependence, not how many bits, and not that the model uses it. `max_bytes` bounds the working
    memory, down to one place and one permutation at a time. Any floating dtype and device; float64 inside and out.

    Raises `InputError` for shapes that do not fit, values that are not finite at valid problems, fewer than 4 problems
    or groups and fewer than 19 permutations (no p could reach 0.05).
    Source: Gretton et al. 2005 and 2008; Song et al. 2012.
    """
    _check(x, y, valid, groups, sigma, sigma_y, permutations, max_bytes)
    lead, n = tuple(x.shape[:-2]), x.shape[-2]
    here = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device) if valid is None else valid
    here = here.reshape(-1, n)
    _check_values("x", vectors_of(x), here.reshape(-1), x.shape[-1], max_bytes)
    answers = _Answers(y, lead, n, sigma_y)
    answers.check(here, max_bytes)
    group_of = torch.arange(n) if groups is None else groups.detach().cpu().unique(return_inverse=True)[1]
    # All randomness comes from here, on the CPU: neither the device nor the memory changes it.
    dice = torch.Generator().manual_seed(seed)
    keys = torch.rand(permutations, int(group_of.max()) + 1, generator=dice, dtype=torch.float64).to(x.device)
    group_of = group_of.to(x.device)

    columns = {name: torch.full((len(here),), math.nan, dtype=torch.float64, device=x.device) for name in _COLUMNS}
    count = torch.zeros(len(here), dtype=torch.long, device=x.device)
    vectors = matrices_of(x)
    with torch.no_grad():
        for places, rows in _alike(here, answers, len(here)):
            units, sizes = group_of[rows].unique(return_counts=True)
            count[places] = len(units)
            if len(units) < _FEWEST:
                continue
            mean = _Means(group_of[rows], sizes) if len(units) < len(rows) else None
            other = answers.kernel(places[0], rows, mean)
            if other is None:
                continue
            m = len(rows)
            for part in parts(len(places), 8 * (3 * m * x.shape[-1] + 6 * m * m), max_bytes // 2):
                some = places[part]
                kernel, width = _gaussian(vectors(some)[:, rows], sigma)
                kernel = kernel if mean is None else mean.of(kernel)
                found = _tested(kernel, other, keys[:, units], max_bytes // 2)
                for name, values in {**found, "bandwidth": width}.items():
                    columns[name][some] = values
    shaped = {name: column.reshape(lead) for name, column in columns.items()}
    return SampleHsic(**shaped, n=count.reshape(lead), permutations=permutations, seed=seed)


_COLUMNS = ("hsic", "unbiased", "normalised", "p", "bandwidth")


class _Means:
    """Means over the samples of each unit."""

    def __init__(self, group_of: Tensor, sizes: Tensor) -> None:
        self.unit_of = group_of.unique(return_inverse=True)[1]
        self.sizes = sizes
        weight = torch.zeros(len(sizes), len(group_of), dtype=torch.float64, device=group_of.device)
        samples = torch.arange(len(group_of), device=group_of.device)
        weight[self.unit_of, samples] = 1 / sizes.double()[self.unit_of]
        self.weight = weight

    def of(self, kernel: Tensor) -> Tensor:
        """The kernel between units: that of their mean embeddings."""
        return self.weight @ kernel @ self.weight.mT

    def constant(self, values: Tensor) -> Tensor | None:
        """The value of each unit, if all of its samples have the same."""
        first = torch.zeros(len(self.sizes), dtype=torch.long, device=values.device)
        first[self.unit_of] = torch.arange(len(values), device=values.device)
        return values[first] if bool((values[first][self.unit_of] == values).all()) else None


@dataclass(frozen=True)
class _Other:
    """The kernel on answers between units; `labels` where it is 1 for equal ones; `strata` of exchangeable units."""

    kernel: Tensor
    labels: Tensor | None
    strata: Tensor | None


class _Answers:
    """Labels or vectors, shared by all places or each place's own."""

    def __init__(self, y: Tensor, lead: tuple[int, ...], n: int, sigma: float | int | str) -> None:
        self.sigma, self.discrete = sigma, not y.is_floating_point()
        axes = 1 if self.discrete else 2
        self.own = y.ndim > axes and lead != ()
        y = y.detach()
        if self.discrete:
            y = y.long()[..., None]
        self.vectors, self.take, self.width = vectors_of(y), matrices_of(y), y.shape[-1]

    def check(self, here: Tensor, max_bytes: int) -> None:
        if not self.discrete:
            seen = here if self.own else here.any(dim=0)
            _check_values("y", self.vectors, seen.reshape(-1), self.width, max_bytes)

    def of(self, place: Tensor | int) -> Tensor:
        """`[n, q]` at a place."""
        which = torch.as_tensor(place).reshape(1) if self.own else torch.zeros(1, dtype=torch.long)
        return self.take(which)[0]

    def kernel(self, place: Tensor, rows: Tensor, mean: _Means | None) -> _Other | None:
        """Between the units of these rows; None where there is but one answer."""
        values = self.of(place)[rows]
        if self.discrete:
            labels = values[:, 0].unique(return_inverse=True)[1]
            if not bool((labels != labels[0]).any()):
                return None
            alike = labels if mean is None else mean.constant(labels)
            if alike is not None:
                return _Other((alike[:, None] == alike).double(), alike, None)
            kernel = (labels[:, None] == labels).double()
        else:
            kernel = _gaussian(values[None], self.sigma)[0][0]
            if bool(kernel.isnan().any()):
                return None
        if mean is None:
            return _Other(kernel, None, None)
        same = all(mean.constant(column) is not None for column in values.T)
        return _Other(mean.of(kernel), None, None if same else mean.sizes)


def _alike(here: Tensor, answers: _Answers, n_places: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Places that the same problems have, with the same labels, and those problems: they share every permutation."""
    key = here
    if answers.own:
        if answers.discrete:
            labels = torch.stack([answers.of(place)[:, 0] for place in range(n_places)]).to(here.device)
            key = torch.cat([here.long(), labels.masked_fill(~here, 0)], dim=1)
        else:
            key = torch.arange(n_places, device=here.device)[:, None]
    kind = key.unique(dim=0, return_inverse=True)[1]
    for number in range(int(kind.max()) + 1):
        places = (kind == number).nonzero()[:, 0]
        yield places, here[places[0]].nonzero()[:, 0]


def _gaussian(x: Tensor, sigma: float | int | str) -> tuple[Tensor, Tensor]:
    """Gaussian kernel `[place, n, n]` of x `[place, n, d]` and its bandwidths; NaN where all vectors coincide."""
    x = x.double()
    x = x - x.mean(dim=1, keepdim=True)
    size = x.abs().amax(dim=(1, 2), keepdim=True)
    x = x / torch.where(size > 0, size, 1.0)
    norm = x.square().sum(dim=-1)
    norms = norm[:, :, None] + norm[:, None, :]
    squared = norms - 2 * (x @ x.mT)
    # The subtraction leaves some rounding of the norms between vectors that coincide.
    squared = torch.where(squared > 1e-13 * norms, squared, 0.0)
    size = size[:, 0, 0]
    if isinstance(sigma, str):
        n = x.shape[1]
        first, second = torch.triu_indices(n, n, 1, device=x.device)
        ordered = squared[:, first, second].sort(dim=-1).values
        differing = (ordered > 0).sum(dim=-1)
        # Of the pairs that differ: where most coincide the middle one of all would be 0.
        middle = (ordered.shape[-1] - differing).double() + (differing.double() - 1) / 2
        low, high = (
            ordered.gather(1, v.long().clamp(0, ordered.shape[-1] - 1)[:, None])[:, 0].sqrt()
            for v in (middle.floor(), middle.ceil())
        )
        width = median_multiple("sample_hsic", sigma) * torch.where(differing > 0, (low + high) / 2, math.nan)
    else:
        width = torch.where(size > 0, sigma / size, math.nan)
    return (-squared / (2 * width.square()[:, None, None])).exp_(), width * size


def _tested(kernel: Tensor, other: _Other, keys: Tensor, max_bytes: int) -> dict[str, Tensor]:
    """HSIC of kernels `[place, n, n]` with the answers', and its p over the permutations that `keys` sort out."""
    centred, against = _centre(kernel), _centre(other.kernel)
    n = kernel.shape[-1]
    observed = (centred * other.kernel).sum(dim=(1, 2))
    most = (centred.square().sum(dim=(1, 2)) * against.square().sum()).sqrt()
    above = torch.zeros_like(observed)
    flat = centred.reshape(len(centred), n * n)
    for permuted in _permuted_sums(flat, other, keys, max_bytes):
        above += (permuted >= (observed - _TIE * most)[:, None]).sum(dim=1)
    defined = most > 1e-12 * n * n
    found = {
        "hsic": observed / n**2,
        "unbiased": _unbiased(kernel, other.kernel),
        "normalised": observed / most,
        "p": (1 + above) / (len(keys) + 1),
    }
    return {name: torch.where(defined, values, math.nan) for name, values in found.items()}


def _permuted_sums(flat: Tensor, other: _Other, keys: Tensor, max_bytes: int) -> Iterator[Tensor]:
    """[place, permutation] sums of centred kernels `[place, n * n]` times the permuted kernel on answers."""
    n = keys.shape[1]
    if other.labels is not None:
        counts = other.labels.bincount()
        by_label = len(counts) * n * n < _PRODUCT * int(counts.square().sum())
        yield from (_sums_by_label if by_label else _sums_by_pair)(flat, other.labels, keys, max_bytes)
        return
    strata = torch.zeros(n, dtype=torch.long, device=flat.device) if other.strata is None else other.strata
    slots = strata.argsort(stable=True)
    for part in parts(len(keys), 8 * (3 * n * n + 4 * n), max_bytes):
        chosen = (keys[part] + strata).argsort(dim=1)  # keys are below 1: strata stay together, in order
        order = torch.empty_like(chosen)
        order[:, slots] = chosen
        permuted = other.kernel.reshape(-1)[(order[:, :, None] * n + order[:, None, :]).reshape(len(order), -1)]
        yield flat @ permuted.T


def _sums_by_label(flat: Tensor, labels: Tensor, keys: Tensor, max_bytes: int) -> Iterator[Tensor]:
    """Few labels: sum_c z_c' K z_c with the labels' indicators z of many permutations in one matrix product."""
    places, n = len(flat), keys.shape[1]
    slots, n_labels = labels.sort().values, int(labels.max()) + 1
    kernels = flat.reshape(places, n, n)
    for part in parts(len(keys), 8 * n * (2 * n_labels + 4), min(max_bytes, _IN_CACHE)):
        order = keys[part].argsort(dim=1)
        drawn = torch.empty_like(order).scatter_(1, order, slots.expand_as(order)).mT  # [unit, permutation]
        indicators = torch.nn.functional.one_hot(drawn, n_labels).to(flat.dtype).reshape(n, -1)
        total = torch.empty(places, len(order), dtype=flat.dtype, device=flat.device)
        for place, kernel in enumerate(kernels):
            met = (kernel @ indicators).reshape(n, len(order), n_labels)
            total[place] = met.gather(2, drawn[..., None])[..., 0].sum(dim=0)
        yield total


def _sums_by_pair(flat: Tensor, labels: Tensor, keys: Tensor, max_bytes: int) -> Iterator[Tensor]:
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


def _centre(kernel: Tensor) -> Tensor:
    kernel = kernel - kernel.mean(dim=-1, keepdim=True)
    return kernel - kernel.mean(dim=-2, keepdim=True)


def _unbiased(k: Tensor, l_: Tensor) -> Tensor:
    """Song et al. 2012, equation 5: the diagonals, where a problem meets itself, are left out."""
    n = k.shape[-1]
    off = 1 - torch.eye(n, dtype=k.dtype, device=k.device)
    k, l_ = k * off, l_ * off
    rows_k, rows_l = k.sum(dim=-1), l_.sum(dim=-1)
    sums = rows_k.sum(dim=-1) * rows_l.sum(dim=-1) / ((n - 1) * (n - 2))
    return ((k * l_).sum(dim=(-2, -1)) + sums - 2 / (n - 2) * (rows_k * rows_l).sum(dim=-1)) / (n * (n - 3))


def _check_values(name: str, vectors: object, seen: Tensor, width: int, max_bytes: int) -> None:
    bad = seen.clone()
    for part in parts(len(seen), 16 * width, max_bytes):
        rows = torch.arange(part.start, part.stop, device=seen.device)
        bad[part] &= ~vectors(rows).isfinite().all(dim=-1)  # type: ignore[operator]
    if bool(bad.any()):
        raise InputError(
            "sample_hsic",
            expected=f"finite {name} at valid problems",
            received=f"NaN or inf in {int(bad.sum())} vectors, first at vector {int(bad.nonzero()[0])} (leading axes "
            "flattened)",
            remedy="Mark steps that a response lacks in valid.",
        )


def _check(
    x: Tensor,
    y: Tensor,
    valid: Tensor | None,
    groups: Tensor | None,
    sigma: float | int | str,
    sigma_y: float | int | str,
    permutations: int,
    max_bytes: int,
) -> None:
    def refuse(expected: str, received: str, remedy: str) -> None:
        raise InputError("sample_hsic", expected=expected, received=received, remedy=remedy)

    def kind(value: object) -> str:
        return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

    check_max_bytes("sample_hsic", max_bytes)
    for value in (sigma, sigma_y):
        check_sigma("sample_hsic", value)
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or x.numel() == 0:
        refuse("x as a floating tensor [*lead, n, d], not empty", kind(x), "Problems are the last axis but one.")
    lead, n = tuple(x.shape[:-2]), x.shape[-2]
    discrete = isinstance(y, Tensor) and not y.is_floating_point() and not y.is_complex()
    fits = isinstance(y, Tensor) and not y.is_complex() and y.numel() > 0
    if fits and discrete:
        fits = tuple(y.shape) in {(n,), (*lead, n)}
    elif fits:
        fits = y.ndim >= 2 and tuple(y.shape[:-1]) in {(n,), (*lead, n)}
    if not fits:
        refuse(
            f"y as integer labels {(n,)} or {(*lead, n)}, or as floating vectors of one axis more",
            kind(y),
            "Number the labels; one number a problem is a vector [n, 1].",
        )
    if valid is not None and (
        not isinstance(valid, Tensor) or valid.dtype != torch.bool or valid.shape != x.shape[:-1]
    ):
        refuse(f"valid as a boolean tensor of shape {tuple(x.shape[:-1])}", kind(valid), "One for every vector of x.")
    whole = isinstance(groups, Tensor) and not groups.is_floating_point() and not groups.is_complex()
    if groups is not None and not (whole and tuple(groups.shape) == (n,)):
        refuse(f"groups as an integer tensor of shape {(n,)}", kind(groups), "One number for samples of one problem.")
    for name, other in (("y", y), ("valid", valid)):
        if other is not None and other.device != x.device:
            refuse(f"{name} on {x.device}", str(other.device), "Move one of them.")
    if isinstance(permutations, bool) or not isinstance(permutations, int) or permutations < 19:
        refuse("at least 19 permutations", repr(permutations), "With fewer no p can reach 0.05; 999 is usual.")
    units, what = (n, "problems") if groups is None else (len(groups.unique()), "groups")
    if units < _FEWEST:
        refuse(f"at least {_FEWEST} {what}", str(units), "Record more problems.")

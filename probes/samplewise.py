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
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from probes.checks import check_max_bytes
from probes.chunks import DEFAULT_MAX_BYTES, matrices_of, parts, vectors_of
from probes.errors import InputError
from probes.gram import centred, unbiased_hsic
from probes.permutations import permuted_sums
from probes.sample_kernels import AnswerKernel, Answers, GroupMeans, gaussian, places_alike
from probes.samples import check_places, check_samples, check_seen, described, is_whole, units_of
from probes.scale import check_sigma

__all__ = ["SampleHsic", "sample_hsic"]

_FEWEST = 4  # units below which the unbiased estimate does not exist
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
    (`probes.many_tests.holm`), and give enough permutations for that. All places share the seeded permutations.
    `groups` `[n]` marks samples of one problem by the same number: whole groups are permuted (see above); where y
    differs within a group, among groups of its size.

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
    check_seen("sample_hsic", "x", vectors_of(x), here, x.shape[-1], max_bytes)
    answers = Answers(y, lead, n, sigma_y)
    answers.check(here, max_bytes)
    group_of = units_of(n, groups)
    # All randomness comes from here, on the CPU: neither the device nor the memory changes it.
    dice = torch.Generator().manual_seed(seed)
    keys = torch.rand(permutations, int(group_of.max()) + 1, generator=dice, dtype=torch.float64).to(x.device)
    group_of = group_of.to(x.device)

    columns = {name: torch.full((len(here),), math.nan, dtype=torch.float64, device=x.device) for name in _COLUMNS}
    count = torch.zeros(len(here), dtype=torch.long, device=x.device)
    vectors = matrices_of(x)
    with torch.no_grad():
        for places, rows in places_alike(here, answers, len(here)):
            units, sizes = group_of[rows].unique(return_counts=True)
            count[places] = len(units)
            if len(units) < _FEWEST:
                continue
            mean = GroupMeans(group_of[rows], sizes) if len(units) < len(rows) else None
            other = answers.kernel(places[0], rows, mean)
            if other is None:
                continue
            m = len(rows)
            for part in parts(len(places), 8 * (3 * m * x.shape[-1] + 6 * m * m), max_bytes // 2):
                some = places[part]
                kernel, width = gaussian(vectors(some)[:, rows], sigma)
                kernel = kernel if mean is None else mean.of(kernel)
                found = _tested(kernel, other, keys[:, units], max_bytes // 2)
                for name, values in {**found, "bandwidth": width}.items():
                    columns[name][some] = values
    shaped = {name: column.reshape(lead) for name, column in columns.items()}
    return SampleHsic(**shaped, n=count.reshape(lead), permutations=permutations, seed=seed)


_COLUMNS = ("hsic", "unbiased", "normalised", "p", "bandwidth")


def _tested(kernel: Tensor, other: AnswerKernel, keys: Tensor, max_bytes: int) -> dict[str, Tensor]:
    """HSIC of kernels `[place, n, n]` with the answers', and its p over the permutations that `keys` sort out."""
    own, against = centred(kernel), centred(other.kernel)
    n = kernel.shape[-1]
    observed = (own * other.kernel).sum(dim=(1, 2))
    most = (own.square().sum(dim=(1, 2)) * against.square().sum()).sqrt()
    above = torch.zeros_like(observed)
    flat = own.reshape(len(own), n * n)
    for permuted in permuted_sums(flat, other, keys, max_bytes):
        above += (permuted >= (observed - _TIE * most)[:, None]).sum(dim=1)
    defined = most > 1e-12 * n * n
    found = {
        "hsic": observed / n**2,
        "unbiased": unbiased_hsic(kernel, other.kernel),
        "normalised": observed / most,
        "p": (1 + above) / (len(keys) + 1),
    }
    return {name: torch.where(defined, values, math.nan) for name, values in found.items()}


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

    check_max_bytes("sample_hsic", max_bytes)
    for value in (sigma, sigma_y):
        check_sigma("sample_hsic", value)
    check_samples("sample_hsic", x)
    lead, n = tuple(x.shape[:-2]), x.shape[-2]
    discrete = is_whole(y)
    fits = isinstance(y, Tensor) and not y.is_complex() and y.numel() > 0
    if fits and discrete:
        fits = tuple(y.shape) in {(n,), (*lead, n)}
    elif fits:
        fits = y.ndim >= 2 and tuple(y.shape[:-1]) in {(n,), (*lead, n)}
    if not fits:
        refuse(
            f"y as integer labels {(n,)} or {(*lead, n)}, or as floating vectors of one axis more",
            described(y),
            "Number the labels; one number a problem is a vector [n, 1].",
        )
    check_places("sample_hsic", x, y, valid, groups)
    if isinstance(permutations, bool) or not isinstance(permutations, int) or permutations < 19:
        refuse("at least 19 permutations", repr(permutations), "With fewer no p can reach 0.05; 999 is usual.")
    units, what = (n, "problems") if groups is None else (len(groups.unique()), "groups")
    if units < _FEWEST:
        refuse(f"at least {_FEWEST} {what}", str(units), "Record more problems.")

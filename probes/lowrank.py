"""Low-rank factors of a one-dimensional Gaussian kernel, many vectors at once.

A vector `x` of `d` coordinates is read as `d` scalar samples with kernel K_ij = exp(-(x_i - x_j)^2 / (2 sigma^2)).
`factorise` returns P with P^T P = H K H, H = I - 11^T/d, in these steps:

1. Shift the kernel to a base point b: k(i, j) - k(i, b) - k(b, j) + k(b, b). Centring by H undoes the shift, so H K H
   is unchanged, but each entry is now the size of the *variation* of the kernel. For coordinates much smaller than
   sigma K itself is 1 minus very little, and the subtraction would lose every significant digit.
2. Most vectors have an expansion in fixed features that is as good (`expansion`); the others, of a wide bulk, go by
   pivoted incomplete Cholesky (Fine & Scheinberg, JMLR 2001): one loop over pivots for all vectors at once.
3. Stop a vector once its residual trace can no longer matter (see `factorise`), then subtract the mean.

Layout: `[vector, rank, d]`, coordinates last and contiguous, so that every product runs along memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from probes.chunks import DEFAULT_MAX_BYTES, Take, in_cache, parts
from probes.compiled_steps import CompiledSteps
from probes.compiling import kernels
from probes.expansion import FEATURES, FEWEST, ROUNDING, Expansion, Room, base_point, expand
from probes.kernel import Kernel

__all__ = ["blocks", "factor_blocks", "factorise", "fewest", "found_alone"]

_FIRST_CAPACITY = 32
# Coordinates, below which factors are sooner found by pivots than by features and the axes of their Gram matrix; and
# those of steps that meet many answers, which need no axes of their own on a CPU.
_FACTORS_BY_FEATURES, _MANY_BY_FEATURES = 1536, 256
# Coordinates that are worked on at once at the most: two registers of eight.
_REGISTERS = 16
# Small matrices of so many times the vectors that stay in the caches are worked on at once.
_CHUNKS = 4
# Asking whether all vectors are done stalls a GPU, so there it is asked only every so many pivots.
_PIVOTS_PER_CHECK_GPU = 8


def factorise(
    x: Float[Tensor, "*lead d_model"],
    *,
    sigma: float | int = 50.0,
    eps: float | int = 1e-5,
    tol: float | int = 1e-10,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Float64[Tensor, "*lead rank d_model"]:
    """Centred factors P with P^T P = H K H for every vector of `x`.

    >>> x = torch.tensor([[0.0, 10.0, 20.0, 400.0], [7.0, 7.0, 7.0, 7.0]])
    >>> tuple(factorise(x).shape)
    (2, 3, 4)
    >>> bool((factorise(x)[1] == 0).all())
    True

    Vectors of lower rank are padded with zero rows. The mean of the diagonal left out is at most
    `tol * min(eps, mean diagonal)`, or rounding where that is larger; with the ridge `eps * d` of nHSIC this bounds the
    error it causes there by `tol`. `x` is taken as it is: finite values are the caller's duty.

    Source: Fine & Scheinberg 2001, Efficient SVM training using low-rank kernel representations.
    """
    kernel = Kernel(sigma, eps, tol, operation="factorise")
    flat = x.reshape(-1, x.shape[-1])
    kept: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for rows, factor in factor_blocks(flat.__getitem__, flat, kernel, n_rows=len(flat), max_bytes=max_bytes):
            kept.append((rows, factor.clone()))
    rank = max((factor.shape[1] for _, factor in kept), default=0)
    out = torch.zeros(len(flat), rank, x.shape[-1], dtype=torch.float64, device=x.device)
    for rows, factor in kept:
        out[rows, : factor.shape[1]] = factor
    return out.reshape(*x.shape[:-1], rank, x.shape[-1])


def factor_blocks(
    take: Take, like: Tensor, kernel: Kernel, *, n_rows: int, max_bytes: int, share: float = 1 / 64
) -> Iterator[tuple[Int64[Tensor, " rows"], Float64[Tensor, "rows rank d_model"]]]:
    """Yield (row numbers, centred factors) until every row 0 .. n_rows - 1 has come once; options as for `blocks`.

    `share` of what may be left out is left out where factors are brought down to their rank (`Expansion.factor`).
    """
    todo = torch.arange(n_rows)
    for rows, block in blocks(take, like, kernel, todo, max_bytes=max_bytes, least=_FACTORS_BY_FEATURES):
        yield rows, block if isinstance(block, Tensor) else block.factor(share)


def found_alone(like: Tensor) -> bool:
    """Whether `factor_blocks` finds for each of such vectors the same, to the last bit, whoever is beside it.

    By pivots it does, unless a vector ends within a register: what is left of all of them is worked out one by one.
    """
    d, on_cpu = like.shape[-1], like.device.type == "cpu"  # in which order a GPU adds is not known
    return on_cpu and d < _FACTORS_BY_FEATURES and d % _REGISTERS == 0


def blocks(
    take: Take, like: Tensor, kernel: Kernel, todo: Int64[Tensor, " todo"], *, max_bytes: int, least: int = FEWEST
) -> Iterator[tuple[Int64[Tensor, " rows"], CompiledSteps | Expansion | Float64[Tensor, "rows rank d_model"]]]:
    """Yield (row numbers, their expansions or centred factors) until every row `todo`, ascending, has come once.

    `take(rows)` fetches vectors, so a caller can gather them lazily, in units of their own bandwidth where the kernel's
    is a median; `like` gives width and device. Row numbers, on the CPU, ascend within a block. The next turn overwrites
    factors. Below `least` coordinates all go by pivots, but what compiled code can take.
    """
    d = like.shape[-1]
    room = Room()
    compiled = kernels() if like.device.type == "cpu" and d >= FEWEST else None
    for most in FEATURES:
        by_compiled = compiled if most == FEATURES[0] else None
        if d < least and by_compiled is None:
            continue
        wide = []
        # Working set of one row: some vectors of length d, its factor, twice where many answers meet it, and some
        # matrices of its features.
        bytes_each = 8 * (d * (2 * most + 8) + 6 * most**2)
        here = in_cache(d, like.device)
        here = None if here is None else _CHUNKS * here
        for part in parts(len(todo), bytes_each, max_bytes, most=here, even=True):
            rows = todo[part]
            x = take(rows.to(like.device)).to(torch.float64)
            expansion: CompiledSteps | Expansion | None
            if by_compiled is None:
                expansion, fits = expand(x, kernel, most, room)
            else:
                expansion, fits = CompiledSteps.of(x, kernel, by_compiled)
            if expansion is not None:
                yield rows if fits is None else rows[fits], expansion
            if fits is not None:
                wide.append(rows[~fits])
        todo = torch.cat(wide) if wide else todo[:0]
    for rows, factor in _by_pivots(take, like, kernel, todo.to(like.device), max_bytes):
        yield rows.cpu(), factor


def fewest(is_many: bool, device: torch.device) -> int:
    """Coordinates, below which steps go by pivots, where one of them meets many answers or few."""
    if not is_many:
        return FEWEST
    return _MANY_BY_FEATURES if device.type == "cpu" else _FACTORS_BY_FEATURES


def _by_pivots(
    take: Take, like: Tensor, kernel: Kernel, todo: Tensor, max_bytes: int
) -> Iterator[tuple[Tensor, Tensor]]:
    d = like.shape[-1]
    capacity = min(d, _FIRST_CAPACITY)
    while len(todo):
        # Working set of one row: its factor, centred and not, some vectors of length d, and the Gram matrix with its
        # Cholesky factor.
        bytes_each = 8 * (d * (2 * capacity + 8) + 3 * capacity**2)
        chunks = list(parts(len(todo), bytes_each, max_bytes, most=in_cache(d, like.device), even=True))
        buffer = torch.empty(chunks[0].stop, capacity, d, dtype=torch.float64, device=like.device)
        centred = torch.empty(buffer.numel(), dtype=torch.float64, device=like.device)
        unfinished = []
        for rows in (todo[chunk] for chunk in chunks):
            x = take(rows).to(torch.float64)
            for local, factor, done in _pivoted_cholesky(x, buffer, kernel):
                if done:
                    # One buffer for all: fresh memory of this size costs more than the subtraction.
                    out = centred[: factor.numel()].view(factor.shape)
                    yield rows[local], torch.sub(factor, factor.mean(dim=-1, keepdim=True), out=out)
                else:
                    unfinished.append(rows[local])
        # The few rows of high rank start again with more room, so the others never pay for them.
        todo = torch.cat(unfinished) if unfinished else todo[:0]
        capacity = min(d, 4 * capacity)


def _pivoted_cholesky(x: Tensor, buffer: Tensor, kernel: Kernel) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Factor `x [rows, d]` with `buffer` as room; yield (rows, factor before centring, whether they are done)."""
    n, d = x.shape
    capacity = buffer.shape[1]
    every = 1 if x.device.type == "cpu" else _PIVOTS_PER_CHECK_GPU
    u = (x - base_point(x)) / (kernel.width * math.sqrt(2))
    shift = torch.expm1(-u.square())
    diagonal = -2 * shift
    mean = diagonal.mean(dim=-1)
    stop = d * torch.maximum(kernel.tol * mean.clamp(max=kernel.ridge), ROUNDING * mean)
    factor, local = buffer[:n], torch.arange(n, device=x.device)
    for rank in range(capacity + 1):
        active = diagonal.sum(dim=-1) > stop
        if rank % every == 0 or rank == capacity:
            n_active = int(active.sum())
            if n_active == 0 or rank == d:
                yield local, factor[:, :rank], True
                return
            if rank == capacity:
                if n_active < len(local):
                    yield local[~active], factor[~active, :rank], True
                yield local[active], factor[active, :rank], False
                return
            if 4 * n_active <= len(local):
                # Most are done: hand them over and go on with the rest. Earlier, copying would cost what it saves.
                yield local[~active], factor[~active, :rank], True
                factor[:n_active, :rank] = factor[active, :rank]
                factor = factor[:n_active]
                u, shift, diagonal = u[active], shift[active], diagonal[active]
                stop, local, active = stop[active], local[active], active[active]
        pivot, index = diagonal.max(dim=-1, keepdim=True)
        column = u - u.gather(1, index)
        column.square_().neg_().expm1_().sub_(shift).sub_(shift.gather(1, index))
        if rank:
            weights = factor[:, :rank].gather(2, index[:, None].expand(-1, rank, 1)).transpose(1, 2)
            if len(local) > 1:
                column[:, None].baddbmm_(weights, factor[:, :rank], alpha=-1)
            else:
                # Alone it would be a product with a vector, which Intel's library adds in another order than a batch.
                twice = (values.expand(2, -1, -1) for values in (column[:, None], weights, factor[:, :rank]))
                column = torch.baddbmm(*twice, alpha=-1)[:1, 0]
        # A finished vector gets zero columns: dividing by a pivot made of rounding would only add noise.
        column *= pivot.clamp_min_(torch.finfo(torch.float64).tiny).rsqrt_().mul_(active[:, None])
        factor[:, rank] = column
        diagonal.addcmul_(column, column, value=-1)
        diagonal.scatter_(1, index, 0.0)

"""Blocks of steps, expanded or factorised by pivots, brought together with the answers they meet.

Both kinds say the same: the scores of some rows each with an answer of its own, and of all rows of a part with the same
answers. Steps that are expanded are gone through once for both their Gram matrices and their products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from probes.chunks import parts
from probes.expansion import Expansion, Measured, Visit
from probes.gram import gram_norm, ridge_cholesky
from probes.kernel import Kernel

__all__ = ["MANY", "Expanded", "Factored", "Met", "Whitener", "block_of"]

#: Answers from which on it pays to bring a step's factor down to its rank, or to whiten it, before the products.
MANY = 4

# Steps whose products with all answers are made at once: more would leave the cache, fewer read the answers too often.
_PRODUCTS = 32

#: Parts of the rows, all in order, and the answers that each meets.
Meetings: TypeAlias = Sequence[tuple[slice, "Met"]]


@dataclass(frozen=True)
class Met:
    """Answers by their place among whitened factors `[answer, q, d]`."""

    whitened: Float64[Tensor, "answer q d"]
    places: Int64[Tensor, " met"]

    def __len__(self) -> int:
        return len(self.places)

    def factors(self, some: slice = slice(None)) -> Float64[Tensor, "some q d"]:
        """Those of some; without a copy where they follow one another, as all of them do for a null."""
        places = self.places[some]
        first, count = int(places[0]), len(places)
        if bool((places == torch.arange(first, first + count)).all()):
            return self.whitened[first : first + count]
        return self.whitened[places.to(self.whitened.device)]


def block_of(found: Expansion | Tensor, kernel: Kernel) -> Expanded | Factored:
    """A block of what `lowrank.blocks` has found."""
    return Expanded(found, kernel) if isinstance(found, Expansion) else Factored.of(found, kernel)


class Whitener:
    """What brings products P_x Y^T with whitened Y to scores: the ridge of each row's Gram matrix, or its norm."""

    def __init__(self, cholesky: Tensor | None, norm: Tensor | None) -> None:
        self.cholesky, self.norm = cholesky, norm

    def scores(self, cross: Float64[Tensor, "row m q"], rows: Tensor | slice, answers: int) -> Tensor:
        """[row, answer] squared norms of A_x^-1 cross of the rows, answers along its last axis: never negative."""
        if self.cholesky is not None:
            cross = torch.linalg.solve_triangular(self.cholesky[rows], cross, upper=False)
        return self.scaled(cross.square().sum(dim=1).reshape(len(cross), answers, -1).sum(dim=-1), rows)

    def scaled(self, scores: Tensor, rows: Tensor | slice) -> Tensor:
        """By the norm of each row, where there is no ridge; of a constant vector 0 / 0."""
        return scores if self.norm is None else scores / self.norm[rows][:, None]


class Factored:
    """Some steps' centred factors P `[row, rank, d]`, and what is to be done to products with them.

    Of each the first `ranks` rows count, if that is said: of factors that are whitened.
    """

    def __init__(
        self, p: Float64[Tensor, "row rank d"], whitener: Whitener, ranks: Int64[Tensor, " row"] | None = None
    ) -> None:
        self.p, self.whitener, self.ranks = p, whitener, ranks

    @classmethod
    def of(cls, p: Float64[Tensor, "row rank d"], kernel: Kernel) -> Factored:
        """Of factors that are not whitened."""
        gram = p @ p.mT
        if kernel.eps is None:
            return cls(p, Whitener(None, gram_norm(gram)))
        return cls(p, Whitener(ridge_cholesky(gram, kernel.eps * p.shape[2]), None))

    def each(self, local: Int64[Tensor, " pair"], met: Met, *, max_bytes: int) -> Tensor:
        """[pair] scores of the rows `local`, ascending, each with the answer beside it."""
        _, m, d = self.p.shape
        rank = met.whitened.shape[1]
        scores = []
        for pairs in parts(len(local), 8 * (m * (3 * rank + d) + rank * d), max_bytes):
            rows = local[pairs].to(self.p.device)
            cross = self.p[rows] @ met.factors(pairs).mT
            scores.append(self.whitener.scores(cross, rows, 1)[:, 0])
        return torch.cat(scores)

    def with_all(self, meetings: Meetings, *, max_bytes: int) -> Iterator[tuple[int, slice, Tensor]]:
        """Scores `[row, answer]` of parts of the rows, each with its answers: (number of part, answers, scores)."""
        for number, (part, met) in enumerate(meetings):
            n, m, d = self.p[part].shape
            # The product with many answers at once is what grows, and where they are picked their copy.
            for some in parts(len(met), 8 * met.whitened.shape[1] * (3 * n * m + d), max_bytes):
                yield number, some, self._with(part, met.factors(some))

    def _with(self, part: slice, whitened: Float64[Tensor, "answer q d"]) -> Tensor:
        p = self.p[part]
        n, m, d = p.shape
        if len(whitened) > MANY and self.ranks is not None:
            return self.whitener.scaled(_products(p, self.ranks[part], whitened), part)
        if len(whitened) > MANY:
            # Whitening the step before the product spares one triangular solve an answer, and a copy of the product.
            cholesky = self.whitener.cholesky
            step = p if cholesky is None else torch.linalg.solve_triangular(cholesky[part], p, upper=False)
            cross = (step.reshape(n * m, d) @ whitened.reshape(-1, d).T).square_()
            return self.whitener.scaled(cross.reshape(n, m, *whitened.shape[:2]).sum(dim=(1, 3)), part)
        # The wide factor on the right: up to twice as fast as the other way round on CPU.
        rows = whitened.reshape(-1, d)
        cross = (rows @ p.reshape(n * m, d).T).reshape(len(rows), n, m).permute(1, 2, 0)
        return self.whitener.scores(cross, part, len(whitened))


def _products(p: Float64[Tensor, "row m d"], ranks: Tensor, whitened: Float64[Tensor, "answer q d"]) -> Tensor:
    """[row, answer] squared norms of products, without the rows on either side that are there to fill up."""
    n, m, d = p.shape
    of_answer = torch.linalg.vector_norm(whitened, dim=2).nonzero()
    answers, which = whitened.reshape(-1, d), torch.arange(len(whitened)).repeat_interleave(whitened.shape[1])
    if 10 * len(of_answer) < 9 * len(answers):  # a tenth less to multiply is worth a copy
        answers, which = answers[of_answer[:, 0] * whitened.shape[1] + of_answer[:, 1]], of_answer[:, 0]
    counts = torch.arange(m) < ranks[:, None]
    by_row = p.new_zeros(n, len(answers))
    for some in parts(n, 1, n, most=_PRODUCTS, even=True):
        here = counts[some]
        squares = (p[some][here] @ answers.T).square_()
        by_row[some].index_add_(0, here.nonzero()[:, 0], squares)
    return by_row @ torch.nn.functional.one_hot(which, len(whitened)).to(by_row.dtype)


class Expanded:
    """Some steps' expansions."""

    def __init__(self, found: Expansion, kernel: Kernel) -> None:
        self.found, self.kernel, self.d = found, kernel, found.u.shape[1]

    def each(self, local: Int64[Tensor, " pair"], met: Met, *, max_bytes: int) -> Tensor:
        """As `Factored.each`."""
        found, device = self.found, self.found.u.device
        ends = torch.searchsorted(local, torch.arange(len(found.u) + 1)).tolist()
        where, rank = local.to(device), met.whitened.shape[1]
        products: list[Tensor] = []
        apart: list[Tensor] = []

        def visit(part: slice, features: Tensor) -> None:
            begin, end = ends[part.start], ends[part.stop]
            alone = end - begin == len(features) and ends[part.start : part.stop] == list(range(begin, end))
            for some in parts(end - begin, 8 * self.d * (rank + features.shape[1]), max_bytes):
                pairs = slice(begin + some.start, begin + some.stop)
                whitened, rows = met.factors(pairs), where[pairs]
                own = features[some] if alone else features[rows - part.start]
                products.append(whitened @ own.mT)  # the wide factor on the right, as below
                apart.append(whitened.gather(2, found.apart[rows][:, None].expand(-1, whitened.shape[1], -1)).mT)

        measured = self._measured(visit, (slice(None),))
        cross = self._joined(measured, torch.cat(products).mT, measured.columns[where] @ torch.cat(apart))
        return self._whitener(measured).scores(cross, where, 1)[:, 0]

    def _measured(self, visit: Visit, parts_of: Sequence[slice]) -> Measured:
        # A norm is that of orthonormal functions.
        return self.found.measured(visit, parts_of, mixed=True if self.kernel.eps is None else None)

    def _whitener(self, measured: Measured) -> Whitener:
        if self.kernel.eps is None:
            return Whitener(None, gram_norm(measured.gram))
        return Whitener(torch.linalg.cholesky_ex(measured.ridged(self.kernel.eps * self.d)).L, None)

    def _joined(self, measured: Measured, products: Tensor, apart: Tensor) -> Float64[Tensor, "pair m q"]:
        """Of products `[pair, N + 1, q]` with features and ones, and those with the coordinates apart."""
        mix = self.found.basis.mix
        apart[:, : len(mix)] += mix @ products if measured.mixed else products[:, : len(mix)]
        return apart

    def with_all(self, meetings: Meetings, *, max_bytes: int) -> Iterator[tuple[int, slice, Tensor]]:
        """As `Factored.with_all`; the parts are all rows in order."""
        most = max(len(met) for _, met in meetings)
        if most > MANY:
            yield from self._factored().with_all(meetings, max_bytes=max_bytes)
            return
        found = self.found
        whitened = [met.factors() for _, met in meetings]
        number_of = {row: number for number, (part, _) in enumerate(meetings) for row in range(part.start, part.stop)}
        rows, width = len(found.u), max(w.shape[0] * w.shape[1] for w in whitened)
        products = found.u.new_empty(width, rows, len(found.basis.power) + 1)
        apart = found.u.new_empty(rows, found.apart.shape[1], width)

        def visit(part: slice, features: Tensor) -> None:
            own = whitened[number_of[part.start]].reshape(-1, self.d)
            n, count, d = features.shape
            # The wide factor on the right: up to twice as fast as the other way round on CPU.
            products[: len(own), part] = (own @ features.reshape(n * count, d).T).view(len(own), n, count)
            if apart.shape[1]:
                apart[part, :, : len(own)] = own.T[found.apart[part]]

        measured = self._measured(visit, [part for part, _ in meetings])
        whitener = self._whitener(measured)
        cross = self._joined(measured, products.permute(1, 2, 0), measured.columns @ apart)
        for number, (part, met) in enumerate(meetings):
            count = len(met)
            own = cross[part, :, : count * whitened[number].shape[1]]
            yield number, slice(0, count), whitener.scores(own, part, count)

    def _factored(self) -> Factored:
        """Brought down to their rank, which is what products with many answers cost, and whitened."""
        eps = self.kernel.eps
        p, gram, ranks = self.found.whitened(None if eps is None else eps * self.d)
        on_host = ranks if ranks.device.type == "cpu" else None  # elsewhere sums of parts would be in any order
        return Factored(p, Whitener(None, gram_norm(gram) if eps is None else None), on_host)

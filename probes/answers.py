"""Answers factorised once, for all the steps that they are scored against.

The factor of an answer is A_y^-1 P_y of the formula in `hsic`; as many answers at a time as a memory holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import pad

from probes.checks import check_max_bytes
from probes.chunks import DEFAULT_MAX_BYTES, Take, parts, vectors_of
from probes.errors import InputError
from probes.gram import gram_norm, ridge_cholesky
from probes.kernel import Kernel, kept_coordinates
from probes.lowrank import factor_blocks, found_alone
from probes.scale import rescaled

__all__ = ["AnswerFactor", "CentredAnswers", "centred_answers", "factor_answers", "factored_answers"]


@dataclass(frozen=True)
class AnswerFactor:
    """Answers ready to be scored against: A_y^-1 P_y per answer, zero-padded to one rank. Made by `factor_answers`.

    `kernel` is what steps are treated with likewise. `bandwidth` is each answer's own, in activation units. Without
    `kernel.eps` (kernel CKA) `whitened` is P_y over the square root of the norm of P_y^T P_y.
    """

    whitened: Float64[Tensor, "answer rank kept"]
    keep: Int64[Tensor, "answer kept"] | None
    lead: tuple[int, ...]
    d_model: int
    kernel: Kernel
    bandwidth: Float64[Tensor, " answer"]

    def chosen(self, rows: Tensor) -> AnswerFactor:
        """Some of the answers, by their place among all (leading axes flattened), in the shape of `rows`.

        >>> factor = factor_answers(torch.arange(12.0).cos().reshape(3, 4) * 30)
        >>> factor.chosen(torch.tensor([2, 0])).lead
        (2,)

        What many trajectories are scored against is so factorised once, whichever of the answers each of them meets.
        Raises `InputError` for a place that there is not.
        """
        count, places = len(self.whitened), rows.detach().long().reshape(-1)
        if len(places) and not (int(places.min()) >= 0 and int(places.max()) < count):
            raise InputError(
                "choose answers",
                expected=f"places from 0 to {count - 1}",
                received=f"{int(places.min())} to {int(places.max())}",
                remedy="Count the answers as they were given, the last axis fastest.",
            )
        places = places.to(self.whitened.device)
        keep = None if self.keep is None else self.keep[places]
        return replace(
            self, whitened=self.whitened[places], keep=keep, lead=tuple(rows.shape), bandwidth=self.bandwidth[places]
        )

    def beside(self, other: AnswerFactor) -> AnswerFactor:
        """These answers and then those of `other`, of the same kernel, one after the other.

        >>> one = factor_answers(torch.arange(12.0).cos().reshape(3, 4) * 30)
        >>> one.beside(one.chosen(torch.tensor([1]))).lead
        (4,)

        Raises `InputError` for factors of another width or kernel.
        """
        alike = replace(other.kernel, operation=self.kernel.operation) == self.kernel
        if not alike or other.d_model != self.d_model or (other.keep is None) != (self.keep is None):
            raise InputError(
                "join answers",
                expected=f"factors of d_model {self.d_model} and {self.kernel}",
                received=f"d_model {other.d_model} and {other.kernel}",
                remedy="Factorise both with the same options.",
            )
        rank = max(self.whitened.shape[1], other.whitened.shape[1])
        whitened = torch.cat([pad(some.whitened, (0, 0, 0, rank - some.whitened.shape[1])) for some in (self, other)])
        keep = None if self.keep is None or other.keep is None else torch.cat([self.keep, other.keep])
        bandwidth = torch.cat([self.bandwidth, other.bandwidth])
        return replace(self, whitened=whitened, keep=keep, lead=(len(whitened),), bandwidth=bandwidth)


def factor_answers(
    answer: Tensor,
    *,
    sigma: float | int | str = 50.0,
    eps: float | int = 1e-5,
    tol: float | int = 1e-10,
    drop_top: int = 0,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> AnswerFactor:
    """Factorise answers `[*lead, d_model]` once, for any number of trajectories.

    >>> answers = torch.arange(400.0).cos().reshape(100, 4) * 30
    >>> steps = torch.arange(12.0).sin().reshape(3, 4) * 30
    >>> from probes.scoring import nhsic_with
    >>> nhsic_with(steps, factor_answers(answers)).shape
    torch.Size([100, 3])

    The factors of all answers are held, whatever `max_bytes`, which bounds the work. Options, errors and source as for
    `nhsic`.
    """
    check_max_bytes("factor_answers", max_bytes)
    kernel = Kernel(sigma, eps, tol, drop_top, operation="factor_answers")
    kernel.check_answer(answer)
    return next(factored_answers(answer, kernel, max_bytes=max_bytes, room=math.inf))[1]


@dataclass(frozen=True)
class CentredAnswers:
    """Answers whose P_y are found, of which some and then others are whitened together. Made by `centred_answers`.

    Whitening is a small part of the work, and what it rounds hangs on the largest rank among those together.
    """

    answer: Float[Tensor, "answer d_model"]
    kernel: Kernel
    factor: Float64[Tensor, "answer rank kept"] | None
    bandwidth: Float64[Tensor, " answer"]
    ranks: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """What is held."""
        return 0 if self.factor is None else self.factor.nbytes

    def whitened(self, rows: Sequence[int]) -> AnswerFactor:
        """What `factor_answers` makes of these answers, to the last bit.

        >>> answers = torch.arange(48.0).cos().reshape(3, 16) * 30
        >>> some = centred_answers(answers).whitened([2, 0])
        >>> torch.equal(some.whitened, factor_answers(answers[[2, 0]]).whitened)
        True
        """
        some = self.answer[list(rows)]
        if self.factor is None:
            return next(factored_answers(some, self.kernel, max_bytes=DEFAULT_MAX_BYTES, room=math.inf))[1]
        factor = self.factor[list(rows), : max(1, *(self.ranks[row] for row in rows))]
        keep = kept_coordinates(some, self.kernel.drop_top) if self.kernel.drop_top else None
        whitened, lead = _whitened(factor, self.kernel), (len(some),)
        return AnswerFactor(whitened, keep, lead, some.shape[1], self.kernel, self.bandwidth[list(rows)])


def centred_answers(
    answer: Float[Tensor, "answer d_model"],
    *,
    sigma: float | int | str = 50.0,
    eps: float | int = 1e-5,
    tol: float | int = 1e-10,
    drop_top: int = 0,
) -> CentredAnswers:
    """The centred factors of answers `[answer, d_model]`; options, errors and source as for `factor_answers`.

    >>> centred_answers(torch.arange(48.0).cos().reshape(3, 16) * 30).ranks
    (9, 9, 9)

    Of a width at which they hang on who is beside them (`found_alone`) they are found when they are whitened.
    """
    kernel = Kernel(sigma, eps, tol, drop_top, operation="centred_answers")
    kernel.check_answer(answer)
    take, bandwidth = _vectors(answer, kernel, DEFAULT_MAX_BYTES)
    like = answer.new_empty(0, answer.shape[-1] - drop_top)
    if not found_alone(like):
        return CentredAnswers(answer, kernel, None, bandwidth, ())
    todo = torch.arange(len(answer), device=answer.device)
    _, factor = _as_many_as_fit(take, like, todo, kernel, max_bytes=DEFAULT_MAX_BYTES, room=math.inf)
    place = torch.arange(1, factor.shape[1] + 1, device=factor.device)
    ranks = ((factor != 0).any(dim=-1) * place).amax(dim=-1).tolist()
    return CentredAnswers(answer, kernel, factor, bandwidth, tuple(ranks))


def factored_answers(
    answer: Tensor, kernel: Kernel, *, max_bytes: int, room: float
) -> Iterator[tuple[Int64[Tensor, " answer"], AnswerFactor]]:
    """Answers by number with their factors, as many at a time as fit `room` bytes, one at the least."""
    d_model, lead, drop_top = answer.shape[-1], tuple(answer.shape[:-1]), kernel.drop_top
    like, count = answer.new_empty(0, d_model - drop_top), math.prod(lead)
    take, bandwidth = _vectors(answer, kernel, max_bytes)
    whole = vectors_of(answer)
    todo = torch.arange(count, device=answer.device)
    while len(todo):
        rows, factor = _as_many_as_fit(take, like, todo, kernel, max_bytes=max_bytes, room=room)
        factor = _whitened(factor, kernel)
        keep = kept_coordinates(whole(rows), drop_top) if drop_top else None
        yield rows, AnswerFactor(factor, keep, lead, d_model, kernel, bandwidth[rows])
        left = torch.ones(count, dtype=torch.bool, device=answer.device)
        left[rows] = False
        todo = todo[left[todo]]


def _vectors(answer: Tensor, kernel: Kernel, max_bytes: int) -> tuple[Take, Float64[Tensor, " answer"]]:
    """The coordinates of answers that count, in the kernel's units, by number; and each answer's bandwidth."""
    whole, lead, drop_top = vectors_of(answer), tuple(answer.shape[:-1]), kernel.drop_top

    def kept(rows: Tensor) -> Tensor:
        x = whole(rows)
        return x.gather(1, kept_coordinates(x, drop_top)) if drop_top else x

    if not isinstance(kernel.sigma, str):
        return kept, torch.full((math.prod(lead),), kernel.width, dtype=torch.float64, device=answer.device)
    like = answer.new_empty(0, answer.shape[-1] - drop_top)
    return rescaled(kernel.operation, "answer", kept, like, sigma=kernel.sigma, shape=lead, max_bytes=max_bytes)


def _whitened(factor: Float64[Tensor, "answer rank kept"], kernel: Kernel) -> Float64[Tensor, "answer rank kept"]:
    """A^-1 P of centred factors P, or without a ridge P over the root of the norm of P^T P."""
    gram = factor @ factor.mT
    if kernel.eps is None:
        return factor / gram_norm(gram).sqrt()[:, None, None]  # a constant answer: 0 / 0
    cholesky = ridge_cholesky(gram, kernel.eps * factor.shape[-1])
    if cholesky.device.type != "cpu":
        return torch.linalg.solve_triangular(cholesky, factor, upper=False).contiguous()
    # The inverse of the small matrix: solving for all of the factor would turn it about in memory, there and back.
    unit = torch.eye(cholesky.shape[-1], dtype=cholesky.dtype).expand_as(cholesky)
    return torch.linalg.solve_triangular(cholesky, unit, upper=False) @ factor


def _as_many_as_fit(
    take: Take, like: Tensor, todo: Tensor, kernel: Kernel, *, max_bytes: int, room: float
) -> tuple[Tensor, Tensor]:
    """Some of the rows `todo`, ascending, with their factors `[row, rank, d]`."""
    kept: list[tuple[Tensor, Tensor]] = []
    count, rank = 0, 1  # one row at least, so that what is undefined shows in the score
    with torch.no_grad():
        blocks = factor_blocks(
            lambda rows: take(todo[rows]), like, kernel, n_rows=len(todo), max_bytes=max_bytes, share=1 / 4
        )
        for rows, factor in blocks:
            for part in parts(len(rows), 1, len(rows) if math.isinf(room) else max(1, len(rows) // 4)):
                here = len(rows[part])
                # Thrice: as found, padded to one rank, and whitened.
                bytes_then = 3 * 8 * (count + here) * max(rank, factor.shape[1]) * like.shape[-1]
                if kept and bytes_then > room:
                    break
                kept.append((todo[rows[part]], factor[part].clone()))
                count, rank = count + here, max(rank, factor.shape[1])
            else:
                continue
            break
    if len(kept) == 1 and rank == kept[0][1].shape[1]:
        return kept[0]
    rows = torch.cat([rows for rows, _ in kept]).sort().values
    place = torch.zeros(int(rows[-1]) + 1, dtype=torch.long, device=rows.device)
    place[rows] = torch.arange(len(rows), device=rows.device)
    out = torch.zeros(count, rank, like.shape[-1], dtype=torch.float64, device=like.device)
    while kept:
        some, factor = kept.pop()
        out[place[some], : factor.shape[1]] = factor
    return rows, out

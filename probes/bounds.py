"""What a number of bits says of the error of a decoder: Theorems 1 and 2 of arXiv 2506.02867.

With H the entropy of the answer, I the information of the representation about it, |Y| the number of answers and H_b
the binary entropy, all in bits, the error p_e of the best decoder of the representation obeys

    p_e >= (H - I - H_b(p_e)) / log2(|Y| - 1)        (Fano; implicit in p_e, solved here)
    p_e <= (H - I) / 2                               (Hellman and Raviv)

What they speak of. p_e belongs to the best possible decoder of the representation, not to the answer the model emits.
V-information is a lower bound on I, so the upper bound on p_e stays valid with it and the lower bound becomes a plug-in
estimate. And since the prompt determines the answer, what grows along a response is usable information, not Shannon
information: a p_e that falls says that decoding became easier. nHSIC is not information in bits and is refused.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Literal

from probes.errors import InputError
from probes.information import Information

__all__ = ["ErrorBounds", "error_bounds"]

Kind = Literal["bound", "plug-in estimate"]

# A held-out cross-entropy may lie a little above log2 of the number of answers; with few problems for the answers there
# are by some (|Y| - 1) / (n ln 2), since frequencies of so few are a poor prediction of the others.
_ENTROPY_SLACK, _ENTROPY_EXCESS = 0.1, 3.0


@dataclass(frozen=True)
class ErrorBounds:
    """Bounds on the error probability of the best decoder of a representation, each with its interval.

    `lower*` lie in [0, 1 - 1/|Y|]. `upper*` are (H - I) / 2 as the theorem has it and are not clipped: with many
    answers they may pass the error of a guess, and even 1. `upper_is_vacuous` says so.
    """

    lower: float
    lower_low: float
    lower_high: float
    upper: float
    upper_low: float
    upper_high: float
    lower_is: Kind
    upper_is: Kind
    n_answers: int

    @property
    def upper_is_vacuous(self) -> bool:
        """Whether the upper bound says no more than guessing does: error at most 1 - 1/|Y|."""
        return self.upper >= 1 - 1 / self.n_answers


def error_bounds(information: Information | object, entropy: object, n_answers: object) -> ErrorBounds:
    """Bounds on the error of the best decoder from `information` about an answer of `entropy` bits out of `n_answers`.

    >>> known = Information(2.0, 1.8, 2.2, level=0.95, n=1000, bound="lower", method="linear probe")
    >>> bounds = error_bounds(known, entropy=3.0, n_answers=8)
    >>> round(bounds.lower, 3), bounds.upper, bounds.lower_is, bounds.upper_is
    (0.144, 0.5, 'plug-in estimate', 'bound')

    Unit: probabilities; intervals come from the ends of the information's interval, the entropy taken as known. The
    lower bound is the smallest root of H_b(p) + p log2(|Y| - 1) = H - I on [0, 1 - 1/|Y|]; for |Y| = 2 the second term
    is 0. H - I is taken no smaller than 0 and no larger than H, since the true information lies between 0 and H.

    What they are, by `information.bound`. "lower": the upper bound is a bound (in expectation over the problems) and
    the lower one a plug-in estimate. "estimate": both are plug-in estimates. "exact": both are bounds.

    For V-information pass its `entropy` at the same place: H - I is then the held-out cross-entropy of the probe, which
    is no smaller than H(y | representation) in expectation, so that the upper bound holds. `VInformation.at` says which
    it is, and that value is taken whatever it is: with few problems it lies well above log2(|Y|). Any other entropy may
    pass log2(|Y|) by 0.1 bits, and, unless the information is exact, by what so few problems explain.

    Raises `InputError` for anything but `Information` (a score of nHSIC above all), for fewer than 2 answers and for an
    entropy that is not possible with that many.
    Source: Qian et al. 2025, arXiv 2506.02867, Theorems 1 and 2; Fano 1961; Hellman & Raviv 1970.
    """
    if not isinstance(information, Information):
        raise InputError(
            "error_bounds",
            expected="an Information, which is in bits",
            received=type(information).__name__,
            remedy="A score of nHSIC is a similarity of coordinates, not information in bits: use discrete_mi, or "
            "v_information(...).at(...).",
        )
    bits_of_answer, answers = _numbers(entropy, n_answers)
    return _bounds(information, bits_of_answer, answers)


def _bounds(information: Information, entropy: float, n_answers: int) -> ErrorBounds:
    if n_answers < 2:
        raise InputError(
            "error_bounds",
            expected="n_answers >= 2",
            received=repr(n_answers),
            remedy="With one answer nothing can be wrong.",
        )
    most = math.log2(n_answers) + _ENTROPY_SLACK
    if information.bound != "exact":
        most += _ENTROPY_EXCESS * (n_answers - 1) / (information.n * math.log(2))
    own = information.entropy
    if not (0 <= entropy <= most or (own is not None and math.isclose(entropy, own, rel_tol=1e-6))):
        raise InputError(
            "error_bounds",
            expected=f"entropy in bits from 0 to log2({n_answers}) = {math.log2(n_answers):.3f}"
            + ("" if own is None else f", or the information's own, {own:.3f}"),
            received=repr(entropy),
            remedy="Give bits, not nats, and the number of possible answers.",
        )
    # More information, less error: the ends of the interval change places.
    rest, rest_low, rest_high = (
        min(max(entropy - bits, 0.0), float(entropy)) for bits in (information.bits, information.high, information.low)
    )
    return ErrorBounds(
        lower=_fano(rest, n_answers),
        lower_low=_fano(rest_low, n_answers),
        lower_high=_fano(rest_high, n_answers),
        upper=rest / 2,
        upper_low=rest_low / 2,
        upper_high=rest_high / 2,
        lower_is="bound" if information.bound == "exact" else "plug-in estimate",
        upper_is="plug-in estimate" if information.bound == "estimate" else "bound",
        n_answers=n_answers,
    )


def _numbers(entropy: object, n_answers: object) -> tuple[float, int]:
    """Plain numbers of what may be numpy's or a tensor of one value."""
    try:
        if isinstance(entropy, str | bytes):  # which float would read
            raise TypeError
        return float(entropy), operator.index(n_answers)  # type: ignore[arg-type]  # that is what is being found out
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            "error_bounds",
            expected="entropy as a number of bits and n_answers as a whole number",
            received=f"{type(entropy).__name__} and {type(n_answers).__name__}",
            remedy="For example error_bounds(found.at(0), float(found.entropy[0]), n_answers=10).",
        ) from None


def _fano(rest: float, n_answers: int) -> float:
    """Smallest p with H_b(p) + p log2(|Y| - 1) = rest; the left side grows on [0, 1 - 1/|Y|], up to log2 |Y|."""
    low, high = 0.0, 1 - 1 / n_answers
    if rest <= 0:
        return 0.0
    if rest >= math.log2(n_answers):
        return high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _binary_entropy(middle) + middle * math.log2(n_answers - 1) < rest:
            low = middle
        else:
            high = middle
    # The lower end: a lower bound must not be rounded up.
    return low


def _binary_entropy(p: float) -> float:
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) if 0 < p < 1 else 0.0

"""The Gaussian kernel that the coordinates of a vector are compared with, as one value: options, checked once.

Functions for users take `sigma`, `eps`, `tol` and `drop_top` by name, make one `Kernel` of them and hand that on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Int64
from torch import Tensor

from probes.checks import check_drop_top, check_fit, check_pair, check_positive, check_tensor
from probes.errors import InputError
from probes.scale import check_sigma

__all__ = ["SMALLEST_EPS", "SMALLEST_EPS_DENSE", "Kernel", "check_eps", "kept_coordinates"]

# The smallest eps. The ridge eps * d stands against a kernel that float64 holds to about 1e-15 of its mean diagonal:
# what is lost there enters the score as some 10 * 2e-16 / eps, a direction of the kernel at a time. Against 60 digits
# the low-rank score is off by 1e-5 to 3e-4 at 1e-12 (by 3e-2 at 1e-14 and beyond); the dense formula, whose inverse
# multiplies the loss by the kernel's condition, by 5e-4 at 1e-10 and by a whole direction at 1e-13.
SMALLEST_EPS, SMALLEST_EPS_DENSE = 1e-12, 1e-10

_DEFAULT_EPS = 1e-5


@dataclass(frozen=True)
class Kernel:
    """Width, ridge, truncation and left-out coordinates of the kernel of steps and answers.

    >>> Kernel(sigma="0.5*median", drop_top=4)
    Kernel(sigma='0.5*median', eps=1e-05, tol=1e-10, drop_top=4)
    >>> Kernel().width, Kernel("median").width
    (50.0, 1.0)

    `sigma` in activation units, or "median" or a multiple of it, each vector's own; `eps` the ridge as a share of the
    kernel's trace, None where there is none (kernel CKA); `tol` what truncation may cost; `drop_top` how many of the
    answer's largest coordinates are left out. `operation` is what refusals name.

    Raises `InputError` for values out of range, and for an `eps` below which the score is rounding.
    """

    sigma: float | int | str = 50.0
    eps: float | int | None = _DEFAULT_EPS
    tol: float | int = 1e-10
    drop_top: int = 0
    operation: str = field(default="Kernel", compare=False, repr=False)

    def __post_init__(self) -> None:
        check_sigma(self.operation, self.sigma)
        if self.eps is not None:
            check_eps(self.operation, self.eps, SMALLEST_EPS)
        check_positive(self.operation, "tol", self.tol)

    @property
    def width(self) -> float:
        """The bandwidth of the vectors worked on: 1 under a median, where each is in units of its own (`rescaled`)."""
        return 1.0 if isinstance(self.sigma, str) else float(self.sigma)

    @property
    def ridge(self) -> float:
        """What truncation is measured against: `eps`, or the usual one where there is none."""
        return _DEFAULT_EPS if self.eps is None else float(self.eps)

    def check_answer(self, answer: Tensor, *, axes: tuple[str, ...] = ("d_model",), name: str = "answer") -> None:
        """Refuse answers that this kernel cannot take."""
        check_tensor(self.operation, name, answer, axes=axes, unit=self.width)
        check_drop_top(self.operation, self.drop_top, answer.shape[-1])

    def check_steps(self, steps: Tensor, answer_lead: tuple[int, ...], d_model: int) -> None:
        """Refuse steps that this kernel cannot take, or that do not fit the answers."""
        check_tensor(self.operation, "steps", steps, axes=("step", "d_model"), unit=self.width)
        check_fit(self.operation, steps, answer_lead, d_model)

    def check_pair(self, steps: Tensor, answer: Tensor) -> None:
        """Refuse steps and answers that this kernel cannot take, or that do not fit each other."""
        check_pair(self.operation, steps, answer, self.drop_top, unit=self.width)


def check_eps(operation: str, eps: float | int, smallest: float) -> None:
    """Refuse a ridge that is not a positive number, or below which the score is rounding."""
    check_positive(operation, "eps", eps)
    if eps < smallest:
        raise InputError(
            operation,
            expected=f"eps >= {smallest:g}",
            received=repr(eps),
            remedy="Below it the ridge eps * d_model drowns in the rounding of the kernel in float64, which the "
            "score then counts; the authors' scripts have 1e-5.",
        )


def kept_coordinates(answers: Tensor, drop_top: int) -> Int64[Tensor, "answer kept"]:
    """Coordinates of each of `answers [answer, d_model]` but the `drop_top` largest in magnitude, in order.

    >>> import torch
    >>> kept_coordinates(torch.tensor([[3.0, -9.0, 1.0, 3.0]]), 2).tolist()  # of equal ones the earlier goes first
    [[2, 3]]
    """
    order = answers.abs().sort(dim=-1, descending=True, stable=True).indices
    return order[:, drop_top:].sort(dim=-1).values

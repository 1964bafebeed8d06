"""Refusals shared by the estimators: what was expected, what came, and where."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

from probes.errors import InputError

__all__ = [
    "check_device",
    "check_drop_top",
    "check_finite",
    "check_fit",
    "check_interval",
    "check_max_bytes",
    "check_pair",
    "check_positive",
    "check_tensor",
    "check_whole",
    "is_number",
]

_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def check_pair(operation: str, steps: Tensor, answer: Tensor, drop_top: int, *, unit: float = 1.0) -> None:
    """Refuse steps `[*lead, step, d_model]` and an answer `[*lead, d_model]` that do not fit each other."""
    check_tensor(operation, "answer", answer, axes=("d_model",), unit=unit)
    check_tensor(operation, "steps", steps, axes=("step", "d_model"), unit=unit)
    check_fit(operation, steps, tuple(answer.shape[:-1]), answer.shape[-1])
    check_drop_top(operation, drop_top, answer.shape[-1])


def check_finite(operation: str, name: str, x: Tensor, remedy: str) -> None:
    """Refuse NaN and inf, with how many there are and where the first is."""
    if math.isfinite(_largest(x)):
        return
    bad = ~x.detach().isfinite()
    if bool(bad.any()):
        raise InputError(
            operation,
            expected=f"finite {name}",
            received=f"{int(x.isnan().sum())} NaN and {int(x.isinf().sum())} inf, first at {bad.nonzero()[0].tolist()}",
            remedy=remedy,
        )


def check_positive(operation: str, name: str, value: object) -> None:
    """Refuse what is not a finite number above 0."""
    if not (is_number(value) and math.isfinite(value) and value > 0):  # type: ignore[arg-type, operator]
        raise InputError(
            operation, expected=f"{name} > 0 and finite", received=repr(value), remedy=f"Give a positive {name}."
        )


def check_max_bytes(operation: str, max_bytes: int) -> None:
    """Refuse a working memory that is not a whole number of bytes."""
    check_positive(operation, "max_bytes", max_bytes)
    check_whole(operation, "max_bytes", max_bytes, 1, "Give bytes as an integer, 2**29 say.")


def check_interval(operation: str, level: float, draws: int) -> None:
    """Refuse a level and a number of bootstrap draws that give no interval."""
    if not (0 < level < 1 and draws >= 100):
        raise InputError(
            operation,
            expected="0 < level < 1 and at least 100 draws",
            received=f"level {level!r}, draws {draws!r}",
            remedy="Use level=0.95 and draws=1000.",
        )


def is_number(value: object) -> bool:
    """Whether it is a number, of numpy too; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_whole(operation: str, name: str, value: object, least: int, remedy: str) -> None:
    """Refuse all but whole numbers from `least` on; those of numpy are whole numbers too."""
    if not (isinstance(value, Integral) and not isinstance(value, bool)) or int(value) < least:
        raise InputError(operation, expected=f"{name} >= {least}, a whole number", received=repr(value), remedy=remedy)


def _largest(x: Tensor) -> float:
    """The largest magnitude, NaN where there is any; without a copy of `x`."""
    low, high = x.detach().aminmax()
    return max(float(high), -float(low)) if float(low) == float(low) else math.nan


def check_device(operation: str, steps: Tensor, answer: Tensor) -> None:
    if steps.device != answer.device:
        raise InputError(
            operation, expected=f"steps on {answer.device}", received=str(steps.device), remedy="Move one of them."
        )


def check_drop_top(operation: str, drop_top: int, d_model: int) -> None:
    if not (isinstance(drop_top, Integral) and not isinstance(drop_top, bool) and 0 <= drop_top <= d_model - 2):
        raise InputError(
            operation,
            expected=f"drop_top from 0 to {d_model - 2}, leaving at least 2 of {d_model} coordinates",
            received=repr(drop_top),
            remedy="Drop fewer coordinates.",
        )


def check_fit(operation: str, steps: Tensor, answer_lead: tuple[int, ...], d_model: int) -> None:
    if steps.shape[-1] != d_model:
        raise InputError(
            operation,
            expected=f"steps and answer of one d_model, answer has {d_model}",
            received=f"steps of shape {tuple(steps.shape)}",
            remedy="Take both from the same model; d_model is the last axis.",
        )
    try:
        np.broadcast_shapes(steps.shape[:-2], answer_lead)
    except ValueError:
        raise InputError(
            operation,
            expected=f"leading axes that broadcast with the answer's {answer_lead}",
            received=f"steps with leading axes {tuple(steps.shape[:-2])}",
            remedy="steps is [*lead, step, d_model], answer is [*lead, d_model]; insert axes of length 1.",
        ) from None


def check_tensor(operation: str, name: str, x: Tensor, *, axes: tuple[str, ...], unit: float = 1.0) -> None:
    """Refuse what is not a finite floating tensor of at least `axes`; `unit` is that of the kernel, where below 1."""
    layout = f"{name} of shape [*lead, {', '.join(axes)}]"
    if not isinstance(x, Tensor) or x.dtype not in _DTYPES:
        kind = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise InputError(
            operation,
            expected=f"{name} as a bfloat16, float16, float32 or float64 tensor",
            received=kind,
            remedy="Convert it with .float().",
        )
    if x.ndim < len(axes) or x.numel() == 0 or x.shape[-1] < 2:
        raise InputError(
            operation,
            expected=f"{layout}, not empty, with d_model >= 2",
            received=f"shape {tuple(x.shape)}",
            remedy="Check which axes were indexed away.",
        )
    largest = _largest(x)
    # Beyond this, squared distances overflow and the kernel would be silently wrong.
    if largest <= 1e150 * min(1.0, unit):
        return
    nans, infs = x.isnan(), x.isinf()
    bad = nans | infs
    if not bool(bad.any()):
        raise InputError(
            operation, expected=f"{name} below 1e150 * sigma", received=f"{largest:.3g}", remedy="Rescale the vectors."
        )
    where = dict(
        zip([f"axis {i}" for i in range(x.ndim - len(axes))] + list(axes), bad.nonzero()[0].tolist(), strict=True)
    )
    raise InputError(
        operation,
        expected=f"finite {name}",
        received=f"{int(nans.sum())} NaN and {int(infs.sum())} inf in {int(bad.any(dim=-1).sum())} of "
        f"{x[..., 0].numel()} vectors, first at " + ", ".join(f"{axis} {index}" for axis, index in where.items()),
        remedy="Run the model in float32 or bfloat16, or leave those steps out.",
    )

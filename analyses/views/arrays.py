"""What the views take: tensors, arrays and lists of numbers, made one thing and checked; the columns of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from interp.errors import InputError

if TYPE_CHECKING:
    import pandas

__all__ = ["columns_of", "finite_range", "is_text", "matrix", "one_each", "truths"]


def matrix(values: Any, operation: str) -> np.ndarray:
    """Numbers as float64 ``[series, step]``; one dimension is one series.

    >>> matrix([0.5, 1], "text").shape
    (1, 2)
    """
    try:
        plain = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
        array = np.atleast_2d(np.asarray(plain, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise _refused(operation, f"{type(values).__name__} ({error})") from error
    if array.ndim != 2:
        raise _refused(operation, f"shape {array.shape}")
    return array


def _refused(operation: str, received: str) -> InputError:
    return InputError(
        operation,
        expected="numbers as [step] or [layer, step]",
        received=received,
        remedy="Pass a tensor, an array or lists of equal length.",
    )


def columns_of(
    frame: pandas.DataFrame, names: Sequence[str], low: str | None, high: str | None, operation: str
) -> list[str]:
    """The names of the columns to draw, ends of intervals last; they are there, and so is a row, or it is an error.

    >>> import pandas
    >>> columns_of(pandas.DataFrame({"word": ["Wait"], "lift": [6.8], "n": [9]}), ("word", "lift"), None, None, "bars")
    ['word', 'lift']
    """
    wanted = [name for name in (*names, low, high) if name is not None]
    missing = [name for name in wanted if name not in frame.columns]
    if missing or frame.empty or (low is None) != (high is None):
        raise InputError(
            operation,
            expected=f"at least one row with {', '.join(wanted)}, and low and high together or not at all",
            received=f"no {', '.join(missing)}" if missing else f"{len(frame)} rows, low={low!r}, high={high!r}",
            remedy="Name columns of the frame.",
        )
    return wanted


def one_each(things: Sequence[Any], count: int, what: str, operation: str) -> list[Any]:
    """The things as a list, one for each of `count`; anything else is an `InputError`."""
    if len(things) != count:
        raise InputError(
            operation, expected=f"{count} {what}", received=str(len(things)), remedy="Pass those of the same response."
        )
    return list(things)


def is_text(things: Any) -> bool:
    """Whether these are tokens, one text each, and not numbers or truth values.

    >>> is_text(["So", " 7"]), is_text([True, False]), is_text(np.array([3, 7]))
    (True, False, False)
    """
    return not isinstance(things, Tensor | range | set | frozenset) and all(isinstance(one, str) for one in things)


def truths(marks: Any, shape: tuple[int, int], operation: str) -> np.ndarray:
    """Marks as booleans ``[series, step]``: given so, as booleans ``[step]``, or as the numbers of steps.

    >>> truths([1], (2, 3), "text").tolist()
    [[False, True, False], [False, True, False]]
    """
    plain = marks.detach().cpu().numpy() if isinstance(marks, Tensor) else marks
    array = np.asarray(list(plain) if isinstance(plain, set | frozenset | range) else plain)
    result = np.zeros(shape, dtype=bool)
    if array.dtype == bool and array.shape in (shape, shape[1:]):
        result[:] = array
    elif array.size == 0 and array.ndim == 1:
        pass
    elif np.issubdtype(array.dtype, np.integer) and array.ndim == 1 and (array >= 0).all() and (array < shape[1]).all():
        result[:, array] = True
    else:
        raise InputError(
            operation,
            expected=f"marks as steps from 0 to {shape[1] - 1}, or booleans of shape {shape} or {shape[1:]}",
            received=f"{array.dtype} of shape {array.shape}",
            remedy="Pass the steps or the is_peak of the same response.",
        )
    return result


def finite_range(values: np.ndarray) -> tuple[float, float] | None:
    """The smallest and the largest finite number; None if there is none.

    >>> finite_range(np.array([1.0, np.nan, 3.0]))
    (1.0, 3.0)
    """
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else None

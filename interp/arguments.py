"""What users hand in, made plain in one place: numbers, lists of numbers, token ids, prompts, vectors.

Every function here gives built-in values (``int``, ``float``, ``list``, CPU or GPU tensors) or refuses with one
``InputError`` that names the argument:

- a whole number may be an ``int``, a numpy integer or an integer tensor of one element; never a bool or a float,
- a list may be a tuple, range, generator, numpy array, 1-D tensor, pandas Series, or one value alone,
- a text is one value, never a list of characters; bytes, sets (no order) and mappings are no lists.

Public annotations use the aliases below: a type checker sees what is meant, and at run time it is the functions that
refuse, in words.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Annotated, Any, SupportsFloat, SupportsIndex, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError

__all__ = [
    "Judged",
    "Number",
    "Prompts",
    "Texts",
    "Whole",
    "Wholes",
    "as_list",
    "as_number",
    "as_prompts",
    "as_rows",
    "as_text",
    "as_token_id",
    "as_vector",
    "as_whole",
    "as_wholes",
    "is_one_prompt",
    "is_whole",
    "refused",
]

if TYPE_CHECKING:
    Whole: TypeAlias = SupportsIndex
    Number: TypeAlias = SupportsFloat
    Wholes: TypeAlias = SupportsIndex | Iterable[SupportsIndex]
    Texts: TypeAlias = Iterable[str]
    Prompts: TypeAlias = str | Iterable[Any] | Mapping[str, Any] | Tensor
    T = TypeVar("T")
    Judged = Annotated[T, "checked here, in words"]
else:
    Whole = Number = Wholes = Texts = Prompts = Any

    class Judged:
        """``Judged[ResidualSites]``: so says the annotation, and what else comes is refused by us, in words."""

        def __class_getitem__(cls, item: object) -> object:
            return Any


def refused(operation: str, expected: str, received: object, remedy: str) -> InputError:
    """The error for an argument, what came shortened to a line."""
    shown = received if isinstance(received, str) else _shown(received)
    return InputError(operation, expected=expected, received=shown, remedy=remedy)


def _shown(value: object) -> str:
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        kind = "tensor" if isinstance(value, Tensor) else "array"
        return f"a {kind} of {str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# Numbers


def is_whole(value: object) -> bool:
    """Whether this is one whole number, bools and floats not counted.

    >>> [is_whole(value) for value in (3, np.int64(3), torch.tensor(3), True, np.bool_(True), 3.0, "3")]
    [True, True, True, False, False, False, False]
    """
    if isinstance(value, Tensor):
        return value.numel() == 1 and not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    if isinstance(value, np.ndarray):
        return value.size == 1 and np.issubdtype(value.dtype, np.integer)
    return hasattr(type(value), "__index__") and not isinstance(value, bool | np.bool_)


def as_whole(
    value: object, operation: str, name: str, low: int | None = None, high: int | None = None, remedy: str = ""
) -> int:
    """A whole number within bounds, both included.

    >>> as_whole(np.int64(3), "decode", "max_new_tokens", 1)
    3
    >>> as_whole(True, "decode", "max_new_tokens", 1)
    Traceback (most recent call last):
    ...
    peaklens.InputError: decode: expected max_new_tokens at least 1, received True. Change max_new_tokens.
    """
    plain = _one(value) if is_whole(value) else None
    if plain is None or (low is not None and plain < low) or (high is not None and plain > high):
        raise refused(operation, _bounds(name, low, high), _shown(value), remedy or f"Change {name}.")
    return plain


def _one(value: Any) -> int:
    return int(value.reshape(-1)[0]) if isinstance(value, Tensor | np.ndarray) else operator.index(value)


def _bounds(name: str, low: int | None, high: int | None) -> str:
    if low is None and high is None:
        return f"{name} as a whole number"
    if high is None:
        return f"{name} at least {low}"
    return f"{name} at most {high}" if low is None else f"{name} from {low} to {high}"


def as_number(
    value: object, operation: str, name: str, low: float | int = -math.inf, high: float | int = math.inf, *,
    above: bool = False, finite: bool = True, expected: str = "", remedy: str = "",
) -> float:  # fmt: skip
    """A number within bounds, both included (``above``: the lower one not); never NaN, infinite only if allowed.

    >>> as_number(np.float32(0.5), "decode", "top_p", 0, 1), as_number(torch.tensor(2), "decode", "temperature")
    (0.5, 2.0)
    >>> as_number("0", "decode", "top_p", 0, 1, above=True)
    Traceback (most recent call last):
    ...
    peaklens.InputError: decode: expected top_p above 0 and at most 1, received '0'. Change top_p.
    """
    plain = _float(value)
    fits = plain is not None and low <= plain <= high and not (above and plain == low)
    if plain is None or not fits or (finite and math.isinf(plain)):
        wanted = expected or _span(low, high, above)
        raise refused(operation, f"{name} {wanted}", _shown(value), remedy or f"Change {name}.")
    return plain


def _span(low: float | int, high: float | int, above: bool) -> str:
    if math.isinf(low) and math.isinf(high):
        return "a finite number"
    if above:
        return f"above {low:g}" + ("" if math.isinf(high) else f" and at most {high:g}")
    return f"{low:g} or more" if math.isinf(high) else f"from {low:g} to {high:g}"


def _float(value: Any) -> float | None:
    if isinstance(value, Tensor | np.ndarray):
        if math.prod(value.shape) != 1 or str(value.dtype).removeprefix("torch.") == "bool":
            return None
        value = value.reshape(-1)[0].item()
    if isinstance(value, bool | np.bool_ | str | bytes) or not hasattr(type(value), "__float__"):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


# Lists


def as_list(values: Any, operation: str, name: str, what: str) -> list[Any]:
    """A list of things that have an order; a text alone is one thing.

    >>> as_list("Wait", "suppress", "words", "words"), as_list((word for word in ["So", "Hm"]), "x", "words", "words")
    (['Wait'], ['So', 'Hm'])
    """
    if isinstance(values, str):
        return [values]
    unordered = isinstance(values, bytes | bytearray | Mapping | Set | type) or hasattr(values, "columns")
    if unordered or not isinstance(values, Iterable) or (isinstance(values, Tensor | np.ndarray) and values.ndim == 0):
        raise refused(operation, f"{name} as a list of {what}", values, "Put them into a list.")
    return list(values)


def as_wholes(values: Any, operation: str, name: str, low: int | None = None, high: int | None = None) -> list[int]:
    """Whole numbers from one or several; all within bounds.

    >>> as_wholes(3, "choose", "layers"), as_wholes(range(2), "x", "y"), as_wholes(torch.tensor([4, 5]), "x", "y")
    ([3], [0, 1], [4, 5])
    """
    if is_whole(values) and getattr(values, "ndim", 0) < 2:
        found = [_one(values)]
    else:
        if isinstance(values, Tensor | np.ndarray):
            listed = values.tolist() if values.ndim == 1 else None
        elif isinstance(values, Set):  # numbers are told apart by themselves, whatever their order
            listed = sorted(values) if all(map(is_whole, values)) else None
        else:
            listed = None if isinstance(values, str) else as_list(values, operation, name, "whole numbers")
        if listed is None or not all(map(is_whole, listed)):
            wrong = values if listed is None else next(value for value in listed if not is_whole(value))
            raise refused(operation, f"{name} as whole numbers", wrong, "Pass a list of int.")
        found = [_one(value) for value in listed]
    outside = [value for value in found if (low is not None and value < low) or (high is not None and value > high)]
    if outside:
        raise refused(operation, _bounds(name, low, high), f"{outside[:5]}", f"Change {name}.")
    return found


def as_rows(rows: Any, operation: str) -> tuple[int, ...] | None:
    """Places in the list of prompts, from one or several; ``None`` is all of them."""
    return None if rows is None else tuple(as_wholes(rows, operation, "rows"))


def as_text(value: object, operation: str, name: str, choices: Sequence[str] = ()) -> str:
    """A text, one of the choices if there are some."""
    if not isinstance(value, str) or (choices and value not in choices):
        listed = " or ".join(f'"{choice}"' for choice in choices) or "a text"
        raise refused(operation, f"{name} {listed}", _shown(value), "Choose one." if choices else f"Change {name}.")
    return str(value)


def as_token_id(value: object, operation: str, name: str = "token_id") -> int:
    """One token id; texts are refused, since only a tokenizer knows what they are."""
    return as_whole(value, operation, f"{name} as a token id", 0, remedy="thinking_token_ids(model, [word]) gives ids.")


def as_vector(values: Any, operation: str, name: str) -> Tensor:
    """One vector, from a 1-D tensor, array or list of numbers; its precision is kept, lists become float64.

    >>> as_vector([1, 0.5], "steer", "direction")
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    vector: Tensor | None = None
    if isinstance(values, Tensor):
        vector = values.detach()
    elif isinstance(values, np.ndarray | list | tuple) or hasattr(values, "to_numpy"):
        try:
            vector = torch.from_numpy(np.array(values, dtype=getattr(values, "dtype", np.float64)))
        except (TypeError, ValueError):
            vector = None
    if vector is not None and vector.dtype in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8):
        vector = vector.double()
    if vector is None or vector.ndim != 1 or not vector.is_floating_point():
        raise refused(operation, f"{name} as one vector of numbers", values, "Pass a 1-D tensor.")
    return vector


# Prompts


def as_prompts(prompts: Any, operation: str = "decode") -> list[Any]:
    """A list of prompts, each a text, a list of chat messages or token ids, from any of the forms users pass.

    >>> as_prompts("6 A ? ->"), as_prompts([5, 6]), as_prompts([{"role": "user", "content": "Hi"}])
    (['6 A ? ->'], [[5, 6]], [[{'role': 'user', 'content': 'Hi'}]])
    >>> as_prompts(torch.tensor([[5, 6], [7, 8]])), as_prompts([])
    ([[5, 6], [7, 8]], [])

    One text, one chat and one list of ids are one prompt. A 2-D tensor or array is a prompt a row; what a tokenizer
    returns (``input_ids`` and perhaps ``attention_mask``) is too, without what the mask hides.
    """
    if isinstance(prompts, Mapping) and "input_ids" in prompts:
        return _tokenized(prompts, operation)
    if isinstance(prompts, Mapping) and "role" in prompts:
        return [[dict(prompts)]]
    if isinstance(prompts, Tensor | np.ndarray) and not _are_texts(prompts):
        return _id_rows(prompts, operation)
    listed = as_list(prompts, operation, "prompts", "prompts (one string is one prompt)")
    if listed and all(isinstance(part, Mapping) for part in listed):
        return [[dict(part) for part in listed]]
    if listed and all(map(is_whole, listed)):
        return [[_one(part) for part in listed]]
    return [_prompt(part) for part in listed]


def is_one_prompt(prompts: Any) -> bool:
    """Whether this is one prompt alone (a text, a chat, a list of ids), not a list of them.

    >>> [is_one_prompt(given) for given in ("6 A", [5, 6], torch.tensor([5]), [{"role": "user"}])]
    [True, True, True, True]
    >>> [is_one_prompt(given) for given in (["6 A"], [[5, 6]], torch.tensor([[5]]), [])]
    [False, False, False, False]
    """
    if isinstance(prompts, Mapping):
        return is_one_prompt(prompts["input_ids"]) if "input_ids" in prompts else True
    if isinstance(prompts, Tensor | np.ndarray):
        return prompts.ndim == 1 and not _are_texts(prompts)
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        return isinstance(prompts, str)
    return len(prompts) > 0 and (all(map(is_whole, prompts)) or all(isinstance(part, Mapping) for part in prompts))


def _prompt(part: Any) -> Any:
    """One prompt of several; numpy arrays and other sequences of ids become lists, the rest is judged when encoded."""
    if isinstance(part, Mapping) and "role" in part:
        return [dict(part)]
    if isinstance(part, np.ndarray) and part.ndim == 1:
        return part.tolist()
    if isinstance(part, str | bytes | Tensor | Mapping) or not isinstance(part, Iterable):
        return part
    listed = list(part)
    return [_one(token) if is_whole(token) else token for token in listed]


def _are_texts(array: Tensor | np.ndarray) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in "OUT" and array.ndim == 1


def _id_rows(ids: Tensor | np.ndarray, operation: str) -> list[Any]:
    kind = str(ids.dtype).removeprefix("torch.")
    if ids.ndim not in (1, 2) or not kind.startswith(("int", "uint")):
        raise refused(operation, "token ids as integers, [pos] or [prompt, pos]", ids, "Pass a list of prompts.")
    rows: list[Any] = ids.tolist()
    return [rows] if ids.ndim == 1 else rows


def _tokenized(encoded: Mapping[str, Any], operation: str) -> list[Any]:
    """The rows of a tokenizer's output, without padding."""
    rows, mask = as_prompts(encoded["input_ids"], operation), encoded.get("attention_mask")
    if mask is None:
        return rows
    seen = as_prompts(mask, operation)
    if [len(row) for row in rows] != [len(row) for row in seen]:
        raise refused(operation, "an attention_mask of the shape of input_ids", mask, "Pass the tokenizer's output.")
    return [
        [i for i, real in zip(row, real_row, strict=True) if real] for row, real_row in zip(rows, seen, strict=True)
    ]

"""Code that numba (the extra `fast`) compiles: where it is there and may, and how it is done."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import cache, partial, wraps
from importlib import import_module
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

__all__ = ["compiled", "compiled_exactly", "compiled_within", "kernels"]

# Sums in any order, and a product with the sum after it as one: but NaN and inf are what they are.
_ROUNDING = frozenset({"reassoc", "contract", "nsz"})


@cache
def kernels(module: str = "compiled") -> ModuleType | None:
    """A module of compiled code, where numba is there and may compile (``NUMBA_DISABLE_JIT=1`` forbids it); else None.

    >>> found = kernels()
    >>> found is None or "grams" in found.__all__
    True
    """
    try:
        import numba

        return None if numba.config.DISABLE_JIT else import_module(f"probes.{module}")
    except ImportError:
        return None


def compiled(
    function: Callable[..., Any], *, within: bool = False, fastmath: frozenset[str] = _ROUNDING
) -> Callable[..., Any]:
    """A function as compiled code, that holds no lock of the interpreter.

    What is called `within` others becomes a part of each of them. Left to stand alone it would be compiled with every
    caller, and which of these, that round differently, is then called hangs on whether all came from the disk.

    What is compiled is kept on the disk for other processes, where that can be, until the function's own file changes:
    who changes others that it is made of, this one too, clears what is kept (`__pycache__`).
    """
    import numba

    function = inspect.unwrap(function)  # what checks types while tests run cannot be compiled
    options = {"nogil": True, "fastmath": set(fastmath), "error_model": "numpy", "forceinline": within}
    if within:
        return numba.njit(**options)(function)
    try:
        made = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither beside this file nor at home a folder to keep it in
        return numba.njit(**options)(function)

    @wraps(function)
    def call(*arguments: Any) -> None:
        nonlocal made
        try:
            made(*arguments)
        except (OSError, EOFError, UnpicklingError) as error:  # the code knows none: they are of the disk
            told = (
                f"compiled code cannot be kept or read ({error}): every process will compile it, some seconds each time"
            )
            warnings.warn(told, RuntimeWarning, stacklevel=2)
            made = numba.njit(**options)(function)
            made(*arguments)

    return call


compiled_within = partial(compiled, within=True)
#: As it is written, to the last bit.
compiled_exactly = partial(compiled, fastmath=frozenset())

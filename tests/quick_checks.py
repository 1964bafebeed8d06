"""The same checks of types in less time: what has no array in its annotations is checked by beartype alone.

``--jaxtyping-packages`` wraps every function in `jaxtyping.jaxtyped`, which binds arguments, keeps a memo of shapes and
calls two checkers for each call. That is needed where an annotation names a shape. Elsewhere beartype, given the same
annotations, refuses the same values ten times as fast. `install` has to come before anything checked is imported.

Of a function whose annotations do name a shape, in each test the first `FIRST` calls are checked and every `EVERY`-th
after them: a loop gives it the same types a thousand times. `begin_test` counts anew.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from jaxtyping import AbstractArray, _decorator

__all__ = ["EVERY", "FIRST", "begin_test", "install"]

FIRST, EVERY = 16, 50

_jaxtyped = _decorator.jaxtyped
# By the number of the code, which is kept: codes of different functions may be equal.
_plain: dict[int, tuple[types.CodeType, dict[str, Any] | None]] = {}
_made: dict[int, types.FunctionType] = {}
_FUNCTION = "__beartype_func"  # by which keyword beartype's wrapper has the function it calls
_test = [0]


def install() -> None:
    """Have `jaxtyping.jaxtyped` leave to beartype what needs no memo of shapes."""
    jaxtyping.jaxtyped = _decorator.jaxtyped = jaxtyped


def begin_test() -> None:
    """What is called from now on counts as never called."""
    _test[0] += 1


def jaxtyped(fn: Any = None, *, typechecker: Any = None) -> Any:
    if fn is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if isinstance(fn, types.FunctionType) and typechecker is not None:
        hints = _hints(fn)
        if hints is not None:
            return _checked(fn, hints, typechecker) if hints else fn
        if not inspect.isgeneratorfunction(fn):
            return _sampled(fn, _jaxtyped(fn, typechecker=typechecker))
    return _jaxtyped(fn, typechecker=typechecker)


def _sampled(fn: types.FunctionType, checked: Callable[..., Any]) -> Callable[..., Any]:
    """Checked at first, then now and then."""
    test = calls = 0

    @functools.wraps(checked)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal test, calls
        if test != _test[0]:
            test, calls = _test[0], 0
        calls += 1
        return (checked if calls <= FIRST or calls % EVERY == 0 else fn)(*args, **kwargs)

    return call


def _hints(fn: types.FunctionType) -> dict[str, Any] | None:
    """What the annotations say, as `jaxtyped` reads them; None where one of them is of an array."""
    code = fn.__code__
    if id(code) not in _plain:
        hints = {name: _decorator._destring_annotation(a, fn.__globals__) for name, a in fn.__annotations__.items()}
        arrays = inspect.isgeneratorfunction(fn) or any(map(_has_array, hints.values()))
        _plain[id(code)] = code, None if arrays else hints
    return _plain[id(code)][1]


def _has_array(hint: Any) -> bool:
    if isinstance(hint, list):  # the arguments of a Callable
        return any(map(_has_array, hint))
    return (inspect.isclass(hint) and issubclass(hint, AbstractArray)) or any(map(_has_array, get_args(hint)))


def _checked(fn: types.FunctionType, hints: dict[str, Any], typechecker: Callable[..., Any]) -> Any:
    made = _made.get(id(fn.__code__))
    if made is None:
        made = typechecker(_copy(fn, fn.__code__, fn.__globals__, fn.__kwdefaults__, hints))
        if _FUNCTION in (made.__kwdefaults__ or {}):
            _made[id(fn.__code__)] = made
        return made
    # A function within another is defined anew with every call of that: its check is the same, what it checks is not.
    return _copy(fn, made.__code__, made.__globals__, {**made.__kwdefaults__, _FUNCTION: fn}, hints)


def _copy(
    fn: types.FunctionType, code: types.CodeType, names: dict[str, Any], keywords: dict[str, Any] | None, hints: Any
) -> types.FunctionType:
    own = code is fn.__code__
    copy = types.FunctionType(
        code, names, fn.__name__, fn.__defaults__ if own else None, fn.__closure__ if own else None
    )
    functools.update_wrapper(copy, fn)
    if own:
        del copy.__wrapped__
    copy.__kwdefaults__ = keywords
    copy.__annotations__ = hints
    return copy

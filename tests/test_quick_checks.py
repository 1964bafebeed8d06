"""Tests run with types checked: what is given or returned of another type is refused, arrays by their shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintParamViolation, BeartypeCallHintReturnViolation
from jaxtyping import Float
from quick_checks import EVERY, FIRST, _jaxtyped, begin_test, jaxtyped
from torch import Tensor

checked = jaxtyped(typechecker=beartype)


def test_it_is_what_checks_the_packages() -> None:
    from analyses.toys.facts import fact
    from probes import tukey_peaks

    assert jaxtyping.jaxtyped is jaxtyped is not _jaxtyped
    assert fact(2, "+", 3).right == 5
    with pytest.raises(BeartypeCallHintParamViolation):
        fact("2", "+", 3)
    with pytest.raises(jaxtyping.TypeCheckError):
        tukey_peaks([1.0, 2.0])


def adder(k: Any) -> Callable[..., int]:
    @checked
    def add(x: int, *, y: int = 0) -> int:
        """Adds."""
        return x + y + k

    return add


def test_functions_within_functions_are_checked_each_for_itself() -> None:
    first, second, broken = adder(1), adder(10), adder(0.5)
    assert (first(1), second(1, y=5), first(2)) == (2, 16, 3)
    assert (second.__name__, second.__doc__) == ("add", "Adds.")
    for add in (first, second, broken):
        with pytest.raises(BeartypeCallHintParamViolation):
            add("1")
        with pytest.raises(BeartypeCallHintParamViolation):
            add(1, y=None)
    with pytest.raises(BeartypeCallHintReturnViolation):
        broken(1)


@checked
def product(x: Float[Tensor, "a b"], y: Float[Tensor, "b"]) -> Float[Tensor, "a"]:
    return x @ y if y.sum() else y


@checked
def many(parts: list[Float[Tensor, "a"]]) -> None:
    """Shapes within a list."""


def test_shapes_are_checked_wherever_they_are_named() -> None:
    assert product(torch.ones(2, 3), torch.ones(3)).tolist() == [3, 3]
    for call in (
        lambda: product(torch.ones(2, 3), torch.ones(2)),
        lambda: product(torch.ones(2, 3), torch.zeros(3)),
        lambda: many([torch.ones(2, 2)]),
    ):
        with pytest.raises(jaxtyping.TypeCheckError):
            call()


@checked
def first(x: Float[Tensor, "a"]) -> float:
    return float(x.reshape(-1)[0])


def test_what_is_called_often_is_checked_at_first_and_then_now_and_then() -> None:
    def refused() -> bool:
        try:
            return first(torch.ones(1, 1)) != 1
        except jaxtyping.TypeCheckError:
            return True

    calls = [refused() for _ in range(FIRST + 5 * EVERY)]
    assert all(calls[:FIRST])
    assert sum(calls[FIRST:]) == 5
    assert not refused()
    begin_test()
    assert refused()
    assert (first.__name__, first(torch.ones(3))) == ("first", 1.0)

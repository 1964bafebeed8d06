"""How an engine is timed: prompts of one length, a clock at the first token, contenders that take turns, spreads.

Within a call the clock is read when the first token is there: before it is the prompt, after it decoding.
End-of-sequence ids are taken away for the while, and every result is checked to have all its tokens.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor

from analyses.bench.clock import Clock
from interp.errors import InputError
from interp.types import Bridge

__all__ = [
    "PLAIN",
    "Clock",
    "Contender",
    "Generate",
    "Spread",
    "Timings",
    "bench_prompts",
    "check_counts",
    "endless",
    "ratios",
    "spread",
]

PLAIN = "-"  # no recording
_STRIDE = 7  # tokens between the beginnings of two prompts
_ENGLISH = """A farmer keeps three kinds of animals: hens, goats and sheep. Every morning she collects the eggs,
milks the goats and counts the sheep before she opens the gate. On Monday there were forty-two eggs in the baskets,
which is six more than on the day before, and she sold two thirds of them at the market in the village for thirty
cents each. The goats gave nine litres of milk; half of it became cheese, a litre went to her neighbour, and the rest
was sold as well. In the evening her daughter asked how much money they had earned, and how long it would take until
they could buy a new fence for the meadow behind the house. The fence is eighty metres long and costs four euros and
fifty cents a metre. Her brother said that they should first think about what they spend in a week on hay and on
water, since otherwise the answer would be too good to be true. So they sat down at the kitchen table, took a sheet of
paper and began to work it out step by step."""


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of ``n`` measurements.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, min=1.0, max=3.0, n=3)
    """

    median: float
    min: float
    max: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Sum up measurements, one at least.

    >>> spread([4.0, 1.0]).median
    2.5
    """
    return Spread(statistics.median(values), min(values), max(values), len(values))


def bench_prompts(model: Bridge, batch: int, length: int) -> Int[Tensor, "batch pos"]:
    """Different prompts of one length: windows on a text, arithmetic for the bundled toys and English for the rest.

    >>> from interp import load_model
    >>> bench_prompts(load_model("toy-reasoner"), 4, 20).shape
    torch.Size([4, 20])
    """
    from interp.loading.models import BUNDLED, model_source
    from interp.prompts import encode_text

    text = _ENGLISH
    if model_source(model).name in BUNDLED:
        from analyses.toys.task import bundled_problems

        text = " ".join(f"{problem['question']} {problem['solution']}" for problem in bundled_problems(8))
    ids = torch.tensor(encode_text(model.tokenizer, text, "bench"))
    # A long prompt goes round the text again.
    places = _STRIDE * torch.arange(batch)[:, None] + torch.arange(length)
    return ids[places % len(ids)]


Generate: TypeAlias = Callable[[Tensor, int, Clock], Tensor]


@dataclass(frozen=True)
class Contender:
    """One way to continue prompts ``[batch, pos]`` by some tokens, which it returns, ``[batch, step]``."""

    engine: str
    recording: str
    generate: Generate


@dataclass
class Timings:
    """What was measured of one contender on one batch."""

    first: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    tokens: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))

    def take(self, contender: Contender, prompts: Int[Tensor, "batch pos"], new_tokens: int) -> None:
        clock = Clock()
        # Tokens on the CPU are tokens that were waited for, whatever the device.
        tokens = contender.generate(prompts, new_tokens, clock).cpu()
        end = time.perf_counter()
        if tokens.shape != (len(prompts), new_tokens):
            raise InputError(
                "bench",
                expected=f"{len(prompts)} x {new_tokens} tokens from {contender.engine}",
                received=" x ".join(map(str, tokens.shape)),
                remedy="It stopped early: use a model whose end-of-sequence ids stand in its generation config.",
            )
        assert clock.first > clock.start
        self.tokens = tokens
        self.first.append(clock.first - clock.start)
        self.decode.append(end - clock.first)


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Turn by turn."""
    return [a / b for a, b in zip(above, below, strict=True)]


@contextmanager
def endless(model: Bridge) -> Iterator[None]:
    """Take away the ids that end a text."""
    config = model.original_model.generation_config
    before = config.eos_token_id
    config.eos_token_id = -1  # None would make ``decode`` look for them in the model's config
    try:
        yield
    finally:
        config.eos_token_id = before


def check_counts(model: Bridge, **counts: tuple[int, int]) -> None:
    """Refuse numbers below their least, and a model without a tokenizer.

    >>> from interp import load_model
    >>> check_counts(load_model("toy-reasoner"), repeats=(3, 1))
    """
    for name, (value, least) in counts.items():
        if value < least:
            raise InputError(
                "bench", expected=f"{name} of at least {least}", received=str(value), remedy=f"Raise {name}."
            )
    if model.tokenizer is None:
        raise InputError(
            "bench", expected="a model with a tokenizer", received="none", remedy="Save one in its folder."
        )

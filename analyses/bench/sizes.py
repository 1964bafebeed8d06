"""How much is measured: quick in a quarter of an hour, full, or just enough to see that everything runs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALL_PARTS", "FULL", "QUICK", "QUICK_PARTS", "SMOKE", "Size"]

QUICK_PARTS = ("decoding", "reading", "scaling", "nhsic", "profile", "rows", "reruns", "commands")
ALL_PARTS = (*QUICK_PARTS, "engines", "interventions", "attribution")
# Up to which texts (tokens), and widths (nHSIC), are measured in every turn, and in all but one; others in all but two.
_LONG, _WIDE = (2048, 6144), (2048, 2048)


@dataclass(frozen=True)
class Size:
    """How much is measured.

    >>> QUICK.turns(3)
    {1024: 3, 4096: 2, 8000: 1}
    """

    parts: tuple[str, ...]
    repeats: int
    # decoding and reading beside each other
    batches: tuple[int, ...]
    new_tokens: int
    prompt_tokens: int
    read: tuple[int, ...]  # tokens of texts
    square: int  # tokens of the longest text that eager attention reads
    # growth
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    problems: tuple[int, ...]
    traced_tokens: int
    # nHSIC
    dims: tuple[int, ...]
    n_steps: int
    inner: int  # repeats inside one timing, of which it takes the median
    # places that are taken again
    taking_turns: tuple[int, int, tuple[int, ...]]  # problems, tokens of the shortest response, places
    rows_fewer: int  # turns less than of the rest
    # commands
    helps: int
    traces: int
    # interventions
    edited_tokens: int  # response tokens while interventions are on
    edited_prompt_tokens: int
    circles: int  # turns of each rerun within a decode
    # attribution
    attributed: tuple[int, ...]  # response tokens of which shares are told
    growing: tuple[int, ...]  # steps, positions, components asked about

    def turns(self, repeats: int) -> dict[int, int]:
        """How often a text of each length is read: long ones less often."""
        return {length: _fewer(length, _LONG, repeats) for length in self.read}

    def nhsic_turns(self, repeats: int) -> dict[int, int]:
        """How often each width is measured: the dense formula takes half a minute at the widest.

        >>> QUICK.nhsic_turns(3)
        {576: 3, 2048: 3, 4096: 1}
        """
        return {width: _fewer(width, _WIDE, repeats) for width in self.dims}


def _fewer(size: int, limits: tuple[int, int], repeats: int) -> int:
    return max(1, repeats - sum(size > limit for limit in limits))


QUICK = Size(
    parts=QUICK_PARTS, repeats=3,
    batches=(1, 4, 16), new_tokens=16, prompt_tokens=60, read=(1024, 4096, 8000), square=1024,
    layers=(4, 8, 16), widths=(128, 256, 512), problems=(8, 16, 32), traced_tokens=160,
    dims=(576, 2048, 4096), n_steps=32, inner=3, taking_turns=(64, 20, (16,)), rows_fewer=1, helps=10, traces=2,
    edited_tokens=16, edited_prompt_tokens=24, circles=6, attributed=(128,), growing=(1, 4, 16),
)  # fmt: skip
FULL = Size(
    parts=ALL_PARTS, repeats=5,
    batches=(1, 4, 16), new_tokens=64, prompt_tokens=60, read=(1024, 4096, 8000, 16000), square=4096,
    layers=(4, 8, 16, 32), widths=(128, 256, 512, 1024), problems=(8, 16, 32, 64), traced_tokens=160,
    dims=(576, 2048, 4096), n_steps=64, inner=3, taking_turns=(64, 20, (8, 16)), rows_fewer=2, helps=20, traces=3,
    edited_tokens=16, edited_prompt_tokens=24, circles=6, attributed=(128, 512), growing=(1, 4, 16),
)  # fmt: skip
SMOKE = Size(
    parts=ALL_PARTS, repeats=1,
    batches=(1, 2), new_tokens=4, prompt_tokens=60, read=(24, 48), square=24,
    layers=(1, 2), widths=(32,), problems=(1,), traced_tokens=4,
    dims=(64,), n_steps=8, inner=1, taking_turns=(8, 2, (2,)), rows_fewer=0, helps=1, traces=0,
    edited_tokens=6, edited_prompt_tokens=60, circles=1, attributed=(24,), growing=(1, 2),
)  # fmt: skip

"""The parts of the bench by name: what each measures of a loaded model, as rows of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from analyses.bench.sizes import ALL_PARTS, Size
from analyses.bench.timing import Spread, spread
from interp.types import Bridge

__all__ = ["PARTS", "Asked", "plain"]

# Times the steps of the nHSIC part: while a model decodes, many layers are scored at once.
_LIKE_DECODING = 8

Show = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Asked:
    """What a part is given; ``nnsight`` is an interpreter that has it."""

    model: Bridge
    size: Size
    repeats: int
    nnsight: str | None


def _decoding(asked: Asked, show: Show) -> dict[str, Any]:
    from analyses.bench.beside import bench_decoders

    size = asked.size
    rows = bench_decoders(
        asked.model, batches=size.batches, new_tokens=size.new_tokens, prompt_tokens=size.prompt_tokens,
        repeats=asked.repeats, nnsight=asked.nnsight, on_run=show,
    )  # fmt: skip
    return {"decoding": rows}


def _reading(asked: Asked, show: Show) -> dict[str, Any]:
    from analyses.bench.beside import bench_readers

    rows = bench_readers(
        asked.model, turns=asked.size.turns(asked.repeats), square=asked.size.square, nnsight=asked.nnsight, on_run=show
    )
    return {"reading": rows}


def _scaling(asked: Asked, show: Show) -> dict[str, Any]:
    from analyses.bench.scaling import bench_scaling
    from interp.loading.models import load_model

    size = asked.size
    rows = bench_scaling(
        load_model("toy-reasoner"), layers=size.layers, widths=size.widths, problems=size.problems,
        traced_tokens=size.traced_tokens, repeats=asked.repeats, on_run=show,
    )  # fmt: skip
    return {"scaling": rows}


def _nhsic(asked: Asked, show: Show) -> dict[str, Any]:
    """``bench_nhsic`` over and over, the widths taking turns: its timings as spreads, its other numbers as they are."""
    from analyses.bench.nhsic import bench_nhsic

    size = asked.size
    turns = size.nhsic_turns(asked.repeats)
    order = [width for turn in range(asked.repeats) for width, count in turns.items() if turn < count]
    runs: dict[int, list[dict[str, int | float]]] = {}
    for place, width in enumerate(order):
        show(place, len(order), f"nHSIC at {width}")
        runs.setdefault(width, []).extend(bench_nhsic(dims=(width,), n_steps=size.n_steps, repeats=size.inner))
    timed = (
        "dense_ms_per_step", "nhsic_ms_per_step", "ratio", "null_passes", "median_passes", "median_passes_same_width",
        "one_step", "few_steps", "two_threads",
    )  # fmt: skip
    return {
        "nhsic": [
            {**rows[0], **{name: spread([row[name] for row in rows]) for name in timed}} for rows in runs.values()
        ]
    }


def _profile(asked: Asked, show: Show) -> dict[str, Any]:
    from analyses.bench.profile import bench_profile

    size, rows = asked.size, []
    for place, width in enumerate(size.dims):
        show(place, len(size.dims), f"where nHSIC's time goes at {width}")
        rows += bench_profile((width,), n_steps=_LIKE_DECODING * size.n_steps, repeats=size.inner)
    return {"profile": rows}


def _rows(asked: Asked, show: Show) -> dict[str, Any]:
    from analyses.bench.rows import bench_rows

    problems, unit, batches = asked.size.taking_turns
    repeats = max(1, asked.repeats - asked.size.rows_fewer)
    return {"rows": bench_rows(asked.model, problems, unit, batches, repeats=repeats, on_run=show)}


def _reruns(asked: Asked, show: Show) -> dict[str, Any]:
    from analyses.bench.reruns import ONE, circle, rerun_rows
    from analyses.bench.timing import bench_prompts, endless
    from analyses.bench.variants import recycled_block

    n_layers = asked.model.cfg.n_layers
    which = [(recycled_block(n_layers), ONE)]
    prompts = bench_prompts(asked.model, ONE, asked.size.edited_prompt_tokens)
    circled = []
    with endless(asked.model):
        circle(asked.model, prompts, which, 1)  # the first calls also pay for memory and libraries
        for turn in range(asked.repeats):
            show(turn, asked.repeats, "a position run again")
            circled.append(circle(asked.model, prompts, which, asked.size.circles))
    return {"reruns": rerun_rows({ONE: which}, {ONE: circled}, n_layers)}


def _commands(asked: Asked, show: Show) -> dict[str, Any]:
    from analyses.bench.commands import BARE, HELP, IMPORTS, TRACE, bench_commands

    counts = ((HELP, asked.size.helps), *((program, asked.size.traces) for program in (IMPORTS, BARE, TRACE)))
    return {"commands": bench_commands([one for one in counts if one[1]], on_run=show)}


def _engines(asked: Asked, show: Show) -> dict[str, Any]:
    from analyses.bench.decoding import bench_decoding

    size = asked.size
    rows = bench_decoding(
        asked.model, batches=size.batches, new_tokens=size.new_tokens, prompt_tokens=size.prompt_tokens,
        repeats=asked.repeats, on_run=show,
    )  # fmt: skip
    return {"engines": rows}


def _interventions(asked: Asked, show: Show) -> dict[str, Any]:
    from analyses.bench.interventions import bench_interventions

    size = asked.size
    tables = bench_interventions(
        asked.model, new_tokens=size.edited_tokens, prompt_tokens=size.edited_prompt_tokens, circles=size.circles,
        repeats=asked.repeats, on_run=show,
    )  # fmt: skip
    return {"interventions": tables}


def _attribution(asked: Asked, show: Show) -> dict[str, Any]:
    from analyses.bench.attribution import bench_attribution
    from analyses.bench.growth import bench_growth

    size = asked.size
    rows = bench_attribution(asked.model, lengths=size.attributed, repeats=asked.repeats, on_run=show)
    growth = bench_growth(
        asked.model, length=min(size.attributed), counts=size.growing, repeats=asked.repeats, on_run=show
    )
    return {"attribution": rows, "growth": growth}


PARTS: dict[str, Callable[[Asked, Show], dict[str, Any]]] = {
    "decoding": _decoding,
    "reading": _reading,
    "scaling": _scaling,
    "nhsic": _nhsic,
    "profile": _profile,
    "rows": _rows,
    "reruns": _reruns,
    "commands": _commands,
    "engines": _engines,
    "interventions": _interventions,
    "attribution": _attribution,
}
"""What each part adds to the result."""

assert tuple(PARTS) == ALL_PARTS


def plain(value: Any) -> Any:
    """With spreads as dictionaries, and nothing where a number is not defined.

    >>> plain({"seconds": Spread(1.0, 0.5, 2.0, 3), "exponent": math.nan})
    {'seconds': {'median': 1.0, 'min': 0.5, 'max': 2.0, 'n': 3}, 'exponent': None}
    """
    if isinstance(value, Spread):
        value = asdict(value)
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value

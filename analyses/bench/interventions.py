"""What interventions cost: a position run again, each ready-made intervention when on, and whether batches still pay.

1. *Running again.* Within one decode the steps take turns: a plain one, then one a layer at which all rows run again,
   and so on in a circle, so that a machine that slows down slows all of them. Extra time is that of a step with a rerun
   less that of the plain step of the same circle. Residuals are read at every layer concerned in all of the steps.
2. *The target* for block `inject` of `n_layers`, as a share of a plain step of the rows that run again:
   ``((n_layers - inject) / n_layers * blocks + unembedding) / plain + 0.15``, where `blocks` is the time from the first
   block's start to the last one's end and `unembedding` that from the final norm's start to the unembedding's end, both
   clocked within plain steps.
3. *Interventions on*, acting as it occurs: whole decodes of equal length, each right before or after a plain one that
   it is compared with (A plain B, C plain D, ...). Where an end is needed (``ContinueThinking``, ``BudgetForcing``), it
   is a token that the model says often, so that something happens.
4. *Batches*: a decode of one row, then one of 16.

Wall-clock time, with the threads torch is set to use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from analyses.bench.conditions import Condition, conditions_of
from analyses.bench.reruns import MANY, ONE, SIXTEEN, Circle, circle, rerun_rows, reruns_of
from analyses.bench.timing import Timings, bench_prompts, check_counts, endless, ratios, spread
from interp.types import Bridge

__all__ = ["bench_interventions"]

OnRun = Callable[[int, int, str], None]


@torch.no_grad()
def bench_interventions(
    model: Bridge,
    *,
    new_tokens: int = 16,
    prompt_tokens: int = 24,
    circles: int = 6,
    repeats: int = 3,
    on_run: OnRun = lambda done, total, what: None,
) -> dict[str, list[dict[str, Any]]]:
    """Rows of the three tables ``reruns``, ``overheads`` and ``batches``.

    >>> from interp import load_model
    >>> tables = bench_interventions(load_model("toy-reasoner"), new_tokens=3, prompt_tokens=8, circles=1, repeats=1)
    >>> [(row["batch"], row["rows"], row["inject"]) for row in tables["reruns"]][:3]
    [(1, 1, 0), (1, 1, 1), (1, 1, 2)]

    Args:
        model: with a tokenizer.
        new_tokens: tokens every row is continued by for overheads and batches, at least 2.
        prompt_tokens: length of every prompt.
        circles: for reruns, how often each layer has its turn within a decode.
        repeats: decodes of each.
        on_run: told before each decode how many are done, of how many, and what comes next.

    Returns:
        Each measurement a :class:`Spread` over the repeats.

        ``reruns``: ``rows`` of ``batch`` rows run again from block ``inject``; ``plain_ms``, ``step_ms``, ``extra_ms``
        (medians over the circles of a decode); ``extra_share`` of ``same_rows_ms``, a plain step of ``rows`` rows, and
        ``target_share`` (see the module); ``blocks_ms`` and ``unembedding_ms`` of that plain step, ``rerun_blocks_ms``
        and ``rerun_unembedding_ms`` of the rerun.

        ``overheads``: ``ms_per_step`` of ``new_tokens - 1`` steps of all rows, ``overhead`` over plain decoding
        (``None`` for that itself), ``acted_tokens`` and ``acted_steps``: the share of tokens, and of steps with any
        such row, at which the intervention did something.

        ``batches``: ``tokens_per_s`` of one row and of ``batch`` rows, their ``ratio``, and ``acted_steps`` of both.

    Raises:
        InputError: numbers out of range, a model without a tokenizer, a row that stopped early.
    """
    check_counts(
        model, new_tokens=(new_tokens, 2), prompt_tokens=(prompt_tokens, 1), circles=(circles, 1), repeats=(repeats, 1)
    )
    prompts = bench_prompts(model, SIXTEEN, prompt_tokens)
    with endless(model):
        conditions, prompts = conditions_of(model, prompts, new_tokens)
        reruns = reruns_of(model.cfg.n_layers)
        pairs, doubles = _pairs(conditions), _doubles(conditions)
        order = [take for group in (*pairs, *doubles) for take in group]
        done, total = 0, repeats * (len(reruns) + len(order))

        def run(what: str) -> None:
            nonlocal done
            on_run(done, total, what)
            done += 1

        for batch, which in reruns.items():  # the first calls also pay for memory and libraries
            circle(model, prompts[:batch], which, 1)
        circled: dict[int, list[Circle]] = {batch: [] for batch in reruns}
        for turn in range(repeats):
            for batch, which in reruns.items():
                run(f"reruns, batch {batch}")
                circled[batch].append(circle(model, prompts[:batch], which, circles))
            # There and back, so that what comes late in one turn comes early in the next.
            for take in order if turn % 2 == 0 else order[::-1]:
                run(f"{take.condition.name}, batch {take.batch}")
                take.timings.take(take.condition.contender(model), prompts[: take.batch], new_tokens)
                take.acted = take.condition.acted()
    on_run(done, total, "done")
    return {
        "reruns": rerun_rows(reruns, circled, model.cfg.n_layers),
        "overheads": _overhead_rows(pairs, new_tokens, prompt_tokens),
        "batches": _batch_rows(doubles, new_tokens),
    }


@dataclass
class _Take:
    """One decode of each turn, what it took, and the shares :meth:`Condition.acted` gives."""

    batch: int
    condition: Condition
    timings: Timings = field(default_factory=Timings)
    acted: tuple[float, float] = (0.0, 0.0)


def _pairs(conditions: Sequence[Condition]) -> list[list[_Take]]:
    """Groups of two or three decodes, the second of them plain, so that each of the others is next to a plain one."""
    plain, *others = conditions
    return [
        [_Take(batch, c) for c in (others[i], plain, *others[i + 1 : i + 2])]
        for batch in (ONE, MANY)
        for i in range(0, len(others), 2)
    ]


def _doubles(conditions: Sequence[Condition]) -> list[list[_Take]]:
    """One row, then sixteen."""
    return [[_Take(ONE, c), _Take(SIXTEEN, c)] for c in conditions if c.in_large_batches]


def _overhead_rows(pairs: Sequence[Sequence[_Take]], new_tokens: int, prompt_tokens: int) -> list[dict[str, Any]]:
    rows: dict[int, list[dict[str, Any]]] = {}
    plain: dict[int, list[_Take]] = {}
    steps = new_tokens - 1

    def row(take: _Take, seconds: Sequence[float], overhead: Any) -> dict[str, Any]:
        return {
            "intervention": take.condition.name,
            "batch": take.batch,
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "ms_per_step": spread([1e3 * s / steps for s in seconds]),
            "overhead": overhead,
            "acted_tokens": take.acted[0],
            "acted_steps": take.acted[1],
        }

    for group in pairs:
        beside = group[1]
        plain.setdefault(beside.batch, []).append(beside)
        rows.setdefault(beside.batch, []).extend(
            row(take, take.timings.decode, spread(ratios(take.timings.decode, beside.timings.decode)))
            for take in group
            if take is not beside
        )
    found = []
    for batch, takes in plain.items():
        # A turn has several plain decodes; what is shown of it is their mean.
        turns = zip(*(take.timings.decode for take in takes), strict=True)
        found += [row(takes[0], [sum(turn) / len(turn) for turn in turns], None), *rows[batch]]
    return found


def _batch_rows(doubles: Sequence[Sequence[_Take]], new_tokens: int) -> list[dict[str, Any]]:
    rows = []
    for one, many in doubles:
        alone, together = (
            [take.batch * (new_tokens - 1) / seconds for seconds in take.timings.decode] for take in (one, many)
        )
        rows.append(
            {
                "intervention": many.condition.name,
                "batch": many.batch,
                "tokens_per_s_of_one": spread(alone),
                "tokens_per_s": spread(together),
                "ratio": spread(ratios(together, alone)),
                "acted_steps_of_one": one.acted[1],
                "acted_steps": many.acted[1],
            }
        )
    return rows

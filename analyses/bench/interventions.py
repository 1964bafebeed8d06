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

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from analyses.bench.decoding import (
    PLAIN,
    Clock,
    Contender,
    Timings,
    bench_prompts,
    check_counts,
    endless,
    ratios,
    spread,
)
from interp.protocol import Intervention, Step
from interp.rollout import Rollout
from interp.rows import name_of
from interp.types import Bridge

__all__ = ["bench_interventions", "rerun_layers", "target_share"]

ALLOWANCE = 0.15
ONE, SOME, MANY, SIXTEEN = 1, 2, 8, 16  # rows

OnRun = Callable[[int, int, str], None]


def target_share(inject: int, n_layers: int, *, blocks: float, unembedding: float, plain: float) -> float:
    """What running a position again from block ``inject`` may cost, as a share of a plain step; times in one unit.

    >>> target_share(20, 30, blocks=60.0, unembedding=15.0, plain=100.0)
    0.5
    """
    return ((n_layers - inject) / n_layers * blocks + unembedding) / plain + ALLOWANCE


def rerun_layers(n_layers: int) -> list[int]:
    """The first block, the middle one, one three quarters up, the last.

    >>> rerun_layers(30), rerun_layers(3)
    ([0, 15, 23, 29], [0, 1, 2])
    """
    return sorted({0, n_layers // 2, min(-(-3 * n_layers // 4), n_layers - 1), n_layers - 1})


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
        conditions, prompts = _conditions(model, prompts, new_tokens)
        reruns = _reruns(model.cfg.n_layers)
        pairs, doubles = _pairs(conditions), _doubles(conditions)
        order = [take for group in (*pairs, *doubles) for take in group]
        done, total = 0, repeats * (len(reruns) + len(order))

        def run(what: str) -> None:
            nonlocal done
            on_run(done, total, what)
            done += 1

        for batch, which in reruns.items():  # the first calls also pay for memory and libraries
            _circle(model, prompts[:batch], which, 1)
        circled: dict[int, list[_Circle]] = {batch: [] for batch in reruns}
        for turn in range(repeats):
            for batch, which in reruns.items():
                run(f"reruns, batch {batch}")
                circled[batch].append(_circle(model, prompts[:batch], which, circles))
            # There and back, so that what comes late in one turn comes early in the next.
            for take in order if turn % 2 == 0 else order[::-1]:
                run(f"{take.condition.name}, batch {take.batch}")
                take.timings.take(take.condition.contender(model), prompts[: take.batch], new_tokens)
                take.acted = take.condition.acted()
    on_run(done, total, "done")
    return {
        "reruns": _rerun_rows(reruns, circled, model.cfg.n_layers),
        "overheads": _overhead_rows(pairs, new_tokens, prompt_tokens),
        "batches": _batch_rows(doubles, new_tokens),
    }


# A position run again


def _reruns(n_layers: int) -> dict[int, list[tuple[int, int]]]:
    """For each batch what takes turns with a plain step: (block, how many of its rows run again from there)."""
    layers = rerun_layers(n_layers)
    middle = n_layers // 2
    return {
        ONE: [(layer, ONE) for layer in layers],
        MANY: [*((layer, MANY) for layer in layers), (middle, SOME)],
        SOME: [(middle, SOME)],  # what the line above is compared with
    }


@dataclass(frozen=True)
class _Circle:
    """Medians over the circles of one decode, in seconds; place 0 is the plain step, the others are in their order.

    ``extra``: over the plain step of the same circle. ``blocks`` and ``unembedding``: of the step's last pass.
    """

    step: list[float]
    extra: list[float]
    blocks: list[float]
    unembedding: list[float]


def _circle(
    model: Bridge, prompts: Int[Tensor, "batch pos"], which: Sequence[tuple[int, int]], circles: int
) -> _Circle:
    from interp.decoding import decode
    from interp.interventions import Recompute

    n = 1 + len(which)

    def its_turn(place: int, rows: int, step: Step) -> list[bool]:
        return [step.t % n == place and i < rows for i in range(len(step.rows))]

    reruns = [Recompute(layer, layer, partial(its_turn, 1 + k, rows)) for k, (layer, rows) in enumerate(which)]
    watch = _Watch(model)
    with watch.on():
        # Step 0 reads the prompt and is left out.
        decode(
            model,
            list(prompts),
            max_new_tokens=1 + n * circles,
            batch_size=len(prompts),
            interventions=reruns,
            progress=watch,
        )
    return _medians(watch.ends, watch.marks, n)


class _Watch:
    """Reads the clock at the end of each step, and around the blocks and the unembedding of each pass."""

    def __init__(self, model: Bridge) -> None:
        self.model = model
        self.ends: list[float] = []
        self.marks: list[list[float]] = [[]]

    def update(self, n: int) -> None:
        """As the progress bar of ``decode``."""
        self.ends.append(time.perf_counter())
        self.marks.append([])

    @contextmanager
    def on(self) -> Iterator[None]:
        model = self.model
        on_cpu = next(model.original_model.parameters()).device.type == "cpu"

        def note(*_: Any) -> None:
            if not on_cpu:
                torch.accelerator.synchronize()  # what was asked for before is done
            self.marks[-1].append(time.perf_counter())

        handles = [
            model.blocks[0].register_forward_pre_hook(note),
            model.blocks[-1].register_forward_hook(note),
            model.ln_final.register_forward_pre_hook(note),
            model.unembed.register_forward_hook(note),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _medians(ends: Sequence[float], marks: Sequence[Sequence[float]], n: int) -> _Circle:
    """From clock readings: ``ends[t]`` of step ``t``, ``marks[t]`` four a pass; the step at place ``t % n``."""

    def by_place(values: Tensor) -> Tensor:
        """From one value a step after step 0, whose place is 1."""
        return values.reshape(-1, n).roll(1, dims=1)

    # A pass is [blocks begin, blocks end, final norm begins, unembedding ends].
    passes = torch.tensor([marks[t][-4:] for t in range(1, len(ends))], dtype=torch.float64)
    step = by_place(torch.tensor(ends, dtype=torch.float64).diff())
    return _Circle(
        *(
            values.quantile(0.5, dim=0).tolist()
            for values in (
                step,
                step - step[:, :1],
                by_place(passes[:, 1] - passes[:, 0]),
                by_place(passes[:, 3] - passes[:, 2]),
            )
        )
    )


def _rerun_rows(
    reruns: Mapping[int, Sequence[tuple[int, int]]], circled: Mapping[int, Sequence[_Circle]], n_layers: int
) -> list[dict[str, Any]]:
    rows = []
    for batch, which in reruns.items():
        for place, (inject, n_rows) in enumerate(which, 1):
            own, same = circled[batch], circled[n_rows]  # a turn's decode of this batch; of as many rows as run again
            rows.append(
                {
                    "batch": batch,
                    "rows": n_rows,
                    "inject": inject,
                    "n_layers": n_layers,
                    "plain_ms": spread([1e3 * c.step[0] for c in own]),
                    "step_ms": spread([1e3 * c.step[place] for c in own]),
                    "extra_ms": spread([1e3 * c.extra[place] for c in own]),
                    "same_rows_ms": spread([1e3 * s.step[0] for s in same]),
                    "extra_share": spread([c.extra[place] / s.step[0] for c, s in zip(own, same, strict=True)]),
                    "target_share": spread(
                        [
                            target_share(
                                inject, n_layers, blocks=s.blocks[0], unembedding=s.unembedding[0], plain=s.step[0]
                            )
                            for s in same
                        ]
                    ),
                    "blocks_ms": spread([1e3 * s.blocks[0] for s in same]),
                    "unembedding_ms": spread([1e3 * s.unembedding[0] for s in same]),
                    "rerun_blocks_ms": spread([1e3 * c.blocks[place] for c in own]),
                    "rerun_unembedding_ms": spread([1e3 * c.unembedding[place] for c in own]),
                }
            )
    return rows


# Interventions on


@dataclass
class _Condition:
    """One list of interventions to decode with.

    ``acting`` is the intervention whose events tell where it acted, ``None`` if it acts at every step.
    """

    name: str
    interventions: list[Intervention] = field(default_factory=list)
    acting: Intervention | None = None
    stop: tuple[int, ...] = ()
    in_large_batches: bool = False
    rollouts: list[Rollout] = field(default_factory=list)

    def contender(self, model: Bridge) -> Contender:
        from interp.decoding import decode

        def generate(prompts: Tensor, n: int, clock: Clock) -> Tensor:
            self.rollouts = decode(
                model,
                list(prompts),
                max_new_tokens=n,
                interventions=self.interventions,
                batch_size=len(prompts),
                stop=self.stop,
                progress=clock,
            )
            shortest = min(len(rollout) for rollout in self.rollouts)  # what ends early is refused, not stacked
            return torch.stack([rollout.token_ids[:shortest] for rollout in self.rollouts])

        return Contender(self.name, PLAIN, generate)

    def acted(self) -> tuple[float, float]:
        """Of the last decode's timed steps: share of tokens, and of steps with any row, at which it acted."""
        if not self.interventions:
            return 0.0, 0.0
        if self.acting is None:
            return 1.0, 1.0
        name = name_of(self.acting)
        steps = len(self.rollouts[0]) - 1
        places = {
            (i, event.step)
            for i, rollout in enumerate(self.rollouts)
            for event in rollout.events
            if event.intervention == name and event.step > 0
        }
        return len(places) / (steps * len(self.rollouts)), len({step for _, step in places}) / steps


def _conditions(
    model: Bridge, prompts: Int[Tensor, "batch pos"], new_tokens: int
) -> tuple[list[_Condition], Int[Tensor, "batch pos"]]:
    """Plain decoding and each ready-made intervention; and the prompts, a typical one first.

    Typical: plain decoding says about as many thinking tokens after it as after the others on average, so that what a
    batch of one meets is what a batch of many meets.
    """
    from analyses.thinking import thinking_words
    from interp.decoding import decode
    from interp.interventions import (
        BudgetForcing,
        ContinueThinking,
        MeanAblate,
        PatchResidual,
        RecurseLatents,
        RecycleRepresentation,
        SteerResidual,
        SuppressTokens,
    )
    from interp.record import ResidualSites

    words = thinking_words(model)
    thinking = {i for ids in words.values() for i in ids}
    n_layers: int = model.cfg.n_layers
    middle, upper = n_layers // 2, rerun_layers(n_layers)[-2]
    plain = decode(
        model,
        list(prompts),
        max_new_tokens=new_tokens,
        batch_size=len(prompts),
        record=ResidualSites(layers=[middle]),
    )
    counts = [sum(i in thinking for i in rollout.token_ids.tolist()) for rollout in plain]
    mean = sum(counts) / len(counts)
    typical = min(range(len(plain)), key=lambda i: abs(counts[i] - mean))
    order = [typical, *(i for i in range(len(plain)) if i != typical)]
    said = Counter(i for rollout in plain for i in rollout.token_ids.tolist())
    # One that the first row says too, after its prompt's step: alone it would otherwise never come to an end.
    end = max(plain[typical].token_ids[1:].tolist(), key=lambda i: (i not in thinking, said[i]))

    source = plain[typical]
    stream = source.residuals["resid_post"][0]
    suppress = SuppressTokens(words)
    recycle = RecycleRepresentation(upper, words)
    recurse = RecurseLatents(max(1, n_layers // 5))
    go_on = ContinueThinking("Wait", budget=new_tokens, final_prompt="")
    ignore_end = BudgetForcing(end, ignore=new_tokens)
    patch = PatchResidual(source, middle, range(new_tokens))
    steer = SteerResidual(stream[-1] - stream[0], middle, scale=0.1)
    ablate = MeanAblate(stream.mean(0), middle)
    conditions = [
        _Condition("plain", in_large_batches=True),
        _Condition(f"SuppressTokens, {len(words)} words", [suppress]),
        _Condition(f"RecycleRepresentation, block {upper}, {len(words)} words", [recycle], recycle),
        _Condition("RecycleRepresentation and SuppressTokens", [recycle, suppress], recycle, in_large_batches=True),
        _Condition(f"RecurseLatents, top {-recurse.inject} blocks", [recurse], recurse),
        _Condition("ContinueThinking", [go_on], go_on, stop=(end,)),
        _Condition("BudgetForcing", [ignore_end], ignore_end),
        _Condition(f"PatchResidual, block {middle}", [patch]),
        _Condition(f"SteerResidual, block {middle}", [steer], in_large_batches=True),
        _Condition(f"MeanAblate, block {middle}", [ablate]),
    ]
    return conditions, prompts[order]


@dataclass
class _Take:
    """One decode of each turn, what it took, and the shares :meth:`_Condition.acted` gives."""

    batch: int
    condition: _Condition
    timings: Timings = field(default_factory=Timings)
    acted: tuple[float, float] = (0.0, 0.0)


def _pairs(conditions: Sequence[_Condition]) -> list[list[_Take]]:
    """Groups of two or three decodes, the second of them plain, so that each of the others is next to a plain one."""
    plain, *others = conditions
    return [
        [_Take(batch, c) for c in (others[i], plain, *others[i + 1 : i + 2])]
        for batch in (ONE, MANY)
        for i in range(0, len(others), 2)
    ]


def _doubles(conditions: Sequence[_Condition]) -> list[list[_Take]]:
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

"""All ways to decode and to read beside each other: seconds, processor seconds, memory, ratios, how they grow.

1. Each variant (:mod:`analyses.bench.variants`) has a process of its own. They take turns (A B C, A B C, ...), so that
   a machine that slows down slows all of them. A ratio is taken within a turn; what is told is the median, the least
   and the greatest over the turns.
2. Decoding: the same prompts of one length, greedily, all tokens of all rows, whatever ends a text. Seconds are from
   the first token on; the clock is read through the look-in at every step that each library offers.
3. Reading: one text, once. Those whose memory grows with its square read the shortest alone.
4. Memory is that of the first turn of a size, and sizes ascend: by how much the process grew at most, above what it
   held with the model loaded and called once.
5. Of each turn a power law is fitted, seconds a step against rows, seconds against tokens of the text: 1 is linear.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from analyses.bench.decoding import check_folder
from analyses.bench.growth import exponent
from analyses.bench.timing import Spread, bench_prompts, check_counts, ratios, spread
from analyses.bench.variants import FREE, HIDDEN, NNSIGHT, READERS, SDPA, SQUARE, VARIANTS, Place
from analyses.bench.workers import Crew, Job, crew_for, fits
from interp.errors import InputError
from interp.types import Bridge

__all__ = ["bench_decoders", "bench_readers", "decode_rows", "place_of", "read_rows"]

OnRun = Callable[[int, int, str], None]
Taken = dict[tuple[str, int], list[dict[str, Any]]]
"""What was measured of a variant at a size, turn by turn."""


def place_of(model: Bridge, room: int = 0) -> Place:
    """Where other processes find a loaded model."""
    from interp.loading.models import model_source

    check_folder(model)
    source, parameter = model_source(model), next(model.original_model.parameters())
    name = str(source.path) if source.kind == "folder" else source.name
    return Place(
        name, str(source.path), str(parameter.dtype).removeprefix("torch."), str(parameter.device),
        torch.get_num_threads(), room,
    )  # fmt: skip


def bench_decoders(
    model: Bridge,
    *,
    batches: Sequence[int] = (1, 4, 16),
    new_tokens: int = 24,
    prompt_tokens: int = 60,
    repeats: int = 3,
    nnsight: str | None = None,
    names: Sequence[str] = VARIANTS,
    on_run: OnRun = lambda done, total, what: None,
) -> list[dict[str, Any]]:
    """One row per batch and variant; see the module.

    Args:
        model: loaded from a Hugging Face folder: each process reads it from there again.
        batches: prompts decoded at once, ascending.
        new_tokens: tokens every row is continued by, at least 2.
        prompt_tokens: length of every prompt.
        repeats: turns.
        nnsight: an interpreter that has it; without one it is left out.
        names: of these variants, Hugging Face's sdpa among them.
        on_run: told before each call how many are done, of how many, and what comes next.

    Returns:
        Rows with ``first_seconds`` (of the first token), ``step_ms`` and ``step_cpu_ms`` (a step of all rows, the first
        left out), ``times`` and ``cpu_times`` (over those of Hugging Face with sdpa, which records nothing), each a
        :class:`Spread`; ``grown`` (bytes); ``same_share`` of tokens equal to Hugging Face's with sdpa, ``None`` where
        they are meant to differ; ``exponent``, a spread, of seconds a step against rows, NaN of a single batch.

    Raises:
        InputError: numbers out of range, a model that is not a folder, a process that died or stopped early.
    """
    check_counts(
        model, batches=(min(batches, default=0), 1), new_tokens=(new_tokens, 2), prompt_tokens=(prompt_tokens, 1),
        repeats=(repeats, 1),
    )  # fmt: skip
    asked = {
        batch: {"ids": bench_prompts(model, batch, prompt_tokens).tolist(), "new_tokens": new_tokens}
        for batch in sorted(batches)
    }
    present = [name for name in VARIANTS if name in names and (name != NNSIGHT or nnsight is not None)]
    crew = _crew("decode", present, model, prompt_tokens + new_tokens, nnsight)
    taken = _turns(crew, dict.fromkeys(asked, present), asked, dict.fromkeys(asked, repeats), "batch {}", on_run)
    for (name, batch), runs in taken.items():
        for run in runs:
            if [len(row) for row in run["tokens"]] != [new_tokens] * batch:
                raise InputError(
                    "bench",
                    expected=f"{batch} x {new_tokens} tokens from {name}",
                    received=f"{len(run['tokens'])} x {min(map(len, run['tokens']))}",
                    remedy="It stopped early: use a model whose end-of-sequence ids stand in its generation config.",
                )
    return decode_rows(taken, new_tokens, prompt_tokens)


def bench_readers(
    model: Bridge,
    *,
    turns: Mapping[int, int],
    square: int = 1024,
    nnsight: str | None = None,
    names: Sequence[str] = VARIANTS,
    on_run: OnRun = lambda done, total, what: None,
) -> list[dict[str, Any]]:
    """One row per length and variant that reads; see the module.

    Args:
        model: loaded from a Hugging Face folder: each process reads it from there again.
        turns: how often a text of so many tokens is read.
        square: tokens up to which those read whose memory grows with the square.
        nnsight, names, on_run: as of :func:`bench_decoders`; Hugging Face with hidden states is among the names.

    Returns:
        Rows with ``seconds`` and ``cpu_seconds``, ``times`` and ``cpu_times`` (over those of Hugging Face with hidden
        states), each a :class:`Spread`; ``grown`` (bytes) and ``grown_times`` over Hugging Face's with hidden states;
        ``exponent``, a spread, of seconds against tokens, NaN of a single length.

    Raises:
        InputError: as :func:`bench_decoders`; a model with a table of fewer positions.
    """
    check_counts(model, lengths=(min(turns, default=0), 2), repeats=(min(turns.values(), default=0), 1))
    asked = {length: {"ids": bench_prompts(model, 1, length).tolist()} for length in sorted(turns)}
    present = [
        name for name in VARIANTS if name in names and (name in READERS or (name == NNSIGHT and nnsight is not None))
    ]
    reading = {
        length: [name for name in present if name not in SQUARE or length <= max(square, min(turns))]
        for length in asked
    }
    crew = _crew("read", present, model, max(turns), nnsight)
    return read_rows(_turns(crew, reading, asked, turns, "{} tokens", on_run))


def _crew(job: Job, names: list[str], model: Bridge, room: int, nnsight: str | None) -> Crew:
    parameters = list(model.original_model.parameters())
    weights = sum(one.numel() * one.element_size() for one in parameters)
    return crew_for(job, names, place_of(model, room), nnsight, fits(weights, len(names), parameters[0].device))


def _turns(
    crew: Crew,
    names: Mapping[int, list[str]],
    asked: Mapping[int, dict[str, Any]],
    repeats: Mapping[int, int],
    what: str,
    on_run: OnRun,
) -> Taken:
    taken: Taken = {(name, size): [] for size, present in names.items() for name in present}
    done, total = 0, sum(repeats[size] for _, size in taken)
    on_run(0, total, "loading")
    with crew:
        for size, present in names.items():
            for _ in range(repeats[size]):
                for name in present:
                    on_run(done, total, f"{name}, {what.format(size)}")
                    if (not taken[name, size] or not crew.keep) and "new_tokens" in asked[size]:
                        crew.ask(name, **{**asked[size], "new_tokens": 2})  # the first at a size pays for its memory
                    taken[name, size].append(crew.ask(name, **asked[size]))
                    done += 1
    on_run(done, total, "done")
    return taken


def _of(runs: Sequence[dict[str, Any]], what: str) -> list[float]:
    return [run[what] for run in runs]


def decode_rows(taken: Taken, new_tokens: int, prompt_tokens: int) -> list[dict[str, Any]]:
    """The table of what was measured; ``same_share`` is that of the last turn."""
    steps = new_tokens - 1
    grows = _exponents(taken)
    rows = []
    for (name, batch), runs in taken.items():
        base = taken[SDPA, batch]
        tokens, expected = torch.tensor(runs[-1]["tokens"]), torch.tensor(base[-1]["tokens"])
        rows.append(
            {
                "variant": name,
                "batch": batch,
                "prompt_tokens": prompt_tokens,
                "new_tokens": new_tokens,
                "first_seconds": spread(_of(runs, "first")),
                "step_ms": spread([1e3 * one / steps for one in _of(runs, "seconds")]),
                "step_cpu_ms": spread([1e3 * one / steps for one in _of(runs, "cpu")]),
                "times": spread(ratios(_of(runs, "seconds"), _of(base, "seconds"))),
                "cpu_times": spread(ratios(_of(runs, "cpu"), _of(base, "cpu"))),
                "grown": runs[0]["grown"],
                "same_share": None if name in FREE else float((tokens == expected).double().mean()),
                "exponent": grows[name],
            }
        )
    return rows


def read_rows(taken: Taken) -> list[dict[str, Any]]:
    """The table of what was measured."""
    grows = _exponents(taken)
    rows = []
    for (name, length), runs in taken.items():
        base = taken[HIDDEN, length]
        rows.append(
            {
                "variant": name,
                "tokens": length,
                "seconds": spread(_of(runs, "seconds")),
                "cpu_seconds": spread(_of(runs, "cpu")),
                "times": spread(ratios(_of(runs, "seconds"), _of(base, "seconds"))),
                "cpu_times": spread(ratios(_of(runs, "cpu"), _of(base, "cpu"))),
                "grown": runs[0]["grown"],
                "grown_times": runs[0]["grown"] / base[0]["grown"] if base[0]["grown"] else math.nan,
                "exponent": grows[name],
            }
        )
    return rows


def _exponents(taken: Taken) -> dict[str, Spread]:
    """Of each variant, over the turns that all its sizes had."""
    found = {}
    for name in dict.fromkeys(name for name, _ in taken):
        sizes = [size for one, size in taken if one == name]
        turns = min(len(taken[name, size]) for size in sizes)
        found[name] = spread(
            [exponent(sizes, [taken[name, size][turn]["seconds"] for size in sizes]) for turn in range(turns)]
        )
    return found

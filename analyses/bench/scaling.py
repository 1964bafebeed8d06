"""How cost grows with layers, with width and with problems: made models decoded, the toy's problems traced.

1. Models with random weights, a llama's shape, differ in one of `layers` and `d_model`. Hugging Face's sdpa, and we
   with nothing recorded, with all streams kept and with live nHSIC, continue the same prompts. All take turns.
2. `trace` of the toy's first problems into a new folder, its tables but no report, is timed at growing counts.
3. Of each turn a power law is fitted: seconds ~ count ** exponent; 1 is linear. What does not grow (Python between the
   blocks, starting) pulls an exponent below what the arithmetic alone would give.

How it grows with the batch and with the text's length comes of :mod:`analyses.bench.beside`.
"""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from analyses.bench.growth import exponent
from analyses.bench.timing import Contender, Generate, Timings, check_counts, endless, spread
from analyses.bench.variants import (
    LIVE,
    NOTHING,
    RECORDED,
    SDPA,
    answers_of,
    live_options,
    own_generate,
    plain_generate,
    recorded_options,
)
from interp.types import Bridge

__all__ = ["TRACED", "bench_scaling"]

TRACED = "peaklens, trace"
FIXED_LAYERS, FIXED_WIDTH = 8, 256
_VOCABULARY, _HEAD, _PROMPT = 512, 32, 24


def bench_scaling(
    traced: Bridge,
    *,
    layers: Sequence[int] = (4, 8, 16, 32),
    widths: Sequence[int] = (128, 256, 512, 1024),
    problems: Sequence[int] = (8, 16, 32, 64),
    batch: int = 4,
    new_tokens: int = 12,
    traced_tokens: int = 160,
    repeats: int = 3,
    on_run: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[dict[str, Any]]:
    """One row per variant and count.

    >>> from interp import load_model
    >>> rows = bench_scaling(
    ...     load_model("toy-reasoner"), layers=(1,), widths=(), problems=(), batch=1, new_tokens=2, repeats=1
    ... )
    >>> [(row["grows"], row["count"], row["variant"]) for row in rows][1:3]
    [('layers', 1, 'peaklens, nothing recorded'), ('layers', 1, 'peaklens, pre, mid and post recorded')]

    Args:
        traced: the bundled toy that is traced.
        layers: of the models made with d_model 256.
        widths: of the models made with 8 layers, multiples of 32.
        problems: traced at a time, at most as many as are bundled.
        batch: rows decoded at once; of the trace, 16.
        new_tokens: tokens every row of the made models is continued by, at least 2.
        traced_tokens: at most, of each problem.
        repeats: turns.
        on_run: told before each timing how many are done, of how many, and what comes next.

    Returns:
        Rows with ``grows`` (what the count is of), ``count``, ``seconds`` and ``exponent``, each a
        :class:`analyses.bench.timing.Spread`; NaN of a single count.

    Raises:
        InputError: numbers out of range.
    """
    check_counts(
        traced, layers=(min(layers, default=1), 1), widths=(min(widths, default=_HEAD), _HEAD),
        problems=(min(problems, default=1), 1), batch=(batch, 1), new_tokens=(new_tokens, 2), repeats=(repeats, 1),
    )  # fmt: skip
    device = next(traced.original_model.parameters()).device
    prompts = torch.randint(3, _VOCABULARY, (batch, _PROMPT), generator=torch.Generator().manual_seed(0))
    taken: dict[tuple[str, int, str], list[float]] = {}
    works: dict[tuple[str, int, str], Callable[[], float]] = {}
    with ExitStack() as stack, torch.no_grad():
        for grows, counts in (("layers", layers), ("d_model", widths)):
            for count in counts:
                deep, wide = (count, FIXED_WIDTH) if grows == "layers" else (FIXED_LAYERS, count)
                for name, generate in _made(deep, wide, prompts[0], device, stack).items():
                    works[grows, count, name] = _decoding(name, generate, prompts, new_tokens)
        for count in problems:
            works["problems", count, TRACED] = _tracing(traced, count, traced_tokens)
        for (grows, count, _), work in works.items():  # the first call also pays for memory and libraries
            if grows != "problems" or count == min(problems):
                work()
        total = repeats * len(works)
        for turn in range(repeats):
            for place, (case, work) in enumerate(works.items()):
                on_run(turn * len(works) + place, total, f"{case[2]}, {case[1]} {case[0]}")
                taken.setdefault(case, []).append(work())
    on_run(total, total, "done")
    return scaling_rows(taken)


def scaling_rows(taken: dict[tuple[str, int, str], list[float]]) -> list[dict[str, Any]]:
    """The table of seconds by what grows, count and variant, turn by turn."""
    counts: dict[tuple[str, str], list[int]] = {}
    for grows, count, name in taken:
        counts.setdefault((grows, name), []).append(count)
    exponents = {
        (grows, name): spread(
            [exponent(sizes, turn) for turn in zip(*(taken[grows, n, name] for n in sizes), strict=True)]
        )
        for (grows, name), sizes in counts.items()
    }
    return [
        {
            "grows": grows, "count": count, "variant": name, "seconds": spread(seconds),
            "exponent": exponents[grows, name],
        }
        for (grows, count, name), seconds in taken.items()
    ]  # fmt: skip


def _made(layers: int, width: int, text: Tensor, device: torch.device, stack: ExitStack) -> dict[str, Generate]:
    """The variants, of a model with random weights."""
    from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

    from interp.loading.models import load_model

    config = LlamaConfig(
        vocab_size=_VOCABULARY, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=max(1, width // _HEAD), head_dim=_HEAD, max_position_embeddings=256,
        tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    config.architectures = ["LlamaForCausalLM"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    network = network.to(device).eval()
    plain = copy.deepcopy(network)
    plain.generation_config = GenerationConfig(do_sample=False, use_cache=True, pad_token_id=0)
    model = load_model("a model made for the bench", hf_model=network, tokenizer=None)
    stack.enter_context(endless(model))
    return {
        SDPA: plain_generate(plain),
        NOTHING: own_generate(model, lambda rows: {}),
        RECORDED: own_generate(model, recorded_options()),
        LIVE: own_generate(model, live_options(answers_of(model, text))),
    }


def _decoding(name: str, generate: Generate, prompts: Tensor, new_tokens: int) -> Callable[[], float]:
    def work() -> float:
        timings = Timings()
        timings.take(Contender(name, "", generate), prompts, new_tokens)
        return timings.decode[0]

    return work


def _tracing(model: Bridge, n: int, max_new_tokens: int) -> Callable[[], float]:
    from analyses.trace.provenance import RunWarning
    from analyses.trace.tracing import trace

    def work() -> float:
        # Responses that are cut are no concern here.
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore", category=RunWarning):
            begin = time.perf_counter()
            trace(model, n=n, out=folder, max_new_tokens=max_new_tokens, batch_size=16, report=False)
            return time.perf_counter() - begin

    return work

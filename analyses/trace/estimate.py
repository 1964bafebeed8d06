"""What a run would take, from a few problems decoded as a warm-up in a temporary folder.

1. The first problems are traced without further questions: their lengths, and the tokens decoded in a second.
2. A batch takes as long as its longest row; a full one decodes as many more tokens in that time.
3. What else is asked (other measures, a null, depths) is asked of them in a second call, which reads each response once
   more, one after the other: so many seconds a response, whatever the batch.

It is a guess of time: responses are taken to be as long as these few, and workers not to slow each other down.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from analyses.problems import Problem
from analyses.store.columns import is_void
from analyses.trace.inputs import name_or_model, pool_of, traced_problems
from analyses.trace.probing import Probing, check_measures, probing_of
from analyses.trace.prompting import goes_on_with
from analyses.trace.provenance import RunWarning
from analyses.trace.run import TraceRun
from analyses.trace.settings import Number, TraceSettings, Whole, check_work
from analyses.trace.tracer import Tracer
from analyses.trace.tracing import trace
from analyses.trace.wrong_answers import wrong_answers
from analyses.work.spread import On
from interp.arguments import Texts
from interp.engines.registry import engine_for
from interp.loading.models import load_model
from interp.types import Bridge

__all__ = ["Estimate", "WarmUp", "at_once", "estimate_trace", "held_bytes", "warmed_up"]

WARM_UP = 4  # problems decoded to estimate time


@dataclass(frozen=True)
class Estimate:
    """What a run would take: an upper bound of its tokens and a guess of its time, from a measured warm-up.

    Attributes:
        conditions: ways of responding; a trace has one.
        cells: responses to decode.
        seconds: with what else is asked of them.
        read_again: responses that are there already and would be read once more for what is asked now.
        workers: who share the work; where there are fewer batches than workers, some have none.
        weight_bytes, cache_bytes: what each worker holds in memory: the model, and keys and values of a batch whose
            responses are as long as they may be. Activations and the library itself come on top.
    """

    conditions: int
    cells: int
    tokens_at_most: int
    tokens_expected: int
    tokens_per_second: float
    seconds: float
    read_again: int = 0
    workers: int = 1
    weight_bytes: int = 0
    cache_bytes: int = 0


@dataclass(frozen=True)
class WarmUp:
    """A few problems, traced.

    Attributes:
        run: their trace; its folder lasts as long as the block of :func:`warmed_up`.
        seconds: of decoding and scoring; asking: of what is asked of a response beside, for each.
    """

    run: TraceRun
    problems: list[Problem]
    seconds: float
    asking: float

    @property
    def mean_length(self) -> float:
        """Tokens of a response."""
        return float(self.run.responses["n_steps"].mean())

    def speed(self, batch_size: int, cells: int) -> float:
        """Tokens a second, of so many cells in batches of that size."""
        lengths = self.run.responses["n_steps"]
        return float(lengths.sum()) / self.seconds * min(batch_size, cells) / min(batch_size, len(lengths))


def at_once(batches: int, workers: int) -> float:
    """Of how many workers the speed counts: in the last round some have nothing to do.

    >>> at_once(10, 4), at_once(3, 8), at_once(0, 8)
    (3.3333333333333335, 3.0, 1.0)
    """
    return batches / -(-batches // workers) if batches else 1.0


def held_bytes(tracer: Tracer, batch_size: int) -> tuple[int, int]:
    """Bytes of the weights, and of keys and values of a batch of the longest prompts and responses."""
    stored = {tensor.data_ptr(): tensor for tensor in tracer.model.original_model.parameters()}
    weights = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    longest = max(map(len, tracer.prompts.values())) + tracer.options.max_new_tokens
    rows = min(batch_size, max(1, len(tracer.cells)))
    return weights, engine_for(tracer.model).cache_bytes(rows, longest)


class _Stopwatch:
    """Seconds from the beginning of the work to the last that was told of it: no loading, no tables."""

    def __init__(self) -> None:
        self.begun = self.ended = 0.0

    def begin(self, responses: int, tokens: int) -> _Stopwatch:
        self.begun = self.ended = time.perf_counter()
        return self

    def update(self, n: int = 0) -> None:
        self.ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        return max(self.ended - self.begun, 1e-9)


@contextmanager
def warmed_up(
    model: Bridge,
    problems: Sequence[Problem],
    options: TraceSettings,
    batch_size: int,
    probing: Mapping[str, Any],
    pool: Sequence[Problem] | None = None,
    excess: int | None = 0,
) -> Iterator[WarmUp]:
    """The first problems traced in a folder that is gone after the block."""
    few = list(problems[: min(WARM_UP, batch_size)])
    with (
        tempfile.TemporaryDirectory(prefix="peaklens-") as folder,
        warnings.catch_warnings(action="ignore", category=RunWarning),  # what is said of a few is not of the run
    ):
        path, watch = Path(folder) / "warm-up", _Stopwatch()
        call = partial(
            trace, model, few, path, batch_size=batch_size, report=False, progress=watch.begin, excess=excess
        )
        run = call(on_done=lambda run, batch: watch.update(), **asdict(options))
        seconds, asking = watch.seconds, 0.0
        if probing:
            run = call(pool=pool, **asdict(options), **probing)
            asking = watch.seconds / (len(few) * options.samples)
        yield WarmUp(run, few, seconds, asking)


def estimate_trace(
    model: str | Path | Bridge = "toy-reasoner",
    problems: str | Path | Sequence[Problem] | None = None,
    out: str | Path = "runs/trace",
    *,
    n: Whole | None = None,
    batch_size: Whole = 8,
    workers: Whole | None = None,
    on: On = None,
    shape: tuple[int, int] | None = None,
    pool: str | Path | Sequence[Problem] | None = None,
    max_new_tokens: Whole = 256,
    prompt: str = "auto",
    reference: str = "solution",
    reference_position: str = "last",
    layers: str | Whole | Sequence[Whole] = "all",
    site: str = "resid_post",
    temperature: Number = 0.0,
    top_p: Number = 1.0,
    seed: Whole = 0,
    samples: Whole = 1,
    sigma: Number | str = 50.0,
    eps: Number = 1e-5,
    drop_top: Whole = 0,
    tau: Number = 1.5,
    thinking_markers: Sequence[Any] = (),
    final_prompts: Sequence[Any] = (),
    probes: Texts = ("nhsic",),
    null: Whole = 0,
    null_match: str = "kind",
    null_statistic: str = "score",
    null_seed: Whole = 0,
    excess: Whole | None = None,
) -> Estimate:
    """What :func:`analyses.trace.trace` would take with the same arguments; nothing is written into ``out``.

    >>> found = estimate_trace("toy-reasoner", n=64, max_new_tokens=20)
    >>> found.cells, found.tokens_at_most
    (64, 1280)

    Args:
        out: what the folder holds already is left out.
        shape: of a cluster that it would run on: nodes, and GPUs of each (CPUs where a worker has none).

    Raises:
        InputError: whatever the trace itself would refuse before it decodes.
    """
    n, batch_size, spread = check_work("trace", n, batch_size, workers, on)
    model = name_or_model(model)
    probing = probing_of(probes, null, null_match, null_statistic, null_seed, excess)
    options = TraceSettings(
        max_new_tokens=max_new_tokens, prompt=prompt, reference=reference, reference_position=reference_position,
        layers=layers, site=site, temperature=temperature, top_p=top_p, seed=seed, samples=samples, sigma=sigma,
        eps=eps, drop_top=drop_top, tau=tau, thinking_markers=thinking_markers, final_prompts=final_prompts,
    )  # fmt: skip
    chosen = traced_problems(model, problems, n)
    bridge = load_model(model) if isinstance(model, str) else model
    folder = TraceRun.open(out) if (Path(out) / "run.json").is_file() else None
    if folder is not None:
        options = goes_on_with(options, bridge, folder.path)
    tracer = Tracer(bridge, chosen, options)
    check_measures(probing, tracer.options, tracer.facts.d_model)
    if folder is not None and folder.cells():
        tracer.check_fits(folder.path)
    asked = asdict(probing) if probing.null or probing.measures or probing.depth else {}
    source = pool_of(problems, pool, chosen) if probing.null else None
    if source is not None and not (folder is not None and is_void(folder.settings)):
        wrong_answers(tracer, Path(out), probing, lambda: source)
    left = [cell for cell in tracer.cells if folder is None or not folder.has(cell)]
    done = [cell for cell in tracer.cells if folder is not None and folder.has(cell)]
    again = [cell for cell in done if folder is not None and _lacks(folder.payload(cell), probing)] if asked else []
    if not left and not again:
        return Estimate(1, 0, 0, 0, 0.0, 0.0)
    readable = [problem for problem in chosen if problem.id in tracer.problems]
    with warmed_up(bridge, readable, tracer.options, batch_size, asked, source, probing.excess) as warm:
        count = spread.count(shape)
        speed = warm.speed(batch_size, max(1, len(left))) * at_once(-(-len(left) // batch_size), count)
        expected = int(warm.mean_length * len(left))
        seconds = expected / speed + warm.asking * (len(left) + len(again)) / at_once(len(left) + len(again), count)
    return Estimate(
        1, len(left), len(left) * options.max_new_tokens, expected, speed, seconds, len(again), count,
        *held_bytes(tracer, batch_size),
    )  # fmt: skip


def _lacks(payload: Mapping[str, Any], probing: Probing) -> bool:
    """Whether a finished response was not yet asked for all of this."""
    have, wanted = payload.get("probing") or {}, probing.pins()
    lacks_null = probing.null and (have.get("null") or {}).get("null") != probing.null
    return bool(lacks_null) or not set(wanted["probes"]) <= set(have.get("probes", ()))

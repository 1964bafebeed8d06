"""How much time and memory it takes to plan, resume, derive and report a large trace.

    python -m analyses.bench.tables /tmp/large --responses 10000 --layers 30 --steps 500

1. Cells of random scores are written into a run folder, as a trace would have them; no model is run.
2. Going on with one response more is planned; tables, summary and report are made: each
   in a process of its own, which tells its seconds, those of the processor, and its largest memory. Made once more,
   nothing is derived.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from analyses.store.run import Run

__all__ = ["STAGES", "bench_tables", "write_large_run"]

STAGES = ("plan", "derive", "show", "report", "repeat")
_BATCH = 16
_WORDS = 1000


def _words() -> Any:
    """A tokenizer of made-up words."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = ["".join(chr(97 + int(digit)) for digit in f"{number:03d}") for number in range(_WORDS)]
    known = {word: number for number, word in enumerate(words)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(known, unk_token=words[0])))


def write_large_run(folder: Path, responses: int, layers: int, steps: int) -> None:
    """A trace of that many responses with random scores: heavy-tailed, so that there are peaks."""
    import torch

    from analyses.store.run import Cell, Run
    from analyses.trace.settings import TraceSettings

    problems = [f"problem-{number:06d}" for number in range(responses)]
    settings = {
        **asdict(TraceSettings(max_new_tokens=steps, prompt="raw")), "model": "random", "dtype": "float32",
        "samples": [0], "layers": list(range(layers)),
        "problems": dict.fromkeys(problems, ""), "probes": [], "null": {},
    }  # fmt: skip
    provenance = {"model": {"kind": "random", "revision": None, "weight_hash": "none"}, "versions": {}}
    run = Run.start(folder, kind="trace", settings=settings, provenance=provenance, may_grow=("problems",))
    dice = torch.Generator().manual_seed(0)
    words = _words().batch_decode([[k] for k in range(_WORDS)])
    for name in problems:
        if run.has(Cell(name)):
            continue
        ids = torch.randint(_WORDS, (steps,), generator=dice)
        mi = torch.randn(layers, steps, generator=dice, dtype=torch.float64).exp()
        tokens = [words[k] for k in ids.tolist()]
        values = torch.rand(steps, generator=dice)
        tensors = {"mi": mi, "prompt_ids": ids[:1], "token_ids": ids, "logprobs": -values, "entropy": values}
        payload = {
            "layers": list(range(layers)), "question": "?", "answer": "18", "text": "".join(tokens), "tokens": tokens,
            "finish_reason": "length", "seed": 0, "batch": [[name, 0]],
        }  # fmt: skip
        run.write(Cell(name), tensors, payload)


def bench_tables(folder: Path, stage: str) -> dict[str, float]:
    """Seconds of one stage, those of the processor, and the largest memory of this process so far, in GB."""
    import contextlib
    import io

    from analyses.commands.show_trace import show
    from analyses.report import refresh_report
    from analyses.store.run import Run
    from analyses.trace.tables import derive_tables

    begun, used = time.perf_counter(), time.process_time()
    run = Run.open(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        if stage == "plan":
            _plan(run)
        if stage in ("derive", "repeat"):
            derive_tables(run, _words(), _WORDS)
        if stage in ("show", "repeat"):
            show(run)
        if stage in ("report", "repeat"):
            refresh_report(run)
    unit = 1 if sys.platform == "darwin" else 1024  # of the kernel's number
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    spent = {"seconds": time.perf_counter() - begun, "processor": time.process_time() - used}
    return {name: round(value, 3) for name, value in spent.items()} | {"peak_gb": round(peak, 3)}


def _plan(run: Run) -> None:
    """What going on takes before the first token: pins are compared, and the one response that is left is found."""
    from analyses.store.run import Cell, Run
    from analyses.work.batches import plan_batches

    again = Run.start(run.path, kind=run.kind, settings=run.settings, provenance=run.provenance, may_grow=("problems",))
    cells = [*(Cell(name) for name in run.settings["problems"]), Cell("left")]
    planned = plan_batches(again, cells, _BATCH, list(again.failures()))
    assert [cell for batch in planned for cell in batch] == [Cell("left")]


def main(
    folder: Annotated[Path, typer.Argument(help="A run folder, new or begun by this command.")],
    responses: Annotated[int, typer.Option()] = 1000,
    layers: Annotated[int, typer.Option()] = 30,
    steps: Annotated[int, typer.Option()] = 500,
    stage: Annotated[str | None, typer.Option(help="Only this one, in this process.")] = None,
) -> None:
    """Make a large trace of random scores and tell what its tables, summary and report take."""
    if stage is not None:
        typer.echo(json.dumps(bench_tables(folder, stage)))
        return
    write_large_run(folder, responses, layers, steps)
    for name in STAGES:
        command = [sys.executable, "-m", "analyses.bench.tables", str(folder), "--stage", name]
        typer.echo(f"{name}: {subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()}")


if __name__ == "__main__":
    typer.run(main)

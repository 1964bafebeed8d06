"""``python -m analyses.bench.gpu``: whether what holds on the CPU holds on a GPU, and how fast it is there. One page.

1. What the device is, and where nHSIC is quicker: there, or on the host.
2. How often the host waits at a step, counted by torch's sync debug mode: once, for the tokens.
3. Decoding beside Hugging Face's: plain and captured steps, all streams recorded, nHSIC at all layers.
4. The contract suite of the engines, with the models on the device, where steps are captured.

Exit code 1 if a check fails, 2 without a device; ``--device cpu`` shows that the command itself runs.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

    from interp.types import Bridge

__all__ = ["Page", "check", "main", "run_suite", "waits_a_step"]

REAL, TOY = "smollm2-135m-instruct", "toy-reasoner"
SUITE = "tests/interp/contract"
SITES = ("resid_pre", "resid_mid", "resid_post")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@dataclass
class Page:
    """What is printed, and which checks failed."""

    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def say(self, line: str = "") -> None:
        self.lines.append(line)

    def check(self, holds: bool, what: str) -> None:
        """A line that begins with whether it holds.

        >>> page = Page()
        >>> page.check(False, "one wait a step")
        >>> page.lines, page.failed
        (['FAILED  one wait a step'], ['one wait a step'])
        """
        self.say(f"{'ok      ' if holds else 'FAILED  '}{what}")
        if not holds:
            self.failed.append(what)


@app.command()
def check(
    device: Annotated[str, typer.Option(help='"cuda", "cuda:1", or "cpu" for a dry run.')] = "cuda",
    model: Annotated[
        str | None, typer.Option(help=f"Bundled, pulled, a folder or a hub id; {REAL} if pulled, else {TOY}.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of the model that is timed.")] = "float32",
    out: Annotated[Path, typer.Option(help="The page as a file.")] = Path("gpu-check.txt"),
    quick: Annotated[bool, typer.Option("--quick", help="Few tokens, one timing.")] = False,
    suite: Annotated[bool, typer.Option(help="Run the tests too (in a checkout, with pytest installed).")] = True,
) -> None:
    """Check and time everything on a GPU; print one page."""
    import torch

    from analyses.store.atomic import disk_errors, make_folder, probe
    from interp.errors import InputError
    from interp.loading.models import load_model
    from interp.loading.pull import cached_model_path

    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build without CUDA"
        raise InputError(
            "gpu-check",
            expected="a CUDA device",
            received=f"none (torch {torch.__version__}, {build})",
            remedy="Run it where there is one, with a CUDA build of torch; --device cpu is a dry run.",
        )
    with disk_errors("gpu-check", out, "Choose another --out."):  # before minutes of work, not after
        make_folder(out.parent)
        probe(out.parent)
    page = Page()
    name = model or (REAL if cached_model_path(REAL) is not None and not quick else TOY)
    loaded = load_model(name, device=device, dtype=dtype)
    _about(page, place, loaded, name)
    _waits(page, place, loaded)
    _speeds(page, place, loaded, quick)
    if suite:
        _suite(page, device)
    held = "everything that was checked holds" if not page.failed else f"FAILED: {'; '.join(page.failed)}"
    page.say(f"\n{held}")
    text = "\n".join(page.lines) + "\n"
    with disk_errors("gpu-check", out, "Choose another --out."):
        out.write_text(text, encoding="utf-8")
    typer.echo(text, nl=False)
    if page.failed:
        raise typer.Exit(1)


def _about(page: Page, place: torch.device, model: Bridge, name: str) -> None:
    import torch

    from analyses.bench.machine import machine_facts
    from analyses.trace.scoring_place import scoring_device
    from interp.engines.registry import engine_told, model_facts
    from probes import nhsic

    facts, machine = model_facts(model), machine_facts()
    page.say(f"device       {_named(place)}")
    page.say(f"host         {machine['processor']}, {machine['threads']} threads; torch {torch.__version__}")
    dtype = next(model.original_model.parameters()).dtype
    page.say(f"model        {name}, {facts.n_layers} layers, d_model {facts.d_model}, {dtype}, {engine_told(model)}")
    best = scoring_device(place, nhsic, facts.d_model, dtype)
    page.say(f"nHSIC        worked out on {best} ({'there' if best == place else 'streams come to the host'})\n")


def _named(place: torch.device) -> str:
    import torch

    if place.type != "cuda":
        return f"{place} (a dry run: nothing here is about a GPU)"
    facts = torch.cuda.get_device_properties(place)
    return (
        f"{facts.name}, compute capability {facts.major}.{facts.minor}, {facts.total_memory / 2**30:.0f} GiB, "
        f"CUDA {torch.version.cuda}, {torch.cuda.device_count()} such"
    )


@contextmanager
def _captured(said: str) -> Iterator[None]:
    """Meanwhile steps are captured, or not."""
    from interp.engines.static import SWITCH

    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = said
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def waits_a_step(run: Callable[[Any], Any]) -> list[int]:
    """How often the host waited for a CUDA device between one step's tokens and the next's.

    ``run`` decodes with what it is given as ``progress``. The first step is left out: it has the prompt.

    >>> waits_a_step(lambda progress: [progress.update(1) for _ in range(3)])  # which asks no device for anything
    [0, 0]
    """
    import torch

    noted: list[int] = []
    has_device = torch.cuda.is_available()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        class Told:
            def update(self, n: int) -> None:
                noted.append(sum("synchronizing CUDA operation" in str(one.message) for one in caught))

        before = torch.cuda.get_sync_debug_mode() if has_device else 0
        if has_device:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            run(Told())
        finally:
            if has_device:
                torch.cuda.set_sync_debug_mode(before)
    return [after - before for before, after in itertools.pairwise(noted)]


def _waits(page: Page, place: torch.device, model: Bridge) -> None:
    from analyses.bench.timing import bench_prompts, endless
    from interp.decoding import decode
    from interp.engines.static import AFTER, CHECKED
    from interp.interventions import SteerResidual
    from interp.record import ResidualSites

    prompts, steady = list(bench_prompts(model, 2, 12)), AFTER + CHECKED + 1
    expected = 1 if place.type == "cuda" else 0
    steer = SteerResidual([0.1] * int(model.cfg.d_model), 0)
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("plain steps", "0", {}),
        ("all streams recorded", "0", {"record": ResidualSites(sites=SITES)}),
        ("all streams to the host", "0", {"record": ResidualSites(sites=SITES, device="cpu")}),
        ("a direction added", "0", {"interventions": steer}),
        ("captured steps, streams recorded", "1", {"record": ResidualSites(sites=SITES)}),
    ]
    with endless(model):
        for what, said, options in asked:
            told: list[str] = []

            def run(progress: Any, options: dict[str, Any] = options, told: list[str] = told) -> None:
                found = decode(model, prompts, max_new_tokens=steady + 6, progress=progress, **options)
                told.append(found[0].settings["engine"])

            with _captured(said):
                counted = waits_a_step(run)[steady:]
            # The last step is the rows' leaving.
            page.check(set(counted[:-1]) <= {expected}, f"waits a step, {what}: {sorted(set(counted[:-1]))}")
            if said == "1":
                page.check("captured" in told[0], f"captured steps were captured: {told[0]}")
    page.say()


def _speeds(page: Page, place: torch.device, model: Bridge, quick: bool) -> None:
    import torch

    from analyses.bench.timing import Timings, bench_prompts, endless, ratios

    tokens, repeats, batches = (12, 1, (2,)) if quick else (96, 3, (1, 4, 16))
    page.say("decoding: milliseconds a step, over Hugging Face sdpa's (medians); share of its tokens that are the same")
    page.say(f"{'batch':>5}  {'way':40}{'ms':>9}{'ratio':>8}{'same':>7}")
    ways = _ways(place, model)
    with endless(model), torch.no_grad():
        for batch in batches:
            prompts = bench_prompts(model, batch, 12 if quick else 60)
            timings = {name: Timings() for name in ways}
            for way in ways.values():  # the first call also pays for memory and libraries
                Timings().take(way, prompts, tokens)
            for _ in range(repeats):
                for name, way in ways.items():
                    timings[name].take(way, prompts, tokens)
            least = timings["Hugging Face sdpa"]
            for name, timing in timings.items():
                ms = 1e3 * statistics.median(timing.decode) / (tokens - 1)
                ratio = statistics.median(ratios(timing.decode, least.decode))
                same = float((timing.tokens == least.tokens).double().mean())
                page.say(f"{batch:>5}  {name:40}{ms:>9.2f}{ratio:>8.2f}{same:>7.0%}")
    page.say()


def _ways(place: torch.device, model: Bridge) -> dict[str, Any]:
    import torch
    from transformers import StoppingCriteriaList

    from analyses.bench.decoding import plain_model
    from analyses.bench.timing import PLAIN, Contender
    from analyses.trace.scoring_place import scoring_device
    from analyses.trace.step_scores import StepScores
    from interp.decoding import decode
    from interp.record import ResidualSites, ResidualStream
    from probes import nhsic
    from probes.answers import factor_answers

    n_layers, d_model = int(model.cfg.n_layers), int(model.cfg.d_model)
    best = scoring_device(place, nhsic, d_model, next(model.original_model.parameters()).dtype)

    def hugging_face(attention: str) -> Any:
        network = plain_model(model, attention)

        def generate(prompts: torch.Tensor, n: int, clock: Any) -> torch.Tensor:
            ids = prompts.to(network.device)
            whole: torch.Tensor = network.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=n,
                stopping_criteria=StoppingCriteriaList([clock]),
            )  # fmt: skip
            return whole[:, prompts.shape[1] :]

        return generate

    def ours(said: str, recorded: bool = False, scored: bool = False) -> Any:
        def generate(prompts: torch.Tensor, n: int, clock: Any) -> torch.Tensor:
            scores, record = None, ResidualSites(sites=SITES) if recorded else None
            if scored:
                answers = torch.randn(len(prompts), 1, n_layers, d_model, generator=torch.Generator().manual_seed(0))
                beside = best != place
                scores = StepScores(
                    nhsic, None, range(n_layers), "resid_post", [""] * len(prompts), answers.mul(30).to(best), beside,
                    factor_answers,
                )  # fmt: skip
                record = ResidualStream(device=best if beside else None, on_step=scores.add)
            with _captured(said):
                found = decode(
                    model, list(prompts), max_new_tokens=n, batch_size=len(prompts), record=record, progress=clock
                )
            if scores is not None:
                scores.finish()
            return torch.stack([rollout.token_ids for rollout in found])

        return generate

    ways = {
        "Hugging Face sdpa": hugging_face("sdpa"),
        "Hugging Face eager": hugging_face("eager"),
        "peaklens, plain steps": ours("0"),
        "peaklens, captured steps": ours("1"),
        "... and pre, mid, post of all layers": ours("1", recorded=True),
        "... and nHSIC at all layers": ours("1", scored=True),
    }
    return {name: Contender(name, PLAIN, act) for name, act in ways.items()}


def _suite(page: Page, device: str) -> None:
    root = Path(__file__).parents[2]
    if not (root / SUITE).is_dir():
        page.say("the tests are not here: run this in a checkout to have them run")
        return
    passed, said = run_suite(SUITE, root, device)
    page.check(passed, f"tests with the models on {device}: {said[-1]}")
    for line in said[:-1]:
        page.say(f"        {line}")


def run_suite(tests: str, root: Path, device: str) -> tuple[bool, list[str]]:
    """Run tests with the models on a device: whether all passed, the tests that did not, and the count."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "--durations=0", tests]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PEAKLENS_TEST_DEVICE": device}, capture_output=True, text=True
    )
    lines = (done.stdout + done.stderr).strip().splitlines() or ["pytest said nothing"]
    return done.returncode == 0, [*(line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad input ends in one line on standard error and exit code 2."""
    from interp.errors import InputError

    try:
        app(args=None if arguments is None else list(arguments), prog_name="python -m analyses.bench.gpu")
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

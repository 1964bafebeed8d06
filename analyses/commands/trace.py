"""The command ``peaklens trace``: its options, and the call they make."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses.commands.common import load_chosen, no_word, say, tell_engine, tell_failures, tell_prompt, tell_tracker
from analyses.commands.options import (
    AnswerColumn,
    CpusPerWorker,
    Device,
    DeviceMap,
    Dtype,
    GpusPerWorker,
    LogTo,
    MaxNewTokens,
    Model,
    N,
    On,
    Position,
    Problems,
    Prompt,
    PromptMode,
    QuestionColumn,
    Reference,
    ReferencePosition,
    Responses,
    Samples,
    Seed,
    Shape,
    SolutionColumn,
    Temperature,
    TopP,
    Workers,
    cluster_of,
    layers_of,
    names_of,
)  # fmt: skip

__all__ = ["trace"]


def trace(
    model: Model = "toy-reasoner",
    problems: Problems = None,
    responses: Responses = None,
    question: QuestionColumn = None,
    solution: SolutionColumn = None,
    answer: AnswerColumn = None,
    n: N = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Run folder; the same command goes on where it stopped.")
    ] = Path("runs/trace"),
    max_new_tokens: MaxNewTokens = 256,
    batch_size: Annotated[int, typer.Option(help="Responses decoded together.")] = 8,
    prompt: Prompt = PromptMode.auto,
    reference: Annotated[Reference, typer.Option(help="The text that stands for the answer.")] = Reference.solution,
    reference_position: ReferencePosition = Position.last,
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
    excess: Annotated[
        int | None,
        typer.Option(
            help="References of other answers that each response is scored beside; 0 is none.",
            show_default="20 in a new run",
        ),
    ] = None,
    pool: Annotated[
        Path | None,
        typer.Option(help="Problems that other answers are taken from; all of --problems unless given."),
    ] = None,
    lens: Annotated[
        int | None,
        typer.Option(
            help="Responses of which the report has the words of the logit lens; 0 is none.",
            show_default="as many as cost little",
        ),
    ] = None,
    thinking_markers: Annotated[
        list[str] | None, typer.Option(help="What opens and closes thinking beside what is known: '<plan>...</plan>'.")
    ] = None,
    workers: Workers = None,
    on: On = None,
    gpus_per_worker: GpusPerWorker = None,
    cpus_per_worker: CpusPerWorker = None,
    shape: Shape = None,
    log_to: LogTo = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try problems again that failed before.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, from a short warm-up.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    device_map: DeviceMap = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON on standard output.")] = False,
) -> None:
    """Let a model think about problems, or read what it thought, and score every (layer, step) against the answer."""
    from analyses.commands.show_trace import progress_bar, show, show_estimate
    from analyses.problems import load_problems
    from analyses.report.summary import summary
    from analyses.responses import load_responses
    from analyses.sharing.tracking import check_tracker
    from analyses.trace.estimate import estimate_trace
    from analyses.trace.given import settings_without_decoding
    from analyses.trace.probing import Probing
    from analyses.trace.settings import TABLE_SETTINGS, TraceSettings, check_work
    from analyses.trace.tracing import trace as run_trace
    from interp.arguments import as_whole
    from interp.loading.layers import check_layers
    from probes.scale import sigma_of

    bandwidths = [sigma_of("trace", part) for part in sigma.split(",")]
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "prompt": str(prompt), "reference": str(reference),
        "reference_position": str(reference_position),
        "layers": layers_of(layers), "site": site, "temperature": temperature, "top_p": top_p, "samples": samples,
        "seed": seed, "sigma": bandwidths[0], "eps": eps, "drop_top": drop_top, "tau": tau,
        "thinking_markers": [pair.split("...", 1) for pair in thinking_markers or ()],
    }  # fmt: skip
    probing: dict[str, Any] = {
        "probes": (*names_of(probes), *(f"nhsic@{other}" for other in sigma.split(",")[1:])),
        "null": null, "null_match": null_match, "null_statistic": null_statistic, "excess": excess,
    }  # fmt: skip
    # What is wrong with options or problems is said before a model is loaded.
    TraceSettings(**settings)
    Probing(**probing)
    silent = quiet or as_json
    tell = no_word if silent else say
    cluster, shaped = cluster_of(on, gpus_per_worker, cpus_per_worker, device_map, shape, dry_run, tell)
    *_, spread = check_work("trace", n, batch_size, workers, cluster)
    if log_to is not None:
        check_tracker(log_to)
    lens = None if lens is None else as_whole(lens, "trace", "lens", 0)
    columns = {"question": question, "solution": solution, "answer": answer}
    said = None if not responses else load_responses(responses)
    if said is not None:
        settings_without_decoding(TraceSettings(**settings))
        if dry_run:
            count, characters = len(said.stored), sum(len(one.text or "") for one in said.stored)
            typer.echo(
                f"{count} responses of {characters} characters to read, each once; {len(said.refused)} unreadable"
            )
            return
    chosen = None if problems is None else load_problems(problems, n=n if said is None else None, **columns)
    source = pool or problems
    others = load_problems(source, n=None, **columns) if source is not None and (null or excess != 0) else None
    check_layers(model, settings["layers"], "trace")
    loaded = load_chosen(model, device, dtype, device_map, silent, None if dry_run else spread)
    if not silent:
        tell_prompt(loaded, prompt, out)
        tell_engine(loaded, out)
    common: dict[str, Any] = {
        "n": n if chosen is None or said is not None else None, "batch_size": batch_size, "workers": workers,
        "on": cluster, "pool": others, **settings, **probing,
    }  # fmt: skip
    if dry_run:
        found = estimate_trace(loaded, chosen, out, shape=shaped, **common)
        if as_json:
            typer.echo(json.dumps(asdict(found)))
        else:
            show_estimate(found)
        return
    with progress_bar(enabled=not silent) as progress:
        run = run_trace(
            loaded, chosen, out, lens=lens, retry_failed=retry_failed, progress=progress, responses=said, **common
        )
    for name, (before, now) in run.replaced.items():
        if name in TABLE_SETTINGS and before is not None:  # an older run did not note it
            say(f"{name} is {now} now and was {before}: the tables are derived anew with it")
    if as_json:
        typer.echo(json.dumps(summary(run)))
    elif not quiet:
        show(run)
    tell_tracker(log_to, run)
    tell_failures(run.failures(), "response")

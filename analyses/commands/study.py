"""The command ``peaklens study``: its options, and the call they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from analyses.commands.common import load_chosen, no_word, say, tell_engine, tell_failures, tell_prompt
from analyses.commands.completion import study_names
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
    pair_of,
)  # fmt: skip

__all__ = ["study"]


def study(
    name: Annotated[
        str,
        typer.Argument(
            help="Of a study, or a .py file with one of your own; none lists them.", autocompletion=study_names
        ),
    ] = "",
    model: Model = "toy-reasoner",
    problems: Problems = None,
    responses: Responses = None,
    question: QuestionColumn = None,
    solution: SolutionColumn = None,
    answer: AnswerColumn = None,
    n: N = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; runs/NAME unless given.")] = None,
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
    prompt: Prompt = PromptMode.auto,
    reference_position: ReferencePosition = Position.last,
    layers: Annotated[str, typer.Option(help='Layers of the baseline\'s nHSIC: "all" or numbers.')] = "all",
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    samples: Samples = 1,
    seed: Seed = 0,
    workers: Workers = None,
    on: On = None,
    gpus_per_worker: GpusPerWorker = None,
    cpus_per_worker: CpusPerWorker = None,
    shape: Shape = None,
    log_to: LogTo = None,
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
    from analyses.commands.show_study import do_dry_run, do_study
    from analyses.problems import load_problems
    from analyses.responses import load_responses
    from analyses.sharing.tracking import check_tracker
    from analyses.studies import STUDIES, find_study, make_study
    from analyses.studies.plan import check_study_layers
    from analyses.trace.settings import TraceSettings, check_work
    from interp.errors import InputError

    if not name:
        for known in STUDIES:
            typer.echo(f"{known:14}{find_study(known).title} ({find_study(known).source})")
        return
    chosen = make_study(name, dict(pair_of(option) for option in options or ()))
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "prompt": str(prompt), "reference_position": str(reference_position),
        "layers": layers_of(layers), "temperature": temperature, "top_p": top_p, "samples": samples, "seed": seed,
    }  # fmt: skip
    TraceSettings(**settings)
    said = None if not responses else load_responses(responses)
    if said is not None and dry_run:
        raise InputError(
            "study",
            expected="--dry-run, which measures decoding, or --responses",
            received="both",
            remedy="Leave --dry-run out: each response is read once.",
        )
    silent = quiet or as_json
    tell = no_word if silent else say
    cluster, shaped = cluster_of(on, gpus_per_worker, cpus_per_worker, device_map, shape, dry_run, tell)
    *_, spread = check_work("study", n, batch_size, workers, cluster)
    if log_to is not None:
        check_tracker(log_to)
    columns = {"question": question, "solution": solution, "answer": answer}
    # All of them: the first calibrate the study, whatever n is.
    asked = None if problems is None else load_problems(problems, n=None, **columns)
    check_study_layers(chosen, model, settings["layers"])
    loaded = load_chosen(model, device, dtype, device_map, silent, None if dry_run else spread)
    folder = out or Path("runs") / chosen.name
    if not (silent or chosen.other_models()):  # two models, one of them without a template, are asked raw
        tell_prompt(loaded, prompt, folder, "baseline")
    if not silent:
        tell_engine(loaded, folder)
    common: dict[str, Any] = {
        "n": n, "words": words, "batch_size": batch_size, "workers": workers, "on": cluster,
        "calibrate": calibrate, **settings,
    }  # fmt: skip
    if dry_run:
        do_dry_run(chosen, loaded, asked, as_json, shape=shaped, **common)
    else:
        more: dict[str, Any] = {
            "retry_failed": retry_failed,
            "baselines": baselines,
            "responses": said,
            "log_to": log_to,
        }
        tell_failures(do_study(chosen, loaded, asked, folder, quiet, as_json, **more, **common), "cell")

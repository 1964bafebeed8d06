"""Options that several commands have, each with its help text, once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.commands.completion import local_models
from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.work.on_ray import Ray

__all__ = [
    "AnswerColumn",
    "CpusPerWorker",
    "Device",
    "DeviceMap",
    "Dtype",
    "GpusPerWorker",
    "LogTo",
    "MaxNewTokens",
    "Model",
    "N",
    "On",
    "Position",
    "Problems",
    "Prompt",
    "PromptMode",
    "QuestionColumn",
    "Reference",
    "ReferencePosition",
    "Responses",
    "Samples",
    "Seed",
    "Shape",
    "SolutionColumn",
    "Temperature",
    "TopP",
    "Workers",
    "cluster_of",
    "device_map_of",
    "layers_of",
    "names_of",
    "pair_of",
]  # fmt: skip


class PromptMode(StrEnum):
    auto = "auto"
    raw = "raw"
    chat = "chat"


class Reference(StrEnum):
    solution = "solution"
    answer = "answer"


class Where(StrEnum):
    ray = "ray"


class Position(StrEnum):
    last = "last"
    predicts = "predicts"


Model = Annotated[
    str,
    typer.Option(
        help="Bundled or pulled name, hub id, Hugging Face folder, or .gguf file.", autocompletion=local_models
    ),
]
Problems = Annotated[Path | None, typer.Option(help="JSONL, CSV or Parquet; toys have bundled problems.")]
Responses = Annotated[
    list[Path] | None,
    typer.Option(
        help="Responses that are there already, read instead of decoding: our JSONL, lm-eval, Inspect, vLLM, chat "
        "completions, a data set on disk, a run folder. May be given several times."
    ),
]
LogTo = Annotated[str | None, typer.Option(help="Tell a tracker of the result too: mlflow or wandb (docs/SHARING.md).")]
QuestionColumn = Annotated[str | None, typer.Option(help="Column of the question.")]
SolutionColumn = Annotated[str | None, typer.Option(help="Column of the gold solution.")]
AnswerColumn = Annotated[str | None, typer.Option(help="Column of the gold answer.")]
N = Annotated[int | None, typer.Option("--n", "-n", help="The first N problems.")]
Prompt = Annotated[
    PromptMode,
    typer.Option(help="The question as it is (raw), in the chat template (chat), or chat where there is one (auto)."),
]
ReferencePosition = Annotated[
    Position,
    typer.Option(help="Where the reference is read: its last token, or where it predicts its answer's first token."),
]
MaxNewTokens = Annotated[int, typer.Option(help="Response tokens at most.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
TopP = Annotated[float, typer.Option(help="Nucleus; 1 is everything.")]
Samples = Annotated[int, typer.Option(help="Responses a problem (needs a temperature).")]
Seed = Annotated[int, typer.Option(help="Of the sampling.")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes, each with a model of its own, and a GPU of its own where there are several.",
        show_default="1; on a cluster, as many as there is room for",
    ),
]
On = Annotated[
    Where | None,
    typer.Option(help="A cluster for the workers: ray, that of RAY_ADDRESS, or one that is started here."),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        help="On a cluster: below 1 they share one; above, the model is spread over them (--device-map).",
        show_default="1 where nodes have any",
    ),
]
CpusPerWorker = Annotated[
    int | None, typer.Option(help="On a cluster: CPUs, and threads, of each worker.", show_default="1")
]
Shape = Annotated[
    str | None,
    typer.Option(help="With --dry-run: of a cluster, NODESxGPUS, e.g. 4x8 (CPUs with --gpus-per-worker 0)."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps ...")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 ...")]
DeviceMap = Annotated[str | None, typer.Option(help='accelerate\'s: "auto", or a JSON object.')]


def layers_of(text: str) -> str | list[int]:
    if text.strip() == "all":
        return "all"
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            "trace", expected='--layers "all" or numbers like 0,5,-1', received=repr(text), remedy="Separate by commas."
        ) from None


def device_map_of(text: str) -> str | dict[str, Any]:
    if not text.lstrip().startswith("{"):
        return text
    try:
        return dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise InputError(
            "trace",
            expected='--device-map "auto" or a JSON object',
            received=f"{text[:60]!r} ({error})",
            remedy='For example \'{"": "cpu"}\'.',
        ) from error


def cluster_of(
    on: Where | None,
    gpus: float | None,
    cpus: int | None,
    device_map: str | None,
    shape: str | None,
    dry_run: bool,
    tell: Callable[[str], None],
) -> tuple[Ray | None, tuple[int, int] | None]:
    """The cluster that is asked for, and the shape of one that there is to be.

    Raises:
        InputError: options that say nothing where they were given.
    """
    if shape is not None and not dry_run:
        raise InputError(
            "work on ray", expected="--shape with --dry-run", received="it alone", remedy="Leave it out, or add that."
        )
    if on is None and shape is None:
        if gpus is not None or cpus is not None:
            raise InputError(
                "work on ray",
                expected="--gpus-per-worker and --cpus-per-worker with --on ray",
                received="them without it",
                remedy="Add --on ray, or leave them out.",
            )
        return None, None
    numbers = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", shape or "1x1")
    if numbers is None:
        raise InputError(
            "work on ray", expected="--shape NODESxGPUS, e.g. 4x8", received=repr(shape), remedy="Give two numbers."
        )
    from analyses.work.on_ray import Ray

    spread = None if device_map is None or dry_run else device_map_of(device_map)  # a dry run loads the model here
    ray = Ray(gpus, 1 if cpus is None else cpus, spread, tell)
    return ray, None if shape is None else (int(numbers[1]), int(numbers[2]))


def names_of(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def pair_of(option: str) -> tuple[str, str]:
    key, equals, value = option.partition("=")
    if not equals:
        raise InputError(
            "study", expected="--set option=value", received=option, remedy="Write it with an equals sign."
        )
    return key.strip(), value.strip()

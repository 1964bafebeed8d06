"""Folders that hold responses: a Hugging Face data set saved to disk, and a run of our own."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from analyses.responses.stored import Stored
from analyses.store.run import Run
from interp.errors import InputError
from interp.foreign import foreign_errors

__all__ = ["DATASET", "RUN", "dataset_rows", "is_dataset", "is_run", "run_rows"]

DATASET = "Hugging Face data set"
RUN = "run"


def is_dataset(folder: Path) -> bool:
    """Whether a folder is what ``save_to_disk`` wrote, of one split or of several."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def dataset_rows(folder: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a data set on disk.

    Raises:
        InputError: the library is missing, the folder is damaged, or it has several splits and none is named.
    """
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise InputError(
            "read responses",
            expected="the package datasets, which reads data sets on disk",
            received=f"{folder}, and {error}",
            remedy="Install it: pip install datasets.",
        ) from error
    if (folder / "dataset_dict.json").is_file():
        with foreign_errors("read responses", expected=f"a data set on disk: {folder}", remedy="Save it again."):
            splits = list(json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"])
        if len(splits) != 1:
            raise InputError(
                "read responses",
                expected="a data set of one split",
                received=f"{folder} with {', '.join(map(str, splits)) or 'none'}",
                remedy=f"Name one of its folders, e.g. {folder / str(next(iter(splits), 'train'))}.",
            )
        folder = folder / Path(str(splits[0])).name
    with foreign_errors("read responses", expected=f"a data set on disk: {folder}", remedy="Save it again."):
        rows = load_from_disk(str(folder))
    for number in range(len(rows)):
        yield f"row {number + 1}", rows[number]


def is_run(folder: Path) -> bool:
    """Whether a folder is a run of ours."""
    return (folder / "run.json").is_file()


def run_rows(folder: Path) -> Iterator[tuple[str, Stored]]:
    """The responses of a trace's own folder, with the very tokens of prompt and response.

    Raises:
        InputError: it is no run of a trace, or a cell is damaged.
    """
    run = Run.open(folder)
    if run.kind != "trace":
        raise InputError(
            "read responses",
            expected="the run of a trace",
            received=f"{folder}, a run of kind {run.kind}",
            remedy="Name a folder that peaklens trace has written.",
        )
    for cell in run.cells("baseline"):
        data = run.read(cell)
        payload = data.payload
        yield (
            f"response {cell.sample} of problem {cell.problem!r}",
            Stored(
                where="",
                form=RUN,
                id=cell.problem,
                sample=cell.sample,
                question=payload.get("question") or None,
                prompt_ids=array("i", data.tensors["prompt_ids"].tolist()),
                text=payload["text"],
                token_ids=array("i", data.tensors["token_ids"].tolist()),
                answer=payload.get("answer", ""),
                solution=payload.get("solution", ""),
                finish=payload["finish_reason"],
            ),
        )

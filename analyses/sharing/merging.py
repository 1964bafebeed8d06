"""Several runs of equal settings as one: other problems, or other samples, recorded anywhere.

1. What ``run.json`` pins is compared part by part: settings, the model by the digest of its weights, the pools that
   other answers are drawn from. What differs is refused by its name. Problems, samples, given responses and files they
   came from are joined.
2. Cells are copied as they are, each once. Two that say different things about one (problem, sample) are refused and
   named, or the first is kept where that is asked for.
3. The new folder appears whole or not at all. Its tables and its page are derived from all of its cells, with the
   model's tokenizer alone; a run that it is not here for gets them when it goes on.

The tables are those of one run over all problems. Scores may differ from that run's in their last digits, as always
where responses were decoded in other batches: each cell keeps the numbers of the batch that it was decoded in.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from analyses.store.atomic import disk_errors, new_folder, replacing
from analyses.store.cells import Cell, CellData, Place, cell_called, read_cell
from analyses.store.pinned import merge_pinned, read_pinned, write_pinned
from analyses.store.run import Run
from analyses.store.shards import every_place, write_places
from analyses.trace.others import OTHERS_FILE
from analyses.trace.provenance import RunWarning, compare_provenance
from analyses.trace.run import TraceRun
from analyses.trace.tables import derive_tables
from analyses.trace.wrong_answers import POOL_FILE
from interp.errors import InputError
from interp.loading.hugging_face import load_tokenizer
from interp.loading.identity import tokenizing
from interp.loading.models import local_folder

__all__ = ["MERGED_FILE", "merge"]

MERGED_FILE = "merged.json"
"""What a merged run notes of the runs that it is made of."""

_JOINED = ("problems", "samples", "responses", "responses_from", "data")
_CARRIED = (OTHERS_FILE, POOL_FILE, "calibration.safetensors")
_PACKED = 1000  # cells from which on they are packed
_OPERATION = "merge"


def merge(
    runs: Sequence[str | Path | Run],
    out: str | Path,
    *,
    keep_first: bool = False,
    model: str | Path | None = None,
    report: bool = True,
) -> Run:
    """Join runs into a new folder.

    >>> import tempfile
    >>> from analyses.problems import bundled_problems
    >>> from analyses.trace import trace
    >>> some, options = bundled_problems(2), {"pool": bundled_problems(8), "max_new_tokens": 4, "report": False}
    >>> with tempfile.TemporaryDirectory() as text:
    ...     parts = [trace("toy-reasoner", [one], f"{text}/{one.id}", **options) for one in some]
    ...     merged = merge(parts, f"{text}/merged", report=False)
    ...     len(merged.cells()), merged.peaks["problem"].nunique()
    (2, 2)

    Args:
        runs: folders of traces or of one study, or what `trace` returned; two at least.
        out: a new folder, or an empty one.
        keep_first: of cells that differ take those of the run that is named first, and note which they are, instead of
            refusing.
        model: whose tokenizer the tables are derived with, where the name that the runs have for it leads nowhere here.
        report: write report.html too.

    Raises:
        InputError: settings, models or pools that differ, with their names; cells that differ; a damaged cell; a folder
            that is there; a disk that refuses. The folder is not there then.

    Warns:
        RunWarning: tables that could not be derived here; other versions; cells that differ, with `keep_first`.
    """
    target = Path(out)
    opened = [run if isinstance(run, Run) else Run.open(run) for run in runs]
    _check(opened, target)
    pinned = _pinned(opened)
    cells = _cells(opened, keep_first)
    tokenizer = _tokenizer(pinned, model) if pinned["kind"] == "trace" else None
    remedy = "Free some space, or choose another folder: the runs are as they were, and nothing is left of this one."
    with disk_errors(_OPERATION, target, remedy), new_folder(target) as folder:
        write_places(folder, cells.places, least=_PACKED)
        for name in _CARRIED:
            if file := next((run.path / name for run in opened if (run.path / name).is_file()), None):
                shutil.copyfile(file, folder / name)
        _note(folder, opened, cells)
        write_pinned(folder, pinned)
        made = TraceRun.open(folder)
        if failures := {cell: why for run in reversed(opened) for cell, why in run.failures().items()}:
            made.record_failures(failures)
        if tokenizer is not None:
            derive_tables(made, tokenizer, _vocabulary(pinned))
            if report and made.cells():
                _report(made)
    _tell(pinned, tokenizer, cells)
    return TraceRun.open(target) if pinned["kind"] == "trace" else Run.open(target)


def _check(opened: Sequence[Run], target: Path) -> None:
    if len(opened) < 2:
        raise InputError(
            _OPERATION, expected="at least two runs", received=str(len(opened)), remedy="Name their folders."
        )
    where = [run.path.resolve() for run in opened]
    if len(set(where)) < len(where):
        raise InputError(
            _OPERATION,
            expected="different run folders",
            received=f"{next(path for path in where if where.count(path) > 1)} twice",
            remedy="Name each once.",
        )
    if target.exists() and (not target.is_dir() or next(target.iterdir(), None) is not None):
        raise InputError(
            _OPERATION,
            expected="a new folder, or an empty one",
            received=f"{target}, which is there",
            remedy="Choose another --out; runs are never merged into one of themselves.",
        )


def _pinned(opened: Sequence[Run]) -> dict[str, Any]:
    """What the merged run pins: the first's settings, grown by those of the others."""
    first, *others = [read_pinned(run.path) for run in opened]
    for run, other in zip(opened[1:], others, strict=True):
        for old, new in _names(first["settings"], other["settings"]):
            new["model"] = old["model"]  # its name only: what it is, the provenance says
        settings = first["settings"].get("baseline", first["settings"])

        def judge(
            old: dict[str, Any], new: dict[str, Any], chat: bool = settings.get("prompt") == "chat"
        ) -> tuple[dict[str, Any], list[str]]:
            return compare_provenance(old, new, chat=chat)

        try:
            with warnings.catch_warnings(action="ignore", category=RunWarning):  # of going on, which this is not
                first = merge_pinned(run.path, first, other, _JOINED, judge=judge)
        except InputError as error:
            raise InputError(
                _OPERATION,
                expected=f"runs of equal settings and one model, as {opened[0].path} has them",
                received=f"in {run.path} (now): {error.received}",
                remedy="Leave that run out, or record it again with those settings. Runs of parts of one problem file "
                "draw other answers from the same pool with trace --pool FILE.",
            ) from error
    return first | {"created": datetime.now(UTC).isoformat(timespec="seconds")}


def _names(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Where settings hold the model's name: their own, and those of a study's baseline."""
    pairs = [(old, new), (old.get("baseline"), new.get("baseline"))]
    return [(a, b) for a, b in pairs if isinstance(a, dict) and isinstance(b, dict) and "model" in a and "model" in b]


@dataclass(frozen=True)
class _Cells:
    """The cells of the merged run: where each is, how many each run gave, and which are not the same in another."""

    places: dict[str, Place] = field(default_factory=dict)
    taken: list[int] = field(default_factory=list)
    differing: dict[Cell, str] = field(default_factory=dict)


def _cells(opened: Sequence[Run], keep_first: bool) -> _Cells:
    found, whole = _Cells(), {}
    for run in opened:
        before = len(found.places)
        for name, place in sorted(every_place(run.path).items()):
            cell = cell_called(name, place)
            if cell is None:
                continue
            if name not in found.places:
                read_cell(place, cell)  # refuses a damaged one by the name of its own file
                found.places[name], whole[name] = place, run.path
            elif why := _difference(found.places[name], place, cell):
                found.differing[cell] = f"{why}, in {whole[name]} and {run.path}"
        found.taken.append(len(found.places) - before)
    if found.differing and not keep_first:
        cell, why = next(iter(found.differing.items()))
        raise InputError(
            _OPERATION,
            expected="cells that several runs have to be the same in each",
            received=f"{len(found.differing)} that differ, the first (problem {cell.problem!r}, sample {cell.sample}): "
            f"{why}",
            remedy="Keep those of the run that is named first with keep_first (--keep-first), or leave a run out.",
        )
    return found


def _difference(place: Place, other: Place, cell: Cell) -> str:
    """What differs between two cells of one name; which others each was decoded with does not count."""
    if place.read() == other.read():
        return ""
    one, two = read_cell(place, cell), read_cell(other, cell)
    named = [f"payload {name}" for name in _apart(one.payload, two.payload) if name != "batch"]
    named += [f"tensor {name}" for name in _tensors_apart(one, two)]
    return f"other {', '.join(named)}" if named else ""


def _apart(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    texts = [{name: json.dumps(value, sort_keys=True) for name, value in each.items()} for each in (one, two)]
    return [name for name in {**texts[0], **texts[1]} if texts[0].get(name) != texts[1].get(name)]


def _tensors_apart(one: CellData, two: CellData) -> list[str]:
    import torch

    names = {**one.tensors, **two.tensors}
    return [
        name
        for name in names
        if name not in one.tensors
        or name not in two.tensors
        or one.tensors[name].shape != two.tensors[name].shape
        or not torch.equal(_bytes(one, name), _bytes(two, name))
    ]


def _bytes(data: CellData, name: str) -> Any:
    import torch

    return data.tensors[name].contiguous().reshape(-1).view(torch.uint8)  # NaN is NaN


def _tokenizer(pinned: Mapping[str, Any], model: str | Path | None) -> Any:
    """The tokenizer of the runs' model; ``None`` where it is not here, or another by now."""
    name = str(pinned["settings"].get("model") if model is None else model)
    folder = Path(name) if name.endswith(".gguf") and Path(name).is_file() else local_folder(name)
    wanted = pinned["provenance"].get("model", {}).get("tokenizing")
    found = None if folder is None else load_tokenizer(name, folder)
    if found is not None and wanted in (None, tokenizing(found)):
        return found
    if model is not None:
        raise InputError(
            _OPERATION,
            expected="a model on this machine with the tokenizer of the runs",
            received=f"{name}, {'which is not here' if found is None else 'which has another'}",
            remedy="Name another folder, or leave model out: tables are then derived when the run goes on.",
        )
    return None


def _vocabulary(pinned: Mapping[str, Any]) -> int:
    config = pinned["provenance"].get("model", {}).get("config", {})
    return int(config.get("vocab_size") or config.get("text_config", {}).get("vocab_size") or 0)


def _report(run: Run) -> None:
    from analyses.report import refresh_report

    refresh_report(run)


def _note(folder: Path, opened: Sequence[Run], cells: _Cells) -> None:
    """Which runs it is made of, by the names of their folders, for a reader."""
    content = {
        "merged": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": version("peaklens"),
        "runs": [
            {"run": run.path.resolve().name, "created": run.created, "problems": len(run.settings.get("problems", ())),
             "cells": taken}
            for run, taken in zip(opened, cells.taken, strict=True)
        ],
        "kept_of_differing": [
            {"condition": cell.condition, "problem": cell.problem, "sample": cell.sample} for cell in cells.differing
        ],
    }  # fmt: skip
    with replacing(folder / MERGED_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _tell(pinned: Mapping[str, Any], tokenizer: Any, cells: _Cells) -> None:
    told = []
    if cells.differing:
        named = ", ".join(f"{cell.problem} (sample {cell.sample})" for cell in list(cells.differing)[:5])
        told.append(f"{len(cells.differing)} cells differ between runs, those of the first are kept: {named}")
    if pinned["kind"] != "trace":
        told.append("the tables of a study are derived when its command is run on the merged folder")
    elif tokenizer is None:
        told.append(
            f"the tokenizer of {pinned['settings'].get('model')} is not here, or another by now: tables are derived "
            "when the run goes on, or name the model"
        )
    writers = [dict(one.get("versions") or {}) for one in pinned["provenance"].get("writers") or ()]
    if any(one != writers[0] for one in writers):
        told.append("the runs were written by different versions, which run.json lists; last digits may differ")
    for sentence in told:
        warnings.warn(sentence, RunWarning, stacklevel=3)

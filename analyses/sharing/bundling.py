"""A site of many runs: a folder with an index, their pages and tables, that opens from disk.

    site/index.html                    the runs in a table that sorts, the readings of studies, what to cite
    site/runs.csv                      the same table for programs
    site/runs/NAME/report.html         the page of each run, and its tables, run.json and failures beside it

1. What the index tells of each folder is read by :mod:`analyses.sharing.entries`. Runs of one name get folders of their
   own; one that is unfinished or broken is listed with the reason.
2. The site is written beside its place and moved there when it is whole (`analyses.store.atomic.new_folder`).

All links are relative, nothing is asked of any network, and text of models and data sets is shown as text. Of a model
that lay in a folder of this machine the last name is told alone.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from analyses.report import write_report
from analyses.sharing.entries import BROKEN, BUNDLE_FILE, Entry, entry_of, run_folders, slugs
from analyses.sharing.site_page import index_page
from analyses.store.about import name_of
from analyses.store.atomic import disk_errors, new_folder
from analyses.store.run import Run
from interp.errors import InputError

__all__ = ["bundle"]

_OPERATION = "bundle"
_BESIDE = ("failures.json", "merged.json")


def bundle(
    runs: str | Path | Sequence[str | Path],
    out: str | Path = "site",
    *,
    title: str = "peaklens runs",
    tables: bool = True,
) -> Path:
    """Write a site of these runs; the page to open.

    >>> import tempfile
    >>> from analyses.trace import trace
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = trace("toy-reasoner", n=1, out=f"{folder}/first", max_new_tokens=8)
    ...     page = bundle([run.path], f"{folder}/site")
    ...     page.name, sorted(file.name for file in page.parent.iterdir())
    ('index.html', ['bundle.json', 'index.html', 'runs', 'runs.csv'])

    Args:
        runs: folders of traces and studies, or folders that hold such.
        out: the site's folder: new, empty, or a site that this wrote before, which is replaced.
        title: of the index.
        tables: whether to copy the tables too; those of a large run are large.

    Raises:
        InputError: no run; a folder that holds something else; a disk that refuses. What was there before stays then.
    """
    given = [runs] if isinstance(runs, str | Path) else list(runs)
    target = Path(out)
    folders = run_folders(given)
    if not any((folder / "run.json").is_file() for folder in folders):
        raise InputError(
            _OPERATION,
            expected="run folders of traces or studies, or folders that hold such",
            received=", ".join(map(str, given)) or "none",
            remedy="Check the paths; a run is the folder given as output.",
        )
    if target.exists() and not _may_be_replaced(target):
        raise InputError(
            _OPERATION,
            expected="a new folder, an empty one, or a site that was bundled before",
            received=f"{target}, which holds something else",
            remedy="Choose another --out.",
        )
    entries = [entry_of(folder, slug) for folder, slug in zip(folders, slugs(folders), strict=True)]
    remedy = "Free some space, or choose another folder; what was there before is untouched."
    with disk_errors(_OPERATION, target, remedy), new_folder(target, replace=True) as site:
        copied = [_copy(entry, site / "runs" / entry.slug, tables) for entry in entries]
        entries = [entry for entry, _ in copied]
        page = index_page(title, entries, {entry.slug: files for entry, files in copied})
        (site / "index.html").write_text(page, encoding="utf-8")
        _write_csv(site / "runs.csv", entries)
        marker = {"made_by": f"peaklens {version('peaklens')}", "runs": [entry.slug for entry in entries]}
        (site / BUNDLE_FILE).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    return target / "index.html"


def _may_be_replaced(target: Path) -> bool:
    return target.is_dir() and ((target / BUNDLE_FILE).is_file() or next(target.iterdir(), None) is None)


def _copy(entry: Entry, folder: Path, tables: bool) -> tuple[Entry, list[str]]:
    """Copy what a reader is given of a run: what is then told of it, and the names of the files, the page first."""
    run = entry.run
    if run is None:
        return entry, []
    folder.mkdir(parents=True)
    written = []
    try:
        written += ["report.html"] if _page(entry, run, folder / "report.html") else []
    except InputError as error:
        if error.operation == "write report":  # the disk's fault, not the run's
            raise
        entry = replace(entry, state=BROKEN, reason=f"its page cannot be made: {error.received}")
    for name in (*(run.tables if tables else ()), *_BESIDE):
        if (run.path / name).is_file():
            shutil.copyfile(run.path / name, folder / name)
            written.append(name)
    (folder / "run.json").write_text(json.dumps(_without_folders(run), indent=1) + "\n", encoding="utf-8")
    return entry, [*written, "run.json"]


def _page(entry: Entry, run: Run, target: Path) -> bool:
    """The run's page, made anew where a trace has none that is as new as its tables; whether there is one."""
    own = run.path / "report.html"
    if entry.kind == "trace" and entry.peaks is not None:
        newest = max((run.path / name).stat().st_mtime_ns for name in run.tables)
        if not own.is_file() or own.stat().st_mtime_ns < newest:
            write_report([run], target)
            return True
    if own.is_file():
        shutil.copyfile(own, target)
    return own.is_file()


def _without_folders(run: Run) -> dict[str, Any]:
    """What ``run.json`` says, models by their last names."""
    content = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    settings, provenance = content.get("settings", {}), content.get("provenance", {})
    for holder in (settings, settings.get("baseline"), *(provenance.get("writers") or ())):
        if isinstance(holder, dict) and isinstance(holder.get("model"), str):
            holder["model"] = name_of(holder["model"])
    return content


def _write_csv(file: Path, entries: Sequence[Entry]) -> None:
    names = [
        "folder", "run", "kind", "state", "reason", "model", "revision", "weights_sha256", "model_licence", "data",
        "created", "responses", "problems", "graded", "right", "accuracy", "low", "high", "layer", "peaks",
        "peak_ratio", "settings",
    ]  # fmt: skip
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(names)
        for one in entries:
            accuracy, peaks = one.accuracy, one.peaks
            writer.writerow([
                f"runs/{one.slug}", one.name, one.kind, one.state, one.reason, one.model, one.revision, one.weights,
                one.model_licence, one.data, one.created, one.responses, one.problems, one.graded, one.right,
                *(("", "", "") if accuracy is None else (accuracy.estimate, accuracy.low, accuracy.high)),
                *(("", "", "") if peaks is None else (peaks.layer, peaks.count, peaks.ratio)), one.settings,
            ])  # fmt: skip

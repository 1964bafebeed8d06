"""What the index of a site tells of a run folder, whatever state that is in.

1. `run_folders` finds the runs that are meant: a run folder itself, or all below a folder.
2. `entry_of` reads what `run.json` and the tables say. What cannot be read makes an entry with the reason, so that one
   broken run hides no other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analyses.stats import Estimate, proportion
from analyses.store.about import NOT_STATED, data_told, licence_told, name_of
from analyses.store.atomic import is_temporary
from analyses.store.run import Run
from analyses.studies import STUDIES, find_study
from analyses.studies.kept import as_kept
from interp.errors import InputError

__all__ = ["Entry", "Peaks", "entry_of", "run_folders", "slugs"]

BUNDLE_FILE = "bundle.json"
"""What marks a site, whose copies of tables are no runs."""

FINISHED, UNFINISHED, BROKEN = "finished", "unfinished", "broken"


@dataclass(frozen=True)
class Peaks:
    """Means over responses at the last layer."""

    layer: int
    count: float
    ratio: float


@dataclass(frozen=True)
class Entry:
    """One run of a site.

    Attributes:
        slug: its folder within the site.
        kind: trace or study; "" where that cannot be read.
        state: finished, unfinished or broken; `reason` says why, or what failed.
        responses, problems: how many there are, of a study in all conditions.
        graded, right: responses with a verdict, and right ones.
        title, readings: of a study.
    """

    path: Path
    slug: str
    state: str
    reason: str = ""
    kind: str = ""
    title: str = ""
    model: str = NOT_STATED
    revision: str = "none"
    weights: str = ""
    model_licence: str = NOT_STATED
    data: str = NOT_STATED
    created: str = ""
    settings: str = ""
    responses: int = 0
    problems: int = 0
    graded: int = 0
    right: int = 0
    accuracy: Estimate | None = None
    peaks: Peaks | None = None
    readings: tuple[str, ...] = ()
    run: Run | None = None

    @property
    def name(self) -> str:
        return self.path.resolve().name


def run_folders(paths: Sequence[str | Path]) -> list[Path]:
    """The folders meant: each that is a run, those of the runs below each that is none, and what is neither.

    >>> run_folders(["no/such"])
    [PosixPath('no/such')]
    """
    found: list[Path] = []
    for path in map(Path, paths):
        below = [] if (path / "run.json").is_file() or not path.is_dir() else _below(path)
        found += [folder for folder in below or [path] if folder not in found]
    return found


def _below(path: Path) -> list[Path]:
    """Run folders anywhere below, not within sites or what is being written."""
    found: list[Path] = []
    for child in sorted(path.iterdir()):
        if not child.is_dir() or child.is_symlink() or is_temporary(child) or (child / BUNDLE_FILE).is_file():
            continue
        found += [child] if (child / "run.json").is_file() else _below(child)
    return found


def slugs(paths: Sequence[Path]) -> list[str]:
    """A folder's name for each, of letters, digits, dots, dashes and underscores, no two alike in any case.

    >>> slugs([Path("a/trace"), Path("b/Trace"), Path("c/<b>")])
    ['trace', 'Trace-2', 'b']
    """
    taken: set[str] = set()
    found = []
    for path in paths:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name).strip(".-")[:80] or "run"
        name, number = plain, 1
        while name.lower() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.lower())
        found.append(name)
    return found


def entry_of(path: Path, slug: str) -> Entry:
    """What is told of a folder.

    >>> entry_of(Path("no/such"), "such").reason
    'such, which has no run.json'
    """
    try:
        run = Run.open(path)
    except InputError as error:
        return Entry(path, slug, BROKEN, _without_folders(error.received, path))
    entry = Entry(path, slug, BROKEN, run=run, kind=run.kind, created=run.created)
    tell: dict[str, Callable[[Entry, Run], Entry]] = {"trace": _trace, "study": _study}
    if run.kind not in tell:
        return replace(entry, reason=f"a run of kind {run.kind!r}, which has no tables here")
    try:
        entry = _of_all(entry, run)
        return tell[run.kind](entry, run)
    except (InputError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        said = error.received if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return replace(entry, reason=_without_folders(said, path))


def _without_folders(reason: object, path: Path) -> str:
    """A reason as others may read it: where the run lay on this machine is not theirs."""
    return str(reason).replace(f"{path.parent}/", "").replace(f"{path.resolve().parent}/", "")[:400]


def _of_all(entry: Entry, run: Run) -> Entry:
    model = run.provenance.get("model")
    facts: Mapping[str, Any] = model if isinstance(model, Mapping) else {}
    return replace(
        entry,
        model=name_of(run.settings.get("model", NOT_STATED)),
        revision=str(facts.get("revision") or "none"),
        weights=str(facts.get("weight_hash") or ""),
        model_licence=licence_told(facts.get("licence")),
        data=data_told(run.settings),
        problems=len(run.settings.get("problems", ())),
    )


def _trace(entry: Entry, run: Run) -> Entry:
    cells, failures = run.cells(), run.failures()
    entry = replace(entry, responses=len(cells), settings=_asked(run.settings))
    planned = len(run.settings.get("responses", ())) or (
        len(run.settings.get("problems", ())) * len(run.settings.get("samples", (0,)))
    )
    missing = [name for name in ("peaks.parquet", "responses.parquet") if name not in run.tables]
    if missing:
        return replace(entry, state=UNFINISHED, reason=f"{len(cells)} of {planned} responses, no {missing[0]} yet")
    grades = run.table("responses.parquet", ["problem", "sample", "correct"])
    graded = grades[grades["correct"].notna()]
    entry = replace(
        entry, peaks=_peaks(run), graded=len(graded), right=int(graded["correct"].sum()),
        accuracy=proportion(graded["correct"], graded["problem"]) if len(graded) else None,
    )  # fmt: skip
    if len(cells) + len(failures) < planned:
        return replace(entry, state=UNFINISHED, reason=f"{len(cells)} of {planned} responses")
    if len(grades) != len(cells):
        return replace(entry, state=UNFINISHED, reason=f"its tables tell of {len(grades)} of {len(cells)} responses")
    return replace(entry, state=FINISHED, reason=_failed(failures))


def _peaks(run: Run) -> Peaks | None:
    peaks = run.table("peaks.parquet", ["layer", "n_peaks", "ratio"])
    if peaks.empty:
        return None
    last = peaks[peaks["layer"] == peaks["layer"].max()]
    return Peaks(int(last["layer"].iloc[0]), float(last["n_peaks"].mean()), float(last["ratio"].mean()))


def _study(entry: Entry, run: Run) -> Entry:
    name = str(run.settings.get("study", ""))
    title = find_study(name).title if name in STUDIES else name
    baseline, conditions = run.settings.get("baseline", {}), run.settings.get("conditions", {})
    options = ", ".join(f"{key} {value}" for key, value in run.settings.get("options", {}).items())
    entry = replace(
        entry, title=title, responses=len(run.cells()),
        settings=f"{len(conditions)} conditions; {options}; baseline: {_asked(baseline)}",
    )  # fmt: skip
    kept = as_kept(run)
    if kept is None:
        return replace(entry, state=UNFINISHED, reason=f"{len(run.cells())} responses, no result yet")
    return replace(entry, state=FINISHED, readings=tuple(map(str, kept[1])), reason=_failed(kept[2]))


def _failed(failures: Mapping[Any, str]) -> str:
    if not failures:
        return ""
    cell, why = next(iter(failures.items()))
    return f"{len(failures)} failed, the first (problem {cell.problem}): {(str(why).splitlines() or [''])[0][:200]}"


def _asked(settings: Mapping[str, Any]) -> str:
    """The settings that a reader asks for first, in a line."""
    told = []
    if "max_new_tokens" in settings:
        told.append(f"up to {settings['max_new_tokens']} tokens")
    elif "responses" in settings or "responses_from" in settings:
        told.append("responses that were there already")
    if "prompt" in settings:
        told.append(f"prompt {settings['prompt']}")
    if "temperature" in settings:
        heat = settings["temperature"]
        told.append("greedy" if not heat else f"temperature {heat:g}, top_p {settings.get('top_p', 1):g}")
    if len(samples := settings.get("samples", ())) > 1:
        told.append(f"{len(samples)} samples")
    if settings.get("temperature"):
        told.append(f"seed {settings.get('seed')}")
    if "site" in settings:
        layers = settings.get("layers", ())
        of = f" of layer {layers[0]}" if len(layers) == 1 else f" of {len(layers)} layers" if layers else ""
        told.append(f"{settings['site']}{of}")
    if "reference" in settings:
        told.append(f"{settings['reference']} read at {settings.get('reference_position', 'last')}")
    if "sigma" in settings:
        sigma = settings["sigma"]
        told.append(f"sigma {sigma if isinstance(sigma, str) else format(sigma, 'g')}")
    return ", ".join(told)

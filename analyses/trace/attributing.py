"""What made a step of a finished run: tables of shares for chosen steps, or for all peaks, of one response.

1. The run is opened and its model loaded, or taken; both must be of one another, as where a run goes on.
2. The response's tokens are read once more, prompt and all; nothing is decoded.
3. Each of :data:`analyses.trace.attributions.ATTRIBUTIONS` makes tables of the steps asked for, each of `PAGES` there a
   page. They are written into the run's folder ``attribution/<problem>/sample<n>-layer<l>-<steps>/``, with
   ``attribution.json`` beside them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import torch

from analyses.attribution.logits import BEST_OTHER
from analyses.attribution.mi_reference import NON_PEAKS
from analyses.problems import Problem
from analyses.store.atomic import disk_errors, make_folder, quote_name, replacing
from analyses.store.run import Cell, Run
from analyses.store.tables import write_frame
from analyses.trace.asked import Asked, settings_of
from analyses.trace.attributions import ATTRIBUTIONS, PAGES
from analyses.trace.given import Givens
from analyses.trace.settings import TraceSettings
from analyses.trace.tracer import Tracer
from analyses.trace.trajectory import Trajectory
from interp.arguments import Judged, Texts, Whole, Wholes, as_list, as_whole, as_wholes
from interp.errors import InputError
from interp.loading.models import load_model
from interp.types import Bridge

__all__ = ["Attributed", "attribute_run", "check_asked"]

Problems = str | Path | Sequence[Problem] | None


@dataclass(frozen=True, eq=False)
class Attributed:
    """What was found, and where it lies: ``tables["logits"]`` is in ``folder / "logits.parquet"``."""

    folder: Path
    asked: Asked
    tables: dict[str, pandas.DataFrame]
    files: tuple[Path, ...]


def attribute_run(
    run: Run | str | Path,
    problem: str,
    steps: Wholes | None = None,
    *,
    peaks: bool = False,
    layer: Whole = -1,
    sample: Whole = 0,
    contrast: Judged[str | Whole | None] = BEST_OTHER,
    model: Judged[str | Path | Bridge | None] = None,
    problems: Judged[Problems] = None,
    measures: Texts | None = None,
    reference: Any = NON_PEAKS,
    total: Judged[str | None] = None,
    edges: bool = False,
    csv: bool = False,
) -> Attributed:
    """What wrote at some steps of a traced response, as tables and a page in the run's folder; nothing is decoded anew.

    >>> import tempfile
    >>> from analyses.trace import trace
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = trace("toy-reasoner", n=1, out=folder, max_new_tokens=30, excess=0, report=False)
    ...     found = attribute_run(run, run.cells()[0].problem, [3, 7], layer=1)
    ...     sorted(file.name for file in found.files)[:4], sorted(set(found.tables["logits"]["read_at"]))
    (['attribution.json', 'circuit.html', 'logits.parquet', 'mi.parquet'], [1, 2])

    Args:
        problem, sample: which response.
        steps: of the response, negative from its end; or
        peaks: all peaks of the layer, by the run's own rule.
        layer: of the run; negative numbers count from its last.
        contrast: the token whose logit is subtracted from the emitted one's; ``None`` for the logit itself.
        model: the run's own by the name it was loaded under, unless given.
        problems: the file that the run was made from, for the shares in scores; toys have their own.
        measures, reference, total: of the shares in scores, as in :func:`analyses.attribution.mi_attribution`; unless
            given the run's own score, in excess over other answers, without the answer's four largest coordinates, and
            r2; total effects of the top components, and of none where peaks are asked about.
        edges: also who writes to whom on the way to the run's score at the one step asked about, by
            :func:`analyses.attribution.patch_edges` against the mean of the response's ordinary steps.
        csv: write CSV instead of Parquet.

    Raises:
        InputError: a run without scores, or of another model; a problem, sample, step or layer that it has not; no
            peaks; edges at several steps; a model that :func:`interp.read_writes` refuses.
    """
    opened = run if isinstance(run, Run) else Run.open(run)
    trajectory, number, chosen = check_asked(
        opened, problem, steps, peaks=peaks, layer=layer, sample=sample, edges=edges
    )
    options = settings_of(opened)
    wanted = None if measures is None else tuple(as_list(measures, "attribute", "measures", "names"))
    if model is None or isinstance(model, str | Path):
        name = str(opened.settings["model"] if model is None else model)
        loaded = load_model(name, dtype=opened.settings.get("dtype"))
    else:
        loaded = model
    _check_model(loaded, opened, options)
    data = opened.read(Cell(problem, trajectory.sample))
    asked = Asked(
        opened, loaded, trajectory, data.tensors["prompt_ids"], data.tensors["token_ids"], number, chosen, contrast,
        problems, wanted, reference,
        ("none" if peaks else "top") if total is None else total, edges,
    )  # fmt: skip
    found = {name: _named(asked, table) for make in ATTRIBUTIONS for name, table in make(asked).items()}
    pages = {name: text for name, make in PAGES.items() if (text := make(asked, found))}
    return Attributed(_folder(asked, peaks), asked, found, _written(asked, peaks, found, pages, csv))


def check_asked(
    run: Run,
    problem: str,
    steps: Wholes | None,
    *,
    peaks: bool = False,
    layer: Whole = -1,
    sample: Whole = 0,
    edges: bool = False,
) -> tuple[Trajectory, int, tuple[int, ...]]:
    """The response, layer and steps that are meant, before any model is loaded.

    Raises:
        InputError: as `attribute_run`.
    """
    trajectory = Trajectory.from_run(run, problem, as_whole(sample, "attribute", "sample", 0))
    number = trajectory.layers[trajectory.row(as_whole(layer, "attribute", "layer"))]
    chosen = _steps(trajectory, number, steps, peaks)
    if edges and len(chosen) > 1:
        raise InputError(
            "attribute",
            expected="one step, where edges are asked for",
            received=f"{len(chosen)} steps",
            remedy="Ask for them step by step.",
        )
    return trajectory, number, chosen


def _steps(trajectory: Trajectory, layer: int, steps: Any, peaks: bool) -> tuple[int, ...]:
    """The steps asked for, in order and each once."""
    operation, count = "attribute", len(trajectory.tokens)
    if (steps is None) == (not peaks):
        raise InputError(
            operation,
            expected="either steps or peaks",
            received="neither" if steps is None else "both",
            remedy="Name steps (--step 41), or ask for all peaks of a layer (--peaks).",
        )
    if peaks:
        found = trajectory.peaks(layer)["step"].tolist()
        if not found:
            raise InputError(
                operation,
                expected="a layer with peaks",
                received=f"none at layer {layer} of problem {trajectory.problem!r}, sample {trajectory.sample}",
                remedy="Name steps, or another layer; the run's peaks.parquet counts them.",
            )
        return tuple(found)
    wanted = as_wholes(steps, operation, "steps")
    outside = [step for step in wanted if not -count <= step < count]
    if outside or not wanted:
        raise InputError(
            operation,
            expected=f"steps from 0 to {count - 1} (or -{count} to -1) of problem {trajectory.problem!r}",
            received=str(outside[:5] if outside else "none"),
            remedy=f"The response has {count} tokens; step t predicts token t.",
        )
    return tuple(sorted({step % count for step in wanted}))


def _check_model(model: Bridge, run: Run, options: TraceSettings) -> None:
    """Refuse another model than the run's, as where a run goes on."""
    try:
        given = Givens() if "responses" in run.settings else None
        Tracer(model, [], options, given).check_fits(run.path)
    except InputError as error:
        raise InputError(
            "attribute",
            expected=f"{run.settings['model']} as it was when it made {run.path}",
            received=error.received,
            remedy="Load that model, in the run's dtype and without hooks of your own.",
        ) from error


def _named(asked: Asked, table: pandas.DataFrame) -> pandas.DataFrame:
    """A table, of the kind that it is, with the response's name in front."""
    named = table.copy()
    for place, name in enumerate(("problem", "sample")):
        if name not in named.columns:
            named.insert(place, name, getattr(asked.trajectory, name))
    return named


def _folder(asked: Asked, peaks: bool) -> Path:
    steps = "-".join(map(str, asked.steps))
    if len(steps) > 40:
        steps = f"{len(asked.steps)}-{hashlib.sha256(steps.encode()).hexdigest()[:8]}"
    told = "peaks" if peaks else f"step{steps}"
    name = f"sample{asked.trajectory.sample}-layer{asked.layer}-{told}"
    return asked.run.path / "attribution" / quote_name(asked.trajectory.problem) / name


def _written(
    asked: Asked, peaks: bool, tables: Mapping[str, pandas.DataFrame], pages: Mapping[str, str], csv: bool
) -> tuple[Path, ...]:
    """Write everything, each file whole."""
    folder, files = _folder(asked, peaks), []
    facts = {
        "problem": asked.trajectory.problem,
        "sample": asked.trajectory.sample,
        "layer": asked.layer,
        "site": asked.trajectory.site,
        "steps": list(asked.steps),
        "peaks": peaks,
        "contrast": asked.contrast,
        "reference": asked.reference,
        "edges": asked.edges,
        "model": asked.run.settings["model"],
        "dtype": str(next(asked.model.original_model.parameters()).dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "tables": list(tables),
        "pages": list(pages),
    }
    with disk_errors("write attribution", folder, "Free some space, or copy the run to where it can be written."):
        make_folder(folder)
        texts = {"attribution.json": json.dumps(facts, indent=1, ensure_ascii=False)}
        for name, text in (texts | {f"{name}.html": page for name, page in pages.items()}).items():
            with replacing(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
            files.append(folder / name)
    for name, table in tables.items():
        file = folder / f"{name}.{'csv' if csv else 'parquet'}"
        write_frame(file, pandas.DataFrame(table), asked.run.about)
        files.append(file)
    return tuple(files)

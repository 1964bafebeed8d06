"""The traces that studies share: which folder is the baseline of a model, problems and settings."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from analyses.problem_files import FromFile
from analyses.problems import Problem
from analyses.responses import Paired
from analyses.store.run import Cell, Run
from analyses.studies.progress import Watch
from analyses.trace.given import DECODING, Givens, given_responses
from analyses.trace.run import TraceRun
from analyses.trace.settings import TABLE_SETTINGS, TraceSettings
from analyses.trace.tracer import Tracer
from analyses.trace.tracing import trace
from analyses.work.spread import Spread
from interp.decoding import ProgressBar
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.types import Bridge

__all__ = ["Baselines"]


@dataclass(frozen=True)
class Baselines:
    """Traces of unchanged models in a folder, each made, or gone on with, when it is asked for.

    Attributes:
        folder: of the traces.
        probing: what they hold beside nHSIC: fields of :class:`analyses.trace.probing.Probing`.
        batch_size, retry_failed: as for :func:`analyses.trace.tracing.trace`.
        spread: who does the work.
        watch: is told of the progress.
        pool: whose references the excess is over, where ``probing`` asks for it: all that the problem source has,
            whatever the number of problems.
        responses: given ones, which are read in the place of decoding.
        source: the problem file, as a run notes it.
    """

    folder: Path
    probing: Mapping[str, Any]
    batch_size: int
    spread: Spread
    retry_failed: bool
    watch: Watch
    pool: Sequence[Problem] = ()
    responses: Paired | None = None
    source: Mapping[str, str | None] | None = None

    def trace(self, model: Bridge, problems: Sequence[Problem], options: TraceSettings) -> TraceRun:
        """The baseline with a response to each of these problems, or its failure."""
        path = self._folder(model, problems, options)
        while True:
            try:
                return self._trace(model, path, problems, options)
            except InputError:
                # Another process may just have begun the folder with problems of its own
                found = self._folder(model, problems, options)
                if found == path:
                    raise
                path = found

    def tried(self, model: Bridge, problems: Sequence[Problem], options: TraceSettings) -> bool:
        """Whether there is a first response to each of these problems, or its failure."""
        path = self._folder(model, problems, options)
        if not (path / "run.json").is_file():
            return False
        run = Run.open(path)
        failed = {} if self.retry_failed else run.failures()
        return all(run.has(cell) or cell in failed for cell in (Cell(problem.id) for problem in problems))

    def _folder(self, model: Bridge, problems: Sequence[Problem], options: TraceSettings) -> Path:
        given = None if self.responses is None else given_responses(self.responses, model, options)
        return _baseline_folder(self.folder, model, problems, options, given)

    def _trace(self, model: Bridge, path: Path, problems: Sequence[Problem], options: TraceSettings) -> TraceRun:
        total = len(problems) * options.samples if self.responses is None else len(self.responses.stored)
        with ExitStack() as stack:

            def begin(left: int, tokens: int) -> ProgressBar:
                what = f"baseline, {model_facts(model).name}"
                stack.enter_context(self.watch.stage(what, total, total - left, tokens))
                return SimpleNamespace(update=self.watch.tokens)

            return trace(
                model, FromFile(problems, self.source), path, batch_size=self.batch_size,
                workers=self.spread.workers, on=self.spread.ray,
                retry_failed=self.retry_failed, report=False, progress=begin, on_done=self.watch.cells,
                pool=list(self.pool) or None, responses=self.responses, **asdict(options),
                **{"excess": 0, **self.probing},
            )  # fmt: skip


def _baseline_folder(
    shared: Path, model: Bridge, problems: Sequence[Problem], options: TraceSettings, given: Givens | None
) -> Path:
    """The folder of the baseline: the first, of those that could be it, which is new or fits.

    Its name is made of weights and settings, so that it is the same however the model's folder is written. What may
    grow in a trace is left out. A baseline with other problems under the same ids (another file whose rows are
    numbered) or of a model that differs elsewhere is another one, beside the first.
    """
    tracer = Tracer(model, list(problems), options, given)
    earlier = shared / _earlier_name(tracer)
    if (earlier / "run.json").is_file() and tracer.fits(earlier):
        return earlier
    name = _baseline_name(tracer)
    for number in itertools.count(1):
        path = shared / (name if number == 1 else f"{name}-{number}")
        if not (path / "run.json").is_file() or tracer.fits(path):
            return path
    raise AssertionError("unreachable")


def _baseline_name(tracer: Tracer) -> str:
    model = tracer.provenance["model"]
    pinned = _named(tracer) | {"weights": model["weight_hash"], "hooks": model["hooks"]}
    return f"{model['config'].get('model_type', 'model')}-{_short_digest(pinned)}"


def _earlier_name(tracer: Tracer) -> str:
    """As earlier versions named it, by the name of the model."""
    return f"{tracer.facts.name.replace('/', '--')}-{_short_digest(_named(tracer))}"


def _named(tracer: Tracer) -> dict[str, Any]:
    options = {k: v for k, v in asdict(tracer.options).items() if k not in ("layers", "samples")}
    # Those of the tables and the position of references count where they are given, so that folders from before they
    # were there keep their names
    pinned = {k: v for k, v in options.items() if v or k == "tau" or k not in TABLE_SETTINGS}
    if pinned["reference_position"] == "last":
        del pinned["reference_position"]
    if tracer.given is not None:
        pinned = {k: v for k, v in pinned.items() if k not in DECODING} | {"responses": "given"}
    return pinned | {"dtype": f"torch.{tracer.settings['dtype']}"}


def _short_digest(pinned: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()[:8]

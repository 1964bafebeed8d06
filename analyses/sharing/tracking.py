"""Results told to a tracker of experiments, MLflow or Weights & Biases, through its own client.

`log_to` makes one run there of one run folder: settings as params, numbers with intervals as metrics, tables and the
page as artifacts (:mod:`analyses.sharing.told`). Where it goes is what the tracker's own environment says
(``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME``; ``WANDB_MODE``, ``WANDB_PROJECT``, ``WANDB_DIR``).

What was told is noted in the folder: the same result is told once to the same place. The result itself never hangs on
it: all is on disk before, and a tracker that fails is told of by an `InputError` that says so.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path

from analyses.sharing.told import Told, told_of
from analyses.store.fresh import made_of, noted, stamp
from analyses.store.run import Run
from analyses.studies.base import StudyResult
from interp.errors import InputError

__all__ = ["TRACKERS", "check_tracker", "log_to"]

TRACKERS = ("mlflow", "wandb")
PROJECT = "peaklens"
"""The experiment, or project, unless the environment names one."""

_AT_ONCE = 100  # params of a request; MLflow takes so many, and a thousand metrics


def check_tracker(name: str) -> str:
    """The name, of a tracker that is there; called before any work is done.

    >>> check_tracker("tensorboard")
    Traceback (most recent call last):
    ...
    peaklens.InputError: log: expected a tracker, mlflow or wandb, received 'tensorboard'. Choose one of them.
    """
    if name not in TRACKERS:
        raise InputError(
            "log",
            expected=f"a tracker, {' or '.join(TRACKERS)}",
            received=repr(name),
            remedy="Choose one of them.",
        )
    if importlib.util.find_spec(name) is None:
        raise InputError(
            "log",
            expected=f"{name} installed",
            received="no such package",
            remedy=f'Run: pip install "peaklens[{name}]"',
        )
    return name


def log_to(tracker: str, result: Run | StudyResult | str | Path) -> str:
    """Tell a tracker of a finished trace or study; where that stands there, in a line.

    >>> log_to("tensorboard", "runs/trace")
    Traceback (most recent call last):
    ...
    peaklens.InputError: log: expected a tracker, mlflow or wandb, received 'tensorboard'. Choose one of them.

    Args:
        tracker: mlflow or wandb.
        result: what `trace` or `run_study` returned, or a run's folder.

    Raises:
        InputError: no such tracker, or none installed; a tracker that fails, whatever its reason: the result is whole.
    """
    check_tracker(tracker)
    if isinstance(result, str | Path):
        result = Run.open(result)
    folder = result.run.path if isinstance(result, StudyResult) else result.path
    told = told_of(result)
    digest = made_of(_place(tracker), told.params, told.tags, told.metrics, told.readings)
    if (before := noted(folder, tracker)).get("made_of") == digest:
        return f"{before['where']} (told before)"
    try:
        where = _SENDERS[tracker](told)
    except Exception as error:  # the boundary: whatever a tracker raises, nothing of the result is lost
        raise InputError(
            "log",
            expected=f"{tracker} to take what it is told",
            received=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}",
            remedy=f"The result is whole in {folder}; the same command tells it again, or log_to({tracker!r}, folder).",
        ) from error
    stamp(folder, tracker, digest, [], where=where)
    return where


def _place(tracker: str) -> list[str]:
    """What of the environment says where it goes."""
    names = {
        "mlflow": ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"),
        "wandb": ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL", "WANDB_MODE"),
    }
    return [os.environ.get(name, "") for name in names[tracker]]


def _mlflow(told: Told) -> str:
    """By its client, which leaves a run that the user may have begun alone."""
    import mlflow
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client, name = MlflowClient(), os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
    experiment = client.get_experiment_by_name(name)
    number = client.create_experiment(name) if experiment is None else experiment.experiment_id
    run = client.create_run(number, run_name=told.name).info.run_id
    try:
        now = int(time.time() * 1000)
        params = [Param(*pair) for pair in told.params.items()]
        tags = [RunTag(key, text) for key, text in (told.tags | {"mlflow.note.content": told.text}).items() if text]
        metrics = [Metric(metric, value, now, step) for metric, value, step in told.metrics]
        for begin in range(0, max(len(params), len(metrics), 1), _AT_ONCE):
            some = slice(begin, begin + _AT_ONCE)
            client.log_batch(run, metrics=metrics[some], params=params[some], tags=tags if not begin else [])
        for file in told.files:
            client.log_artifact(run, str(file))
    except BaseException:
        client.set_terminated(run, "FAILED")
        raise
    client.set_terminated(run)
    return f"mlflow run {run} of experiment {name} at {mlflow.get_tracking_uri()}"


def _wandb(told: Told) -> str:
    import wandb

    project = os.environ.get("WANDB_PROJECT") or PROJECT
    config = {**told.params, **told.tags}
    run = wandb.init(project=project, name=told.name, notes=told.text or None, config=config, reinit="create_new")
    code = 1
    try:
        by_step: dict[int, dict[str, float]] = {}
        for name, value, step in told.metrics:
            by_step.setdefault(step, {})[name] = value
        run.define_metric("*", step_metric="layer")
        for step in sorted(by_step):
            run.log({"layer": step, **by_step[step]})
        artifact = wandb.Artifact(f"{PROJECT}-{run.id}", type="result")
        for file in told.files:
            artifact.add_file(str(file))
        run.log_artifact(artifact)
        code = 0
    finally:
        run.finish(exit_code=code)
    return f"wandb run {run.id} of project {project}, {(not run.offline and run.url) or f'offline in {run.dir}'}"


_SENDERS: dict[str, Callable[[Told], str]] = {"mlflow": _mlflow, "wandb": _wandb}

"""What a tracker is told is what the result holds, and a tracker that fails takes nothing with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas
import pytest
from processes import Command

from analyses.sharing import log_to, tracking
from analyses.sharing.told import _apart, _of_table
from analyses.stats import proportion
from analyses.store import Run
from analyses.studies.kept import as_kept
from analyses.trace import TraceRun
from interp import InputError


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store of MLflow's in a folder, without a server."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    from mlflow import MlflowClient

    return MlflowClient()


def told(client: Any) -> list[Any]:
    number = client.get_experiment_by_name("peaklens").experiment_id
    return list(client.search_runs([number], order_by=["attributes.start_time"]))


def test_a_trace_is_told_with_its_settings_numbers_and_files(whole: TraceRun, mlflow: Any) -> None:
    (whole.path / ".mlflow.stamp.json").unlink(missing_ok=True)
    said = log_to("mlflow", whole)
    (run,) = told(mlflow)
    assert run.info.run_id in said
    assert run.info.status == "FINISHED"
    assert (run.data.params["temperature"], run.data.params["problems"]) == ("0.8", "4")
    assert run.data.params["null.null"] == "19"
    assert run.data.tags["peaklens.weights_sha256"] == whole.provenance["model"]["weight_hash"]
    assert run.data.tags["peaklens.model_licence"] == "MIT"
    right = whole.responses["correct"].dropna()
    found = proportion(right, whole.responses.loc[right.index, "problem"])
    metrics = run.data.metrics
    assert [metrics[name] for name in ("accuracy", "accuracy_low", "accuracy_high", "graded", "responses")] == [
        found.estimate, found.low, found.high, len(right), 8,
    ]  # fmt: skip
    (ratio,) = mlflow.get_metric_history(run.info.run_id, "peaks/ratio")
    assert (ratio.value, ratio.step) == (pytest.approx(whole.peaks["ratio"].mean()), 2)
    assert metrics["peaks/ratio_n"] == 8
    assert metrics["peaks/mean_mi_low"] < metrics["peaks/mean_mi"] < metrics["peaks/mean_mi_high"]
    files = {file.path for file in mlflow.list_artifacts(run.info.run_id)}
    assert files == {*whole.tables, "report.html", "run.json"}
    # The same result is told once; another one, or another place, anew
    assert log_to("mlflow", whole.path).endswith("(told before)")
    assert len(told(mlflow)) == 1


def test_a_study_is_told_with_its_tables_and_readings(study: Path, mlflow: Any) -> None:
    log_to("mlflow", study)
    (run,) = told(mlflow)
    kept = as_kept(Run.open(study))
    assert kept is not None
    name, table = next(iter(kept[0].items()))
    for row in table.to_dict("records"):
        (value,) = mlflow.get_metric_history(run.info.run_id, f"{name}/{row['statistic']}/mean")
        assert (value.value, value.step) == (pytest.approx(row["mean"]), row["layer"])
        assert run.data.metrics[f"{name}/{row['statistic']}/n"] == row["n"]
    assert run.data.tags["mlflow.note.content"] == "\n".join(f"- {reading}" for reading in kept[1])


def test_a_tracker_that_fails_is_told_and_the_result_is_whole(
    whole: TraceRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow: Any
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "file" / "store").as_uri())
    with pytest.raises(InputError, match=r"log: expected mlflow to take .*The result is whole in"):
        log_to("mlflow", whole)

    def broken(*_: Any) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(tracking._SENDERS, "mlflow", broken)
    with pytest.raises(InputError, match="ConnectionError: no route"):
        log_to("mlflow", whole)


def test_the_commands(tmp_path: Path, peaklens: Command, mlflow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    out, small = (
        str(tmp_path / "run"),
        ["--n", "1", "--max-new-tokens", "6", "--layers", "2", "--quiet", "--excess", "0"],
    )
    code, _, said = peaklens("trace", "--out", out, *small, "--log-to", "nothing")
    assert (code, Path(out).exists()) == (2, False)
    assert "expected a tracker, mlflow or wandb" in said
    code, _, said = peaklens("trace", "--out", out, *small, "--log-to", "mlflow")
    assert code == 0
    assert f"told mlflow run {told(mlflow)[0].info.run_id} of experiment peaklens" in said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://")
    code, _, said = peaklens("trace", "--out", out, *small, "--log-to", "mlflow")
    assert code == 0  # the result is whole
    assert "log: expected mlflow to take what it is told" in said
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    code, _, said = peaklens("study", "trajectories", "--out", out, "--log-to", "wandb")
    assert code == 2
    assert 'pip install "peaklens[wandb]"' in said


def test_rows_of_tables_are_told_apart_whatever_they_are_called() -> None:
    words = [".", ",", "..", "a/b", "<b>", "a_b", "Wait", ""]
    frame = pandas.DataFrame({"layer": 2, "word": words, "count": range(8), "share": [0.5, float("nan"), *[0.25] * 6]})
    told = _apart(_of_table("tokens", frame))
    assert len({(name, step) for name, _, step in told}) == len(told) == 15  # NaN is left out
    assert ("tokens/Wait/share", 0.25, 2) in told
    assert all(re.fullmatch(r"tokens(/[\w\- .:]*[\w][\w\- .:]*)?/(count|share)( \d)?", name) for name, _, _ in told)

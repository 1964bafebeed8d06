"""What a trace would take: counted exactly, timed from a warm-up, refused as the trace itself would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from processes import Command
from safetensors import safe_open

from analyses.problems import bundled_problems
from analyses.store import Run
from analyses.trace import trace
from analyses.trace.estimate import estimate_trace
from analyses.work.on_ray import Ray
from analyses.work.spread import Spread
from interp import InputError, bundled_model_path, load_model

SMALL = {"max_new_tokens": 8, "batch_size": 4, "excess": 0}
ONE = {**SMALL, "layers": [0]}
NULL: dict[str, Any] = {"null": 19, "pool": bundled_problems(200)}


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("toy-reasoner", device="cpu")


def test_what_is_left_is_counted(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = estimate_trace(model, n=40, **SMALL)
    assert (found.conditions, found.cells, found.tokens_at_most, found.read_again) == (1, 40, 320, 0)
    assert 0 < found.tokens_expected <= 320
    assert found.seconds == pytest.approx(found.tokens_expected / found.tokens_per_second)
    assert not list(tmp_path.iterdir()), "a dry run leaves nothing"
    several = estimate_trace(model, n=10, samples=3, temperature=1.0, **SMALL)
    assert (several.cells, several.tokens_at_most) == (30, 240)


def test_what_is_there_is_left_out(model: Any, tmp_path: Path) -> None:
    trace(model, n=3, out=tmp_path, report=False, **ONE)
    before = sorted((file, file.stat().st_mtime_ns) for file in tmp_path.rglob("*"))
    assert estimate_trace(model, out=tmp_path, n=5, **ONE).cells == 2
    done = estimate_trace(model, out=tmp_path, n=3, **ONE)
    assert (done.cells, done.read_again, done.seconds) == (0, 0, 0.0)
    asked = estimate_trace(model, out=tmp_path, n=5, **NULL, **ONE)
    assert (asked.cells, asked.read_again) == (2, 3)
    assert asked.seconds > asked.tokens_expected / asked.tokens_per_second
    assert sorted((file, file.stat().st_mtime_ns) for file in tmp_path.rglob("*")) == before
    trace(model, n=3, out=tmp_path, report=False, **NULL, **ONE)
    assert estimate_trace(model, out=tmp_path, n=3, **NULL, **ONE).read_again == 0
    assert estimate_trace(model, out=tmp_path, n=3, probes=["r2"], **NULL, **ONE).read_again == 3


def test_of_a_cluster_the_workers_and_what_each_holds(model: Any, tmp_path: Path) -> None:
    problems = bundled_problems(40)
    found = estimate_trace(model, problems, tmp_path, on=Ray(gpus_per_worker=2), shape=(3, 8), **SMALL)
    assert found.workers == 12
    with safe_open(bundled_model_path("toy-reasoner") / "model.safetensors", "pt") as file:
        stored = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118  (it is no dictionary)
    assert found.weight_bytes == sum(tensor.numel() * tensor.element_size() for tensor in stored)
    config = json.loads((bundled_model_path("toy-reasoner") / "config.json").read_text())
    each = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] * 4
    longest = max(len(model.tokenizer(problem.question)["input_ids"]) for problem in problems)
    assert found.cache_bytes == each * 4 * (longest + 8)
    assert estimate_trace(model, problems, tmp_path, workers=5, on=Ray(gpus_per_worker=2), **SMALL).workers == 5
    assert Spread(None, Ray(gpus_per_worker=0, cpus_per_worker=4)).count((2, 16)) == 8


@pytest.fixture(scope="module")
def begun(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trace(model, n=1, out=tmp_path_factory.mktemp("begun"), report=False, **SMALL).path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"null": 19}, "at least 59 wrong answers for 3 layers"),
        ({"layers": [9]}, "expected layers from 0 to 2"),
        ({"temperature": -1.0}, "temperature"),
        ({"seed": 3}, "settings.seed is 0 there and 3 now"),
    ],
)
def test_what_the_trace_refuses_is_refused(model: Any, begun: Path, arguments: dict[str, Any], message: str) -> None:
    for call in (estimate_trace, trace):
        with pytest.raises(InputError, match=message):
            call(model, out=begun, n=2, **SMALL | arguments)
    assert len(Run.open(begun).cells()) == 1


def test_the_guess_of_time_is_near(model: Any, tmp_path: Path) -> None:
    """Within a factor of ten of what decoding then takes: the machine may be busy with other things."""
    import time

    how: dict[str, Any] = {"n": 12, "max_new_tokens": 20, "batch_size": 1, "excess": 0}
    guess = estimate_trace(model, **how).seconds
    times: list[float] = []
    trace(model, out=tmp_path, report=False, on_done=lambda *_: times.append(time.monotonic()), **how)
    took = (times[-1] - times[0]) * 3 / 2  # three groups, of which the first end begins the clock
    assert took / 10 < guess < took * 10


def test_the_command(tmp_path: Path, peaklens: Command) -> None:
    words = ["trace", "--n", "6", "--max-new-tokens", "8", "--excess", "0", "--dry-run", "--out", str(tmp_path / "r")]
    code, out, said = peaklens(*words)
    assert code == 0, said
    assert out.startswith("trace: 6 responses to decode, at most 48 tokens; about ")
    assert out.endswith(" minutes.\n")
    _, out, _ = peaklens(*words, "--json")
    assert json.loads(out)["tokens_at_most"] == 48
    assert not (tmp_path / "r").exists()
    peaklens(*[word for word in words if word != "--dry-run"], "--quiet")
    assert peaklens(*words)[1] == "trace: nothing is left to do.\n"
    assert " 16 workers, each with " in peaklens(*words[:-1], str(tmp_path / "new"), "--shape", "2x8")[1]
    code, _, said = peaklens(*words, "--null", "19")
    assert code == 2
    assert "Give --null 59" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shape", "4x8"), "--shape with --dry-run"),
        (("--shape", "4y8", "--dry-run"), "NODESxGPUS, e.g. 4x8, received '4y8'"),
        (("--gpus-per-worker", "2"), "--gpus-per-worker and --cpus-per-worker with --on ray"),
        (("--on", "ray", "--gpus-per-worker", "1.5"), "a whole number of GPUs"),
    ],
)
def test_options_of_a_cluster_that_say_nothing_are_refused(
    words: tuple[str, ...], message: str, peaklens: Command
) -> None:
    code, _, said = peaklens("trace", "--n", "2", *words)
    assert code == 2
    assert message in " ".join(said.split())

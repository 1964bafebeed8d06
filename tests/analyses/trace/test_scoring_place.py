"""Scores worked out elsewhere are the same scores."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from pretended import Pretended, moved

from analyses.problems import bundled_problems
from analyses.trace.scoring_place import HOST, Aside, scoring_device
from analyses.trace.settings import TraceSettings
from analyses.trace.tracer import Tracer
from analyses.work.batches import Batch
from interp import load_model
from interp.engines.static import SWITCH
from probes import lowrank, nhsic

DEVICE = torch.device("cuda:0")


@pytest.mark.parametrize("slow", [DEVICE, HOST])
def test_the_quicker_has_it(slow: torch.device) -> None:
    """By how long the second try takes: the first one is slow everywhere."""
    tries: dict[torch.device, int] = {}

    def score(steps: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        tries[steps.device] = tries.get(steps.device, 0) + 1
        assert answers.device == steps.device
        time.sleep(0.05 if tries[steps.device] == 1 or steps.device == slow else 0)
        return steps.sum(-1)

    with Pretended():
        assert scoring_device(DEVICE, score, 8, torch.bfloat16) == (HOST if slow == DEVICE else DEVICE)
    assert tries == {DEVICE: 2, HOST: 2}


def test_without_float64_the_host_has_it() -> None:
    assert scoring_device(torch.device("mps"), nhsic, 8, torch.float32) == HOST


@pytest.mark.parametrize("place", [DEVICE, HOST])
def test_a_trace_has_the_same_scores_wherever_they_are_worked_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: torch.device
) -> None:
    monkeypatch.setenv(SWITCH, "0")  # captured steps round in another way
    if place == DEVICE:  # where torch does it, as it then has to do on the host for a comparison
        monkeypatch.setattr(lowrank, "kernels", lambda: None)
    model, problems = load_model("toy-reasoner", device="cpu"), bundled_problems(2)
    options = TraceSettings(max_new_tokens=64, prompt="raw")

    def traced(name: str) -> list[torch.Tensor]:
        tracer = Tracer(model, problems, options)
        run = tracer.start(tmp_path / name)
        batch: Batch = tracer.cells
        tracer.decode_batch(run, batch, lambda count: None)
        return [run.read(cell).tensors["mi"] for cell in batch]

    expected = traced("plain")
    assert len({one.shape for one in expected}) > 1, "rows that end at different steps"
    monkeypatch.setattr("analyses.trace.tracer.scoring_device", lambda *_: place)
    with moved(model), Pretended():
        found = traced(f"on {place.type}")
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0 if place == HOST else 1e-12)


def test_what_fails_aside_is_raised_here() -> None:
    def fail() -> None:
        raise ValueError("no score")

    aside = Aside(True)
    aside.call(fail)
    with pytest.raises(ValueError, match="no score"):
        aside.settle()
    aside.settle()  # told once

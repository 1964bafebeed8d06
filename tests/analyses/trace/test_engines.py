"""A run goes on with the engine that it was begun with, or says why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from analyses.problems import bundled_problems
from analyses.store import Cell, Run
from analyses.trace import trace
from analyses.trace.provenance import engine_begun_with
from interp import InputError, load_model, only_engine
from interp.engines.bridge import BridgeEngine

SMALL: dict[str, Any] = {"max_new_tokens": 12, "batch_size": 1, "report": False}


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("toy-reasoner", device="cpu")


@pytest.fixture(scope="module")
def begun(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trace(model, n=1, out=tmp_path_factory.mktemp("trace") / "new", **SMALL).path


def test_a_run_that_names_no_engine_was_the_bridges(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an earlier version: it goes on to the last bit as it would have gone on then."""
    with only_engine("bridge"):
        whole = trace(model, n=2, out=tmp_path / "whole", **SMALL)
        old = trace(model, n=1, out=tmp_path / "old", **SMALL).path
    assert engine_begun_with(whole.path) == "bridge"
    pinned = json.loads((old / "run.json").read_text())
    del pinned["provenance"]["model"]["engine"]
    (old / "run.json").write_text(json.dumps(pinned))
    ran: list[str] = []
    forward = BridgeEngine.forward
    monkeypatch.setattr(BridgeEngine, "forward", lambda self, *args: ran.append("bridge") or forward(self, *args))
    trace(model, n=2, out=old, **SMALL)
    assert ran
    assert engine_begun_with(old) == "bridge"
    for problem in bundled_problems(2):
        one, other = (Run.open(path).read(Cell(problem.id)).tensors for path in (whole.path, old))
        assert all(torch.equal(one[name], other[name]) for name in ("token_ids", "mi", "logprobs"))


def test_a_run_of_the_twin_goes_on_with_the_twin_alone(model: Any, begun: Path) -> None:
    assert engine_begun_with(begun) == "twin (sdpa)"
    with (
        only_engine("bridge"),
        pytest.raises(InputError, match=r"provenance.model.engine is .*twin \(sdpa\).* there and .*bridge.* now"),
    ):
        trace(model, n=2, out=begun, **SMALL)
    trace(model, n=2, out=begun, **SMALL)
    assert len(Run.open(begun).cells()) == 2


def test_numbers_of_the_engines_differ_by_rounding(model: Any, begun: Path, tmp_path: Path) -> None:
    with only_engine("bridge"):
        other = trace(model, n=1, out=tmp_path / "run", **SMALL)
    cell = Cell(bundled_problems(1)[0].id)
    one, two = (Run.open(path).read(cell).tensors for path in (begun, other.path))
    assert torch.equal(one["token_ids"], two["token_ids"])
    torch.testing.assert_close(one["mi"], two["mi"], atol=1e-4, rtol=1e-3)

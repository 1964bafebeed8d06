"""Responses that are empty, cut or all alike are told, once decoded and in the summary."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from processes import Command

from analyses.commands.show_trace import show
from analyses.report.summary import summary
from analyses.report.warned import Counted, response_counts, response_warnings
from analyses.store import Run
from analyses.trace import trace
from analyses.trace.provenance import RunWarning
from interp import load_model


def always(token: str) -> Any:
    """The toy under a hook that lets it say nothing else."""
    model = load_model("toy-reasoner", device="cpu")
    wanted = model.tokenizer.convert_tokens_to_ids(token)

    def say(logits: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.full_like(logits, -1e4).index_fill(-1, torch.tensor([wanted]), 0.0)

    model.add_hook("unembed.hook_out", say)
    return model


@pytest.mark.parametrize(
    ("make", "n", "expected"),
    [
        (lambda: load_model("toy-reasoner"), 2, [r"2 of 2 \(100%\) were cut at 6 tokens"]),
        (lambda: always("<eos>"), 3, [r"3 of 3 \(100%\) are empty"]),
        (lambda: always("Wait"), 2, [r"2 of 2 \(100%\) were cut", "all 2 are the same text"]),
        (lambda: always("Wait"), 1, [r"1 of 1 \(100%\) were cut"]),
    ],
)
def test_a_trace_warns(make: Callable[[], Any], n: int, expected: list[str], tmp_path: Path) -> None:
    with pytest.warns(RunWarning) as caught:
        run = trace(make(), n=n, out=tmp_path, max_new_tokens=6, excess=0, report=False)
    said = [str(one.message) for one in caught if str(one.message).startswith("responses: ")]
    assert len(said) == len(expected)
    for sentence, pattern in zip(said, expected, strict=True):
        assert pd.Series([sentence]).str.contains(pattern).all(), sentence
    facts = summary(run)
    assert facts["warnings"] == said
    assert (facts["empty"], facts["cut"]) == (n if "empty" in expected[0] else 0, n if "cut" in expected[0] else 0)


def test_ordinary_responses_are_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trace("toy-reasoner", n=2, out=tmp_path, max_new_tokens=160, excess=0, report=False)
    assert summary(run)["warnings"] == []
    show(run)
    assert "Beware" not in capsys.readouterr().out


def test_the_share_that_is_a_warning() -> None:
    def of(cut: int) -> list[str]:
        ends = ["length"] * cut + ["eos"] * (100 - cut)
        return response_warnings(pd.DataFrame({"text": [str(k) for k in range(100)], "finish_reason": ends}))

    assert of(4) == []
    assert of(5) == [
        "responses: 5 of 100 (5%) were cut at the token limit, most likely before an answer. Raise --max-new-tokens "
        "(in a new folder)."
    ]
    assert response_warnings(pd.DataFrame({"text": [], "finish_reason": []}, dtype=str)) == []
    assert response_counts(pd.DataFrame({"text": ["\n"], "finish_reason": ["eos"]})) == {"all": 1, "empty": 1, "cut": 0}


@pytest.mark.parametrize("texts", [["18", "18 ", " 18"], ["18", "18", "So"], ["", " ", ""], ["", "So", "So"], []])
def test_in_parts_they_are_counted_as_in_one(texts: list[str]) -> None:
    whole = pd.DataFrame({"text": texts, "finish_reason": ["length", "eos", "eos"][: len(texts)]}, dtype=str)
    parts = [whole[begin : begin + 1] for begin in range(len(whole))]
    counted = Counted.of(parts)
    assert response_counts(counted) == response_counts(whole)
    assert response_warnings(counted, 6) == response_warnings(whole, 6)
    alike = len(texts) > 1 and len({text.strip() for text in texts}) == 1 and texts[0] != ""
    assert any("are the same text" in said for said in response_warnings(counted)) == alike


def test_the_command_shows_it(tmp_path: Path, peaklens: Command) -> None:
    words = ["trace", "--n", "2", "--max-new-tokens", "6", "--out", str(tmp_path)]
    _, out, _ = peaklens(*words)
    assert "Beware, responses: 2 of 2 (100%) were cut at 6 tokens" in " ".join(out.split())
    _, out, _ = peaklens(*words, "--json")
    assert json.loads(out)["cut"] == 2


def test_a_run_of_before_has_none(tmp_path: Path) -> None:
    trace("toy-reasoner", n=1, out=tmp_path, max_new_tokens=6, excess=0)
    (tmp_path / "responses.parquet").unlink()
    assert "warnings" not in summary(Run.open(tmp_path))

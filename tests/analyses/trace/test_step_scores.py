"""Scores of a batch's steps, as rows leave and join, against the dense formula of each row on its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from analyses.trace import step_scores
from analyses.trace.step_scores import StepScores
from interp.record import StepResiduals
from probes import nhsic, nhsic_dense
from probes.answers import AnswerFactor, factor_answers

LAYERS, WIDTH = (0, 3), 12


def told(lengths: list[int], begins: list[int]) -> tuple[list[StepResiduals], list[torch.Tensor]]:
    """Steps of rows that go from their beginnings for their lengths, and each row's own stream."""
    torch.manual_seed(4)
    whole = [torch.randn(len(LAYERS), n, WIDTH) * 30 for n in lengths]
    steps = []
    for t in range(max(b + n for b, n in zip(begins, lengths, strict=True))):
        rows = [r for r, (b, n) in enumerate(zip(begins, lengths, strict=True)) if b <= t < b + n]
        rows = rows[::-1] if t % 5 == 4 else rows  # the last one may take a leaver's place
        if rows:
            here = torch.stack([whole[r][:, t - begins[r]] for r in rows], dim=1)
            steps.append(StepResiduals(t, rows, {"resid_post": here}))
    return steps, whole


@pytest.mark.parametrize("held", [1 << 28, 1000], ids=["by steps", "by bytes"])
@pytest.mark.parametrize("begins", [[0, 0, 0, 0], [0, 5, 40, 41]], ids=["leaving", "joining"])
def test_each_row_gets_its_own_scores(begins: list[int], held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_scores, "CHUNK_BYTES", held)
    steps, whole = told([7, 36, 70, 33], begins)
    answers = torch.randn(4, 1, len(LAYERS), WIDTH) * 30
    calls: list[tuple[int, ...]] = []

    def score(steps: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(steps.shape))
        return nhsic(steps, answers)

    scores = StepScores(score, None, LAYERS, "resid_post", ["p"] * 4, answers)
    for step in steps:
        scores.add(step)
        step.residuals["resid_post"].fill_(torch.nan)  # valid until the callback returns, no longer
    for row, found in enumerate(scores.finish()):
        exact = nhsic_dense(whole[row], answers[row, 0])
        assert found["mi"].shape == exact.shape
        torch.testing.assert_close(found["mi"], exact, rtol=0, atol=1e-8)
    if held > 1000:  # rows that leave one after the other do not make calls of a step or two of all the others
        assert len(calls) <= 4 * (len(steps) // step_scores.CHUNK_STEPS + 1)
        assert sum(rows * n for rows, _, n, _ in calls) == 7 + 36 + 70 + 33
    else:
        most: Any = max(rows * layers * n * width * 4 for rows, layers, n, width in calls)
        assert most <= held


@pytest.mark.parametrize("rank", [step_scores._RANK, 10**9], ids=["held", "too large to hold"])
def test_answers_are_made_ready_once_for_rows_that_stay_together(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_scores, "_RANK", rank)
    steps, whole = told([70, 70, 100], [0, 0, 0])
    answers = torch.randn(3, 1, len(LAYERS), WIDTH) * 30
    made: list[int] = []

    def factor(answers: torch.Tensor) -> AnswerFactor:
        made.append(len(answers))
        return factor_answers(answers)

    scores = StepScores(nhsic, None, LAYERS, "resid_post", ["p"] * 3, answers, factor=factor)
    for step in steps:
        scores.add(step)
    for row, found in enumerate(scores.finish()):
        torch.testing.assert_close(found["mi"], nhsic_dense(whole[row], answers[row, 0]), rtol=0, atol=1e-8)
    # Five calls: three rows twice; then the two that leave, and twice the one that goes on.
    assert sorted(made) == ([1, 2, 3] if rank < 10**9 else [])

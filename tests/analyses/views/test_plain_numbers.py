"""Views of what one has: plain numbers, without a rollout or a trajectory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from analyses.trace import Trajectory
from analyses.views import heatmap, trajectories
from interp import InputError

MI = [[0.1, 0.2, 0.1, 0.2, 0.1, 0.9], [0.3, 0.2, float("nan"), 0.2, 0.3, 0.25]]


@pytest.mark.parametrize("made", [torch.tensor, np.array, list])
def test_plain_numbers_show_as_their_trajectory(made: Any) -> None:
    mi, words = made(MI), list("abcdef")
    whole = Trajectory.of(words, mi, problem="scores")
    assert (whole.token_ids.tolist(), whole.layers, whole.site) == ([-1] * 6, (0, 1), "resid_post")
    ours, theirs = (view.to_frame() for view in (trajectories(mi, [0, 1], tokens=words), trajectories(whole, [0, 1])))
    assert ours["is_peak"].tolist() == theirs["is_peak"].tolist() == [False] * 5 + [True] + [False] * 6
    assert ours["token"].tolist() == theirs["token"].tolist()
    np.testing.assert_array_equal(ours["value"], theirs["mi"])
    shown, marked = heatmap(mi, whole.is_peak), heatmap(mi, marks=whole.is_peak)
    assert shown.alt == marked.alt
    assert shown.to_frame()["marked"].tolist() == theirs["is_peak"].tolist()
    assert heatmap(mi, words, marks=[5]).to_frame()["token"].tolist() == words * 2


def test_what_does_not_fit_is_refused() -> None:
    whole = Trajectory.of(list("abcdef"), MI)
    for make, text in (
        (lambda: Trajectory.of(list("abc"), MI), "the 3 steps of the response"),
        (lambda: trajectories(MI, tokens=["a"]), "6 tokens, one a step"),
        (lambda: trajectories(MI, [2]), "a row from 0 to 1"),
        (lambda: trajectories(whole, peaks=[1]), "tokens and peaks with plain numbers alone"),
        (lambda: trajectories([]), "at least one layer and one step|at least one trajectory"),
        (lambda: heatmap(MI, [True] * 6, marks=[1]), "tokens as texts, beside marks"),
    ):
        with pytest.raises(InputError, match=text):
            make()

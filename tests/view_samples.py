"""Views of made-up and of the toy's numbers, some of hostile text, and what to ask a browser about them."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pandas
import torch

from analyses import views
from analyses.problems import bundled_problems
from analyses.trace.trajectory import Trajectory, peaks_where_defined
from analyses.views.frames import PeakTable, SweepTable
from interp import ResidualSites, decode, load_model
from interp.rollout import Rollout
from interp.rows import Event

HOSTILE = [
    "</script>", "<script>window.pwned=1</script>", "<img src=x onerror=window.pwned=1>", "<!--", "]]>", "{{", "&lt;",
    "\u202e", "\x00", "\u2028", "\n", '"', "'", "$$x$$", "@value", "a" * 3000, " ", "",
    "<svg onload=window.pwned=1>", "&#60;b&#62;",
]  # fmt: skip
NASTY = '"><img src=x onerror=window.pwned=1></script><script>window.pwned=1</script>$$x$$'


def trajectory(tokens: list[str], mi: Any, problem: str = "ducks", tau: float = 1.5, **more: Any) -> Trajectory:
    scores = torch.atleast_2d(torch.as_tensor(mi, dtype=torch.float64))
    layers = range(len(scores))
    ids = torch.arange(len(tokens))
    peaks = peaks_where_defined(scores, tau)
    return Trajectory(tokens, ids, scores, peaks, layers, "resid_post", problem, 0, tau=tau, **more)


def rollout(tokens: list[str], ids: Any = None, events: list[Event] | None = None) -> Rollout:
    count = len(tokens)
    numbers = torch.arange(count) if ids is None else torch.as_tensor(ids)
    logprobs = torch.linspace(-2, -0.25, count)
    return Rollout(torch.tensor([1]), numbers, tokens, "", "eos", logprobs, logprobs.abs(), events=events or [])


def scores(layers: int, steps: int) -> torch.Tensor:
    values = torch.rand(layers, steps, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.2
    values[:, ::7] += 1
    return values


@cache
def toy() -> Any:
    return load_model("toy-reasoner")


@cache
def toy_rollouts() -> tuple[Rollout, Rollout]:
    """A greedy response with its residuals, and a sampled one of the same question."""
    question = bundled_problems(1)[0].question
    greedy = decode(toy(), [question], max_new_tokens=100, record=ResidualSites())[0]
    return greedy, decode(toy(), [question], max_new_tokens=100, temperature=1.3, seed=3)[0]


def hostile_views() -> dict[str, views.View]:
    """Every view, with hostile text wherever text can be."""
    steps = len(HOSTILE)
    values = scores(2, steps)
    values[0, 3], values[0, 5], values[1, 6] = math.nan, math.inf, -math.inf
    one = trajectory(HOSTILE, values, problem=NASTY, measure=NASTY)
    words = pandas.DataFrame({"token": HOSTILE, "lift": range(steps), "low": [0.0] * steps, "high": [20.0] * steps})
    sweep = SweepTable({"layer": [1] * steps, "site": [NASTY] * steps, "step": range(steps), "token": HOSTILE,
                        "value": 0.0, "baseline": 0.0, "effect": np.linspace(-1, 0.5, steps)})  # fmt: skip
    greedy = toy_rollouts()[0]
    read = Rollout(greedy.prompt_ids, greedy.token_ids[:steps], HOSTILE, "", "eos", *torch.ones(2, steps))
    other = rollout([*HOSTILE[::-1]], ids=range(steps)[::-1])
    return {
        "text": views.text(one),
        "rollout": views.text(rollout(HOSTILE, events=[Event(2, NASTY, NASTY)])),
        "plain text": views.text(HOSTILE, values, labels=[NASTY, "<b>"], title=NASTY, marks=[0, 1, 2]),
        "heatmap": views.heatmap(one),
        "trajectories": views.trajectories([one, one], layers=[0, 1], title=NASTY),
        "sweep": sweep.show(label=NASTY),
        "bars": views.bars(words, label="token", value="lift", low="low", high="high", reference=1, title=NASTY),
        "peaks": PeakTable({"token": HOSTILE}).show(),
        "attention": views.attention(toy(), read, 1, [steps - 1], window=steps - 1, title=NASTY),
        "logit lens": views.logit_lens(toy(), read, 1, title=NASTY),
        "compare": views.compare(rollout(HOSTILE), other, by="logprobs", names=(NASTY, "<b>")),
    }


PWNED = "() => window.pwned === undefined ? 'inert' : 'pwned'"
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
LIVE = "() => [...document.querySelectorAll('.pl-view')].map((v) => v.querySelector('.pl-static').hidden)"

"""The circuit behind `Wait`, found on some problems and proved on others: which components copy, notice and repair.

1. `read_runs` has the model answer questions, and names what each step does (`KINDS`).
2. `search` sets every head and MLP in turn to its mean, exactly, at the steps of a task, and counts what still comes.
3. `proved` takes what was found to other problems: without it, without as many others of its layers, and with its
   values put back from another problem's run that did the task.
4. `agreement` compares what was found with the same search on those other problems.

A component is set at *all* positions that have read the same kind of word, whatever they go on to do (what notices a
slip is taken from right digits too), and to its mean over these positions: what it says at some of them and not at
others is gone, what it says at all of them stays. Everything is teacher-forced: the text stays as it was written, and
the next word is looked at. Nothing is estimated, and nothing here is evidence about large models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas
import torch
from torch import Tensor

from analyses.stats import Estimate, proportion
from analyses.toys.facts import SEPARATORS
from analyses.toys.wait_steps import KINDS, SLOTS, Run, kinds, read_runs
from interp.engines.base import Engine
from interp.engines.registry import engine_for
from interp.errors import InputError
from interp.patching import Node
from interp.sites import Site

__all__ = [
    "KINDS", "TASKS", "Put", "Run", "Search", "agreement", "components", "kinds", "needed", "proved", "read_runs",
    "search", "written",
]  # fmt: skip

_CHECKS = ("go on", "leave", "notice")
TASKS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "copy the value": ("value", ("value",)),
        "copy the operator": ("operator", ("operator",)),
        "copy the operand": ("operand", ("operand",)),
        "notice at once": ("notice", _CHECKS),
        "write the repair": ("repair", ("repair",)),
        "notice a step later": ("redo", ("next", "redo")),
    }
)
"""Of each task the kind of step that does it, and the kinds at which components are set: those that read the same."""
MOST = 0.8
"""Needed is a component without which at most this share of a task's steps is left."""
_ORDINARY = {"notice at once": "go on", "notice a step later": "next"}
_TOGETHER = 16  # responses in a batch


@dataclass(frozen=True, eq=False)
class Put:
    """What a component is set to: of each run some steps, and one value ``[width]`` for all of them, or of each run one
    a step ``[step, width]``."""

    node: Node
    steps: Sequence[Sequence[int]]
    values: Tensor | Sequence[Tensor]


def components(model: Any) -> list[Node]:
    """Every head and every MLP, in the order of the forward pass."""
    return [
        node
        for layer in range(model.cfg.n_layers)
        for node in (*(Node("head", layer, head) for head in range(model.cfg.n_heads)), Node("mlp", layer))
    ]


@torch.no_grad()
def written(model: Any, runs: Sequence[Run], puts: Sequence[Put] = ()) -> list[list[str]]:
    """The word that the model would write next at each step of each response, with some components set."""
    words = model.tokenizer.convert_ids_to_tokens(list(range(model.cfg.d_vocab)))
    by_site: dict[Site, list[Put]] = {}
    for put in puts:
        by_site.setdefault(_site(put.node), []).append(put)
    engine = engine_for(model, by_site)
    found: dict[int, list[str]] = {}
    longest_first = sorted(range(len(runs)), key=lambda number: -len(runs[number].ids))
    for begin in range(0, len(runs), _TOGETHER):
        some = longest_first[begin : begin + _TOGETHER]  # of like length: little is padding
        edits = {site: _setting(all_of, runs, some) for site, all_of in by_site.items()}
        with engine.tapped({}, edits):
            best = _logits(engine, model, [runs[number] for number in some]).argmax(-1)
        for number, row in zip(some, best.tolist(), strict=True):
            run = runs[number]
            found[number] = [words[token] for token in row[run.first : len(run.ids)]]
    return [found[number] for number in range(len(runs))]


@torch.no_grad()
def _values(model: Any, runs: Sequence[Run], nodes: Sequence[Node]) -> dict[Node, list[Tensor]]:
    """What components write at each step of each response, ``[step, width]``."""
    seen: dict[Site, Tensor] = {}
    sites = list(dict.fromkeys(map(_site, nodes)))
    engine = engine_for(model, sites)
    with engine.tapped({site: partial(seen.__setitem__, site) for site in sites}, {}):
        _logits(engine, model, runs)
    found: dict[Node, list[Tensor]] = {}
    for node in nodes:
        mine = seen[_site(node)] if node.head is None else seen[_site(node)][:, :, node.head]
        found[node] = [row[run.first : len(run.ids)] for run, row in zip(runs, mine, strict=True)]
    return found


def _site(node: Node) -> Site:
    return Site("mlp_out" if node.head is None else "z", node.layer)


def _setting(puts: Sequence[Put], runs: Sequence[Run], some: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Sets them, which are all of one site, in a batch of some of the runs."""

    def set_them(value: Tensor) -> Tensor:
        new = value.clone()
        for put in puts:
            for row, number in enumerate(some):
                if put.steps[number]:
                    at = [runs[number].first + step for step in put.steps[number]]
                    this = put.values if isinstance(put.values, Tensor) else put.values[number]
                    if put.node.head is None:
                        new[row, at] = this.to(new)
                    else:
                        new[row, at, put.node.head] = this.to(new)
        return new

    return set_them


def _logits(engine: Engine, model: Any, runs: Sequence[Run]) -> Tensor:
    """Of each position of each text; texts are padded on the right, where nothing that counts looks."""
    longest = max(len(run.ids) for run in runs)
    fill = int(model.tokenizer.unk_token_id)
    rows = [[*run.ids, *[fill] * (longest - len(run.ids))] for run in runs]
    with engine.evaluating():
        cache = engine.new_cache([0] * len(rows), longest)
        return engine.forward(torch.tensor(rows, device=engine.device), cache, longest)


def _is_right(run: Run, step: int, word: str) -> bool:
    """Whether a word does what the step did: going on is either separator, next any filler, all else the very word."""
    any_of = {"go on": SEPARATORS, "leave": SEPARATORS, "next": SLOTS}.get(run.kinds[step] or "")
    return word in any_of if any_of else word == run.tokens[step]


def _counts(
    runs: Sequence[Run],
    said: Sequence[Sequence[str]],
    kinds: Sequence[str],
    only: Sequence[Sequence[int]] | None = None,
) -> np.ndarray:
    """Of each problem the steps that are as they were, and how many there are ``[problem, 2]``."""
    rows = []
    for number, (run, words) in enumerate(zip(runs, said, strict=True)):
        steps = run.steps(*kinds) if only is None else only[number]
        rows.append((sum(_is_right(run, step, words[step]) for step in steps), len(steps)))
    return np.array(rows)


def _others(task: str) -> list[str]:
    """The ordinary kinds of steps: no slip, no repair, and not the task's own."""
    return [kind for kind in ("next", "value", "operator", "operand", "result", "go on") if kind != TASKS[task][0]]


def _means(model: Any, runs: Sequence[Run], nodes: Sequence[Node]) -> dict[tuple[str, Node], Tensor]:
    """Of each task and component the mean over the steps at which it is set."""
    found = {}
    for node, values in _values(model, runs, nodes).items():
        for task, (_, places) in TASKS.items():
            at = [each[run.steps(*places)] for run, each in zip(runs, values, strict=True)]
            found[task, node] = torch.cat(at).double().mean(0)
    return found


@dataclass(frozen=True, eq=False)
class Search:
    """What is left of each task without each component, exactly.

    Attributes:
        counts: by task and component, of each problem the steps that are as they were, and all ``[problem, 2]``.
        frame: ``task, node, n, left, low, high, ordinary``: the share of the task's steps that are left, with its
            bootstrap interval over problems, and the share of ordinary steps.
    """

    counts: Mapping[tuple[str, Node], np.ndarray]
    frame: pandas.DataFrame
    means: Mapping[tuple[str, Node], Tensor]


def search(model: Any, runs: Sequence[Run], means: Mapping[tuple[str, Node], Tensor] | None = None) -> Search:
    """Every component set to its mean (of these runs unless given) at the steps of each task, in turn."""
    nodes = components(model)
    means = _means(model, runs, nodes) if means is None else means
    counts, rows = {}, []
    for task, (kind, places) in TASKS.items():
        steps = [run.steps(*places) for run in runs]
        for node in nodes:
            said = written(model, runs, [Put(node, steps, means[task, node])])
            mine, rest = _counts(runs, said, [kind]), _counts(runs, said, _others(task))
            counts[task, node] = mine
            left = _share(mine)
            rows.append((task, node.label, int(mine[:, 1].sum()), left.estimate, left.low, left.high, _ratio(rest)))
    columns = ["task", "node", "n", "left", "low", "high", "ordinary"]
    return Search(counts, pandas.DataFrame(rows, columns=columns), means)


def needed(found: Search, task: str, most: float = MOST) -> list[Node]:
    """The components without which at most this share of the task's steps is left."""
    if task not in TASKS:
        raise InputError("needed", expected=f"a task among {', '.join(TASKS)}", received=task, remedy="Choose one.")
    return [node for (of, node), counts in found.counts.items() if of == task and _ratio(counts) <= most]


def agreement(found: Search, again: Search, most: float = MOST) -> dict[str, Estimate]:
    """Precision and recall of what was found against the exact search on other problems, over all tasks.

    Intervals are over the other problems: each draw of them says anew what is needed.
    """
    keys = list(found.counts)
    mine = np.array([_ratio(found.counts[key]) <= most for key in keys])
    theirs = np.stack([again.counts[key] for key in keys])  # [key, problem, 2]

    def share(of: str, problems: np.ndarray) -> float:
        right, total = theirs[:, problems].sum(1).T
        with np.errstate(invalid="ignore", divide="ignore"):
            truth = right / total <= most
        both, count = int((mine & truth).sum()), int((mine if of == "precision" else truth).sum())
        return both / count if count else float("nan")

    every = np.arange(theirs.shape[1])
    draws = np.random.default_rng(0).integers(len(every), size=(2000, len(every)))
    estimates = {}
    for of in ("precision", "recall"):
        drawn = np.array([share(of, draw) for draw in draws])
        known = drawn[~np.isnan(drawn)]  # a draw may need nothing
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
        estimates[of] = Estimate(share(of, every), float(low), float(high), 0.95, len(every), "bootstrap over problems")
    return estimates


def proved(model: Any, runs: Sequence[Run], found: Search, *, most: float = MOST, draws: int = 5) -> pandas.DataFrame:
    """What was found, on other problems: a row a task and condition.

    Conditions: "left alone"; "without" what was found; "random", without as many other components of the same layers
    (or all others, where there are fewer; all draws together); "put back", without what was found, but at each of the
    task's steps with its values of another problem's run that wrote the same word there (copied for the same label);
    "from an ordinary step", the same from a step of another problem where there was nothing to notice. Steps for which
    no other problem has such a one are left out of these two.

    Columns: ``set``, how many components were; ``n`` steps, ``right`` the share of them that are as they were,
    ``ordinary`` that of ordinary steps, with intervals over problems.

    Found on 64 problems, no random draw changes a step (docs/RESULTS.md). Found on a dozen, components near the
    threshold are missed, and a draw may hold one: that then shows as an effect of "random".
    """
    rows: list[tuple[Any, ...]] = []
    nodes = components(model)
    for task, (kind, places) in TASKS.items():
        circuit = needed(found, task, most)
        if not circuit:
            continue
        steps = [run.steps(*places) for run in runs]
        means = {node: Put(node, steps, found.means[task, node]) for node in nodes}
        without = [means[node] for node in circuit]
        random = [[means[node] for node in _drawn(circuit, nodes, Random(draw))] for draw in range(draws)]
        values = _values(model, runs, circuit)
        asked: dict[str, tuple[Any, list[list[Put]]]] = {
            "left alone": (None, [[]]), "without": (None, [without]), "random": (None, random),
        }  # fmt: skip
        for name, source in {"put back": kind, "from an ordinary step": _ORDINARY.get(task)}.items():
            if source:
                only, puts = _put_back(runs, circuit, kind, source, values)
                asked[name] = (only, [[*without, *puts]])
        for name, (only, several) in asked.items():
            said = [written(model, runs, puts) for puts in several]
            mine = np.sum([_counts(runs, one, [kind], only) for one in said], axis=0)
            rest = np.sum([_counts(runs, one, _others(task)) for one in said], axis=0)
            both = [number for one in map(_share, (mine, rest)) for number in (one.estimate, one.low, one.high)]
            labels = ", ".join(node.label for node in circuit)
            count = {"left alone": 0, "random": len(random[0])}.get(name, len(circuit))
            rows.append((task, labels, name, count, int(mine[:, 1].sum()), *both))
    columns = [
        "task",
        "circuit",
        "condition",
        "set",
        "n",
        "right",
        "low",
        "high",
        "ordinary",
        "ordinary_low",
        "ordinary_high",
    ]
    return pandas.DataFrame(rows, columns=columns)


def _put_back(
    runs: Sequence[Run], circuit: Sequence[Node], kind: str, source: str, values: Mapping[Node, list[Tensor]]
) -> tuple[list[list[int]], list[Put]]:
    """Values of another problem's step of the source's kind, at each step of a kind that has such a one."""
    pool = [(number, step) for number, run in enumerate(runs) for step in run.steps(source)]
    pairs: list[list[tuple[int, int, int]]] = [[] for _ in runs]
    rng = Random(0)
    for number, run in enumerate(runs):
        for step in run.steps(kind):
            same = [
                (other, at)
                for other, at in pool
                if other != number and (source != kind or _written_from(runs[other], at) == _written_from(run, step))
            ]
            if same:
                pairs[number].append((step, *rng.choice(same)))
    steps = [[step for step, _, _ in of] for of in pairs]
    puts = []
    for node in circuit:
        taken = [[values[node][n][t] for _, n, t in of] for of in pairs]
        puts.append(Put(node, steps, [torch.stack(of) if of else torch.zeros(0, 0) for of in taken]))
    return steps, puts


def _written_from(run: Run, step: int) -> tuple[str, ...]:
    """The word of a step; where it is copied, the label that it is copied for too."""
    label = {"value": 1, "operator": 2, "operand": 3}.get(run.kinds[step] or "")
    return (run.tokens[step],) if label is None else (run.tokens[step - label], run.tokens[step])


def _drawn(circuit: Sequence[Node], nodes: Sequence[Node], rng: Random) -> list[Node]:
    """As many others of the same layers."""
    found: list[Node] = []
    for layer in sorted({node.layer for node in circuit}):
        rest = [node for node in nodes if node.layer == layer and node not in circuit]
        found += rng.sample(rest, min(len(rest), sum(node.layer == layer for node in circuit)))
    return found


def _ratio(counts: np.ndarray) -> float:
    right, total = counts.sum(0)
    return float(right / total) if total else float("nan")


def _share(counts: np.ndarray) -> Estimate:
    """With Wilson's interval for the effective number of steps, which come in problems; NaN of none."""
    total = int(counts[:, 1].sum())
    if not total:
        return Estimate(float("nan"), float("nan"), float("nan"), 0.95, 0, "no steps")
    values = np.concatenate([np.arange(n) < right for right, n in counts]).astype(float)
    return proportion(values, np.repeat(np.arange(len(counts)), counts[:, 1]))

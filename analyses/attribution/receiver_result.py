"""Receiver heads: the ranked table of heads, how far it can be relied on, and heads of the same layers by lot."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas

from analyses.attribution.receiver_file import read_receivers, write_receivers
from analyses.stats import bootstrap_interval
from interp.arguments import Whole, as_whole
from interp.display import details_table, table
from interp.errors import InputError
from interp.interventions.heads import as_heads

if TYPE_CHECKING:
    from analyses.views.view import View

__all__ = ["ReceiverHeads", "head_name", "random_heads", "ranked"]

_SHOWN = 20


@dataclass(frozen=True, eq=False, repr=False)
class ReceiverHeads:
    """Heads by how far their attention narrows; :func:`receiver_heads` and :func:`sentence_receivers` make it.

    Attributes:
        table: a row a head, the best first: ``rank``, ``layer``, ``head``, ``score`` with its interval over problems
            (``low``, ``high``), what the score is made of, ``n`` responses and ``problems``. Heads without a score come
            last.
        responses: a row a response and head: ``response`` (its place in the list), ``problem``, ``layer``, ``head`` and
            what the row of the head is a mean of.
        sentences: of sentences a row a response and sentence: ``start`` and ``stop`` (tokens), ``text``, and its
            receiver ``score``; none of tokens.
        settings: what it was made with, and what was left out.
    """

    table: pandas.DataFrame
    responses: pandas.DataFrame
    sentences: pandas.DataFrame
    settings: Mapping[str, Any]

    @property
    def reliability(self) -> float:
        """Pearson's r of the heads' scores on even and on odd problems, without layer 0; NaN where it is undefined.

        A score that ranks heads by chance has an r near 0. Layer 0 is left out, as in the paper: its heads attend to
        tokens, not to what they say, which any text repeats.
        """
        rows = self.responses
        if rows["layer"].nunique() > 1:
            rows = rows[rows["layer"] > 0]
        number = {problem: place for place, problem in enumerate(dict.fromkeys(rows["problem"]))}
        odd = rows["problem"].map(number) % 2
        halves = [rows[odd == half].groupby(["layer", "head"])["score"].mean() for half in (0, 1)]
        both = pandas.concat(halves, axis=1, keys=["even", "odd"]).dropna()
        varied = len(both) > 2 and both["even"].nunique() > 1 and both["odd"].nunique() > 1
        return float(both["even"].corr(both["odd"])) if varied else math.nan

    def heads(self, k: Whole, *, at_most: Whole | None = None) -> list[tuple[int, int]]:
        """The first k as (layer, head), for `HeadAblate` and the like; fewer where fewer have a score.

        Args:
            at_most: heads of a layer that are taken; those beyond it are passed over. Half of a layer's heads leaves as
                many to draw controls from.
        """
        count = as_whole(k, "ReceiverHeads.heads", "k", 0)
        found: list[tuple[int, int]] = []
        most = None if at_most is None else as_whole(at_most, "ReceiverHeads.heads", "at_most", 0)
        taken: Counter[int] = Counter()
        known = self.table[self.table["score"].notna()]
        for layer, head in zip(known["layer"].tolist(), known["head"].tolist(), strict=True):
            if len(found) < count and (most is None or taken[layer] < most):
                taken[layer] += 1
                found.append((int(layer), int(head)))
        return found

    def top(self, k: Whole = 10) -> pandas.DataFrame:
        """The first k rows of the table."""
        return self.table.head(as_whole(k, "ReceiverHeads.top", "k", 0))

    def to_frame(self) -> pandas.DataFrame:
        """A copy of the table."""
        return self.table.copy()

    def show(self) -> View:
        """The scores over layer and head."""
        from analyses.views.grids import sweep

        frame = self.table.assign(effect=self.table["score"])[["layer", "head", "effect"]]
        return sweep(frame, title=f"Receiver heads of {self.settings['model']}", label=self.settings["score"])

    def save(self, path: str | Path) -> Path:
        """Write all of it to one file of JSON, whole or not at all.

        >>> import tempfile
        >>> rows = pandas.DataFrame({"response": 0, "problem": "a", "layer": 1, "head": [0, 1], "score": [0.5, 0.1]})
        >>> settings = {"model": "toy", "score": "attention", "responses": 1}
        >>> found = ReceiverHeads(ranked(rows, (), 10, 0), rows, pandas.DataFrame(), settings)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = ReceiverHeads.load(found.save(f"{folder}/receivers.json"))
        >>> again.heads(1), again.table.equals(found.table)
        ([(1, 0)], True)

        Raises:
            InputError: problems whose names JSON has not, a place that cannot be written.
        """
        tables = {"table": self.table, "responses": self.responses, "sentences": self.sentences}
        return write_receivers(Path(path), tables, self.settings)

    @classmethod
    def load(cls, path: str | Path) -> ReceiverHeads:
        """What :meth:`save` wrote; anything else is an `InputError`, and nothing of it is run."""
        tables, settings = read_receivers(Path(path))
        return cls(**tables, settings=settings)

    def __repr__(self) -> str:
        best = ", ".join(head_name(*head) for head in self.heads(5))
        return f"ReceiverHeads({self._told()}; first {best or 'none'}; reliability {self.reliability:.2f})"

    def _told(self) -> str:
        return f"{self.settings['score']}, {self.settings['responses']} responses of {self.settings['model']}"

    def _repr_html_(self) -> str:
        details = {"reliability": f"{self.reliability:.3f}"} | {name: str(told) for name, told in self.settings.items()}
        shown = self.table.head(_SHOWN)
        caption = f"The first {len(shown)} of {len(self.table)} heads; intervals are of each head alone"
        columns = [str(name) for name in shown.columns]
        return (
            f"<p>{escape(self._told())}.</p>"
            + details_table(details)
            + table(columns, shown.itertuples(index=False), caption=caption)
        )


def head_name(layer: int, head: int) -> str:
    """How a head is called.

    >>> head_name(3, 2)
    'L3H2'
    """
    return f"L{layer}H{head}"


def ranked(responses: pandas.DataFrame, parts: Sequence[str], draws: int, seed: int) -> pandas.DataFrame:
    """A row a head from a row a response and head: the means, and the score's bootstrap interval over problems."""
    rows = []
    for place, part in responses.groupby(["layer", "head"], sort=True):
        layer, head = np.asarray(place).tolist()
        known = part[part["score"].notna()]
        row = {"layer": layer, "head": head, "score": math.nan, "low": math.nan, "high": math.nan}
        if len(known):
            found = bootstrap_interval(known["score"], draws=draws, seed=seed, clusters=known["problem"].astype(str))
            row |= {"score": found.estimate, "low": found.low, "high": found.high}
        row |= {name: float(known[name].mean()) if len(known) else math.nan for name in parts}
        rows.append({**row, "n": len(known), "problems": known["problem"].nunique()})
    table = pandas.DataFrame(rows).sort_values("score", ascending=False, kind="stable", ignore_index=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table


def random_heads(heads: Any, n_heads: Whole, draws: Whole = 3, seed: Whole = 0) -> list[list[tuple[int, int]]]:
    """As many other heads of the same layers, by lot: the control of an ablation of heads.

    >>> random_heads([(1, 0), (1, 3), (2, 2)], n_heads=4, draws=1)
    [[(1, 1), (1, 2), (2, 0)]]

    Args:
        heads: (layer, head), one or several, counted from 0.
        n_heads: of each layer.

    Raises:
        InputError: a layer of which more than half are asked for, so that there are not as many others.
    """
    operation = "draw heads"
    named, count = sorted(set(as_heads(heads, operation))), as_whole(n_heads, operation, "n_heads", 1)
    by_layer = {layer: [head for of, head in named if of == layer] for layer in sorted({of for of, _ in named})}
    dice = random.Random(as_whole(seed, operation, "seed"))
    for layer, mine in by_layer.items():
        outside = [head for head in mine if not 0 <= head < count]
        if outside or layer < 0 or 2 * len(mine) > count:
            raise InputError(
                operation,
                expected=f"at most half of the {count} heads of a layer, counted from 0",
                received=f"{len(mine)} of layer {layer}: {', '.join(map(str, mine))}",
                remedy="Take fewer of a layer: ReceiverHeads.heads(k, at_most=n_heads // 2).",
            )
    return [
        [
            (layer, head)
            for layer, mine in by_layer.items()
            for head in sorted(dice.sample([h for h in range(count) if h not in mine], len(mine)))
        ]
        for _ in range(as_whole(draws, operation, "draws", 0))
    ]

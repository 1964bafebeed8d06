"""How often words stand at peaks, and how much more often than anywhere.

1. `WordCount` counts while responses go by, by problem, so that nothing but counts is kept.
2. A word's lift is its share among the tokens at peaks over its share among all tokens, with the interval of
   :func:`analyses.stats.associations`, by problem, since the tokens of one response are not independent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analyses.stats import associations
from analyses.thinking import WORD

if TYPE_CHECKING:
    import pandas

__all__ = ["TOP_WORDS", "OtherTokens", "Word", "WordCount"]

TOP_WORDS, TOP_OTHERS = 15, 6


@dataclass(frozen=True)
class Word:
    """A word at peaks of a layer. `lift` is its share at peaks over its share among all tokens."""

    word: str
    count: int
    responses: int
    share: float
    overall: float
    lift: float
    low: float
    high: float


@dataclass(frozen=True)
class OtherTokens:
    """How many peaks of a layer there are, and the most frequent tokens at them that are no words."""

    peaks: int
    at_words: int
    tokens: list[tuple[str, int]]


class WordCount:
    """Counts the words of a run's tokens.csv, at peaks and anywhere, while responses go by.

    `tokens` are its rows of one position: tokens that peaks have read, or those that they predict. A word of letters is
    told by a token's text, whatever else by its id, since the text of half a character depends on its neighbours.
    """

    def __init__(self, tokens: pandas.DataFrame, layers: Sequence[int], problems: Sequence[str]) -> None:
        self.top: dict[int, dict[str, int]] = {}
        self.at_words: dict[int, int] = {}
        self.by_id: dict[int, str] = {}
        for layer in layers:
            rows = tokens[tokens["layer"] == layer]
            best = rows.head(TOP_WORDS)
            self.top[layer] = dict(zip(map(str, best["word"]), map(int, best["count"]), strict=True))
            # Read back from a file without rows, the column is one of text, whose sum is "".
            words = rows[rows["is_word"].astype(bool)] if len(rows) else rows
            self.at_words[layer] = int(words["count"].sum()) if len(words) else 0
            for word, is_word, ids in zip(best["word"], best["is_word"], best["token_ids"], strict=True):
                if not is_word:
                    self.by_id.update(dict.fromkeys(map(int, str(ids).split()), str(word)))
        self.problems = {problem: row for row, problem in enumerate(problems)}
        known = sorted({word for top in self.top.values() for word in top})
        self.known = {word: k for k, word in enumerate(known)}
        count = len(problems)
        self.steps = np.zeros(count)
        self.anywhere = np.zeros((count, len(self.known)))
        self.peaks = {layer: np.zeros(count) for layer in layers}
        self.at_peaks = {layer: np.zeros((count, len(self.top[layer]))) for layer in layers}
        self.scored = {layer: np.zeros(count, dtype=bool) for layer in layers}
        self.in_responses: dict[int, Counter[str]] = {layer: Counter() for layer in layers}
        self.plain: dict[int, Counter[str]] = {layer: Counter() for layer in layers}

    def add(
        self, problem: str, tokens: Sequence[str], ids: np.ndarray, layers: Sequence[int], is_peak: np.ndarray
    ) -> None:
        """Count a response: `tokens` and `ids` by step, `is_peak` ``[layer, step]``."""
        row, stripped = self.problems[problem], [token.strip() for token in tokens]
        words = [
            text if WORD.fullmatch(text) else self.by_id.get(token_id)
            for token_id, text in zip(ids.tolist(), stripped, strict=True)
        ]
        self.steps[row] += len(words)
        for word, count in Counter(words).items():
            if word in self.known:
                self.anywhere[row, self.known[word]] += count
        for layer, marked in zip(layers, is_peak, strict=True):
            places = np.flatnonzero(marked).tolist()
            self.peaks[layer][row] += len(places)
            self.scored[layer][row] = True
            found = Counter(words[step] for step in places)
            self.at_peaks[layer][row] += [found[word] for word in self.top[layer]]
            self.in_responses[layer].update(word for word in found if word in self.top[layer])
            self.plain[layer].update(tokens[step] for step in places if not WORD.fullmatch(stripped[step]))

    def words(self, layer: int) -> list[Word]:
        """The words most often at peaks of a layer, the most frequent first."""
        top, rows = self.top[layer], self.scored[layer]
        if not top:
            return []
        anywhere = self.anywhere[rows][:, [self.known[word] for word in top]]
        at_peaks, peaks, steps = self.at_peaks[layer][rows], self.peaks[layer][rows], self.steps[rows]
        lift = associations(at_peaks, peaks, anywhere, steps).lift
        shares = at_peaks.sum(axis=0) / peaks.sum(), anywhere.sum(axis=0) / steps.sum()
        columns = (*shares, lift.estimate, lift.low, lift.high)
        return [
            Word(word, count, self.in_responses[layer][word], *map(float, numbers))
            for (word, count), *numbers in zip(top.items(), *columns, strict=True)
        ]

    def others(self, layer: int) -> OtherTokens:
        """What else is at peaks of a layer."""
        ranked = sorted(self.plain[layer].items(), key=lambda item: (-item[1], item[0]))
        return OtherTokens(int(self.peaks[layer].sum()), self.at_words[layer], ranked[:TOP_OTHERS])

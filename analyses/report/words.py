"""Words at peaks by layer: how often, and how much more often than anywhere; bars and whiskers beside the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analyses.report.counted import TOLD
from analyses.report.digest import Digest
from analyses.report.lift import TOP_WORDS, Word
from analyses.stats.association import DRAWS, FEWEST_PROBLEMS
from analyses.views.drawing import short
from analyses.views.parts import cell, column, data_table, small, token_code
from analyses.views.wording import escaped, percent, plain, several

__all__ = ["thinking"]

_FEW = 5  # a word at fewer peaks is greyed


def thinking(one: Digest) -> str:
    """Words at peaks with their lift, by layer: by the token that peaks have read, then by the one they predict."""
    tables = "".join(_words_of(one, layer) for layer in one.layers)
    return f"{tables}{_note(one)}"


def _words_of(one: Digest, layer: int) -> str:
    hidden = "" if layer == one.opening.layer else " hidden"
    tables = "".join(_table_of(one, position, layer) for position in one.words)
    return f'<div class="rp-by-layer" data-layer="{layer}"{hidden}>{tables}</div>'


def _table_of(one: Digest, position: str, layer: int) -> str:
    found, others = one.words[position][layer], one.others[position][layer]
    done = TOLD[position]
    body = f"<p>No tokens {done} at the {several(others.peaks, 'peak')} of layer {layer}.</p>"
    if found:
        most = max(word.count for word in found)
        reach = _reach(found)
        ends = f"1/{2**reach} to {2**reach}"
        columns = [
            column("word"), column("at peaks"), column("in responses", True), column("share at peaks", True),
            column("share anywhere", True),
            column(f'lift <span class="pl-soft">(log scale, {ends}; line at 1)</span>'),
        ]  # fmt: skip
        body = data_table(
            f"Tokens {done} at the {several(others.peaks, 'peak')} of layer {layer}"
            f"{f', the {TOP_WORDS} most frequent' if len(found) == TOP_WORDS else ''}",
            columns, [_word_row(word, most, reach) for word in found],
            label=f"Tokens {done} at peaks of layer {layer}", kind=f"rp-words rp-{position}",
        )  # fmt: skip
    listed = ", ".join(f"{token_code(token)} {count}" for token, count in others.tokens)
    left = (
        small(
            f"{others.at_words} of {several(others.peaks, 'peak')} are words of letters. Most frequent tokens at the "
            f"others: {listed}."
        )
        if others.tokens
        else ""
    )
    return body + left


def _word_row(word: Word, most: int, reach: int) -> str:
    few = ' class="rp-few"' if word.count < _FEW else ""
    bar = (
        f'<span class="rp-count"><span class="rp-bar" style="width:{100 * word.count / most:.1f}%"></span></span> '
        f'<span class="rp-number">{word.count}</span>'
    )
    told = plain(word.lift, 3) + ("" if math.isnan(word.low) else f" [{plain(word.low, 3)}, {plain(word.high, 3)}]")
    return (
        f'<tr{few}><th scope="row">{escaped(short(word.word))}</th><td data-v="{word.count}">{bar}</td>'
        f"{cell(word.responses, str(word.responses))}{cell(word.share, percent(word.share))}"
        f"{cell(word.overall, percent(word.overall))}"
        f'<td class="rp-lift" data-v="{"" if math.isnan(word.lift) else repr(word.lift)}" data-low="{word.low!r}" '
        f'data-high="{word.high!r}">{_whisker(word, reach)} <span>{told}</span></td></tr>'
    )


def _reach(found: Sequence[Word]) -> int:
    """How many doublings the axis of lifts goes to either side of 1."""
    ends = [abs(math.log2(x)) for word in found for x in (word.lift, word.low, word.high) if x > 0]
    return min(6, max(1, math.ceil(max(ends, default=1))))


def _whisker(word: Word, reach: int) -> str:
    """A lift and its interval on a log axis, 120 wide; a picture of the numbers beside it."""

    def place(value: float) -> float:
        return 60 + 56 * max(-1.0, min(1.0, math.log2(value) / reach)) if value > 0 else 4.0

    if math.isnan(word.lift):
        return ""
    line = ""
    if not math.isnan(word.low):
        line = f'<path d="M{place(word.low):.1f} 8H{place(word.high):.1f}" stroke="currentColor" stroke-width="2"/>'
    return (
        '<svg class="rp-whisker" width="120" height="16" viewBox="0 0 120 16" aria-hidden="true">'
        '<path d="M60 0V16" stroke="currentColor" stroke-dasharray="2 2" opacity=".6"/>'
        f'{line}<circle cx="{place(word.lift):.1f}" cy="8" r="4" class="rp-dot"/></svg>'
    )


def _note(one: Digest) -> str:
    """How to read the lift."""
    few = one.problems < FEWEST_PROBLEMS
    interval = (
        f"With fewer than {FEWEST_PROBLEMS} problems no interval is given: the lift is descriptive"
        if few
        else f"In brackets a 95 % percentile bootstrap over problems ({DRAWS} resamples, seed 0), since the tokens "
        "of one response are not independent; many words are compared, so some intervals miss 1 by chance"
    )
    return small(
        "A peak is a step that predicts one token and has just read the one before it, whose residual stream is "
        "scored. All tokens count, without the spaces around them. Lift is a word's share among the tokens at peaks "
        "over its share among all tokens: 1 is as often at peaks as "
        f"anywhere. {interval}. Words at fewer than {_FEW} peaks are grey and italic: too few to say anything."
    )

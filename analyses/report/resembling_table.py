"""The part of a report that says what peaks resemble: a table by layer, and how to read it."""

from __future__ import annotations

from analyses.report.digest import Digest
from analyses.report.resembling import ENDS, OTHERS_ARE, Resemblance, resemblances
from analyses.stats.association import FEWEST_PROBLEMS
from analyses.views.parts import cell, column, data_table, small
from analyses.views.wording import percent, plain, several

__all__ = ["has_resemblance", "resembling"]

_AFTER = {
    "peaks": "Steps above Q3 + tau IQR of their layer",
    "after its kind": "Share of peaks that have just read a token of the kind that the reference {ends}",
    "all steps": "The same share of all steps",
    "after its token": "Share of peaks that have just read the very token that the reference {ends}",
    "all steps, token": "The same share of all steps",
}
_EXCESS = {
    "others as high": "At peaks, share of other answers' references that score at least as high as the own one",
    "anywhere": "The same share over all steps",
    "peaks of the excess": "Steps above Q3 + tau IQR of the standardised excess",
    "of these after its kind": "Those that have just read a token of the kind that the reference {ends}",
}


def has_resemblance(one: Digest) -> bool:
    return bool(resemblances(one.statistics))


def resembling(one: Digest) -> str:
    """What the steps at peaks have just read, and how other answers score there, by layer."""
    found = resemblances(one.statistics)
    asked = one.run.settings.get("excess")
    names, ends = _AFTER | (_EXCESS if asked else {}), ENDS[one.run.settings.get("reference_position", "last")]
    heads = [column("layer", True), *(column(name, True, hint.format(ends=ends)) for name, hint in names.items())]
    intervals = one.problems >= FEWEST_PROBLEMS
    rows = [
        f'<tr><th scope="row" class="pl-n" data-v="{layer.layer}">{layer.layer}</th>'
        f"{_cells(layer, intervals, bool(asked))}</tr>"
        for layer in found
    ]
    bracketed = (
        f"; in brackets Wilson, 95 %, with the {several(one.problems, 'problem')} as clusters" if intervals else ""
    )
    table = data_table(
        f"What peaks have just read, by layer{bracketed}", heads, rows, label="What peaks resemble, by layer",
        kind="rp-sort rp-resembles",
    )  # fmt: skip
    return table + small(_note(one))


def _cells(one: Resemblance, intervals: bool, asked: bool) -> str:
    share, nan = one.after_kind, float("nan")
    told = "–" if share is None else percent(share.estimate)
    if share is not None and intervals:
        told += f" [{percent(share.low)}, {percent(share.high)}]"
    cells = cell(one.peaks, plain(one.peaks)) + cell(nan if share is None else share.estimate, told)
    shares = [one.steps_after_kind, one.after_token, one.steps_after_token]
    if asked:
        shares += [one.as_high_at_peaks, one.as_high]
    cells += "".join(cell(value, percent(value) if value == value else "–") for value in shares)
    if asked:
        for count in (one.excess_peaks, one.excess_after_kind):
            cells += cell(nan if count is None else count, "–" if count is None else plain(count))
    return cells


def _note(one: Digest) -> str:
    position = one.run.settings.get("reference_position", "last")
    text = (
        "A step has just read its input token: the token before the one that it predicts. The reference "
        f"{ENDS[position]} a token too, and a step that has read a token of the same kind (a digit, a number, a word, "
        "a full stop ...) may score high for that alone, whatever the answer is."
    )
    asked = one.run.settings.get("excess")
    if not asked:
        return text
    return (
        f"{text} Each response was also scored beside up to {asked['references']} references of other answers that "
        f"{OTHERS_ARE[position]}. Where half of them score at least as high as the own one, a peak says nothing of "
        "this answer. The excess is the own score less their mean, standardised by their standard deviation; its peaks "
        "are by the same rule. It is descriptive: the null (peaklens trace --null K) is the test."
    )

"""What a step has to do with the answer, as far as the text of a response tells, and the excess by that.

1. The response's *stated* answer is where the grader finds it (:func:`analyses.grading.stated_answer`); the gold answer
   may stand elsewhere too (:func:`analyses.grading.places.answer_spans`).
2. `step_kinds` names each step, by the first of these that holds: ``states``, it predicts the first token of the stated
   answer; ``result``, that of the gold answer elsewhere, right after "=" or "is" and the like; ``says``, that of the
   gold answer anywhere else; ``within``, it has read some of these and predicts the rest; ``has_stated`` and
   ``has_said``, it has just read the last token of the stated answer, or of the gold answer elsewhere; ``other``.
3. `excess_by_kind` gives the mean of the standardised excess and its peaks over the steps of each kind, for each layer
   and each position at which the reference was read: reference_positions.parquet. Columns: problem, sample, layer,
   steps (the kind), n_steps; and for each position n_POSITION (steps where it is defined), mean_POSITION (NaN without
   any) and peaks_POSITION.

A step that is about to say the same text for another reason (an operand, an intermediate result that happens to equal
the answer) is told by its place alone: the kinds ``result`` and ``says`` count these apart.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from analyses.grading import Reading, opens_thinking, stated_answer
from analyses.grading.places import Span, answer_spans, final_span
from analyses.grading.thinking import answer_part
from analyses.grading.turns import one_turn
from analyses.store.columns import EXCESS_COLUMNS, STEP_KINDS
from analyses.store.run import Cell, CellData
from interp.token_text import gap_between

if TYPE_CHECKING:
    import numpy as np
    import pandas

__all__ = ["excess_by_kind", "excess_columns", "kinds_table", "step_kinds"]

_RESULT = re.compile(
    r"(?:[=\u2248:]|\\approx|\b(?:is|are|was|be|equals?|makes?|gives?|gets?|leaves?|totals?))[\s$*(]*\Z", re.IGNORECASE
)
_BEFORE = 16  # characters looked at before an answer


def excess_columns(position: str, positions: Sequence[str]) -> tuple[str, str, str]:
    """The columns of mi.parquet for a position: difference, standardised, peak; the first position's are plain.

    >>> excess_columns("last", ["last", "predicts"])
    ('excess', 'excess_standardised', 'is_excess_peak')
    >>> excess_columns("predicts", ["last", "predicts"])
    ('excess_predicts', 'excess_standardised_predicts', 'is_excess_peak_predicts')
    """
    end = "" if position == positions[0] else f"_{position}"
    difference, standardised = (f"{name}{end}" for name in EXCESS_COLUMNS)
    return difference, standardised, f"is_excess_peak{end}"


def step_kinds(tokens: Sequence[str], text: str, gold: str, stated: str, part: str = "") -> list[str]:
    """The kind of each step of a response.

    >>> words = "A 2 * 2 is 4 ; B 4 + 1 is 5 . Therefore 5 <eos>".split()
    >>> kinds = step_kinds(words, " ".join(words[:-1]), "5", "5")
    >>> [(word, kind) for word, kind in zip(words, kinds) if kind != "other"]
    [('5', 'result'), ('.', 'has_said'), ('5', 'states'), ('<eos>', 'has_stated')]

    Args:
        tokens: the pieces of the response; step t predicts the t-th.
        text: what they write, which tells whether there are spaces between them.
        gold, stated: the gold answer, and the one that the response gives; "" where there is none.
        part: the part of the text that the stated answer is in; all of it unless given.
    """
    gap = gap_between(tokens, text)
    whole = gap.join(tokens)
    ends = [end - len(gap) for end in accumulate(len(token) + len(gap) for token in tokens)]
    begin = whole.rfind(part) if part else 0
    begin, length = (0, len(whole)) if begin < 0 or not part else (begin, len(part))
    found = final_span(whole[begin : begin + length], stated) if stated.strip() else None
    own = None if found is None else (begin + found[0], begin + found[1])
    elsewhere = [span for span in answer_spans(whole, gold) if own is None or span[1] <= own[0] or own[1] <= span[0]]
    kinds = ["other"] * len(tokens)

    def mark(span: Span, before: str, after: str) -> None:
        first, last = bisect_right(ends, span[0]), bisect_left(ends, span[1])
        for step, kind in [(first, before), *((step, "within") for step in range(first + 1, last + 1))]:
            if step < len(kinds):
                kinds[step] = min(kind, kinds[step], key=STEP_KINDS.index)
        if last + 1 < len(kinds):
            kinds[last + 1] = min(after, kinds[last + 1], key=STEP_KINDS.index)

    for span in elsewhere:
        is_result = _RESULT.search(whole, max(0, span[0] - _BEFORE), span[0]) is not None
        mark(span, "result" if is_result else "says", "has_said")
    if own is not None:
        mark(own, "states", "has_stated")
    return kinds


def excess_by_kind(
    cell: Cell, data: CellData, columns: Mapping[str, np.ndarray], positions: Sequence[str], reading: Reading
) -> list[dict[str, Any]]:
    """The rows of one response; ``columns`` are those of `excess_columns`, ``[layer * step]``."""
    import numpy as np

    if not positions:
        return []
    payload = data.payload
    stated = stated_answer(payload, reading).text
    opened = opens_thinking(payload.get("prompt_end", ""), reading)
    tokens = payload["tokens"]
    whole = gap_between(tokens, payload["text"]).join(tokens)
    part = one_turn(answer_part(whole, reading, opened=opened))
    kinds = np.array(step_kinds(tokens, payload["text"], payload.get("answer", ""), stated, part))
    layers, rows = payload["layers"], []
    values = {
        position: [columns[name].reshape(len(layers), -1) for name in excess_columns(position, positions)[1:]]
        for position in positions
    }
    for row, layer in enumerate(layers):
        for kind in STEP_KINDS:
            here = kinds == kind
            if not here.any():
                continue
            one: dict[str, Any] = {
                "problem": cell.problem, "sample": cell.sample, "layer": layer, "steps": kind, "n_steps": here.sum(),
            }  # fmt: skip
            for position, (standardised, peaks) in values.items():
                known = standardised[row, here & np.isfinite(standardised[row])]
                one |= {
                    f"n_{position}": len(known),
                    f"mean_{position}": known.mean() if len(known) else np.nan,
                    f"peaks_{position}": peaks[row, here].sum(),
                }
            rows.append(one)
    return rows


def kinds_table(rows: Sequence[Mapping[str, Any]], positions: Sequence[str]) -> pandas.DataFrame:
    """The table of all responses."""
    import pandas as pd

    counts = ["n_steps", *(f"{name}_{position}" for position in positions for name in ("n", "peaks"))]
    more = [f"{name}_{position}" for position in positions for name in ("n", "mean", "peaks")]
    frame = pd.DataFrame(rows, columns=["problem", "sample", "layer", "steps", "n_steps", *more])
    return frame.astype({"sample": "int32", "layer": "int32", **dict.fromkeys(counts, "int32")})

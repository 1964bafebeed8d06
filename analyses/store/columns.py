"""Names that writers and readers of a trace's tables share: what is written above is read above, by these names.

What the columns mean stands where they are made, in :mod:`analyses.trace.tables`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "CLOSENESS", "EXCESS_COLUMNS", "INPUT", "NULL_COLUMNS", "POSITIONS", "PREDICTED", "REFERENCE_POSITIONS", "RENAMED",
    "RESPONSE_COLUMNS", "SCORE", "SIGNIFICANT", "STEP_KINDS", "WRONG_ANSWERS", "excess_positions", "is_void",
    "stored_names",
]  # fmt: skip

SCORE = "nhsic"
"""The column of mi.parquet that holds the score."""

RENAMED: Mapping[str, Mapping[str, str]] = {"mi.parquet": {"mi": SCORE}}
"""By table, the columns that earlier versions called otherwise: what they called them, and the name now."""

INPUT, PREDICTED = "input", "predicted"
"""What tokens.csv counts at peaks, in its column position: tokens that a peak has read, or those it predicts."""

WRONG_ANSWERS = "wrong_answers.parquet"
"""The table of what each response was scored against under a null."""

CLOSENESS = ("token", "before", "kind", "none")
"""How the end of a wrong reference is matched with the end of the own one, closest first."""

NULL_COLUMNS = ("null_mean", "null_sd", "p_step", "p_family", "p_holm", "p_random")

POSITIONS = ("last", "predicts")
"""Where a reference is read: at its last token, or where it predicts the first token of its answer."""

REFERENCE_POSITIONS = "reference_positions.parquet"
"""The table of the excess at both positions by what steps are about to say, or have just read."""

STEP_KINDS = ("states", "result", "says", "within", "has_stated", "has_said", "other")
"""Steps by what they have to do with the answer, see :mod:`analyses.trace.answer_steps`."""

EXCESS_COLUMNS = ("excess", "excess_standardised")
"""Of a score over other answers' references: in its own unit, and in their standard deviations."""

SIGNIFICANT = 0.05
"""Familywise rate at which a peak survives the null."""

RESPONSE_COLUMNS = (
    "condition", "problem", "sample", "question", "gold", "text", "n_steps", "finish_reason", "extracted", "reason",
    "status", "correct", "detail",
)  # fmt: skip


def stored_names(table: str, wanted: Iterable[str], there: Iterable[str]) -> dict[str, str]:
    """By the names that a reader wants the columns that a table has; a name that is not there stands for itself.

    >>> stored_names("mi.parquet", ["step", "mi"], ["step", "nhsic"])
    {'step': 'step', 'mi': 'nhsic'}
    """
    known, renamed = set(there), RENAMED.get(table, {})
    others = {**renamed, **{new: old for old, new in renamed.items()}}
    return {name: others[name] if name not in known and others.get(name) in known else name for name in wanted}


def excess_positions(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """At which positions of the reference a run has the excess, its own first; none where it was not asked.

    >>> excess_positions({"reference_position": "last", "excess": {"references": 20, "beside": "predicts"}})
    ('last', 'predicts')
    """
    asked = settings.get("excess")
    if not asked:
        return ()
    return (settings.get("reference_position", "last"), *([asked["beside"]] if asked.get("beside") else []))


def is_void(settings: Mapping[str, Any]) -> bool:
    """Whether a run holds a null by the rule of earlier versions, whose wrong answers could be right ones."""
    null = settings.get("null") or {}
    return bool(null) and "null_pool" not in null

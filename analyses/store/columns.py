"""Names that writers and readers of a trace's tables share: what is written above is read above, by these names.

What the columns mean stands where they are made, in :mod:`analyses.trace.tables`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "CLOSENESS",
    "EXCESS_COLUMNS",
    "NULL_COLUMNS",
    "RESPONSE_COLUMNS",
    "SIGNIFICANT",
    "WRONG_ANSWERS",
    "is_void",
]

WRONG_ANSWERS = "wrong_answers.parquet"
"""The table of what each response was scored against under a null."""

CLOSENESS = ("token", "before", "kind", "none")
"""How the end of a wrong reference is matched with the end of the own one, closest first."""

NULL_COLUMNS = ("null_mean", "null_sd", "p_step", "p_family", "p_holm", "p_random")

EXCESS_COLUMNS = ("excess", "excess_standardised")
"""Of a score over other answers' references: in its own unit, and in their standard deviations."""

SIGNIFICANT = 0.05
"""Familywise rate at which a peak survives the null."""

RESPONSE_COLUMNS = (
    "condition", "problem", "sample", "question", "gold", "text", "n_steps", "finish_reason", "extracted", "reason",
    "status", "correct", "detail",
)  # fmt: skip


def is_void(settings: Mapping[str, Any]) -> bool:
    """Whether a run holds a null by the rule of earlier versions, whose wrong answers could be right ones."""
    null = settings.get("null") or {}
    return bool(null) and "null_pool" not in null

"""What the benchmarks measure, by the names in their tables."""

from __future__ import annotations

ENGINES = [
    ("peaklens", "-"),
    ("peaklens", "ResidualSites"),
    ("peaklens", "ResidualStream"),
    ("TransformerLens", "-"),
    ("HF eager", "-"),
    ("HF sdpa", "-"),
]
CONDITIONS = [
    "plain",
    "SuppressTokens, 5 words",
    "RecycleRepresentation, block 1, 5 words",
    "RecycleRepresentation and SuppressTokens",
    "RecurseLatents, top 1 blocks",
    "ContinueThinking",
    "BudgetForcing",
    "PatchResidual, block 1",
    "SteerResidual, block 1",
    "MeanAblate, block 1",
]
LARGE = ["plain", "RecycleRepresentation and SuppressTokens", "SteerResidual, block 1"]

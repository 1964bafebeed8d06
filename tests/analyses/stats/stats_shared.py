"""What tests of statistics share: seeds, whether an interval holds the truth, a frame of grades."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses.stats import (
    Estimate,
)

SEEDS = (1, 2)


def covers(found: Estimate, truth: float) -> bool:
    return found.low <= truth <= found.high


def frame_of(right: dict[str, np.ndarray], dtype: str = "boolean") -> pd.DataFrame:
    """Conditions, each an array [problem, sample] of 1, 0 and NaN."""
    parts = []
    for name, values in right.items():
        problem, sample = np.indices(values.shape)
        names = np.char.add("p", problem.ravel().astype(str))
        parts.append(
            pd.DataFrame({"condition": name, "problem": names, "sample": sample.ravel(), "correct": values.ravel()})
        )
    return pd.concat(parts, ignore_index=True).astype({"correct": dtype}).assign(text="ignored")

"""Scores that one has as plain numbers, with what views ask of a trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from analyses.views.arrays import matrix, one_each, truths
from interp.errors import InputError
from probes import tukey_peaks

if TYPE_CHECKING:
    import pandas

__all__ = ["Bare", "bare"]

_TAU = 1.5


@dataclass(frozen=True, eq=False)
class Bare:
    """Numbers ``[layer, step]`` as :class:`analyses.views.scored.Scored`; what is not known of them is empty."""

    tokens: Sequence[str]
    mi: Float64[Tensor, "layer step"]
    is_peak: Bool[Tensor, "layer step"]
    layers: Sequence[int]
    measure: str
    tau: float | None
    site: str = ""
    problem: str = "scores"
    sample: int = 0

    @property
    def token_ids(self) -> Tensor:
        return torch.full((len(self.tokens),), -1)

    @property
    def input_tokens(self) -> list[str]:
        return ["-", *self.tokens[:-1]]

    def row(self, layer: int = -1) -> int:
        found = layer + len(self.layers) if layer < 0 else layer
        if not 0 <= found < len(self.layers):
            raise InputError(
                "show scores",
                expected=f"a row from 0 to {len(self.layers) - 1}, or -1 to -{len(self.layers)}",
                received=str(layer),
                remedy="Rows of plain numbers are layers 0, 1, ...",
            )
        return found

    def threshold(self, layer: int = -1) -> float:
        """Q3 + 1.5 IQR of a row, above which are its peaks; NaN where they were given, or without any score."""
        defined = self.mi[self.row(layer)]
        defined = defined[defined.isfinite()]
        if self.tau is None or not len(defined):
            return float("nan")
        low, high = defined.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
        return high + self.tau * (high - low)

    def only(self, layers: list[int]) -> Bare:
        rows = [self.row(layer) for layer in layers]
        return replace(self, mi=self.mi[rows], is_peak=self.is_peak[rows], layers=[self.layers[row] for row in rows])

    def to_frame(self) -> pandas.DataFrame:
        """One row a (layer, step): layer, step, token, value, is_peak."""
        import pandas as pd

        layers, steps = self.mi.shape
        return pd.DataFrame(
            {
                "layer": np.repeat(np.asarray(self.layers, dtype=np.int32), steps),
                "step": np.tile(np.arange(steps, dtype=np.int32), layers),
                "token": list(self.tokens) * layers,
                "value": self.mi.reshape(-1).numpy(),
                "is_peak": self.is_peak.reshape(-1).numpy(),
            }
        )


def bare(values: Any, tokens: Sequence[str] | None, peaks: Any, label: str, operation: str) -> Bare:
    """Numbers as something that views show: peaks as given, or by Tukey's rule over the defined steps of each row.

    >>> bare([0.1, 0.2, 0.1, 0.2, 0.1, 0.9], None, None, "value", "trajectories").is_peak.tolist()
    [[False, False, False, False, False, True]]

    Raises:
        InputError: no numbers, or tokens and peaks of another length.
    """
    numbers = matrix(values, operation)
    if not numbers.size:
        raise InputError(
            operation,
            expected="at least one layer and one step",
            received=f"shape {numbers.shape}",
            remedy="There is nothing to show of an empty response.",
        )
    count, length = numbers.shape
    words = ["-"] * length if tokens is None else one_each(tokens, length, "tokens, one a step", operation)
    scores = torch.from_numpy(numbers.copy())
    if peaks is None:
        marked = torch.zeros_like(scores, dtype=torch.bool)
        for row, defined in enumerate(scores.isfinite()):
            if defined.any():
                marked[row, defined] = tukey_peaks(scores[row, defined], _TAU)
    else:
        marked = torch.from_numpy(truths(peaks, numbers.shape, operation))
    return Bare(words, scores, marked, list(range(count)), label, _TAU if peaks is None else None)

"""Measures of a reasoning trajectory that need tensors only: no model, no tokenizer, no tables.

`hsic` scores every step against an answer, `peaks` finds and describes the steps that stand out, `tokens` counts the
words generated there. Nothing here imports `interp` or `analyses`.
"""

from probes.errors import InputError
from probes.hsic import nhsic, nhsic_dense
from probes.peaks import PeakStatistics, peak_statistics, top_k_peaks, tukey_peaks
from probes.tokens import ThinkingToken, thinking_tokens

__all__ = [
    "InputError",
    "PeakStatistics",
    "ThinkingToken",
    "nhsic",
    "nhsic_dense",
    "peak_statistics",
    "thinking_tokens",
    "top_k_peaks",
    "tukey_peaks",
]

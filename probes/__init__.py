"""Measures of a reasoning trajectory, from tensors alone: a probe takes residual streams and gives scores, bits or p.

No model, no tokenizer, no table and no file may come in here, and nothing here imports `interp` or `analyses`: whoever
has tensors can use it.

One trajectory against one answer, coordinates as samples: `hsic` scores every step, `bandwidth` asks at other kernel
widths, `similarity` has the alternatives on the same footing, `nulls` asks whether a wrong answer would score as high,
`excess_scores` how much higher the own one scores.
`peaks` finds and describes the steps that stand out, `tokens` counts the words generated there, `depth` finds the block
in which each prediction settles.

Across many problems, problems as samples: `samplewise` asks whether there is any dependence, `information` and
`vinformation` estimate bits, `bounds` says which errors they allow.

What they are made of: `chunks` keeps all of them within a memory; `scale` and `kernel` say how coordinates are
compared, `lowrank`, `answers` and `scoring` do it; `samples` and `folds` say which problems train and which are held
out, `features`, `probe` and `selection` do it.
"""

from probes.bandwidth import BandwidthSweep, bandwidth_sweep
from probes.bounds import ErrorBounds, error_bounds
from probes.depth import Depth, settling_depth
from probes.errors import InputError
from probes.excess_scores import Excess, excess
from probes.hsic import nhsic, nhsic_dense
from probes.information import Information, discrete_mi, entropy_bits, gaussian_mi, ksg_mi, reduce_dimensions
from probes.many_tests import holm_over_layers, nulls_needed
from probes.nulls import NullTest, null_scores, null_test, random_answers
from probes.peaks import PeakStatistics, peak_statistics, top_k_peaks, tukey_peaks
from probes.samplewise import SampleHsic, sample_hsic
from probes.scale import median_distance
from probes.similarity import SCORES, cka, cosine, kernel_cka, linear_cka, pearson_r2
from probes.tokens import ThinkingToken, thinking_tokens
from probes.vinformation import VInformation, v_information

__all__ = [
    "SCORES",
    "BandwidthSweep",
    "Depth",
    "ErrorBounds",
    "Excess",
    "Information",
    "InputError",
    "NullTest",
    "PeakStatistics",
    "SampleHsic",
    "ThinkingToken",
    "VInformation",
    "bandwidth_sweep",
    "cka",
    "cosine",
    "discrete_mi",
    "entropy_bits",
    "error_bounds",
    "excess",
    "gaussian_mi",
    "holm_over_layers",
    "kernel_cka",
    "ksg_mi",
    "linear_cka",
    "median_distance",
    "nhsic",
    "nhsic_dense",
    "null_scores",
    "null_test",
    "nulls_needed",
    "peak_statistics",
    "pearson_r2",
    "random_answers",
    "reduce_dimensions",
    "sample_hsic",
    "settling_depth",
    "thinking_tokens",
    "top_k_peaks",
    "tukey_peaks",
    "v_information",
]

"""Measures of a reasoning trajectory, from tensors alone: a probe takes residual streams and gives scores, bits or p.

No model, no tokenizer, no table and no file may come in here, and nothing here imports `interp` or `analyses`: whoever
has tensors can use it.

One trajectory against one answer, coordinates as samples: `hsic` scores every step, `bandwidth` asks at other kernel
widths, `similarity` has the alternatives on the same footing, `nulls` asks whether a wrong answer would score as high,
`excess_scores` how much higher the own one scores.
`gradients` says how a score changes with the vector, `score_functions` joins the two, `integrated` shares a difference
out over what was added up to make it.
`peaks` finds and describes the steps that stand out, `tokens` counts the words generated there, `depth` finds the block
in which each prediction settles; `receivers` which places of a text attention narrows on.

Across many problems, problems as samples: `samplewise` asks whether there is any dependence, `information` and
`vinformation` estimate bits, `bounds` says which errors they allow.

What they are made of: `chunks` keeps all of them within a memory; `scale` and `kernel` say how coordinates are
compared, `lowrank`, `answers` and `scoring` do it; `samples` and `folds` say which problems train and which are held
out, `features`, `probe` and `selection` do it.
"""

from probes.answer_probe import AnswerProbe, answer_probe
from probes.bandwidth import BandwidthSweep, bandwidth_sweep
from probes.bounds import ErrorBounds, error_bounds
from probes.depth import Depth, settling_depth
from probes.errors import InputError
from probes.excess_scores import Excess, excess
from probes.gradients import (
    GRADIENTS,
    cosine_gradient,
    kernel_cka_gradient,
    nhsic_gradient,
    pearson_r2_gradient,
)
from probes.hsic import nhsic, nhsic_dense
from probes.information import Information, discrete_mi, entropy_bits, gaussian_mi, ksg_mi, reduce_dimensions
from probes.integrated import Differentiable, IntegratedGradient, integrated_gradient
from probes.many_tests import holm_over_layers, nulls_needed
from probes.nulls import NullTest, null_scores, null_test, random_answers
from probes.peaks import PeakStatistics, peak_statistics, top_k_peaks, tukey_peaks
from probes.receivers import depth_controlled, excess_kurtosis, received_attention, shuffled_kurtosis
from probes.samplewise import SampleHsic, sample_hsic
from probes.scale import median_distance
from probes.score_functions import ScoreFunction, score_function
from probes.similarity import SCORES, cka, cosine, kernel_cka, linear_cka, pearson_r2
from probes.tokens import ThinkingToken, thinking_tokens
from probes.vinformation import VInformation, v_information

__all__ = [
    "GRADIENTS",
    "SCORES",
    "AnswerProbe",
    "BandwidthSweep",
    "Depth",
    "Differentiable",
    "ErrorBounds",
    "Excess",
    "Information",
    "InputError",
    "IntegratedGradient",
    "NullTest",
    "PeakStatistics",
    "SampleHsic",
    "ScoreFunction",
    "ThinkingToken",
    "VInformation",
    "answer_probe",
    "bandwidth_sweep",
    "cka",
    "cosine",
    "cosine_gradient",
    "depth_controlled",
    "discrete_mi",
    "entropy_bits",
    "error_bounds",
    "excess",
    "excess_kurtosis",
    "gaussian_mi",
    "holm_over_layers",
    "integrated_gradient",
    "kernel_cka",
    "kernel_cka_gradient",
    "ksg_mi",
    "linear_cka",
    "median_distance",
    "nhsic",
    "nhsic_dense",
    "nhsic_gradient",
    "null_scores",
    "null_test",
    "nulls_needed",
    "peak_statistics",
    "pearson_r2",
    "pearson_r2_gradient",
    "random_answers",
    "received_attention",
    "reduce_dimensions",
    "sample_hsic",
    "score_function",
    "settling_depth",
    "shuffled_kurtosis",
    "thinking_tokens",
    "top_k_peaks",
    "tukey_peaks",
    "v_information",
]

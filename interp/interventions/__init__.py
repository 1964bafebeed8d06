"""Ways to touch a thinking step; each is an :class:`interp.protocol.Intervention` and composes with the others.

What a method needs of decoding it asks of the protocol; the loop and the engines know no method by name.

- :mod:`suppress`  never emit some tokens
- :mod:`recycle`   run a position again with a block's output as an earlier or the same block's input
- :mod:`budget`    make a response think longer or shorter
- :mod:`controls`  as many other words, for comparison
- :mod:`residual`  patch, steer or mean-ablate the stream, or what a block adds to it, at chosen steps
- :mod:`heads`     ablate single heads, or patch them
- :mod:`masking`   keep later tokens from attending to a span
- :mod:`sweep`     patch every layer (and head) and step in turn and measure what changes
"""

from interp.interventions.budget import BudgetForcing, ContinueThinking
from interp.interventions.controls import matched_random_tokens
from interp.interventions.heads import HeadAblate, PatchHead
from interp.interventions.masking import MaskAttention
from interp.interventions.recycle import (
    Recompute,
    RecurseLatents,
    RecycleRepresentation,
    any_token,
    at_random,
    input_token,
    staggered,
    uncertain,
)
from interp.interventions.residual import MeanAblate, PatchResidual, SteerResidual
from interp.interventions.suppress import SuppressTokens, thinking_token_ids
from interp.interventions.sweep import patch_sweep
from interp.metrics import Metric, answer_log_probability, log_probability, logit_difference

__all__ = [
    "BudgetForcing",
    "ContinueThinking",
    "HeadAblate",
    "MaskAttention",
    "MeanAblate",
    "Metric",
    "PatchHead",
    "PatchResidual",
    "Recompute",
    "RecurseLatents",
    "RecycleRepresentation",
    "SteerResidual",
    "SuppressTokens",
    "answer_log_probability",
    "any_token",
    "at_random",
    "input_token",
    "log_probability",
    "logit_difference",
    "matched_random_tokens",
    "patch_sweep",
    "staggered",
    "thinking_token_ids",
    "uncertain",
]

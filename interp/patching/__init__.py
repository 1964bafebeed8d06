"""Runs with parts of another run in them, and the gradients that say beforehand what that would change.

1. `texts` pairs two texts position by position, `asked` makes a metric ready, `nodes` names what is patched.
2. `runs` reads values in one pass, and runs a text again with other values at some places, many such runs a batch.
3. `gradients` gives the metric's derivative by every node, by TransformerLens's `cache_activation_and_gradient`.
4. `ports` gives it by what each head's q, k and v, each MLP and the final norm read, at one position at a time; `paths`
   adds a write to what one of them reads.
"""

from interp.patching.asked import PatchMetric, ResidualMetric, residual_metric
from interp.patching.nodes import NODE_KINDS, Node
from interp.patching.references import Reference, mean_writes, zero_writes

__all__ = [
    "NODE_KINDS", "Node", "PatchMetric", "Reference", "ResidualMetric", "mean_writes", "residual_metric", "zero_writes",
]  # fmt: skip

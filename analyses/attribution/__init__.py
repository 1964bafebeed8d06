"""Which part of a model, and which step, brought an answer about: shares of what was written, and interventions.

Each method gives a table that shows itself; the interventions themselves are in :mod:`interp.interventions`.
"""

from analyses.attribution.logits import logit_attribution
from analyses.attribution.matched import matched_contrasts
from analyses.attribution.mi import mi_attribution
from analyses.attribution.mi_result import MiAttribution
from analyses.attribution.patching import patch_sweep

__all__ = ["MiAttribution", "logit_attribution", "matched_contrasts", "mi_attribution", "patch_sweep"]

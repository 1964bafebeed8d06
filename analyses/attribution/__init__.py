"""Which part of a model, and which step, brought an answer about: shares of what was written, and interventions.

Each method gives a table that shows itself; the interventions themselves are in :mod:`interp.interventions`.
"""

from analyses.attribution.circuit import Circuit
from analyses.attribution.circuit_measure import Measure, Measured
from analyses.attribution.circuit_parts import Edge, Node, node_name, node_parts
from analyses.attribution.edge_patching import patch_edges
from analyses.attribution.effects import EdgeEffects, NodeEffects
from analyses.attribution.faithfulness import (
    RandomCircuits,
    RecoveryCurve,
    completeness,
    minimality,
    random_circuits,
    recovered,
    recovery_curve,
    removal_curve,
)
from analyses.attribution.known_circuit import Agreement, against_known
from analyses.attribution.logits import logit_attribution
from analyses.attribution.matched import matched_contrasts
from analyses.attribution.mi import mi_attribution
from analyses.attribution.mi_result import MiAttribution
from analyses.attribution.node_measure import NodeMeasure, node_measure
from analyses.attribution.node_patching import patch_nodes
from analyses.attribution.patching import patch_sweep
from analyses.attribution.receiver_ablation import ablate_receivers
from analyses.attribution.receiver_result import ReceiverHeads, random_heads
from analyses.attribution.receivers import receiver_heads
from analyses.attribution.score_metrics import nhsic_metric, score_metric
from analyses.attribution.sentence_receivers import sentence_receivers, sentence_spans
from interp.patching import mean_writes, residual_metric, zero_writes

__all__ = [
    "Agreement",
    "Circuit",
    "Edge",
    "EdgeEffects",
    "Measure",
    "Measured",
    "MiAttribution",
    "Node",
    "NodeEffects",
    "NodeMeasure",
    "RandomCircuits",
    "ReceiverHeads",
    "RecoveryCurve",
    "ablate_receivers",
    "against_known",
    "completeness",
    "logit_attribution",
    "matched_contrasts",
    "mean_writes",
    "mi_attribution",
    "minimality",
    "nhsic_metric",
    "node_measure",
    "node_name",
    "node_parts",
    "patch_edges",
    "patch_nodes",
    "patch_sweep",
    "random_circuits",
    "random_heads",
    "receiver_heads",
    "recovered",
    "recovery_curve",
    "removal_curve",
    "residual_metric",
    "score_metric",
    "sentence_receivers",
    "sentence_spans",
    "zero_writes",
]

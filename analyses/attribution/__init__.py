"""Which part of a model, and which step, brought an answer about: attribution by intervention.

Each method gives a table that shows itself; the interventions themselves are in :mod:`interp.interventions`.
"""

from analyses.attribution.circuit import Circuit
from analyses.attribution.circuit_measure import Measure, Measured
from analyses.attribution.circuit_parts import Edge, Node, node_name, node_parts
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
from analyses.attribution.patching import patch_sweep

__all__ = [
    "Agreement",
    "Circuit",
    "Edge",
    "Measure",
    "Measured",
    "Node",
    "RandomCircuits",
    "RecoveryCurve",
    "against_known",
    "completeness",
    "minimality",
    "node_name",
    "node_parts",
    "patch_sweep",
    "random_circuits",
    "recovered",
    "recovery_curve",
    "removal_curve",
]

"""Everything that touches a model through hook points: loading, decoding, interventions, recording.

It knows neither `probes` nor `analyses`: what is measured is handed in as a callable, what is found handed out.
Importing this package imports no model library; each name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.decoding import decode
    from interp.encoding import Encoding, encode
    from interp.engines.registry import engine_told, only_engine
    from interp.errors import InputError
    from interp.loading.models import bundled_model_path, list_models, load_model
    from interp.loading.pull import pull_model
    from interp.metrics import Metric, answer_log_probability, log_probability, logit_difference
    from interp.protocol import Intervention, Step
    from interp.reading import Scores, read, score
    from interp.record import PieceResiduals, ResidualPieces, ResidualSites, ResidualStream, StepResiduals
    from interp.rollout import Rollout
    from interp.rows import Positions, Row
    from interp.sites import Site
    from interp.writes.components import Component, Writes
    from interp.writes.reading import read_writes

__all__ = [
    "Component",
    "Encoding",
    "InputError",
    "Intervention",
    "Metric",
    "PieceResiduals",
    "Positions",
    "ResidualPieces",
    "ResidualSites",
    "ResidualStream",
    "Rollout",
    "Row",
    "Scores",
    "Site",
    "Step",
    "StepResiduals",
    "Writes",
    "answer_log_probability",
    "bundled_model_path",
    "decode",
    "encode",
    "engine_told",
    "list_models",
    "load_model",
    "log_probability",
    "logit_difference",
    "only_engine",
    "pull_model",
    "read",
    "read_writes",
    "score",
]

_HOMES = {
    "Component": "writes.components",
    "Encoding": "encoding",
    "InputError": "errors",
    "Intervention": "protocol",
    "Metric": "metrics",
    "PieceResiduals": "record",
    "Positions": "rows",
    "ResidualPieces": "record",
    "ResidualSites": "record",
    "ResidualStream": "record",
    "Rollout": "rollout",
    "Row": "rows",
    "Scores": "reading",
    "Site": "sites",
    "Step": "protocol",
    "StepResiduals": "record",
    "Writes": "writes.components",
    "answer_log_probability": "metrics",
    "bundled_model_path": "loading.models",
    "decode": "decoding",
    "encode": "encoding",
    "engine_told": "engines.registry",
    "list_models": "loading.models",
    "load_model": "loading.models",
    "log_probability": "metrics",
    "logit_difference": "metrics",
    "only_engine": "engines.registry",
    "pull_model": "loading.pull",
    "read": "reading",
    "read_writes": "writes.reading",
    "score": "reading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"interp.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""Everything that touches a model through hook points: loading, decoding, interventions, recording.

It knows neither `probes` nor `analyses`: what is measured is handed in as a callable, what is found handed out.
Importing this package imports no model library; each name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.decoding import decode
    from interp.errors import InputError
    from interp.loading.models import bundled_model_path, list_models, load_model
    from interp.loading.pull import pull_model
    from interp.protocol import Intervention, Step
    from interp.reading import Encoding, encode, score
    from interp.record import ResidualSites, ResidualStream, StepResiduals
    from interp.rollout import Rollout
    from interp.rows import Positions, Row
    from interp.sites import Site

__all__ = [
    "Encoding",
    "InputError",
    "Intervention",
    "Positions",
    "ResidualSites",
    "ResidualStream",
    "Rollout",
    "Row",
    "Site",
    "Step",
    "StepResiduals",
    "bundled_model_path",
    "decode",
    "encode",
    "list_models",
    "load_model",
    "pull_model",
    "score",
]

_HOMES = {
    "Encoding": "reading",
    "InputError": "errors",
    "Intervention": "protocol",
    "Positions": "rows",
    "ResidualSites": "record",
    "ResidualStream": "record",
    "Rollout": "rollout",
    "Row": "rows",
    "Site": "sites",
    "Step": "protocol",
    "StepResiduals": "record",
    "bundled_model_path": "loading.models",
    "decode": "decoding",
    "encode": "reading",
    "list_models": "loading.models",
    "load_model": "loading.models",
    "pull_model": "loading.pull",
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

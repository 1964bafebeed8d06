"""Which engine runs a model: the one door from a model to everything that is done with it.

A second engine is one more entry of ``ENGINES``; whoever decodes, reads, scores or sweeps asks here and names none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from interp.engines.base import Engine, ModelFacts
from interp.engines.bridge import BridgeEngine
from interp.errors import InputError

__all__ = ["ENGINES", "check_model", "engine_for", "model_facts"]

if TYPE_CHECKING:
    EngineClass: TypeAlias = type[Engine]
else:  # at run time no class can be asked whether it has the attributes of a protocol
    EngineClass = type

ENGINES: tuple[EngineClass, ...] = (BridgeEngine,)
"""In order of preference: the first that serves a model runs it."""


def engine_for(model: Any) -> Engine:
    """The engine that runs a model, as the model is now: made anew at each call of ``decode`` and its like.

    >>> from interp import load_model
    >>> engine_for(load_model("toy-reasoner")).facts.n_layers
    3

    Raises:
        InputError: a model's name, or a model that no engine serves.
    """
    return _serving(model)(model)


def model_facts(model: Any) -> ModelFacts:
    """Name, dimensions, vocabulary and limits of a loaded model.

    >>> from interp import load_model
    >>> model_facts(load_model("toy-reasoner")).d_vocab
    47
    """
    return _serving(model).facts_of(model)


def check_model(model: Any) -> None:
    """Refuse what is no model that can be run, a model's name or a bare Hugging Face model say."""
    _serving(model)


def _serving(model: Any) -> EngineClass:
    for kind in ENGINES:
        if kind.serves(model):
            return kind
    raise InputError(
        "use a model",
        expected="a model that load_model returns (a TransformerBridge)",
        received=repr(model)[:80] if isinstance(model, str) else type(model).__name__,
        remedy="Write load_model(name), or load_model(name, hf_model=...) for one that is loaded.",
    )

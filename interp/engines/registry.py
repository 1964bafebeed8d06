"""Which engine runs a model: the one door from a model to everything that is done with it.

Another engine is one more entry of ``ENGINES``; whoever decodes, reads, scores or sweeps asks here and names none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

from interp.engines.base import Engine, ModelFacts
from interp.engines.bridge import BridgeEngine
from interp.engines.twin import TwinEngine
from interp.errors import InputError
from interp.sites import Site

__all__ = ["ENGINES", "check_model", "engine_for", "engine_told", "model_facts", "only_engine"]

if TYPE_CHECKING:
    EngineClass: TypeAlias = type[Engine]
else:  # at run time no class can be asked whether it has the attributes of a protocol
    EngineClass = type

ENGINES: tuple[EngineClass, ...] = (TwinEngine, BridgeEngine)
"""In order of preference: the first that serves a model, and has no doubt about it, runs it."""

_ONLY: ContextVar[str | None] = ContextVar("only_engine", default=None)


def engine_for(model: Any, sites: Iterable[Site] = (), *, modules: bool = False) -> Engine:
    """The engine that runs a model, as the model is now: made anew at each call of ``decode`` and its like.

    >>> from interp import load_model
    >>> model = load_model("toy-reasoner")
    >>> engine_for(model).told, engine_for(model, [Site("attn_scores", 1)]).told
    ('twin (sdpa)', 'bridge')

    Args:
        sites: all that will be read and edited.
        modules: whether the caller also works on TransformerLens's own modules, or hooks them.

    Raises:
        InputError: a model's name, or a model that no engine serves.
    """
    return _chosen(model, tuple(sites), modules)[0](model)


def engine_told(model: Any, sites: Iterable[Site] = (), *, modules: bool = False) -> str:
    """Which engine would run a model now, and why not one before it, for a person to read.

    >>> from interp import load_model
    >>> engine_told(load_model("toy-reasoner"), [Site("attn_scores", 1)])
    "bridge (not the twin: Hugging Face's forward does not show attn_scores)"
    """
    kind, doubts = _chosen(model, tuple(sites), modules)
    why = "; ".join(f"not the {name}: {doubt}" for name, doubt in doubts.items())
    return f"{kind.name} ({why})" if why else kind(model).told


@contextmanager
def only_engine(name: str | None) -> Iterator[None]:
    """Context in which models run on the engine of this name alone, "twin" or "bridge"; ``None`` leaves the choice
    as it is.

    The two give the same numbers up to rounding. What must be the same to the last bit, run it on the engine that made
    it: it is in the settings of every rollout.

    >>> from interp import decode, load_model
    >>> model = load_model("toy-reasoner")
    >>> with only_engine("bridge"):
    ...     decode(model, "6 A * 3 B - 8 ? ->", max_new_tokens=1)[0].settings["engine"]
    'bridge'

    Raises:
        InputError: no such engine; inside, a model that it cannot run as it is, with the reason.
    """
    known = [engine.name for engine in ENGINES]
    if name is not None and name not in known:
        raise InputError(
            "choose an engine", expected=" or ".join(known), received=repr(name)[:80], remedy="Or leave the choice."
        )
    token = _ONLY.set(_ONLY.get() if name is None else name)
    try:
        yield
    finally:
        _ONLY.reset(token)


def model_facts(model: Any) -> ModelFacts:
    """Name, dimensions, vocabulary and limits of a loaded model.

    >>> from interp import load_model
    >>> model_facts(load_model("toy-reasoner")).d_vocab
    47
    """
    return _serving(model)[0].facts_of(model)


def check_model(model: Any) -> None:
    """Refuse what is no model that can be run, a model's name or a bare Hugging Face model say."""
    _serving(model)


def _serving(model: Any) -> list[EngineClass]:
    serving = [kind for kind in ENGINES if kind.serves(model)]
    if not serving:
        raise InputError(
            "use a model",
            expected="a model that load_model returns (a TransformerBridge)",
            received=repr(model)[:80] if isinstance(model, str) else type(model).__name__,
            remedy="Write load_model(name), or load_model(name, hf_model=...) for one that is loaded.",
        )
    return serving


def _chosen(model: Any, sites: tuple[Site, ...], modules: bool) -> tuple[EngineClass, dict[str, str]]:
    """The engine, and the doubts of those before it."""
    doubts: dict[str, str] = {}
    only = _ONLY.get()
    for kind in _serving(model):
        if only not in (None, kind.name):
            continue
        doubt = kind.doubt(model, sites, modules)
        if doubt is None:
            return kind, doubts
        doubts[kind.name] = doubt
    raise InputError(
        "run a model",
        expected=f"one that runs on the {' or the '.join(doubts) or only}",
        received=f"{model_facts(model).name}: {'; '.join(doubts.values()) or 'no such engine'}",
        remedy="Let the engine be chosen: leave only_engine out.",
    )

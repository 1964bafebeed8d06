"""Which architectures are loaded, and why the others are not.

Decoding keeps keys and values of its own (:mod:`interp.engines.cache`) and tells attention by a mask which of them to
look at. That is exact for a decoder whose layers are full or sliding-window attention over rotary, learned or
sinusoidal positions. Refused at load are models with an encoder, with recurrent, state-space or compressed layers, and
those that read their positions out of the mask (alibi).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from interp.engines.native import native_of
from interp.engines.registry import engine_for
from interp.errors import InputError
from interp.foreign import said
from interp.types import Bridge

__all__ = ["boots_as", "check_architecture", "check_decodes", "check_native"]

_RECURRENT = frozenset(
    {"mamba", "mamba2", "falcon_mamba", "falcon_h1", "rwkv", "rwkv7", "recurrent_gemma"}
    | {"jamba", "bamba", "zamba", "zamba2", "nemotron_h"}
)
_STATEFUL = ("linear", "recurrent", "mamba", "conv", "hybrid")
_ALIBI = frozenset({"bloom", "mpt"})
_ATTENTION = frozenset({"full_attention", "sliding_attention"})
_EXPECTED = "a decoder-only causal language model with full or sliding-window attention in every layer"
_REMEDY = "Use a model such as Llama, Qwen2, Qwen3, Gemma or GPT-2."


def check_architecture(name: str, config: Any, kind: type | None = None) -> None:
    """Refuse what is no decoder with attention in every layer, known to both transformers and TransformerLens.

    Args:
        name: what the model is called in the error.
        config: its Hugging Face configuration.
        kind: the model's class, if it is loaded already; else what ``AutoModelForCausalLM`` would make of ``config``.
    """
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    causal = kind or MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    # A configuration that does not say (made by from_config, or read from a GGUF) is what its class is.
    stated = (getattr(config, "architectures", None) or [causal.__name__ if causal else config.model_type])[0]
    architecture = stated if kind is None else kind.__name__
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    # Nothing but a look-up by name: the type and the class must both say "causal decoder".
    known = causal is not None and architecture == causal.__name__ and not architecture.startswith("Bert")
    if kind is not None and not getattr(kind, "can_generate", bool)():
        known = False  # a bare body, or one with a head for something else
    others = kinds - _ATTENTION
    if getattr(config, "is_encoder_decoder", False):
        reason = "an encoder and a decoder"
    elif text.model_type in _RECURRENT or any(word in other for other in others for word in _STATEFUL):
        reason = "recurrent or state-space layers"
    elif others:
        reason = f"layers of another kind ({', '.join(sorted(others))})"
    elif text.model_type in _ALIBI or getattr(text, "alibi", False):
        reason = "positions by alibi, which are read out of the mask"
    elif not known or not any(base.__name__ in SUPPORTED_ARCHITECTURES for base in (causal or object).__mro__):
        reason = "no causal language model TransformerLens can hook"
    else:
        return
    raise InputError(
        f"load {name}",
        expected=_EXPECTED,
        received=f"{architecture} ({config.model_type}): {reason}",
        remedy=_REMEDY,
    )


@torch.no_grad()
def check_decodes(bridge: Bridge, name: str) -> Tensor | None:
    """Refuse a model whose code does not run as decoding runs it, by three tokens in two rows, one of them padded.

    The logits, for `check_native`. Left out where weights lie on disk, since there every pass reads them all: None.
    """
    hf_model = bridge.original_model
    if any(parameter.is_meta for parameter in hf_model.parameters()):
        return None
    reason, logits = _tried(bridge, modules=True)
    if reason is not None:
        raise InputError(
            f"load {name}",
            expected=_EXPECTED,
            received=f"{type(hf_model).__name__} ({hf_model.config.model_type}), which does not decode here: {reason}",
            remedy=_REMEDY,
        )
    return logits


@torch.no_grad()
def check_native(bridge: Bridge, expected: Tensor | None) -> None:
    """Let a native twin that does not run, or does not say what the bridge said (`check_decodes`), be.

    It is given the tokens of `check_decodes`, to which the bridge said ``expected``: that may differ by rounding.
    """
    native = native_of(bridge)
    if isinstance(native, str) or native.doubt(bridge) is not None:
        return
    reason, got = _tried(bridge, modules=False)
    if got is None or expected is None:
        native.refused = f"Hugging Face's own forward does not decode here: {reason}"
        return
    wide = torch.promote_types(got.dtype, torch.float32)
    apart, scale = (got.to(wide) - expected.to(wide)).abs().amax(), expected.to(wide).abs().amax()
    if not apart <= (1e-3 if got.dtype.itemsize >= 4 else 0.1) * scale.clamp_min(1.0):  # not where NaN either
        native.refused = f"its logits are {float(apart):.2g} away from the bridge's"


def _tried(bridge: Bridge, modules: bool) -> tuple[str | None, Tensor | None]:
    """The logits after three tokens in two rows, or what came instead."""
    try:
        engine = engine_for(bridge, modules=modules)
        cache = engine.new_cache([1, 0], 3)
        engine.forward(torch.tensor([[0, 1], [1, 1]], device=engine.device), cache)
        logits = engine.forward(torch.tensor([[1], [1]], device=engine.device), cache)
    except InputError as error:
        return error.received, None
    except Exception as error:  # any of the many things that foreign code says when it is run in another way
        return said(error, 200), None
    if logits.shape[:2] != (2, 1):
        return f"logits of shape {tuple(logits.shape)} for two rows of one token", None
    return None, logits


@contextmanager
def boots_as(hf_model: Any) -> Iterator[None]:
    """Inside, TransformerLens can tell the model by its class, and installs nothing.

    It looks for the name in ``config.architectures`` alone. For models that also see images it fetches a processor,
    which is of no use here, and would run pip for that.
    """
    from transformer_lens.model_bridge.sources.transformers import source

    config = hf_model.config
    stated = getattr(config, "architectures", None)
    with ExitStack() as restore:
        if not stated:
            config.architectures = [type(hf_model).__name__]
            restore.callback(setattr, config, "architectures", stated)
        fetch = getattr(source, "load_modality_processor", None)
        if fetch is not None:
            source.load_modality_processor = lambda *args, **kwargs: None  # type: ignore[attr-defined,unused-ignore]
            restore.callback(setattr, source, "load_modality_processor", fetch)
        yield

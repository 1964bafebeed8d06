"""What a bridge tells about its model without running it: its facts, and the kinds of attention its layers have."""

from __future__ import annotations

from typing import Any

from interp.engines.base import ModelFacts, end_ids
from interp.errors import InputError
from interp.types import Bridge

__all__ = ["attention_windows", "bridge_facts"]


def bridge_facts(model: Bridge) -> ModelFacts:
    """Name, dimensions, vocabulary and limits of a bridge.

    >>> from interp import load_model
    >>> bridge_facts(load_model("toy-reasoner")).n_layers
    3
    """
    hf = model.original_model
    config = hf.config.get_text_config()
    own = getattr(hf, "generation_config", None) if hasattr(hf, "generate") else None
    heads = getattr(config, "num_attention_heads", None)
    return ModelFacts(
        str(model.cfg.model_name),
        n_layers=model.cfg.n_layers,
        d_model=model.cfg.d_model,
        d_vocab=int(config.vocab_size),
        # as load_model was told, or as the model was made
        n_ctx=vars(model).get("_peaklens_n_ctx") or getattr(config, "max_position_embeddings", None),
        eos=end_ids(getattr(config, "eos_token_id", None) if own is None else own.eos_token_id),
        caps_logits=bool(getattr(config, "final_logit_softcapping", None)),
        libraries=("torch", "transformers", "transformer-lens"),
        n_heads=heads,
        n_key_value_heads=getattr(config, "num_key_value_heads", None)
        or getattr(model.cfg, "n_key_value_heads", None)
        or heads,
        d_head=getattr(config, "head_dim", None) or (model.cfg.d_model // heads if heads else None),
        tokenizer=model.tokenizer,
        generator=None if own is None else hf,
    )


def attention_windows(config: Any, name: str) -> dict[str, int | None]:
    """Each kind of attention layer the model has, with its sliding window (``None``: sees everything before it)."""
    from transformers import DynamicCache

    text = config.get_text_config()
    layers = DynamicCache(config=config).layers
    plain = {"DynamicLayer", "DynamicSlidingWindowLayer"}
    kinds = getattr(text, "layer_types", None) or ["attention"] * len(layers)
    if not layers or {type(layer).__name__ for layer in layers} - plain or "chunked_attention" in kinds:
        raise InputError(
            "decode",
            expected="a decoder whose layers are full or sliding-window attention",
            received=f"{name} ({type(config).__name__}: {', '.join(sorted(set(kinds)))})",
            remedy="Recurrent, chunked and compressed attention keep other state than keys and values.",
        )
    return {kind: getattr(layer, "sliding_window", None) for kind, layer in zip(kinds, layers, strict=True)}

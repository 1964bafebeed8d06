"""What a model is, part by part: whatever decides which tokens it emits, so that stored results can be pinned to it.

1. Weights: :func:`interp.loading.source.weight_hash`, over what is in memory now, edited or processed as it may be.
2. Configuration and generation configuration: their values, without those that change nothing of what is computed
   (where it was saved, by which version, labels, initialisation, caches).
3. Tokenizer: a digest of its rules (vocabulary, merges, added tokens, normaliser, special tokens), and one of what it
   does to some texts. A library may write the same rules in another form, but must not cut text otherwise.
4. Chat template: a digest.
5. Hooks that a user put on the model, TransformerLens's and torch's: where, the function's name, and a digest of its
   code and of the constants it was made with. What a hook collects meanwhile (lists, counters) is not part of it.

Where the model lies, and under which name, is not part of what it is.
"""

from __future__ import annotations

import dis
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch

from interp.engines.hooked import user_hooks
from interp.loading.source import weight_hash
from interp.types import Bridge

__all__ = ["hook_names", "model_identity", "tokenizing"]

# Of a configuration: what the forward pass does not read (token ids are read by generation alone).
_IDLE = frozenset(
    {
        "transformers_version", "_name_or_path", "name_or_path", "dtype", "torch_dtype", "architectures", "auto_map",
        "use_cache", "return_dict", "use_return_dict", "id2label", "label2id", "problem_type", "tokenizer_class",
        "task_specific_params", "finetuning_task", "torchscript", "initializer_range", "initializer_factor",
        "pretraining_tp", "chunk_size_feed_forward", "_attn_implementation_autoset", "bos_token_id", "eos_token_id",
        "pad_token_id", "sep_token_id", "decoder_start_token_id", "_commit_hash", "unsloth_version",
    }
)  # fmt: skip
_IDLE_PARTS = ("output_", "dropout", "_dropout", "pdrop")
# The longest text the model was made for bounds what may be asked; few kinds of rotary embeddings compute with it.
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length", "max_seq_len")
_COMPUTES_WITH_CONTEXT = ("dynamic", "longrope", "yarn", "su")
# Of a generation configuration: what sampling, length and bookkeeping settings of our own take the place of.
_UNUSED = frozenset(
    {
        "transformers_version", "_from_model_config", "_commit_hash", "do_sample", "temperature", "top_k", "top_p",
        "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff", "max_length", "max_new_tokens", "use_cache",
        "cache_implementation", "cache_config", "max_cache_len", "return_dict_in_generate", "num_return_sequences",
        "pad_token_id", "bos_token_id", "decoder_start_token_id", "compile_config", "disable_compile", "low_memory",
        "continuous_batching_config", "is_assistant", "prefill_chunk_size", "renormalize_logits", "early_stopping",
        "length_penalty",
    }
)  # fmt: skip
_UNUSED_PARTS = (
    "output_",
    "assistant",
    "lookahead",
    "lookbehind",
    "lookup",
    "speculation",
    "use_mtp",
    "matching_ngram",
)
_NEUTRAL_AT_ONE = ("_penalty", "num_beams", "num_beam_groups", "guidance_scale")
# Case, accents, digits, spaces, several scripts, a combination mark, code and what looks like markup.
_TEXTS = (
    "The answer is 1234567.89, isn't it?\n\n  Wait -- let me re-check: 3*4=12.",
    " Straße café ÅNGSTRÖM é ﬁ ½ １２\t\r\n\u00a0\u200b",
    "漢字かな 한국어 العربية हिन्दी Ελληνικά русский 👩‍🔬🙂",
    "def f(x):\n    return x**2  # <think>\\boxed{7}</think> <|endoftext|></s>[INST]",
)


def model_identity(model: Bridge) -> dict[str, Any]:
    """What decides the tokens a model emits, as JSON values; the same for the same model under another name or path.

    >>> from interp.loading.models import load_model
    >>> identity = model_identity(load_model("toy-reasoner"))
    >>> list(identity)
    ['weight_hash', 'processed', 'config', 'generation', 'tokenizer', 'tokenizing', 'chat_template', 'hooks']
    >>> identity["generation"], identity["hooks"]
    ({'eos_token_id': [2]}, [])

    All weights are read once (about a second a GB and core).

    Raises:
        InputError: weights are offloaded to disk.
    """
    network, tokenizer = model.original_model, model.tokenizer
    return {
        "weight_hash": weight_hash(model),
        "processed": bool(getattr(model, "_weights_processed", False)),
        "config": _configuration(network.config.to_dict()),
        "generation": _generation(network),
        "tokenizer": None if tokenizer is None else _digest(_rules(tokenizer)),
        "tokenizing": None if tokenizer is None else tokenizing(tokenizer),
        "chat_template": _template(tokenizer),
        "hooks": hook_names(model),
    }


def tokenizing(tokenizer: Any) -> str:
    """A digest of what a tokenizer does: which word has which number, and how some texts are cut.

    >>> from interp.loading.hugging_face import load_tokenizer
    >>> from interp.loading.models import bundled_model_path
    >>> a, b = (tokenizing(load_tokenizer(name, bundled_model_path(name))) for name in ("toy-reasoner", "toy-base"))
    >>> a == b
    True
    """
    return _digest(_behaviour(tokenizer))


def hook_names(model: Bridge) -> list[str]:
    """The hooks that a user put on a model and that act on a forward pass, in the order in which they stand.

    >>> from interp.loading.models import load_model
    >>> model = load_model("toy-reasoner")
    >>> model.add_hook("blocks.1.hook_resid_post", lambda value, hook: value * 2)
    >>> hook_names(model)[0].split(" #")[0]
    'blocks.1.hook_out: <lambda>'
    """
    return [f"{place}: {_described(function)}" for place, function in user_hooks(model)]


def _described(function: Any) -> str:
    """A function's name and a digest of what it does."""
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return f"{name.removeprefix('<locals>.').split('<locals>.')[-1]} #{_digest(_constant(function, 0))[:12]}"


def _constant(value: Any, depth: int) -> Any:
    """A value in a form that is the same in another process; what may change from call to call by its type alone."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if depth > 6:
        return type(value).__qualname__
    inner = partial(_constant, depth=depth + 1)
    if isinstance(value, tuple):
        return [inner(part) for part in value]
    if isinstance(value, frozenset):
        return sorted(str(inner(part)) for part in value)
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return [str(value.dtype), list(value.shape), hashlib.sha256(data.numpy().tobytes()).hexdigest()]
    if isinstance(value, partial):
        return [
            "partial",
            inner(value.func),
            inner(value.args),
            sorted((k, inner(v)) for k, v in value.keywords.items()),
        ]
    if isinstance(value, MethodType):
        return ["method", inner(value.__func__), inner(value.__self__)]
    if isinstance(value, FunctionType):
        return ["function", *_function(value, inner)]
    if isinstance(value, CodeType):
        return [value.co_code.hex(), list(value.co_names), [inner(constant) for constant in value.co_consts]]
    if depth < 2 and callable(value) and not isinstance(value, type):  # an object that is the hook, or whose method is
        own = {name: inner(part) for name, part in vars(value).items()} if hasattr(value, "__dict__") else {}
        return [type(value).__qualname__, inner(type(value).__call__), own]
    return type(value).__qualname__


def _function(function: FunctionType, inner: Callable[[Any], Any]) -> list[Any]:
    """Code, defaults, and the constants it was made with; a name that it assigns itself is a counter, no constant."""
    code = function.__code__
    assigned = {step.argval for step in dis.get_instructions(code) if step.opname in ("STORE_DEREF", "STORE_GLOBAL")}
    closed = {
        name: inner(cell.cell_contents)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
        if name not in assigned and _is_filled(cell)
    }
    plain = (bool, int, float, complex, str, bytes, tuple, np.ndarray, np.generic, torch.Tensor)
    globals_ = {
        name: inner(function.__globals__[name])
        for name in code.co_names
        if name not in assigned and isinstance(function.__globals__.get(name), plain)
    }
    return [inner(code), inner(function.__defaults__), closed, globals_]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - reading an empty one raises
    except ValueError:
        return False
    return True


def _configuration(values: Mapping[str, Any]) -> dict[str, Any]:
    rope = json.dumps(_plain(values), default=str)
    fixed = not any(f'"{kind}"' in rope for kind in _COMPUTES_WITH_CONTEXT)
    return _acting(values, _CONTEXT if fixed else ())


def _acting(values: Mapping[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if name in _IDLE or name in left_out or any(part in name for part in _IDLE_PARTS) or value is None:
            continue
        kept[name] = _acting(value, left_out) if isinstance(value, Mapping) else _plain(value)
    return dict(sorted(kept.items()))


def _generation(network: Any) -> dict[str, Any]:
    own = getattr(network, "generation_config", None)
    values = {} if own is None else own.to_dict()
    ends = values.get("eos_token_id")
    if ends is None:
        ends = getattr(network.config.get_text_config(), "eos_token_id", None)
    acting = {
        name: _plain(value)
        for name, value in values.items()
        if name not in _UNUSED
        and not any(part in name for part in _UNUSED_PARTS)
        and not (value is None or value is False or value == 0 or value == [] or value == {})
        and not (value == 1 and name.endswith(_NEUTRAL_AT_ONE))
    }
    if ends is not None:
        acting["eos_token_id"] = sorted({int(end) for end in (ends if isinstance(ends, list | tuple) else [ends])})
    return dict(sorted(acting.items()))


def _rules(tokenizer: Any) -> Any:
    """What a tokenizer is made of, without the state of its last call and the place it was read from."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        made = {
            key: value for key, value in json.loads(backend.to_str()).items() if key not in ("padding", "truncation")
        }
    else:
        made = {"vocabulary": sorted(tokenizer.get_vocab().items()), "class": type(tokenizer).__name__}
    added = {str(i): repr(token) for i, token in tokenizer.added_tokens_decoder.items()}
    return {"made": made, "added": added, "special": _special(tokenizer)}


def _special(tokenizer: Any) -> dict[str, str]:
    # The padding token is only ever seen masked
    return {k: str(v) for k, v in tokenizer.special_tokens_map.items() if k != "pad_token"}


def _behaviour(tokenizer: Any) -> Any:
    """Which word has which number, and how some texts are cut and put together again."""
    found: list[Any] = [sorted(tokenizer.get_vocab().items()), _special(tokenizer)]
    for text in (*_TEXTS, *map(str, tokenizer.all_special_tokens)):
        try:
            ids = list(tokenizer(text)["input_ids"])
            found += [ids, tokenizer.decode(ids, clean_up_tokenization_spaces=False)]
        except Exception as error:  # some vocabularies have no token for the unknown: that is what it does
            found.append(type(error).__name__)
    return found


def _template(tokenizer: Any) -> str | None:
    template = getattr(tokenizer, "chat_template", None)
    return None if template is None else _digest(template)


def _plain(value: Any) -> Any:
    """A value of a configuration as JSON holds it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if value is None or isinstance(value, bool | int | str):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]

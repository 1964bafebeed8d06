"""Runs of the toy without what every one of them would work out anew: the model itself, and other answers' references,
cut into tokens, read and factorised.

A new run reads 20 references of a pool of 200, and the toys' runs all meet the same ones; it is half of a short run's
time. What is remembered is told by all that it hangs on (bytes of vectors and of weights, what a tokenizer does with a
text), within one process. A toy that a run is given by name nobody else holds: the next one has it, unless it is not as
it was loaded. Real commands (`test_wheel`), worker processes (`test_workers`) and forked ones run without this.
"""

from __future__ import annotations

import hashlib
import sys
import weakref
from typing import Any

import torch

__all__ = ["install"]

_MODULES = (
    ("analyses.trace.others", "factors_alone"), ("analyses.trace.others", "encode"),
    ("analyses.trace.wrong_answers", "reference_from"), ("analyses.trace.tracing", "load_model"),
    ("analyses.studies.plan", "load_model"),
)  # fmt: skip
_SMALL = 2**24  # bytes of a model whose weights are gone through each time
_kept: dict[Any, Any] = {}
_tokenizers: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def install() -> None:
    """Once a trace is imported; of no effect before, and after the first time."""
    for name, function in _MODULES:
        module = sys.modules.get(name)
        if module is not None and not hasattr(getattr(module, function), "plain"):
            setattr(module, function, globals()[function](getattr(module, function)))


def factors_alone(plain: Any) -> Any:
    """Factors of the very same vectors, each alone, which nobody writes into."""

    def quick(answers: Any, **options: Any) -> Any:
        if answers.device.type != "cpu":
            return plain(answers, **options)
        shape, asked = (answers.dtype, answers.shape[1:]), tuple(sorted(options.items()))
        bytes_of = answers.detach().contiguous().view(torch.uint8).numpy()
        keys = [(*shape, row.tobytes(), asked) for row in bytes_of]
        if new := [place for place, key in enumerate(keys) if key not in _kept]:
            found = plain(answers[new], **options)
            _kept.update((keys[place], one) for place, one in zip(new, found, strict=True))
        return [_kept[key] for key in keys]

    quick.plain = plain  # type: ignore[attr-defined]
    return quick


def encode(plain: Any) -> Any:
    """What a model as it was loaded, of the very same weights and on the same engine, reads of a text alone."""

    def quick(model: Any, texts: Any, *, record: Any, positions: Any, batch_size: int) -> Any:
        weights = _weights(model, record) if batch_size == 1 and record.folder is None else None
        if weights is None:
            return plain(model, texts, record=record, positions=positions, batch_size=batch_size)
        asked = [(*weights, tuple(ids), tuple(at)) for ids, at in zip(texts, positions, strict=True)]
        new = [place for place, key in enumerate(asked) if key not in _kept]
        if new:
            some, where = [texts[place] for place in new], [positions[place] for place in new]
            found = plain(model, some, record=record, positions=where, batch_size=1)
            _kept.update((asked[place], one) for place, one in zip(new, found, strict=True))
        return [_kept[key] for key in asked]

    quick.plain = plain  # type: ignore[attr-defined]
    return quick


def reference_from(plain: Any) -> Any:
    """The reference that the same tokenizer, loaded again, would make of a text."""

    def quick(tokenizer: Any, text: str, answer: str, facts: Any, operation: str) -> Any:
        if not getattr(tokenizer, "is_fast", False):
            return plain(tokenizer, text, answer, facts, operation)
        key = _does(tokenizer), len(tokenizer), text, answer, facts.n_ctx, facts.d_vocab, operation
        if key not in _kept:
            _kept[key] = plain(tokenizer, text, answer, facts, operation)
        return _kept[key]

    quick.plain = plain  # type: ignore[attr-defined]
    return quick


def load_model(plain: Any) -> Any:
    """A toy that an earlier run was given by the same name; on the CPU in a precision, one that was asked for so."""

    def quick(name: str, **options: Any) -> Any:
        if name not in ("toy-reasoner", "toy-base") or (options and set(options) != {"dtype", "device"}):
            return plain(name, **options)
        if options and str(options["device"]) != "cpu":
            return plain(name, **options)

        key = name, options.get("dtype")
        model = _kept.get(key)
        if model is None or not _is_as_loaded(model):
            model = _kept[key] = plain(name, **options)
        return model

    quick.plain = plain  # type: ignore[attr-defined]
    return quick


def _is_as_loaded(model: Any) -> bool:
    from interp.engines.hooked import user_hooks
    from interp.engines.native import native_of

    native = native_of(model)
    return not isinstance(native, str) and native.doubt(model) is None and next(user_hooks(model), None) is None


def _weights(model: Any, record: Any) -> tuple[Any, ...] | None:
    """All that a reading hangs on beside the text; None of a large model, or one that is not as it was loaded."""
    from interp.engines.registry import engine_for, model_facts
    from interp.passes import asked_sites

    original = getattr(model, "original_model", None)
    if original is None or not _is_as_loaded(model):
        return None
    held = [*original.named_parameters(), *original.named_buffers()]
    if any(tensor.device.type != "cpu" for _, tensor in held) or sum(tensor.nbytes for _, tensor in held) > _SMALL:
        return None
    digest = hashlib.sha256(original.config.to_json_string().encode())
    for name, tensor in held:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    told = engine_for(model, asked_sites(record, (), model_facts(model))).told
    return digest.digest(), told, torch.get_num_threads(), tuple(record.sites), tuple(record.layers)


def _does(tokenizer: Any) -> str:
    """What a fast tokenizer's encoding hangs on, as a text; tokens that are added later show in its length."""
    if tokenizer not in _tokenizers:
        options = {
            name: getattr(tokenizer, name, None) for name in ("add_bos_token", "add_eos_token", "all_special_ids")
        }
        told = repr(sorted(tokenizer.init_kwargs.items(), key=lambda item: item[0]))
        _tokenizers[tokenizer] = f"{type(tokenizer)}{options}{told}{tokenizer.backend_tokenizer.to_str()}"
    return _tokenizers[tokenizer]

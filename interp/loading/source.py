"""Where a model came from and what its weights are, so that every stored result can say so.

The hash is taken over the weights in memory, not over files: one model saved in one file or in five, or read through
another folder, has one hash; a changed weight or another precision has another.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from interp.errors import InputError
from interp.types import Bridge

__all__ = ["Kind", "ModelSource", "hf_weights", "model_source", "remember", "weight_hash"]

Kind: TypeAlias = Literal["bundled", "cached", "folder", "gguf", "hub", "object"]

_CHUNK = 1 << 22  # elements hashed at a time, so that no copy of a large matrix is made


@dataclass(frozen=True)
class ModelSource:
    """Where a loaded model came from; see :func:`model_source`.

    >>> ModelSource("toy-reasoner", "bundled").kind
    'bundled'

    Attributes:
        name: as given to ``load_model``.
        kind: "bundled", "cached" (pulled), "folder", "gguf", "hub", or "object" (an ``hf_model`` passed in, or a bridge
            made elsewhere).
        path: folder or file it was read from, if any.
        revision: commit of a hub model.
    """

    name: str
    kind: Kind
    path: Path | None = None
    revision: str | None = None
    _model: weakref.ref[torch.nn.Module] | None = field(default=None, repr=False, compare=False)

    @property
    def weight_hash(self) -> str:
        """:func:`weight_hash` of the model this is the source of, computed when asked for."""
        model = None if self._model is None else self._model()
        if model is None:
            raise InputError(
                f"hash the weights of {self.name}",
                expected="a loaded model",
                received="a source whose model is gone",
                remedy="Ask while the model is in memory, or keep the string.",
            )
        return _hash(model)


@dataclass
class _Record:
    """What is kept with a bridge; as an attribute of it, so that a copied bridge has it too."""

    name: str
    kind: Kind
    path: Path | None
    revision: str | None
    # name -> module and attribute that hold a weight of the Hugging Face model
    weights: dict[str, tuple[torch.nn.Module, str]] | None
    # what the bridge added while it was made (copies of weights in other layouts mostly), by its content
    added: dict[str, str] = field(default_factory=dict)


def hf_weights(hf_model: torch.nn.Module) -> dict[str, tuple[torch.nn.Module, str]]:
    """Where each weight of a Hugging Face model is, under its own name: bridging renames, splits and adds some.

    >>> hf_weights(torch.nn.Linear(2, 3)).keys()
    dict_keys(['weight', 'bias'])
    """
    places: dict[str, tuple[torch.nn.Module, str]] = {}
    seen: set[int] = set()  # tied weights count once
    for prefix, module in hf_model.named_modules():
        saved = [key for key in module._buffers if key not in module._non_persistent_buffers_set]
        for key in [*module._parameters, *saved]:
            tensor = getattr(module, key)
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                places[f"{prefix}.{key}".lstrip(".")] = (module, key)
    return places


def remember(
    model: Bridge,
    name: str,
    kind: Kind,
    path: Path | None = None,
    revision: str | None = None,
    weights: dict[str, tuple[torch.nn.Module, str]] | None = None,
) -> None:
    """Note where a model came from, and where its weights were before it was bridged; ``load_model`` does this.

    >>> remember.__name__
    'remember'
    """
    # Past the module's own bookkeeping, which would look for hook points in it.
    vars(model)["_peaklens"] = record = _Record(name, kind, path, revision, weights)
    if weights is not None:
        own = {id(getattr(module, key)) for module, key in weights.values()}
        added = {name: tensor for name, tensor in _bridged(model).items() if id(tensor) not in own}
        record.added = {name: digest for name, digest in _digests(added).items() if digest}


def model_source(model: Bridge) -> ModelSource:
    """Where a model came from; "object" for a bridge that was not made by ``load_model``.

    >>> from interp.loading.models import load_model
    >>> model_source(load_model("toy-reasoner")).kind
    'bundled'
    """
    record = _record(model)
    return ModelSource(record.name, record.kind, record.path, record.revision, weakref.ref(model))


def weight_hash(model: Bridge) -> str:
    """sha256 (hexadecimal) over names, types, shapes and bytes of all weights, in the order of their names.

    >>> from interp.loading.models import load_model
    >>> len(weight_hash(load_model("toy-reasoner")))
    64

    Names are those of the Hugging Face model; buffers count as far as they are saved with it (rotary tables are
    recomputed on loading and may differ in the last bit between machines). A float32 and a bfloat16 copy differ. What
    the bridge adds (GPT-2's query, key and value split apart) counts only once it was changed. All bytes are read at
    each call (about a second a GB and core): a change through ``.data`` or by a kernel leaves no other trace.

    Errors: ``InputError`` when weights are offloaded to disk.
    """
    return _hash(model)


def _record(model: torch.nn.Module) -> _Record:
    if "_peaklens" not in vars(model):
        remember(model, str(getattr(getattr(model, "cfg", None), "model_name", "unnamed")), "object")
    return vars(model)["_peaklens"]


def _bridged(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    network = getattr(model, "original_model", model)
    # nn.Module's own: TransformerLens overrides it to rename and leave out
    state = torch.nn.Module.state_dict(network, keep_vars=True)
    return {name.replace("._original_component", ""): tensor for name, tensor in state.items()}


def _hash(model: torch.nn.Module) -> str:
    record, bridged = _record(model), _bridged(model)
    if record.weights is None:
        weights, added = bridged, {}
    else:
        weights = {name: getattr(module, key) for name, (module, key) in record.weights.items()}
        own = {id(tensor) for tensor in weights.values()}
        added = {name: tensor for name, tensor in bridged.items() if id(tensor) not in own}
    digests = _digests(weights)
    changed = {name: digest for name, digest in _digests(added).items() if digest != record.added.get(name)}
    digests |= {f"changed {name}": digest for name, digest in changed.items()}
    whole = hashlib.sha256()
    for name in sorted(digests):
        if not digests[name]:
            raise InputError(
                "hash the weights",
                expected="weights in memory",
                received=f"{name} offloaded to disk",
                remedy="Load the model without a disk target in device_map.",
            )
        whole.update(f"{name}\n{digests[name]}\n".encode())
    return whole.hexdigest()


def _digests(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """The hash of each tensor, several at a time (hashing needs no interpreter); "" for one that is not in memory."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(tensors, pool.map(_tensor_hash, tensors.values()), strict=True))


def _tensor_hash(tensor: torch.Tensor) -> str:
    if tensor.is_meta:
        return ""
    tensor = tensor.detach()
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
    # reshape(-1) copies only what is not contiguous; numpy has no bfloat16, but every type can be seen as bytes
    for chunk in tensor.reshape(-1).split(_CHUNK):
        digest.update(chunk.cpu().view(torch.uint8).numpy())
    return digest.hexdigest()

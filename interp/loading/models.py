"""Load a model by name into a TransformerLens bridge, from what is on this machine first.

Steps: find the name (bundled, pulled, a folder, a GGUF file, the Hugging Face hub), check that it is a decoder this
package can run, load it with Hugging Face itself (safetensors only), and hand it to
``TransformerBridge``. Hugging Face's weights and tokenizer stay as they are: logits are the plain model's and prompts
are encoded as ``AutoTokenizer`` encodes them, without the beginning-of-sequence token TransformerLens would add.
"""

from __future__ import annotations

import difflib
import importlib.resources
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from interp.errors import InputError
from interp.foreign import foreign_errors, said
from interp.loading.gguf import check_gguf
from interp.loading.pull import KNOWN_MODELS, cache_dir, cached_model_path
from interp.loading.source import Kind, ModelSource, hf_weights, model_source, remember, weight_hash
from interp.progress import tidy_bars
from interp.types import Bridge

__all__ = [
    "BUNDLED",
    "ModelEntry",
    "ModelSource",
    "bundled_model_path",
    "list_models",
    "load_model",
    "local_folder",
    "model_source",
    "weight_hash",
]

BUNDLED = ("toy-reasoner", "toy-base")

_ABOUT_BUNDLED = {
    "toy-reasoner": "tiny arithmetic reasoner with planted slips, repairs and thinking tokens",
    "toy-base": "the toy reasoner's twin without thinking tokens and repairs",
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def load_model(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: str | dict[str, Any] | None = None,
    max_memory: dict[Any, Any] | None = None,
    offload_folder: str | Path | None = None,
    revision: str | None = None,
    n_ctx: int | None = None,
    hf_config_overrides: dict[str, Any] | None = None,
    hf_model: Any = None,
    tokenizer: Any = ...,
    trust_remote_code: bool = False,
) -> Bridge:
    """Load a model and its tokenizer for decoding, probing and intervening.

    >>> model = load_model("toy-reasoner")
    >>> model.cfg.n_layers, model.cfg.d_model, model.training
    (3, 128, False)

    Args:
        name: a bundled model (``toy-reasoner``, ``toy-base``), a pulled one (``smollm2-135m-instruct``), a Hugging Face
            folder, a ``.gguf`` file, or a hub id such as ``Qwen/Qwen3-0.6B``; looked for in this order.
        device: "cpu", "cuda:1", ...; by default CUDA if there is one, else TransformerLens's choice.
        dtype: precision of the weights, as a ``torch.dtype`` or "bfloat16"; by default the checkpoint's own on CUDA and
            float32 elsewhere.
        device_map, max_memory, offload_folder: placement by accelerate, not ``device``.
        revision: of a hub model.
        n_ctx: the longest text; the model itself stays as it is.
        hf_config_overrides: entries of the model's configuration to change.
        hf_model: a loaded Hugging Face model, taken over as it is (``name`` is then its label; if ``name`` can be
            loaded and no ``tokenizer`` is given, the tokenizer comes from there).
        tokenizer: the model's own unless given; None for none.
        trust_remote_code: refused: code that comes with a model is never executed.

    Errors: ``InputError`` for a name that cannot be found, a hub model out of reach, weights that are only pickled,
    code that would have to be executed, weights that are missing or that the configuration has no place for, an
    architecture that cannot be decoded, a tokenizer that cannot be read, an unknown type or device. Weights that
    belong to something beside the decoder (a value head) are told by a warning.
    """
    from interp.loading import hugging_face

    name = str(name)
    if trust_remote_code:
        raise InputError(
            f"load {name}",
            expected="a model without code of its own",
            received="trust_remote_code",
            remedy="Code that comes with a model is never executed; load the model yourself and pass hf_model.",
        )
    own = tokenizer is ...
    hugging_face.import_transformer_lens()
    options = hugging_face.Options(
        name, device, dtype, device_map, max_memory, offload_folder, revision, n_ctx, hf_config_overrides, hf_model,
        None if own else tokenizer,
    )  # fmt: skip
    kind: Kind
    path: Path | None
    if options.hf_model is not None:
        hf_model, place = hugging_face.place_object(options), None
        if own:
            # A name that leads somewhere lends its tokenizer; any other name is a mere label.
            place = _local(name) or (_find(name, None) if _HUB_ID.fullmatch(name) else None)
        tokenizer = options.tokenizer if place is None else hugging_face.load_tokenizer(name, place[1])
        kind, path, revision = "object", None, None
    else:
        kind, path, revision = _find(name, options.revision)
        with tidy_bars(), hugging_face.without_bars(kind == "bundled"):  # they are there at once
            hf_model = hugging_face.load_weights(options, path)
        tokenizer = hugging_face.load_tokenizer(name, path) if own else options.tokenizer
    weights = hf_weights(hf_model)
    bridge = hugging_face.make_bridge(hf_model, tokenizer, name)
    hugging_face.limit_context(bridge, options.n_ctx, name)
    remember(bridge, name, kind, path, revision, weights)
    return bridge


def bundled_model_path(name: str) -> Path:
    """Folder of a model that comes with the package.

    >>> bundled_model_path("toy-reasoner").name
    'toy-reasoner'
    """
    folder = _bundled(name)
    if name not in BUNDLED or not (folder / "config.json").is_file():
        raise InputError(
            "find a bundled model",
            expected=f"one of {', '.join(BUNDLED)}" if name not in BUNDLED else f"its files in {folder}",
            received=repr(name) if name not in BUNDLED else "a folder without them",
            remedy=_suggestion(name, BUNDLED) if name not in BUNDLED else "Install peaklens again.",
        )
    return folder


def _bundled(name: str) -> Path:
    return Path(str(importlib.resources.files("interp"))) / "bundled" / name


@dataclass(frozen=True)
class ModelEntry:
    """One line of ``peaklens models``; ``size`` in bytes, of the files on disk or of what a pull would leave there.

    >>> ModelEntry("toy-base", "bundled", None, 2_600_000, "a toy", "MIT").state
    'bundled'
    """

    name: str
    state: Literal["bundled", "cached", "known", "hub-cache"]
    path: Path | None
    size: int
    description: str
    licence: str


def list_models() -> list[ModelEntry]:
    """What can be loaded without a network, and what can be pulled.

    >>> sorted({"toy-reasoner", "smollm2-135m-instruct"} - {entry.name for entry in list_models()})
    []
    """
    entries = [
        ModelEntry(name, "bundled", path, _size(path), _ABOUT_BUNDLED[name], "MIT")
        for name in BUNDLED
        for path in [_bundled(name)]
        if (path / "config.json").is_file()
    ]
    models = cache_dir() / "models"
    for path in sorted(models.iterdir()) if models.is_dir() else []:
        if cached_model_path(path.name) is not None:
            known = KNOWN_MODELS.get(path.name)
            about = (known.description, known.licence) if known else ("added by hand", "unknown")
            entries.append(ModelEntry(path.name, "cached", path, _size(path), *about))
    for known in KNOWN_MODELS.values():
        if cached_model_path(known.name) is None:
            about = (known.description, known.licence)
            entries.append(ModelEntry(known.name, "known", None, known.converted_bytes, *about))
    return entries + _hub_cache()


def _hub_cache() -> list[ModelEntry]:
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        repositories = scan_cache_dir().repos
    except (CacheNotFound, OSError, ValueError):  # none, or one that cannot be read: nothing there can be loaded
        return []
    return [
        ModelEntry(
            r.repo_id, "hub-cache", r.repo_path, r.size_on_disk, "from the Hugging Face hub", "see its model card"
        )
        for r in sorted(repositories, key=lambda r: r.repo_id)
        if r.repo_type == "model"
    ]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())  # a dangling link is no file


_Place: TypeAlias = tuple[Kind, Path, str | None]  # the last is the commit of a hub model


def _local(name: str) -> _Place | None:
    """Where ``name`` is on this machine, the hub's cache left out."""
    if name in BUNDLED:
        return "bundled", bundled_model_path(name), None
    cached = cached_model_path(name)
    if cached is not None:
        return "cached", cached, None
    path = Path(name).expanduser()
    if name.strip() and path.is_dir():
        return "folder", path, None
    return ("gguf", path, None) if path.suffix.lower() == ".gguf" else None


def local_folder(name: str) -> Path | None:
    """The folder whose config ``load_model`` would read for a name, if that is here without asking a hub.

    >>> local_folder("toy-base").name
    'toy-base'
    """
    place = _local(name)
    if place is not None:
        return None if place[0] == "gguf" else place[1]
    if not _HUB_ID.fullmatch(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _find(name: str, revision: str | None) -> _Place:
    with foreign_errors(
        f"load {said(name, 80)}", expected="files that can be read", remedy="Check the path and its permissions.",
        kinds=(OSError,),
    ):  # fmt: skip
        return _place(name, revision)


def _place(name: str, revision: str | None) -> _Place:
    place = _local(name)
    if place is not None:
        kind, path, _ = place
        if revision is not None:
            raise InputError(
                f"load {name}",
                expected="revision only with a model of the Hugging Face hub",
                received=f"revision={revision!r} for a {kind} model",
                remedy="Leave it out.",
            )
        if kind == "gguf":
            check_gguf(path)
        else:
            _check_folder(name, path)
        return place
    names = [*BUNDLED, *KNOWN_MODELS]
    if name in KNOWN_MODELS:
        raise InputError(
            f"load {name}",
            expected="a model that is on this machine",
            received="one that has not been pulled",
            remedy=f"Run: peaklens models pull {name}",
        )
    if Path(name).expanduser().is_file():
        raise InputError(
            f"load {name}",
            expected="a Hugging Face folder or a .gguf file",
            received="another kind of file",
            remedy="Pass the folder that holds config.json and model.safetensors.",
        )
    if _HUB_ID.fullmatch(name):
        from interp.loading.hub import hub_folder

        path, commit = hub_folder(name, revision)
        _check_folder(name, path)
        return "hub", path, commit
    raise InputError(
        "load a model",
        expected=f"a bundled or pulled model ({', '.join(names)}), a folder, a .gguf file or a hub id (org/name)",
        received=said(repr(name), 120),
        remedy=_suggestion(name, (*names, *(entry.name for entry in _hub_cache()))),
    )


def _check_folder(name: str, folder: Path) -> None:
    """Refuse a folder that cannot be a model, or whose weights would have to be unpickled, before reading them."""
    operation, files = f"load {name}", {file.name for file in folder.iterdir()}
    if "config.json" not in files:
        ggufs = sorted(file for file in files if file.endswith(".gguf"))
        raise InputError(
            operation,
            expected=f"a config.json in {folder}",
            received=f"{len(files)} files without one" + (f", among them {ggufs[0]}" if ggufs else ""),
            remedy=f"Pass {folder / ggufs[0]}." if ggufs else "Pass a folder made by save_pretrained.",
        )
    # transformers goes on without a generation_config.json that it cannot read.
    for file in ("config.json", *sorted(files & {"generation_config.json"})):
        try:
            content = json.loads((folder / file).read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(
                operation,
                expected=f"valid JSON in {file}",
                received=said(error),
                remedy="Download or save it again.",
            ) from error
        if not isinstance(content, dict):
            raise InputError(
                operation,
                expected=f"an object in {file}",
                received=f"a {type(content).__name__}",
                remedy="Download or save it again.",
            )
    if not any(file.endswith(".safetensors") for file in files):
        pickles = sorted(file for file in files if file.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")))
        raise InputError(
            operation,
            expected="weights as .safetensors",
            received=f"only pickled ones ({pickles[0]})" if pickles else "no weights",
            remedy="Unpickling can run any code and is not done here. If you trust the source, load the model with "
            "transformers, save it with save_pretrained and pass that folder."
            if pickles
            else "Download or save the model again.",
        )


def _suggestion(name: str, names: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(close)}?" if close else "Check the spelling; `peaklens models` lists models."

"""From a folder or a GGUF file to a bridge: options, architecture check, weights, tokenizer."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interp.engines.native import check_attention, keep_native, native_copy
from interp.engines.registry import model_facts
from interp.errors import InputError
from interp.foreign import foreign_errors, said
from interp.loading.architectures import boots_as, check_architecture, check_decodes, check_native
from interp.progress import import_tqdm
from interp.types import Bridge

__all__ = [
    "Options",
    "import_transformer_lens",
    "limit_context",
    "load_tokenizer",
    "load_weights",
    "make_bridge",
    "place_object",
    "without_bars",
]

# Weights of a checkpoint that a text decoder has no use for and whose loss changes none of its numbers: towers for
# images and sound, extra prediction layers, tables that are computed anew, scales of quantised caches.
_HARMLESS = re.compile(
    r"(^|\.)(vision_\w+|visual|audio_\w+|multi_modal_projector|mm_projector|embed_vision|embed_audio|image_newline|mtp)\."
    r"|(^|\.)image_newline$"
    r"|rotary_emb\.inv_freq$|(^|\.)position_ids$|\.attn\.(masked_)?bias$|\.attention\.(masked_)?bias$"
    r"|\.(k|v|q|kv|output|input)_scale$"
)


@dataclass(frozen=True)
class Options:
    """How to load; each combination that cannot work is refused when this is made.

    >>> Options("toy-base", "cpu", "bfloat16").torch_dtype
    torch.bfloat16
    """

    name: str
    device: str | torch.device | None = None
    dtype: torch.dtype | str | None = None
    device_map: str | dict[str, Any] | None = None
    max_memory: dict[Any, Any] | None = None
    offload_folder: str | Path | None = None
    revision: str | None = None
    n_ctx: int | None = None
    hf_config_overrides: dict[str, Any] | None = None
    hf_model: Any = None
    tokenizer: Any = None

    def __post_init__(self) -> None:
        self._check_names()
        if self.device_map is not None and self.device is not None:
            raise self._error("either device or device_map", "both", "device_map alone decides where weights go.")
        for option in ("max_memory", "offload_folder"):
            if getattr(self, option) is not None and self.device_map is None:
                raise self._error(f"device_map with {option}", f"{option} alone", 'Add device_map="auto".')
        if self.n_ctx is not None and self.n_ctx < 1:
            raise self._error("n_ctx of at least 1", str(self.n_ctx), "Leave it out for the model's own.")
        if self.hf_model is not None:
            for option in ("device_map", "revision", "n_ctx", "hf_config_overrides"):
                if getattr(self, option) is not None:
                    raise self._error(
                        "hf_model as it is", f"hf_model with {option}", f"Apply {option} when you load hf_model."
                    )

    def _check_names(self) -> None:
        if self.torch_dtype is not None and not self.torch_dtype.is_floating_point:
            raise self._error("a floating-point dtype", repr(self.dtype), 'For instance "bfloat16".')
        if self.device is None:
            return
        remedy = 'Use "cpu", or leave device out.'
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise self._error("a device such as cpu, cuda or cuda:1", repr(self.device), remedy) from error
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise self._error(f"a CUDA device of the {torch.cuda.device_count()} here", repr(str(device)), remedy)
        if device.type == "mps" and not torch.backends.mps.is_available():
            raise self._error("a device that is here", "'mps'", remedy)
        if device.type == "meta":
            raise self._error("a device that holds weights", "'meta'", remedy)

    def _error(self, expected: str, received: str, remedy: str) -> InputError:
        return InputError(f"load {self.name}", expected=expected, received=received, remedy=remedy)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        if not isinstance(self.dtype, str):
            return self.dtype
        found = getattr(torch, self.dtype.removeprefix("torch."), None)
        if not isinstance(found, torch.dtype):
            raise self._error(
                "a dtype such as float32, bfloat16 or float16", repr(self.dtype), "Use a torch.dtype or its name."
            )
        return found


@contextlib.contextmanager
def without_bars(quiet: bool = True) -> Iterator[None]:
    """Inside, transformers shows no progress bars (that over a GGUF's tensors apart, which heeds no setting).

    >>> from transformers.utils import logging
    >>> with without_bars():
    ...     logging.is_progress_bar_enabled()
    False
    """
    from transformers.utils import logging

    if not quiet or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def import_transformer_lens() -> None:
    """Import TransformerLens without what that does to the whole process.

    It lowers transformers' logging to errors, which swallows Hugging Face's remarks in everything the user does
    afterwards, and adds a filter of warnings.

    >>> from transformers.utils import logging
    >>> before = logging.get_verbosity()
    >>> import_transformer_lens()
    >>> logging.get_verbosity() == before
    True
    """
    if "transformer_lens.model_bridge" in sys.modules:
        return
    import_tqdm()
    from transformers.utils import logging

    before = logging.get_verbosity()  # sets up transformers' own level, if that has not happened yet
    with warnings.catch_warnings():
        importlib.import_module("transformer_lens.model_bridge")
    logging.set_verbosity(before)


def load_weights(options: Options, path: Path) -> Any:
    """The Hugging Face model in a checked folder or a GGUF file, in eval mode on its device.

    >>> from interp.loading.models import bundled_model_path
    >>> load_weights(Options("toy-reasoner", "cpu"), bundled_model_path("toy-reasoner")).dtype
    torch.float32
    """
    from transformer_lens.utilities import get_device

    device = None if options.device_map is not None else torch.device(options.device or get_device())
    on_gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    # Attention by whatever Hugging Face prefers: the bridge switches to eager, which hook points for patterns need, and
    # the native twin keeps it.
    arguments: dict[str, Any] = {
        "dtype": options.torch_dtype or ("auto" if on_gpu else torch.float32),
        "local_files_only": True,
    }
    for option in ("device_map", "max_memory", "offload_folder"):
        if getattr(options, option) is not None:
            arguments[option] = getattr(options, option)
    # transformers, accelerate and huggingface_hub report bad files, settings, shapes, placements and missing packages
    # with errors of many kinds, some of their own; only their code runs here.
    with foreign_errors(
        f"load {options.name}",
        expected="weights that can be read, fit the configuration and fit into memory",
        remedy="Check the files and options; a smaller dtype or device_map needs less memory on one device.",
    ):
        model, report = (_gguf if path.is_file() else _folder)(options, path, arguments)
        model = model.eval() if device is None else model.to(device).eval()
    _check_report(options, model, report)
    return model


def _check_report(options: Options, model: Any, report: Mapping[str, Any]) -> None:
    """Refuse weights that are missing, of another shape, or that the model has no place for where they belong."""
    operation = f"load {options.name}"
    lacking = sorted(map(str, report["missing_keys"])) + sorted(str(key) for key in report["mismatched_keys"])
    lacking += sorted(map(str, report.get("error_msgs") or ()))
    if lacking:
        # transformers would go on with random numbers in their place.
        raise InputError(
            operation,
            expected="every weight of the model in its files",
            received=f"{len(lacking)} missing or of another shape, first {said(lacking[0])}",
            remedy="Download or save the model again, or check hf_config_overrides.",
        )
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    unused = sorted(str(key) for key in report["unexpected_keys"] if not _HARMLESS.search(str(key)) and key not in tied)
    if {"num_hidden_layers", "n_layer", "n_layers", "num_layers"} & set(options.hf_config_overrides or ()):
        count = model.config.get_text_config().num_hidden_layers
        unused = [key for key in unused if not _above(key, count)]  # layers that were asked to be left out
    # With a place among the model's own modules, a weight is part of what the file's author ran.
    inside = [key for key in unused if _belongs(model, key)]
    if inside:
        raise InputError(
            operation,
            expected="a configuration that has a place for every weight of the files",
            received=f"{len(inside)} unexpected weights, which would not be used: {_some(inside)}",
            remedy="The configuration describes another model than the weights are of: check model_type, the number of "
            "layers and biases in config.json. If it is meant so, load it with transformers and pass hf_model.",
        )
    if unused:
        warnings.warn(
            f"{options.name}: {len(unused)} unexpected weights of the files are not used: {_some(unused)}",
            stacklevel=4,
        )


def _above(key: str, n_layers: int) -> bool:
    return any(part.isdecimal() and int(part) >= n_layers for part in key.split("."))


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _belongs(model: Any, key: str) -> bool:
    """Whether a weight's name leads into the decoder: to one of its modules, with or without the decoder's prefix."""
    tops = {name for name, _ in model.named_children()}
    base = getattr(model, "base_model", model)
    return key.split(".")[0] in tops | {name for name, _ in base.named_children()}


def _gguf(options: Options, path: Path, arguments: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoConfig

    from interp.loading.gguf import gguf_metadata, gguf_model

    metadata = gguf_metadata(path)
    config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
    check_architecture(options.name, config)
    _override(options, config)
    dtype = arguments.pop("dtype")
    return gguf_model(path, metadata, dtype=dtype, config=config, **arguments)


def _folder(options: Options, path: Path, arguments: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    check_architecture(options.name, config)
    _override(options, config)
    return AutoModelForCausalLM.from_pretrained(
        str(path), config=config, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **arguments
    )


def _override(options: Options, config: Any) -> None:
    for key, value in (options.hf_config_overrides or {}).items():
        if not hasattr(config, key):
            raise InputError(
                f"load {options.name}",
                expected=f"hf_config_overrides that {type(config).__name__} has",
                received=repr(key),
                remedy="Check the spelling in the model's config.json.",
            )
        setattr(config, key, value)


def limit_context(bridge: Bridge, n_ctx: int | None, name: str) -> None:
    """Let texts be at most ``n_ctx`` tokens long. The model's own settings stay: some scale their rope by them.

    Refuses more than a table of learned positions holds; beyond what a rope was trained for, it warns.
    """
    if n_ctx is None:
        return
    trained = model_facts(bridge).n_ctx
    if trained is not None and n_ctx > trained:
        if not any(key.endswith("inv_freq") for key, _ in bridge.original_model.named_buffers()):
            raise InputError(
                f"load {name}",
                expected=f"n_ctx of at most {trained}, the positions this model has a table of",
                received=str(n_ctx),
                remedy="Shorten the texts.",
            )
        warnings.warn(f"{name}: n_ctx {n_ctx} is more than the {trained} it was trained for", stacklevel=3)
    bridge.cfg.n_ctx = n_ctx
    vars(bridge)["_peaklens_n_ctx"] = n_ctx


def load_tokenizer(name: str, path: Path) -> Any:
    """The tokenizer as ``AutoTokenizer`` makes it.

    >>> from interp.loading.models import bundled_model_path
    >>> load_tokenizer("toy-reasoner", bundled_model_path("toy-reasoner")).is_fast
    True
    """
    from transformers import AutoTokenizer

    # A file of another version is a bare Exception of tokenizers.
    with foreign_errors(
        f"load {name}",
        expected=f"a tokenizer in {path} that the installed libraries can read",
        remedy="Save it there with tokenizer.save_pretrained, or pass tokenizer=.",
    ):
        if path.is_file():
            from interp.loading.gguf import gguf_metadata, gguf_tokenizer

            return gguf_tokenizer(path, gguf_metadata(path))
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)


def place_object(options: Options) -> Any:
    """A model the user loaded, in eval mode; moved if ``device`` asks for it, never cast."""
    model = options.hf_model
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
        raise InputError(
            f"load {options.name}",
            expected="hf_model as a loaded Hugging Face model",
            received=type(model).__name__,
            remedy="Pass what AutoModelForCausalLM.from_pretrained returns; leave hf_model out to load by name.",
        )
    check_architecture(options.name, model.config, type(model))
    check_attention(model, f"load {options.name}")
    if options.torch_dtype not in (None, model.dtype):
        raise InputError(
            f"load {options.name}",
            expected=f"hf_model as it is, in {model.dtype}",
            received=f"dtype={options.torch_dtype}",
            remedy="Leave dtype out, or cast the model yourself.",
        )
    model.eval()
    return model if options.device is None else model.to(options.device)


def make_bridge(hf_model: Any, tokenizer: Any, name: str) -> Bridge:
    """Wrap a Hugging Face model; the tokenizer stays the plain one.

    TransformerLens rebuilds a tokenizer with ``add_bos_token=True``, from the hub if need be. So it is handed a
    stand-in, and the real one is put in its place with the settings that describe it.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    native = native_copy(hf_model)
    stand_in = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")), eos_token="a")
    with (
        foreign_errors(
            f"load {name}",
            expected="an architecture and a placement TransformerLens supports",
            remedy="Use a decoder-only model; see TransformerLens's list of supported architectures.",
        ),
        boots_as(hf_model),
    ):
        bridge = TransformerBridge.boot_transformers(
            name, hf_model=hf_model, tokenizer=stand_in, dtype=hf_model.dtype, device=hf_model.device
        )
    if tokenizer is not None:
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # only ever seen by batches; single prompts are not changed
        with foreign_errors(
            f"load {name}",
            expected="a tokenizer that encodes text",
            remedy="Pass another tokenizer, or tokenizer=None.",
        ):
            ids = list(tokenizer("a")["input_ids"])
        bridge.cfg.tokenizer_prepends_bos = len(ids) > 1 and ids[0] == tokenizer.bos_token_id
        bridge.cfg.tokenizer_appends_eos = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
    # to_tokens and forward(text) then encode as the tokenizer does: no token added, none removed.
    bridge.cfg.default_prepend_bos = tokenizer is not None and bridge.cfg.tokenizer_prepends_bos
    # Only a bridge without a tokenizer takes one as it is.
    bridge.tokenizer = None
    bridge.tokenizer = bridge._driver.tokenizer = tokenizer
    bridge.eval()
    logits = check_decodes(bridge, name)
    keep_native(bridge, native)
    check_native(bridge, logits)
    return bridge

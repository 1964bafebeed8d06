"""From a folder or a GGUF file to a bridge: options, architecture check, weights, tokenizer."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interp.errors import InputError
from interp.types import Bridge

__all__ = ["Options", "load_tokenizer", "load_weights", "make_bridge", "place_object", "without_bars"]

_CONTEXT = ("n_positions", "max_position_embeddings", "max_sequence_length", "seq_length")
_RECURRENT = frozenset(
    {"mamba", "mamba2", "falcon_mamba", "falcon_h1", "rwkv", "rwkv7", "recurrent_gemma"}
    | {"jamba", "bamba", "zamba", "zamba2", "nemotron_h"}
)
_ATTENTION = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


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


def load_weights(options: Options, path: Path) -> Any:
    """The Hugging Face model in a checked folder or a GGUF file, in eval mode on its device.

    >>> from interp.models import bundled_model_path
    >>> load_weights(Options("toy-reasoner", "cpu"), bundled_model_path("toy-reasoner")).dtype
    torch.float32
    """
    from safetensors import SafetensorError
    from transformer_lens.utilities import get_device

    device = None if options.device_map is not None else torch.device(options.device or get_device())
    on_gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    arguments: dict[str, Any] = {
        # Eager attention is what hook points for patterns need, and what the bridge would switch to.
        "attn_implementation": "eager",
        "dtype": options.torch_dtype or ("auto" if on_gpu else torch.float32),
        "local_files_only": True,
    }
    for option in ("device_map", "max_memory", "offload_folder"):
        if getattr(options, option) is not None:
            arguments[option] = getattr(options, option)
    try:
        model, report = (_gguf if path.is_file() else _folder)(options, path, arguments)
        model = model.eval() if device is None else model.to(device).eval()
    except InputError:
        raise
    # transformers and accelerate report bad files, shapes, placements and missing packages with these
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as error:
        raise InputError(
            f"load {options.name}",
            expected="weights that can be read, fit the configuration and fit into memory",
            received=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
            remedy="Check the files and options; a smaller dtype or device_map needs less memory on one device.",
        ) from error
    lacking = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if lacking:
        # transformers would go on with random numbers in their place.
        raise InputError(
            f"load {options.name}",
            expected="every weight of the model in its files",
            received=f"{len(lacking)} missing or of another shape, first {lacking[0]}",
            remedy="Download or save the model again, or check hf_config_overrides and n_ctx.",
        )
    return model


def _gguf(options: Options, path: Path, arguments: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoConfig

    from interp.gguf_files import gguf_metadata, gguf_model

    metadata = gguf_metadata(path)
    config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
    _check_architecture(options, config)
    _override(options, config)
    dtype = arguments.pop("dtype")
    return gguf_model(path, metadata, dtype=dtype, config=config, **arguments)


def _folder(options: Options, path: Path, arguments: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    _check_architecture(options, config)
    _override(options, config)
    return AutoModelForCausalLM.from_pretrained(
        str(path), config=config, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **arguments
    )


def _check_architecture(options: Options, config: Any) -> None:
    """A decoder with attention in every layer, which both transformers and TransformerLens know."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    causal = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    architecture = (config.architectures or [causal.__name__ if causal else config.model_type])[0]
    # Nothing but a look-up by name: the type and the class must both say "causal decoder".
    known = causal is not None and architecture == causal.__name__ and not architecture.startswith("Bert")
    kinds = set(getattr(config, "layer_types", None) or ())
    if getattr(config, "is_encoder_decoder", False):
        reason = "an encoder and a decoder"
    elif config.model_type in _RECURRENT or kinds - _ATTENTION:
        reason = "recurrent or state-space layers"
    elif not known or not any(base.__name__ in SUPPORTED_ARCHITECTURES for base in (causal or object).__mro__):
        reason = "no causal language model TransformerLens can hook"
    else:
        return
    raise InputError(
        f"load {options.name}",
        expected="a decoder-only causal language model with attention in every layer",
        received=f"{architecture} ({config.model_type}): {reason}",
        remedy="Use a model such as Llama, Qwen2, Qwen3, Gemma or GPT-2.",
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
    if options.n_ctx is None:
        return
    field = next((field for field in _CONTEXT if hasattr(config, field)), None)
    if field is None:
        raise InputError(
            f"load {options.name}",
            expected=f"a configuration with one of {', '.join(_CONTEXT)}",
            received=type(config).__name__,
            remedy="Use hf_config_overrides.",
        )
    if options.n_ctx > getattr(config, field):
        warnings.warn(
            f"{options.name}: n_ctx {options.n_ctx} is more than the {getattr(config, field)} it was trained for",
            stacklevel=5,
        )
    setattr(config, field, options.n_ctx)


def load_tokenizer(name: str, path: Path) -> Any:
    """The tokenizer as ``AutoTokenizer`` makes it.

    >>> from interp.models import bundled_model_path
    >>> load_tokenizer("toy-reasoner", bundled_model_path("toy-reasoner")).is_fast
    True
    """
    from transformers import AutoTokenizer

    if path.is_file():
        from interp.gguf_files import gguf_metadata, gguf_tokenizer

        return gguf_tokenizer(path, gguf_metadata(path))
    try:
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"load {name}",
            expected=f"a tokenizer in {path}",
            received=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
            remedy="Save it there with tokenizer.save_pretrained, or pass tokenizer=.",
        ) from error


def place_object(options: Options) -> Any:
    """A model the user loaded, in eval mode; moved if ``device`` asks for it, never cast."""
    model = options.hf_model
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

    stand_in = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")), eos_token="a")
    try:
        bridge = TransformerBridge.boot_transformers(
            name, hf_model=hf_model, tokenizer=stand_in, dtype=hf_model.dtype, device=hf_model.device
        )
    except ValueError as error:
        raise InputError(
            f"load {name}",
            expected="an architecture and a placement TransformerLens supports",
            received=str(error).splitlines()[0],
            remedy="Use a decoder-only model; see TransformerLens's list of supported architectures.",
        ) from error
    if tokenizer is not None:
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # only ever seen by batches; single prompts are not changed
        ids = tokenizer.encode("a")
        bridge.cfg.tokenizer_prepends_bos = len(ids) > 1 and ids[0] == tokenizer.bos_token_id
        bridge.cfg.tokenizer_appends_eos = len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
    # to_tokens and forward(text) then encode as the tokenizer does: no token added, none removed.
    bridge.cfg.default_prepend_bos = tokenizer is not None and bridge.cfg.tokenizer_prepends_bos
    # Only a bridge without a tokenizer takes one as it is.
    bridge.tokenizer = None
    bridge.tokenizer = bridge._driver.tokenizer = tokenizer
    return bridge.eval()

"""GGUF files through transformers, and what that road loses on the way.

A GGUF stores a model as llama.cpp runs it. transformers rebuilds weights, config and tokenizer from it; three things
do not survive and are put back here from the file's own metadata:

1. how the text is split before the merges (``tokenizer.ggml.pre``): transformers falls back to GPT-2's rule without a
   word, so that a model taught with single digits cuts "   3" in other places than it did in training;
2. the context length as the tokenizer's ``model_max_length``;
3. the norm's epsilon, stored as float32 (9.999999747378752e-06 for 1e-05).

Rules of splitting: llama.cpp, ``src/llama-vocab.cpp``.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interp.errors import InputError
from interp.foreign import foreign_errors, said

__all__ = ["GgufMetadata", "check_gguf", "gguf_metadata", "gguf_model", "gguf_tokenizer"]

# llama.cpp cuts these at every digit first and then as GPT-2 does.
_SINGLE_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
_AS_GPT2 = frozenset({"gpt-2", "mpt", "olmo", "jais", "trillion", "granite-docling"})


@dataclass(frozen=True)
class GgufMetadata:
    """What of a GGUF's metadata is needed beyond what transformers reads.

    >>> GgufMetadata("llama", "gpt2", "smollm", 8192, 9.999999747378752e-06).norm_eps
    1e-05
    """

    architecture: str
    tokenizer_kind: str | None
    splitting: str | None
    context_length: int | None
    stored_eps: float | None
    licence: str | None = None

    @property
    def norm_eps(self) -> float | None:
        """The shortest decimal that is the same float32."""
        import numpy as np

        return None if self.stored_eps is None else float(str(np.float32(self.stored_eps)))


def check_gguf(path: Path) -> None:
    """Refuse what is no GGUF file before any of it is read.

    >>> check_gguf(Path("nowhere.gguf"))
    Traceback (most recent call last):
    ...
    peaklens.InputError: load a GGUF file: expected a file, received 'nowhere.gguf'. Check the path.
    """
    operation = "load a GGUF file"
    if not path.is_file():
        raise InputError(operation, expected="a file", received=repr(str(path)), remedy="Check the path.")
    with foreign_errors(
        operation, expected="a file that can be read", remedy="Check its permissions.", kinds=(OSError,)
    ):
        magic = _first_bytes(path)
    if magic != b"GGUF":
        raise InputError(
            operation,
            expected="a file that begins with the bytes GGUF",
            received=f"{path.name} beginning with {magic!r}",
            remedy="Download the file again: an error page or a Git LFS pointer may have been saved in its place.",
        )
    if importlib.util.find_spec("gguf") is None:
        raise InputError(
            operation,
            expected="the gguf package, which reads such files",
            received="an environment without it",
            remedy="Run: pip install gguf",
        )


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def gguf_metadata(path: Path) -> GgufMetadata:
    """Read the few entries of the metadata that transformers does not carry over (seconds: it has the vocabulary too).

    >>> gguf_metadata(Path("nowhere.gguf"))
    Traceback (most recent call last):
    ...
    peaklens.InputError: load a GGUF file: expected a file, received 'nowhere.gguf'. Check the path.
    """
    check_gguf(path)
    status = path.stat()
    return _read_metadata(path.absolute(), status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4)
def _read_metadata(path: Path, modified: int, size: int) -> GgufMetadata:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(str(path))
    # The reader indexes into a memory map: a cut-off file shows as an error of many kinds.
    except Exception as error:
        raise InputError(
            "load a GGUF file",
            expected="a complete file",
            received=f"{path.name}, which ends early or is damaged ({said(error)})",
            remedy="Download the file again.",
        ) from error

    def entry(key: str) -> Any:
        field = reader.get_field(key)
        return None if field is None else field.contents()

    architecture = str(entry("general.architecture"))
    return GgufMetadata(
        architecture=architecture,
        tokenizer_kind=entry("tokenizer.ggml.model"),
        splitting=entry("tokenizer.ggml.pre"),
        context_length=entry(f"{architecture}.context_length"),
        stored_eps=entry(f"{architecture}.attention.layer_norm_rms_epsilon"),
        licence=entry("general.license"),
    )


def gguf_tokenizer(path: Path, metadata: GgufMetadata) -> Any:
    """The Hugging Face tokenizer a GGUF file describes, with its splitting rule and its length limit put back.

    >>> path = Path("SmolLM2-135M-Instruct.Q4_1.gguf")
    >>> gguf_tokenizer(path, gguf_metadata(path))("   3").input_ids  # doctest: +SKIP
    [333, 35]
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
    if metadata.context_length is not None:
        tokenizer.model_max_length = metadata.context_length
    if metadata.tokenizer_kind != "gpt2" or metadata.splitting is None:
        return tokenizer
    if metadata.splitting in _SINGLE_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif metadata.splitting not in _AS_GPT2 and "use_regex=True" in repr(tokenizer.backend_tokenizer.pre_tokenizer):
        # transformers replaces GPT-2's rule by a regex of its own for the rules it knows, and keeps it for all others.
        warnings.warn(
            f"{path.name}: splitting rule {metadata.splitting!r} is not known here; GPT-2's is used, and some text may "
            "be cut into other tokens than in training. Prefer the model's Hugging Face folder.",
            stacklevel=2,
        )
    return tokenizer


def gguf_model(path: Path, metadata: GgufMetadata, *, dtype: torch.dtype | str, **options: Any) -> tuple[Any, Any]:
    """The Hugging Face model in a GGUF file, weights dequantised; returns model and loading report.

    ``options`` go to ``from_pretrained``.

    >>> path = Path("SmolLM2-135M-Instruct.Q4_1.gguf")
    >>> model, report = gguf_model(path, gguf_metadata(path), dtype=torch.float32)  # doctest: +SKIP
    """
    from transformers import AutoModelForCausalLM, GgufConfig

    model, report = AutoModelForCausalLM.from_pretrained(
        str(path.parent),
        gguf_file=path.name,
        # Without this transformers keeps some weights packed, and the model can be neither hooked nor saved.
        quantization_config=GgufConfig(dequantize=True),
        dtype=dtype,
        output_loading_info=True,
        **options,
    )
    eps = metadata.norm_eps
    if eps is not None and getattr(model.config, "rms_norm_eps", None) == metadata.stored_eps:
        model.config.rms_norm_eps = eps
    return model, report

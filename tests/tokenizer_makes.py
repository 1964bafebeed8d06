"""Tiny tokenizers of every make: what they write between tokens, and how they spell what they do not have."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def wrapped(core: Any) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=core, **SPECIAL, clean_up_tokenization_spaces=False)


def byte_level() -> Any:
    """GPT-2's make: one token a byte, and words with their space."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2}
    for sign in [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠW", "ĠWa", "ĠWait", "Wa", "Wait"]:
        words.setdefault(sign, len(words))
    merges = [("Ġ", "W"), ("ĠW", "a"), ("W", "a")]
    core = Tokenizer(models.BPE(vocab=words, merges=merges))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return wrapped(core)


def sentence_piece() -> Any:
    """Llama 2's make: spaces as ▁, bytes as <0x..>, the first space stripped."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, **{f"<0x{b:02X}>": 4 + b for b in range(256)}}
    for word in ("▁", *"HelowrdaitsWk.", "▁Wait"):
        words.setdefault(word, len(words))
    core = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(steps)
    return wrapped(core)


def metaspace() -> Any:
    """T5's and XLNet's make."""
    signs = "HelowrdaitsWk.éñ好日本語のテキスト\n\tb"
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, **{s: 4 + n for n, s in enumerate(f"▁{signs}")}}
    core = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return wrapped(core)


def word_level() -> Any:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "Hello": 4, "world": 5, "Wait": 6, "so": 7, "\n": 8}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return wrapped(core)


def word_piece() -> Any:
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "Hel": 4, "##lo": 5, "world": 6, "Wait": 7, "##ing": 8}
    core = Tokenizer(models.WordPiece(words, unk_token="<unk>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece(cleanup=False)
    return wrapped(core)


MAKES = {make.__name__: make for make in (byte_level, sentence_piece, metaspace, word_piece)}

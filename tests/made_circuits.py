"""A GPT-2 whose circuit is known by construction: an induction pair wired by hand among components that do something.

The stream has a part for the token (one-hot), the position (one-hot), the token before, what is to be written next, and
the rest. `L0H1` looks one position back and writes the token there into "the token before"; `L1H2` looks where the
token before is the present one, and writes the token there into "next", which alone the unembedding reads. All other
heads and both MLPs have random weights and write into the rest, which nothing of the circuit reads.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

__all__ = ["COPIES", "LOOKS_BACK", "VOCAB", "induction_pair"]

VOCAB = PLACES = 16
HEADS, D_HEAD = 4, 18
LOOKS_BACK, COPIES = (0, 1), (1, 2)
_TOKEN, _PLACE, _BEFORE, _NEXT = (slice(VOCAB * n, VOCAB * (n + 1)) for n in range(4))
_REST = slice(VOCAB * 4, HEADS * D_HEAD)
_SHARP = 8.0  # scores are some thirty apart: attention is on one place
_WRITES = 1 / 6  # about what the norm makes of a one-hot's 1, undone
_ASIDE = 0.07  # of what the others write, which the norms feel


@cache
def induction_pair(dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    """The plain Hugging Face model and a bridge over a copy of it."""
    import copy

    import transformers

    from interp import load_model

    width = HEADS * D_HEAD
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=width, n_layer=2, n_head=HEADS, n_positions=PLACES, tie_word_embeddings=False,
        pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for name, weight in hf.named_parameters():
                if "ln_" not in name:
                    weight.normal_(0, 0.3)
            _wire(hf.transformer, hf.lm_head, width)
    hf.config.architectures = ["GPT2LMHeadModel"]
    hf = hf.to(dtype)
    return hf, load_model("made", hf_model=copy.deepcopy(hf), tokenizer=_tokenizer(), dtype=dtype, device="cpu")


def _wire(body: Any, unembed: Any, width: int) -> None:
    one = torch.eye(VOCAB)
    body.wte.weight.zero_()[:, _TOKEN] = one
    body.wpe.weight.zero_()[:, _PLACE] = one
    unembed.weight.zero_()[:, _NEXT] = one
    for block in body.h:
        for end in (block.attn.c_proj, block.mlp.c_proj):  # both write into the rest alone
            end.weight *= _ASIDE
            end.weight[:, : _REST.start] = 0
            end.bias.zero_()
        block.attn.c_attn.bias.zero_()
    back = torch.diag(torch.ones(PLACES - 1), -1)  # row p is place p - 1
    _head(body.h[0].attn, LOOKS_BACK[1], width, (_PLACE, back), (_PLACE, one), _BEFORE)
    _head(body.h[1].attn, COPIES[1], width, (_TOKEN, one), (_BEFORE, one), _NEXT)


def _head(attention: Any, head: int, width: int, query: Any, key: Any, writes: slice) -> None:
    """Asks for what the query's part is mapped to, finds it in the key's part, and writes the token found there."""
    begin = head * D_HEAD
    for offset, (part, mapped), scale in ((0, query, _SHARP), (width, key, 1.0), (2 * width, (_TOKEN, None), 1.0)):
        columns = slice(offset + begin, offset + begin + VOCAB)
        attention.c_attn.weight[:, offset + begin : offset + begin + D_HEAD] = 0
        attention.c_attn.weight[part, columns] = scale * (torch.eye(VOCAB) if mapped is None else mapped)
    attention.c_proj.weight[begin : begin + D_HEAD] = 0
    attention.c_proj.weight[begin : begin + VOCAB, writes] = _WRITES * torch.eye(VOCAB)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )

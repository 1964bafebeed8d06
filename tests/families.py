"""Tiny random-weight models of each family: dimensions are distinct primes where the family allows, weights seeded.

Norm weights are randomised too: at their initial ones (or zeros) a forgotten norm weight would go unseen.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import torch
from on_device import there

FAMILIES = ("llama", "qwen2", "qwen3", "gpt2", "gemma3")
VOCAB = 101
WINDOW = 7  # gemma3's, shorter than any text of the tests
PAD_EOS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def config(family: str) -> Any:
    """A configuration with 3 layers (gemma3: 4, of which the second and fourth see everything)."""
    import transformers as t

    rope = {
        "vocab_size": VOCAB, "hidden_size": 44, "intermediate_size": 53, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "tie_word_embeddings": False, "head_dim": 10, **PAD_EOS,
    }  # fmt: skip
    if family == "llama":
        return t.LlamaConfig(**rope)
    if family == "qwen2":
        return t.Qwen2Config(**{**rope, "hidden_size": 40})
    if family == "qwen3":
        return t.Qwen3Config(**rope)
    if family == "gpt2":
        return t.GPT2Config(
            vocab_size=VOCAB, n_embd=44, n_layer=3, n_head=4, n_positions=512, tie_word_embeddings=False, **PAD_EOS
        )
    if family == "gemma3":
        kinds = ["sliding_attention", "full_attention"] * 2
        rope = {**rope, "num_hidden_layers": 4}
        return t.Gemma3TextConfig(**rope, sliding_window=WINDOW, layer_types=kinds, query_pre_attn_scalar=10)
    raise ValueError(family)


@cache
def hf_model(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """The Hugging Face model, eager attention as in the bridge; never handed to a bridge."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(20)
        model = AutoModelForCausalLM.from_config(config(family), attn_implementation="eager", dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "bias" in name:
                    parameter.normal_(0, 0.3)
                elif "norm" in name or "ln_" in name:
                    parameter.normal_(0.2 if family == "gemma3" else 1.0, 0.3)
                else:
                    # Ten times the usual spread: tokens and layers must matter, or every model says the same token.
                    parameter.normal_(0, 0.2)
    model.config.architectures = [type(model).__name__]
    return model.to(dtype).eval()


@cache
def tokenizer() -> Any:
    """Words w3 ... w100; everything else is unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


@cache
def bridge(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """A bridge over a copy of ``hf_model``."""
    import copy

    from interp import load_model

    model = copy.deepcopy(hf_model(family, dtype))
    model.set_attn_implementation("sdpa")  # as transformers would load it; the native twin keeps it
    made = load_model(f"tiny-{family}", hf_model=model, tokenizer=copy.deepcopy(tokenizer()), dtype=dtype, device="cpu")
    return there(made)


def staggering_stops(responses: list[list[int]]) -> list[int]:
    """Two tokens which, as stop ids, end these responses at as many different lengths as possible."""

    def lengths(stops: tuple[int, ...]) -> set[int]:
        return {min((r.index(s) + 1 for s in stops if s in r), default=len(r)) for r in responses}

    candidates = sorted({token for response in responses for token in response})
    best = max(itertools.combinations(candidates, 2), key=lambda stops: len(lengths(stops)))
    assert len(lengths(best)) >= 3, "these responses are too much alike"
    return list(best)


def prompts(count: int = 5, seed: int = 0) -> list[list[int]]:
    """Prompts of different lengths, the shortest longer than gemma3's window in all but one."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [3, 11, 19, 8, 14, 5, 23][:count]
    return [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]


@cache
def pair(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The plain Hugging Face model and a bridge of its own: a family, or ``"toy"`` for the bundled toy-reasoner."""
    if name != "toy":
        return hf_model(name, dtype), bridge(name, dtype)
    from transformers import AutoModelForCausalLM

    from interp import bundled_model_path, load_model

    path = bundled_model_path("toy-reasoner")
    hf = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=dtype).eval()
    return hf, there(load_model("toy-reasoner", device="cpu", dtype=dtype))


def texts(name: str, count: int = 5) -> list[list[int]]:
    """Prompts as token ids, of different lengths: ``prompts`` for a family, bundled problems for ``"toy"``."""
    if name != "toy":
        return prompts(count)
    from analyses.problems import bundled_problems

    tokenizer = pair("toy")[1].tokenizer
    return [tokenizer(problem.question)["input_ids"] for problem in bundled_problems(40)[: 3 * count : 3]]


def load_without_tokenizer(family: str) -> Any:
    """A bridge of its own, to be changed at will, that has no tokenizer."""
    import copy

    from interp import load_model

    model = copy.deepcopy(hf_model(family))
    model.set_attn_implementation("sdpa")
    return there(load_model(f"tiny-{family}", hf_model=model, device="cpu"))


@cache
def lettered_bridge() -> tuple[Any, list[str]]:
    """A tiny llama whose words come in two spellings each, small and capital; and the words."""
    import copy

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from interp import load_model

    words = [f"{a}{b}" for a in "bcdfghj" for b in "aeiouyw"]
    spelled = [*words, *(word.capitalize() for word in words)]
    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {word: 3 + k for k, word in enumerate(spelled)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    hf = copy.deepcopy(hf_model("llama"))
    return there(load_model("lettered", hf_model=hf, tokenizer=tokenizer, device="cpu")), words

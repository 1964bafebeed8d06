"""From text to token ids with tokenizers of many kinds: what they append, what they lack, what they fail over."""

from __future__ import annotations

import copy
from typing import Any

import families as F
import pytest
import torch

from interp import InputError, decode, load_model
from interp.engines.registry import model_facts
from interp.prompts import encode_prompt, encode_text, vocabulary_of


def with_template(single: str, *special: tuple[str, int], **names: str) -> Any:
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(F.tokenizer())
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=list(special))
    for name, token in names.items():
        setattr(tokenizer, name, token)
    return tokenizer


def test_a_prompt_does_not_end_on_an_appended_end() -> None:
    for tokenizer, begin in (
        (with_template("$A <eos>", ("<eos>", 1)), []),
        (with_template("w3 $A <eos> w4", ("w3", 3), ("<eos>", 1), ("w4", 4), bos_token="w3", sep_token="w4"), [3]),
    ):
        assert tokenizer("w9 w7")["input_ids"][-1] in (1, 4), "or there is nothing to leave out"
        model = load_model("x", hf_model=copy.deepcopy(F.hf_model("llama")), tokenizer=tokenizer, device="cpu")
        rollout = decode(model, ["w9 w7"], max_new_tokens=2)[0]
        assert rollout.prompt_ids.tolist() == [*begin, 9, 7]
        # One that the text itself writes is the user's.
        assert encode_text(tokenizer, "w9 <eos>", "decode") == [*begin, 9, 1]
        assert encode_text(tokenizer, "w9 w7", "decode", special=False) == [9, 7]


def test_a_text_that_begins_itself_begins_once() -> None:
    tokenizer = with_template("w3 $A", ("w3", 3), bos_token="w3")
    assert tokenizer("w3 w9")["input_ids"] == [3, 3, 9]
    assert encode_text(tokenizer, "w3 w9", "decode") == [3, 9]
    assert encode_text(tokenizer, "w9 w3", "decode") == [3, 9, 3]
    assert encode_text(tokenizer, "w3 w3 w9", "decode") == [3, 3, 9]


def test_text_that_cannot_be_encoded_is_one_error() -> None:
    model = F.bridge("llama")
    with pytest.raises(InputError, match=r"decode: expected text the tokenizer can encode, received \w+Error"):
        decode(model, ["w5 \ud800"], max_new_tokens=1)


def test_vocabularies_with_holes() -> None:
    """Ids without a token, tokens beyond the count of tokens, a model wider than its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from interp.interventions import SuppressTokens, thinking_token_ids

    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, 90, 2)}, "wait": 95}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    assert len(tokenizer) < 95
    hf = copy.deepcopy(F.hf_model("llama"))
    model = load_model("x", hf_model=hf, tokenizer=tokenizer, device="cpu")
    texts = vocabulary_of(tokenizer, F.VOCAB)
    assert (len(texts), texts[3], texts[4], texts[95], texts[100]) == (F.VOCAB, "w3", "", "wait", "")
    assert thinking_token_ids(model, ["Wait"]) == {"Wait": (95,)}
    prompts = F.prompts(3)
    expected = [
        hf.generate(torch.tensor([p]), attention_mask=torch.ones(1, len(p)), max_new_tokens=12, do_sample=False)[
            0, len(p) :
        ]
        for p in prompts
    ]
    found = decode(model, prompts, max_new_tokens=12, interventions=[SuppressTokens([96])])
    assert [rollout.token_ids.tolist() for rollout in found] == [tokens.tolist() for tokens in expected]
    assert any(token not in words.values() for rollout in found for token in rollout.token_ids.tolist())
    assert all(len(rollout.tokens) == len(rollout.token_ids) for rollout in found)
    assert encode_prompt(tokenizer, [4, 100], model_facts(model)) == [4, 100]


def test_a_tokenizer_that_fails_over_holes_does_not_end_a_run() -> None:
    """Tokenizers written in Python raise over ids they lack."""
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer(extra_ids=0)
    with pytest.raises(ValueError, match="range"):
        tokenizer.decode([F.VOCAB * 3])
    hf = copy.deepcopy(F.hf_model("llama"))
    hf.resize_token_embeddings(F.VOCAB * 4)
    with torch.no_grad():
        hf.lm_head.weight[F.VOCAB :].normal_(0, 0.4)
    model = load_model("x", hf_model=hf, tokenizer=tokenizer, device="cpu")
    rollout = decode(model, ["!!"], max_new_tokens=20, stop=["never"])[0]
    assert any(token > 258 for token in rollout.token_ids.tolist())
    assert len(rollout.tokens) == len(rollout)
    assert len(vocabulary_of(tokenizer, F.VOCAB * 4)) == F.VOCAB * 4


def test_a_tokenizer_that_fails_over_ids_with_texts_is_refused_and_gives_no_empty_text() -> None:
    """It may fail over ids it has no text for, which are left out; not over the others."""
    from interp.foreign import decode_text

    tokenizer = copy.deepcopy(load_model("toy-reasoner", device="cpu").tokenizer)
    kind = type(tokenizer)

    class Breaking(kind):
        def decode(self, token_ids, **options):
            if any(token >= len(self) for token in token_ids) or len(token_ids) > 3:
                raise KeyError("no piece")
            return super().decode(token_ids, **options)

    tokenizer.__class__ = Breaking
    assert decode_text(tokenizer, [6, 35, 4000, 8]) == "2 gives 4"
    with pytest.raises(InputError, match=r"^decode text: expected ids that .*, received KeyError: 'no piece'\. Check"):
        decode_text(tokenizer, [6, 35, 8, 6])

"""What loading has to tell: weights without a place, families that cannot be decoded, foreign errors, process state."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families as F
import pytest
import torch
from safetensors.torch import load_file, save_file

from interp import InputError, decode, load_model
from interp.engines.registry import model_facts
from interp.prompts import encode_prompt, encode_text, vocabulary_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loading") / "tiny"
    F.hf_model("llama").save_pretrained(path)
    F.tokenizer().save_pretrained(path)
    return path


def edited(folder: Path, target: Path, config: dict[str, Any] | None = None, **weights: torch.Tensor) -> Path:
    """A copy with entries of config.json changed and weights added (dots are written ``__``)."""
    shutil.copytree(folder, target)
    if config:
        file = target / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
    if weights:
        file = target / "model.safetensors"
        added = {name.replace("__", "."): tensor for name, tensor in weights.items()}
        save_file(load_file(file) | added, file, metadata={"format": "pt"})
    return target


# Weights without a place

SMALL = torch.ones(2)


@pytest.mark.parametrize(
    ("config", "weights", "said"),
    [
        ({}, {"model__layers__0__mlp__up_proj__bias": SMALL}, "1 unexpected .* model.layers.0.mlp.up_proj.bias"),
        ({}, {"model__layers__1__self_attn__q_norm__weight": SMALL}, "self_attn.q_norm.weight"),
        ({}, {"lm_head__bias": SMALL}, "lm_head.bias"),
        ({"num_hidden_layers": 2}, {}, "9 unexpected weights, .* model.layers.2.input_layernorm.weight, .*, ..."),
        ({}, {"model__layers__0__self_attn__q_proj__weight_scale": SMALL}, "weight_scale"),
        ({}, {"layers__0__self_attn__q_proj__bias": SMALL}, "layers.0.self_attn.q_proj.bias"),
    ],
)
def test_weights_that_would_be_dropped_are_refused(
    folder: Path, tmp_path: Path, config: dict[str, Any], weights: dict[str, torch.Tensor], said: str
) -> None:
    with pytest.raises(InputError, match=rf"place for every weight of the files, received .*{said}"):
        load_model(edited(folder, tmp_path / "m", config, **weights), tokenizer=None)


@pytest.mark.parametrize(
    "name",
    [
        "model__layers__0__self_attn__rotary_emb__inv_freq", "model__vision_tower__blocks__0__weight",
        "visual__merger__weight", "multi_modal_projector__weight", "model__layers__0__self_attn__k_scale",
        "mtp__fc__weight",
    ],
)  # fmt: skip
def test_leftovers_that_change_nothing_are_no_alarm(folder: Path, tmp_path: Path, name: str) -> None:
    model = load_model(edited(folder, tmp_path / "m", **{name: SMALL}), tokenizer=None, device="cpu")
    assert decode(model, [[5, 6]], max_new_tokens=2)


def test_a_head_for_something_else_is_told_by_a_warning(folder: Path, tmp_path: Path) -> None:
    path = edited(folder, tmp_path / "m", v_head__summary__weight=SMALL, score__weight=SMALL + 1)
    with pytest.warns(UserWarning, match=r"2 unexpected weights .* score.weight, v_head.summary.weight"):
        load_model(path, tokenizer=None)


def test_tied_weights_stored_twice_are_one(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(F.config("llama"))
    config.tie_word_embeddings = True
    hf = AutoModelForCausalLM.from_config(config)
    hf.save_pretrained(tmp_path / "tied")
    path = edited(tmp_path / "tied", tmp_path / "m", lm_head__weight=hf.lm_head.weight.detach().clone())
    loaded = load_model(path, tokenizer=None).original_model
    assert torch.equal(loaded.get_output_embeddings().weight, hf.lm_head.weight)


def test_layers_that_were_asked_away_are_no_alarm_and_others_are(folder: Path, tmp_path: Path) -> None:
    shorter = {"num_hidden_layers": 2}
    assert load_model(folder, tokenizer=None, hf_config_overrides=shorter).cfg.n_layers == 2
    path = edited(folder, tmp_path / "m", model__layers__0__mlp__up_proj__bias=SMALL)
    with pytest.raises(InputError, match="1 unexpected"):
        load_model(path, tokenizer=None, hf_config_overrides=shorter)


def test_missing_weights_stay_refused(folder: Path, tmp_path: Path) -> None:
    path = edited(folder, tmp_path / "m")
    weights = load_file(path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 missing or of another shape, first model.norm.weight"):
        load_model(path, tokenizer=None)


# Families

DECODED = ("gemma2", "phi3", "mixtral", "gpt_oss", "gpt_neo", "opt", "deepseek_v3", "cohere2", "qwen2_moe")
REFUSED = {
    "bloom": "alibi", "mpt": "alibi", "falcon": "alibi", "mamba": "recurrent or state-space",
    "qwen3_next": "recurrent or state-space", "llama4_text": "chunked_attention",
    "openai-gpt": "does not decode here", "bert": "no causal language model", "t5": "an encoder and a decoder",
}  # fmt: skip
SIZES = {
    "vocab_size": F.VOCAB, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 128, "tie_word_embeddings": False, **F.PAD_EOS,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "gemma2": {"sliding_window": 5, "query_pre_attn_scalar": 12},
    "mixtral": {"num_local_experts": 4},
    "gpt_oss": {"num_local_experts": 4, "sliding_window": 5},
    "gpt_neo": {"attention_types": [[["global", "local"], 1], [["global"], 1]], "window_size": 5, "num_layers": 3},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 48},
    "deepseek_v3": {
        "num_key_value_heads": 4, "head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1, "q_lora_rank": 16,
        "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12,
    },
    "cohere2": {"sliding_window": 5},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "falcon": {"alibi": True},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 48, "n_heads": 4, "n_layers": 2},
    "llama4_text": {"num_local_experts": 4, "intermediate_size_mlp": 64},
    "t5": {"d_model": 48, "d_ff": 64, "num_layers": 2, "d_kv": 12, "num_heads": 4},
}  # fmt: skip


def tiny(kind: str) -> Any:
    """A random model of a family, its weights spread far enough to say something."""
    import transformers as t

    settings = {**SIZES, **OWN.get(kind, {})}
    plain = t.AutoConfig.for_model(kind)
    computed = {
        name for base in type(plain).__mro__ for name, value in vars(base).items() if isinstance(value, property)
    }
    known = {name: value for name, value in settings.items() if hasattr(plain, name) and name not in computed}
    config = t.AutoConfig.for_model(kind, **known)
    auto = t.AutoModelForSeq2SeqLM if kind == "t5" else t.AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = auto.from_config(config, attn_implementation="eager")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return model.eval()


@pytest.mark.parametrize("kind", DECODED)
def test_other_families_decode_as_hugging_face(kind: str) -> None:
    hf = tiny(kind)
    prompts = F.prompts(4)
    ids = [torch.tensor([prompt]) for prompt in prompts]
    expected = [
        hf.generate(one, attention_mask=torch.ones_like(one), max_new_tokens=9, do_sample=False)[0, one.shape[1] :]
        for one in ids
    ]
    found = decode(load_model(kind, hf_model=hf, device="cpu"), prompts, max_new_tokens=9)
    assert [rollout.token_ids.tolist() for rollout in found] == [tokens.tolist() for tokens in expected]


@pytest.mark.parametrize("kind", REFUSED)
def test_families_that_cannot_be_decoded_are_refused_at_load(kind: str, tmp_path: Path) -> None:
    hf = tiny(kind)
    hf.save_pretrained(tmp_path / "m")
    with pytest.raises(
        InputError, match=rf"load mine: expected a decoder-only .* received .*{REFUSED[kind]}"
    ) as raised:
        load_model("mine", hf_model=hf, device="cpu")
    assert type(hf).__name__ in str(raised.value)
    with pytest.raises(InputError, match=rf"received .*{REFUSED[kind]}"):
        load_model(tmp_path / "m", tokenizer=None, device="cpu")


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(InputError, match="expected hf_model as a loaded Hugging Face model, received str"):
        load_model("x", hf_model="gpt2")
    with pytest.raises(InputError, match=r"received LlamaModel .*no causal language model"):
        load_model("x", hf_model=F.hf_model("llama").model)


def test_a_config_that_does_not_say_its_architecture_is_left_as_it_is() -> None:
    hf = copy.deepcopy(F.hf_model("qwen3"))
    hf.config.architectures = None
    before = hf.config.to_dict()
    model = load_model("mine", hf_model=hf, device="cpu")
    assert decode(model, [[5, 6]], max_new_tokens=3)[0].token_ids.tolist()
    assert hf.config.to_dict() == before


def test_nothing_is_installed_for_a_model_that_also_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """TransformerLens would run pip for an image processor; the text part decodes as Hugging Face's."""
    import transformers as t

    def no(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"a process was started: {args}")

    monkeypatch.setattr(subprocess, "Popen", no)
    text = F.config("gemma3").to_dict()
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
    }
    config = t.Gemma3Config(text_config=text, vision_config={**vision, "patch_size": 14}, mm_tokens_per_image=4)
    hf = t.Gemma3ForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    hf.generation_config.eos_token_id = None
    prompt = torch.tensor([F.prompts(2)[1]])
    expected = hf.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False)
    model = load_model("sees", hf_model=hf, device="cpu")
    assert decode(model, [prompt[0]], max_new_tokens=5)[0].token_ids.tolist() == expected[0, prompt.shape[1] :].tolist()


# The context

ROPES: dict[str, dict[str, Any]] = {
    "longrope": {"short_factor": [1.0] * 5, "long_factor": [4.0] * 5, "original_max_position_embeddings": 64},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
    "dynamic": {"factor": 2.0},
    "llama3": {
        "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64
    },
    "linear": {"factor": 2.0},
}  # fmt: skip


@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("n_ctx", [48, 64, 300])
def test_n_ctx_limits_texts_and_leaves_the_rope(tmp_path: Path, kind: str, n_ctx: int) -> None:
    import transformers as t

    config = copy.deepcopy(F.config("llama"))
    config.max_position_embeddings = 256
    config.rope_parameters = {"rope_type": kind, "rope_theta": 10000.0, **ROPES[kind]}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        hf = t.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    hf.save_pretrained(tmp_path / "m")
    if n_ctx > 256:
        with pytest.warns(UserWarning, match="n_ctx 300 is more than the 256 it was trained for"):
            model = load_model(tmp_path / "m", tokenizer=None, device="cpu", n_ctx=n_ctx)
    else:
        model = load_model(tmp_path / "m", tokenizer=None, device="cpu", n_ctx=n_ctx)
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids), hf(ids).logits, atol=1e-5, rtol=1e-4)
    assert (model.cfg.n_ctx, model_facts(model).n_ctx) == (n_ctx, n_ctx)
    assert model.original_model.config.max_position_embeddings == 256
    with pytest.raises(InputError, match=rf"at most {n_ctx} positions"):
        decode(model, [list(range(3, 43))], max_new_tokens=n_ctx - 39)


def test_n_ctx_beyond_a_table_of_positions_is_refused(tmp_path: Path) -> None:
    F.hf_model("gpt2").save_pretrained(tmp_path / "m")
    with pytest.raises(InputError, match="expected n_ctx of at most 512, the positions this model has a table of"):
        load_model(tmp_path / "m", tokenizer=None, n_ctx=513)
    assert model_facts(load_model(tmp_path / "m", tokenizer=None, n_ctx=40)).n_ctx == 40


# The process

STATE = """
import os, random, warnings, torch, numpy
from transformers.utils import logging
logging.{setting}()
def state():
    return (logging.get_verbosity(), [str(f) for f in warnings.filters], dict(os.environ), torch.get_default_dtype(),
            torch.is_grad_enabled(), torch.get_rng_state().tolist(), random.getstate(), str(numpy.random.get_state()),
            logging.is_progress_bar_enabled(), torch.get_num_threads(), os.getcwd())
import datasets, tokenizers  # which set up logging and filters of their own
before = state()
from interp import decode, load_model
decode(load_model("toy-reasoner"), ["6 A * 3 B - 8 ? ->"], max_new_tokens=3, temperature=1.0)
for one, (old, new) in enumerate(zip(before, state())):
    assert old == new, (one, old, new)
"""


@pytest.mark.parametrize("setting", ["set_verbosity_info", "set_verbosity_warning"])
def test_loading_leaves_the_process_as_it_was(setting: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STATE.replace("{setting}", setting)],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr[-2000:]


# Foreign errors

LONG = "x" * 5000


def broken_json(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


def changed_json(folder: Path, name: str, **changes: Any) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


BREAKS: dict[str, Callable[[Path], None]] = {
    "strict type": lambda f: changed_json(f, "config.json", hidden_size="wide"),
    "strict, long": lambda f: changed_json(f, "config.json", hidden_size=LONG),
    "heads do not divide": lambda f: changed_json(f, "config.json", num_attention_heads=7, head_dim=None),
    "unknown activation": lambda f: changed_json(f, "config.json", hidden_act=LONG),
    "unknown rope": lambda f: changed_json(f, "config.json", rope_parameters={"rope_type": "twisted"}),
    "unknown type": lambda f: changed_json(f, "config.json", model_type=LONG),
    "no object": lambda f: broken_json(f, "config.json", "[1]"),
    "cut": lambda f: broken_json(f, "config.json", "{"),
    "no text": lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"),
    "generation cut": lambda f: broken_json(f, "generation_config.json", '{"eos_token_id": '),
    "generation wrong": lambda f: changed_json(f, "generation_config.json", cache_implementation=LONG),
    "weights cut": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:900]),
    "weights empty": lambda f: (f / "model.safetensors").write_bytes(b""),
    "index without shards": lambda f: (
        broken_json(f, "model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": {"a": "b"}})),
        (f / "model.safetensors").unlink(),
        (f / "other.safetensors").touch(),
    )[0],
    "tokenizer cut": lambda f: broken_json(f, "tokenizer.json", '{"version": "1.0", "model": '),
    "tokenizer of another version": lambda f: changed_json(f, "tokenizer.json", pre_tokenizer={"type": "Later"}),
    "tokenizer settings": lambda f: broken_json(f, "tokenizer_config.json", "[]"),
    "tokenizer class": lambda f: changed_json(f, "tokenizer_config.json", tokenizer_class=7),
}  # fmt: skip


@pytest.mark.parametrize("kind", BREAKS)
def test_broken_files_are_one_short_error(folder: Path, tmp_path: Path, kind: str) -> None:
    path = edited(folder, tmp_path / "m")
    BREAKS[kind](path)
    with pytest.raises(InputError, match=r"^load ") as raised:
        load_model(path, device="cpu")
    assert len(raised.value.received) <= 430
    assert "\n" not in str(raised.value)


def test_names_no_disk_takes_are_one_error() -> None:
    for name in ("m" * 5000, "a\0b", "m/" * 3000):
        with pytest.raises(InputError, match=r"^load"):
            load_model(name)


# Tokenizers


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

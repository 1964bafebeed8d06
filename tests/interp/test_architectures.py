"""Which families are decoded, as Hugging Face does, and which are refused at load, and why."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import families as F
import pytest
import torch

from interp import InputError, Intervention, ResidualSites, Site, decode, load_model
from interp.interventions import HeadAblate, MaskAttention

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
    "granite": {"residual_multiplier": 0.22},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "qwen3_next": {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
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


@pytest.mark.parametrize("kind", ["granite", "olmo2", "gpt_neox"])
def test_what_blocks_add_is_what_is_added(kind: str) -> None:
    """Scaled before the sum, normalised before it, attention and MLP side by side; recorded and edited alike."""

    class Double(Intervention):
        edits = (Site("attn_out", 1), Site("mlp_out", 0))

        def edit_residual(self, site: Site, residual: torch.Tensor, at: Any) -> torch.Tensor:
            return 2 * residual + 1

    model = load_model(kind, hf_model=tiny(kind).double(), device="cpu")
    sites = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    record, plain = ResidualSites(sites=sites), None
    for interventions in ((), (Double(),)):
        (rollout,) = decode(model, F.prompts(1), max_new_tokens=2, record=record, interventions=interventions)
        pre, attention, mlp, post = (rollout.residuals[site] for site in sites)
        torch.testing.assert_close(pre + attention + mlp, post)
        if plain is not None:
            torch.testing.assert_close(mlp[0, 0], 2 * plain[0, 0] + 1)
        plain = mlp
    # Without any head what is left is the bias, where a family has one
    (bare,) = decode(
        model, F.prompts(1), max_new_tokens=2, record=record, interventions=HeadAblate([(1, head) for head in range(4)])
    )  # fmt: skip
    assert torch.equal(bare.residuals["attn_out"][1, 0], bare.residuals["attn_out"][1, 1])


@pytest.mark.parametrize(
    ("kind", "intervention", "why"),
    [
        (
            "gpt_neo",
            MaskAttention((0, 1), of="prompt"),
            "gpt_neo, whose attention is computed by Hugging Face's own code",
        ),
        ("deepseek_v3", HeadAblate((1, 0)), "deepseek_v3, whose heads share compressed keys and values"),
    ],
)
def test_heads_that_are_not_where_hooks_are_are_refused_by_name(kind: str, intervention: Any, why: str) -> None:
    model = load_model(kind, hf_model=tiny(kind), device="cpu")
    with pytest.raises(InputError, match=f"attach to .*: expected a model whose blocks .*received {why}"):
        decode(model, F.prompts(1), max_new_tokens=1, interventions=intervention)


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

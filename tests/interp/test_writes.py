"""What each component wrote, against hooks on plain Hugging Face models, and the refusals."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import families as F
import pytest
import torch

from interp import InputError, Intervention, Site, load_model
from interp.writes import Component, Writes, read_writes, readout_of

BASE = {"vocab_size": F.VOCAB, "tie_word_embeddings": False, **F.PAD_EOS}
ROPE = {
    **BASE, "hidden_size": 40, "intermediate_size": 53, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
SMALL = {**BASE, "n_embd": 40, "n_layer": 3, "n_head": 4, "n_positions": 128}
NEOX = {key: value for key, value in ROPE.items() if key != "num_key_value_heads"}

# Beside those of the other tests: parallel blocks, an MLP that is no module, scaled blocks and logits, tied embeddings,
# a final norm without weights.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gptj": ("GPTJConfig", {**SMALL, "rotary_dim": 4}),
    "neox": ("GPTNeoXConfig", NEOX),
    "opt": ("OPTConfig", {
        **BASE, "hidden_size": 40, "ffn_dim": 53, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 128, "word_embed_proj_dim": 40, "tie_word_embeddings": True,
    }),
    "granite": ("GraniteConfig", {
        **ROPE, "residual_multiplier": 0.3, "embedding_multiplier": 3.0, "logits_scaling": 4.0,
        "tie_word_embeddings": True,
    }),
    "olmo": ("OlmoConfig", ROPE),
    "gemma2": ("Gemma2Config", {**ROPE, "head_dim": 10}),
    "olmo2": ("Olmo2Config", ROPE),
}  # fmt: skip
PRE_NORM = ("llama", "qwen2", "qwen3", "gpt2", "gptj", "neox", "opt", "granite", "olmo")
PROMPTS = [[5, 9, 77, 3, 41, 8, 20], [60, 7], [33, 4, 18]]
RESPONSES = [[12, 50, 99], [44, 45, 46, 47, 48, 49], [6]]
PLACES: list[list[list[int]]] = [[[0], [2]], [[5], [0, 1, 4], [3]], [[0]]]

# Where each family keeps its blocks, and in them the heads' output projection and what the MLP adds.
PARTS = {
    "gpt2": ("transformer.h", "attn.c_proj", "mlp"),
    "gptj": ("transformer.h", "attn.out_proj", "mlp"),
    "neox": ("gpt_neox.layers", "attention.dense", "mlp"),
    "opt": ("model.decoder.layers", "self_attn.out_proj", "fc2"),
}
USUAL = ("model.layers", "self_attn.o_proj", "mlp")


@cache
def hf_model(family: str) -> Any:
    if family in F.FAMILIES:
        return F.hf_model(family)
    import transformers

    kind, options = OTHERS[family]
    config = getattr(transformers, kind)(**options)
    with torch.random.fork_rng():
        torch.manual_seed(21)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.normal_(float("norm" in name or "ln_" in name) * ("bias" not in name), 0.3)
    return model


@cache
def bridge(family: str) -> Any:
    if family in F.FAMILIES:
        return F.bridge(family)
    return load_model(f"tiny-{family}", hf_model=copy.deepcopy(hf_model(family)), device="cpu")


@cache
def read(family: str) -> list[Writes]:
    return read_writes(bridge(family), PROMPTS, RESPONSES, PLACES)


@torch.no_grad()
def literal(family: str, prompt: list[int], response: list[int]) -> tuple[dict[Component, torch.Tensor], Any]:
    """The writes at all steps: every head by running the output projection on its own ``z`` alone; and the pass."""
    model, (blocks, output, mlp) = hf_model(family), PARTS.get(family, USUAL)
    seen: dict[Any, torch.Tensor] = {}
    handles = []
    for layer, block in enumerate(model.get_submodule(blocks)):
        handles += [
            block.get_submodule(output).register_forward_pre_hook(
                lambda _m, args, layer=layer: seen.update({("z", layer): args[0][0]})
            ),
            block.get_submodule(mlp).register_forward_hook(
                lambda _m, _a, out, layer=layer: seen.update({("mlp", layer): out.reshape(-1, out.shape[-1])})
            ),
        ]
    try:
        outputs = model(torch.tensor([prompt + response[:-1]]), output_hidden_states=True)
    finally:
        for handle in handles:
            handle.remove()
    steps = slice(len(prompt) - 1, None)
    factor = 0.3 if family == "granite" else 1.0
    found = {}
    for layer, block in enumerate(model.get_submodule(blocks)):
        project, z = block.get_submodule(output), seen["z", layer][steps]
        nothing = project(torch.zeros_like(z))
        for head in range(4):
            alone = torch.zeros_like(z)
            width = z.shape[-1] // 4
            alone[:, head * width : (head + 1) * width] = z[:, head * width : (head + 1) * width]
            found[Component("head", layer, head)] = factor * (project(alone) - nothing)
        if nothing.abs().max() > 0:
            found[Component("attn_bias", layer)] = factor * nothing
        found[Component("mlp", layer)] = factor * seen["mlp", layer][steps]
    return found, outputs


@pytest.mark.parametrize("family", PRE_NORM)
def test_writes_are_those_of_plain_hugging_face(family: str) -> None:
    for n, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        writes = read(family)[n]
        expected, outputs = literal(family, prompt, response)
        names = {"embed", "pos_embed"} if family in ("gpt2", "opt") else {"embed"}
        assert {c.label for c in writes.components} == names | {c.label for c in expected}
        states = [state[0, len(prompt) - 1 :] for state in outputs.hidden_states]
        for place, group in enumerate(writes.places):
            for component, value in expected.items():
                torch.testing.assert_close(writes[component][place], value[list(group)].mean(0), atol=2e-5, rtol=1e-5)
            entered = states[0][list(group)].mean(0)
            torch.testing.assert_close(writes.embedded[place], entered, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(writes.upto(-1).values[:, place].sum(0), entered, atol=1e-5, rtol=1e-5)
            for layer in range(2):  # the last state that Hugging Face gives is behind the final norm
                stream = states[layer + 1][list(group)].mean(0)
                torch.testing.assert_close(writes.stream[layer, place], stream, atol=2e-5, rtol=1e-5)
                torch.testing.assert_close(writes.upto(layer).values[:, place].sum(0), stream, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(writes.last_logits, outputs.logits[0, -1], atol=1e-4, rtol=1e-5)
        assert writes.error < 5e-7


def test_positions_are_the_embedding_of_plain_hugging_face() -> None:
    model, writes = hf_model("gpt2"), read("gpt2")[1]
    positions = model.transformer.wpe.weight[torch.tensor([1, 2, 5]) + 0]
    torch.testing.assert_close(writes[Component("pos_embed")][1], positions.mean(0))
    tokens = model.transformer.wte.weight[torch.tensor([7, 44, 47])]
    torch.testing.assert_close(writes[Component("embed")][1], tokens.mean(0))


@pytest.mark.parametrize("family", [*PRE_NORM, "toy"])
def test_logits_are_read_off_the_stream(family: str) -> None:
    if family == "toy":
        hf, model = F.pair("toy")
        prompt, response = F.texts("toy", 1)[0], [9, 11, 5]
        writes = read_writes(model, prompt, response, [[0], [1]])
    else:
        hf, model, writes = hf_model(family), bridge(family), read(family)[0]
        prompt, response = PROMPTS[0], RESPONSES[0]
    readout = readout_of(model)
    assert readout.check(writes.last_stream, writes.last_logits) < 1e-6
    with torch.no_grad():
        logits = hf(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 :]
    for place, (step,) in enumerate(writes.places):
        ours = readout.logits(writes.stream[-1, place])
        torch.testing.assert_close(ours, logits[step], atol=2e-5, rtol=1e-5)
        ids = torch.tensor([7, 100 if family != "toy" else 40])
        shares = writes.values[:, place].double() @ readout.directions(ids).double().T / writes.scale[place].double()
        whole = shares.sum(0) + readout.norm_bias(ids) + readout.unembed_bias(ids)
        torch.testing.assert_close(whole.float(), logits[step, ids], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gemma3", "gemma2", "olmo2"])
def test_norms_after_attention_are_refused_by_name(family: str) -> None:
    with pytest.raises(InputError, match=rf"tiny-{family} \(\w+ForCausalLM\), whose block 0 adds what differs by"):
        read(family)


def test_one_response_alone_and_steps_as_numbers() -> None:
    writes = read_writes(bridge("llama"), PROMPTS[1], RESPONSES[1], [5, [0, 1, 4], 3])
    assert isinstance(writes, Writes)
    torch.testing.assert_close(writes.values, read("llama")[1].values, atol=1e-6, rtol=1e-5)
    assert writes.places == ((5,), (0, 1, 4), (3,))
    assert writes.token_ids.tolist() == RESPONSES[1]
    assert [component for component, _ in writes] == list(writes.components)
    assert read_writes(bridge("llama"), [], [], []) == []
    assert read_writes(bridge("llama"), PROMPTS[1], RESPONSES[1], []).values.shape == (16, 0, 44)


def test_bfloat16_is_told_and_kept_in_float32() -> None:
    writes = read_writes(F.bridge("qwen2", torch.bfloat16), PROMPTS, RESPONSES, PLACES)
    exact = read("qwen2")
    for low, high in zip(writes, exact, strict=True):
        assert low.values.dtype == torch.float32
        assert 1e-4 < low.error < 2e-2
        assert (low.values - high.values).norm() < 0.05 * high.values.norm()
    readout = readout_of(F.bridge("qwen2", torch.bfloat16))
    assert 0 < readout.check(writes[0].last_stream, writes[0].last_logits) < 2e-2


class _Adding(Intervention):
    def __init__(self, site: Site) -> None:
        self.edits = (site,)

    def edit_residual(self, site: Any, residual: Any, at: Any) -> Any:
        return residual + 1


@pytest.mark.parametrize("site", [Site("resid_post", 1), Site("resid_mid", 0)])
def test_an_edit_of_the_stream_is_no_components_write(site: Site) -> None:
    with pytest.raises(InputError, match=rf"block {site.layer} adds .* hooks or interventions that edit the residual"):
        read_writes(bridge("llama"), PROMPTS, RESPONSES, PLACES, interventions=_Adding(site))


def test_hooks_on_heads_and_mlps_are_part_of_their_writes() -> None:
    def silence(z: torch.Tensor, hook: Any) -> torch.Tensor:
        z = z.clone()
        z[:, :, 2] = 0
        return z

    model = bridge("llama")
    with model.hooks(
        fwd_hooks=[("blocks.1.attn.o.hook_in", silence), ("blocks.2.mlp.hook_out", lambda t, hook: 2 * t)]
    ):
        writes = read_writes(model, PROMPTS[0], RESPONSES[0], [[2]])
    assert writes[Component("head", 1, 2)].abs().max() == 0
    assert writes[Component("head", 1, 1)].abs().max() > 0.1
    torch.testing.assert_close(writes.values.sum(0), writes.stream[-1], atol=1e-5, rtol=1e-5)


def test_bad_input_is_one_clear_error() -> None:
    model = bridge("llama")
    for places, said in (
        ([[3]], r"places as groups of steps from 0 to 2, received \[3\]. The response has 3 tokens"),
        ([[-1]], r"groups of steps from 0 to 2, received \[-1\]"),
        ([[0], []], r"groups of steps from 0 to 2, received \[\]"),
        ([["a"]], r"a place's steps as whole numbers"),
        (None, r"places as a list of groups of steps"),
    ):
        with pytest.raises(InputError, match=said):
            read_writes(model, PROMPTS[0], RESPONSES[0], places)
    with pytest.raises(InputError, match="expected 3 lists of places, one a response, received 1"):
        read_writes(model, PROMPTS, RESPONSES, [[[0]]])
    with pytest.raises(InputError, match="expected a layer from 0 to 2, or -1 for the embedding, received 3"):
        read("llama")[0].upto(3)
    with pytest.raises(InputError, match="expected one of 16 components, embed to L2 MLP, received L0 b_O"):
        read("llama")[0][Component("attn_bias", 0)]
    for wrong in (("heads", 0, 1), ("head", 0), ("mlp",), ("embed", 1), ("mlp", 0, 1)):
        with pytest.raises(InputError, match="name a component"):
            Component(*wrong)


def test_too_much_is_refused_before_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10_000}))
    with pytest.raises(InputError, match=r"read writes: expected at most the .* GB free on cpu"):
        read_writes(bridge("llama"), PROMPTS, RESPONSES, PLACES)


def test_a_hook_behind_the_stream_is_seen() -> None:
    model = bridge("llama")
    with model.hooks(fwd_hooks=[("unembed.hook_out", lambda logits, hook: logits * 1.5)]):
        writes = read_writes(model, PROMPTS[0], RESPONSES[0], [[2]])
    with pytest.raises(InputError, match=r"read logits off the stream: .* whose logits differ by"):
        readout_of(model).check(writes.last_stream, writes.last_logits)

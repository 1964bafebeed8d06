"""The native twin: when it runs a model, when the bridge does, and that nothing a user did to a model is lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import families as F
import pytest
import torch

from interp import InputError, Intervention, ResidualSites, Site, decode, encode, load_model
from interp.engines.native import native_of
from interp.engines.registry import engine_for, engine_told, only_engine
from interp.interventions import MaskAttention


@pytest.mark.parametrize("name", [*F.FAMILIES, "toy"])
def test_who_runs_which_family(name: str) -> None:
    """All families but GPT-2, whose queries, keys and values TransformerLens computes with copies of its weights."""
    model = F.pair(name)[1]
    told = engine_told(model)
    if name == "gpt2":
        assert told.startswith(
            "bridge (not the twin: TransformerLens computes with copies of its weights (transformer.h"
        )
    else:
        assert told == "twin (sdpa)"
        native = native_of(model)
        bridge = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        assert {id(tensor) for tensor in (*native.model.parameters(), *native.model.buffers())} <= bridge
    rollout = decode(model, F.texts(name, 1), max_new_tokens=1, generation_config=False)[0]
    assert rollout.settings["engine"] == told.partition(" (not")[0]


def test_what_the_twin_does_not_show_is_the_bridges() -> None:
    model = F.bridge("llama")
    told = "bridge (not the twin: Hugging Face's forward does not show attn_scores)"
    assert engine_told(model, [Site("z", 1)]) == "twin (sdpa)"
    assert engine_told(model, [Site("z", 1), Site("attn_scores", 0)]) == told
    assert engine_told(model, modules=True).startswith("bridge (not the twin: TransformerLens's own modules")
    blind = decode(model, F.prompts(1), max_new_tokens=2, interventions=MaskAttention((0, 2), of="prompt"))[0]
    assert blind.settings["engine"] == "bridge"


def zero(value: torch.Tensor, hook: Any) -> torch.Tensor:
    return value * 0 + 1


def at_hook_point(model: Any) -> Callable[[], None]:
    model.add_hook("blocks.1.hook_out", zero)
    return model.reset_hooks


def for_good(model: Any) -> Callable[[], None]:
    model.add_hook("blocks.1.mlp.hook_out", zero, is_permanent=True)
    return lambda: model.reset_hooks(including_permanent=True)


def on_a_wrapped_module(model: Any) -> Callable[[], None]:
    mlp = model.original_model.model.layers[1].mlp._original_component
    return mlp.register_forward_hook(lambda _m, _a, out: out * 0).remove


def on_a_bridges_module(model: Any) -> Callable[[], None]:
    return model.blocks[1].attn.register_forward_hook(lambda _m, _a, out: (out[0] * 0, *out[1:])).remove


def on_all_modules(model: Any) -> Callable[[], None]:
    norm = model.ln_final.original_component
    hook = torch.nn.modules.module.register_module_forward_hook
    return hook(lambda module, _a, out: out * 0 + 1 if module is norm else None).remove


def another_forward(model: Any) -> Callable[[], None]:
    mlp = model.blocks[1].mlp.original_component
    mlp.forward = lambda x: x * 0
    return lambda: mlp.__dict__.pop("forward")


def another_module(model: Any) -> Callable[[], None]:
    mlp = model.blocks[1].mlp.original_component
    before, mlp.act_fn = mlp.act_fn, torch.nn.Tanh()
    return lambda: setattr(mlp, "act_fn", before)


def another_setting(model: Any) -> Callable[[], None]:
    norm = model.ln_final.original_component
    before, norm.variance_epsilon = norm.variance_epsilon, 3.0
    return lambda: setattr(norm, "variance_epsilon", before)


DONE = {
    at_hook_point: "it has a hook of yours on blocks.1.hook_out",
    for_good: "it has a hook of yours on blocks.1.mlp.hook_out",
    on_a_wrapped_module: "it has a hook of yours on blocks.1.mlp.original_component",
    on_a_bridges_module: "it has a hook of yours on blocks.1.attn",
    on_all_modules: "there are hooks of yours on all modules",
    another_forward: "it has a hook of yours on blocks.1.mlp.original_component",
    another_module: "modules of it have been replaced or added",
    another_setting: "settings of it have been changed",
}


@pytest.mark.parametrize("do", DONE, ids=lambda do: do.__name__)
def test_what_a_user_does_to_a_model_acts(do: Callable[[Any], Callable[[], None]]) -> None:
    model, record = F.bridge("llama"), ResidualSites(sites=("resid_post", "ln_final"))
    plain = decode(model, F.prompts(2), max_new_tokens=3, record=record)
    undo = do(model)
    try:
        assert engine_told(model) == f"bridge (not the twin: {DONE[do]})"
        done = decode(model, F.prompts(2), max_new_tokens=3, record=record)
        with (
            only_engine("twin"),
            pytest.raises(InputError, match="expected one that runs on the twin, received tiny-l"),
        ):
            decode(model, F.prompts(1), max_new_tokens=1)
    finally:
        undo()
    assert engine_told(model) == "twin (sdpa)"
    for before, after in zip(plain, done, strict=True):
        assert not torch.allclose(before.residuals["ln_final"], after.residuals["ln_final"], atol=1e-2)
    again = decode(model, F.prompts(2), max_new_tokens=3, record=record)
    assert all(torch.equal(a.logprobs, b.logprobs) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("how", ["compatibility", "processing"])
def test_a_processed_model_is_the_bridges(how: str) -> None:
    model = F.load_without_tokenizer("llama")
    if how == "compatibility":
        model.enable_compatibility_mode(no_processing=True)
        assert engine_told(model) == "bridge (not the twin: TransformerLens's compatibility mode is on)"
    else:
        model.process_weights(fold_ln=True)
        assert engine_told(model) == "bridge (not the twin: its weights have been processed)"
    assert len(decode(model, F.prompts(1), max_new_tokens=2)[0]) == 2


class HookAt(Intervention):
    """Puts a hook on the model in the middle of decoding."""

    def __init__(self, model: Any, step: int) -> None:
        self._model, self._step, self._calls = model, step, []

    def after_choice(self, step: Any) -> None:
        if step.t == self._step:
            self._model.blocks[1].hook_out.add_hook(self.act)

    def act(self, value: torch.Tensor, hook: Any) -> torch.Tensor:
        self._calls.append(value.shape[1])
        return value * 0 + 1


def test_a_hook_that_comes_in_the_middle_of_decoding_fires_from_then_on() -> None:
    """As it does on the bridge, which then goes on with the twin's keys and values, sites and all."""
    model, record = F.bridge("gemma3"), ResidualSites(sites=("resid_post", "z"))
    found = {}
    for engine in ("bridge", "twin"):
        hook = HookAt(model, 2)
        try:
            with only_engine(engine):
                found[engine] = decode(model, F.prompts(3), max_new_tokens=6, record=record, interventions=[hook])
        finally:
            model.reset_hooks()
        assert hook._calls == [1, 1, 1]
    assert found["twin"][0].settings["engine"] == "twin (sdpa), then bridge"
    for one, other in zip(*found.values(), strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        for site, values in one.residuals.items():
            torch.testing.assert_close(values, other.residuals[site], atol=1e-3, rtol=1e-3)
    plain = decode(model, F.prompts(3), max_new_tokens=6)
    assert any(a.token_ids.tolist() != b.token_ids.tolist() for a, b in zip(plain, found["twin"], strict=True))


def test_changed_weights_are_the_twins_too() -> None:
    """Written to, set anew, or cast: what the bridge's modules hold is what runs."""
    model = F.load_without_tokenizer("qwen3")
    layer, ids = model.original_model.model.layers[1], F.prompts(1)
    plain = encode(model, ids)[0].residuals["resid_post"]

    def compared() -> torch.Tensor:
        assert engine_told(model) == "twin (sdpa)"
        twin = encode(model, ids)[0].residuals["resid_post"]
        with only_engine("bridge"):
            torch.testing.assert_close(twin, encode(model, ids)[0].residuals["resid_post"], atol=1e-4, rtol=1e-4)
        return twin

    with torch.no_grad():
        layer.mlp.down_proj._original_component.weight.mul_(2.0)
    written = compared()
    assert not torch.allclose(written, plain, atol=1e-2)
    values = layer.self_attn.v_proj._original_component
    values.weight = torch.nn.Parameter(values.weight.detach() * 3.0)
    assert not torch.allclose(compared(), written, atol=1e-2)
    model.unembed.original_component.bias[7] = 100.0
    assert decode(model, ids, max_new_tokens=1)[0].token_ids.tolist() == [7]
    model.to(torch.float64)
    assert compared().dtype == torch.float64


def test_a_copy_of_a_model_has_a_twin_of_its_own() -> None:
    model = F.load_without_tokenizer("llama")
    twin = copy.deepcopy(model)
    assert native_of(twin).model is not native_of(model).model
    with torch.no_grad():
        twin.blocks[1].mlp.original_component.down_proj._original_component.weight.zero_()
    one, other = (encode(some, F.prompts(1))[0].residuals["resid_post"] for some in (model, twin))
    assert engine_told(twin) == "twin (sdpa)"
    assert torch.equal(one[0], other[0])
    assert not torch.allclose(one[1], other[1], atol=1e-2)


def masks_of(model: Any, act: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    from torch.nn import functional

    plain, masks = functional.scaled_dot_product_attention, []

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
        masks.append(kwargs.get("attn_mask"))
        return plain(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(functional, "scaled_dot_product_attention", watched)
        act()
    return masks


def test_no_mask_where_none_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = F.bridge("llama")
    alone = masks_of(model, lambda: decode(model, F.prompts(1), max_new_tokens=4), monkeypatch)
    assert alone == [None] * 3 * 4
    beside = masks_of(model, lambda: decode(model, F.prompts(2), max_new_tokens=4), monkeypatch)
    assert [mask.shape[-1] for mask in beside[::3]] == [11, 12, 13, 14]
    windowed = F.bridge("gemma3")  # layers of a window of 7 beside those that see everything
    short = masks_of(windowed, lambda: decode(windowed, F.prompts(1), max_new_tokens=7), monkeypatch)
    assert [mask is None for mask in short[::4]] == [True] * 5 + [False] * 2
    assert [mask is None for mask in short[1::4]] == [True] * 7


def test_flash_attention_is_told_which_columns_hold_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hugging Face makes of that what it does for its own generation; here its sdpa stands in for a kernel."""
    model, prompts = F.bridge("gemma3"), F.prompts(4)
    expected = decode(model, prompts, max_new_tokens=12)
    from interp.engines import twin

    made: list[Any] = []

    class Flash(twin.TwinEngine):
        def __init__(self, model: Any) -> None:
            super().__init__(model)
            self._attention = "flash_attention_2"
            made.append(self)

    from interp.engines import registry

    monkeypatch.setattr(registry, "ENGINES", (Flash,))
    got = decode(model, prompts, max_new_tokens=12)
    assert made
    assert [r.token_ids.tolist() for r in got] == [r.token_ids.tolist() for r in expected]


def test_an_unknown_attention_implementation_is_refused_by_name() -> None:
    from transformers import AttentionInterface

    hf = copy.deepcopy(F.hf_model("llama"))
    AttentionInterface.register("of_my_own", lambda *args, **kwargs: None)
    hf.config._attn_implementation = "of_my_own"
    with pytest.raises(InputError, match=r"load x: expected attention by one of eager, sdpa, .*received .*'of_my_own'"):
        load_model("x", hf_model=hf, device="cpu")


def test_a_model_is_run_by_its_own_attention() -> None:
    eager = load_model("x", hf_model=copy.deepcopy(F.hf_model("llama")), device="cpu")
    assert engine_told(eager) == "twin (eager)"
    one, other = (decode(model, F.prompts(3), max_new_tokens=8) for model in (eager, F.bridge("llama")))
    assert [r.token_ids.tolist() for r in one] == [r.token_ids.tolist() for r in other]


def test_a_bridge_made_elsewhere_has_no_twin() -> None:
    model = F.load_without_tokenizer("llama")
    del vars(model)["_peaklens_native"]
    assert engine_told(model) == "bridge (not the twin: it was not loaded by load_model)"
    assert engine_for(model).told == "bridge"


def test_a_twin_that_says_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.loading import hugging_face

    def other(model: Any) -> Any:
        native = hugging_face_native(model)
        native.model.model.layers[1].mlp.act_fn = torch.nn.Tanh()
        return native

    hugging_face_native = hugging_face.native_copy
    monkeypatch.setattr(hugging_face, "native_copy", other)
    model = F.load_without_tokenizer("llama")
    assert engine_told(model).startswith("bridge (not the twin: its logits are ")


def test_only_known_engines_are_chosen() -> None:
    with (
        pytest.raises(InputError, match="choose an engine: expected twin or bridge, received 'vllm'"),
        only_engine("vllm"),
    ):
        pass

"""What a user has hooked to a TransformerLens model acts on what is decoded, and shows in what is recorded."""

from __future__ import annotations

from typing import Any

import families as F
import pytest
import torch
from references import SITES, assert_close, hf_residuals, modules

from interp import ResidualSites, decode, encode


def test_a_users_own_hooks_fire() -> None:
    model = F.bridge("llama")
    calls: list[tuple[int, ...]] = []
    plain = decode(model, F.prompts(1), max_new_tokens=4)[0].token_ids.tolist()

    def zero(residual: torch.Tensor, hook: object) -> torch.Tensor:
        calls.append(tuple(residual.shape))
        return residual * 0 + 1

    with model.hooks(fwd_hooks=[("blocks.1.hook_out", zero)]):
        changed = decode(model, F.prompts(1), max_new_tokens=4)[0].token_ids.tolist()
    assert calls == [(1, 3, 44)] + [(1, 1, 44)] * 3
    assert changed != plain


def test_a_hook_between_two_blocks_parts_the_stream() -> None:
    model = F.bridge("llama")
    record = ResidualSites(sites=("resid_pre", "resid_post"))
    with model.hooks(fwd_hooks=[("blocks.2.hook_in", lambda residual, hook: residual + 1)]):
        apart = decode(model, F.prompts(1), max_new_tokens=3, record=record)[0].residuals
    torch.testing.assert_close(apart["resid_pre"][2], apart["resid_post"][1] + 1)
    torch.testing.assert_close(apart["resid_pre"][1], apart["resid_post"][0])


# Plain PyTorch hooks of a user's own


def add_to_input(module: Any, by: float) -> Any:
    def hook(_m: Any, args: Any, kwargs: Any) -> Any:
        if args and isinstance(args[0], torch.Tensor):
            return (args[0] + by, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + by}

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def add_to_output(module: Any, by: float) -> Any:
    return module.register_forward_hook(
        lambda _m, _a, out: (out[0] + by, *out[1:]) if isinstance(out, tuple) else out + by
    )


HOOKED = {
    "the bridge's block, before": (lambda m: m.blocks[1], add_to_input),
    "the original block, before": (lambda m: m.blocks[1].original_component, add_to_input),
    "the bridge's block, after": (lambda m: m.blocks[0], add_to_output),
    "the original block, after": (lambda m: m.blocks[0].original_component, add_to_output),
    "a hook point, after": (lambda m: m.blocks[1].hook_in, add_to_output),
    "a hook point, before": (lambda m: m.blocks[1].hook_in, add_to_input),
    "the final norm": (lambda m: m.ln_final, add_to_output),
}


# Every place on llama and on what has modules of other names; elsewhere a block's input, its output, the final norm.
SOME = {
    "qwen2": ("the bridge's block, before",),
    "qwen3": ("the original block, after",),
    "gemma3": ("the original block, before", "the bridge's block, after", "a hook point, after", "the final norm"),
}


@pytest.mark.parametrize(
    ("family", "place"), [(family, place) for family in F.FAMILIES for place in SOME.get(family, HOOKED)]
)
def test_what_a_users_torch_hook_changes_is_recorded(family: str, place: str) -> None:
    """The same hook on plain Hugging Face, whose modules our reference watches last, gives the record."""
    hf, model = F.hf_model(family), F.bridge(family)
    find, hook = HOOKED[place]
    blocks, _, final = modules(hf)
    twin = final if "norm" in place else blocks[0] if "block, after" in place else blocks[1]
    ours, theirs = hook(find(model), 0.5), (hook if "hook point" not in place else add_to_input)(twin, 0.5)
    try:
        said: dict[tuple[int, ...], dict[str, torch.Tensor]] = {}  # by Hugging Face, of each text once
        for sites in (SITES, ("resid_pre", "resid_post")):
            (rollout,) = decode(model, F.prompts(1), max_new_tokens=3, record=ResidualSites(sites=sites))
            ids, start = [*rollout.prompt_ids.tolist(), *rollout.token_ids.tolist()], len(rollout.prompt_ids) - 1
            expected = said[tuple(ids)] = said.get(tuple(ids)) or hf_residuals(hf, ids)
            (encoding,) = encode(model, [ids], record=ResidualSites(sites=sites))
            for site in sites:
                assert_close(rollout.residuals[site], expected[site][:, start : start + len(rollout)], site)
                assert_close(encoding.residuals[site], expected[site], site)
    finally:
        ours.remove()
        theirs.remove()


def test_a_hook_for_all_modules_is_seen_too() -> None:
    from torch.nn.modules.module import register_module_forward_pre_hook

    model = F.bridge("llama")
    second = model.blocks[2]
    handle = register_module_forward_pre_hook(
        lambda module, args: (args[0] + 1.0, *args[1:]) if module is second and args else None
    )
    try:
        record = ResidualSites(sites=("resid_pre", "resid_post"))
        (rollout,) = decode(model, F.prompts(1), max_new_tokens=3, record=record)
    finally:
        handle.remove()
    torch.testing.assert_close(rollout.residuals["resid_pre"][2], rollout.residuals["resid_post"][1] + 1)


def test_a_position_run_again_goes_through_a_users_hooks_once_more() -> None:
    """Blocks that are stepped over call nobody; the block that runs again gets its new input through the hook."""
    from interp.interventions import Recompute

    model, below, inputs = F.bridge("llama"), [], []
    handles = [
        model.blocks[0].register_forward_hook(lambda *_: below.append(1)),
        add_to_input(model.blocks[1], 0.5),
        model.blocks[1].original_component.register_forward_pre_hook(
            lambda _m, args, kwargs: inputs.append((args[0] if args else kwargs["hidden_states"])[0, -1].clone()),
            with_kwargs=True,
        ),
    ]
    try:
        record = ResidualSites(sites=("resid_pre", "resid_post"))
        again = Recompute(1, 1, lambda step: [step.t == 1] * len(step.rows))
        (rollout,) = decode(model, F.prompts(1), max_new_tokens=3, record=record, interventions=[again])
    finally:
        for handle in handles:
            handle.remove()
    assert len(below) == 3
    assert len(inputs) == 4
    torch.testing.assert_close(rollout.residuals["resid_pre"][1], torch.stack([inputs[0], inputs[2], inputs[3]]))


def test_without_hooks_one_stream_is_still_stored_once() -> None:
    model = F.bridge("llama")
    handle = add_to_input(model.blocks[1], 0.0)
    record = ResidualSites(sites=("resid_pre", "resid_post"))
    hooked = decode(model, F.prompts(1), max_new_tokens=2, record=record)[0].residuals
    handle.remove()
    free = decode(model, F.prompts(1), max_new_tokens=2, record=record)[0].residuals
    assert hooked["resid_pre"][1].data_ptr() != hooked["resid_post"][0].data_ptr()
    assert free["resid_pre"][1].data_ptr() == free["resid_post"][0].data_ptr()

"""Patching, steering and ablating the residual stream against plain Hugging Face with the same values put in."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import families as F
import pytest
import torch
from references import MODELS, SITES, Watch, assert_refused, hf_logits, modules

from interp import Intervention, ResidualSites, Rollout, decode
from interp.interventions import MeanAblate, PatchResidual, SteerResidual


@cache
def plainly(name: str) -> tuple[list[Rollout], Watch]:
    watch = Watch()
    record = ResidualSites(sites=SITES)
    return decode(F.pair(name)[1], F.texts(name, 3), max_new_tokens=5, interventions=[watch], record=record), watch


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("site", SITES)
def test_ones_own_residuals_change_nothing(name: str, site: str) -> None:
    model, (plain, first), second = F.pair(name)[1], plainly(name), Watch()
    options = {"max_new_tokens": 5, "record": ResidualSites(sites=SITES)}
    own = [PatchResidual(r, 1, range(len(r)), site, rows=[i]) for i, r in enumerate(plain)]
    again = decode(model, F.texts(name, 3), interventions=[*own, second], **options)
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a.token_ids, b.token_ids)
        torch.testing.assert_close(a.logprobs, b.logprobs, atol=1e-5, rtol=0)
    for row, logits in first._logits.items():
        for a, b in zip(logits, second._logits[row], strict=True):
            assert float((a - b).norm() / a.norm()) <= 1e-5


@torch.no_grad()
def hf_with_edit(hf: Any, ids: list[int], site: str, layer: int, new: dict[int, torch.Tensor]) -> torch.Tensor:
    """Last logits of a full forward in which the stream at ``site`` takes the values ``new[pos]``."""
    if site in ("resid_pre", "resid_post"):
        return hf_logits(hf, ids, {(site, layer): new})
    blocks, norms, final = modules(hf)
    handles = []

    def put(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        for pos, vector in new.items():
            if pos < value.shape[1]:
                value[0, pos] = vector
        return value

    if site == "ln_final":
        handles.append(final.register_forward_hook(lambda _m, _a, out: put(out)))
    else:
        # resid_mid is no module's output: the block's output is the new value plus what the MLP half makes of it.
        block = blocks[layer]

        def second_half(_m: Any, _a: Any, out: Any) -> Any:
            value = (out[0] if isinstance(out, tuple) else out).clone()
            for pos, vector in new.items():
                if pos < value.shape[1]:
                    mlp = block.mlp(norms[layer](vector[None, None]))
                    if hasattr(block, "post_feedforward_layernorm"):
                        mlp = block.post_feedforward_layernorm(mlp)
                    value[0, pos] = vector + mlp[0, 0]
            return (value, *out[1:]) if isinstance(out, tuple) else value

        handles.append(block.register_forward_hook(second_half))
    try:
        return hf(torch.tensor([ids])).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


@cache
def apart(name: str) -> tuple[Rollout, list[Rollout]]:
    """A source, and three other responses as they are."""
    model, prompts = F.pair(name, torch.float64)[1], F.texts(name, 4)
    (source,) = decode(model, [prompts[3]], max_new_tokens=6, record=ResidualSites(sites=SITES))
    return source, decode(model, prompts[:3], max_new_tokens=6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("site", SITES)
def test_anothers_residuals_do_what_hugging_face_does(name: str, site: str) -> None:
    hf, model = F.pair(name, torch.float64)
    prompts, (source, plain) = F.texts(name, 4), apart(name)
    patch = PatchResidual(source, 1, {0: 2, 3: 5}, site, rows=[1])
    watch = Watch()
    rollouts = decode(model, prompts[:3], max_new_tokens=6, interventions=[patch, watch])
    assert [torch.equal(a.logprobs, b.logprobs) for a, b in zip(rollouts, plain, strict=True)] == [True, False, True]
    values = source.residuals[site][0 if site == "ln_final" else 1]
    start = len(prompts[1]) - 1
    ids = list(prompts[1])
    for step, token in enumerate(rollouts[1].token_ids.tolist()):
        logits = hf_with_edit(hf, ids, site, 1, {start: values[2], start + 3: values[5]})
        ours = watch._logits[1][step]
        assert float((ours - logits).norm() / logits.norm()) < 1e-5
        ids.append(token)


def test_steering_and_ablating_do_what_they_say() -> None:
    model = F.bridge("llama", torch.float64)
    direction = torch.randn(44, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    record = ResidualSites(layers=1)
    plain = decode(model, F.prompts(3), max_new_tokens=5, record=record)

    def first(intervention: Intervention) -> list[torch.Tensor]:
        rollouts = decode(model, F.prompts(3), max_new_tokens=5, record=record, interventions=[intervention])
        return [r.residuals["resid_post"][0] for r in rollouts]

    before = [r.residuals["resid_post"][0, 0] for r in plain]
    for i, residual in enumerate(first(SteerResidual(direction, 1, [0], scale=2.0))):
        torch.testing.assert_close(residual[0], before[i] + 2 * direction)
    for residual in first(SteerResidual(3 * direction, 1, "response", mode="project_out")):
        torch.testing.assert_close(
            residual @ direction, torch.zeros(len(residual), dtype=torch.float64), atol=1e-9, rtol=0
        )
    for i, residual in enumerate(first(MeanAblate(direction, 1, [0], rows=[2]))):
        torch.testing.assert_close(residual[0], direction if i == 2 else before[i])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 7}, "PatchResidual: expected a layer from 0 to 2, received layer 7"),
        ({"layer": 0}, "expected a rollout that recorded resid_post of layer 0"),
        ({"site": "resid_mid"}, "expected a rollout that recorded resid_mid of layer 1"),
        ({"positions": [50]}, r"expected steps of the source, 0 to 4, received \[50\]"),
        ({"positions": [-2]}, "or response steps from 0"),
    ],
)
def test_patches_that_cannot_be_made_are_refused(change: dict[str, Any], message: str) -> None:
    model = F.bridge("llama")
    source = decode(model, F.prompts(1), max_new_tokens=5, record=ResidualSites(layers=[1]))[0]
    patch = PatchResidual(**{"source": source, "layer": 1, "positions": [0], **change})
    assert_refused(model, lambda: patch, message)


def test_a_source_of_another_model_or_width_is_refused() -> None:
    source = decode(F.bridge("llama"), F.prompts(1), max_new_tokens=5, record=ResidualSites())[0]
    for other, width in (("qwen2", 40), ("qwen3", 44)):
        message = rf"expected a rollout of tiny-{other} \(d_model {width}\).*one of tiny-llama \(d_model 44\)"
        assert_refused(F.bridge(other), lambda: PatchResidual(source, 1, [0]), message)
    narrow = replace(source, residuals={site: values[..., :40] for site, values in source.residuals.items()})
    message = r"expected a rollout of tiny-llama \(d_model 44\).*one of tiny-llama \(d_model 40\)"
    assert_refused(F.bridge("llama"), lambda: PatchResidual(narrow, 1, [0]), message)


def test_an_empty_patch_changes_nothing() -> None:
    model = F.bridge("llama")
    plain = decode(model, F.prompts(1), max_new_tokens=5, record=ResidualSites())[0]
    patched = decode(model, F.prompts(1), max_new_tokens=5, interventions=[PatchResidual(plain, 1, [])])[0]
    assert torch.equal(plain.token_ids, patched.token_ids)

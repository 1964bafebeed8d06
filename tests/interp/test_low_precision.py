"""Half precision: every intervention and gate works, and what is worked out is right to the rounding of the result."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import families as F
import pytest
import torch
from references import modules
from torch import Tensor

from interp import InputError, Intervention, Positions, ResidualSites, Rollout, Row, Site, decode, load_model, score
from interp.interventions import (
    BudgetForcing,
    ContinueThinking,
    MeanAblate,
    PatchResidual,
    Recompute,
    RecurseLatents,
    RecycleRepresentation,
    SteerResidual,
    SuppressTokens,
    any_token,
    at_random,
    log_probability,
    logit_difference,
    patch_sweep,
    uncertain,
)
from interp.sampling import entropy, log_probabilities

HALVES = (torch.float16, torch.bfloat16)
SITES = ("resid_pre", "resid_mid", "resid_post", "ln_final")
VECTOR = torch.linspace(-1, 1, 44)


@pytest.fixture(params=[torch.float16, torch.bfloat16, torch.float64], ids=str)
def default(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """Another default dtype for the whole test, as some programs set it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    try:
        yield request.param
    finally:
        torch.set_default_dtype(before)


EVERY: dict[str, Callable[[Rollout], Intervention]] = {
    "recycle": lambda _: RecycleRepresentation(1, range(3, 90)),
    "recurse": lambda _: RecurseLatents(2, entropy_threshold=0.1, tolerance=1e-3),
    "random": lambda _: Recompute(2, 1, at_random(0.5), tolerance=0.01, repeats=2),
    "uncertain": lambda _: Recompute(1, 0, uncertain(0.5)),
    "any": lambda _: Recompute(1, 1, any_token(range(3, 90))),
    "suppress, then recurse": lambda _: SuppressTokens(range(3, 60)),
    "continue": lambda _: ContinueThinking([40], 3, final_prompt=[20], final_tokens=2),
    "budget": lambda _: BudgetForcing(33, 1, [40], 2),
    **{f"patch {site}": lambda s, site=site: PatchResidual(s, 1, [0, 2], site) for site in SITES},
    **{f"add {site}": lambda _, site=site: SteerResidual(VECTOR, 1, "all", site=site, scale=3.0) for site in SITES},
    **{f"out {site}": lambda _, site=site: SteerResidual(VECTOR, 1, "all", "project_out", site) for site in SITES},
    **{f"mean {site}": lambda _, site=site: MeanAblate(VECTOR, 1, [1], site) for site in SITES},
}


@pytest.mark.parametrize(("family", "dtype"), [("llama", torch.float16), ("gemma3", torch.bfloat16)], ids=str)
def test_every_intervention_runs(family: str, dtype: torch.dtype) -> None:
    model = F.bridge(family, dtype)
    source = decode(model, [[5, 6, 7]], max_new_tokens=4, record=ResidualSites(sites=SITES))[0]
    prompts, record = F.prompts(2), ResidualSites(sites=SITES)
    for name, make in EVERY.items():
        some = [make(source), RecurseLatents(1, entropy_threshold=0.1)] if "then" in name else [make(source)]
        for rollout in decode(model, prompts, max_new_tokens=3, interventions=some, record=record):
            assert rollout.logprobs.dtype == rollout.entropy.dtype == torch.float32, name
            assert rollout.logprobs.isfinite().all(), name
            assert rollout.entropy.isfinite().all(), name
            assert rollout.residuals["resid_mid"].dtype == dtype
        if not some[0].injects and "residual" in type(some[0]).__module__:
            (scores,) = score(model, prompts[:1], [[11, 12, 13]], interventions=some)
            assert scores.logprobs.dtype == torch.float32
    table = patch_sweep(model, source, source, logit_difference(5, 6), layers=[1])
    assert (table["effect"].abs() < 1e-6).all()


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64], ids=str)
def test_probabilities_are_those_of_the_logits(dtype: torch.dtype, default: torch.dtype) -> None:
    """Against float64 arithmetic on the very logits that the model gave, whatever torch's default dtype is."""
    model, seen = F.bridge("llama", dtype), []

    class Watch(Intervention):
        def before_choice(self, step: Any) -> None:
            seen.append(step.logits.double().clone())

    (rollout,) = decode(model, [[5, 6, 7]], max_new_tokens=6, interventions=[Watch()])
    exact = torch.stack([logits[0] for logits in seen]).log_softmax(-1)
    chosen = exact.gather(1, rollout.token_ids[:, None])[:, 0]
    torch.testing.assert_close(rollout.logprobs.double(), chosen, atol=1e-6, rtol=1e-6)
    surprise = -(exact.exp() * exact).sum(-1)
    torch.testing.assert_close(rollout.entropy.double(), surprise, atol=2e-6, rtol=2e-6)
    (scores,) = score(model, [[5, 6, 7]], [rollout.token_ids])
    assert scores.logprobs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Read at once and not step by step: the same to the precision of the model.
    torch.testing.assert_close(scores.logprobs.double(), chosen, atol=40 * torch.finfo(dtype).eps + 1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_gates_and_metrics_are_worked_out_in_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = (torch.randn(4, 3000, generator=generator) * 3).to(dtype)
    exact = logits.double().log_softmax(-1)
    assert (log_probabilities(logits).double() - exact).abs().max() < 1e-5
    assert (entropy(log_probabilities(logits)).double() + (exact.exp() * exact).sum(-1)).abs().max() < 1e-5
    assert (log_probability(7)(logits).double() - exact[:, 7]).abs().max() < 1e-5
    gap = logits[:, 3].double() - logits[:, 4].double()
    assert (logit_difference(3, 4)(logits).double() - gap).abs().max() < 1e-6
    banned = logits.index_fill(-1, torch.arange(2999), float("-inf"))
    assert entropy(log_probabilities(banned)).tolist() == [0.0] * 4


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("mode", ["add", "project_out"])
@pytest.mark.parametrize("width", [64, 576])
def test_steering_is_rounded_once(dtype: torch.dtype, mode: str, width: int) -> None:
    """Each coordinate is the float64 result, rounded to the model's precision, beside massive coordinates too."""
    generator = torch.Generator().manual_seed(width)
    direction = torch.randn(width, generator=generator)
    stream = torch.randn(2, 3, width, generator=generator)
    stream[0] += 60 * direction / direction.norm()
    stream[1, :, 7] = 600.0
    stream = stream.to(dtype)
    rows = [Row(0, [1, 2, 3], 9), Row(1, [1, 2, 3], 9)]
    at = Positions(rows, torch.arange(3).expand(2, 3))
    steer = SteerResidual(direction, 0, "all", mode, scale=0.37)
    out = steer.edit_residual(Site("resid_post", 0), stream, at)
    wide, unit = stream.double(), direction.double() / direction.double().norm()
    exact = wide + 0.37 * direction.double() if mode == "add" else wide - (wide @ unit)[..., None] * unit
    assert out.dtype == dtype
    # Half a unit in the last place, and float32's own rounding at the size of what was added up
    ulp = torch.finfo(dtype).eps * exact.abs() / 2 + torch.finfo(dtype).smallest_normal
    assert ((out.double() - exact).abs() <= 1.01 * ulp + 1e-6 * wide.abs().amax()).all()


class Write(Intervention):
    """A massive coordinate in front of attention, and ``value`` behind it."""

    edits = (Site("resid_pre", 1), Site("resid_mid", 1))

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def edit_residual(self, site: Site, residual: Tensor, at: Positions) -> Tensor:
        if site.name == "resid_mid":
            return self.value.expand_as(residual).clone()
        residual = residual.clone()
        residual[..., 7] = 600.0
        return residual


@pytest.mark.parametrize("dtype", [*HALVES, torch.float64], ids=str)
@pytest.mark.parametrize("family", F.FAMILIES)
@torch.no_grad()
def test_resid_mid_is_what_was_written(family: str, dtype: torch.dtype) -> None:
    """The stream behind the block is the value plus what plain Hugging Face modules make of it: one rounding."""
    hf, model = F.hf_model(family, dtype), F.bridge(family, dtype)
    value = torch.linspace(0.1, 1.0, hf.config.hidden_size).to(dtype)
    record = ResidualSites(layers=[1], sites=("resid_mid", "resid_post"))
    (rollout,) = decode(model, [[5, 6, 7]], max_new_tokens=3, interventions=[Write(value)], record=record)
    assert (rollout.residuals["resid_mid"][0] == value).all()
    block, norm = modules(hf)[0][1], modules(hf)[1][1]
    half = block.mlp(norm(value[None, None]))
    if family == "gemma3":
        half = block.post_feedforward_layernorm(half)
    torch.testing.assert_close(
        rollout.residuals["resid_post"][0].double(), (value + half[0, 0]).double().expand(3, -1),
        rtol=2 * torch.finfo(dtype).eps, atol=(64 if dtype == torch.float64 else 4) * torch.finfo(dtype).eps,
    )  # fmt: skip


def test_a_block_that_adds_nothing_is_told() -> None:
    model = F.bridge("llama")
    handle = model.blocks[1].attn.register_forward_hook(lambda _m, _a, out: (torch.zeros(out[0].shape), *out[1:]))
    try:
        with pytest.raises(InputError, match="write resid_mid: expected a block that adds"):
            decode(model, [[5, 6, 7]], max_new_tokens=2, interventions=[MeanAblate(VECTOR, 1, site="resid_mid")])
    finally:
        handle.remove()


def test_a_model_loads_and_decodes_alike_whatever_the_default(default: torch.dtype) -> None:
    hf = copy.deepcopy(F.hf_model("llama", torch.bfloat16))
    hf.set_attn_implementation("sdpa")
    model = load_model("tiny-llama", hf_model=hf, tokenizer=F.tokenizer(), device="cpu")
    ours = decode(model, F.prompts(2), max_new_tokens=6, temperature=0.8, interventions=[RecurseLatents(1)])
    torch.set_default_dtype(torch.float32)
    plain = decode(F.bridge("llama", torch.bfloat16), F.prompts(2), max_new_tokens=6, temperature=0.8,
                   interventions=[RecurseLatents(1)])  # fmt: skip
    for a, b in zip(ours, plain, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        assert torch.equal(a.logprobs, b.logprobs)
        assert torch.equal(a.entropy, b.entropy)

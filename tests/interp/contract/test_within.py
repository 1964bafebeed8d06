"""Sites within blocks against forward hooks on plain Hugging Face modules: what is recorded, and what an edit does."""

from __future__ import annotations

from typing import Any

import families as F
import pytest
import torch
from references import MODELS, WITHIN, Watch, assert_close, hf_residuals, hf_within
from torch import Tensor

from interp import InputError, Intervention, Positions, ResidualSites, ResidualStream, Site, decode, encode, read, score
from interp.engines.native import native_of
from interp.engines.registry import only_engine
from interp.interventions import MeanAblate, Recompute, SteerResidual

RECORD = ResidualSites(sites=WITHIN)


def check(hf: Any, rollout: Any) -> None:
    ids = [*rollout.prompt_ids.tolist(), *rollout.token_ids.tolist()]
    _, expected = hf_within(hf, ids)
    start = len(rollout.prompt_ids) - 1
    for site in WITHIN:
        assert_close(rollout.residuals[site], expected[site][:, start : start + len(rollout)], site)


@pytest.mark.parametrize("name", MODELS)
def test_recorded_values_equal_hugging_face(name: str) -> None:
    """Side by side, after rows have left, and read again at once."""
    hf, model = F.pair(name)
    texts = F.texts(name)
    free = decode(model, texts, max_new_tokens=8)
    stops = F.staggering_stops([r.token_ids.tolist() for r in free])
    rollouts = decode(model, texts, max_new_tokens=8, stop=stops, record=RECORD)
    assert len({len(r) for r in rollouts}) >= 3
    again = read(model, texts, [r.token_ids for r in rollouts], record=RECORD)
    for rollout in (*rollouts, *again):
        check(hf, rollout)
    encoded = encode(model, texts[:2], record=RECORD)
    for ids, text in zip(texts, encoded, strict=False):
        _, expected = hf_within(hf, ids)
        for site in WITHIN:
            assert_close(text.residuals[site], expected[site], site)


@pytest.mark.parametrize("family", F.FAMILIES)
def test_writes_sum_to_the_stream(family: str) -> None:
    """attn_out and mlp_out are what is added, behind the norms that gemma3 puts there too."""
    model = F.bridge(family, torch.float64)
    sites = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    (rollout,) = decode(model, F.prompts(1), max_new_tokens=4, record=ResidualSites(sites=sites))
    pre, attention, mid, mlp, post = (rollout.residuals[site] for site in sites)
    torch.testing.assert_close(pre + attention, mid)
    torch.testing.assert_close(mid + mlp, post)


def test_shapes_dtypes_layers_and_what_is_streamed() -> None:
    model, steps = F.bridge("llama"), []
    sites = ("k", "resid_post", "z", "mlp_out")
    record = ResidualSites(layers=[0, -1], sites=sites, dtype=torch.float64)
    rollouts = decode(model, F.prompts(2), max_new_tokens=5, record=record)
    shapes = {site: list(values.shape) for site, values in rollouts[0].residuals.items()}
    assert shapes == {"k": [2, 5, 2, 10], "resid_post": [2, 5, 44], "z": [2, 5, 4, 10], "mlp_out": [2, 5, 44]}
    assert {values.dtype for values in rollouts[0].residuals.values()} == {torch.float64}
    stream = ResidualStream(
        layers=[0, -1], sites=sites, dtype=torch.float64,
        on_step=lambda step: steps.append({site: values.clone().cpu() for site, values in step.residuals.items()}),
    )  # fmt: skip
    decode(model, F.prompts(2), max_new_tokens=5, record=stream)
    for site in sites:
        for row in range(2):
            assert torch.equal(torch.stack([step[site][:, row] for step in steps], 1), rollouts[row].residuals[site])


def test_saved_and_loaded(tmp_path: Any) -> None:
    record = ResidualSites(sites=("resid_pre", "resid_post", "z", "v"))
    (rollout,) = decode(F.bridge("qwen2"), F.prompts(1), max_new_tokens=3, record=record)
    again = type(rollout).load(rollout.save(tmp_path / "r.safetensors"))
    for site, values in rollout.residuals.items():
        assert torch.equal(again.residuals[site], values)


class Change(Intervention):
    """From step ``start`` on: the first head (or all of d_model) turned around, all of it moved."""

    def __init__(self, site: str, layer: int, start: int, row: int) -> None:
        self.edits = (Site(site, layer),)
        self.start, self.row = start, row

    @staticmethod
    def changed(value: Tensor) -> Tensor:
        """``[pos, d_model]`` or ``[pos, head, d_head]``."""
        new = value + 0.3
        new[:, 0] = -2 * value[:, 0]
        return new

    def edit_residual(self, site: Site, residual: Tensor, at: Positions) -> Tensor:
        out = residual.clone()
        for i, row in enumerate(at.rows):
            if row.index == self.row:
                mine = (at.steps[i] >= self.start).nonzero()[:, 0]
                out[i, mine] = self.changed(residual[i, mine])
        return out


@pytest.mark.parametrize("family", F.FAMILIES)
def test_edits_do_what_hugging_face_does(family: str) -> None:
    """Each step's logits, decoded with a cache, are those of one full pass with the same edit, recorded values too.

    Row n is edited at the n-th site, and the last row is left alone.
    """
    hf, model = F.pair(family, torch.float64)
    prompts, watch = F.prompts(7), Watch()
    plain = decode(model, prompts, max_new_tokens=4)
    changes = [Change(site, 1, 1, row) for row, site in enumerate(WITHIN)]
    rollouts = decode(model, prompts, max_new_tokens=4, interventions=[*changes, watch], record=RECORD)
    assert [torch.equal(a.logprobs, b.logprobs) for a, b in zip(rollouts, plain, strict=True)] == [False] * 6 + [True]
    for row, site in enumerate(WITHIN):
        start = len(prompts[row]) - 1

        def edit(name: str, layer: int, value: Tensor, site: str = site, start: int = start) -> Tensor | None:
            if (name, layer) != (site, 1):
                return None
            return torch.cat([value[: start + 1], Change.changed(value[start + 1 :])])

        logits, kept = hf_within(hf, [*prompts[row], *rollouts[row].token_ids.tolist()[:-1]], edit)
        ours = torch.stack(watch._logits[row])
        assert float((ours - logits[start:]).norm() / logits[start:].norm()) < 1e-5, site
        assert_close(rollouts[row].residuals[site], kept[site][:, start:], site)
    scored = score(model, prompts, [r.token_ids for r in rollouts], interventions=changes)
    for a, b in zip(scored, rollouts, strict=True):
        torch.testing.assert_close(a.logprobs.float(), b.logprobs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_what_blocks_add_is_steered_and_averaged_like_the_stream(family: str) -> None:
    """And resid_mid is written behind it: attention's edit is seen, what was written is what goes on."""
    hf, model = F.pair(family, torch.float64)
    prompt, vector = F.prompts(2)[1], torch.linspace(-1, 1, hf.config.hidden_size, dtype=torch.float64)
    do = [SteerResidual(vector, 1, "all", site="attn_out", scale=2.0), MeanAblate(vector, -1, [0, 1], site="mlp_out")]
    (rollout,) = decode(model, [prompt], max_new_tokens=3, interventions=do, record=RECORD)
    first, last = len(prompt) - 1, len(hf_within(hf, prompt)[1]["z"]) - 1

    def edit(site: str, layer: int, value: Tensor) -> Tensor | None:
        if (site, layer) == ("attn_out", 1):
            return value + 2 * vector
        if (site, layer) == ("mlp_out", last):
            value[first : first + 2] = vector
            return value
        return None

    _, expected = hf_within(hf, [*prompt, *rollout.token_ids.tolist()[:-1]], edit)
    for site in WITHIN:
        assert_close(rollout.residuals[site], expected[site][:, first:], site)
    record = ResidualSites(sites=("attn_out", "resid_mid"))
    both = [*do, MeanAblate(vector, 1, "all", site="resid_mid")]
    for some in (both, both[::-1]):
        (mid,) = decode(model, [prompt], max_new_tokens=1, interventions=some, record=record)
        torch.testing.assert_close(mid.residuals["attn_out"][1, 0], rollout.residuals["attn_out"][1, 0])
        assert torch.equal(mid.residuals["resid_mid"][1, 0], vector)
    message = "SteerResidual: expected the name of a site, one of .*mlp_out, received 'z'. HeadAblate and PatchHead"
    with pytest.raises(InputError, match=message):
        SteerResidual(vector, 1, site="z")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_a_position_run_again_overwrites_what_it_said(family: str) -> None:
    """Blocks from the one that runs again on are recorded in their last pass, those below keep theirs."""
    hf, model = F.pair(family, torch.float64)
    prompts, record = F.prompts(2), ResidualSites(sites=("resid_pre", *WITHIN))
    again = Recompute(1, 1, lambda step: [step.t == 1 and row.index == 1 for row in step.rows])
    plain = decode(model, prompts, max_new_tokens=2, record=record)
    rollouts = decode(model, prompts, max_new_tokens=2, record=record, interventions=[again])
    for site in WITHIN:
        before, after = plain[1].residuals[site], rollouts[1].residuals[site]
        torch.testing.assert_close(after[:1], before[:1])
        torch.testing.assert_close(after[:, 0], before[:, 0])
        assert all(float((a - b).norm()) > 1e-3 for a, b in zip(after[1:, 1], before[1:, 1], strict=True))
        torch.testing.assert_close(rollouts[0].residuals[site], plain[0].residuals[site])
    # What plain Hugging Face makes of the stream that was put in
    ids, place = [*prompts[1], int(plain[1].token_ids[0])], len(prompts[1])
    put = hf_residuals(hf, ids)["resid_post"][1][place]
    block = hf.transformer.h[1] if family == "gpt2" else hf.model.layers[1]

    # The same family of code, its own input replaced at one place
    def replace(_m: Any, args: Any, kwargs: Any) -> Any:
        stream = (args[0] if args else kwargs["hidden_states"]).clone()
        stream[0, place] = put
        return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})

    handle = block.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        _, expected = hf_within(hf, ids)
    finally:
        handle.remove()
    for site in WITHIN:
        assert_close(rollouts[1].residuals[site][1:, 1], expected[site][1:, place], site)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_users_own_hooks_keep_firing_and_are_seen(family: str) -> None:
    """TransformerLens's hooks and plain PyTorch ones act, and what is recorded has been through them."""
    model = F.bridge(family, torch.float64)
    with only_engine("bridge"):  # which runs what is hooked
        plain = decode(model, F.prompts(2), max_new_tokens=3, record=RECORD)
    names = {site: Site(site, 0).hook_name for site in WITHIN}
    for site, name in names.items():
        seen: list[Any] = []

        def shift(value: Tensor, hook: Any, seen: list[Any] = seen) -> Tensor:
            seen.append(value.shape)
            return value + 1.0

        with model.hooks(fwd_hooks=[(name, shift)]):
            rollouts = decode(
                model, F.prompts(2), max_new_tokens=1, record=RECORD, interventions=[Change(site, 0, 0, 1)]
            )
        assert len(seen) == 1
        first = [rollout.residuals[site][0, :1] + 1.0 for rollout in plain]
        torch.testing.assert_close(rollouts[0].residuals[site][0, :1], first[0])
        torch.testing.assert_close(rollouts[1].residuals[site][0, :1], Change.changed(first[1]))
    out = model.blocks[0].attn.o.original_component
    handle = out.register_forward_pre_hook(lambda _m, args: (args[0] + 1.0, *args[1:]))
    try:
        late = decode(model, F.prompts(2), max_new_tokens=3, record=RECORD)
    finally:
        handle.remove()
    torch.testing.assert_close(late[1].residuals["z"][0, :1], plain[1].residuals["z"][0, :1] + 1.0)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_transformer_lens_switches_change_nothing(family: str) -> None:
    model = F.load_without_tokenizer(family)
    plain = decode(model, F.prompts(2), max_new_tokens=3, record=RECORD, interventions=[Change("z", 1, 0, 1)])
    for switch in (model.set_use_attn_result, model.set_use_split_qkv_input, model.set_use_attn_in):
        switch(True)
        turned = decode(model, F.prompts(2), max_new_tokens=3, record=RECORD, interventions=[Change("z", 1, 0, 1)])
        switch(False)
        for a, b in zip(plain, turned, strict=True):
            for site in WITHIN:
                torch.testing.assert_close(a.residuals[site], b.residuals[site], atol=1e-4, rtol=1e-4)


def test_an_edit_acts_once_in_compatibility_mode() -> None:
    model = F.load_without_tokenizer("gpt2")
    model.enable_compatibility_mode()
    plain = decode(model, F.prompts(1), max_new_tokens=1, record=RECORD)[0].residuals
    for site in WITHIN:
        (rollout,) = decode(
            model, F.prompts(1), max_new_tokens=1, record=RECORD, interventions=[Change(site, 0, 0, 0)]
        )  # fmt: skip
        torch.testing.assert_close(rollout.residuals[site][0], Change.changed(plain[site][0]))


@pytest.mark.parametrize("family", F.FAMILIES)
def test_bfloat16(family: str) -> None:
    """The very numbers of Hugging Face's modules, up to the precision."""
    hf, model = F.pair(family, torch.bfloat16)
    (rollout,) = decode(model, F.prompts(1), max_new_tokens=4, record=RECORD)
    _, expected = hf_within(hf, [*rollout.prompt_ids.tolist(), *rollout.token_ids.tolist()[:-1]])
    for site in WITHIN:
        values, there = rollout.residuals[site], expected[site][:, len(rollout.prompt_ids) - 1 :]
        assert values.dtype == torch.bfloat16
        error = (values - there).double().norm() / there.double().norm()
        assert float(error) < 0.06, f"{site}: {float(error):.3f}"


def test_no_hooks_where_none_are_asked() -> None:
    model = F.bridge("llama")
    before = {name: len(point._forward_hooks) for name, point in model.hook_dict.items()}
    counts: list[int] = []
    modules = [*model.modules(), *native_of(model).model.modules()]

    def hooks() -> int:
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)

    class Count(Intervention):
        def before_choice(self, step: Any) -> None:
            counts.append(hooks())

    decode(model, F.prompts(2), max_new_tokens=2, interventions=[Count()])
    free = hooks()
    assert counts == [free] * 2
    decode(model, F.prompts(2), max_new_tokens=2, interventions=[Count()], record=ResidualSites(layers=1, sites=("z",)))
    assert counts[2:] == [free + 1] * 2
    assert {name: len(point._forward_hooks) for name, point in model.hook_dict.items()} == before


def test_what_cannot_be_recorded_or_read_is_refused() -> None:
    with pytest.raises(InputError, match=r"record residuals: expected sites among resid_pre.*z, received"):
        ResidualSites(sites=("attn_scores",))
    with pytest.raises(InputError, match=r"choose a site: expected one of .*attn_scores, received 'pattern'"):
        Site("pattern", 1)

    class Scores(Intervention):
        reads = (Site("attn_scores", 0),)

    with pytest.raises(InputError, match="Scores: expected a site that has a value at each position"):
        decode(F.bridge("llama"), F.prompts(1), max_new_tokens=1, interventions=Scores())


def test_a_site_that_does_not_fire_or_has_other_heads_is_refused() -> None:
    """A model whose attention a user has replaced, and one whose layers have other heads than it says."""
    model = F.load_without_tokenizer("llama")
    projection = model.blocks[1].attn.o
    projection.__dict__["forward"] = projection.original_component.forward
    with pytest.raises(InputError, match=r"attach to z: expected a model whose blocks compute it.*does not fire"):
        decode(model, F.prompts(1), max_new_tokens=1, interventions=[Change("z", 1, 0, 0)])
    model = F.load_without_tokenizer("llama")
    model.original_model.config.num_attention_heads = 2
    with pytest.raises(InputError, match=r"attach to z: expected \[row, pos, 2, 10\], received \[1, 3, 40\]"):
        decode(model, F.prompts(1), max_new_tokens=1, record=ResidualSites(sites=("z",)))

"""Activation patching over layers x steps against TransformerLens's patching, and against one patch at a time."""

from __future__ import annotations

from functools import cache
from typing import Any

import families as F
import pytest
import torch
from references import hf_within
from transformer_lens import patching
from transformer_lens.tools.analysis import SubspaceInterchange
from transformer_lens.tools.analysis.interchange import intervened_logits, random_basis

from interp import InputError, ResidualSites, Rollout, decode, score
from interp.interventions import PatchHead, PatchResidual, log_probability, logit_difference, patch_sweep

SITES = ("resid_pre", "resid_mid", "resid_post")
WITHIN = ("attn_out", "mlp_out", "q", "k", "v", "z")


@cache
def pair(family: str, new: int = 8) -> tuple[Any, Rollout, Rollout]:
    """A model, a response to be patched and one of as long a prompt to patch from."""
    model = F.bridge(family, torch.float64)
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(3, F.VOCAB, (2, 4), generator=generator).tolist()
    target, source = decode(model, prompts, max_new_tokens=new, record=ResidualSites(sites=(*SITES, *WITHIN)))
    return model, target, source


@pytest.mark.parametrize("family", F.FAMILIES)
def test_a_sweep_equals_transformer_lens_patching(family: str) -> None:
    model, target, source = pair(family)
    texts = [torch.cat([r.prompt_ids, r.token_ids[:-1]])[None] for r in (target, source)]
    metric = logit_difference(5, 6)
    table = patch_sweep(model, target, source, metric, site="resid_pre", batch_size=7)
    _, cache = model.run_with_cache(texts[1])
    theirs = patching.get_act_patch_resid_pre(model, texts[0], cache, lambda logits: metric(logits[:, -1])[0])
    first = len(target.prompt_ids) - 1
    ours = torch.tensor(table.pivot(index="layer", columns="step", values="value").to_numpy())
    torch.testing.assert_close(ours, theirs[:, first:].double(), rtol=1e-5, atol=1e-5)  # theirs are kept in float32
    assert table["effect"].abs().max() > 0.1, "nothing was patched"
    plain = metric(model(texts[0])[:, -1].detach())[0]
    assert table["baseline"].iloc[0] == pytest.approx(float(plain), abs=2e-6)
    assert table["token"].tolist() == target.tokens * model.cfg.n_layers


@pytest.mark.parametrize("site", SITES)
def test_a_sweep_equals_one_patch_at_a_time(site: str) -> None:
    model, target, source = pair("gemma3")
    wanted, at = int(target.token_ids[5]), 5
    steps = {1: 3, 5: 7}
    table = patch_sweep(model, target, source, log_probability(wanted), at=at, steps=steps, site=site)
    assert len(table) == 2 * model.cfg.n_layers
    for row in table.to_dict("records"):
        assert row["source_step"] == steps[row["step"]]
        patch = PatchResidual(source, row["layer"], {row["step"]: row["source_step"]}, site)
        logprob = score(model, [target.prompt_ids], [target.token_ids[: at + 1]], interventions=[patch], last=1)[
            0
        ].logprobs
        assert row["value"] == pytest.approx(float(logprob), abs=2e-6)


@pytest.mark.parametrize("family", F.FAMILIES)
def test_heads_and_mlps_equal_a_loop_over_hugging_face(family: str) -> None:
    """Each head, and each MLP, at two steps: one plain Hugging Face pass a patch, its module's own values replaced."""
    model, target, source = pair(family)
    hf, metric = F.hf_model(family, torch.float64), logit_difference(5, 6)
    text, first = torch.cat([target.prompt_ids, target.token_ids[:-1]]).tolist(), len(target.prompt_ids) - 1
    for site in ("z", "mlp_out"):
        table = patch_sweep(model, target, source, metric, site=site, steps={2: 1, 7: 6}, batch_size=9)
        assert len(table) == 2 * model.cfg.n_layers * (4 if site == "z" else 1)
        for row in table.to_dict("records"):
            layer, at = row["layer"], first + row["step"]
            new = source.residuals[site][layer, row["source_step"]]
            head = slice(None) if site == "mlp_out" else row["head"]

            def edit(
                name: str, of: int, value: torch.Tensor,
                where: Any = (site, layer), at: int = at, head: Any = head, new: torch.Tensor = new,
            ) -> torch.Tensor | None:  # fmt: skip
                if (name, of) == where:
                    value[at, head] = new[head]
                    return value
                return None

            logits, _ = hf_within(hf, text, edit)
            assert row["value"] == pytest.approx(float(metric(logits[-1:])), abs=2e-5)
        assert table["effect"].abs().max() > 0.01, "nothing was patched"


def test_heads_equal_transformer_lens_patching() -> None:
    model, target, source = pair("llama")
    metric = logit_difference(5, 6)
    texts = [torch.cat([r.prompt_ids, r.token_ids[:-1]])[None] for r in (target, source)]
    _, cache = model.run_with_cache(texts[1])
    theirs = patching.get_act_patch_attn_head_out_by_pos(
        model, texts[0], cache, lambda logits: metric(logits[:, -1])[0]
    )  # [layer, pos, head]
    table = patch_sweep(model, target, source, metric, site="z", batch_size=50)
    ours = table.set_index(["layer", "step", "head"])["value"].sort_index()
    first = len(target.prompt_ids) - 1
    wanted = theirs[:, first:].double().reshape(-1)
    torch.testing.assert_close(torch.tensor(ours.to_numpy()), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("site", "together"), [("z", False), ("z", True), ("k", False), ("attn_out", True)])
def test_sites_within_blocks_equal_one_patch_at_a_time(site: str, together: bool) -> None:
    model, target, source = pair("gemma3")
    wanted, at, steps = int(target.token_ids[5]), 5, {1: 3, 4: 0, 5: 7}
    heads = None if site == "attn_out" else [1, -1]
    table = patch_sweep(
        model, target, source, log_probability(wanted),
        at=at, steps=steps, site=site, heads=heads, together=together, layers=[0, 3], batch_size=4,
    )  # fmt: skip
    by_head = {"z": [1, 3], "k": [1], "attn_out": [None]}[site]
    assert len(table) == 2 * len(by_head) * (1 if together else 3)
    for row in table.to_dict("records"):
        pairs = steps if together else {row["step"]: row["source_step"]}
        if site == "attn_out":
            patch: Any = PatchResidual(source, row["layer"], pairs, site)
        else:
            patch = PatchHead(source, (row["layer"], row["head"]), pairs, site)
        scored = score(model, [target.prompt_ids], [target.token_ids[: at + 1]], interventions=[patch], last=1)
        assert row["value"] == pytest.approx(float(scored[0].logprobs), abs=2e-6)
        assert row["effect"] == pytest.approx(row["value"] - row["baseline"], abs=1e-12)
    assert ("head" in table) == (site != "attn_out")
    assert ("steps" in table) == together != ("step" in table)
    halves = patch_sweep(
        model, target, source, log_probability(wanted), at=at, steps=steps, site=site, heads=heads, together=together,
        exchange=lambda here, there: here + 0.5 * (there - here), layers=[0, 3],
    )  # fmt: skip
    assert (halves["value"] - table["value"]).abs().max() > 1e-4
    same = patch_sweep(model, target, target, log_probability(wanted), site=site, heads=heads, together=together)
    assert same["effect"].abs().max() < 1e-6


def test_ones_own_stream_changes_nothing_and_order_of_batches_neither() -> None:
    model, target, source = pair("llama")
    metric = log_probability(5)
    assert patch_sweep(model, target, target, metric)["effect"].abs().max() < 1e-6
    tables = [patch_sweep(model, target, source, metric, batch_size=size) for size in (1, 5, 100)]
    for other in tables[1:]:
        assert (tables[0]["value"] - other["value"]).abs().max() < 1e-6


def test_transformer_lens_interchange_goes_in_as_exchange() -> None:
    model, target, source = pair("qwen2")
    exchange = SubspaceInterchange(random_basis(40, 3, seed=0).double())
    table = patch_sweep(model, target, source, log_probability(5), layers=[1], steps=[2, 6], exchange=exchange)
    text = torch.cat([target.prompt_ids, target.token_ids[:-1]])[None]
    for step, value in zip((2, 6), table["value"], strict=True):
        theirs = intervened_logits(
            model,
            "blocks.1.hook_out",
            exchange,
            text,
            source.residuals["resid_post"][1, step][None],
            lambda tokens: model(tokens)[:, -1],
            positions=torch.tensor([len(target.prompt_ids) - 1 + step]),
        )
        assert value == pytest.approx(float(theirs.log_softmax(-1)[0, 5]), abs=2e-6)
        one = PatchResidual(source, 1, [step], exchange=exchange)
        logits = score(model, [target.prompt_ids], [[*target.token_ids[:-1].tolist(), 5]], interventions=[one], last=1)
        assert value == pytest.approx(float(logits[0].logprobs), abs=2e-6)


def test_what_cannot_be_swept_is_refused_before_any_pass() -> None:
    model, target, source = pair("llama")
    metric = log_probability(5)
    passes: list[int] = []
    handle = model.original_model.register_forward_pre_hook(lambda *_: passes.append(1))
    other = decode(F.bridge("qwen2", torch.float64), F.prompts(1), max_new_tokens=3, record=ResidualSites())[0]
    for options, text in (
        ({"at": 8}, "at from 0 to 7"),
        ({"steps": [3, 8]}, "steps from 0 to 7, the one whose prediction is read"),
        ({"at": 2, "steps": [3]}, "steps from 0 to 2"),
        ({"layers": [3]}, "layers from 0 to 2"),
        ({"source": other}, "expected a rollout of tiny-llama"),
        ({"site": "ln_final"}, "expected a rollout that recorded ln_final"),
        ({"batch_size": 0}, "batch_size at least 1"),
        ({"heads": [0]}, "heads with one of the sites q, k, v, z, received heads of resid_post"),
        ({"site": "z", "heads": [4]}, r"patch_sweep: expected a head from 0 to 3 .*of z"),
        ({"site": "k", "heads": [2]}, r"patch_sweep: expected a head from 0 to 1 .*of k"),
        ({"site": "z", "heads": []}, "at least one head"),
    ):
        with pytest.raises(InputError, match=text):
            patch_sweep(model, target, **{"source": source, "metric": metric, **options})
    handle.remove()
    assert not passes or options.get("source") is other  # decoding the other model's rollout is another model
    with pytest.raises(InputError, match=r"one number a row, shape \(1,\)|one number a row, shape \(24,\)"):
        patch_sweep(model, target, source, lambda logits: logits)
    with pytest.raises(InputError, match="a metric that is finite"):
        patch_sweep(model, target, source, lambda logits: logits[:, 0] * float("nan"))

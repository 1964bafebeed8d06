"""What patching gives back: strongest, verified, agreement, files, pages; and what is refused before any work."""

from __future__ import annotations

import math
from typing import Any

import families as F
import hostile
import pandas as pd
import pytest
import torch
import transformers as t
from test_node_patching import METRIC, two_texts

from analyses.attribution import EdgeEffects, NodeEffects, patch_edges, patch_nodes
from interp import InputError, decode, load_model, log_probability
from interp.patching import mean_writes, residual_metric, zero_writes


@pytest.fixture(scope="module")
def nodes() -> NodeEffects:
    return patch_nodes(F.bridge("llama"), *two_texts("llama"), METRIC, verify=6, sample=9, seed=3)


@pytest.fixture(scope="module")
def edges() -> EdgeEffects:
    return patch_edges(F.bridge("llama"), *two_texts("llama"), METRIC, points=2, verify=4, sample=7, keep=50)


def test_the_strongest_are_verified_and_so_is_a_random_sample(nodes: NodeEffects, edges: EdgeEffects) -> None:
    for found, verify, sample in ((nodes, 6, 9), (edges, 4, 7)):
        rows = found.table
        assert rows["is_top"].sum() == verify
        assert rows["is_sample"].sum() == sample
        assert (rows["exact"].notna() == (rows["is_top"] | rows["is_sample"])).all()
        assert rows[rows["is_top"]]["score"].abs().min() >= rows[~rows["is_top"]]["score"].abs().max()
        assert len(found.top(4)) == 4
        assert found.top(4)["is_top"].all()
        assert found.verified["exact"].abs().is_monotonic_decreasing
        drawn = rows[rows["is_sample"]]
        ranks = drawn["score"].rank().to_numpy(), drawn["exact"].rank().to_numpy()
        n, apart = sample, float(((ranks[0] - ranks[1]) ** 2).sum())
        assert found.agreement.n == sample
        assert found.agreement.spearman == pytest.approx(1 - 6 * apart / (n * (n * n - 1)))  # no ties
        assert found.agreement.miss == pytest.approx((drawn["score"] - drawn["exact"]).abs().max())
        assert found.settings["texts"] == [dict(zip(("clean", "corrupt"), two_texts("llama"), strict=True))]
        assert len(found.settings["weight_hash"]) == 64
        shares = rows["score"] / (found.settings["clean"] - found.settings["corrupt"])
        assert rows["share"].to_numpy() == pytest.approx(shares.to_numpy())
    assert edges.settings["scored"] > len(edges.table) == 57 - int((edges.table["is_sample"] & rank_below(edges)).sum())


def rank_below(edges: EdgeEffects) -> pd.Series:
    """Edges of the table that are among the 50 strongest anyhow."""
    return edges.table["score"].abs().rank(ascending=False) <= 50


def test_the_sample_hangs_on_the_seed_alone(nodes: NodeEffects) -> None:
    texts = two_texts("llama")
    same = patch_nodes(F.bridge("llama"), *texts, METRIC, verify=0, sample=9, seed=3).table
    other = patch_nodes(F.bridge("llama"), *texts, METRIC, verify=0, sample=9, seed=4).table
    assert same["is_sample"].equals(nodes.table["is_sample"])
    assert not other["is_sample"].equals(nodes.table["is_sample"])
    moved = same[same["is_sample"]]
    assert (moved["position"] >= 2).all(), "where both runs are the same there is nothing to draw"


def test_what_is_saved_is_read_back_digit_for_digit(tmp_path: Any, nodes: NodeEffects, edges: EdgeEffects) -> None:
    flat = patch_nodes(F.bridge("llama"), [5, 6], zero_writes(), METRIC, kinds="mlp", verify=0)
    for found in (nodes, edges, flat):
        again = type(found).load(found.save(tmp_path / "some" / "effects.parquet"))
        pd.testing.assert_frame_equal(again.table, found.table, check_exact=True)
        assert repr(again.settings) == repr(found.settings)
        assert str(again) == str(found)
    with pytest.raises(InputError, match="a file that EdgeEffects"):
        EdgeEffects.load(tmp_path / "some" / "effects.parquet")
    with pytest.raises(InputError, match="a file that NodeEffects"):
        NodeEffects.load(tmp_path / "nothing.parquet")


def test_a_flat_metric_has_no_shares_and_says_so() -> None:
    clean, _ = two_texts("llama")
    found = patch_nodes(F.bridge("llama"), clean, clean, METRIC, verify=3, sample=3)
    assert found.is_flat
    assert found.table[["share", "exact_share"]].isna().all(axis=None)
    assert (found.table["score"] == 0).all()
    assert "the metric is flat" in str(found)
    assert "the metric is flat" in found._repr_html_()
    assert math.isnan(found.agreement.spearman)
    assert found.agreement.n == 0
    texts, metric = two_texts("llama"), residual_metric(lambda stream: 10 + 1e-7 * stream[:, 0], 1, name="nearly flat")
    nearly = patch_nodes(F.bridge("llama"), *texts, metric, kinds="mlp", verify="all", sample=0)
    assert nearly.is_flat
    assert nearly.table["score"].abs().max() > 0
    assert nearly.table[["share", "exact_share"]].isna().all(axis=None)
    assert not patch_nodes(F.bridge("llama"), *texts, METRIC, verify=0, sample=0).is_flat


def test_pages_hold_hostile_tokens_as_text(nodes: NodeEffects) -> None:
    tokens = ([token for token in hostile.HOSTILE if token != "\ud800"] * 99)[: len(nodes.table)]
    told = NodeEffects(nodes.table.assign(token=tokens), {**nodes.settings, "metric": "<b>m</b>"})
    page = told._repr_html_()
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>m" not in page
    assert "Spearman" in page


def test_what_cannot_be_patched_is_refused_before_any_pass() -> None:
    model, (clean, corrupt) = F.bridge("llama"), two_texts("llama")
    rollout = decode(model, [[5, 6, 7]], max_new_tokens=4)[0]
    short = decode(model, [[5, 6, 7]], max_new_tokens=2)[0]
    other = decode(F.bridge("qwen2"), [[5, 6, 7]], max_new_tokens=2)[0]
    passes: list[int] = []
    handle = model.original_model.register_forward_pre_hook(lambda *_: passes.append(1))
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {"corrupt": corrupt[:-1]},
            "equal length, 9 tokens as the clean one, received a corrupted prompt of 8",
        ),
        ({"clean": [clean, clean[:5]], "corrupt": [corrupt, corrupt[:5]]}, "clean texts with prompts of 9 tokens"),
        ({"clean": [clean, clean]}, "2 corrupted texts, one for each clean one, received 1"),
        ({"metric": [METRIC, METRIC]}, "one metric, or 1"),
        ({"at": 1}, "a step from 0 to 0 .* of a prompt alone"),
        ({"clean": rollout, "corrupt": [5, 6, 8], "at": 4}, "a step from 0 to 3 .* of a response of 4"),
        ({"clean": rollout, "corrupt": short}, "a corrupted response that reaches step 3"),
        ({"clean": other}, "a rollout of tiny-llama"),
        ({"positions": [9]}, "positions from 0 to 8, the one that is measured"),
        ({"steps": [1]}, "steps from 0 to 0"),
        ({"positions": [1], "steps": [0]}, "positions or steps"),
        ({"metric": "mlp"}, "metric as a function of logits"),
        ({"metric": residual_metric(torch.linalg.vector_norm, 3)}, "a layer from 0 to 2"),
        ({"verify": -1}, "verify at least 0"),
        ({"sample": 1.5}, "sample at least 0"),
        ({"direction": "back"}, '"denoise" or "noise"'),
        ({"corrupt": zero_writes(), "direction": "denoise"}, "direction noise, since a mean or zero is no run"),
        ({"batch_size": 0}, "batch_size at least 1"),
        ({"clean": [3] * 600, "corrupt": [4] * 600}, "at most 512 positions"),
    ]
    start = len(passes)
    for options, text in cases:
        given = {"clean": clean, "corrupt": corrupt, "metric": METRIC, **options}
        with pytest.raises(InputError, match=text):
            patch_nodes(model, **given)
        with pytest.raises(InputError, match=text):
            patch_edges(model, **given)
    for options, text in (
        ({"kinds": "attn"}, "kinds among embed, head, mlp, resid_pre"),
        ({"layers": [3]}, "layers from 0 to 2"),
        ({"estimate": False}, 'verify="all" where nothing is estimated'),
    ):
        with pytest.raises(InputError, match=text):
            patch_nodes(model, clean, corrupt, METRIC, **options)
    for options, text in (
        ({"ports": "z"}, "ports among q, k, v, mlp, out"),
        ({"corrupt": zero_writes()}, "points=0 against a mean or zero"),
        ({"positions": [2], "ports": "out"}, "at least one edge"),
    ):
        with pytest.raises(InputError, match=text):
            patch_edges(model, clean, options.pop("corrupt", corrupt), METRIC, **options)
    assert len(passes) == start
    handle.remove()


def test_numbers_that_are_none_and_metrics_without_a_gradient_are_told() -> None:
    model, (clean, corrupt) = F.bridge("llama"), two_texts("llama")
    cases: list[tuple[Any, str]] = [
        (lambda logits: logits[:, 0] * float("nan"), "a metric that is finite"),
        (lambda logits: logits.detach()[:, 0], "a metric that autograd can differentiate"),
        (lambda logits: logits, r"one number a row, shape \(1,\)"),
        (residual_metric(lambda stream: stream.detach()[:, 0], 1), "a score that autograd can differentiate"),
        (residual_metric(lambda stream: stream, 1), r"one number a row, shape \(1,\)"),
    ]
    for metric, text in cases:
        for patch in (patch_nodes, patch_edges):
            with pytest.raises(InputError, match=text):
                patch(model, clean, corrupt, metric, verify=0, sample=0)
    found = patch_nodes(
        model, clean, corrupt, lambda logits: logits.detach()[:, 0], estimate=False, kinds="mlp", verify="all", sample=0
    )
    assert found.table["score"].isna().all()
    assert found.table["exact"].notna().all()
    with pytest.raises(InputError, match="rollouts of at least one step"):
        mean_writes([])
    with pytest.raises(InputError, match="score as a function"):
        residual_metric("nhsic")  # type: ignore[arg-type]


def test_families_whose_writes_do_not_add_up_have_no_edges() -> None:
    with pytest.raises(InputError, match=r"tiny-gemma3 \(Gemma3ForCausalLM\), whose block 0 adds what differs"):
        patch_edges(F.bridge("gemma3"), *two_texts("gemma3"), METRIC)


def test_families_that_hide_heads_or_what_is_read_are_refused_by_name() -> None:
    def tiny(config: t.PretrainedConfig) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            hf = t.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        hf.config.architectures = [type(hf).__name__]
        return load_model(f"tiny-{config.model_type}", hf_model=hf, device="cpu")

    sizes = {
        "vocab_size": F.VOCAB, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, **F.PAD_EOS,
    }  # fmt: skip
    latent = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}
    experts = {
        "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    }  # fmt: skip
    texts = [7, 12, 5], [7, 6, 5]
    deepseek = tiny(t.DeepseekV3Config(**sizes, **latent, **experts, first_k_dense_replace=1))
    with pytest.raises(InputError, match=r"4 heads that can be told apart .* tiny-deepseek_v3, whose z is \[6, 8\]"):
        patch_nodes(deepseek, *texts, METRIC)
    assert patch_nodes(deepseek, *texts, METRIC, kinds="mlp", verify=1).table["score"].abs().max() > 0
    with pytest.raises(InputError, match=r"blocks with attn.k.hook_in, .* received tiny-deepseek_v3"):
        patch_edges(deepseek, *texts, METRIC)
    parallel = tiny(t.PhiConfig(**sizes))
    with pytest.raises(InputError, match=r"blocks with ln2.hook_in, .* received tiny-phi"):
        patch_edges(parallel, *texts, METRIC)
    assert patch_edges(parallel, *texts, METRIC, ports=("q", "k", "v", "out"), verify=1).agreement.n == 20


def test_more_than_the_memory_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    model, (clean, corrupt) = F.bridge("llama"), two_texts("llama")

    class Little:
        available = 200_000

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    for patch in (patch_nodes, patch_edges):
        with pytest.raises(InputError, match=r"free on cpu|GB of free memory"):
            patch(model, clean, corrupt, log_probability(5), batch_size=1)


def test_half_precision_agrees_with_full_to_its_rounding() -> None:
    texts = two_texts("llama")
    for patch, options in ((patch_nodes, {"kinds": "mlp"}), (patch_edges, {"points": 0, "ports": "out"})):
        half, full = (
            patch(F.bridge("llama", dtype), *texts, METRIC, verify="all", sample=0, **options)
            for dtype in (torch.bfloat16, torch.float32)
        )
        both = half.table.merge(full.table, on=list(half._name) if patch is patch_nodes else ["source"])
        for column in ("score", "exact"):
            scale = both[f"{column}_y"].abs().max()
            assert (both[f"{column}_x"] - both[f"{column}_y"]).abs().max() < 0.1 * scale

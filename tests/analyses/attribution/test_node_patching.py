"""Patched nodes against a literal loop of plain Hugging Face edits, and estimates against plain autograd."""

from __future__ import annotations

import families as F
import plain_edits as P
import pytest
import torch
from references import MODELS

from analyses.attribution import nhsic_metric, patch_nodes, score_metric
from interp import answer_log_probability, decode, logit_difference
from interp.patching import mean_writes, residual_metric, zero_writes
from probes import answer_probe

METRIC = logit_difference(5, 6)


def two_texts(name: str, length: int = 9) -> tuple[list[int], list[int]]:
    """Two texts of one length that differ at two positions."""
    clean = [7, 12, 5, 30, 9, 41, 8, 11, 13][:length]
    corrupt = list(clean)
    corrupt[2], corrupt[5] = 6, 17
    return clean, corrupt


def difference(logits: torch.Tensor) -> float:
    return float((logits[-1, 5] - logits[-1, 6]).detach())


@pytest.mark.parametrize("name", MODELS)
def test_exact_and_estimated_effects_are_those_of_plain_hugging_face(name: str) -> None:
    hf, model = F.pair(name, torch.float64)
    clean, corrupt = two_texts(name)
    found = patch_nodes(model, clean, corrupt, METRIC, positions=[2, 6, 8], verify="all", sample=0)

    _, new = P.values(hf, clean)
    logits, old = P.values(hf, corrupt)
    assert found.settings["corrupt"] == pytest.approx(difference(logits), abs=1e-9)
    slopes = dict(zip(old, torch.autograd.grad(logits[-1, 5] - logits[-1, 6], list(old.values())), strict=True))
    seen = []
    for row in found.table.itertuples():
        head = None if row.kind != "head" else row.head
        at = (row.kind, row.layer), (0, row.position) if head is None else (0, row.position, head)
        value = new[at[0]][at[1]].detach()
        patched = P.with_node(hf, corrupt, (row.kind, row.layer, head), row.position, value)
        assert row.exact == pytest.approx(difference(patched) - difference(logits), abs=1e-8), row.node
        slope = slopes[at[0]][at[1]]
        assert row.score == pytest.approx(float(slope @ (value - old[at[0]][at[1]].detach())), abs=1e-8), row.node
        seen.append(abs(row.exact))
    layers = len(old) // 3
    assert len(seen) == 3 * layers * (P.heads(hf) + 2)
    assert max(seen) > 1e-3
    everything = found.table.query("node == 'L0 resid_pre' and position == 2").iloc[0]
    assert everything["exact_share"] != 0


def test_heads_alone_are_scored_as_among_all() -> None:
    model, (clean, corrupt) = F.bridge("llama"), two_texts("llama")
    everything = patch_nodes(model, clean, corrupt, METRIC, verify=0, sample=0).table
    heads = patch_nodes(model, clean, corrupt, METRIC, kinds="head", verify=0, sample=0).table
    among = everything[everything["kind"] == "head"].reset_index(drop=True)
    assert (heads["score"] != 0).sum() > 50
    assert heads["score"].to_numpy() == pytest.approx(among["score"].to_numpy(), abs=1e-6)


def test_a_family_with_a_head_a_key_agrees_with_transformer_lens() -> None:
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch

    model, (clean, corrupt) = F.bridge("gpt2"), two_texts("gpt2", 6)
    theirs = attribution_patch(
        model, torch.tensor([clean]), torch.tensor([corrupt]), lambda logits: logits[0, -1, 5] - logits[0, -1, 6]
    ).node_scores
    ours = patch_nodes(model, clean, corrupt, METRIC, kinds=("embed", "head", "mlp"), verify=0, sample=0)
    own = ours.table.set_index(["node", "position"])["score"]
    assert len(own) == len(theirs)
    for node, score in theirs.items():
        name = {"embed": "embed", "mlp_out": f"L{node.layer} MLP"}.get(node.kind, f"L{node.layer}H{node.head}")
        assert own[name, node.position] == pytest.approx(score, abs=1e-5), node


@pytest.mark.parametrize("site", ["resid_mid", "resid_post"])
def test_of_an_inner_stream_what_is_above_has_no_effect_and_what_adds_to_it_is_exact(site: str) -> None:
    model, (clean, corrupt) = F.bridge("qwen2", torch.float64), two_texts("qwen2")
    direction = torch.linspace(-1, 1, 40, dtype=torch.float64)
    linear = residual_metric(lambda stream: stream @ direction, 1, site=site)
    found = patch_nodes(model, clean, corrupt, linear, kinds=("embed", "head", "mlp", "resid_pre"), verify="all")
    rows, last = found.table, len(clean) - 1
    above = (rows["layer"] > 1) | ((rows["layer"] == 1) & (rows["kind"] == "mlp") & (site == "resid_mid"))
    late = (rows["layer"] == 1) & (rows["position"] < last) & (rows["kind"] != "resid_pre")
    assert above.sum() > 10
    assert (rows[above | late][["score", "exact"]] == 0.0).all(axis=None)
    # What is added to the measured stream with nothing after it is added to the metric.
    kind = "head" if site == "resid_mid" else "mlp"
    adds = rows[(rows["layer"] == 1) & (rows["kind"] == kind) & (rows["position"] == last)]
    assert adds["score"].abs().min() > 1e-4
    assert adds["score"].to_numpy() == pytest.approx(adds["exact"].to_numpy(), rel=1e-9)


def test_effects_of_a_score_of_an_inner_stream_are_those_of_plain_hugging_face() -> None:
    hf, model = F.pair("llama", torch.float64)
    clean, corrupt = two_texts("llama")
    answer = torch.linspace(3, -2, 44, dtype=torch.float64).sin()

    def score(stream: torch.Tensor) -> torch.Tensor:
        return torch.stack([dense_nhsic(row, answer) for row in stream])

    found = patch_nodes(model, clean, corrupt, nhsic_metric(answer, 1, sigma=2.0), positions=[5, 8], verify="all")
    again = patch_nodes(model, clean, corrupt, residual_metric(score, 1), positions=[5, 8], verify=0, sample=0)
    assert again.table["score"].to_numpy() == pytest.approx(found.table["score"].to_numpy(), rel=1e-6, abs=1e-9)
    assert found.settings["metric"] == "nhsic"

    _, new = P.values(hf, clean)
    _, old = P.values(hf, corrupt)
    measured = score(old["resid_pre", 2][0, -1:])[0]
    below = [at for at in old if at[1] < 2]
    slopes = dict(zip(below, torch.autograd.grad(measured, [old[at] for at in below]), strict=True))
    checked = 0
    for row in found.table.itertuples():
        if row.layer < 2:
            at, where = (row.kind, row.layer), (0, row.position, row.head) if row.kind == "head" else (0, row.position)
            value, head = new[at][where].detach(), row.head if row.kind == "head" else None
            stream = P.stream_with(hf, corrupt, (row.kind, row.layer, head), row.position, value)
            changed = score(stream[2][-1:])[0] - measured.detach()
            assert row.exact == pytest.approx(float(changed), abs=1e-8)
            assert row.score == pytest.approx(float(slopes[at][where] @ (value - old[at][where].detach())), abs=1e-8)
            checked += abs(row.exact) > 1e-4
    assert checked > 10


def test_bits_that_a_probe_reads_from_a_stream_are_a_metric() -> None:
    model, (clean, corrupt) = F.bridge("llama", torch.float64), two_texts("llama")
    vectors = torch.randn(60, 44, generator=torch.Generator().manual_seed(0))
    labels = (vectors[:, 0] > 0).long()
    trained = answer_probe(vectors, labels)
    assert trained.probe is not None
    bits = patch_nodes(model, clean, corrupt, score_metric(trained.score(1), 1), positions=[8], verify="all")
    by_hand = residual_metric(lambda stream: trained.score(1).value(stream), 1)
    again = patch_nodes(model, clean, corrupt, by_hand, positions=[8], verify="all")
    for column in ("score", "exact"):
        assert bits.table[column].to_numpy() == pytest.approx(again.table[column].to_numpy(), abs=1e-9)
    assert bits.settings["metric"] == "v-information"
    assert bits.table["exact"].abs().max() > 0.01


def dense_nhsic(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The defining formula, which autograd can differentiate."""
    both = []
    for v in (x, y):
        gram = torch.exp(-(v[:, None] - v[None]).square() / (2 * 2.0**2))
        centred = gram - gram.mean(1, keepdim=True)
        ridge = 1e-5 * len(v) * torch.eye(len(v), dtype=v.dtype)
        both.append(torch.linalg.solve(centred + ridge, centred, left=False))
    return (both[0] * both[1].T).sum()


def test_against_zero_and_means_the_clean_run_is_patched() -> None:
    hf, model = F.pair("llama", torch.float64)
    clean, other = two_texts("llama")
    source = decode(model, [other], max_new_tokens=5)[0]
    whole = [*other, *source.token_ids.tolist()][:-1]
    _, others = P.values(hf, whole)
    plain = P.values(hf, clean)[0].detach()
    means = [(mean_writes(source), [8, 9, 10, 11, 12]), (mean_writes(source, [-1, 0]), [8, 12])]
    for reference, at in [(zero_writes(), None), *means]:
        found = patch_nodes(model, clean, reference, METRIC, positions=[4, 8], layers=[0, 2], verify="all", sample=0)
        assert found.settings["direction"] == "noise"
        assert found.gap != found.gap
        assert found.table["share"].isna().all()
        for row in found.table.itertuples():
            head, key = (row.head if row.kind == "head" else None), (row.kind, row.layer)
            mean = others[key][0, at].detach().mean(0) if at else torch.zeros_like(others[key][0, 0])
            put = mean if head is None else mean[head]
            patched = P.with_node(hf, clean, (row.kind, row.layer, head), row.position, put)
            assert row.exact == pytest.approx(difference(plain) - difference(patched), abs=1e-8)
    assert "mean over 2 steps of 1 rollout" in found.settings["against"]


def test_noising_is_what_is_lost_and_denoising_what_is_gained() -> None:
    model, (clean, corrupt) = F.bridge("llama", torch.float64), two_texts("llama")
    lost = patch_nodes(model, clean, corrupt, METRIC, direction="noise", kinds="mlp", verify="all")
    back = patch_nodes(model, corrupt, clean, METRIC, kinds="mlp", verify="all")
    # The clean run with corrupted values, either way round: what is lost there is gained here, with the other sign.
    assert lost.gap == pytest.approx(-back.gap)
    for column in ("score", "exact"):
        assert lost.table[column].to_numpy() == pytest.approx(-back.table[column].to_numpy(), abs=1e-9)
    everything = patch_nodes(model, clean, corrupt, METRIC, positions=[2, 5], kinds="embed", verify="all")
    assert everything.settings["clean"] - everything.settings["corrupt"] == pytest.approx(everything.gap)


def test_several_texts_are_averaged_position_by_position() -> None:
    model, (clean, corrupt) = F.bridge("gpt2", torch.float64), two_texts("gpt2", 6)
    second = [clean[::-1], corrupt[::-1]]
    metrics = [METRIC, logit_difference(9, 3)]
    options = {"kinds": ("head", "mlp"), "verify": "all", "sample": 5}
    both = patch_nodes(model, [clean, second[0]], [corrupt, second[1]], metrics, **options)
    one = patch_nodes(model, clean, corrupt, metrics[0], **options)
    two = patch_nodes(model, second[0], second[1], metrics[1], **options)
    for column in ("score", "exact"):
        mean = (one.table[column] + two.table[column]) / 2
        assert both.table[column].to_numpy() == pytest.approx(mean.to_numpy(), abs=1e-10)
    assert both.gap == pytest.approx((one.gap + two.gap) / 2)
    assert both.settings["pairs"] == 2


def test_an_answer_is_measured_in_place_of_the_response() -> None:
    hf, model = F.pair("qwen3", torch.float64)
    clean, corrupt = two_texts("qwen3", 7)
    answer = [11, 23, 4]
    found = patch_nodes(model, clean, corrupt, answer_log_probability(answer), kinds="mlp", verify="all", sample=0)
    ids = [*corrupt, *answer[:-1]]
    _, new = P.values(hf, clean)
    logits, _ = P.values(hf, ids)

    def total(logits: torch.Tensor) -> float:
        return float(logits[-3:].detach().log_softmax(-1)[range(3), answer].sum())

    assert found.settings["corrupt"] == pytest.approx(total(logits), abs=1e-8)
    for row in found.table.itertuples():
        value = new["mlp", row.layer][0, row.position].detach()
        patched = P.with_node(hf, ids, ("mlp", row.layer, None), row.position, value)
        assert row.exact == pytest.approx(total(patched) - total(logits), abs=1e-7)


def test_a_step_of_a_rollout_and_a_corrupted_prompt_with_the_clean_response() -> None:
    model = F.bridge("llama", torch.float64)
    clean, corrupt = decode(model, [[5, 6, 7], [5, 9, 7]], max_new_tokens=6)
    found = patch_nodes(model, clean, corrupt, METRIC, at=3, steps=[0, -1], kinds="mlp", verify="all")
    assert found.table["position"].unique().tolist() == [2, 5]
    assert found.table["step"].unique().tolist() == [0, 3]
    assert found.table["token"].unique().tolist() == ["w7", clean.tokens[2]]
    texts = [[*rollout.prompt_ids.tolist(), *rollout.token_ids.tolist()][:6] for rollout in (clean, corrupt)]
    by_ids = patch_nodes(model, *texts, METRIC, positions=[2, 5], kinds="mlp", verify="all")
    assert by_ids.table["exact"].to_numpy() == pytest.approx(found.table["exact"].to_numpy(), abs=1e-12)
    given = patch_nodes(model, clean, [5, 9, 7], METRIC, at=3, positions=[2], kinds="mlp", verify="all")
    same = [5, 9, 7, *texts[0][3:]]
    literal = patch_nodes(model, texts[0], same, METRIC, positions=[2], kinds="mlp", verify="all")
    assert given.table["exact"].to_numpy() == pytest.approx(literal.table["exact"].to_numpy(), abs=1e-12)

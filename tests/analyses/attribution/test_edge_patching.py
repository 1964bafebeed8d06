"""Edges against literal path patches and gradient products on plain Hugging Face, and against TransformerLens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import families as F
import plain_edits as P
import pytest
import torch
from references import modules
from test_node_patching import METRIC, difference, two_texts
from torch import Tensor

from analyses.attribution import patch_edges
from interp import answer_log_probability, load_model
from interp.patching import residual_metric, zero_writes

MODELS = ("llama", "toy")  # grouped keys and values; as many as there are heads


class Plain:
    """A Llama's two runs, as Hugging Face computes them, and what is put together from them by hand."""

    def __init__(self, hf: Any, clean: list[int], corrupt: list[int]) -> None:
        self.hf, self.ids = hf, corrupt
        _, self.new = P.values(hf, clean)
        self.logits, self.old = P.values(hf, corrupt)
        self.blocks, _, _ = modules(hf)
        self.heads, self.groups = P.heads(hf), P.heads(hf) // hf.config.num_key_value_heads

    def added(self, source: str, position: int) -> Tensor:
        """What a source writes in the clean run less what it writes in the corrupted one."""
        if source == "embed":
            return self.moved(("resid_pre", 0))[position]
        layer = int(source[1 : source.index("H")]) if "H" in source else int(source[1 : source.index(" ")])
        if "MLP" in source:
            return self.moved(("mlp", layer))[position]
        head = int(source.split("H")[1])
        weight = P.output_projection(self.blocks[layer]).weight.unflatten(1, (self.heads, -1))[:, head]
        return weight.detach() @ self.moved(("head", layer))[position, head]

    def moved(self, at: tuple[str, int]) -> Tensor:
        return (self.new[at] - self.old[at]).detach()[0]

    def z(self, layer: int, head: int, position: int, streams: dict[str, Tensor]) -> Tensor:
        """A head's z at a position, written out, its q, k and v from streams ``[pos, d_model]`` of their own."""
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        attention, norm = self.blocks[layer].self_attn, self.blocks[layer].input_layernorm
        width = attention.head_dim
        positions = torch.arange(len(self.ids))[None]
        cos, sin = self.hf.model.rotary_emb(streams["q"][None], positions)

        def of(port: str, index: int) -> Tensor:
            rows = getattr(attention, f"{port}_proj").weight[index * width : (index + 1) * width]
            return norm(streams[port]) @ rows.T

        q, k = of("q", head), of("k", head // self.groups)
        q, k = (part[0, 0] for part in apply_rotary_pos_emb(q[None, None], k[None, None], cos, sin))
        pattern = (q[position] @ k[: position + 1].T * width**-0.5).softmax(-1)
        return pattern @ of("v", head // self.groups)[: position + 1]

    def middle(self, ids: list[int], layer: int, change: Callable[[Tensor], Tensor] | None = None) -> tuple[Any, Any]:
        """Logits of a run in which what the norm before an MLP reads is changed, and what it read."""
        seen: list[Tensor] = []

        def see(_m: Any, args: Any) -> Any:
            seen.append(args[0].clone() if change is None else change(args[0]))
            return (seen[-1],)

        handle = self.blocks[layer].post_attention_layernorm.register_forward_pre_hook(see)
        try:
            return self.hf(torch.tensor([ids])).logits[0], seen[0]
        finally:
            handle.remove()


def place(target: str) -> tuple[int, int | None]:
    if "H" in target:
        layer, head = target[1:].split("H")
        return int(layer), int(head)
    return int(target[1:].split(" ")[0]), None


def ported(plain: Plain, row: Any, streams: dict[str, Tensor]) -> dict[str, Tensor]:
    """The streams with the edge's difference in what its port reads at its source."""
    moved = {name: stream.clone() for name, stream in streams.items()}
    moved[row.port][row.source_position] += plain.added(row.source, row.source_position)
    return moved


@pytest.mark.parametrize("name", MODELS)
def test_verified_edges_are_literal_path_patches(name: str) -> None:
    hf, model = F.pair(name, torch.float64)
    clean, corrupt = two_texts(name)
    found = patch_edges(model, clean, corrupt, METRIC, positions=[6, 8], points=0, verify=20, sample=40)
    plain, seen = Plain(hf, clean, corrupt), set()
    for row in found.verified.itertuples():
        if row.target == "logits":
            final = hf.model.norm
            handle = final.register_forward_pre_hook(lambda _m, args, row=row: (plus(args[0], plain, row),))
            try:
                logits = hf(torch.tensor([corrupt])).logits[0]
            finally:
                handle.remove()
        else:
            layer, head = place(row.target)
            if head is None:
                logits, _ = plain.middle(corrupt, layer, lambda x, row=row: plus(x, plain, row))
            else:
                streams = dict.fromkeys("qkv", plain.old["resid_pre", layer].detach()[0])
                z = plain.z(layer, head, row.position, ported(plain, row, streams)).detach()
                logits = P.with_node(hf, corrupt, ("head", layer, head), row.position, z)
        # attention's softmax is in float32 in Hugging Face and in float64 above
        assert row.exact == pytest.approx(difference(logits) - difference(plain.logits), abs=2e-6), row
        seen.add(row.port)
    assert seen == {"q", "k", "v", "mlp", "out"}
    assert found.verified["exact"].abs().max() > 1e-3


def plus(stream: Tensor, plain: Plain, row: Any) -> Tensor:
    stream = stream.clone()
    stream[0, row.position] += plain.added(row.source, row.source_position)
    return stream


@pytest.mark.parametrize("name", MODELS)
def test_estimates_are_literal_products_with_plain_gradients(name: str) -> None:
    hf, model = F.pair(name, torch.float64)
    clean, corrupt = two_texts(name)
    found = patch_edges(model, clean, corrupt, METRIC, positions=[6, 8], points=0, verify=0, sample=0, keep=10**6)
    plain = Plain(hf, clean, corrupt)
    value = plain.logits[-1, 5] - plain.logits[-1, 6]
    layers = range(len(plain.blocks))
    slopes = torch.autograd.grad(value, [plain.old["head", layer] for layer in layers])
    gradients: dict[tuple[str, str, int], Tensor] = {}
    for layer in layers:
        logits, middle = plain.middle(corrupt, layer)
        through = torch.autograd.grad(logits[-1, 5] - logits[-1, 6], middle)[0][0]
        for position in (6, 8):
            # middle feeds the norm before the MLP alone
            gradients[f"L{layer} MLP", "mlp", position] = through
            for head in range(plain.heads):
                streams = {p: plain.old["resid_pre", layer].detach()[0].requires_grad_() for p in "qkv"}
                z = plain.z(layer, head, position, streams)
                back = torch.autograd.grad(z, list(streams.values()), slopes[layer][0, position, head])
                gradients |= {(f"L{layer}H{head}", port, position): b for port, b in zip("qkv", back, strict=True)}
    rows = found.table[found.table["target"] != "logits"]
    assert len(rows) > 1000
    for row in rows.sample(400, random_state=0).itertuples():
        gradient = gradients[row.target, row.port, row.position][row.source_position]
        assert row.score == pytest.approx(float(gradient @ plain.added(row.source, row.source_position)), abs=2e-6)


def ungrouped(family: str) -> Any:
    """The same model in which every head has keys and values of its own."""
    hf = copy.deepcopy(F.hf_model(family))
    times = hf.config.num_attention_heads // hf.config.num_key_value_heads
    for block in modules(hf)[0]:
        attention = block.self_attn
        for name in ("k_proj", "v_proj"):
            projection = getattr(attention, name)
            for part in ("weight", "bias"):
                values = getattr(projection, part, None)
                if values is not None:
                    heads = values.data.unflatten(0, (-1, attention.head_dim))
                    values.data = heads.repeat_interleave(times, 0).flatten(0, 1)
            projection.out_features *= times
        attention.num_key_value_groups = 1
    hf.config.num_key_value_heads = hf.config.num_attention_heads
    return load_model(f"ungrouped-{family}", hf_model=hf, device="cpu")


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "qwen3"])
def test_summed_over_positions_they_are_the_edges_of_transformer_lens(family: str) -> None:
    from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

    clean, corrupt = ([7, 12, 5], [7, 6, 5]) if family == "gpt2" else ([9, 12, 5], [9, 30, 5])
    theirs = attribution_patch(
        F.bridge(family) if family == "gpt2" else ungrouped(family),
        torch.tensor([clean]),
        torch.tensor([corrupt]),
        lambda logits: logits[0, -1, 5] - logits[0, -1, 6],
        EdgeAttributionConfig(granularity="edge"),
    ).edge_scores
    ours = patch_edges(
        F.bridge(family), clean, corrupt, METRIC, positions=range(3), points=0, verify=0, sample=0, keep=10**6
    ).table
    summed = ours.groupby(["source", "target", "port", "source_position"])["score"].sum()
    kinds = {"q_input": "q", "k_input": "k", "v_input": "v", "mlp_in": "mlp", "logits": "out"}
    compared = 0
    for (writer, reader), score in theirs.items():
        target = {"mlp": f"L{reader.layer} MLP", "out": "logits"}.get(
            kinds[reader.kind], f"L{reader.layer}H{reader.head}"
        )
        source = {"embed": "embed", "mlp_out": f"L{writer.layer} MLP"}.get(
            writer.kind, f"L{writer.layer}H{writer.head}"
        )
        own = summed.get((source, target, kinds[reader.kind], reader.position), 0.0)
        assert own == pytest.approx(score, abs=1e-5), (source, target, reader)
        compared += own != 0
    assert compared > 300


def test_integrated_gradients_average_over_inputs_between_the_runs() -> None:
    hf, model = F.pair("llama", torch.float64)
    clean, corrupt = two_texts("llama")
    found = patch_edges(model, clean, corrupt, METRIC, ports=("mlp", "q"), points=4, verify=0, sample=0, keep=10**6)
    plain = Plain(hf, clean, corrupt)
    first = plain.old["resid_pre", 0].detach()
    total: dict[tuple[str, str], Tensor] = {}
    for k in range(1, 5):
        between = first + k / 4 * (plain.new["resid_pre", 0].detach() - first)
        with P.changing(hf, "resid_pre", 0, lambda _, between=between: between):
            there = Plain(hf, clean, corrupt)
            value = there.logits[-1, 5] - there.logits[-1, 6]
            slopes = torch.autograd.grad(value, [there.old["head", layer] for layer in range(3)])
            for layer in range(3):
                logits, middle = there.middle(corrupt, layer)
                through = torch.autograd.grad(logits[-1, 5] - logits[-1, 6], middle)[0][0, -1]
                key = f"L{layer} MLP", "mlp"
                total[key] = total.get(key, 0) + through / 4
                for head in range(there.heads):
                    streams = {p: there.old["resid_pre", layer].detach()[0].requires_grad_() for p in "qkv"}
                    z = there.z(layer, head, 8, streams)
                    key = f"L{layer}H{head}", "q"
                    back = torch.autograd.grad(z, streams["q"], slopes[layer][0, 8, head])[0]
                    total[key] = total.get(key, 0) + back[8] / 4
    assert found.settings["method"].endswith("integrated over 4 points")
    assert len(found.table) > 80
    for row in found.table.itertuples():
        expected = float(total[row.target, row.port] @ plain.added(row.source, 8))
        assert row.score == pytest.approx(expected, abs=2e-6), row


def test_edges_into_an_inner_stream_that_is_measured_are_exact_and_complete() -> None:
    model, (clean, corrupt) = F.bridge("qwen2", torch.float64), two_texts("qwen2")
    direction = torch.linspace(-1, 1, 40, dtype=torch.float64)
    linear = residual_metric(lambda stream: stream @ direction, 1)
    found = patch_edges(model, clean, corrupt, linear, points=0, verify="all", sample=0, ports=("q", "mlp", "out"))
    out = found.table[found.table["port"] == "out"]
    assert set(out["target"]) == {"L1 resid_post"}
    assert not found.table["target"].str.startswith("L2").any()
    assert out["score"].to_numpy() == pytest.approx(out["exact"].to_numpy(), rel=1e-6)
    assert out["exact"].sum() == pytest.approx(found.gap, rel=1e-6)  # the writes add up to the stream
    assert len(out) == 1 + 2 * 5
    assert (out[out["source"] == "embed"]["exact"] == 0).all()  # of the last token, which is the same in both runs


def test_noising_edges_and_edges_against_zero_are_signed_as_what_is_lost() -> None:
    model, (clean, corrupt) = F.bridge("gpt2", torch.float64), two_texts("gpt2", 6)
    options: dict[str, Any] = {"points": 0, "verify": "all", "sample": 0, "ports": ("v", "mlp", "out"), "sources": [4]}
    keys = ["source", "target", "port", "source_position", "position"]
    lost = patch_edges(model, clean, corrupt, METRIC, direction="noise", **options).table.set_index(keys)
    back = patch_edges(model, corrupt, clean, METRIC, **options).table.set_index(keys)
    assert lost["exact"].to_numpy() == pytest.approx(-back["exact"].reindex(lost.index).to_numpy(), abs=1e-9)
    assert lost["score"].to_numpy() == pytest.approx(-back["score"].reindex(lost.index).to_numpy(), abs=1e-6)
    zero = patch_edges(model, clean, zero_writes(), METRIC, **options)
    logits, values = P.values(F.hf_model("gpt2", torch.float64), clean)
    final = modules(F.hf_model("gpt2", torch.float64))[2]
    row = zero.table.query("target == 'logits' and source == 'L2 MLP'").iloc[0]

    def without(_m: Any, args: Any) -> Any:
        stream = args[0].clone()
        stream[0, -1] -= values["mlp", 2][0, -1].detach()
        return (stream,)

    handle = final.register_forward_pre_hook(without)
    try:
        cut = F.hf_model("gpt2", torch.float64)(torch.tensor([clean])).logits[0]
    finally:
        handle.remove()
    assert row["exact"] == pytest.approx(difference(logits) - difference(cut), abs=1e-8)


def test_edges_of_several_texts_are_averaged_and_an_answer_is_read_to_its_end() -> None:
    hf, model = F.pair("llama", torch.float64)
    clean, corrupt = two_texts("llama", 7)
    answer = [11, 23, 4]
    options: dict[str, Any] = {"ports": ("mlp", "out"), "points": 0, "verify": "all", "sample": 0, "keep": 10**6}
    metric = answer_log_probability(answer)
    one = patch_edges(model, clean, corrupt, metric, **options)
    two = patch_edges(model, clean[::-1], corrupt[::-1], metric, **options)
    both = patch_edges(model, [clean, clean[::-1]], [corrupt, corrupt[::-1]], metric, **options)
    for column in ("score", "exact"):
        mean = (one.table[column] + two.table[column]) / 2
        assert both.table[column].to_numpy() == pytest.approx(mean.to_numpy(), abs=1e-6)
    plain, ids = Plain(hf, clean, corrupt), [*corrupt, *answer[:-1]]

    def total(logits: Tensor) -> float:
        return float(logits[-3:].detach().log_softmax(-1)[range(3), answer].sum())

    before = total(hf(torch.tensor([ids])).logits[0])
    rows = one.table[one.table["target"] == "L1 MLP"]
    assert len(rows) == 1 + 2 * 4 + 1
    for row in rows.itertuples():
        changed, _ = plain.middle(ids, 1, lambda x, row=row: plus(x, plain, row))
        assert row.exact == pytest.approx(total(changed) - before, abs=1e-7)

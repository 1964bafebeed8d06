"""Direct logit attribution: against plain Hugging Face's logits, a literal loop, and TransformerLens's own."""

from __future__ import annotations

from typing import Any

import families as F
import numpy as np
import pandas
import pytest
import torch

from analyses.attribution import logit_attribution, matched_contrasts
from analyses.attribution import logits as home
from analyses.views.frames import ShareTable
from interp import InputError, decode, load_model
from interp.interventions import SteerResidual, thinking_token_ids
from interp.writes import read_writes

PRE_NORM = [family for family in F.FAMILIES if family != "gemma3"]
PROMPTS = [[5, 9, 77, 3, 41, 8, 20], [60, 7]]
RESPONSES = [[12, 50, 99], [44, 45, 46, 47]]


def hf_logits(family: str, n: int) -> torch.Tensor:
    with torch.no_grad():
        return F.hf_model(family)(torch.tensor([PROMPTS[n] + RESPONSES[n]])).logits[0, len(PROMPTS[n]) - 1 : -1]


def summed(table: ShareTable, *more: str) -> pandas.Series[Any]:
    return table.groupby(["response", "step", *more])["share"].sum()


@pytest.mark.parametrize("family", PRE_NORM)
def test_shares_sum_to_plain_hugging_faces_logits(family: str) -> None:
    table = logit_attribution(F.bridge(family), PROMPTS, RESPONSES)
    expected = [hf_logits(family, n)[step, token] for n in (0, 1) for step, token in enumerate(RESPONSES[n])]
    np.testing.assert_allclose(summed(table), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(table.groupby(["response", "step"])["total"].first(), expected, rtol=1e-5, atol=1e-5)
    assert table["token_id"].tolist() == table["target_id"].tolist()
    assert table["contrast"].isna().all()
    first = table[(table["response"] == 1) & (table["step"] == 0)]
    assert first["input_token"].unique().tolist() == ["w7"]
    assert first["token"].unique().tolist() == ["w44"]
    kinds = {"gpt2": {"embed", "pos_embed", "head", "attn_bias", "mlp", "norm_bias"}}
    assert set(table["kind"]) == kinds.get(family, {"embed", "head", "mlp"})


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_share_is_what_a_write_adds_under_the_frozen_norm(family: str) -> None:
    """A literal loop in float64: the module's own norm, its scale held, on each write alone."""
    model, hf = F.bridge(family), F.hf_model(family)
    writes = read_writes(model, PROMPTS[0], RESPONSES[0], [[1]])
    norm = hf.transformer.ln_f if family == "gpt2" else hf.model.norm
    stream = writes.stream[-1, 0].double()
    left = stream - stream.mean() if family == "gpt2" else stream
    eps = norm.eps if family == "gpt2" else norm.variance_epsilon
    scale = (left.pow(2).mean() + eps).sqrt()
    direction = hf.lm_head.weight[50].double() - hf.lm_head.weight[7].double()
    table = logit_attribution(model, PROMPTS[0], RESPONSES[0], 1, contrast=7).set_index("component")
    for component, value in writes:
        write = value[0].double()
        write = write - write.mean() if family == "gpt2" else write
        expected = float(write / scale * norm.weight.double() @ direction)
        assert table.loc[component.label, "share"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    if family == "gpt2":
        assert table.loc["norm bias", "share"] == pytest.approx(float(norm.bias.double() @ direction), rel=1e-5)
    total = hf_logits(family, 0)[1]
    assert table["total"].iloc[0] == pytest.approx(float(total[50] - total[7]), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_shares_are_those_of_transformer_lens(family: str) -> None:
    """Folding shifts all logits of a position alike and moves biases of values into b_O; differences stay."""
    from transformer_lens.tools.analysis import direct_logit_attribution

    twin = F.load_without_tokenizer(family)
    twin.enable_compatibility_mode()
    text = torch.tensor([PROMPTS[0] + RESPONSES[0][:2]])
    table = logit_attribution(F.bridge(family), PROMPTS[0], RESPONSES[0], [2], contrast=7)
    shares = table.set_index("component")["share"]
    for unit in ("component", "head") if family == "llama" else ("component",):
        theirs = direct_logit_attribution(twin, text, torch.tensor(99), torch.tensor(7), unit=unit)
        found = dict(zip(theirs.labels, theirs.attribution.flatten().tolist(), strict=True))
        if unit == "head":
            ours = {label: shares[label] for label in found if label != "remainder"}
            assert len(ours) == 12
        else:
            ours = {"embed": shares["embed"]} | ({"pos_embed": shares["pos_embed"]} if family == "gpt2" else {})
            for layer in range(3):
                inside = table[(table["layer"] == layer) & (table["kind"] != "mlp")]
                ours |= {f"{layer}_attn_out": inside["share"].sum(), f"{layer}_mlp_out": shares[f"L{layer} MLP"]}
        found.pop("remainder", None)
        assert set(ours) == set(found)
        for label, value in ours.items():
            assert value == pytest.approx(found[label], rel=1e-4, abs=1e-4), label


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_the_lens_reads_each_layer_by_the_models_own_norm(family: str) -> None:
    model, hf = F.bridge(family), F.hf_model(family)
    table = logit_attribution(model, PROMPTS[1], RESPONSES[1], [1, -1], read_at="all")
    norm = hf.transformer.ln_f if family == "gpt2" else hf.model.norm
    with torch.no_grad():
        states = hf(torch.tensor([PROMPTS[1] + RESPONSES[1]]), output_hidden_states=True).hidden_states
        for step in (1, 3):
            for layer in (0, 1):
                expected = hf.lm_head(norm(states[layer + 1][0, len(PROMPTS[1]) - 1 + step]))[RESPONSES[1][step]]
                rows = table[(table["step"] == step) & (table["read_at"] == layer)]
                np.testing.assert_allclose([rows["share"].sum(), rows["total"].iloc[0]], expected, rtol=1e-5, atol=1e-5)
                assert rows["layer"].max() == layer
    last = table[table["read_at"] == 2].reset_index(drop=True)
    alone = logit_attribution(model, PROMPTS[1], RESPONSES[1], [1, 3])
    pandas.testing.assert_frame_equal(last.to_frame(), alone.to_frame())


def test_contrasts_are_those_asked_for() -> None:
    model, logits = F.bridge("llama"), hf_logits("llama", 0)
    table = logit_attribution(model, PROMPTS[0], RESPONSES[0], contrast="best other")
    for step, token in enumerate(RESPONSES[0]):
        others = logits[step].clone()
        others[token] = -torch.inf
        best = int(others.argmax())
        rows = table[table["step"] == step]
        assert rows["contrast_id"].unique().tolist() == [best]
        assert rows["contrast"].unique().tolist() == [f"w{best}"]
        assert rows["share"].sum() == pytest.approx(float(logits[step, token] - others[best]), rel=1e-4, abs=2e-5)
    banned = logit_attribution(model, PROMPTS[0], RESPONSES[0], 2, contrast="best other", exclude=[best])
    others[best] = -torch.inf
    assert banned["contrast_id"].unique().tolist() == [int(others.argmax())]
    named = logit_attribution(model, PROMPTS[0], RESPONSES[0], contrast={"w12": "w7", 50: 8, "w99": 12})
    assert named.groupby("step")["contrast_id"].first().tolist() == [7, 8, 12]
    other = logit_attribution(model, PROMPTS[0], RESPONSES[0], 1, token="w30")
    assert other["share"].sum() == pytest.approx(float(logits[1, 30]), rel=1e-5, abs=1e-5)
    assert (other["token_id"].iloc[0], other["target_id"].iloc[0], other["target"].iloc[0]) == (50, 30, "w30")


def test_steps_in_parts_are_those_of_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = F.bridge("gpt2")
    whole = logit_attribution(model, PROMPTS, RESPONSES, [[2, 0], [3, 1, 0]])
    assert whole.groupby("response")["step"].unique().map(list).tolist() == [[0, 2], [0, 1, 3]]
    twice = logit_attribution(model, PROMPTS[1], RESPONSES[1], (step for step in (3, 0, -1, 1)))
    pandas.testing.assert_frame_equal(
        twice.drop(columns="response").to_frame(),
        whole[whole["response"] == 1].drop(columns="response").reset_index(drop=True).to_frame(),
        rtol=1e-4,
        atol=1e-5,
    )
    monkeypatch.setattr(home, "MAX_BYTES", 2 * 23 * 44 * 4)  # two steps
    parts = logit_attribution(model, PROMPTS, RESPONSES, [[2, 0], [3, 1, 0]])
    pandas.testing.assert_frame_equal(whole.to_frame(), parts.to_frame(), rtol=1e-4, atol=1e-5)


def test_shares_of_a_pass_that_was_intervened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steered at the input of the first block, in one response of two; also where its steps are read in parts."""
    model, hf = F.bridge("llama"), F.hf_model("llama")
    steer = SteerResidual(torch.ones(44), 0, site="resid_pre", positions="all", scale=0.5, rows=[1])
    plain = logit_attribution(model, PROMPTS, RESPONSES, [[2], [0, 3]])
    whole = logit_attribution(model, PROMPTS, RESPONSES, [[2], [0, 3]], interventions=steer)
    monkeypatch.setattr(home, "MAX_BYTES", 19 * 44 * 4)  # one step
    parts = logit_attribution(model, PROMPTS, RESPONSES, [[2], [0, 3]], interventions=steer)
    pandas.testing.assert_frame_equal(whole.to_frame(), parts.to_frame(), rtol=1e-4, atol=1e-5)
    assert summed(whole)[0].tolist() == pytest.approx(summed(plain)[0].tolist(), rel=1e-5)
    handle = hf.model.layers[0].register_forward_pre_hook(lambda _m, args: (args[0] + 0.5, *args[1:]))
    try:
        logits = hf_logits("llama", 1)
    finally:
        handle.remove()
    expected = [float(logits[step, RESPONSES[1][step]]) for step in (0, 3)]
    assert summed(whole)[1].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_table_ranks_sums_and_shows_itself() -> None:
    table = logit_attribution(F.bridge("gpt2"), PROMPTS, RESPONSES)
    top = table.top(2)
    assert len(top) == 2 * 7
    for (n, step), rows in top.groupby(["response", "step"]):
        all_of_it = table[(table["response"] == n) & (table["step"] == step)]["share"].abs()
        assert rows["share"].abs().tolist() == sorted(all_of_it, reverse=True)[:2]
    by_layer = table.by("layer")
    assert len(by_layer) == 7 * 4
    assert isinstance(by_layer, ShareTable)
    np.testing.assert_allclose(summed(by_layer), summed(table), rtol=1e-9)
    assert set(table.by("kind")["kind"]) == set(table["kind"])
    shown = table.show(5)
    assert shown.title == "Largest mean shares over 7 places"
    mean = table.groupby("component")["share"].mean()
    assert shown.to_frame()["component"].tolist() == mean.abs().sort_values(ascending=False).index[:5].tolist()
    assert "<table" in table._repr_html_()


def test_bfloat16_keeps_the_sum_to_its_digits() -> None:
    table = logit_attribution(F.bridge("llama", torch.bfloat16), PROMPTS[0], RESPONSES[0])
    exact = logit_attribution(F.bridge("llama"), PROMPTS[0], RESPONSES[0])
    size = exact["share"].abs().groupby(exact["step"]).sum()
    assert (abs(table.groupby("step")["share"].sum() - exact.groupby("step")["share"].sum()) < 0.03 * size).all()


def test_bad_input_is_one_clear_error() -> None:
    model = F.bridge("llama")
    for given, said in (
        ({"steps": [3]}, r"steps from 0 to 2 \(or -3 to -1\), received \[3\]"),
        ({"steps": -4}, r"received \[-4\]"),
        ({"read_at": 3}, "layers from 0 to 2"),
        ({"token": "w5 w6"}, r"the text of one token of tiny-llama, received 'w5 w6', which is 2"),
        ({"contrast": 101}, "token ids from 0 to 100"),
        ({"contrast": 12}, "a contrast token for each target, another than it, received token 12 for itself"),
        ({"contrast": {12: 5}}, "received none for token 50"),
        ({"contrast": "best other", "exclude": range(101)}, "neither the target nor excluded"),
        ({"exclude": [101]}, "exclude"),
    ):
        with pytest.raises(InputError, match=said):
            logit_attribution(model, PROMPTS[0], RESPONSES[0], **given)
    with pytest.raises(InputError, match="steps of each of 2 responses, received 1 lists"):
        logit_attribution(model, PROMPTS, RESPONSES, [[1]])
    with pytest.raises(InputError, match=r"tiny-gemma3 \(Gemma3ForCausalLM\), whose block 0"):
        logit_attribution(F.bridge("gemma3"), PROMPTS[0], RESPONSES[0])
    assert len(logit_attribution(model, [], [])) == 0
    assert len(logit_attribution(model, PROMPTS[0], RESPONSES[0], [])) == 0


@pytest.mark.parametrize("tied", [True, False])
def test_capped_logits_and_tied_embeddings(tied: bool) -> None:
    """NanoChat caps its logits behind norms without weights: the cap is a row of its own."""
    import transformers

    config = transformers.NanoChatConfig(
        vocab_size=F.VOCAB, hidden_size=40, intermediate_size=53, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, final_logit_softcapping=3.0, tie_word_embeddings=tied,
        **F.PAD_EOS,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(4)
        hf = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in hf.parameters():
                parameter.normal_(0, 0.3)
            logits = hf(torch.tensor([PROMPTS[0] + RESPONSES[0]])).logits[0, len(PROMPTS[0]) - 1 :]
    table = logit_attribution(load_model("nano", hf_model=hf, device="cpu"), PROMPTS[0], RESPONSES[0], contrast=7)
    expected = [float(logits[step, token] - logits[step, 7]) for step, token in enumerate(RESPONSES[0])]
    np.testing.assert_allclose(summed(table), expected, rtol=1e-5, atol=1e-5)
    assert table.loc[table["kind"] == "logit_cap", "share"].abs().max() > 0.1


def test_matched_contrasts_are_the_nearest_words_in_frequency() -> None:
    model = F.pair("toy")[1]
    rollouts = decode(model, F.texts("toy", 3), max_new_tokens=80)
    thinking = thinking_token_ids(model, ["Wait", "So", "Okay"])
    found = matched_contrasts(rollouts, thinking, exclude=["Hmm", "Therefore"])
    counts: dict[str, int] = {}
    for token in (token for rollout in rollouts for token in rollout.tokens):
        counts[token] = counts.get(token, 0) + 1
    others = [word for word in counts if word.isalpha() and word not in ("Wait", "So", "Okay", "Hmm", "Therefore")]
    for word, ids in thinking.items():
        nearest = min(abs(np.log(counts[other] / max(1, counts.get(word, 0)))) for other in others)
        for token in ids:
            (partner,) = [other for other in others if model.tokenizer.convert_tokens_to_ids(other) == found[token]]
            assert abs(np.log(counts[partner] / max(1, counts.get(word, 0)))) == pytest.approx(nearest)
    steps = [step for step, token in enumerate(rollouts[0].token_ids.tolist()) if token in found]
    table = logit_attribution(model, rollouts[0].prompt_ids, rollouts[0].token_ids, steps, contrast=found)
    assert table["contrast_id"].tolist() == [found[token] for token in table["target_id"]]

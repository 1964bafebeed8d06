"""Receiver heads: against literal loops over plain Hugging Face's attentions, and heads whose wiring is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families as F
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from analyses.attribution import (
    ReceiverHeads,
    ablate_receivers,
    random_heads,
    receiver_heads,
    sentence_receivers,
    sentence_spans,
)
from analyses.attribution.receiver_ablation import head_means
from analyses.attribution.receivers import matched_tokens
from interp import InputError, Rollout, decode, load_model
from interp.writes import patterns as home
from interp.writes import read_patterns

PROMPTS = [[5, 9, 77, 3, 41, 8, 20], [60, 7]]
GENERATOR = torch.Generator().manual_seed(4)
RESPONSES = [torch.randint(40, 52, (n,), generator=GENERATOR).tolist() for n in (34, 27)]
WORDS = {"w44": (44,), "w47": (47,)}


def rollouts(prompts: list[list[int]] = PROMPTS, responses: list[list[int]] = RESPONSES) -> list[Rollout]:
    return [
        Rollout(torch.tensor(p), torch.tensor(r), [f"w{i}" for i in r], "", "eos", *torch.zeros(2, len(r)))
        for p, r in zip(prompts, responses, strict=True)
    ]  # fmt: skip


@torch.no_grad()
def attentions(family: str, n: int) -> np.ndarray:
    """Plain eager Hugging Face: [layer, head, place of the response, place of the response]."""
    text = torch.tensor([PROMPTS[n] + RESPONSES[n]])
    found = F.hf_model(family)(text, output_attentions=True).attentions
    start = len(PROMPTS[n])
    return np.stack([layer[0, :, start:, start:].double().numpy() for layer in found])


def compared(rows: np.ndarray, target: int, match: int, gap: int) -> tuple[float, float]:
    """The literal loop: mean rank of two columns over the rows at least ``gap`` after both."""
    first, second = [], []
    for i in range(max(target, match) + gap, len(rows)):
        seen = rows[i, : i - gap + 1]
        ranks = stats.rankdata(seen) / len(seen)
        first.append(ranks[target])
        second.append(ranks[match])
    return float(np.mean(first)), float(np.mean(second))


@pytest.mark.parametrize("family", F.FAMILIES)
def test_token_scores_equal_a_literal_loop_over_hugging_faces_attentions(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "COLUMNS", 13)  # several parts to a text
    gap, near = 3, 6
    found = receiver_heads(F.bridge(family), rollouts(), WORDS, gap=gap, near=near, draws=50)
    counts = {i: sum(r.count(i) for r in RESPONSES) for i in range(40, 52)}
    values = []
    for n, response in enumerate(RESPONSES):
        layers = attentions(family, n)
        differences = []
        for target in (j for j, token in enumerate(response) if token in (44, 47)):
            matches = []
            for side in (range(target - 1, target - near - 1, -1), range(target + 1, target + near + 1)):
                often = counts[response[target]]
                like = [m for m in side if 0 <= m < len(response) and response[m] not in (44, 47)
                        and often / 2 <= counts[response[m]] <= 2 * often]  # fmt: skip
                matches += [m for m in like[:1] if max(m, target) + gap < len(response)]
            if matches:
                differences.append(np.mean([[[np.subtract(*compared(rows, target, m, gap)) for rows in heads]
                                             for heads in layers] for m in matches], axis=0))  # fmt: skip
        values.append(np.mean(differences, axis=0))
    expected = np.mean(values, axis=0)
    got = found.table.set_index(["layer", "head"])["score"].unstack().to_numpy()
    np.testing.assert_allclose(got, expected, atol=2e-3 if family == "gemma3" else 1e-6)
    assert found.table["score"].is_monotonic_decreasing
    assert found.table["problems"].eq(2).all()
    np.testing.assert_allclose(found.table["on_targets"] - found.table["on_matched"], found.table["score"], atol=1e-12)


def test_peaks_stand_at_the_token_that_their_step_has_read() -> None:
    model = F.bridge("llama")
    by_words = receiver_heads(model, rollouts(), WORDS, draws=50, band=1e9)
    places = [[j for j, token in enumerate(r) if token in (44, 47)] for r in RESPONSES]
    steps = [[place + 1 for place in own if place + 1 < len(r)] for own, r in zip(places, RESPONSES, strict=True)]
    by_steps = receiver_heads(model, rollouts(), steps=[[0, *steps[0]], steps[1]], draws=50, band=1e9)
    pd.testing.assert_frame_equal(by_words.table, by_steps.table)


def test_sentence_kurtosis_equals_a_literal_loop_with_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "COLUMNS", 10)
    spans = [[(0, 3), (3, 5), (5, 6), (6, 10), (10, 14), (14, 15), (15, 20), (20, 28), (28, 34)], [(0, 27)]]
    for control in ("rank", "none"):
        found = sentence_receivers(F.bridge("qwen2"), rollouts(), spans, gap=3, control=control, k=2, nulls=3, draws=50)
        layers = attentions("qwen2", 0)
        kurtosis, received = np.zeros(layers.shape[:2]), {}
        for layer, head in np.ndindex(*kurtosis.shape):
            means = np.array([[layers[layer, head, a:b, c:d].mean() for c, d in spans[0]] for a, b in spans[0]])
            columns = []
            for j in range(len(spans[0]) - 3):
                cells = []
                for i in range(j + 3, len(spans[0])):
                    seen = means[i, : i - 2]
                    cells.append(stats.rankdata(seen)[j] / len(seen) if control == "rank" else means[i, j])
                columns.append(np.mean(cells))
            received[layer, head] = columns
            kurtosis[layer, head] = stats.kurtosis(columns)
        got = found.table.set_index(["layer", "head"])["score"].unstack().to_numpy()
        np.testing.assert_allclose(got, kurtosis, rtol=1e-4)
        assert found.settings["too short"] == 1
        best = [received[head] for head in found.heads(2)]
        np.testing.assert_allclose(found.sentences["score"][:6], np.mean(best, axis=0), rtol=1e-5)
        assert found.sentences["score"][6:].isna().all()


def made(scores: dict[tuple[int, int], list[float]]) -> ReceiverHeads:
    """Heads with given values, one a response."""
    from analyses.attribution.receiver_result import ranked

    rows = [{"response": n, "problem": n, "layer": layer, "head": head, "score": value}
            for (layer, head), values in scores.items() for n, value in enumerate(values)]  # fmt: skip
    frame = pd.DataFrame(rows)
    return ReceiverHeads(
        ranked(frame, (), 200, 0), frame, pd.DataFrame(), {"model": "<b>", "score": "x", "responses": 4}
    )


def test_ranking_reliability_and_heads() -> None:
    values = {(0, 0): [9.0, 0.0, 9.0, 0.0], (1, 0): [4.0, 3.0, 4.0, 3.0], (1, 1): [2.0, 2.5, 2.0, 2.5],
              (2, 0): [1.0, 0.5, 1.0, 0.5], (2, 1): [float("nan")] * 4}  # fmt: skip
    found = made(values)
    assert found.heads(9) == [(0, 0), (1, 0), (1, 1), (2, 0)], "heads without a score are no receivers"
    assert found.heads(3, at_most=1) == [(0, 0), (1, 0), (2, 0)]
    expected = stats.pearsonr([4.0, 2.0, 1.0], [3.0, 2.5, 0.5]).statistic
    assert found.reliability == pytest.approx(expected), "layer 0 is left out"
    row = found.table.set_index(["layer", "head"]).loc[(1, 0)]
    assert 3.0 <= row["low"] < row["score"] < row["high"] <= 4.0
    html = found._repr_html_()
    assert "<b>" not in html
    assert "reliability" in html
    assert "L0H0" in repr(found)
    assert "3 layers" in found.show().alt


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], ["a", "b", "c", "d"], ["a", 1, np.int64(2), 3.5]])
def test_one_file_holds_receivers_exactly(tmp_path: Path, labels: list[Any]) -> None:
    found = made({(0, 0): [9.0, 0.1, float("nan"), 0.0], (1, 1): [float("nan")] * 4})
    responses = found.responses.assign(problem=pd.Series([*labels, *labels]))
    sentences = pd.DataFrame({"response": [0, 1], "text": ["</script>", "\u2028é"], "score": [float("nan"), 1 / 3]})
    settings = {**found.settings, "left_out": 1, "first": None, "offset": 1 / 3}
    whole = ReceiverHeads(found.table, responses, sentences, settings)
    again = ReceiverHeads.load(whole.save(tmp_path / "deep" / "receivers.json"))
    for name in ("table", "responses", "sentences"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(whole, name), check_exact=True)
    assert again.settings == settings
    assert repr(again) == repr(whole)
    nothing = ReceiverHeads.load(found.save(tmp_path / "none.json")).sentences
    assert nothing.empty


def test_what_is_no_file_of_receivers_is_refused(tmp_path: Path) -> None:
    found = made({(0, 0): [1.0, 2.0]})
    with pytest.raises(InputError, match="problems named by texts"):
        ReceiverHeads(found.table, found.responses.assign(problem=[object(), 1]), pd.DataFrame(), found.settings).save(
            tmp_path / "x"
        )
    assert not (tmp_path / "x").exists()
    kept = found.save(tmp_path / "kept.json").read_text()
    broken = tmp_path / "broken.json"
    for text in ("", "[]", "{}", kept.replace("heads 1", "heads 2"), kept.replace('"rows":2', '"rows":3'), kept[:-9]):
        broken.write_text(text)
        with pytest.raises(InputError, match=r"ReceiverHeads\.save"):
            ReceiverHeads.load(broken)
    with pytest.raises(InputError, match="load receiver heads"):
        ReceiverHeads.load(tmp_path / "nowhere.json")


def test_a_head_wired_to_look_at_one_token_is_found_exactly() -> None:
    """Keys of one head point where a word's embedding does, and its queries always: it alone narrows on that word."""
    import copy

    hf = copy.deepcopy(F.hf_model("llama"))
    wired, word = (1, 2), 44
    with torch.no_grad():
        captured: list[torch.Tensor] = []
        attention = hf.model.layers[1].self_attn
        handle = attention.k_proj.register_forward_pre_hook(lambda _m, args: captured.append(args[0][0]))
        text = PROMPTS[0] + RESPONSES[0]
        hf(torch.tensor([text]))
        handle.remove()
        is_word = torch.tensor([token == word for token in text])
        towards = captured[0][is_word].mean(0) - captured[0][~is_word].mean(0)
        always = captured[0].mean(0)
        # The slowest rotary pair of this head, which keeps its direction over a text: dimension 4 of 10.
        q, k = attention.q_proj.weight, attention.k_proj.weight
        q[20:30], k[10:20] = 0.0, 0.0
        q[24], k[14] = 40 * always / always.norm() ** 2, 40 * towards / towards.norm() ** 2
    model = load_model("wired", hf_model=hf, tokenizer=copy.deepcopy(F.tokenizer()), device="cpu")
    found = receiver_heads(model, rollouts()[:1], {"w44": (word,)}, control="none", band=1e9, draws=50)
    # Queries 2 and 3 share the keys; only those of 2 point there.
    assert found.heads(1) == [wired]
    assert found.table["score"][0] > 3 * abs(found.table["score"][1])


def test_matches_are_near_alike_and_no_targets() -> None:
    ids = [7, 5, 8, 5, 9, 5, 7, 7, 7, 7]
    counts = {7: 5, 5: 3, 8: 1, 9: 2}
    got = matched_tokens(ids, [3, 5], [9], counts, gap=2, near=3, band=2.0)
    assert [(m.target, m.match, m.first_row) for m in got] == [(3, 1, 5), (3, 6, 8), (5, 6, 8)]
    assert matched_tokens(ids, [8], [], counts, gap=2, near=9, band=2.0) == [], "no row comes after it"


def test_ablation_equals_plain_hugging_face_with_slices_of_the_output_projections_input() -> None:
    family, heads = "gpt2", [(1, 0), (2, 3)]
    model, hf = F.bridge(family), F.hf_model(family)
    some = rollouts()
    table = ablate_receivers(model, heads, some, WORDS, controls=2, draws=50)
    drawn = random_heads(heads, 4, 2)
    means = head_means(model, some, [1, 2])

    @torch.no_grad()
    def logprobs(n: int, ablated: list[tuple[int, int]], how: str) -> torch.Tensor:
        text, start = torch.tensor([PROMPTS[n] + RESPONSES[n]]), len(PROMPTS[n])
        handles = []
        for layer, head in ablated:

            def edit(
                _module: Any, args: tuple[torch.Tensor], layer: int = layer, head: int = head
            ) -> tuple[torch.Tensor]:
                z = args[0].clone()
                z[..., 11 * head : 11 * head + 11] = means[layer, head] if how == "mean" else 0.0
                return (z,)

            handles.append(hf.transformer.h[layer].attn.c_proj.register_forward_pre_hook(edit))
        found = hf(text).logits[0, start - 1 : -1].log_softmax(-1)
        for handle in handles:
            handle.remove()
        return found.gather(-1, text[0, start:, None])[:, 0]

    for how in ("mean", "zero"):
        for arm, draw, ablated in [("receivers", 0, heads), ("control", 0, drawn[0]), ("control", 1, drawn[1])]:
            rows = table[(table["how"] == how) & (table["arm"] == arm) & (table["draw"] == draw)].set_index("tokens")
            losses = [logprobs(n, ablated, how) - logprobs(n, [], how) for n in (0, 1)]
            is_word = [torch.tensor([token in (44, 47) for token in r]) for r in RESPONSES]
            expected = np.mean([float(loss[one].mean()) for loss, one in zip(losses, is_word, strict=True)])
            assert rows.loc["thinking", "change"] == pytest.approx(expected, abs=1e-4)
            expected = np.mean([float(loss[~one].mean()) for loss, one in zip(losses, is_word, strict=True)])
            assert rows.loc["other", "change"] == pytest.approx(expected, abs=1e-4)
        rows = table[(table["how"] == how) & (table["tokens"] == "other")].groupby("arm")["change"].mean()
        assert rows["receivers less control"] == pytest.approx(rows["receivers"] - rows["control"], abs=1e-9)
    z: list[torch.Tensor] = []
    handle = hf.transformer.h[1].attn.c_proj.register_forward_pre_hook(lambda _m, args: z.append(args[0][0]))
    with torch.no_grad():
        for p, r in zip(PROMPTS, RESPONSES, strict=True):
            hf(torch.tensor([p + r]))
    handle.remove()
    steps = torch.cat([one[len(p) - 1 : -1] for one, p in zip(z, PROMPTS, strict=True)])
    torch.testing.assert_close(means[1, 0], steps[:, :11].mean(0), rtol=1e-4, atol=1e-5)


def test_random_heads_are_others_of_the_same_layers() -> None:
    draws = random_heads([(1, 0), (1, 2), (4, 3)], 6, 5, seed=2)
    for drawn in draws:
        assert [layer for layer, _ in drawn] == [1, 1, 4]
        assert len(set(drawn)) == 3
        assert not set(drawn) & {(1, 0), (1, 2), (4, 3)}
    assert len({tuple(drawn) for drawn in draws}) > 1
    assert draws == random_heads([(4, 3), (1, 2), (1, 0)], 6, 5, seed=2)
    with pytest.raises(InputError, match="at most half of the 4 heads"):
        random_heads([(1, 0), (1, 2), (1, 3)], 4)


def test_sentences_of_text_and_of_the_toy() -> None:
    toy = "Okay So A 6 * 3 gives 8 . then B 8 - 8 is 0 ; Therefore 0 ."
    assert sentence_spans(toy.split(" ")) == [(0, 9), (9, 17), (17, 20)]
    text = ["It", " is", " 3", ".", "5", ".", "\n\n", "Wait", "!", "?", " No"]
    assert sentence_spans(text) == [(0, 7), (7, 10), (10, 11)]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"steps": [[1], [2]]}, "expected words or steps, received both"),
        ({"words": None, "steps": [[1]]}, "steps of each of 2 rollouts"),
        ({"words": None, "steps": [[1], [99]]}, "steps from 0 to 26, received 99"),
        ({"problems": ["a"]}, "a problem for each of 2 rollouts"),
        ({"control": "depth"}, "control"),
        ({"layers": 7}, "layers from 0 to 2"),
        ({"band": 0.5}, "band"),
        ({"words": {"w99": (99,)}}, "0 targets in 2 responses"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_error(how: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        receiver_heads(F.bridge("llama"), rollouts(), **{"words": WORDS, **how})


def test_bad_sentences_are_refused() -> None:
    model = F.bridge("llama")
    with pytest.raises(InputError, match="a response of at least 8 sentences, received at most 1"):
        sentence_receivers(model, rollouts())
    for spans in ([[(0, 3), (2, 5)], []], [[(0, 99)], []], [[(3, 3)], []], [[(0, 1)]]):
        with pytest.raises(InputError, match="sentences"):
            sentence_receivers(model, rollouts(), spans)


def test_a_toys_receivers_have_reliable_scores() -> None:
    model = load_model("toy-reasoner")
    questions = [f"{n % 10} A * 3 B - {n % 7} C + {n % 5} D * 7 ? ->" for n in range(8)]
    made = decode(model, questions, max_new_tokens=70)
    found = receiver_heads(model, made, draws=200)
    assert found.reliability > 0.5
    assert found.settings["targets"] + found.settings["left_out"] == sum(
        token in ("Okay", "So", "Wait", "Hmm", "Therefore") for r in made for token in r.tokens
    )


def test_patterns_are_those_of_one_pass_whatever_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole: dict[int, list[torch.Tensor]] = {}
    parts: dict[int, list[torch.Tensor]] = {}
    model = F.bridge("gemma3")
    read_patterns(model, PROMPTS[0], RESPONSES[0], lambda n, begin, p: whole.setdefault(n, []).append(p.clone()))
    monkeypatch.setattr(home, "COLUMNS", 9)
    read_patterns(model, PROMPTS[0], RESPONSES[0], lambda n, begin, p: parts.setdefault(n, []).append(p.clone()))
    for layer, (one,) in whole.items():
        begin = 0
        for part in parts[layer]:
            torch.testing.assert_close(part, one[:, begin : begin + part.shape[1], : part.shape[2]], atol=1e-5, rtol=0)
            begin += part.shape[1]
        assert begin == one.shape[1]

"""Scores shared out over writes: sums, literal loops, plain Hugging Face edits, planted truth, and one file of it."""

from __future__ import annotations

import json
import zipfile
from functools import cache
from typing import Any

import families as F
import numpy as np
import pandas
import psutil
import pytest
import torch
from pandas.testing import assert_frame_equal

from analyses.attribution import MiAttribution, mi_attribution
from analyses.attribution.mi_reference import choose_references, input_kinds
from analyses.attribution.mi_shares import Shared
from analyses.views.frames import ShareTable
from interp import InputError, load_model
from interp.writes import Component, Writes, read_sources, read_writes, replaced_streams
from interp.writes.components import FinalNorm
from probes import answer_probe, excess, nhsic, pearson_r2, score_function, tukey_peaks

PROMPT = [5, 9, 77, 3, 41, 8, 20]
RESPONSE = [12, 50, 99, 44, 45, 46, 47, 48, 49, 60, 61, 62, 63]
STEP, LAYER, AGAINST = 4, 1, [0, 2, 7]
ANSWER, OTHERS = [33, 4, 18], [[33, 4, 60], [7, 8], [90, 91, 92, 93]]


@torch.no_grad()
def hf_streams(family: str, text: list[int], edit: Any = None) -> torch.Tensor:
    """[pos, d_model] after the scored block of plain Hugging Face, with an edit of its modules meanwhile."""
    model = F.hf_model(family)
    blocks = model.transformer.h if family == "gpt2" else model.model.layers
    seen: list[torch.Tensor] = []
    handles = [
        blocks[LAYER].register_forward_hook(
            lambda _m, _a, out: seen.append((out[0] if isinstance(out, tuple) else out)[0])
        )
    ]
    handles += [] if edit is None else edit(blocks)
    try:
        model(torch.tensor([text]))
    finally:
        for handle in handles:
            handle.remove()
    return seen[0].double()


def replaced(family: str, component: Component) -> torch.Tensor:
    """The stream at the step, a head's z or the MLP's output being its mean over the reference's steps."""
    at, others = len(PROMPT) - 1 + STEP, [len(PROMPT) - 1 + step for step in AGAINST]

    def edit(blocks: Any) -> list[Any]:
        block = blocks[component.layer]
        if component.kind == "mlp":

            def whole(_m: Any, _a: Any, out: torch.Tensor) -> torch.Tensor:
                new = out.clone()
                new[0, at] = out[0, others].mean(0)
                return new

            return [block.mlp.register_forward_hook(whole)]

        def head(_m: Any, args: Any) -> Any:
            z, width = args[0].clone(), args[0].shape[-1] // 4
            mine = slice(component.head * width, (component.head + 1) * width)  # type: ignore[operator]
            z[0, at, mine] = args[0][0, others, mine].mean(0)
            return (z, *args[1:])

        output = block.attn.c_proj if family == "gpt2" else block.self_attn.o_proj
        return [output.register_forward_pre_hook(head)]

    return hf_streams(family, PROMPT + RESPONSE[:-1], edit)[at]


@cache
def attributed(family: str) -> MiAttribution:
    return mi_attribution(
        F.bridge(family), PROMPT, RESPONSE, STEP, layer=LAYER, answer=answer(family), others=others(family),
        reference=AGAINST, total="all", sources=2, sigma=2.0,
    )  # fmt: skip


@cache
def answer(family: str) -> torch.Tensor:
    return hf_streams(family, ANSWER)[-1].float()


@cache
def others(family: str) -> torch.Tensor:
    return torch.stack([hf_streams(family, text)[-1].float() for text in OTHERS])


@cache
def written(family: str) -> Writes:
    return read_writes(F.bridge(family), PROMPT, RESPONSE, [[STEP], AGAINST]).upto(LAYER)


def literal(family: str) -> dict[str, Any]:
    """The measures as functions of one stream, written without score functions."""
    own, rest = answer(family), others(family)

    def own_and_rest(x: torch.Tensor) -> Any:
        return excess(nhsic(x[None], own, sigma=2.0), nhsic(x[None], rest, sigma=2.0))

    return {
        "nhsic": lambda x: float(nhsic(x[None], own, sigma=2.0)[0]),
        "nhsic/drop4": lambda x: float(nhsic(x[None], own, sigma=2.0, drop_top=4)[0]),
        "r2": lambda x: float(pearson_r2(x[None], own)[0]),
        "nhsic excess": lambda x: float(own_and_rest(x).difference[0]),
        "nhsic standardised": lambda x: float(own_and_rest(x).standardised[0]),
    }


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_shares_sum_and_ends_are_the_scores_of_plain_hugging_face(family: str) -> None:
    found, streams = attributed(family), hf_streams(family, PROMPT + RESPONSE[:-1])[len(PROMPT) - 1 :]
    assert found.ends["measure"].tolist() == list(literal(family))
    for row, measure in zip(found.ends.itertuples(), literal(family).values(), strict=True):
        assert row.value == pytest.approx(measure(streams[STEP]), rel=1e-3, abs=1e-5)
        assert row.reference_value == pytest.approx(measure(streams[AGAINST].mean(0)), rel=1e-3, abs=1e-5)
        assert row.difference == row.value - row.reference_value
        mine = found.shares[found.shares["measure"] == row.measure]
        assert len(mine) == len(written(family).components)
        assert mine["share"].sum() == pytest.approx(row.shared, rel=1e-9)
        assert abs(row.shared - row.difference) <= 1.2e-3 * abs(row.difference)
        assert row.path_missing <= 1e-3
        assert row.missing == pytest.approx(abs(row.shared - row.difference) / abs(row.difference))
    assert found.ends["reference"].unique().tolist() == ["the mean of 3 given steps"]
    assert found.ends["token"].tolist() == ["w45"] * 5
    assert found.ends["input_token"].tolist() == ["w44"] * 5


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_share_is_the_write_times_the_mean_gradient(family: str) -> None:
    """A literal sum over many midpoints of numeric derivatives."""
    writes, found = written(family), attributed(family)
    start, end = writes.stream[-1, 1].double(), writes.stream[-1, 0].double()
    score = score_function("nhsic", answer(family), sigma=2.0)
    points = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    mean = score.gradient(start + points[:, None] * (end - start)).mean(0)
    table = found.shares[found.shares["measure"] == "nhsic"].set_index("component")["share"]
    expected = {c.label: float((value[0] - value[1]).double() @ mean) for c, value in writes}
    size = max(map(abs, expected.values()))
    for label, share in expected.items():
        assert table[label] == pytest.approx(share, abs=5e-3 * size)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_direct_effects_are_a_literal_loop(family: str) -> None:
    writes, found = written(family), attributed(family)
    for name, measure in literal(family).items():
        table = found.shares[found.shares["measure"] == name].set_index("component")["direct"]
        stream = writes.stream[-1, 0].double()
        for component, value in writes:
            without = stream - value[0].double() + value[1].double()
            assert table[component.label] == pytest.approx(measure(stream) - measure(without), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_total_effects_are_edits_of_plain_hugging_face(family: str) -> None:
    found = attributed(family)
    plain = hf_streams(family, PROMPT + RESPONSE[:-1])[len(PROMPT) - 1 + STEP]
    tables = {name: found.shares[found.shares["measure"] == name].set_index("component") for name in literal(family)}
    differs = 0.0
    for component in written(family).components:
        if component.kind not in ("head", "mlp"):
            continue
        stream = replaced(family, component)
        for name, measure in literal(family).items():
            row = tables[name].loc[component.label]
            effect = measure(plain) - measure(stream)
            assert row["total"] == pytest.approx(effect, rel=2e-2, abs=2e-4)
            differs = max(differs, abs(row["total"] - row["direct"]) if component.layer < LAYER else 0.0)
            if component == Component("mlp", LAYER):  # nothing writes after it
                assert row["total"] == pytest.approx(row["direct"], rel=1e-2, abs=1e-4)
    assert differs > 1e-3
    if family == "gpt2":  # a bias writes the same everywhere
        bias = found.shares[found.shares["kind"] == "attn_bias"]
        assert bool((bias["share"].abs() < 1e-9).all())
        assert bool((bias["total"].abs() < 1e-6).all())


def test_what_a_head_reads_sums_to_its_share() -> None:
    found = attributed("llama")
    heads = found.shares[found.shares["kind"] == "head"]
    for measure, mine in found.sources.groupby("measure"):
        chosen = heads[heads["measure"] == measure].set_index("component")["share"]
        largest = chosen.abs().sort_values(ascending=False).index[:2]
        assert set(mine["component"]) == set(largest)
        for label, rows in mine.groupby("component"):
            assert rows["share"].sum() == pytest.approx(chosen[label], rel=1e-3, abs=1e-7)
            assert rows["weight"].sum() == pytest.approx(1.0, rel=1e-5)
            assert rows["reference_weight"].sum() == pytest.approx(1.0, rel=1e-5)
    first = found.sources.head(len(PROMPT) + 7)  # of the step and its reference the last is step 7
    assert first["component"].nunique() == 1
    assert first["source_token"].tolist()[:8] == [f"w{i}" for i in PROMPT] + ["w12"]
    assert first["at_step"].isna().sum() == len(PROMPT) - 1
    assert first["at_step"].iloc[len(PROMPT) - 1] == 0


def made(streams: torch.Tensor, values: torch.Tensor) -> Writes:
    """Writes of a stream that is made up: the embedding and an MLP a layer."""
    components = (Component("embed"), *(Component("mlp", layer) for layer in range(len(values) - 1)))
    norm = FinalNorm(torch.ones(values.shape[-1]), None, 1e-6, False)
    return Writes(
        components, ((0,), (1,)), values, values[0], streams[None], torch.zeros(2, dtype=torch.long), norm,
        streams[0], torch.zeros(3), 0.0,
    )  # fmt: skip


def test_the_one_write_that_carries_the_answers_pattern_is_found() -> None:
    generator = torch.Generator().manual_seed(4)
    d, n = 128, 12
    pattern = torch.randn(d, generator=generator) * 30
    values = torch.randn(n, 2, d, generator=generator) * 10
    values[7, 0] += 0.7 * pattern  # at the step, not at the reference
    values[3, 0] += 500.0  # the same everywhere: no score sees it
    values[3, 0] -= values[3, 0] - values[3, 0].mean()
    values[3, 1] = values[3, 1].mean()
    writes = made(values.sum(0), values)
    for name in ("nhsic", "r2", "cka"):
        shared = Shared.of(score_function(name, pattern), writes, [1], 1e-3, 1024)
        shares = shared.shares[:, 0]
        assert int(shares.argmax()) == 7
        assert float(shares[7]) > 0.6 * float(shared.path.difference[0]) > 0.02
        assert abs(float(shares[3])) < 1e-9
        assert abs(float(shared.direct[3, 0])) < 1e-9
        assert int(shared.direct[:, 0].argmax()) == 7
        assert shared.largest(0, 3)[0] == 7


def test_the_bits_of_a_probe_are_shared_out_too() -> None:
    generator = torch.Generator().manual_seed(0)
    streams = hf_streams("llama", PROMPT + RESPONSE[:-1]).float()
    spread = torch.randn(80, 44, generator=generator) * streams.std(0) + streams.mean(0)
    labels = (spread[:, 0] > spread[:, 0].median()).long()
    probe = answer_probe(spread, labels)
    scores = [probe.score(1), probe.score(1, kind="logit")]
    found = mi_attribution(
        F.bridge("llama"), PROMPT, RESPONSE, STEP, layer=LAYER, answer=answer("llama"), measures=scores, sources=0
    )
    assert found.ends["measure"].tolist() == ["v-information", "v-information logit"]
    assert bool((found.ends["missing"] < 1.2e-3).all())
    value = float(probe.log_probabilities(streams[[len(PROMPT) - 1 + STEP]])[0, 1] - probe.frequencies[1])
    assert found.ends["value"].iloc[0] == pytest.approx(value / np.log(2), rel=1e-3)
    assert found.settings["units"]["v-information"].startswith("bits")
    assert not len(found.sources)


def test_what_a_model_in_low_precision_rounds_away_is_told() -> None:
    found = mi_attribution(
        F.bridge("llama", torch.bfloat16), PROMPT, RESPONSE, STEP, layer=LAYER, answer=answer("llama"), sigma=2.0,
        reference=AGAINST, measures=["nhsic", "r2"],
    )  # fmt: skip
    assert bool((found.ends["path_missing"] <= 1e-3).all())
    assert 1e-3 < float(found.ends["missing"].max()) < 0.1
    exact = attributed("llama").ends.set_index("measure")["value"]
    assert found.ends["value"].tolist() == pytest.approx([exact["nhsic"], exact["r2"]], rel=0.1)
    assert found.settings["dtype"] == "bfloat16"


def test_more_than_the_memory_holds_is_refused_before_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10_000}))
    with pytest.raises(InputError, match=r"mi_attribution: expected at most the 0\.0 GB free"):
        mi_attribution(F.bridge("llama"), PROMPT, RESPONSE, STEP, layer=LAYER, answer=answer("llama"))
    changes = {1: torch.zeros(1, 44)}
    with pytest.raises(InputError, match=r"replace writes: expected at most the 0\.0 GB free"):
        replaced_streams(F.bridge("llama"), PROMPT, RESPONSE, LAYER, [Component("mlp", 1)], changes)
    with pytest.raises(InputError, match=r"read sources: expected at most the 0\.0 GB free"):
        read_sources(F.bridge("llama"), PROMPT, RESPONSE, [[1]], [Component("head", 1, 1)])


def test_references_are_ordinary_steps() -> None:
    model = F.bridge("llama")
    scores = nhsic(hf_streams("llama", PROMPT + RESPONSE[:-1])[len(PROMPT) - 1 :], answer("llama"), sigma=2.0)
    peaks = tukey_peaks(scores, 0.2)
    assert 0 < int(peaks.sum()) < len(RESPONSE) - 3
    options: dict[str, Any] = {
        "layer": LAYER, "answer": answer("llama"), "sigma": 2.0, "tau": 0.2, "measures": "r2", "total": "none",
        "sources": 0,
    }  # fmt: skip
    found = mi_attribution(model, PROMPT, RESPONSE, "peaks", **options)
    assert found.ends["step"].tolist() == peaks.nonzero()[:, 0].tolist()
    ordinary = (~peaks).nonzero()[:, 0].tolist()
    assert {tuple(each["steps"]) for each in found.settings["references"].values()} == {tuple(ordinary)}
    assert bool(found.shares["total"].isna().all())
    one = mi_attribution(model, PROMPT, RESPONSE, [ordinary[0], -1], **options)
    assert one.ends["step"].tolist() == sorted({ordinary[0], len(RESPONSE) - 1})
    assert ordinary[0] not in one.settings["references"][str(ordinary[0])]["steps"]
    matched = mi_attribution(model, PROMPT, RESPONSE, "peaks", **options, reference="matched")
    for step, each in matched.settings["references"].items():
        (nearest,) = each["steps"]
        assert nearest in ordinary
        assert all(abs(nearest - int(step)) <= abs(other - int(step)) for other in ordinary)


def test_thinking_words_are_matched_with_thinking_words() -> None:
    model = load_model("toy-reasoner")
    ids = [model.tokenizer.convert_tokens_to_ids(word) for word in ("Wait", "7", "So", "is", ".", "8")]
    kinds = input_kinds(model, model.tokenizer, ids)
    assert kinds == ["thinking word", "digit", "thinking word", "word", "stop", "digit"]
    peaks = torch.tensor([True, False, False, False, False, True])
    assert [found.steps for found in choose_references("matched", [0, 5], peaks, kinds)] == [(2,), (1,)]
    with pytest.raises(InputError, match=r"has read a token of step 4's kind, received stop"):
        choose_references("matched", [4], peaks, kinds)


def test_texts_are_read_as_references() -> None:
    model = load_model("toy-reasoner")
    texts = ["Therefore 4", "Therefore 5", "So 6"]
    options: dict[str, Any] = {"layer": 1, "measures": ["nhsic", "nhsic excess"], "total": "none", "sources": 0}
    said = "Okay 6 * 3 is 8"
    found = mi_attribution(model, "6 A * 3 B - 8 ? ->", said, 3, answer=texts[0], others=texts[1:], **options)
    from interp import ResidualSites, encode

    read = [one.residuals["resid_post"][0, 0] for one in encode(model, texts, record=ResidualSites(1), last_only=True)]
    again = mi_attribution(
        model, "6 A * 3 B - 8 ? ->", said, 3, answer=read[0], others=torch.stack(read[1:]), **options
    )
    assert_frame_equal(found.to_frame(), again.to_frame())


def test_one_file_holds_it_exactly(tmp_path: Any) -> None:
    found = attributed("gpt2")
    path = found.save(tmp_path / "deep" / "peak.zip")
    again = MiAttribution.load(path)
    for name in ("shares", "ends", "sources"):
        assert_frame_equal(getattr(again, name), getattr(found, name), check_exact=True)
        assert getattr(again, name).dtypes.tolist() == getattr(found, name).dtypes.tolist()
    assert dict(again.settings) == json.loads(json.dumps(dict(found.settings)))
    assert isinstance(again.shares, ShareTable)
    assert repr(again) == repr(found)
    assert found.settings["response_ids"] == RESPONSE
    assert found.settings["model"] == "tiny-gpt2"
    assert len(found.settings["weight_hash"]) > 8
    for wrong in (tmp_path / "none.zip", tmp_path):
        with pytest.raises(InputError, match=r"MiAttribution\.save wrote"):
            MiAttribution.load(wrong)
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("attribution.json", '{"format": "something else"}')
    with pytest.raises(InputError, match="something else"):
        MiAttribution.load(other)


def test_it_shows_itself_and_hostile_tokens_stay_text() -> None:
    found = attributed("llama")
    hostile = "<script>alert(1)</script>"
    shares, ends = found.shares.copy(), found.ends.copy()
    shares["input_token"] = ends["input_token"] = hostile
    shown = MiAttribution(ShareTable(shares), ends, found.sources, found.settings)._repr_html_()
    assert hostile not in shown
    assert "alert(1)" in shown
    assert "the mean of 3 given steps" in shown
    assert "5 steps" not in repr(found)
    assert found.show().title == "Shares in the nhsic of step 4 at layer 1"
    assert found.top(2, measure="r2", step=STEP)["measure"].tolist() == ["r2", "r2"]
    sizes = found.top(4, measure="nhsic")["share"].abs().tolist()
    assert sizes == sorted(sizes, reverse=True)
    assert type(found.to_frame()) is pandas.DataFrame
    for wrong in ({"measure": "mi"}, {"step": 3}):
        with pytest.raises(InputError, match="Ask for those that were attributed"):
            found.top(2, **wrong)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"steps": 13}, "steps from 0 to 12"),
        ({"steps": []}, "steps from 0 to 12"),
        ({"layer": 3}, "layers from 0 to 2"),
        ({"answer": torch.zeros(43)}, "answer as texts or as streams of 44 numbers"),
        ({"answer": torch.full((44,), torch.nan)}, "finite answer"),
        ({"answer": torch.zeros(2, 44)}, "one answer"),
        ({"others": []}, "others as texts or as streams"),
        ({"measures": "mi"}, "measures like nhsic"),
        ({"measures": ["nhsic", "nhsic"]}, "each once"),
        ({"measures": []}, "each once"),
        ({"measures": [7]}, "an object with name, unit, value"),
        ({"measures": "nhsic excess"}, "references of other answers for nhsic excess"),
        ({"reference": "peaks"}, '"non-peaks", "matched" or steps'),
        ({"reference": [STEP, 1]}, "reference steps other than those asked about"),
        ({"reference": 20}, "reference steps from 0 to 12"),
        ({"total": "some"}, "total"),
        ({"steps": "peaks", "tau": 1e6}, "a response with peaks at this layer"),
        ({"steps": range(13)}, "a step that is no peak and not asked about"),
        ({"prompt": [PROMPT, PROMPT], "response": [RESPONSE, RESPONSE]}, "one prompt and its response"),
        ({"response": [[]]}, "at least one response token"),
    ],
)
def test_what_cannot_be_attributed_is_refused(change: dict[str, Any], expected: str) -> None:
    given: dict[str, Any] = {
        "prompt": PROMPT, "response": RESPONSE, "steps": STEP, "layer": LAYER, "answer": answer("llama"), "sigma": 2.0
    }  # fmt: skip
    with pytest.raises(InputError, match=expected):
        mi_attribution(F.bridge("llama"), **(given | change))


def test_a_family_whose_writes_do_not_add_up_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="Gemma3"):
        mi_attribution(F.bridge("gemma3"), PROMPT, RESPONSE, STEP, layer=1, answer=torch.randn(44))

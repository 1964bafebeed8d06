"""Views give back the numbers they were made of, those of plain Hugging Face; what cannot be shown is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from view_samples import (
    HOSTILE,
    rollout,
    scores,
    toy,
    toy_rollouts,
    trajectory,
)

from analyses import views
from analyses.store import Cell, Run
from analyses.trace import trace
from analyses.trace.trajectory import Trajectory, trajectories
from analyses.views import assets
from analyses.views.alignment import align
from analyses.views.frames import PeakTable, SweepTable
from analyses.views.page import page
from analyses.views.tokens import safe_token
from interp import bundled_model_path
from interp.display import visible
from interp.errors import InputError
from interp.rollout import Rollout
from interp.rows import Event
from probes import tukey_peaks


def test_what_a_notebook_shows_is_small(tmp_path: Path) -> None:
    one = trajectory(["<token>"] * 256, scores(30, 256))
    assert len(one._repr_html_().encode()) < 100_000
    assert len(one.peaks()._repr_html_().encode()) < 100_000
    many = PeakTable({name: ["<token>"] * 256 for name in ("layer", "step", "token_id", "token", "mi", "distance")})
    assert len(many._repr_html_().encode()) < 100_000
    assert one.show().save(tmp_path / "heat.html").stat().st_size < 2_500_000


def test_a_trajectory_reads_a_run_as_its_tables_have_it(tmp_path: Path) -> None:
    run = trace(toy(), n=2, out=tmp_path / "run", max_new_tokens=30, tau=1.0, excess=0)
    table = run.mi
    listed = list(trajectories(run))
    frame = pandas.concat([one.to_frame() for one in listed], ignore_index=True)
    for name in table.columns:
        assert frame[name].tolist() == table[name].tolist(), name
    one = Trajectory.from_run(run, listed[1].problem)
    assert torch.equal(one.mi, listed[1].mi)
    cell = run.read(Cell(one.problem))
    assert torch.equal(one.is_peak, tukey_peaks(cell.tensors["mi"], 1.0))
    at_peaks = run.mi.query("problem == @one.problem and layer == 2 and is_peak")
    assert one.peaks()["step"].tolist() == at_peaks["step"].tolist()
    assert one.peaks(0)["mi"].tolist() == one.mi[0][one.is_peak[0]].tolist()
    last = one.mi[-1].numpy()
    low, high = np.percentile(last, [25, 75])
    assert one.threshold() == pytest.approx(high + 1.0 * (high - low), rel=1e-12)
    distance = np.abs(last - np.median(last)) / (high - low)
    assert one.peaks()["distance"].tolist() == pytest.approx(distance[one.is_peak[-1].numpy()].tolist())
    with pytest.raises(InputError, match="received problem 'nobody', sample 0"):
        Trajectory.from_run(run, "nobody")
    with pytest.raises(InputError, match="sample 7"):
        Trajectory.from_run(run, one.problem, 7)
    other = Run.start(tmp_path / "other", kind="watch", settings={"model": "toy"}, provenance={})
    other.write(Cell("ducks"), {"x": torch.ones(1)}, {})
    with pytest.raises(InputError, match=r"a run with scores \(kind trace\), received kind watch"):
        Trajectory.from_run(other, "ducks")


def test_a_trajectory_of_a_rollout() -> None:
    greedy = toy_rollouts()[0]
    values = scores(3, len(greedy)).float()
    one = Trajectory.of(greedy, values)
    assert one.layers == (0, 1, 2)
    assert one.mi.dtype == torch.float64
    assert torch.equal(one.is_peak, tukey_peaks(values))
    assert torch.equal(Trajectory.of(greedy, values, tau=3).is_peak, tukey_peaks(values, 3))
    assert Trajectory.of(greedy, values[0], layers=[1]).layers == (1,)
    holes = values.clone()
    holes[:, 2] = math.nan
    keep = [step for step in range(len(greedy)) if step != 2]
    assert torch.equal(Trajectory.of(greedy, holes).is_peak[:, keep], tukey_peaks(values[:, keep]))
    assert one.only([-1, 0]).layers == [2, 0]
    assert one.show("lines", layer=[0, 1]).to_frame()["layer"].unique().tolist() == [0, 1]
    assert one.show("text", layer=1).to_frame()["value"].tolist() == one.mi[1].tolist()
    assert one.show().to_frame()["value"].tolist() == one.mi.reshape(-1).tolist()


def test_attention_is_hugging_faces() -> None:
    from transformers import AutoModelForCausalLM

    greedy = toy_rollouts()[0]
    text = torch.cat([greedy.prompt_ids, greedy.token_ids])[None]
    plain = AutoModelForCausalLM.from_pretrained(bundled_model_path("toy-reasoner"), attn_implementation="eager")
    with torch.no_grad():
        reference = plain(text, output_attentions=True).attentions
    before = len(greedy.prompt_ids)
    for layer in range(3):
        frame = views.attention(toy(), greedy, layer, steps=[3, 20], window=4).to_frame()
        # Step t predicts response token t: it stands at the token before, where plain Hugging Face's row t - 1 is
        chosen = [*range(before - 2, before + 3), *range(before + 15, before + 20)]
        assert sorted(frame["position"].unique()) == chosen
        expected = reference[layer][0, frame["head"], frame["position"], frame["source_position"]]
        assert np.abs(frame["attention"] - expected.numpy()).max() < 1e-6
        assert sorted(frame["step"].dropna().unique()) == [0, 1, 2, 3, *range(16, 21)]
        for row in frame.dropna(subset=["step"]).to_dict("records"):
            assert row["position"] == before + row["step"] - 1
            assert row["token"] == greedy.tokens[row["step"]]
            assert row["input_token"] == (greedy.tokens[row["step"] - 1] if row["step"] else greedy.prompt_token)
            assert row["source_position"] <= row["position"]
    assert views.attention(toy(), greedy, -1).title == "Attention of layer 2"


def test_the_last_layer_of_the_lens_is_the_models_next_token() -> None:
    greedy, sampled = toy_rollouts()
    for response in (greedy, sampled):  # one with recorded residuals, one without
        assert bool(response.residuals) == (response is greedy)
        for step in (0, 5, len(response) - 1):
            text = torch.cat([response.prompt_ids, response.token_ids[:step]])[None]
            with torch.no_grad():
                expected = toy().original_model(text).logits[0, -1].softmax(-1)
            frame = views.logit_lens(toy(), response, step, k=5).to_frame()
            last = frame[frame["layer"] == 2]
            top = expected.topk(5)
            assert last["token_id"].tolist() == top.indices.tolist()
            assert np.abs(last["probability"].to_numpy() - top.values.numpy()).max() < 1e-5
            assert frame["rank"].tolist() == [1, 2, 3, 4, 5] * 3
            assert frame.groupby("layer")["probability"].apply(lambda p: p.is_monotonic_decreasing).all()


def test_an_earlier_layer_of_the_lens_is_its_stream_through_norm_and_unembedding() -> None:
    greedy = toy_rollouts()[0]
    model = toy().original_model
    with torch.no_grad():
        logits = model.lm_head(model.model.norm(greedy.residuals["resid_post"][1, 7]))
    recorded = views.logit_lens(toy(), greedy, 7, k=3, layers=[1]).to_frame()
    plain = Rollout(greedy.prompt_ids, greedy.token_ids, greedy.tokens, "", "eos", greedy.logprobs, greedy.entropy)
    for frame in (recorded, views.logit_lens(toy(), plain, 7, k=3, layers=-2).to_frame()):
        assert frame["token_id"].tolist() == logits.topk(3).indices.tolist()
        assert frame["probability"].tolist() == pytest.approx(logits.softmax(-1).topk(3).values.tolist(), abs=1e-5)


def test_responses_are_aligned() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(30):
        a, b = (torch.randint(0, 4, (int(n),), generator=generator).tolist() for n in torch.randint(0, 12, (2,), generator=generator))  # noqa: E501  # fmt: skip
        blocks = align(a, b)
        assert [x for k in blocks for x in a[k.a_begin : k.a_end]] == a
        assert [x for k in blocks for x in b[k.b_begin : k.b_end]] == b
        for k in blocks:
            assert (a[k.a_begin : k.a_end] == b[k.b_begin : k.b_end]) == (k.kind == "equal")
    common = next(i for i in range(99) if toy_rollouts()[0].tokens[i] != toy_rollouts()[1].tokens[i])
    view = views.compare(*toy_rollouts(), by="entropy")
    assert f"they part at step {common}" in view.alt
    assert view.static.count(f"they part here, step {common}") == 2
    frame = view.to_frame()
    assert frame["token_a"].dropna().tolist() == toy_rollouts()[0].tokens
    assert frame["token_b"].dropna().tolist() == toy_rollouts()[1].tokens
    assert views.compare(rollout(["a"]), rollout(["a"])).alt == "a and b are the same 1 tokens."
    longer = views.compare(rollout(["a"]), rollout(["a", "b"]))
    assert "they part at step 1" in longer.alt
    assert longer.to_frame()["kind"].tolist() == ["equal", "insert"]


def test_tables_keep_their_type_and_escape() -> None:
    table = PeakTable({"token": HOSTILE, "mi": 0.5})
    assert isinstance(table[table["mi"] > 0].head(3), PeakTable)
    assert type(table.to_frame()) is pandas.DataFrame
    piece = table._repr_html_()
    assert "<img" not in piece
    assert "<script" not in piece
    assert "\u202e" not in piece
    assert PeakTable({"token": ["."] * 3 + ["a"]}).show().to_frame()["peaks"].tolist() == [3, 1]
    assert "1 more row" in PeakTable({"token": ["."] * 61})._repr_html_()
    with pytest.raises(InputError, match="SweepTable: expected columns layer, step, token, effect"):
        SweepTable({"layer": [1]}).show()


def test_bars_and_sweeps_give_their_numbers_back() -> None:
    frame = pandas.DataFrame({"word": ["Wait", "."], "lift": [6.8, math.nan], "low": [5.0, 1.0], "high": [9.0, 2.0]})
    shown = views.bars(frame, label="word", value="lift", low="low", high="high").to_frame()
    pandas.testing.assert_frame_equal(shown, frame)
    rows = [
        (layer, step, f"t{step}", layer * 10 + step)
        for layer in (2, 5)
        for step in (3, 9, 4)
        if (layer, step) != (5, 9)
    ]
    effects = SweepTable(rows, columns=["layer", "step", "token", "effect"])
    table = effects.show().to_frame()
    found = {(r["layer"], r["step"], r["token"]): r["value"] for r in table.to_dict("records")}
    assert len(found) == 6
    assert all(found[layer, step, token] == effect for layer, step, token, effect in rows)
    assert math.isnan(found[5, 9, "t9"])


def test_sweeps_by_head_are_grids_of_layers_and_heads() -> None:
    rows = [(layer, "z", head, 3, "So", layer - head / 2) for layer in (1, 4) for head in (0, 2, 3)]
    table = SweepTable(rows, columns=["layer", "site", "head", "step", "token", "effect"])
    shown = table.show(title="heads")
    assert shown.alt == "effect over 2 layers (1, 4) and 3 heads, from -0.5 to 4."
    found = {(r["layer"], r["head"]): r["value"] for r in shown.to_frame().to_dict("records")}
    assert found == {(layer, head): effect for layer, _, head, *_, effect in rows}
    assert "head 0" in shown.static
    assert "token" not in shown.to_frame()
    several = SweepTable(pandas.concat([table, table.assign(step=4)]))
    with pytest.raises(InputError, match=r"some of the same \(layer, head\).*and one step: effects"):
        several.show()
    assert several[several["step"] == 4].show().to_frame()["value"].tolist() == [*found.values()]
    together = SweepTable({"layer": [0, 1], "site": ["mlp_out"] * 2, "steps": [5, 5], "effect": [0.5, -1.0]})
    assert together.show(label="gain").to_frame()["gain"].tolist() == [0.5, -1.0]
    assert together.show().title == "Effect of patching mlp_out"


def test_series_and_their_names() -> None:
    one = trajectory(["a", "b"], [[1.0, 2.0], [3.0, 4.0]])
    assert views.text(one).to_frame()["series"].unique().tolist() == ["nHSIC, layer 0", "nHSIC, layer 1"]
    assert (views.text(one).live or {})["start"] == 1
    response = rollout(["a", "b"], events=[Event(1, "Ban", "x")])
    frame = views.text(response).to_frame()
    assert frame["value"].tolist() == pytest.approx([-2.0, -0.25, 2.0, 0.25])
    assert frame["marked"].tolist() == [False, True, False, True]
    assert views.text(one, [5.0, 6.0]).to_frame()["value"].tolist() == [5.0, 6.0]
    twice = views.trajectories([one, one])
    assert "1: ducks, sample 0, layer 1" in twice.alt
    assert np.array_equal(views.heatmap(np.ones((2, 2))).to_frame()["layer"], [0, 0, 1, 1])


@pytest.mark.parametrize("token", [*HOSTILE, "<a", "</a>", "<?x", "<!x", "&amp", "&#x41;", "<\u2060", "a<b&c"])
def test_tokens_for_circuitsvis_hold_no_markup(token: str) -> None:
    from html.parser import HTMLParser

    class Reader(HTMLParser):
        text, other = "", 0

        def handle_data(self, data: str) -> None:
            self.text += data

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.other += 1

        handle_endtag = handle_comment = handle_decl = unknown_decl = handle_pi = lambda self, *_: setattr(self, "other", 1)  # noqa: E501  # fmt: skip

    reader = Reader(convert_charrefs=True)
    reader.feed(safe_token(token))
    reader.close()
    assert reader.other == 0
    cut = token[:200] + (f"... {len(token) - 200} more" if len(token) > 200 else "")
    shown = reader.text.replace("\u2060", "").replace("⏎\n", "⏎")
    assert shown == (visible(cut) or "⟨empty⟩")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: views.text([], []), "text: expected at least one token, and a value for each, received 0 tokens"),
        (lambda: views.text(["a"]), "received 1 tokens"),
        (lambda: views.text(["a"], [1.0, 2.0]), "expected 1 values, one a token, received 2"),
        (lambda: views.text(["a"], [1.0], labels=["x", "y"]), "expected 1 labels, one a series, received 2"),
        (lambda: views.text(["a"], [1.0], marks=[1]), "marks as steps from 0 to 0"),
        (lambda: views.text(["a"], [1.0], start=1), "start from 0 to 0, received 1"),
        (lambda: views.text(["a"], torch.ones(1, 1, 1)), "as [step] or [layer, step], received shape (1, 1, 1)"),
        (lambda: views.text(["a"], ["x"]), "numbers as [step] or [layer, step]"),
        (lambda: views.text(rollout([])), "received 0 tokens"),
        (lambda: views.heatmap(torch.ones(2, 3), tokens=["a"]), "expected 3 tokens, one a step, received 1"),
        (lambda: views.heatmap(torch.ones(2, 3), layers=[1]), "expected 2 layers, one a row, received 1"),
        (lambda: views.heatmap(torch.ones(2, 0)), "at least one layer and one step"),
        (lambda: views.trajectories([]), "at least one trajectory and one layer"),
        (lambda: views.trajectories(trajectory(["a"], [1.0]), layers=[3]), "a layer among 0, or -1 to -1, received 3"),
        (lambda: trajectory(["a"], [1.0]).show("pie"), '"heatmap", "lines" or "text", received \'pie\''),
        (lambda: dataclasses.replace(trajectory(["a"], [1.0]), tokens=["a", "b"]), "as many tokens as steps"),
        (lambda: Trajectory.of(rollout([]), torch.ones(1, 0)), "with the 0 steps of the response, at least one"),
        (lambda: Trajectory.of(rollout(["a"]), torch.ones(1, 2)), "received shape (1, 2)"),
        (lambda: views.sweep(pandas.DataFrame({"layer": [1]})), "received no step, token, effect"),
        (lambda: views.sweep(pandas.DataFrame(columns=["layer", "step", "token", "effect"])), "received no rows"),
        (lambda: views.sweep(pandas.DataFrame({"layer": [1, 1], "step": 1, "token": "a", "effect": 1.0})), "the same"),
        (lambda: views.bars(pandas.DataFrame({"a": [1]}), label="a", value="b"), "received no b"),
        (lambda: views.bars(pandas.DataFrame({"a": []}), label="a", value="a"), "received 0 rows"),
        (lambda: views.bars(pandas.DataFrame({"a": [1]}), label="a", value="a", low="a"), "low='a', high=None"),
        (lambda: views.attention(toy(), toy_rollouts()[0], 9), "layers from 0 to 2"),
        (lambda: views.attention(toy(), toy_rollouts()[0], 0, [999]), "steps from 0 to"),
        (lambda: views.attention(toy(), toy_rollouts()[0], 0, [60, 62], window=90), "at most 80 tokens"),
        (lambda: views.logit_lens(toy(), toy_rollouts()[0], 999), "a step from 0 to"),
        (lambda: views.logit_lens(toy(), toy_rollouts()[0], 0, k=48), "k from 1 to 47"),
        (lambda: views.logit_lens(toy(), toy_rollouts()[0], 0, layers=[3]), "layers from 0 to 2"),
        (lambda: views.compare(rollout(["a"]), rollout(["a"]), by="colour"), "received by 'colour'"),
        (lambda: views.View("x", "y", "z").to_frame(), "a view of numbers, received 'x'"),
        (lambda: page("x", [], needs=["d3"]), "libraries among circuitsvis, bokeh, received d3"),
        (lambda: assets.bundle("d3"), "circuitsvis or bokeh, received 'd3'"),
        (lambda: views.View("x", "y", "z").save("/proc/nowhere/x.html"), "room and permission to write"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_words(call: Any, told: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert told in str(caught.value)


def test_importing_the_views_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    heavy = ("bokeh", "pandas", "torch", "circuitsvis", "transformer_lens")
    code = f"import sys, analyses.views; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert set(dir(views)) == set(views.__all__)
    assert all(callable(getattr(views, name)) for name in views.__all__)
    with pytest.raises(AttributeError, match="no attribute 'pie'"):
        views.pie  # noqa: B018

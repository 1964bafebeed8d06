"""What a notebook user may call attribution with: it works as meant, or is one clear error before any work is lost."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import families as F
import numpy as np
import peaklens as pl
import pytest
import torch

PROMPT, OTHER = "6 A * 3 B - 8 ? ->", "6 A * 4 B - 8 ? ->"
METRIC = pl.logit_difference(5, 6)


@cache
def toy() -> Any:
    return F.pair("toy")[1]


@cache
def said() -> tuple[pl.Rollout, pl.Rollout]:
    first, second = pl.decode(toy(), [PROMPT, OTHER], max_new_tokens=40)
    return first, second


@cache
def broken() -> Any:
    """The toy, one of whose weights is NaN."""
    hf = copy.deepcopy(F.pair("toy")[0])
    with torch.no_grad():
        hf.model.layers[1].mlp.down_proj.weight[0, 0] = math.nan
    return pl.load_model("broken", hf_model=hf, tokenizer=toy().tokenizer, device="cpu")


def logits(steps: Any = 1, *, model: Any = None, response: Any = None, **options: Any) -> Any:
    answer = said()[0].token_ids if response is None else response
    return pl.logit_attribution(toy() if model is None else model, PROMPT, answer, steps, **options)


def mi(steps: Any = 3, *, model: Any = None, response: Any = None, **options: Any) -> Any:
    answer = said()[0].token_ids if response is None else response
    given: dict[str, Any] = {
        "layer": 1,
        "answer": "Therefore 0",
        "measures": "nhsic",
        "total": "none",
        "sources": 0,
    } | options
    return pl.mi_attribution(toy() if model is None else model, PROMPT, answer, steps, **given)


def nodes(clean: Any = PROMPT, corrupt: Any = OTHER, metric: Any = METRIC, *, model: Any = None, **options: Any) -> Any:
    given: dict[str, Any] = {"kinds": "mlp", "verify": 1, "sample": 1} | options
    return pl.patch_nodes(toy() if model is None else model, clean, corrupt, metric, **given)


def edges(clean: Any = PROMPT, corrupt: Any = OTHER, metric: Any = METRIC, *, model: Any = None, **options: Any) -> Any:
    return pl.patch_edges(toy() if model is None else model, clean, corrupt, metric, **options)


def receivers(rollouts: Any = None, words: Any = None, *, model: Any = None, **options: Any) -> Any:
    found = list(said()) if rollouts is None else rollouts
    return pl.receiver_heads(toy() if model is None else model, found, words, draws=10, **options)


def ablated(heads: Any, *, model: Any = None, **options: Any) -> Any:
    given: dict[str, Any] = {"how": "zero", "controls": 1, "draws": 10} | options
    return pl.ablate_receivers(toy() if model is None else model, heads, list(said()), **given)


def texts() -> Any:
    return PROMPT, OTHER


def with_hook(call: Callable[[], Any]) -> Any:
    """With a hook of the user's that edits the stream."""
    with toy().hooks(fwd_hooks=[("blocks.1.hook_out", lambda x, hook: x * 1.01)]):
        return call()


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: logits(999), "steps from 0 to 20"),
    (lambda: logits(3.0), "steps as a list of steps"),
    (lambda: logits(True), "steps as a list of steps"),
    (lambda: logits(response=Path("runs/first")), "received PosixPath"),
    (lambda: logits(contrast="6 * 3"), "the text of one token"),
    (lambda: logits(contrast=""), "the text of one token"),
    (lambda: logits(contrast=["Wait"]), "token as a token id"),
    (lambda: logits(contrast=int(said()[0].token_ids[1])), "a contrast token for each target, another than it"),
    (lambda: logits(token=10**6), "token ids from 0 to 46"),
    (lambda: logits(read_at=99), "layers from 0 to 2"),
    (lambda: logits(model=broken()), "whose block 1 adds what differs"),
    (lambda: with_hook(logits), "whose block 1 adds what differs"),
    (lambda: mi("peak"), "steps as whole numbers"),
    (lambda: mi(-22), "steps from 0 to 20"),
    (lambda: mi("peaks", tau=1e6), "a response with peaks"),
    (lambda: mi(layer=[1]), "layer as a whole number"),
    (lambda: mi(layer=3), "layers from 0 to 2"),
    (lambda: mi(answer=""), "at least one prompt token"),
    (lambda: mi(answer=42), "answer as a list of texts"),
    (lambda: mi(answer=np.zeros(127)), "streams of 128 numbers"),
    (lambda: mi(answer=torch.ones(128, dtype=torch.long)), "streams of 128 numbers"),
    (lambda: mi(0, response=[5]), "a step that is no peak and not asked about"),
    (lambda: mi(max_bytes=1000), "at most the 1e-06 GB of max_bytes, received about .* GB beside the model"),
    (lambda: mi(max_bytes=0), "max_bytes at least 1"),
    (lambda: mi(max_points=3), "max_points >= 8"),
    (lambda: mi(tolerance=-1), "tolerance > 0"),
    (lambda: mi(sigma="mean"), "sigma > 0 and finite"),
    (lambda: mi(model=broken()), "received 1 NaN"),
    (lambda: with_hook(mi), "whose block 1 adds what differs"),
    (lambda: nodes(corrupt=PROMPT + " 5"), "prompts of equal length, 10 tokens"),
    (lambda: edges(corrupt=PROMPT + " 5"), "prompts of equal length, 10 tokens"),
    (lambda: nodes(*said(), at=99), "a step from 0 to 20"),
    (lambda: nodes(metric="logit"), "metric as a function of logits"),
    (lambda: nodes(metric=pl.logit_difference(5, 10**6)), "a token id from 0 to 46"),
    (lambda: nodes(positions=[]), "positions from 0 to 9"),
    (lambda: nodes(model=broken()), "a metric that is finite"),
    (lambda: edges(verify="some"), 'verify "all"'),
    (lambda: with_hook(edges), "whose block 1 adds what differs"),
    (lambda: pl.patch_sweep(toy(), *said(), METRIC), "a source with recorded residuals"),
    (lambda: pl.patch_sweep(toy(), *texts(), METRIC), "target as a Rollout"),
    (lambda: receivers("text"), "rollouts with tokens"),
    (lambda: receivers([]), "rollouts with tokens"),
    (lambda: receivers(words="Wait"), "words with their ids"),
    (lambda: receivers(said()[0], steps=[3, 4]), "steps of each of 1 rollouts"),
    (lambda: receivers(layers=3), "layers from 0 to 2"),
    (lambda: receivers(model=broken()), "attention patterns that are finite"),
    (lambda: ablated([(1, 9)]), "a head from 0 to 3"),
    (lambda: ablated(["L1H0"]), r"heads as \(layer, head\)"),
    (lambda: ablated([]), "at least one head"),
    (lambda: ablated((1, 0), how="resample"), 'how "mean" or "zero"'),
    (lambda: ablated((1, 0), model=broken()), "finite log-probabilities"),
    (lambda: pl.attribute_run("nowhere", "toy-000", [3]), "a run folder"),
    (lambda: pl.Circuit.load("nowhere"), "a file written by Circuit.save"),
    (lambda: pl.MiAttribution.load("nowhere"), "a file that MiAttribution.save wrote"),
    (lambda: pl.EdgeEffects.load("nowhere"), "a file that EdgeEffects.save wrote"),
]


@pytest.mark.parametrize(("call", "text"), REFUSED)
def test_what_cannot_be_meant_is_one_clear_error(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(pl.InputError, match=text) as caught:
        call()
    told = caught.value
    assert told.operation
    assert told.remedy
    assert len(str(told)) < 700


def test_what_can_be_meant_is_what_the_plain_form_gives() -> None:
    rollout = said()[0]
    plain = logits(3).to_frame()
    for response, steps in ((rollout, np.int64(3)), (rollout.token_ids.numpy(), np.array([3])), ([rollout], [[3]])):
        assert logits(steps, response=response).to_frame().equals(plain)
    last = len(rollout) - 1
    assert logits(-1).to_frame().equals(logits(last).to_frame())
    assert logits(contrast=np.int64(5)).to_frame().equals(logits(contrast=5).to_frame())
    shares = mi().to_frame()
    assert mi(torch.tensor([3]), response=rollout, layer=np.int64(-2)).to_frame().equals(shares)
    stream = torch.arange(128.0).sin() * 20
    assert mi(answer=stream.numpy()).to_frame().equals(mi(answer=stream).to_frame())
    assert nodes(layers=-1).table.equals(nodes(layers=[2]).table)
    assert ablated((1, 0)).equals(ablated([(1, 0)]))


def test_compatibility_mode_gives_the_numbers_of_the_plain_bridge() -> None:
    model = pl.load_model("toy-reasoner")
    model.enable_compatibility_mode()
    for call, options in ((logits, {"contrast": 5}), (mi, {})):  # it centres logits, so that differences stay
        given, plain = (call(**options, **more).to_frame() for more in ({"model": model}, {}))
        shares = [torch.tensor(found["share"].to_numpy()) for found in (given, plain)]
        torch.testing.assert_close(*shares, rtol=1e-3, atol=1e-4)
    assert nodes(model=model).gap == pytest.approx(nodes().gap, abs=1e-5)


def test_a_flat_score_and_a_flat_metric_are_nan_and_said() -> None:
    flat = mi(answer=torch.ones(128))
    assert flat.ends["missing"].isna().all()
    for shown in (repr(flat), flat._repr_html_()):
        assert "flat, nhsic of step 3" in shown
    assert "flat" not in repr(mi())
    for found in (nodes(PROMPT, PROMPT), edges(PROMPT, PROMPT)):
        assert found.table["share"].isna().all()
        assert "flat" in str(found)
    short = mi(max_points=8, tolerance=1e-9)
    assert "incomplete, nhsic of step 3" in repr(short)
    assert "after 8 points (tolerance 1e-09)" in short._repr_html_()

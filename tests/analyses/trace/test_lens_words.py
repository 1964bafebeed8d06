"""The words of the logit lens that a trace keeps: plain Hugging Face gives the same, of the responses it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from analyses.report.opening import opening
from analyses.store import Cell
from analyses.trace import lens_words, trace
from interp import InputError, load_model

SMALL = {"n": 3, "max_new_tokens": 20, "batch_size": 3, "excess": 0}


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("toy-reasoner", device="cpu")


@torch.no_grad()
def by_definition(model: Any, prompt: torch.Tensor, response: torch.Tensor, layer: int) -> torch.Tensor:
    """softmax(W norm(h)) after a block, at the positions that predict the response, by transformers alone."""
    plain = model.original_model
    text = torch.cat([prompt, response])[None, :-1]
    hidden = plain(text, output_hidden_states=True).hidden_states[1:]  # the last is normed already
    states = hidden[layer] if layer == len(hidden) - 1 else plain.model.norm(hidden[layer])
    return plain.lm_head(states)[0, len(prompt) - 1 :].softmax(dim=-1)


@pytest.mark.parametrize("site", ["resid_post", "ln_final"])
def test_words_are_those_of_plain_hugging_face(model: Any, tmp_path: Path, site: str) -> None:
    run = trace(model, out=tmp_path, **SMALL, site=site)
    table = run.table("lens.parquet")
    first = opening(run.peaks)
    assert table["problem"].iloc[0] == first.problem
    assert table["problem"].nunique() == 3  # of the toy all of them cost little
    for (problem, layer), rows in table.groupby(["problem", "layer"], observed=True):
        data = run.read(Cell(str(problem), 0))
        after = layer if site == "resid_post" else model.cfg.n_layers - 1
        wanted = by_definition(model, data.tensors["prompt_ids"], data.tensors["token_ids"], int(after))
        values, ids = wanted.topk(5)
        rows = rows.sort_values(["step", "rank"])
        assert rows["rank"].tolist() == [1, 2, 3, 4, 5] * len(wanted)
        assert rows["token_id"].tolist() == ids.flatten().tolist()
        assert rows["probability"].tolist() == pytest.approx(values.flatten().tolist(), abs=1e-5)
        assert rows["token"].tolist()[:5] == [model.tokenizer.decode([i]) for i in ids[0].tolist()]
        if after == model.cfg.n_layers - 1:  # greedy: the word that was said is the most probable one
            said = rows.loc[rows["rank"] == 1, "token_id"].tolist()
            assert said == data.tensors["token_ids"].tolist()


def test_how_many_and_where_in_a_long_response(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Cell] = []
    rows = lens_words._rows
    monkeypatch.setattr(lens_words, "_rows", lambda t, r, cell, layer: (read.append(cell), rows(t, r, cell, layer))[1])
    run = trace(model, out=tmp_path, **SMALL, lens=2)
    first = opening(run.peaks)
    assert run.table("lens.parquet")["problem"].unique()[0] == first.problem
    assert (len(read), read[0].problem) == (2, first.problem)
    trace(model, out=tmp_path, **SMALL)  # as it was asked, and nothing is read again
    assert len(read) == 2
    monkeypatch.setattr(lens_words, "WORK", 0)
    monkeypatch.setattr(lens_words, "PLACES", 40)  # 3 layers of 20 steps are 60
    one = trace(model, out=tmp_path / "one", **SMALL).table("lens.parquet")
    opened = opening(trace(model, out=tmp_path / "one", **SMALL).peaks)
    assert set(one["problem"]) == {opened.problem}
    assert set(one["layer"]) == {layer for layer in range(3) if (layer - opened.layer) % 2 == 0}
    none = trace(model, out=tmp_path, **SMALL, lens=0)
    assert "lens.parquet" not in none.tables
    with pytest.raises(InputError, match="lens at least 0, received -1"):
        trace(model, out=tmp_path, **SMALL, lens=-1)

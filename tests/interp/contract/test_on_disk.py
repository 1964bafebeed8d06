"""Residuals kept in files while they are made, against the same kept in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import families as F
import pytest
import torch
from safetensors import safe_open

from interp import (
    InputError,
    Intervention,
    ResidualPieces,
    ResidualSites,
    ResidualStream,
    Rollout,
    Step,
    decode,
    encode,
)
from interp import read as read_again
from interp.on_disk import check_folder

SITES = ("resid_pre", "resid_post", "z")


def assert_equal(found: Rollout, expected: Rollout) -> None:
    assert found.token_ids.tolist() == expected.token_ids.tolist()
    assert (found.layers, found.residuals.keys()) == (expected.layers, expected.residuals.keys())
    for site, values in expected.residuals.items():
        assert torch.equal(found.residuals[site], values), site


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding_into_files_is_decoding_into_memory(
    tmp_path: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, filed_at_once = F.bridge("llama", dtype), 6
    monkeypatch.setattr("interp.sinks.FILED", filed_at_once)
    count = 2 * filed_at_once + 3
    stops = F.staggering_stops([r.token_ids.tolist() for r in decode(model, F.prompts(4), max_new_tokens=count)])
    options: dict[str, Any] = {"max_new_tokens": count, "stop": stops, "batch_size": 3}
    kept = decode(model, F.prompts(4), record=ResidualSites(sites=SITES), **options)
    filed = decode(
        model, F.prompts(4), record=ResidualSites(sites=SITES, folder=tmp_path / "new" / "streams"), **options
    )
    for one, other in zip(filed, kept, strict=True):
        assert_equal(one, other)
    names = sorted(path.name for path in (tmp_path / "new" / "streams").iterdir())
    assert names == sorted(f"{row:05d}{heads}.safetensors" for row in range(4) for heads in ("", ".4x10"))
    with safe_open(tmp_path / "new" / "streams" / "00002.safetensors", "pt") as file:
        steps = file.get_tensor("residuals")
        places = json.loads(file.metadata()["places"])
    assert places == ["resid_pre 0", "resid_post 0", "resid_post 1", "resid_post 2"]
    assert torch.equal(steps[:, 1:].transpose(0, 1), kept[2].residuals["resid_post"])
    assert Rollout.load(filed[1].save(tmp_path / "one.safetensors")).residuals.keys() == kept[1].residuals.keys()
    assert_equal(Rollout.load(tmp_path / "one.safetensors"), kept[1])


def test_reading_into_files_is_reading_into_memory(tmp_path: Path) -> None:
    model, answers = F.bridge("qwen3"), [[5, 6, 7, 8, 9, 10, 11], [9], [4, 4, 4]]
    record = {"layers": [0, 2], "sites": ("resid_post", "k"), "dtype": torch.float64}
    kept = read_again(model, F.prompts(3), answers, record=ResidualSites(**record), piece=4)
    filed = read_again(model, F.prompts(3), answers, record=ResidualSites(**record, folder=tmp_path / "a"), piece=4)
    for one, other in zip(filed, kept, strict=True):
        assert_equal(one, other)
    kept_too = encode(model, F.prompts(3), record=ResidualSites(**record), batch_size=2, piece=4)
    filed_too = encode(
        model, F.prompts(3), record=ResidualSites(**record, folder=str(tmp_path / "b")), batch_size=2, piece=4
    )
    for text, same in zip(filed_too, kept_too, strict=True):
        assert all(torch.equal(text.residuals[site], values) for site, values in same.residuals.items())


class Fails(Intervention):
    def after_choice(self, step: Step) -> None:
        if step.t == 2:
            raise ValueError("enough")


def test_what_is_not_finished_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="enough"):
        decode(
            F.bridge("llama"),
            F.prompts(2),
            max_new_tokens=5,
            record=ResidualSites(folder=tmp_path),
            interventions=Fails(),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_will_not_do_is_refused_before_anything_is_run(tmp_path: Path) -> None:
    model = F.bridge("llama")
    (tmp_path / "file").write_text("")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "00000.safetensors").write_text("")
    for folder, text in (("file", "a folder to write to at"), ("used", "a folder without residuals, received")):
        for call in (
            lambda record: decode(model, [5], max_new_tokens=1, record=record),
            lambda record: read_again(model, [5], [6], record=record),
            lambda record: encode(model, [[5]], record=record),
        ):
            with pytest.raises(InputError, match=text):
                call(ResidualSites(folder=tmp_path / folder))
    with pytest.raises(
        InputError, match=r"decode: expected at most the \S+ GB free at .*, received up to 1000000000.0 GB"
    ):
        check_folder(tmp_path / "large", torch.float32, 10**18, "decode")
    for make in (
        lambda: ResidualStream(folder=tmp_path, on_step=print),
        lambda: ResidualPieces(folder=tmp_path, on_piece=print),
        lambda: ResidualSites(folder=tmp_path, device="cpu"),
    ):
        with pytest.raises(InputError, match="folder with ResidualSites, and without device"):
            make()
    with pytest.raises(InputError, match="encode: expected ResidualPieces, or a folder, of all positions"):
        encode(model, [[5]], record=ResidualSites(folder=tmp_path / "x"), last_only=True)

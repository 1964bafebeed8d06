"""A response on disk: all of it comes back, and what cannot be read or written is one error."""

from __future__ import annotations

from pathlib import Path

import families as F
import pytest
import torch

from interp import InputError, ResidualSites, Rollout, decode


def test_rollout_round_trip_covers_every_field(tmp_path: Path) -> None:
    model = F.bridge("llama")
    record = ResidualSites(sites=("resid_pre", "resid_mid", "resid_post", "ln_final"))
    rollout = decode(model, F.prompts(1), max_new_tokens=5, record=record)[0]
    again = Rollout.load(rollout.save(tmp_path / "a" / "r.safetensors"))
    for name, value in vars(rollout).items():
        loaded = getattr(again, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, loaded), name
        elif name == "residuals":
            assert set(value) == set(loaded)
            assert all(torch.equal(value[site], loaded[site]) for site in value)
        else:
            assert value == loaded, name
    pre, post = again.residuals["resid_pre"], again.residuals["resid_post"]
    assert pre[1].data_ptr() == post[0].data_ptr(), "stored once, shared again"
    size = (tmp_path / "a" / "r.safetensors").stat().st_size
    assert size < 4 * sum(values.numel() for values in again.residuals.values())


def test_loading_something_else_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"not a rollout")
    with pytest.raises(InputError, match=r"load a rollout: expected a file written by Rollout\.save"):
        Rollout.load(tmp_path / "x.safetensors")


def test_a_rollout_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    rollout = decode(F.bridge("llama"), [[5, 6]], max_new_tokens=2)[0]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"save a rollout: expected a place to write at .*, received \w+Error"):
        rollout.save(tmp_path / "file" / "r.safetensors")


def test_a_rollout_is_four_lines_whatever_is_in_it() -> None:
    prompt = torch.arange(3, 43)
    told = decode(
        F.bridge("llama"), [prompt], max_new_tokens=40, record=ResidualSites(sites=("resid_pre", "resid_mid"))
    )
    lines = repr(told[0]).splitlines()
    assert lines[0] == "Rollout of tiny-llama: 40 steps after a prompt of 40 tokens, ended by length"
    assert lines[1].startswith("  prompt    ...w27 w28")
    assert lines[1].endswith(" w41 w42")
    assert lines[2].startswith(f"  text      {told[0].text[:60]}")
    assert lines[3:] == ["  recorded  resid_pre [3, 40, 44], resid_mid [3, 40, 44]"]
    ids = torch.tensor([5])
    hostile = Rollout(ids, ids, ["\n"], "a\nb\x1b[2J" * 99, "eos\n", torch.zeros(1), torch.zeros(1))
    assert len(repr(hostile).splitlines()) == 4
    assert max(map(len, repr(hostile).splitlines())) < 900
    assert "\x1b" not in repr(hostile)
